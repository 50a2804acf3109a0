"""A metric that decides something: its name, and which of its values are better."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

Mode = Literal["min", "max"]


class Monitor:
    """The metric by which a run is stopped or a checkpoint is the best.

    Args:
      name: The metric's full name (`"eval/loss"`).
      mode: Whether a smaller or a larger value is better. Of a loss that is known: a name that ends in `loss` needs
        none.
      owner: Who asks (`"EarlyStopping"`), for messages.

    Raises:
      TypeError: If `name` is not a string.
      ValueError: If `mode` is neither `"min"` nor `"max"`, or is missing for a metric that is no loss.

    Example:
      >>> from trainloop.monitor import Monitor
      >>> Monitor("eval/accuracy", "max", "EarlyStopping").improves(0.9, on=0.8)
      True
    """

    def __init__(self, name: str, mode: Mode | None, owner: str):
        if not isinstance(name, str):
            raise TypeError(f"{owner}: monitor={name!r} must be the full name of a metric, like 'eval/loss'")
        if mode is None and not name.endswith("loss"):
            raise ValueError(f"{owner}: monitor={name!r} is no loss, so say which is better: mode='min' or mode='max'")
        if mode not in (None, "min", "max"):
            raise ValueError(f"{owner}: mode={mode!r} must be 'min' or 'max'")
        self.name = name
        self.mode: Mode = mode or "min"
        self._owner = owner

    def improves(self, value: float, on: float | None, by: float = 0.0) -> bool:
        """Returns whether a value is better than another by more than a margin; one that is not finite never is.

        Args:
          value: The new value.
          on: The best value so far, or None where there is none.
          by: The margin.
        """
        if not math.isfinite(value):
            return False
        if on is None:
            return True
        return value < on - by if self.mode == "min" else value > on + by

    def value_in(self, metrics: Mapping[str, Any]) -> float | None:
        """Returns the metric's value, or None where it is not among `metrics`.

        Raises:
          TypeError: If it has more than one number.
        """
        value = metrics.get(self.name)
        if value is None:
            return None
        if getattr(value, "ndim", 0):
            raise TypeError(
                f"{self._owner}: monitor={self.name!r} is an array of shape {value.shape}; it must be a single number. "
                "Monitor another metric, or report its mean as one"
            )
        return float(value)

    def check_known(self, metrics: Mapping[str, Any]) -> None:
        """Checks the name against the newest metrics, as soon as it could have been among them.

        That is when another metric of its phase is there (`"eval/loss"` for `"eval/accuracy"`): a phase reports all its
        metrics at once.

        Args:
          metrics: The newest value of each metric, by full name.

        Raises:
          ValueError: If there is no such metric; the message says what comes near.
        """
        if self.name in metrics or not any(_phase(self.name) == _phase(name) for name in metrics):
            return
        near = difflib.get_close_matches(self.name, metrics, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise ValueError(
            f"{self._owner}: monitor={self.name!r} is not among the metrics that are reported: "
            f"{', '.join(sorted(metrics))}{hint}"
        )


def _phase(name: str) -> str:
    return name.partition("/")[0] if "/" in name else ""
