"""Subclassed models and layers, with others in attributes, lists, dicts, closures, and modules that are not Keras's."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model, subject_of
from tests.corpus.subject import Subject


class Forwarding(tf_keras.Model):
    """Hands `training` on by hand, as the documentation of Keras has it."""

    def __init__(self) -> None:
        super().__init__()
        self.dense, self.norm, self.drop = layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.drop(self.norm(self.dense(x), training=training), training=training)


class Silent(Forwarding):
    """Takes no `training`; Keras hands it down all the same."""

    def call(self, x):
        return self.drop(self.norm(self.dense(x)))


class TakesAndDrops(Forwarding):
    """Takes `training` and does nothing with it; Keras hands it down all the same."""

    def call(self, x, training=None):
        return self.drop(self.norm(self.dense(x)))


class ByPosition(Forwarding):
    def call(self, x, training=None):
        return self.drop(self.norm(self.dense(x), training), training)


class DefaultsToFalse(Forwarding):
    """What Keras hands down comes before the default."""

    def call(self, x, training=False):
        return self.drop(self.norm(self.dense(x), training=training), training=training)


class DefaultsToTrue(Forwarding):
    def call(self, x, training=True):
        return self.drop(self.norm(self.dense(x), training=training), training=training)


class TakesKwargs(Forwarding):
    def call(self, x, **kwargs):
        return self.drop(self.norm(self.dense(x), **kwargs), **kwargs)


class Branching(Forwarding):
    """Does one thing in training and another elsewhere, by a Python `if`."""

    def call(self, x, training=None):
        x = self.norm(self.dense(x))
        if training:
            return self.drop(x)
        return x


class Block(layers.Layer):
    def __init__(self, width: int, **options: Any):
        super().__init__(**options)
        self.norm, self.dense, self.drop = layers.BatchNormalization(), layers.Dense(width), layers.Dropout(0.5)

    def call(self, x, training=None):
        return x + self.drop(self.dense(self.norm(x, training=training)), training=training)


class Blocks(tf_keras.Model):
    """Layers in a list, in a dict, in a tuple inside a list."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = [Block(WIDTH), Block(WIDTH)]
        self.heads = {"mean": layers.Dense(2), "drop": layers.Dropout(0.5)}
        self.pairs = [(layers.Dense(4), layers.BatchNormalization())]

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        for dense, norm in self.pairs:
            x = norm(dense(x), training=training)
        return self.heads["mean"](self.heads["drop"](x, training=training))


class Deep(tf_keras.Model):
    """Three models deep, none of which says a word about training."""

    def __init__(self, depth: int = 2):
        super().__init__()
        self.inner = Deep(depth - 1) if depth else Silent()

    def call(self, x):
        return self.inner(x)


class InClosure(tf_keras.Model):
    """Its dropout is in no attribute, so Keras does not know it as a part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = layers.BatchNormalization()
        drop = layers.Dropout(0.5)
        self.regularise = lambda x: drop(2.0 * x)

    def call(self, x):
        return self.regularise(self.norm(x))


class BuiltLate(tf_keras.Model):
    """Makes its layers when it first sees its inputs."""

    def build(self, shape):
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)
        self.dense = layers.Dense(shape[-1])
        super().build(shape)

    def call(self, x, training=None):
        return self.drop(self.norm(self.dense(x), training=training), training=training)


class ForwardingModule(tf.Module):
    """Not Keras's, and does what Keras would have done."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def __call__(self, x, training=False):
        return self.drop(self.norm(x, training=training), training=training)


class AroundModule(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.module = ForwardingModule()

    def call(self, x, training=None):
        return self.module(x, training)


class Methods(tf_keras.Model):
    """Is called by its methods, never as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = functional_model(), tf_keras.Sequential([Block(3)])

    def encode(self, x):
        return self.encoder(x)

    def decode(self, z):
        return self.decoder(z)


class MapsRows(tf_keras.Model):
    """Calls a layer in a loop of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.norm(x, training=training)
        return tf.map_fn(lambda row: self.drop(row, training=training), x)


class CompiledInside(tf_keras.Model):
    """A tf.function of its own that takes `training`, and so is traced once for each value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    @tf.function
    def transform(self, x, training):
        return self.drop(self.norm(x, training=training), training=training)

    def call(self, x, training=None):
        return self.transform(x, training)


class InvokesCall(tf_keras.Model):
    """Invokes the `call` of a model inside its own, where what Keras hands down still holds."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = functional_model()

    def call(self, x, training=None):
        return self.inner.call(x, training=training)


class Conditional(tf_keras.Model):
    """Calls layers in a branch that the running graph chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.norm(x, training=training)
        return tf.cond(tf.reduce_sum(x) > -1e9, lambda: self.drop(x, training=training), lambda: x)


CLASSES = (
    Forwarding,
    Silent,
    TakesAndDrops,
    ByPosition,
    DefaultsToFalse,
    DefaultsToTrue,
    TakesKwargs,
    Branching,
    Blocks,
    Deep,
    InClosure,
    BuiltLate,
    AroundModule,
    InvokesCall,
    MapsRows,
    CompiledInside,
    Conditional,
)


def _register(model_class: type) -> None:
    @healthy(model_class.__name__, "subclassed")
    def build() -> Subject:
        return subject_of(model_class())


for _class in CLASSES:
    _register(_class)


@healthy("methods of a model", "subclassed", plain=False)
def methods() -> Subject:
    model = Methods()
    return Subject(lambda x: model.decode(model.encode(x)), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


@healthy("a bound method", "subclassed", plain=False)
def bound_method() -> Subject:
    model = Methods()
    return Subject(model.encode, (rows(ROWS, WIDTH),), models=(model.encoder,), draws=DROPS)


@healthy("a tf.Module that forwards", "subclassed")
def module() -> Subject:
    return subject_of(ForwardingModule())
