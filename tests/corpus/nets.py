"""What the guard and the contract say about a subject in a phase, and what it then does."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import tensorflow as tf
import tf_keras

import trainloop
from tests.corpus.mutation import Mode
from tests.corpus.subject import Behaviour, Subject, expected, observed
from trainloop import Phase
from trainloop.violations import PhaseError, Violation

Net = Literal["guard", "contract"]
SEED = 7


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of calling a subject in a phase.

    Attributes:
      net: Which net objected; None if neither did.
      violations: What it objected to.
      verdict: The contract's, where the guard let the subject pass.
      behaviour: What the subject did; None where a net objected.
      wanted: What the phase wants of it.
      warned: What was warned of on the way.
    """

    net: Net | None
    violations: tuple[Violation, ...]
    verdict: str
    behaviour: Behaviour | None
    wanted: Behaviour
    warned: tuple[str, ...]

    @property
    def is_right(self) -> bool:
        """Whether the subject did what the phase wants."""
        return self.behaviour == self.wanted

    def names(self, path: str) -> bool:
        """Returns whether a violation is at a path or below it, or of a variable that the layer there writes."""
        return names(self.violations, path)


def examine(
    build: Callable[[], Subject],
    phase: Phase,
    mode: Mode = "graph",
    strategy: tf.distribute.Strategy | None = None,
    is_traceable: bool = True,
) -> Finding:
    """Puts a subject before both nets, and looks at what it does where they let it pass.

    Args:
      build: Makes it; done anew for each net.
      phase: The phase to call it in.
      mode: How it is run.
      strategy: The replicas, for that mode.
      is_traceable: Whether it can be traced, as the contract does.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject = fresh(build, strategy)
        call = entered(subject, phase, mode, strategy)
        finding = _examine(build, subject, call, phase, mode, strategy, is_traceable)
    ours = tuple(str(each.message) for each in caught if issubclass(each.category, UserWarning))
    return dataclasses.replace(finding, warned=ours)


def _examine(
    build: Callable[[], Subject],
    subject: Subject,
    call: Callable[..., Any],
    phase: Phase,
    mode: Mode,
    strategy: tf.distribute.Strategy | None,
    is_traceable: bool,
) -> Finding:
    try:
        run = traced(call, subject, mode)
    except PhaseError as error:
        return Finding("guard", error.violations, "", None, expected(subject, phase), ())
    if not is_traceable:
        return Finding(None, (), "holds", observed(run, subject), expected(subject, phase), ())
    other = fresh(build, strategy)
    report = trainloop.contract(entered(other, phase, mode, strategy), phase, *other.inputs)
    wanted = expected(subject, phase)
    if report.violations:
        return Finding("contract", tuple(report.violations), report.verdict, None, wanted, ())
    return Finding(None, (), report.verdict, observed(run, subject), wanted, ())


def fresh(build: Callable[[], Subject], strategy: tf.distribute.Strategy | None = None) -> Subject:
    """Makes a subject in a Keras that remembers nothing of the one before."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(SEED)
    with _scope(strategy):
        return build()


def entered(subject: Subject, phase: Phase, mode: Mode, strategy: tf.distribute.Strategy | None) -> Callable[..., Any]:
    """Returns a function of the inputs that calls a subject in a phase, by XLA or on replicas if that is the mode."""

    def call(*inputs: Any) -> Any:
        return phase.call(subject.entry, *inputs)

    if mode == "jit":
        return tf.function(call, jit_compile=True)
    if mode == "replicas":
        assert strategy is not None
        return lambda *inputs: strategy.experimental_local_results(strategy.run(call, inputs))
    return call


def traced(call: Callable[..., Any], subject: Subject, mode: Mode) -> Callable[[], Any]:
    """Traces a call, runs nothing, and returns a function that runs it; in eager mode there is nothing to trace."""
    if mode == "eager":
        call(*subject.inputs)  # makes the variables
        return lambda: call(*subject.inputs)
    concrete = tf.function(call).get_concrete_function(*subject.inputs)
    return lambda: concrete(*tf.nest.flatten(subject.inputs))


@contextlib.contextmanager
def _scope(strategy: tf.distribute.Strategy | None) -> Iterator[None]:
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        yield


def names(violations: Sequence[Violation], path: str) -> bool:
    """Returns whether one of these is at a path or below it, of a variable written there, or of a function so named."""
    parts = path.split("/")
    return any(
        _holds(violation.path.split("/"), parts)
        or f"by layer {path!r}" in violation.what
        or f"the tf.function {path!r}" in violation.what
        for violation in violations
    )


def _holds(path: list[str], planted: list[str]) -> bool:
    """Returns whether the parts of a path contain those of the planted one, next to each other."""
    return any(path[start : start + len(planted)] == planted for start in range(len(path) - len(planted) + 1))
