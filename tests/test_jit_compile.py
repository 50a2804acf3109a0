"""`jit_compile=True`: XLA really compiles the steps, and they compute what they compute without it."""

import contextlib
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, metrics, optimizers

from tests.thorough import sampled, thorough
from trainloop import StepResult, Trainer, data

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[19, 4]).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
PAIRS = data.from_arrays((X, Y), batch_size=8, shuffle=False)  # the last batch of an epoch has 3 rows


def mlp(policy: str = "float32") -> tf_keras.Model:
    hidden = layers.Dense(8, activation="tanh", kernel_regularizer="l2", dtype=policy)
    return tf_keras.Sequential([layers.Input([4]), hidden, layers.Dense(1, activation="sigmoid", dtype="float32")])


def convnet() -> tf_keras.Model:
    hidden = [layers.Reshape([2, 2, 1]), layers.Conv2D(3, 2, use_bias=False), layers.BatchNormalization()]
    return tf_keras.Sequential([layers.Input([4]), *hidden, layers.Flatten(), layers.Dense(1, activation="sigmoid")])


class OwnStep(Trainer):
    """Level 3."""

    def train_step(self, batch, phase):
        x, y = batch
        with tf.GradientTape() as tape:
            outputs = phase.call(self.model, x)
            loss = self.loss(y, outputs)
        self.apply_gradients(self.gradients(tape, loss))
        return StepResult(loss=loss, outputs=outputs)


class WithStrings(Trainer):
    """Does in each step what XLA has no kernel for."""

    def compute_loss(self, batch, phase):
        loss, outputs = super().compute_loss(batch, phase)
        letters = tf.strings.length(tf.strings.as_string(loss))
        return loss + 0.0 * tf.cast(letters, tf.float32), outputs

    def predict_step(self, batch, phase):
        return tf.strings.as_string(batch[0])


def trainer_of(make_model=mlp, kind=Trainer, **options) -> Trainer:
    tf_keras.utils.set_random_seed(1)
    options = {"default_callbacks": False, "seed": 0, "loss": "binary_crossentropy"} | options
    return kind(make_model(), optimizers.Adam(0.02), **options)


def numbers(trainer: Trainer) -> dict[str, np.ndarray]:
    """Everything that a short run says."""
    history = trainer.fit(PAIRS, epochs=4, eval_data=PAIRS)
    weights = np.concatenate([weight.ravel() for weight in trainer.model.get_weights()])
    reported = {name: np.array(history[name]) for name in history if "per_second" not in name}
    return reported | {"predictions": trainer.predict(PAIRS), "weights": weights}


def assert_same_numbers(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


RUNS = {
    "metrics": {"metrics": lambda: [metrics.AUC(), metrics.MeanAbsoluteError()]},
    "microbatches": {"microbatches": 3},
    "gradient norm": {"report_gradient_norm": True},
}


def options_of(run: str) -> dict:
    """Metric objects are made anew for each Trainer."""
    return {name: value() if callable(value) else value for name, value in RUNS[run].items()}


@pytest.mark.parametrize(
    ("replicas", "run"),
    sampled(itertools.product([1, 2], RUNS), [(1, "metrics"), (2, "microbatches"), (1, "gradient norm")]),
)
def test_xla_changes_no_number(request, replicas, run):
    expected = numbers(trainer_of(**options_of(run)))
    with contextlib.nullcontext() if replicas == 1 else request.getfixturevalue("two_replicas").scope():
        trainer = trainer_of(**options_of(run), jit_compile=True)
    assert_same_numbers(numbers(trainer), expected)


@pytest.mark.parametrize("options", [{"make_model": convnet}, {"kind": OwnStep}], ids=["batch norm", "own step"])
def test_xla_changes_no_number_of_one_replica_either(options):
    assert_same_numbers(numbers(trainer_of(**options, jit_compile=True)), numbers(trainer_of(**options)))


@pytest.mark.parametrize(
    "use",
    [lambda t: t.fit(PAIRS, steps=1), lambda t: t.evaluate(PAIRS), lambda t: t.predict(PAIRS)],
    ids=["fit", "evaluate", "predict"],
)
def test_xla_compiles_the_step_of_each_phase(use):
    use(trainer_of(kind=WithStrings))
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        use(trainer_of(kind=WithStrings, jit_compile=True))


def test_xla_compiles_forward_and_backward_where_there_are_two_replicas(two_replicas):
    with two_replicas.scope():
        trainer = trainer_of(kind=WithStrings, jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="unsupported operations"):
        trainer.fit(PAIRS, steps=1)


@pytest.mark.parametrize("policy", ["mixed_float16", thorough("mixed_bfloat16")])
def test_a_half_precision_model_trains_under_xla(policy):
    losses = [trainer_of(lambda: mlp(policy), jit_compile=jit).fit(PAIRS, epochs=8)["loss"] for jit in (False, True)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-2)
