"""Running a model, and leaving it as it was: its variables, its layers' attributes, and Python's and NumPy's draws."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import keras_hooks
from trainloop.effects import GraphEffects
from trainloop.variables import parts_of


@contextlib.contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Puts back what tracing a model changes in Python: seeds that layers count up, losses and states that they note.

    What attributes refer to is put back, not what user code does to the lists and other objects that they refer to.
    """
    holders = [*keras_hooks.layers_of(model), *keras_hooks.call_leftovers(model)]
    holders += [model] if isinstance(model, tf.Module) and not isinstance(model, keras_hooks.Layer) else []
    kept = [(vars(holder), dict(vars(holder))) for holder in holders]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (what a layer may draw seeds from)
    try:
        yield
    finally:
        for attributes, before in kept:
            for name in attributes.keys() - before.keys():
                del attributes[name]
            attributes.update(before)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def variables_put_back(model: Any, concrete: Any, effects: GraphEffects) -> Iterator[Callable[[], None]]:
    """Puts back what calls of a function write to variables.

    Args:
      model: The model that it calls.
      concrete: A concrete function.
      effects: What it does.

    Yields:
      Puts all back but whole numbers, which are where random generators and counters stand; at the end of the block
      they are put back too.
    """
    before = [
        (part, tf.identity(part)) for variable in _written(model, concrete, effects) for part in parts_of(variable)
    ]

    def put_back(whole_numbers: bool = False) -> None:
        for variable, value in before:
            if whole_numbers or not variable.dtype.is_integer:
                variable.assign(value)

    try:
        yield put_back
    finally:
        put_back(whole_numbers=True)


def _written(model: Any, concrete: Any, effects: GraphEffects) -> list[tf.Variable]:
    held = keras_hooks.variables_of(model)
    variables = list({id(variable): variable for variable in [*concrete.variables, *held]}.values())
    found = [effect for effect in effects.effects if effect.kind != "random"]
    by_handle = {id(part.handle): variable for variable in variables for part in parts_of(variable)}
    if any(id(effect.target) not in by_handle for effect in found):  # what such an op writes is not known
        return variables
    generators = [variable for variable in variables if variable.dtype.is_integer]  # a draw moves them
    return [*generators, *(by_handle[id(effect.target)] for effect in found)]
