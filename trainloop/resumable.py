"""A run's state on its way to the disk and back."""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras
from absl import logging

from trainloop import arguments, batch_norm, environment, keras_hooks
from trainloop.callback import Callback, checked_state, has_state
from trainloop.callbacks import WeightAveraging
from trainloop.checkpoint import Checkpoints
from trainloop.default_callbacks import with_defaults
from trainloop.evaluator import Evaluator, Pass
from trainloop.gathering_loop import GatheringLoop
from trainloop.layer_paths import layer_paths
from trainloop.origins import warn_user
from trainloop.restored import Restored
from trainloop.state import HostState, State, replicas_of
from trainloop.summing_loop import SummingLoop
from trainloop.transfer import was_loaded
from trainloop.variables import paths_in
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
        self._of_replicas: dict[str, list[tf.Variable]] = {}
        self._log_sizes: list[int] | None = None
        self._progress: dict[str, Any] | None = None
        self._data_shape: Any = None
        self._data_since: int | None = None
        self._summed: list[str] | None = None
        self._given_seed, self._warned_of_weights = seed, False
        self._newest_seen = 0 if self.checkpoints is None else max(self.checkpoints.steps(), default=0)

    def restore_or_initialize(self) -> int:
        """Continues the run of the workdir from its newest whole checkpoint, or starts one where nothing was saved.

        Returns:
          The step at which the run stands.

        Raises:
          ValueError: If the checkpoint does not hold what the Trainer needs.
          CheckpointDamaged: If there are checkpoints, and none of them is what was written.
        """
        if self.checkpoints is None or not self.checkpoints.is_begun():
            return self.step
        return self.restore("latest")

    def restore(self, which: Literal["latest", "best"] | int = "latest") -> int:
        """Puts the state of a checkpoint back: weights, optimizers, metrics, callbacks, the position in the data.

        Every byte is verified before anything changes. Where the program or the machine is another than the one that
        saved, so that a resumed run may differ in some bits, that is logged.

        Args:
          which: `"latest"` (the newest that is whole: damaged ones are passed over, and renamed), `"best"` (by the
            metric that `Checkpointing` monitors), or a step.

        Returns:
          The checkpoint's step.

        Raises:
          ValueError: If the Trainer has no workdir, or the checkpoint does not hold what it needs.
          FileNotFoundError: If there is no such checkpoint.
          CheckpointDamaged: If it is not what was written; the message names the file.
          RuntimeError: If called while `fit` is running.
        """
        if self.checkpoints is None:
            raise ValueError("restore: workdir=None, so there are no checkpoints; give the Trainer a workdir=")
        if self.fitting:
            raise RuntimeError("restore was called while fit is running; call it before fit")
        given = self._settings_given()
        step = self._restore(self.checkpoints.find(which), self.checkpoints)
        for name, value in self._settings_given().items():
            if value != given[name]:
                told = "the run goes on with %s=%s, as it was saved, not with %s, as it was given%s"
                why = "" if name == "seed" else " (a callback has changed it in the run, or somebody in the script)"
                logging.warning(told, name, value, given[name], why)
        logging.warning("the run stands at step %d, from %s", step, self.checkpoints.path(step))
        return step

    def _restore(self, step: int, checkpoints: Checkpoints) -> int:
        with self.strategy.scope():
            built = all(map(keras_hooks.is_built, self.models.values()))
            if built:
                self._build_variables()
            whole = ("model", "optimizer") if built and self.optimizers else ("model",) if built else ()
            try:
                with self.state.without_iterator():  # which data the saved position is in is known when they are opened
                    self._restored = checkpoints.restore(
                        self.state.checkpoint, step, whole=whole, optimizers=self._optimizer_classes()
                    )
            finally:
                self.state.forget_counts()
            self._of_replicas = {}
            self._track_replicas()
        for told in self._restored.other_optimizers:
            logging.warning("%s; it goes on with what that one has kept of the gradients", told)
        self._newest_seen = max(checkpoints.steps(), default=0)
        if changed := environment.differences(checkpoints.manifest(step)["environment"], self.environment()):
            logging.warning(
                "the run goes on under other conditions than it was saved under, so its bits may differ: %s",
                "; ".join(changed),
            )
        return step

    def _optimizer_classes(self) -> dict[str, str]:
        inner = {key: getattr(each, "inner_optimizer", each) for key, each in self.optimizers.items()}
        return {key: type(each).__name__ for key, each in inner.items()}

    def _settings_given(self) -> dict[str, Any]:
        """Returns what the script has set and a checkpoint brings too, by name."""
        own = {key: each for key, each in self.optimizers.items() if not keras_hooks.has_schedule(each)}
        several = len(self.optimizers) > 1
        found = {
            f"learning_rate of optimizer[{key!r}]" if several else "learning_rate": f"{each.learning_rate.numpy():.6g}"
            for key, each in own.items()
        }
        return found if self._given_seed is None else found | {"seed": self.seed}

    def _pass_over(self, *args: Any, **options: Any) -> Pass:
        self._warn_of_initial_weights()
        return super()._pass_over(*args, **options)

    def _warn_of_initial_weights(self) -> None:
        """Warns, once, where a pass is made with the weights that a model began with beside those of a trained run."""
        if self._warned_of_weights or self.checkpoints is None or self._restored is not None or self.step > 0:
            return
        if any(map(was_loaded, self.models.values())) or not self.checkpoints.is_begun():
            return
        self._warned_of_weights = True
        warn_user(
            f"workdir={str(self.workdir)!r} holds checkpoints that were not restored, so the weights are those that "
            "the model was made with. Call trainer.restore_or_initialize() before, or give another workdir="
        )

    def environment(self) -> dict[str, Any]:
        """Returns what the bits of this run depend on besides its state, by name."""
        return environment.describe(jit_compile=self.jit_compile, replicas=self.strategy.num_replicas_in_sync)

    def _after_trace(self, loop: SummingLoop | GatheringLoop) -> None:
        super()._after_trace(loop)
        built = all(map(keras_hooks.is_built, self.models.values()))
        if built:
            self._build_averages()
            self._track_layer_states()
        if self._restored is not None:
            self._restored.check(("model",) if built else ())

    def _build_variables(self) -> None:
        self._build_optimizers()
        self._build_averages()
        self._track_layer_states()

    def _build_averages(self) -> None:
        if (averaging := self._averaging()) is not None:
            trained = {key: self.models[key] for key in self.optimizers}
            averaging.build(
                [variable for model in trained.values() for variable in keras_hooks.trainable_candidates(model)],
                [each for layer in batch_norm.batch_norms(trained) for each in keras_hooks.statistics_of(layer)],
            )
            self.state.checkpoint.averages = averaging.tracked

    def _track_layer_states(self) -> None:
        recurrent = {
            path: layer for path, layer in layer_paths(self.model).items() if isinstance(layer, tf_keras.layers.RNN)
        }
        states = {path: keras_hooks.states_kept_between_batches(layer) for path, layer in recurrent.items()}
        self.state.track_layer_states({path: of_layer for path, of_layer in states.items() if of_layer})

    def _track_replicas(self) -> None:
        """Adds what each replica has of its own, and puts back what was saved of it.

        TensorFlow saves the mean of the replicas, or their sum: of statistics that are not synchronized, of metrics.
        """
        number = self.strategy.num_replicas_in_sync
        if number == 1:
            return
        of_each = {path: variable.deref() for variable, path in paths_in(self.state.checkpoint).items()}
        found = {
            path: list(variable.values)
            for path, variable in of_each.items()
            if isinstance(variable, tf.distribute.DistributedValues)
            and variable.synchronization is tf.VariableSynchronization.ON_READ
            and path not in self._of_replicas
        }
        self._of_replicas |= found
        self.state.track_replicas(number, self._of_replicas)
        if found and self._restored is not None:  # they have been filled from what was saved of them together
            self._restored.restore_part(**{replicas_of(number): found})

    def _averaging(self) -> WeightAveraging | None:
        return next((callback for callback in self.callbacks if isinstance(callback, WeightAveraging)), None)

    def _host_state(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "log_size": self._measure_logs(),
            "latest_metrics": _to_json(self.latest_metrics),
            "progress": None if self._progress is None else _to_json(self._progress),
            "data": self._data_shape,
            "data_since": self._data_since,
            "scalars": self._summed,
            "optimizers": self._optimizer_classes(),
            "callbacks": self._states_of_callbacks(),
        }

    def _states_of_callbacks(self) -> dict[str, dict[str, Any]]:
        return {key: checked_state(key, callback.get_state()) for key, callback in self._named_callbacks().items()}

    def _set_host_state(self, state: dict[str, Any]) -> None:
        self.seed, self._log_sizes = state["seed"], state["log_size"]
        self._data_shape, self._data_since, self._summed = state["data"], state["data_since"], state["scalars"]
        self.latest_metrics, self._progress = _from_json(state["latest_metrics"]), state["progress"]
        named = self._named_callbacks()
        for key, of_callback in state["callbacks"].items():
            if of_callback and key not in named:
                logging.warning("%s is not there now, and was when the checkpoint was saved; its state is dropped", key)
        for key, callback in named.items():
            if key in state["callbacks"]:
                callback.set_state(state["callbacks"][key])
            elif has_state(callback):
                logging.warning("%s was not there when the checkpoint was saved; it starts fresh", key)
        self.state.forget_counts()  # also where somebody restores `state.checkpoint` without us

    def _logs(self) -> list[pathlib.Path]:
        return [] if self.workdir is None else [self.workdir.metrics, self.workdir.phases]

    def _measure_logs(self) -> list[int]:
        """Returns how long the log files are, in bytes."""
        return [log.stat().st_size if log.exists() else 0 for log in self._logs()]

    def _cut_log_files(self, sizes: Sequence[int] | None) -> None:
        """Cuts the log files back to this step and, where it is known, to how long they were then."""
        for log, size in zip(self._logs(), sizes or [None, None], strict=False):
            assert self.workdir is not None
            self.workdir.cut_jsonl(log, self.step, size)

    def _named_callbacks(self) -> dict[str, Callback]:
        seen: Counter[str] = Counter()
        named = {}
        for callback in self.callbacks:
            kind = type(callback).__name__
            seen[kind] += 1
            named[kind if seen[kind] == 1 else f"{kind}_{seen[kind]}"] = callback
        return named


def _to_json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values without NumPy's types; rates are left out, because they depend on the machine."""
    return {
        name: _to_json(value) if isinstance(value, Mapping) else np.asarray(value).tolist()
        for name, value in metrics.items()
        if not name.endswith("_per_second")
    }


def _from_json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in metrics.items()}
