"""A2: nothing has to be done after an inference."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.recompiling import RECIPES, SCENARIO


def check_what_is_exact(measured: Mapping[str, Any]) -> None:
    assert all(measured[recipe] == 1 for recipe in RECIPES)
    assert measured["stock evaluate"] == pytest.approx(1, abs=1e-5)
    assert measured["dropped in EVAL"] == 0
    assert measured["variables whose bits differ"] == 0
    assert measured["variables"] > 20
    assert measured["traces after the first round"] == 0


def test_the_recipes_fail_and_nobody_needs_them():
    """One seed. A loss of dropout is over 10^5 values: 0.1 is some ten times its spread."""
    measured = SCENARIO.measure(0, 2)
    check_what_is_exact(measured)
    assert measured["inferences"] == 3
    assert measured["stock fit"] == pytest.approx(2, abs=0.1)
    assert measured["stock fit again"] == pytest.approx(2, abs=0.1)
    assert measured["dropped in TRAIN, before"] == pytest.approx(0.5, abs=0.03)
    assert measured["dropped in TRAIN, after"] == pytest.approx(0.5, abs=0.03)
    assert "5 of 5 recipes raise TypeError" in SCENARIO.report([measured]).conclusion


@pytest.mark.scenarios
def test_over_five_seeds():
    """Dropout is on after the inference as before it: twice the loss to within 0.1, half of the pixels to 0.01."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_what_is_exact(each)
    for name, expected, size in (
        ("stock fit", 2, 0.1),
        ("stock fit again", 2, 0.1),
        ("dropped in TRAIN, before", 0.5, 0.01),
        ("dropped in TRAIN, after", 0.5, 0.01),
    ):
        found = [float(each[name]) for each in measured]
        assert lower_bound(found) > expected - size
        assert upper_bound(found) < expected + size
