"""`Trainer.from_compiled`: a model that was compiled for `fit` trains, evaluates and resumes as it stands."""

import pathlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Trainer, data

ROWS, BATCH = 22, 8
X = np.random.default_rng(0).normal(size=[ROWS, 4]).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")
W = np.linspace(0.5, 2.0, ROWS).astype("float32")


def classifier() -> tf_keras.Model:
    return tf_keras.Sequential(
        [
            tf_keras.layers.Dense(6, "relu", input_shape=(4,), kernel_regularizer="l2"),
            tf_keras.layers.BatchNormalization(),
            tf_keras.layers.Dense(1, "sigmoid"),
        ]
    )


def two_headed() -> tf_keras.Model:
    inputs = tf_keras.Input([4])
    hidden = tf_keras.layers.Dense(6, "tanh")(inputs)
    heads = [tf_keras.layers.Dense(1, name=name)(hidden) for name in ("price", "size")]
    return tf_keras.Model(inputs, heads)


ONE_OUTPUT = {
    "strings": {"loss": "binary_crossentropy", "metrics": ["accuracy"]},
    "objects": {"loss": tf_keras.losses.BinaryCrossentropy(), "metrics": [tf_keras.metrics.AUC(name="auc")]},
    "functions": {"loss": tf_keras.losses.binary_crossentropy, "metrics": [tf_keras.metrics.mean_absolute_error]},
    "both kinds of metrics": {"loss": "mse", "metrics": ["mae"], "weighted_metrics": ["accuracy", "mse"]},
    "no metric": {"loss": "mse"},
}
TWO_OUTPUTS = {
    "one loss for all": {"loss": "mse", "metrics": ["mae"]},
    "loss_weights": {"loss": ["mse", "mae"], "loss_weights": [0.3, 2.0]},
    "dicts by name": {
        "loss": {"price": "mse", "size": "mae"},
        "loss_weights": {"price": 1.0, "size": 0.1},
        "metrics": {"price": ["mae", "mse"]},
        "weighted_metrics": {"size": "mae"},
    },
}
CASES = [
    *((classifier, (X, Y, W), compiled) for compiled in ONE_OUTPUT.values()),
    *((two_headed, (X, (Y, 3 * Y), W), compiled) for compiled in TWO_OUTPUTS.values()),
]


def pair(make: Any, compiled: dict[str, Any]) -> tuple[tf_keras.Model, tf_keras.Model]:
    """Two models with the same weights, compiled in the same way."""
    models = make(), make()
    models[1].set_weights(models[0].get_weights())
    for model in models:
        again = {key: _again(value) for key, value in compiled.items()}
        model.compile(tf_keras.optimizers.Adam(0.01), **again)
    return models


def _again(value: Any) -> Any:
    """A metric object of its own for each model: its state is in it."""
    if isinstance(value, list):
        return [_again(item) for item in value]
    return type(value).from_config(value.get_config()) if isinstance(value, tf_keras.metrics.Metric) else value


@pytest.mark.parametrize(("make", "arrays", "compiled"), CASES, ids=[*ONE_OUTPUT, *TWO_OUTPUTS])
def test_it_trains_as_fit_does(make: Any, arrays: Any, compiled: dict[str, Any]) -> None:
    """The same losses and metrics, the same weights, and the same evaluation, sample weights included."""
    by_keras, ours = pair(make, compiled)
    batches = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
    expected = by_keras.fit(batches, epochs=3, verbose=0).history
    trainer = Trainer.from_compiled(ours, default_callbacks=False)
    history = trainer.fit(batches, epochs=3)

    for mine, theirs in zip(ours.weights, by_keras.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    per_output = {"price_loss", "size_loss"}  # Keras reports these besides
    evaluated = {
        f"eval/{name}": [value] for name, value in by_keras.evaluate(batches, return_dict=True, verbose=0).items()
    }
    history.add(trainer.step, {f"eval/{name}": value for name, value in trainer.evaluate(batches).items()})
    for name, values in {**expected, **evaluated}.items():
        if name.removeprefix("eval/") not in per_output:
            assert history[name] == pytest.approx(values, rel=1e-4), name


def test_it_goes_on_where_the_compiled_model_stood() -> None:
    """The slots of its optimizer are those that `Model.fit` has filled."""
    by_keras, ours = pair(classifier, ONE_OUTPUT["strings"])
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH)
    for model in (by_keras, ours):
        model.fit(batches, epochs=2, verbose=0)
    by_keras.fit(batches, epochs=1, verbose=0)
    Trainer.from_compiled(ours, default_callbacks=False).fit(batches, epochs=1)
    for mine, theirs in zip(ours.weights, by_keras.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_it_resumes_and_needs_no_compiled_model_to_do_so(tmp_path: pathlib.Path) -> None:
    pairs = data.from_arrays((X, Y), batch_size=BATCH)
    straight, model = pair(classifier, ONE_OUTPUT["strings"])
    Trainer.from_compiled(straight, seed=1).fit(pairs, steps=9)
    Trainer.from_compiled(model, seed=1, workdir=tmp_path).fit(pairs, steps=4)

    again, _ = pair(classifier, ONE_OUTPUT["strings"])
    resumed = Trainer.from_compiled(again, workdir=tmp_path)
    assert resumed.restore_or_initialize() == 4
    resumed.fit(pairs, steps=7)
    by_hand = Trainer(classifier(), "adam", loss="bce", unweighted_metrics=["accuracy"], workdir=tmp_path)
    assert by_hand.restore_or_initialize() == 7
    by_hand.fit(pairs, steps=9)
    for mine, theirs in zip(by_hand.model.weights, straight.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_further_options_win_over_what_was_compiled() -> None:
    _, model = pair(classifier, {"loss": "mse", "metrics": ["mae"], "jit_compile": True})
    trainer = Trainer.from_compiled(model, optimizer="sgd", unweighted_metrics=["accuracy"], jit_compile=False)
    assert isinstance(trainer.optimizer, tf_keras.optimizers.SGD)
    assert trainer.jit_compile is False
    assert set(trainer.evaluate(data.from_arrays((X, Y), batch_size=BATCH))) == {"loss", "accuracy"}


@pytest.mark.parametrize(("given", "expected"), [(True, True), (False, False), (None, False)])
def test_its_jit_compile_is_taken_over(given: bool | None, expected: bool) -> None:
    _, model = pair(classifier, {"loss": "mse", "jit_compile": given})
    assert Trainer.from_compiled(model).jit_compile is expected


def test_a_subclass_takes_a_compiled_model_over_too() -> None:
    class Own(Trainer):
        pass

    assert type(Own.from_compiled(pair(classifier, {"loss": "mse"})[0])) is Own


@pytest.mark.parametrize("method", ["train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"])
def test_steps_of_its_own_are_refused_by_name(method: str) -> None:
    own = type("Own", (tf_keras.Sequential,), {method: lambda self, *args, **kwargs: None})
    model = own([tf_keras.layers.Dense(1, input_shape=(4,))])
    model.compile("sgd", "mse")
    message = (
        rf"^model='.*': Own overrides {method}, which a Trainer does not call; move that code into compute_loss or"
    )
    with pytest.raises(ValueError, match=message):
        Trainer.from_compiled(model)


def test_a_model_that_was_not_compiled_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^model='.*' was not compiled; call model.compile\(...\), or give its parts"):
        Trainer.from_compiled(classifier())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (tf.keras.Sequential(), "model=Sequential is a model of Keras 3"),
        ("model", "model='model' is a str; it must be a tf_keras model"),
        (tf_keras.layers.Dense(1), "model='dense.*' was not compiled"),
    ],
)
def test_what_is_no_compiled_model_is_refused(model: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        Trainer.from_compiled(model)
