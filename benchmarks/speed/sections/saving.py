"""What checkpoints cost: for how long a save stops the training, and how much longer training takes that saves.

A process has a save at the beginning of every second turn, so what it costs is the difference between a turn and the
one before, of the same process: what makes two processes of one program differ for as long as they live is in both.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import CONTROL, Kind, Task
from benchmarks.speed.processes import Process, started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.workloads import WIDE

_TURN = 2  # seconds: some times what a save takes to be written; one that takes longer lengthens its turn
_TRIED, _TRIES = 20, 9  # steps of a turn that tells how long a step takes, and how many there are
_SAVE, _ITERATOR = "a save", "a save, a shuffle's buffer with it"
_OPTIONS = {
    _SAVE: {"arrays": True, "saves": 2},
    _ITERATOR: {"saves": 2},  # the position in a `tf.data.Dataset` is all that its iterator has read ahead
    CONTROL: {"arrays": True, "saves": 0},
}


def _measure(settings: Settings) -> Found:
    kinds = {name: Kind(f"saves: {name}", "with_trainloop.fit", options) for name, options in _OPTIONS.items()}
    steps = max(1, round(_TURN / _seconds_of_a_step(kinds[CONTROL])))
    with started({name: Task(kind, WIDE, steps) for name, kind in kinds.items()}) as processes:
        rounds.play(processes, 2 * settings.rounds)
        found = {name: pairs(process) for name, process in processes.items()}
    return {
        "steps": steps,
        "seconds": {name: [[turn["seconds"] for turn in pair] for pair in each] for name, each in found.items()},
        "blocked": {name: [pair[1]["blocked"] for pair in found[name]] for name in (_SAVE, _ITERATOR)},
        **{name: found[_SAVE][-1][1][name] for name in ("mebibytes", "copy")},
    }


def _seconds_of_a_step(kind: Kind) -> float:
    with started({CONTROL: Task(kind, WIDE, _TRIED)}) as processes:
        return statistics.median(rounds.play(processes, _TRIES)[CONTROL]) / _TRIED


def pairs(process: Process) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Returns each turn without a save, and the one with a save after it; the first turn of all is to warm up."""
    turns = iter(process.answers[1:])
    return list(zip(turns, turns, strict=True))


def _lost(found: Found, name: str) -> list[float]:
    """Returns how many seconds longer each turn with a save has taken than the one before."""
    return [with_save - without for without, with_save in found["seconds"][name]]


def _describe(found: Found) -> str:
    rows = []
    for name, turns in found["seconds"].items():
        blocked = [each * 1e3 for each in found["blocked"].get(name, [])]
        stopped = f"{statistics.median(blocked):.1f} ms ({max(blocked):.1f})" if blocked else "-"
        title = "control: none in either turn" if name == CONTROL else name
        without = f"{statistics.median(each for each, _ in turns):.2f} s"
        rows.append([title, without, _quartiles(_lost(found, name)), stopped])
    text = (
        f"{WIDE.title}; {found['mebibytes']:.0f} MiB with Adam's slots, whose bytes are copied once in "
        f"{found['copy'] * 1e3:.1f} ms. {found['steps']:,} steps a turn; {len(found['blocked'][_SAVE])} turns with a "
        "save, each held against the turn without before it, in the same process."
    )
    headings = ["what", "a turn without", "a turn with takes longer by", "a save stops for (longest)"]
    return f"{text}\n\n{table(headings, rows)}"


def _quartiles(seconds: list[float]) -> str:
    low, median, high = (each * 1e3 for each in rounds.quartiles(seconds))
    return f"{median:.0f} ms ({low:.0f} to {high:.0f})"


def _goals(found: Found) -> list[Goal]:
    beyond = statistics.median(found["blocked"][_SAVE]) - found["copy"]
    per_hundred = beyond * 1e3 * 100 / found["mebibytes"]
    lost = statistics.median(_lost(found, _SAVE))
    return [
        at_most("a save stops the training, beyond one copy, for each 100 MiB", per_hundred, 5.0, " ms"),
        at_most("what a save costs, of ten seconds", 100 * lost / 10, 1.0, "%"),
        at_most("what a save costs, of one second", 100 * lost, 3.5, "%"),
    ]


SECTION = Section("Checkpoints", _measure, _describe, _goals)
