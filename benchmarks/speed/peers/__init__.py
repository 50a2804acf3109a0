"""Who trains. A peer is a function `(workload, steps, turns, **options)` that trains `steps` steps in each turn."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.speed.workloads import Workload


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to train.

    Attributes:
      title: What it is, in a table.
      function: The module in this package and the function in it, which is imported only in the peer's own process.
      options: Given to the function.
    """

    title: str
    function: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a process is to do.

    Attributes:
      kind: How it trains.
      workload: What it trains.
      steps: How many steps a turn has.
    """

    kind: Kind
    workload: Workload
    steps: int

    def function(self) -> Callable[..., None]:
        """Imports and returns the peer."""
        module, _, name = self.kind.function.partition(".")
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)


BASELINE, CONTROL = "range_loop", "range_loop_again"

TRAINING = {
    BASELINE: Kind("by hand: `tf.range` loop in one `tf.function`", "by_hand.range_loop"),
    "python_loop": Kind("by hand: compiled step in a Python loop", "by_hand.python_loop"),
    "fit": Kind("tf-keras `fit`", "keras_fit.fit"),
    "fit_100": Kind("tf-keras `fit(steps_per_execution=100)`", "keras_fit.fit", {"steps_per_execution": 100}),
    "keras_3_fit": Kind("Keras 3 `fit`", "keras_fit.fit", {"library": "keras"}),
    "orbit": Kind("Orbit, 100 steps a loop", "with_orbit.controller"),
    "trainloop": Kind("trainloop", "with_trainloop.fit"),
    "trainloop_steps": Kind("trainloop, counted in steps: a report every 100", "with_trainloop.fit", {"epochs": False}),
    "trainloop_arrays": Kind("trainloop, `data.from_arrays`", "with_trainloop.fit", {"arrays": True}),
    "trainloop_bare": Kind("trainloop, everything off", "with_trainloop.fit", {"everything": False}),
    "trainloop_xla": Kind("trainloop, `jit_compile=True`", "with_trainloop.fit", {"jit_compile": True}),
    CONTROL: Kind("control: the `tf.range` loop again", "by_hand.range_loop"),
}
