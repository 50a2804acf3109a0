"""What a classifier of digits scores, and how the scores of several seeds are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainloop.phase import Phase
from trainloop.tasks.digits import Pairs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN, SEED = "#1f5fa8", "#d95f02"


class Scores(NamedTuple):
    """Mean cross entropy in nats, and the share of right answers."""

    loss: float
    accuracy: float


def scores(model: Any, pairs: Pairs) -> Scores:
    """Returns what a model that puts out class probabilities scores in EVAL.

    Args:
      model: The model.
      pairs: Images and their labels.
    """
    images, labels = pairs
    return scores_of(np.asarray(Phase.EVAL.call(model, images)), labels)


def scores_of(probabilities: np.ndarray, labels: np.ndarray) -> Scores:
    """Returns the scores of probabilities.

    Args:
      probabilities: Shape `[rows, classes]`.
      labels: The right classes, shape `[rows]`.

    Example:
      >>> scores_of(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1])).accuracy
      1.0
    """
    of_the_right = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(of_the_right, 1e-7)).mean()  # as Keras clips them
    return Scores(float(loss), float(np.mean(probabilities.argmax(axis=1) == labels)))


def draw_panels(figure: Figure, panels: Mapping[str, Mapping[str, np.ndarray]], left: float = 0.0) -> None:
    """Draws a panel beside the other for each kind of number, all with the same lines.

    Args:
      figure: Matplotlib's figure.
      panels: What `draw_seeds` takes, by its label.
      left: Where the axes begin.
    """
    both = figure.subplots(1, len(panels), sharey=True)
    for axes, (label, values) in zip(both, panels.items(), strict=True):
        draw_seeds(axes, values, label)
        axes.set_xlim(left=left)
    add_legend(figure, both[0])


def add_legend(figure: Figure, axes: Any) -> None:
    """Says above all panels what dots and strokes are.

    Args:
      figure: Matplotlib's figure.
      axes: The panel that was drawn by `draw_seeds`.
    """
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)


def draw_seeds(axes: Any, values: Mapping[str, np.ndarray], label: str) -> None:
    """Draws a line for each name, a dot on it for each seed, and a stroke at their mean.

    Args:
      axes: Matplotlib's axes.
      values: A number for each seed, by name.
      label: What the numbers are, with their unit.
    """
    for line, of_seeds in enumerate(values.values()):
        axes.plot(of_seeds, [line] * len(of_seeds), "o", color=SEED, alpha=0.7, label=None if line else "one seed")
        axes.plot(np.mean(of_seeds), line, "|", color=MEAN, markersize=16, mew=2.5, label=None if line else "mean")
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
