"""The lints of an audit: each is given where it is true, and only there."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import trainloop
from trainloop import Phase
from trainloop.auditing.lints import Lint
from trainloop.auditing.variance_shift import CENTRED, RECTIFIED, variance_ratio


def lints(model: object, inputs: object = None) -> dict[str, Lint]:
    found = trainloop.audit(model, inputs).lints
    by_name = {lint.name: lint for lint in found}
    assert len(by_name) == len(found), "a lint stands twice"
    return by_name


def functional(*stack: layers.Layer, shape: tuple[int, ...] = (8,)) -> tf_keras.Model:
    inputs = outputs = tf_keras.Input(shape)
    for layer in stack:
        outputs = layer(outputs)
    return tf_keras.Model(inputs, outputs)


class Body(tf_keras.Model):
    """Holds layers by name, and calls a function of itself and its input."""

    def __init__(self, body, **held):
        super().__init__()
        self.body = body
        for name, layer in held.items():
            setattr(self, name, layer)

    def call(self, x, training=None):
        return self.body(self, x, training)


def normal(rows: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=[rows, width]).astype("float32")


# Dropout before batch normalization.


@pytest.mark.parametrize("moments", [CENTRED, RECTIFIED], ids=["centred", "rectified"])
@pytest.mark.parametrize("width", [1, 64], ids=["direct", "behind a linear layer"])
def test_the_predicted_ratio_is_that_of_a_simulation(moments, width):
    rng = np.random.default_rng(0)
    units = rng.normal(size=[40_000, width])
    if moments is RECTIFIED:
        units = np.maximum(units, 0.0)
    dropped = np.where(rng.random(units.shape) < 0.4, 0.0, units / 0.6)
    weights = rng.normal(size=[width])
    measured = np.var(units @ weights) / np.var(dropped @ weights)
    assert measured == pytest.approx(variance_ratio(0.4, *moments), rel=0.03)


def test_dropout_straight_before_batch_norm():
    model = functional(layers.Dropout(0.5), layers.BatchNormalization(), layers.Dense(2))
    lint = lints(model)["dropout-before-batch-norm"]
    assert lint.paths == ("dropout", "batch_normalization")
    assert lint.figures == {"predicted_ratio": 0.5}
    assert "in evaluation the variance of its input is 0.50 times that (predicted for uncorrelated" in lint.reason
    assert "Li, Chen, Hu and Yang" in lint.reference


def test_dropout_one_linear_layer_before_batch_norm_behind_a_relu():
    model = functional(
        layers.ReLU(), layers.Dropout(0.5), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)
    )
    lint = lints(model)["dropout-before-batch-norm"]
    assert lint.paths == ("dropout", "batch_normalization")
    assert lint.figures["predicted_ratio"] == pytest.approx(0.405, abs=1e-3)
    assert "one linear layer further on" in lint.reason
    assert "a rectified normal" in lint.reason


def test_the_measured_ratio_is_that_of_the_data():
    """Of 256 centred, independent units half are dropped: evaluation has half the variance."""
    model = functional(
        layers.Dropout(0.5), layers.Dense(16), layers.BatchNormalization(), layers.Dense(2), shape=(256,)
    )
    lint = lints(model, normal(512, 256))["dropout-before-batch-norm"]
    assert lint.figures["predicted_ratio"] == 0.5
    assert lint.figures["measured_ratio"] == pytest.approx(0.5, abs=0.03)
    assert "measured here: 0.5" in lint.reason


def test_what_data_disprove_is_no_lint():
    """Units that are all alike lose next to nothing when some are dropped and the rest is scaled up."""
    model = functional(
        layers.Dropout(0.1),
        layers.Dense(4, kernel_initializer="ones"),
        layers.BatchNormalization(),
        layers.Dense(2),
        shape=(512,),
    )
    alike = np.repeat(normal(256, 1), 512, axis=1)
    assert "dropout-before-batch-norm" in lints(model)
    assert "dropout-before-batch-norm" not in lints(model, alike)


def test_a_batch_norm_ends_what_dropout_does_to_those_behind_it():
    normalization = [layers.BatchNormalization(), layers.Dense(4), layers.BatchNormalization(), layers.Dense(2)]
    model = functional(layers.Dropout(0.5), *normalization)
    assert lints(model, normal(64, 8))["dropout-before-batch-norm"].paths == ("dropout", "batch_normalization")


def test_a_constant_is_no_branch_of_its_own():
    scale = tf.constant([2.0])
    model = functional(layers.Dropout(0.5), layers.Lambda(lambda x: x * scale), layers.BatchNormalization())
    assert lints(model)["dropout-before-batch-norm"].figures == {"predicted_ratio": 0.5}


def branching(rate: float) -> tf_keras.Model:
    inputs = tf_keras.Input([32])
    outputs = layers.Add()([inputs, layers.Dropout(rate)(inputs)])
    outputs = layers.Dense(2)(layers.BatchNormalization()(outputs))
    return tf_keras.Model(inputs, outputs)


def test_where_no_formula_holds_the_data_decide():
    assert "dropout-before-batch-norm" not in lints(branching(0.5))
    lint = lints(branching(0.5), normal(256, 32))["dropout-before-batch-norm"]
    assert lint.figures == {"measured_ratio": pytest.approx(0.8, abs=0.02)}  # (2 x)² against (x + 2 x)² / 2 + x² / 2
    assert "dropout-before-batch-norm" not in lints(branching(0.05), normal(256, 32))


@pytest.mark.parametrize(
    "stack",
    [
        [layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(2)],
        [layers.Dropout(0.0), layers.BatchNormalization()],
        [layers.AlphaDropout(0.5), layers.Dense(2), layers.BatchNormalization()],  # keeps mean and variance
        [layers.Dropout(0.5), layers.Dense(4), layers.LayerNormalization(), layers.BatchNormalization()],
        [layers.Dropout(0.5), layers.Dense(4, "tanh"), layers.Dense(4), layers.BatchNormalization()],
        [layers.Dropout(0.5), layers.BatchNormalization(trainable=False)],
    ],
    ids=["behind", "rate 0", "alpha", "normalised between", "nonlinear between", "frozen"],
)
def test_no_dropout_feeds_batch_norm_as_the_formula_has_it(stack):
    model = functional(*(layer.__class__.from_config(layer.get_config()) for layer in stack))
    assert "dropout-before-batch-norm" not in lints(model)


def test_the_graph_tells_what_feeds_what_not_the_order_of_the_calls():
    def beside(self, x, training):
        dropped = self.drop(x)  # called first, and yet not before
        return tf.concat([dropped, self.bn(x)], axis=1)

    def before(self, x, training):
        return self.head(self.bn(self.drop(x)))

    held = {"drop": layers.Dropout(0.5), "bn": layers.BatchNormalization(), "head": layers.Dense(2)}
    assert "dropout-before-batch-norm" not in lints(Body(beside, **held), (4, 8))
    assert lints(Body(before, **held), (4, 8))["dropout-before-batch-norm"].paths == ("drop", "bn")


def test_a_published_model_has_no_lint():
    model = tf_keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3), classes=4)
    audit = trainloop.audit(model)
    assert audit.ok
    assert audit.lints == ()


# The other lints, each with a model that has it, its paths, and a model that has it not.


def nested(base_trainable: bool, pinned: bool = False) -> tf_keras.Model:
    base = tf_keras.Sequential([layers.Dense(4), layers.Dropout(0.5)], name="base")
    model = functional(base, layers.Dense(2))
    base.trainable = base_trainable
    if pinned:
        trainloop.pin(base, Phase.EVAL)
    return model


def frozen_dropout(trainable: bool) -> tf_keras.Model:
    return functional(layers.Dense(4), layers.Dropout(0.5, trainable=trainable), layers.Dense(2))


def hard_wired(value: bool | None) -> tf_keras.Model:
    inputs = tf_keras.Input([8])
    hidden = layers.Dropout(0.5)(inputs, training=value)
    return tf_keras.Model(inputs, layers.Dense(2)(hidden), name="net")


def fixed_in_call(passes: bool) -> tf_keras.Model:
    def body(self, x, training):
        return self.base(x, training=training if passes else False)

    base = tf_keras.Sequential([layers.Dropout(0.5), layers.Dense(2)])
    return Body(body, base=base)


def shared_batch_norm(times: int) -> tf_keras.Model:
    def body(self, x, training):
        return sum(self.head(self.bn(x + i)) for i in range(times))

    return Body(body, bn=layers.BatchNormalization(), head=layers.Dense(2))


def distributed(inner: layers.Layer) -> tf_keras.Model:
    return functional(layers.TimeDistributed(inner), layers.Dense(2), shape=(5, 8))


def with_dead_layer(reached: bool) -> tf_keras.Model:
    def body(self, x, training):
        return self.head(self.drop(x) if reached else x)

    return Body(body, drop=layers.Dropout(0.5), head=layers.Dense(2))


def attention() -> tf_keras.Model:
    """Keras puts a dropout of rate 0 into its attention unasked."""
    inputs = tf_keras.Input([3, 8])
    return tf_keras.Model(inputs, layers.MultiHeadAttention(1, 4)(inputs, inputs))


class Mode(layers.Layer):
    def call(self, x, is_training=False):
        return x


class Training(layers.Layer):
    def call(self, x, training=False, mode="bilinear"):
        return x


def flipping(default: bool | None) -> tf_keras.Model:
    class Flips(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.flip = layers.RandomFlip()

        def call(self, x, training=default):
            return self.flip(x)

    return Flips()


def test_what_is_handed_on_is_not_hard_wired_there():
    """The outer model says it; the block in between passes on what it got."""

    class Block(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)

        def call(self, x, training=None):
            return self.drop(x, training=training)

    model = Body(lambda self, x, training: self.block(x, training=True), block=Block())
    audit = trainloop.audit(model, (4, 8))
    assert [lint.paths for lint in audit.lints if lint.name == "hard-wired-training"] == [("block",)]
    assert [row.source for row in audit.rows] == ["passed"]


def test_a_cell_that_its_layer_computes_is_not_dead():
    """ConvLSTM2D computes its cell's step itself and never calls it."""
    recurrent = layers.ConvLSTM2D(2, 3, dropout=0.2)
    assert "never-reached" not in lints(functional(recurrent, shape=(3, 6, 6, 1)))


def test_the_layer_that_bidirectional_copies_is_not_dead():
    model = functional(layers.Bidirectional(layers.LSTM(2, dropout=0.2)), shape=(3, 2))
    audit = trainloop.audit(model)
    assert [row.path for row in audit.rows] == ["bidirectional/forward_layer", "bidirectional/backward_layer"]
    assert audit.lints == ()


def test_a_frozen_model_in_a_closure_sets_trainable_for_all_that_it_holds():
    teacher = nested(False)
    teacher.trainable = False
    student = tf_keras.Sequential([layers.Dense(2)])

    def distil(x):
        return student(x) - Phase.PREDICT.call(teacher, x)

    assert lints(distil, tf.TensorSpec([4, 8])) == {}


def test_what_a_phase_inside_says_is_not_hard_wired():
    base = tf_keras.Sequential([layers.Dropout(0.5)])
    assert "hard-wired-training" not in lints(lambda x: Phase.EVAL.call(base, x), tf.TensorSpec([4, 8]))


def test_what_an_earlier_trace_hides_is_not_called_dead():
    class Compiled(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)
            self.inner = tf.function(lambda x: 2 * self.drop(x))

        def call(self, x):
            return self.inner(x)

    model = Compiled()
    model(tf.ones([4, 8]), training=True)
    assert "never-reached" not in lints(model, tf.TensorSpec([4, 8]))


@pytest.mark.parametrize(
    ("name", "paths", "guilty", "innocent", "shape"),
    [
        (
            "dropout-on-outputs",
            ("dropout",),
            lambda: functional(layers.Dense(2), layers.Dropout(0.5), layers.Softmax()),
            lambda: functional(layers.Dropout(0.5), layers.Dense(2), layers.Softmax()),
            None,
        ),
        (
            "rate-of-zero",
            ("dropout", "gaussian_noise"),
            lambda: functional(layers.Dropout(0.0), layers.GaussianNoise(0.0), layers.Dense(2)),
            attention,
            None,
        ),
        (
            "rate-of-nearly-one",
            ("dropout",),
            lambda: functional(layers.Dropout(0.9), layers.Dense(2)),
            lambda: functional(layers.Dropout(0.89), layers.GaussianNoise(0.95), layers.Dense(2)),
            None,
        ),
        ("never-reached", ("drop",), lambda: with_dead_layer(False), lambda: with_dead_layer(True), (4, 8)),
        ("hard-wired-training", ("dropout",), lambda: hard_wired(True), lambda: hard_wired(None), None),
        ("hard-wired-training", ("base",), lambda: fixed_in_call(False), lambda: fixed_in_call(True), (4, 8)),
        ("frozen-base-drops", ("base", "base/dropout"), lambda: nested(False), lambda: nested(True), None),
        ("frozen-base-drops", ("base", "base/dropout"), lambda: nested(False), lambda: nested(False, True), None),
        ("trainable-ignored", ("dropout",), lambda: frozen_dropout(False), lambda: frozen_dropout(True), None),
        ("trainable-ignored", ("dropout",), lambda: frozen_dropout(False), lambda: nested(False), None),
        ("batch-norm-called-again", ("bn",), lambda: shared_batch_norm(2), lambda: shared_batch_norm(1), (4, 8)),
        (
            "batch-norm-called-again",
            ("time_distributed/layer/batch_normalization",),
            lambda: distributed(tf_keras.Sequential([layers.BatchNormalization()])),
            lambda: distributed(layers.BatchNormalization()),
            None,
        ),
        (
            "mode-not-propagated",
            ("mode",),
            lambda: functional(Mode(), layers.Dense(2)),
            lambda: functional(Training(), layers.Dense(2)),
            None,
        ),
        (
            "augments-by-default",
            ("flip",),
            lambda: flipping(None),
            lambda: flipping(False),
            (2, 6, 6, 3),
        ),
    ],
)
def test_a_lint_is_given_where_it_is_true_and_only_there(name, paths, guilty, innocent, shape):
    lint = lints(guilty(), shape)[name]
    assert lint.paths == paths
    assert lint.reason
    assert lint.advice
    assert lint.reference
    assert name not in lints(innocent(), shape)
