"""Draws for one's own code (a VAE's sample, mixup): keyed like all others of a step, and *declared*.

What is declared is allowed in every phase, where a forgotten `tf.random.normal` is a violation. Outside of a step these
functions draw as TensorFlow's of the same names do.

In a Trainer's step every draw, whoever makes it, is a function of where it stands, so that no state of a generator need
be kept. It depends on the run's seed, the phase, the position of the draw in the
trace, the counters of the loops around it, the place of the batch, and the replica: on nothing else (a `seed=` of the
draw's own is not looked at). So the numbers are the same in any chunk length, after a resume, and when the step runs
eagerly. Eagerly they are others only where other code runs: where AutoGraph makes an op of a Python `for` or `if`, and
in recurrent cells, for which Keras draws a mask once eagerly and in each time step when compiled.
"""

from __future__ import annotations

import contextlib
from typing import Any

import tensorflow as tf

from trainloop import tracing

__all__ = [
    "bernoulli",
    "categorical",
    "gamma",
    "key",
    "normal",
    "poisson",
    "shuffle",
    "truncated_normal",
    "uniform",
]


def uniform(shape: Any, minval: Any = 0, maxval: Any = None, dtype: Any = tf.float32) -> tf.Tensor:
    """Draws from a uniform distribution over `[minval, maxval)`.

    Args:
      shape: The shape of the result.
      minval: The lower bound.
      maxval: The upper bound; 1 by default where `dtype` is a floating type, else it must be given.
      dtype: The type of the result.

    Example:
      >>> import tensorflow as tf
      >>> from trainloop import random
      >>> random.uniform([3, 2], maxval=10, dtype=tf.int32).shape
      TensorShape([3, 2])
    """
    with _declaring():
        return tf.random.uniform(shape, minval, maxval, dtype)


def normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32) -> tf.Tensor:
    """Draws from a normal distribution.

    Args:
      shape: The shape of the result.
      mean: The mean; broadcast to `shape`.
      stddev: The standard deviation; broadcast to `shape`.
      dtype: The type of the result.

    Example:
      The sample of a variational autoencoder:

      >>> import tensorflow as tf
      >>> from trainloop import random
      >>> mean, log_variance = tf.zeros([8, 2]), tf.zeros([8, 2])
      >>> sample = mean + tf.exp(0.5 * log_variance) * random.normal(tf.shape(mean))
      >>> sample.shape
      TensorShape([8, 2])
    """
    with _declaring():
        return tf.random.normal(shape, mean, stddev, dtype)


def truncated_normal(shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = tf.float32) -> tf.Tensor:
    """Draws from a normal distribution without what lies more than two standard deviations from the mean.

    Args:
      shape: The shape of the result.
      mean: The mean; broadcast to `shape`.
      stddev: The standard deviation before truncation; broadcast to `shape`.
      dtype: The type of the result.
    """
    with _declaring():
        return tf.random.truncated_normal(shape, mean, stddev, dtype)


def bernoulli(shape: Any, probability: Any = 0.5) -> tf.Tensor:
    """Draws booleans that are True with a probability.

    Args:
      shape: The shape of the result.
      probability: Of True, from 0 to 1; broadcast to `shape`.

    Example:
      A CutMix or a mixup for about half of the images:

      >>> from trainloop import random
      >>> random.bernoulli([8, 1, 1, 1]).dtype
      tf.bool
    """
    with _declaring():
        return tf.random.uniform(shape) < probability


def categorical(logits: Any, num_samples: Any, dtype: Any = tf.int64) -> tf.Tensor:
    """Draws from categorical distributions.

    Args:
      logits: Unnormalised log-probabilities, shape `[batch, classes]`.
      num_samples: How many samples to draw for each row.
      dtype: `tf.int32` or `tf.int64`.

    Returns:
      The drawn classes, shape `[batch, num_samples]`.
    """
    with _declaring():
        return tf.random.categorical(logits, num_samples, dtype)


def gamma(shape: Any, alpha: Any, beta: Any = None, dtype: Any = tf.float32) -> tf.Tensor:
    """Draws from gamma distributions; differentiable in `alpha` and `beta`.

    Args:
      shape: The shape of what is drawn for each pair of parameters.
      alpha: The shape parameter.
      beta: The inverse scale; 1 by default.
      dtype: The type of the result.

    Returns:
      The draws, of shape `shape + tf.shape(alpha + beta)`.

    Example:
      The share of mixup, which is Beta(0.2, 0.2):

      >>> from trainloop import random
      >>> one, other = random.gamma([2, 16], 0.2)
      >>> share = one / (one + other)
    """
    with _declaring():
        return tf.random.gamma(shape, alpha, beta, dtype)


def poisson(shape: Any, lam: Any, dtype: Any = tf.float32) -> tf.Tensor:
    """Draws from Poisson distributions.

    Args:
      shape: The shape of what is drawn for each rate.
      lam: The rates.
      dtype: The type of the result.

    Returns:
      The draws, of shape `shape + tf.shape(lam)`.
    """
    with _declaring():
        return tf.random.poisson(shape, lam, dtype)


def shuffle(value: Any) -> tf.Tensor:
    """Returns a tensor with its rows in random order.

    Args:
      value: A tensor of at least one dimension.
    """
    with _declaring():
        return tf.random.shuffle(value)


def key() -> tf.Tensor:
    """Returns a key for one stateless draw of TensorFlow: int64, shape `[2]`.

    Any `tf.random.stateless_*` or `tf.image.stateless_*` function takes it as `seed=`; what is drawn with it is
    declared too. Two calls that are to draw the same numbers (one crop of an image and of its mask) share one key.

    Example:
      >>> import tensorflow as tf
      >>> from trainloop import random
      >>> images = tf.zeros([4, 8, 8, 3])
      >>> tf.image.stateless_random_crop(images, [4, 6, 6, 3], seed=random.key()).shape
      TensorShape([4, 6, 6, 3])
    """
    with _declaring():
        return tf.random.uniform([2], tf.int64.min, tf.int64.max, tf.int64)


def _declaring() -> contextlib.AbstractContextManager[None]:
    trace = tracing.current()
    return contextlib.nullcontext() if trace is None else trace.declaring()
