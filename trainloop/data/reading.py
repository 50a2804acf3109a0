"""How `fit` reads its training data, and how the other phases read theirs; what is no data is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from trainloop.data.addressed import AddressedData, check_positive
from trainloop.data.datasets import DatasetStream, ResumedDataset
from trainloop.data.streams import AddressedStream, Stream

Data = AddressedData | tf.data.Dataset | ResumedDataset


def unwrapped(source: Any) -> Any:
    """Returns the dataset that `from_dataset` was given, and anything else as it is."""
    return source.dataset if isinstance(source, ResumedDataset) else source


def is_same(source: Any, other: Any) -> bool:
    """Returns whether a position in one set of training data means the same in the other."""
    if isinstance(source, AddressedData) and isinstance(other, AddressedData):
        return source.shape == other.shape
    return unwrapped(source) is unwrapped(other)


def what_changed(before: Any, now: Any) -> str | None:
    """Says in what two shapes of training data differ; None where they do not, or the first is not known.

    Args:
      before: The shape of those in which a position was saved.
      now: The shape of those in which it is to be found again.

    Example:
      >>> what_changed([100, 10], [100, 20])
      '100 rows in batches of 10 then, 100 rows in batches of 20 now'
    """
    if before is None or before == now:
        return None
    old, new = (_known_of_dataset(shape) for shape in (before, now))
    if old is not None and new is not None:
        return "; ".join(f"{key} {old.get(key)} then, {new[key]} now" for key in new if old.get(key) != new[key])
    return f"{_described(before)} then, {_described(now)} now"


def _known_of_dataset(shape: Any) -> dict[str, Any] | None:
    known = shape.get("dataset") if isinstance(shape, dict) else None
    return known if isinstance(known, dict) else None


def _described(shape: Any) -> str:
    if _known_of_dataset(shape) is not None:
        return "a tf.data.Dataset"
    if isinstance(shape, dict):
        return ", ".join(f"{name}: {_described(part)}" for name, part in shape.items())
    return "{} rows in batches of {}".format(*shape)


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
      run_seed: The run's seed, for the order of data that are addressed by step.
      steps_per_epoch: `fit`'s argument.
      steps_needed: How many more steps the run takes; None where its total is in epochs.
      taken: How many batches of the source the run has taken already.
      opened: What was returned for the same source before, to go on with.

    Raises:
      ValueError: If the data are empty or too few, or `steps_per_epoch` is missing or contradicts them.
    """
    if steps_per_epoch is not None:
        check_positive(steps_per_epoch, "fit: steps_per_epoch")
    dataset = unwrapped(source)
    known = dataset.steps_per_epoch if isinstance(dataset, AddressedData) else int(dataset.cardinality())
    if known == 0:
        raise ValueError("fit: train_data= is empty: it has no batch")
    if known > 0 and steps_per_epoch not in (None, known):
        raise ValueError(
            f"fit: steps_per_epoch={steps_per_epoch}, but train_data= has {known} batches an epoch; drop "
            "steps_per_epoch=, or repeat() the dataset to make it endless"
        )
    if isinstance(dataset, AddressedData):
        return opened or AddressedStream(dataset, run_seed)
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
    stream = opened or DatasetStream(dataset, source.resume if isinstance(source, ResumedDataset) else None)
    stream.count(steps_per_epoch, in_epochs=steps_needed is None)
    return stream


def one_pass(
    source: Any, steps: int | None, argument: str, augmented_by: int | None = None
) -> tuple[tf.data.Dataset, int | None]:
    """Returns the batches of an evaluation or prediction, and how many there are (None where only the end will tell).

    Args:
      source: What `check_data` takes.
      steps: How many batches to take; all by default.
      argument: The argument's name as the user knows it, for messages.
      augmented_by: The run's seed, where data addressed by step are to come as in `fit`, shuffled and augmented.

    Raises:
      TypeError: If `source` is not data.
      ValueError: If it is empty, has fewer batches than `steps`, or is endless while `steps` is not given.
    """
    check_data(source, argument)
    if steps is not None:
        check_positive(steps, f"{argument.split(':')[0]}: steps")
    dataset = unwrapped(source)
    if isinstance(dataset, AddressedData):
        dataset = dataset.once if augmented_by is None else dataset.one_epoch(augmented_by)
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
    """Raises TypeError where `source` is neither data of this package nor a `tf.data.Dataset`."""
    if isinstance(source, (AddressedData, ResumedDataset, tf.data.Dataset)):
        return
    leaves = tf.nest.flatten(source)
    if leaves and all(isinstance(leaf, (np.ndarray, tf.Tensor)) for leaf in leaves):
        hint = "wrap arrays with trainloop.data.from_arrays(arrays, batch_size=...)"
    elif isinstance(source, tf.distribute.DistributedDataset):
        hint = "pass the dataset itself, not a distributed one: the Trainer gives each replica its part of a batch"
    elif callable(source) or hasattr(source, "__next__"):
        hint = "wrap a generator with tf.data.Dataset.from_generator(...)"
    elif (
        hasattr(source, "__getitem__")
        and hasattr(source, "__len__")
        and not isinstance(source, (list, tuple, dict, str, bytes))
    ):
        hint = "wrap a source of rows with trainloop.data.from_source(source, batch_size=...)"
    else:
        hint = "pass trainloop.data.from_arrays(...) or a tf.data.Dataset of batches"
    raise TypeError(f"{argument}= is a {type(source).__name__}; {hint}")
