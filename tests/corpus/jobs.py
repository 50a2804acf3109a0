"""What the processes do that share the corpus."""

from __future__ import annotations

import traceback

import tensorflow as tf

from tests.corpus import judge
from tests.corpus.judge import Result
from tests.corpus.models import HEALTHY
from tests.corpus.mutants import MUTANTS

Job = tuple[str, str]  # what is done, and the name of what it is done to

_strategy: list[tf.distribute.Strategy] = []


def all_jobs() -> list[Job]:
    """Returns everything there is to do."""
    small = [name for name, model in HEALTHY.items() if model.kind in ("container", "subclassed")]
    return [
        *(("call healthy", name) for name in HEALTHY),
        *(("replicate healthy", name) for name in small),
        *(("train healthy", name) for name, model in HEALTHY.items() if model.fits),
        *(("call mutant", name) for name in MUTANTS),
        *(("train mutant", name) for name in judge.one_of_each()),
    ]


def prepare() -> None:
    """Divides the CPU of this process in two, for the one strategy that a process may have."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    _strategy.append(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def run(job: Job) -> list[Result]:
    """Does a job; an exception that nobody expected is a result as well."""
    what, name = job
    runs = {
        "call healthy": judge.judge_healthy,
        "replicate healthy": lambda name: judge.judge_healthy(name, _strategy[0]),
        "train healthy": judge.train_healthy,
        "call mutant": lambda name: judge.judge_mutant(name, _strategy[0]),
        "train mutant": judge.train_mutant,
    }
    try:
        return runs[what](name)
    except Exception:  # noqa: BLE001 (whatever it is, the others are to be judged all the same)
        is_mutant = what.endswith("mutant")
        group = MUTANTS[name].mutation if is_mutant else HEALTHY[name].kind
        details = traceback.format_exc()
        return [Result(name, group, is_mutant, what.startswith("train"), "-", "missed", None, details)]
