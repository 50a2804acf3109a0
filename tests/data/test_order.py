"""The order of the rows in an epoch: a permutation, another one each epoch, that can be had from any place on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainloop.data import order
from trainloop.data.order import InOrder, Order

MANY = order._DRAWN_WHOLE + 1  # rows whose order is not drawn as a whole
seeds = st.integers(0, 2**63 - 1)


@given(rows=st.integers(1, 50), seed=seeds, epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    assert sorted(Order(rows, seed, epoch).between(0, rows)) == list(range(rows))


@pytest.mark.parametrize("rows", [MANY, 2**18, 3**11, 400**2, 199_999])
def test_an_epoch_of_many_rows_is_a_permutation(rows: int) -> None:
    found = Order(rows, 1, 2).between(0, rows)
    assert (np.bincount(found, minlength=rows) == 1).all()
    assert len(found) == rows


@given(rows=st.integers(1, 60), seed=seeds)
def test_what_is_drawn_without_being_written_down_is_a_permutation_of_any_number_of_rows(rows: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(order, "_DRAWN_WHOLE", 0)
        assert sorted(Order(rows, seed, 0).between(0, rows)) == list(range(rows))


@pytest.mark.parametrize("rows", [50, MANY, 10**7])
def test_each_of_thousands_of_pairs_of_seed_and_epoch_has_an_order_of_its_own(rows: int) -> None:
    """The numbers that are next to each other are the hard ones, and those with the same sum or bits."""
    pairs = [(seed, epoch) for seed in range(60) for epoch in range(60)] + [(2**62 + k, 2**40) for k in range(400)]
    assert len({Order(rows, *pair).between(0, 30).tobytes() for pair in pairs}) == len(pairs) == 4000


@pytest.mark.parametrize("rows", [40, MANY, 10**12])
def test_any_stretch_of_an_order_is_what_stands_there(rows: int) -> None:
    there = Order(rows, 3, 4)
    whole = there.between(rows - 40, rows)
    np.testing.assert_array_equal(np.concatenate([there.between(p, p + 1) for p in range(rows - 40, rows)]), whole)
    np.testing.assert_array_equal(there.between(rows - 5, rows + 9), whole[-5:])


@pytest.mark.parametrize("rows", [40, MANY])
def test_over_the_epochs_every_row_comes_everywhere(rows: int) -> None:
    """Chi-squared of where a row stands, and of what stands next to what, over 2000 epochs in 16 bins: about 15."""
    begins = np.array([Order(rows, 9, epoch).between(0, 2) for epoch in range(2000)])
    for drawn in (begins[:, 0], begins[:, 1], (begins[:, 1] - begins[:, 0]) % rows):
        counts, _ = np.histogram(drawn, 16, (0, rows))
        bins, _ = np.histogram(np.arange(rows), 16, (0, rows))
        expected = 2000 * bins / rows
        assert ((counts - expected) ** 2 / expected).sum() < 45  # one in 10,000 is above that


def test_neighbours_are_torn_apart() -> None:
    """Of 131,073 rows a random order leaves one pair next to each other in their old order."""
    found = Order(MANY, 5, 0).between(0, MANY)
    assert (np.diff(found) == 1).sum() < 10
    assert abs(np.corrcoef(found, np.arange(MANY))[0, 1]) < 0.01


def test_the_numbers_stay_what_they_are() -> None:
    """Where this fails, runs of an older version go on in another order."""
    assert Order(8, 1, 0).between(0, 8).tolist() == [0, 5, 4, 1, 2, 6, 3, 7]
    assert Order(10**9, 1, 0).between(0, 3).tolist() == [920710682, 171264084, 878877297]


def test_rows_in_order_are_counted() -> None:
    assert InOrder(10).between(3, 20).tolist() == [3, 4, 5, 6, 7, 8, 9]
