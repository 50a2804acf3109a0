"""D2: the order of dropout and activation is no matter for ReLU, and one for the rest."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound
from trainloop.tasks.scenarios.dropout_and_activation import SCENARIO, measure_activation
from trainloop.tasks.scenarios.scenario import over_seeds


def check_relu(measured: Mapping[str, Any]) -> None:
    for name in ("largest difference", "dropped, not zero", "mean off", "weights that differ"):
        assert measured[f"relu: {name}"] == 0
    assert measured["relu: dropout before: loss"] == measured["relu: dropout after: loss"]


def check_sigmoid(measured: Mapping[str, Any]) -> None:
    assert measured["sigmoid: dropped, not zero"] == 1  # all of them put out 0.5
    assert measured["sigmoid: largest difference"] > 0.4
    assert measured["sigmoid: weights that differ"] == 6


@pytest.mark.parametrize(("activation", "check"), [("relu", check_relu), ("sigmoid", check_sigmoid)])
def test_values_and_weights_of_both_orders(activation, check):
    """One seed, one epoch."""
    check(measure_activation(activation, 0, 1))


@pytest.mark.scenarios
def test_over_five_seeds():
    """ReLU to the bit in each seed; what is off for tanh, and the difference in the loss, by the margin."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_relu(each)
        check_sigmoid(each)
        assert each["tanh: dropped, not zero"] == 0
        assert each["tanh: weights that differ"] == 6
    assert lower_bound(over_seeds(measured, "tanh: mean off")) > 0.03
    for activation, size in (("tanh", 0.004), ("sigmoid", 0.2)):
        before, after = f"{activation}: dropout before: loss", f"{activation}: dropout after: loss"
        assert lower_bound(over_seeds(measured, after) - over_seeds(measured, before)) > size
