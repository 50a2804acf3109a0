"""`Scenario`: one question about phases, measured on real data over several seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measurement = Mapping[str, float | np.ndarray]


@dataclasses.dataclass(frozen=True)
class Report:
    """What the measurements of all seeds say.

    Attributes:
      columns: The headings of the table.
      rows: Its lines, each with a cell for each heading.
      conclusion: One sentence, computed from the figures.
      draw: Draws the figure on what it is given.

    Example:
      >>> print(Report(["phase", "loss"], [["EVAL", "0.10"], ["TRAIN", "0.3"]], "", lambda figure: None).table())
      | phase | loss |
      |-------|------|
      | EVAL  | 0.10 |
      | TRAIN | 0.3  |
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    conclusion: str
    draw: Callable[[Figure], None]

    def table(self) -> str:
        """Returns the table as Markdown whose columns are aligned, so that it can be read in a terminal too."""
        lines = [[cell.replace("|", "\\|") for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        head, *body = ["| " + " | ".join(line) + " |" for line in padded]
        return "\n".join([head, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *body])

    def figure(self) -> Figure:
        """Returns the figure, 7 by 4 inches unless `draw` makes it another size.

        Raises:
          ImportError: If matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                'the figure needs matplotlib, which is not installed: pip install "trainloop-tf[report]"'
            ) from error
        figure = Figure(figsize=(7, 4), facecolor="white", layout="constrained")
        self.draw(figure)
        return figure


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One question, how it is measured, and how the measurements are told.

    Attributes:
      name: What `scripts/scenario.py --name=` is given.
      row: The row of the list of claims: `"A1"` to `"D4"`.
      line: What it shows, in one line.
      measure: Called with a seed and a number of epochs; returns what was measured, by name.
      report: Makes the table and the figure of the measurements of all seeds, in their order.
      epochs: How long it trains unless told otherwise; 0 where nothing is trained.
    """

    name: str
    row: str
    line: str
    measure: Callable[[int, int], Measurement]
    report: Callable[[Sequence[Measurement]], Report]
    epochs: int = 0


def over_seeds(measurements: Sequence[Measurement], name: str) -> np.ndarray:
    """Returns a number of each measurement, `[seeds]`.

    Args:
      measurements: One for each seed.
      name: The number's name.
    """
    return np.asarray([each[name] for each in measurements], np.float64)


def mean_and_spread(measurements: Sequence[Measurement], name: str, digits: int = 3) -> str:
    """Returns the mean of a number over the seeds and, where there are several, its standard deviation.

    Args:
      measurements: One for each seed.
      name: The number's name.
      digits: Digits behind the point.

    Example:
      >>> mean_and_spread([{"loss": 0.25}, {"loss": 0.75}], "loss")
      '0.500 ± 0.354'
    """
    values = over_seeds(measurements, name)
    spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"
