"""What a program says at its end: scores as a table, where everything lies, and how to go on."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from trainloop.workdir import Workdir

_CONTENTS = {
    "checkpoints": "restored by the next start, and by scripts/evaluate.py",
    "metrics": "one JSON line a report",
    "phases": "one JSON line for each phase entered and left",
    "events": "for tensorboard --logdir",
    "predictions": "what the model predicted last",
    "config": "what the run was started with",
}


def score_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Returns one line for each data set and one column for each metric.

    Args:
      scores: Metrics by the name of the data set.

    Example:
      >>> print(score_table({"eval": {"loss": 0.03125, "accuracy": 0.9889}, "test": {"loss": 0.5, "accuracy": 1.0}}))
                loss  accuracy
      eval   0.03125    0.9889
      test       0.5         1
    """
    metrics = list(dict.fromkeys(name for of_set in scores.values() for name in of_set))
    cells = {name: [_number(of_set.get(metric)) for metric in metrics] for name, of_set in scores.items()}
    rows = [["", *metrics], *([name, *row] for name, row in cells.items())]
    left = max(len(row[0]) for row in rows)
    widths = [max(8, *(len(row[column]) for row in rows)) for column in range(1, len(metrics) + 1)]
    return "\n".join(
        row[0].ljust(left) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in rows
    )


def file_list(path: str) -> str:
    """Returns what lies in a run's directory, a line each.

    Args:
      path: The workdir.
    """
    workdir = Workdir(path)
    there = {key: getattr(workdir, key) for key in _CONTENTS if getattr(workdir, key).exists()}
    names = {key: f"{place.name}{'/' if place.is_dir() else ''}" for key, place in there.items()}
    return "\n".join(f"  {name:<18} {_CONTENTS[key]}" for key, name in names.items())


def command_with(**values: Any) -> str:
    """Returns this program's own command line with other values for some flags, to be typed into a shell."""
    replaced = tuple(prefix + name for name in values for prefix in ("--", "-"))
    words, skip = [], False
    for word in sys.argv:
        if not skip and word.partition("=")[0] not in replaced:
            words.append(word)
        skip = not skip and word in replaced
    return shlex.join([sys.orig_argv[0], *words, *(f"--{name}={value}" for name, value in values.items())])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if math.isfinite(value) else str(value)
