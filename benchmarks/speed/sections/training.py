"""The peers at work: what a step of a workload costs with each."""

from __future__ import annotations

import functools
import statistics

from benchmarks.speed import rounds
from benchmarks.speed.peers import BASELINE, CONTROL, TRAINING, Task
from benchmarks.speed.processes import played
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_least, at_most, table
from benchmarks.speed.workloads import WORKLOADS

_OURS = "trainloop"
_HIGHEST = [(_OURS, BASELINE, 1.01)]
_HIGHEST_OF_TINY = [(_OURS, BASELINE, 1.00), ("trainloop_arrays", BASELINE, 0.95)]
_LOWEST_OF_TINY = [("fit", _OURS, 4.0), ("fit_100", _OURS, 1.15), ("orbit", _OURS, 1.15)]


def section(workload: str) -> Section:
    """Returns the section on a workload, by its name."""
    return Section(
        f"A step of: {WORKLOADS[workload].title}",
        functools.partial(_measure, workload),
        _describe,
        functools.partial(_goals, workload),
    )


def _measure(name: str, settings: Settings) -> Found:
    workload = WORKLOADS[name]
    steps = settings.turn(workload.steps)
    chosen = [BASELINE, *(peer for peer in settings.peers if peer not in (BASELINE, CONTROL)), CONTROL]
    tasks = {peer: Task(TRAINING[peer], workload, steps) for peer in chosen}
    return {"steps": steps, "seconds": played(tasks, settings.shares), "processes": len(settings.shares)}


def _describe(found: Found) -> str:
    seconds = found["seconds"]
    headings = ["peer", "a step", "seconds / best loop by hand", "seconds / trainloop"]
    rows = []
    for name, own in seconds.items():
        to_ours = str(rounds.ratio(seconds, name, _OURS)) if _OURS in seconds else "-"
        each = step(statistics.median(own) / found["steps"])
        rows.append([TRAINING[name].title, each, str(rounds.ratio(seconds, name, BASELINE)), to_ours])
    shared = f", shared by {found['processes']} processes of each peer" if found["processes"] > 1 else ""
    return f"{found['steps']:,} steps a turn{shared}.\n\n{table(headings, rows)}"


def step(seconds: float) -> str:
    """Spells the seconds of a step."""
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def _goals(workload: str, found: Found) -> list[Goal]:
    seconds, is_tiny = found["seconds"], workload == "mlp"
    kinds = [(at_most, _HIGHEST_OF_TINY if is_tiny else _HIGHEST), (at_least, _LOWEST_OF_TINY if is_tiny else [])]
    return [
        goal(
            f"{workload}: {TRAINING[peer].title} / {TRAINING[to].title}", rounds.ratio(seconds, peer, to).median, bound
        )
        for goal, bounds in kinds
        for peer, to, bound in bounds
        if {peer, to} <= seconds.keys()
    ]
