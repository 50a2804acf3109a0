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


def play(peers: Mapping[str, Peer], rounds: int, seed: int = 0) -> dict[str, list[float]]:
    """Gives each peer a turn in each round, in an order drawn anew, so that nobody always follows the same one.

    Args:
      peers: Who takes part, by name.
      rounds: How many rounds there are.
      seed: What the orders are drawn by.

    Returns:
      The seconds of each peer's turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    generator = random.Random(seed)
    for _ in range(rounds):
        for name in generator.sample(list(peers), len(peers)):
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
    each = [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
    if len(each) == 1:
        return Ratio(each[0], each[0], each[0])
    low, _, high = statistics.quantiles(each, n=4, method="inclusive")
    return Ratio(statistics.median(each), low, high)
