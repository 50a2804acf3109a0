"""Sweeps: the same task trained with many values of its config's keys and many seeds, side by side.

`scripts/sweep.py` is the program. A trial is one run: one value of each key and one seed, in a workdir of its own below
the sweep's, where it resumes like any run. Optuna keeps the book, in a SQLite file that several processes share.

Where every key has a list of values, the sweep is a grid: all values with the first seed, then with the next, so that a
sweep that is cut short shows the whole curve roughly rather than a part of it well. Trials are handed out one by one,
under a lock. Optuna's own GridSampler may give one point to two processes, and takes a trial that was killed for done.

Where a key has a range, the sweep is a search: Optuna's TPE sampler proposes a point, which is trained with each of the
seeds before the next one is proposed. The sampler is not told of the seed: it sees several results for one point, whose
spread is the noise that it has to see through.
"""

from trainloop.sweeping.axes import Axis, parse_axis
from trainloop.sweeping.plan import Plan
from trainloop.sweeping.sweep import sweep

__all__ = ["Axis", "Plan", "parse_axis", "sweep"]
