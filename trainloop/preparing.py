"""What has to be there before a run is under way: every variable made, every step traced, every trigger understood.

So too the step of any phase, for `contract`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from trainloop import arguments, data, keras_hooks, monte_carlo
from trainloop.agenda import RunLength
from trainloop.contract_report import ContractReport
from trainloop.going_back import GoingBack
from trainloop.losses import Metrics
from trainloop.monte_carlo import Sampling
from trainloop.phase import Phase, check_phase
from trainloop.summing_loop import SummingLoop
from trainloop.triggers import AtEnd, Every, Trigger, counts_epochs
from trainloop.user_code import noted
from trainloop.violations import PhaseError


class Preparing(GoingBack):
    """What a `Trainer` makes ready, so that what cannot work is known before anything is written."""

    report_every: Trigger | None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._models_built = False

    def contract(self, phase: Phase) -> ContractReport:
        """Returns what the compiled step of a phase draws and writes, and whether the phase allows it.

        It was proved before the step ran for the first time, and a violation was raised. A step that is not compiled
        yet is compiled here, for batches like the last ones; nothing is run, and a violation is only in the report.

        Args:
          phase: The phase.

        Raises:
          TypeError: If `phase` is not a `Phase`.
          ValueError: If no data were seen yet, or the phase does not apply to the model.
        """
        check_phase(phase, argument="contract: phase")
        if not self._asked:
            raise ValueError(
                "contract: no data were seen yet, so there is no step to read; call fit, evaluate or predict before. "
                "trainloop.contract(model, phase, inputs) needs no data"
            )
        self._layers = None  # the user may have changed the model since
        try:
            with self.strategy.scope():
                loop = self._loop_like_the_last(phase)
        except PhaseError as error:
            report = self._contracts.reports.get(phase)
            if report is None or report.violations != error.violations:  # the guard has objected before
                report = ContractReport(phase, violations=error.violations)
            return report
        return loop.contract

    def _check_can_fit(self) -> None:
        if self.fitting:
            raise RuntimeError("fit was called while fit is running; a hook may call evaluate and predict, but not fit")
        if not self.optimizers:
            raise ValueError(
                "fit: optimizer=None; give the Trainer an optimizer (Trainer.from_compiled(model) takes over that of a "
                "compiled model)"
            )
        if self.checkpoints is not None and self._restored is None and self.step == 0 and self.checkpoints.is_begun():
            raise RuntimeError(
                f"fit: workdir={str(self.workdir)!r} holds checkpoints up to step "
                f"{max(self.checkpoints.steps(), default='(none that is whole)')} that were not restored. Call "
                "trainer.restore_or_initialize() before fit to continue that run, or give another workdir="
            )

    def _triggers(
        self, stream: data.Stream, total: RunLength, sets: Mapping[str, data.Data], eval_every: Trigger | None
    ) -> list[Trigger | None]:
        """Returns the run's agenda: the report, the evaluation, then each callback's trigger."""
        each_epoch = Every(epochs=1)
        report = self.report_every
        if report is None:
            report = each_epoch if stream.has_epochs else Every(steps=100)
        if sets and eval_every is None:
            eval_every = (
                each_epoch if total.epochs is not None else each_epoch | AtEnd() if stream.has_epochs else AtEnd()
            )
        named = {"report_every": report, "fit: eval_every": eval_every}
        named |= {f"trigger of {type(callback).__name__}": callback.trigger for callback in self.callbacks}
        for name, trigger in named.items():
            arguments.check_trigger(trigger, name)
            if trigger is not None and counts_epochs(trigger) and not stream.has_epochs:
                raise ValueError(
                    f"{name}={trigger} counts epochs, but train_data= has none; say how long one is with "
                    "steps_per_epoch="
                )
        return [report, eval_every, *(callback.trigger for callback in self.callbacks)]

    def _prepare_training(self, stream: data.Stream, sets: Mapping[str, data.Data]) -> None:
        """Makes every variable and traces every step, so that what cannot work is known before the run is under way."""
        self._layers = None  # the user may have changed the model since
        self._build_models(stream)
        self._build_variables()
        self._states_of_callbacks()  # which raises where one cannot be saved
        if self._restored is not None:
            self._restored.check(whole=("model", "optimizer"))
        self.state.track_iterator(stream.saved_iterator)
        self._training_loop(stream)
        for name, source in sets.items():
            argument = f"fit: eval_data[{name!r}]" if name else "fit: eval_data"
            batches, _ = data.one_pass(source, None, argument)
            self._loop(Phase.EVAL, batches, argument, inline=data.can_be_taken_inline(batches))
        averaging = self._averaging()
        if averaging is not None and averaging.bn_data is not None:
            self._pass_over(averaging.bn_data, None, Phase.UPDATE_BN, "WeightAveraging: bn_data")
        self._track_replicas()

    def _build_models(self, stream: data.Stream) -> None:
        """Traces the step for nothing but the variables that it makes, where a model has not made all of its own."""
        if self._models_built or all(map(keras_hooks.is_built, self.models.values())):
            return
        self._building = True
        note = (
            f"while model= was built by tracing a step for a batch of fit: train_data=, {stream.iterator.element_spec}"
        )
        try:
            loop = SummingLoop(
                self.train_step if self._overrides("train_step") else self._loss_of,
                Phase.TRAIN,
                self.strategy,
                metrics=Metrics(),
                counter=self.state.step,
                epoch=self.state.epoch,
                window=self.state.window,
            )
            with noted(note):
                loop.prepare(stream.iterator)
        finally:
            self._building = False
        for key in self.optimizers:
            if not keras_hooks.trainable_candidates(self.models[key]):
                name = "model=" if len(self.models) == 1 else f"model[{key!r}]"
                raise ValueError(
                    f"{name} has no trainable variable after a step was traced: no step method has called it. Call it "
                    "with phase.call(self.model, x) in compute_loss or train_step"
                )
        self._models_built = True  # a layer that the step never calls would else have it traced again in each fit

    def _loop_like_the_last(self, phase: Phase) -> Any:
        """Returns the loop of a phase for the data that it, or else any phase, has seen last."""
        asked = self._asked.get(phase)
        if asked is not None:
            return self._loop(phase, asked, asked.argument, **asked.options)
        *_, asked = self._asked.values()
        if phase is not Phase.TRAIN:
            sampling = Sampling(monte_carlo.SAMPLES) if phase is Phase.MC_PREDICT else None
            gathers = phase in (Phase.PREDICT, Phase.MC_PREDICT)
            inline = asked.options["inline"]
            return self._loop(phase, asked, asked.argument, inline=inline, sampling=sampling, gathers=gathers)
        if not self.optimizers:
            raise ValueError("contract: optimizer=None, so there is no training step; give the Trainer an optimizer")
        stream: Any = types.SimpleNamespace(iterator=asked, taken_inline=asked.options["inline"])
        self._build_models(stream)
        self._build_variables()
        return self._training_loop(stream)
