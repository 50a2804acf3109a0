"""What was traced, drawn or decided in another phase, or before a flag was changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tests.corpus.healthy import rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model
from tests.corpus.mutants.hard_wired import sites_of
from tests.corpus.mutants.lost import Around, unsaid
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.sites import Site
from tests.corpus.subject import Subject
from trainloop import Phase


class Compiled(Around):
    """A tf.function without `training`: whoever traces it first decides for all."""

    @tf.function
    def call(self, x):
        return self.layer(x)


class CompiledHelper(Around):
    """The same in a method that `call` uses."""

    @tf.function
    def transform(self, x):
        return self.layer(x)

    def call(self, x):
        return self.transform(x)


def by_keras(model: Any, x: tf.Tensor, training: bool) -> None:
    model(x, training=training)


def by_phase(model: Any, x: tf.Tensor, training: bool) -> None:
    (Phase.TRAIN if training else Phase.EVAL).call(model, x)


def _go_stale(mutation: str, wrapper: type, first: Callable[..., None], training: bool, site: Site) -> None:
    def build() -> Subject:
        subject = site.plant(lambda layer: wrapper(layer, name=site.path.split("/")[-1]))
        first(subject.entry, *subject.inputs, training)
        return subject

    # A replica traces it anew, and then all is well.
    plant(Mutant(mutation, str(site), build, site.path, ON if training else OFF, contradicts=False))


for _site in sites_of("dropout", "batch_norm", hosts=("Forwarding", "Silent")):
    for _training, _was in ((True, "training"), (False, "inference")):
        _go_stale(f"@tf.function on a call, traced in {_was}", Compiled, by_keras, _training, _site)
        _go_stale(f"@tf.function in a call, traced in {_was}", CompiledHelper, by_keras, _training, _site)
        _go_stale(f"@tf.function on a call, traced by a phase of {_was}", Compiled, by_phase, _training, _site)

# A functional model traces it while it is built, when nothing is said.
for _site in sites_of("dropout", "batch_norm", hosts=("functional",)):
    _go_stale("@tf.function on a call, traced in inference", Compiled, by_keras, False, _site)


@planting("a step traced in inference", "functional", "call", OFF, contradicts=True)
def traced_step() -> Subject:
    model = functional_model()
    compiled = tf.function(unsaid(model))
    compiled(rows(ROWS, WIDTH))
    return Subject(unsaid(compiled), (rows(ROWS, WIDTH),), models=(model,), draws=DROPS)


@planting("batch norm frozen after the trace", "functional", "norm", OFF, contradicts=True)
def frozen_after() -> Subject:
    """The compiled call still moves the statistics of what is frozen by now."""
    model = functional_model()
    model.get_layer("drop").rate = 0.0
    compiled = tf.function(lambda x, training: model(x, training=training))
    compiled(rows(ROWS, WIDTH), True)
    model.get_layer("norm").trainable = False

    def step(x: tf.Tensor, training: bool = True) -> tf.Tensor:
        return compiled(x, training)

    return Subject(step, (rows(ROWS, WIDTH),), models=(model,))


class DrawnOutside(Around):
    """Draws its mask outside of the graph, once, and uses it for ever."""

    def call(self, x, training=None):
        with tf.init_scope():
            mask = self.layer(tf.ones([ROWS, x.shape[-1]]), training=training)
        return x * mask


for _site in sites_of("dropout", hosts=("Forwarding", "functional")):
    plant(
        Mutant(
            "a mask drawn once, while tracing",
            str(_site),
            lambda site=_site: site.plant(lambda layer: DrawnOutside(layer, name=site.path)),
            _site.path,
            OFF,
            contradicts=True,
        )
    )
