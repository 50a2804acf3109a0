"""What steps and runs return: `StepResult` and `History`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf


@dataclasses.dataclass
class StepResult:
    """What one step has to say. Every field is optional where the step has no use for it.

    Attributes:
      loss: Scalar, float; the mean over what the step saw.
      outputs: What the metrics (and, in PREDICT, the caller) get.
      targets: What the metrics compare `outputs` with; by default the `y` of an `(x, y)` batch.
      sample_weight: The metrics' weights; by default the `w` of an `(x, y, w)` batch.
      weight: Scalar by which loss, scalars and gradients count against other batches, microbatches and replicas; by
        default the number of rows. A language model gives its number of tokens.
      scalars: Further scalars to report, by name.

    Example:
      >>> import tensorflow as tf
      >>> from trainloop import StepResult
      >>> result = StepResult(loss=tf.constant(1.5), scalars={"kl": tf.constant(0.5)})
      >>> list(result.named_scalars())
      ['loss', 'kl']
    """

    loss: Any = None
    outputs: Any = None
    targets: Any = None
    sample_weight: Any = None
    weight: Any = None
    scalars: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def named_scalars(self) -> dict[str, Any]:
        """Returns the loss (as `"loss"`) and the scalars."""
        return ({} if self.loss is None else {"loss": self.loss}) | dict(self.scalars)


def from_compute_loss(returned: Any, method: str) -> StepResult:
    """Returns what `compute_loss` returned as a `StepResult` with a checked loss.

    Args:
      returned: A scalar loss, `(loss, outputs)`, or a `StepResult`.
      method: The method's name, for messages.

    Raises:
      ValueError: If there is no loss or it is not a scalar.
      TypeError: If it is not a number.
    """
    if isinstance(returned, StepResult):
        result = returned
    elif isinstance(returned, tuple) and len(returned) == 2:
        result = StepResult(loss=returned[0], outputs=returned[1])
    elif isinstance(returned, (tuple, list, dict)):
        raise TypeError(
            f"{method} returned a {type(returned).__name__}; it must return a scalar loss, (loss, outputs) or a "
            "StepResult"
        )
    else:
        result = StepResult(loss=returned)
    if result.loss is None:
        raise ValueError(
            f"{method} returned no loss; it must return a scalar loss, (loss, outputs) or a StepResult with loss="
        )
    scalars = {name: _scalar(value, method, name) for name, value in result.scalars.items()}
    return dataclasses.replace(result, loss=_scalar(result.loss, method, "loss"), scalars=scalars)


def from_step(returned: Any, method: str) -> StepResult:
    """Returns what `train_step` or `eval_step` returned as a `StepResult` with checked scalars.

    Raises:
      TypeError: If it is neither a `StepResult` nor a dict of scalars.
      ValueError: If it holds no scalar, or one that is not a scalar.
    """
    if isinstance(returned, Mapping):
        returned = StepResult(loss=returned.get("loss"), scalars={k: v for k, v in returned.items() if k != "loss"})
    if not isinstance(returned, StepResult):
        raise TypeError(f"{method} returned {_describe(returned)}; it must return a StepResult or a dict of scalars")
    named = returned.named_scalars()
    if not named:
        raise ValueError(f"{method} returned no loss and no scalar; give StepResult(loss=...) or a dict of scalars")
    checked = {name: _scalar(value, method, name) for name, value in named.items()}
    return dataclasses.replace(
        returned, loss=checked.get("loss"), scalars={k: v for k, v in checked.items() if k != "loss"}
    )


def _scalar(value: Any, method: str, name: str) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{method} returned {name}={_describe(value)}; it must be a scalar tensor") from error
    if tensor.shape.rank not in (0, None):
        raise ValueError(
            f"{method} returned {name} of shape {tuple(tensor.shape)}; it must be a scalar. Reduce it, for example "
            "with tf.reduce_mean"
        )
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer):
        raise TypeError(f"{method} returned {name} of dtype {tensor.dtype.name}; it must be a number")
    if name == "loss" and not tensor.dtype.is_floating:
        raise TypeError(f"{method} returned a loss of dtype {tensor.dtype.name}; it must be a float")
    return tensor


def _describe(value: Any) -> str:
    return "nothing (None)" if value is None else f"a {type(value).__name__}"


class History(Mapping[str, list[float]]):
    """Every value that was reported during one `fit`, by full name, oldest first.

    Attributes:
      steps: For every name, the steps at which its values were reported.
      stop_reason: Why `fit` ended before its total, or None.

    Example:
      >>> from trainloop import History
      >>> history = History()
      >>> history.add(100, {"loss": 0.5})
      >>> history["loss"], history.steps["loss"]
      ([0.5], [100])
    """

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = collections.defaultdict(list)
        self.steps: dict[str, list[int]] = collections.defaultdict(list)
        self.stop_reason: str | None = None

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Appends one report."""
        for name, value in metrics.items():
            self._values[name].append(value)
            self.steps[name].append(step)

    def at(self, step: int) -> dict[str, float]:
        """Returns the values that were reported at a step, by name."""
        return {name: values[-1] for name, values in self._values.items() if self.steps[name][-1] == step}

    def __getitem__(self, name: str) -> list[float]:
        if name not in self._values:
            raise KeyError(f"no metric named {name!r} was reported; there are {', '.join(self._values) or 'none'}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        last = {name: values[-1] for name, values in self._values.items()}
        return (
            f"History({', '.join(f'{name}: {len(self._values[name])} values, last {v}' for name, v in last.items())})"
        )
