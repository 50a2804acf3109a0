"""What is measured, a module each; `SECTIONS` has them in the order of the document."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Found = dict[str, Any]  # values of JSON


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
      workloads: The names of the workloads that the peers train.
      peers: The names of the peers.
      rounds: How many rounds there are; a third of it where a turn is long, and two turns for each where one is held
        against the one before.
      seconds: About how long the best loop written by hand trains in a turn.
      processes: How many processes each peer has, one after the other, where peers train a workload or pass over data:
        each has its share of the rounds, since two processes of one program may differ for as long as they live.
    """

    workloads: Sequence[str]
    peers: Sequence[str]
    rounds: int
    seconds: float
    processes: int = 1

    @property
    def shares(self) -> list[int]:
        """The rounds of each process of a peer; one that has none is left out."""
        shares = [self.rounds * (each + 1) // self.processes for each in range(self.processes)]
        return [share for share in map(int.__sub__, shares, [0, *shares]) if share]

    @property
    def few(self) -> int:
        """The rounds where a turn is long."""
        return max(1, self.rounds // 3)

    def turn(self, steps: int) -> int:
        """Returns the steps of a turn, from those of a second; hundreds of them where there are so many."""
        scaled = max(1, round(steps * self.seconds))
        return scaled if scaled < 100 else scaled // 100 * 100


@dataclasses.dataclass(frozen=True)
class Goal:
    """Something that is to hold.

    Attributes:
      what: What is measured.
      measured: What it has come to.
      bound: What it is to be, as text.
      met: Whether it is.
    """

    what: str
    measured: str
    bound: str
    met: bool


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the benchmark.

    Attributes:
      title: Its heading in the document.
      measure: Measures it; what it returns goes to the JSON file.
      describe: Says what was found, in Markdown.
      goals: What was to hold of it.
    """

    title: str
    measure: Callable[[Settings], Found]
    describe: Callable[[Found], str]
    goals: Callable[[Found], list[Goal]] = lambda found: []


def at_most(what: str, value: float, bound: float, unit: str = "") -> Goal:
    """Returns the goal that a number is no larger than another."""
    return Goal(what, _spelled(value, unit), f"at most {bound:.2f}{unit}", value <= bound)


def at_least(what: str, value: float, bound: float, unit: str = "") -> Goal:
    """Returns the goal that a number is no smaller than another."""
    return Goal(what, _spelled(value, unit), f"at least {bound:.2f}{unit}", value >= bound)


def _spelled(value: float, unit: str) -> str:
    """Spells what was measured; a ratio so exactly that it does not look like a bound that it misses."""
    return f"{value:.2f}{unit}" if unit else f"{value:.3f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
