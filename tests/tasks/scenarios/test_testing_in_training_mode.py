"""B1: what testing in training mode costs, and what it overwrites."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.digits_models import ORDERS
from trainloop.tasks.scenarios.testing_in_training_mode import BATCH_SIZES, SCENARIO, measure_order

SMALL, LARGE = (f"training=True, batches of {size}" for size in BATCH_SIZES)
WITH_BATCH_NORM = ORDERS[1:]


def check_what_is_exact(measured, order):
    assert measured[f"{order}: EVAL: variables overwritten"] == 0
    assert measured[f"{order}: MC_PREDICT: variables overwritten"] == 0
    for way in (SMALL, LARGE):
        overwritten = measured[f"{order}: {way}: variables overwritten"]
        assert overwritten == (4 if order in WITH_BATCH_NORM else 0)  # mean and variance of two layers
        is_the_same = measured[f"{order}: {way}: loss of EVAL afterwards"] == measured[f"{order}: EVAL: loss"]
        assert is_the_same == (order not in WITH_BATCH_NORM)


def test_batch_norm_in_small_batches():
    """One seed, five epochs. Over seeds the loss differs by 0.5 and more with a spread of 0.05."""
    order = ORDERS[2]
    measured = measure_order(order, 0, 5)
    check_what_is_exact(measured, order)
    assert measured[f"{order}: {SMALL}: loss"] > measured[f"{order}: EVAL: loss"] + 0.2
    assert measured[f"{order}: {SMALL}: accuracy"] < measured[f"{order}: EVAL: accuracy"] - 0.05


@pytest.fixture(scope="module")
def measurements():
    return [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]


def differences(measurements, order, name, one, other):
    return [float(each[f"{order}: {one}: {name}"]) - float(each[f"{order}: {other}: {name}"]) for each in measurements]


@pytest.mark.scenarios
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_overwritten_in_each_of_five_seeds(measurements, order):
    for each in measurements:
        check_what_is_exact(each, order)


LEAST = {  # of the mean: rise of the loss in nats and fall of the accuracy, in batches of 8 and of 64
    ORDERS[0]: {SMALL: (0.065, 0.018), LARGE: (0.065, 0.018)},
    ORDERS[1]: {SMALL: (0.27, 0.078), LARGE: (0.08, 0.021)},
    ORDERS[2]: {SMALL: (0.29, 0.08), LARGE: (0.095, 0.022)},
}


@pytest.mark.scenarios
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("way", [SMALL, LARGE])
def test_what_it_costs_over_five_seeds(measurements, order, way):
    loss, accuracy = LEAST[order][way]
    assert lower_bound(differences(measurements, order, "loss", way, "EVAL")) > loss
    assert lower_bound(differences(measurements, order, "accuracy", "EVAL", way)) > accuracy


@pytest.mark.scenarios
@pytest.mark.parametrize("order", WITH_BATCH_NORM)
def test_small_batches_are_worse_with_batch_norm(measurements, order):
    assert lower_bound(differences(measurements, order, "loss", SMALL, LARGE)) > 0.15


@pytest.mark.scenarios
@pytest.mark.parametrize("order", ORDERS)
def test_mc_predict_keeps_the_accuracy(measurements, order):
    """The mean accuracy is that of EVAL to within 0.025, where a single mask loses more than that."""
    lost = differences(measurements, order, "accuracy", "EVAL", "MC_PREDICT")
    assert upper_bound(lost) < 0.025
    assert lower_bound(lost) > -0.025
