"""The trace-time guard: while a scope is open, every layer call in it is seen, given its phase, and held to it.

Where nothing was said, in an argument or by the Keras call around it, the guard supplies the phase's value; where what
was said contradicts the phase it objects, before the step runs. It adds no op to a graph.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from trainloop import draws, function_calls, keras_hooks, numbering, tracing
from trainloop.ambient import Ambient, graphs_around
from trainloop.keras_hooks import Layer
from trainloop.policy import Policy
from trainloop.tracing import How, LayerCall, Trace
from trainloop.violations import Violation, phase_error


class Pin(NamedTuple):
    """What a layer is held to whatever phase it is called in; without a policy it follows the phase all the same.

    Attributes:
      phase: The value of the phase that it is held in (`"eval"`); empty where it follows.
      policy: That phase's policy; None where it follows.
    """

    phase: str = ""
    policy: Policy | None = None


FOLLOW = Pin()

_pins: weakref.WeakKeyDictionary[Layer, Pin] = weakref.WeakKeyDictionary()


def hold(layer: Layer, pin: Pin | None) -> None:
    """Holds a layer in a phase, lets it follow the phase, or (None) leaves it to itself again."""
    if pin is None:
        _pins.pop(layer, None)
    else:
        _pins[layer] = pin


def pin_of(layer: Layer) -> Pin | None:
    """Returns what a layer is held to, or None."""
    return _pins.get(layer)


def all_pins() -> frozenset[tuple[int, Pin]]:
    """Returns all pins there are; they change graphs, so they are a part of the key of a compiled step."""
    return frozenset((id(layer), pin) for layer, pin in _pins.items())


AroundBatchNorm = Callable[[Layer], contextlib.AbstractContextManager[None]]


class Scope:
    """One open scope.

    Attributes:
      name: The value of the phase.
      policy: What the layers are to do.
      trace: What is recorded of the layer calls, also by the scopes around this one and in it.
      layer_calls: How many layer calls it has seen.
    """

    def __init__(self, name: str, policy: Policy, trace: Trace, around_batch_norm: AroundBatchNorm | None):
        self.name = name
        self.policy = policy
        self.trace = trace
        self.layer_calls = 0
        self.around_batch_norm = around_batch_norm
        self.opened_in = _innermost_call()


_scopes: Ambient[Scope] = Ambient()
_local = threading.local()


@contextlib.contextmanager
def scope(
    name: str,
    policy: Policy,
    *,
    root: Any = None,
    must_see_a_layer: bool = False,
    around_batch_norm: AroundBatchNorm | None = None,
) -> Iterator[Scope]:
    """Opens a scope: layer calls in the block follow `policy`. Scopes nest, the innermost wins.

    Args:
      name: The phase's value, for messages.
      policy: What the layers are to do.
      root: The model (or a dict of models) from which the paths of layers are counted; by default each layer that is
        called in the block itself.
      must_see_a_layer: Warn when the block ends without a single layer call.
      around_batch_norm: Entered around each call of a batch normalization that uses the batch's statistics; by default
        what a scope of the same phase around this one has.

    Raises:
      PhaseError: If a layer was called that contradicts the phase. While a graph is being built, all of them are
        named together, when the outermost scope ends; in eager code the first, before that layer does anything.
    """
    outermost = tracing.current() is None
    with tracing.recorded() as trace:
        if root is not None:
            trace.add_root(root)
        around = _scopes.current()
        if around_batch_norm is None and around is not None and around.name == name:  # `phase.call` inside a step
            around_batch_norm = around.around_batch_norm
        entered = Scope(name, policy, trace, around_batch_norm)
        with (
            trace.in_scope(name, entered.opened_in),
            function_calls.noted(),
            keras_hooks.intercepted_layer_calls(_call_layer, _call_directly),
            _scopes.opened(entered),
        ):
            yield entered
        if outermost and trace.violations:
            raise keras_hooks.as_it_is(phase_error(name, trace.violations))
    if must_see_a_layer and entered.layer_calls == 0:
        warnings.warn(
            f"the scope of phase {name!r} saw no layer call, so it had no effect. Call the model inside the block; a "
            "model called through an already traced tf.function, in another thread, or loaded by tf.saved_model.load, "
            "cannot be reached.",
            stacklevel=5,  # past this generator, Phase.scope, and what contextlib puts before each: the user's `with`
        )


@dataclasses.dataclass(eq=False, kw_only=True)
class _Held(LayerCall):
    """A layer call, with what the calls inside it need to know.

    Attributes:
      policy: What holds inside.
      decided: "pinned" or "followed" where that decides for all inside too, whatever is said there; else None.
      is_known: Whether a contradiction at or around this call is known already: then those inside are its echoes.
    """

    policy: Policy
    decided: How | None
    is_known: bool


def _call_layer(call: keras_hooks.CallNext, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Gives a layer call the phase's `training=`, or notes what contradicts it."""
    found = _scopes.current()
    if found is None or keras_hooks.is_symbolic(args, kwargs) or _infers_shapes():
        return call(layer, *args, **kwargs)
    found.layer_calls += 1
    held, value = _decide(found, layer, args, kwargs)
    if value is not None:
        args, kwargs = keras_hooks.with_training(layer, args, kwargs, value)
    if held.training and held.family in _DRAWING and not held.is_known:
        _check_repeats(found, held)
    if found.trace.in_graph or held.graph is not None:  # of an eager loop it would never end to grow
        found.trace.calls.append(held)
    stack = _calls()
    stack.append(held)
    held.start = tracing.op_count(held.graph)
    try:
        with _around(found, held):
            outputs = call(layer, *args, **kwargs)
        if held.graph is not None:  # an eager tensor would be held in memory
            held.outputs = outputs
        return outputs
    finally:
        held.stop = tracing.op_count(held.graph)
        stack.pop()


def _call_directly(layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Objects to `layer.call(x)`, which goes round the phase, where it leaves the layer in another one."""
    found, inside = _scopes.current(), _innermost_call()
    if found is None or (inside is not None and (inside.layer is layer or inside.is_known)) or _infers_shapes():
        return
    found.layer_calls += 1
    parent = None if inside is found.opened_in else inside
    policy = (pin_of(layer) or FOLLOW).policy or (found.policy if parent is None else parent.policy)
    wanted = policy.training_for(keras_hooks.family_of(layer))
    said = keras_hooks.said_training(layer, args, kwargs)
    if _as_bool(keras_hooks.default_training(layer) if said is None else said) is not wanted:
        path = found.trace.path_of(layer, parent)
        what = (
            f"{type(layer).__name__}.call was invoked directly, which goes round the phase; phase {found.name!r} "
            f"expects training={wanted}"
        )
        _object(found, Violation(path, what, "Call the layer itself: layer(x), not layer.call(x)"))


def _decide(found: Scope, layer: Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_Held, bool | None]:
    """Returns the record of a layer call, and the value to put into its arguments; None leaves them as they are."""
    held = _record(found, layer)
    wanted = held.policy.training_for(held.family)
    said = keras_hooks.said_training(layer, args, kwargs)
    inherited = None if held.parent is None else keras_hooks.inherited_training()

    if not held.is_known and (mode := keras_hooks.contrary_mode(layer, args, kwargs, held.policy.training)):
        _note(found, held, f"runs with {mode}, which Keras does not hand down", "Name that parameter training")
    if held.decided is not None:
        return _given(held, wanted, held.decided)
    if not held.policy.is_uniform and not held.is_known:  # no boolean says what such a phase has for each family
        return _given(held, wanted, "supplied" if said is None and inherited is None else "overridden")
    if said is None and inherited is None:
        return _given(held, wanted, "supplied")
    held.how = "inherited" if said is None else "said"
    given = inherited if said is None else said
    held.training = _as_bool(given)
    if held.training is not wanted and not held.is_known:
        _note(found, held, _how_it_got(held, given), _fix(held))
    # A literal `training=None` erases what Keras hands down to a layer that takes no `training`; put it back.
    return held, (held.training if said is None and "training" in kwargs else None)


def _record(found: Scope, layer: Layer) -> _Held:
    """Returns the record of a layer call, with what holds for it by its pin, the call around it, or the scope."""
    around, pin = _innermost_call(), pin_of(layer)
    # Where the call stands directly in the scope's block, what a Keras call around the block hands down does not count.
    parent = None if around is found.opened_in else around
    phase, policy, decided, is_known = found.name, found.policy, None, False
    if pin is not None:
        decided = "followed" if pin.policy is None else "pinned"
        phase, policy = (found.name, found.policy) if pin.policy is None else (pin.phase, pin.policy)
    elif parent is not None:
        phase, policy, decided, is_known = parent.phase, parent.policy, parent.decided, parent.is_known
    return _Held(
        layer=layer,
        path=found.trace.path_of(layer, parent),
        family=keras_hooks.family_of(layer),
        phase=phase,
        training=None,
        how="said",
        parent=parent,
        around=around,
        graph=None if tf.executing_eagerly() else tf.compat.v1.get_default_graph(),
        policy=policy,
        decided=decided,
        is_known=is_known,
    )


_DRAWING = ("dropout", "noise", "augmentation")


def _check_repeats(found: Scope, held: _Held) -> None:
    """Objects to a draw without a key under `tf.recompute_grad`, which calls the layer again for the gradient."""
    if keras_hooks.strength_of(held.layer) > 0 and draws.recomputations() and not numbering.are_keyed():
        what = (
            f"{type(held.layer).__name__} draws under tf.recompute_grad, which draws anew for the gradient: that would "
            "be the gradient of another mask"
        )
        fix = "Train it with a Trainer, which keys its draws, or take tf.recompute_grad away"
        held.is_known = True
        _object(found, Violation(held.path, what, fix))


def _given(held: _Held, value: bool, how: How) -> tuple[_Held, bool]:
    held.training, held.how = value, how
    return held, value


def _note(found: Scope, held: _Held, what: str, fix: str) -> None:
    """Notes a contradiction; what it hands down to the layers inside is not noted again."""
    held.is_known = True
    expected = f"phase {held.phase!r} expects training={held.policy.training_for(held.family)}"
    _object(found, Violation(held.path, f"{type(held.layer).__name__} {what}; {expected}", fix))


def _object(found: Scope, violation: Violation) -> None:
    if not found.trace.in_graph:
        raise keras_hooks.as_it_is(phase_error(found.name, [violation]))
    if violation not in found.trace.violations:  # the same layer is called once for each microbatch
        found.trace.violations.append(violation)


def _how_it_got(held: _Held, given: Any) -> str:
    value = f"training={given}" if held.training is not None else f"a tensor, training={given!r},"
    if held.how == "inherited":
        return f"inherits {value} from the Keras call around it"
    if held.parent is None:
        return f"is called with {value} in the block of the phase"
    owner = f"{held.parent.path} ({type(held.parent.layer).__name__})"
    if keras_hooks.is_container(held.parent.layer):
        return f"has {value} baked into the functional graph of {owner}"
    return f"has {value} hard-wired in the call of {owner}"


def _fix(held: _Held) -> str:
    if held.training is None:
        return "Pass a Python bool: the phase is known when the step is traced"
    meant = "EVAL" if held.training is False else "TRAIN"
    parent = held.parent
    where = (
        "Leave training= out"
        if parent is None
        else "Rebuild the graph without training="
        if keras_hooks.is_container(parent.layer)
        else "Leave training= out there, or pass on what was received"
    )
    return (
        f"{where}; if the value is meant, trainloop.pin(model, Phase.{meant}, match={held.path!r}); if the model "
        f"cannot be edited, trainloop.follow(model, match={held.path!r})"
    )


def _around(found: Scope, held: _Held) -> contextlib.AbstractContextManager[None]:
    if found.around_batch_norm is None or held.family != "batch_norm" or not held.training:
        return contextlib.nullcontext()
    return found.around_batch_norm(held.layer)


def _as_bool(value: Any) -> bool | None:
    """Returns a value of `training` as a bool, or None where it is a tensor that only the running graph will know."""
    static = tf.get_static_value(value) if tf.is_tensor(value) else value
    return None if static is None else bool(static)


def _calls() -> list[_Held]:
    if not hasattr(_local, "calls"):
        _local.calls = []
    return _local.calls


def _innermost_call() -> _Held | None:
    calls = _calls()
    return calls[-1] if calls else None


def _infers_shapes() -> bool:
    return not tf.executing_eagerly() and any(
        str(getattr(graph, "name", "")).endswith("_scratch_graph") for graph in graphs_around()
    )
