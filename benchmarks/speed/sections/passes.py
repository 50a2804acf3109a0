"""`evaluate` and `predict`, against tf-keras's."""

from __future__ import annotations

import dataclasses
import statistics

from benchmarks.speed import rounds
from benchmarks.speed.peers import CONTROL, Kind, Task
from benchmarks.speed.processes import played
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_least, table
from benchmarks.speed.workloads import WORKLOADS

_ROWS = {"mlp": 100_000, "cnn": 8_192}
_BOUNDS = {"mlp": 3.0, "cnn": 1.0}
_METHODS = ("evaluate", "predict")
_TITLES = {
    "keras": "tf-keras",
    "trainloop": "trainloop",
    "trainloop_arrays": "trainloop, `data.from_arrays`",
    CONTROL: "control: tf-keras again",
}


def _measure(settings: Settings) -> Found:
    seconds: Found = {}
    for name, rows in _ROWS.items():
        workload = dataclasses.replace(WORKLOADS[name], rows=rows)
        seconds[name] = {}
        for method in _METHODS:
            keras = Kind(f"tf-keras `{method}`", "keras_fit.one_pass", {"method": method})
            kinds = {
                "keras": keras,
                "trainloop": Kind(f"trainloop `{method}`", "with_trainloop.one_pass", {"method": method}),
                "trainloop_arrays": Kind(
                    f"trainloop `{method}` of arrays", "with_trainloop.one_pass", {"method": method, "arrays": True}
                ),
                CONTROL: keras,
            }
            tasks = {peer: Task(kind, workload, 0) for peer, kind in kinds.items()}
            seconds[name][method] = played(tasks, settings.shares)
    return {"processes": len(settings.shares), "seconds": seconds}


def _describe(found: Found) -> str:
    rows = []
    for name, methods in found["seconds"].items():
        for method, seconds in methods.items():
            for peer, own in seconds.items():
                took = f"{statistics.median(own):.2f} s"
                title = f"{WORKLOADS[name].title}, {_ROWS[name]:,} rows: `{method}`"
                rows.append([title, _TITLES[peer], took, str(rounds.ratio(seconds, "keras", peer))])
    headings = ["pass", "peer", "seconds", "times as fast as tf-keras"]
    return f"The rounds are shared by {found['processes']} processes of each peer.\n\n{table(headings, rows)}"


def _goals(found: Found) -> list[Goal]:
    return [
        at_least(
            f"{name}: `{method}` of tf-keras / of trainloop", rounds.ratio(seconds, "keras", "trainloop").median, bound
        )
        for name, bound in _BOUNDS.items()
        for method, seconds in found["seconds"][name].items()
    ]


SECTION = Section("Evaluation and prediction", _measure, _describe, _goals)
