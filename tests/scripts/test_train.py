"""`scripts/train.py`, launched as a user does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 150


def start(place: Path, *flags: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train.py", "--workdir=run", *flags],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Waits for the end, at most until the deadline."""
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        stdout, stderr = process.communicate()
        raise AssertionError(f"not done after {DEADLINE} s:\n{stdout}{stderr}") from None
    return process.returncode, stdout, stderr


def train(place: Path, *flags: str) -> str:
    status, stdout, stderr = finish(start(place, *flags))
    assert status == 0, stderr
    assert "Traceback" not in stderr
    return stdout


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
    config = f"--config={ROOT}/configs/digits.py"
    process = start(tmp_path, config)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + DEADLINE
    while not metrics.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    status, stdout, stderr = finish(process)
    assert status == 130, stdout + stderr
    assert "Traceback" not in stderr
    stopped = re.search(r"stopped at step (\d+); run the same command again to continue", stderr)
    assert stopped, stderr
    step = int(stopped[1])
    assert 0 < step < 600
    done = train(tmp_path, config)
    assert f"trained {600 - step} steps, to 600 in all" in done
    assert reported_steps(tmp_path) == list(range(20, 601, 20))
    accuracy = re.search(r"^test .* (\S+)$", done, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.98


def test_a_dry_run_enters_every_phase_and_keeps_nothing(tmp_path):
    stdout = train(tmp_path, f"--config={ROOT}/configs/digits.py", "--dry_run")
    assert "trained 2 steps, to 2 in all" in stdout
    assert "predicted the test set: outputs float32 [128, 10]" in stdout
    assert stdout.splitlines()[-1] == "dry run: every phase and callback ran; nothing was kept"
    assert os.listdir(tmp_path) == []
