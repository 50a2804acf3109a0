"""A peer's side of the pipe: it waits for its turn, and answers with how long the turn has taken."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

GO = "go"


class Channel(Protocol):
    """What a turn needs of a `multiprocessing.connection.Connection`."""

    def send(self, obj: Any, /) -> None: ...

    def recv(self) -> Any: ...


class Turns:
    """The turns of a peer, which calls `next` before each: the time between two calls is the turn's.

    Args:
      channel: The pipe.
      clock: Returns the time in seconds.

    Attributes:
      notes: What else a peer has to say of the turn under way; sent with its seconds.
    """

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.perf_counter):
        self._channel = channel
        self._clock = clock
        self._began: float | None = None
        self.notes: dict[str, Any] = {}

    def next(self) -> None:
        """Ends the turn under way, if there is one, and waits for the driver to begin the next.

        Raises:
          SystemExit: When the driver has hung up, since there is nothing left to do.
        """
        if self._began is not None:
            self._channel.send({"seconds": self._clock() - self._began, "memory": resident_mebibytes(), **self.notes})
        self.notes = {}
        try:
            said = self._channel.recv()
        except (EOFError, ConnectionError):
            raise SystemExit(0) from None
        assert said == GO, said
        self._began = self._clock()


class FirstTurn(Turns):
    """One turn, which has begun when this object is made: what a peer does to get ready is a part of it."""

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.perf_counter):
        super().__init__(channel, clock)
        self._began = clock()
        self._is_ready = False

    def next(self) -> None:
        """Ends the turn when called for the second time.

        Raises:
          SystemExit: When the turn is over.
        """
        if not self._is_ready:
            self._is_ready = True
            return
        assert self._began is not None
        self._channel.send({"seconds": self._clock() - self._began, **self.notes})
        raise SystemExit(0)


def resident_mebibytes() -> float:
    """Returns the memory that this process has in use now (where there is no /proc, the most that it has had)."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 2**10
