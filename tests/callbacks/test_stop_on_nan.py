"""`StopOnNaN`: it ends a run at once, and finds the tensor and the line behind a loss that is not finite."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Checkpointing, Every, MetricsLog, NonFiniteLossError, StopOnNaN, Trainer, data


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

    def run_it(kind, pairs, *callbacks, workdir=tmp_path, **options):
        tf_keras.utils.set_random_seed(3)
        model = tf_keras.Sequential([tf_keras.Input([3]), tf_keras.layers.Dense(1, use_bias=False)])
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
        "the loss of step 6 is NaN or infinite. Run again from the checkpoint of step 4 with every tensor checked, the "
        "first one that is not finite is\n"
        "  the output of Log (Log), float32 of shape (None, 3)\n"
        f'  File "{__file__}", line {line_of_culprit()}, in compute_loss\n'
        "    logs = tf.math.log(inputs)  # the culprit"
    )


def test_names_the_gradient_that_spoilt_the_weights_of_the_next_step(run):
    _, error = run(Root, rows(True, at=3, value=0.0), StopOnNaN(), Checkpointing(Every(steps=2)))
    assert error.step == 4  # its loss is the first that sees what the gradient of step 3 has done
    assert "the output of SqrtGrad (gradient_tape/SqrtGrad) in the backward pass, float32 of shape (None, 1)" in str(
        error
    )
    assert "File" not in str(error)


def test_says_that_the_checkpoint_is_spoilt_already(run):
    _, error = run(Root, rows(True, at=3, value=0.0), StopOnNaN(), Checkpointing(Every(steps=1)))
    assert "The checkpoint of step 3 already holds a number that is not finite" in str(error)


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


def checkpoints_at(*steps):
    return SimpleNamespace(steps=lambda: list(steps))


def test_a_run_that_does_not_repeat_is_called_so(fake_trainer):
    replayed = []
    trainer = fake_trainer(checkpoints=checkpoints_at(2, 4), replay=replayed.append)
    text = StopOnNaN().explain(trainer, 6)
    assert replayed == [6]
    assert "from the checkpoint of step 4 with every tensor checked, all are finite" in text


def test_another_error_of_the_replay_is_itself(fake_trainer):
    def replay(step):
        raise tf.errors.InvalidArgumentError(None, None, "shapes do not match")

    with pytest.raises(tf.errors.InvalidArgumentError, match="shapes do not match"):
        StopOnNaN().explain(fake_trainer(checkpoints=checkpoints_at(4), replay=replay), 6)


def test_an_eager_step_is_described_too(fake_trainer):
    def replay(step):
        tf.math.log(tf.constant([[-1.0, 1.0]]))

    text = StopOnNaN().explain(fake_trainer(checkpoints=checkpoints_at(4), replay=replay), 6)
    assert "the output of Log, float32 of shape (1, 2)\n" in text
    assert text.endswith("in replay\n    tf.math.log(tf.constant([[-1.0, 1.0]]))")
