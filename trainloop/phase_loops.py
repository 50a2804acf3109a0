"""The compiled loop that serves each phase: made when it is asked for, and kept while its graph would be the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import tf_keras

from trainloop import batch_norm, guard, keras_hooks, monte_carlo
from trainloop.batch_norm import StatisticsLoop
from trainloop.gathering_loop import GatheringLoop
from trainloop.monte_carlo import Sampling
from trainloop.origins import warn_user
from trainloop.phase import Phase
from trainloop.state import State, new_window
from trainloop.step_contracts import StepContracts
from trainloop.step_methods import StepMethods
from trainloop.summing_loop import SummingLoop
from trainloop.user_code import noted
from trainloop.variables import unpacked
from trainloop.workdir import Workdir


class Asked(NamedTuple):
    """What a loop was last asked for.

    Attributes:
      element_spec: What the batches are like.
      argument: What the data are called in messages.
      options: What else the loop was made for.
    """

    element_spec: Any
    argument: str
    options: dict[str, Any]


class _ById:
    """An object as a part of a dict's key: equal to itself alone, and kept alive."""

    def __init__(self, value: Any):
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class PhaseLoops(StepMethods):
    """What a `Trainer` compiles of its steps."""

    state: State
    run_eagerly: bool
    seed: int
    workdir: Workdir | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._loops: dict[Any, Any] = {}
        self._asked: dict[Phase, Asked] = {}
        self._contracts = StepContracts(self.models, self.optimizers)
        self._layers: list[Any] | None = None
        self.metrics.when_built = lambda: self.state.track_metrics(self.metrics.objects)

    def _loop(
        self,
        phase: Phase,
        batches: Any,
        argument: str,
        *,
        inline: bool = False,
        sampling: Sampling | None = None,
        gathers: bool = False,
        **options: Any,
    ) -> Any:
        """Returns the compiled loop of a phase; one is made anew only where its graph would be another one.

        What changes a graph: the kind of batches, which layers there are, which are frozen or pinned, and the run's
        seed, which a checkpoint may bring. So `layer.trainable = False` takes effect also when it is set after a step
        was traced.
        """
        spec = repr(batches.element_spec)
        kind = (phase, spec, self.run_eagerly, self.seed, guard.all_pins())
        kind += (sampling, gathers, *options.values())
        asked_for = {"inline": inline, "sampling": sampling, "gathers": gathers, **options}
        self._asked.pop(phase, None)  # the newest stands last
        self._asked[phase] = Asked(batches.element_spec, argument, asked_for)
        loop = self._loops.get((kind, self._layers_as_they_stand()))
        is_new = loop is None
        if is_new:
            shared = {
                "counter": self.state.step,
                "epoch": self.state.epoch,
                "root": self.model,
                "seed": self.seed,
                "jit_compile": self.jit_compile,
                "run_eagerly": self.run_eagerly,
            }
            loop = self._make_loop(phase, sampling, gathers, shared | options)
        with noted(f"while tracing a step for the batches of {argument}=: {spec}"):
            loop.prepare(batches, inline=inline)
        if is_new:
            self._after_trace(loop)
            metrics = self._metrics_within_reach()
            self._contracts.judge(loop, self.model, metrics, self.state, self.workdir, holder=self)
            self._loops[kind, self._layers_as_they_stand()] = loop  # asked again: the trace may have made layers
        return loop

    def _make_loop(
        self, phase: Phase, sampling: Sampling | None, gathers: bool, options: dict[str, Any]
    ) -> SummingLoop | GatheringLoop:
        """Returns the loop that serves a phase, not yet compiled."""
        if gathers:
            method = self.predict_step
            if sampling is not None:
                method = monte_carlo.predict_step(method, sampling, list(self.models.values()))
            return GatheringLoop(method, phase, self.strategy, **options)
        options |= {"metrics": self.metrics, "window": self.state.window if phase is Phase.TRAIN else new_window()}
        if phase is Phase.UPDATE_BN:
            return StatisticsLoop(self._forward, phase, self.strategy, **options)
        method = self.train_step if phase is Phase.TRAIN else self.eval_step
        if sampling is not None:
            own_loss = self._overrides("compute_loss") or self._overrides("eval_step")
            of_mean = {} if own_loss else {"loss_of_mean": self._loss_of_outputs, "penalties": self._penalties}
            method = monte_carlo.eval_step(method, sampling, list(self.models.values()), **of_mean)
        return SummingLoop(method, phase, self.strategy, **options)

    def _after_trace(self, loop: SummingLoop | GatheringLoop) -> None:
        """Called when a step was traced, which may have made layers and metrics build their variables."""
        self._layers = None
        if loop.compiled_step is not None and isinstance(loop, StatisticsLoop):
            batch_norm.check_updates(loop, self.models)
        if isinstance(loop, SummingLoop) and loop.compiled_step is not None and loop.phase is Phase.TRAIN:
            self._warn_of_metrics(loop.updates_metrics)
        # A step that is not traced makes its metrics only when it runs.
        if isinstance(loop, SummingLoop) and (not self.run_eagerly or self.metrics.are_all_there):
            self._track_metrics(loop)

    def _warn_of_metrics(self, are_updated: bool) -> None:
        """Warns of metrics that only the Trainer can update, where it cannot, and of those that count in Python."""
        if not are_updated and self.metrics.to_be_made:
            named = ", ".join(map(repr, self.metrics.to_be_made))
            warn_user(
                f"metrics={named}: the step of phase 'train' does not update what is given by name, as it returns no "
                "outputs, or there are no targets. Return (loss, outputs), or StepResult(outputs=, targets=)"
            )
        if are_updated and (in_python := [metric.name for metric in self.metrics.objects if not metric.variables]):
            warn_user(
                f"metrics= that have no variables: {', '.join(in_python)}. What they count in Python no checkpoint "
                "holds, an evaluation in the midst of an epoch begins anew, and a compiled step may not count at all. "
                "Count in variables (self.add_weight)"
            )

    def _track_metrics(self, loop: SummingLoop) -> None:
        """Puts the metrics that training has a state of among what is saved, unless they are there."""
        if loop.phase is Phase.TRAIN:
            self.state.track_metrics(self.metrics.in_training(loop.updates_metrics))

    def _metrics_within_reach(self) -> list[tf_keras.metrics.Metric]:
        """Returns the Trainer's metrics, and those that a subclass keeps as attributes, in lists or dicts."""
        kept = [value for value in unpacked(vars(self)) if isinstance(value, tf_keras.metrics.Metric)]
        return [*self.metrics.objects, *kept]

    def _layers_as_they_stand(self) -> tuple[tuple[Any, bool], ...]:
        """Returns every layer, and whether it is trainable; the layers are part of a key, so that none is forgotten."""
        if self._layers is None:
            self._layers = [layer for model in self.models.values() for layer in keras_hooks.layers_of(model)]
        return tuple((_ById(layer), layer.trainable) for layer in self._layers)
