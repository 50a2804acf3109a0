"""`StopOnNaN`: it ends a run at once, and finds the tensor and the line behind a loss that is not finite."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import At, Callback, Checkpointing, Every, MetricsLog, NonFiniteLossError, StopOnNaN, Trainer, data


class Logarithm(Trainer):
    """A loss that is NaN where an input is negative."""

    def compute_loss(self, batch, phase):
        inputs, targets = batch
        logs = tf.math.log(inputs)  # the culprit
        return tf.reduce_mean(tf.square(phase.call(self.model, logs) - targets))


class Root(Trainer):
    """A loss that is finite, with a gradient that is not where an input is 0."""

    def compute_loss(self, batch, phase):
        inputs, _ = batch
        return tf.reduce_mean(tf.sqrt(tf.abs(phase.call(self.model, inputs))))


def rows(bad, at, value):
    """32 rows in batches of 4 that keep their order; those of step `at` have a bad value."""
    x = np.full([32, 3], 2.0, np.float32)
    if bad:
        x[4 * (at - 1)] = value
    return data.from_arrays((x, np.ones([32, 1], np.float32)), batch_size=4, shuffle=False)


def line_of_culprit():
    source, first = inspect.getsourcelines(Logarithm)
    return first + next(number for number, line in enumerate(source) if "the culprit" in line)


@pytest.fixture
def run(make_model, tmp_path):
    """Returns a function that runs a Trainer into a loss that is not finite, and returns both."""

    def run_it(kind, pairs, *callbacks, workdir=tmp_path, model=None, **options):
        tf_keras.utils.set_random_seed(3)
        model = model or tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1, use_bias=False)])
        options = {"default_callbacks": False, "callbacks": callbacks, "workdir": workdir, "seed": 1} | options
        trainer = kind(model, tf_keras.optimizers.SGD(0.01), **options)
        with pytest.raises(NonFiniteLossError) as caught:
            trainer.fit(pairs, steps=8)
        return trainer, caught.value

    return run_it


def test_names_step_tensor_and_line(run):
    _, error = run(Logarithm, rows(True, at=6, value=-1.0), StopOnNaN(), Checkpointing(Every(steps=2)))
    assert error.step == 6
    assert str(error) == (
        "the loss of step 6 is NaN or infinite. Run again from the checkpoint of step 4, with every tensor of step 6 "
        "checked, the first one that is not finite is\n"
        "  the output of Log (Log), float32 of shape (None, 3)\n"
        f'  File "{__file__}", line {line_of_culprit()}, in compute_loss\n'
        "    logs = tf.math.log(inputs)  # the culprit"
    )


def test_names_the_gradient_that_spoilt_the_weights_of_the_next_step(run):
    _, error = run(Root, rows(True, at=3, value=0.0), StopOnNaN(), Checkpointing(Every(steps=2)))
    assert (error.step, error.origin) == (4, 3)  # its loss is the first that sees what the gradient of step 3 has done
    assert "The update of step 3 had spoilt the weights. Run again from the checkpoint of step 2" in str(error)
    assert "the output of SqrtGrad (gradient_tape/SqrtGrad) in the backward pass, float32 of shape (None, 1)" in str(
        error
    )
    assert "File" not in str(error)


def test_says_that_the_checkpoint_is_spoilt_already(run):
    _, error = run(Root, rows(True, at=3, value=0.0), StopOnNaN(), Checkpointing(Every(steps=3)))
    assert "The checkpoint of step 3 already holds a number that is not finite" in str(error)
    assert (error.origin, error.checkpoint) == (None, None)


class Late(Trainer):
    """Spoils, where an input is 0 at step 3, a weight that no loss sees before step 6."""

    def compute_loss(self, batch, phase):
        seen, other = phase.call(self.model, batch[0])
        spoils = tf.where(self.step == 2, 1e-30 * tf.reduce_sum(tf.sqrt(tf.abs(other))), 0.0)
        return tf.reduce_mean(seen) + spoils + tf.where(self.step < 5, 0.0, tf.reduce_sum(other))


def test_searches_step_by_step_for_a_weight_that_was_spoilt_long_before(run):
    inputs = tf_keras.Input([3])
    net = tf_keras.Model(inputs, [tf_keras.layers.Dense(1, use_bias=False)(inputs) for _ in range(2)])
    saving = Checkpointing(Every(steps=1), keep=9)
    _, error = run(Late, rows(True, at=3, value=0.0), StopOnNaN(), saving, model=net)
    assert (error.step, error.origin, error.checkpoint) == (6, 3, 2)


def test_a_damaged_checkpoint_is_passed_over(run, tmp_path):
    class Damages(Callback):
        trigger = At(steps=5)

        def on_trigger(self, trainer):
            trainer.checkpoints.wait()
            (data_file,) = trainer.checkpoints.path(4).glob("state.data*")
            data_file.write_bytes(data_file.read_bytes()[:-1])

    _, error = run(Logarithm, rows(True, at=6, value=-1.0), StopOnNaN(), Damages(), Checkpointing(Every(steps=2)))
    assert error.checkpoint == 2


def test_does_not_name_an_overflow_that_loss_scaling_has_dealt_with(run):
    class Overflows(Trainer):
        """Its loss is finite at step 3, and the gradient of it too large for float16."""

        def compute_loss(self, batch, phase):
            inputs, targets = batch
            outputs = tf.cast(phase.call(self.model, tf.math.log(inputs)), tf.float32)
            return tf.where(self.step == 2, 1e10, 1.0) * tf.reduce_mean(tf.square(outputs - targets))

    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    _, error = run(Overflows, rows(True, at=6, value=-1.0), StopOnNaN(), Checkpointing(Every(steps=2), keep=9))
    assert error.step == error.origin == 6
    assert "the output of Log (Log), float32 of shape (None, 3)" in str(error)


def test_stops_before_anything_is_reported_or_saved(run):
    saving = Checkpointing(Every(steps=1))
    trainer, error = run(
        Logarithm,
        rows(True, at=3, value=-1.0),
        StopOnNaN(replay=False),
        MetricsLog(),
        saving,
        report_every=Every(steps=1),
    )
    assert error.step == 3
    assert trainer.history.steps["loss"] == [1, 2]
    assert trainer.checkpoints.steps() == [1, 2]
    assert len(trainer.workdir.metrics.read_text().splitlines()) == 2


def test_says_what_to_do_where_there_is_no_checkpoint(run, tmp_path):
    for workdir in (None, tmp_path):
        _, error = run(Logarithm, rows(True, at=1, value=-1.0), StopOnNaN(), workdir=workdir)
        assert "the loss of step 1 is NaN or infinite. There is no checkpoint" in str(error)
        assert "give the Trainer a workdir=" in str(error)


def test_looks_no_further_when_not_asked_to(run):
    _, error = run(Logarithm, rows(True, at=3, value=-1.0), StopOnNaN(replay=False), Checkpointing(Every(steps=1)))
    assert str(error) == (
        "the loss of step 3 is NaN or infinite. StopOnNaN(replay=True) would find the tensor it came from"
    )


def test_an_infinite_loss_stops_too(run):
    _, error = run(Logarithm, rows(True, at=2, value=0.0), StopOnNaN(), Checkpointing(Every(steps=1)))
    assert error.step == 2
    assert "the output of Log" in str(error)


def test_without_it_the_run_goes_on(make_model):
    trainer = Logarithm(make_model(), "sgd", default_callbacks=False)
    trainer.fit(rows(True, at=2, value=-1.0), steps=8)
    assert trainer.step == 8


def test_tensors_are_checked_no_longer_afterwards(run):
    run(Logarithm, rows(True, at=3, value=-1.0), StopOnNaN(), Checkpointing(Every(steps=1)))
    assert np.isnan(tf.math.log(-1.0))


def test_finds_it_in_steps_that_xla_compiles(run):
    saving = Checkpointing(Every(steps=1))
    trainer, error = run(Logarithm, rows(True, at=3, value=-1.0), StopOnNaN(), saving, jit_compile=True)
    assert "the output of Log (Log), float32 of shape (None, 3)" in str(error)
    assert trainer.jit_compile


def test_finds_it_on_one_of_two_replicas(two_replicas, tmp_path):
    with two_replicas.scope():
        model = tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1, use_bias=False)])
    callbacks = [StopOnNaN(), Checkpointing(Every(steps=1))]
    trainer = Logarithm(model, "sgd", callbacks=callbacks, default_callbacks=False, workdir=tmp_path)
    with pytest.raises(NonFiniteLossError, match=r"the output of Log \(Log\), float32 of shape \(None, 3\)"):
        trainer.fit(rows(True, at=3, value=-1.0), steps=8)
