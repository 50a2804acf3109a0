"""The judge: what came of each healthy model and each mutant in each phase, in one word."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tests.corpus.healthy import HEALTHY, phases_of
from tests.corpus.mutation import MUTANTS, Mode
from tests.corpus.nets import Finding, Net, examine, fresh
from trainloop import Phase

# passed: nothing was objected to, and the behaviour is what the phase wants.
# caught: a net objected, and named what was planted. mended: the guard put it right.
# false alarm: a net objected to what is right. misnamed: a net objected, but to something else.
# missed: nobody objected, and the behaviour is wrong.
Outcome = Literal["passed", "caught", "mended", "false alarm", "misnamed", "missed"]
GOOD = frozenset({"passed", "caught", "mended"})


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the record.

    Attributes:
      name: The healthy model's, or the mutant's.
      group: Its kind, or its mutation.
      is_mutant: Which of the two it is.
      phase: The value of the phase.
      outcome: What came of it.
      net: Which net objected.
      verdict: The contract's, where the guard let it pass.
      details: What to look at where the outcome is bad.
    """

    name: str
    group: str
    is_mutant: bool
    phase: str
    outcome: Outcome
    net: Net | None
    verdict: str
    details: str


def judge_healthy(name: str, strategy: tf.distribute.Strategy | None = None) -> list[Result]:
    """Puts a healthy model before the nets in each phase that applies to it."""
    model = HEALTHY[name]
    mode: Mode = "eager" if model.eager else "graph" if strategy is None else "replicas"
    results = []
    for phase in phases_of(fresh(model.build)):
        finding = examine(model.build, phase, mode, strategy)
        right = finding.net is None and finding.is_right
        outcome = "passed" if right else "missed" if finding.net is None else "false alarm"
        results.append(_result(name, model.kind, False, phase, outcome, finding))
    return results


def judge_mutant(name: str, strategy: tf.distribute.Strategy, phases: Sequence[Phase] = tuple(Phase)) -> list[Result]:
    """Puts a mutant before the nets in each phase that applies to it."""
    mutant = MUTANTS[name]
    replicas = strategy if mutant.mode == "replicas" else None
    results = []
    for phase in phases_of(fresh(mutant.build)):
        if phase in phases:
            finding = examine(mutant.build, phase, mutant.mode, replicas)
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
        return "missed"
    return "mended" if exposed else "passed"


def _result(name: str, group: str, is_mutant: bool, phase: Phase, outcome: Outcome, finding: Finding) -> Result:
    details = "" if outcome in GOOD else _details(finding)
    return Result(name, group, is_mutant, phase.value, outcome, finding.net, finding.verdict, details)


def _details(finding: Finding) -> str:
    if finding.net is not None:
        return f"the {finding.net} said: " + " | ".join(map(str, finding.violations))
    return f"did: {finding.behaviour}; wanted: {finding.wanted}; warned: {finding.warned}"
