"""What comes before the second step: the import, and the time to the first one."""

from __future__ import annotations

import contextlib
import statistics

from benchmarks.speed import rounds
from benchmarks.speed.peers import BASELINE, CONTROL, TRAINING, Kind, Task
from benchmarks.speed.processes import Process
from benchmarks.speed.sections import Found, Goal, Section, Settings, at_most, table
from benchmarks.speed.sections.growth import FirstSteps
from benchmarks.speed.workloads import WORKLOADS

_COMPARED = ("fit", "trainloop", "trainloop_bare", BASELINE)
_IMPORT = Kind("`from trainloop import Trainer`", "importing.trainer")
_MODELS = ("mlp", "efficientnet")


def _measure(settings: Settings) -> Found:
    found: Found = {"import": [_seconds_of_an_import() for _ in range(settings.rounds)]}
    with contextlib.closing(Process(None)) as forks:
        for model in _MODELS:
            workload = WORKLOADS[model]
            peers = {name: FirstSteps(forks, Task(TRAINING[name], workload, 1)) for name in _COMPARED}
            peers[CONTROL] = FirstSteps(forks, Task(TRAINING["fit"], workload, 1))
            # A first step of the tiny MLP takes half a second, one of EfficientNetB0 ten seconds and more.
            found[model] = rounds.play(peers, settings.few if model == "efficientnet" else 3 * settings.rounds)
    return found


def _seconds_of_an_import() -> float:
    """Returns how long a process that has TensorFlow and tf-keras takes to import trainloop.

    The process is a new one, as its user's is; a fork would have to copy memory that it shares.
    """
    with contextlib.closing(Process(Task(_IMPORT, WORKLOADS["mlp"], 1))) as process:
        return process.turn()


def _describe(found: Found) -> str:
    rows = []
    for model in _MODELS:
        for name, seconds in found[model].items():
            title = "control: tf-keras `fit` again" if name == CONTROL else TRAINING[name].title
            took = f"{statistics.median(seconds):.2f} s"
            rows.append([WORKLOADS[model].title, title, took, str(rounds.ratio(found[model], name, "fit"))])
    milliseconds = statistics.median(found["import"]) * 1e3
    of_models = (f"{len(found[model]['fit'])} of {WORKLOADS[model].title}" for model in _MODELS)
    text = (
        "From a process that has imported TensorFlow and tf-keras to its first step, the peer's own imports included. "
        f"That of trainloop takes {milliseconds:.0f} ms in a new process. Rounds: {len(found['import'])} of it, "
        f"{', '.join(of_models)}."
    )
    return f"{text}\n\n{table(['model', 'peer', 'first step', 'seconds / tf-keras `fit`'], rows)}"


def _goals(found: Found) -> list[Goal]:
    milliseconds = statistics.median(found["import"]) * 1e3
    goals = [at_most("import of trainloop after TensorFlow and tf-keras", milliseconds, 50, " ms")]
    for model in _MODELS:
        value = rounds.ratio(found[model], "trainloop", "fit").median
        goals.append(at_most(f"{model}: time to the first step, trainloop / tf-keras `fit`", value, 1.0))
    return goals


SECTION = Section("Start-up", _measure, _describe, _goals)
