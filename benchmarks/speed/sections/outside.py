"""What trainloop does between two calls of its loop, with everything on and with everything off.

A share of a turn, known better than a ratio of two turns where these differ by more than what is looked for. Of what
everything on costs that is the part of callbacks and reports: the test for NaN is in the loop, and "Checkpoints" has
the saves, none of which falls into these turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import TRAINING, Task
from benchmarks.speed.processes import started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.workloads import WORKLOADS

_ON, _OFF = "trainloop", "trainloop_bare"


def _measure(settings: Settings) -> Found:
    found: Found = {}
    for name in settings.workloads:
        workload = WORKLOADS[name]
        steps = settings.turn(workload.steps)
        found[name] = {peer: [] for peer in (_ON, _OFF)}
        for share in settings.shares:
            with started({peer: Task(TRAINING[peer], workload, steps) for peer in (_ON, _OFF)}) as processes:
                rounds.play(processes, share)
                for peer, process in processes.items():
                    found[name][peer] += outside(process.answers[1:])
    return found


def outside(turns: Sequence[dict[str, Any]]) -> list[float]:
    """Returns the part of each turn in which the loop did not run."""
    return [1 - turn["in_loop"] / turn["seconds"] for turn in turns]


def _describe(found: Found) -> str:
    rows = [
        [WORKLOADS[name].title, *(_percent(rounds.quartiles(of_peer[peer])) for peer in (_ON, _OFF))]
        for name, of_peer in found.items()
    ]
    text = (
        "The part of a turn, which is an epoch and has a report, in which trainloop's loop does not run: its callbacks "
        "do, and what leads from one chunk to the next. No save falls into these turns."
    )
    return f"{text}\n\n{table(['workload', 'everything on', 'everything off'], rows)}"


def _percent(quartiles: tuple[float, float, float]) -> str:
    low, median, high = (each * 100 for each in quartiles)
    return f"{median:.2f}% ({low:.2f} to {high:.2f})"


def _goals(found: Found) -> list[Goal]:
    return [
        at_most(f"{name}: what everything on adds outside of the loop", _added(of_peer) * 100, 1.0, "% of the time")
        for name, of_peer in found.items()
    ]


def _added(of_peer: dict[str, list[float]]) -> float:
    on, off = (rounds.quartiles(of_peer[peer])[1] for peer in (_ON, _OFF))
    return on - off


SECTION = Section("Outside of the loop", _measure, _describe, _goals)
