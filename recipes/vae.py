"""A variational autoencoder (Kingma and Welling 2014) of the digits, its two terms reported apart.

    python recipes/vae.py

Takes 5 seconds of one CPU core and ends at 24.5 nats per test image, of which 3.2 are KL (seed 0).

`random.normal` is a declared draw: it is allowed in EVAL too, where the bound is measured with the same noise each
time. `predict` decodes: latent points go in, images come out, and dropout is off.
"""

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import StepResult, Trainer, data, random
from trainloop.tasks import digits

layers = tf_keras.layers
LATENT = 8


class VAE(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.encoder = tf_keras.Sequential([layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(2 * LATENT)])
        self.decoder = tf_keras.Sequential([layers.Dense(128, "relu"), layers.Dropout(0.1), layers.Dense(64)])

    def encode(self, images):
        return tf.split(self.encoder(images), 2, axis=-1)

    def decode(self, latent):
        return tf.reshape(self.decoder(latent), [-1, 8, 8, 1])


class VAETrainer(Trainer):
    def compute_loss(self, batch, phase):
        mean, log_variance = phase.call(self.model.encode, batch)
        latent = mean + tf.exp(0.5 * log_variance) * random.normal(tf.shape(mean))
        logits = phase.call(self.model.decode, latent)
        nats = tf.nn.sigmoid_cross_entropy_with_logits(batch, logits)
        reconstruction = tf.reduce_mean(tf.reduce_sum(nats, axis=[1, 2, 3]))
        terms = 0.5 * (tf.exp(log_variance) + tf.square(mean) - 1.0 - log_variance)
        kl = tf.reduce_mean(tf.reduce_sum(terms, axis=-1))
        return StepResult(loss=reconstruction + kl, scalars={"reconstruction": reconstruction, "kl": kl})

    def predict_step(self, batch, phase):
        return tf.sigmoid(phase.call(self.model.decode, batch))


def train(steps: int = 3000, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    trainer = VAETrainer(VAE(), tf_keras.optimizers.Adam(2e-3), seed=seed)
    trainer.fit(data.from_arrays(sets.train[0], batch_size=64), steps=steps)
    scores = trainer.evaluate(data.from_arrays(sets.test[0], batch_size=64))
    latent = np.random.default_rng(seed).normal(size=[16, LATENT]).astype("float32")
    images = trainer.predict(data.from_arrays(latent, batch_size=16))
    return {"nats per image": scores["loss"], "kl": scores["kl"], "mean of samples": float(images.mean())}


if __name__ == "__main__":
    print(train())
