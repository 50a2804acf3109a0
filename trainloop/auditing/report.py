"""What an audit says: a value that prints as a table, and can be written as JSON or drawn."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from trainloop.auditing import figure, table
from trainloop.auditing.activation_statistics import Measurement
from trainloop.auditing.lints import Lint
from trainloop.contract_report import WaivedEffect
from trainloop.violations import Violation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Source = Literal["supplied", "passed", "hard-wired", "inherited", "pinned", "followed", "unreached"]


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer that does not do the same in every phase.

    Attributes:
      path: Its path in the model.
      layer_class: The name of its class.
      family: Its family; None for a layer without one whose own ops draw, or write in some phases.
      rate: The share that it drops, or the standard deviation of its noise; None where there is none.
      does: What it does, by the phase's value: `"on"` or `"off"`; `"batch"`, `"moving"` or `"frozen"` statistics (a
        frozen batch normalization stays on moving statistics in training); `"mixed"` where its calls differ;
        `"unseen"` where only a `tf.function` that was traced before can call it; `"-"` where the phase does not apply,
        or never reaches it.
      source: How it got its value of `training` in TRAIN: supplied by trainloop, passed on by an argument that follows
        the phase, hard-wired by one that does not, inherited from the Keras call around it, or decided by `pin` or
        `follow`; unreached where it is not called.
    """

    path: str
    layer_class: str
    family: str | None
    rate: float | None
    does: Mapping[str, str]
    source: Source


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the contract says of one phase.

    Attributes:
      phase: The value of the phase.
      verdict: `"holds"`, `"violated"`, `"not proved"` or `"does not apply"`.
      reason: Why it does not apply, or which ops are in the way of a proof; empty else.
      waived: The effects that were accepted by `waive`.
    """

    phase: str
    verdict: str
    reason: str = ""
    waived: tuple[WaivedEffect, ...] = ()


@dataclasses.dataclass(frozen=True)
class PhaseViolation:
    """A violation, and the phases that it is one of.

    Attributes:
      phases: The values of the phases.
      violation: What is not as these phases have it.
    """

    phases: tuple[str, ...]
    violation: Violation


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `trainloop.audit` found. Prints as a table of at most 120 columns.

    Attributes:
      model: The name of the model.
      inputs: What it was called on, as dtype and shape.
      rows: One for each phase-sensitive layer, in the order of their first calls.
      verdicts: What the contract says of each phase.
      violations: What contradicts a phase; the same finding in several phases stands once.
      lints: What is legal and yet rarely meant.
      measurements: What the layers put out in training and in evaluation; empty where the inputs were shapes only.
    """

    model: str
    inputs: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    violations: tuple[PhaseViolation, ...]
    lints: tuple[Lint, ...]
    measurements: tuple[Measurement, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is violated; lints and what is not proved do not count."""
        return not self.violations and all(each.verdict != "violated" for each in self.verdicts)

    def __str__(self) -> str:
        return table.render(self)

    def to_json(self) -> str:
        """Returns all of it as JSON; a number that is not finite is null."""
        return json.dumps({"ok": self.ok, **_plain(self)}, indent=2)

    def figure(self) -> Figure:
        """Draws mean and variance of what each phase-sensitive layer puts out, in training against evaluation.

        Returns:
          A matplotlib figure: `figure.savefig("audit.png")`.

        Raises:
          ImportError: If matplotlib is not installed.
          ValueError: If nothing was measured: the inputs were shapes only, or no layer is phase-sensitive.
        """
        return figure.draw(self.model, self.inputs, self.measurements)


def _plain(value: Any) -> Any:
    if isinstance(value, Measurement):
        return _plain(
            dataclasses.asdict(value) | {"mean_shift": value.mean_shift, "variance_ratio": value.variance_ratio}
        )
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
