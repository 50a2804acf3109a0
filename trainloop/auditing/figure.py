"""The figure of an audit: what each layer puts out in training, against evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trainloop.auditing.activation_statistics import MASKS, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More lines than this no page can show; those whose variance moves most are drawn then.
MOST_LAYERS = 60
_TRAIN, _EVAL, _BETWEEN = "#1f5fa8", "#d95f02", "#b8b8b8"


def draw(model: str, inputs: str, measurements: Sequence[Measurement]) -> Figure:
    """Draws means, variances and the ratio of the variances, one line for each layer.

    Args:
      model: The name of the model, for the title.
      inputs: What it was called on, for the title.
      measurements: What was measured.

    Raises:
      ImportError: If matplotlib is not installed.
      ValueError: If there is nothing to draw.
    """
    if not measurements:
        raise ValueError(
            "Audit.figure: nothing was measured. Give audit a batch of data, where it got only shapes; a model without "
            "phase-sensitive layers has nothing to show"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'the figure needs matplotlib, which is not installed: pip install "trainloop-tf[report]"'
        ) from error
    shown = _most_moved(measurements)
    names = [_ending(each.path) for each in shown]
    margin = 0.4 + 0.075 * max(map(len, names))
    width, height = margin + 8.6, 1.5 + 0.26 * len(shown)
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.subplots_adjust(left=margin / width, right=1 - 0.2 / width, top=1 - 0.95 / height, bottom=0.5 / height)
    figure.subplots_adjust(wspace=0.12)
    means, variances, ratios = figure.subplots(1, 3, sharey=True)
    lines = range(len(shown))
    _pairs(means, [each.train_mean for each in shown], [each.eval_mean for each in shown])
    _pairs(variances, [each.train_variance for each in shown], [each.eval_variance for each in shown])
    _ratios(ratios, [each.variance_ratio for each in shown])
    for axes, title in ((means, "mean"), (variances, "variance"), (ratios, "variance, evaluation / training")):
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8, length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    if all(value > 0 for each in shown for value in (each.train_variance, each.eval_variance)):
        variances.set_xscale("log")
    means.set_yticks(lines, names)
    means.set_ylim(len(shown) - 0.4, -0.6)
    title = f"{model} on {inputs}"
    if len(shown) < len(measurements):
        title += f": the {len(shown)} of {len(measurements)} layers whose variance moves most"
    figure.text(0.2 / width, 1 - 0.25 / height, title, fontsize=11, weight="bold", va="center")
    figure.legend(
        *means.get_legend_handles_labels(),
        loc="center left",
        bbox_to_anchor=(0.12 / width, 1 - 0.52 / height),
        ncols=2,
        frameon=False,
        fontsize=8,
    )
    return figure


def _pairs(axes: Any, train: list[float], evaluation: list[float]) -> None:
    lines = range(len(train))
    axes.hlines(lines, train, evaluation, color=_BETWEEN, linewidth=2, zorder=1)
    axes.scatter(train, lines, color=_TRAIN, s=26, zorder=2, label=f"training (mean of {MASKS} draws)")
    axes.scatter(
        evaluation, lines, facecolor="white", edgecolor=_EVAL, linewidth=1.6, s=26, zorder=3, label="evaluation"
    )


def _ratios(axes: Any, ratios: list[float]) -> None:
    """Draws how far each ratio is from 1, on a logarithmic axis: half and double are equally far."""
    drawn = [ratio if math.isfinite(ratio) and ratio > 0.0 else 1.0 for ratio in ratios]
    farthest = max(1.25, *(max(ratio, 1 / ratio) for ratio in drawn)) * 1.3
    axes.set_xscale("log")
    axes.set_xlim(1 / farthest, farthest)
    axes.axvline(1.0, color="#555555", linewidth=0.8, zorder=1)
    axes.hlines(range(len(drawn)), 1.0, drawn, color=_EVAL, linewidth=5, zorder=2)
    for line, (ratio, end) in enumerate(zip(ratios, drawn, strict=True)):
        is_left = end < 1.0  # the number stands on the other side, where there is room for it
        text = f"{ratio:.3g}" if math.isfinite(ratio) else "no variance"
        axes.annotate(
            text,
            (1.0, line),
            xytext=(4 if is_left else -4, 0),
            textcoords="offset points",
            ha="left" if is_left else "right",
            va="center",
            fontsize=7,
        )
    base = 2 if farthest <= 8 else 4 if farthest <= 50 else 10 ** math.ceil(math.log10(farthest) / 2.99)
    ticks = [base**power for power in range(-3, 4) if 1 / farthest <= base**power <= farthest]
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.minorticks_off()


def _most_moved(measurements: Sequence[Measurement]) -> list[Measurement]:
    def moved(each: Measurement) -> float:
        ratio = each.variance_ratio
        return abs(math.log(ratio)) if math.isfinite(ratio) and ratio > 0.0 else math.inf

    kept = sorted(measurements, key=moved, reverse=True)[:MOST_LAYERS]
    return [each for each in measurements if each in kept]


def _ending(path: str) -> str:
    longest = 40
    return path if len(path) <= longest else f"…{path[1 - longest :]}"
