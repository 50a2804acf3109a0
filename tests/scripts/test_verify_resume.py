"""`scripts/verify_resume.py`, launched as a user would: its runs are real processes, and one is really killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What the script does with a report that finds a difference; no run is made. tests/test_verify.py has such runs.
INEXACT = """
import runpy, sys
import trainloop
from trainloop.verify.comparison import Difference
from trainloop.verify.resume_report import Moment, ResumeReport

def report(build, *, steps):
    moments = [Moment(name, (), {"window": 0}) for name in ("step 0", "step 3", "restored", "step 4")]
    moments.append(Moment("end", (Difference("window", "is 1 instead of 2"),), {}))
    return ResumeReport(steps, tuple(moments), 0, (), (), {})

trainloop.verify_resume = report
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def verify(place: Path, *flags: str, program: str | None = None) -> "subprocess.CompletedProcess[str]":
    script = str(ROOT / "scripts" / "verify_resume.py")
    if program:
        command = [sys.executable, "-c", program.replace("sys.argv[0]", repr(script)), *flags]
    else:
        command = [sys.executable, script, *flags]
    return subprocess.run(
        command,
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def test_the_run_of_a_config_is_exact(tmp_path):
    result = verify(tmp_path, f"--config={ROOT}/configs/digits_mlp.py", "--steps=15")
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("killed at step 15 and resumed, against 30 steps without a break, bit by bit\n")
    assert "lines of metrics.jsonl are the same to the bit" in result.stdout.splitlines()[-1]
    assert "I0000" not in result.stderr, "what TensorFlow tells of its start-up is nobody's business"
    assert os.listdir(tmp_path) == []


def test_a_difference_ends_with_status_1(tmp_path):
    result = verify(tmp_path, "--build=some_tasks:forgets", "--steps=3", program=INEXACT)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.startswith("killed at step 3 and resumed")
    assert "NOT EXACT: end: window is 1 instead of 2\nlikely cause: the first step after the resume" in result.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "give either --config=FILE or --build=package.module:function"),
        (f"--config={ROOT}/configs/digits_mlp.py --build=some_tasks:forgets", "give either --config=FILE or --build"),
        (f"--config={ROOT}/configs/digits_mlp.py --steps=0", "--steps"),
        (f"--config={ROOT}/configs/digits_mlp.py --workdir=run", "Unknown command line flag 'workdir'"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_status_2(tmp_path, flags, said):
    result = verify(tmp_path, *flags.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_is_short(tmp_path):
    result = verify(tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Proves that a run which is killed goes on to the same bits")
    assert "verify_resume.py [flags]" in result.stdout
    assert len(result.stdout.splitlines()) < 40
