"""A loop is tested by counting: traces, updates, examples; and bit by bit what a phase may not touch."""

import collections
import contextlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, metrics, optimizers

from tests.thorough import sampled
from trainloop import Callback, Every, Phase, StepResult, Trainer, data, gathering_loop, steps, summing_loop

ROWS = 19  # in batches of 8: the last one of an epoch has 3 rows
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[ROWS, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)
PAIRS = data.from_arrays((X, Y), batch_size=8)


class Counting(Trainer):
    """Counts how often Python runs each of its steps, by phase: once a trace, unless it is run eagerly."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"default_callbacks": False, "seed": 0, "loss": "mse"} | options)
        self.calls = collections.Counter()

    def compute_loss(self, batch, phase):
        self.calls[phase] += 1
        return super().compute_loss(batch, phase)

    def predict_step(self, batch, phase):
        self.calls[phase] += 1
        return super().predict_step(batch, phase)


class OwnStep(Counting):
    """Level 3."""

    def train_step(self, batch, phase):
        with tf.GradientTape() as tape:
            loss, outputs = self.compute_loss(batch, phase)
        self.apply_gradients(self.gradients(tape, loss))
        return StepResult(loss=loss, outputs=outputs)


class Rows(metrics.Metric):
    """How many rows were seen."""

    def __init__(self):
        super().__init__(name="rows", dtype="int64")
        self.seen = self.add_weight("seen", initializer="zeros", dtype=tf.int64)

    def update_state(self, y_true, y_pred, sample_weight=None):
        del y_pred, sample_weight
        self.seen.assign_add(tf.shape(y_true, tf.int64)[0])

    def result(self):
        return tf.identity(self.seen)


class LateLayers(tf_keras.Model):
    """Makes its layers in its first call, as no constructor could."""

    def build(self, input_shape):
        self.hidden, self.head = layers.Dense(4, activation="tanh"), layers.Dense(1)
        super().build(input_shape)

    def call(self, inputs):
        return self.head(self.hidden(inputs))


def built() -> tf_keras.Model:
    return tf_keras.Sequential(
        [layers.Input([4]), layers.Dense(4, use_bias=False), layers.BatchNormalization(), layers.Dense(1)]
    )


def unbuilt() -> tf_keras.Model:
    return tf_keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(1)])


def adam() -> optimizers.Optimizer:
    return optimizers.Adam(0.01)


@pytest.fixture
def compiled(monkeypatch) -> collections.Counter:
    """Counts the traces of every compiled function, by phase and by which one: the step, or the loop around it."""
    counts = collections.Counter()

    def counted(kind, name):
        original = getattr(kind, name)

        def traced(loop, *args):
            counts[loop.phase, name] += 1
            return original(loop, *args)

        monkeypatch.setattr(kind, name, traced)

    counted(steps.InnerLoop, "_whole_step")
    counted(summing_loop.SummingLoop, "_many")
    counted(gathering_loop.GatheringLoop, "_many")
    return counts


ONCE = {(phase, part): 1 for phase in (Phase.TRAIN, Phase.EVAL, Phase.PREDICT) for part in ("_whole_step", "_many")}


def alternate(trainer: Trainer) -> None:
    """Fits three times, evaluates and predicts in between, in chunks of many lengths, each pass with a ragged end."""

    class Interrupting(Callback):
        trigger = Every(steps=4) | Every(steps=7)

        def on_trigger(self, trainer):
            trainer.evaluate(PAIRS, steps=2)
            trainer.predict(PAIRS, steps=1)

    trainer.callbacks.append(Interrupting())
    for epochs in (2, 5, 12):
        trainer.fit(PAIRS, epochs=epochs, eval_data={"a": PAIRS, "b": PAIRS})
        trainer.evaluate(PAIRS)
        trainer.predict(PAIRS)
    assert trainer.step == 36


@pytest.mark.parametrize("kind", [Counting, OwnStep])
def test_each_step_is_traced_once_in_a_whole_run(compiled, kind):
    trainer = kind(built(), adam(), metrics=["mae", metrics.AUC()])
    alternate(trainer)
    assert compiled == ONCE
    assert trainer.calls == {Phase.TRAIN: 1, Phase.EVAL: 1, Phase.PREDICT: 1}


# TensorFlow traces twice what makes variables. So a model that is not built costs one trace more where it evaluates or
# predicts first, and two where it is trained, since the slots of the optimizer come after the variables of the model.
@pytest.mark.parametrize(
    ("make", "kind"),
    sampled(
        itertools.product([unbuilt, LateLayers], [Counting, OwnStep]), [(unbuilt, OwnStep), (LateLayers, Counting)]
    ),
)
def test_two_more_traces_build_a_model_that_is_trained(make, kind):
    trainer = kind(make(), adam(), metrics=["mae"])
    alternate(trainer)
    assert trainer.calls == {Phase.TRAIN: 3, Phase.EVAL: 1, Phase.PREDICT: 1}


@pytest.mark.parametrize("make", [unbuilt, LateLayers])
def test_one_more_trace_builds_a_model_that_is_evaluated_first(make):
    trainer = Counting(make(), adam(), metrics=["mae"])
    trainer.evaluate(PAIRS)
    alternate(trainer)
    assert trainer.calls == {Phase.TRAIN: 1, Phase.EVAL: 2, Phase.PREDICT: 1}


@pytest.mark.parametrize("make", [unbuilt, LateLayers])
def test_one_more_trace_builds_a_model_that_only_predicts(make):
    trainer = Counting(make())
    for _ in range(3):
        trainer.predict(PAIRS)
    assert trainer.calls == {Phase.PREDICT: 2}


def test_many_trainers_do_not_look_to_tensorflow_like_one_that_retraces(caplog):
    model = built()
    for _ in range(7):
        Counting(model).evaluate(PAIRS)
    assert "retracing" not in caplog.text


def test_each_replica_and_microbatch_calls_the_step_once_a_trace(two_replicas):
    with two_replicas.scope():
        trainer = Counting(built(), adam(), microbatches=3)
    alternate(trainer)
    assert trainer.calls == {Phase.TRAIN: 6, Phase.EVAL: 2, Phase.PREDICT: 2}


def test_one_trace_serves_another_dataset_of_the_same_kind():
    trainer = Counting(built(), adam())
    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    trainer.fit(pairs.batch(8), epochs=1)
    trainer.fit(pairs.batch(5), epochs=2)
    assert trainer.calls == {Phase.TRAIN: 1}


def test_who_takes_the_batches_does_not_trace_the_step_again(compiled):
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    trainer = Trainer(built(), adam(), loss="mse", default_callbacks=False, seed=0)
    for source in (rows, rows.map(lambda x, y: (x, y)), rows):
        trainer.evaluate(source)
    assert compiled == {(Phase.EVAL, "_whole_step"): 1, (Phase.EVAL, "_many"): 2}


def test_nothing_is_traced_in_a_phase_whoever_takes_the_batches(monkeypatch):
    """Else the trace would be taken for a part of the steps' time, and come after the run has begun to write."""
    happened = []
    trace = steps.InnerLoop._trace_loop
    monkeypatch.setattr(
        steps.InnerLoop, "_trace_loop", lambda loop, *args: (happened.append("trace"), trace(loop, *args))
    )

    class Noting(Callback):
        def on_phase_begin(self, trainer, phase):
            happened.append("begin")

        def on_phase_end(self, trainer, phase, metrics):
            happened.append("end")

    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    mapped = rows.map(lambda x, y: (x, y))
    trainer = Trainer(built(), adam(), loss="mse", default_callbacks=False, seed=0, callbacks=[Noting()])
    trainer.fit(rows, epochs=1)
    trainer.fit(mapped, epochs=2)
    for source in (rows, mapped):
        trainer.evaluate(source)
        trainer.predict(source)
    assert happened.count("trace") == 6
    assert happened == ["trace", "begin", "end"] * 6


def test_python_runs_each_step_where_run_eagerly_asks_for_it():
    trainer = Counting(built(), adam(), run_eagerly=True)
    trainer.fit(PAIRS, steps=5)
    assert trainer.calls == {Phase.TRAIN: 5}


def test_a_layer_that_is_frozen_after_the_trace_stays_as_it_is():
    trainer = Counting(built(), adam())
    trainer.fit(PAIRS, steps=2)
    trainer.model.layers[0].trainable = False
    before = trainer.model.get_weights()
    trainer.fit(PAIRS, steps=4)
    after = trainer.model.get_weights()
    np.testing.assert_array_equal(after[0], before[0])
    assert (after[-1] != before[-1]).all()


def test_the_statistics_of_frozen_batch_norm_stay_as_they_are():
    trainer = Counting(built(), adam())
    trainer.fit(PAIRS, steps=2)
    batch_norm = trainer.model.layers[1]
    batch_norm.trainable = False
    before = batch_norm.get_weights()
    trainer.fit(PAIRS, steps=4)
    for found, expected in zip(batch_norm.get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_freezing_costs_one_trace_and_thawing_none(compiled):
    trainer = Counting(built(), adam())
    for number, trainable in enumerate([True, False, True, False], start=1):
        trainer.model.layers[0].trainable = trainable
        trainer.fit(PAIRS, steps=3 * number)
    assert compiled == {(Phase.TRAIN, "_whole_step"): 2, (Phase.TRAIN, "_many"): 2}


def test_a_callback_may_freeze_a_layer_between_two_steps():
    class Freeze(Callback):
        trigger = Every(steps=3)

        def on_trigger(self, trainer):
            trainer.model.layers[0].trainable = False
            self.weights = trainer.model.get_weights()

    freeze = Freeze()
    trainer = Counting(built(), adam(), callbacks=[freeze])
    trainer.fit(PAIRS, steps=5)
    np.testing.assert_array_equal(trainer.model.get_weights()[0], freeze.weights[0])
    assert (trainer.model.get_weights()[-1] != freeze.weights[-1]).all()


@pytest.mark.parametrize(("replicas", "microbatches"), sampled(itertools.product([1, 2], [1, 3]), [(1, 3), (2, 1)]))
def test_a_step_is_one_update_and_an_epoch_is_every_row_once(request, replicas, microbatches):
    with contextlib.nullcontext() if replicas == 1 else request.getfixturevalue("two_replicas").scope():
        trainer = Counting(built(), adam(), metrics=[Rows()], microbatches=microbatches)
    history = trainer.fit(PAIRS, epochs=4, eval_data=PAIRS)
    assert (trainer.step, trainer.epoch) == (12, 4)
    assert int(trainer.optimizer.iterations.numpy()) == 12
    assert history["rows"] == history["eval/rows"] == [ROWS] * 4


def test_each_row_comes_once_an_epoch_in_an_order_of_its_own():
    class Order(Trainer):
        def compute_loss(self, batch, phase):
            tf.numpy_function(lambda rows: order.extend(rows.tolist()), [batch], [])
            return 0.0 * tf.reduce_sum(phase.call(self.model, tf.zeros([1, 4])))

    order = []
    trainer = Order(built(), "sgd", default_callbacks=False, seed=0)
    trainer.fit(data.from_arrays(np.arange(ROWS), batch_size=8), epochs=3)
    epochs = [order[start : start + ROWS] for start in range(0, 3 * ROWS, ROWS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(ROWS))] * 3
    assert len(set(map(tuple, epochs))) == 3


def state_of(trainer: Trainer) -> list[np.ndarray]:
    """Every number that training depends on, on every replica."""
    variables = [*trainer.model.variables, *trainer.optimizer.variables]
    variables += [variable for metric in trainer.metrics.objects for variable in metric.variables]
    variables += [trainer.state.step, trainer.state.epoch, trainer.state.window]
    parts = [part for variable in variables for part in getattr(variable, "values", [variable])]
    return [part.numpy() for part in parts]


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("phase", [Phase.EVAL, Phase.PREDICT])
def test_a_phase_changes_no_bit_of_what_training_depends_on(request, phase, replicas):
    with contextlib.nullcontext() if replicas == 1 else request.getfixturevalue("two_replicas").scope():
        trainer = Counting(built(), adam(), metrics=["mae", metrics.AUC(), Rows()])
    trainer.fit(PAIRS, steps=4)  # in the middle of an epoch, so that metrics and window are under way
    before = state_of(trainer)
    trainer.evaluate(PAIRS) if phase is Phase.EVAL else trainer.predict(PAIRS)
    after = state_of(trainer)
    assert len(before) == len(after) > 20 * replicas
    for found, expected in zip(after, before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_phases_between_the_steps_change_no_bit_of_a_run():
    class Interrupting(Callback):
        trigger = Every(steps=2)

        def on_trigger(self, trainer):
            trainer.evaluate(PAIRS)
            trainer.predict(PAIRS)

    states, histories = [], []
    for callbacks in ([], [Interrupting()]):
        tf_keras.utils.set_random_seed(1)
        trainer = Counting(built(), adam(), metrics=["mae"], callbacks=callbacks)
        history = trainer.fit(PAIRS, epochs=3)
        states.append(state_of(trainer))
        histories.append({name: values for name, values in history.items() if "per_second" not in name})
    assert histories[0] == histories[1]
    for plain, interrupted in zip(*states, strict=True):
        np.testing.assert_array_equal(interrupted, plain)


@pytest.mark.parametrize(("make", "microbatches"), [(built, 1), (unbuilt, 1), (unbuilt, 3)])
def test_run_eagerly_computes_what_the_compiled_run_does(make, microbatches):
    weights, histories, evaluations, predictions = [], [], [], []
    for run_eagerly in (False, True):
        tf_keras.utils.set_random_seed(1)
        trainer = Counting(make(), adam(), metrics=["mae"], run_eagerly=run_eagerly, microbatches=microbatches)
        history = trainer.fit(PAIRS, epochs=3)
        weights.append(np.concatenate([weight.ravel() for weight in trainer.model.get_weights()]))
        histories.append(history["loss"] + history["mae"])
        evaluations.append(trainer.evaluate(PAIRS))
        predictions.append(trainer.predict(PAIRS))
    np.testing.assert_allclose(weights[1], weights[0], rtol=0, atol=1e-6)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-5)
    assert evaluations[1] == pytest.approx(evaluations[0], rel=1e-5)
    np.testing.assert_allclose(predictions[1], predictions[0], rtol=0, atol=1e-6)


def test_run_eagerly_may_be_set_in_the_middle():
    trainer = Counting(built(), adam())
    for total, run_eagerly in [(3, False), (6, True), (9, False)]:
        trainer.run_eagerly = run_eagerly
        trainer.fit(PAIRS, steps=total)
    assert trainer.calls == {Phase.TRAIN: 1 + 3}
