"""The figure of a sweep: training against evaluation, over each key that was varied."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainloop.sweeping.axes import Axis, Value
from trainloop.sweeping.plan import Plan
from trainloop.sweeping.table import train_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trainloop.sweeping.study import Result

_TRAIN, _EVAL = "#1f5fa8", "#d95f02"


def draw(results: Sequence[Result], plan: Plan) -> Figure:
    """Draws a panel for each axis: a dot a trial, and where a value has several, their mean and standard deviation.

    Trials that were pruned or that diverged are left out.

    Args:
      results: The trials, sorted by values.
      plan: Which keys were varied, and which metric counts.
    """
    from matplotlib.figure import Figure

    complete = [result for result in results if result.state == "complete"]
    count = len(plan.axes)
    figure = Figure(figsize=(1.6 + 5.2 * count, 4.2), facecolor="white", layout="constrained")
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for panel, axis in zip(panels, plan.axes, strict=True):
        _draw_panel(panel, axis, complete, plan)
    panels[0].set_ylabel(f"{plan.metric.rpartition('/')[2]} after training, dropout off")
    panels[0].legend(frameon=False, fontsize=9)
    seeds = len({result.job.seed for result in complete})
    figure.suptitle(
        f"{len(complete)} trials, {seeds} {'seed' if seeds == 1 else 'seeds'}; lines: mean ± standard deviation",
        fontsize=10,
        x=0.01,
        ha="left",
    )
    return figure


def _draw_panel(panel: Any, axis: Axis, results: Sequence[Result], plan: Plan) -> None:
    values = sorted(
        {dict(result.job.values)[axis.key] for result in results}, key=lambda value: (str(type(value)), value)
    )
    are_numbers = not any(isinstance(value, bool | str) for value in values)
    places = {value: value if are_numbers else place for place, value in enumerate(values)}
    for metric, name, colour, marker in (
        (train_metric(plan.metric), "training data", _TRAIN, "o"),
        (plan.metric, "evaluation data", _EVAL, "s"),
    ):
        _draw_metric(panel, _by_value(results, axis.key, metric), places, name, colour, marker)
    if not are_numbers:
        panel.set_xticks(range(len(values)), [str(value) for value in values])
    elif axis.log:
        panel.set_xscale("log")
    elif len(values) <= 12:
        panel.set_xticks(values)
    panel.set_xlabel(f"config.{axis.key}")
    panel.grid(color="#e6e6e6", linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def _draw_metric(
    panel: Any, scores: dict[Value, list[float]], places: dict[Value, Any], name: str, colour: str, marker: str
) -> None:
    dots = [(places[value], score) for value, of_value in scores.items() for score in of_value]
    several = [value for value, of_value in scores.items() if len(of_value) > 1]
    panel.scatter(
        *zip(*dots, strict=True) if dots else ([], []),
        s=14,
        alpha=0.45,
        color=colour,
        marker=marker,
        linewidths=0,
        label=None if several else name,
    )
    if several:
        means = [statistics.fmean(scores[value]) for value in several]
        spreads = [statistics.stdev(scores[value]) for value in several]
        at = [places[value] for value in several]
        panel.plot(at, means, color=colour, marker=marker, markersize=4.5, linewidth=1.6, label=name)
        low = [mean - spread for mean, spread in zip(means, spreads, strict=True)]
        high = [mean + spread for mean, spread in zip(means, spreads, strict=True)]
        panel.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _by_value(results: Sequence[Result], key: str, metric: str) -> dict[Value, list[float]]:
    measured = [
        (dict(each.job.values)[key], each.metrics[metric])
        for each in results
        if math.isfinite(each.metrics.get(metric, math.nan))
    ]
    measured.sort(key=lambda pair: (str(type(pair[0])), pair[0]))
    return {
        value: [score for _, score in group] for value, group in itertools.groupby(measured, key=lambda pair: pair[0])
    }
