"""`scripts/scenario.py`, launched as a user does."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.launching import ROOT, Launched


def run(place: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return Launched(ROOT / "scripts" / "scenario.py", *flags, cwd=place).finish()


def test_a_scenario_tells_writes_and_fills_its_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: dropout-has-no-memory -->\n<!-- end -->\n")
    result = run(tmp_path, "--name=dropout-has-no-memory", "--seeds=2", "--write=.")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("A3 dropout-has-no-memory: one Dropout layer called")
    assert "| the call before said |" in result.stdout
    workdir = tmp_path / "runs" / "scenarios" / "dropout-has-no-memory"
    assert sorted(path.name for path in workdir.iterdir()) == ["figure.png", "measured.json", "table.md"]
    measured = json.loads((workdir / "measured.json").read_text())
    shares = [of_seed["training=True after nothing"] for of_seed in measured["by_seed"]]
    assert len(set(shares)) == 2
    table = (workdir / "table.md").read_text()
    assert table in result.stdout
    assert table.splitlines()[0] in page.read_text()
    assert "(2 seeds.)" in page.read_text()
    assert (tmp_path / "dropout-has-no-memory.png").exists()


def test_the_list_has_a_line_for_each(tmp_path):
    result = run(tmp_path, "--list")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^B3  inverted-dropout +by what a Dropout layer multiplies", result.stdout, re.MULTILINE)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "error: give either --name=SCENARIO or --list\n"),
        (("--nmae=x",), "error: Unknown command line flag 'nmae'; did you mean --name?\n"),
        (("--name=all", "--write=docs", "--epochs=1"), "error: --epochs=1: what --write puts into the pages has"),
        (("--name=x", "--seeds=0"), "error: flag --seeds=0: 0 is not a positive integer"),
        (("--name=inverted-dropuot",), "error: --name='inverted-dropuot' is no scenario; did you mean 'inverted-"),
        (("--name=all", "--write=."), "error: --write=.: no page has the lines '<!-- table: phase-not-passed -->'"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_written(tmp_path, flags, said):
    result = run(tmp_path, *flags)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith(said)
    assert os.listdir(tmp_path) == []


def test_help_shows_its_own_flags_and_no_config(tmp_path):
    result = run(tmp_path, "--help")
    assert result.returncode == 0
    assert "--name=VALUE" in result.stdout
    assert "config" not in result.stdout
