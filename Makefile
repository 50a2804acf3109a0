# Everything runs in .venv, which is made when first needed, and again when pyproject.toml changes.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help train test thorough versions scenarios questions corpus bench lint types format clean

BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Processes that share the test suite. Two: more would each import TensorFlow and wait for the same cores.
WORKERS ?= 2

# The first interpreter that runs and is a Python we test with; a name that is missing or broken is passed over.
SUPPORTED := import sys; sys.exit(sys.version_info[:2] != (3, 11))
PYTHON ?= $(shell for python in python3.11 python3 python; do \
	"$$python" -c '$(SUPPORTED)' 2>/dev/null && echo "$$python" && break; done)

help:
	@echo "make train     train on digits in runs/digits, evaluate and predict; ARGS=... adds flags (ARGS=--steps=2000)"
	@echo "make test      lint, types and all tests; WORKERS=1 runs them in one process"
	@echo "make thorough  the cases that make test leaves out, of tests that have many"
	@echo "make versions  the tests of phases on each supported TensorFlow; ARGS=... goes to nox (ARGS='-s phases-2.18')"
	@echo "make scenarios each claim of docs/questions held over five seeds; make test has the quick versions of these tests"
	@echo "make questions measures each claim, and writes the tables and figures in docs/questions; ARGS=... adds flags"
	@echo "make corpus    every healthy model and every mutant in every phase; writes the table in docs/phase_truth.md"
	@echo "make bench     speed beside other training loops; writes docs/performance.md; ARGS=... adds flags (ARGS=--rounds=3)"
	@echo "make lint      ruff: rules and format"
	@echo "make types     pyright"
	@echo "make format    rewrite the files as ruff would have them"
	@echo "make clean     remove .venv, caches and build products; runs/ stays"

train: .venv/installed
	$(BIN)/python scripts/train.py --config=configs/digits.py --workdir=runs/digits $(ARGS)

test: lint types
	$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

thorough: .venv/installed
	$(BIN)/python -m pytest -m thorough --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

# Reuses the environments of an earlier run; they take some gigabytes, which `make clean` gives back.
versions: .venv/installed
	$(BIN)/nox --reuse-existing-virtualenvs $(ARGS)

scenarios: .venv/installed
	$(BIN)/python -m pytest -m scenarios --timeout=1200 --numprocesses=$(WORKERS) --dist=worksteal tests/tasks/scenarios $(ARGS)

questions: .venv/installed
	$(BIN)/python scripts/scenario.py --name=all --write=docs/questions $(ARGS)

# Some twenty minutes on two cores. Fails where a mutant is missed or a healthy model raises.
corpus: .venv/installed
	$(BIN)/python -m tests.corpus --processes=$(WORKERS) --write=docs/phase_truth.md $(ARGS)

# About an hour on two cores with nothing else to do; fewer --peers take less.
bench: .venv/orbit/installed
	$(BIN)/python -m benchmarks.speed --write=docs/performance.md $(ARGS)

# In a directory of its own, without what it depends on: only the process that runs Orbit looks there.
.venv/orbit/installed: benchmarks/requirements.txt .venv/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv/orbit --requirement $<
	@touch $@

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/pyright --warnings

format: .venv/installed
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean:
	rm -rf .venv .nox build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The interpreter is checked here, since pip tries old releases of every package for minutes before it says what is wrong.
# In a terminal pip shows a bar for each download; in a log it would be hundreds of lines, so there it speaks only of errors.
.venv/installed: pyproject.toml
	@"$(PYTHON)" -c '$(SUPPORTED)' 2>/dev/null || { found=$$("$(or $(PYTHON),python3)" --version 2>&1); \
		echo "trainloop needs Python 3.11, found: $$found. Install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@echo "Installing trainloop and its tools in .venv (TensorFlow is large: the first time takes some minutes)"
	@"$(PYTHON)" -m venv .venv
	@if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; $(BIN)/python -m pip install $$quiet --editable '.[dev]'
	@touch $@
