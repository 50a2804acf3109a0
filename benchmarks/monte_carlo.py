"""What Monte-Carlo prediction costs: `trainer.predict(phase=Phase.MC_PREDICT)` against the loop that people write.

    python benchmarks/monte_carlo.py
    python benchmarks/monte_carlo.py --models=cnn,lstm --samples=20 --rounds=3

The loop calls a compiled model `samples` times for each batch, with `training=True`, and takes mean and deviation. Each
round times, one after the other: the loop, the loop again (the control), a Trainer that has to draw its samples one
after the other, and a Trainer as it is. The table has the medians of the rounds' ratios: how many times faster than the
loop each is. The samples of the two Trainers are compared, too.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags
from tf_keras import layers

from trainloop import Phase, Trainer, data, replays

_SAMPLES = flags.DEFINE_integer("samples", 100, "Samples of each batch.", lower_bound=2)
_BATCHES = flags.DEFINE_integer("batches", 4, "Batches of the data.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each variant is timed.", lower_bound=1)


def cnn() -> tuple[tf_keras.Model, int]:
    """A small convolutional net with a connection past its first dropout."""
    x = tf_keras.Input([28, 28, 1])
    h = layers.MaxPool2D()(layers.Conv2D(32, 3, activation="relu")(x))
    h = layers.MaxPool2D()(layers.Conv2D(64, 3, activation="relu")(h))
    h = layers.Flatten()(h)
    past = layers.Dense(32)(h)
    h = layers.Dense(32, activation="relu")(layers.Dropout(0.5)(h))
    h = layers.Dropout(0.5)(layers.Add()([h, past]))
    return tf_keras.Model(x, layers.Dense(10, "softmax")(h)), 64


def attention() -> tuple[tf_keras.Model, int]:
    """A block of a transformer."""
    x = tf_keras.Input([16, 32])
    h = layers.Dense(32)(x)
    h = layers.MultiHeadAttention(2, 16, dropout=0.2)(h, h) + h
    h = layers.Dropout(0.1)(layers.Dense(64, activation="relu")(h))
    return tf_keras.Model(x, layers.Dense(4, "softmax")(layers.GlobalAveragePooling1D()(h))), 32


def lstm() -> tuple[tf_keras.Model, int]:
    """An LSTM with dropout of its inputs and of its state, over embedded tokens."""
    x = tf_keras.Input([20], dtype="int32")
    h = layers.LSTM(32, dropout=0.2, recurrent_dropout=0.2)(layers.Embedding(50, 32)(x))
    return tf_keras.Model(x, layers.Dense(3, "softmax")(h)), 32


def dropout_head() -> tuple[tf_keras.Model, int]:
    """A convolutional base without dropout, under a head with it."""
    base = tf_keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(64, 64, 3), pooling="avg")
    x = tf_keras.Input([64, 64, 3])
    return tf_keras.Model(x, layers.Dense(10, "softmax")(layers.Dropout(0.3)(base(x)))), 8


MODELS = {"cnn": cnn, "attention": attention, "lstm": lstm, "dropout_head": dropout_head}
_MODELS = flags.DEFINE_list("models", list(MODELS), f"Which of {', '.join(MODELS)}.")
flags.register_validator(_MODELS, lambda names: set(names) <= set(MODELS), f"must be some of {', '.join(MODELS)}")


def rows_for(model: tf_keras.Model, count: int) -> np.ndarray:
    """Returns inputs for a model."""
    [spec] = model.inputs
    shape, draw = [count, *spec.shape[1:]], np.random.default_rng(0)
    return draw.integers(0, 50, shape, "int32") if spec.dtype.is_integer else draw.normal(size=shape).astype("float32")


def by_hand(model: tf_keras.Model, rows: np.ndarray, size: int) -> Callable[[], object]:
    """Returns the loop that people write."""
    call = tf.function(lambda batch: model(batch, training=True))

    def predict() -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for start in range(0, len(rows), size):
            batch = tf.constant(rows[start : start + size])
            samples = np.stack([call(batch).numpy() for _ in range(_SAMPLES.value)])
            found.append((samples.mean(0), samples.std(0)))
        return found

    return predict


def with_trainer(model: tf_keras.Model, rows: np.ndarray, size: int) -> Callable[..., Any]:
    """Returns the prediction of a new Trainer, compiled."""
    trainer, batches = (
        Trainer(model, default_callbacks=False, seed=0),
        data.from_arrays(rows, batch_size=size, shuffle=False),
    )

    def predict(**options: bool) -> object:
        return trainer.predict(batches, phase=Phase.MC_PREDICT, samples=_SAMPLES.value, **options)

    predict()
    return predict


def seconds(predict: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter()
    predict()
    return time.perf_counter() - start


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    print(
        f"TensorFlow {tf.__version__}, tf-keras {tf_keras.__version__}, {os.cpu_count()} cores, {_SAMPLES.value} "
        f"samples of {_BATCHES.value} batches, {_ROUNDS.value} rounds"
    )
    print("| model | loop | Trainer | times faster | one after the other | control | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for name in _MODELS.value:
        model, size = MODELS[name]()
        rows = rows_for(model, size * _BATCHES.value)
        loop, blocks = by_hand(model, rows, size), with_trainer(model, rows, size)
        statistics_before = model.get_weights()
        with mock.patch.object(replays.Sample, "replay", side_effect=replays.NotReplayableError("for comparison")):
            alone = with_trainer(model, rows, size)
            one_by_one = alone(keep_samples=True).samples
        difference = np.abs(blocks(keep_samples=True).samples - one_by_one).max()
        loop()
        rounds = [[seconds(each) for each in (loop, loop, alone, blocks)] for _ in range(_ROUNDS.value)]
        model.set_weights(statistics_before)
        medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
        control, slow, fast = (statistics.median(each[0] / each[column] for each in rounds) for column in (1, 2, 3))
        took = f"{medians[0] * 1e3:.0f} ms | {medians[3] * 1e3:.0f} ms"
        print(f"| {name} | {took} | {fast:.1f} | {slow:.1f} | {control:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    app.run(main)
