"""Loops written by hand: the step that everybody writes, in Python and in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload


class Written:
    """A model and the step that trains it; the mean of the loss and the accuracy are kept."""

    def __init__(self, workload: Workload):
        self.model = workload.model(tf_keras)
        self.optimizer = tf_keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)
        self.loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.mean = tf_keras.metrics.Mean()
        self.accuracy = tf_keras.metrics.SparseCategoricalAccuracy()

    def step(self, x: tf.Tensor, y: tf.Tensor) -> None:
        """Trains on a batch."""
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self.loss(y, logits)
        variables = self.model.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        self.mean.update_state(loss)
        self.accuracy.update_state(y, logits)

    def read(self) -> tuple[float, float]:
        """Returns what the metrics have come to, and starts them again."""
        found = float(self.mean.result()), float(self.accuracy.result())
        self.mean.reset_state()
        self.accuracy.reset_state()
        return found


def python_loop(workload: Workload, steps: int, turns: Turns) -> None:
    """A compiled step, called for each batch."""
    written = Written(workload)
    step: Callable[..., None] = tf.function(written.step)
    batches = iter(workload.endless())
    while True:
        turns.next()
        for _ in range(steps):
            x, y = next(batches)
            step(x, y)
        written.read()


def range_loop(workload: Workload, steps: int, turns: Turns) -> None:
    """All steps of a turn in one call: the best that one can write by hand."""
    written = Written(workload)

    @tf.function
    def train(batches: Any, number: tf.Tensor) -> None:
        for _ in tf.range(number):
            x, y = next(batches)
            written.step(x, y)

    batches = iter(workload.endless())
    while True:
        turns.next()
        train(batches, tf.constant(steps))
        written.read()
