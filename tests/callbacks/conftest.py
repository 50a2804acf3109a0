"""What the tests of callbacks share: a small run, and a stand-in for the Trainer where a hook is called by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tf_keras
from tf_keras import layers

from trainloop import Trainer, data

ROWS, BATCH = 32, 8  # four steps an epoch


@pytest.fixture
def inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=[ROWS, 3]).astype("float32")


@pytest.fixture
def pairs(inputs) -> data.ArrayData:
    """A linear task: 32 rows, 4 steps an epoch."""
    return data.from_arrays((inputs, inputs.sum(axis=1, keepdims=True)), batch_size=BATCH)


@pytest.fixture
def make_model():
    def make() -> tf_keras.Model:
        tf_keras.utils.set_random_seed(3)
        return tf_keras.Sequential([layers.Input([3]), layers.Dense(4, activation="tanh"), layers.Dense(1)])

    return make


@pytest.fixture
def make_trainer(make_model):
    """Returns a function that makes a Trainer without defaults; each one begins with the same weights."""

    def make(*callbacks: Any, model: Any = None, learning_rate: float = 0.05, **options: Any) -> Trainer:
        options = {"loss": "mse", "default_callbacks": False, "seed": 1} | options
        model = make_model() if model is None else model
        return Trainer(model, tf_keras.optimizers.SGD(learning_rate), callbacks=list(callbacks), **options)

    return make


class FakeTrainer(SimpleNamespace):
    """What a callback sees of a Trainer, to be set by hand."""

    def __init__(self, **attributes: Any):
        self.stop_reason: str | None = None
        defaults = {
            "step": 0,
            "epoch": 0,
            "state": SimpleNamespace(epoch_step=0),
            "workdir": None,
            "checkpoints": None,
            "total_steps": None,
            "steps_per_epoch": None,
            "latest_metrics": {},
            "fitting": True,
            "phase_reason": "fit",
            "jit_compile": False,
        }
        super().__init__(**defaults | attributes)

    def request_stop(self, reason: str) -> None:
        self.stop_reason = reason


@pytest.fixture
def fake_trainer():
    return FakeTrainer
