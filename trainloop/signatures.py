"""Signatures: of the step methods that a user writes, and of the methods that a user calls with Keras in mind."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from trainloop.origins import warn_user

_Given = ParamSpec("_Given")
_Self = TypeVar("_Self")
_Returned = TypeVar("_Returned")

STEP_METHODS = ("compute_loss", "train_step", "eval_step", "predict_step")
_FROM_ARRAYS = "trainloop.data.from_arrays((x, y), batch_size=32)"
_IN_KERAS = {  # what `Model.fit`, `evaluate` and `predict` take, and where it goes here
    "x": f"wrap arrays as {_FROM_ARRAYS}",
    "y": f"wrap arrays as {_FROM_ARRAYS}",
    "batch_size": f"it belongs to the data: {_FROM_ARRAYS}",
    "shuffle": "it belongs to the data: trainloop.data.from_arrays(arrays, batch_size=..., shuffle=...)",
    "validation_data": f"here it is eval_data=, for example eval_data={_FROM_ARRAYS}",
    "validation_split": "split the arrays yourself, and give the second part as eval_data=",
    "validation_steps": "give eval_data=dataset.take(...)",
    "validation_batch_size": "it belongs to the data that eval_data= is given",
    "validation_freq": "here it is eval_every=Every(epochs=...)",
    "class_weight": "give batches (x, y, sample_weight), with the weight of each row's class",
    "sample_weight": "give batches (x, y, sample_weight): trainloop.data.from_arrays((x, y, w), batch_size=...)",
    "verbose": "Trainer(..., default_callbacks=False) leaves the progress bar out",
    "callbacks": "give them to Trainer(..., callbacks=[...])",
    "initial_epoch": "epochs= is the total of the run; trainer.restore_or_initialize() goes on where it was",
    "return_dict": "what is returned is always a dict",
}
_OF_TRAINER = {"report_every": "it is the Trainer's: Trainer(..., report_every=Every(steps=...))"}
_OF_FIT = {  # and no argument of the Trainer's
    name: f"it is fit's: trainer.fit(..., {name}=...)" for name in ("eval_data", "eval_every", "epochs", "steps")
}
_EACH_EPOCH = "write on_trigger(self, trainer), with the line trigger = Every(epochs=1)"
_EACH_STEP = "write on_trigger(self, trainer), with a line such as trigger = Every(steps=100)"
_HOOKS_IN_KERAS = {  # what a callback of Keras has, and what is here in its place
    "on_epoch_begin": _EACH_EPOCH,
    "on_epoch_end": _EACH_EPOCH,
    "on_batch_begin": _EACH_STEP,
    "on_batch_end": _EACH_STEP,
    "on_train_batch_begin": _EACH_STEP,
    "on_train_batch_end": _EACH_STEP,
    "on_train_begin": "write on_fit_begin(self, trainer)",
    "on_train_end": "write on_fit_end(self, trainer)",
    "on_test_begin": "write on_phase_begin(self, trainer, phase)",
    "on_test_end": "write on_phase_end(self, trainer, phase, metrics)",
    "on_predict_begin": "write on_phase_begin(self, trainer, phase)",
    "on_predict_end": "write on_phase_end(self, trainer, phase, metrics)",
}


def strict(
    method: Callable[Concatenate[_Self, _Given], _Returned],
) -> Callable[Concatenate[_Self, _Given], _Returned]:
    """Wraps a method that takes one data set, so that whoever calls it as in Keras is told what to write.

    Args:
      method: `fit`, `evaluate`, `predict` or `update_bn`; all but the data are keyword arguments.
    """
    name = method.__name__
    _, first, *others = inspect.signature(method).parameters

    @functools.wraps(method)
    def checked(self: _Self, *args: _Given.args, **options: _Given.kwargs) -> _Returned:
        if len(args) > 1:
            raise TypeError(
                f"{name} takes one data set, {first}=, and was given {len(args)} arguments without a name; wrap arrays "
                f"as {name}({_FROM_ARRAYS}, ...)"
            )
        _check_names(name, options, [first, *others], _IN_KERAS | _OF_TRAINER)
        return method(self, *args, **options)

    return checked


def names_checked(function: Callable[_Given, _Returned]) -> Callable[_Given, _Returned]:
    """Wraps a function or a constructor, so that whoever misspells an argument is told which one was meant.

    Args:
      function: With keyword arguments that are all named in its signature.
    """
    names = [*inspect.signature(function).parameters]

    @functools.wraps(function)
    def checked(*args: _Given.args, **options: _Given.kwargs) -> _Returned:
        is_made = function.__name__ == "__init__"
        name = type(args[0]).__name__ if is_made else function.__name__
        _check_names(name, options, names, _OF_FIT if is_made else {})
        return function(*args, **options)

    return checked


def one_nest(function: Callable[_Given, _Returned]) -> Callable[_Given, _Returned]:
    """Wraps a function of one nest of arrays, so that whoever gives them one by one is told to pack them.

    Args:
      function: All but its first argument are keyword arguments.
    """
    named = names_checked(function)

    @functools.wraps(function)
    def checked(*args: _Given.args, **options: _Given.kwargs) -> _Returned:
        if len(args) > 1:
            name, packed = function.__name__, ", ".join(("x", "y", "sample_weight")[: len(args)])
            raise TypeError(
                f"{name} takes one nest of arrays, and was given {len(args)} arguments without a name; pack them: "
                f"{name}(({packed}), batch_size=...)"
            )
        return named(*args, **options)

    return checked


def _check_names(name: str, options: Mapping[str, Any], known: Sequence[str], hints: Mapping[str, str]) -> None:
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = hints.get(option) or (f"did you mean {near[0]}=?" if near else f"it takes {_listed(known[1:])}")
            raise TypeError(f"{name} has no argument {option}=; {hint}")


def check_called_with(function: Callable[..., Any], argument: str, given: str, advice: str = "") -> None:
    """Refuses a function that cannot be called with what it is given.

    Args:
      function: The user's.
      argument: Where the user gave it (`"from_arrays: map_fn"`), for messages.
      given: The names of what it is called with, between commas.
      advice: How a body begins that wants other arguments.

    Raises:
      TypeError: If it takes others; the message says how to write it.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some that are not written in Python do not tell
        return
    names = given.split(", ")
    try:
        signature.bind(*names)
    except TypeError as error:
        what = f"({given})" if len(names) > 1 else f"the {given} alone"
        name = argument.rpartition(" ")[2]
        raise TypeError(f"{argument}{signature} is called with {what}; write {name}({given}){advice}") from error


def check_step_methods(trainer: Any, base: type) -> None:
    """Refuses step methods that cannot be called with a batch and a phase, and warns of one that nothing calls.

    Args:
      trainer: The object that has the methods.
      base: The class whose methods they override.

    Raises:
      TypeError: If one takes other arguments; the message says which it is given.
    """
    kind = type(trainer)
    for name in STEP_METHODS:
        if getattr(kind, name) is getattr(base, name):
            continue
        signature = inspect.signature(getattr(trainer, name))
        try:
            signature.bind(object(), object())
        except TypeError:
            takes_them = False
        else:
            takes_them = not {"y_pred", "data"} & {*signature.parameters}
        if not takes_them:
            given = inspect.signature(getattr(kind, name))
            raise TypeError(
                f"{kind.__name__}.{name}{given} is called with a batch and a phase; write {name}(self, batch, phase). "
                "A batch is what the data yield, (x, y) as a rule, and the model is called as "
                "phase.call(self.model, x)"
            )
    if hasattr(kind, "test_step") and kind.eval_step is getattr(base, "eval_step", None):
        warn_user(
            f"{kind.__name__}.test_step is called by nothing: a Trainer evaluates by eval_step(self, batch, phase). "
            "Give it that name"
        )


def check_hooks(callback: Any, base: type) -> None:
    """Warns of methods of a callback that nothing calls, because they have another library's names, or no trigger.

    Args:
      callback: The callback.
      base: The class whose hooks it overrides.
    """
    kind = type(callback)
    hooks = [name for name in vars(base) if name.startswith("on_")]
    for name in dir(kind):
        if name in hooks or not name.startswith("on_"):
            continue
        near = difflib.get_close_matches(name, hooks, n=1, cutoff=0.8)
        hint = _HOOKS_IN_KERAS.get(name) or (f"did you mean {near[0]}?" if near else None)
        if hint is not None:
            warn_user(f"{kind.__name__}.{name} is called by nothing: {base.__name__} has no such hook; {hint}")
    own = kind.on_trigger.__module__.partition(".")[0] != __name__.partition(".")[0]
    if own and callback.trigger is None:
        warn_user(
            f"{kind.__name__}.on_trigger is called by nothing, since its trigger is None; give the class a line such "
            "as trigger = Every(epochs=1)"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"{name}=" for name in names)
