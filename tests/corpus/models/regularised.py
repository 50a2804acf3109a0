"""Layers that drop, add noise, augment or normalise in training: each of Keras's, and the kinds people write."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH
from tests.corpus.subject import Subject
from trainloop import register_family

IMAGE = (6, 6, 2)
NOISE, AUGMENTATION = frozenset({"noise"}), frozenset({"augmentation"})


def after_norm(layer: Any, *shape: int, draws: frozenset[str] = DROPS) -> Subject:
    """Returns a functional model of one layer behind a batch norm."""
    shape = shape or (WIDTH,)
    inputs = layers.Input(shape)
    return Subject(
        tf_keras.Model(inputs, layer(layers.BatchNormalization()(inputs))), (rows(ROWS, *shape),), draws=draws
    )


@healthy("AlphaDropout", "regularised")
def alpha() -> Subject:
    return after_norm(layers.AlphaDropout(0.5))


@healthy("GaussianDropout", "regularised")
def gaussian_dropout() -> Subject:
    return after_norm(layers.GaussianDropout(0.5))


@healthy("SpatialDropout1D", "regularised")
def spatial_1d() -> Subject:
    return after_norm(layers.SpatialDropout1D(0.5), 4, WIDTH)


@healthy("SpatialDropout2D", "regularised")
def spatial_2d() -> Subject:
    return after_norm(layers.SpatialDropout2D(0.5), *IMAGE)


@healthy("SpatialDropout3D", "regularised")
def spatial_3d() -> Subject:
    return after_norm(layers.SpatialDropout3D(0.5), 3, 3, 3, 2)


@healthy("Dropout of rate 0", "regularised")
def rate_0() -> Subject:
    return after_norm(layers.Dropout(0.0), draws=frozenset())


@healthy("GaussianNoise", "regularised")
def noise() -> Subject:
    return after_norm(layers.GaussianNoise(1.0), draws=NOISE)


AUGMENTATIONS = {
    "RandomFlip": layers.RandomFlip,
    "RandomRotation": lambda: layers.RandomRotation(0.3),
    "RandomTranslation": lambda: layers.RandomTranslation(0.3, 0.3),
    "RandomZoom": lambda: layers.RandomZoom(0.5),
    "RandomContrast": lambda: layers.RandomContrast(0.5),
    "RandomBrightness": lambda: layers.RandomBrightness(0.5, value_range=(-3, 3)),
    "RandomCrop": lambda: layers.RandomCrop(4, 4),
    "RandomHeight": lambda: layers.RandomHeight(0.5),
    "RandomWidth": lambda: layers.RandomWidth(0.5),
}


def _register(name: str) -> None:
    @healthy(name, "regularised")
    def build() -> Subject:
        last = [layers.GlobalAveragePooling2D()] if name in ("RandomHeight", "RandomWidth") else []
        model = tf_keras.Sequential([AUGMENTATIONS[name](), layers.BatchNormalization(), *last])
        return Subject(model, (rows(8, *IMAGE),), draws=AUGMENTATION)


for _name in AUGMENTATIONS:
    _register(_name)


@healthy("all families in one model", "regularised")
def all_families() -> Subject:
    stack = [layers.RandomFlip(), layers.GaussianNoise(0.1), layers.Flatten(), layers.Dense(8)]
    model = tf_keras.Sequential([*stack, layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)])
    return Subject(model, (rows(ROWS, *IMAGE),), draws=DROPS | NOISE | AUGMENTATION)


class DropPath(layers.Layer):
    """Stochastic depth, row by row."""

    def __init__(self, rate: float, **options: Any):
        super().__init__(**options)
        self.rate = rate

    def call(self, x, training=None):
        if not training:
            return x
        keep = tf.floor(1.0 - self.rate + tf.random.uniform([tf.shape(x)[0]] + [1] * (x.shape.rank - 1)))
        return x / (1.0 - self.rate) * keep


register_family(DropPath, "dropout")


@healthy("stochastic depth", "regularised")
def stochastic_depth() -> Subject:
    inputs = hidden = layers.Input([WIDTH])
    for _ in range(2):
        hidden = layers.add([hidden, DropPath(0.5)(layers.Dense(WIDTH)(layers.BatchNormalization()(hidden)))])
    return Subject(tf_keras.Model(inputs, hidden), (rows(ROWS, WIDTH),), draws=DROPS)


class SpectralNorm(layers.Wrapper):
    """Spectral normalization; Keras's own asks tf.keras for a class, which is Keras 3's, and cannot be built."""

    def build(self, shape):
        super().build(shape)
        self.vector = self.add_weight("vector", [1, self.layer.units], trainable=False)

    def call(self, x, training=None):
        if training:
            left = tf.math.l2_normalize(tf.matmul(self.vector, self.layer.kernel, transpose_b=True))
            product = tf.matmul(left, self.layer.kernel)
            self.vector.assign(tf.math.l2_normalize(product))
            self.layer.kernel.assign(self.layer.kernel / tf.norm(product))
        return self.layer(x)


register_family(SpectralNorm, "update")


@healthy("spectral normalization", "regularised")
def spectral() -> Subject:
    dense = SpectralNorm(layers.Dense(8))
    model = tf_keras.Sequential([dense, layers.BatchNormalization(), layers.Dropout(0.5)])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS, updating=(dense,))


class WeightNorm(layers.Wrapper):
    """Weight normalization: the kernel's direction and length are trained apart."""

    def build(self, shape):
        super().build(shape)
        self.length = self.add_weight("length", [self.layer.units], initializer="ones")

    def call(self, x):
        kernel = tf.nn.l2_normalize(self.layer.kernel, axis=0) * self.length
        return tf.matmul(x, kernel) + self.layer.bias


@healthy("weight normalization", "regularised")
def weight_norm() -> Subject:
    model = tf_keras.Sequential([WeightNorm(layers.Dense(8)), layers.Dropout(0.5), layers.Dense(2)])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("LayerNormalization and GroupNormalization", "regularised")
def other_norms() -> Subject:
    model = tf_keras.Sequential([layers.LayerNormalization(), layers.GroupNormalization(2), layers.Dropout(0.5)])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("synchronized BatchNormalization", "regularised")
def synchronized() -> Subject:
    model = tf_keras.Sequential([layers.Dense(8), layers.BatchNormalization(synchronized=True), layers.Dropout(0.5)])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("BatchNormalization without scale", "regularised")
def without_scale() -> Subject:
    norm = layers.BatchNormalization(center=False, scale=False)
    return Subject(tf_keras.Sequential([norm, layers.Dense(2)]), (rows(ROWS, WIDTH),))


@healthy("mixed precision", "regularised", fits=False)
def mixed_precision() -> Subject:
    dense = layers.Dense(8, dtype="mixed_bfloat16")
    norm = layers.BatchNormalization(dtype="mixed_bfloat16")
    drop = layers.Dropout(0.5, dtype="mixed_bfloat16")
    model = tf_keras.Sequential([dense, norm, drop, layers.Dense(2, dtype="float32")])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("regularisation and activity losses", "regularised")
def with_losses() -> Subject:
    dense = layers.Dense(8, kernel_regularizer="l2", activity_regularizer="l1")
    model = tf_keras.Sequential([dense, layers.BatchNormalization(), layers.Dropout(0.5)])
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("recompute_grad around a model without dropout", "regularised")
def recomputed() -> Subject:
    inner = tf_keras.Sequential([layers.Dense(WIDTH, activation="tanh"), layers.LayerNormalization()])
    inner.build([None, WIDTH])

    class Recomputed(tf_keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.drop = inner, layers.Dropout(0.5)

        def call(self, x, training=None):
            return self.drop(tf.recompute_grad(lambda x: self.inner(x, training=training))(x), training=training)

    return Subject(Recomputed(), (rows(ROWS, WIDTH),), draws=DROPS)
