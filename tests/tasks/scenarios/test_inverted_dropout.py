"""B3: the factors of a Dropout layer."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.inverted_dropout import RATES, SCENARIO


def check_what_is_exact(measured, rate):
    assert measured[f"{rate} changed at inference"] == 0
    assert measured[f"{rate} farthest from 1/(1-rate)"] < 1e-6 / (1 - rate)  # a few units in the last place of float32


@pytest.mark.parametrize("rate", RATES)
def test_the_factors_of_one_seed(rate):
    """The shares are over 40,000 pixels: 0.02 is six times their spread at least."""
    measured = SCENARIO.measure(0, 0)
    check_what_is_exact(measured, rate)
    assert measured[f"{rate} dropped"] == pytest.approx(rate, abs=0.02)


@pytest.mark.scenarios
@pytest.mark.parametrize("rate", RATES)
def test_the_mean_is_kept_over_five_seeds(rate):
    """The mean factor in training is 1 to within 0.05, where without the scaling it would be 1 - rate."""
    measured = [SCENARIO.measure(seed, 0) for seed in range(5)]
    for each in measured:
        check_what_is_exact(each, rate)
    means = [float(each[f"{rate} mean factor"]) for each in measured]
    assert lower_bound(means) > 0.95
    assert upper_bound(means) < 1.05
