"""Triggers: when they are due, how far the loop may run before them, and what they refuse."""

import pytest

from trainloop.triggers import At, AtEnd, Every, Moment, Trigger, counts_epochs


@pytest.mark.parametrize(
    ("trigger", "moment", "due"),
    [
        (Every(steps=3), Moment(step=6), True),
        (Every(steps=3), Moment(step=7), False),
        (Every(steps=3), Moment(step=6, new_step=False), False),
        (Every(epochs=2), Moment(step=8, epoch=4, epoch_ended=True), True),
        (Every(epochs=2), Moment(step=8, epoch=3, epoch_ended=True), False),
        (Every(epochs=2), Moment(step=9, epoch=4), False),
        (Every(seconds=1.5), Moment(step=1, seconds=1.5), True),
        (Every(seconds=1.5), Moment(step=1, seconds=1.4), False),
        (At(steps=3), Moment(step=3), True),
        (At(steps=3), Moment(step=6), False),
        (At(steps=3), Moment(step=3, new_step=False), False),
        (At(epochs=2), Moment(step=8, epoch=2, epoch_ended=True), True),
        (At(epochs=2), Moment(step=9, epoch=2), False),
        (AtEnd(), Moment(step=5, ended=True), True),
        (AtEnd(), Moment(step=5), False),
        (Every(steps=3) | AtEnd(), Moment(step=6), True),
        (Every(steps=3) | AtEnd(), Moment(step=7, ended=True), True),
        (Every(steps=3) | AtEnd(), Moment(step=7), False),
    ],
)
def test_a_trigger_is_due_at_its_moments_only(trigger: Trigger, moment: Moment, due: bool) -> None:
    assert trigger.is_due(moment) is due


@pytest.mark.parametrize(
    ("trigger", "step", "bound"),
    [
        (Every(steps=10), 0, 10),
        (Every(steps=10), 7, 3),
        (Every(steps=10), 10, 10),
        (At(steps=10), 7, 3),
        (At(steps=10), 10, None),
        (Every(epochs=1), 7, None),
        (Every(seconds=1), 7, None),
        (At(epochs=1), 7, None),
        (AtEnd(), 7, None),
        (Every(steps=10) | At(steps=8), 7, 1),
        (Every(steps=10) | At(steps=8), 8, 2),
        (Every(seconds=1) | AtEnd(), 7, None),
    ],
)
def test_a_trigger_says_how_far_the_loop_may_run(trigger: Trigger, step: int, bound: int | None) -> None:
    assert trigger.steps_until(step) == bound


@pytest.mark.parametrize(
    ("trigger", "expected"),
    [
        (Every(epochs=1), True),
        (At(epochs=1), True),
        (Every(steps=1) | (AtEnd() | Every(epochs=2)), True),
        (Every(steps=1) | Every(seconds=1) | AtEnd(), False),
    ],
)
def test_epochs_are_found_anywhere_in_a_trigger(trigger: Trigger, expected: bool) -> None:
    assert counts_epochs(trigger) is expected


@pytest.mark.parametrize(
    ("trigger", "spelled"),
    [
        (Every(steps=100), "Every(steps=100)"),
        (Every(seconds=0.5) | AtEnd(), "Every(seconds=0.5) | AtEnd()"),
        (At(epochs=3) | At(steps=5), "At(epochs=3) | At(steps=5)"),
    ],
)
def test_a_trigger_prints_as_it_is_typed(trigger: Trigger, spelled: str) -> None:
    assert repr(trigger) == spelled


def test_triggers_are_values() -> None:
    assert Every(steps=5) == Every(steps=5) != Every(epochs=5)
    assert len({Every(steps=5) | AtEnd(), Every(steps=5) | AtEnd()}) == 1


@pytest.mark.parametrize("kind", [Every, At])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"takes exactly one of steps, epochs.*; given: none"),
        ({"steps": 1, "epochs": 2}, r"takes exactly one of .*; given: steps=1 and epochs=2\. Join two with \|"),
        ({"steps": 0}, r"\(steps=0\): steps must be a positive whole number"),
        ({"steps": -1}, r"\(steps=-1\): steps must be a positive whole number"),
        ({"epochs": 1.0}, r"\(epochs=1\.0\): epochs must be a positive whole number"),
        ({"epochs": True}, r"\(epochs=True\): epochs must be a positive whole number"),
        ({"steps": "10"}, r"\(steps='10'\): steps must be a positive whole number"),
    ],
)
def test_a_trigger_that_could_never_be_meant_is_refused(kind: type, given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__}.*{message}"):
        kind(**given)


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), "1"])
def test_seconds_are_a_positive_number(seconds: object) -> None:
    with pytest.raises(ValueError, match=r"Every\(seconds=.*\): seconds must be a positive number"):
        Every(seconds=seconds)


def test_only_triggers_are_joined() -> None:
    with pytest.raises(TypeError, match=r"unsupported operand"):
        Every(steps=5) | 5


def test_a_trigger_is_no_condition() -> None:
    """`or` would drop the second one without a word."""
    with pytest.raises(TypeError, match=r"^Every\(epochs=1\) is neither true nor false; join triggers with \|"):
        Every(epochs=1) or AtEnd()
