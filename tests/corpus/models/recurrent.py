"""Recurrent layers with dropout of inputs and of states."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH
from tests.corpus.subject import Subject

TIME = 4


def recurrent(layer: Any, **options: Any) -> Subject:
    """Returns a model of one recurrent layer behind a batch norm."""
    model = tf_keras.Sequential([layers.BatchNormalization(), layer, layers.Flatten(), layers.Dense(2)])
    return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS, **options)


RATES = {"dropout": {"dropout": 0.5}, "recurrent dropout": {"recurrent_dropout": 0.5}}


def _register(layer_class: type, rate: str) -> None:
    @healthy(f"{layer_class.__name__} with {rate}", "recurrent")
    def build() -> Subject:
        return recurrent(layer_class(3, return_sequences=True, **RATES[rate]))


for _class in (layers.LSTM, layers.GRU, layers.SimpleRNN):
    for _rate in RATES:
        _register(_class, _rate)


@healthy("LSTM without dropout", "recurrent")
def without_dropout() -> Subject:
    model = tf_keras.Sequential([layers.BatchNormalization(), layers.LSTM(3)])
    return Subject(model, (rows(ROWS, TIME, WIDTH),))


@healthy("stacked cells", "recurrent")
def stacked() -> Subject:
    return recurrent(layers.RNN([layers.LSTMCell(3, dropout=0.5), layers.GRUCell(3, recurrent_dropout=0.5)]))


@healthy("Bidirectional LSTM", "recurrent")
def bidirectional() -> Subject:
    return recurrent(layers.Bidirectional(layers.LSTM(3, dropout=0.5, return_sequences=True)))


@healthy("unrolled GRU", "recurrent")
def unrolled() -> Subject:
    return recurrent(layers.GRU(3, dropout=0.5, recurrent_dropout=0.5, unroll=True))


@healthy("stateful LSTM", "recurrent")
def stateful() -> Subject:
    lstm = layers.LSTM(3, recurrent_dropout=0.5, stateful=True)
    inputs = layers.Input(batch_shape=[ROWS, TIME, WIDTH])
    model = tf_keras.Model(inputs, lstm(layers.BatchNormalization()(inputs)))
    return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS, stateful=(lstm,))


@healthy("masked LSTM", "recurrent")
def masked() -> Subject:
    embedding = layers.Embedding(7, WIDTH, mask_zero=True)
    model = tf_keras.Sequential([embedding, layers.LSTM(3, dropout=0.5), layers.Dense(2)])
    return Subject(model, (tf.constant([[1, 2, 3, 0], [4, 5, 0, 0]] * 8),), draws=DROPS)


@healthy("ConvLSTM2D", "recurrent")
def convolutional() -> Subject:
    model = tf_keras.Sequential([layers.ConvLSTM2D(2, 3, dropout=0.5, recurrent_dropout=0.5), layers.Flatten()])
    return Subject(model, (rows(ROWS, 3, 5, 5, 2),), draws=DROPS)


class Gated(layers.Layer):
    """A user's own cell, with a dropout layer in it."""

    def __init__(self, units: int, **options: Any):
        super().__init__(**options)
        self.units = self.state_size = self.output_size = units
        self.dense, self.drop = layers.Dense(units, activation="tanh"), layers.Dropout(0.5)

    def call(self, inputs, states, training=None):
        state = self.dense(tf.concat([inputs, self.drop(states[0], training=training)], axis=1))
        return state, [state]


@healthy("a cell of one's own", "recurrent")
def own_cell() -> Subject:
    return recurrent(layers.RNN(Gated(3), return_sequences=True))


class Decoder(tf_keras.Model):
    """Steps a cell by hand, in a loop over the time axis."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.norm = layers.LSTMCell(3), layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=None):
        x = self.norm(x, training=training)
        states = self.cell.get_initial_state(batch_size=ROWS, dtype=tf.float32)
        outputs = []
        for step in tf.unstack(x, axis=1):
            output, states = self.cell(step, states, training=training)
            outputs.append(self.drop(output, training=training))
        return tf.stack(outputs, axis=1)


@healthy("a cell stepped by hand", "recurrent")
def by_hand() -> Subject:
    return Subject(Decoder(), (rows(ROWS, TIME, WIDTH),), draws=DROPS)
