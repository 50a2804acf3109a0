"""D4: a rate that is too high underfits, one that is too low does nothing."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.dropout_rate import SCENARIO, measure_rate
from trainloop.tasks.scenarios.scenario import over_seeds


def test_a_high_rate_underfits():
    """One seed, 20 epochs, in which no rate can have been learnt by heart."""
    without, high = measure_rate(0.0, 0, 20), measure_rate(0.8, 0, 20)
    assert high["0.8: train loss"] > without["0.0: train loss"] + 0.5
    assert high["0.8: validation loss"] > without["0.0: validation loss"] + 0.3


@pytest.mark.scenarios
def test_over_five_seeds():
    """Train and validation loss of the same seed and images are compared between rates."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]

    # Without dropout the images are learnt by heart, and others are not.
    assert upper_bound(over_seeds(measured, "0.0: train loss")) < 0.005
    assert lower_bound(over_seeds(measured, "0.0: validation loss")) > 0.16
    # Too low: as without, to within 0.045 nats.
    little = over_seeds(measured, "0.05: validation loss") - over_seeds(measured, "0.0: validation loss")
    assert -0.045 < lower_bound(little) < upper_bound(little) < 0.045
    # Too high: worse on the very images that were trained on, and on others.
    assert lower_bound(over_seeds(measured, "0.8: train loss") - over_seeds(measured, "0.0: train loss")) > 0.11
    for rate, size in ((0.0, 0.039), (0.6, 0.05)):
        costs = over_seeds(measured, "0.8: validation loss") - over_seeds(measured, f"{rate}: validation loss")
        assert lower_bound(costs) > size
