"""Signatures: of the step methods that a user writes, and of the methods that a user calls with Keras in mind."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
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
        for option in options:
            if option not in (first, *others):
                near = difflib.get_close_matches(option, (first, *others), n=1)
                hint = _IN_KERAS.get(option) or (f"did you mean {near[0]}=?" if near else f"it takes {_listed(others)}")
                raise TypeError(f"{name} has no argument {option}=; {hint}")
        return method(self, *args, **options)

    return checked


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


def _listed(names: list[str]) -> str:
    return ", ".join(f"{name}=" for name in names)
