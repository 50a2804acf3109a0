"""The Trainer against `Model.fit` of tf-keras: same data, seed and order, so the same weights and the same reports."""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, optimizers, regularizers

from tests.thorough import sampled
from trainloop import Every, Trainer, data

BATCH, EPOCHS = 8, 40
ROWS = 37  # five steps an epoch, so 200 in all; the last batch of an epoch has 5 rows
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[ROWS, 4]).astype("float32")
KIND = RANDOM.integers(0, 3, size=[ROWS])
SIZE = X.sum(axis=1)
TOKENS = RANDOM.integers(0, 5, size=[ROWS, 4])
WEIGHTS = RANDOM.uniform(0.1, 2.0, size=[ROWS]).astype("float32")

OPTIMIZERS = {
    "sgd": functools.partial(optimizers.SGD, 0.02, momentum=0.9),
    "adam": functools.partial(optimizers.Adam, 0.01),
    "adamw": functools.partial(optimizers.AdamW, 0.01, weight_decay=0.05),
}
CROSSENTROPY = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def mlp() -> tf_keras.Model:
    return tf_keras.Sequential([layers.Input([4]), layers.Dense(8, activation="tanh"), layers.Dense(3)])


def regularised() -> tf_keras.Model:
    hidden = layers.Dense(8, activation="tanh", kernel_regularizer=regularizers.L2(0.02))
    return tf_keras.Sequential([layers.Input([4]), hidden, layers.Dense(3, bias_regularizer=regularizers.L1(0.01))])


def normalised() -> tf_keras.Model:
    # No bias before the normalization: its gradient is nothing but rounding, which Adam would blow up.
    hidden = [layers.Dense(8, use_bias=False), layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    return tf_keras.Sequential([layers.Input([4]), *hidden, layers.Dense(3)])


def two_headed() -> tf_keras.Model:
    x = layers.Input([4])
    hidden = layers.Dense(8, activation="tanh")(x)
    return tf_keras.Model(
        x, {"kind": layers.Dense(3, name="kind")(hidden), "size": layers.Dense(1, name="size")(hidden)}
    )


def embedded() -> tf_keras.Model:
    return tf_keras.Sequential([layers.Input([4]), layers.Embedding(5, 3), layers.Flatten(), layers.Dense(3)])


@dataclasses.dataclass
class Case:
    """What to train; `metrics` and `unweighted_metrics` make fresh objects, since each run needs its own."""

    model: Callable[[], tf_keras.Model]
    arrays: Any
    losses: dict[str, Any] = dataclasses.field(default_factory=lambda: {"loss": CROSSENTROPY})
    metrics: Callable[[], Any] = lambda: ["accuracy", tf_keras.metrics.SparseCategoricalCrossentropy(from_logits=True)]
    unweighted_metrics: Callable[[], Any] = lambda: None


TWO_LOSSES = {"loss": {"kind": CROSSENTROPY, "size": "mse"}, "loss_weights": {"kind": 0.3, "size": 2.0}}
TWO_METRICS = {"metrics": lambda: {"kind": "accuracy", "size": ["mae", tf_keras.metrics.RootMeanSquaredError()]}}
CASES = {
    "plain": Case(mlp, (X, KIND)),
    "sample weights": Case(mlp, (X, KIND, WEIGHTS), unweighted_metrics=lambda: ["sparse_categorical_accuracy"]),
    "regularisation": Case(regularised, (X, KIND)),
    "batch norm": Case(normalised, (X, KIND)),
    "embedding": Case(embedded, (TOKENS, KIND)),
    "two outputs": Case(two_headed, (X, {"kind": KIND, "size": SIZE}), TWO_LOSSES, **TWO_METRICS),
    "two outputs, sample weights": Case(
        two_headed,
        (X, {"kind": KIND, "size": SIZE}, {"kind": WEIGHTS, "size": WEIGHTS[::-1].copy()}),
        TWO_LOSSES,
        **TWO_METRICS,
    ),
}


@dataclasses.dataclass
class Outcome:
    """What is left of a run, as plain numbers; `history` has the names that `fit` uses."""

    steps: int
    weights: list[np.ndarray]
    history: dict[str, list[float]]


def start(case: Case) -> tf_keras.Model:
    tf_keras.utils.set_random_seed(1)
    return case.model()


@functools.cache
def by_fit(name: str, optimizer: str, clip: tuple[tuple[str, float], ...] = (), batch: int = BATCH) -> Outcome:
    """Trains with tf-keras."""
    case = CASES[name]
    model = start(case)
    model.compile(
        OPTIMIZERS[optimizer](**dict(clip)),
        **case.losses,
        weighted_metrics=case.metrics(),
        metrics=case.unweighted_metrics(),
    )
    dataset = tf.data.Dataset.from_tensor_slices(case.arrays).batch(batch)
    history = model.fit(dataset, epochs=EPOCHS, verbose=0, validation_data=dataset, validation_freq=20)
    return Outcome(int(model.optimizer.iterations), model.get_weights(), history.history)


@functools.cache
def by_trainer(
    name: str, optimizer: str, clip: tuple[tuple[str, float], ...] = (), batch: int = BATCH, microbatches: int = 1
) -> Outcome:
    """Trains with trainloop."""
    case = CASES[name]
    trainer = Trainer(
        start(case),
        OPTIMIZERS[optimizer](**dict(clip)),
        **case.losses,
        metrics=case.metrics(),
        unweighted_metrics=case.unweighted_metrics(),
        microbatches=microbatches,
        default_callbacks=False,
    )
    rows = data.from_arrays(case.arrays, batch_size=batch, shuffle=False)
    history = trainer.fit(rows, epochs=EPOCHS, eval_data=rows, eval_every=Every(epochs=20))
    named = {key.replace("eval/", "val_"): values for key, values in history.items()}
    return Outcome(int(trainer.optimizer.iterations), trainer.model.get_weights(), named)


def assert_same_weights(ours: list[np.ndarray], theirs: list[np.ndarray], tolerance: float) -> None:
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, rtol=0, atol=tolerance)


CLIPPING = {
    "not clipped": (),
    "global_clipnorm": (("global_clipnorm", 0.1),),
    "clipnorm": (("clipnorm", 0.05),),
    "clipvalue": (("clipvalue", 0.01),),
}


CLIPPED = [("sgd", "clipvalue"), ("adam", "global_clipnorm"), ("adamw", "clipnorm")]


@pytest.mark.parametrize(
    ("optimizer", "clip"),
    sampled(itertools.product(OPTIMIZERS, CLIPPING), [*((name, "not clipped") for name in OPTIMIZERS), *CLIPPED]),
)
def test_same_weights_with_each_optimizer_and_clipping(optimizer, clip):
    ours, theirs = (run("plain", optimizer, CLIPPING[clip]) for run in (by_trainer, by_fit))
    assert_same_weights(ours.weights, theirs.weights, 1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if name != "plain"])
def test_same_weights_with_each_kind_of_model_and_loss(name):
    assert_same_weights(by_trainer(name, "adam").weights, by_fit(name, "adam").weights, 1e-6)


@pytest.mark.parametrize(
    ("optimizer", "name"),
    sampled(
        itertools.product(["sgd", "adamw"], ["sample weights", "regularisation", "batch norm"]),
        [("sgd", "batch norm"), ("adamw", "sample weights")],
    ),
)
def test_same_weights_with_the_other_optimizers_too(optimizer, name):
    assert_same_weights(by_trainer(name, optimizer).weights, by_fit(name, optimizer).weights, 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_each_run_makes_200_updates(name):
    assert by_trainer(name, "adam").steps == by_fit(name, "adam").steps == 200


@pytest.mark.parametrize("name", CASES)
def test_every_reported_loss_and_metric_is_that_of_fit(name):
    ours, theirs = by_trainer(name, "adam").history, by_fit(name, "adam").history
    of_one_output = {"kind_loss", "size_loss", "val_kind_loss", "val_size_loss"}  # those fit alone reports
    assert set(theirs) - of_one_output <= set(ours)
    for key in set(theirs) - of_one_output:
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    "name",
    sampled([name for name in CASES if name != "batch norm"], ["regularisation", "two outputs, sample weights"]),
)
def test_microbatches_give_the_weights_of_the_whole_batch(name):
    ours = by_trainer(name, "adam", microbatches=3)
    assert_same_weights(ours.weights, by_fit(name, "adam").weights, 1e-5)


@pytest.mark.parametrize("name", ["plain", "two outputs, sample weights"])
def test_microbatches_report_what_the_whole_batch_does(name):
    ours, theirs = by_trainer(name, "adam", microbatches=3).history, by_fit(name, "adam").history
    for key in set(theirs) & set(ours):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_microbatches_are_clipped_after_they_are_added_up(optimizer):
    clip = CLIPPING["global_clipnorm"]
    ours, theirs = by_trainer("plain", optimizer, clip, microbatches=3), by_fit("plain", optimizer, clip)
    assert_same_weights(ours.weights, theirs.weights, 1e-5)


@pytest.mark.parametrize(("name", "batch", "last"), [("sample weights", 9, 1), ("regularisation", 7, 2)])
def test_a_batch_with_fewer_rows_than_microbatches_counts_as_it_is(name, batch, last):
    assert ROWS % batch == last
    ours, theirs = by_trainer(name, "adam", batch=batch, microbatches=3), by_fit(name, "adam", batch=batch)
    assert_same_weights(ours.weights, theirs.weights, 1e-5)


def test_microbatches_of_batches_whose_size_is_known_when_tracing():
    dataset = tf.data.Dataset.from_tensor_slices((X, KIND)).batch(9, drop_remainder=True)
    found = []
    for microbatches in (1, 3):
        trainer = Trainer(
            start(CASES["plain"]), "adam", loss=CROSSENTROPY, microbatches=microbatches, default_callbacks=False
        )
        trainer.fit(dataset, epochs=5)
        found.append(trainer.model.get_weights())
    assert_same_weights(*found, 1e-6)


def test_a_compiled_model_goes_on_as_fit_would():
    dataset = tf.data.Dataset.from_tensor_slices((X, KIND, WEIGHTS)).batch(BATCH)
    ours, theirs = start(CASES["plain"]), start(CASES["plain"])
    for model in (ours, theirs):
        by_row = tf_keras.metrics.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(OPTIMIZERS["adamw"](), CROSSENTROPY, metrics=["accuracy"], weighted_metrics=[by_row])
    trainer = Trainer.from_compiled(ours, default_callbacks=False)
    found, expected = trainer.fit(dataset, epochs=3), theirs.fit(dataset, epochs=3, verbose=0).history
    assert_same_weights(ours.get_weights(), theirs.get_weights(), 1e-6)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


def test_evaluate_and_predict_give_what_keras_gives():
    rows = tf.data.Dataset.from_tensor_slices((X, KIND, WEIGHTS)).batch(BATCH)
    model = start(CASES["regularisation"])
    model.compile("sgd", CROSSENTROPY, weighted_metrics=["accuracy"])
    trainer = Trainer(model, "sgd", loss=CROSSENTROPY, metrics=["accuracy"], default_callbacks=False)
    found, expected = trainer.evaluate(rows), model.evaluate(rows, return_dict=True, verbose=0)
    assert found == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(trainer.predict(rows), model.predict(rows, verbose=0), rtol=0, atol=1e-6)
