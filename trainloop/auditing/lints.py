"""What is legal in a model and yet rarely meant: each lint with where it was found, why it matters and what to do.

A lint is given for what the traced graph shows, never for what the order of layers suggests: where the graph does not
show what feeds what, nothing is said.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping

import tf_keras

from trainloop import keras_hooks
from trainloop.auditing import variance_shift
from trainloop.auditing.data_flow import Way
from trainloop.auditing.evidence import STOCHASTIC, Evidence, is_hard_wired, is_live, is_of_keras, rate_of
from trainloop.keras_hooks import Layer
from trainloop.phase import Phase
from trainloop.tracing import LayerCall

HIGH_RATE = 0.9
# Where the variance in evaluation, as measured, is at least this part of that in training, there is nothing to warn of.
SAME_VARIANCE = 0.9

_SRIVASTAVA = "Srivastava et al. 2014, Dropout: A Simple Way to Prevent Neural Networks from Overfitting, JMLR 15"
_IOFFE = "Ioffe and Szegedy 2015, Batch Normalization, ICML"
_TRANSFER = "Keras guide, Transfer learning and fine-tuning: https://keras.io/guides/transfer_learning/"
_SUBCLASSING = (
    "Keras guide, Making new layers and models via subclassing, the privileged `training` argument: "
    "https://keras.io/guides/making_new_layers_and_models_via_subclassing/"
)
_PREPROCESSING = "Keras guide, Working with preprocessing layers: https://keras.io/guides/preprocessing_layers/"


@dataclasses.dataclass(frozen=True)
class Lint:
    """One thing that is rarely meant.

    Attributes:
      name: What kind of thing (`"dropout-before-batch-norm"`).
      paths: The layers.
      reason: What is there, and why it matters.
      advice: What to do.
      reference: Where to read more.
      figures: The numbers behind it, by name.
    """

    name: str
    paths: tuple[str, ...]
    reason: str
    advice: str
    reference: str
    figures: Mapping[str, float] = dataclasses.field(default_factory=dict)


def find_lints(evidence: Evidence) -> list[Lint]:
    """Returns all lints of a model, those that change what it learns first."""
    return [lint for check in _CHECKS for lint in check(evidence)]


def dropout_before_batch_norm(evidence: Evidence) -> Iterator[Lint]:
    """Dropout whose variance a batch normalization learns, though it is gone in evaluation."""
    flow = evidence.traced[Phase.TRAIN].flow
    done: set[tuple[str, ...]] = set()
    for call in flow.calls:
        if call.family != "batch_norm" or not call.training or not call.layer.trainable:
            continue
        measured = evidence.variance_ratios.get(call.path)
        if measured is not None and measured > SAME_VARIANCE:
            continue
        beyond_formula = []
        for tensor in flow.inputs_of(call)[:1]:
            for way in flow.ways_to(tensor, frozenset({"dropout"}), until=frozenset({"batch_norm"})):
                if not way.call.training or not is_live(way.call.layer):
                    continue
                if not (_drops_units(way.call.layer) and way.is_plain and way.linear <= 1):
                    beyond_formula.append(way.call.path)
                elif (way.call.path, call.path) not in done:
                    done.add((way.call.path, call.path))
                    is_rectified = any(map(flow.is_rectified, flow.inputs_of(way.call)))
                    yield _variance_shift(way, call, is_rectified, measured)
        paths = (*beyond_formula, call.path)
        if beyond_formula and measured is not None and paths not in done:
            done.add(paths)
            yield Lint(
                "dropout-before-batch-norm",
                paths,
                f"what {_names(beyond_formula)} drops reaches the batch normalization {call.path}, which normalises "
                f"by the variance it saw in training: in evaluation the variance of its input is {measured:.2f} times "
                "that (measured)",
                _MOVE_DROPOUT,
                variance_shift.REFERENCE,
                {"measured_ratio": measured},
            )


_MOVE_DROPOUT = "Put the dropout behind the last batch normalization, lower its rate, or run UPDATE_BN at the end"


def _variance_shift(way: Way, call: LayerCall, is_rectified: bool, measured: float | None) -> Lint:
    rate = rate_of(way.call.layer) or 0.0
    moments = variance_shift.RECTIFIED if is_rectified else variance_shift.CENTRED
    predicted = variance_shift.variance_ratio(rate, *moments)
    units = "a rectified normal" if is_rectified else "mean zero"
    where = "" if way.linear == 0 else ", one linear layer further on"
    seen = "" if measured is None else f"; measured here: {measured:.2f}"
    return Lint(
        "dropout-before-batch-norm",
        (way.call.path, call.path),
        f"dropout of rate {rate:g} feeds a batch normalization{where}, which normalises by the variance it saw in "
        f"training: in evaluation the variance of its input is {predicted:.2f} times that (predicted for "
        f"uncorrelated units, each {units}){seen}",
        _MOVE_DROPOUT,
        variance_shift.REFERENCE,
        {"predicted_ratio": predicted} | ({} if measured is None else {"measured_ratio": measured}),
    )


def dropout_on_outputs(evidence: Evidence) -> Iterator[Lint]:
    """Dropout behind the last layer, which drops what the loss is computed from."""
    traced = evidence.traced[Phase.TRAIN]
    calls = [call for tensor in traced.outputs if (call := traced.flow.last_before(tensor)) is not None]
    paths = _unique(call.path for call in calls if call.family == "dropout" and call.training and _drops(call.layer))
    if paths:
        yield Lint(
            "dropout-on-outputs",
            paths,
            "in training the model's outputs themselves are dropped and scaled, so that the loss compares zeros with "
            "the targets",
            "Move it before the last layer",
            _SRIVASTAVA,
        )


def rates(evidence: Evidence) -> Iterator[Lint]:
    """Rates that do nothing, and rates that leave next to nothing."""
    layers = {path: layer for path, layer in evidence.layers.items() if _family(layer) in ("dropout", "noise")}
    chosen = {path: layer for path, layer in layers.items() if not _is_inside_keras(path, evidence)}
    if idle := tuple(path for path, layer in chosen.items() if rate_of(layer) == 0.0):
        yield Lint(
            "rate-of-zero",
            idle,
            "a rate of 0 has no effect in any phase, also not under MC_PREDICT",
            "Remove the layer, or give it a rate",
            _SRIVASTAVA,
        )
    high = {path: rate_of(layer) or 0.0 for path, layer in layers.items() if _family(layer) == "dropout"}
    high = {path: rate for path, rate in high.items() if rate >= HIGH_RATE}
    if high:
        most = max(high.values())
        kept = f"keeps one unit in {1 / (1 - most):.0f}" if most < 1.0 else "keeps nothing"
        yield Lint(
            "rate-of-nearly-one",
            tuple(high),
            f"a rate of {most:g} {kept}; in Keras the rate is the share that is dropped, not the share that is kept",
            "Use 1 - rate if the share that is kept was meant",
            _SRIVASTAVA,
            {"rate": most},
        )


def dead_layers(evidence: Evidence) -> Iterator[Lint]:
    """Stochastic layers that a call of the model in TRAIN never reaches."""
    dead = []
    for path, layer in evidence.layers.items():
        if _family(layer) not in STOCHASTIC or not is_live(layer) or evidence.calls(layer, Phase.TRAIN):
            continue
        # Fused kernels call no cell.
        is_cell = any(isinstance(holder, tf_keras.layers.RNN) for _, holder in evidence.above(path))
        if not is_cell and not evidence.is_unseen(path, Phase.TRAIN):
            dead.append(path)
    if dead:
        yield Lint(
            "never-reached",
            tuple(dead),
            "the model holds it, and calling the model in TRAIN never reaches it",
            "Call it where it was meant to act, or remove it",
            _SRIVASTAVA,
        )


def hard_wired(evidence: Evidence) -> Iterator[Lint]:
    """`training=` said by an argument that does not come from the caller."""
    calls = evidence.traced[Phase.TRAIN].trace.calls
    sensitive = {id(each) for call in calls if call.family is not None for each in _with_parents(call)}
    done: set[str] = set()
    for call in calls:
        if id(call) in sensitive and call.path not in done and is_hard_wired(call, evidence):
            done.add(call.path)
            where = "said where the model is called"
            if call.parent is not None:
                owner = f"{call.parent.path} ({type(call.parent.layer).__name__})"
                is_baked = keras_hooks.is_container(call.parent.layer)
                where = f"baked into the functional graph of {owner}" if is_baked else f"fixed in the call of {owner}"
            held = _match(call.path)
            yield Lint(
                "hard-wired-training",
                (call.path,),
                f"training={call.training} is {where}; it does not come from the caller and is the same in every phase",
                "Leave it out, or pass on what was received. Where it is meant: trainloop.pin(model, "
                f"{Phase.TRAIN if call.training else Phase.EVAL}, {held}); where the model cannot be edited: "
                f"trainloop.follow(model, {held})",
                _TRANSFER,
            )


def frozen_base_that_drops(evidence: Evidence) -> Iterator[Lint]:
    """A frozen part whose dropout is on in TRAIN all the same."""
    for path in _frozen(evidence):
        dropping = [
            at
            for at, layer in evidence.below(path).items()
            if _family(layer) in ("dropout", "noise") and is_live(layer) and evidence.is_on(layer, Phase.TRAIN)
        ]
        if dropping:
            yield Lint(
                "frozen-base-drops",
                (path, *dropping),
                f"none of the weights in {path} is trained, but in TRAIN its {_names(dropping)} is on: `trainable` "
                "freezes weights, not the mode",
                f"trainloop.pin(model, Phase.EVAL, {_match(path)}), if its features should be the same in every step",
                _TRANSFER,
            )


def ignored_trainable(evidence: Evidence) -> Iterator[Lint]:
    """`trainable=False` on a layer that has nothing to train."""
    frozen = _frozen(evidence)
    paths = tuple(
        path
        for path, layer in evidence.layers.items()
        if _family(layer) in STOCHASTIC
        and not layer.trainable
        and not layer.weights
        and all(holder.trainable and at not in frozen for at, holder in evidence.above(path))
    )
    if paths:
        yield Lint(
            "trainable-ignored",
            paths,
            "trainable=False was set on it and changes nothing: it has no weights, and stays on in TRAIN",
            f"To switch it off: trainloop.pin(model, Phase.EVAL, {_match(paths[0])})",
            _TRANSFER,
        )


def batch_norm_called_again(evidence: Evidence) -> Iterator[Lint]:
    """Batch normalization that updates its statistics more than once a step."""
    calls = [call for call in evidence.traced[Phase.TRAIN].trace.calls if call.family == "batch_norm"]
    for path in _unique(call.path for call in calls if call.training and call.layer.trainable):
        own = [call for call in calls if call.path == path and call.training]
        if len(own) < 2:
            continue
        is_distributed = any(
            isinstance(each.layer, tf_keras.layers.TimeDistributed) for call in own for each in _with_parents(call)
        )
        yield Lint(
            "batch-norm-called-again",
            (path,),
            f"it is called {len(own)} times in one step"
            + (" (by TimeDistributed)" if is_distributed else "")
            + f", so its statistics move {len(own)} times: they mix what the calls see, and follow faster than its "
            "momentum says",
            "Keras applies batch normalization to a sequence without TimeDistributed"
            if is_distributed
            else "Give each use a batch normalization of its own, or join the inputs into one call",
            _IOFFE,
            {"calls": len(own)},
        )


def unknown_mode_arguments(evidence: Evidence) -> Iterator[Lint]:
    """A `call` that wants its mode under a name that Keras does not know."""
    for path, layer in evidence.layers.items():
        for name in keras_hooks.mode_parameters(layer):
            yield Lint(
                "mode-not-propagated",
                (path,),
                f"call() of {type(layer).__name__} takes {name}= and no training=. Keras hands down `training` alone, "
                f"so that model(x, training=True) leaves {name} at its default",
                f"Rename {name} to training",
                _SUBCLASSING,
            )


def augmentation_by_default(evidence: Evidence) -> Iterator[Lint]:
    """Augmentation that a plain `model(x)` has on, while dropout is off."""
    calls = evidence.traced[Phase.TRAIN].trace.calls
    paths = _unique(
        call.path
        for call in calls
        if call.family == "augmentation"
        and is_live(call.layer)
        and _default(call.layer) is True
        and all(_default(each.layer) is None and each.how != "pinned" for each in _with_parents(call)[1:])
        and not any(is_hard_wired(each, evidence) for each in _with_parents(call))
    )
    if paths:
        yield Lint(
            "augments-by-default",
            paths,
            "where nothing is said it is on: a plain model(x), outside of a phase, augments its inputs while every "
            "dropout in it is off",
            "Call the model in a phase, or with training=",
            _PREPROCESSING,
        )


_CHECKS = (
    hard_wired,
    unknown_mode_arguments,
    dead_layers,
    frozen_base_that_drops,
    dropout_on_outputs,
    dropout_before_batch_norm,
    batch_norm_called_again,
    rates,
    ignored_trainable,
    augmentation_by_default,
)


def _drops_units(layer: Layer) -> bool:
    """Returns whether a layer multiplies by noise of mean 1 whose variance its rate says, as the formula has it."""
    return isinstance(layer, (tf_keras.layers.Dropout, tf_keras.layers.GaussianDropout)) or (
        type(layer).__name__ == "StochasticDepth"
    )


def _drops(layer: Layer) -> bool:
    return (_drops_units(layer) or isinstance(layer, tf_keras.layers.AlphaDropout)) and is_live(layer)


def _family(layer: Layer) -> str | None:
    return keras_hooks.family_of(layer)


def _frozen(evidence: Evidence) -> list[str]:
    """Returns the outermost parts of a model that have weights and train none of them."""
    found = [
        path
        for path, layer in evidence.layers.items()
        if layer is not evidence.model and evidence.below(path) and layer.weights and not layer.trainable_weights
    ]
    return [path for path in found if not any(at in found for at, _ in evidence.above(path))]


def _is_inside_keras(path: str, evidence: Evidence) -> bool:
    """Returns whether a layer is there because one of Keras's own made it (the dropout of MultiHeadAttention)."""
    return any(is_of_keras(holder) for _, holder in evidence.above(path)[:1])


def _with_parents(call: LayerCall) -> list[LayerCall]:
    found = [call]
    while found[-1].parent is not None:
        found.append(found[-1].parent)
    return found


def _default(layer: Layer) -> object:
    """Returns what a layer's `call` takes for `training` where nothing is said; None if it takes no such argument."""
    parameter = inspect.signature(layer.call).parameters.get("training")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _unique(paths: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(paths))


def _match(path: str) -> str:
    """Returns the argument by which `pin` and `follow` find a layer."""
    return f'match="{path}"'


def _names(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
