"""The small classifiers of digits that several scenarios measure, and how they are trained."""

from __future__ import annotations

from typing import Any

import tf_keras
from tf_keras import layers

from trainloop import data
from trainloop.tasks import digits
from trainloop.trainer import Trainer

ORDERS = ("dropout only", "batch norm, then dropout", "dropout, then batch norm")


def classifier(order: str, rate: float = 0.5, width: int = 128) -> tf_keras.Sequential:
    """Returns a net of two hidden layers that puts out class probabilities, not yet trained.

    Args:
      order: Which regularisation stands in a hidden layer; one of `ORDERS`.
      rate: Share of the units that are dropped.
      width: Units of a hidden layer.

    Example:
      >>> [type(layer).__name__ for layer in classifier("dropout only").layers]
      ['Flatten', 'Dense', 'Dropout', 'Dense', 'Dropout', 'Dense']
    """
    blocks = [layer for _ in range(2) for layer in _block(order, rate, width)]
    shape = [digits.SIZE, digits.SIZE, 1]
    return tf_keras.Sequential(
        [tf_keras.Input(shape), layers.Flatten(), *blocks, layers.Dense(digits.CLASSES, "softmax")]
    )


def _block(order: str, rate: float, width: int) -> list[Any]:
    normal = {"momentum": 0.9}  # 20 steps an epoch: the usual 0.99 would lag epochs behind
    if order == "dropout only":
        return [layers.Dense(width, "relu"), layers.Dropout(rate)]
    if order == "batch norm, then dropout":
        return [layers.Dense(width), layers.BatchNormalization(**normal), layers.ReLU(), layers.Dropout(rate)]
    if order == "dropout, then batch norm":
        return [layers.Dense(width, "relu"), layers.Dropout(rate), layers.BatchNormalization(**normal)]
    raise ValueError(f"order={order!r} is unknown; it must be one of {', '.join(ORDERS)}")


def trainer_of(model: Any, seed: int, **options: Any) -> Trainer:
    """Returns a Trainer for a model that puts out class probabilities, silent and writing nothing.

    Args:
      model: The model.
      seed: The run's seed. The model's weights were drawn before: `tf_keras.utils.set_random_seed` belongs above it.
      **options: Further arguments of the Trainer.
    """
    return Trainer(
        model,
        tf_keras.optimizers.Adam(1e-3),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(),
        metrics=[tf_keras.metrics.SparseCategoricalAccuracy("accuracy")],
        seed=seed,
        default_callbacks=False,
        **options,
    )


def to_train() -> Any:
    """Returns the 1,257 images to train on, with their labels, in batches of 64."""
    return data.from_arrays(digits.load().train, batch_size=64)


def to_test() -> Any:
    """Returns the 360 images to test on, with their labels, in one batch."""
    images, labels = digits.load().test
    return data.from_arrays((images, labels), batch_size=len(labels))
