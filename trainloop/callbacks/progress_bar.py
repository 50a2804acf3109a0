"""`ProgressBar`: how far a run is, for whoever watches it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import tqdm

from trainloop.callback import Callback
from trainloop.phase import Phase
from trainloop.triggers import Every

if TYPE_CHECKING:
    from trainloop.trainer import Trainer

_WITH_TOTAL = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left, {rate_noinv_fmt}{postfix}]"
_WITHOUT_TOTAL = "{desc}{n_fmt} steps [{elapsed}, {rate_noinv_fmt}{postfix}]"
_BETWEEN = ", "
_RATES = ("learning_rate", "steps_per_second", "examples_per_second")
_ERASE_LINE = "\x1b[K"


class _Bar(tqdm.tqdm):
    monitor_interval = 0  # The loop moves the bar often enough; tqdm's thread, which looks after idle bars, stays away.

    @staticmethod
    def format_meter(  # pyright: ignore[reportIncompatibleMethodOverride]
        n: float, total: Any, elapsed: float, ncols: int | None = None, postfix: str | None = None, **how: Any
    ) -> str:
        """Leaves out the last metrics where a line of `ncols` columns has no room for them and for a bar."""
        metrics = (postfix or "").split(_BETWEEN)

        def line(width: int | None) -> str:
            return tqdm.tqdm.format_meter(n, total, elapsed, ncols=width, postfix=_BETWEEN.join(metrics), **how)

        while ncols and metrics and len(line(None)) > ncols:  # without a width tqdm draws a bar of ten
            metrics.pop()
        return line(ncols)


class ProgressBar(Callback):
    """Shows steps, epoch, rate, time left and the newest metrics of `fit` on standard error.

    In a terminal that is a bar, with as many of the training metrics as there is room for; each evaluation leaves a
    line above it, and what the program prints or logs meanwhile appears there too. Anywhere else (a log file, a
    notebook, a terminal that says it has no columns) it is one line a report and one an evaluation.

    Example:
      >>> from trainloop import ProgressBar
      >>> bar = ProgressBar()
    """

    trigger = Every(seconds=0.1)

    def __init__(self) -> None:
        self._newest: dict[str, Any] = {}
        self._reported_at: int | None = None
        self._is_timed = False
        self._bar: _Bar | None = None
        self._lines: TextIO | None = None
        self._open = contextlib.ExitStack()

    def on_fit_begin(self, trainer: Trainer) -> None:
        self._newest, self._reported_at, self._is_timed = {}, None, False
        if not (sys.stderr.isatty() and _has_columns(sys.stderr)):
            self._lines = sys.stderr
            return
        bar = _Bar(
            desc=_epoch(trainer),
            total=trainer.total_steps,
            initial=trainer.step,
            unit=" steps",
            bar_format=_WITHOUT_TOTAL if trainer.total_steps is None else _WITH_TOTAL,
            dynamic_ncols=True,
            mininterval=0.0,
            smoothing=0.05,
            file=sys.stderr,
        )
        self._bar = self._open.enter_context(bar)
        self._open.enter_context(_output_above(bar))

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._move(trainer)
            self._bar.bar_format = str(self._bar.bar_format).replace("{remaining} left", "{elapsed}")
        self._open.close()
        self._bar = self._lines = None

    def on_trigger(self, trainer: Trainer) -> None:
        self._move(trainer)

    def on_report(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        if self._bar is None:
            self._write(trainer, metrics)
            return
        # The rates are left out: a line in a log file has room for that of learning, and the bar shows the others.
        self._newest |= {name: value for name, value in metrics.items() if not name.startswith(_RATES)}
        self._reported_at = trainer.step
        self._bar.set_postfix_str(_BETWEEN.join(_spelled(self._newest)), refresh=False)
        self._move(trainer)

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        if self._bar is not None and phase is not Phase.TRAIN:
            self._bar.set_description_str(f"{_epoch(trainer)}({phase.value}) ")

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Mapping[str, Any]) -> None:
        if self._bar is not None:
            self._bar.set_description_str(_epoch(trainer))
        if metrics:
            trained = self._newest if self._reported_at == trainer.step else {}  # for the bar has room for few of them
            self._write(trainer, {**trained, **metrics})

    def _move(self, trainer: Trainer) -> None:
        bar = self._bar
        if bar is None:
            return
        bar.set_description_str(_epoch(trainer), refresh=False)
        if self._is_timed or trainer.step in (bar.n, bar.total):
            bar.update(trainer.step - bar.n)
            return
        # The first chunk has traced the loop, so the rate is that of what comes after it.
        bar.n = bar.initial = bar.last_print_n = trainer.step
        bar.unpause()
        bar.refresh()
        self._is_timed = True

    def _write(self, trainer: Trainer, metrics: Mapping[str, Any]) -> None:
        """Writes a line that stays: above the bar, or where there is none."""
        stream = sys.stderr if self._bar is not None else self._lines
        if stream is not None:
            parts = [_position(trainer), *_spelled(metrics), *_speed(trainer, metrics)]
            stream.write("  ".join(part for part in parts if part) + "\n")
            stream.flush()


def _has_columns(terminal: TextIO) -> bool:
    """Returns whether a bar can be seen: a terminal that nobody has given a size, as in a container, has none."""
    try:
        return os.get_terminal_size(terminal.fileno()).columns > 0
    except (AttributeError, OSError, ValueError):  # it cannot tell
        return True


def _position(trainer: Trainer) -> str:
    total = "" if trainer.total_steps is None else f"/{trainer.total_steps}"
    return f"step {trainer.step}{total}  {_epoch(trainer)}".rstrip()


def _epoch(trainer: Trainer) -> str:
    """Returns `"epoch 3/10 "`, the epoch of the newest step, counted from 1; nothing where the data has no epochs."""
    number = trainer.epoch + (trainer.state.epoch_step > 0 or trainer.step == 0)
    if trainer.steps_per_epoch is None:
        return f"epoch {number} " if trainer.epoch else ""
    if trainer.total_steps is None:
        return f"epoch {number} "
    return f"epoch {number}/{math.ceil(trainer.total_steps / trainer.steps_per_epoch)} "


def _spelled(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the scalars as `"loss 0.1234"`, without the rates, which the bar and the lines show in their own way."""
    shown = {n: v for n, v in metrics.items() if np.ndim(v) == 0 and not n.endswith("_per_second")}
    return [f"{name} {value:.4g}" for name, value in shown.items()]


def _speed(trainer: Trainer, metrics: Mapping[str, Any]) -> list[str]:
    rate = metrics.get("steps_per_second")
    if not rate:
        return []
    speed = f"{rate:.0f} steps/s" if rate >= 100 else f"{rate:.3g} steps/s"
    if trainer.total_steps is None:
        return [speed]
    return [speed, f"{tqdm.tqdm.format_interval((trainer.total_steps - trainer.step) / rate)} left"]


@contextlib.contextmanager
def _output_above(bar: _Bar) -> Iterator[None]:
    """Lets whatever is written to the terminal in the block appear above the bar, which stays the last line."""
    before = (sys.stdout, sys.stderr)
    above = [_AboveBar(stream, bar) if stream.isatty() else stream for stream in before]
    handlers = list(_console_handlers())
    sys.stdout, sys.stderr = above
    for handler in handlers:  # each holds the stream that was there when it was made
        for old, new in zip(before, above, strict=True):
            if handler.stream is old:
                handler.setStream(new)
    try:
        yield
    finally:
        for old, new in zip(before, above, strict=True):
            if isinstance(new, _AboveBar):
                new.end_line()
            for handler in handlers:
                if handler.stream is new:
                    handler.setStream(old)
        if sys.stdout is above[0]:
            sys.stdout = before[0]
        if sys.stderr is above[1]:
            sys.stderr = before[1]


def _console_handlers() -> Iterator[logging.StreamHandler]:
    known = logging.root.manager.loggerDict.values()
    for logger in (logging.root, *(each for each in known if isinstance(each, logging.Logger))):
        for handler in logger.handlers:
            inner = getattr(handler, "python_handler", handler)  # absl's handler keeps the one that writes inside it
            if isinstance(inner, logging.StreamHandler):
                yield inner


class _AboveBar(io.TextIOBase):
    """A stream whose whole lines are written above a bar."""

    def __init__(self, stream: TextIO, bar: _Bar):
        self._stream = stream
        self._bar = bar
        self._rest = ""
        self._is_within_line = False

    def write(self, text: str) -> int:
        if not self._rest and (text.startswith(("\r", "\x1b")) or not text.strip("\n")):
            self._draw(text)
            return len(text)
        lines, newline, self._rest = (self._rest + text).rpartition("\n")
        if newline:
            self._put(lines + newline)
        return len(text)

    def flush(self) -> None:
        if self._rest:  # a prompt, which must be seen before its line is whole
            self._put(self._rest)
            self._rest = ""
        self._stream.flush()

    def end_line(self) -> None:
        """Ends the line that is still open."""
        if self._rest or self._is_within_line:
            self.write("\n")

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:  # `buffer`, `name` and what else a stream of the terminal has
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    def _draw(self, text: str) -> None:
        """Lets another bar draw itself: it moves with line feeds and escapes, and writes from a carriage return on."""
        with self._bar.get_lock():
            if not text.strip("\n") and not self._is_within_line:
                self._bar.clear(nolock=True)
            self._stream.write(text)
            self._is_within_line = self._is_within_line and "\n" not in text

    def _put(self, text: str) -> None:
        with self._bar.get_lock():
            if not self._is_within_line:  # else the bar has already made place
                self._bar.clear(nolock=True)
                self._stream.write(_ERASE_LINE)  # of another bar, whose length ours does not know
            self._stream.write(text)
            self._stream.flush()
            self._is_within_line = not text.endswith("\n")
            if not self._is_within_line:
                self._bar.refresh(nolock=True)
