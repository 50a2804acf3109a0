"""From a config to the objects of a run."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_dict

from trainloop.launch.config_file import to_plain
from trainloop.launch.errors import LaunchError
from trainloop.triggers import Every

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

LAUNCH_KEYS = ("task", "precision")  # Read by launch itself; every other key belongs to the task's function.
REHEARSAL_STEPS = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """What a launch script needs to run something: a trainer, its data, and how long to train.

    Attributes:
      trainer: The trainer, not yet restored.
      train_data: What `fit` trains on.
      eval_data: What is evaluated while training: one data set, or a dict of named ones.
      test_data: What is kept for the end, seen by no decision.
      fit: Further keyword arguments for `fit`, the run length among them: `{"epochs": 30}`.

    Example:
      >>> from trainloop import launch
      >>> task = launch.Task(trainer=None, train_data=None, eval_data="held out", test_data="kept", fit={"epochs": 30})
      >>> task.sets
      {'eval': 'held out', 'test': 'kept'}
    """

    trainer: Trainer
    train_data: Any
    eval_data: Any = None
    test_data: Any = None
    fit: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def sets(self) -> dict[str, Any]:
        """The data sets to evaluate after training, by name; the last one is the one to report."""
        named = {} if self.eval_data is None else self.eval_data
        named = dict(named) if isinstance(named, Mapping) else {"eval": named}
        return named if self.test_data is None else {**named, "test": self.test_data}


def build(config: config_dict.ConfigDict, workdir: str) -> Task:
    """Calls the function that `config.task` names, with the config's other keys and `workdir` as keyword arguments.

    Under `--dry_run` the task comes back shrunk: two training steps, two batches in every other data set, and every
    callback due at each step.

    Args:
      config: The config; `task` is `"package.module:function"`. `task` and `precision` are not handed on.
      workdir: The directory of the run.

    Returns:
      What the function returned.

    Raises:
      LaunchError: If there is no such function, or its arguments and the config's keys do not fit.
      TypeError: If it does not return a `Task`.

    Example:
      >>> import ml_collections
      >>> from trainloop import launch
      >>> launch.build(ml_collections.ConfigDict({"task": "trainloop.tasks.digits:svm"}), "runs/digits")
      Traceback (most recent call last):
      ...
      trainloop.launch.errors.LaunchError: config.task='trainloop.tasks.digits:svm': trainloop.tasks.digits has no ...
    """
    keywords = to_plain(config)
    name = keywords.get("task")
    function = find(name, "config.task")
    keywords = {key: value for key, value in keywords.items() if key not in LAUNCH_KEYS}
    _check_keywords(function, keywords, str(name))
    task = function(**keywords, workdir=workdir)
    if not isinstance(task, Task):
        raise TypeError(f"config.task={name!r} returned {task!r}; expected a trainloop.launch.Task")
    return _rehearsal(task) if _is_dry_run() else task


def restore(task: Task) -> int:
    """Restores the checkpoint that `--checkpoint` names, in a program that only reads a run.

    Args:
      task: What `build` returned.

    Returns:
      The checkpoint's step.

    Raises:
      LaunchError: If there is no such checkpoint.
    """
    which = flags.FLAGS.checkpoint
    try:
        task.trainer.restore(int(which) if which.isdecimal() else which)
    except (FileNotFoundError, ValueError) as error:
        raise LaunchError(f"--checkpoint={which}: {error}") from error
    return task.trainer.step


def find(name: Any, argument: str) -> Callable[..., Any]:
    """Imports the function, or other callable, that a name stands for.

    Args:
      name: `"package.module:name"`.
      argument: Where the user gave it, for messages.

    Raises:
      LaunchError: If it is no such name, or nothing callable has it.
    """
    if not isinstance(name, str) or name.count(":") != 1:
        raise LaunchError(f"{argument}={name!r}: expected 'package.module:name'")
    module_name, function_name = name.split(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # Found, but something that it imports is missing.
        raise LaunchError(
            f"{argument}={name!r}: there is no module {error.name!r} here; install its package, or put its "
            "directory on PYTHONPATH"
        ) from None
    function = getattr(module, function_name, None)
    if not callable(function):
        callables = [key for key, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(function_name, callables, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LaunchError(f"{argument}={name!r}: {module_name} has no function {function_name!r}{hint}")
    return function


def _check_keywords(function: Callable[..., Any], keywords: Mapping[str, Any], name: str) -> None:
    parameters = inspect.signature(function).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        accepted = [key for key in parameters if key != "workdir"]
        for key in keywords:
            if key not in accepted:
                if key == "steps" and "steps" in flags.FLAGS and flags.FLAGS.is_parsed() and flags.FLAGS.steps:
                    raise LaunchError(f"--steps={flags.FLAGS.steps} needs {name} to take an argument steps=None")
                near = difflib.get_close_matches(key, accepted, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(accepted)}"
                raise LaunchError(f"config key {key!r} is no argument of {name}; {hint}")
    for key, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and key not in keywords and key != "workdir":
            raise LaunchError(f"{name} needs the argument {key!r}, and the config has no such key")


def _is_dry_run() -> bool:
    return "dry_run" in flags.FLAGS and flags.FLAGS.is_parsed() and flags.FLAGS.dry_run


def _rehearsal(task: Task) -> Task:
    each_step = Every(steps=1)
    for callback in task.trainer.callbacks:
        if getattr(callback, "trigger", None) is not None:
            callback.trigger = each_step
    fit = {key: value for key, value in task.fit.items() if key != "epochs"}
    fit |= {"steps": REHEARSAL_STEPS} | ({} if task.eval_data is None else {"eval_every": each_step})
    return dataclasses.replace(
        task, fit=fit, eval_data=_first_batches(task.eval_data), test_data=_first_batches(task.test_data)
    )


def _first_batches(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: _first_batches(one) for name, one in data.items()}
    if data is None:
        return None
    return getattr(data, "once", data).take(REHEARSAL_STEPS)  # Of `from_arrays` data, or of a tf.data.Dataset.
