"""D3: UPDATE_BN puts the statistics right, and helps the loss where they were far off."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.recalibrated_batch_norm import RATES, SCENARIO, STAGES, gain, measure_rate
from trainloop.tasks.scenarios.scenario import over_seeds

EARLY, LATE = STAGES
# The mean ratio before UPDATE_BN, at most: two thirds of the way from 1 to what was measured.
BEFORE = {0.3: 0.68, 0.5: 0.53, 0.7: 0.41}


def check_what_is_written(measured: Mapping[str, Any], rate: float) -> None:
    for stage in STAGES:
        assert measured[f"{rate}, {stage}: other weights changed"] == 0
        assert measured[f"{rate}, {stage}: statistics changed"] == 4  # mean and variance of two layers


def test_statistics_are_put_right_at_a_high_rate():
    """One seed, two epochs and eight; over seeds the ratio spreads by 0.01."""
    measured = measure_rate(0.7, 0, 2)
    check_what_is_written(measured, 0.7)
    for stage in STAGES:
        assert float(measured[f"0.7, {stage}: before: ratio"]) < 0.3
        assert measured[f"0.7, {stage}: after: ratio"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.scenarios
def test_over_five_seeds():
    """The ratio is near 1 afterwards; the loss gains early, much at a high rate, and loses late at a low one."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]

    for rate in RATES:
        for each in measured:
            check_what_is_written(each, rate)
        for stage in STAGES:
            assert upper_bound(over_seeds(measured, f"{rate}, {stage}: before: ratio")) < BEFORE[rate]
            after = over_seeds(measured, f"{rate}, {stage}: after: ratio")
            assert 0.9 < lower_bound(after) < upper_bound(after) < 1.1
    assert lower_bound(gain(measured, 0.7, EARLY)) > 0.2
    assert lower_bound(gain(measured, 0.5, EARLY)) > 0.015
    assert upper_bound(gain(measured, 0.5, LATE)) < -0.0015
    assert upper_bound(gain(measured, 0.3, LATE)) < -0.003
