"""`Phase`: what a model is being run for, as an explicit value."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterator
from typing import Any

from trainloop import first_traces, guard, keras_hooks, policy
from trainloop.policy import Policy
from trainloop.user_code import call_as_caller, seen_through
from trainloop.violations import short


class Phase(enum.Enum):
    """What a model is being run for. The value is the prefix of the phase's metrics (`eval/loss`).

    | member       | `training=` | dropout, noise | augmentation | batch norm uses   | may write        |
    |--------------|-------------|----------------|--------------|-------------------|------------------|
    | `TRAIN`      | True        | on             | on           | batch statistics  | all not frozen   |
    | `EVAL`       | False       | off            | off          | moving statistics | metrics          |
    | `PREDICT`    | False       | off            | off          | moving statistics | nothing          |
    | `MC_PREDICT` | True        | on             | off          | moving statistics | metrics          |
    | `UPDATE_BN`  | True        | off            | on           | batch statistics  | BN statistics    |

    `MC_PREDICT` is Monte-Carlo dropout, `UPDATE_BN` precise batch norm.

    References:
      Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016.
      Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021.

    Example:
      >>> import tensorflow as tf, tf_keras
      >>> from trainloop import Phase
      >>> dropout = tf_keras.layers.Dropout(0.5)
      >>> bool(tf.reduce_all(Phase.EVAL.call(dropout, tf.ones([100])) == 1.0))
      True
      >>> bool(tf.reduce_any(Phase.TRAIN.call(dropout, tf.ones([100])) == 0.0))
      True
    """

    TRAIN = "train"
    EVAL = "eval"
    PREDICT = "predict"
    MC_PREDICT = "mc_predict"
    UPDATE_BN = "update_bn"

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        served = ", ".join(f"Phase.{member.name}" for member in cls)
        test = ": a test set is evaluated in Phase.EVAL" if value in ("test", "val", "validation") else ""
        raise ValueError(f"Phase({value!r}) is none of the phases, which are {served}{test}")

    @property
    def policy(self) -> Policy:
        """The frozen row of the table above."""
        return getattr(policy, self.name)

    @property
    def training(self) -> bool:
        """The value that `training=` takes in this phase."""
        return self.policy.training

    @seen_through
    def call(self, model: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Any:
        """Calls a model in this phase.

        Works eagerly and in a `tf.function`, with and without a `Trainer`.

        Args:
          model: A model, a layer, or any callable that calls some (`vae.decode`). `training=` is passed where it is
            taken; every Keras layer called inside is given the phase where nothing else was said.
          *inputs: Positional arguments of the call.
          **kwargs: Keyword arguments of the call.

        Returns:
          What the model returns.

        Raises:
          TypeError: If `model` cannot be called, or `training=` is among the arguments.
          PhaseError: If a layer in it is told another phase: hard-wired, baked into a functional graph, handed down, or
            kept by a `tf.function` without a `training` parameter, which was traced in that other phase.
        """
        if not callable(model):
            raise TypeError(
                f"{self}.call: model={short(model)} is not callable; pass a model or a function, then its inputs"
            )
        if "training" in kwargs:
            raise TypeError(
                f"{self}.call: training={kwargs['training']!r} was given, but the phase passes training=; drop it"
            )
        with (
            guard.scope(self.value, self.policy, root=keras_hooks.model_of(model)) as scope,
            first_traces.heeded(model, self.value, self.policy, scope.trace),
        ):
            if keras_hooks.takes_training(model):
                kwargs["training"] = self.training
            return call_as_caller(model, *inputs, **kwargs)

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Opens a block in which plain calls (`model(x)`) run in this phase. The innermost scope wins.

        Warns when the block ends without a layer call.

        Raises:
          PhaseError: If a layer called in the block is told another phase.

        Example:
          >>> import tensorflow as tf, tf_keras
          >>> from trainloop import Phase
          >>> dropout = tf_keras.layers.Dropout(0.5)
          >>> with Phase.TRAIN.scope():
          ...     noisy = dropout(tf.ones([100]))
          >>> bool(tf.reduce_any(noisy == 0.0))
          True
        """
        with guard.scope(self.value, self.policy, must_see_a_layer=True):
            yield


def check_phase(phase: Any, allowed: tuple[Phase, ...] = tuple(Phase), argument: str = "phase") -> Phase:
    """Returns `phase` if it is one of `allowed`; anything else is an error that says what to write.

    Raises:
      TypeError: If `phase` is not a `Phase` (a string, a bool, ...).
      ValueError: If it is a `Phase` that does not serve here.
    """
    choices = " or ".join(str(member) for member in allowed)
    if not isinstance(phase, Phase):
        near = [str(member) for member in allowed if isinstance(phase, str) and phase.lower() == member.value]
        hint = f"; did you mean {near[0]}?" if near and len(allowed) > 1 else ""
        raise TypeError(f"{argument}={phase!r} is not a Phase; it must be {choices}{hint}")
    if phase not in allowed:
        raise ValueError(f"{argument}={phase} does not serve here; it must be {choices}")
    return phase
