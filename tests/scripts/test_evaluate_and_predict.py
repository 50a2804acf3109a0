"""`scripts/evaluate.py` and `scripts/predict.py`, launched as a user does, on a run made here."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.launching import ROOT, Launched
from trainloop import MCPrediction, Phase
from trainloop.launch import save_predictions
from trainloop.tasks import digits
from trainloop.workdir import Workdir


def launch(place: Path, script: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    return Launched(ROOT / "scripts" / script, "--workdir=run", *flags, cwd=place).finish()


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

    sampled = launch(tmp_path, "predict.py", "--set=eval", "--output=sampled", "--steps=2", "--samples=4")
    assert sampled.stdout == "sampled: mean float32 [128, 10], std float32 [128, 10], the eval set at step 60\n"
    wanted = task.trainer.predict(task.eval_data, phase=Phase.MC_PREDICT, samples=4, steps=2)
    with np.load(tmp_path / "sampled") as file:
        np.testing.assert_allclose(file["std"], wanted.std, atol=1e-5)

    scored = launch(tmp_path, "evaluate.py", "--json", "--steps=2", "--samples=4")
    scores = task.trainer.evaluate(task.eval_data, phase=Phase.MC_PREDICT, samples=4, steps=2)
    assert json.loads(scored.stdout)["scores"]["eval"] == pytest.approx(scores, rel=1e-4)
    refused = launch(tmp_path, "evaluate.py", "--samples=0")
    assert refused.returncode != 0
    assert "--samples" in refused.stderr


def test_samples_are_saved_field_by_field(tmp_path):
    rows = {"class": np.zeros([2, 3]), "box": np.zeros([2, 4])}
    entropies = ({"class": np.zeros([2]), "box": None}, {"class": np.zeros([2]), "box": None})
    save_predictions(tmp_path / "found.npz", MCPrediction(rows, rows, None, entropies))
    with np.load(tmp_path / "found.npz") as file:
        names = {"mean_class", "mean_box", "std_class", "std_box"}
        assert set(file) == names | {"predictive_entropy_class", "mutual_information_class"}
    save_predictions(tmp_path / "plain.npz", MCPrediction(np.zeros([2]), np.zeros([2]), np.zeros([5, 2])))
    with np.load(tmp_path / "plain.npz") as file:
        assert {name: file[name].shape for name in file} == {"mean": (2,), "std": (2,), "samples": (5, 2)}
