"""Samples that are computed many at a time: they are what they would be alone, and what they share is done once."""

import collections
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import Phase, Trainer, data, monte_carlo, random, replays
from trainloop.effects import functions_of

MC = Phase.MC_PREDICT
RNG = np.random.default_rng(0)
X = RNG.normal(size=[7, 6]).astype("float32")
IMAGES = RNG.normal(size=[6, 8, 8, 3]).astype("float32")


def batches(x, size=4):
    return data.from_arrays(x, batch_size=size, shuffle=False)


def sampling(net, step=None, **options):
    """A Trainer whose `predict_step` is a function of the model, the batch and the phase."""

    class Sampling(Trainer):
        def predict_step(self, batch, phase):
            return phase.call(self.model, batch) if step is None else step(self.model, batch, phase)

    return Sampling(net, default_callbacks=False, seed=1, **options)


def dropped(*more):
    return tf_keras.Sequential([tf_keras.Input([6]), layers.Dense(5), layers.Dropout(0.5), *more])


@pytest.fixture
def blocks(monkeypatch):
    """Returns the sizes of the blocks in which samples are replayed; none where they are drawn one by one."""
    sizes = []
    block = replays.Replay.block

    def noting(replay, first, size):
        found = block(replay, first, size)
        sizes.append(size)
        return found

    monkeypatch.setattr(replays.Replay, "block", noting)
    return sizes


def both_ways(monkeypatch, make, x, samples=4):
    """Returns the samples in blocks of two, of which the last is filled up, and those that are drawn one by one."""
    with monkeypatch.context() as patch:
        patch.setattr(monte_carlo, "_blocks", lambda samples, size: (2, samples // 2 + 1))
        in_blocks = make().predict(batches(x), phase=MC, samples=samples, keep_samples=True).samples
    with monkeypatch.context() as patch:
        patch.setattr(replays.Sample, "replay", refusing)
        return in_blocks, make().predict(batches(x), phase=MC, samples=samples, keep_samples=True).samples


def refusing(sample, outputs):
    raise replays.NotReplayableError("asked for by the test")


def odd_ones(net, x, phase):
    """Draws of every kind and of odd sizes, loops, branches, and what looks at the whole batch; in columns."""
    rows, h = tf.shape(x)[0], phase.call(net, x)
    columns = {
        "normal": random.normal([rows, 3]),
        "double": random.normal([rows, 3], dtype="float64"),
        "half": random.uniform([rows, 1], dtype="float16"),
        "truncated": random.truncated_normal([rows, 3]),
        "whole": random.uniform([rows, 3], 0, 9, tf.int32),
        "gamma": random.gamma([rows], [2.0]),
        "categorical": random.categorical(h, 3),
        "shuffled": random.shuffle(h),
        "one for the batch": h + random.normal([]),
        "of the batch": h - tf.reduce_mean(h, 0),
        "rows": h * tf.cast(rows, tf.float32),
        "between the rows": tf.sort(h, axis=0) + tf.matmul(h, h, transpose_b=True)[:, :1],
        "branch": tf.cond(x[0, 0] > 0.0, lambda: h + random.normal([5]), lambda: -h),
        "loop": tf.while_loop(lambda i, h: i < 2, lambda i, h: (i + 1, h + random.normal([1, 5])), [0, h])[1],
    }
    together = tf.concat([tf.cast(column, tf.float32) for column in columns.values()], 1)
    return {"drawn": together, "always the same": tf.reduce_sum(x, -1)}


def test_odd_ones_are_what_they_would_be_alone(blocks, monkeypatch):
    net = dropped()
    found, alone = both_ways(monkeypatch, lambda: sampling(net, odd_ones), X)
    assert blocks == [2]
    for name in found:
        np.testing.assert_allclose(found[name], alone[name], atol=1e-5)
    assert np.ptp(found["drawn"], axis=0).max(0).all()


def images():
    x = tf_keras.Input([8, 8, 3])
    h = layers.SpatialDropout2D(0.3)(layers.Conv2D(4, 3, padding="same")(x))
    h = layers.DepthwiseConv2D(3)(layers.UpSampling2D(interpolation="bilinear")(layers.MaxPool2D()(h)))
    h = layers.LayerNormalization()(layers.BatchNormalization()(layers.Dropout(0.2, noise_shape=[1, 1, 1, 4])(h)))
    h = layers.Conv2DTranspose(2, 2)(layers.UpSampling2D()(layers.AveragePooling2D()(h)))
    return tf_keras.Model(x, {"map": h, "class": layers.Dense(3, "softmax")(layers.GlobalMaxPool2D()(h))})


def test_layers_of_images_are_what_they_would_be_alone(blocks, monkeypatch):
    net = images()
    found, alone = both_ways(monkeypatch, lambda: sampling(net), IMAGES)
    assert blocks == [2]
    for name in found:
        np.testing.assert_allclose(found[name], alone[name], atol=1e-5)


def test_mixed_precision_draws_alike(blocks, monkeypatch):
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    net = dropped(layers.GaussianNoise(0.1), layers.Dense(3))
    found, alone = both_ways(monkeypatch, lambda: sampling(net), X)
    assert blocks == [2]
    np.testing.assert_allclose(found, alone, atol=1e-2)


def test_the_numbers_do_not_depend_on_the_size_of_the_blocks(blocks, monkeypatch):
    net = tf_keras.Sequential([tf_keras.Input([6]), layers.Dropout(0.5), layers.GaussianNoise(1.0)])
    found = []
    for bound in (1, 2**11, 2**27):
        monkeypatch.setattr(monte_carlo, "BLOCK_BYTES", bound)
        found.append(sampling(net).predict(batches(tf.constant(X[:4])), phase=MC, samples=9, keep_samples=True))
    assert len(blocks) == 3
    for each in found:
        np.testing.assert_array_equal(each.samples, found[0].samples)
        np.testing.assert_allclose(each.mean, each.samples.mean(0), atol=1e-6)
        np.testing.assert_allclose(each.std, each.samples.std(0), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "bytes_of_one", "size", "count"),
    [(49, 1, 49, 1), (49, 2**26, 2, 25), (49, 2**25, 4, 13), (4, 2**26 + 1, 1, 4), (1, 2**40, 1, 1), (9, 0, 9, 1)],
)
def test_a_block_is_as_large_as_the_bound_allows_and_one_sample_at_least(samples, bytes_of_one, size, count):
    assert monte_carlo._blocks(samples, bytes_of_one) == (size, count)
    assert monte_carlo._blocks(samples, tf.constant(bytes_of_one, tf.int64)) == (size, count)


@pytest.mark.parametrize(("rows", "expected"), [(4, 4 + 4 * 10 * 4 * 3), (None, 4 + 7 * 10 * 4 * 3)])
def test_what_depends_on_the_draws_is_measured(rows, expected):
    """A scalar, three tensors of ten columns, and none of what comes before."""

    @tf.function(input_signature=[tf.TensorSpec([rows, 10])])
    def measured(x):
        sample = replays.Sample()
        drawn = tf.exp(x) + tf.cast(sample.number, tf.float32)
        inner = tf.function(lambda drawn: drawn * 2.0)
        return tf.cast(sample.replay([inner(drawn)]).bytes(), tf.int64)

    assert measured(tf.zeros([7 if rows is None else rows, 10])) == expected


def count_of_ops(graph):
    """Returns how many ops of each type there are in a graph and in the functions that it calls."""
    found = collections.Counter(op.type for op in graph.get_operations())
    for op in graph.get_operations():
        if any(attribute.type in ("func", "list(func)") for attribute in op.op_def.attr):
            for inner in functions_of(op, graph):
                found += count_of_ops(inner)
    return found


class Counting(layers.Layer):
    """Counts how often it is traced."""

    calls = 0

    def call(self, x):
        self.calls += 1
        return x


def test_what_all_samples_share_is_computed_once():
    counting = Counting()
    before = [layers.Conv2D(4, 3), counting, layers.GlobalMaxPool2D()]
    net = tf_keras.Sequential([tf_keras.Input([8, 8, 3]), *before, layers.Dropout(0.5), layers.Dense(3)])
    counting.calls = 0
    made = sampling(net)
    made.predict(batches(IMAGES), phase=MC, samples=50)
    [loop] = made._loops.values()
    ops = count_of_ops(loop.compiled_step.graph)
    assert counting.calls == ops["Conv2D"] == 1
    assert ops["MatMul"] == 2  # of the first sample, and of all others


def test_evaluation_is_replayed_too(blocks, monkeypatch):
    def scores():
        net = dropped(layers.Dense(3, "softmax"))
        net.set_weights([np.sin(np.arange(w.size)).reshape(w.shape) for w in net.get_weights()])
        options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], "optimizer": "sgd"}
        return sampling(net, **options).evaluate(batches((X, np.arange(7) % 3)), phase=MC, samples=6)

    in_blocks = scores()
    assert blocks
    monkeypatch.setattr(replays.Sample, "replay", refusing)
    assert scores() == pytest.approx(in_blocks, rel=1e-5)


def test_the_contract_names_each_draw_once():
    made = sampling(dropped(layers.GaussianNoise(1.0)))
    made.predict(batches(X), phase=MC, samples=6)
    report = made.contract(MC)
    assert report.verdict == "holds"
    drawn = [(effect.layer, effect.count) for effect in report.effects if effect.kind == "random"]
    assert drawn == [("dropout", 1), ("gaussian_noise", 1)]


class Measured(layers.Layer):
    """Keeps a metric of its own."""

    def call(self, x):
        self.add_metric(tf.reduce_mean(x), name="mean")
        return x


class Traced(layers.Layer):
    """Draws in a function of its own, to which no key comes."""

    @tf.function
    def call(self, x):
        return x + tf.random.normal(tf.shape(x))


def recurrent():
    x = tf_keras.Input(batch_shape=[7, 3, 2])
    return tf_keras.Sequential([tf_keras.Model(x, layers.SimpleRNN(4, stateful=True)(x)), layers.Dropout(0.5)])


def shape_of_the_draw(net, x, phase):
    h = phase.call(net, x)
    return tf.fill([tf.shape(x)[0]], tf.reduce_sum(tf.boolean_mask(h, h > 0)))


def branch_by_the_draw(net, x, phase):
    h = phase.call(net, x)
    return tf.cond(h[0, 1] > 0.0, lambda: h + random.normal([5]), lambda: -h)


def loop_by_the_draw(net, x, phase):
    h = phase.call(net, x)
    return tf.while_loop(lambda i, h: i < h[0, 0], lambda i, h: (i + 1.0, h + random.normal([1, 5])), [0.0, h])[1]


def loop_by_a_flag(net, x, phase):
    h = phase.call(net, x)
    return tf.while_loop(lambda more, h: more, lambda more, h: (h[0, 0] < 1.0, h + 1.0), [True, h])[1]


def in_python(net, x, phase):
    h = phase.call(net, x)
    return tf.ensure_shape(tf.numpy_function(np.exp, [h], tf.float32), h.shape)


def asserting(net, x, phase):
    h = phase.call(net, x)
    with tf.control_dependencies([tf.debugging.assert_less(h, 1e9)]):
        return tf.identity(h)


@pytest.mark.parametrize(
    ("make", "step", "x", "reason"),
    [
        (lambda: dropped(Measured()), None, X, "AssignAddVariableOp .* keeps a state"),
        (lambda: dropped(Traced()), None, X, "RandomStandardNormal .* keeps a state"),
        (recurrent, None, X.reshape(7, 3, 2), "AssignVariableOp .* keeps a state"),
        (dropped, shape_of_the_draw, X, "No pfor vectorization defined for Where"),
        (dropped, branch_by_the_draw, X, "control flow that depends on what is drawn"),
        (dropped, loop_by_the_draw, X, "control flow that depends on what is drawn"),
        (dropped, loop_by_a_flag, X, "goes on by what it is given|control flow that depends on what is drawn"),
        (dropped, in_python, X, "PyFunc .* keeps a state"),
        (dropped, asserting, X, "Assert .* keeps a state"),
    ],
    ids=["metric", "unkeyed", "stateful", "shape", "branch", "loop", "flag", "python", "assertion"],
)
def test_what_cannot_be_done_for_many_samples_is_done_for_each(make, step, x, reason, monkeypatch):
    said = []
    monkeypatch.setattr(monte_carlo.logging, "info", lambda text, error: said.append(str(error)))
    made = sampling(make(), step)
    found = made.predict(batches(x, size=7), phase=MC, samples=4, keep_samples=True)
    assert len(said) == 1
    assert re.search(reason, said[0])
    for one, other in itertools.combinations(found.samples, 2):
        assert not np.array_equal(one, other)
    np.testing.assert_allclose(found.mean, found.samples.mean(0), atol=1e-5)


def test_an_assertion_on_what_all_samples_share_is_made_once(blocks):
    def checked(net, x, phase):
        with tf.control_dependencies([tf.debugging.assert_less(x, 1e9)]):
            return phase.call(net, tf.identity(x))

    made = sampling(dropped(), checked)
    made.predict(batches(X), phase=MC, samples=4)
    assert blocks
    with pytest.raises(tf.errors.InvalidArgumentError):
        made.predict(batches(1e10 + X), phase=MC, samples=4)


def test_an_exception_of_the_step_is_its_own():
    def broken(net, x, phase):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sampling(dropped(), broken).predict(batches(X), phase=MC, samples=4)
