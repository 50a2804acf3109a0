"""The results of a sweep as a CSV file, and as a short table for the terminal."""

from __future__ import annotations

import csv
import itertools
import math
import os
import pathlib
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from trainloop.sweeping.axes import Value
from trainloop.sweeping.plan import Plan

if TYPE_CHECKING:
    from trainloop.sweeping.study import Result

MOST_LINES = 20


def save(results: Sequence[Result], path: pathlib.Path) -> None:
    """Writes a row for each trial: its values, its seed, how it ended, and its metrics.

    Args:
      results: The trials.
      path: The file; it is replaced as a whole.
    """
    keys = list(dict.fromkeys(key for result in results for key, _ in result.job.values))
    metrics = sorted(
        {name for result in results for name in result.metrics}, key=lambda name: (name[:5] != "train", name)
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*keys, "seed", "state", *metrics, "workdir"])
        for result in results:
            values, job = dict(result.job.values), result.job
            measured = [result.metrics.get(name, "") for name in metrics]
            writer.writerow([*(values[key] for key in keys), job.seed, result.state, *measured, f"trials/{job.name}"])
    temporary.replace(path)


def train_metric(metric: str) -> str:
    """Returns the name of the same metric on the training data: `train/accuracy` for `eval/accuracy`."""
    return f"train/{metric.rpartition('/')[2]}"


def points(results: Iterable[Result]) -> Iterator[tuple[dict[str, Value], list[Result]]]:
    """Yields the values that were tried, each with its trials, one a seed.

    Args:
      results: Sorted by values.
    """
    for values, group in itertools.groupby(results, key=lambda result: result.job.values):
        yield dict(values), list(group)


def shown(results: Sequence[Result], plan: Plan) -> str:
    """Returns a line for each point, with mean and standard deviation over its seeds; the best one is marked.

    Args:
      results: The trials, sorted by values.
      plan: Which metric counts. Of many points the best are shown.
    """
    if not results:
        return "no trial is done"
    names = [train_metric(plan.metric), plan.metric]
    keys = [axis.key for axis in plan.axes]
    lines, ranks = [], []
    for values, trials in points(results):
        scores = [scores_of(trials, name) for name in names]
        lines.append([*(_short(values[key]) for key in keys), _counted(trials), *map(_mean_and_spread, scores)])
        ranks.append((-1 if plan.mode == "max" else 1) * statistics.fmean(scores[1]) if scores[1] else math.inf)
    best = sorted(range(len(lines)), key=ranks.__getitem__)[:MOST_LINES]
    marks = {best[0]: "  best"} if math.isfinite(ranks[best[0]]) else {}
    head = [*keys, "trials", *names]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rows = [(head, "")] + [(lines[place], marks.get(place, "")) for place in sorted(best)]
    text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) + mark for row, mark in rows]
    if len(lines) > len(best):
        text.append(f"the best {len(best)} of {len(lines)} points; all are in sweep.csv")
    return "\n".join(text)


def scores_of(trials: Iterable[Result], metric: str) -> list[float]:
    """Returns a metric of the trials that were trained to their end, where it is a finite number."""
    scores = [trial.metrics.get(metric, math.nan) for trial in trials if trial.state == "complete"]
    return [score for score in scores if math.isfinite(score)]


def _counted(trials: Sequence[Result]) -> str:
    """Returns `"5"`, or `"3 + 2 pruned"`: the scores are those of the first three."""
    states = [trial.state for trial in trials]
    others = [f"{states.count(state)} {state}" for state in ("pruned", "diverged") if state in states]
    return " + ".join([str(states.count("complete")), *others])


def _mean_and_spread(scores: Sequence[float]) -> str:
    if not scores:
        return "-"
    spread = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{statistics.fmean(scores):.4f}{spread}"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
