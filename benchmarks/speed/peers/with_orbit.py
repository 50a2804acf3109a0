"""Orbit, the training loop of the TensorFlow Model Garden, as its documentation has it."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.speed.peers.by_hand import Written
from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload

PLACE = Path(sys.prefix) / "orbit"  # where `make bench` puts it, so that it is no part of the environment
_STEPS_A_LOOP, _RARELY = 100, 10**6


def controller(workload: Workload, steps: int, turns: Turns) -> None:
    """A `Controller` with summaries and checkpoints, which reads the metrics after each loop of 100 steps.

    Raises:
      ModuleNotFoundError: If Orbit is not installed.
    """
    sys.path.append(str(PLACE))
    try:
        orbit: Any = importlib.import_module("orbit")
    except ModuleNotFoundError as error:
        error.add_note("`make bench` installs Orbit; or leave it out with --peers")
        raise
    written = Written(workload)

    class Trained(orbit.StandardTrainer):
        def train_step(self, iterator: Any) -> None:
            x, y = next(iterator)
            written.step(x, y)

        def train_loop_end(self) -> dict[str, float]:
            loss, accuracy = written.read()
            return {"loss": loss, "accuracy": accuracy}

    iterations = written.optimizer.iterations
    checkpoint = tf.train.Checkpoint(model=written.model, optimizer=written.optimizer)
    with tempfile.TemporaryDirectory() as directory:
        manager = tf.train.CheckpointManager(
            checkpoint, directory, max_to_keep=3, step_counter=iterations, checkpoint_interval=_RARELY
        )
        loop = orbit.Controller(
            global_step=iterations,
            trainer=Trained(workload.endless()),
            steps_per_loop=min(_STEPS_A_LOOP, steps),
            checkpoint_manager=manager,
            summary_dir=directory,
        )
        total = 0
        while True:
            turns.next()
            total += steps
            loop.train(total, checkpoint_at_completion=False)
