"""The only module that touches private names of tf-keras; all of them are bound here, at import.

Everything else in the package asks these functions, so that a tf-keras whose insides differ fails in one place and at
once, and a second Keras could be given hooks of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from trainloop import policy
from trainloop.aside import run_aside
from trainloop.policy import Family
from trainloop.versions import TESTED, check_versions

check_versions(tf.__version__, tf_keras.__version__)
try:
    from tf_keras.src.engine import base_layer, base_layer_utils, compile_utils
    from tf_keras.src.engine import training as training_lib
    from tf_keras.src.engine.functional import Functional
    from tf_keras.src.engine.keras_tensor import KerasTensor
    from tf_keras.src.layers.normalization.batch_normalization import BatchNormalizationBase
    from tf_keras.src.layers.rnn.dropout_rnn_cell_mixin import DropoutRNNCellMixin
    from tf_keras.src.utils import generic_utils
except ImportError as error:
    raise ImportError(
        f"this tf-keras {tf_keras.__version__} is built differently from the one trainloop was tested with ({error}). "
        f"Install a release of tf-keras {TESTED[0]} to {TESTED[-1]} anew, with the TensorFlow of its minor version."
    ) from error

Layer = tf_keras.layers.Layer
CallNext = Callable[..., Any]
Handler = Callable[[CallNext, Layer, tuple[Any, ...], dict[str, Any]], Any]
DirectHandler = Callable[[Layer, tuple[Any, ...], dict[str, Any]], None]

_DROPOUT_LAYERS = (tf_keras.layers.Dropout, tf_keras.layers.AlphaDropout, tf_keras.layers.GaussianDropout)
for _layer_class in _DROPOUT_LAYERS:
    policy.register_family(_layer_class, "dropout")
policy.register_family(tf_keras.layers.GaussianNoise, "noise")
policy.register_family(BatchNormalizationBase, "batch_norm")
policy.register_family(tf_keras.layers.SpectralNormalization, "update")
for _name in dir(tf_keras.layers):
    if _name.startswith("Random"):
        policy.register_family(getattr(tf_keras.layers, _name), "augmentation")


_NO_NAMES = ("get", "serialize", "deserialize", "Loss", "Metric", "optimizer")

_CLASSES_WITH_FAMILY = tuple(layer_class for layer_class in policy.registered_classes() if "call" in vars(layer_class))


def family_of(layer: Layer) -> Family | None:
    """Returns the family of a layer, by its class or by what it was built to do (an LSTM with recurrent dropout)."""
    registered = policy.registered_family(type(layer))
    if registered is not None:
        return registered
    if type(layer).__name__ == "StochasticDepth":
        return "dropout"
    draws_inside = (
        DropoutRNNCellMixin,
        tf_keras.layers.RNN,
        tf_keras.layers.Attention,
        tf_keras.layers.AdditiveAttention,
    )
    if isinstance(layer, draws_inside) and any(
        (getattr(layer, name, None) or 0.0) > 0.0 for name in ("dropout", "recurrent_dropout")
    ):
        return "dropout"
    return None


_lock = threading.RLock()
_open_blocks: list[tuple[Handler, DirectHandler]] = []
_replaced: list[tuple[type, CallNext]] = []  # what stood there when the outermost block opened


@contextlib.contextmanager
def intercepted_layer_calls(handler: Handler, direct: DirectHandler) -> Iterator[None]:
    """Sends every `Layer.__call__` of the process through `handler` while the block lasts.

    All blocks that are open at a time must bring the same handlers.

    Args:
      handler: Called with the original `__call__`, the layer, and its arguments; returns the layer's outputs.
      direct: Called with the layer and its arguments before each `call` of Keras's own layers that have a family, so
        that one which does not come through `__call__` is noticed.
    """
    with _lock:
        if not _open_blocks:
            _replace_methods(handler, direct)
        _open_blocks.append((handler, direct))
    try:
        yield
    finally:
        with _lock:
            _open_blocks.pop()
            while not _open_blocks and _replaced:
                layer_class, original = _replaced.pop()
                setattr(layer_class, "__call__" if layer_class is base_layer.Layer else "call", original)


def _replace_methods(handler: Handler, direct: DirectHandler) -> None:
    original = base_layer.Layer.__call__

    # functools.wraps keeps `__module__`, by which AutoGraph knows tf-keras and leaves its code alone.
    @functools.wraps(original)
    def call(layer: Layer, *args: Any, **kwargs: Any) -> Any:
        return handler(original, layer, args, kwargs)

    _replaced.append((base_layer.Layer, original))
    base_layer.Layer.__call__ = call  # pyright: ignore[reportAttributeAccessIssue]
    for layer_class in _CLASSES_WITH_FAMILY:
        _replaced.append((layer_class, layer_class.call))
        layer_class.call = _told_of(layer_class.call, direct)


def _told_of(original: CallNext, direct: DirectHandler) -> CallNext:
    @functools.wraps(original)
    def call(layer: Layer, *args: Any, **kwargs: Any) -> Any:
        direct(layer, args, kwargs)
        return original(layer, *args, **kwargs)

    vars(call)["__signature__"] = inspect.signature(original)  # what Keras reads where a layer is made in the block
    return call


def said_training(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Returns the `training` value given in a layer call's arguments, or None."""
    if kwargs.get("training") is not None:
        return kwargs["training"]
    position = _position_of_training(layer)
    return args[position] if position is not None and position < len(args) else None


def with_training(
    layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], value: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns a layer call's arguments with `training` set to a value."""
    position = _position_of_training(layer)
    if position is not None and position < len(args):
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, "training": value}


def _position_of_training(layer: Layer) -> int | None:
    """Returns where `training` stands among the positional arguments of a layer's call; None where it is no such."""
    names = [name for name in layer._call_spec.full_argspec.args if name != "self"]
    return names.index("training") if "training" in names else None


def heeds_training(layer: Layer) -> bool:
    """Returns whether a layer's `call` takes `training` and may do something of its own by it."""
    return _position_of_training(layer) is not None and not is_container(layer)


def default_training(layer: Layer) -> Any:
    """Returns the value that a layer's `call` takes for `training` where it is invoked with none, past `__call__`."""
    default = layer._call_spec.default_training_arg
    return tf_keras.backend.learning_phase() if default is None else default


_MODES = {"is_training": True, "is_train": True, "train": True, "train_mode": True, "deterministic": False}


def contrary_mode(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> str | None:
    """Returns how a parameter that means `training` under another name, which Keras does not know, contradicts it."""
    for name, position, default in _mode_parameters(type(layer)):
        value = kwargs.get(name, args[position] if position < len(args) else default)
        if isinstance(value, bool) and value is not (training is _MODES[name]):
            return f"{name}={value}"
    return None


@functools.cache
def _mode_parameters(layer_class: type[Layer]) -> tuple[tuple[str, int, Any], ...]:
    try:
        parameters = list(inspect.signature(layer_class.call).parameters.values())[1:]
    except (TypeError, ValueError):
        return ()
    if any(parameter.name == "training" for parameter in parameters):
        return ()
    return tuple((each.name, place, each.default) for place, each in enumerate(parameters) if each.name in _MODES)


def mode_parameters(layer: Layer) -> list[str]:
    """Returns the parameters of a layer's `call` that mean `training` under a name that Keras does not know."""
    return [name for name, _, _ in _mode_parameters(type(layer))]


def inherited_training() -> Any:
    """Returns the `training` value that the enclosing Keras call hands down, or None."""
    return base_layer_utils.call_context().training


def calling_layer() -> Layer | None:
    """Returns the layer whose `call` is running in this thread, or None."""
    return base_layer_utils.call_context().layer


def is_symbolic(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether a layer call builds a functional model instead of computing something."""
    return any(isinstance(value, KerasTensor) for value in tf.nest.flatten((args, kwargs)))


def takes_training(function: Callable[..., Any]) -> bool:
    """Returns whether a callable has a parameter named `training`."""
    if isinstance(function, Layer):
        return True
    try:
        return "training" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def is_keras_3(value: Any) -> bool:
    """Returns whether an object, class or function comes from Keras 3, which `tf.keras` is since TensorFlow 2.16."""
    kind = value if isinstance(value, type) else type(value)
    modules = [base.__module__ for base in kind.__mro__] + [getattr(value, "__module__", None) or ""]
    return any(module.split(".")[0] == "keras" for module in modules)


def is_callback(value: Any) -> bool:
    """Returns whether an object can be called as a callback of tf-keras.

    A class of somebody else that derives from Keras 3's bare `Callback`, whose hooks are all empty, can
    (`tqdm.keras.TqdmCallback`); a callback of Keras 3 itself cannot.
    """
    if isinstance(value, tf_keras.callbacks.Callback):
        return True
    of_keras_3 = [base.__name__ for base in type(value).__mro__ if base.__module__.split(".")[0] == "keras"]
    return of_keras_3 == ["Callback"]


def did_you_mean(given: str, module: Any, *others: str) -> str:
    """Returns `" (did you mean 'accuracy'?)"` for a name that is not known; nothing where none is near.

    Args:
      given: The name.
      module: `tf_keras.losses`, `tf_keras.metrics` or `tf_keras.optimizers`.
      *others: Further names that would do.
    """
    public = [name for name in dir(module) if name[0] != "_" and callable(getattr(module, name))]
    known = [name.lower() for name in public] if module is tf_keras.optimizers else public
    near = difflib.get_close_matches(given, [*others, *(name for name in known if name not in _NO_NAMES)], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


class _WithoutMean:
    """Stands in for the running mean that Keras would update at every call of a loss."""

    def update_state(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs


class _MeanLoss:
    """A loss whose reduction is known to be the mean, so that Keras does not rescale it by the number of replicas."""

    reduction = None

    def __init__(self, loss: tf_keras.losses.Loss):
        self.loss = loss

    def __call__(self, *args: Any, **kwargs: Any) -> tf.Tensor:
        return self.loss(*args, **kwargs)


class _Losses(compile_utils.LossesContainer):
    def _get_loss_object(self, loss: Any) -> _MeanLoss | None:
        loss = super()._get_loss_object(loss)
        return None if loss is None else _MeanLoss(loss)

    def _create_metrics(self) -> None:
        self._per_output_metrics = [None] * len(self._output_names or ())


def compute_losses(
    losses: Any, loss_weights: Any, output_names: Sequence[str] | None, targets: Any, outputs: Any, sample_weight: Any
) -> tf.Tensor | None:
    """Returns the weighted sum of the losses of all outputs as `Model.fit` has it: a scalar; None without a target.

    Unlike Keras it is the mean over the rows given also inside a replica, and nothing is written.
    """
    container = _Losses(losses, loss_weights, output_names=output_names, total_loss_mean=_WithoutMean())
    return container(targets, outputs, sample_weight=sample_weight)


def metrics_container(weighted_metrics: Any, metrics: Any, output_names: Sequence[str] | None) -> Any:
    """Returns Keras's own resolution of `metrics=`: strings, functions and objects, for one output or for many."""
    return compile_utils.MetricsContainer(metrics, weighted_metrics, output_names=output_names)


def build_metrics(container: Any, targets: Any, outputs: Any) -> None:
    """Makes the metrics of a container from the shapes of targets and outputs.

    It is done aside, since it happens while a step is traced, which would be traced a second time for the variables.
    """
    targets = container._conform_to_outputs(outputs, targets)
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None

    def build() -> None:
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            container.build(outputs, targets)

    run_aside(build)


def compiled_arguments(model: tf_keras.Model) -> dict[str, Any]:
    """Returns what a model was given by `compile`, under the names that a Trainer has for it."""
    losses, metrics = model.compiled_loss, model.compiled_metrics
    return {
        "optimizer": model.optimizer,
        "loss": losses._user_losses,
        "loss_weights": losses._user_loss_weights,
        "metrics": metrics._user_weighted_metrics,
        "unweighted_metrics": metrics._user_metrics,
        "jit_compile": bool(model._jit_compile),
    }


def own_step_methods(model: Any) -> list[str]:
    """Returns the step methods of `fit` that a model's class overrides; none where it is no model of tf-keras."""
    if not isinstance(model, tf_keras.Model):
        return []
    names = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")
    return [name for name in names if getattr(type(model), name) is not getattr(training_lib.Model, name)]


def describes_a_call(error: BaseException) -> bool:
    """Returns whether Keras has raised an exception in place of another, to add the arguments of a layer's call."""
    return "_keras_call_info_injected" in vars(error) and error.__context__ is not None


def as_it_is(error: BaseException) -> BaseException:
    """Returns an exception marked so that Keras does not raise another one in its place on its way out of a layer."""
    error._keras_call_info_injected = True  # pyright: ignore[reportAttributeAccessIssue]
    return error


def trainable_candidates(model: Any) -> list[tf.Variable]:
    """Returns every variable of a model that could be trained, frozen now or not, each once.

    Their order does not depend on what is frozen.
    """
    if isinstance(model, Layer):
        found = [v for layer in model._flatten_layers() for v in layer._trainable_weights]
        found += [v for v in variables_of(model) if v.trainable]  # those of a tf.Module that a layer holds
    else:
        found = [variable for variable in model.variables if variable.trainable]
    return list({id(variable): variable for variable in found}.values())


def layers_of(model: Any) -> list[Layer]:
    """Returns a model and every layer in it, nested ones included."""
    if isinstance(model, Layer):
        return list(model._flatten_layers())
    return [module for module in model.submodules if isinstance(module, Layer)] if isinstance(model, tf.Module) else []


def model_of(function: Any) -> tf.Module | None:
    """Returns the model that is called, or whose method is (`vae.decode`); None for any other callable."""
    model = getattr(function, "__self__", function)
    return model if isinstance(model, tf.Module) else None


def call_leftovers(model: Any) -> list[Any]:
    """Returns the objects beside the layers themselves in whose attributes Keras notes something at each call.

    They are the random generators, which count up the seed that they were given, and what a layer keeps for each thread
    (losses).
    """
    names = ("_random_generator", "_thread_local")
    found = [getattr(layer, name, None) for layer in layers_of(model) for name in names]
    return [each for each in found if each is not None]


def is_own_attribute(name: str) -> bool:
    """Returns whether an attribute of a layer is Keras's own book-keeping of what other attributes hold."""
    kept = ("_self_", "_obj_reference", "_layers", "_callable_losses", "_inbound", "_outbound")
    return name.startswith(kept) or name in ("_trainable_weights", "_non_trainable_weights")


def own_weights(layer: Layer) -> list[tf.Variable]:
    """Returns the weights of a layer itself, without those of the layers in it."""
    return [v for v in (*layer._trainable_weights, *layer._non_trainable_weights) if isinstance(v, tf.Variable)]


def variables_of(model: Any) -> list[tf.Variable]:
    """Returns all variables of a model; none where it has not made them yet.

    The table of an adapted `TextVectorization`, which Keras counts among the weights, is none.
    """
    try:
        return [variable for variable in getattr(model, "variables", ()) if isinstance(variable, tf.Variable)]
    except ValueError:  # Keras's answer where a model has no variables yet
        return []


def is_container(model: Any) -> bool:
    """Returns whether a model is functional or Sequential: whether Keras, not the user, wrote its `call`."""
    return isinstance(model, tf_keras.Sequential) or bool(getattr(model, "_is_graph_network", False))


def made_up_name(layer_class: type) -> str:
    """Returns the name that Keras makes up for a layer of a class, without the number."""
    special = {tf_keras.layers.InputLayer: "input", Functional: "model"}
    return special.get(layer_class) or generic_utils.to_snake_case(layer_class.__name__)


def mask_of(outputs: Any) -> tf.Tensor | None:
    """Returns the mask that a layer (`Embedding(mask_zero=True)`) has handed down to a tensor, or None."""
    return getattr(outputs, "_keras_mask", None)


def give_masks(outputs: Any, masked: Any) -> None:
    """Hands the masks of some outputs down to others of the same structure."""
    for leaf, other in zip(tf.nest.flatten(outputs), tf.nest.flatten(masked), strict=True):
        if (mask := mask_of(other)) is not None:
            leaf._keras_mask = mask


def strength_of(layer: Layer) -> float:
    """Returns how much a layer of the families `dropout` and `noise` does when it is on: 0 where it does nothing.

    It is the largest of its rates and standard deviations, under the names that are in use for them.
    """
    names = ("rate", "stddev", "dropout", "recurrent_dropout", "drop_path_rate", "drop_rate", "drop_prob")
    found = [getattr(layer, name, None) for name in names]
    return max((float(value) for value in found if isinstance(value, (int, float))), default=0.0)


def has_schedule(optimizer: Any) -> bool:
    """Returns whether an optimizer's learning rate follows a schedule, so that it is no value of its own."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # loss scaling wraps one
    return isinstance(inner._learning_rate, tf_keras.optimizers.schedules.LearningRateSchedule)


def states_kept_between_batches(model: Any) -> list[tf.Variable]:
    """Returns the variables in which the `stateful=True` RNNs of a model keep their state from batch to batch."""
    recurrent = [layer for layer in layers_of(model) if isinstance(layer, tf_keras.layers.RNN) and layer.stateful]
    return [state for layer in recurrent for state in tf.nest.flatten(layer._states) if isinstance(state, tf.Variable)]


def metrics_in(model: Any) -> list[tf_keras.metrics.Metric]:
    """Returns the metrics that the layers of a model hold themselves, those of `add_metric` among them."""
    return [metric for layer in layers_of(model) for metric in layer._metrics]


def statistics_of(layer: Layer) -> list[tf.Variable]:
    """Returns the moving statistics of a layer of the family `batch_norm`; none where it is not built."""
    return [variable for variable in layer._non_trainable_weights if variable.dtype.is_floating]


def is_kerass_batch_norm(layer: Layer) -> bool:
    """Returns whether a layer computes its statistics as Keras's own batch normalization does."""
    return isinstance(layer, BatchNormalizationBase)


class _Momentum(threading.local):
    """A momentum that each thread gives a value of its own, as a number in the formulas of a batch normalization.

    With synchronized statistics the threads of the replicas take turns in the middle of a call.
    """

    value: Any = None

    def __rsub__(self, other: Any) -> Any:
        return other - self.value

    def __mul__(self, other: Any) -> Any:
        return self.value * other

    __rmul__ = __mul__


def _value_of_momentum(momentum: _Momentum, dtype: Any = None, name: Any = None, as_ref: bool = False) -> tf.Tensor:
    del as_ref
    return tf.convert_to_tensor(momentum.value, dtype, name=name)


tf.register_tensor_conversion_function(_Momentum, _value_of_momentum)


class _Given:
    """What stands in the place of a layer's attributes while at least one thread is in the block, and what did."""

    def __init__(self, layer: Layer):
        self.momentum = _Momentum()
        self.blocks = 0
        attributes: dict[str, Any] = {"momentum": self.momentum}
        if getattr(layer, "renorm", False):  # its own statistics are averaged likewise, and correct nothing meanwhile
            attributes |= {"renorm_momentum": self.momentum, "renorm_clipping": {"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}}
        self.before = {name: vars(layer)[name] for name in attributes}
        vars(layer).update(attributes)  # past the tracking of attributes, to which a new variable would be a weight


_given: dict[int, _Given] = {}


@contextlib.contextmanager
def momentum_given(layer: Layer, momentum: tf.Tensor) -> Iterator[None]:
    """Gives a layer of the family `batch_norm` a momentum for the block: in it, a tensor is as good as a number.

    Args:
      layer: The layer; `momentum` is an attribute of it, as in Keras's own.
      momentum: Scalar; float64 loses nothing in Keras's own, which compute `1 - momentum`.
    """
    with _lock:
        given = _given.get(id(layer)) or _given.setdefault(id(layer), _Given(layer))
        given.blocks += 1
    given.momentum.value = momentum
    try:
        yield
    finally:
        given.momentum.value = None
        with _lock:
            given.blocks -= 1
            if given.blocks == 0:
                vars(layer).update(_given.pop(id(layer)).before)


def forget_losses(model: Any) -> None:
    """Drops what the layers of a model have added to `losses` in earlier calls.

    Keras does it only for the layers inside the one that is called, so that a layer which this step does not call would
    bring a tensor of another function's graph.
    """
    for layer in [model] if isinstance(model, Layer) else layers_of(model):
        layer._clear_losses()


def is_built(model: Any) -> bool:
    """Returns whether all of a model's variables exist."""
    if isinstance(model, Layer):
        return all(layer.built or _only_holds_layers(layer) for layer in model._flatten_layers())
    return bool(model.variables) and all(map(is_built, layers_of(model)))


def _only_holds_layers(layer: Layer) -> bool:
    """Returns whether a layer has no weights of its own: then nobody need ever call it (a VAE: `encode`, `decode`)."""
    own_build = type(layer).build not in (base_layer.Layer.build, training_lib.Model.build)
    return not own_build and any(True for _ in layer._flatten_layers(include_self=False))
