"""Attention layers with dropout, and a small transformer."""

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH
from tests.corpus.subject import Subject

TIME = 4


def attending(layer_class: type) -> Subject:
    """Returns a functional model in which a sequence attends to itself."""
    inputs = layers.Input([TIME, WIDTH])
    normed = layers.BatchNormalization()(inputs)
    model = tf_keras.Model(inputs, layer_class(dropout=0.5)([normed, normed]))
    return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS)


@healthy("Attention", "attention")
def luong() -> Subject:
    return attending(layers.Attention)


@healthy("AdditiveAttention", "attention")
def bahdanau() -> Subject:
    return attending(layers.AdditiveAttention)


class Encoder(layers.Layer):
    """One block of a transformer."""

    def __init__(self, rate: float = 0.5):
        super().__init__()
        self.attend = layers.MultiHeadAttention(2, 3, dropout=rate)
        self.widen, self.narrow = layers.Dense(8, activation="relu"), layers.Dense(WIDTH)
        self.drop_attention, self.drop_dense = layers.Dropout(rate), layers.Dropout(rate)
        self.norm_attention, self.norm_dense = layers.LayerNormalization(), layers.LayerNormalization()

    def call(self, x, training=None):
        attended = self.attend(x, x, training=training)
        x = self.norm_attention(x + self.drop_attention(attended, training=training))
        return self.norm_dense(x + self.drop_dense(self.narrow(self.widen(x)), training=training))


class Transformer(tf_keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = layers.Embedding(7, WIDTH)
        self.encoders = [Encoder(), Encoder()]
        self.head = layers.Dense(7)

    def call(self, tokens, training=None):
        x = self.embedding(tokens)
        for encoder in self.encoders:
            x = encoder(x, training=training)
        return self.head(x)


@healthy("transformer", "attention")
def transformer() -> Subject:
    return Subject(Transformer(), (tf.constant([[1, 2, 3, 4], [4, 5, 6, 1]] * 4),), draws=DROPS)


@healthy("MultiHeadAttention in a functional model", "attention")
def multi_head() -> Subject:
    inputs = layers.Input([TIME, WIDTH])
    normed = layers.BatchNormalization()(inputs)
    model = tf_keras.Model(inputs, layers.MultiHeadAttention(2, 3, dropout=0.5)(normed, normed))
    return Subject(model, (rows(ROWS, TIME, WIDTH),), draws=DROPS)


@healthy("attention without dropout", "attention")
def without_dropout() -> Subject:
    inputs = layers.Input([TIME, WIDTH])
    normed = layers.BatchNormalization()(inputs)
    model = tf_keras.Model(inputs, layers.MultiHeadAttention(2, 3)(normed, normed))
    return Subject(model, (rows(ROWS, TIME, WIDTH),))
