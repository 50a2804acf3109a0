"""`scripts/evaluate.py` and `scripts/predict.py`, launched as a user does, on a run made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from trainloop.tasks import digits
from trainloop.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent.parent


def launch(place: Path, script: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--workdir=run", *flags],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def contents(directory: os.PathLike[str]) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(directory).rglob("*") if path.is_file()}


def test_evaluate_and_predict_a_run_of_60_steps(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.write_json(workdir.config, {"task": "trainloop.tasks.digits:mlp", "steps": 60, "seed": 1})
    task = digits.mlp(workdir=workdir, steps=60, seed=1)
    task.trainer.fit(task.train_data, eval_data=task.eval_data, **task.fit)
    files = contents(workdir)

    evaluated = launch(tmp_path, "evaluate.py", "--json", "--checkpoint=best")
    assert evaluated.returncode == 0, evaluated.stderr
    said = json.loads(evaluated.stdout)
    assert said["step"] == 60
    for name, data in task.sets.items():
        np.testing.assert_allclose(list(said["scores"][name].values()), list(task.trainer.evaluate(data).values()))
    assert contents(workdir) == files, "evaluate.py only reads"

    predicted = launch(tmp_path, "predict.py", "--set=eval", "--output=out/here", "--steps=2")
    assert predicted.returncode == 0, predicted.stderr
    assert predicted.stdout == "out/here: outputs float32 [128, 10], the eval set at step 60\n"
    with np.load(tmp_path / "out" / "here") as file:
        np.testing.assert_allclose(file["outputs"], task.trainer.predict(task.eval_data)[:128], atol=1e-5)
