"""The judge: what came of each healthy model and each mutant in each phase, in one word."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tests.corpus.healthy import phases_of
from tests.corpus.models import HEALTHY
from tests.corpus.mutants import MUTANTS
from tests.corpus.mutation import NOT_TRAINED, Mode
from tests.corpus.nets import Finding, Net, examine, fresh, names
from tests.corpus.training import Attempt, attempt
from trainloop import Phase

# passed: nothing was objected to, and the behaviour is what the phase wants.
# caught: a net objected, and named what was planted. mended: the guard put it right.
# false alarm: a net objected to what is right. misnamed: a net objected, but to something else.
# not proved: the contract did not vouch for it, and named the op. missed: it passed, and the behaviour is wrong.
Outcome = Literal["passed", "caught", "mended", "false alarm", "misnamed", "not proved", "missed"]
GOOD = frozenset({"passed", "caught", "mended"})


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the record.

    Attributes:
      name: The healthy model's, or the mutant's.
      group: Its kind, or its mutation.
      is_mutant: Which of the two it is.
      in_trainer: Whether a Trainer ran the phase, in place of a call.
      phase: The value of the phase.
      outcome: What came of it.
      net: Which net objected, where a call was made.
      details: What to look at where the outcome is bad.
    """

    name: str
    group: str
    is_mutant: bool
    in_trainer: bool
    phase: str
    outcome: Outcome
    net: Net | None
    details: str


def judge_healthy(name: str, strategy: tf.distribute.Strategy | None = None) -> list[Result]:
    """Puts a healthy model before the nets in each phase that applies to it."""
    model = HEALTHY[name]
    mode: Mode = "eager" if model.eager else "graph" if strategy is None else "replicas"
    subject = fresh(model.build, strategy)
    build = (lambda: subject) if model.is_large else model.build
    results = []
    for phase in phases_of(subject):
        finding = examine(build, phase, mode, strategy, is_traceable=not model.eager)
        right = finding.net is None and finding.is_right and finding.verdict == "holds"
        outcome = "passed" if right else "missed" if finding.net is None else "false alarm"
        results.append(_result(name, model.kind, False, phase, outcome, finding))
    return results


def judge_mutant(name: str, strategy: tf.distribute.Strategy, phases: Sequence[Phase] = tuple(Phase)) -> list[Result]:
    """Puts a mutant before the nets in each phase that applies to it."""
    mutant = MUTANTS[name]
    replicas = strategy if mutant.mode == "replicas" else None
    subject = fresh(mutant.build, replicas)
    build = (lambda: subject) if mutant.is_large else mutant.build
    results = []
    for phase in phases_of(subject):
        if phase in phases:
            finding = examine(build, phase, mutant.mode, replicas)
            results.append(_result(name, mutant.mutation, True, phase, outcome_of(name, phase, finding), finding))
    return results


def outcome_of(name: str, phase: Phase, finding: Finding) -> Outcome:
    """Returns what a finding about a mutant amounts to.

    In a phase that one boolean cannot express each family is told its own value, so a contrary word is put right
    there, and an objection is right as well.
    """
    mutant = MUTANTS[name]
    exposed = phase in mutant.exposed
    if finding.net is not None:
        if phase.policy.is_uniform and not exposed:
            return "false alarm"
        return "caught" if finding.names(mutant.planted) else "misnamed"
    if not finding.is_right:
        return "not proved" if finding.verdict == "not proved" else "missed"
    if exposed and mutant.contradicts:
        return "missed"  # it does right, but somebody has said the contrary and is not told
    return "mended" if exposed else "passed"


def one_of_each() -> list[str]:
    """Returns a mutant of each mutation: the first, which is a small one."""
    first: dict[str, str] = {}
    for name, mutant in MUTANTS.items():
        if mutant.mode == "graph":
            first.setdefault(mutant.mutation, name)
    return list(first.values())


def train_healthy(name: str) -> list[Result]:
    """Runs a healthy model in a Trainer, in each phase that applies to it."""
    model = HEALTHY[name]
    results = []
    for phase in phases_of(fresh(model.build)):
        tried = attempt(model.build, phase)
        moved = tried.changed and phase not in (Phase.TRAIN, Phase.UPDATE_BN)
        outcome = "false alarm" if tried.violations or tried.warned else "missed" if moved else "passed"
        details = "" if outcome in GOOD else str(tried)
        results.append(Result(name, model.kind, False, True, phase.value, outcome, None, details))
    return results


def train_mutant(name: str) -> list[Result]:
    """Runs a mutant in a Trainer, in each phase that it is exposed in; nothing may have changed where it is caught."""
    mutant = MUTANTS[name]
    results = []
    for phase in phases_of(fresh(mutant.build)):
        if phase in mutant.exposed and not (phase is Phase.TRAIN and mutant.mutation in NOT_TRAINED):
            tried = attempt(mutant.build, phase, is_built=True)
            outcome = _outcome_of_training(name, tried)
            details = "" if outcome in GOOD else str(tried)
            results.append(Result(name, mutant.mutation, True, True, phase.value, outcome, None, details))
    return results


def _outcome_of_training(name: str, tried: Attempt) -> Outcome:
    mutant = MUTANTS[name]
    if not tried.violations:
        return "missed" if mutant.contradicts else "mended"
    if tried.changed:
        return "missed"
    return "caught" if names(tried.violations, mutant.planted) else "misnamed"


def _result(name: str, group: str, is_mutant: bool, phase: Phase, outcome: Outcome, finding: Finding) -> Result:
    details = "" if outcome in GOOD else _details(finding)
    return Result(name, group, is_mutant, False, phase.value, outcome, finding.net, details)


def _details(finding: Finding) -> str:
    if finding.net is not None:
        return f"the {finding.net} said: " + " | ".join(map(str, finding.violations))
    return f"{finding.verdict}; did: {finding.behaviour}; wanted: {finding.wanted}; warned: {finding.warned}"
