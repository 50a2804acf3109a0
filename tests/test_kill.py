"""The kill harness, for some kills: `benchmarks/kill.py` makes as many as one likes."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KILLS = 2


def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_was_left_alone(tmp_path):
    """In a process of its own: the harness forks runs from one that has not used TensorFlow yet, as this one has."""
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kill.py", f"--kills={KILLS}", "--seed=3", f"--workdir={tmp_path}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"^{KILLS} kills: ", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^\d+ runs: 0 ended otherwise, 0 damaged checkpoints passed over$", done.stdout, re.MULTILINE)
