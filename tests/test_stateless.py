"""Each stateful draw of TensorFlow has a stateless one that takes its place: same distribution, shape and gradient."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import random_ops

from tests.drawing import Counting, compiled, drawn
from trainloop import draws

N = 20_000
STATEFUL = {
    "RandomUniform",
    "RandomUniformInt",
    "RandomStandardNormal",
    "TruncatedNormal",
    "ParameterizedTruncatedNormal",
    "Multinomial",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomShuffle",
    "StatefulRandomBinomial",
    "SampleDistortedBoundingBoxV2",
    "RngReadAndSkip",
}


GENERATOR = tf.random.Generator.from_seed(1)
PROBABILITIES = np.array([0.1, 0.2, 0.7])
MAKES = {  # a function that draws, the op it would make, and the mean and variance of what it draws
    "uniform": (lambda: tf.random.uniform([N], 1.0, 3.0), "RandomUniform", 2.0, 1 / 3),
    "uniform_half": (lambda: tf.random.uniform([N], dtype=tf.float16), "RandomUniform", 0.5, 1 / 12),
    "uniform_double": (lambda: tf.random.uniform([N], dtype=tf.float64), "RandomUniform", 0.5, 1 / 12),
    "uniform_int": (lambda: tf.random.uniform([N], 0, 5, tf.int32), "RandomUniformInt", 2.0, 2.0),
    "normal": (lambda: tf.random.normal([N], 1.0, 2.0), "RandomStandardNormal", 1.0, 4.0),
    "truncated_normal": (lambda: tf.random.truncated_normal([N]), "TruncatedNormal", 0.0, 0.7737),
    "categorical": (
        lambda: tf.random.categorical(np.log(PROBABILITIES)[None], N),
        "Multinomial",
        PROBABILITIES @ [0, 1, 2],
        PROBABILITIES @ [0, 1, 4] - (PROBABILITIES @ [0, 1, 2]) ** 2,
    ),
    "gamma": (lambda: tf.random.gamma([N], 3.0, 2.0), "RandomGamma", 1.5, 0.75),
    "poisson": (lambda: tf.random.poisson([N], 4.0), "RandomPoissonV2", 4.0, 4.0),
    "parameterized": (
        lambda: random_ops.parameterized_truncated_normal([N], 1.0, 1.0, -1.0, 3.0),
        "ParameterizedTruncatedNormal",
        1.0,
        0.7737,
    ),
    "generator_normal": (lambda: GENERATOR.normal([N]), "RngReadAndSkip", 0.0, 1.0),
    "generator_binomial": (lambda: GENERATOR.binomial([N], 10.0, 0.5), "StatefulRandomBinomial", 5.0, 2.5),
}
ALL = {
    **{name: make for name, (make, *_) in MAKES.items()},
    "gamma_of_many": lambda: tf.random.gamma([5], [[1.0, 2.0, 3.0]], [2.0]),
    "poisson_of_many": lambda: tf.random.poisson([5], [[1.0, 2.0, 3.0]]),
    "shuffle": lambda: tf.random.shuffle(tf.reshape(tf.range(60), [30, 2])),
    "unknown_shape": lambda: tf.random.uniform(tf.shape(tf.ones([tf.random.uniform([], 3, 4, tf.int32), 2]))),
    "parameterized_of_many": lambda: random_ops.parameterized_truncated_normal([2, 3, 4], [0.0, 9.0], 1.0),
    "dropout": lambda: tf.nn.dropout(tf.ones([40]), 0.5),
    "image": lambda: tf.image.random_crop(tf.reshape(tf.range(30_000), [100, 100, 3]), [2, 2, 3]),
    "bounding_box": lambda: tf.image.sample_distorted_bounding_box([9, 9, 3], [[[0.1, 0.2, 0.5, 0.9]]]).begin,
    "full_int": lambda: GENERATOR.uniform_full_int([3]),
    "generator_int": lambda: GENERATOR.uniform([30], 0, 1000, tf.int32),
    "generator_truncated": lambda: GENERATOR.truncated_normal([3]),
    "make_seeds": lambda: GENERATOR.make_seeds(3),
}


@pytest.mark.parametrize("name", ALL)
def test_a_draw_becomes_a_stateless_one(name: str) -> None:
    make = ALL[name]
    stock = tf.function(make, autograph=False).get_concrete_function()
    assert {op.type for op in stock.graph.get_operations()} & STATEFUL, "this draw is not a stateful one at all"
    values, ops = compiled(make)
    assert not ops & STATEFUL
    assert values.dtype == stock.output_dtypes.as_numpy_dtype
    assert stock.output_shapes.is_compatible_with(values.shape)
    np.testing.assert_array_equal(values, compiled(make)[0])
    np.testing.assert_array_equal(values, drawn(make))
    others = [{"place": 4}, {"first": 9}, {"counters": (0,)}, {"counters": (1,)}, {"counters": (0, 1)}]
    seen = [values, *(drawn(make, Counting(**other)) for other in others)]
    if name != "unknown_shape":  # its draw of a size is always 3
        assert len({each.tobytes() for each in seen}) == 6, "the numbers do not follow the key"


@pytest.mark.parametrize("name", MAKES)
def test_the_distribution_is_the_same(name: str) -> None:
    make, op, mean, variance = MAKES[name]
    handler = Counting()
    values = drawn(make, handler).astype(np.float64)
    assert handler.ops == [op]
    five_deviations = 5 * np.sqrt(variance / N)
    assert abs(values.mean() - mean) < five_deviations
    assert abs(values.var() / variance - 1) < 0.1


def test_a_parameter_for_each_row_is_the_parameter_of_that_row() -> None:
    values = drawn(lambda: random_ops.parameterized_truncated_normal([2, 3, 400], [0.0, 9.0], 1.0, [-2.0, 7.0], 11.0))
    assert values[0].max() < 11 - 4
    assert values[1].min() >= 7
    assert abs(values[0].mean()) < 0.2
    assert abs(values[1].mean() - 9) < 0.2


def test_a_shuffle_is_a_permutation_of_the_rows() -> None:
    rows = tf.reshape(tf.range(60), [30, 2])
    shuffled = drawn(lambda: tf.random.shuffle(rows))
    np.testing.assert_array_equal(shuffled[np.argsort(shuffled[:, 0])], rows)
    assert not np.array_equal(shuffled, rows)


def test_a_bounding_box_covers_what_it_must() -> None:
    boxes = tf.constant([[[0.0, 0.0, 1.0, 1.0]]])

    def make() -> Any:
        return tf.image.sample_distorted_bounding_box(
            [10, 10, 3], boxes, min_object_covered=0.9, aspect_ratio_range=[1, 1]
        )

    with draws.intercepted(Counting()):
        begin, size, _ = make()
    assert (size.numpy()[:2] >= 9).all()
    assert (begin.numpy()[:2] <= 1).all()


def test_gradients_are_those_of_the_stateful_draws() -> None:
    alpha = tf.constant([0.5, 2.0, 7.0])
    with draws.intercepted(Counting()), tf.GradientTape(persistent=True) as tape:
        tape.watch(alpha)
        samples = tf.random.gamma([], alpha)
        shuffled = tf.random.shuffle(alpha)
        counts = tf.random.poisson([], alpha)
        scaled = alpha * tf.random.uniform([3])
        clipped = random_ops.parameterized_truncated_normal([3], alpha)
    expected = tf.raw_ops.RandomGammaGrad(alpha=alpha, sample=samples)
    np.testing.assert_allclose(tape.gradient(samples, alpha), expected, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(scaled, alpha), scaled / alpha, rtol=1e-5)
    assert tape.gradient(shuffled, alpha) is None
    assert tape.gradient(counts, alpha) is None
    assert tape.gradient(clipped, alpha) is None


@pytest.mark.parametrize("algorithm", ["philox", tf.random.Algorithm.AUTO_SELECT])
def test_a_generator_stands_still(algorithm: Any) -> None:
    generator = tf.random.Generator.from_seed(7, algorithm)
    before = generator.state.numpy()
    with draws.intercepted(Counting()):
        assert generator.skip(5).shape == generator.state.shape
        first, second = generator.normal([4]), generator.normal([4])
        seeds = generator.make_seeds(2)
        children = generator.split(2)
    assert not np.array_equal(first, second)
    assert seeds.shape == [2, 2]
    assert not np.array_equal(children[0].state, children[1].state)
    np.testing.assert_array_equal(generator.state, before)
    generator.normal([4])
    assert not np.array_equal(generator.state, before)


def test_a_generator_with_the_short_state_of_threefry_gets_one_as_short() -> None:
    generator = tf.random.Generator.from_seed(7, "threefry")
    with draws.intercepted(Counting()):  # outside of XLA, TensorFlow itself cannot advance it
        assert generator.skip(5).shape == [2]


def test_a_generator_of_two_replicas_stands_still(two_replicas: tf.distribute.MirroredStrategy) -> None:
    with two_replicas.scope():
        generator = tf.random.Generator.from_seed(7)
    before = [each.numpy() for each in generator.state.values]

    def replica() -> tf.Tensor:
        with draws.intercepted(Counting()):
            return generator.normal([4])

    one, other = tf.function(lambda: two_replicas.run(replica))().values
    assert not np.array_equal(one, other)
    for state, old in zip(generator.state.values, before, strict=True):
        np.testing.assert_array_equal(state, old)
