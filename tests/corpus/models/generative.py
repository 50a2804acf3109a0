"""Steps over several models: a GAN's two, a VAE with draws of its own, a teacher and its student."""

from __future__ import annotations

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH
from tests.corpus.subject import Subject
from trainloop import Phase


def generator() -> tf_keras.Model:
    return tf_keras.Sequential(
        [layers.Input([4]), layers.Dense(8), layers.BatchNormalization(name="norm"), layers.Dense(WIDTH)]
    )


def discriminator() -> tf_keras.Model:
    return tf_keras.Sequential(
        [layers.Input([WIDTH]), layers.Dense(8), layers.Dropout(0.5, name="drop"), layers.Dense(1)]
    )


@healthy("GAN, one step over both", "generative", plain=False)
def gan() -> Subject:
    make, judge = generator(), discriminator()

    def step(noise: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
        return judge(make(noise)) - judge(real)

    return Subject(step, (rows(ROWS, 4), rows(ROWS, WIDTH)), models=(make, judge), draws=DROPS)


@healthy("GAN, the generator in EVAL", "generative", plain=False)
def gan_with_generator_at_rest() -> Subject:
    """The discriminator's step: the generator only makes pictures, and must not move."""
    make, judge = generator(), discriminator()
    make.trainable = False

    def step(noise: tf.Tensor, real: tf.Tensor) -> tf.Tensor:
        return judge(Phase.EVAL.call(make, noise)) - judge(real)

    return Subject(step, (rows(ROWS, 4), rows(ROWS, WIDTH)), models=(make, judge), trained=(judge,), draws=DROPS)


@healthy("a teacher in PREDICT", "generative", plain=False)
def teacher() -> Subject:
    old = tf_keras.Sequential([layers.Dense(8), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)])
    new = tf_keras.Sequential([layers.Dense(4), layers.Dropout(0.5), layers.Dense(2)])
    old.trainable = False

    def step(x: tf.Tensor) -> tf.Tensor:
        return new(x) - Phase.PREDICT.call(old, x)

    return Subject(step, (rows(ROWS, WIDTH),), models=(new, old), trained=(new,), draws=DROPS)


class VAE(tf_keras.Model):
    """Samples its code by the keyed draws that are declared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = tf_keras.Sequential([layers.Dense(8), layers.BatchNormalization(), layers.Dense(4)])
        self.decoder = tf_keras.Sequential([layers.Dense(8), layers.Dropout(0.5), layers.Dense(WIDTH)])

    def call(self, x):
        from trainloop import random

        mean, scale = tf.split(self.encoder(x), 2, axis=1)
        return self.decoder(mean + tf.exp(scale) * random.normal(tf.shape(mean)))


@healthy("VAE with declared draws", "generative")
def vae() -> Subject:
    return Subject(VAE(), (rows(ROWS, WIDTH),), draws=DROPS, always_draws=True)
