"""An audit as text for a terminal, at most 120 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from trainloop.phase import Phase

if TYPE_CHECKING:
    from trainloop.auditing.report import Audit, Row

WIDTH = 120
# In a longer table, layers that differ by their path alone share a line.
MAX_LINES = 30
_PHASES = [phase.value for phase in Phase]
_FAMILIES = ("augmentation", "noise", "dropout", "batch_norm", "update", None)
_TITLES = {"batch_norm": "batch normalization", "update": "self-updating", None: "other"}


def render(audit: Audit) -> str:
    """Returns an audit as text."""
    parts = [_heading(audit), _layers(audit.rows), _contract(audit), _violations(audit), _lints(audit)]
    return "\n\n".join(part for part in parts if part)


def _heading(audit: Audit) -> str:
    count = _number(len(audit.rows), "phase-sensitive layer")
    outcome = "ok" if audit.ok else _number(len(audit.violations), "violation")
    return f"audit of {audit.model} on {audit.inputs}: {count}, {outcome}, {_number(len(audit.lints), 'lint')}"


def _layers(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    folded = [
        (row, like)
        for family in _FAMILIES
        for row, like in _folded([row for row in rows if row.family == family], fold=len(rows) > MAX_LINES)
    ]
    classes = min(24, max(len(row.layer_class) for row in rows))
    sources = max(len("value"), *(len(row.source) for row in rows))
    phases = [max(6, len(phase)) for phase in _PHASES]
    paths = WIDTH - (4 + classes + 2 + 5 + sum(phases) + 2 * len(phases) + 2 + sources + 2)
    paths = max((len(row.path) for row in rows if len(row.path) <= paths), default=24)
    head = [
        "  " + "layer".ljust(paths + 2),
        "class".ljust(classes),
        "rate".rjust(5),
        *(phase.ljust(width) for phase, width in zip(_PHASES, phases, strict=True)),
        "value",
    ]
    lines = ["  ".join(head).rstrip()]
    for family, members in groupby(folded, key=lambda each: each[0].family):
        lines.append(f"  {_TITLES.get(family, family)}")
        for row, like in members:
            is_long = (
                len(row.path) > paths
            )  # then it has a line to itself: what is left out of it might be what matters
            if is_long:
                lines.append(f"    {_shortened(row.path, WIDTH - 4)}")
            cells = [
                "    " + ("" if is_long else row.path).ljust(paths),
                _shortened(row.layer_class, classes).ljust(classes),
                ("" if row.rate is None else f"{row.rate:.3g}").rjust(5),
                *(row.does[phase].ljust(width) for phase, width in zip(_PHASES, phases, strict=True)),
                row.source,
            ]
            lines.append("  ".join(cells).rstrip())
            if like:
                lines.append(f"      and {len(like)} more like it{_rates([row, *like])}")
    return "\n".join(lines)


def _folded(rows: list[Row], fold: bool) -> Iterator[tuple[Row, list[Row]]]:
    """Yields rows, each with the others that are like it and are left out."""
    if not fold:
        yield from ((row, []) for row in rows)
        return
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.layer_class, tuple(row.does.items()), row.source), []).append(row)
    for group in groups.values():
        yield group[0], group[1:]


def _rates(rows: list[Row]) -> str:
    rates = sorted({row.rate for row in rows if row.rate is not None})
    return f", of rates {rates[0]:.3g} to {rates[-1]:.3g}" if len(rates) > 1 else ""


def _contract(audit: Audit) -> str:
    lines = ["contract"]
    for each in audit.verdicts:
        said = each.verdict + (f": {each.reason}" if each.reason else "")
        lines += _wrapped(f"{each.phase:<10}  {said}", first="    ", others=" " * 16)
        for waived in each.waived:
            lines += _wrapped(f"waived: {waived.effect} ({waived.reason})", first=" " * 16, others=" " * 18)
    return "\n".join(lines)


def _violations(audit: Audit) -> str:
    if not audit.violations:
        return ""
    lines = ["violations"]
    for each in audit.violations:
        lines.append(f"  {each.violation.path}  [{', '.join(each.phases)}]")
        lines += _wrapped(f"{each.violation.what}. {each.violation.fix}")
    return "\n".join(lines)


def _lints(audit: Audit) -> str:
    if not audit.lints:
        return ""
    lines = ["lints"]
    for lint in audit.lints:
        lines += _wrapped(f"{lint.name}: {_listed(lint.paths)}", first="  ")
        lines += _wrapped(f"{lint.reason}. {lint.advice}.")
        lines += _wrapped(f"see {lint.reference}")
    return "\n".join(lines)


def _listed(paths: Sequence[str]) -> str:
    most = 3
    return ", ".join(paths[:most]) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def _wrapped(text: str, first: str = "    ", others: str = "    ") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _shortened(text: str, width: int) -> str:
    """Returns a text with its middle left out where it is too long; the end of a path says most."""
    if len(text) <= width:
        return text
    end = (width - 1) * 2 // 3
    return f"{text[: width - 1 - end]}…{text[-end:]}"


def _number(count: int, thing: str) -> str:
    return f"{count or 'no'} {thing}{'' if count == 1 else 's'}"
