"""`Plan`: what a sweep is to do, checked before anything is written."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from trainloop.launch.config_file import flatten
from trainloop.launch.errors import LaunchError
from trainloop.sweeping.axes import Axis, Value

RECORD = "sweep.json"  # of a plan's identity, in the sweep's directory
_LONGEST_NAME = 150  # of a directory; file systems stop at 255 bytes


@dataclasses.dataclass(frozen=True)
class Job:
    """What one trial trains: values of the axes' keys, and a seed."""

    values: tuple[tuple[str, Value], ...]
    seed: int

    @classmethod
    def of(cls, values: Mapping[str, Value], seed: int) -> Job:
        """Returns the job with these values: the same one whatever order the keys come in."""
        return cls(tuple(sorted(values.items())), seed)

    @property
    def name(self) -> str:
        """The name of its workdir: the same for the same values, so that a trial that is repeated goes on."""
        words = [f"{key}={urllib.parse.quote(str(value), safe='')}" for key, value in self.values]
        name = ",".join([*words, f"seed={self.seed}"])
        if len(name) <= _LONGEST_NAME:
            return name
        return f"{name[: _LONGEST_NAME - 17]},{hashlib.sha256(name.encode()).hexdigest()[:16]}"

    def config(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the config with this job's values in it."""
        config = _copied(base)
        for key, value in self.values:
            *groups, last = key.split(".")
            place = config
            for group in groups:
                place = place[group]
            place[last] = value
        return config | {"seed": self.seed} if "seed" in config else config


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a sweep is to do.

    Args:
      axes: The keys that are varied.
      config: The config, as plain values.
      seeds: With how many seeds each point is trained: that of the config, and those after it.
      metric: By which an evaluation judges: `"eval/accuracy"`.
      mode: Whether a smaller or a larger value of it is better; a loss needs none.
      trials: How many trials there shall be in all; every one of a grid where it is None.
      prune: Whether a trial is stopped once it is worse than the median of the others at the same step.

    Raises:
      LaunchError: If one of these does not fit the others; the message names the flag.

    Example:
      >>> axes = (Axis("dropout", (0.0, 0.5)),)
      >>> plan = Plan(axes, {"task": "m:f", "dropout": 0.1, "seed": 7}, seeds=2, metric="eval/loss")
      >>> [job.name for job in plan.grid()]
      ['dropout=0.0,seed=7', 'dropout=0.5,seed=7', 'dropout=0.0,seed=8', 'dropout=0.5,seed=8']
    """

    axes: tuple[Axis, ...]
    config: Mapping[str, Any]
    seeds: int = 1
    metric: str = "eval/loss"
    mode: Literal["min", "max"] | None = None
    trials: int | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        keys = [axis.key for axis in self.axes]
        if not keys:
            raise LaunchError("--over is missing: the key to vary and its values, as in --over=dropout=0.0,0.2,0.4")
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise LaunchError(f"--over={twice.pop()}=... is given twice; write all its values in one")
        if "/" not in self.metric or self.metric.startswith("train/"):
            raise LaunchError(
                f"--metric={self.metric}: expected a metric of an evaluation, such as eval/loss or eval/accuracy"
            )
        if self.mode is None and not self.metric.endswith("loss"):
            raise LaunchError(f"--metric={self.metric} is no loss, so say which is better: --mode=max or --mode=min")
        if self.is_search and self.trials is None:
            raise LaunchError("--trials is missing: how many trials a search over a range may make, as in --trials=40")
        if self.seeds > 1 and "seed" not in self.config:
            raise LaunchError(f"--seeds={self.seeds} needs a config with a key 'seed'")

    @property
    def is_search(self) -> bool:
        """Whether there is a range to search; else all values make a grid."""
        return any(axis.is_range for axis in self.axes)

    @property
    def size(self) -> int:
        """How many trials there are in all."""
        if self.is_search:
            assert self.trials is not None
            return self.trials
        points = math.prod(len(axis.values) for axis in self.axes) * self.seeds
        return points if self.trials is None else min(points, self.trials)

    @property
    def identity(self) -> dict[str, Any]:
        """What two starts must have in common to be parts of one sweep.

        Seeds and trials may be added, to a grid also values, and a range that is searched may be widened.
        """
        varied = [axis.key for axis in self.axes]
        over = sorted(map(_searched, self.axes) if self.is_search else varied)
        fixed = {f"config.{key}": value for key, value in flatten(self.config) if key not in varied}
        return {"--over": over, "--metric": self.metric, "--mode": self.mode or "min", **fixed}

    def all_seeds(self) -> range:
        """Returns the seeds."""
        first = self.config.get("seed", 0)
        return range(first, first + self.seeds)

    def grid(self) -> Iterator[Job]:
        """Yields the jobs of a grid in their order: all points with the first seed, then with the next."""
        keys = [axis.key for axis in self.axes]
        points = list(itertools.product(*(axis.values for axis in self.axes)))
        jobs = itertools.product(self.all_seeds(), points)
        return itertools.islice((Job.of(dict(zip(keys, point, strict=True)), seed) for seed, point in jobs), self.size)


def _searched(axis: Axis) -> str:
    """Returns what of an axis a sampler has to find unchanged: Optuna's distributions may not change their kind."""
    if not axis.is_range:
        return f"{axis.key}={','.join(map(str, axis.values))}"
    kind = "whole numbers" if isinstance(axis.low, int) and isinstance(axis.high, int) else "numbers"
    return f"{axis.key}: a range of {kind}{', by factors' if axis.log else ''}"


def _copied(value: Any) -> Any:
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, Mapping) else value
