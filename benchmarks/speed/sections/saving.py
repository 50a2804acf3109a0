"""What checkpoints cost: for how long a save stops the training, and what is lost to saves every ten seconds or one."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import CONTROL, Kind, Task
from benchmarks.speed.processes import Process, started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.workloads import WIDE

_TURN = 10  # seconds: one save a turn is one every ten seconds
_NONE, _ONE, _TEN, _ITERATOR = "none", "one in ten seconds", "one a second", "one a second, a shuffle's buffer with it"
_OPTIONS = {
    _NONE: {"arrays": True},
    _ONE: {"arrays": True, "saves": 1},
    _TEN: {"arrays": True, "saves": 10},
    _ITERATOR: {"saves": 10},  # the position in a `tf.data.Dataset` is all that its iterator has read ahead
    CONTROL: {"arrays": True},
}


class _Noting:
    """A peer that keeps what it is told of its turns."""

    def __init__(self, process: Process):
        self._process = process
        self.answers: list[dict[str, Any]] = []

    def turn(self) -> float:
        self._process.begin()
        self.answers.append(self._process.end())
        return self.answers[-1]["seconds"]


def _measure(settings: Settings) -> Found:
    steps = max(10, settings.turn(WIDE.steps * _TURN) // 10 * 10)
    kinds = {name: Kind(f"saves: {name}", "with_trainloop.fit", options) for name, options in _OPTIONS.items()}
    with started({name: Task(kind, WIDE, steps) for name, kind in kinds.items()}) as processes:
        peers = {name: _Noting(process) for name, process in processes.items()}
        seconds = rounds.play(peers, settings.few)
    saving = {name: peers[name].answers for name in (_ONE, _TEN, _ITERATOR)}
    answer = saving[_TEN][-1]
    return {
        "steps": steps,
        "seconds": seconds,
        "blocked": {name: [each for own in answers for each in own["blocked"]] for name, answers in saving.items()},
        "mebibytes": answer["mebibytes"],
        "copy": answer["copy"],
    }


def _describe(found: Found) -> str:
    rows = []
    for name, seconds in found["seconds"].items():
        blocked = [each * 1e3 for each in found["blocked"].get(name, [])]
        stopped = f"{statistics.median(blocked):.1f} ms ({max(blocked):.1f})" if blocked else "-"
        title = "control: none again" if name == CONTROL else name
        took = f"{statistics.median(seconds):.2f} s"
        rows.append([title, took, str(rounds.ratio(found["seconds"], name, _NONE)), stopped])
    text = (
        f"{WIDE.title}; {found['mebibytes']:.0f} MiB with Adam's slots, whose bytes are copied once in "
        f"{found['copy'] * 1e3:.1f} ms. {found['steps']:,} steps a turn."
    )
    return f"{text}\n\n{table(['saves', 'a turn', 'seconds / none', 'a save stops for (longest)'], rows)}"


def _goals(found: Found) -> list[Goal]:
    per_hundred = statistics.median(found["blocked"][_TEN]) * 1e3 * 100 / found["mebibytes"]
    one, ten = (100 * (rounds.ratio(found["seconds"], name, _NONE).median - 1) for name in (_ONE, _TEN))
    return [
        at_most("a save stops the training, for each 100 MiB, the copy included", per_hundred, 5.0, " ms"),
        at_most("time lost to one save in ten seconds", one, 1.0, "%"),
        at_most("time lost to one save a second", ten, 3.5, "%"),
    ]


SECTION = Section("Checkpoints", _measure, _describe, _goals)
