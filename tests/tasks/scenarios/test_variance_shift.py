"""D1: the variance that batch norm learns behind dropout is the predicted multiple of that at inference."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.digits_models import ORDERS
from trainloop.tasks.scenarios.scenario import over_seeds
from trainloop.tasks.scenarios.variance_shift import INPUTS, KEEPS, SCENARIO, shift

HIDDEN, RECTIFIED, CENTRED = INPUTS
AFTER, BEFORE = ORDERS[1:]
# Li et al. 2019, for a rectified normal; for a mean of zero it is the keep probability.
OF_RECTIFIED = dict(zip(KEEPS, (0.860, 0.614, 0.405, 0.226), strict=True))


def test_batch_norm_learns_the_predicted_variance():
    """Random numbers, some 5 x 10^5 of them: a few per mille of spread."""
    normal = np.random.default_rng(0).normal(size=[4096, 128]).astype(np.float32)
    for keep in KEEPS:
        for units, ratio in ((np.maximum(normal, 0.0), OF_RECTIFIED[keep]), (normal, keep)):
            found = shift(units, keep)
            assert found["measured"] == pytest.approx(ratio, rel=0.03)
            assert found["predicted"] == pytest.approx(ratio, rel=0.01)
            assert found["std"] == pytest.approx(ratio**0.5, rel=0.03)


def check_the_lint(measured: Mapping[str, Any]) -> None:
    assert measured["lints"] == 2  # one in each of the two hidden layers
    assert measured["lint: predicted_ratio"] == pytest.approx(0.226, abs=0.001)
    assert measured["lint: measured_ratio"] < 0.3


@pytest.mark.scenarios
def test_over_five_seeds():
    """Each ratio to within 6 % of its prediction; the cost of the order, and what UPDATE_BN gets back of it."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_the_lint(each)

    def of(name: str) -> np.ndarray:
        return over_seeds(measured, name)

    for name in INPUTS:
        for keep in KEEPS:
            relative = of(f"{name}, {keep}: measured") / over_seeds(measured, f"{name}, {keep}: predicted")
            assert 0.94 < lower_bound(relative) < upper_bound(relative) < 1.06
    assert lower_bound(of(f"{BEFORE}: loss") - of(f"{AFTER}: loss")) > 0.1
    assert lower_bound(of(f"{AFTER}: accuracy") - of(f"{BEFORE}: accuracy")) > 0.0015
    assert lower_bound(of(f"{BEFORE}: loss") - of(f"{BEFORE}, UPDATE_BN: loss")) > 0.2
