"""What data addressed by step cost: to seek, to save the position, and for a batch; beside `tf.data`'s own way.

    python benchmarks/data.py
    python benchmarks/data.py --rows=10000,100000000 --rounds=5

The first table has the time from asking for a position deep in an epoch to its first batch, on a file that is mapped
and not read (of it, some 20 ms of one core make the pipeline, however many rows there are), and the bytes that a
checkpoint holds of the position. In the second, each variant is read in turns, alone, from an iterator of its own;
`from_arrays` twice, as the control.
"""

import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags

from trainloop import data
from trainloop.data import AddressedData

_ROWS = flags.DEFINE_list("rows", ["10000", "100000", "1000000", "10000000"], "How many rows to seek in.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each is measured.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 500, "How many batches are read in a round.", lower_bound=1)
_THROUGHPUT_ROWS, _WIDTH, _BATCH = 100_000, 784, 128


def milliseconds_to_seek(source: AddressedData, epoch: int) -> float:
    """Returns how long the first batch takes at nine tenths of an epoch that was not looked at before."""
    start = time.perf_counter()
    next(iter(source.endless(1, epoch, source.steps_per_epoch * 9 // 10)))
    return (time.perf_counter() - start) * 1e3


def bytes_of_position(source: AddressedData) -> int:
    """Returns what a checkpoint holds: three counters, and what they are counted in."""
    return 3 * 8 + len(json.dumps(source.shape))


def bytes_of_iterator(rows: int, directory: str) -> int:
    """Returns what a checkpoint holds of a dataset that shuffles its rows, 16 bytes each."""
    iterator = iter(tf.data.Dataset.from_tensor_slices(np.zeros([rows, 4], "float32")).shuffle(rows, seed=1).batch(8))
    next(iterator)
    tf.train.Checkpoint(iterator=iterator).write(f"{directory}/iterator")
    return sum(path.stat().st_size for path in pathlib.Path(directory).glob("iterator*"))


def microseconds_a_batch(make: Callable[[], tf.data.Dataset], read: Any) -> float:
    iterator = iter(make())
    read(iterator, tf.constant(8))
    start = time.perf_counter()
    read(iterator, tf.constant(_BATCHES.value))
    return (time.perf_counter() - start) * 1e6 / _BATCHES.value


@tf.function
def read(iterator: Any, batches: tf.Tensor) -> tf.Tensor:
    total = tf.constant(0.0)
    for _ in tf.range(batches):
        x, _ = next(iterator)
        total += x[0, 0]
    return total


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores, {_ROUNDS.value} rounds\n")
    print("| rows | seek, median | seek, longest | position saved | a shuffled iterator saved |\n|---|---|---|---|---|")
    for rows in map(int, _ROWS.value):
        with tempfile.TemporaryDirectory() as directory:
            with open(f"{directory}/rows", "wb") as file:
                file.truncate(rows * 16)  # a hole of that size
            mapped = np.memmap(f"{directory}/rows", "float32", "r", shape=(rows, 4))
            source = data.from_arrays(mapped, batch_size=_BATCH)
            times = [milliseconds_to_seek(source, epoch) for epoch in range(_ROUNDS.value)]
            iterator = f"{bytes_of_iterator(rows, directory):,} B" if rows <= 10**6 else "not tried"
            print(
                f"| {rows:,} | {statistics.median(times):.1f} ms | {max(times):.1f} ms | {bytes_of_position(source)} B "
                f"| {iterator} |",
                flush=True,
            )

    x = np.random.default_rng(0).normal(size=[_THROUGHPUT_ROWS, _WIDTH]).astype("float32")
    y = np.arange(_THROUGHPUT_ROWS)
    with tempfile.TemporaryDirectory() as directory:
        np.save(f"{directory}/x.npy", x)
        in_memory = data.from_arrays((x, y), batch_size=_BATCH)
        mapped = data.from_arrays((np.load(f"{directory}/x.npy", mmap_mode="r"), y), batch_size=_BATCH)
        rows = data.from_source([(x[number], number) for number in y.tolist()], batch_size=_BATCH)
        slices = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(_THROUGHPUT_ROWS).repeat().batch(_BATCH)
        variants: dict[str, Callable[[], tf.data.Dataset]] = {
            "from_arrays": lambda: in_memory.endless(1, 0, 0),
            "from_arrays again": lambda: in_memory.endless(1, 0, 0),
            "from_arrays, mapped": lambda: mapped.endless(1, 0, 0),
            "from_source, a list": lambda: rows.endless(1, 0, 0),
            "from_tensor_slices, shuffle, batch": lambda: slices.prefetch(tf.data.AUTOTUNE),
        }
        found: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(_ROUNDS.value):
            for name, make in variants.items():
                found[name].append(microseconds_a_batch(make, read))
    print(
        f"\n| {_THROUGHPUT_ROWS:,} rows of {_WIDTH} floats, batches of {_BATCH} | µs a batch | ratio |\n|---|---|---|"
    )
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(values, found["from_arrays"], strict=True))
        print(f"| {name} | {statistics.median(values):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    app.run(main)
