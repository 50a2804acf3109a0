"""B4: one image, many masks."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.one_sample import ORDERS, SAMPLES, SCENARIO, measure_order

DROPOUT, BATCH_NORM = ORDERS


def check_what_is_exact(measured, order):
    assert measured[f"{order}: PREDICT differs"] == 0
    assert measured[f"{order}: loop overwrites"] == (4 if order == BATCH_NORM else 0)
    assert measured[f"{order}: MC_PREDICT"].shape == (SAMPLES,)


def test_an_image_alone_in_its_batch():
    """One seed, two epochs: batch norm in the loop leaves less than a tenth of MC_PREDICT's spread."""
    measured = {f"{BATCH_NORM}: {name}": value for name, value in measure_order(BATCH_NORM, 0, 2).items()}
    check_what_is_exact(measured, BATCH_NORM)
    assert measured[f"{BATCH_NORM}: MC_PREDICT std"] > 0.05
    assert measured[f"{BATCH_NORM}: loop std"] < 0.1 * measured[f"{BATCH_NORM}: MC_PREDICT std"]


@pytest.mark.scenarios
def test_over_five_seeds():
    """The spread is large; the loop has that of MC_PREDICT for dropout alone, and next to none with batch norm."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]

    def of(order, name):
        return [float(each[f"{order}: {name}"]) for each in measured]

    for order in ORDERS:
        for each in measured:
            check_what_is_exact(each, order)
        assert lower_bound(of(order, "MC_PREDICT std")) > 0.1
        assert lower_bound(of(order, "classes")) > 2
    for name, size in (("mean", 0.06), ("std", 0.04)):
        pairs = zip(of(DROPOUT, f"loop {name}"), of(DROPOUT, f"MC_PREDICT {name}"), strict=True)
        apart = [one - other for one, other in pairs]
        assert upper_bound(apart) < size
        assert lower_bound(apart) > -size
    assert upper_bound(of(BATCH_NORM, "loop std")) < 0.05
    assert upper_bound([abs(mean - 0.1) for mean in of(BATCH_NORM, "loop mean")]) < 0.05
