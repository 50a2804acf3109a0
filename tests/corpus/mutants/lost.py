"""The phase gets lost on its way and nothing contrary is said: the guard may supply it, or must object."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import tensorflow as tf
import tf_keras
from tf_keras import layers

from tests.corpus.healthy import rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model
from tests.corpus.models.regularised import AUGMENTATION, IMAGE
from tests.corpus.models.subclassed import Block, Methods, Silent
from tests.corpus.mutants.hard_wired import sites_of
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.sites import Site
from tests.corpus.subject import Subject


class Around(layers.Layer):
    """Stands around a layer."""

    def __init__(self, layer: Any, **options: Any):
        super().__init__(**options)
        self.layer = layer

    def call(self, x):
        return self.layer(x)


class ErasedByNone(Around):
    """The literal None erases what Keras hands down to what takes no `training` itself."""

    def __init__(self, layer: Any, **options: Any):
        super().__init__(Around(layer), **options)

    def call(self, x):
        return self.layer(x, training=None)


class IsTraining(Around):
    """Keras knows no such argument, so the default holds."""

    def call(self, x, is_training=False):
        return self.layer(x, training=is_training)


class Train(Around):
    def call(self, x, train=True):
        return self.layer(x, training=train)


class Deterministic(Around):
    def call(self, x, deterministic=True):
        return self.layer(x, training=not deterministic)


class InThread(Around):
    """What Keras hands down belongs to a thread."""

    def call(self, x):
        if tf.executing_eagerly():  # while the variables are made
            return self.layer(x)
        outputs = []
        graph = tf.compat.v1.get_default_graph()

        def work() -> None:
            with graph.as_default():
                outputs.append(self.layer(x))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return outputs[0]


def _lose(mutation: str, wrapper: type, exposed: Any, sites: tuple[Site, ...], contradicts: bool) -> None:
    for site in sites:

        def build(site: Site = site) -> Subject:
            return site.plant(lambda layer: wrapper(layer, name=site.path.split("/")[-1]))

        plant(Mutant(mutation, str(site), build, site.path, exposed, contradicts))


SMALL = sites_of("dropout", "noise", "batch_norm", "recurrent")
_lose("a literal training=None", ErasedByNone, OFF, SMALL, contradicts=False)
_lose("a literal training=None", ErasedByNone, ON, sites_of("augmentation"), contradicts=False)
_lose("call(x, is_training=False)", IsTraining, OFF, SMALL, contradicts=True)
_lose("call(x, train=True)", Train, ON, SMALL, contradicts=True)
_lose("call(x, deterministic=True)", Deterministic, OFF, SMALL, contradicts=True)
_lose("a worker thread", InThread, OFF, sites_of("dropout", "batch_norm"), contradicts=False)
_lose("a worker thread", InThread, ON, sites_of("augmentation"), contradicts=False)


def unsaid(model: Any) -> Any:
    """Returns a function that calls a model and has no `training` to hand on."""

    def call(*inputs: Any) -> Any:
        return model(*inputs)

    return call


class Module(tf.Module):
    """Takes `training` and does not forward it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = functional_model()

    def __call__(self, x, training=None):
        return self.model(x)


@planting("a tf.Module that does not forward", "functional", "model", OFF, contradicts=False)
def module() -> Subject:
    return Subject(Module(), (rows(ROWS, WIDTH),), draws=DROPS)


@planting("a function that does not forward", "functional", "model", OFF, contradicts=False)
def function() -> Subject:
    model = functional_model()
    return Subject(unsaid(model), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


@planting("a function that does not forward", "Silent", "silent", OFF, contradicts=False)
def silent_function() -> Subject:
    model = Silent()
    return Subject(unsaid(model), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


@planting("augmentation that is on by default", "Sequential", "random_flip", ON, contradicts=False)
def default_on() -> Subject:
    model = tf_keras.Sequential([layers.RandomFlip(), layers.Flatten(), layers.Dense(2)])
    return Subject(unsaid(model), (rows(8, *IMAGE),), models=(model,), draws=AUGMENTATION)


@planting("augmentation that is on by default", "a layer alone", "random_flip", ON, contradicts=False)
def default_on_alone() -> Subject:
    flip = layers.RandomFlip()
    return Subject(unsaid(flip), (rows(8, *IMAGE),), models=(flip,), draws=AUGMENTATION)


@planting("vae.decode(x)", "methods of a model", "decoder", OFF, contradicts=False)
def decode() -> Subject:
    model = Methods()
    return Subject(model.decode, (rows(ROWS, 3),), models=(model.decoder,), draws=DROPS)


@planting("model.call(x, training=True)", "functional", "model", OFF, contradicts=False)
def called_directly() -> Subject:
    """Goes round the context of Keras, so the value reaches no layer."""
    model = functional_model()

    def step(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return model.call(x, training=training)

    return Subject(step, (rows(ROWS, WIDTH),), (model,), DROPS)


@planting("set_learning_phase(1)", "functional", "model", ON, contradicts=False)
def learning_phase() -> Subject:
    model = functional_model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        tf_keras.backend.set_learning_phase(1)
    return Subject(unsaid(model), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


class WithHelper(tf_keras.Model):
    """A helper that is a function of its own, with a parameter nobody fills."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block(WIDTH)

    def call(self, x, training=None):
        return self.helper(x)

    def helper(self, x, training=False):
        return self.block(x, training=training)


@planting("a helper whose training= nobody fills", "Block", "block", OFF, contradicts=True)
def helper() -> Subject:
    return Subject(WithHelper(), (rows(ROWS, WIDTH),), draws=DROPS)
