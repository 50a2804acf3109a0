"""What the corpus calls in a phase, what it is seen to do there, and what the phase's row of the table says it should.

Nothing here asks the guard or the contract: a subject is judged by its outputs and its variables.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import Phase
from trainloop.layer_paths import layer_paths


@dataclasses.dataclass
class Subject:
    """Something that can be called in a phase.

    Attributes:
      entry: What is called: a model, a tf.Module, or a function that calls some.
      inputs: What it is called with.
      models: Where its variables are; `entry` by default.
      draws: The families whose random draws are to be seen in its outputs where a phase has them on.
      always_draws: Whether its outputs are random in any phase: draws that were declared.
      updating: Layers that change their own weights in training, and only there.
      stateful: Layers whose state moves in every phase; only a Trainer puts it back.
      trained: The models that an optimizer trains; all by default.
    """

    entry: Callable[..., Any]
    inputs: tuple[Any, ...]
    models: Sequence[Any] = ()
    draws: frozenset[str] = frozenset()
    always_draws: bool = False
    updating: Sequence[Any] = ()
    stateful: Sequence[Any] = ()
    trained: Sequence[Any] = ()

    def __post_init__(self) -> None:
        self.models = self.models or (self.entry,)
        self.trained = self.trained or self.models

    def variables(self) -> list[tf.Variable]:
        """Returns every variable that it may read or write, each once."""
        held = [variable for model in self.models for variable in model.variables] + self.states()
        return list({id(variable): variable for variable in held}.values())

    def states(self) -> list[tf.Variable]:
        """Returns what its stateful layers keep between calls; Keras does not count it among their variables."""
        return [state for layer in self.stateful for state in tf.nest.flatten(layer.states)]

    def layers(self) -> list[Any]:
        """Returns every layer in it, each once."""
        found = [layer for model in self.models for layer in layer_paths(model).values()]
        return list({id(layer): layer for layer in found}.values())


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What a subject does.

    Attributes:
      random: Whether its outputs differ from one call to the next.
      written: The names of the layers whose batch statistics move, and of every other variable that changes.
    """

    random: bool
    written: frozenset[str]

    def __str__(self) -> str:
        return f"{'random' if self.random else 'not random'}, writes {sorted(self.written) or 'nothing'}"


def expected(subject: Subject, phase: Phase) -> Behaviour:
    """Returns what a phase wants of a subject."""
    policy = phase.policy
    random = subject.always_draws or any(getattr(policy, family) for family in subject.draws)
    written = {layer.name for layer in live_batch_norms(subject)} if policy.batch_norm == "batch" else set()
    if phase is Phase.TRAIN:
        written |= {variable.name for layer in subject.updating for variable in _updated(layer)}
    return Behaviour(random, frozenset(written))


def observed(call: Callable[[], Any], subject: Subject) -> Behaviour:
    """Returns what a subject does when it is called twice from the same state, which is put back in the end."""
    before = _values(subject)
    one = call()
    after = _values(subject)
    _put(subject, before)
    other = call()
    _put(subject, before)
    names = _names(subject)
    states = {id(state) for state in subject.states()}
    changed = {
        name
        for variable, name, old, new in zip(subject.variables(), names, before, after, strict=True)
        if id(variable) not in states and not np.array_equal(old, new)
    }
    return Behaviour(_differ(one, other), frozenset(changed))


def plain(subject: Subject, phase: Phase) -> Behaviour:
    """Returns what a subject does with `training=` in place of a phase: what Keras alone makes of it."""
    compiled = tf.function(lambda *inputs: plain_call(subject.entry, phase, *inputs))
    concrete = compiled.get_concrete_function(*subject.inputs)
    return observed(lambda: concrete(*subject.inputs), subject)


def plain_call(entry: Callable[..., Any], phase: Phase, *inputs: Any) -> Any:
    """Calls something with `training=` where it takes that."""
    if isinstance(entry, tf_keras.layers.Layer) or "training" in inspect.signature(entry).parameters:
        return entry(*inputs, training=phase.training)
    return entry(*inputs)


def batch_norms(subject: Subject) -> list[Any]:
    """Returns the batch normalization layers of a subject."""
    return [layer for layer in subject.layers() if isinstance(layer, tf_keras.layers.BatchNormalization)]


def live_batch_norms(subject: Subject) -> list[Any]:
    """Returns those that are not frozen."""
    return [layer for layer in batch_norms(subject) if layer.trainable]


def _names(subject: Subject) -> list[str]:
    """The name of each variable; a batch norm's statistics go by the layer's."""
    statistics = {
        id(variable): layer.name for layer in batch_norms(subject) for variable in layer.non_trainable_variables
    }
    return [statistics.get(id(variable), variable.name) for variable in subject.variables()]


def _updated(layer: Any) -> list[tf.Variable]:
    """The kernel that a spectral normalization divides, and the vector it finds the norm by."""
    return [variable for variable in layer.variables if not variable.name.endswith("bias:0")]


def _values(subject: Subject) -> list[np.ndarray]:
    return [variable.numpy() for variable in subject.variables()]


def _put(subject: Subject, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(subject.variables(), values, strict=True):
        variable.assign(value)


def _differ(one: Any, other: Any) -> bool:
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return any(not np.array_equal(first, second) for first, second in pairs)
