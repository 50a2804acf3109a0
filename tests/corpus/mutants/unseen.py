"""What no hook on layers sees: raw ops, black boxes, gradients of another mask."""

from __future__ import annotations

import tempfile
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model
from tests.corpus.mutants.hard_wired import sites_of
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.subject import Subject


class RawDropout(layers.Layer):
    def call(self, x):
        return tf.nn.dropout(x, 0.5)


class RawNoise(layers.Layer):
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


class RawInLoop(layers.Layer):
    def call(self, x):
        return tf.map_fn(lambda row: tf.nn.dropout(row, 0.5), x)


class RawInFunction(layers.Layer):
    @tf.function
    def drop(self, x):
        return tf.nn.dropout(x, 0.5)

    def call(self, x):
        return self.drop(x)


class RawByGenerator(layers.Layer):
    """Draws from a generator of its own."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.generator = tf.random.Generator.from_seed(3)

    def call(self, x):
        return x + self.generator.normal(tf.shape(x))


RAW = {
    "tf.nn.dropout": RawDropout,
    "tf.random.normal": RawNoise,
    "tf.nn.dropout in a map_fn": RawInLoop,
    "tf.nn.dropout in a tf.function": RawInFunction,
    "a tf.random.Generator": RawByGenerator,
}
for _name, _class in RAW.items():
    for _site in sites_of("dropout", hosts=("Forwarding", "Silent", "Blocks", "functional")):
        plant(
            Mutant(
                f"{_name}, always on",
                str(_site),
                lambda site=_site, made=_class: site.plant(lambda _: made(name=site.path.split("/")[-1])),
                _site.path,
                ON,
                contradicts=True,
            )
        )


@planting("tf.nn.dropout in a Lambda layer", "Sequential", "lambda", ON, contradicts=True)
def in_lambda() -> Subject:
    model = tf_keras.Sequential([layers.Dense(4), layers.Lambda(lambda x: tf.nn.dropout(x, 0.5))])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@planting("tf.nn.dropout in a step", "functional", "dropout", ON, contradicts=True)
def in_step() -> Subject:
    """No layer draws, so the op's own name has to do."""
    model = tf_keras.Sequential([layers.Dense(4)])
    return Subject(lambda x: tf.nn.dropout(model(x), 0.5), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


class BlackBox(tf_keras.Model):
    """Holds what `tf.saved_model.load` gives, and tells it always the same."""

    def __init__(self, value: bool | None):
        super().__init__()
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(functional_model(), folder)
            self.box = tf.saved_model.load(folder)
        self.value, self.dense = value, layers.Dense(2)

    def call(self, x, training=None):
        return self.dense(self.box(x, training=self.value))


for _value in (False, True):

    @planting(
        f"a SavedModel told training={_value}",
        "a black box",
        "black_box",
        ON if _value else OFF,
        contradicts=True,
    )
    def black_box(value: bool = _value) -> Subject:
        return Subject(BlackBox(value), (rows(ROWS, WIDTH),), draws=DROPS)


class Recomputes(layers.Layer):
    """Saves memory by computing the layer again in the backward pass, where it draws another mask."""

    def __init__(self, layer: Any, **options: Any):
        super().__init__(**options)
        self.layer = layer

    def call(self, x, training=None):
        return tf.recompute_grad(lambda x: self.layer(x, training=training))(x)


@planting("tf.recompute_grad around dropout", "a gradient", "drop", OFF, contradicts=False)
def recomputed() -> Subject:
    """Dropout is linear: its gradient is output over input, if both passes have one mask, and so this is zero."""
    model = tf_keras.Sequential([Recomputes(layers.Dropout(0.5), name="drop")])

    def gap(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = model(x, training=training)
        return outputs - x * tape.gradient(outputs, x)

    return Subject(gap, (rows(ROWS, WIDTH),), models=(model,))
