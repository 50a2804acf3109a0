"""`Model.fit`, `evaluate` and `predict`, of tf-keras or of Keras 3."""

from __future__ import annotations

import importlib
from typing import Any

from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload

_ENDLESS = 10**6  # epochs, of which a turn is one


def compiled(workload: Workload, library: Any, **options: Any) -> Any:
    """Returns a compiled model."""
    model = workload.model(library)
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.Adam(), loss, metrics=["accuracy"], **options)
    return model


def fit(
    workload: Workload, steps: int, turns: Turns, *, library: str = "tf_keras", steps_per_execution: int = 1
) -> None:
    """One `fit`, each epoch a turn."""
    module: Any = importlib.import_module(library)

    class Turn(module.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            turns.next()

    model = compiled(workload, module, steps_per_execution=min(steps_per_execution, steps))
    model.fit(workload.endless(), steps_per_epoch=steps, epochs=_ENDLESS, callbacks=[Turn()])


def one_pass(workload: Workload, steps: int, turns: Turns, *, method: str) -> None:
    """`evaluate` or `predict`, over all rows in each turn."""
    del steps
    model = compiled(workload, importlib.import_module("tf_keras"))
    batches = workload.once()
    while True:
        turns.next()
        getattr(model, method)(batches)
