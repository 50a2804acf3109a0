"""Who trains when, and what follows from the seconds."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

Seconds = Mapping[str, Sequence[float]]  # of each peer, those of its turns, in the order of the rounds


class Peer(Protocol):
    """Somebody who can be told to train."""

    def turn(self) -> float:
        """Trains some steps and returns the seconds that they took."""
        ...


def play(peers: Mapping[str, Peer], rounds: int) -> dict[str, list[float]]:
    """Gives each peer a turn in each round, in an order drawn anew, so that nobody always follows the same one.

    Args:
      peers: Who takes part, by name.
      rounds: How many rounds there are.

    Returns:
      The seconds of each peer's turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name in random.sample(list(peers), len(peers)):
            seconds[name].append(peers[name].turn())
    return seconds


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How often the seconds of one peer hold those of another.

    Attributes:
      median: The median of the rounds' ratios.
      low: Their lower quartile.
      high: Their upper quartile.
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(seconds: Seconds, name: str, to: str) -> Ratio:
    """Returns the ratio of two peers, taken within each round."""
    low, median, high = quartiles([a / b for a, b in zip(seconds[name], seconds[to], strict=True)])
    return Ratio(median, low, high)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile; of one value, that value."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
