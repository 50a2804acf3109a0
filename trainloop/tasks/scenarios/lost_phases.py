"""Programs in which the phase gets lost on its way to a dropout layer, or is said to get lost."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop.tasks.digits import SIZE

RATE = 0.5
IMAGES = 256
IMAGE = (SIZE, SIZE, 1)


@dataclasses.dataclass(frozen=True)
class Program:
    """A way to write a program.

    Attributes:
      title: The way, in words.
      make: Makes the model, or whatever holds the layer.
      call: The line that its author writes: called with what was made, the images, and whether it is to train.
    """

    title: str
    make: Callable[[], Any]
    call: Callable[[Any, tf.Tensor, bool], tf.Tensor] = lambda model, x, training: model(x, training=training)


def dropping() -> tf_keras.Sequential:
    """Returns a model that only drops."""
    return tf_keras.Sequential([tf_keras.Input(IMAGE), layers.Dropout(RATE, name="drop")])


def baked(training: bool) -> tf_keras.Model:
    """Returns a functional model in whose graph a value of `training` is fixed."""
    inputs = tf_keras.Input(IMAGE)
    return tf_keras.Model(inputs, layers.Dropout(RATE, name="drop")(inputs, training=training))


class Custom(tf_keras.Model):
    """What a custom model has in common here: one dropout layer."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = layers.Dropout(RATE, name="drop")


class TakesNone(Custom):
    """Takes no `training`, so says nothing to its layer."""

    def call(self, x):
        return self.drop(x)


class TakesAndForgets(Custom):
    """Takes `training` and does not forward it."""

    def call(self, x, training=None):
        return self.drop(x)


class ThreeDeep(tf_keras.Model):
    """A model in a model in a model, none of which says anything."""

    def __init__(self) -> None:
        super().__init__()
        self.outer = tf_keras.Sequential([TakesNone()])

    def call(self, x):
        return self.outer(x)


class Decoder(Custom):
    """Has a method besides `call`."""

    def call(self, x):
        return self.decode(x)

    def decode(self, x: tf.Tensor) -> tf.Tensor:
        return self.drop(x)


class HardWired(Custom):
    """Says the same in every phase."""

    def call(self, x, training=None):
        return self.drop(x, training=False)


class LiteralNone(tf_keras.Model):
    """Says None to a model that takes no `training`, which erases what Keras hands down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = TakesNone()

    def call(self, x):
        return self.inner(x, training=None)


class OtherName(Custom):
    """Keras knows `training` alone, so the default holds."""

    def call(self, x, is_training=False):
        return self.drop(x, training=is_training)


class Helped(Custom):
    """Its helper has a parameter that nobody fills."""

    def call(self, x):
        return self.helper(x)

    def helper(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.drop(x, training=training)


class PastCall(Custom):
    """Goes past the layer's `__call__`, where Keras hands the flag down."""

    def call(self, x):
        return self.drop.call(x)


class InThread(Custom):
    """Keras keeps the flag by thread."""

    def call(self, x):
        graph, outputs = tf.compat.v1.get_default_graph(), []

        def work() -> None:
            with graph.as_default():
                outputs.append(self.drop(x))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return outputs[0]


class Compiled(Custom):
    """Is traced once, in whichever phase comes first."""

    @tf.function
    def call(self, x):
        return self.drop(x)


def compiled_before(training: bool) -> Compiled:
    """Returns a model that was called before, on as many images: another shape would be traced anew."""
    model = Compiled()
    model(tf.zeros([IMAGES, *IMAGE]), training=training)
    return model


class Module(tf.Module):
    """No Keras layer, so nothing is handed down."""

    def __init__(self) -> None:
        super().__init__()
        self.model = dropping()

    def __call__(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.model(x)


# What the caller forgets, or what stands between the caller and the model.
AT_THE_CALL = (
    Program("model(x)", dropping, lambda model, x, training: model(x)),
    Program(
        "model(x) with RandomFlip in the place of Dropout",
        lambda: tf_keras.Sequential([tf_keras.Input(IMAGE), layers.RandomFlip(name="flip")]),
        lambda model, x, training: model(x),
    ),
    Program("model.call(x, training=...)", dropping, lambda model, x, training: model.call(x, training=training)),
    Program("vae.decode(x), a method", Decoder, lambda model, x, training: model.decode(x)),
    Program("a tf.Module that does not forward training", Module),
    Program("Dropout(0.5)(x, training=True) baked into the model", lambda: baked(True)),
    Program("Dropout(0.5)(x, training=False) baked into the model", lambda: baked(False)),
)

# What the author of a custom `call` writes.
IN_A_CUSTOM_CALL = (
    Program("call(self, x)", TakesNone),
    Program("call(self, x, training=None), not forwarded", TakesAndForgets),
    Program("call(self, x), three models deep", ThreeDeep),
    Program("self.drop(x, training=False) hard-wired", HardWired),
    Program("self.inner(x, training=None)", LiteralNone),
    Program("call(self, x, is_training=False)", OtherName),
    Program("a helper whose training=False nobody fills", Helped),
    Program("self.drop.call(x)", PastCall),
    Program("self.drop(x) in a worker thread", InThread),
    Program("@tf.function call(self, x), first called to infer", lambda: compiled_before(False)),
    Program("@tf.function call(self, x), first called to train", lambda: compiled_before(True)),
)
