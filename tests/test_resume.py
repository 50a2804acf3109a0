"""Checkpoint and resume: the same script run again continues, and ends where an unbroken run ends."""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Callback, Checkpointing, Every, History, Trainer, data

ROWS, BATCH, STEPS_PER_EPOCH = 20, 8, 3
X = np.random.default_rng(0).normal(size=[ROWS, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True) ** 2
TOTAL = 17


class Killed(Exception):
    """Stands for the end of the process: no hook of the run saves anything any more."""


class Kill(Callback):
    """Ends a run at a step, before that step's checkpoint is written."""

    def __init__(self, step: int):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer: Trainer) -> None:
        raise Killed


class Stop(Kill):
    def on_trigger(self, trainer: Trainer) -> None:
        trainer.request_stop("enough")


class CountsReports(Callback):
    """A callback with a state."""

    def __init__(self) -> None:
        self.reports = 0

    def on_report(self, trainer: Trainer, metrics: Any) -> None:
        self.reports += 1

    def get_state(self) -> dict[str, Any]:
        return {"reports": self.reports}

    def set_state(self, state: dict[str, Any]) -> None:
        self.reports = state["reports"]


class Subclassed(tf_keras.Model):
    """A model whose weights exist only once it has been called."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = tf_keras.layers.Dense(8, "relu")
        self.norm = tf_keras.layers.BatchNormalization()
        self.out = tf_keras.layers.Dense(1)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.out(self.norm(self.hidden(inputs)))


def sequential() -> tf_keras.Model:
    return tf_keras.Sequential(
        [
            tf_keras.layers.Dense(8, "relu", input_shape=(4,)),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(1),
        ]
    )


def arrays() -> data.ArrayData:
    return data.from_arrays((X, Y), batch_size=BATCH)


def dataset() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(ROWS).batch(BATCH)


def filtered() -> tf.data.Dataset:
    return dataset().filter(lambda x, y: True)


def trainer_for(workdir: pathlib.Path, model: Any, *callbacks: Callback, **options: Any) -> Trainer:
    return Trainer(
        model,
        tf_keras.optimizers.Adam(0.01),
        **{
            "loss": "mse",
            "metrics": ["mae", tf_keras.metrics.RootMeanSquaredError()],
            "seed": 3,
            "workdir": workdir,
            "report_every": Every(steps=4),
            "callbacks": [CountsReports(), *callbacks, Checkpointing(Every(steps=5))],
        }
        | options,
    )


def script(
    workdir: pathlib.Path,
    *callbacks: Callback,
    model: Callable[[], Any] = sequential,
    source: Callable[[], Any] = arrays,
    **length: int,
) -> Trainer:
    """What a user's program does; each call stands for a new process."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    train_data = source()
    trainer = trainer_for(workdir, model(), *callbacks)
    trainer.restore_or_initialize()
    trainer.fit(train_data, eval_data=data.from_arrays((X, Y), batch_size=7), **(length or {"steps": TOTAL}))
    return trainer


def state(trainer: Trainer) -> dict[str, Any]:
    """Everything that a run ends with."""
    return {
        "counts": (trainer.step, trainer.epoch, trainer.state.epoch_step),
        "weights": [v.numpy().tolist() for v in trainer.model.variables],
        "optimizer": [v.numpy().tolist() for v in trainer.optimizer.variables],
        "metrics": [v.numpy().tolist() for metric in trainer.metrics.objects for v in metric.variables],
        "window": trainer.state.window.numpy().tolist(),
        "reports": next(callback.reports for callback in trainer.callbacks if isinstance(callback, CountsReports)),
    }


def log(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl but for what depends on the machine."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["time"]
        record["metrics"] = {k: v for k, v in record["metrics"].items() if not k.endswith("_per_second")}
    return records


KINDS = {
    "arrays": {},
    "a dataset, in epochs": {"source": dataset, "epochs": 6},
    "a dataset of unknown length, in epochs": {"source": filtered, "epochs": 6},
    "an endless dataset": {"source": lambda: dataset().repeat()},
    "a subclassed model": {"model": Subclassed},
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Returns how a kind of run ends, and its log; each kind is run once."""
    known: dict[str, Any] = {}

    def run(kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        if kind not in known:
            workdir = tmp_path_factory.mktemp("unbroken")
            known[kind] = state(script(workdir, **KINDS[kind])), log(workdir)
        return known[kind]

    return run


@pytest.mark.parametrize("killed_at", [2, 5, 6, 8, 14])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_ends_as_one_that_was_not(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], kind: str, killed_at: int
) -> None:
    with pytest.raises(Killed):
        script(tmp_path, Kill(killed_at), **KINDS[kind])
    resumed = script(tmp_path, **KINDS[kind])
    expected_state, expected_log = unbroken(kind)
    assert state(resumed) == expected_state
    assert log(tmp_path) == expected_log


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: pathlib.Path, unbroken: Callable[[str], Any], kind: str
) -> None:
    pass
