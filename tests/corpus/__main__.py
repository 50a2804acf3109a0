"""Runs the corpus and prints its confusion table: `python -m tests.corpus --write=docs/phase_truth.md`.

Exit status 1 if a mutant is missed or a healthy model raises a false alarm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import traceback
from pathlib import Path

# Read when TensorFlow is imported, in this process and in those that it starts.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}

import tensorflow as tf
import tf_keras
import tqdm

from tests.corpus import judge, table
from tests.corpus.judge import GOOD, Result
from tests.corpus.models import HEALTHY
from tests.corpus.mutants import MUTANTS
from trainloop import __version__

Task = tuple[str, str]  # the name of a job, and that of what it is about
_strategy: list[tf.distribute.Strategy] = []


def all_tasks() -> list[Task]:
    """Returns everything there is to do, the slow first."""
    tasks = [("call healthy", name) for name in HEALTHY]
    tasks += [
        ("replicas healthy", name) for name, model in HEALTHY.items() if model.kind in ("container", "subclassed")
    ]
    tasks += [("train healthy", name) for name, model in HEALTHY.items() if model.fits]
    tasks += [("call mutant", name) for name in MUTANTS]
    tasks += [("train mutant", name) for name in judge.one_of_each()]
    return tasks


def run_task(task: Task) -> list[Result]:
    """Does one job; an exception that nobody expected is a result as well."""
    job, name = task
    jobs = {
        "call healthy": judge.judge_healthy,
        "replicas healthy": lambda name: judge.judge_healthy(name, _strategy[0]),
        "train healthy": judge.train_healthy,
        "call mutant": lambda name: judge.judge_mutant(name, _strategy[0]),
        "train mutant": judge.train_mutant,
    }
    try:
        return jobs[job](name)
    except Exception:  # noqa: BLE001 (whatever it is, the others are to be judged all the same)
        is_mutant = job.endswith("mutant")
        group = MUTANTS[name].mutation if is_mutant else HEALTHY[name].kind
        details = traceback.format_exc()
        return [Result(name, group, is_mutant, job.startswith("train"), "-", "missed", None, details)]


def start_worker() -> None:
    """Divides the CPU of a worker in two, for the one strategy that a process may have."""
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    _strategy.append(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="processes that share the work")
    parser.add_argument("--match", default="", help="only what has this in its name")
    parser.add_argument("--write", type=Path, help="the document whose table is to be replaced")
    flags = parser.parse_args()
    tasks = [task for task in all_tasks() if flags.match in task[1]]
    results: list[Result] = []
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    with context.Pool(flags.jobs, start_worker, maxtasksperchild=100) as pool:
        for each in tqdm.tqdm(pool.imap(run_task, tasks), total=len(tasks), unit="job", file=sys.stderr):
            results += each
            for result in each:
                if result.outcome not in GOOD:
                    how = ", in a Trainer" if result.in_trainer else ""
                    tqdm.tqdm.write(
                        f"{result.outcome}: {result.name}, {result.phase}{how}\n  {result.details}", sys.stderr
                    )
    versions = f"trainloop {__version__}, TensorFlow {tf.__version__}, tf-keras {tf_keras.__version__}"
    text = table.tables(results, versions)
    print(text)
    if flags.write:
        table.write(flags.write, text)
    sys.exit(int(any(result.outcome not in GOOD for result in results)))


if __name__ == "__main__":
    main()
