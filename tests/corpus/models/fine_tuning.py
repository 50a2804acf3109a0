"""Frozen bases, by each of the ways in which people freeze one."""

from __future__ import annotations

from typing import Any

import tf_keras
from tf_keras import layers

from tests.corpus.healthy import healthy, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model
from tests.corpus.subject import Subject
from trainloop import Phase, pin


class FineTuned(tf_keras.Model):
    """A base and a head; the base is always called with `training=False`."""

    def __init__(self, base: Any):
        super().__init__()
        self.base, self.drop, self.head = base, layers.Dropout(0.5), layers.Dense(2)

    def call(self, x, training=None):
        return self.head(self.drop(self.base(x, training=False), training=training))


class Follows(FineTuned):
    """The same, but the base is told what the model is told."""

    def call(self, x, training=None):
        return self.head(self.drop(self.base(x, training=training), training=training))


def frozen_base() -> Any:
    base = functional_model()
    base.trainable = False
    return base


def tuned(model: Any) -> Subject:
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@healthy("a base pinned in EVAL, called with training=False", "fine-tuning")
def pinned() -> Subject:
    model = FineTuned(frozen_base())
    pin(model.base, Phase.EVAL)
    return tuned(model)


@healthy("a base pinned in EVAL, baked with training=False", "fine-tuning")
def pinned_and_baked() -> Subject:
    base, inputs = frozen_base(), layers.Input([WIDTH])
    model = tf_keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(base(inputs, training=False))))
    pin(base, Phase.EVAL)
    return tuned(model)


@healthy("a base pinned by a pattern", "fine-tuning")
def pinned_by_pattern() -> Subject:
    model = FineTuned(frozen_base())
    pin(model, Phase.EVAL, match="base")
    return tuned(model)


@healthy("a frozen base whose dropout stays on", "fine-tuning")
def frozen() -> Subject:
    """What `trainable = False` does and does not do: batch norm is at rest, dropout is not. A lint, no violation."""
    base, inputs = frozen_base(), layers.Input([WIDTH])
    return tuned(tf_keras.Model(inputs, layers.Dense(2)(base(inputs))))


@healthy("a frozen batch norm in a model that trains", "fine-tuning")
def frozen_norm() -> Subject:
    model = functional_model()
    model.get_layer("norm").trainable = False
    return tuned(model)


@healthy("an application with a new head", "fine-tuning", fits=False, is_large=True)
def application_with_head() -> Subject:
    base = tf_keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    base.trainable = False
    model = Follows(base)
    return Subject(model, (rows(4, 32, 32, 3),), draws=DROPS)
