"""A3 and B2: a Dropout layer has neither a memory nor a switch."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.stateless_dropout import MEMORY, SAID, TRAINABLE_FLAG


def check_what_is_exact(measured):
    for last in SAID:
        for now in SAID:
            assert (measured[f"{now} after {last}"] > 0.45) == (now == "training=True")
            assert now == "training=True" or measured[f"{now} after {last}"] == 0
    assert measured["variables"] == 0
    assert measured["attributes changed"] == 0


def test_a_call_leaves_nothing_behind():
    measured = MEMORY.measure(0, 0)
    check_what_is_exact(measured)
    assert "the layer has 0 variables, and 0 of its attributes changed" in MEMORY.report([measured]).conclusion


@pytest.mark.scenarios
def test_the_call_before_makes_no_difference_over_five_seeds():
    """With training=True the share is the rate to within 0.03, whatever was said before."""
    measured = [MEMORY.measure(seed, 0) for seed in range(5)]
    for each in measured:
        check_what_is_exact(each)
    for last in SAID:
        found = [float(each[f"training=True after {last}"]) for each in measured]
        assert lower_bound(found) > 0.47
        assert upper_bound(found) < 0.53


def test_trainable_switches_nothing():
    """One seed. A loss of dropout is over 10^5 values: 0.1 is some ten times its spread."""
    measured = TRAINABLE_FLAG.measure(0, 0)
    for trainable in (True, False):
        assert measured[f"{trainable}: evaluate"] == pytest.approx(1, abs=1e-5)
        assert measured[f"{trainable}: fit"] == pytest.approx(2, abs=0.1)
        assert measured[f"{trainable}: named by audit"] == (not trainable)
    assert TRAINABLE_FLAG.report([measured]).rows[1][-1] == "lint: trainable-ignored"


@pytest.mark.scenarios
def test_trainable_switches_nothing_over_five_seeds():
    """Both values leave the loss of evaluate without dropout, and that of fit twice as large, to within 0.1."""
    measured = [TRAINABLE_FLAG.measure(seed, 0) for seed in range(5)]
    for trainable in (True, False):
        off, on = ([float(each[f"{trainable}: {call}"]) for each in measured] for call in ("evaluate", "fit"))
        assert off == pytest.approx([1] * 5, abs=1e-5)
        assert lower_bound(on) > 1.9
        assert upper_bound(on) < 2.1
