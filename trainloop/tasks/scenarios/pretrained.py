"""A base that has learnt the digits 0 to 4, and the digits 5 to 9 that it is used for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop import data
from trainloop.tasks import digits
from trainloop.tasks.digits import Pairs
from trainloop.tasks.scenarios.digits_models import trainer_of

CLASSES = 5
RATE = 0.5


class Halves(NamedTuple):
    """The digits of one half, with labels 0 to 4."""

    train: Pairs
    test: Pairs


def lower_half() -> Halves:
    """Returns the digits 0 to 4."""
    return _half(range(CLASSES))


def upper_half() -> Halves:
    """Returns the digits 5 to 9; the label of a 5 is 0."""
    return _half(range(CLASSES, 2 * CLASSES))


def untrained_base() -> tf_keras.Sequential:
    """Returns a base with batch norm (`bn`) and, last, dropout (`drop`) of rate 0.5.

    Example:
      >>> [layer.name for layer in untrained_base().layers]
      ['flatten', 'dense', 'bn', 'relu', 'drop']
    """
    shape = [digits.SIZE, digits.SIZE, 1]
    return tf_keras.Sequential(
        [
            tf_keras.Input(shape),
            layers.Flatten(name="flatten"),
            layers.Dense(64, use_bias=False, name="dense"),
            layers.BatchNormalization(momentum=0.9, name="bn"),
            layers.ReLU(name="relu"),
            layers.Dropout(RATE, name="drop"),
        ],
        name="base",
    )


def with_head(base: tf_keras.Model) -> tf_keras.Sequential:
    """Returns a classifier of five digits on a base."""
    return tf_keras.Sequential([base, layers.Dense(CLASSES, "softmax", name="head")])


def fit(model: tf_keras.Model, half: Halves, seed: int, epochs: int) -> None:
    """Trains a classifier on one half.

    Args:
      model: The classifier.
      half: The digits.
      seed: The run's seed.
      epochs: How long; one has 9 or 10 steps.
    """
    trainer = trainer_of(model, seed)
    model_optimizer: Any = trainer.optimizer
    model_optimizer.learning_rate = 1e-2  # the steps are few
    trainer.fit(data.from_arrays(half.train, batch_size=64), epochs=epochs)


def pretrained_base(seed: int, epochs: int) -> tf_keras.Sequential:
    """Returns a base that was trained on the digits 0 to 4."""
    base = untrained_base()
    fit(with_head(base), lower_half(), seed, epochs)
    return base


def in_and_out_of_dropout(base: tf_keras.Model) -> tf_keras.Model:
    """Returns a model with what goes into the base's dropout, and what comes out of it."""
    drop = base.get_layer("drop")
    return tf_keras.Model(base.inputs, [drop.input, drop.output])


def dropped_share(entered: Any, left: Any) -> float:
    """Returns the share of the units that were not zero before a dropout, and are behind it.

    Args:
      entered: What went in.
      left: What came out.
    """
    alive = np.asarray(entered) != 0.0
    return float(np.mean(np.asarray(left)[alive] == 0.0))


def _half(classes: range) -> Halves:
    parts = digits.load()
    return Halves(*(_only(pairs, classes) for pairs in (parts.train, parts.test)))


def _only(pairs: Pairs, classes: range) -> Pairs:
    images, labels = pairs
    chosen = np.isin(labels, classes)
    return images[chosen], labels[chosen] - classes.start
