"""trainloop: with everything on, as it comes, and with less."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tf_keras

from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload
from trainloop import AtEnd, Callback, Checkpointing, Every, Trainer, data

_ENDLESS = 10**6  # epochs
_MANY = 10**9  # steps


class Turn(Callback):
    """Waits for the driver after each turn; a save in flight is waited for, since it would compute in others' turns.

    It notes for how long the loop has run in a turn, which is exact where the turn ends with a report.
    """

    def __init__(self, steps: int, turns: Turns):
        self.trigger = Every(steps=steps)
        self._turns = turns
        self._reported = 0

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._turns.next()

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        if "steps_per_second" in metrics:
            in_loop = (trainer.step - self._reported) / metrics["steps_per_second"]
            self._turns.notes["in_loop"] = self._turns.notes.get("in_loop", 0.0) + in_loop
            self._reported = trainer.step

    def on_trigger(self, trainer: Trainer) -> None:
        if trainer.checkpoints is not None:
            trainer.checkpoints.wait()
        self._turns.next()


class Saving(Checkpointing):
    """Notes for how long each save stops the training, and how long it takes to copy what is saved, once."""

    def __init__(self, trigger: Every, turns: Turns):
        super().__init__(trigger)
        self._turns = turns
        self._size: dict[str, float] = {}

    def on_fit_begin(self, trainer: Trainer) -> None:
        optimizer = trainer.optimizers["model"]
        values = [variable.numpy() for variable in (*trainer.models["model"].variables, *optimizer.variables)]
        copies = [np.empty_like(value) for value in values]
        for _ in range(2):  # the first time the memory of the copies is taken
            began = time.perf_counter()
            for value, copy in zip(values, copies, strict=True):
                np.copyto(copy, value)
        self._size = {"mebibytes": sum(each.nbytes for each in values) / 2**20, "copy": time.perf_counter() - began}

    def on_trigger(self, trainer: Trainer) -> None:
        began = time.perf_counter()
        super().on_trigger(trainer)
        self._turns.notes |= {"blocked": time.perf_counter() - began, **self._size}


class Idle(Callback):
    """A callback with nothing to do, every 100 steps."""

    trigger = Every(steps=100)


def trainer_for(workload: Workload, **options: Any) -> Trainer:
    """Returns a Trainer of a workload's model."""
    return Trainer(
        workload.model(tf_keras),
        tf_keras.optimizers.Adam(),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        seed=0,
        **options,
    )


def fit(
    workload: Workload,
    steps: int,
    turns: Turns,
    *,
    everything: bool = True,
    arrays: bool = False,
    epochs: bool = True,
    saves: int | None = None,
    idle: int = 0,
    **options: Any,
) -> None:
    """One `fit`, with a callback that waits after each turn.

    Args:
      workload: What is trained.
      steps: The steps of a turn.
      turns: The turns.
      everything: Whether there is a workdir, and the default callbacks.
      arrays: Whether the data are `from_arrays`, whose epochs are those of the rows; else the dataset of the others.
      epochs: Whether `fit` is told that a turn is an epoch, as Keras's is; else it counts steps.
      saves: After so many turns, one begins with a save; after none where it is 0. By default one every ten minutes.
      idle: How many callbacks with nothing to do there are besides.
      **options: Given to the Trainer.
    """
    callbacks: list[Any] = [Turn(steps, turns), *(Idle() for _ in range(idle))]
    if saves == 0:
        callbacks.append(Checkpointing(AtEnd()))
    elif saves is not None:
        callbacks.append(Saving(Every(steps=saves * steps), turns))  # Checkpointing comes last, so after the wait
    with tempfile.TemporaryDirectory() as directory:
        trainer = trainer_for(
            workload,
            callbacks=callbacks,
            default_callbacks=everything,
            workdir=f"{directory}/run" if everything else None,
            **options,
        )
        if arrays:
            trainer.fit(data.from_arrays(workload.arrays(), batch_size=workload.batch), epochs=_ENDLESS)
        elif epochs:
            trainer.fit(workload.endless(), epochs=_ENDLESS, steps_per_epoch=steps)
        else:
            trainer.fit(workload.endless(), steps=_MANY)


def one_pass(workload: Workload, steps: int, turns: Turns, *, method: str, arrays: bool = False) -> None:
    """`evaluate` or `predict`, over all rows in each turn."""
    del steps
    trainer = trainer_for(workload)
    source = data.from_arrays(workload.arrays(), batch_size=workload.batch) if arrays else workload.once()
    while True:
        turns.next()
        getattr(trainer, method)(source)
