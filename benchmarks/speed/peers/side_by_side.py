"""Several peers in one process, a thread each, of which one trains at a time.

What makes two processes of one program differ for as long as they live is the same for all of them.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import Kind, Task
from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload


class Side:
    """The turns of a peer in a thread of its own, which waits in `next` while the others train.

    Args:
      clock: Returns the time in seconds.

    Attributes:
      notes: What the peer has to say of its turns; nobody asks.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._may_go, self._is_done = threading.Semaphore(0), threading.Semaphore(0)
        self._began: float | None = None
        self._seconds = 0.0
        self.notes: dict[str, Any] = {}

    def next(self) -> None:
        """Ends the turn under way, if there is one, and waits for the next."""
        if self._began is not None:
            self._seconds = self._clock() - self._began
            self._is_done.release()
        self._may_go.acquire()
        self._began = self._clock()

    def turn(self) -> float:
        """Has the peer train for a turn, and returns the seconds of it."""
        self._may_go.release()
        self._is_done.acquire()
        return self._seconds


def peers(workload: Workload, steps: int, turns: Turns, *, kinds: Mapping[str, Kind]) -> None:
    """In each turn each of these peers has one, in an order drawn anew; their seconds are noted."""
    sides: dict[str, Side] = {}
    for name, kind in kinds.items():
        sides[name] = Side()
        threading.Thread(target=_train, args=(Task(kind, workload, steps), sides[name]), daemon=True).start()
        sides[name].turn()  # one after the other, since they trace in it
    while True:
        turns.next()
        turns.notes["sides"] = rounds.play(sides, 1)


def _train(task: Task, side: Side) -> None:
    try:
        task.function()(task.workload, task.steps, side, **task.kind.options)
    except BaseException:  # noqa: BLE001 (whoever waits for this thread would wait for ever)
        traceback.print_exc()
        os._exit(1)
