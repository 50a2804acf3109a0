"""What a mutant is, and the register of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, get_args

from tests.corpus.subject import Subject
from trainloop import Phase

Mode = Literal["graph", "eager", "jit", "replicas"]

OFF = frozenset({Phase.TRAIN})  # where a layer shows that it is always off
ON = frozenset({Phase.EVAL, Phase.PREDICT})  # where it shows that it is always on
ALWAYS = OFF | ON


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A healthy model with one way of losing the phase planted into it.

    Attributes:
      mutation: The way; the row of the table that it counts in.
      host: What it was planted into, and where.
      build: Makes it anew.
      planted: The path of the layer that it was planted at, or the name of the variable or op; an error must name it.
      exposed: The phases of one boolean in which Keras alone gets it wrong.
      contradicts: Whether it says the contrary of the phase: then it must be caught, where else it may be mended too.
      mode: How it is run.
      is_large: Whether making it takes seconds, so that it is made once for all phases.
    """

    mutation: str
    host: str
    build: Callable[[], Subject]
    planted: str
    exposed: frozenset[Phase]
    contradicts: bool
    mode: Mode = "graph"
    is_large: bool = False

    @property
    def name(self) -> str:
        """What it is called by."""
        how = "" if self.mode == "graph" else f" ({self.mode})"
        return f"{self.mutation}: {self.host}{how}"


MUTANTS: dict[str, Mutant] = {}


# What is planted there is run in every way; elsewhere a compiled call has to do. A thread that runs eagerly is in no
# phase but its own, so there is nothing to be caught.
HOSTS_OF_ALL_MODES = ("drop of Forwarding", "norm of Forwarding", "a black box")
NOT_EAGER = ("a worker thread",)
# A gradient tape belongs to a thread too: what another one computes has no gradient, with or without its phase.
NOT_TRAINED = ("a worker thread",)


def plant(mutant: Mutant) -> None:
    """Registers a mutant, and once more for each other way of running it."""
    modes: tuple[Mode, ...] = get_args(Mode) if mutant.host in HOSTS_OF_ALL_MODES else ("graph",)
    for mode in modes:
        if mode == "eager" and mutant.mutation in NOT_EAGER:
            continue
        each = dataclasses.replace(mutant, mode=mode)
        if each.name in MUTANTS:
            raise ValueError(f"there are two mutants named {each.name!r}")
        MUTANTS[each.name] = each


def planting(
    mutation: str, host: str, planted: str, exposed: frozenset[Phase], *, contradicts: bool
) -> Callable[[Callable[[], Subject]], Callable[[], Subject]]:
    """Registers a function that makes a mutant."""

    def register(build: Callable[[], Subject]) -> Callable[[], Subject]:
        plant(Mutant(mutation, host, build, planted, exposed, contradicts))
        return build

    return register
