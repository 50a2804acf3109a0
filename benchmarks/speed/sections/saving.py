"""What checkpoints cost: for how long a save stops the training, and what is lost to saves every ten seconds or one."""

from __future__ import annotations

import statistics

from benchmarks.speed import rounds
from benchmarks.speed.peers import CONTROL, Kind, Task
from benchmarks.speed.processes import started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.workloads import WIDE

_TURN = 10  # seconds: one save a turn is one every ten seconds
_TRIED, _TRIES = 20, 9  # steps of a turn that tells how long a step takes, and how many there are
_NONE, _ONE, _TEN, _ITERATOR = "none", "one in ten seconds", "one a second", "one a second, a shuffle's buffer with it"
_OPTIONS = {
    _NONE: {"arrays": True},
    _ONE: {"arrays": True, "saves": 1},
    _TEN: {"arrays": True, "saves": 10},
    _ITERATOR: {"saves": 10},  # the position in a `tf.data.Dataset` is all that its iterator has read ahead
    CONTROL: {"arrays": True},
}


def _measure(settings: Settings) -> Found:
    kinds = {name: Kind(f"saves: {name}", "with_trainloop.fit", options) for name, options in _OPTIONS.items()}
    steps = max(10, round(_TURN / _seconds_of_a_step(kinds[_NONE]) / 10) * 10)
    with started({name: Task(kind, WIDE, steps) for name, kind in kinds.items()}) as processes:
        seconds = rounds.play(processes, settings.few)
        saving = {name: processes[name].answers[1:] for name in (_ONE, _TEN, _ITERATOR)}  # the first is to warm up
    answer = saving[_TEN][-1]
    return {
        "steps": steps,
        "seconds": seconds,
        "blocked": {name: [each for own in answers for each in own["blocked"]] for name, answers in saving.items()},
        "mebibytes": answer["mebibytes"],
        "copy": answer["copy"],
    }


def _seconds_of_a_step(kind: Kind) -> float:
    """Returns how long a step takes on this machine, so that the rates of saves are what they are called."""
    with started({_NONE: Task(kind, WIDE, _TRIED)}) as processes:
        return statistics.median(rounds.play(processes, _TRIES)[_NONE]) / _TRIED


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
