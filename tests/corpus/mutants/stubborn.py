"""Layers that do not do what they are told."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH
from tests.corpus.models.regularised import DropPath
from tests.corpus.mutants.hard_wired import sites_of
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.subject import Subject


class AlwaysDrops(layers.Dropout):
    def call(self, x, training=None):
        return tf.nn.dropout(x, 0.5)


class NeverDrops(layers.Dropout):
    def call(self, x, training=None):
        return x


class TellsDropoutTrue(layers.Dropout):
    def call(self, x, training=None):
        return super().call(x, training=True)


class TellsDropoutFalse(layers.Dropout):
    def call(self, x, training=None):
        return super().call(x, training=False)


class AlwaysMoves(layers.BatchNormalization):
    def call(self, x, training=None):
        return super().call(x, training=True)


class NeverMoves(layers.BatchNormalization):
    def call(self, x, training=None):
        return super().call(x, training=False)


class OwnNormThatMoves(layers.Layer):
    """Not Keras's batch norm, and keeps a mean that every call moves."""

    def build(self, shape):
        self.mean = self.add_weight("mean", [shape[-1]], trainable=False)

    def call(self, x, training=None):
        self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(x, axis=0))
        return x - self.mean


class AlwaysSkips(DropPath):
    def call(self, x, training=None):
        return super().call(x, training=True)


class Counts(layers.Layer):
    """Keeps count of its calls, in every phase."""

    def build(self, shape):
        self.count = self.add_weight("count", [], trainable=False)

    def call(self, x):
        self.count.assign_add(1.0)
        return x


DROPOUTS = {"always drops": (AlwaysDrops, ON), "never drops": (NeverDrops, OFF)}
DROPOUTS |= {"tells Dropout True": (TellsDropoutTrue, ON), "tells Dropout False": (TellsDropoutFalse, OFF)}
NORMS = {"always moves": (AlwaysMoves, ON), "never moves": (NeverMoves, OFF)}
HOSTS = ("Forwarding", "functional", "Silent", "Blocks")

for _name, (_class, _exposed) in DROPOUTS.items():
    for _site in sites_of("dropout", hosts=HOSTS):
        plant(
            Mutant(
                f"a Dropout that {_name}",
                str(_site),
                lambda site=_site, made=_class: site.plant(lambda _: made(0.5, name=site.path.split("/")[-1])),
                _site.path,
                _exposed,
                contradicts=True,
            )
        )
for _name, (_class, _exposed) in NORMS.items():
    for _site in sites_of("batch_norm", hosts=HOSTS):
        plant(
            Mutant(
                f"a BatchNormalization that {_name}",
                str(_site),
                lambda site=_site, made=_class: site.plant(lambda _: made(name=site.path.split("/")[-1])),
                _site.path,
                _exposed,
                contradicts=True,
            )
        )


@planting("stochastic depth that always skips", "functional", "always_skips", ON, contradicts=True)
def depth() -> Subject:
    inputs = layers.Input([WIDTH])
    model = tf_keras.Model(inputs, layers.add([inputs, AlwaysSkips(0.5)(layers.Dense(WIDTH)(inputs))]))
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@planting("a norm of one's own that always moves", "Sequential", "own_norm_that_moves", ON, contradicts=True)
def own_norm() -> Subject:
    model = tf_keras.Sequential([layers.Dense(4), OwnNormThatMoves(), layers.Dense(2)])
    return Subject(model, (rows(ROWS, WIDTH),), updating=_mean_of(model))


@planting("a counter that always counts", "Sequential", "counts", ON, contradicts=True)
def counter() -> Subject:
    model = tf_keras.Sequential([layers.Dense(4), Counts()])
    return Subject(model, (rows(ROWS, WIDTH),), updating=_mean_of(model))


def _mean_of(model: Any) -> tuple[Any, ...]:
    return tuple(layer for layer in model.layers if isinstance(layer, OwnNormThatMoves | Counts))
