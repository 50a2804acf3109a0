"""The same through a Trainer: two steps of training, an evaluation, a prediction, samples, a pass for batch norm."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tests.corpus.nets import fresh
from tests.corpus.subject import Subject
from trainloop import Phase, Trainer
from trainloop.layer_paths import own_name
from trainloop.violations import PhaseError, Violation

STEPS = 2


class Squares(Trainer):
    """Trains a subject to put out zeros."""

    def __init__(self, subject: Subject, **options: Any):
        names = [own_name(model) or "model" for model in subject.models]
        again = [names[:place].count(name) for place, name in enumerate(names)]
        keys = [f"{name}_{count}" if count else name for name, count in zip(names, again, strict=True)]
        models = dict(zip(keys, subject.models, strict=True))
        trained = [key for key, model in models.items() if any(model is each for each in subject.trained)]
        optimizers = {key: tf_keras.optimizers.SGD(1e-3) for key in trained}
        if len(models) == 1:
            super().__init__(models[keys[0]], optimizers[keys[0]], **options)
        else:
            super().__init__(models, optimizers, **options)
        self.entry = subject.entry

    def compute_loss(self, batch, phase):
        outputs = tf.nest.flatten(phase.call(self.entry, *batch))
        return tf.add_n([tf.reduce_mean(tf.square(tf.cast(each, tf.float32))) for each in outputs])

    def predict_step(self, batch, phase):
        return phase.call(self.entry, *batch)


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What came of running a phase in a Trainer.

    Attributes:
      violations: What was objected to; empty where the phase ran.
      changed: The names of the variables that were changed.
      warned: What was warned of on the way.
    """

    violations: tuple[Violation, ...]
    changed: frozenset[str]
    warned: tuple[str, ...]


def attempt(
    build: Callable[[], Subject], phase: Phase, strategy: tf.distribute.Strategy | None = None, is_built: bool = False
) -> Attempt:
    """Runs a subject's models in a phase, in a Trainer of its own.

    Args:
      build: Makes the subject.
      phase: The phase to run.
      strategy: The replicas, if there are to be some.
      is_built: Whether all variables are made before, so that none is missed among those that change.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject = fresh(build, strategy)

        with contextlib.nullcontext() if strategy is None else strategy.scope():
            if is_built:
                subject.entry(*subject.inputs)
        before = [(variable, variable.numpy()) for variable in _made(subject)]
        violations: tuple[Violation, ...] = ()
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            trainer = Squares(subject, default_callbacks=False, seed=0)
        try:
            run(trainer, subject, phase)
        except PhaseError as error:
            violations = error.violations
        changed = frozenset(variable.name for variable, old in before if not np.array_equal(variable.numpy(), old))
    ours = tuple(str(each.message) for each in caught if issubclass(each.category, UserWarning))
    return Attempt(violations, changed, ours)


def run(trainer: Squares, subject: Subject, phase: Phase) -> None:
    """Runs a phase over two batches."""
    batches = tf.data.Dataset.from_tensors(subject.inputs).repeat(STEPS)
    if phase is Phase.TRAIN:
        trainer.fit(batches, steps=STEPS)
    elif phase is Phase.EVAL:
        trainer.evaluate(batches)
    elif phase is Phase.PREDICT:
        trainer.predict(batches)
    elif phase is Phase.MC_PREDICT:
        trainer.predict(batches, phase=phase, samples=3)
    else:
        trainer.update_bn(batches)


def _made(subject: Subject) -> list[tf.Variable]:
    """Returns the variables that there are; Keras raises where a model has none yet."""
    try:
        return subject.variables()
    except ValueError:
        return []
