"""UPDATE_BN: the statistics of batch normalization as their average over one pass, each batch counted by its rows.

References:
  Wu and Johnson, Rethinking "Batch" in BatchNorm, 2021.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainloop import keras_hooks, step_context
from trainloop.aside import run_aside
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import own_name
from trainloop.summing_loop import SummingLoop


class StatisticsLoop(SummingLoop):
    """The inner loop of UPDATE_BN: forward passes that write batch normalization's statistics, and nothing else.

    In each call a layer gets the momentum with which its statistics stay the average over the pass so far:
    `1 - rows / (rows so far, these included)`. The rows are those of the whole batch, also where each replica sees but
    a part: what its copies of the statistics hold is averaged over the replicas.

    Attributes:
      layers: The layers that the traced step updates. A frozen one is none of them.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.layers: list[Layer] = []
        self._seen: dict[tuple[int, int], tf.Variable] = {}
        self._around_batch_norm = self._averaged

    @property
    def own_variables(self) -> list[tf.Variable]:
        """The window, and the rows that each layer has seen."""
        return [*super().own_variables, *self._seen.values()]

    def begin_pass(self) -> None:
        """Forgets the rows of the pass before."""
        for seen in self._seen.values():
            seen.assign(0.0)

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        del returned, part
        return tf.cast(tf.stack([rows, rows]), tf.float64), tf.constant(True)

    @contextlib.contextmanager
    def _averaged(self, layer: Layer) -> Iterator[None]:
        if not layer.trainable:
            yield
            return
        if "momentum" not in vars(layer):
            raise ValueError(
                f"{own_name(layer)}: {type(layer).__name__} is registered as batch_norm but has no attribute momentum, "
                "with which UPDATE_BN averages its statistics. Update them as `momentum * moving + (1 - momentum) * "
                "batch` with self.momentum, as Keras does, or freeze the layer (trainable=False)"
            )
        rows = tf.cast(step_context.required().total_rows, tf.float64)
        so_far = self._rows_seen(layer).assign_add(rows)
        momentum, statistics = 1.0 - rows / so_far, keras_hooks.statistics_of(layer)
        if keras_hooks.is_kerass_batch_norm(layer):
            for statistic in statistics:  # x - (x - batch) is not the batch where x is huge, or no number
                zero = tf.zeros(statistic.shape, statistic.dtype)
                statistic.assign(tf.where(so_far > rows, statistic.read_value(), zero))
        else:  # it may want one dtype in all that it computes
            momentum = tf.cast(momentum, statistics[0].dtype if statistics else tf.float32)
        with keras_hooks.momentum_given(layer, momentum):
            yield

    def _rows_seen(self, layer: Layer) -> tf.Variable:
        """Returns how many rows a layer has seen in this pass; each replica counts for itself."""
        key = id(layer), _replica()
        if key not in self._seen:
            if all(layer is not known for known in self.layers):
                self.layers.append(layer)  # held, so that no id is given to another object
            # XLA wants the variables of a step on one device.
            beside = next(iter(keras_hooks.statistics_of(layer)), None)
            device = None if beside is None else beside.device

            def make() -> tf.Variable:
                with tf.device(device):
                    return tf.Variable(0.0, dtype=tf.float64, trainable=False, name="rows_seen")

            self._seen[key] = run_aside(make)
        return self._seen[key]


def _replica() -> int:
    context = tf.distribute.get_replica_context()
    return 0 if context is None else int(tf.get_static_value(tf.convert_to_tensor(context.replica_id_in_sync_group)))


def check_updates(loop: StatisticsLoop, models: Mapping[str, Any]) -> None:
    """Raises ValueError where the step that was traced (or has run) updates the statistics of no layer."""
    if loop.layers:
        return
    known = batch_norms(models)
    frozen = sum(not layer.trainable for layer in known)
    if not known:
        why = "the model has no batch normalization (a layer of your own is made one by trainloop.register_family)"
    elif frozen == len(known):
        why = (
            f"all {frozen} batch normalizations of the model are frozen; unfreeze (trainable = True) what is to change"
        )
    else:
        why = "the forward part of the step calls no batch normalization that is not frozen"
    raise ValueError(f"update_bn: there is nothing to update: {why}")


def batch_norms(models: Mapping[str, Any]) -> list[Layer]:
    """Returns the layers of the family `batch_norm` in some models, each once."""
    layers = [layer for model in models.values() for layer in keras_hooks.layers_of(model)]
    return list({id(layer): layer for layer in layers if keras_hooks.family_of(layer) == "batch_norm"}.values())


@contextlib.contextmanager
def put_back_on_error(loop: StatisticsLoop, models: Mapping[str, Any]) -> Iterator[None]:
    """Puts the statistics back if the block, one pass of the loop, does not end well."""
    layers = {id(layer): layer for layer in (*batch_norms(models), *loop.layers)}.values()
    strategy = tf.distribute.get_strategy()
    variables = [
        each
        for layer in layers
        for statistic in keras_hooks.statistics_of(layer)
        for each in strategy.experimental_local_results(statistic)  # each replica has values of its own
    ]
    before = [variable.read_value() for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise
