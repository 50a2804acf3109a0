"""Runs the corpus and prints its confusion table: `python -m tests.corpus --write=docs/phase_truth.md`.

Exit status 1 if a mutant is missed or a healthy model raises a false alarm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from pathlib import Path

# Read when TensorFlow is imported, in this process and in those that it starts.
os.environ |= {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1"}

import tensorflow as tf
import tf_keras
import tqdm

from tests.corpus import jobs, models, mutants, table
from tests.corpus.judge import GOOD, Result
from trainloop import __version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2, help="how many share the work")
    parser.add_argument("--match", default="", help="only what has this in its name")
    parser.add_argument("--write", type=Path, help="the document whose table is to be replaced")
    flags = parser.parse_args()
    chosen = [job for job in jobs.all_jobs() if flags.match in job[1]]
    results: list[Result] = []
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    with context.Pool(flags.processes, jobs.prepare, maxtasksperchild=100) as pool:
        for found in tqdm.tqdm(pool.imap_unordered(jobs.run, chosen), total=len(chosen), unit="job", file=sys.stderr):
            results += found
            for each in found:
                if each.outcome not in GOOD:
                    how = ", in a Trainer" if each.in_trainer else ""
                    tqdm.tqdm.write(f"{each.outcome}: {each.name}, {each.phase}{how}\n  {each.details}", sys.stderr)
    order = {name: place for place, name in enumerate((*models.HEALTHY, *mutants.MUTANTS))}
    results.sort(key=lambda result: order[result.name])
    versions = f"trainloop {__version__}, TensorFlow {tf.__version__}, tf-keras {tf_keras.__version__}"
    text = table.tables(results, versions)
    print(text)
    if flags.write:
        table.write(flags.write, text)
    sys.exit(int(any(result.outcome not in GOOD for result in results)))


if __name__ == "__main__":
    main()
