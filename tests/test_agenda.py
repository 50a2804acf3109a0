"""The agenda: no due step is jumped over; the pace of the loop; the length of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainloop.agenda import CHUNK_SECONDS, FEW_STEPS, FEW_STEPS_SECONDS, Agenda, Pace, RunLength
from trainloop.triggers import At, AtEnd, Every, Moment, Trigger

counts = st.integers(min_value=1, max_value=30)
simple = st.one_of(
    st.builds(Every, steps=counts),
    st.builds(At, steps=counts),
    st.builds(Every, epochs=counts),
    st.builds(Every, seconds=st.floats(min_value=0.5, max_value=9)),
    st.just(AtEnd()),
)
triggers = st.recursive(simple, lambda inner: st.builds(lambda a, b: a | b, inner, inner), max_leaves=4)


def due_steps(trigger: Trigger, total: int) -> list[int]:
    """The steps at which a loop that stops after every single step would find the trigger due, by its steps alone."""
    return [step for step in range(1, total + 1) if trigger.is_due(Moment(step, epoch_ended=False, seconds=0.0))]


@given(
    agenda=st.lists(st.one_of(st.none(), triggers), max_size=4),
    chunks=st.lists(counts, min_size=1),
    start=st.integers(min_value=0, max_value=40),
)
def test_no_due_step_is_jumped_over(agenda: list[Trigger | None], chunks: list[int], start: int) -> None:
    """Whatever the chunk length that the loop would like: it is cut where a trigger may be due, and fires there."""
    total = start + 60
    under_test = Agenda(agenda, now=0.0)
    fired: list[list[int]] = [[] for _ in agenda]
    step = start
    for turn in range(total):
        bound = under_test.steps_until(step)
        wanted = min(chunks[turn % len(chunks)], total - step)
        step += wanted if bound is None else min(wanted, bound)
        for position in under_test.due(Moment(step), now=0.0):
            fired[position].append(step)
        if step == total:
            break
    expected = [
        [s for s in due_steps(trigger, total) if s > start] if trigger is not None else [] for trigger in agenda
    ]
    assert fired == expected


@given(trigger=triggers, step=st.integers(min_value=0, max_value=100))
def test_a_bound_is_a_positive_number_of_steps(trigger: Trigger, step: int) -> None:
    bound = Agenda([trigger], now=0.0).steps_until(step)
    assert bound is None or bound > 0


def test_seconds_count_from_the_last_firing_of_each_trigger() -> None:
    agenda = Agenda([Every(seconds=2), None, Every(seconds=3)], now=10.0)
    fired = {now: agenda.due(Moment(step=1, new_step=False), now) for now in (11.0, 12.0, 13.0, 13.5, 14.0, 16.0)}
    assert fired == {11.0: [], 12.0: [0], 13.0: [2], 13.5: [], 14.0: [0], 16.0: [0, 2]}


@pytest.mark.parametrize("seconds", [0.0, 1e-9])
def test_the_first_chunk_is_one_step_and_the_pace_grows_fourfold_at_most(seconds: float) -> None:
    pace = Pace()
    lengths = [pace.steps]
    for _ in range(3):
        pace.observe(pace.steps, seconds)
        lengths.append(pace.steps)
    assert lengths == [1, 4, 16, 64]


@pytest.mark.parametrize(
    ("seconds_a_step", "steps"),
    [
        (CHUNK_SECONDS / 10, 10),
        (CHUNK_SECONDS * 0.4, FEW_STEPS),
        (FEW_STEPS_SECONDS / FEW_STEPS * 0.99, FEW_STEPS),
        (FEW_STEPS_SECONDS * 0.4, 2),
        (FEW_STEPS_SECONDS * 0.6, 1),
        (FEW_STEPS_SECONDS * 10, 1),
    ],
)
def test_the_pace_settles_at_a_tenth_of_a_second_or_a_few_slow_steps(seconds_a_step: float, steps: int) -> None:
    pace = Pace()
    for _ in range(5):
        pace.observe(pace.steps, pace.steps * seconds_a_step)
    assert pace.steps == steps


def test_a_chunk_without_a_step_says_nothing_about_the_pace() -> None:
    pace = Pace()
    pace.observe(1, seconds=0.0)
    pace.observe(0, seconds=5.0)
    assert pace.steps == 4


@pytest.mark.parametrize(
    ("length", "step", "epoch", "reached"),
    [
        (RunLength(10, None), 9, 99, False),
        (RunLength(10, None), 10, 0, True),
        (RunLength(10, None), 11, 0, True),
        (RunLength(None, 3), 99, 2, False),
        (RunLength(None, 3), 0, 3, True),
        (RunLength(None, 3), 0, 4, True),
    ],
)
def test_a_run_ends_at_its_total(length: RunLength, step: int, epoch: int, reached: bool) -> None:
    assert length.is_reached(step, epoch) is reached


def test_only_a_total_in_steps_bounds_the_loop() -> None:
    assert RunLength(10, None).steps_left(4) == 6
    assert RunLength(None, 10).steps_left(4) is None


@pytest.mark.parametrize(
    ("steps", "epochs", "message"),
    [
        (None, None, r"fit takes exactly one of steps= and epochs=, the total of the whole run; given: neither"),
        (5, 6, r"exactly one of steps= and epochs=.*; given: steps=5 and epochs=6"),
        (0, None, r"fit: steps=0 must be a positive whole number"),
        (None, -2, r"fit: epochs=-2 must be a positive whole number"),
        (1.5, None, r"fit: steps=1\.5 must be a positive whole number"),
        (None, True, r"fit: epochs=True must be a positive whole number"),
        (None, "3", r"fit: epochs='3' must be a positive whole number"),
    ],
)
def test_a_total_is_one_positive_whole_number(steps: object, epochs: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunLength(steps, epochs)
