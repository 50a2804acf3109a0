"""What is trained: a model, its data, a batch size.

The driver reads this too, so TensorFlow is imported inside of functions.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

CLASSES = 10
Model = Callable[[Any], Any]  # from `tf_keras`, or Keras 3, which spell a model alike, to the model


@dataclasses.dataclass(frozen=True)
class Workload:
    """A classifier, and made-up rows for it.

    Attributes:
      title: What it is, in a table.
      model: Makes the model, which puts out logits.
      shape: The shape of a row of x.
      batch: Rows in a batch.
      rows: Rows in the data.
      steps: How many steps the best loop written by hand makes in about a second, on two cores.
    """

    title: str
    model: Model
    shape: tuple[int, ...]
    batch: int
    rows: int
    steps: int

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns x and y."""
        generator = np.random.default_rng(0)
        x = generator.standard_normal([self.rows, *self.shape], "float32")
        y = generator.integers(CLASSES, size=self.rows, dtype="int32")
        return x, y

    def endless(self) -> Any:
        """Returns the batches as a `tf.data.Dataset` in the usual way: shuffled, without an end."""
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices(self.arrays()).shuffle(self.rows, seed=0)
        return rows.repeat().batch(self.batch).prefetch(tf.data.AUTOTUNE)

    def once(self) -> Any:
        """Returns the batches as a `tf.data.Dataset`, once, in order."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices(self.arrays()).batch(self.batch).prefetch(tf.data.AUTOTUNE)


def _mlp(library: Any) -> Any:
    layers = library.layers
    return library.Sequential([library.Input([64]), layers.Dense(64, "relu"), layers.Dense(CLASSES)])


def _deep(depth: int, library: Any) -> Any:
    dense = [library.layers.Dense(32, "relu") for _ in range(depth - 1)]
    return library.Sequential([library.Input([64]), *dense, library.layers.Dense(CLASSES)])


def _cnn(library: Any) -> Any:
    layers = library.layers
    return library.Sequential(
        [
            library.Input([28, 28, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
        ]
    )


def _lstm(library: Any) -> Any:
    layers = library.layers
    recurrent = layers.LSTM(32, dropout=0.2, recurrent_dropout=0.2)
    return library.Sequential([library.Input([20, 16]), recurrent, layers.Dense(CLASSES)])


def _efficientnet(library: Any) -> Any:
    return library.applications.EfficientNetB0(
        weights=None, input_shape=(64, 64, 3), classes=CLASSES, classifier_activation=None
    )


def _wide(library: Any) -> Any:
    layers = library.layers
    hidden = [layers.Dense(1024, "relu") for _ in range(9)]
    return library.Sequential([library.Input([64]), *hidden, layers.Dense(CLASSES)])


WORKLOADS = {
    "mlp": Workload("tiny MLP, 64-64-10, batch 32", _mlp, (64,), 32, 65_536, 10_000),
    "cnn": Workload("small CNN, 28x28, batch 64", _cnn, (28, 28, 1), 64, 8_192, 100),
    "lstm": Workload("LSTM with recurrent dropout, 20 steps, batch 32", _lstm, (20, 16), 32, 16_384, 100),
    "efficientnet": Workload("EfficientNetB0, 64x64, batch 16", _efficientnet, (64, 64, 3), 16, 1_024, 10),
}

# Its weights and Adam's two slots are 100 MiB.
WIDE = Workload("nine dense layers of 1024, batch 32", _wide, (64,), 32, 65_536, 20)


def deep(depth: int) -> Workload:
    """Returns a workload of so many dense layers."""
    model = functools.partial(_deep, depth)
    return Workload(f"{depth} dense layers of 32, batch 32", model, (64,), 32, 8_192, 50_000 // (depth + 10))
