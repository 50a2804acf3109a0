"""MC_PREDICT through a Trainer: what is drawn, what stays as it is, and what the samples are put together to."""

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import trainloop
from tests.thorough import sampled, thorough
from trainloop import Every, Inference, Phase, StepResult, Trainer, data, monte_carlo, replays

MC = Phase.MC_PREDICT
RNG = np.random.default_rng(0)
X = RNG.normal(size=[10, 4]).astype("float32")
LABELS = RNG.integers(0, 3, size=[10])
SEQUENCES = RNG.normal(size=[4, 3, 6]).astype("float32")
IMAGES = RNG.uniform(size=[4, 6, 6, 3]).astype("float32")


def batches(x: Any = X, size=4):
    return data.from_arrays(x, batch_size=size, shuffle=False)


def trainer(net, kind=Trainer, **options):
    return kind(net, default_callbacks=False, seed=1, **options)


def classifier(rate=0.5, **options):
    net = tf_keras.Sequential(
        [
            tf_keras.Input([4]),
            layers.Dense(16, "relu", kernel_regularizer="l2"),
            layers.BatchNormalization(),
            layers.Dropout(rate),
            layers.Dense(3, "softmax"),
        ]
    )
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]} | options
    return trainer(net, optimizer="sgd", **options)


@pytest.fixture
def one_by_one(monkeypatch):
    """Returns a function after which every step that is traced draws its samples one after the other."""

    def refuse(sample, outputs):
        raise replays.NotReplayableError("asked for by the test")

    return lambda: monkeypatch.setattr(replays.Sample, "replay", refuse)


@pytest.fixture
def blocks(monkeypatch):
    """Returns the sizes of the blocks in which steps are traced, those that draw one sample at a time included."""
    sizes = []
    over_blocks = monte_carlo._over_blocks

    def noting(draw, take_in, start, samples, size, blocks):
        state = over_blocks(draw, take_in, start, samples, size, blocks)
        sizes.append((size, blocks))
        return state

    monkeypatch.setattr(monte_carlo, "_over_blocks", noting)
    return sizes


def entropy(p):
    return -np.sum(p * np.log(p), axis=-1)


HOW = pytest.mark.parametrize("how", [{}, {"run_eagerly": True}, {"jit_compile": True}], ids=["graph", "eager", "xla"])


@HOW
def test_the_fields_are_those_of_the_kept_samples(how):
    found = classifier(**how).predict(batches(), phase=MC, samples=7, keep_samples=True)
    assert found.samples.shape == (7, 10, 3)
    assert len(np.unique(found.samples[:, 0, 0])) > 1
    np.testing.assert_allclose(found.mean, found.samples.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std, found.samples.std(0), atol=1e-6)
    np.testing.assert_allclose(found.predictive_entropy, entropy(found.mean), atol=1e-5)
    information = entropy(found.mean) - entropy(found.samples).mean(0)
    np.testing.assert_allclose(found.mutual_information, information, atol=1e-5)
    assert found.mutual_information.min() >= 0


@HOW
def test_metrics_and_loss_are_those_of_the_predictive_mean(how):
    made = classifier(**how)
    mean = made.predict(batches(), phase=MC, samples=5).mean  # the same draws as in the evaluation
    scores = made.evaluate(batches((X, LABELS)), phase=MC, samples=5)
    loss = -np.log(mean[range(10), LABELS]).mean() + float(tf.add_n(made.model.losses))
    assert scores == pytest.approx({"loss": loss, "accuracy": (mean.argmax(-1) == LABELS).mean()}, rel=1e-4)


def test_eager_samples_are_the_compiled_ones():
    made = classifier()
    compiled = made.predict(batches(), phase=MC, samples=3, keep_samples=True)
    made.run_eagerly = True
    eager = made.predict(batches(), phase=MC, samples=3, keep_samples=True)
    np.testing.assert_allclose(eager.samples, compiled.samples, atol=1e-6)


def test_two_replicas_predict_and_evaluate(two_replicas):
    with two_replicas.scope():
        made = classifier()
    found = made.predict(batches(size=4), phase=MC, samples=4, keep_samples=True)  # the last batch has two rows
    assert found.samples.shape == (4, 10, 3)
    np.testing.assert_allclose(found.mean, found.samples.mean(0), atol=1e-6)
    scores = made.evaluate(batches((X, LABELS), size=3), phase=MC, samples=200)  # one replica gets no row in the end
    mean = made.predict(batches(), phase=MC, samples=200).mean
    loss = -np.log(mean[range(10), LABELS]).mean() + float(tf.add_n(made.model.losses))
    assert scores["loss"] == pytest.approx(loss, rel=0.05)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_kept_values_are_the_activation_over_the_keep_rate_bit_by_bit(rate):
    net = tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(64, "tanh"), layers.Dropout(rate)])
    made = trainer(net)
    activation = made.predict(batches())
    samples = made.predict(batches(), phase=MC, samples=4, keep_samples=True).samples
    expected = np.broadcast_to(activation * np.float32(1 / (1 - rate)), samples.shape)
    kept = samples != 0
    np.testing.assert_array_equal(samples[kept], expected[kept])
    assert kept.mean() == pytest.approx(1 - rate, abs=0.05)


class StochasticDepth(layers.Layer):
    """Drops the whole branch of a row."""

    def call(self, x, training=None):
        return x * tf.cast(tf.random.uniform([tf.shape(x)[0], 1]) > 0.5, x.dtype) if training else x


class Block(tf_keras.Model):
    """Hides its dropout in a list in a sub-model that takes no `training`."""

    def __init__(self):
        super().__init__()
        self.parts = [layers.Dense(4), tf_keras.Sequential([layers.Dropout(0.5)])]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def sequential(*parts):
    return lambda: tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(8), *parts])


def attention():
    x = tf_keras.Input([3, 6])
    return tf_keras.Model(x, layers.MultiHeadAttention(2, 3, dropout=0.5)(x, x))


def hard_wired():
    x = tf_keras.Input([4])
    return tf_keras.Model(x, layers.Dropout(0.5)(layers.Dense(8)(x), training=False))


STOCHASTIC = {
    "dropout": (sequential(layers.Dropout(0.5)), X),
    "alpha dropout": (sequential(layers.AlphaDropout(0.5)), X),
    "gaussian dropout": (sequential(layers.GaussianDropout(0.5)), X),
    "gaussian noise": (sequential(layers.GaussianNoise(1.0)), X),
    "stochastic depth": (sequential(StochasticDepth()), X),
    "spatial dropout": (lambda: tf_keras.Sequential([layers.SpatialDropout1D(0.5)]), SEQUENCES),
    "lstm": (lambda: tf_keras.Sequential([layers.LSTM(5, dropout=0.5)]), SEQUENCES),
    "gru": (lambda: tf_keras.Sequential([layers.GRU(5, dropout=0.5, recurrent_dropout=0.5)]), SEQUENCES),
    "attention": (attention, SEQUENCES),
    "time distributed": (lambda: tf_keras.Sequential([layers.TimeDistributed(layers.Dropout(0.5))]), SEQUENCES),
    "bidirectional": (lambda: tf_keras.Sequential([layers.Bidirectional(layers.SimpleRNN(3, dropout=0.5))]), SEQUENCES),
    "subclassed": (Block, X),
    "hard-wired off": (hard_wired, X),
}


@pytest.mark.parametrize(
    "kind", sampled(STOCHASTIC, [name for name in STOCHASTIC if name not in ("gru", "bidirectional")])
)
def test_every_kind_of_dropout_and_noise_is_drawn_alike_in_blocks_and_alone(kind, one_by_one, blocks, monkeypatch):
    build, x = STOCHASTIC[kind]
    monkeypatch.setattr(monte_carlo, "_blocks", lambda samples, size: (3, 2))  # the last one is filled up
    made = trainer(build())
    plain = made.predict(batches(x))
    before = made.model.get_weights()
    found = made.predict(batches(x), phase=MC, samples=6, keep_samples=True)
    for one, other in itertools.combinations(found.samples, 2):
        assert not np.array_equal(one, other)
    assert found.mean.shape == plain.shape
    for ours, theirs in zip(made.model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    one_by_one()
    alone = trainer(made.model).predict(batches(x), phase=MC, samples=6, keep_samples=True)
    assert blocks == [(3, 2), (1, 5)]
    np.testing.assert_array_equal(found.samples == 0, alone.samples == 0)  # what is dropped, to the bit
    np.testing.assert_allclose(found.samples, alone.samples, atol=1e-5)
    np.testing.assert_allclose(found.mean, alone.mean, atol=1e-5)
    np.testing.assert_allclose(found.std, alone.std, atol=1e-5)


def test_augmentation_is_off_and_batch_norm_uses_what_it_has():
    net = tf_keras.Sequential([layers.RandomFlip(), layers.RandomBrightness(0.5, (0, 1)), layers.BatchNormalization()])
    net.add(layers.Dropout(0.5))
    made = trainer(net)
    plain = made.predict(batches(IMAGES))
    before = net.get_weights()
    samples = made.predict(batches(IMAGES), phase=MC, samples=3, keep_samples=True).samples
    kept = samples != 0
    np.testing.assert_array_equal(samples[kept], np.broadcast_to(2 * plain, samples.shape)[kept])
    for ours, theirs in zip(net.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Codebook(layers.Layer):
    """Updates itself in training, as SpectralNormalization does."""

    def build(self, shape):
        self.mean = self.add_weight("mean", shape[1:], initializer="zeros", trainable=False)

    def call(self, x, training=None):
        if training:
            self.mean.assign_add(tf.reduce_mean(x, 0))
        return x - self.mean


trainloop.register_family(Codebook, "update")


def test_a_layer_that_updates_itself_does_not():
    codebook = Codebook()
    made = trainer(tf_keras.Sequential([tf_keras.Input([4]), codebook, layers.Dropout(0.5)]))
    made.predict(batches(), phase=MC, samples=3)
    np.testing.assert_array_equal(codebook.mean, np.zeros(4))


class Mixed(Trainer):
    """Puts out classes, numbers, whole numbers and a scalar."""

    def predict_step(self, batch, phase):
        probabilities = phase.call(self.model, batch)
        return {
            "classes": probabilities,
            "logits": [tf.math.log(probabilities)],
            "best": tf.argmax(probabilities, -1),
            "mean": tf.reduce_mean(probabilities),
        }


def test_outputs_may_be_a_nest_of_which_some_are_classes():
    net = classifier().model
    found = trainer(net, Mixed).predict(batches(), phase=MC, samples=6, keep_samples=True)
    assert found.mean["classes"].shape == found.std["logits"][0].shape == (10, 3)
    assert found.samples["best"].shape == (6, 10)
    assert found.samples["best"].dtype == np.int64
    assert found.samples["mean"].shape == (6, 3)  # one for each batch
    np.testing.assert_allclose(found.mean["best"], found.samples["best"].mean(0))
    np.testing.assert_allclose(found.std["best"], found.samples["best"].std(0))
    np.testing.assert_allclose(found.mean["mean"], found.samples["mean"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.predictive_entropy["classes"], entropy(found.mean["classes"]), atol=1e-5)
    others = (found.mutual_information["logits"][0], found.mutual_information["best"], found.mutual_information["mean"])
    assert others == (None, None, None)


class Growing(Trainer):
    """Puts out as many columns as the largest entry of its batch says."""

    def predict_step(self, batch, phase):
        outputs = phase.call(self.model, tf.cast(batch, tf.float32))
        return tf.tile(outputs, [1, tf.reduce_max(batch)])


def test_rows_may_differ_in_shape():
    columns = np.array([[1], [3], [2], [2]])
    made = trainer(tf_keras.Sequential([layers.Dropout(0.5)]), Growing)
    found = made.predict(batches(columns, size=2), phase=MC, samples=5, keep_samples=True)
    assert [row.shape for row in found.mean] == [(3,), (3,), (2,), (2,)]
    assert [row.shape for row in found.samples] == [(5, 3), (5, 3), (5, 2), (5, 2)]
    np.testing.assert_allclose(found.std[0], found.samples[0].std(0), rtol=1e-6)


def test_float16_is_averaged_in_float32():
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    net = tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(8), layers.Dropout(0.5)])
    found = trainer(net).predict(batches(), phase=MC, samples=5, keep_samples=True)
    assert (found.mean.dtype, found.samples.dtype) == (np.float32, np.float16)
    np.testing.assert_allclose(found.std, found.samples.astype("float32").std(0), atol=1e-5)


def test_the_deviation_of_large_values_is_sound():
    class Offset(Trainer):
        def predict_step(self, batch, phase):
            return 1e4 + phase.call(self.model, batch)

    found = trainer(tf_keras.Sequential([layers.GaussianNoise(1.0)]), Offset).predict(
        batches(np.zeros([2, 500], np.float32)), phase=MC, samples=100
    )
    assert found.std.mean() == pytest.approx(1.0, rel=0.02)


def test_logits_have_no_entropy():
    net = tf_keras.Sequential([layers.Dropout(0.5), layers.Dense(3)])
    found = trainer(net).predict(batches(), phase=MC, samples=2)
    for name in ("predictive_entropy", "mutual_information"):
        with pytest.raises(ValueError, match=rf"{name} needs class probabilities.*\(10, 3\), from -.*add a softmax"):
            getattr(found, name)


@pytest.mark.parametrize(("dtype", "off"), [("float32", 1e-2), thorough("float16", 3e-2), ("bfloat16", 1e-1)])
def test_probabilities_in_few_bits_need_not_sum_to_one_exactly(dtype, off):
    """A softmax rounds each class by itself; what is further off is none."""
    large = layers.Lambda(lambda x: tf.cast(10.0 * x, dtype))
    soft = [large, layers.Dense(50, "softmax", dtype=dtype)]
    found = trainer(tf_keras.Sequential([layers.Dropout(0.5), *soft])).predict(batches(), phase=MC, samples=5)
    assert np.isfinite(found.predictive_entropy).all()
    soft.append(layers.Lambda(lambda p: p * (1.0 + off)))
    found = trainer(tf_keras.Sequential([layers.Dropout(0.5), *soft])).predict(batches(), phase=MC, samples=5)
    with pytest.raises(ValueError, match="class probabilities"):
        _ = found.predictive_entropy


class SometimesNot(Trainer):
    """Puts out what is a probability in most samples."""

    def predict_step(self, batch, phase):
        kept = phase.call(self.model, tf.ones([tf.shape(batch)[0], 1])) > 0
        return tf.where(kept, [[0.5, 0.5]], [[0.5, 0.7]])


@pytest.mark.parametrize(("rows", "samples"), [(1, 200), (10, 20)])
def test_one_sample_that_is_no_probability_spoils_the_entropy(rows, samples):
    net = tf_keras.Sequential([layers.Dropout(0.05)])
    found = trainer(net, SometimesNot).predict(batches(X[:rows]), phase=MC, samples=samples, keep_samples=True)
    sound = found.samples.sum(-1) < 1.1
    assert sound[0].all() or sound.all(0).any()  # the first sample tells nothing, or not each row does
    with pytest.raises(ValueError, match="class probabilities"):
        _ = found.predictive_entropy


class OwnLoss(Trainer):
    def compute_loss(self, batch, phase):
        noise = tf.reduce_mean(phase.call(self.model, tf.ones_like(batch)))
        return StepResult(loss=noise, scalars={"square": noise**2}, outputs=None)


def test_an_own_loss_is_the_mean_of_the_samples():
    made = trainer(tf_keras.Sequential([layers.GaussianNoise(1.0)]), OwnLoss)
    one = made.evaluate(batches(), phase=MC, samples=1)
    many = made.evaluate(batches(), phase=MC, samples=500)
    assert one["square"] != pytest.approx(1 + 1 / 16, rel=1e-3)
    assert many == pytest.approx({"loss": 1.0, "square": 1 + 1 / 16}, rel=0.05)  # not the square of the mean loss


class OwnEvaluation(Trainer):
    def eval_step(self, batch, phase):
        x, y = batch
        outputs = phase.call(self.model, x)
        loss = tf_keras.losses.sparse_categorical_crossentropy(y, outputs)
        return StepResult(loss=tf.reduce_mean(loss), outputs=outputs, targets=y)


def test_an_own_eval_step_serves_too_and_its_outputs_are_averaged():
    net = classifier().model
    options = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    made = trainer(net, OwnEvaluation, **options)
    scores = made.evaluate(batches((X, LABELS)), phase=MC, samples=9)
    found = made.predict(batches(), phase=MC, samples=9, keep_samples=True)
    losses = -np.log(found.samples[:, range(10), LABELS])
    accuracy = (found.mean.argmax(-1) == LABELS).mean()
    assert scores == pytest.approx({"loss": losses.mean(), "accuracy": accuracy}, rel=1e-4)


def test_a_mask_reaches_loss_and_metrics():
    tokens = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0]])
    labels = np.random.default_rng(0).normal(size=[3, 4, 1]).astype("float32")
    net = tf_keras.Sequential([layers.Embedding(7, 3, mask_zero=True), layers.Dropout(0.0), layers.GaussianNoise(1e-6)])
    net.add(layers.Dense(1))
    made = trainer(net, loss="mse", metrics=["mae"])
    expected = made.evaluate(batches((tokens, labels)))
    assert made.evaluate(batches((tokens, labels)), phase=MC, samples=3) == pytest.approx(expected, rel=1e-4)


def test_activity_losses_are_averaged_over_the_samples():
    dropout = layers.Dropout(0.5, activity_regularizer=tf_keras.regularizers.L1(1.0))
    made = trainer(tf_keras.Sequential([dropout]), loss="mse")
    ones = np.ones([4, 500], np.float32)
    scores = made.evaluate(batches((ones, ones)), phase=MC, samples=40)
    assert scores["loss"] == pytest.approx(500 + 1 / 40, rel=0.01)  # half of the units, twice as large


def recurrent():
    inputs = tf_keras.Input(batch_shape=[2, 3, 6])
    x = layers.LSTM(4, stateful=True, dropout=0.3)(inputs)
    x = layers.Dropout(0.3)(layers.BatchNormalization()(x))
    return tf_keras.Model(inputs, layers.Dense(1)(x))


class Disturbing(trainloop.Callback):
    """Does between the steps what must not matter to them."""

    trigger = Every(steps=1)

    def __init__(self, pairs):
        self.pairs = pairs

    def on_trigger(self, trainer):
        trainer.predict(self.pairs, phase=MC, samples=2)
        trainer.evaluate(self.pairs, phase=MC, samples=2)
        trainer.evaluate(self.pairs)


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_sampling_between_steps_changes_no_bit_of_training(how):
    pairs = data.from_arrays((SEQUENCES, SEQUENCES[:, 0, :1]), batch_size=2)

    def run(*callbacks):
        tf_keras.utils.set_random_seed(3)
        made = trainer(recurrent(), optimizer="adam", loss="mse", callbacks=callbacks, metrics=["mae"], **how)
        history = made.fit(pairs, steps=4)
        states = made.model.layers[1].states
        return [*made.model.get_weights(), *states, *made.optimizers["model"].variables, history["loss"]]

    for ours, theirs in zip(run(Disturbing(pairs)), run(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("phase", [Phase.PREDICT, MC], ids=lambda phase: phase.value)
def test_the_state_of_a_stateful_rnn_is_put_back_also_after_an_exception(phase):
    made = trainer(recurrent())
    lstm = made.model.layers[1]
    made.model(SEQUENCES[:2])
    before = [state.numpy() for state in lstm.states]
    made.predict(batches(SEQUENCES, size=2), phase=phase)
    pairs = SEQUENCES.reshape(2, 2, 3, 6)
    short = tf.data.Dataset.from_generator(lambda: pairs, output_signature=tf.TensorSpec([2, 3, 6]))
    with pytest.raises(ValueError, match="exhausted after 2 batches"):
        made.predict(short, phase=phase, steps=3)
    for state, value in zip(lstm.states, before, strict=True):
        np.testing.assert_array_equal(state, value)
        assert np.any(value != 0)


def test_each_sample_begins_with_the_state_that_the_batch_has_found():
    rnn = layers.SimpleRNN(4, stateful=True, batch_input_shape=[1, 3, 6])
    net = tf_keras.Sequential([rnn, layers.GaussianNoise(1e-9)])
    made = trainer(net)
    plain = made.predict(batches(SEQUENCES[:2], size=1))
    found = made.predict(batches(SEQUENCES[:2], size=1), phase=MC, samples=4)
    np.testing.assert_allclose(found.mean, plain, atol=1e-6)
    np.testing.assert_allclose(found.std, 0, atol=1e-6)


def test_inference_in_the_midst_of_training_hands_samples_on():
    found = []
    watch = Inference(
        batches(), phase=MC, samples=3, trigger=Every(steps=2), to=lambda trainer, result: found.append(result)
    )
    made = classifier(callbacks=[watch])
    made.fit(batches((X, LABELS)), steps=4)
    assert [result.mean.shape for result in found] == [(10, 3)] * 2


def test_the_phase_is_written_down(tmp_path):
    made = classifier(workdir=tmp_path, callbacks=[trainloop.MetricsLog(), Disturbing(batches((X, LABELS)))])
    made.fit(batches((X, LABELS)), steps=1)
    lines = (tmp_path / "phases.jsonl").read_text()
    assert lines.count('"mc_predict"') == 4
    assert made.phase is None


def test_a_step_is_traced_once_for_each_number_of_samples():
    calls = []

    class Counting(Trainer):
        def predict_step(self, batch, phase):
            calls.append(phase)
            return super().predict_step(batch, phase)

    made = trainer(classifier().model, Counting)
    for _ in range(2):
        made.predict(batches(), phase=MC, samples=3)
    traced = len(calls)
    made.predict(batches(), phase=MC, samples=3)
    assert len(calls) == traced


def test_fifty_samples_unless_told_otherwise():
    assert classifier().predict(batches(), phase=MC, keep_samples=True).samples.shape == (50, 10, 3)


def test_the_mean_of_many_samples_is_near_the_plain_prediction():
    net = tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(8), layers.Dropout(0.2), layers.Dense(2)])
    made = trainer(net)
    found = made.predict(batches(), phase=MC, samples=2000)
    np.testing.assert_allclose(found.mean, made.predict(batches()), atol=6 * found.std.max() / 2000**0.5)


@pytest.mark.parametrize("method", ["predict", "evaluate"])
@pytest.mark.parametrize("parts", [[], [layers.Dropout(0.0)]], ids=["none", "idle"])
def test_a_model_that_draws_nothing_is_refused(method, parts):
    made = trainer(tf_keras.Sequential([*parts, layers.Dense(3)]), loss="mse")
    with pytest.raises(trainloop.PhaseError, match="draws nothing at random"):
        getattr(made, method)(batches((X, X[:, :3])), phase=MC)


def test_what_no_layer_shows_is_drawn_all_the_same():
    class Raw(Trainer):
        def predict_step(self, batch, phase):
            outputs = phase.call(self.model, batch)
            return outputs + trainloop.random.normal([3]) if phase is MC else outputs

    made = trainer(tf_keras.Sequential([layers.Dense(3)]), Raw)
    assert made.predict(batches(), phase=MC).std.min() > 0


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("predict", {"samples": 3}, ValueError, "predict: samples=3 with phase=Phase.PREDICT, which draws none; drop"),
        ("predict", {"keep_samples": True}, ValueError, "predict: keep_samples=True with phase=Phase.PREDICT"),
        ("evaluate", {"samples": 3}, ValueError, "evaluate: samples=3 with phase=Phase.EVAL, which draws none"),
        ("predict", {"phase": MC, "samples": 0}, ValueError, "predict: samples=0 must be a positive whole number"),
        ("evaluate", {"phase": MC, "samples": 2.5}, ValueError, "evaluate: samples=2.5 must be a positive whole"),
        ("predict", {"phase": Phase.EVAL}, ValueError, "must be Phase.PREDICT or Phase.MC_PREDICT"),
        ("evaluate", {"phase": Phase.PREDICT}, ValueError, "must be Phase.EVAL or Phase.MC_PREDICT"),
        ("predict", {"phase": "mc_predict"}, TypeError, "did you mean Phase.MC_PREDICT"),
    ],
)
def test_bad_arguments(method, options, error, message):
    with pytest.raises(error, match=message):
        getattr(classifier(), method)(batches(), **options)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (tf.strings.as_string, "predict_step returned an output of dtype string; Phase.MC_PREDICT takes"),
        (tf.RaggedTensor.from_tensor, "predict_step returned a RaggedTensor among its outputs"),
        (lambda x: None, "predict_step returned a NoneType among its outputs"),
    ],
    ids=["strings", "ragged", "nothing"],
)
def test_outputs_that_have_no_mean_are_refused(outputs, message):
    class Own(Trainer):
        def predict_step(self, batch, phase):
            return outputs(phase.call(self.model, batch))

    with pytest.raises(TypeError, match=message):
        trainer(classifier().model, Own).predict(batches(), phase=MC)
