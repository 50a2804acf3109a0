"""Functional and Sequential models: nested, shared, of many inputs and outputs, loaded back, built late."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.subject import Subject

ROWS, WIDTH = 16, 6
DROPS = frozenset({"dropout"})


def sequential_layers() -> list[Any]:
    """Returns the layers of a small model with batch norm and dropout."""
    return [layers.Dense(8), layers.BatchNormalization(name="norm"), layers.Dropout(0.5, name="drop"), layers.Dense(3)]


def functional_model() -> Any:
    """Returns the same as a functional model."""
    inputs = outputs = layers.Input([WIDTH])
    for layer in sequential_layers():
        outputs = layer(outputs)
    return tf_keras.Model(inputs, outputs)


def subject_of(model: Any, *inputs: Any) -> Subject:
    """Returns a subject with dropout, called with rows of the usual width."""
    return Subject(model, inputs or (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("functional", "container")
def functional() -> Subject:
    return subject_of(functional_model())


@healthy("Sequential", "container")
def sequential() -> Subject:
    return subject_of(tf_keras.Sequential([layers.Input([WIDTH]), *sequential_layers()]))


@healthy("Sequential, built late", "container")
def sequential_built_late() -> Subject:
    return subject_of(tf_keras.Sequential(sequential_layers()))


@healthy("nested three deep", "container")
def nested() -> Subject:
    innermost = tf_keras.Sequential([layers.Input([WIDTH]), *sequential_layers()], name="innermost")
    middle_inputs = layers.Input([WIDTH])
    middle = tf_keras.Model(middle_inputs, innermost(middle_inputs), name="middle")
    inputs = layers.Input([WIDTH])
    return subject_of(tf_keras.Model(inputs, middle(inputs)))


@healthy("layers shared by two branches", "container")
def shared() -> Subject:
    left, right = layers.Input([WIDTH]), layers.Input([WIDTH])
    tower = functional_model()
    model = tf_keras.Model([left, right], layers.subtract([tower(left), tower(right)]))
    return subject_of(model, (rows(ROWS, WIDTH), 2.0 * rows(ROWS, WIDTH)))


@healthy("several inputs and outputs, in dicts", "container")
def many() -> Subject:
    inputs = {"a": layers.Input([WIDTH], name="a"), "b": layers.Input([WIDTH], name="b")}
    joined = layers.concatenate(list(inputs.values()))
    hidden = layers.Dropout(0.5)(layers.BatchNormalization()(joined))
    model = tf_keras.Model(inputs, {"one": layers.Dense(2)(hidden), "other": layers.Dense(3)(hidden)})
    return subject_of(model, {"a": rows(ROWS, WIDTH), "b": rows(ROWS, WIDTH)})


@healthy("skip connections", "container")
def skips() -> Subject:
    inputs = hidden = layers.Input([6, 6, 2])
    for _ in range(2):
        branch = layers.Conv2D(2, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(hidden)))
        hidden = layers.add([hidden, layers.SpatialDropout2D(0.5)(branch)])
    return subject_of(tf_keras.Model(inputs, hidden), rows(ROWS, 6, 6, 2))


@healthy("TimeDistributed model", "container")
def time_distributed() -> Subject:
    model = tf_keras.Sequential([layers.Input([4, WIDTH]), layers.TimeDistributed(functional_model())])
    return subject_of(model, rows(ROWS, 4, WIDTH))


@healthy("Lambda layers around layers", "container")
def lambdas() -> Subject:
    model = tf_keras.Sequential([*sequential_layers(), layers.Lambda(lambda x: 2.0 * x), layers.Activation("relu")])
    return subject_of(model)


@healthy("cloned", "container")
def cloned() -> Subject:
    return subject_of(tf_keras.models.clone_model(functional_model()))


@healthy("loaded from .keras", "container")
def loaded_from_keras() -> Subject:
    return subject_of(saved_and_loaded(functional_model(), ".keras"))


@healthy("loaded from a SavedModel", "container")
def loaded_from_saved_model() -> Subject:
    return subject_of(saved_and_loaded(functional_model(), ""))


@healthy("a custom step over two models", "container", plain=False)
def two_models() -> Subject:
    encoder, decoder = functional_model(), tf_keras.Sequential(sequential_layers())
    return Subject(lambda x: decoder(encoder(x)), (rows(ROWS, WIDTH),), models=(encoder, decoder), draws=DROPS)


def saved_and_loaded(model: Any, suffix: str, load: Callable[..., Any] = tf_keras.models.load_model) -> Any:
    """Returns a model saved as a file of that suffix (none: a SavedModel) and loaded back."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # .h5 is called legacy
        path = f"{folder}/model{suffix}"
        model.save(path, **({} if suffix else {"save_format": "tf"}))
        return load(path)
