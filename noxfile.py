"""Runs the tests on each TensorFlow and tf-keras of the range that pyproject.toml declares: `nox -s phases-2.18`.

Each session installs one minor version in an environment of its own under .nox/, newly made unless `-r` is given. What
stands after `--` goes to pytest in place of the tests of phases: `nox -r -s phases-2.18 -- tests` runs them all.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = "virtualenv"  # it comes with nox, and the same pip installs as in .venv

VERSIONS = ("2.18", "2.19", "2.20", "2.21")

# What does not ask which phase a layer is in. A new file is a test of phases until it is named here.
OTHER_TESTS = frozenset(
    {
        "test_agenda.py",
        "test_bad_input.py",
        "test_batch_nests.py",
        "test_batches.py",
        "test_benchmarks.py",
        "test_checkpoint.py",
        "test_doctests.py",
        "test_documents.py",
        "test_from_compiled.py",
        "test_launch.py",
        "test_layers.py",
        "test_monitor.py",
        "test_parity_with_fit.py",
        "test_public_api.py",
        "test_results.py",
        "test_resume.py",
        "test_subclassing.py",
        "test_sweeping.py",
        "test_trainer.py",
        "test_triggers.py",
        "test_workdir.py",
    }
)
TESTS = Path(__file__).parent / "tests"
PHASE_TESTS = [f"tests/{path.name}" for path in sorted(TESTS.glob("test_*.py")) if path.name not in OTHER_TESTS]


def run_tests(session: nox.Session, version: str) -> None:
    """Installs one minor version of TensorFlow, with the tf-keras and the TensorBoard that belong to it, and tests."""
    pins = [f"{package}=={version}.*" for package in ("tensorflow", "tf-keras", "tensorboard")]
    session.install("--editable", ".[test]", *pins)
    session.run("python", "-m", "pytest", *(session.posargs or [*PHASE_TESTS, "--numprocesses=2", "--dist=worksteal"]))


for version in VERSIONS:

    @nox.session(name=f"phases-{version}", python="3.11")
    def phases(session: nox.Session, version: str = version) -> None:
        run_tests(session, version)
