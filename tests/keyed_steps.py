"""A step, as a function of its place, whose draws are keyed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import numbering, tracing


def step_of(draw: Callable[[], Any], **options: Any) -> Callable[[tf.Tensor], Any]:
    """A step, as a function of its place, in which `draw` is called."""
    keyed = {"seed": 1, "phase": "train", "replica": 0} | options

    def step(place: tf.Tensor) -> Any:
        with tracing.recorded() as trace, numbering.keyed(place=place, **keyed):
            drawn = draw()
        step.trace = trace
        return drawn

    return step


def eagerly(draw: Callable[[], Any], place: int = 0, **options: Any) -> Any:
    return tf.nest.map_structure(np.asarray, step_of(draw, **options)(tf.constant(place, tf.int64)))


def compiled(draw: Callable[[], Any], place: int = 0, **options: Any) -> Any:
    step = tf.function(step_of(draw, **options), autograph=False)
    return tf.nest.map_structure(np.asarray, step(tf.constant(place, tf.int64)))


def unkeyed(draw: Callable[[], Any]) -> list[str]:
    step = step_of(draw)
    tf.function(step, autograph=False).get_concrete_function(tf.constant(0, tf.int64))
    return step.trace.unkeyed


def all_differ(values: Any) -> bool:
    return len({np.asarray(value).tobytes() for value in values}) == len(values)
