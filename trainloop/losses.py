"""`loss=` and `metrics=`: what `Model.compile` takes, as a function of one step and as state of a phase."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import keras_hooks
from trainloop.variables import parts_of

LossSpec = str | Callable[..., Any] | Sequence[Any] | dict[str, Any]


class Loss:
    """The loss of a step: `loss(targets, outputs, sample_weight)` is a scalar, the mean over the rows given.

    Args:
      spec: What `Model.compile(loss=...)` takes: a name, a function or a Loss object, or a list or dict of them.
      weights: What `Model.compile(loss_weights=...)` takes.
      output_names: The model's names of its outputs, for dicts.

    Raises:
      TypeError: If something in `spec` is not a loss of tf-keras.
      ValueError: If a name is unknown, or a Loss object does not reduce to the mean.
    """

    def __init__(self, spec: LossSpec, weights: Any = None, output_names: Sequence[str] | None = None):
        for item in tf.nest.flatten(spec):
            _check_loss(item)
        self.spec = spec
        self.weights = weights
        self.output_names = output_names

    def __call__(self, targets: Any, outputs: Any, sample_weight: Any = None) -> tf.Tensor:
        """Returns the loss of some rows; raises ValueError where there is no target."""
        value = keras_hooks.compute_losses(self.spec, self.weights, self.output_names, targets, outputs, sample_weight)
        if value is None:
            raise ValueError(
                "loss= found no target to compare the outputs with. Batches must be (x, y) or (x, y, sample_weight); "
                "for anything else override compute_loss"
            )
        return value


class Metrics:
    """The metrics of a `Trainer`: one set of variables, which an evaluation inside training borrows and gives back.

    Args:
      spec: What `Model.compile(weighted_metrics=...)` takes: names, functions or Metric objects, for one output or
        more.
      unweighted: What `Model.compile(metrics=...)` takes, for a model that was compiled with some: these get no
        sample weights.
      output_names: The model's names of its outputs, for dicts.

    Attributes:
      when_built: Called where a step that is run eagerly has just made the metrics, before it updates them.

    Raises:
      TypeError: If something in `spec` is not a metric of tf-keras.
    """

    def __init__(self, spec: Any = None, unweighted: Any = None, output_names: Sequence[str] | None = None):
        for argument, given in (("metrics", spec), ("unweighted_metrics", unweighted)):
            for item in tf.nest.flatten(given):
                _check_metric(argument, item)
        self._given = [spec, unweighted]
        self._container = keras_hooks.metrics_container(spec, unweighted, output_names)
        self._has_any = any(item is not None for item in tf.nest.flatten(self._given))
        self.when_built: Callable[[], None] = lambda: None

    @property
    def objects(self) -> list[tf_keras.metrics.Metric]:
        """The Metric objects; those given by name exist from the first update on."""
        if self._container.built:
            return self._container.metrics
        return self._given_objects

    @property
    def _given_objects(self) -> list[tf_keras.metrics.Metric]:
        return [item for item in tf.nest.flatten(self._given) if isinstance(item, tf_keras.metrics.Metric)]

    @property
    def to_be_made(self) -> list[Any]:
        """What was given by name, or as a function, and is no metric yet."""
        given = [item for item in tf.nest.flatten(self._given) if item is not None]
        return [] if self._container.built else [item for item in given if item not in self._given_objects]

    @property
    def are_all_there(self) -> bool:
        """Whether `objects` has all the metrics that there will be, in the order that they will keep."""
        is_ordered = self._given[1] is None and not isinstance(self._given[0], dict)
        return self._container.built or (is_ordered and not self.to_be_made)

    def in_training(self, updated: bool) -> list[tf_keras.metrics.Metric]:
        """Returns the metrics that training has a state of.

        Args:
          updated: Whether the Trainer updates them at each training step; else only the step itself may, and only
            those given as objects.
        """
        return self.objects if updated else self._given_objects

    @property
    def names(self) -> list[str]:
        """The names under which the metrics are reported."""
        found: list[str] = []
        for metric in self.objects:
            found.append(_unused(_plain_name(metric), found))
        return found

    def update(self, targets: Any, outputs: Any, sample_weight: Any) -> None:
        """Updates every metric; nothing happens where there are no targets or no outputs to compare."""
        if self.compares(targets, outputs):
            self.build(targets, outputs)
            self._container.update_state(targets, outputs, sample_weight=sample_weight)

    def compares(self, targets: Any, outputs: Any) -> bool:
        """Returns whether there is anything to update, and to update it with."""
        return self._has_any and targets is not None and outputs is not None

    def build(self, targets: Any, outputs: Any) -> None:
        """Makes the metrics that were given by name; in a replica, one set for all replicas."""
        if self._container.built:
            return
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            self._build(targets, outputs)
            return

        def once(strategy: tf.distribute.Strategy, targets: Any, outputs: Any) -> None:
            first = [
                tf.nest.map_structure(lambda leaf: strategy.experimental_local_results(leaf)[0], nest)
                for nest in (targets, outputs)
            ]
            self._build(*first)

        replica.merge_call(once, args=(targets, outputs))

    def _build(self, targets: Any, outputs: Any) -> None:
        keras_hooks.build_metrics(self._container, targets, outputs)
        if tf.executing_eagerly():
            self.when_built()

    def reset(self) -> None:
        """Starts every metric again."""
        for metric in self.objects:
            metric.reset_state()

    def result(self, beside: Mapping[str, Any]) -> dict[str, Any]:
        """Returns every metric's value beside others: a float, or an array where a metric has more than one number.

        Where a metric's result is a dict, its keys are the names; one that is taken has the metric's name before it.
        """
        found, names = dict(beside), self.names
        for name, metric in zip(names, self.objects, strict=True):
            value = metric.result()
            if not isinstance(value, dict):
                found[name] = _number(value)
                continue
            for key, part in value.items():
                taken = [*names, *found]
                found[_unused(f"{name}_{key}", taken) if key in taken else key] = _number(part)
        return found

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[None]:
        """Starts every metric again for the block, and gives each its old state back when the block ends."""
        before = [
            (part, part.read_value()) for metric in self.objects for v in metric.variables for part in parts_of(v)
        ]
        known = {id(metric) for metric in self.objects}
        self.reset()
        try:
            yield
        finally:
            for part, value in before:
                part.assign(value)
            for metric in self.objects:  # those that came into being in the block
                if id(metric) not in known:
                    metric.reset_state()


def _check_loss(item: Any) -> None:
    if item is None:
        return
    _check_kind("loss", item, tf_keras.losses)
    try:
        resolved = tf_keras.losses.get(item)
    except (ValueError, TypeError) as error:
        near = keras_hooks.did_you_mean(item, tf_keras.losses) if isinstance(item, str) else ""
        why = near or f": {str(error).splitlines()[0]}"
        raise ValueError(f"loss={item!r} is not a loss of tf-keras{why}") from error
    if not callable(resolved):
        raise TypeError(f"loss={item!r} must be a name, a function (targets, outputs) or a tf_keras.losses.Loss")
    reduction = getattr(resolved, "reduction", "auto")
    if reduction not in ("auto", "sum_over_batch_size"):
        raise ValueError(
            f"loss={type(resolved).__name__}(reduction={reduction!r}): a loss is the mean over what it saw, or "
            "batches, replicas and microbatches of different size could not be weighed; leave reduction at its default"
        )


def _check_metric(argument: str, item: Any) -> None:
    if item is None:
        return
    _check_kind(argument, item, tf_keras.metrics)
    if not isinstance(item, str) and not callable(item):
        raise TypeError(
            f"{argument}={item!r} must be a name, a function (targets, outputs) or a tf_keras.metrics.Metric"
        )
    if isinstance(item, str) and item.lower() not in ("accuracy", "acc", "crossentropy", "ce"):
        try:
            known = callable(tf_keras.metrics.get(item))
        except ValueError:
            known = False
        if not known:
            near = keras_hooks.did_you_mean(item, tf_keras.metrics, "accuracy", "crossentropy")
            raise ValueError(
                f"{argument}={item!r} is not a metric of tf-keras{near}; give a name that tf_keras.metrics.get knows, "
                "a function (targets, outputs) or a tf_keras.metrics.Metric"
            )


def _check_kind(argument: str, item: Any, module: Any) -> None:
    """Refuses what comes from Keras 3, and a class where an instance is meant."""
    name = getattr(item, "__name__", type(item).__name__)
    if keras_hooks.is_keras_3(item):
        raise TypeError(f"{argument}={name} is of Keras 3 (tf.keras); use {module.__name__}.{name}")
    if isinstance(item, type):
        raise TypeError(f"{argument}={name} is a class; give an instance: {name}(...)")


def _plain_name(metric: tf_keras.metrics.Metric) -> str:
    """Returns a metric's name without the number that Keras adds per process (`auc_3` of the third AUC made)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", type(metric).__name__).lower()
    return re.sub(rf"(?<![a-z0-9]){snake}_\d+$", snake, metric.name)


def _unused(name: str, taken: Sequence[str]) -> str:
    candidates = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)


def _number(value: Any) -> Any:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array
