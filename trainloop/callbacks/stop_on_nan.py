"""`StopOnNaN`: ends a run at its first loss that is not finite, and says where the number came from."""

from __future__ import annotations

import contextlib
import linecache
import pathlib
import re
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf
import tf_keras

from trainloop.callback import Callback

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

Frame = tuple[str, int, str]  # file, line, function

_OWN = pathlib.Path(__file__).parents[1]
_LIBRARIES = tuple(pathlib.Path(str(module.__file__)).parent for module in (tf, tf_keras))
_UNLIMITED = 10_000


class NonFiniteLossError(ArithmeticError):
    """A training loss was NaN or infinite.

    Attributes:
      step: The step of that loss, counted from 1.
    """

    def __init__(self, step: int, message: str):
        super().__init__(message)
        self.step = step


class StopOnNaN(Callback):
    """Stops at once when a training loss is NaN or infinite, before anything of it is logged or saved.

    While it is among a Trainer's callbacks the compiled loop tests each step's loss, which costs nothing that could be
    measured, and `fit` raises `NonFiniteLossError`. Its message names the step and, by running again from the newest
    checkpoint with every tensor checked, the first tensor that was not finite and the line of code that made it.

    Args:
      replay: Whether to run again from the newest checkpoint to find that tensor.

    Example:
      >>> from trainloop import StopOnNaN
      >>> stop = StopOnNaN(replay=False)
    """

    def __init__(self, *, replay: bool = True):
        self.replay = replay

    def explain(self, trainer: Trainer, step: int) -> str:
        """Returns what is known of a loss that is not finite; the replay leaves the Trainer where it ended.

        Args:
          trainer: The Trainer whose loss it is.
          step: The step of that loss, counted from 1.
        """
        headline = f"the loss of step {step} is NaN or infinite"
        if not self.replay:
            return f"{headline}. StopOnNaN(replay=True) would find the tensor it came from"
        checkpoints = [] if trainer.checkpoints is None else trainer.checkpoints.steps()
        if not checkpoints:
            return (
                f"{headline}. There is no checkpoint to look for its origin from: give the Trainer a workdir=, with a "
                "Checkpointing trigger that comes before this step, and run again"
            )
        again = f"Run again from the checkpoint of step {checkpoints[-1]} with every tensor checked"
        try:
            with _every_tensor_checked(trainer):
                trainer.replay(step)
        except tf.errors.InvalidArgumentError as error:
            if "Detected Infinity or NaN" not in error.message:
                raise
            if "RestoreV2" in error.message:
                return (
                    f"{headline}. The checkpoint of step {checkpoints[-1]} already holds a number that is not finite: "
                    "it arose in the backward pass or the update of an earlier step. Move that checkpoint away and run "
                    "again, or save more often, to have that step found"
                )
            return f"{headline}. {again}, the first one that is not finite is\n{_describe(error)}"
        return f"{headline}. {again}, all are finite: this run does not repeat to the bit, so its origin stays unknown"


@contextlib.contextmanager
def _every_tensor_checked(trainer: Trainer) -> Iterator[None]:
    compiled_by_xla, trainer.jit_compile = trainer.jit_compile, False  # XLA has no kernel for the checks
    tf.debugging.enable_check_numerics(stack_height_limit=_UNLIMITED, path_length_limit=_UNLIMITED)
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()
        trainer.jit_compile = compiled_by_xla


def _describe(error: tf.errors.InvalidArgumentError) -> str:
    """Reads what check_numerics wrote: an op, its output's dtype and shape, and how the op came into being."""
    text = error.message
    op = _found(r'output \d+ of (?:graph|eagerly-executing) op "([^"]+)"', text)
    node = _found(r"Detected at node (?:\S*?while/)?(\S+)/CheckNumericsV2", text)
    name = f"{op} ({node})" if node else op
    way = " in the backward pass" if node.startswith("gradient_tape/") else ""
    dtype, shape = _found(r"dtype: <dtype: '(\w+)'>", text), _found(r"shape: (\(.*\))", text)
    described = f"  the output of {name}{way}, {dtype} of shape {shape}"
    made = re.findall(r"^ *\+ (.+) \(L(\d+)\) (.+)$", text, re.MULTILINE)
    frames = [(file, int(line), function) for file, line, function in made]
    if not frames:  # an eager op was made where it was run
        frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    line = _line_of_user(frames)
    return f"{described}\n{line}" if line else described


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def _line_of_user(frames: Sequence[Frame]) -> str:
    """Returns the innermost line of user code in a step; none where the step is wholly ours or TensorFlow's own."""
    first = next(
        (number for number, frame in enumerate(frames) if _is_in(frame, [_OWN])), 0
    )  # before it: who called fit
    users = [frame for frame in frames[first:] if not _is_in(frame, [_OWN, *_LIBRARIES])]
    if not users:
        return ""
    file, line, function = users[-1]
    return f'  File "{file}", line {line}, in {function}\n    {linecache.getline(file, line).strip()}'


def _is_in(frame: Frame, directories: Sequence[pathlib.Path]) -> bool:
    return any(pathlib.Path(frame[0]).is_relative_to(directory) for directory in directories)
