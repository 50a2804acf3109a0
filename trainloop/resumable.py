"""A run's state on its way to the disk and back."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import tf_keras
from absl import logging

from trainloop import arguments, batch_norm, keras_hooks
from trainloop.callback import Callback
from trainloop.callbacks import WeightAveraging
from trainloop.checkpoint import Checkpoints, Restored
from trainloop.default_callbacks import with_defaults
from trainloop.evaluator import Evaluator
from trainloop.state import HostState, State
from trainloop.steps import GatheringLoop, SummingLoop
from trainloop.workdir import Workdir


class Resumable(Evaluator):
    """What a `Trainer` knows of its run: the seed, the workdir, the callbacks, and the state that is saved."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        *,
        seed: int | None,
        workdir: str | os.PathLike[str] | None,
        callbacks: Sequence[Callback | tf_keras.callbacks.Callback],
        default_callbacks: bool,
        **options: Any,
    ):
        super().__init__(model, optimizer, **options)
        self.seed = arguments.check_seed(seed)
        self.workdir = None if workdir is None else Workdir(workdir)
        if self.workdir is not None:
            self.workdir.check()
        self.checkpoints = None if self.workdir is None else Checkpoints(self.workdir.checkpoints)
        self.callbacks = with_defaults(
            arguments.check_callbacks(callbacks), defaults=default_callbacks, has_workdir=workdir is not None
        )
        self.fitting = False
        self.state = State(self.model, self.optimizer, HostState(self._host_state, self._set_host_state))
        self._restored: Restored | None = None
        self._log_size: int | None = None
        self._data_shape: list[int] | None = None
        self._summed: list[str] | None = None
        self._newest_seen = 0 if self.checkpoints is None else max(self.checkpoints.steps(), default=0)

    def restore_or_initialize(self) -> int:
        """Continues the run of the workdir from its newest checkpoint, or starts one where there is none.

        Returns:
          The step at which the run stands.
        """
        if self.checkpoints is None or not self.checkpoints.steps():
            return self.step
        return self.restore("latest")

    def restore(self, which: Literal["latest", "best"] | int = "latest") -> int:
        """Puts the state of a checkpoint back: weights, optimizers, metrics, callbacks, the position in the data.

        Args:
          which: `"latest"`, `"best"` (by the metric that `Checkpointing` monitors), or a step.

        Returns:
          The checkpoint's step.

        Raises:
          ValueError: If the Trainer has no workdir, or the checkpoint does not hold what it needs.
          FileNotFoundError: If there is no such checkpoint.
          RuntimeError: If called while `fit` is running.
        """
        if self.checkpoints is None:
            raise ValueError("restore: workdir=None, so there are no checkpoints; give the Trainer a workdir=")
        if self.fitting:
            raise RuntimeError("restore was called while fit is running; call it before fit")
        return self._restore(self.checkpoints.find(which), self.checkpoints)

    def _restore(self, step: int, checkpoints: Checkpoints) -> int:
        with self.strategy.scope():
            built = all(map(keras_hooks.is_built, self.models.values()))
            if built:
                self._build_variables()
            whole = ("model", "optimizer") if built and self.optimizers else ("model",) if built else ()
            self.state.track_iterator(None)  # which data the saved position is in will be known when they are opened
            self._restored = checkpoints.restore(self.state.checkpoint, step, whole)
        return step

    def _after_trace(self, loop: SummingLoop | GatheringLoop) -> None:
        super()._after_trace(loop)
        built = all(map(keras_hooks.is_built, self.models.values()))
        if built:
            self._build_averages()
        if self._restored is not None:
            self._restored.check(("model",) if built else ())

    def _build_variables(self) -> None:
        self._build_optimizers()
        self._build_averages()

    def _build_averages(self) -> None:
        if (averaging := self._averaging()) is not None:
            trained = {key: self.models[key] for key in self.optimizers}
            averaging.build(
                [variable for model in trained.values() for variable in keras_hooks.trainable_candidates(model)],
                [each for layer in batch_norm.batch_norms(trained) for each in keras_hooks.statistics_of(layer)],
            )
            self.state.checkpoint.averages = averaging.tracked

    def _averaging(self) -> WeightAveraging | None:
        return next((callback for callback in self.callbacks if isinstance(callback, WeightAveraging)), None)

    def _host_state(self) -> dict[str, Any]:
        log = None if self.workdir is None else self.workdir.metrics
        return {
            "seed": self.seed,
            "log_size": log.stat().st_size if log is not None and log.exists() else 0,
            "data": self._data_shape,
            "scalars": self._summed,
            "callbacks": {key: callback.get_state() for key, callback in self._named_callbacks().items()},
        }

    def _set_host_state(self, state: dict[str, Any]) -> None:
        self.seed, self._log_size = state["seed"], state["log_size"]
        self._data_shape, self._summed = state["data"], state["scalars"]
        for key, callback in self._named_callbacks().items():
            if key in state["callbacks"]:
                callback.set_state(state["callbacks"][key])
            elif callback.get_state():
                logging.warning("%s was not there when the checkpoint was saved; it starts fresh", key)

    def _named_callbacks(self) -> dict[str, Callback]:
        seen: Counter[str] = Counter()
        named = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            seen[kind] += 1
            named[kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"] = callback
        return named
