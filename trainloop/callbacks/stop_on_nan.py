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

_LIBRARIES = [*(pathlib.Path(str(module.__file__)).parent for module in (tf, tf_keras)), pathlib.Path(__file__).parents[1]]
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
        since = f"Run again from the checkpoint of step {checkpoints[-1]}"
        try:
            with _every_tensor_checked():
                trainer.replay(step)
        except tf.errors.InvalidArgumentError as error:
            if "Detected Infinity or NaN" not in error.message:
                raise
            where = f"the first tensor that is not finite comes in step {trainer.step + 1}"
            return f"{headline}. {since}, {where}:\n{_describe(error)}"
        return f"{headline}. {since}, every tensor was finite: this run cannot be repeated to the bit"


@contextlib.contextmanager
def _every_tensor_checked() -> Iterator[None]:
    tf.debugging.enable_check_numerics(stack_height_limit=_UNLIMITED, path_length_limit=_UNLIMITED)
    try:
        yield
    finally:
        tf.debugging.disable_check_numerics()


def _describe(error: tf.errors.InvalidArgumentError) -> str:
    """Reads what check_numerics wrote: an op, its output's dtype and shape, and how a graph's op came into being."""
    text = error.message
    output, op = re.search(r'output (\d+) of (?:graph|eagerly-executing) op "([^"]+)"', text).groups()
    dtype = re.search(r"dtype: <dtype: '(\w+)'>", text)
    shape = re.search(r"shape: (\(.*\))", text)
    node = re.search(r"Detected at node (?:\S*?while/)?(\S+)/CheckNumericsV2", text)
    name = f" ({node[1]})" if node else ""
    lines = [f"  output {output} of {op}{name}, {dtype[1] if dtype else '?'} of shape {shape[1] if shape else '?'}"]
    made = re.findall(r"^ *\+ (.+) \(L(\d+)\) (.+)$", text, re.MULTILINE)
    frames = [(file, int(line), function) for file, line, function in made]
    if not frames:  # eager ops have no creation of their own: they were made where they were run
        frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)]
    if frames:
        file, line, function = _innermost_of_user(frames)
        lines.append(f'  File "{file}", line {line}, in {function}\n    {linecache.getline(file, line).strip()}')
    return "\n".join(lines)


def _innermost_of_user(frames: Sequence[tuple[str, int, str]]) -> tuple[str, int, str]:
    """Returns the innermost frame outside of the libraries, or the innermost one where all are inside."""
    own = [f for f in frames if not any(pathlib.Path(f[0]).is_relative_to(library) for library in _LIBRARIES)]
    return (own or frames)[-1]
