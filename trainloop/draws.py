"""TensorFlow's random draws on their way into a graph, seen and replaced; only here its private names are touched.

While a block is open, each stateful draw, loop and branch is offered to the block's handler. Where it gives a key, the
draw becomes TensorFlow's stateless one of the same distribution, with the same gradient; else it is left as it is.

Where a step is computed for many samples, each sample has a stretch of the generator's numbers, one after the other: so
that TensorFlow's vectorization, told how, draws those of many samples at once.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from trainloop.ambient import Ambient


def built_differently(what: str) -> str:
    """Returns the message for a TensorFlow that lacks something private."""
    return (
        f"TensorFlow {tf.__version__} is built differently from the versions trainloop was tested with ({what}). "
        "Install one of the range in trainloop's pyproject.toml."
    )


try:
    from tensorflow.python.ops import (
        cond,
        control_flow_switch_case,
        gen_image_ops,
        gen_random_ops,
        gen_stateful_random_ops,
        gen_stateless_random_ops,
        gen_stateless_random_ops_v2,
        while_loop,
    )
    from tensorflow.python.ops.parallel_for import control_flow_ops as parallel_for
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


class Handler(Protocol):
    """What is asked about each draw, loop and branch of a block."""

    def key(self, op: str) -> Key | None:
        """Returns what a draw is to depend on, or None where it is to be left as it is.

        Args:
          op: The type of the op that would be made (`"RandomUniform"`).
        """
        ...

    def loop(self, condition: Function, body: Function) -> tuple[Function, Function]:
        """Returns what is to be called in place of a loop's condition and body."""
        ...

    def branches(self, functions: Sequence[Function]) -> list[Function]:
        """Returns what is to be called in place of the branches of a conditional."""
        ...

    def vectorized(self) -> contextlib.AbstractContextManager[None]:
        """Is entered around the trace of what then runs for all rows at once (`tf.vectorized_map`, a Jacobian)."""
        ...


class Recomputation(NamedTuple):
    """A call of a function under `tf.recompute_grad`, which calls it again for the gradient.

    Attributes:
      call: The Python frame that makes the call.
      args: The function's arguments; the same object in both calls.
      again: Whether it is the call for the gradient.
    """

    call: types.FrameType
    args: tuple[Any, ...]
    again: bool


_handlers: Ambient[Handler] = Ambient()
_lock = threading.RLock()
_open_blocks = 0
_originals: list[tuple[Any, str, Any]] = []


@contextlib.contextmanager
def intercepted(handler: Handler) -> Iterator[None]:
    """Offers every draw, loop and branch of the block to a handler; those of other threads and graphs stay untouched.

    The making of a variable stays untouched too: what a weight begins with is no draw of a step.
    """
    global _open_blocks  # noqa: PLW0603 (as many blocks may be open as there are threads; the last puts all back)
    with _lock:
        if _open_blocks == 0:
            _replace_all()
        _open_blocks += 1
    try:
        with _handlers.opened(handler), tf.variable_creator_scope(_make_variable):
            yield
    finally:
        with _lock:
            _open_blocks -= 1
            if _open_blocks == 0:
                _put_all_back()


def loop_counter() -> tf.Tensor:
    """Returns the number of the iteration, in the condition or body of a `While` op that is being traced."""
    return tf.compat.v1.get_default_graph().inputs[0]


def recomputations() -> list[Recomputation]:
    """Returns the calls under `tf.recompute_grad` that this one is inside of; the outermost comes first."""
    found = []
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code in (_FORWARD, _BACKWARD):
            found.append(Recomputation(frame, frame.f_locals["args"], frame.f_code is _BACKWARD))
        frame = frame.f_back
    return found[::-1]


def _code_inside(code: types.CodeType, name: str) -> types.CodeType:
    """Returns the code of a function that is defined inside another one."""
    found = [const for const in code.co_consts if inspect.iscode(const) and const.co_name == name]
    if len(found) != 1 or "args" not in found[0].co_freevars + found[0].co_cellvars:
        raise ImportError(built_differently("tf.recompute_grad is another one"))
    return found[0]


_FORWARD = _code_inside(tf.recompute_grad.__code__, "inner")
_BACKWARD = _code_inside(_code_inside(_FORWARD, "grad_wrapper"), "inner_recompute_grad")


class _Untouched:
    """Leaves everything as it is."""

    def key(self, op: str) -> None:
        del op

    def loop(self, condition: Function, body: Function) -> tuple[Function, Function]:
        return condition, body

    def branches(self, functions: Sequence[Function]) -> list[Function]:
        return list(functions)

    def vectorized(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _make_variable(make: Function, **kwargs: Any) -> Any:
    with _handlers.opened(_Untouched()):
        return make(**kwargs)


def _handler() -> Handler:
    return _handlers.current() or _Untouched()


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


def _draw(op: str, stateless: Function, original: Function, /, *args: Any, **kwargs: Any) -> Any:
    key = _handler().key(op)
    if key is None:
        return original(*args, **kwargs)
    if key.sample is None or tf.executing_eagerly():
        return stateless(key, *args, **kwargs)
    graph = tf.compat.v1.get_default_graph()
    before = graph.version
    drawn = stateless(key, *args, **kwargs)
    for made in graph.get_operations()[before:]:
        if made.type.startswith("Stateless") and not hasattr(made, "pfor_converter"):
            made.pfor_converter = _one_sample_after_the_other
    return drawn


def _while_loop(original: Function, /, cond: Function, body: Function, *args: Any, **kwargs: Any) -> Any:
    cond, body = _handler().loop(cond, body)
    return original(cond, body, *args, **kwargs)


def _cond(
    original: Function, /, pred: Any, true_fn: Any = None, false_fn: Any = None, *args: Any, **kwargs: Any
) -> Any:
    if callable(true_fn) and callable(false_fn):
        true_fn, false_fn = _handler().branches([true_fn, false_fn])
    return original(pred, true_fn, false_fn, *args, **kwargs)


def _case(original: Function, /, *args: Any, **kwargs: Any) -> Any:
    return _handler().branches(original(*args, **kwargs))


def _pfor(original: Function, /, *args: Any, **kwargs: Any) -> Any:
    with _handler().vectorized():
        return original(*args, **kwargs)


def _stateless(op: str, stateless: Function) -> Function:
    return functools.partial(_draw, op, stateless)


# tf-keras and other libraries hold several copies of `tf.compat.v1`, each with names of its own.
_V1 = list({id(module): module for module in (tf.compat.v1, tf.compat.v1.compat.v1, tf.compat.v2.compat.v1)}.values())

# Where TensorFlow's own code looks a function up, its name there, and what is called in its place.
_REPLACED: list[tuple[Any, str, Function]] = [
    (gen_random_ops, "random_uniform", _stateless("RandomUniform", _uniform)),
    (gen_random_ops, "random_uniform_int", _stateless("RandomUniformInt", _uniform_int)),
    (gen_random_ops, "random_standard_normal", _stateless("RandomStandardNormal", _normal)),
    (gen_random_ops, "truncated_normal", _stateless("TruncatedNormal", _truncated_normal)),
    (
        gen_random_ops,
        "parameterized_truncated_normal",
        _stateless("ParameterizedTruncatedNormal", _parameterized_truncated_normal),
    ),
    (gen_random_ops, "multinomial", _stateless("Multinomial", _multinomial)),
    (gen_random_ops, "random_gamma", _stateless("RandomGamma", _gamma)),
    (gen_random_ops, "random_poisson_v2", _stateless("RandomPoissonV2", _poisson)),
    (gen_random_ops, "random_shuffle", _stateless("RandomShuffle", _shuffle)),
    (gen_stateful_random_ops, "stateful_random_binomial", _stateless("StatefulRandomBinomial", _binomial)),
    (gen_image_ops, "sample_distorted_bounding_box_v2", _stateless("SampleDistortedBoundingBoxV2", _bounding_box)),
    (tf.random.Generator, "skip", _stateless("RngReadAndSkip", _skip)),
    *((holder, "while_loop", _while_loop) for holder in (while_loop, *_V1)),
    *((holder, "cond", _cond) for holder in (cond, *_V1)),
    (control_flow_switch_case, "_indexed_case_verify_and_canonicalize_args", _case),
    (parallel_for, "pfor", _pfor),
]
if _missing := [name for holder, name, _ in _REPLACED if not hasattr(holder, name)]:
    raise ImportError(built_differently(f"there is no {', '.join(_missing)}"))


def _replace_all() -> None:
    for holder, name, replacement in _REPLACED:
        _replace(holder, name, replacement)


def _replace(holder: Any, name: str, replacement: Function) -> None:
    original = getattr(holder, name)

    # functools.wraps keeps `__module__`, by which AutoGraph knows TensorFlow and leaves its code alone.
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    _originals.append((holder, name, original))
    setattr(holder, name, function)


def _put_all_back() -> None:
    while _originals:
        setattr(*_originals.pop())
