"""`scripts/audit.py`, launched as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MODELS = """
import tf_keras
from tf_keras import layers

def healthy():
    inputs = tf_keras.Input([4])
    return tf_keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(inputs)), name="healthy")

def wired():
    inputs = tf_keras.Input([4])
    return tf_keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.95)(inputs, training=True)), name="wired")

linted = tf_keras.Sequential([layers.Dense(2), layers.Dropout(0.5)], name="linted")
"""


def audit(place: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    (place / "some_models.py").write_text(MODELS)
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit.py", *flags],
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(place)]), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_healthy_model_ends_with_status_0(tmp_path):
    result = audit(tmp_path, "--model=some_models:healthy", "--json=audit.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("audit of healthy on float32[None, 4]: 1 phase-sensitive layer, ok, no lints\n")
    assert result.stderr == ""
    assert json.loads((tmp_path / "audit.json").read_text())["ok"] is True


def test_a_violation_ends_with_status_1(tmp_path):
    result = audit(tmp_path, "--model=some_models:wired")
    assert result.returncode == 1, result.stderr
    assert "dropout  [eval, predict]" in result.stdout


def test_lints_end_with_status_1_where_it_is_asked_for(tmp_path):
    """The model is an object here, and was built on nothing."""
    flags = ["--model=some_models:linted", "--inputs=4"]
    result = audit(tmp_path, *flags, "--fail_on_lint")
    assert result.returncode == 1, result.stderr
    assert "audit of linted on float32[None, 4]: 1 phase-sensitive layer, ok, 1 lint\n" in result.stdout
    assert "dropout-on-outputs: dropout" in result.stdout


def test_the_model_of_a_config_is_audited_on_its_data(tmp_path):
    result = audit(tmp_path, f"--config={ROOT}/configs/digits_mlp.py", "--figure=audit.png")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("audit of digits_mlp on float32[64, 8, 8, 1]: 2 phase-sensitive layers, ok")
    assert (tmp_path / "audit.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "give either --model=package.module:name or --config=FILE"),
        ("--model=some_models:hearty", "--model='some_models:hearty': some_models has no function 'hearty'; did you"),
        ("--model=some_models:linted --inputs=4,x", "expected sizes such as 32,32,3"),
        (
            "--model=some_models:healthy --figure=a.png",
            "--figure draws what is measured on data, which a --config=FILE",
        ),
        ("--model=some_models:healthy --workdir=run", "Unknown command line flag 'workdir'"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_status_2(tmp_path, flags, said):
    result = audit(tmp_path, *flags.split())
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_is_short(tmp_path):
    result = audit(tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Audits a model: what its layers do in each phase")
    assert "--workdir" not in result.stdout
    assert "audit.py [flags]" in result.stdout
    assert len(result.stdout.splitlines()) < 40
