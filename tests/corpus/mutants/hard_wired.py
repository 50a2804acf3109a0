"""A value of `training` written into the code, at any kind of layer and in any spelling."""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model
from tests.corpus.models.generative import discriminator, generator
from tests.corpus.models.recurrent import TIME
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.sites import SITES, Site
from tests.corpus.subject import Subject


class HardWired(layers.Layer):
    """Stands around a layer and tells it always the same."""

    def __init__(self, layer: Any, value: Any, **options: Any):
        super().__init__(**options)
        self.layer, self.value = layer, value

    def call(self, *inputs):
        return self.layer(*inputs, training=self.value)


class ByPosition(HardWired):
    def call(self, x):
        return self.layer(x, self.value)


class AsTensor(HardWired):
    def call(self, x):
        return self.layer(x, training=tf.constant(self.value))


class InLoop(HardWired):
    """Calls the layer row by row, in a loop of the graph."""

    def call(self, x):
        return tf.map_fn(lambda row: self.layer(row[tf.newaxis], training=self.value)[0], x)


class InBranch(HardWired):
    def call(self, x):
        chosen = tf.reduce_sum(x) > -1e9
        return tf.cond(chosen, lambda: self.layer(x, training=self.value), lambda: self.layer(x, training=self.value))


class InPartial(layers.Layer):
    """Keeps the call with its argument, and Keras does not know the layer in it."""

    def __init__(self, layer: Any, value: bool, **options: Any):
        super().__init__(**options)
        self.regularise = functools.partial(layer, training=value)

    def call(self, x):
        return self.regularise(x)


class InModel(HardWired):
    """Around the layer is a model, and the model is told."""

    def __init__(self, layer: Any, value: bool, **options: Any):
        super().__init__(tf_keras.Sequential([layer]), value, **options)


def hard_wire(mutation: str, wrapper: type, value: Any, sites: tuple[Site, ...]) -> None:
    """Plants a wrapper that says a value at each site."""
    for site in sites:

        def build(site: Site = site) -> Subject:
            return site.plant(lambda layer: wrapper(layer, value, name=site.path.split("/")[-1]))

        exposed = ON if value else OFF
        plant(Mutant(mutation, str(site), build, site.path, exposed, contradicts=True, is_large=site.is_large))


def sites_of(*kinds: str, hosts: tuple[str, ...] = ()) -> tuple[Site, ...]:
    """Returns the small sites of these kinds, in these hosts if some are given."""
    return tuple(
        site for site in SITES if site.kind in kinds and not site.is_large and site.host in (hosts or (site.host,))
    )


SUBCLASSED = sites_of("dropout", "batch_norm", hosts=("Forwarding",))
for _value in (False, True):
    hard_wire(f"training={_value} hard-wired", HardWired, _value, SITES)
    hard_wire(f"training={_value} by position", ByPosition, _value, SUBCLASSED)
    hard_wire(f"training={_value} as a tensor", AsTensor, _value, SUBCLASSED)
    hard_wire(f"training={_value} in a partial", InPartial, _value, sites_of("dropout", hosts=("Forwarding",)))
    hard_wire(f"training={_value} for a model around it", InModel, _value, SUBCLASSED)
    hard_wire(f"training={_value} in a cond", InBranch, _value, SUBCLASSED)
    hard_wire(f"training={_value} in a map_fn", InLoop, _value, sites_of("dropout", hosts=("Forwarding",)))
hard_wire("training=0 hard-wired", HardWired, 0, SUBCLASSED)
hard_wire("training=1 hard-wired", HardWired, 1, SUBCLASSED)


class Cell(layers.SimpleRNNCell):
    """A cell with dropout that does not ask."""

    def __init__(self, units: int, value: bool, **options: Any):
        super().__init__(units, **options)
        self.value = value

    def call(self, inputs, states, training=None):
        return super().call(inputs, states, training=self.value)


class InDecoder(tf_keras.Model):
    """Steps a cell by hand, with a value."""

    def __init__(self, value: bool):
        super().__init__()
        self.cell, self.value = layers.LSTMCell(3, dropout=0.5), value

    def call(self, x, training=None):
        states = self.cell.get_initial_state(batch_size=ROWS, dtype=tf.float32)
        for step in tf.unstack(x, axis=1):
            output, states = self.cell(step, states, training=self.value)
        return output


def _in_cells(value: bool) -> None:
    exposed = ON if value else OFF

    @planting(f"training={value} in an RNN cell", "a cell's call", "rnn", exposed, contradicts=True)
    def cell() -> Subject:
        model = tf_keras.Sequential([layers.RNN(Cell(3, value, dropout=0.5)), layers.Dense(2)])
        return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS)

    @planting(f"training={value} in an RNN cell", "a cell stepped by hand", "cell", exposed, contradicts=True)
    def by_hand() -> Subject:
        return Subject(InDecoder(value), (rows(ROWS, TIME, WIDTH),), draws=DROPS)


def _in_steps(value: bool) -> None:
    exposed = ON if value else OFF

    @planting(f"training={value} in a step", "the generator of a GAN", "sequential", exposed, contradicts=True)
    def one_of_two() -> Subject:
        make, judge = generator(), discriminator()
        judge.get_layer("drop").rate = 0.0

        def step(noise: tf.Tensor) -> tf.Tensor:
            return judge(make(noise, training=value))

        return Subject(step, (rows(ROWS, 4),), models=(make, judge))

    @planting(f"training={value} in a step", "a functional model", "model", exposed, contradicts=True)
    def whole() -> Subject:
        model = functional_model()
        return Subject(lambda x: model(x, training=value), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)

    @planting(f"training={value} in a Lambda layer", "Sequential", "lambda", exposed, contradicts=True)
    def in_lambda() -> Subject:
        drop = layers.Dropout(0.5)
        model = tf_keras.Sequential([layers.Dense(4), layers.Lambda(lambda x: drop(x, training=value))])
        return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)

    @planting(f"training={value} in TimeDistributed", "Sequential", "time_distributed", exposed, contradicts=True)
    def in_time() -> Subject:
        inner = HardWired(layers.Dropout(0.5), value)
        model = tf_keras.Sequential([layers.TimeDistributed(inner), layers.BatchNormalization()])
        return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS)


for _value in (False, True):
    _in_cells(_value)
    _in_steps(_value)
