"""Everything on against everything off, in one process: a difference that is lost among those of two processes."""

from __future__ import annotations

from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import BASELINE, CONTROL, TRAINING, Kind, Task
from benchmarks.speed.processes import started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.workloads import WORKLOADS

_ON, _OFF = "trainloop", "trainloop_bare"
_KINDS = {name: TRAINING[name] for name in (BASELINE, _ON, _OFF)} | {CONTROL: TRAINING[_OFF]}
_TOGETHER = Kind("side by side", "side_by_side.peers", {"kinds": _KINDS})


def _measure(settings: Settings) -> Found:
    found: Found = {}
    for name in settings.workloads:
        task = Task(_TOGETHER, WORKLOADS[name], settings.turn(WORKLOADS[name].steps))
        found[name] = {"processes": len(settings.shares), "seconds": {each: [] for each in _KINDS}}
        for share in settings.shares:
            with started({name: task}) as processes:
                rounds.play(processes, share)
                for answer in processes[name].answers[1:]:
                    _add(found[name]["seconds"], answer["sides"])
    return found


def _add(seconds: dict[str, list[float]], sides: dict[str, list[float]]) -> None:
    for name, own in sides.items():
        seconds[name] += own


def _describe(found: Found) -> str:
    text = (
        "The loop by hand, trainloop with everything on, with everything off, and with everything off once more (the "
        "control), in threads of one process, of which one trains at a time. Ratios within a round."
    )
    headings = ["workload", "everything on / off", "control: off again / off", "everything on / by hand", "measured in"]
    rows = []
    for name, of_workload in found.items():
        seconds = of_workload["seconds"]
        ratios = [rounds.ratio(seconds, *pair) for pair in ((_ON, _OFF), (CONTROL, _OFF), (_ON, BASELINE))]
        measured = f"{len(seconds[_ON])} rounds in {of_workload['processes']} processes"
        rows.append([WORKLOADS[name].title, *map(_precise, ratios), measured])
    return f"{text}\n\n{table(headings, rows)}"


def _precise(ratio: rounds.Ratio) -> str:
    return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _goals(found: Found) -> list[Goal]:
    return [
        at_most(f"{name}: everything on / everything off", _of(each["seconds"]), 1.01) for name, each in found.items()
    ]


def _of(seconds: dict[str, Any]) -> float:
    return rounds.ratio(seconds, _ON, _OFF).median


SECTION = Section("Side by side", _measure, _describe, _goals)
