"""`scripts/train.py`, launched as a user does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.launching import DEADLINE, ROOT, Launched

PROGRAM = ROOT / "scripts" / "train.py"


def start(place: Path, *flags: str) -> Launched:
    return Launched(PROGRAM, "--workdir=run", *flags, cwd=place)


def told(ended: "subprocess.CompletedProcess[str]") -> str:
    """What a program has printed that went well."""
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout


def train(place: Path, *flags: str) -> str:
    return told(start(place, *flags).finish())


def reported_steps(place: Path) -> list[int]:
    records = [json.loads(line) for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in records if record["phase"] == "train"]


def test_train_again_and_further(tmp_path):
    config = f"--config={ROOT}/configs/digits_mlp.py"
    first = train(tmp_path, config, "--steps=40")
    assert "trained 40 steps, to 40 in all" in first
    assert re.search(r"^test +\d", first, re.MULTILINE)
    assert "predicted the test set: outputs float32 [360, 10]" in first
    assert {"checkpoints", "config.json", "metrics.jsonl", "predictions.npz"} <= set(os.listdir(tmp_path / "run"))
    again = train(tmp_path, config, "--steps=40")
    assert "trained 0 steps, to 40 in all" in again
    assert again.splitlines()[3:7] == first.splitlines()[3:7]
    further = train(tmp_path, config, "--steps=80")
    assert "trained 40 steps, to 80 in all" in further
    assert reported_steps(tmp_path) == [20, 40, 60, 80]


def test_ctrl_c_and_the_same_command_again(tmp_path):
    config, total = f"--config={ROOT}/configs/digits.py", 240
    process = start(tmp_path, config, f"--steps={total}")
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + DEADLINE
    while not metrics.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended = process.finish()
    assert ended.returncode == 130, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    stopped = re.search(r"stopped at step (\d+); run the same command again to continue", ended.stderr)
    assert stopped, ended.stderr
    step = int(stopped[1])
    assert 0 < step < total
    done = train(tmp_path, config, f"--steps={total}")
    assert f"trained {total - step} steps, to {total} in all" in done
    assert reported_steps(tmp_path) == list(range(20, total + 1, 20))
    accuracy = re.search(r"^test .* (\S+)$", done, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.97


def test_a_dry_run_enters_every_phase_and_keeps_nothing(tmp_path):
    command = [sys.executable, PROGRAM, "--workdir=run", f"--config={ROOT}/configs/digits.py", "--dry_run"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    stdout = told(
        subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    )
    assert "trained 2 steps, to 2 in all" in stdout
    assert "predicted the test set: outputs float32 [128, 10]" in stdout
    assert stdout.splitlines()[-1] == "dry run: every phase and callback ran; nothing was kept"
    assert os.listdir(tmp_path) == []
