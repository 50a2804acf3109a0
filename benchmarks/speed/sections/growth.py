"""How cost grows: with the steps of a run, the layers of a model, the rows of the data, the number of callbacks."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping

from benchmarks.speed import rounds
from benchmarks.speed.peers import BASELINE, TRAINING, Kind, Task
from benchmarks.speed.processes import Process, started
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.sections.training import step
from benchmarks.speed.workloads import WORKLOADS, deep

_COMPARISONS = 60  # for each round of other sections: its turns are short, and differ by several percent
_STEPS = (10**3, 10**4, 10**5, 10**6)
_DEPTHS = (10, 30, 100, 300)
_ROWS = (10**3, 10**4, 10**5, 10**6)
_CALLBACKS = (0, 10, 100)
_COMPARED = (BASELINE, "fit", "trainloop")


def _measure_steps(settings: Settings) -> Found:
    """One run, with a report every 100 steps and everything on; what it has cost by then, at each power of ten.

    Minutes lie between its first steps and its last ones, in which a machine may change. So a second run takes turns
    with it at first, sleeps, and takes turns with it again at the end.
    """
    turn = _STEPS[0]
    workload = dataclasses.replace(WORKLOADS["mlp"], rows=4_096)  # a large shuffle takes memory for some time
    task = Task(TRAINING["trainloop_steps"], workload, turn)
    compared = settings.rounds * _COMPARISONS
    with started({"it": task, "sleeper": task}) as processes:  # in this turn the step is traced
        early = rounds.play(processes, compared)
        it = processes["it"]
        while len(it.answers) * turn < _STEPS[-1]:
            it.turn()
        late = rounds.play(processes, compared)
    since = [it.answers[before // turn : steps // turn] for before, steps in itertools.pairwise(_STEPS)]
    means = [statistics.fmean(answer["seconds"] for answer in answers) / turn for answers in since]
    return {
        "steps": list(_STEPS),
        "seconds_a_step": [None, *means],
        "mebibytes": [it.answers[steps // turn - 1]["memory"] for steps in _STEPS],
        "early": early,
        "late": late,
    }


def _describe_steps(found: Found) -> str:
    rows = [
        [f"{steps:,}", "the step is traced" if seconds is None else step(seconds), f"{memory:.0f} MiB"]
        for steps, seconds, memory in zip(found["steps"], found["seconds_a_step"], found["mebibytes"], strict=True)
    ]
    ratios = [str(rounds.ratio(found[when], "it", "sleeper")) for when in ("early", "late")]
    text = (
        "trainloop on the tiny MLP, everything on, a report every 100 steps; a line has the steps since the one above. "
        f"A second run of the same took {len(found['early']['it'])} turns of {_STEPS[0]:,} steps with it at first, "
        "slept, and took as many with it again at the end: a step took "
        f"{ratios[0]} times as long as one of the second run, and after 10^6 steps {ratios[1]} times."
    )
    return f"{text}\n\n{table(['steps', 'a step', 'memory in use'], rows)}"


def _late_by_early(found: Found) -> float:
    """Returns a step after a million against one at the beginning, each against a step of the run that slept."""
    late, early = (rounds.ratio(found[when], "it", "sleeper").median for when in ("late", "early"))
    return late / early


def _goals_steps(found: Found) -> list[Goal]:
    _, before, _, after = found["mebibytes"]
    return [
        at_most("a step after 10^6 takes longer than the first ones by", (_late_by_early(found) - 1) * 100, 2.0, "%"),
        at_most("memory in use that 990,000 steps have added", after - before, 20.0, " MiB"),
    ]


def _measure_depth(settings: Settings) -> Found:
    found: Found = {"depths": list(_DEPTHS), "first": _empty(_COMPARED), "seconds_a_step": _empty(_COMPARED)}
    forks = Process(None)
    try:
        for depth in _DEPTHS:
            workload = deep(depth)
            firsts = {name: FirstSteps(forks, Task(TRAINING[name], workload, 1)) for name in _COMPARED}
            for name, seconds in rounds.play(firsts, 1).items():
                found["first"][name] += seconds
            steps = settings.turn(workload.steps)
            with started({name: Task(TRAINING[name], workload, steps) for name in _COMPARED}) as processes:
                for name, seconds in rounds.play(processes, settings.few).items():
                    found["seconds_a_step"][name].append(statistics.median(seconds) / steps)
    finally:
        forks.close()
    return found


@dataclasses.dataclass
class FirstSteps:
    """A peer whose turns are first steps, each in a process that is forked for it.

    Attributes:
      forks: The process that forks.
      task: What is done.
    """

    forks: Process
    task: Task

    def turn(self) -> float:
        """Returns the seconds until the first step of a new process is done."""
        return self.forks.first_turn(self.task)["seconds"]


def _describe_depth(found: Found) -> str:
    headings = [
        "layers",
        *(f"{TRAINING[name].title}: {what}" for what in ("first step", "a step") for name in _COMPARED),
    ]
    rows = [
        [
            str(depth),
            *(f"{found['first'][name][place]:.2f} s" for name in _COMPARED),
            *(step(found["seconds_a_step"][name][place]) for name in _COMPARED),
        ]
        for place, depth in enumerate(found["depths"])
    ]
    text = "Dense layers of 32. The first step is done so long after TensorFlow and tf-keras were imported."
    return f"{text}\n\n{table(headings, rows)}"


def _measure_rows(settings: Settings) -> Found:
    names = (BASELINE, "trainloop", "trainloop_arrays")
    kinds = {name: TRAINING[name] for name in names}
    found: Found = {"rows": list(_ROWS), "seconds_a_step": _empty(names)}
    for rows in _ROWS:
        workload = dataclasses.replace(WORKLOADS["mlp"], rows=rows)
        steps = settings.turn(workload.steps)
        _add(found, {name: Task(kind, workload, steps) for name, kind in kinds.items()}, settings)
    return found


def _describe_rows(found: Found) -> str:
    return f"The tiny MLP.\n\n{_table('rows', found['rows'], found)}"


def _measure_callbacks(settings: Settings) -> Found:
    workload = WORKLOADS["mlp"]
    steps = settings.turn(workload.steps)
    ours = TRAINING["trainloop"]
    kinds = {number: Kind(ours.title, ours.function, ours.options | {"idle": number}) for number in _CALLBACKS}
    found: Found = {"callbacks": list(_CALLBACKS), "seconds_a_step": {"trainloop": []}}
    for kind in kinds.values():
        _add(found, {"trainloop": Task(kind, workload, steps)}, settings)
    return found


def _describe_callbacks(found: Found) -> str:
    text = "The tiny MLP with its default callbacks, and so many more, each due every 100 steps with nothing to do."
    return f"{text}\n\n{_table('callbacks', found['callbacks'], found)}"


def _add(found: Found, tasks: Mapping[str, Task], settings: Settings) -> None:
    with started(tasks) as processes:
        for name, seconds in rounds.play(processes, settings.few).items():
            found["seconds_a_step"][name].append(statistics.median(seconds) / tasks[name].steps)


def _empty(names: tuple[str, ...]) -> dict[str, list[float]]:
    return {name: [] for name in names}


def _table(heading: str, sizes: list[int], found: Found) -> str:
    columns = found["seconds_a_step"]
    rows = [[f"{size:,}", *(step(column[place]) for column in columns.values())] for place, size in enumerate(sizes)]
    return table([heading, *(TRAINING[name].title for name in columns)], rows)


STEPS = Section("Growth: steps", _measure_steps, _describe_steps, _goals_steps)
DEPTH = Section("Growth: layers", _measure_depth, _describe_depth)
ROWS = Section("Growth: rows", _measure_rows, _describe_rows)
CALLBACKS = Section("Growth: callbacks", _measure_callbacks, _describe_callbacks)
