"""`--help` of each script, and what a flag or key gets that is nearly right; all without TensorFlow, so at once."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def run(script: str, *flags: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py", *flags],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_short_and_lists_each_flag_once(script):
    result = run(script, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 120
    assert "\n\n\n" not in result.stdout
    heads = [head for head in ("what to run, and where", "this program", "besides") if f"\n{head}\n" in result.stdout]
    assert len(heads) >= 2
    listed = re.findall(r"^  --([\w.]+)(?:[= ])", result.stdout.partition("usage: ")[2], re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert "helpfull" in listed


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--ovr=dropout=0.1", "Unknown command line flag 'ovr'; did you mean --over?"),
        ("--over=dropot=0.1", "--over=dropot: the config has no key 'dropot'; did you mean --over=dropout?"),
        ("--over=dropout=0.1 --config.widht=3", "has no key 'widht'; did you mean --config.width?"),
        ("--over=dropout=a,b", "'a' is no value for config.dropout, which is 0.3; expected values"),
        ("--over=dropout=0.1 --metric=eval/accuracy", "is no loss, so say which is better: --mode=max or --mode=min"),
        ("--over=dropout=0.1..0.5", "--trials is missing"),
        ("", "--over is missing"),
    ],
)
def test_a_sweep_that_is_asked_for_wrongly_writes_nothing(flags, said, tmp_path):
    result = run("sweep", f"--config={ROOT}/configs/digits_mlp.py", "--workdir=s", *flags.split(), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []
