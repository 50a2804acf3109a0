"""TensorFlow's stateful random draws, made stateless: by a key, of the same distribution, with the same gradient.

Where a step is computed for many samples, each sample has a stretch of the generator's numbers, one after the other: so
that TensorFlow's vectorization, told how, draws those of many samples at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from trainloop.versions import built_differently

try:
    from tensorflow.python.ops import (
        gen_image_ops,
        gen_random_ops,
        gen_stateful_random_ops,
        gen_stateless_random_ops,
        gen_stateless_random_ops_v2,
    )
    from tensorflow.python.ops.parallel_for.pfor import ConversionNotImplementedError, _fallback_converter, wrap
except ImportError as error:
    raise ImportError(built_differently(str(error))) from error

Function = Callable[..., Any]

_GOLDEN_RATIO = 0x9E3779B97F4A7C15 - 2**64  # 2**64 divided by it, as an int64
_PHILOX = tf.random.Algorithm.PHILOX.value  # the same whole numbers on every device, and compiled by XLA


class Key(NamedTuple):
    """What the numbers of a draw are to depend on.

    Attributes:
      number: A whole number of 64 bits, known when the draw is traced.
      place: An int64 scalar that may be known only when it runs.
      counters: Further ones, of the loops that the draw is in.
      sample: The number of the sample that it is drawn for; int32 scalar. None where there is but one.
    """

    number: int
    place: tf.Tensor
    counters: tuple[tf.Tensor | int, ...] = ()
    sample: tf.Tensor | None = None


def draw(make: Function, key: Key, /, *args: Any, **kwargs: Any) -> Any:
    """Makes the draw that a stateful one becomes for a key.

    Args:
      make: What makes it; from `DRAWS`.
      key: The key.
      *args: What the stateful draw was given.
      **kwargs: The same, by name.
    """
    if key.sample is None or tf.executing_eagerly():
        return make(key, *args, **kwargs)
    graph = tf.compat.v1.get_default_graph()
    before = graph.version
    drawn = make(key, *args, **kwargs)
    for made in graph.get_operations()[before:]:
        if made.type.startswith("Stateless") and not hasattr(made, "pfor_converter"):
            made.pfor_converter = _one_sample_after_the_other
    return drawn


def _seed(key: Key) -> tf.Tensor:
    """Returns a key as most stateless ops take it: int64, shape `[2]`."""
    seed = tf.stack([tf.constant(key.number, tf.int64), _place(key)])
    if key.sample is None:
        return seed
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(key.sample, tf.int64), alg="philox")


def _place(key: Key) -> tf.Tensor:
    """Returns one number for the place and the counters of the loops around a draw.

    The same few ops serve all draws of an iteration. A loop steps by the golden ratio of all numbers of 64 bits, whose
    multiples keep away from each other, so places up to 2**43 in up to 2**20 iterations do not meet.
    """
    steps: Any = 1
    for counter in key.counters:
        steps = (tf.cast(counter, tf.int64) + steps) * _GOLDEN_RATIO
    return key.place + steps if key.counters else key.place


def _philox(key: Key) -> dict[str, Any]:
    """Returns a key as the other ones take it: as the key and the 128-bit counter of the generator."""
    if key.sample is not None:
        words, counter = gen_stateless_random_ops_v2.stateless_random_get_key_counter(_seed(key))
    else:  # no op but a constant for each draw: TensorFlow merges the counters of all draws in a graph
        words = tf.constant([key.number % 2**64], tf.uint64)
        counter = tf.bitcast(tf.stack([tf.constant(0, tf.int64), _place(key)]), tf.uint64)
    return {"key": words, "counter": counter, "alg": _PHILOX}


# What each stateful draw becomes: its own arguments, after a key.


def _plain(
    op: Function,
    key: Key,
    /,
    shape: Any,
    dtype: Any,
    seed: int = 0,
    seed2: int = 0,
    name: str | None = None,
) -> Any:
    del seed, seed2
    return op(shape=shape, dtype=dtype, name=name, **_philox(key))


def _in_a_row(
    op: Function,
    key: Key,
    /,
    shape: Any,
    dtype: Any,
    seed: int = 0,
    seed2: int = 0,
    name: str | None = None,
) -> Any:
    """Makes a draw whose elements take the numbers of the generator as they come, as many as there are elements."""
    if key.sample is None:
        return _plain(op, key, shape, dtype, seed, seed2, name)
    shape, words = tf.convert_to_tensor(shape), _philox(key._replace(sample=None))
    at_once = 16 // max(tf.as_dtype(dtype).size, 4)  # elements that one count of the generator gives
    counts = -(-tf.reduce_prod(tf.cast(shape, tf.int64)) // at_once)
    start = tf.stack([tf.cast(key.sample, tf.int64) * counts, tf.constant(0, tf.int64)])
    counter = tf.bitcast(tf.bitcast(words["counter"], tf.int64) + start, tf.uint64)
    drawn = op(shape=shape, dtype=dtype, name=name, **words | {"counter": counter})
    if not tf.executing_eagerly():
        counter.op.pfor_converter = _bitcast_of_samples
        drawn.op.pfor_converter = functools.partial(_row_of_samples, op, at_once)
    return drawn


# How TensorFlow's vectorization is to make an op one of many samples; it asks each op for an attribute of that name.


def _bitcast_of_samples(given: Any) -> Any:
    return wrap(tf.bitcast(given.stacked_input(0), given.outputs[0].dtype))


def _one_sample_after_the_other(given: Any) -> Any:
    for name, each in zip((argument.name for argument in given.op.op_def.input_arg), given.inputs, strict=True):
        if each.is_stacked and name in ("shape", "num_samples"):
            raise ConversionNotImplementedError("draws of different shapes")
    return _fallback_converter(given)


def _row_of_samples(op: Function, at_once: int, given: Any) -> Any:
    """Draws for samples that follow each other what each of them would draw alone."""
    if given.pfor.all_indices_partitioned:  # perhaps not all samples are here
        raise ConversionNotImplementedError("samples that may not follow each other")
    shape, words, counters = given.unstacked_input(0), given.unstacked_input(1), given.stacked_input(2)
    [drawn] = given.outputs
    samples, elements = given.pfor.loop_len_vector, tf.reduce_prod(shape)
    counts = -(-elements // at_once)
    row = op(
        shape=tf.cast(samples, shape.dtype) * counts * at_once,
        key=words,
        counter=counters[0],
        alg=_PHILOX,
        dtype=drawn.dtype,
    )
    known = [size for size in drawn.shape if size is not None] if drawn.shape.rank is not None else []
    if math.prod(known) % at_once:  # else none is left over between two samples
        row = tf.reshape(row, tf.stack([samples[0], -1]))[:, :elements]
    return wrap(tf.reshape(row, tf.concat([tf.cast(samples, shape.dtype), shape], 0)))


_uniform = functools.partial(_in_a_row, gen_stateless_random_ops_v2.stateless_random_uniform_v2)
_normal = functools.partial(_in_a_row, gen_stateless_random_ops_v2.stateless_random_normal_v2)
_truncated_normal = functools.partial(_plain, gen_stateless_random_ops_v2.stateless_truncated_normal_v2)


def _uniform_int(
    key: Key, /, shape: Any, minval: Any, maxval: Any, seed: int = 0, seed2: int = 0, name: str | None = None
) -> Any:
    del seed, seed2
    return gen_stateless_random_ops_v2.stateless_random_uniform_int_v2(
        shape=shape, minval=minval, maxval=maxval, name=name, **_philox(key)
    )


def _parameterized_truncated_normal(
    key: Key,
    /,
    shape: Any,
    means: Any,
    stdevs: Any,
    minvals: Any,
    maxvals: Any,
    seed: int = 0,
    seed2: int = 0,
    name: str | None = None,
) -> Any:
    del seed, seed2
    rank = tf.size(shape)

    def of_rows(parameter: Any) -> tf.Tensor:
        """The stateful op has one parameter, or one for each row; the stateless one broadcasts from the right."""
        parameter = tf.convert_to_tensor(parameter)
        if parameter.shape.rank == 0:
            return parameter
        column = tf.reshape(parameter, tf.concat([tf.shape(parameter), tf.ones([rank - 1], tf.int32)], 0))
        return tf.broadcast_to(column, shape)

    drawn = gen_stateless_random_ops.stateless_parameterized_truncated_normal(
        shape, _seed(key), *map(of_rows, (means, stdevs, minvals, maxvals)), name=name
    )
    return tf.stop_gradient(drawn)  # the stateful op has no gradient


def _multinomial(
    key: Key,
    /,
    logits: Any,
    num_samples: Any,
    seed: int = 0,
    seed2: int = 0,
    output_dtype: Any = tf.int64,
    name: str | None = None,
) -> Any:
    del seed, seed2
    return gen_stateless_random_ops.stateless_multinomial(logits, num_samples, _seed(key), output_dtype, name=name)


def _with_shape_of(shape: Any, parameter: tf.Tensor) -> tf.Tensor:
    """Returns the shape of a draw of `shape` for each element of a parameter."""
    shape = tf.convert_to_tensor(shape)
    return tf.concat([shape, tf.shape(parameter, out_type=shape.dtype)], 0)


def _gamma(key: Key, /, shape: Any, alpha: Any, seed: int = 0, seed2: int = 0, name: str | None = None) -> Any:
    del seed, seed2
    alpha = tf.convert_to_tensor(alpha)
    return gen_stateless_random_ops_v2.stateless_random_gamma_v3(
        shape=_with_shape_of(shape, alpha), alpha=alpha, name=name, **_philox(key)
    )


def _poisson(
    key: Key,
    /,
    shape: Any,
    rate: Any,
    seed: int = 0,
    seed2: int = 0,
    dtype: Any = tf.int64,
    name: str | None = None,
) -> Any:
    del seed, seed2
    rate = tf.convert_to_tensor(rate)
    return gen_stateless_random_ops.stateless_random_poisson(
        _with_shape_of(shape, rate), _seed(key), rate, dtype=dtype, name=name
    )


def _shuffle(key: Key, /, value: Any, seed: int = 0, seed2: int = 0, name: str | None = None) -> Any:
    del seed, seed2
    value = tf.stop_gradient(value)  # the stateful op's gradient is None; of the stateless one TensorFlow knows nothing
    return gen_stateless_random_ops_v2.stateless_shuffle(value, name=name, **_philox(key))


def _binomial(
    key: Key,
    /,
    resource: Any,
    algorithm: Any,
    shape: Any,
    counts: Any,
    probs: Any,
    dtype: Any = tf.int64,
    name: str | None = None,
) -> Any:
    del resource, algorithm
    return gen_stateless_random_ops.stateless_random_binomial(shape, _seed(key), counts, probs, dtype=dtype, name=name)


def _bounding_box(
    key: Key,
    /,
    image_size: Any,
    bounding_boxes: Any,
    min_object_covered: Any,
    seed: int = 0,
    seed2: int = 0,
    **options: Any,
) -> Any:
    del seed, seed2
    return gen_image_ops.stateless_sample_distorted_bounding_box(
        image_size, bounding_boxes, min_object_covered, _seed(key), **options
    )


def _skip(key: Key, /, generator: tf.random.Generator, delta: Any) -> tf.Tensor:
    """Returns what the state of a generator would have been; the generator itself stands still."""
    del delta
    words = _philox(key)
    [size] = generator.state.shape
    return tf.bitcast(tf.concat([words["counter"][: size - 1], words["key"]], 0), tf.int64)


# Where TensorFlow's own code looks a stateful draw up, its name there, the type of its op, and what makes it stateless.
DRAWS: list[tuple[Any, str, str, Function]] = [
    (gen_random_ops, "random_uniform", "RandomUniform", _uniform),
    (gen_random_ops, "random_uniform_int", "RandomUniformInt", _uniform_int),
    (gen_random_ops, "random_standard_normal", "RandomStandardNormal", _normal),
    (gen_random_ops, "truncated_normal", "TruncatedNormal", _truncated_normal),
    (
        gen_random_ops,
        "parameterized_truncated_normal",
        "ParameterizedTruncatedNormal",
        _parameterized_truncated_normal,
    ),
    (gen_random_ops, "multinomial", "Multinomial", _multinomial),
    (gen_random_ops, "random_gamma", "RandomGamma", _gamma),
    (gen_random_ops, "random_poisson_v2", "RandomPoissonV2", _poisson),
    (gen_random_ops, "random_shuffle", "RandomShuffle", _shuffle),
    (gen_stateful_random_ops, "stateful_random_binomial", "StatefulRandomBinomial", _binomial),
    (gen_image_ops, "sample_distorted_bounding_box_v2", "SampleDistortedBoundingBoxV2", _bounding_box),
    (tf.random.Generator, "skip", "RngReadAndSkip", _skip),
]
