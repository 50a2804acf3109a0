"""`WeightAveraging`: the averages, who sees them, and that training never does."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import Callback, Checkpointing, Every, Inference, Phase, Trainer, WeightAveraging, data

EMA = 0.8


class Weights(Callback):
    """Keeps the weights after every step, and those that are there in each other phase."""

    trigger = Every(steps=1)

    def __init__(self):
        self.after_step, self.in_phase = [], []

    def on_trigger(self, trainer):
        self.after_step.append(trainer.model.get_weights())

    def on_phase_end(self, trainer, phase, metrics):
        if phase is not Phase.TRAIN:
            self.in_phase.append(trainer.model.get_weights())


def moving_average(history):
    """The exponential moving average with the sum of its coefficients divided out."""
    shares = [(1 - EMA) * EMA ** (len(history) - 1 - k) for k in range(len(history))]
    return [sum(s * w for s, w in zip(shares, each, strict=True)) / sum(shares) for each in zip(*history, strict=True)]


def assert_equal(ours, theirs, **tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, **tolerance or {"rtol": 0, "atol": 0})


def test_evaluation_sees_the_moving_average(make_trainer, pairs, inputs):
    weights = Weights()
    trainer = make_trainer(weights, WeightAveraging(ema=EMA))
    history = trainer.fit(pairs, epochs=2, eval_data=pairs)
    for number, seen in enumerate(weights.in_phase, 1):
        assert_equal(seen, moving_average(weights.after_step[: 4 * number]), rtol=1e-5, atol=1e-6)
    averaged = moving_average(weights.after_step)
    trainer.model.set_weights(averaged)
    loss = np.mean((trainer.model(inputs).numpy() - inputs.sum(axis=1, keepdims=True)) ** 2)
    assert history["eval/loss"][-1] == pytest.approx(loss, rel=1e-4)


def test_training_never_sees_it(make_trainer, pairs):
    plain, averaged = Weights(), Weights()
    make_trainer(plain).fit(pairs, epochs=2)
    predict = Inference(pairs, trigger=Every(steps=3), to=lambda trainer, result: None)
    make_trainer(WeightAveraging(ema=EMA), predict, averaged).fit(pairs, epochs=2, eval_data=pairs)
    for ours, theirs in zip(averaged.after_step, plain.after_step, strict=True):
        assert_equal(ours, theirs)


def test_predictions_and_evaluations_after_fit_see_it_too(make_trainer, pairs, inputs):
    weights = Weights()
    trainer = make_trainer(weights, WeightAveraging(ema=EMA))
    trainer.fit(pairs, steps=5)
    raw = trainer.model.get_weights()
    predicted = trainer.predict(pairs)
    trainer.evaluate(pairs)
    assert_equal(trainer.model.get_weights(), raw)
    assert_equal(weights.in_phase[0], weights.in_phase[1])
    trainer.model.set_weights(moving_average(weights.after_step))
    np.testing.assert_allclose(predicted, trainer.model(inputs), rtol=1e-4, atol=1e-5)


def test_the_plain_mean_at_a_trigger(make_trainer, pairs):
    weights = Weights()
    trainer = make_trainer(weights, WeightAveraging(swa=Every(steps=3)))
    trainer.fit(pairs, steps=7)
    trainer.evaluate(pairs)
    mean = [(third + sixth) / 2 for third, sixth in zip(weights.after_step[2], weights.after_step[5], strict=True)]
    assert_equal(weights.in_phase[-1], mean, rtol=1e-6, atol=1e-7)


def test_nothing_averaged_yet_means_the_raw_weights(make_trainer, pairs):
    weights = Weights()
    trainer = make_trainer(weights, WeightAveraging(swa=Every(steps=100)))
    trainer.fit(pairs, steps=2)
    trainer.evaluate(pairs)
    assert_equal(weights.in_phase[-1], weights.after_step[-1])


class Failing(Callback):
    """Fails when a prediction has begun."""

    def on_phase_begin(self, trainer, phase):
        if phase is Phase.PREDICT:
            raise ZeroDivisionError


def test_the_raw_weights_come_back_after_an_exception(make_trainer, pairs):
    trainer = make_trainer(WeightAveraging(ema=EMA), Failing())
    trainer.fit(pairs, steps=3)
    raw = trainer.model.get_weights()
    with pytest.raises(ZeroDivisionError):
        trainer.predict(pairs)
    assert_equal(trainer.model.get_weights(), raw)


class Nested(Callback):
    """Predicts within an evaluation."""

    def __init__(self, pairs):
        self.pairs, self.seen = pairs, []

    def on_phase_end(self, trainer, phase, metrics):
        if phase is Phase.EVAL:
            self.seen.append(trainer.model.get_weights())
            trainer.predict(self.pairs)
            self.seen.append(trainer.model.get_weights())


def test_nested_phases_swap_once(make_trainer, pairs):
    nested = Nested(pairs)
    trainer = make_trainer(nested, WeightAveraging(ema=EMA))
    trainer.fit(pairs, steps=3)
    raw = trainer.model.get_weights()
    trainer.evaluate(pairs)
    before, after = nested.seen
    assert_equal(before, after)
    assert not np.array_equal(before[0], raw[0])
    assert_equal(trainer.model.get_weights(), raw)


@pytest.mark.parametrize("options", [{"ema": EMA}, {"swa": Every(steps=2)}])
def test_a_resumed_run_ends_with_the_same_averages(make_trainer, pairs, tmp_path, options):
    unbroken = make_trainer(WeightAveraging(**options))
    unbroken.fit(pairs, steps=8)

    def make():
        return make_trainer(WeightAveraging(**options), Checkpointing(Every(steps=5)), workdir=tmp_path)

    make().fit(pairs, steps=5)
    resumed = make()
    assert resumed.restore_or_initialize() == 5
    resumed.fit(pairs, steps=8)
    np.testing.assert_array_equal(resumed.predict(pairs), unbroken.predict(pairs))


def test_averages_that_are_new_in_a_resumed_run_start_fresh(make_trainer, pairs, tmp_path, caplog):
    make_trainer(Checkpointing(Every(steps=3)), workdir=tmp_path).fit(pairs, steps=3)
    averaging = WeightAveraging(ema=0.9)
    trainer = make_trainer(averaging, workdir=tmp_path)
    with caplog.at_level("WARNING"):
        trainer.restore_or_initialize()
    assert "WeightAveraging was not there when the checkpoint was saved; it starts fresh" in caplog.text
    trainer.fit(pairs, steps=4)
    with averaging.applied(trainer):  # of one step, which is those of that step
        averages = trainer.model.get_weights()
    for average, weights in zip(averages, trainer.model.get_weights(), strict=True):
        np.testing.assert_allclose(average, weights, rtol=1e-6)


def test_a_restored_run_predicts_with_the_averages(make_trainer, pairs, tmp_path):
    trained = make_trainer(WeightAveraging(ema=EMA), Checkpointing(), workdir=tmp_path)
    trained.fit(pairs, steps=5)
    restored = make_trainer(WeightAveraging(ema=EMA), Checkpointing(), workdir=tmp_path)
    restored.restore_or_initialize()
    np.testing.assert_array_equal(restored.predict(pairs), trained.predict(pairs))


def test_two_replicas_average_as_one_does(two_replicas, make_model, make_trainer, pairs, inputs):
    one = make_trainer(WeightAveraging(ema=EMA))
    one.fit(pairs, steps=5)
    with two_replicas.scope():
        model = make_model()
    two = make_trainer(WeightAveraging(ema=EMA), model=model)
    two.fit(pairs, steps=5)
    np.testing.assert_allclose(two.predict(pairs), one.predict(pairs), atol=1e-5)
    assert not np.allclose(two.predict(pairs), two.model(inputs), atol=1e-4)


def test_eager_steps_average_as_compiled_ones_do(make_trainer, pairs):
    compiled, eager = make_trainer(WeightAveraging(ema=EMA)), make_trainer(WeightAveraging(ema=EMA), run_eagerly=True)
    for trainer in (compiled, eager):
        trainer.fit(pairs, steps=5)
    np.testing.assert_allclose(eager.predict(pairs), compiled.predict(pairs), atol=1e-5)


def test_frozen_weights_and_moving_statistics_stay_what_they_are(make_trainer, pairs):
    model = tf_keras.Sequential([layers.Input([3]), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])
    model.layers[0].trainable = False
    weights = Weights()
    trainer = make_trainer(weights, WeightAveraging(ema=EMA), model=model)
    trainer.fit(pairs, steps=4)
    trainer.evaluate(pairs)
    seen = zip(model.weights, weights.after_step[-1], weights.in_phase[-1], strict=True)
    same = {variable.name for variable, raw, averaged in seen if np.array_equal(raw, averaged)}
    frozen = {variable.name for variable in model.layers[0].weights}
    statistics = {variable.name for variable in model.weights if "moving" in variable.name}
    assert same == frozen | statistics


def test_a_variable_that_two_models_share_has_one_average():
    shared = tf.Variable([1.0])
    averaging = WeightAveraging(ema=EMA)
    averaging.build([shared, tf.Variable([2.0]), shared])
    assert len(averaging.tracked["averages"]) == 2


def normalized():
    return tf_keras.Sequential([layers.Input([3]), layers.Dense(4), layers.BatchNormalization(), layers.Dense(1)])


def statistics_with(model, weights, inputs):
    """The mean and variance of what comes into the batch normalization of a model with other weights."""
    hidden = inputs @ weights[0] + weights[1]
    return hidden.mean(0), hidden.var(0)


class Phases(Weights):
    """Also keeps the names of the phases that were entered."""

    def __init__(self):
        super().__init__()
        self.entered = []

    def on_phase_begin(self, trainer, phase):
        self.entered.append(phase.value)


@pytest.mark.parametrize("how", [{"ema": EMA}, {"swa": Every(steps=2)}], ids=["ema", "swa"])
def test_averaged_weights_have_statistics_of_their_own(make_trainer, pairs, inputs, how):
    seen = Phases()
    whole = data.from_arrays(inputs, batch_size=len(inputs))
    trainer = make_trainer(seen, WeightAveraging(**how, bn_data=whole), model=normalized())
    trainer.fit(pairs, epochs=2, eval_data=pairs)
    raw = trainer.model.get_weights()
    trainer.predict(pairs)
    assert seen.entered.count("eval") == 2
    assert seen.entered.count("update_bn") in (2, 3)  # swa takes the last weights in after the last evaluation
    for weights in seen.in_phase:
        mean, variance = statistics_with(trainer.model, weights, inputs)
        np.testing.assert_allclose(weights[4], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(weights[5], variance, rtol=1e-4)
    assert_equal(trainer.model.get_weights(), raw)
    assert not np.allclose(raw[4], seen.in_phase[-1][4], rtol=1e-2)


def test_training_never_sees_these_statistics(make_trainer, pairs):
    plain, averaged = Weights(), Weights()
    tf_keras.utils.set_random_seed(1)
    make_trainer(plain, model=normalized()).fit(pairs, epochs=2)
    tf_keras.utils.set_random_seed(1)
    averaging = WeightAveraging(ema=EMA, bn_data=pairs)
    make_trainer(averaging, averaged, model=normalized()).fit(pairs, epochs=2, eval_data=pairs)
    for ours, theirs in zip(averaged.after_step, plain.after_step, strict=True):
        assert_equal(ours, theirs)


def test_each_replica_gets_its_own_statistics_back(two_replicas, make_trainer, pairs):
    with two_replicas.scope():
        model = normalized()
    trainer = make_trainer(WeightAveraging(ema=EMA, bn_data=pairs), model=model)
    trainer.fit(pairs, steps=4)
    parts = model.layers[1].moving_mean.values
    before = [part.numpy() for part in parts]
    assert not np.array_equal(*before)
    trainer.evaluate(pairs)
    assert_equal([part.numpy() for part in parts], before)


def test_they_are_measured_anew_only_when_the_averages_have_moved(make_trainer, pairs):
    seen = Phases()
    trainer = make_trainer(seen, WeightAveraging(ema=EMA, bn_data=pairs), model=normalized())
    trainer.fit(pairs, steps=4)
    trainer.evaluate(pairs)
    trainer.predict(pairs)
    assert seen.entered == ["train", "eval", "update_bn", "predict"]
    trainer.fit(pairs, steps=5)
    trainer.evaluate(pairs)
    assert seen.entered[4:] == ["train", "eval", "update_bn"]


@pytest.mark.parametrize("bn_data", [True, False])
def test_the_last_checkpoint_holds_them(make_trainer, pairs, tmp_path, bn_data):
    def make(*callbacks):
        averaging = WeightAveraging(ema=EMA, bn_data=pairs if bn_data else None)
        return make_trainer(*callbacks, averaging, Checkpointing(), model=normalized(), workdir=tmp_path)

    trained = make()
    trained.fit(pairs, steps=5)
    if not bn_data:
        trained.update_bn(pairs)
    seen = Phases()
    restored = make(seen)
    restored.restore_or_initialize()
    same = np.array_equal(restored.predict(pairs), trained.predict(pairs))
    assert (same, seen.entered) == (bn_data, ["predict"])


def test_update_bn_by_hand_serves_the_averages_until_training_goes_on(make_trainer, pairs, inputs):
    seen = Weights()
    trainer = make_trainer(seen, WeightAveraging(ema=EMA), model=normalized())
    trainer.fit(pairs, steps=5)
    raw = trainer.model.get_weights()
    trainer.update_bn(data.from_arrays(inputs, batch_size=len(inputs)))
    assert_equal(trainer.model.get_weights(), raw)
    trainer.predict(pairs)
    mean, _ = statistics_with(trainer.model, seen.in_phase[-1], inputs)
    np.testing.assert_allclose(seen.in_phase[-1][4], mean, rtol=1e-4, atol=1e-5)
    trainer.fit(pairs, steps=6)
    trainer.predict(pairs)
    assert_equal(seen.in_phase[-1][4:6], trainer.model.get_weights()[4:6])


def test_a_measurement_that_fails_counts_for_nothing(make_trainer, pairs, inputs):
    fails = [True]

    def batches():
        yield inputs[:2]
        if fails:
            raise ZeroDivisionError

    source = tf.data.Dataset.from_generator(batches, output_signature=tf.TensorSpec([None, 3]))
    seen = Phases()
    trainer = make_trainer(seen, WeightAveraging(ema=EMA, bn_data=source), model=normalized())
    trainer.fit(pairs, steps=5)
    raw = trainer.model.get_weights()
    with pytest.raises(tf.errors.OpError, match="ZeroDivisionError"):
        trainer.predict(pairs)
    assert_equal(trainer.model.get_weights(), raw)
    fails.clear()
    trainer.predict(pairs)
    mean, _ = statistics_with(trainer.model, seen.in_phase[-1], inputs[:2])
    np.testing.assert_allclose(seen.in_phase[-1][4], mean, rtol=1e-4, atol=1e-5)
    assert_equal(trainer.model.get_weights(), raw)


def test_data_for_batch_norm_without_batch_norm_are_refused_before_the_first_step(make_trainer, pairs):
    trainer = make_trainer(WeightAveraging(ema=EMA, bn_data=pairs))
    with pytest.raises(ValueError, match=r"WeightAveraging: bn_data= is there to measure .*but the model has none"):
        trainer.fit(pairs, steps=5)
    assert trainer.step == 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, "exactly one of ema= and swa=; given: ema=None, swa=None"),
        ({"ema": 0.9, "swa": Every(steps=1)}, ValueError, r"exactly one of ema= and swa=.*swa=Every\(steps=1\)"),
        ({"ema": 1.0}, ValueError, "ema=1.0 must be a number between 0 and 1"),
        ({"ema": 0}, ValueError, "ema=0 must be a number between 0 and 1"),
        ({"swa": 10}, TypeError, r"WeightAveraging: swa=10 is not a trigger.*Every\(steps=10\)"),
        ({"ema": 0.9, "bn_data": "data"}, TypeError, "WeightAveraging: bn_data= is a str; pass trainloop.data"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        WeightAveraging(**options)


def test_the_averages_can_be_put_into_the_model_for_a_block(make_trainer, pairs):
    averaging = WeightAveraging(ema=EMA, bn_data=pairs)
    trainer = make_trainer(averaging, model=normalized())
    with (
        pytest.raises(ValueError, match=r"^WeightAveraging\.applied: nothing was averaged yet; call fit"),
        averaging.applied(trainer),
    ):
        pass
    trainer.fit(pairs, steps=5)
    raw = trainer.model.get_weights()
    with averaging.applied(trainer):
        averaged = trainer.model.get_weights()
        within = trainer.evaluate(pairs)
        assert_equal(trainer.model.get_weights(), averaged)
        with pytest.raises(RuntimeError, match=r"^fit was called inside WeightAveraging\.applied"):
            trainer.fit(pairs, steps=6)
    assert_equal(trainer.model.get_weights(), raw)
    assert within == trainer.evaluate(pairs)
    trainer.model.set_weights(averaged)  # by itself, with the statistics of the averages
    [(rows, targets)] = pairs.once.rebatch(32)
    assert within["loss"] == pytest.approx(float(np.mean((trainer.model(rows) - targets) ** 2)), rel=1e-5)
    with pytest.raises(ValueError, match="trainer= has not this callback"), WeightAveraging(ema=EMA).applied(trainer):
        pass


class NeedsLabels(Trainer):
    def compute_loss(self, batch, phase):
        inputs, targets = batch
        return tf.reduce_mean(tf.square(phase.call(self.model, inputs) - targets))


def test_data_for_batch_norm_that_do_not_fit_the_loss_are_refused_before_the_first_step(inputs, pairs):
    averaging = WeightAveraging(ema=EMA, bn_data=data.from_arrays(inputs, batch_size=8))
    trainer = NeedsLabels(normalized(), "sgd", callbacks=[averaging], default_callbacks=False)
    with pytest.raises(TypeError) as caught:
        trainer.fit(pairs, steps=5)
    assert any("for the batches of WeightAveraging: bn_data=" in note for note in caught.value.__notes__)
    assert trainer.step == 0
