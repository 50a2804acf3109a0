"""What steps and runs return: `StepResult`, `MCPrediction` and `History`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop.phase import Phase

_OF_THE_REPORT = ("learning_rate", "steps_per_second", "examples_per_second")
_PREFIXES = ("learning_rate/", *(f"{phase.value}/" for phase in Phase))


def is_of_the_report(name: str) -> bool:
    """Returns whether a report itself has numbers of this name: the rates, and what other phases report."""
    return name in _OF_THE_REPORT or name.startswith(_PREFIXES)


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
      ValueError: If there is no loss or it is not a scalar, or a scalar would be reported under a name that is taken.
      TypeError: If the loss is not a number, the outputs of `(loss, outputs)` are scalars, or a scalar's name is no
        string.
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
    if isinstance(returned, tuple):
        _check_outputs(returned[1], method)
    _check_names(result, method)
    scalars = {name: _scalar(value, method, name) for name, value in result.scalars.items()}
    return dataclasses.replace(result, loss=_scalar(result.loss, method, "loss"), scalars=scalars)


def from_step(returned: Any, method: str) -> StepResult:
    """Returns what `train_step` or `eval_step` returned as a `StepResult` with checked scalars.

    Raises:
      TypeError: If it is neither a `StepResult` nor a dict of scalars, or the name of a scalar is no string.
      ValueError: If it holds no scalar, one that is not a scalar, or one under a name that is taken.
    """
    if isinstance(returned, Mapping):
        returned = StepResult(loss=returned.get("loss"), scalars={k: v for k, v in returned.items() if k != "loss"})
    if not isinstance(returned, StepResult):
        raise TypeError(f"{method} returned {_describe(returned)}; it must return a StepResult or a dict of scalars")
    _check_names(returned, method)
    named = returned.named_scalars()
    if not named:
        raise ValueError(f"{method} returned no loss and no scalar; give StepResult(loss=...) or a dict of scalars")
    checked = {name: _scalar(value, method, name) for name, value in named.items()}
    return dataclasses.replace(
        returned, loss=checked.get("loss"), scalars={k: v for k, v in checked.items() if k != "loss"}
    )


def _check_names(result: StepResult, method: str) -> None:
    """Raises where a scalar would take the place of another number of the report, or has no name to stand under."""
    if not isinstance(result.scalars, Mapping):
        raise TypeError(
            f"{method} returned scalars={_describe(result.scalars)}; it must be a dict of scalars by name, "
            'StepResult(scalars={"kl": kl})'
        )
    for name in result.scalars:
        if not isinstance(name, str) or not name:
            raise TypeError(f"{method} returned scalars={{{name!r}: ...}}; the name of a scalar must be a string")
        if name == "loss" and result.loss is not None:
            raise ValueError(
                f"{method} returned both loss= and a scalar named 'loss', so 'loss' would be reported twice; give the "
                "scalar another name"
            )
        if is_of_the_report(name):
            raise ValueError(
                f"{method} returned a scalar named {name!r}, which is a name of the report's own, so it would be "
                "reported twice; give the scalar another name"
            )


def _check_outputs(outputs: Any, method: str) -> None:
    """Refuses numbers to report where outputs are expected: they would be handed to the metrics, and be lost."""
    leaves = tf.nest.flatten(outputs)
    if any(leaf is None or getattr(leaf, "shape", ()) != () for leaf in leaves):
        return
    shown = f"{{{', '.join(map(repr, outputs))}}}" if isinstance(outputs, Mapping) else "a scalar"
    raise TypeError(
        f"{method} returned (loss, {shown}), but what follows the loss are the outputs, with a row for each row of the "
        "batch, and these are scalars. To report numbers by name return StepResult(loss=loss, scalars={...})"
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

    def __repr__(self) -> str:
        names = [name for name in ("mean", "std", "samples") if getattr(self, name) is not None]
        return f"MCPrediction({', '.join(f'{name}={_outline(getattr(self, name))}' for name in names)})"

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


def _outline(nest: Any) -> str:
    """Returns dtypes and shapes in place of numbers: `float32[112, 2]`."""
    if isinstance(nest, Mapping):
        return "{" + ", ".join(f"{key!r}: {_outline(value)}" for key, value in nest.items()) + "}"
    if isinstance(nest, list) and nest and not isinstance(nest[0], (tuple, list, Mapping)):  # rows that differ in shape
        return f"[{len(nest)} of {nest[0].dtype}]"
    if isinstance(nest, (tuple, list)):
        return "(" + ", ".join(map(_outline, nest)) + ")"
    return f"{nest.dtype}[{', '.join(map(str, nest.shape))}]"


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
      stop_reason: Why `fit` ended before its total, or None; after a signal its name (`SIGINT`), which hooks see.

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
        """Appends one report; a name has one value a step, the last one."""
        for name, value in metrics.items():
            if self.steps[name] and self.steps[name][-1] == step:
                self._values[name][-1] = value
                continue
            self._values[name].append(value)
            self.steps[name].append(step)

    def cut(self, *, after: int) -> None:
        """Drops what was reported after a step."""
        for name, steps in list(self.steps.items()):
            kept = sum(step <= after for step in steps)
            del steps[kept:], self._values[name][kept:]
            if not kept:
                del self.steps[name], self._values[name]

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
