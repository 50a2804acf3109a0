"""The contracts of a `Trainer`: each step that was compiled is judged before it runs, and what was found is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras
from absl import logging

from trainloop import keras_hooks
from trainloop.contract_report import ContractReport
from trainloop.effects import read_effects
from trainloop.gathering_loop import GatheringLoop
from trainloop.origins import warn_user
from trainloop.phase import Phase
from trainloop.state import State
from trainloop.step_effects import Surroundings
from trainloop.summing_loop import SummingLoop
from trainloop.tracing import Trace, merged
from trainloop.variables import Variables, handles, held_by, variables_held_by
from trainloop.verdicts import judge
from trainloop.workdir import Workdir


class StepContracts:
    """The reports on the steps of a Trainer.

    Args:
      models: The models by key.
      optimizers: The optimizers by the key of the model that they train.

    Attributes:
      reports: The newest report of each phase.
    """

    def __init__(self, models: Mapping[str, Any], optimizers: Mapping[str, Any]):
        self._models = models
        self._optimizers = optimizers
        self._said: set[str] = set()
        self.reports: dict[Phase, ContractReport] = {}

    def judge(
        self,
        loop: SummingLoop | GatheringLoop,
        root: Any,
        metrics: Iterable[tf_keras.metrics.Metric],
        state: State,
        workdir: Workdir | None,
        holder: Any,
    ) -> None:
        """Judges a step that was just traced, and writes the reports down where the run holds the workdir.

        Args:
          loop: The loop with the step.
          root: The model or the dict of models.
          metrics: The metrics within reach of the step.
          state: What is saved.
          workdir: The run's directory; None where there is none.
          holder: The Trainer, a subclass of which may have variables as attributes.

        Raises:
          PhaseError: If the step violates the contract of its phase.
          ValueError: If a waiver matches nothing that is there.
        """
        report = loop.contract = self._report(loop, root, metrics, state, holder)
        self.reports[loop.phase] = report
        if workdir is not None and workdir.is_locked:
            self.write(workdir)
        report.check()
        self._say(report, resumes=workdir is not None)
        if loop.phase is Phase.TRAIN and (outside := self._new(self._outside(loop.traces))):
            warn_user(
                f"layers that the training step calls in TRAIN and no model of model= holds: {', '.join(outside)}. "
                "They are neither trained nor saved. Give them to the Trainer in model= (a dict of models), call them "
                "in another phase (Phase.PREDICT.call(...)), or set trainable = False"
            )

    def write(self, workdir: Workdir) -> None:
        """Writes the reports of all phases down."""
        reports = {phase.value: self.reports[phase].to_json() for phase in Phase if phase in self.reports}
        workdir.write_json(workdir.contract, reports)

    def _report(
        self,
        loop: SummingLoop | GatheringLoop,
        root: Any,
        metrics: Iterable[tf_keras.metrics.Metric],
        state: State,
        holder: Any,
    ) -> ContractReport:
        step = loop.compiled_step
        if step is None:
            return ContractReport(loop.phase, unproved=("the step is run eagerly: there is no graph to read",))
        trace = merged(loop.traces)
        variables = Variables()
        variables.add_model(root)
        for call in trace.calls:
            variables.add_layer(call.path, call.layer)
        for metric in metrics:
            variables.add("metrics", metric.variables, f"metrics/{metric.name}/")
        for key, optimizer in self._optimizers.items():
            several = len(self._optimizers) > 1
            variables.add("optimizer", variables_held_by(optimizer), f"optimizer/{key}/" if several else "optimizer/")
        variables.add("own", loop.own_variables)
        saved = held_by(state.checkpoint) if loop.phase is Phase.TRAIN else []  # the others write nothing that is saved
        variables.add("own", [each for each in saved if isinstance(each, tf.Variable)])
        of_models = [v for key in self._optimizers for v in self._models[key].trainable_variables]
        trained = of_models + [each for each in variables.add_attributes(holder) if each.trainable]
        variables.add("other", step.graph.variables)  # so that those of nobody else have a name at least
        held = frozenset(id(handle) for each in saved for handle in handles(each))
        return judge(loop.phase, read_effects(step, trace), trace, Surroundings([root], variables, held, trained))

    def _outside(self, traces: Iterable[Trace]) -> list[str]:
        """Returns the paths of trainable layers that are called in TRAIN and are in no model."""
        known = {id(layer) for model in self._models.values() for layer in (model, *keras_hooks.layers_of(model))}
        found = [
            call.path
            for trace in traces
            for call in trace.calls
            if call.phase == Phase.TRAIN.value
            and id(call.layer) not in known
            and (call.around is None or id(call.around.layer) in known)
            and call.layer.trainable_weights
        ]
        return list(dict.fromkeys(found))

    def _say(self, report: ContractReport, *, resumes: bool) -> None:
        """Tells what is worth knowing and forbids nothing, each thing once."""
        phase = report.phase.value
        for reason in self._new(report.unproved):
            logging.warning("the contract of phase %r is not proved: %s", phase, reason)
        if unreached := self._new(report.unreached):
            warn_user(
                f"dropout or noise that the training step never calls: {', '.join(unreached)}. Call these layers, or "
                "take them out of the model"
            )
        if unwritten := self._new(report.unwritten):
            warn_user(
                f"trainable variables that the training step reads but never updates: {', '.join(unwritten)}. Either "
                "the tape has not recorded what they are used for, or no gradient comes through, or they are "
                "attributes of the Trainer and no weights of a model in model=. Where that is meant, set "
                "trainable = False: of the layer, or as the tf.Variable is made"
            )
        if resumes and (not_resumable := self._new(report.not_resumable)):
            warn_user(f"a resumed run will not repeat to the bit what depends on: {'; '.join(not_resumable)}")

    def _new(self, entries: Iterable[str]) -> list[str]:
        found = [entry for entry in entries if entry not in self._said]
        self._said.update(found)
        return found
