"""MC_PREDICT: the same batch many times with dropout and noise on, and what the samples have in common.

    for sample in range(samples):        tf.while_loop, so that every sample draws anew
        outputs = step(batch)
        take outputs into the running moments: the memory is that of the outputs, however many samples

References:
  Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016.
  Welford, Note on a Method for Calculating Corrected Sums of Squares and Products, Technometrics 1962.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import keras_hooks, results
from trainloop.phase import Phase
from trainloop.results import MCPrediction, StepResult
from trainloop.user_code import call_user

SAMPLES = 50  # where nobody says how many
# How far the sum of class probabilities may be from 1; those of a softmax in few bits are rounded one by one.
_TOLERANCE = {tf.float16: 5e-3, tf.bfloat16: 3e-2}
_TOLERANCE_ELSE = 1e-3

Step = Callable[[Any, Phase], Any]
State = Any  # a nest of tensors and TensorArrays: what `tf.while_loop` carries on
_as_written = tf.autograph.experimental.do_not_convert


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
      samples: How many.
      keep: Whether a prediction keeps each of them.
    """

    samples: int
    keep: bool = False


def predict_step(step: Step, sampling: Sampling, models: Sequence[Any]) -> Step:
    """Returns a step that draws samples of `predict_step`; `to_prediction` takes what it returns, gathered.

    Args:
      step: `(batch, phase) -> outputs`.
      sampling: How samples are drawn.
      models: Where to look for RNNs that keep a state between batches.
    """

    @_as_written
    def sampled(batch: Any, phase: Phase) -> dict[str, Any]:
        structure: list[Any] = []

        def draw() -> list[tf.Tensor]:
            returned = call_user(step, batch, phase)
            outputs = returned.outputs if isinstance(returned, StepResult) else returned
            structure.append(outputs)
            return [_checked(leaf, "predict_step") for leaf in tf.nest.flatten(outputs)]

        def begin(first: list[tf.Tensor]) -> State:
            return [_begin(leaf, sampling) for leaf in first]

        def take_in(state: State, sample: list[tf.Tensor], count: tf.Tensor) -> State:
            return [_take_in(each, leaf, count) for each, leaf in zip(state, sample, strict=True)]

        leaves = [_end(each, sampling) for each in _over_samples(draw, begin, take_in, sampling.samples, models)]
        return {name: tf.nest.pack_sequence_as(structure[0], [leaf[name] for leaf in leaves]) for name in leaves[0]}

    return sampled


def to_prediction(structure: Any, leaves: Sequence[Any]) -> MCPrediction:
    """Returns what the steps of `predict_step` have found as an `MCPrediction`.

    Args:
      structure: A nest like the one that such a step returns.
      leaves: Its leaves, with the rows of all batches: NumPy arrays, or lists of rows that differ in shape.
    """
    places = tf.nest.pack_sequence_as(structure, list(range(len(leaves))))

    def of_classes(name: str) -> Any:
        return tf.nest.map_structure(
            lambda here, valid: leaves[here] if np.all(leaves[valid]) else None, places[name], places["are_classes"]
        )

    def samples_first(here: int) -> Any:
        leaf = leaves[here]
        return leaf if isinstance(leaf, list) else np.moveaxis(leaf, 1, 0)

    return MCPrediction(
        mean=tf.nest.map_structure(leaves.__getitem__, places["mean"]),
        std=tf.nest.map_structure(leaves.__getitem__, places["std"]),
        samples=tf.nest.map_structure(samples_first, places["samples"]) if "samples" in places else None,
        entropies=(of_classes("predictive_entropy"), of_classes("mutual_information")),
    )


def eval_step(
    step: Step,
    sampling: Sampling,
    models: Sequence[Any],
    loss_of_mean: Callable[[Any, Any], tf.Tensor] | None = None,
    penalties: Callable[[], Sequence[tf.Tensor]] | None = None,
) -> Step:
    """Returns a step that draws samples of `eval_step`: its outputs, loss and scalars are the means over them.

    Args:
      step: `(batch, phase) -> StepResult | dict`.
      sampling: How samples are drawn.
      models: Where to look for RNNs that keep a state between batches.
      loss_of_mean: `(batch, outputs)`; returns the loss of the mean of the outputs, to be reported in place of the mean
        of the losses.
      penalties: With `loss_of_mean`: returns what the models add to the loss of the sample just drawn; the mean of it
        over the samples is added.
    """

    @_as_written
    def sampled(batch: Any, phase: Phase) -> StepResult:
        drawn: list[StepResult] = []

        def draw() -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
            result = results.from_step(call_user(step, batch, phase), "eval_step")
            drawn.append(result)
            named = result.named_scalars()
            if penalties is not None:
                named["loss"] = tf.add_n([tf.constant(0.0), *(tf.cast(each, tf.float32) for each in penalties())])
            outputs = [] if result.outputs is None else tf.nest.flatten(result.outputs)
            return tf.nest.map_structure(_accumulated, ([_checked(leaf, "eval_step") for leaf in outputs], named))

        def take_in(state: State, sample: State, count: tf.Tensor) -> State:
            return tf.nest.map_structure(lambda mean, value: _mean(mean, value, count), state, sample)

        leaves, named = _over_samples(draw, lambda first: first, take_in, sampling.samples, models)
        first, outputs, loss = drawn[0], None, named.pop("loss", None)
        if first.outputs is not None:
            outputs = tf.nest.pack_sequence_as(first.outputs, leaves)
            keras_hooks.give_masks(outputs, first.outputs)
        if loss_of_mean is not None:
            of_mean = loss_of_mean(batch, outputs)
            loss = of_mean + tf.cast(loss, of_mean.dtype)
        return dataclasses.replace(first, loss=loss, outputs=outputs, scalars=named)

    return sampled


def _over_samples(
    draw: Callable[[], Any],
    begin: Callable[[Any], State],
    take_in: Callable[[State, Any, tf.Tensor], State],
    samples: int,
    models: Sequence[Any],
) -> State:
    """Returns the state that begins with one sample and has taken in the others.

    The first sample is drawn before the loop, since nothing else knows the shapes. A `stateful=True` RNN begins each
    sample with the state that the batch has found, and hands on that of the last one.
    """
    found = {id(kept): kept.read_value() for kept in _states_kept(models)}

    def body(drawn: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        for kept in _states_kept(models):
            kept.assign(found.get(id(kept), tf.zeros_like(kept)))
        following = take_in(state, draw(), drawn + 1)
        return drawn + 1, tf.nest.map_structure(_of_the_same_shape, following, state)

    start = (tf.constant(1), begin(draw()))
    return tf.while_loop(lambda drawn, _: drawn < samples, body, start, parallel_iterations=1)[1]


def _states_kept(models: Sequence[Any]) -> list[tf.Variable]:
    return [state for model in models for state in keras_hooks.states_kept_between_batches(model)]


def _of_the_same_shape(value: Any, before: Any) -> Any:
    return tf.ensure_shape(value, before.shape) if isinstance(value, tf.Tensor) else value


def _checked(leaf: Any, method: str) -> tf.Tensor:
    """Returns an output as a dense tensor of numbers."""
    leaf = tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
    given = f"{method} returned a {type(leaf).__name__} among its outputs"
    if leaf is not None and not isinstance(leaf, tf.RaggedTensor):
        tensor = tf.convert_to_tensor(leaf)
        if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool:
            return tensor
        given = f"{method} returned an output of dtype {tensor.dtype.name}"
    raise TypeError(
        f"{given}; Phase.MC_PREDICT takes the mean over samples, so outputs must be a nest of dense tensors of numbers"
    )


def _accumulated(value: tf.Tensor) -> tf.Tensor:
    """Returns a value in the type that its mean is computed in: float32, or float64 for what that cannot hold."""
    held = value.dtype.is_bool or (value.dtype.is_floating and value.dtype.size <= 4)
    return tf.cast(value, tf.float32 if held else tf.float64)


def _mean(mean: tf.Tensor, value: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns the mean over `count` values, `value` among them, from the mean over the others."""
    return mean + (value - mean) / tf.cast(count, mean.dtype)


def _begin(leaf: tf.Tensor, sampling: Sampling) -> State:
    value = _accumulated(leaf)
    state: dict[str, Any] = {"mean": value, "squares": tf.zeros_like(value)}
    if _may_be_classes(value):
        state |= {"entropy": _entropy(value), "are_classes": _are_classes(value, leaf.dtype)}
    if sampling.keep:
        kept = tf.TensorArray(leaf.dtype, sampling.samples, element_shape=leaf.shape)
        state["kept"] = kept.write(0, leaf)
    return state


def _take_in(state: State, leaf: tf.Tensor, count: tf.Tensor) -> State:
    value = _accumulated(leaf)
    mean = _mean(state["mean"], value, count)
    following = {"mean": mean, "squares": state["squares"] + (value - state["mean"]) * (value - mean)}
    if "entropy" in state:
        following["entropy"] = _mean(state["entropy"], _entropy(value), count)
        following["are_classes"] = state["are_classes"] & _are_classes(value, leaf.dtype)
    if "kept" in state:
        following["kept"] = state["kept"].write(count - 1, leaf)
    return following


def _end(state: State, sampling: Sampling) -> dict[str, tf.Tensor]:
    mean = state["mean"]
    found = {"mean": mean, "std": tf.sqrt(state["squares"] / sampling.samples)}
    if "entropy" in state:
        entropy = _entropy(mean)
        information = tf.maximum(entropy - state["entropy"], tf.zeros_like(entropy))  # below 0 only by rounding
        found |= {"are_classes": state["are_classes"]}
    else:
        nothing = tf.zeros(tf.shape(mean)[:1], mean.dtype)
        entropy, information = nothing, nothing
        found |= {"are_classes": tf.zeros_like(nothing, tf.bool)}
    found |= {"predictive_entropy": entropy, "mutual_information": information}
    if "kept" in state:  # row by row, as all that is gathered
        samples = state["kept"].stack()
        rank = samples.shape.rank
        found["samples"] = samples[tf.newaxis] if rank == 1 else tf.einsum("sr...->rs...", samples)
    return found


def _may_be_classes(value: tf.Tensor) -> bool:
    return value.shape.rank is not None and value.shape.rank >= 2 and (value.shape[-1] or 0) >= 2


def _are_classes(value: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Returns for each row whether all of its last axes are probabilities."""
    sums_to_one = tf.abs(tf.reduce_sum(value, axis=-1) - 1.0) <= _TOLERANCE.get(dtype, _TOLERANCE_ELSE)
    found = tf.reduce_all(value >= 0.0, axis=-1) & sums_to_one
    return tf.reduce_all(found, axis=list(range(1, found.shape.rank)))


def _entropy(probabilities: tf.Tensor) -> tf.Tensor:
    """Returns the entropy over the last axis, in nats; what is no probability gives some number or NaN."""
    return -tf.reduce_sum(tf.math.xlogy(probabilities, probabilities), axis=-1)
