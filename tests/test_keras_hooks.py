"""What is asked of the private side of tf-keras."""

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import keras_hooks

layers = tf_keras.layers


@pytest.mark.parametrize(
    ("layer", "family"),
    [
        (lambda: layers.Dropout(0.5), "dropout"),
        (lambda: layers.SpatialDropout1D(0.5), "dropout"),
        (lambda: layers.SpatialDropout2D(0.5), "dropout"),
        (lambda: layers.SpatialDropout3D(0.5), "dropout"),
        (lambda: layers.AlphaDropout(0.5), "dropout"),
        (lambda: layers.GaussianDropout(0.5), "dropout"),
        (lambda: layers.GaussianNoise(0.5), "noise"),
        (layers.BatchNormalization, "batch_norm"),
        (lambda: layers.BatchNormalization(synchronized=True), "batch_norm"),
        (layers.RandomFlip, "augmentation"),
        (lambda: layers.RandomCrop(2, 2), "augmentation"),
        (lambda: layers.RandomContrast(0.1), "augmentation"),
        (lambda: layers.LSTM(2, dropout=0.5), "dropout"),
        (lambda: layers.GRU(2, recurrent_dropout=0.5), "dropout"),
        (lambda: layers.ConvLSTM1D(2, 3, dropout=0.5), "dropout"),
        (lambda: layers.SimpleRNNCell(2, dropout=0.5), "dropout"),
        (lambda: layers.Attention(dropout=0.5), "dropout"),
        (lambda: layers.AdditiveAttention(dropout=0.5), "dropout"),
        (lambda: layers.LSTM(2), None),
        (layers.Attention, None),
        (lambda: layers.Dense(2), None),
        (layers.LayerNormalization, None),
        (lambda: layers.MultiHeadAttention(2, 2, dropout=0.5), None),  # it holds a Dropout, which is of the family
    ],
)
def test_families_of_stock_layers(layer, family):
    assert keras_hooks.family_of(layer()) == family


def test_each_random_layer_of_keras_is_augmentation():
    found = [value for name, value in vars(layers).items() if name.startswith("Random") and inspect.isclass(value)]
    assert len(found) >= 9
    assert {keras_hooks.policy.registered_family(kind) for kind in found} == {"augmentation"}


class Positional(layers.Layer):
    def call(self, inputs, training=None):
        return inputs


class KeywordOnly(layers.Layer):
    def call(self, inputs, *, training=None):
        return inputs


class ManyInputs(layers.Layer):
    def call(self, *inputs, training=None):
        return inputs[0]


class AnyKeyword(layers.Layer):
    def call(self, inputs, **options):
        return inputs


@pytest.mark.parametrize(
    ("kind", "args", "kwargs", "said"),
    [
        (Positional, (1,), {}, None),
        (Positional, (1, True), {}, True),
        (Positional, (1, None), {}, None),
        (Positional, (1,), {"training": False}, False),
        (Positional, (1,), {"training": None}, None),
        (KeywordOnly, (1,), {}, None),
        (KeywordOnly, (1,), {"training": True}, True),
        (ManyInputs, (1,), {}, None),
        (ManyInputs, (1, 2, 3), {}, None),
        (ManyInputs, (1, 2), {"training": True}, True),
        (AnyKeyword, (1,), {"training": False}, False),
    ],
)
def test_training_is_found_and_set_in_the_arguments_of_a_call(kind, args, kwargs, said):
    layer = kind()
    assert keras_hooks.said_training(layer, args, kwargs) is said
    for value in (True, False):
        new_args, new_kwargs = keras_hooks.with_training(layer, args, kwargs, value)
        assert keras_hooks.said_training(layer, new_args, new_kwargs) is value
        assert (new_args[0], len(new_args)) == (args[0], len(args))  # no input is overwritten


def test_whether_a_callable_takes_training():
    def takes(x, training):
        return x

    def takes_not(x):
        return x

    class Module(tf.Module):
        def __call__(self, x, training=False):
            return x

    assert keras_hooks.takes_training(takes)
    assert keras_hooks.takes_training(Module())
    assert keras_hooks.takes_training(functools.partial(takes, 1))
    assert keras_hooks.takes_training(layers.Dense(1))  # every layer does, in its __call__
    assert not keras_hooks.takes_training(takes_not)
    assert not keras_hooks.takes_training(int)


def test_layer_calls_are_seen_while_a_block_is_open_and_never_after():
    originals = layers.Layer.__call__, layers.Dropout.call
    seen, told = [], []

    def handler(call, layer, args, kwargs):
        seen.append(layer)
        return call(layer, *args, **kwargs)

    def direct(layer, args, kwargs):
        told.append((layer, len(args), kwargs))

    def block_that_fails():
        with keras_hooks.intercepted_layer_calls(handler, direct):
            with keras_hooks.intercepted_layer_calls(handler, direct):
                drop(tf.ones([1, 1]))
            drop.call(tf.ones([1, 1]), training=False)
            assert layers.Layer.__call__ is not originals[0]
            raise KeyError

    drop = layers.Dropout(0.5)
    with pytest.raises(KeyError):
        block_that_fails()
    drop(tf.ones([1, 1]))
    drop.call(tf.ones([1, 1]))
    assert seen == [drop]
    assert [(layer, kwargs.get("training")) for layer, _, kwargs in told] == [(drop, None), (drop, False)]
    assert (layers.Layer.__call__, layers.Dropout.call) == originals


def test_a_layer_made_while_a_block_is_open_takes_training():
    """Keras reads the signature of `call` when a layer is made."""
    with keras_hooks.intercepted_layer_calls(lambda call, layer, a, k: call(layer, *a, **k), lambda *_: None):
        drop = layers.Dropout(0.5)
    assert keras_hooks.with_training(drop, (1, None), {}, True) == ((1, True), {})
    assert not np.array_equal(drop(tf.ones([100]), training=True), tf.ones([100]))


class Unused(layers.Layer):
    """Makes its weights when it is called."""

    def build(self, input_shape):
        self.w = self.add_weight("w", [1])
        super().build(input_shape)

    def call(self, inputs):
        return inputs * self.w


class Parts(tf_keras.Model):
    """Used part by part; never called as a whole."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = list(parts)


class Module(tf.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = list(layers)
        self.w = tf.Variable(1.0)


@pytest.mark.parametrize("whole", [Parts, Module])
def test_a_model_is_built_when_all_of_its_variables_exist(whole):
    first, second = layers.Dense(1), Unused()
    model = whole(first, second)
    assert not keras_hooks.is_built(model)
    first(tf.ones([1, 2]))
    assert not keras_hooks.is_built(model)
    second(tf.ones([1, 2]))
    assert keras_hooks.is_built(model)


def test_a_sequential_model_without_an_input_shape_is_not_built():
    model = tf_keras.Sequential([layers.Dense(1)])
    assert not keras_hooks.is_built(model)
    model(tf.ones([1, 2]))
    assert keras_hooks.is_built(model)


def test_trainable_candidates_hold_frozen_weights_in_an_order_that_does_not_change():
    model = tf_keras.Sequential([layers.InputLayer([2]), layers.Dense(3), layers.BatchNormalization(), layers.Dense(1)])
    names = [variable.name for variable in keras_hooks.trainable_candidates(model)]
    assert len(names) == 6  # gamma and beta, not the statistics
    model.layers[0].trainable = False
    assert [variable.name for variable in keras_hooks.trainable_candidates(model)] == names
    shared = tf_keras.Sequential([model, model.layers[0]])
    assert len(keras_hooks.trainable_candidates(shared)) == 6
