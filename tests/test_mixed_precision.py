"""Half precision: who gets a loss scale, what an overflow does, and that a step never sees the scale."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, optimizers
from tf_keras.mixed_precision import LossScaleOptimizer

from tests.thorough import sampled
from trainloop import StepResult, StopOnNaN, Trainer, data

X = np.array([[1.0, 2.0], [3.0, -2.0], [0.5, 1.0], [1.5, 1.0]], "float32")
GRADIENT = X.mean(axis=0)[:, None]  # of the mean output of a linear model, by its kernel
OVERFLOWING = 2.0**40  # times such a gradient is infinite in float16


def linear(policy: str) -> tf_keras.Model:
    """`x @ kernel`, computed under a precision policy, the result in float32; the kernel is all ones."""
    half = layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype=policy)
    return tf_keras.Sequential([layers.Input([2]), half, layers.Activation("linear", dtype="float32")])


class MeanOutput(Trainer):
    """Minimises the mean output: every number of it is exact in float16 for the rows above."""

    def compute_loss(self, batch, phase):
        return tf.reduce_mean(phase.call(self.model, batch))


class OwnStep(MeanOutput):
    """Level 3; reports the gradient as the step sees it."""

    def train_step(self, batch, phase):
        with tf.GradientTape() as tape:
            loss = self.compute_loss(batch, phase)
        gradients = self.gradients(tape, loss)
        self.apply_gradients(gradients)
        return StepResult(loss=loss, scalars={"0": gradients[0][0, 0], "1": gradients[0][1, 0]})


def trainer_of(policy="mixed_float16", *, scale=None, kind=MeanOutput, optimizer=None, **options) -> Trainer:
    optimizer = optimizer or optimizers.SGD(0.25)
    if scale is not None:
        optimizer = LossScaleOptimizer(optimizer, initial_scale=scale)
    return kind(linear(policy), optimizer, default_callbacks=False, seed=0, **options)


def train(trainer: Trainer, steps: int = 1) -> np.ndarray:
    """Returns by how much the kernel has moved after some steps over all rows."""
    before = trainer.model.get_weights()[0]
    trainer.fit(data.from_arrays(X, batch_size=4, shuffle=False), steps=steps)
    return trainer.model.get_weights()[0] - before


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float32"])
@pytest.mark.parametrize("optimizer", ["sgd", optimizers.SGD()], ids=["by name", "as an object"])
def test_an_optimizer_is_wrapped_for_float16_alone(optimizer, policy):
    trainer = MeanOutput(linear(policy), optimizer)
    assert isinstance(trainer.optimizer, LossScaleOptimizer) == (policy == "mixed_float16")


def test_a_wrapped_optimizer_is_not_wrapped_again():
    given = LossScaleOptimizer(optimizers.SGD())
    assert trainer_of(optimizer=given).optimizer is given


def test_of_several_optimizers_only_that_of_the_half_model_is_wrapped():
    models = {"half": linear("mixed_float16"), "full": linear("float32")}
    wrapped = Trainer(models, {"half": "sgd", "full": "sgd"}, loss="mse").optimizer
    assert [key for key in wrapped if isinstance(wrapped[key], LossScaleOptimizer)] == ["half"]


def test_a_half_layer_deep_inside_is_enough():
    x = layers.Input([2])
    model = tf_keras.Model(x, layers.Activation("linear", dtype="float32")(linear("mixed_float16")(x)))
    assert isinstance(MeanOutput(model, "sgd").optimizer, LossScaleOptimizer)


STEPS = {
    "plain": {},
    "microbatches": {"microbatches": 3},
    "gradient norm": {"report_gradient_norm": True},
    "own step": {"kind": OwnStep},
}


@pytest.fixture(params=["one replica", "two replicas"])
def scope(request):
    if request.param == "one replica":
        return contextlib.nullcontext()
    return request.getfixturevalue("two_replicas").scope()


@pytest.mark.parametrize("step", STEPS)
def test_an_overflow_skips_the_update_and_halves_the_scale(scope, step):
    with scope:
        trainer = trainer_of(scale=OVERFLOWING, **STEPS[step])
    assert not train(trainer, steps=2).any()
    assert float(trainer.optimizer.loss_scale) == OVERFLOWING / 4


@pytest.mark.parametrize("scale", sampled([1.0, 2.0**10], [2.0**10]))
@pytest.mark.parametrize("step", STEPS)
def test_the_update_does_not_depend_on_the_scale(scope, step, scale):
    with scope:
        trainer = trainer_of(scale=scale, **STEPS[step])
    np.testing.assert_allclose(train(trainer), -0.25 * GRADIENT, rtol=1e-6)
    assert float(trainer.optimizer.loss_scale) == scale


@pytest.mark.parametrize("scale", [1.0, 2.0**10])
def test_an_own_step_gets_gradients_without_the_scale(scale):
    trainer = trainer_of(scale=scale, kind=OwnStep)
    train(trainer)
    np.testing.assert_allclose([trainer.history["0"], trainer.history["1"]], GRADIENT)


def test_clipping_comes_after_the_scale_is_taken_out():
    trainer = trainer_of(scale=2.0**10, optimizer=optimizers.SGD(1.0, global_clipnorm=0.5))
    np.testing.assert_allclose(train(trainer), -0.5 * GRADIENT / np.linalg.norm(GRADIENT), rtol=1e-6)


def test_training_goes_on_once_the_scale_is_low_enough():
    trainer = trainer_of(scale=2.0**17)
    moved = train(trainer, steps=10)
    skipped = int(17 - np.log2(trainer.optimizer.loss_scale))
    assert 0 < skipped < 10
    np.testing.assert_allclose(moved, -0.25 * (10 - skipped) * GRADIENT, rtol=1e-6)


@pytest.mark.parametrize(("scale", "found"), [(1.0, 0.0), (2.0**15, 2.0**-26 * GRADIENT[0, 0])])
def test_the_scale_saves_a_gradient_that_float16_would_lose(scale, found):
    class TinyLoss(OwnStep):
        def compute_loss(self, batch, phase):
            return 2.0**-26 * super().compute_loss(batch, phase)

    trainer = trainer_of(scale=scale, kind=TinyLoss)
    train(trainer)
    assert trainer.history["0"] == [found]


def test_an_overflow_is_no_reason_to_stop():
    trainer = trainer_of(scale=OVERFLOWING, callbacks=[StopOnNaN()])
    train(trainer, steps=3)
    assert trainer.step == 3


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_weights_stay_in_float32_and_numbers_are_finite(policy):
    trainer = trainer_of(policy, kind=Trainer, loss="mse", metrics=["mae"])
    rows = data.from_arrays((X, X[:, :1]), batch_size=3)
    history = trainer.fit(rows, epochs=2, eval_data=rows)
    assert {weight.dtype for weight in trainer.model.get_weights()} == {np.dtype("float32")}
    assert np.isfinite([history[name] for name in ("loss", "mae", "eval/loss", "eval/mae")]).all()
