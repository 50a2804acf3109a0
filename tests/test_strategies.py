"""Two replicas against one: the same global batches give the same numbers, whatever each replica gets of them."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, metrics, optimizers, regularizers
from tf_keras.mixed_precision import LossScaleOptimizer

from tests.thorough import sampled
from trainloop import AtEnd, Checkpointing, Every, StepResult, Trainer, data

# A batch of seven rows is split into three and four. The last of an epoch has one, so that one replica gets none.
ROWS, BATCH, EPOCHS = 15, 7, 4
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[ROWS, 4]).astype("float32")
Y = (X[:, :1] + RANDOM.normal(size=[ROWS, 1]) > 0).astype("float32")
TOKENS = RANDOM.integers(0, 5, size=[ROWS, 4])
WEIGHTS = RANDOM.uniform(0.0, 3.0, size=[ROWS]).astype("float32")
LOSS = "binary_crossentropy"


def mlp(*hidden: layers.Layer, **options: Any) -> tf_keras.Model:
    first = layers.Dense(8, activation="tanh", **options)
    return tf_keras.Sequential([layers.Input([4]), first, *hidden, layers.Dense(1, activation="sigmoid")])


def adam(**options: Any) -> optimizers.Optimizer:
    return optimizers.Adam(0.02, **options)


def trainer_of(model: Any, optimizer: Any, kind: type[Trainer] = Trainer, **options: Any) -> Trainer:
    return kind(model, optimizer, default_callbacks=False, seed=0, **options)


class WeighedByInput(Trainer):
    """Each row counts with its own weight, in the loss and in the scalars, as tokens do in a language model."""

    def compute_loss(self, batch, phase):
        x, y = batch
        outputs = phase.call(self.model, x)
        weights = tf.square(x[:, 0])
        errors = tf.square(outputs - y)[:, 0]
        weight = tf.reduce_sum(weights)
        return StepResult(
            loss=tf.reduce_sum(weights * errors) / weight,
            outputs=outputs,
            weight=weight,
            scalars={"second": tf.reduce_sum(weights * x[:, 1]) / weight},
        )


class OwnStep(Trainer):
    """Level 3 with one model."""

    def train_step(self, batch, phase):
        x, y = batch
        with tf.GradientTape() as tape:
            outputs = phase.call(self.model, x)
            loss = self.loss(y, outputs)
        gradients = self.gradients(tape, loss)
        self.apply_gradients(gradients)
        return StepResult(loss=loss, outputs=outputs)


class OwnWeighedStep(WeighedByInput):
    """Level 3 with a weight of its own."""

    def train_step(self, batch, phase):
        with tf.GradientTape() as tape:
            result = self.compute_loss(batch, phase)
        self.apply_gradients(self.gradients(tape, result.loss, weight=result.weight))
        return result


class TwoModels(Trainer):
    """Level 3 with two models and two optimizers, each with a loss of its own."""

    def losses(self, batch, phase):
        x, y = batch
        code = phase.call(self.model["encoder"], x)
        outputs = phase.call(self.model["head"], code)
        head = self.loss(y, outputs)
        return head + 0.1 * tf.reduce_mean(tf.square(code)), head, outputs

    def train_step(self, batch, phase):
        with tf.GradientTape(persistent=True) as tape:
            encoder, head, outputs = self.losses(batch, phase)
        found = {"encoder": self.gradients(tape, encoder, "encoder"), "head": self.gradients(tape, head, "head")}
        for key, gradients in found.items():
            self.apply_gradients(gradients, key)
        return StepResult(loss=encoder, outputs=outputs, scalars={"head": head})

    def eval_step(self, batch, phase):
        loss, head, outputs = self.losses(batch, phase)
        return StepResult(loss=loss, outputs=outputs, scalars={"head": head})

    def predict_step(self, batch, phase):
        return phase.call(self.model["head"], phase.call(self.model["encoder"], batch[0]))


def two_models() -> Trainer:
    encoder = tf_keras.Sequential([layers.Input([4]), layers.Dense(8, activation="tanh")])
    head = tf_keras.Sequential([layers.Input([8]), layers.Dense(1, activation="sigmoid")])
    models = {"encoder": encoder, "head": head}
    return trainer_of(models, {"encoder": adam(clipnorm=0.1), "head": optimizers.SGD(0.1)}, TwoModels, loss=LOSS)


def normalised() -> tf_keras.Model:
    return mlp(layers.BatchNormalization(momentum=0.9, synchronized=True), use_bias=False)


def embedding(**options: Any) -> Trainer:
    """A model whose gradient names some rows of its table more than once, within a replica and across them."""
    head = [layers.Embedding(5, 3), layers.Flatten(), layers.Dense(1, activation="sigmoid")]
    return trainer_of(tf_keras.Sequential([layers.Input([4]), *head]), adam(global_clipnorm=0.05), loss=LOSS, **options)


def scored() -> list[metrics.Metric]:
    return [metrics.AUC(), metrics.MeanSquaredError(), metrics.BinaryAccuracy()]


PAIRS = (X, Y)
CASES: dict[str, tuple[Callable[[], Trainer], Any]] = {
    "adam": (lambda: trainer_of(mlp(), adam(), loss=LOSS), PAIRS),
    "sgd, clipped": (lambda: trainer_of(mlp(), optimizers.SGD(0.3, global_clipnorm=0.1), loss=LOSS), PAIRS),
    "metrics": (lambda: trainer_of(mlp(), adam(), loss=LOSS, metrics=scored()), PAIRS),
    "metrics by name": (lambda: trainer_of(mlp(), adam(), loss=LOSS, metrics=["accuracy", "mae"]), PAIRS),
    "sample weights": (
        lambda: trainer_of(mlp(), adam(), loss=LOSS, metrics=scored(), unweighted_metrics=["mae"]),
        (X, Y, WEIGHTS),
    ),
    "regularisation": (lambda: trainer_of(mlp(kernel_regularizer=regularizers.L2(0.1)), adam(), loss=LOSS), PAIRS),
    "synchronized batch norm": (lambda: trainer_of(normalised(), adam(), loss=LOSS, metrics=scored()), PAIRS),
    "microbatches": (lambda: trainer_of(mlp(), adam(), loss=LOSS, metrics=scored(), microbatches=3), PAIRS),
    "microbatches, sample weights": (
        lambda: trainer_of(mlp(), adam(), loss=LOSS, metrics=scored(), microbatches=3),
        (X, Y, WEIGHTS),
    ),
    "gradient norm": (
        lambda: trainer_of(mlp(), adam(global_clipnorm=0.1), loss=LOSS, report_gradient_norm=True),
        PAIRS,
    ),
    "embedding": (embedding, (TOKENS, Y)),
    "embedding, gradient norm": (lambda: embedding(report_gradient_norm=True), (TOKENS, Y)),
    "embedding, microbatches": (lambda: embedding(microbatches=3), (TOKENS, Y)),
    "own weight": (lambda: trainer_of(mlp(), adam(), WeighedByInput), PAIRS),
    "own weight, microbatches": (lambda: trainer_of(mlp(), adam(), WeighedByInput, microbatches=3), PAIRS),
    "own step": (lambda: trainer_of(normalised(), adam(clipnorm=0.1), OwnStep, loss=LOSS, metrics=scored()), PAIRS),
    "own step, own weight": (lambda: trainer_of(mlp(), adam(), OwnWeighedStep), PAIRS),
    "two models": (two_models, PAIRS),
}


@dataclasses.dataclass
class Outcome:
    """What a run leaves, as plain numbers."""

    history: dict[str, list[float]]
    evaluation: dict[str, float]
    predictions: np.ndarray
    weights: list[np.ndarray]


def outcome(make: Callable[[], Trainer], arrays: Any, scope: Any) -> Outcome:
    tf_keras.utils.set_random_seed(1)
    with scope:
        trainer = make()
    rows = data.from_arrays(arrays, batch_size=BATCH, shuffle=False)
    history = trainer.fit(rows, epochs=EPOCHS)
    return Outcome(
        {key: values for key, values in history.items() if "per_second" not in key},
        trainer.evaluate(rows),
        trainer.predict(rows),
        [weight for model in trainer.models.values() for weight in model.get_weights()],
    )


ALWAYS = ["sgd, clipped", "metrics by name", "microbatches, sample weights", "embedding, microbatches", "gradient norm"]
ALWAYS += ["synchronized batch norm", "own weight, microbatches", "own step", "two models"]


@pytest.fixture(scope="module", params=sampled(CASES, ALWAYS))
def one_and_two(request, two_replicas) -> tuple[Outcome, Outcome]:
    """The same run on one replica and on two."""
    make, arrays = CASES[request.param]
    return outcome(make, arrays, contextlib.nullcontext()), outcome(make, arrays, two_replicas.scope())


def assert_same_numbers(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert list(one) == list(two)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)


def test_two_replicas_report_what_one_does(one_and_two):
    one, two = one_and_two
    assert_same_numbers(one.history, two.history)


def test_two_replicas_learn_what_one_does(one_and_two):
    one, two = one_and_two
    for ours, theirs in zip(one.weights, two.weights, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_two_replicas_evaluate_to_what_one_does(one_and_two):
    one, two = one_and_two
    assert_same_numbers(one.evaluation, two.evaluation)


def test_two_replicas_predict_what_one_does(one_and_two):
    one, two = one_and_two
    assert two.predictions.shape == (ROWS, 1)
    np.testing.assert_allclose(two.predictions, one.predictions, rtol=0, atol=1e-5)


def test_two_replicas_resume_to_the_same_bits(two_replicas, tmp_path):
    """Each has statistics of batch normalization and sums of metrics of its own, of which TensorFlow saves the mean."""

    def make(workdir):
        tf_keras.backend.clear_session()
        tf_keras.utils.set_random_seed(1)
        with two_replicas.scope():
            model = mlp(layers.BatchNormalization(momentum=0.9), layers.Dropout(0.2))
            saving = Checkpointing(Every(steps=4) | AtEnd())
            return trainer_of(model, adam(), loss=LOSS, metrics=scored(), workdir=workdir, callbacks=[saving])

    def outcome(trainer):
        trainer.fit(data.from_arrays(PAIRS, batch_size=BATCH), steps=8)
        kept = [*trainer.model.variables, *(v for metric in trainer.metrics.objects for v in metric.variables)]
        return [[each.numpy().tolist() for each in two_replicas.experimental_local_results(v)] for v in kept]

    trainer = make(tmp_path)
    unbroken = outcome(trainer)
    assert any(one != other for one, other in unbroken)
    trainer.restore(4)  # in the midst of the second epoch
    assert outcome(trainer) == unbroken
    resumed = make(tmp_path)
    resumed.restore(4)
    assert outcome(resumed) == unbroken


@pytest.mark.parametrize(("replicas", "microbatches"), sampled([(1, 2), (2, 1), (2, 2)], [(2, 2)]))
@pytest.mark.parametrize("optimizer", [adam, lambda: LossScaleOptimizer(adam(), initial_scale=8.0)])
def test_a_part_of_no_weight_counts_nothing(two_replicas, replicas, microbatches, optimizer):
    x = X[:8].copy()
    x[:4, 0] = 0.0  # the weight of each row of the first part, whose mean is therefore 0 / 0
    rows, found = data.from_arrays((x, Y[:8]), batch_size=8, shuffle=False), []
    for scope, parts in ((contextlib.nullcontext(), 1), (two_replicas.scope(), microbatches)):
        tf_keras.utils.set_random_seed(1)
        with scope if replicas == 2 else contextlib.nullcontext():
            trainer = trainer_of(mlp(), optimizer(), WeighedByInput, microbatches=parts)
        history = trainer.fit(rows, epochs=EPOCHS)
        found.append({name: history[name] for name in ("loss", "second")} | {"predicted": trainer.predict(rows)})
    assert np.isfinite(found[0]["loss"]).all()
    assert_same_numbers(*found)


def lazy() -> tf_keras.Model:
    """A model that has no variable before its first call."""
    return tf_keras.Sequential([layers.Dense(8, activation="tanh"), layers.Dense(1, activation="sigmoid")])


@pytest.mark.parametrize(("make_model", "make_optimizer"), [(mlp, adam), (lazy, lambda: "adam")])
def test_only_the_model_has_to_be_made_in_the_scope(two_replicas, make_model, make_optimizer):
    rows, found = data.from_arrays((X, Y, WEIGHTS), batch_size=BATCH, shuffle=False), []
    for scope in (contextlib.nullcontext(), two_replicas.scope()):
        tf_keras.utils.set_random_seed(1)
        with scope:
            model = make_model()
        trainer = trainer_of(model, make_optimizer(), loss=LOSS, metrics=[metrics.AUC(), "mae"])
        history = trainer.fit(rows, epochs=EPOCHS)
        evaluated = {f"eval/{name}": value for name, value in trainer.evaluate(rows).items()}
        found.append({name: history[name] for name in ("loss", "auc", "mae")} | evaluated)
    assert_same_numbers(*found)


class Seen(layers.Layer):
    """Counts what it sees, each replica for itself."""

    def __init__(self):
        super().__init__()
        self.rows = metrics.Sum("rows", dtype="int64")

    def call(self, x):
        if not tf.distribute.in_cross_replica_context():  # where the model is built
            self.rows.update_state(tf.shape(x)[0])
        return x


def test_an_evaluation_leaves_what_each_replica_holds_of_a_metric_inside_the_model(two_replicas):
    with two_replicas.scope():
        seen = Seen()
        trainer = trainer_of(mlp(seen), adam(), loss="mse")
    uneven = data.from_arrays((X[:15], Y[:15]), batch_size=5, shuffle=False)
    trainer.fit(uneven, steps=3)
    [total] = seen.rows.variables
    before = [part.numpy() for part in total.values]
    assert before[0] != before[1]
    trainer.evaluate(uneven)
    assert [part.numpy() for part in total.values] == before


def test_each_replica_gets_half_of_a_batch(two_replicas):
    seen = []

    class Counting(Trainer):
        def predict_step(self, batch, phase):
            tf.numpy_function(lambda rows: seen.append(int(rows)) or rows, [tf.shape(batch)[0]], tf.int32)
            return batch

    with two_replicas.scope():
        trainer = trainer_of(mlp(), None, Counting)
    trainer.predict(data.from_arrays(X[:8], batch_size=8))
    assert seen == [4, 4]


def test_predictions_of_different_lengths_come_back_in_order(two_replicas):
    class Echo(Trainer):
        def predict_step(self, batch, phase):
            return batch

    lengths = [5, 3, 3, 2, 4]
    rows = [np.full([length], float(place), "float32") for place, length in enumerate(lengths)]
    dataset = tf.data.Dataset.from_generator(lambda: rows, output_signature=tf.TensorSpec([None], tf.float32))
    with two_replicas.scope():
        trainer = trainer_of(mlp(), None, Echo)
    found = trainer.predict(dataset.padded_batch(3))
    assert [row.shape for row in found] == [(5,), (5,), (5,), (4,), (4,)]
    assert [row[0] for row in found] == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "make", [lambda: tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.experimental.CentralStorageStrategy]
)
def test_another_strategy_is_refused_by_name(make):
    strategy = make()
    with strategy.scope():
        model = mlp()
    with pytest.raises(NotImplementedError, match=rf"model= was built under {type(strategy).__name__}.*MirroredStr"):
        trainer_of(model, "sgd", loss=LOSS)


def test_models_of_different_strategies_are_refused(two_replicas):
    with two_replicas.scope():
        there = mlp()
    with pytest.raises(ValueError, match="built under different strategies"):
        trainer_of({"here": mlp(), "there": there}, None)
