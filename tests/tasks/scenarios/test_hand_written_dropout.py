"""C5: mask / (1 - p) is what the layer does, and half of a right way is a wrong one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.hand_written_dropout import RATES, SCENARIO, VARIANTS, inverted_dropout
from trainloop.tasks.scenarios.scenario import over_seeds

INVERTED, CLASSIC, UNSCALED, TWICE = VARIANTS
MEANS = {INVERTED: 1.0, CLASSIC: 1.0, UNSCALED: 2.0, TWICE: 0.5}


def check_values(measured: Mapping[str, Any]) -> None:
    for rate in RATES:
        assert measured[f"{rate} off"] <= 1.5 * np.finfo(np.float32).eps


def test_the_reference_on_a_given_mask():
    x, mask = np.array([2.0, -3.0, 5.0]), np.array([1, 1, 0])
    assert inverted_dropout(x, mask, 0.75).tolist() == [8.0, -12.0, 0.0]
    assert inverted_dropout(x, np.ones(3), 0.0).tolist() == x.tolist()


def test_the_layer_is_the_reference():
    """One seed, one epoch. The mean of dropped pixels is over 40,000 of them, that of units over 46,000."""
    measured = SCENARIO.measure(0, 1)
    check_values(measured)
    for rate in RATES:
        assert measured[f"{rate} mean"] == pytest.approx(1.0, abs=0.05)
    for name, mean in MEANS.items():
        assert measured[f"{name}: mean ratio"] == pytest.approx(mean, rel=0.05)
    assert SCENARIO.report([measured]).rows[2][:2] == [UNSCALED, "no"]


@pytest.mark.scenarios
def test_over_five_seeds():
    """The means are preserved to within 4 %; scaling twice costs the loss, and hardly an answer."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        check_values(each)
    for rate in RATES:
        means = over_seeds(measured, f"{rate} mean")
        assert 0.96 < lower_bound(means) < upper_bound(means) < 1.04
    for name, mean in MEANS.items():
        ratios = over_seeds(measured, f"{name}: mean ratio") / mean
        assert 0.96 < lower_bound(ratios) < upper_bound(ratios) < 1.04
    assert lower_bound(over_seeds(measured, f"{TWICE}: loss") - over_seeds(measured, f"{INVERTED}: loss")) > 0.55
    # Doubled and halved activations give nearly the same answers: what suffers is the loss.
    answers = over_seeds(measured, f"{TWICE}: accuracy") - over_seeds(measured, f"{INVERTED}: accuracy")
    assert upper_bound(np.abs(answers)) < 0.02
