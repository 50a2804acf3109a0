"""Runs the benchmark and prints its tables: `python -m benchmarks.speed --write=docs/performance.md`.

    python -m benchmarks.speed --sections=training --workloads=mlp --rounds=5
    python -m benchmarks.speed --sections=training --workloads=mlp,cnn --peers=trainloop,orbit --seconds=0.5
    python -m benchmarks.speed --sections= --write=docs/performance.md  # measures nothing, and writes the page anew

The best loop written by hand and the control always take part. `--write` replaces the figures of the sections that were
run; others stay as they are, each with the machine and the versions that it was measured with. In this, each workload
is a section.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path

from absl import app, flags

from benchmarks.speed import document, plot
from benchmarks.speed.contents import PARTS, SECTIONS, chosen
from benchmarks.speed.peers import TRAINING
from benchmarks.speed.sections import Settings
from benchmarks.speed.workloads import WORKLOADS


def _some_of(flag: str, known: Iterable[str], what: str) -> flags.FlagHolder[list[str]]:
    """Defines a flag that takes some of these names, by default all."""
    names = list(known)
    holder = flags.DEFINE_list(flag, names, f"{what}: {', '.join(names)}.")

    def check(value: list[str]) -> bool:
        if unknown := [name for name in value if name not in names]:
            raise flags.ValidationError(f"{', '.join(unknown)}: unknown; it must be some of {', '.join(names)}")
        return True

    flags.register_validator(holder, check)
    return holder


_SECTIONS = _some_of("sections", PARTS, "What is measured")
_WORKLOADS = _some_of("workloads", WORKLOADS, "What the peers train")
_PEERS = _some_of("peers", TRAINING, "Who trains")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "How many turns each peer has.", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds", 1.0, "About how long the best loop by hand trains in a turn.", lower_bound=0.01
)
_PROCESSES = flags.DEFINE_integer("processes", 3, "How many processes share the rounds of a peer.", lower_bound=1)
_WRITE = flags.DEFINE_string("write", None, "The document whose figures are replaced; .json and .png go beside it.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    settings = Settings(_WORKLOADS.value, _PEERS.value, _ROUNDS.value, _SECONDS.value, _PROCESSES.value)
    path = Path(_WRITE.value) if _WRITE.value else None
    results = document.read(path) if path else {}  # first: it raises where nothing could be written
    for name in chosen(_SECTIONS.value, settings.workloads):
        began, around = time.monotonic(), document.conditions(settings)
        results[name] = {"conditions": around, "found": SECTIONS[name].measure(settings)}
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if path:  # after each, so that what was measured is kept where a later one fails
            document.write(path, results, SECTIONS)
    print(document.markdown(results, SECTIONS))
    if path:
        document.write(path, results, SECTIONS)
        plot.draw(results, path.with_suffix(".png"))


if __name__ == "__main__":
    app.run(main)
