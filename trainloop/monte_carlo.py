"""MC_PREDICT: the same batch many times with dropout and noise on, and what the samples have in common.

    outputs = step(batch)                the first sample; what depends on no draw is computed here, once
    for block in blocks of samples:      tf.while_loop
        outputs = the rest of the step for all samples of the block at once, each with draws of its own
        take outputs into the running moments: the memory is that of one block, however many samples

A block is as large as `BLOCK_BYTES` allows, and one sample at least. Where a step cannot be computed for many samples
at once (it keeps a state from one to the next, runs eagerly, or has an op of which nobody knows what it is for many), a
block is one sample, and the whole step is computed again for each. The draws are the same either way and in blocks of
any size, as those of a sample depend on its number alone; what is computed from them may differ in the last bits, as
matrix products of different sizes do.

References:
  Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from trainloop import keras_hooks, moments, numbering, results, tracing
from trainloop.moments import Block, State
from trainloop.phase import Phase
from trainloop.replays import NotReplayableError, Sample
from trainloop.results import MCPrediction, StepResult
from trainloop.user_code import call_user

SAMPLES = 50  # where nobody says how many
BLOCK_BYTES = 2**27  # of all that depends on a draw in the samples of a block, though not all is in memory at a time

Step = Callable[[Any, Phase], Any]
_as_written = tf.autograph.experimental.do_not_convert


class Sampling(NamedTuple):
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

        def begin(first: list[tf.Tensor], blocks: tf.Tensor | int) -> State:
            return [moments.begin(leaf, blocks, keep=sampling.keep) for leaf in first]

        def take_in(state: State, values: list[tf.Tensor], block: Block) -> State:
            return [moments.take_in(each, leaf, block) for each, leaf in zip(state, values, strict=True)]

        first, state = _over_samples(draw, begin, take_in, sampling.samples, models)
        leaves = [moments.end(each, leaf, sampling.samples) for each, leaf in zip(state, first, strict=True)]
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
            return tf.nest.map_structure(
                moments.accumulated, ([_checked(leaf, "eval_step") for leaf in outputs], named)
            )

        def take_in(state: State, values: State, block: Block) -> State:
            return tf.nest.map_structure(block.mean, state, values)

        _, (leaves, named) = _over_samples(draw, lambda first, _: first, take_in, sampling.samples, models)
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
    begin: Callable[[Any, tf.Tensor | int], State],
    take_in: Callable[[State, Any, Block], State],
    samples: int,
    models: Sequence[Any],
) -> tuple[Any, State]:
    """Returns the first sample, and the state that begins with it and has taken in the others.

    The first sample is drawn before the loop, since nothing else knows the shapes, and what the others have in common
    with it.
    """
    found = {id(kept): kept.read_value() for kept in _states_kept(models)}
    sample = Sample()
    with numbering.sample(sample.number):
        first = draw()
    if samples == 1:
        return first, begin(first, 0)

    def drawn_alone(number: tf.Tensor) -> Any:
        """Draws one sample; a `stateful=True` RNN begins each with the state that the batch has found."""
        for kept in _states_kept(models):
            kept.assign(found.get(id(kept), tf.zeros_like(kept)))
        with numbering.sample(number):
            return tf.nest.map_structure(lambda leaf: leaf[tf.newaxis], draw())

    try:
        return first, _replayed(sample, first, begin, take_in, samples)
    except NotReplayableError as error:
        if not tf.executing_eagerly():  # where it would be said at each batch
            logging.info("samples are drawn one after the other: %s", error)
    return first, _over_blocks(drawn_alone, take_in, begin(first, samples - 1), samples, 1, samples - 1)


def _replayed(
    sample: Sample,
    first: Any,
    begin: Callable[[Any, tf.Tensor | int], State],
    take_in: Callable[[State, Any, Block], State],
    samples: int,
) -> State:
    """Returns what `_over_samples` does where the samples of a block can be computed at once."""
    replay = sample.replay(tf.nest.flatten(first))
    size, blocks = _blocks(samples - 1, replay.bytes())

    def drawn_together(number: tf.Tensor) -> Any:
        tracing.note_replay()
        with numbering.untouched():
            return tf.nest.pack_sequence_as(first, replay.block(number, size))

    return _over_blocks(drawn_together, take_in, begin(first, blocks), samples, size, blocks)


def _blocks(samples: int, bytes_of_one: tf.Tensor | int) -> tuple[Any, Any]:
    """Returns how many samples a block has and how many blocks there are, all about as large as each other."""
    known = isinstance(bytes_of_one, int)
    at_least, at_most = (max, min) if known else (tf.maximum, tf.minimum)
    most = at_least(at_most(BLOCK_BYTES // at_least(bytes_of_one, 1), samples), 1)
    blocks = -(-samples // most)
    size = -(-samples // blocks)
    return (size, blocks) if known else (tf.cast(size, tf.int32), tf.cast(blocks, tf.int32))


def _over_blocks(
    draw: Callable[[tf.Tensor], Any],
    take_in: Callable[[State, Any, Block], State],
    start: State,
    samples: int,
    size: Any,
    blocks: Any,
) -> State:
    """Returns the state that has taken in all samples but the first, with which it begins.

    Args:
      draw: Returns a block of samples, given the number of the first of them.
      take_in: Returns the state that has taken in a block.
      start: The state that holds the first sample.
      samples: How many samples there are.
      size: How many are drawn in a block.
      blocks: How many blocks there are.
    """

    def body(index: tf.Tensor, state: State) -> tuple[tf.Tensor, State]:
        first = 1 + index * size
        block = Block(index, first, first + tf.range(size) < samples)
        following = take_in(state, draw(first), block)
        return index + 1, tf.nest.map_structure(_of_the_same_shape, following, state)

    return tf.while_loop(lambda index, _: index < blocks, body, (tf.constant(0), start), parallel_iterations=1)[1]


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
