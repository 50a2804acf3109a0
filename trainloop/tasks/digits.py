"""Handwritten digits: 1,797 grey images of 8x8 pixels that come with scikit-learn (UCI, Alpaydin 1998)."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import data
from trainloop.callbacks import Checkpointing
from trainloop.launch import Task
from trainloop.trainer import Trainer
from trainloop.triggers import AtEnd, Every

CLASSES = 10
SIZE = 8
_TEST_ROWS = 360
_EVAL_ROWS = 180
_SPLIT_SEED = 0  # Never the run's seed: scores of different runs are comparable only on the same test set.

Pairs = tuple[np.ndarray, np.ndarray]


class Digits(NamedTuple):
    """The three parts, each `(images, labels)`: float32 `[rows, 8, 8, 1]` in 0 to 1, and int32 `[rows]`."""

    train: Pairs
    eval: Pairs
    test: Pairs


def load() -> Digits:
    """Returns the data in a fixed split that keeps the classes' shares: 1,257 to train, 180 to evaluate, 360 to test.

    Raises:
      ImportError: If scikit-learn is not installed.

    Example:
      >>> images, labels = load().test
      >>> images.shape, labels.shape
      ((360, 8, 8, 1), (360,))
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError as error:
        raise ImportError(
            'the digits come with scikit-learn, which is not installed: pip install "trainloop-tf[examples]"'
        ) from error
    bunch: Any = datasets.load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., np.newaxis]
    labels = bunch.target.astype(np.int32)

    def split(images: np.ndarray, labels: np.ndarray, rows: int) -> list[Any]:
        return model_selection.train_test_split(
            images, labels, test_size=rows, stratify=labels, random_state=_SPLIT_SEED
        )

    images, test_images, labels, test_labels = split(images, labels, _TEST_ROWS)
    images, eval_images, labels, eval_labels = split(images, labels, _EVAL_ROWS)
    return Digits((images, labels), (eval_images, eval_labels), (test_images, test_labels))


def cnn(
    *,
    workdir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    epochs: int = 30,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    dropout: float = 0.4,
    filters: int = 32,
) -> Task:
    """Three convolutions with batch norm and dropout, on images shifted by up to one pixel.

    Args:
      workdir: The run's directory; None writes nothing.
      seed: The run's seed.
      epochs: Run length in epochs.
      steps: Run length in steps; if given, `epochs` does not count.
      batch_size: Images in a batch.
      learning_rate: Adam's, at the start; it falls to zero over the run along half a cosine.
      dropout: Share of the features that are dropped before the last layer.
      filters: Channels of the first two convolutions; the third has twice as many.

    Returns:
      The task, for `launch`.

    Example:
      >>> task = cnn(epochs=2)
      >>> task.fit["epochs"], list(task.sets)
      (2, ['eval', 'test'])
    """
    model = tf_keras.Sequential(
        [
            tf_keras.Input([SIZE, SIZE, 1]),
            *_convolution(filters),
            *_convolution(filters),
            layers.MaxPooling2D(),
            *_convolution(2 * filters),
            layers.Flatten(),
            layers.Dropout(dropout),
            layers.Dense(CLASSES, dtype="float32"),  # Logits in full precision under any policy.
        ],
        name="digits_cnn",
    )
    return _task(model, workdir, seed, epochs, steps, batch_size, learning_rate, augment=shift)


def mlp(
    *,
    workdir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    epochs: int = 30,
    steps: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 3e-3,
    dropout: float = 0.3,
    width: int = 128,
) -> Task:
    """Two dense layers with dropout.

    Args:
      workdir: The run's directory; None writes nothing.
      seed: The run's seed.
      epochs: Run length in epochs.
      steps: Run length in steps; if given, `epochs` does not count.
      batch_size: Images in a batch.
      learning_rate: Adam's, at the start; it falls to zero over the run along half a cosine.
      dropout: Share of the units that are dropped after each dense layer.
      width: Units of each dense layer.

    Returns:
      The task, for `launch`.

    Example:
      >>> mlp(steps=100).fit["steps"]
      100
    """
    hidden = [layer for _ in range(2) for layer in (layers.Dense(width, "relu"), layers.Dropout(dropout))]
    model = tf_keras.Sequential(
        [tf_keras.Input([SIZE, SIZE, 1]), layers.Flatten(), *hidden, layers.Dense(CLASSES, dtype="float32")],
        name="digits_mlp",
    )
    return _task(model, workdir, seed, epochs, steps, batch_size, learning_rate)


def shift(batch: tuple[tf.Tensor, tf.Tensor], key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Moves each image by up to one pixel in each direction.

    Args:
      batch: `(images, labels)`.
      key: int64, shape `[2]`: the same key moves the images in the same way.

    Returns:
      The batch, its images moved and filled up with zeros.
    """
    images, labels = batch
    corners = tf.random.stateless_uniform([tf.shape(images)[0], 2, 1], key, minval=0, maxval=3, dtype=tf.int32)
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = tf.gather(padded, corners[:, 0] + tf.range(SIZE), axis=1, batch_dims=1)
    return tf.gather(rows, corners[:, 1] + tf.range(SIZE), axis=2, batch_dims=1), labels


def _convolution(filters: int) -> list[tf_keras.layers.Layer]:
    return [
        layers.Conv2D(filters, 3, padding="same", use_bias=False),
        layers.BatchNormalization(momentum=0.9),  # 20 steps an epoch: the usual 0.99 would lag epochs behind.
        layers.ReLU(),
    ]


def _task(
    model: tf_keras.Model,
    workdir: str | os.PathLike[str] | None,
    seed: int,
    epochs: int,
    steps: int | None,
    batch_size: int,
    learning_rate: float,
    augment: Callable[..., Any] | None = None,
) -> Task:
    digits = load()
    train_data = data.from_arrays(digits.train, batch_size=batch_size, augment_fn=augment)
    run_length = {"epochs": epochs} if steps is None else {"steps": steps}
    total = epochs * train_data.steps_per_epoch if steps is None else steps
    best = Checkpointing(Every(epochs=5) | AtEnd(), monitor="eval/accuracy", mode="max")
    trainer = Trainer(
        model,
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(learning_rate, total)),
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf_keras.metrics.SparseCategoricalAccuracy("accuracy")],
        seed=seed,
        workdir=workdir,
        callbacks=[] if workdir is None else [best],
    )
    return Task(
        trainer=trainer,
        train_data=train_data,
        eval_data=data.from_arrays(digits.eval, batch_size=batch_size),
        test_data=data.from_arrays(digits.test, batch_size=batch_size),
        fit=run_length,
    )
