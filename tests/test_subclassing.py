"""The three levels of `Trainer`, proved with the programs that researchers write."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, StepResult, Trainer, data

layers = tf_keras.layers
QUIET = {"default_callbacks": False, "seed": 0}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


class Spy(layers.Layer):
    """Passes its input on, and notes each `training` value that it is traced with."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, inputs, training=None):
        self.seen.append(training)
        return inputs


# ---------------------------------------------------------------------------------------------------- level 3: WGAN-GP


class WGAN(Trainer):
    """Wasserstein GAN with gradient penalty (Gulrajani et al. 2017): five critic updates, then one of the generator."""

    critic_updates = 5
    latent = 4

    def noise(self, rows):
        return tf.random.normal([rows, self.latent])

    def critic_loss(self, real, phase):
        critic = self.model["critic"]
        rows = tf.shape(real)[0]
        z = self.noise(rows)
        fake = Phase.EVAL.call(self.model["generator"], z)
        again = Phase.EVAL.call(self.model["generator"], z)
        mix = tf.random.uniform([rows, 1])
        between = mix * real + (1 - mix) * fake
        with tf.GradientTape() as inner:
            inner.watch(between)
            score = phase.call(critic, between)
        slope = tf.norm(inner.gradient(score, between) + 1e-12, axis=1)
        distance = tf.reduce_mean(phase.call(critic, real)) - tf.reduce_mean(phase.call(critic, fake))
        penalty = tf.reduce_mean(tf.square(slope - 1.0))
        return -distance + LAM * penalty, {
            "distance": distance,
            "penalty": penalty,
            "dropped": tf.reduce_max(tf.abs(fake - again)),
        }

    def train_step(self, batch, phase):
        real = batch
        for _ in range(self.critic_updates):
            with tf.GradientTape() as tape:
                loss, scalars = self.critic_loss(real, phase)
            self.apply_gradients(self.gradients(tape, loss, "critic"), "critic")
        with tf.GradientTape() as tape:
            fake = phase.call(self.model["generator"], self.noise(tf.shape(real)[0]))
            generator_loss = -tf.reduce_mean(Phase.EVAL.call(self.model["critic"], fake))
        self.apply_gradients(self.gradients(tape, generator_loss, "generator"), "generator")
        return {"critic_loss": loss, "generator_loss": generator_loss, **scalars}

    def eval_step(self, batch, phase):
        loss, scalars = self.critic_loss(batch, phase)
        return StepResult(loss=loss, scalars=scalars)

    def predict_step(self, batch, phase):
        return phase.call(self.model["generator"], batch)


class ConstantNoise(WGAN):
    def noise(self, rows):
        return tf.ones([rows, self.latent])


def gan_models(momentum=0.9):
    generator = tf_keras.Sequential(
        [
            layers.BatchNormalization(momentum=momentum, input_shape=(4,)),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.1),
            layers.Dense(2),
        ]
    )
    critic = tf_keras.Sequential([layers.Dense(32, activation="relu", input_shape=(2,)), layers.Dense(1)])
    return {"generator": generator, "critic": critic}


def gan_optimizers(learning_rate=2e-3):
    return {
        "critic": tf_keras.optimizers.Adam(learning_rate, beta_1=0.5),
        "generator": tf_keras.optimizers.Adam(learning_rate, beta_1=0.5),
    }


LAM = 10.0
MIXING = np.array([[0.8, 0.4], [0.0, 0.5]], "float32")
CENTRE = np.array([1.5, -1.0], "float32")


def to_toy_distribution(samples):
    """Distance of samples to a Gaussian: of their means and of their covariances."""
    covariance = np.cov(samples, rowvar=False)
    return np.abs(samples.mean(0) - CENTRE).max() + np.abs(covariance - MIXING.T @ MIXING).max()


def test_wgan_learns_a_distribution_with_five_critic_updates_a_step():
    real = normal(1024, 2) @ MIXING + CENTRE
    trainer = WGAN(gan_models(), gan_optimizers(), **QUIET)
    z = data.from_arrays(normal(2000, 4, seed=1), batch_size=500)
    before = to_toy_distribution(trainer.predict(z))
    history = trainer.fit(data.from_arrays(real, batch_size=64), steps=300)
    after = to_toy_distribution(trainer.predict(z))

    assert after < 0.35 < 1.5 < before
    assert trainer.step == 300
    assert int(trainer.optimizer["critic"].iterations) == 1500
    assert int(trainer.optimizer["generator"].iterations) == 300
    assert set(history) >= {"critic_loss", "generator_loss", "distance", "penalty", "learning_rate/critic"}
    assert max(history["dropped"]) == 0.0  # in EVAL two calls of the generator agree: no unit was dropped
    found = trainer.evaluate(data.from_arrays(real, batch_size=256))
    assert set(found) == {"loss", "distance", "penalty", "dropped"}


def test_the_generator_is_in_eval_while_the_critic_learns():
    """Its batch norm sees ones in each call: the moving mean is 1 - 0.9 ** (number of calls in TRAIN)."""
    models = gan_models()
    trainer = ConstantNoise(models, gan_optimizers(0.0), **QUIET)
    trainer.fit(data.from_arrays(normal(64, 2), batch_size=16), steps=7)
    moving_mean = models["generator"].layers[0].moving_mean.numpy()
    np.testing.assert_allclose(moving_mean, 1 - 0.9**7, rtol=1e-5)


def test_a_generator_in_train_would_drop_units_and_move_its_statistics():
    """What the two tests above would see if the phase of the critic's fakes were the step's."""

    class Careless(ConstantNoise):
        def critic_loss(self, real, phase):
            eval_call, Phase.EVAL.__class__ = None, Phase.EVAL.__class__
            del eval_call
            z = self.noise(tf.shape(real)[0])
            first, second = (phase.call(self.model["generator"], z) for _ in range(2))
            return tf.reduce_mean(phase.call(self.model["critic"], first)), {
                "dropped": tf.reduce_max(tf.abs(first - second))
            }

    models = gan_models()
    trainer = Careless(models, gan_optimizers(0.0), **QUIET)
    history = trainer.fit(data.from_arrays(normal(64, 2), batch_size=16), steps=2)
    assert min(history["dropped"]) > 0.0
    np.testing.assert_allclose(models["generator"].layers[0].moving_mean.numpy(), 1 - 0.9**22, rtol=1e-5)
