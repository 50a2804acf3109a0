"""C3: predict turns dropout off, unless it is baked in."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound
from trainloop.tasks.scenarios.predicting import SCENARIO
from trainloop.tasks.scenarios.scenario import over_seeds

PLAIN, BAKED, FOLLOWED = "stock predict", "stock predict, baked", "trainloop, baked, follow()"


def check_what_is_exact(measured: Mapping[str, Any]) -> None:
    for way in (PLAIN, FOLLOWED):
        assert measured[f"{way}: differ"] == 0
        assert measured[f"{way}: other answers"] == 0
    assert measured[f"{FOLLOWED}: loss"] == pytest.approx(measured[f"{PLAIN}: loss"], rel=1e-5)
    assert measured[f"{FOLLOWED}: accuracy"] == measured[f"{PLAIN}: accuracy"]
    assert measured["trainloop, baked: refused"] == 2  # both dropouts are named


def test_predict_obeys_unless_dropout_is_baked_in():
    """One seed, one epoch: hardly trained, so that nearly every answer changes with the mask."""
    measured = SCENARIO.measure(0, 1)
    check_what_is_exact(measured)
    assert measured[f"{BAKED}: differ"] > 0.1
    assert measured[f"{BAKED}: other answers"] > 0.1
    assert "PhaseError, 2 layers named" in SCENARIO.report([measured]).table()


@pytest.mark.scenarios
def test_over_five_seeds():
    """Sizes are at most two thirds of the bounds that were measured."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_what_is_exact(each)
    assert lower_bound(over_seeds(measured, f"{BAKED}: other answers")) > 0.08
    for name, sign, size in (("loss", 1, 0.08), ("accuracy", -1, 0.035)):
        costs = over_seeds(measured, f"{BAKED}: {name}") - over_seeds(measured, f"{PLAIN}: {name}")
        assert lower_bound(sign * costs) > size
