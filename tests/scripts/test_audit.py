"""`scripts/audit.py`, launched as a user would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT, Launched

MODELS = """
import urllib.error

import numpy as np
import tf_keras
from tf_keras import layers

def healthy():
    inputs = tf_keras.Input([4])
    return tf_keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(inputs)), name="healthy")

def wired():
    inputs = tf_keras.Input([4])
    return tf_keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.95)(inputs, training=True)), name="wired")

linted = tf_keras.Sequential([layers.Dense(2), layers.Dropout(0.5)], name="linted")

def sized(units):
    return tf_keras.Sequential([layers.Dense(units)])

def an_array():
    return np.ones([5, 3])

def downloads():
    try:
        raise urllib.error.URLError("no route")
    except urllib.error.URLError:
        raise Exception("URL fetch failure")

def broken():
    return 1 / 0
"""


def audit(place: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    (place / "some_models.py").write_text(MODELS)
    return Launched(ROOT / "scripts" / "audit.py", *flags, cwd=place).finish()


def test_a_healthy_model_ends_with_status_0(tmp_path):
    result = audit(tmp_path, "--model=some_models:healthy", "--json=audit.json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("audit of healthy on float32[None, 4]: 1 phase-sensitive layer, ok, no lints\n")
    assert result.stderr == ""
    assert json.loads((tmp_path / "audit.json").read_text())["ok"] is True


def test_the_model_of_a_config_is_audited_on_its_data(tmp_path):
    result = audit(tmp_path, f"--config={ROOT}/configs/digits_mlp.py", "--figure=audit.png")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("audit of digits_mlp on float32[64, 8, 8, 1]: 2 phase-sensitive layers, ok")
    assert (tmp_path / "audit.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "give either --model=package.module:name or --config=FILE"),
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


ONE_PROCESS = """
import contextlib, importlib.util, io, json, sys
from absl.testing import flagsaver
from trainloop import launch

spec = importlib.util.spec_from_file_location("audit_program", sys.argv[1])
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
found = {}
for line in sys.argv[2:]:
    sys.argv[1:] = line.split()
    out, said, code = io.StringIO(), io.StringIO(), 0
    with flagsaver.flagsaver(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        try:
            launch.run(program.main, without_workdir=True)
        except SystemExit as end:
            code = end.code
    found[line] = [code, said.getvalue(), out.getvalue()]
print(json.dumps(found))
"""
CANNOT_BE_AUDITED = {
    "--model=some_models:linted": "error: --model=some_models:linted: the model does not say what it takes; give the "
    "shape of one input without the batch, such as --inputs=64 or --inputs=32,32,3\n",
    "--model=some_models:healthy --inputs=64": 'error: --inputs=64: Input 0 of layer "healthy" is incompatible with '
    "the layer: expected shape=(None, 4), found shape=(None, 64); audit: model was called on float32[None, 64]; "
    "healthy was built on float32[None, 4]\n",
    "--model=some_models:healthy --inputs=": "error: flag --inputs=[]: expected sizes such as 32,32,3\n",
    "--model=some_models:sized": "error: --model=some_models:sized: missing a required argument: 'units'; name a "
    "function without arguments that makes the model\n",
    "--model=some_models:an_array": "error: --model=some_models:an_array: it returned a ndarray of shape (5, 3); "
    "expected a model\n",
    "--model=some_models:downloads": "error: --model=some_models:downloads: it wants to download something, and cannot "
    "(<urlopen error no route>); name a function of your own that makes the model without it, as with weights=None\n",
}


FAULTS = {
    "--model=some_models:wired": "dropout  [eval, predict]",
    "--model=some_models:linted --inputs=4 --fail_on_lint": "dropout-on-outputs: dropout",
}


def test_faults_end_with_status_1_and_what_cannot_be_audited_with_one_line_and_status_2(tmp_path):
    """In one process: each would cost an import of TensorFlow. The models are in the current directory."""
    (tmp_path / "some_models.py").write_text(MODELS)
    lines = [*CANNOT_BE_AUDITED, *FAULTS, "--model=some_models:broken", "--model=some_models:hearty"]
    result = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, ROOT / "scripts" / "audit.py", *lines],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for line, fragment in FAULTS.items():
        code, _, printed = found.pop(line)
        assert code == 1
        assert fragment in printed
    code, said, _ = found.pop("--model=some_models:hearty")
    assert code == 2
    assert "--model='some_models:hearty': some_models has no function 'hearty'; did you" in said
    code, said, _ = found.pop("--model=some_models:broken")
    assert code == 2  # 1 would be a violation
    assert said.startswith("Traceback")
    assert said.endswith("ZeroDivisionError: division by zero\n")
    assert found == {line: [2, said, ""] for line, said in CANNOT_BE_AUDITED.items()}


def test_help_is_short(tmp_path):
    result = audit(tmp_path, "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Audits a model: what its layers do in each phase")
    assert "--workdir" not in result.stdout
    assert "audit.py [flags]" in result.stdout
    assert len(result.stdout.splitlines()) < 40
