"""Ctrl-C and SIGTERM during `fit`: noted at once, acted upon between two chunks of steps, of any phase."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from absl import logging

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """Leaves what is under way because a signal was noted; `fit` catches it.

    No `Exception`, so that a hook which catches all of those lets it through.
    """


class InterruptedReplay(Interrupted):
    """Leaves steps that were made again, to be made again by the next process."""


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM is only noted, so that the loop can finish its chunk and save.

    A second signal acts at once, as if nobody had been listening. Outside the main thread, where Python allows no
    signal handlers, nothing is noted.

    Attributes:
      received: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def act(self, note: str) -> None:
        """Leaves the program the way the noted signal asked for; returns where none came.

        Args:
          note: Where the run stands; shown below the traceback that Python prints, or logged where it prints none.

        Raises:
          KeyboardInterrupt: After SIGINT.
          SystemExit: After SIGTERM, with status 143.
        """
        if self.received is signal.SIGINT:
            error = KeyboardInterrupt()
            error.add_note(note)
            raise error
        if self.received is signal.SIGTERM:
            logging.warning(note)
            sys.exit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: whoever had installed it was not Python, and cannot be given back
                signal.signal(number, handler)
        self._before = {}
