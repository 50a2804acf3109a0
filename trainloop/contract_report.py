"""`ContractReport`: what a step was found to draw and to write, and whether its phase allows it."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from trainloop.effects import Kind
from trainloop.phase import Phase
from trainloop.violations import Violation, phase_error

Verdict = Literal["holds", "violated", "not proved"]


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a step does beside computing its outputs.

    Attributes:
      kind: `"random"` for a draw, `"write"`, or `"unknown"` for an op that may do either.
      layer: The path of the layer that does it; empty where no layer does.
      variable: The path or name of the variable that is written; empty for a draw.
      op_type: The type of the op.
      op_name: The op's name; of several that do the same, the first one's.
      count: How many ops do the same.
      is_declared: Whether it is a draw made through `trainloop.random`.
    """

    kind: Kind
    layer: str
    variable: str
    op_type: str
    op_name: str
    count: int = 1
    is_declared: bool = False

    @property
    def label(self) -> str:
        """What a waiver accepts it by: `"random <layer>"`, `"write <variable>"`, `"unknown <op type>"`.

        A draw in no layer goes by its op's scope: the op itself has another name where draws are keyed.
        """
        scope = self.op_name.rpartition("/")[0] or self.op_name
        where = {"random": self.layer or scope, "write": self.variable, "unknown": self.op_type}
        return f"{self.kind} {where[self.kind]}"


class WaivedEffect(NamedTuple):
    """An effect that was accepted by `waive`.

    Attributes:
      effect: Its label.
      pattern: The pattern that matched it.
      reason: Why it was accepted.
    """

    effect: str
    pattern: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ContractReport:
    """What a step was found to do, and whether its phase allows it.

    Attributes:
      phase: The phase that the step was traced in.
      violations: What contradicts the phase.
      unproved: Why nothing could be proved: the ops whose effects are unknown.
      effects: Everything that the step draws and writes.
      waived: The effects that were accepted by `waive`.
      not_resumable: What a resumed run cannot repeat to the bit: draws that no key could be given, and state that no
        checkpoint holds.
      unwritten: Trainable variables that a training step reads and never updates: forgotten in the tape, without a
        gradient, or attributes of a Trainer that are in no model.
      unreached: Dropout and noise layers of the model that a training step does not call.
      supplied: Where nothing was said, so that the layers are in the phase because the function was traced in it: what
        was found holds for calls by `phase.call`, in `phase.scope()` or in a Trainer, and for no others.
    """

    phase: Phase
    violations: tuple[Violation, ...] = ()
    unproved: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()
    waived: tuple[WaivedEffect, ...] = ()
    not_resumable: tuple[str, ...] = ()
    unwritten: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """`"holds"`, `"violated"`, or `"not proved"`."""
        return "violated" if self.violations else "not proved" if self.unproved else "holds"

    def check(self) -> None:
        """Raises PhaseError where the contract is violated."""
        if self.violations:
            raise phase_error(self.phase.value, self.violations)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as what JSON has: dicts, lists, strings, numbers."""
        return {"phase": self.phase.value, "verdict": self.verdict} | {
            field.name: [_plain(entry) for entry in getattr(self, field.name)]
            for field in dataclasses.fields(self)
            if field.name != "phase"
        }

    def __str__(self) -> str:
        lines = [f"contract of phase {self.phase.value!r}: {self.verdict}"]
        lines += [f"  violation      {violation}" for violation in self.violations]
        lines += [f"  not proved     {reason}" for reason in self.unproved]
        lines += [f"  waived         {each.effect} (by {each.pattern!r}: {each.reason})" for each in self.waived]
        lines += [f"  not resumable  {each}" for each in self.not_resumable]
        lines += [f"  not written    {each}" for each in self.unwritten]
        lines += [f"  not reached    {each}" for each in self.unreached]
        if self.supplied:
            lines.append(f"  told nothing   {', '.join(self.supplied)}: in this phase where it is called in it")
        rows = [("effect", "layer", "variable", "op", "ops")] if self.effects else []
        for each, variable in _folded(self.effects):
            kind = "declared draw" if each.is_declared else each.kind
            rows.append((kind, each.layer or "-", variable or "-", each.op_type, str(each.count)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(lines)


def _folded(effects: Sequence[Effect]) -> Iterator[tuple[Effect, str]]:
    """Yields effects with the variable that they write; what an optimizer writes of one kind, as one."""
    slots: dict[str, list[Effect]] = collections.defaultdict(list)
    for each in effects:
        if each.variable.startswith("optimizer/"):
            slots[each.op_type].append(each)
        else:
            yield each, each.variable
    for alike in slots.values():
        count, many = sum(each.count for each in alike), len(alike) > 1
        yield dataclasses.replace(alike[0], count=count), f"optimizer/* ({len(alike)})" if many else alike[0].variable


def _plain(entry: str | Effect | Violation | WaivedEffect) -> Any:
    if isinstance(entry, str):
        return entry
    return dataclasses.asdict(entry) if isinstance(entry, Effect) else entry._asdict()
