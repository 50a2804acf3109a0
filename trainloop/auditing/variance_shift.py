"""What dropout does to the variance that a batch normalization behind it has learnt.

Dropout with keep probability p turns a unit x into a x / p, where a is 1 with probability p and else 0. Its mean stays;
its variance, with c the mean of x and v its variance, becomes (c² + v) / p - c². Batch normalization keeps that one for
later; when the dropout is off, the variance is v again.

References:
  Li, Chen, Hu and Yang, Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift, CVPR
  2019.
"""

from __future__ import annotations

import math

REFERENCE = (
    "Li, Chen, Hu and Yang 2019, Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift"
)

# Mean and variance of max(0, z), where z is normal with mean 0 and variance 1.
RECTIFIED = (1 / math.sqrt(2 * math.pi), 0.5 - 1 / (2 * math.pi))
CENTRED = (0.0, 1.0)


def variance_ratio(rate: float, mean: float, variance: float) -> float:
    """Returns the variance of a unit behind dropout in evaluation, over its variance in training.

    The same number holds behind one linear layer, a sum of w x over units, if the units are uncorrelated and have this
    mean and variance in common: both variances are then those of one unit times the sum of w². Correlated units bring
    it nearer to 1, since what they share is not dropped at once.

    Args:
      rate: The share of units that is dropped; under Gaussian dropout, whose factor has the same variance, its `rate`.
      mean: Mean of the unit before dropout.
      variance: Its variance.

    Example:
      >>> variance_ratio(0.5, mean=0.0, variance=1.0)
      0.5
      >>> round(variance_ratio(0.5, *RECTIFIED), 3)
      0.405
    """
    keep = 1.0 - rate
    return variance / ((mean**2 + variance) / keep - mean**2)
