"""What steps and runs return: `StepResult`, `MCPrediction` and `History`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
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


@dataclasses.dataclass(frozen=True, eq=False)
class MCPrediction:
    """What `trainer.predict(data, phase=Phase.MC_PREDICT)` returns: the samples of Monte-Carlo dropout, put together.

    Everything here is a nest like the outputs of `predict_step`, with a row for each row of the data.

    Attributes:
      mean: The mean over the samples, in float32 or wider.
      std: Their standard deviation: the root of the mean squared distance from the mean.
      samples: Each of them, `[samples, rows, ...]`, in the dtype of the outputs; None unless they were to be kept.
        Where rows differ in shape, a list with an array `[samples, ...]` for each row.
      entropies: What `predictive_entropy` and `mutual_information` return, with None for each output that is no class
        probabilities.

    Example:
      >>> import numpy as np, tf_keras
      >>> from trainloop import Phase, Trainer, data
      >>> layers = [tf_keras.layers.Dropout(0.5), tf_keras.layers.Dense(3, "softmax")]
      >>> trainer = Trainer(tf_keras.Sequential(layers))
      >>> rows = data.from_arrays(np.ones([8, 4], np.float32), batch_size=4)
      >>> prediction = trainer.predict(rows, phase=Phase.MC_PREDICT, samples=20)
      >>> prediction.mean.shape, prediction.predictive_entropy.shape
      ((8, 3), (8,))
    """

    mean: Any
    std: Any
    samples: Any = None
    entropies: tuple[Any, Any] = dataclasses.field(default=(None, None), repr=False)

    @property
    def predictive_entropy(self) -> Any:
        """The entropy of the mean over the last axis, in nats: how uncertain the prediction is altogether.

        Of several outputs, those that are no class probabilities have None.

        Raises:
          ValueError: If none of the outputs are class probabilities: at least two on the last axis, not negative, with
            a sum of 1 in every sample.
        """
        return self._of_classes("predictive_entropy", self.entropies[0])

    @property
    def mutual_information(self) -> Any:
        """How much of the predictive entropy comes from the samples' disagreement, in nats.

        It is the predictive entropy less the mean entropy of the samples (BALD): the uncertainty that more data would
        take away. Of several outputs, those that are no class probabilities have None.

        Raises:
          ValueError: As `predictive_entropy`.

        References:
          Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011.
        """
        return self._of_classes("mutual_information", self.entropies[1])

    def _of_classes(self, name: str, found: Any) -> Any:
        if all(leaf is None for leaf in tf.nest.flatten(found)):
            looks = "; ".join(map(_looks, tf.nest.flatten(self.mean)[:3]))
            raise ValueError(
                f"{name} needs class probabilities: two or more on the last axis, none negative, with a sum of 1. The "
                f"outputs' mean is {looks}. If these are logits, add a softmax: tf_keras.layers.Softmax() at the end "
                "of the model, or tf.nn.softmax in predict_step"
            )
        return found


def _looks(array: Any) -> str:
    shape = f"{array.dtype} of shape {array.shape}"
    if array.size == 0 or array.ndim < 2:
        return shape
    sums = np.sum(array, axis=-1)
    return f"{shape}, from {array.min():.3g} to {array.max():.3g}, with sums from {sums.min():.3g} to {sums.max():.3g}"


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
