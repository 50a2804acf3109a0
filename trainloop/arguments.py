"""What a `Trainer` is given, checked: each error names the argument, what was given, what was expected, what to do."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop import data, keras_hooks
from trainloop.callback import Callback
from trainloop.phase import Phase, check_phase
from trainloop.signatures import check_hooks
from trainloop.triggers import Trigger

Models = dict[str, Any]
Optimizers = dict[str, tf_keras.optimizers.Optimizer]

_ONLY = "model"


def check_models(model: Any) -> Models:
    """Returns the models by key; a single one has the key `"model"`.

    Raises:
      TypeError: If one of them is no model of tf-keras and no `tf.Module`.
      ValueError: If a dict of models is empty.
    """
    if not isinstance(model, Mapping):
        _check_model(model, "model")
        return {_ONLY: model}
    if not model:
        raise ValueError("model={} is empty; give a model, or a dict of at least one")
    for key, value in model.items():
        if not isinstance(key, str):
            raise TypeError(f"model={{{key!r}: ...}}: keys must be strings")
        _check_model(value, f"model[{key!r}]")
    return dict(model)


def check_optimizers(optimizer: Any, models: Models, is_dict: bool) -> Optimizers:
    """Returns the optimizers by the key of their model.

    Args:
      optimizer: An optimizer, its name, a dict of these, or None for a Trainer that never trains.
      models: What `check_models` returned.
      is_dict: Whether `model=` was a dict.

    Raises:
      TypeError: If one is not an optimizer of tf-keras.
      ValueError: If a key has no model, or two keys share one optimizer.
    """
    if optimizer is None:
        return {}
    if not isinstance(optimizer, Mapping):
        if is_dict:
            raise TypeError(
                f"optimizer={optimizer!r} is not a dict, but model= is; give a dict with the keys of the models to "
                f"train: {', '.join(map(repr, models))}"
            )
        return {_ONLY: _wrapped(_check_optimizer(optimizer, "optimizer"), models[_ONLY])}
    if not is_dict:
        raise TypeError("optimizer= is a dict, but model= is not; give both as dicts with the same keys, or neither")
    for key in optimizer:
        if key not in models:
            raise ValueError(f"optimizer[{key!r}] has no model: the keys of model= are {', '.join(map(repr, models))}")
    checked = {key: _check_optimizer(value, f"optimizer[{key!r}]") for key, value in optimizer.items()}
    if len({id(value) for value in checked.values()}) < len(checked):
        raise ValueError("optimizer= holds the same optimizer twice; each model needs one of its own")
    return {key: _wrapped(value, models[key]) for key, value in checked.items()}


def check_callbacks(callbacks: Sequence[Any]) -> list[Callback | tf_keras.callbacks.Callback]:
    """Returns the callbacks as a list.

    Raises:
      TypeError: If one is a class, or is no callback of trainloop or tf-keras.
    """
    if isinstance(callbacks, (Callback, tf_keras.callbacks.Callback)):
        raise TypeError(f"callbacks={callbacks!r} is a single callback; give a list: callbacks=[...]")
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks={callbacks!r} is a {type(callbacks).__name__}; give a list: callbacks=[...]")
    for position, callback in enumerate(callbacks):
        name = f"callbacks[{position}]"
        if isinstance(callback, type):
            raise TypeError(f"{name}={callback.__name__} is a class; give an instance: {callback.__name__}(...)")
        if isinstance(callback, Callback):
            check_hooks(callback, Callback)
            continue
        if keras_hooks.is_callback(callback):
            continue
        if keras_hooks.is_keras_3(callback):
            raise TypeError(
                f"{name}={type(callback).__name__} is of Keras 3 (tf.keras); "
                f"use tf_keras.callbacks.{type(callback).__name__}"
            )
        raise TypeError(
            f"{name}={callback!r} is no callback; it must be a trainloop.Callback or a tf_keras.callbacks.Callback"
        )
    return list(callbacks)


def check_trigger(trigger: Any, argument: str) -> Trigger | None:
    """Returns the trigger, or None.

    Raises:
      TypeError: If it is anything else, with what to write for a number.
    """
    if trigger is None or isinstance(trigger, Trigger):
        return trigger
    hint = f"; write Every(steps={trigger})" if isinstance(trigger, int) else ""
    raise TypeError(f"{argument}={trigger!r} is not a trigger; it must be Every(...), At(...) or AtEnd(){hint}")


def check_positive(value: Any, argument: str) -> int:
    """Returns a positive whole number.

    Raises:
      ValueError: If it is anything else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{argument}={value!r} must be a positive whole number")
    return value


def check_seed(seed: Any) -> int:
    """Returns the run's seed, drawn where none was given.

    Raises:
      ValueError: If it is not a whole number from 0 to 2**63 - 1.
    """
    if seed is None:
        return secrets.randbits(32)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r} must be a whole number from 0 to 2**63 - 1, or None to have one drawn")
    return seed


def check_eval_data(eval_data: Any, eval_every: Any) -> dict[str, Any]:
    """Returns the sets to evaluate on by name; a single one has the name `""`.

    Raises:
      TypeError: If something is not data, or `eval_every` is not a trigger.
      ValueError: If a dict of sets is empty, or `eval_every` is given without data.
    """
    check_trigger(eval_every, "fit: eval_every")
    if eval_data is None:
        if eval_every is not None:
            raise ValueError(f"fit: eval_every={eval_every} was given without eval_data=; give both or neither")
        return {}
    if not isinstance(eval_data, Mapping):
        data.check_data(eval_data, "fit: eval_data")
        return {"": eval_data}
    if not eval_data:
        raise ValueError("fit: eval_data={} is empty; give data, or a dict of at least one named set")
    for name, source in eval_data.items():
        data.check_data(source, f"fit: eval_data[{name!r}]")
    return dict(eval_data)


def check_microbatches(microbatches: int, train_data: Any) -> None:
    """Refuses more slices than a batch has rows, as far as the data say how many that are.

    Each slice costs a trace, and the empty ones bring nothing.

    Raises:
      ValueError: If there are more.
    """
    source = data.unwrapped(train_data)
    spec = getattr(source, "element_spec", ())  # of a tf.data.Dataset
    static = [leaf.shape[0] for leaf in tf.nest.flatten(spec) if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank]
    rows = getattr(source, "batch_size", static[0] if static else None)
    if rows is not None and microbatches > max(1, rows):
        raise ValueError(
            f"microbatches={microbatches}, but a batch of fit: train_data= has {rows} rows; give at most {rows}, or "
            "larger batches"
        )


def check_phase_of_pass(method: str, phase: Any, allowed: tuple[Phase, ...]) -> None:
    """Checks `phase=` of `evaluate` or `predict`.

    Raises:
      TypeError: If it is not a `Phase`.
      ValueError: If it is one that the method does not serve.
    """
    if phase is Phase.UPDATE_BN:
        raise ValueError(
            f"{method}: phase={phase} does not serve here; trainer.update_bn(data) measures the statistics of batch "
            "normalization anew"
        )
    check_phase(phase, allowed, argument=f"{method}: phase")


def find_strategy(models: Models) -> tf.distribute.Strategy:
    """Returns the strategy that the models were built under.

    Raises:
      ValueError: If they were built under different ones.
      NotImplementedError: If it is one that trainloop does not serve.
    """
    found = {id(strategy): strategy for strategy in map(_strategy_of, models.values())}
    if len(found) > 1:
        raise ValueError(
            "model=: the models were built under different strategies; build all of them in one strategy.scope()"
        )
    strategy = next(iter(found.values()))
    served = type(strategy).__name__ == "_DefaultDistributionStrategy" or isinstance(
        strategy, tf.distribute.MirroredStrategy
    )
    if not served:
        raise NotImplementedError(
            f"model= was built under {type(strategy).__name__}; trainloop serves tf.distribute.MirroredStrategy and no "
            "strategy. Build the model under one of these"
        )
    return strategy


def _check_model(model: Any, name: str) -> None:
    kind = model if isinstance(model, type) else type(model)
    if keras_hooks.is_keras_3(model):
        raise TypeError(
            f"{name}={kind.__name__} is a model of Keras 3 (tf.keras); build it with tf_keras "
            "(`import tf_keras`), whose layers trainloop can see into"
        )
    if isinstance(model, type):
        raise TypeError(f"{name}={model.__name__} is a class; give an instance: {model.__name__}(...)")
    if not callable(model) or not isinstance(model, (tf.Module, tf.__internal__.tracking.AutoTrackable)):
        raise TypeError(
            f"{name}={model!r} is a {type(model).__name__}; it must be a tf_keras model or layer, or a tf.Module with "
            "__call__"
        )


def _check_optimizer(optimizer: Any, name: str) -> tf_keras.optimizers.Optimizer:
    if keras_hooks.is_keras_3(optimizer):
        kind = optimizer if isinstance(optimizer, type) else type(optimizer)
        raise TypeError(
            f"{name}={kind.__name__} is of Keras 3 (tf.keras); use tf_keras.optimizers.{kind.__name__}(...)"
        )
    if isinstance(optimizer, str):
        try:
            return tf_keras.optimizers.get(optimizer)
        except ValueError as error:
            near = keras_hooks.did_you_mean(optimizer, tf_keras.optimizers)
            raise ValueError(f"{name}={optimizer!r} is unknown to tf_keras.optimizers.get{near}") from error
    if isinstance(optimizer, tf_keras.optimizers.legacy.Optimizer):
        raise TypeError(
            f"{name}={type(optimizer).__name__} is a legacy optimizer; "
            f"use tf_keras.optimizers.{type(optimizer).__name__}"
        )
    if isinstance(optimizer, type):
        raise TypeError(f"{name}={optimizer.__name__} is a class; give an instance: {optimizer.__name__}(...)")
    if not isinstance(optimizer, tf_keras.optimizers.Optimizer):
        raise TypeError(f"{name}={optimizer!r} is not an optimizer; give one of tf_keras.optimizers or its name")
    return optimizer


def _wrapped(optimizer: tf_keras.optimizers.Optimizer, model: Any) -> tf_keras.optimizers.Optimizer:
    """Adds loss scaling where a model computes in float16, as `Model.compile` does."""
    if isinstance(optimizer, tf_keras.mixed_precision.LossScaleOptimizer):
        return optimizer
    layers = keras_hooks.layers_of(model)
    half = any(getattr(getattr(layer, "dtype_policy", None), "name", "") == "mixed_float16" for layer in layers)
    return tf_keras.mixed_precision.LossScaleOptimizer(optimizer) if half else optimizer


def _strategy_of(model: Any) -> tf.distribute.Strategy:
    own = getattr(model, "distribute_strategy", None)
    if own is not None:
        return own
    for variable in getattr(model, "variables", ()):
        strategy = getattr(variable, "distribute_strategy", None)
        if strategy is not None:
            return strategy
    return tf.distribute.get_strategy()
