"""`evaluate` and `predict`, and going from one phase into another and back."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import (
    Callback,
    Checkpointing,
    Every,
    Phase,
    StepResult,
    Trainer,
    WeightAveraging,
    audit,
    contract,
    data,
    load_weights,
)

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
PAIRS = (X, X.sum(axis=1, keepdims=True))


def model():
    return tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1)])


def make(*callbacks, kind=Trainer, net=None, **options):
    return kind(net or model(), "sgd", loss="mse", default_callbacks=False, callbacks=list(callbacks), **options)


def batches(size=4):
    return data.from_arrays(PAIRS, batch_size=size, shuffle=False)


class Ragged(Trainer):
    def predict_step(self, batch, phase):
        return {"ragged": tf.RaggedTensor.from_row_lengths(batch[0][:, 0], tf.ones_like(batch[0][:, 0], tf.int32))}


@pytest.mark.parametrize("size", [4, 8])
def test_ragged_outputs_stay_with_their_rows(size):
    rows = make(kind=Ragged).predict(batches(size))["ragged"]
    assert [row.tolist() for row in rows] == [[value] for value in X[:, 0].tolist()]


class FailsOnce(Callback):
    """Raises in the first evaluation, at its beginning or its end."""

    def __init__(self, hook):
        self.hook = hook

    def on_phase_begin(self, trainer, phase):
        self.fail("begin", phase)

    def on_phase_end(self, trainer, phase, metrics):
        self.fail("end", phase)

    def fail(self, hook, phase):
        if phase is Phase.EVAL and self.hook == hook:
            self.hook = None
            raise ZeroDivisionError


@pytest.mark.parametrize("hook", ["begin", "end"])
@pytest.mark.parametrize("comes_first", [True, False])
def test_a_hook_that_raises_leaves_phase_and_averaged_weights_as_they_were(hook, comes_first):
    callbacks = [FailsOnce(hook), WeightAveraging(ema=0.5)]
    trainer = make(*callbacks if comes_first else reversed(callbacks))
    trainer.fit(batches(), steps=5)
    raw = trainer.model.get_weights()
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate(batches())
    assert trainer.phase is None
    np.testing.assert_array_equal(trainer.model.get_weights()[0], raw[0])
    averaged = trainer.evaluate(batches())["loss"]
    assert averaged != pytest.approx(float(np.mean((trainer.model(X) - PAIRS[1]) ** 2)))


class EvaluatesByItself(Callback):
    trigger = Every(steps=2)

    def on_trigger(self, trainer):
        self.scores = trainer.evaluate(batches())


def test_what_a_hook_evaluates_is_not_the_eval_loss_of_the_run():
    own = EvaluatesByItself()
    trainer = make(own)
    history = trainer.fit(batches(), steps=5)
    assert own.scores["loss"] > 0
    assert "eval/loss" not in {**history, **trainer.latest_metrics}


def test_regularisation_counts_without_an_optimizer():
    net = tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(1, kernel_regularizer="l2")])
    untrained = Trainer(net, loss="mse", default_callbacks=False).evaluate(batches())
    assert untrained == make(net=net).evaluate(batches())


def test_a_metric_and_a_scalar_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'loss' would be reported twice"):
        make(metrics=[tf_keras.metrics.MeanSquaredError("loss")]).evaluate(batches())


def test_weights_that_were_not_restored_are_told_of_once(tmp_path):
    make(Checkpointing(), workdir=tmp_path).fit(batches(), steps=2)
    fresh = make(workdir=tmp_path)
    message = r"^workdir='.*' holds checkpoints that were not restored, .* Call trainer.restore_or_initialize\(\)"
    with pytest.warns(UserWarning, match=message) as caught:
        fresh.predict(batches())
    assert caught[0].filename == __file__
    fresh.evaluate(batches())  # a second warning would be an error
    restored, loaded = make(workdir=tmp_path), make(workdir=tmp_path)
    restored.restore_or_initialize()
    load_weights(loaded.model, tmp_path)
    assert restored.evaluate(batches()) == loaded.evaluate(batches())


class Reports(Trainer):
    def compute_loss(self, batch, phase):
        loss, outputs = super().compute_loss(batch, phase)
        return StepResult(loss, outputs, scalars={"accuracy": loss, "gradient_norm": loss})


def test_a_name_that_is_reported_twice_goes_by_the_method_that_was_written():
    with pytest.raises(ValueError, match=r"^compute_loss: 'accuracy' would be reported twice"):
        make(kind=Reports, metrics=["accuracy"]).evaluate(batches())
    with pytest.raises(ValueError, match=r"^compute_loss returned a scalar named 'gradient_norm', which report_grad"):
        make(kind=Reports, report_gradient_norm=True).fit(batches(), steps=1)


def test_keras_numbers_are_no_part_of_a_metrics_name():
    tf_keras.metrics.AUC()
    assert set(make(metrics=[tf_keras.metrics.MeanAbsoluteError()]).evaluate(batches())) == {
        "loss",
        "mean_absolute_error",
    }


def recurrent():
    inputs = tf_keras.Input(batch_shape=[4, 2, 2])
    return tf_keras.Model(inputs, tf_keras.layers.Dense(1)(tf_keras.layers.SimpleRNN(3, stateful=True)(inputs)))


@pytest.mark.parametrize("how", [{}, {"run_eagerly": True}], ids=["graph", "eager"])
def test_a_training_goes_on_with_the_state_of_its_own_rnn(how):
    x = X.reshape(20, 2, 2)
    pairs = data.from_arrays((x, PAIRS[1]), batch_size=4)

    def run(**options):
        tf_keras.utils.set_random_seed(2)
        trainer = make(net=recurrent(), seed=1, **how)
        trainer.fit(pairs, steps=7, **options)
        return [*trainer.model.get_weights(), trainer.model.layers[1].states[0].numpy()]

    for found, wanted in zip(run(eval_data={"a": pairs, "b": pairs}, eval_every=Every(steps=2)), run(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_every_set_of_an_evaluation_begins_with_the_same_state():
    trainer = make(net=recurrent())
    pairs = data.from_arrays((X.reshape(20, 2, 2), PAIRS[1]), batch_size=4)
    trainer.model.layers[1].states[0].assign(tf.ones([4, 3]))
    assert trainer.evaluate(pairs) == trainer.evaluate(pairs)
    np.testing.assert_array_equal(trainer.model.layers[1].states[0], np.ones([4, 3]))


def test_a_masked_loss_counts_what_is_not_masked():
    tokens = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 6, 0, 0]])
    labels = np.random.default_rng(0).normal(size=[3, 4, 1])
    net = tf_keras.Sequential([tf_keras.layers.Embedding(7, 3, mask_zero=True), tf_keras.layers.Dense(1)])
    losses = [make(net=net).evaluate(data.from_arrays((tokens, labels), batch_size=size))["loss"] for size in (1, 2, 3)]
    assert losses == pytest.approx([losses[0]] * 3)


class Measures(tf_keras.Model):
    """Has metrics of its own: one that it updates, and one that Keras makes for it."""

    def __init__(self):
        super().__init__()
        self.dense, self.mean = tf_keras.layers.Dense(1), tf_keras.metrics.Mean()

    def call(self, x):
        y = self.dense(x)
        self.mean.update_state(y)
        self.add_metric(tf.reduce_sum(y), name="sum")
        return y


def test_a_metric_inside_a_model_is_no_violation_and_is_put_back():
    model = Measures()
    trainer = Trainer(model, "sgd", loss="mse", default_callbacks=False)
    x = np.ones([8, 2], np.float32)
    trainer.fit(data.from_arrays((x, x[:, :1]), batch_size=4), epochs=1)
    counted = model.mean.count.numpy()
    assert counted == 8
    trainer.evaluate(data.from_arrays((x, x[:, :1]), batch_size=4))
    trainer.predict(data.from_arrays(x, batch_size=4))
    assert model.mean.count.numpy() == counted


def test_a_table_that_keras_counts_among_the_weights_is_none():
    vectorize = tf_keras.layers.TextVectorization(20, output_sequence_length=3)
    vectorize.adapt(["a b c", "b c d"])
    text = tf_keras.layers.Input([], dtype=tf.string)
    hidden = tf_keras.layers.Flatten()(tf_keras.layers.Embedding(20, 4)(vectorize(text)))
    model = tf_keras.Model(text, tf_keras.layers.Dense(1)(hidden))
    trainer = Trainer(model, "sgd", loss="mse", default_callbacks=False)
    pairs = tf.data.Dataset.from_tensor_slices((["a b", "c d"], [0.0, 1.0])).batch(2)
    trainer.fit(pairs, epochs=1)
    trainer.evaluate(pairs)
    assert trainer.contract(Phase.TRAIN).verdict == "holds"
    assert contract(model, Phase.EVAL, tf.constant(["a b"])).verdict == "holds"
    assert audit(model, tf.constant(["a b"])).ok


def test_no_batch_more_is_taken_than_is_run():
    """The loop takes the next batch while a step runs; the last step of a chunk has none to take."""
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield X[:4], PAIRS[1][:4]

    signature = tuple(tf.TensorSpec([4, size], tf.float32) for size in (4, 1))
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False  # TensorFlow would read ahead by itself
    source = tf.data.Dataset.from_generator(endless, output_signature=signature).with_options(options)
    make().fit(data.from_dataset(source, resume="epoch"), steps=7)
    assert taken == list(range(7))
