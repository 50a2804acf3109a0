"""The margin by which the scenarios' tests hold what they claim."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

CONFIDENCE = 0.999


def lower_bound(values: Sequence[float] | np.ndarray) -> float:
    """Returns the lower confidence bound of the mean of which the values, one for each seed, are a sample.

    It is Student's, one-sided, at 99.9 %: mean - t * std / sqrt(n). Where the values of other seeds would scatter about
    their mean as a normal distribution does, a test that wants `lower_bound(values) > size` passes with a probability
    of at most 0.1 % if the true mean is `size` or less: no lucky draw of seeds passes. The sizes in the tests are at
    most two thirds of the bound that was measured, so that no unlucky one fails.

    Args:
      values: At least five.
    """
    assert len(values) >= 5, f"{len(values)} seeds are too few for the margin"
    values = np.asarray(values, np.float64)
    quantile = stats.t.ppf(CONFIDENCE, len(values) - 1)
    return float(values.mean() - quantile * values.std(ddof=1) / np.sqrt(len(values)))


def upper_bound(values: Sequence[float] | np.ndarray) -> float:
    """Returns the upper confidence bound of the mean, as `lower_bound` does the lower one."""
    return -lower_bound(-np.asarray(values, np.float64))
