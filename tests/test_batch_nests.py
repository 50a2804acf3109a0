"""Batches of every nest, length and shape through fit, evaluate and predict, against the same sums in NumPy."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.thorough import sampled
from trainloop import Phase, StepResult, Trainer, data

ROWS = 11
X = np.random.default_rng(0).normal(size=[ROWS, 3]).astype("float32")
Y = np.random.default_rng(1).normal(size=[ROWS, 1]).astype("float32")
W = np.arange(1.0, ROWS + 1, dtype="float32")
TOKENS = [list(range(1, 2 + row % 5)) for row in range(ROWS)]  # rows of one to five tokens


def linear() -> tf_keras.Model:
    return tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,), kernel_initializer="ones")])


class Reconstructs(Trainer):
    """Has no use for targets: the batch is x."""

    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        [x] = batch if isinstance(batch, tuple) else [batch]
        outputs = phase.call(self.model, x)
        return tf.reduce_mean((tf.reduce_sum(x, 1, keepdims=True) + 1.0 - outputs) ** 2), outputs


class TakesDicts(Trainer):
    """Finds what it needs in a dict by name."""

    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        outputs = phase.call(self.model, batch["inputs"]["x"])
        return StepResult(tf.reduce_mean((batch["label"] - outputs) ** 2), outputs, targets=batch["label"])

    def predict_step(self, batch: Any, phase: Phase) -> Any:
        return {"prediction": phase.call(self.model, batch["inputs"]["x"]), "id": batch["id"]}


class CountsTokens(Trainer):
    """The mean length of the rows of a ragged batch, by a weight that is trained."""

    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        lengths = phase.call(self.model, batch)
        return tf.reduce_mean(lengths), lengths

    def predict_step(self, batch: Any, phase: Phase) -> Any:
        return phase.call(self.model, batch)


class Scale(tf_keras.layers.Layer):
    """Multiplies the lengths of rows by a weight, which is one."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight("scale", [], initializer="ones")

    def call(self, tokens: Any) -> tf.Tensor:
        return self.scale * tf.cast(tokens.row_lengths(), tf.float32)


def squares(*, weighted: bool = False) -> float:
    errors = (X.sum(1, keepdims=True) - Y)[:, 0] ** 2
    return float(np.mean(errors * W if weighted else errors))


LINEAR = X.sum(1, keepdims=True)
# What the batches are made of; the Trainer; the expected loss and outputs of a model that is as it was made.
NESTS: dict[str, tuple[Any, Callable[[], Trainer], float, Any]] = {
    "x": (X, lambda: Reconstructs(linear(), "sgd"), 1.0, LINEAR),
    "(x,)": ((X,), lambda: Reconstructs(linear(), "sgd"), 1.0, LINEAR),
    "(x, y)": ((X, Y), lambda: Trainer(linear(), "sgd", loss="mse", metrics=["mse"]), squares(), LINEAR),
    "(x, y, w)": (
        (X, Y, W),
        lambda: Trainer(linear(), "sgd", loss="mse", unweighted_metrics=["mse"]),
        squares(weighted=True),
        LINEAR,
    ),
    "a dict": (
        {"inputs": {"x": X}, "label": Y, "id": np.arange(ROWS)},
        lambda: TakesDicts(linear(), "sgd", metrics=["mse"]),
        squares(),
        {"prediction": LINEAR, "id": np.arange(ROWS)},
    ),
    "a dict for a model with names": (
        ({"left": X, "right": X}, {"sum": Y}),
        lambda: Trainer(named(), "sgd", loss={"sum": "mse"}, metrics={"sum": "mse"}),
        squares(),
        {"sum": LINEAR},
    ),
}


def named() -> tf_keras.Model:
    """Takes half of each of two inputs."""
    inputs = {name: tf_keras.Input([3], name=name) for name in ("left", "right")}
    half = tf_keras.layers.Dense(1, kernel_initializer=tf_keras.initializers.Constant(0.5), name="half")
    return tf_keras.Model(
        inputs, {"sum": tf_keras.layers.Add(name="sum")([half(inputs["left"]), half(inputs["right"])])}
    )


def as_arrays(nest: Any) -> Any:
    return data.from_arrays(nest, batch_size=4)


def as_dataset(nest: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(nest).batch(4)


def as_dataset_of_unknown_length(nest: Any) -> tf.data.Dataset:
    return as_dataset(nest).filter(lambda *batch: True)


def as_dataset_of_known_shapes(nest: Any) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(nest).batch(ROWS, drop_remainder=True)


SOURCES = [as_arrays, as_dataset, as_dataset_of_unknown_length, as_dataset_of_known_shapes]


@pytest.mark.parametrize(
    ("name", "source"),
    sampled(
        itertools.product(NESTS, SOURCES),
        [(name, SOURCES[(number + turn) % 4]) for number, name in enumerate(NESTS) for turn in (0, 1)],
    ),
)
def test_a_nest_of_batches_trains_evaluates_and_predicts(name: str, source: Callable[[Any], Any]) -> None:
    nest, make, loss, outputs = NESTS[name]
    trainer, batches = make(), source(nest)
    evaluated = trainer.evaluate(batches)
    assert evaluated["loss"] == pytest.approx(loss, rel=1e-5)
    metrics = [value for key, value in evaluated.items() if key != "loss"]  # an unweighted one does not see the weights
    assert metrics == [pytest.approx(squares(), rel=1e-5)] * len(metrics)
    predicted = trainer.predict(batches)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), predicted, outputs)

    trainer.fit(batches, epochs=2)
    per_epoch = 1 if source is as_dataset_of_known_shapes else 3
    assert (trainer.step, trainer.epoch) == (2 * per_epoch, 2)
    assert trainer.evaluate(batches)["loss"] < loss


def test_a_ragged_batch_is_a_batch() -> None:
    batches = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(TOKENS)).batch(4)
    trainer = CountsTokens(Scale(), "sgd")
    lengths = [len(tokens) for tokens in TOKENS]
    assert trainer.evaluate(batches)["loss"] == pytest.approx(np.mean(lengths))
    assert trainer.predict(batches).tolist() == lengths
    trainer.fit(batches, epochs=2)
    assert trainer.step == 6


class Doubles(Trainer):
    """Predicts rows as ragged, or as padded, as they come in."""

    def predict_step(self, batch: Any, phase: Phase) -> Any:
        return batch * 2


@pytest.mark.parametrize("batch_size", [1, 4, 20])
def test_ragged_outputs_come_back_as_a_list_of_rows(batch_size: int) -> None:
    batches = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(TOKENS)).batch(batch_size)
    predicted = Doubles(Scale()).predict(batches)
    assert [row.tolist() for row in predicted] == [[2 * token for token in row] for row in TOKENS]


def padded() -> tf.data.Dataset:
    """Batches of four sentences, each padded to the longest of its own batch."""
    sentences = tf.data.Dataset.from_generator(lambda: iter(TOKENS), output_signature=tf.TensorSpec([None], tf.int32))
    return sentences.padded_batch(4)


def test_batches_of_varying_length_are_predicted_row_by_row() -> None:
    predicted = Doubles(Scale()).predict(padded())
    longest = [max(len(row) for row in TOKENS[start : start + 4]) for start in range(0, ROWS, 4)]
    expected = [
        [2 * token for token in row] + [0] * (longest[index // 4] - len(row)) for index, row in enumerate(TOKENS)
    ]
    assert [row.tolist() for row in predicted] == expected


class LanguageModel(Trainer):
    """Predicts each token from its embedding, and counts by tokens."""

    def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
        real = tf.cast(batch > 0, tf.float32)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(batch, phase.call(self.model, batch))
        tokens = tf.reduce_sum(real)
        return StepResult(tf.reduce_sum(losses * real) / tokens, weight=tokens, scalars={"tokens": tokens})


def test_a_loss_over_tokens_is_the_mean_over_all_tokens() -> None:
    model = tf_keras.Sequential([tf_keras.layers.Embedding(6, 6)])
    trainer = LanguageModel(model, "sgd")
    evaluated = trainer.evaluate(padded())
    tokens = np.concatenate(TOKENS)
    logits = model(tokens).numpy()
    expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(tokens)), tokens]
    assert evaluated["loss"] == pytest.approx(expected.mean(), rel=1e-5)
    trainer.fit(padded(), epochs=3)
    assert (trainer.step, trainer.epoch) == (9, 3)
    assert trainer.evaluate(padded())["loss"] < evaluated["loss"]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8])
def test_examples_are_counted_whatever_the_last_batch_holds(rows: int) -> None:
    class CountsRows(Trainer):
        def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
            rows = tf.cast(tf.shape(batch)[0], tf.float32)
            return StepResult(tf.reduce_mean(phase.call(self.model, batch)) * 0.0 + rows)

    trainer = CountsRows(linear(), "sgd", default_callbacks=False)
    history = trainer.fit(data.from_arrays(X[:rows], batch_size=4), epochs=2)
    sizes = [4] * (rows // 4) + [rows % 4] * (rows % 4 > 0)
    assert trainer.step == 2 * len(sizes)
    assert history["loss"] == [pytest.approx(sum(size**2 for size in sizes) / rows)] * 2
