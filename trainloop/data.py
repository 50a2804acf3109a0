"""Data for a run: arrays addressed by step, and adapters for `tf.data`.

A run's position in its data is two integers, the epoch and the batch in it. `from_arrays` can start anywhere at no
cost; a `tf.data.Dataset` keeps its position in an iterator, which is saved with the rest where TensorFlow can save it.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainloop.user_code import call_user, own_exceptions

Batch = Any
_ENDLESS = np.iinfo(np.int64).max


class ArrayData:
    """Arrays in batches; made by `from_arrays`."""

    def __init__(
        self,
        arrays: Any,
        *,
        batch_size: int,
        shuffle: bool = True,
        seed: int | None = None,
        map_fn: Callable[[Batch], Batch] | None = None,
        augment_fn: Callable[[Batch, tf.Tensor], Batch] | None = None,
    ):
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.map_fn = map_fn
        self.augment_fn = augment_fn
        arrays = tf.nest.map_structure(_as_array, arrays)
        leaves = tf.nest.flatten(arrays)
        _check_positive(batch_size, "from_arrays: batch_size")
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63):
            raise ValueError(f"from_arrays: seed={seed!r} must be a whole number from 0 to 2**63 - 1, or None")
        if not leaves:
            raise ValueError(f"from_arrays: arrays={arrays!r} holds no array")
        lengths = {len(leaf) for leaf in leaves}
        if len(lengths) != 1:
            shapes = ", ".join(str(leaf.shape) for leaf in leaves)
            raise ValueError(f"from_arrays: arrays= must have the same number of rows; their shapes are {shapes}")
        self.rows = lengths.pop()
        if self.rows == 0:
            raise ValueError("from_arrays: arrays= has no rows")
        with tf.device("CPU"):
            self._tensors = tf.nest.map_structure(tf.constant, arrays)

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches in an epoch, a smaller last one included."""
        return math.ceil(self.rows / self.batch_size)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Returns the order of the rows in an epoch, drawn from Philox(seed, epoch): int64, shape `[rows]`."""
        if not self.shuffle:
            return np.arange(self.rows, dtype=np.int64)
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
        return generator.permutation(self.rows).astype(np.int64)

    def endless(self, run_seed: int, epoch: int, batch: int) -> tf.data.Dataset:
        """Returns the batches from a position on, epoch after epoch, shuffled and augmented, without an end."""
        seed = run_seed if self.seed is None else self.seed

        def indices(number: tf.Tensor) -> tf.data.Dataset:
            order = tf.numpy_function(lambda e: self.order(seed, int(e)), [number], tf.int64, stateful=False)
            return tf.data.Dataset.from_tensor_slices(tf.ensure_shape(order, [self.rows])).batch(self.batch_size)

        first_step = epoch * self.steps_per_epoch + batch

        def load(step: tf.Tensor, rows: tf.Tensor) -> Batch:
            loaded, key = self._gather(rows), tf.stack([tf.constant(seed, tf.int64), step])
            return call_user(self.augment_fn, loaded, key) if self.augment_fn else loaded

        dataset = tf.data.Dataset.range(epoch, _ENDLESS).flat_map(indices).skip(batch).enumerate(first_step)
        return self._loaded(dataset, load)

    @functools.cached_property
    def once(self) -> tf.data.Dataset:
        """All batches once, in the order of the rows, not augmented."""
        return self._loaded(tf.data.Dataset.range(self.rows).batch(self.batch_size), self._gather)

    def one_epoch(self, run_seed: int) -> tf.data.Dataset:
        """All batches of the first epoch, as `fit` sees them: shuffled and augmented."""
        number = self.steps_per_epoch
        return self.endless(run_seed, 0, 0).take(number).apply(tf.data.experimental.assert_cardinality(number))

    def _gather(self, rows: tf.Tensor) -> Batch:
        batch = tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), self._tensors)
        return call_user(self.map_fn, batch) if self.map_fn else batch

    def _loaded(self, indices: tf.data.Dataset, load: Callable[..., Batch]) -> tf.data.Dataset:
        heavy = self.map_fn is not None or self.augment_fn is not None
        load = tf.autograph.experimental.do_not_convert(load)
        with own_exceptions():
            batches = indices.map(load, num_parallel_calls=tf.data.AUTOTUNE if heavy else None)
        # The autotuner has a thread that TensorFlow may wait for when an iterator goes: 40 seconds were seen.
        options = tf.data.Options()
        options.autotune.enabled = False
        return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def from_arrays(
    arrays: Any,
    *,
    batch_size: int,
    shuffle: bool = True,
    seed: int | None = None,
    map_fn: Callable[[Batch], Batch] | None = None,
    augment_fn: Callable[[Batch, tf.Tensor], Batch] | None = None,
) -> ArrayData:
    """Makes batches of arrays, addressed by step: a run can start at any of them at no cost.

    `fit` sees the data shuffled and without an end, in epochs of a known length; `update_bn` sees one such epoch; other
    phases see it once, in order.

    Args:
      arrays: A NumPy array or a nest of them (`x`, `(x, y)`, `(x, y, sample_weight)`, a dict) with the same number of
        rows.
      batch_size: Rows in a batch; the last one of an epoch may have fewer.
      shuffle: Whether `fit` sees the rows in a new order each epoch.
      seed: Of the order; by default the run's seed.
      map_fn: `batch -> batch` in TensorFlow ops, applied to every batch in every phase.
      augment_fn: `(batch, key) -> batch`, applied only where the phase has augmentation on; `key` is an int64 tensor of
        shape `[2]` for `tf.random.stateless_*`, another one each step.

    Returns:
      Data for `fit`, `evaluate` and `predict`.

    Raises:
      TypeError: If something in `arrays` is not an array.
      ValueError: If the arrays differ in their number of rows or have none, `batch_size` is not positive, or `seed` is
        out of range.

    Example:
      >>> import numpy as np
      >>> from trainloop import data
      >>> pairs = data.from_arrays((np.zeros([10, 3]), np.zeros([10])), batch_size=4)
      >>> pairs.steps_per_epoch
      3
    """
    return ArrayData(arrays, batch_size=batch_size, shuffle=shuffle, seed=seed, map_fn=map_fn, augment_fn=augment_fn)


class Stream:
    """The training data of a run, with a position.

    Attributes:
      steps_per_epoch: Batches in an epoch; None where only the end of the data will tell, or there are no epochs.
      has_epochs: Whether the data come in epochs.
      restarts: Whether the data begin again where they end.
      may_end: Whether a batch may be missing, so that the loop has to look at each.
      iterator: Where the next batch comes from.
      saved_iterator: The iterator, where the position can only be saved with it; else None.
      passes: How many iterators were made of the data, where the order of the next pass depends on it.
      caveat: Why a resumed run may see other batches than one that was not killed, and what it will see; else None.
    """

    steps_per_epoch: int | None = None
    has_epochs = True
    restarts = True
    may_end = False
    iterator: Any = None
    saved_iterator: Any = None
    passes = 1
    caveat: str | None = None

    def seek(self, epoch: int, batch: int) -> None:
        """Moves to a batch of an epoch."""
        raise NotImplementedError

    def skip_passes(self, passes: int) -> None:
        """Goes on to the order of a later pass."""

    def begin_epoch(self) -> None:
        """Goes on to the next epoch."""

    def steps_left(self, batch: int) -> int | None:
        """Returns the number of batches left in the epoch after `batch` of them, or None where that is not known."""
        return None if self.steps_per_epoch is None else self.steps_per_epoch - batch


class ArrayStream(Stream):
    """`from_arrays` data: any position can be made anew, so none is saved but two integers."""

    def __init__(self, source: ArrayData, run_seed: int):
        self._source = source
        self._run_seed = run_seed
        self.shape = [source.rows, source.batch_size]
        self.steps_per_epoch = source.steps_per_epoch

    def seek(self, epoch: int, batch: int) -> None:
        """Makes the iterator anew, at that position."""
        self.iterator = iter(self._source.endless(self._run_seed, epoch, batch))


class DatasetStream(Stream):
    """A `tf.data.Dataset`: iterated anew each epoch, or, where the run is counted in steps, once."""

    def __init__(self, dataset: tf.data.Dataset):
        self._dataset = dataset
        self._cardinality = int(dataset.cardinality())
        self.may_end = self._cardinality == tf.data.UNKNOWN_CARDINALITY
        self.iterator = iter(dataset)
        self._is_saved = _can_be_saved(self.iterator)
        self.saved_iterator = self.iterator if self._is_saved else None
        if not self._is_saved:
            self.caveat = _UNSAVED
        elif _shuffles_anew_within_a_pass(dataset):
            self.caveat = _SHUFFLES_WITHIN

    def count(self, steps_per_epoch: int | None, *, in_epochs: bool) -> None:
        """Says how long an epoch is, and whether the run is counted in epochs."""
        self.steps_per_epoch = self._cardinality if self._cardinality >= 0 and in_epochs else steps_per_epoch
        self.restarts = in_epochs and (steps_per_epoch is None or self._cardinality >= 0)
        self.has_epochs = self.restarts or self.steps_per_epoch is not None

    def seek(self, epoch: int, batch: int) -> None:
        """Does nothing: where the iterator stands is the position."""

    def begin_epoch(self) -> None:
        """Iterates the dataset anew, unless it has no end."""
        if self.restarts:
            self._make_iterator()

    def skip_passes(self, passes: int) -> None:
        """Makes iterators up to that of a pass: `shuffle` draws the order of a pass when its iterator is made.

        A saved iterator holds what it has yet to draw from, except where all of a pass has been drawn already.
        """
        while self.passes < passes - 1:
            self._make_iterator()
        self.passes = passes  # TensorFlow makes the last one itself, when it restores what was saved

    def _make_iterator(self) -> None:
        self.iterator = iter(self._dataset)
        self.saved_iterator = self.iterator if self._is_saved else None
        self.passes += 1


_UNSAVED = (
    "cannot save its position (it holds a generator, Python code or unseeded random ops): a resumed run will begin the "
    "epoch under way again"
)
_SHUFFLES_WITHIN = (
    "repeats what was shuffled and then batched, mapped or otherwise changed, and TensorFlow forgets how to shuffle on "
    "where a checkpoint falls on the end of a pass: a resumed run may see the next passes in another order. Put "
    "repeat() next to shuffle(), or leave it out and give epochs="
)


def is_same(source: Any, other: Any) -> bool:
    """Returns whether a position in one set of training data means the same in the other."""
    if isinstance(source, ArrayData) and isinstance(other, ArrayData):
        return (source.rows, source.batch_size) == (other.rows, other.batch_size)
    return source is other


def training_stream(
    source: Any,
    run_seed: int,
    *,
    steps_per_epoch: int | None,
    steps_needed: int | None,
    taken: int = 0,
    opened: Any = None,
) -> Stream:
    """Returns what `fit` reads from.

    Args:
      source: `train_data=`.
      run_seed: The run's seed, for the order of `from_arrays` data.
      steps_per_epoch: `fit`'s argument.
      steps_needed: How many more steps the run takes; None where its total is in epochs.
      taken: How many batches of the source the run has taken already.
      opened: What was returned for the same source before, to go on with.

    Raises:
      ValueError: If the data are empty or too few, or `steps_per_epoch` is missing or contradicts them.
    """
    if steps_per_epoch is not None:
        _check_positive(steps_per_epoch, "fit: steps_per_epoch")
    known = source.steps_per_epoch if isinstance(source, ArrayData) else int(source.cardinality())
    if known == 0:
        raise ValueError("fit: train_data= is empty: it has no batch")
    if known > 0 and steps_per_epoch not in (None, known):
        raise ValueError(
            f"fit: steps_per_epoch={steps_per_epoch}, but train_data= has {known} batches an epoch; drop "
            "steps_per_epoch=, or repeat() the dataset to make it endless"
        )
    if isinstance(source, ArrayData):
        return opened or ArrayStream(source, run_seed)
    if known == tf.data.INFINITE_CARDINALITY and steps_needed is None and steps_per_epoch is None:
        raise ValueError(
            "fit: epochs= was given, but train_data= is endless and has none; say how long one is with "
            "steps_per_epoch=, or give steps="
        )
    if steps_needed is not None and 0 < known < taken + steps_needed:
        raise ValueError(
            f"fit: train_data= is exhausted after {known - taken} batches, but {steps_needed} steps are left; repeat() "
            "the dataset, or give epochs= to have it iterated again"
        )
    stream = opened or DatasetStream(source)
    stream.count(steps_per_epoch, in_epochs=steps_needed is None)
    return stream


def one_pass(
    source: Any, steps: int | None, argument: str, augmented_by: int | None = None
) -> tuple[tf.data.Dataset, int | None]:
    """Returns the batches of an evaluation or prediction, and how many there are (None where only the end will tell).

    Args:
      source: `from_arrays` data or a `tf.data.Dataset`.
      steps: How many batches to take; all by default.
      argument: The argument's name as the user knows it, for messages.
      augmented_by: The run's seed, where `from_arrays` data are to come as in `fit`, shuffled and augmented.

    Raises:
      TypeError: If `source` is not data.
      ValueError: If it is empty, has fewer batches than `steps`, or is endless while `steps` is not given.
    """
    check_data(source, argument)
    if steps is not None:
        _check_positive(steps, f"{argument.split(':')[0]}: steps")
    dataset = source
    if isinstance(source, ArrayData):
        dataset = source.once if augmented_by is None else source.one_epoch(augmented_by)
    cardinality = int(dataset.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY and steps is None:
        take = "take(...)" if argument.startswith("fit") else "steps="
        raise ValueError(f"{argument}= is endless; say how many batches to use with {take}")
    if cardinality >= 0:
        check_taken(cardinality, steps, argument)
    dataset = dataset if steps is None else dataset.take(steps)
    cardinality = int(dataset.cardinality())
    return dataset, cardinality if cardinality > 0 else None


def check_taken(batches: int, steps: int | None, argument: str) -> None:
    """Raises ValueError where data have no batch, or fewer batches than `steps`."""
    if batches == 0:
        raise ValueError(f"{argument}= is empty: it has no batch")
    if steps is not None and batches < steps:
        raise ValueError(
            f"{argument}= is exhausted after {batches} batches, but steps={steps} asks for more; give no more steps "
            "than there are batches, or none to use all"
        )


def check_data(source: Any, argument: str) -> None:
    """Raises TypeError where `source` is neither `from_arrays` data nor a `tf.data.Dataset`."""
    if isinstance(source, (ArrayData, tf.data.Dataset)):
        return
    leaves = tf.nest.flatten(source)
    if leaves and all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in leaves):
        hint = "wrap arrays with trainloop.data.from_arrays(arrays, batch_size=...)"
    elif isinstance(source, tf.distribute.DistributedDataset):
        hint = "pass the dataset itself, not a distributed one: the Trainer gives each replica its part of a batch"
    elif callable(source) or hasattr(source, "__next__"):
        hint = "wrap a generator with tf.data.Dataset.from_generator(...)"
    else:
        hint = "pass trainloop.data.from_arrays(...) or a tf.data.Dataset of batches"
    raise TypeError(f"{argument}= is a {type(source).__name__}; {hint}")


def _check_positive(value: Any, argument: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{argument}={value!r} must be a positive whole number")


def _shuffles_anew_within_a_pass(dataset: Any, *, repeated: bool = False, changed: bool = False) -> bool:
    """Returns whether a shuffle feeds a repeat through something else, which drops the shuffle where a pass ends."""
    name = type(dataset).__name__
    if "Shuffle" in name and repeated and changed and getattr(dataset, "_reshuffle_each_iteration", True):
        return True
    is_repeat = "Repeat" in name
    below = {"repeated": repeated or is_repeat, "changed": repeated and (changed or not is_repeat)}
    return any(_shuffles_anew_within_a_pass(source, **below) for source in getattr(dataset, "_inputs", list)())


def _can_be_saved(iterator: Any) -> bool:
    """Tries it: TensorFlow has no way to ask. At the start of a dataset this writes next to nothing."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            tf.train.Checkpoint(iterator=iterator).write(f"{directory}/iterator")
        except (tf.errors.OpError, NotImplementedError, ValueError):
            return False
    return True


def _as_array(value: Any) -> np.ndarray:
    if not hasattr(value, "__array__"):
        raise TypeError(
            f"from_arrays: arrays= holds {value!r} of type {type(value).__name__}; every leaf must be an array "
            "(numpy.asarray makes one of a list)"
        )
    array = np.asarray(value)
    if array.ndim == 0:
        raise ValueError("from_arrays: arrays= holds a scalar; every leaf must have rows")
    return array
