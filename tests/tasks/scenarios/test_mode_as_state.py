"""C4: a mode that is state is forgotten or undone, a phase is not."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound
from trainloop.tasks.scenarios.mode_as_state import HABITS, SCENARIO
from trainloop.tasks.scenarios.scenario import over_seeds

GOOD, FORGOTTEN, UNDONE, LEFT, PHASE = HABITS


def check_each_habit(measured: Mapping[str, Any]) -> None:
    """The shares are counted over more than 10^4 units: 0.03 is five times their spread."""
    half = pytest.approx(0.5, abs=0.03)
    assert {habit: (measured[f"{habit}: dropped"], measured[f"{habit}: dropped next"]) for habit in HABITS} == {
        GOOD: (0, half),
        FORGOTTEN: (half, half),
        UNDONE: (half, half),
        LEFT: (0, 0),
        PHASE: (0, half),
    }
    assert measured[f"{PHASE}: loss"] == measured[f"{LEFT}: loss"] == measured[f"{GOOD}: loss"]


def test_each_habit_drops_where_it_says():
    """One seed, one epoch."""
    measured = SCENARIO.measure(0, 1)
    check_each_habit(measured)
    assert "with train() forgotten the next step drops 0.000 of the units" in SCENARIO.report([measured]).conclusion


@pytest.mark.scenarios
def test_over_five_seeds():
    """What drops, in each seed; what a forgotten or undone mode costs the test, by the margin."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_each_habit(each)
    for habit in (FORGOTTEN, UNDONE):
        for name, sign, size in (("loss", 1, 0.06), ("accuracy", -1, 0.007)):
            costs = over_seeds(measured, f"{habit}: {name}") - over_seeds(measured, f"{GOOD}: {name}")
            assert lower_bound(sign * costs) > size
