"""The register of healthy models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tests.corpus.subject import Subject, live_batch_norms
from trainloop import Phase


@dataclasses.dataclass(frozen=True)
class Healthy:
    """A model that is right.

    Attributes:
      name: What it is called by.
      kind: The row of the table that it counts in.
      build: Makes it anew.
      eager: Whether it must be run eagerly.
      fits: Whether a Trainer is tried on it too.
      is_large: Whether making it takes seconds, so that it is made once for all phases.
      plain: Whether Keras alone treats it right as well; not so where a phase is nested inside.
    """

    name: str
    kind: str
    build: Callable[[], Subject]
    eager: bool = False
    fits: bool = True
    plain: bool = True
    is_large: bool = False


HEALTHY: dict[str, Healthy] = {}


def healthy(name: str, kind: str, **options: bool) -> Callable[[Callable[[], Subject]], Callable[[], Subject]]:
    """Registers a function that makes a healthy subject."""

    def register(build: Callable[[], Subject]) -> Callable[[], Subject]:
        if name in HEALTHY:
            raise ValueError(f"there are two healthy models named {name!r}")
        HEALTHY[name] = Healthy(name, kind, build, **options)
        return build

    return register


def phases_of(subject: Subject) -> list[Phase]:
    """Returns the phases that apply to a subject, which must be built."""
    apply = [Phase.TRAIN, Phase.EVAL, Phase.PREDICT]
    if subject.draws & {"dropout", "noise"}:
        apply.append(Phase.MC_PREDICT)
    if live_batch_norms(subject):
        apply.append(Phase.UPDATE_BN)
    return apply


def rows(*shape: int) -> tf.Tensor:
    """Returns inputs of a shape, the same in every process."""
    return tf.constant(np.random.default_rng(len(shape)).normal(1.0, 1.0, size=shape), tf.float32)
