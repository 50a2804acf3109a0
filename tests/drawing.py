"""A handler of draws that gives each the next key, and what is drawn under it."""

from typing import Any

import numpy as np
import tensorflow as tf

from trainloop import draws
from trainloop.stateless import Key


class Counting:
    """A handler that gives the first draw the key 0, the second the key 1, and leaves loops and branches alone."""

    def __init__(self, place: Any = 3, counters: tuple[Any, ...] = (), first: int = 0):
        self.place = place
        self.first = first
        self.counters = counters
        self.ops: list[str] = []

    def key(self, op: str) -> Key | None:
        self.ops.append(op)
        return Key(self.first + len(self.ops) - 1, tf.convert_to_tensor(self.place, tf.int64), self.counters)

    def loop(self, condition: Any, body: Any) -> Any:
        return condition, body

    def branches(self, functions: Any) -> Any:
        return functions

    def vectorized(self) -> Any:
        raise AssertionError("nothing is vectorized here")


def drawn(make: Any, handler: Counting | None = None) -> np.ndarray:
    with draws.intercepted(handler or Counting()):
        return np.asarray(make())


def compiled(make: Any, handler: Counting | None = None) -> tuple[np.ndarray, set[str]]:
    """What a compiled function draws, and the types of all ops in it."""

    def function() -> Any:
        with draws.intercepted(handler or Counting()):
            return make()

    concrete = tf.function(function, autograph=False).get_concrete_function()
    return concrete().numpy(), {op.type for op in concrete.graph.get_operations()}
