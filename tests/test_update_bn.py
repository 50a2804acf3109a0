"""`update_bn`: statistics that are the average of the batches' over one pass, and nothing else that changes."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import trainloop
from trainloop import Callback, Every, Phase, Trainer, data

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, size=[11, 4]).astype("float32")
IMAGES = RNG.normal(3, 2, size=[11, 2, 2, 3]).astype("float32")
SEQUENCES = RNG.normal(3, 2, size=[11, 5, 4]).astype("float32")


def batches(x: Any = X, size=4, shuffle=False, augment_fn=None):
    return data.from_arrays(x, batch_size=size, shuffle=shuffle, augment_fn=augment_fn)


def trainer(net, kind=Trainer, **options):
    return kind(net, default_callbacks=False, seed=1, **options)


def expected(x, size=4, ddof=0, parts=None, shares=None):
    """The mean of the batches' means and variances, each batch counted by its rows."""
    parts = np.split(x, range(size, len(x), size)) if parts is None else parts
    flat = [part.reshape(-1, x.shape[-1]).astype("float64") for part in parts]
    shares = shares or [len(part) / len(x) for part in parts]
    return [
        sum(share * moment for share, moment in zip(shares, moments, strict=True))
        for moments in ([part.mean(0) for part in flat], [part.var(0, ddof=ddof) for part in flat])
    ]


def assert_statistics(layer, wanted, **tolerance):
    for found, value in zip((layer.moving_mean, layer.moving_variance), wanted, strict=True):
        np.testing.assert_allclose(found, value, **tolerance or {"rtol": 1e-5})


def spoil(layer):
    layer.moving_mean.assign(tf.fill(layer.moving_mean.shape, np.nan))
    layer.moving_variance.assign(tf.fill(layer.moving_variance.shape, 1e30))


HOW = pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=["graph", "eager", "xla"])
RENORM = type(layers.BatchNormalization()).__mro__[1]


@HOW
@pytest.mark.parametrize("x", [X, IMAGES], ids=["plain", "fused"])
def test_the_statistics_are_the_average_over_the_pass_whatever_was_there_before(x, how):
    norm = layers.BatchNormalization(momentum=0.5)
    made = trainer(tf_keras.Sequential([tf_keras.Input(x.shape[1:]), norm]), **how)
    wanted = expected(x, ddof=1 if x is IMAGES else 0)  # the fused kernel estimates the variance of the population
    for _ in range(2):
        spoil(norm)
        made.update_bn(batches(x))
        assert_statistics(norm, wanted)
    assert vars(norm)["momentum"] == 0.5


def test_renorm_is_averaged_likewise_and_corrects_nothing_meanwhile():
    norm, second = RENORM(renorm=True, name="norm"), layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), norm, second]))
    made.update_bn(batches())
    parts = [X[:4], X[4:8], X[8:]]
    deviation = sum(len(part) / 11 * np.sqrt(part.var(0) + 1e-3) for part in parts)
    np.testing.assert_allclose(norm.moving_mean, expected(X)[0], rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, deviation**2 - 1e-3, rtol=1e-4)
    np.testing.assert_allclose(norm.renorm_mean, expected(X)[0], rtol=1e-5)
    np.testing.assert_allclose(norm.renorm_stddev, deviation, rtol=1e-5)
    np.testing.assert_allclose(second.moving_mean, np.zeros(4), atol=1e-5)  # what it sees is normalised by the batch
    assert (norm.renorm_momentum, norm.renorm_clipping) == (0.99, {})


def test_mixed_precision():
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    norm = layers.BatchNormalization()
    trainer(tf_keras.Sequential([tf_keras.Input([4]), norm])).update_bn(batches())
    assert_statistics(norm, expected(X), rtol=2e-3)


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_replicas_that_synchronize_and_that_do_not(two_replicas, how):
    with two_replicas.scope():
        own, synchronized = layers.BatchNormalization(), layers.BatchNormalization(synchronized=True)
        inputs = tf_keras.Input([4])
        made = trainer(tf_keras.Model(inputs, [own(inputs), synchronized(inputs)]), **how)
    spoil(own)
    made.update_bn(batches(X))  # batches of 4, 4 and 3 rows
    halves = np.split(X, [2, 4, 6, 8, 9])  # what each replica sees; in a batch they count the same
    assert_statistics(own, expected(X, parts=halves, shares=[2 / 11] * 4 + [1.5 / 11] * 2))
    assert_statistics(synchronized, expected(X), rtol=1e-4)


class Repeated(tf_keras.Model):
    """Calls one layer several times in a step: twice in a row, and in a loop."""

    def __init__(self):
        super().__init__()
        self.norm = layers.BatchNormalization()
        self.norm.build([None, 4])

    def call(self, x):
        self.norm(x)
        self.norm(x + 1.0)
        for shift in tf.range(2.0, 6.0):
            self.norm(x + shift)
        return x


def test_a_layer_may_be_called_several_times_in_a_step():
    net = Repeated()
    trainer(net).update_bn(batches())
    mean, variance = expected(X)
    assert_statistics(net.norm, [mean + 2.5, variance])


class Listed(tf_keras.Model):
    """Holds its batch norm in a list in a layer, and takes no `training`."""

    def __init__(self, norm):
        super().__init__()
        self.parts = [tf_keras.Sequential([norm])]

    def call(self, x):
        return self.parts[0](x)


@pytest.mark.parametrize(
    ("wrap", "x"),
    [
        (lambda norm: tf_keras.Sequential([norm]), X),
        (Listed, X),
        (layers.TimeDistributed, SEQUENCES),
        (lambda norm: layers.TimeDistributed(tf_keras.Sequential([norm])), SEQUENCES),
    ],
    ids=["nested", "listed", "time distributed", "model in time distributed"],
)
def test_batch_norm_inside_of_something(wrap, x):
    norm = layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input(x.shape[1:]), wrap(norm)]))
    made.update_bn(batches(x))
    assert_statistics(norm, expected(x))


def baked_off():
    inputs = tf_keras.Input([4])
    norm = layers.BatchNormalization()
    return tf_keras.Model(inputs, norm(inputs, training=False)), norm


def test_a_hard_wired_batch_norm_is_updated_too():
    net, norm = baked_off()
    trainer(net).update_bn(batches())
    assert_statistics(norm, expected(X))


STOCHASTIC = {
    "dropout": lambda: layers.Dropout(0.5),
    "alpha dropout": lambda: layers.AlphaDropout(0.5),
    "gaussian dropout": lambda: layers.GaussianDropout(0.5),
    "gaussian noise": lambda: layers.GaussianNoise(1.0),
    "spatial dropout": lambda: layers.SpatialDropout1D(0.5),
    "time distributed": lambda: layers.TimeDistributed(layers.Dropout(0.5)),
}
RECURRENT = {
    "lstm": lambda: layers.LSTM(4, dropout=0.5, recurrent_dropout=0.5, return_sequences=True),
    "gru": lambda: layers.GRU(4, recurrent_dropout=0.5, return_sequences=True),
    "bidirectional": lambda: layers.Bidirectional(layers.SimpleRNN(2, dropout=0.5, return_sequences=True)),
}


@pytest.mark.parametrize("kind", STOCHASTIC)
def test_dropout_and_noise_are_off(kind):
    norm = layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input(SEQUENCES.shape[1:]), STOCHASTIC[kind](), norm]))
    made.update_bn(batches(SEQUENCES))
    assert_statistics(norm, expected(SEQUENCES))


@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_dropout_is_off(kind):
    part, norm = RECURRENT[kind](), layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input(SEQUENCES.shape[1:]), part, norm]))
    made.update_bn(batches(SEQUENCES, size=11))
    assert_statistics(norm, expected(part(SEQUENCES, training=False).numpy(), size=11), rtol=1e-3, atol=1e-5)


class StochasticDepth(layers.Layer):
    def call(self, x, training=None):
        return x * tf.cast(tf.random.uniform([tf.shape(x)[0], 1]) > 0.5, x.dtype) if training else x


def test_attention_dropout_hard_wired_dropout_and_a_stochastic_depth_of_ones_own_are_off():
    inputs = tf_keras.Input(SEQUENCES.shape[1:])
    attended = layers.MultiHeadAttention(1, 2, dropout=0.5)(inputs, inputs)
    attended = StochasticDepth()(layers.Flatten()(layers.Dropout(0.5)(attended, training=True)))
    norm = layers.BatchNormalization()
    net = tf_keras.Model(inputs, [attended, norm(attended)])
    made = trainer(net)
    trainloop.follow(net.layers[2])
    made.update_bn(batches(SEQUENCES, size=11))
    assert_statistics(norm, expected(made.predict(batches(SEQUENCES))[0], size=11), rtol=1e-3, atol=1e-6)


def test_augmentation_layers_are_on():
    norm = layers.BatchNormalization()
    brighter = layers.RandomBrightness((0.5, 0.5), (0, 1))
    made = trainer(tf_keras.Sequential([tf_keras.Input([2, 2, 3]), brighter, norm]))
    made.update_bn(batches(np.zeros_like(IMAGES)))
    np.testing.assert_allclose(norm.moving_mean, np.full(3, 0.5), rtol=1e-5)


def test_from_arrays_comes_shuffled_and_augmented_as_in_an_epoch_of_fit():
    x = np.repeat(np.arange(4, dtype="float32"), 8)[:, np.newaxis]  # sorted: in order, no batch would vary
    norm = layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input([1]), norm]))
    made.update_bn(batches(x, size=8, shuffle=True, augment_fn=lambda batch, key: batch + 10.0))
    np.testing.assert_allclose(norm.moving_mean, [11.5], rtol=1e-5)
    assert norm.moving_variance > 0.5
    first = norm.moving_variance.numpy()
    made.update_bn(batches(x, size=8, shuffle=True))
    np.testing.assert_allclose(norm.moving_variance, first, rtol=1e-5)


def test_only_so_many_steps():
    norm = layers.BatchNormalization()
    trainer(tf_keras.Sequential([tf_keras.Input([4]), norm])).update_bn(batches(), steps=2)
    assert_statistics(norm, expected(X[:8]))


def test_a_frozen_batch_norm_keeps_its_statistics():
    frozen, norm = layers.BatchNormalization(trainable=False), layers.BatchNormalization()
    frozen.build([None, 4])
    frozen.moving_mean.assign([1, 2, 3, 4])
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), frozen, norm]))
    made.update_bn(batches())
    np.testing.assert_array_equal(frozen.moving_mean, [1, 2, 3, 4])
    assert_statistics(norm, expected((X - [1, 2, 3, 4]) / np.sqrt(1.001)), rtol=1e-4)


class OwnNorm(layers.Layer):
    """A batch norm of one's own, written by the formula in Keras's documentation."""

    def __init__(self, momentum=0.9):
        super().__init__()
        self.momentum = momentum

    def build(self, shape):
        self.moving_mean = self.add_weight("moving_mean", shape[-1:], trainable=False)
        self.moving_variance = self.add_weight("moving_variance", shape[-1:], trainable=False)

    def call(self, x, training=None):
        if training:
            mean, variance = tf.nn.moments(x, [0])
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(self.momentum * moving + (1 - self.momentum) * batch)
        return x


class WithoutMomentum(OwnNorm):
    def __init__(self):
        super().__init__()
        del self.momentum


trainloop.register_family(OwnNorm, "batch_norm")


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_batch_norm_of_ones_own(how):
    norm = OwnNorm()
    trainer(tf_keras.Sequential([tf_keras.Input([4]), norm]), **how).update_bn(batches())
    assert_statistics(norm, expected(X))
    assert norm.momentum == 0.9


def test_a_batch_norm_of_ones_own_without_momentum_is_refused():
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), WithoutMomentum()]))
    with pytest.raises(ValueError, match="without_momentum: WithoutMomentum is registered as batch_norm but has no"):
        made.update_bn(batches())


class Spoiled(Callback):
    """Measures batch norm anew between the steps, and puts back what was there."""

    trigger = Every(steps=2)

    def __init__(self, source, norm):
        self.source, self.norm = source, norm

    def on_trigger(self, trainer):
        before = [variable.numpy() for variable in self.norm.non_trainable_variables]
        trainer.update_bn(self.source)
        for variable, value in zip(self.norm.non_trainable_variables, before, strict=True):
            assert not np.array_equal(variable, value)
            variable.assign(value)


def test_nothing_else_of_a_training_changes(tmp_path):
    pairs = data.from_arrays((X, X[:, :1]), batch_size=4)

    def run(*kinds, **options):
        tf_keras.utils.set_random_seed(3)
        norm = layers.BatchNormalization()
        net = tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(8), norm, layers.Dropout(0.5), layers.Dense(1)])
        callbacks = [kind(pairs, norm) for kind in kinds]
        made = trainer(net, optimizer="adam", loss="mse", metrics=["mae"], callbacks=callbacks, **options)
        return made.fit(pairs, steps=6), net.get_weights(), made.optimizers["model"].variables

    plain = run()
    spoiled = run(Spoiled, lambda *_: trainloop.MetricsLog(), workdir=tmp_path)
    assert dict(spoiled[0]) == dict(plain[0]) | {k: v for k, v in spoiled[0].items() if "per_second" in k}
    for found, wanted in zip([*spoiled[1], *spoiled[2]], [*plain[1], *plain[2]], strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert (tmp_path / "phases.jsonl").read_text().count('"update_bn"') == 3 * 2 * 2  # phase and why, entered and left


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_after_an_exception_the_statistics_are_those_from_before(how):
    norm = layers.BatchNormalization()
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), norm]), **how)
    norm.moving_mean.assign([1, 2, 3, 4])
    short = tf.data.Dataset.from_generator(lambda: [X[:4]], output_signature=tf.TensorSpec([None, 4]))
    with pytest.raises(ValueError, match="update_bn: data= is exhausted after 1 batches"):
        made.update_bn(short, steps=2)
    np.testing.assert_array_equal(norm.moving_mean, [1, 2, 3, 4])
    assert (made.phase, norm.momentum) == (None, 0.99)


def test_the_state_of_a_stateful_rnn_is_put_back():
    inputs = tf_keras.Input(batch_shape=[1, 5, 4])
    rnn = layers.SimpleRNN(4, stateful=True)
    made = trainer(tf_keras.Model(inputs, layers.BatchNormalization()(rnn(inputs))))
    rnn(SEQUENCES[:1])
    before = rnn.states[0].numpy()
    made.update_bn(batches(SEQUENCES, size=1))
    np.testing.assert_array_equal(rnn.states[0], before)


class OwnLoss(Trainer):
    """Calls its model on something else than x."""

    def compute_loss(self, batch, phase):
        return tf.reduce_mean(phase.call(self.model, batch["features"]))


class OwnSteps(Trainer):
    def train_step(self, batch, phase):
        raise NotImplementedError

    def predict_step(self, batch, phase):
        return phase.call(self.model, batch["features"])


class OwnPrediction(Trainer):
    def predict_step(self, batch, phase):
        return phase.call(self.model, 2 * batch)


@pytest.mark.parametrize("kind", [OwnLoss, OwnSteps])
def test_the_forward_part_is_what_was_overridden(kind):
    norm = layers.BatchNormalization()
    trainer(tf_keras.Sequential([tf_keras.Input([4]), norm]), kind).update_bn(batches({"features": X}))
    assert_statistics(norm, expected(X))


def test_the_forward_part_is_that_of_training_not_of_predicting():
    norm = layers.BatchNormalization()
    trainer(tf_keras.Sequential([tf_keras.Input([4]), norm]), OwnPrediction, loss="mse").update_bn(batches((X, X)))
    assert_statistics(norm, expected(X))


def test_only_what_is_called_is_forgotten():
    called, other = layers.BatchNormalization(), layers.BatchNormalization()

    class First(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.called, self.other = called, other

        def call(self, x):
            return self.called(x)

    other.build([None, 4])
    other.moving_mean.assign([1, 2, 3, 4])
    trainer(First()).update_bn(batches())
    np.testing.assert_array_equal(other.moving_mean, [1, 2, 3, 4])
    assert_statistics(called, expected(X))


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: layers.Dropout(0.5), "nothing to update: the model has no batch normalization"),
        (lambda: layers.BatchNormalization(trainable=False), "nothing to update: all 1 batch normalizations of"),
    ],
    ids=["none", "frozen"],
)
def test_a_model_without_batch_norm_to_update_is_refused(net, message, how):
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), net()]), **how)
    with pytest.raises(ValueError, match=message):
        made.update_bn(batches())


def test_bad_data():
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), layers.BatchNormalization()]))
    with pytest.raises(TypeError, match="update_bn: data= is a ndarray; wrap arrays"):
        made.update_bn(X)
    with pytest.raises(ValueError, match="update_bn: data= is endless; say how many batches to use with steps="):
        made.update_bn(tf.data.Dataset.from_tensors(X).repeat())
    with pytest.raises(ValueError, match="update_bn: data= is exhausted after 3 batches, but steps=9"):
        made.update_bn(batches(), steps=9)


def test_one_phase_call_without_a_trainer_uses_the_layers_own_momentum():
    norm = layers.BatchNormalization(momentum=0.5)
    Phase.UPDATE_BN.call(norm, X)
    np.testing.assert_allclose(norm.moving_mean, 0.5 * X.mean(0), rtol=1e-5)
