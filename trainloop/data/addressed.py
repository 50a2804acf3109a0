"""Data addressed by step: any batch of any epoch can be had at once, so that a position is two integers."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import numbering, tracing
from trainloop.data.order import InOrder, Order
from trainloop.signatures import check_called_with
from trainloop.user_code import call_user, own_exceptions

Batch = Any
_not_converted = tf.autograph.experimental.do_not_convert  # what is not the user's has nothing for AutoGraph in it
MapFn = Callable[[Batch], Batch]
AugmentFn = Callable[[Batch, tf.Tensor], Batch]

_ENDLESS = np.iinfo(np.int64).max
_AT_ONCE = 4  # large batches that are gathered side by side; each takes memory
_ROWS_IN_A_BLOCK = 8192  # their places take 0.3 ms to find, and Python is asked for them once


class AddressedData:
    """Batches that are addressed by step: the base of what `from_arrays`, `from_source` and `zip` make.

    Attributes:
      steps_per_epoch: The number of batches in an epoch.
      shape: What a position in the data depends on; a value of JSON.
      unkeyed: What the user's functions were last seen to draw where no key could be made, as descriptions.
    """

    steps_per_epoch: int
    shape: Any
    unkeyed: Sequence[str] = ()

    def endless(self, run_seed: int, epoch: int, batch: int) -> tf.data.Dataset:
        """Returns the batches from a position on, epoch after epoch, shuffled and augmented, without an end."""
        raise NotImplementedError

    @property
    def once(self) -> tf.data.Dataset:
        """All batches once, in the order of the rows, not augmented."""
        raise NotImplementedError

    def one_epoch(self, run_seed: int) -> tf.data.Dataset:
        """All batches of the first epoch, as `fit` sees them: shuffled and augmented."""
        number = self.steps_per_epoch
        return self.endless(run_seed, 0, 0).take(number).apply(tf.data.experimental.assert_cardinality(number))


class RowData(AddressedData):
    """Rows that are looked up by their number, in batches.

    Args:
      rows: How many there are.
      maker: The function that the user has called, for messages.
      batch_size: Rows in a batch.
      shuffle: Whether each epoch has an order of its own.
      seed: Of the order; None for the run's.
      map_fn: Applied to every batch.
      augment_fn: Applied where the phase has augmentation on.

    Raises:
      ValueError: If there are no rows, `batch_size` is not positive, or `seed` is out of range.
    """

    _loads_in_python = False
    _loaded_together = 1

    def __init__(
        self,
        rows: int,
        maker: str,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int | None,
        map_fn: MapFn | None,
        augment_fn: AugmentFn | None,
    ):
        check_positive(batch_size, f"{maker}: batch_size")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63):
            raise ValueError(f"{maker}: seed={seed!r} must be a whole number from 0 to 2**63 - 1, or None")
        for name, function in (("map_fn", map_fn), ("augment_fn", augment_fn)):
            if function is not None and not callable(function):
                raise TypeError(f"{maker}: {name}={function!r} must be a function, or None")
        if map_fn is not None:
            check_called_with(map_fn, f"{maker}: map_fn", "batch", ": x, y = batch")
        if augment_fn is not None:
            check_called_with(augment_fn, f"{maker}: augment_fn", "batch, key")
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.map_fn = map_fn
        self.augment_fn = augment_fn
        self.shape = [rows, batch_size]
        self.steps_per_epoch = math.ceil(rows / batch_size)
        self._from_position = functools.lru_cache(maxsize=1)(self._trace)

    def order(self, seed: int, epoch: int) -> Order | InOrder:
        """Returns the order of the rows in an epoch."""
        return Order(self.rows, seed, epoch) if self.shuffle else InOrder(self.rows)

    def endless(self, run_seed: int, epoch: int, batch: int) -> tf.data.Dataset:
        """Returns the batches from a position on, epoch after epoch, shuffled and augmented, without an end."""
        made, spec = self._from_position(run_seed if self.seed is None else self.seed)
        with tf.device("CPU"):
            variant = made(tf.constant(epoch, tf.int64), tf.constant(batch, tf.int64))
        return tf.data.experimental.from_variant(variant, spec)

    def _trace(self, seed: int) -> tuple[Any, Any]:
        """Returns what makes the dataset of a position, traced once: that is most of what it costs to seek."""
        specs: list[Any] = []

        def make(epoch: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
            order_of = functools.lru_cache(maxsize=1)(functools.partial(self.order, seed))
            numbers = self._row_numbers(order_of, epoch, batch, None, augment=True)
            dataset = self._prepared(numbers, epoch * self.steps_per_epoch + batch, seed, augment=True)
            specs.append(dataset.element_spec)
            return tf.data.experimental.to_variant(dataset)

        number = tf.TensorSpec([], tf.int64)
        with warnings.catch_warnings():  # what draws has a key in place of that seed, or is told of when `fit` begins
            warnings.filterwarnings("ignore", r"Seed \d+ from outer graph might be getting used", UserWarning)
            made = tf.function(make, autograph=False).get_concrete_function(number, number)
        return made, specs[-1]

    @functools.cached_property
    def once(self) -> tf.data.Dataset:
        """All batches once, in the order of the rows, not augmented."""
        start = tf.constant(0, tf.int64)
        numbers = self._row_numbers(lambda _: InOrder(self.rows), start, start, 1, augment=False)
        batches = self._prepared(numbers, start, 0, augment=False)
        return batches.apply(tf.data.experimental.assert_cardinality(self.steps_per_epoch))

    def _together(self, *, augment: bool) -> int:
        """Returns how many batches are loaded together; 1 where the user's functions are called on each."""
        return 1 if self.map_fn is not None or (augment and self.augment_fn is not None) else self._loaded_together

    def _load(self, rows: tf.Tensor) -> Batch:
        """Returns the rows of these numbers as a batch, or of a matrix of numbers as several; called in a graph."""
        raise NotImplementedError

    def _row_numbers(
        self,
        order_of: Callable[[int], Order | InOrder],
        epoch: tf.Tensor,
        batch: tf.Tensor,
        epochs: int | None,
        *,
        augment: bool,
    ) -> tf.data.Dataset:
        """Returns the numbers of the rows in each batch from a position on: vectors, or matrices of several batches.

        Python is asked for them a block of batches at a time; no block reaches over the end of an epoch.
        """
        length = max(1, _ROWS_IN_A_BLOCK // self.batch_size)
        blocks = math.ceil(self.steps_per_epoch / length)
        first = epoch * blocks + batch // length
        together = self._together(augment=augment)

        def block(number: np.ndarray, start: np.ndarray) -> np.ndarray:
            in_epoch, place = divmod(int(number), blocks)
            end = (place + 1) * length
            return order_of(in_epoch).between(int(start) * self.batch_size, end * self.batch_size)

        def batches(number: tf.Tensor) -> tf.data.Dataset:
            start = tf.where(number == first, batch, number % blocks * length)
            rows = tf.ensure_shape(tf.numpy_function(block, [number, start], tf.int64, stateful=False), [None])
            in_full = tf.size(rows) // self.batch_size * self.batch_size
            full = tf.data.Dataset.from_tensor_slices(tf.reshape(rows[:in_full], [-1, self.batch_size]))
            rest = tf.data.Dataset.from_tensors(rows[in_full:]).take(tf.cast(tf.size(rows) > in_full, tf.int64))
            if together == 1:
                return full.concatenate(rest)
            return full.batch(together).concatenate(rest.batch(1))

        end = _ENDLESS if epochs is None else epochs * blocks
        return tf.data.Dataset.range(first, end).flat_map(_not_converted(batches))

    def _prepared(
        self, numbers: tf.data.Dataset, first_step: tf.Tensor, seed: int, *, augment: bool
    ) -> tf.data.Dataset:
        """Returns the batches for the numbers of their rows; the first one is that of a step."""
        augment_fn = self.augment_fn if augment else None

        def load(place: tf.Tensor, rows: tf.Tensor) -> Any:
            return place, self._load(rows)

        def prepare(place: tf.Tensor, batch: Batch) -> Batch:
            # A draw that the user's functions make without a key gets one too, from the place of the batch.
            with tracing.recorded() as trace, numbering.keyed(seed=seed, phase="data", place=place, replica=0):
                batch = _returned(call_user(self.map_fn, batch), "map_fn") if self.map_fn else batch
                if augment_fn:
                    key = tf.stack([seed, place])
                    batch = _returned(call_user(augment_fn, batch, key), "augment_fn", key)
            self.unkeyed = trace.unkeyed
            return batch

        together = self._together(augment=augment)
        if self.map_fn is not None or augment_fn is not None:
            parallel = None if self._loads_in_python else tf.data.AUTOTUNE
            batches = numbers.enumerate(first_step).map(_not_converted(load), num_parallel_calls=parallel)
            with own_exceptions():
                batches = batches.map(_not_converted(prepare), num_parallel_calls=tf.data.AUTOTUNE)
        else:
            # Large batches are gathered side by side, each of them a copy that one core makes.
            parallel = _AT_ONCE if together == 1 and not self._loads_in_python else None
            batches = numbers.map(_not_converted(self._load), num_parallel_calls=parallel)
            batches = batches if together == 1 else batches.unbatch()
        options = tf.data.Options()
        # The autotuner has a thread that TensorFlow may wait for when an iterator goes: 40 seconds were seen. And there
        # is nothing in this pipeline to rewrite, which would be tried each time that an iterator is made.
        options.autotune.enabled = False
        options.experimental_optimization.apply_default_optimizations = False
        return batches.prefetch(tf.data.AUTOTUNE if together == 1 else together).with_options(options)


def _returned(batch: Batch, name: str, key: tf.Tensor | None = None) -> Batch:
    """Returns what a function of the user's has returned.

    Raises:
      TypeError: If that is no batch.
    """
    if batch is None:
        raise TypeError(f"{name} returned None; it must return the batch")
    if key is not None and batch is not key and any(leaf is key for leaf in tf.nest.flatten(batch)):
        raise TypeError(
            f"{name} returned its second argument, the key, as a part of the batch; it is called with (batch, key) and "
            "must return a batch like the one it got: x, y = batch"
        )
    return batch


def check_positive(value: Any, argument: str) -> None:
    """Raises ValueError where a value is no positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{argument}={value!r} must be a positive whole number")
