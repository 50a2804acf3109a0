"""The three levels of `Trainer`, proved with the programs that researchers write."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.thorough import thorough
from trainloop import Callback, Checkpointing, Every, Phase, StepResult, Trainer, data, random

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


class WGAN(Trainer):
    """Wasserstein GAN with gradient penalty (Gulrajani et al. 2017): five critic updates, then one of the generator."""

    critic_updates = 5

    def noise(self, rows):
        return random.normal([rows, 4])

    def critic_loss(self, real, phase):
        critic, generator = self.model["critic"], self.model["generator"]
        z = self.noise(tf.shape(real)[0])
        fake, again = Phase.EVAL.call(generator, z), Phase.EVAL.call(generator, z)
        mix = random.uniform([tf.shape(real)[0], 1])
        between = mix * real + (1 - mix) * fake
        with tf.GradientTape() as inner:
            inner.watch(between)
            score = phase.call(critic, between)
        slope = tf.norm(inner.gradient(score, between), axis=1)
        penalty = tf.reduce_mean(tf.square(slope - 1.0))
        distance = tf.reduce_mean(phase.call(critic, real)) - tf.reduce_mean(phase.call(critic, fake))
        scalars = {"distance": distance, "penalty": penalty, "dropped": tf.reduce_max(tf.abs(fake - again))}
        return penalty - distance, scalars

    def train_step(self, batch, phase):
        for _ in range(self.critic_updates):
            with tf.GradientTape() as tape:
                loss, scalars = self.critic_loss(batch, phase)
            self.apply_gradients(self.gradients(tape, loss, "critic"), "critic")
        with tf.GradientTape() as tape:
            fake = phase.call(self.model["generator"], self.noise(tf.shape(batch)[0]))
            generator_loss = -tf.reduce_mean(Phase.EVAL.call(self.model["critic"], fake))
        self.apply_gradients(self.gradients(tape, generator_loss, "generator"), "generator")
        return {"critic_loss": loss, "generator_loss": generator_loss, **scalars}

    def eval_step(self, batch, phase):
        loss, scalars = self.critic_loss(batch, phase)
        return StepResult(loss=loss, scalars=scalars)

    def predict_step(self, batch, phase):
        return phase.call(self.model["generator"], batch)


class ConstantNoise(WGAN):
    """What reaches the generator's batch norm is the same in each call, so that its moving mean counts the calls."""

    def noise(self, rows):
        return tf.ones([rows, 4])

    def calls_in_train(self):
        dense, batch_norm, *_ = self.model["generator"].layers
        activation = dense(tf.ones([1, 4]))[0].numpy()
        moved = batch_norm.moving_mean.numpy()[activation > 0.1] / activation[activation > 0.1]
        assert np.ptp(moved) < 1e-5
        return np.log(1 - moved.mean()) / np.log(batch_norm.momentum)


def gan(kind, learning_rate):
    generator = tf_keras.Sequential(
        [
            layers.Dense(32, activation="relu", input_shape=(4,)),
            layers.BatchNormalization(momentum=0.9, beta_initializer="ones"),
            layers.Dropout(0.1),
            layers.Dense(2),
        ]
    )
    hidden = [layers.Dense(32, activation="relu") for _ in range(2)]
    critic = tf_keras.Sequential([layers.InputLayer([2]), *hidden, layers.Dense(1)])
    adam = {key: tf_keras.optimizers.Adam(learning_rate, 0.5, 0.9) for key in ("critic", "generator")}
    return kind({"generator": generator, "critic": critic}, adam, **QUIET)


MIXING = np.array([[0.8, 0.4], [0.0, 0.5]], "float32")
CENTRE = np.array([1.5, -1.0], "float32")


def distance_to_toy(samples):
    """Returns how far the mean and the covariance of samples are from those of the toy distribution."""
    covariance = np.cov(samples, rowvar=False)
    return np.abs(samples.mean(0) - CENTRE).max() + np.abs(covariance - MIXING.T @ MIXING).max()


def test_wgan_learns_a_distribution_with_five_critic_updates_a_step():
    real = normal(1024, 2) @ MIXING + CENTRE
    trainer = gan(WGAN, 5e-3)
    z = data.from_arrays(normal(2000, 4, seed=1), batch_size=500)
    before = distance_to_toy(trainer.predict(z))
    history = trainer.fit(data.from_arrays(real, batch_size=128), steps=300)
    after = distance_to_toy(trainer.predict(z))

    assert after < before / 4
    assert trainer.step == 300
    assert int(trainer.optimizer["critic"].iterations) == 1500
    assert int(trainer.optimizer["generator"].iterations) == 300
    assert set(history) >= {"critic_loss", "generator_loss", "distance", "penalty", "learning_rate/critic"}
    assert max(history["dropped"]) == 0.0  # in EVAL two calls of the generator agree
    found = trainer.evaluate(data.from_arrays(real, batch_size=256))
    assert set(found) == {"loss", "distance", "penalty", "dropped"}


def test_the_generator_is_in_eval_while_the_critic_learns():
    trainer = gan(ConstantNoise, 0.0)
    history = trainer.fit(data.from_arrays(normal(64, 2), batch_size=16), steps=7)
    assert trainer.calls_in_train() == pytest.approx(7, abs=1e-3)
    assert max(history["dropped"]) == 0.0


def test_a_generator_in_train_would_drop_units_and_move_its_statistics():
    """The measures of the tests above do see it, where the fakes of the critic are made in the phase of the step."""

    class Careless(ConstantNoise):
        def critic_loss(self, real, phase):
            z = self.noise(tf.shape(real)[0])
            first, second = (phase.call(self.model["generator"], z) for _ in range(2))
            return tf.reduce_mean(phase.call(self.model["critic"], first)), {
                "dropped": tf.reduce_max(tf.abs(first - second))
            }

    trainer = gan(Careless, 0.0)
    history = trainer.fit(data.from_arrays(normal(64, 2), batch_size=16), steps=2)
    assert trainer.calls_in_train() == pytest.approx(2 * (5 * 2 + 1), abs=1e-2)
    assert min(history["dropped"]) > 0.0


class VAE(tf_keras.Model):
    """Never called as a whole: a Trainer calls `encode` and `decode`."""

    def __init__(self):
        super().__init__()
        self.spy = Spy()
        self.encoder = tf_keras.Sequential([layers.Dense(32, activation="relu"), layers.Dense(4)])
        self.decoder = tf_keras.Sequential(
            [layers.Dense(32, activation="relu"), layers.Dropout(0.05), self.spy, layers.Dense(6)]
        )

    def encode(self, x):
        return tf.split(self.encoder(x), 2, axis=-1)

    def decode(self, z):
        return self.decoder(z)


class VAETrainer(Trainer):
    def compute_loss(self, batch, phase):
        mean, log_variance = phase.call(self.model.encode, batch)
        z = mean + tf.exp(0.5 * log_variance) * random.normal(tf.shape(mean))
        decoded = phase.call(self.model.decode, z)
        reconstruction = tf.reduce_mean(tf.reduce_sum(tf.square(batch - decoded), -1))
        terms = 0.5 * (tf.exp(log_variance) + tf.square(mean) - 1.0 - log_variance)
        kl = tf.reduce_mean(tf.reduce_sum(terms, -1))
        return StepResult(loss=reconstruction + kl, scalars={"reconstruction": reconstruction, "kl": kl})

    def predict_step(self, batch, phase):
        return phase.call(self.model.decode, batch)


def test_vae_reports_its_two_terms_apart():
    x = normal(512, 2) @ normal(2, 6, seed=1) * 2
    trainer = VAETrainer(VAE(), tf_keras.optimizers.Adam(1e-2), **QUIET)
    train = data.from_arrays(x, batch_size=48)  # the last batch of an epoch has 32 rows
    history = trainer.fit(train, epochs=12, eval_data=data.from_arrays(x[:100], batch_size=64))

    for prefix in ("", "eval/"):
        total = np.add(history[f"{prefix}reconstruction"], history[f"{prefix}kl"])
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-6)
    assert history["reconstruction"][-1] < 0.5 * history["reconstruction"][0]
    assert history["kl"][-1] > 0.1


def test_vae_decodes_in_the_phase_it_is_asked_for():
    vae = VAE()
    trainer = VAETrainer(vae, "adam", **QUIET)
    pairs = data.from_arrays(normal(32, 6), batch_size=16)
    trainer.fit(pairs, steps=2)
    trained = set(vae.spy.seen[1:])  # the first trace was in EVAL: it made the variables
    trainer.evaluate(pairs)
    z = normal(8, 2)
    sampled = trainer.predict(data.from_arrays(z, batch_size=8))
    assert trained == {True}
    assert vae.spy.seen[-2:] == [False, False]
    np.testing.assert_allclose(sampled, Phase.PREDICT.call(vae.decode, z), rtol=1e-6)
    assert np.abs(Phase.TRAIN.call(vae.decode, z) - sampled).max() > 0.01


class Distiller(Trainer):
    def __init__(self, student, teacher, **options):
        super().__init__(student, **options)
        self.teacher = teacher

    def students(self):
        return self.model

    def teachers(self):
        return self.teacher

    def compute_loss(self, batch, phase):
        x, y = batch
        student = phase.call(self.students(), x)
        teacher = Phase.PREDICT.call(self.teachers(), x)
        soft = tf.reduce_mean(
            tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher), student)
            - tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(teacher), teacher)
        )
        again = Phase.PREDICT.call(self.teachers(), x)
        return StepResult(
            loss=self.loss(y, student) + soft,
            outputs=student,
            scalars={"soft": soft, "teacher_noise": tf.reduce_max(tf.abs(teacher - again))},
        )


class DistillerInDict(Distiller):
    def __init__(self, student, teacher, *, optimizer, **options):
        Trainer.__init__(self, {"student": student, "teacher": teacher}, {"student": optimizer}, **options)

    def students(self):
        return self.model["student"]

    def teachers(self):
        return self.model["teacher"]


@pytest.mark.parametrize("kind", [Distiller, DistillerInDict])
def test_a_teacher_stays_in_predict_in_every_phase(kind):
    spy = Spy()
    teacher = tf_keras.Sequential(
        [layers.InputLayer([8]), layers.BatchNormalization(), layers.Dropout(0.5), spy, layers.Dense(3)]
    )
    student_spy = Spy()
    student = tf_keras.Sequential([layers.InputLayer([8]), student_spy, layers.Dense(3)])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = kind(student, teacher, optimizer=tf_keras.optimizers.Adam(0.05), loss=loss, metrics=["accuracy"], **QUIET)
    before = [weight.copy() for weight in teacher.get_weights()]
    x = normal(96, 8) + 1
    pairs = data.from_arrays((x, np.argmax(teacher(x), -1)), batch_size=32)
    spy.seen.clear()
    student_spy.seen.clear()
    history = trainer.fit(pairs, epochs=15, eval_data=pairs)

    assert set(spy.seen) == {False}
    assert set(student_spy.seen) == {True, False}
    assert max(history["teacher_noise"] + history["eval/teacher_noise"]) == 0.0
    assert history["eval/soft"][-1] < 0.2 * history["eval/soft"][0]
    assert history["eval/accuracy"][-1] > 0.9
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


TEXT = """the cat sat on the mat
a dog
the dog sat on the cat and the cat ran to the mat
no
on the mat a cat sat
the rat ran
a rat and a cat and a dog ran to the hat that the man had
so it goes""".splitlines()
LETTERS = "".join(sorted(set("".join(TEXT))))


def encoded(text, length=60):
    """Each line as numbers from 2; 1 begins it, 0 pads it."""
    rows = [[1, *(LETTERS.index(letter) + 2 for letter in line)] for line in text]
    return np.array([row + [0] * (length - len(row)) for row in rows], "int32")


class LanguageModel(Trainer):
    """The mean over tokens, whatever the batch, the microbatch or the replica."""

    def compute_loss(self, batch, phase):
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits = phase.call(self.model, inputs)
        real = tf.cast(targets != 0, tf.float32)
        nll = real * tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        tokens = tf.reduce_sum(real)
        return StepResult(
            loss=tf.reduce_sum(nll) / tokens, outputs=logits, targets=targets, sample_weight=real, weight=tokens
        )


class Block(layers.Layer):
    """A pre-norm transformer block that sees only what came before."""

    def __init__(self, width, dropout):
        super().__init__()
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.attend = layers.MultiHeadAttention(2, width // 2, dropout=dropout)
        self.feed = tf_keras.Sequential(
            [layers.Dense(2 * width, activation="relu"), layers.Dense(width), layers.Dropout(dropout)]
        )

    def call(self, x):
        normed = self.norms[0](x)
        x += self.attend(normed, normed, use_causal_mask=True)
        return x + self.feed(self.norms[1](x))


class Transformer(tf_keras.Model):
    def __init__(self, width=24, dropout=0.1, length=60):
        super().__init__()
        self.tokens = layers.Embedding(len(LETTERS) + 2, width)
        self.places = layers.Embedding(length, width)
        self.block = Block(width, dropout)
        self.head = layers.Dense(len(LETTERS) + 2)

    def call(self, tokens):
        x = self.tokens(tokens) + self.places(tf.range(tf.shape(tokens)[1]))
        return self.head(self.block(x))


def gru():
    return tf_keras.Sequential(
        [
            layers.Embedding(len(LETTERS) + 2, 8, mask_zero=True),
            layers.RNN(layers.GRUCell(12), return_sequences=True),
            layers.Dense(len(LETTERS) + 2),
        ]
    )


def convolution():
    return tf_keras.Sequential(
        [
            layers.Embedding(len(LETTERS) + 2, 8),
            layers.Conv1D(12, 3, padding="causal", activation="relu"),
            layers.Dense(len(LETTERS) + 2),
        ]
    )


def nll_and_tokens(model, tokens):
    logits = model(tokens[:, :-1])
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], logits).numpy()
    return (nll * (tokens[:, 1:] != 0)).sum(), (tokens[:, 1:] != 0).sum()


@pytest.mark.parametrize(("network", "microbatches"), [(gru, 1), thorough(convolution, 1), (convolution, 2)])
def test_the_epoch_loss_is_total_nll_over_total_tokens(network, microbatches):
    tokens = encoded(TEXT)
    model = network()
    model(tokens[:, :-1])
    trainer = LanguageModel(
        model, tf_keras.optimizers.SGD(0.0), metrics=["accuracy"], microbatches=microbatches, **QUIET
    )
    source = data.from_arrays(tokens, batch_size=3, shuffle=False)
    history = trainer.fit(source, epochs=1)
    found = trainer.evaluate(source)

    nll, count = nll_and_tokens(model, tokens)
    np.testing.assert_allclose([history["loss"][0], found["loss"]], nll / count, rtol=2e-7)
    of_batches = [nll_and_tokens(model, tokens[start : start + 3]) for start in (0, 3, 6)]
    assert abs(np.mean([n / c for n, c in of_batches]) - nll / count) > 1e-4
    right = np.argmax(model(tokens[:, :-1]), -1) == tokens[:, 1:]
    accuracy = right[tokens[:, 1:] != 0].mean()
    np.testing.assert_allclose([history["accuracy"][0], found["accuracy"]], accuracy, rtol=1e-6)


def test_microbatches_and_replicas_weigh_gradients_by_tokens(two_replicas):
    def weights_after(strategy, microbatches=1):
        tf_keras.utils.set_random_seed(3)
        with strategy.scope():
            model = convolution()
            model.build([None, None])
            optimizer = tf_keras.optimizers.SGD(0.5, global_clipnorm=0.5)
        trainer = LanguageModel(model, optimizer, microbatches=microbatches, **QUIET)
        history = trainer.fit(data.from_arrays(encoded(TEXT), batch_size=5, shuffle=False), epochs=2)
        return np.concatenate([weight.ravel() for weight in model.get_weights()]), history["loss"]

    whole, losses = weights_after(tf.distribute.get_strategy())
    for options in ((tf.distribute.get_strategy(), 3), (two_replicas, 1)):
        weights, other_losses = weights_after(*options)
        np.testing.assert_allclose(weights, whole, atol=2e-6)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-6)


def test_a_transformer_learns_text():
    tokens = encoded(TEXT)
    trainer = LanguageModel(Transformer(), tf_keras.optimizers.Adam(1e-2), metrics=["accuracy"], **QUIET)
    source = data.from_arrays(tokens, batch_size=4)
    history = trainer.fit(source, epochs=60)
    found = trainer.evaluate(source)
    assert history["loss"][0] > 2.0
    assert found["loss"] < 0.5
    assert found["accuracy"] > 0.8
    assert trainer.predict(source).shape == (8, 60, len(LETTERS) + 2)


class MeanTeacher(Trainer):
    """Consistency with a moving average of the student (Tarvainen and Valpola 2017)."""

    decay = 0.9

    def train_step(self, batch, phase):
        (x, y), student, teacher = batch, self.model["student"], self.model["teacher"]
        with tf.GradientTape() as tape:
            outputs = phase.call(student, x)
            consistency = tf.reduce_mean(tf.square(outputs - Phase.PREDICT.call(teacher, x)))
            loss = self.loss(y, outputs) + consistency
        self.apply_gradients(self.gradients(tape, loss, "student"), "student")
        for average, weight in zip(teacher.variables, student.variables, strict=True):
            average.assign(self.decay * average + (1 - self.decay) * weight)
        return StepResult(loss=loss, outputs=outputs, scalars={"consistency": consistency})

    def eval_step(self, batch, phase):
        x, y = batch
        outputs = phase.call(self.model["teacher"], x)
        return StepResult(loss=self.loss(y, outputs), outputs=outputs)


class EachStep(Callback):
    trigger = Every(steps=1)

    def __init__(self, do):
        self.do = do

    def on_trigger(self, trainer):
        self.do(trainer)


def mean_teacher(callbacks=(), **options):
    tf_keras.utils.set_random_seed(5)

    def network():
        return tf_keras.Sequential([layers.InputLayer([3]), layers.BatchNormalization(), layers.Dense(1)])

    student, teacher = network(), network()
    teacher.set_weights(student.get_weights())
    models = {"student": student, "teacher": teacher}
    adam = {"student": tf_keras.optimizers.Adam(0.05)}
    return MeanTeacher(models, adam, loss="mse", callbacks=callbacks, **QUIET, **options)


def sums():
    x = normal(40, 3)
    return data.from_arrays((x, x.sum(1, keepdims=True)), batch_size=8)


def test_an_average_of_the_weights_is_updated_once_a_step():
    trajectory = []
    trainer = mean_teacher([EachStep(lambda trainer: trajectory.append(trainer.model["student"].get_weights()))])
    expected = trainer.model["teacher"].get_weights()
    trainer.fit(sums(), steps=12)
    for weights in trajectory:
        expected = [0.9 * average + 0.1 * weight for average, weight in zip(expected, weights, strict=True)]
    assert len(trajectory) == 12
    for average, weight in zip(expected, trainer.model["teacher"].get_weights(), strict=True):
        np.testing.assert_allclose(average, weight, atol=1e-6)


def test_a_model_without_an_optimizer_is_state(tmp_path):
    saving = Checkpointing(trigger=Every(steps=5))
    first = mean_teacher([saving], workdir=tmp_path)
    first.fit(sums(), steps=10)

    again = mean_teacher([saving], workdir=tmp_path)
    assert again.restore(5) == 5
    again.fit(sums(), steps=10)
    for key in ("student", "teacher"):
        for one, other in zip(first.model[key].get_weights(), again.model[key].get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    found = again.evaluate(sums())
    teacher = again.model["teacher"]
    x, y = np.concatenate([b[0] for b in sums().once]), np.concatenate([b[1] for b in sums().once])
    np.testing.assert_allclose(found["loss"], np.mean((teacher(x).numpy() - y) ** 2), rtol=1e-5)


class PlainModule(tf.Module):
    """No Keras in it: variables made at the first call, dropout by hand."""

    def __init__(self):
        super().__init__()
        self.w = None

    def __call__(self, x, training):
        if self.w is None:
            self.w = tf.Variable(tf.zeros([x.shape[1], 1]), name="w")
        return tf.nn.dropout(x, 0.5) @ self.w if training else x @ self.w


class ModuleOfLayers(tf.Module):
    """Keras layers, called with nothing said."""

    def __init__(self):
        super().__init__()
        self.layers = [layers.Dropout(0.5), layers.Dense(1, use_bias=False)]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [PlainModule, ModuleOfLayers])
def test_a_plain_module_is_a_model(kind, tmp_path):
    x = normal(256, 3)
    pairs = data.from_arrays((x, x.sum(1, keepdims=True)), batch_size=32)
    module = kind()
    trainer = Trainer(
        module, tf_keras.optimizers.Adam(0.05), loss="mse", workdir=tmp_path, callbacks=[Checkpointing()], **QUIET
    )
    history = trainer.fit(pairs, epochs=10)
    found = trainer.evaluate(pairs)
    (weights,) = module.trainable_variables

    assert found["loss"] < 0.5 * history["loss"][0]
    assert history["loss"][-1] > 1.5 * found["loss"]  # only in TRAIN half of the inputs are dropped
    assert trainer.evaluate(pairs) == found
    np.testing.assert_allclose(trainer.predict(pairs), x @ weights.numpy(), rtol=1e-5, atol=1e-6)
    again = Trainer(kind(), tf_keras.optimizers.Adam(0.05), loss="mse", workdir=tmp_path, **QUIET)
    assert again.restore_or_initialize() == 80
    assert again.evaluate(pairs) == found


def fine_tuned(workdir=None, stop_at=None):
    """One script: the head alone, then all of it at a lower rate. It runs again as it stands."""

    def stop(trainer):
        if trainer.step == stop_at:
            raise KeyboardInterrupt

    tf_keras.utils.set_random_seed(11)
    base = tf_keras.Sequential([layers.InputLayer([4]), layers.Dense(6, "relu"), layers.BatchNormalization()])
    model = tf_keras.Sequential([base, layers.Dense(1)])
    base.trainable = False
    x = normal(40, 4)
    pairs = data.from_arrays((x, x.sum(1, keepdims=True)), batch_size=8)
    saving = [] if workdir is None else [Checkpointing(trigger=Every(steps=1))]
    optimizer = tf_keras.optimizers.Adam(0.05, global_clipnorm=1.0)
    trainer = Trainer(model, optimizer, loss="mse", workdir=workdir, callbacks=[*saving, EachStep(stop)], **QUIET)
    trainer.restore_or_initialize()

    untouched = base.get_weights()
    trainer.fit(pairs, epochs=2)
    frozen = trainer.step != 10 or all(map(np.array_equal, untouched, base.get_weights()))
    base.trainable = True
    trainer.optimizer.learning_rate = 0.01
    trainer.fit(pairs, epochs=5)
    return model, frozen, float(trainer.optimizer.learning_rate)


def test_stages_share_one_script_that_is_killed_anywhere(tmp_path):
    straight, frozen, _ = fine_tuned()
    assert frozen
    for stop_at in (10, 13):  # where a stage ends, and inside the second
        workdir = tmp_path / str(stop_at)
        with pytest.raises(KeyboardInterrupt):
            fine_tuned(workdir, stop_at)
        resumed, _, learning_rate = fine_tuned(workdir)
        assert learning_rate == pytest.approx(0.01)
        for one, other in zip(straight.get_weights(), resumed.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    statistics = straight.layers[0].layers[1].moving_mean
    assert np.abs(statistics).max() > 0.0  # once unfrozen they move


class Scorer(Trainer):
    """Batches of any nest go whole to the step methods."""

    def scores(self, batch, phase):
        pooled = tf.reduce_mean(phase.call(self.model, batch["words"]), axis=1)
        return tf.reduce_sum(pooled, -1) * batch["pair"][0]

    def compute_loss(self, batch, phase):
        return tf.reduce_mean(tf.square(self.scores(batch, phase) - batch["pair"][1]))

    def predict_step(self, batch, phase):
        return {"score": self.scores(batch, phase), "lengths": batch["words"].row_lengths()}


@pytest.mark.parametrize("microbatches", [1, 2])
def test_batches_of_any_nest(microbatches):
    """A dict with ragged rows and a tuple in it; ten rows in batches of four."""
    lengths = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    words = tf.RaggedTensor.from_row_lengths(np.arange(39) % 7, lengths)
    factor, target = normal(10), normal(10, seed=1)
    rows = tf.data.Dataset.from_tensor_slices({"words": words, "pair": (factor, target)}).batch(4)
    embedding = layers.Embedding(7, 3)
    trainer = Scorer(embedding, tf_keras.optimizers.SGD(0.0), microbatches=microbatches, **QUIET)
    history = trainer.fit(rows, epochs=1)
    found = trainer.predict(rows)

    table = embedding.embeddings.numpy()
    expected = np.array([table[row].mean(0).sum() for row in words.to_list()]) * factor
    np.testing.assert_allclose(found["score"], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["lengths"], lengths)
    np.testing.assert_allclose(history["loss"], [np.mean((expected - target) ** 2)], rtol=1e-5)


class Debugged(Trainer):
    def train_step(self, batch, phase):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(phase.call(self.model, batch)))
        if not isinstance(loss, tf.Tensor) or hasattr(loss, "numpy"):
            self.seen.append((phase, int(self.step), float(loss)))
        self.apply_gradients(self.gradients(tape, loss))
        return {"loss": loss}


def test_a_step_runs_in_python_where_it_is_asked_to():
    def run(eagerly):
        tf_keras.utils.set_random_seed(1)
        model = tf_keras.Sequential([layers.InputLayer([3]), layers.BatchNormalization(), layers.Dense(2)])
        trainer = Debugged(
            model, tf_keras.optimizers.SGD(0.1), run_eagerly=eagerly, report_every=Every(steps=1), **QUIET
        )
        trainer.seen = []
        history = trainer.fit(data.from_arrays(normal(20, 3), batch_size=6), steps=6)
        return trainer, history["loss"]

    compiled, losses = run(False)
    eager, eager_losses = run(True)
    assert compiled.seen == []
    assert [step for _, step, _ in eager.seen] == [0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose([loss for _, _, loss in eager.seen], losses, rtol=1e-5)
    np.testing.assert_allclose(eager_losses, losses, rtol=1e-5)
    compiled.run_eagerly = True
    compiled.fit(data.from_arrays(normal(20, 3), batch_size=6), steps=8)
    assert len(compiled.seen) == 2


class TensorFlowControl(Trainer):
    """`for` and `if` over tensors, as AutoGraph has them."""

    def train_step(self, batch, phase):
        loss = tf.constant(0.0)
        for _ in tf.range(3):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(phase.call(self.model, batch) - 1.0))
            self.apply_gradients(self.gradients(tape, loss))
        late = 0.0
        if self.step >= 2:
            late = 1.0
        return {"loss": loss, "late": late}


def test_steps_may_loop_and_branch_over_tensors():
    model = tf_keras.Sequential([layers.Dense(1)])
    trainer = TensorFlowControl(model, tf_keras.optimizers.SGD(0.1), report_every=Every(steps=1), **QUIET)
    history = trainer.fit(data.from_arrays(normal(16, 3), batch_size=8), steps=4)
    assert int(trainer.optimizer.iterations) == 12
    assert history["late"] == [0.0, 0.0, 1.0, 1.0]


class Contrastive(Trainer):
    """A projection head that only TRAIN calls, and a model that is never called as a whole."""

    traces = 0

    def compute_loss(self, batch, phase):
        self.traces += 1
        found = phase.call(self.model.encoder, batch)
        if phase is Phase.TRAIN:
            found = phase.call(self.model.head, found)
        return tf.reduce_mean(tf.square(found))


def test_a_head_that_only_train_calls_is_trained_and_traced_once():
    class Parts(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder, self.head, self.unused = layers.Dense(4), layers.Dense(2), layers.Dense(1)

    trainer = Contrastive(Parts(), "sgd", **QUIET)
    source = data.from_arrays(normal(16, 3), batch_size=8)
    trainer.fit(source, epochs=1, eval_data=source)
    before, traces = trainer.model.head.kernel.numpy(), trainer.traces
    trainer.fit(source, epochs=3, eval_data=source)
    assert np.abs(trainer.model.head.kernel - before).max() > 0.0
    assert trainer.traces == traces


def test_a_microbatch_without_a_token_counts_nothing():
    """Its mean is 0 / 0: neither the loss nor a gradient may become NaN."""
    tokens = encoded(TEXT)
    tokens[4:] = 0
    model = convolution()
    model.build([None, None])
    trainer = LanguageModel(model, tf_keras.optimizers.SGD(0.1), microbatches=2, **QUIET)
    expected = np.divide(*nll_and_tokens(model, tokens))
    history = trainer.fit(data.from_arrays(tokens, batch_size=8, shuffle=False), steps=1)
    np.testing.assert_allclose(history["loss"], [expected], rtol=1e-6)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


def test_clipping_sees_the_norm_of_a_gradient_not_of_its_slices():
    """An embedding's gradient has a slice for each token: here a row 100 times, whose norm would be 10 and not 100."""
    embedding = layers.Embedding(4, 1, embeddings_initializer="zeros")

    class Sum(Trainer):
        def compute_loss(self, batch, phase):
            return tf.reduce_sum(phase.call(self.model, batch))

    optimizer = tf_keras.optimizers.SGD(1.0, global_clipnorm=50.0)
    trainer = Sum(embedding, optimizer, report_gradient_norm=True, **QUIET)
    history = trainer.fit(data.from_arrays(np.ones([100], "int32"), batch_size=100), steps=1)
    np.testing.assert_allclose(embedding.embeddings.numpy().ravel(), [0.0, -50.0, 0.0, 0.0])
    assert history["gradient_norm"] == [100.0]


class AddsLoss(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(3, activity_regularizer="l2"), layers.Dense(3, activity_regularizer="l2")


class Alternating(Trainer):
    """TRAIN calls one half, EVAL the other: each is to pay for its own activity alone."""

    def compute_loss(self, batch, phase):
        half = self.model.first if phase is Phase.TRAIN else self.model.second
        return 0.0 * tf.reduce_mean(phase.call(half, batch))


def test_losses_of_layers_count_only_in_the_step_that_called_them():
    x = normal(8, 3)
    trainer = Alternating(AddsLoss(), tf_keras.optimizers.SGD(0.0), **QUIET)
    source = data.from_arrays(x, batch_size=8)
    history = trainer.fit(source, epochs=2, eval_data=source)
    for name, half in [("loss", trainer.model.first), ("eval/loss", trainer.model.second)]:
        activity = 0.01 * np.sum(np.square(half(x))) / len(x)
        np.testing.assert_allclose(history[name], [activity] * 2, rtol=1e-5)


def keyed(kind=MeanTeacher, **options):
    models = {key: tf_keras.Sequential([layers.InputLayer([3]), layers.Dense(1)]) for key in ("student", "teacher")}
    adam = {key: tf_keras.optimizers.Adam() for key in ("student", "teacher")}
    return kind(models, adam, loss="mse", **QUIET, **options)


def test_a_key_that_is_missing_or_unknown_is_named():
    class NoKey(MeanTeacher):
        def train_step(self, batch, phase):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(phase.call(self.model["student"], batch[0]))
            return {"loss": self.gradients(tape, loss, self.key)}

    trainer = keyed(NoKey)
    for trainer.key in (None, "critic"):
        with pytest.raises(ValueError, match=f"key={trainer.key!r}: the optimizers of .* keys 'student', 'teacher'"):
            trainer.fit(sums(), steps=1)


def test_several_models_need_a_predict_step():
    with pytest.raises(
        ValueError, match=r"predict_step: with several models \(student, teacher\) .* override predict_step"
    ):
        keyed().predict(sums())


def test_microbatches_slice_only_the_own_train_step():
    with pytest.raises(ValueError, match=r"microbatches=2 slices .* MeanTeacher overrides train_step"):
        keyed(microbatches=2)


def test_an_own_train_step_needs_an_own_eval_step():
    class OnlyTrains(Debugged):
        seen = ()

    trainer = OnlyTrains(tf_keras.Sequential([layers.InputLayer([3]), layers.Dense(1)]), "sgd", **QUIET)
    with pytest.raises(ValueError, match="override eval_step"):
        trainer.evaluate(data.from_arrays(normal(4, 3), batch_size=2))


class LossOnly(Trainer):
    def compute_loss(self, batch, phase):
        return tf.reduce_mean(tf.square(phase.call(self.model, batch[0]) - batch[1]))


def test_metrics_that_no_step_updates_are_named():
    x = normal(8, 3)
    pairs = data.from_arrays((x, x[:, :1]), batch_size=4)
    for metrics in (["mae"], [tf_keras.metrics.Mean("own"), tf_keras.losses.mse, "mae"]):
        trainer = LossOnly(tf_keras.Sequential([layers.Dense(1)]), "sgd", metrics=metrics, **QUIET)
        with pytest.warns(UserWarning, match=r"^metrics=.*'mae': .*Return \(loss, outputs\)"):
            trainer.fit(pairs, epochs=1)
    own = LossOnly(tf_keras.Sequential([layers.Dense(1)]), "sgd", metrics=[tf_keras.metrics.Mean("own")], **QUIET)
    own.fit(pairs, epochs=1)  # which the step may update itself: a warning would be an error


class CountsInPython(tf_keras.metrics.Metric):
    def __init__(self):
        super().__init__("rows")
        self.rows = 0

    def update_state(self, targets, outputs, sample_weight=None):
        self.rows += 1

    def result(self):
        return tf.constant(self.rows)

    def reset_state(self):
        self.rows = 0


def test_metrics_that_count_in_python_are_named():
    x = normal(8, 3)
    trainer = Trainer(
        tf_keras.Sequential([layers.Dense(1)]), "sgd", loss="mse", metrics=["mae", CountsInPython()], **QUIET
    )
    with pytest.warns(UserWarning, match=r"^metrics= that have no variables: rows\. .*self\.add_weight"):
        trainer.fit(data.from_arrays((x, x[:, :1]), batch_size=4), epochs=1)


class SeveralNumbers(tf_keras.metrics.Mean):
    """Reports under keys of its own, one of which is that of the loss."""

    def update_state(self, targets, outputs, sample_weight=None):
        super().update_state(outputs - targets)

    def result(self):
        return {"loss": super().result(), "bias": super().result()}


def test_keys_of_metrics_do_not_take_each_others_place():
    x = normal(8, 3)
    metrics = [SeveralNumbers("one"), SeveralNumbers("two")]
    trainer = Trainer(tf_keras.Sequential([layers.Dense(1)]), "sgd", loss="mse", metrics=metrics, **QUIET)
    pairs = data.from_arrays((x, x[:, :1]), batch_size=8)
    history, evaluated = trainer.fit(pairs, epochs=1), trainer.evaluate(pairs)
    for found in (history, evaluated):
        assert {"loss", "one_loss", "bias", "two_loss", "two_bias"} <= {*found}
        assert np.all(np.greater_equal(found["loss"], 0))
    assert history["one_loss"] == history["bias"] == history["two_bias"]
