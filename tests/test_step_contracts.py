"""The contract of a Trainer's steps: proved before the first step runs, kept, written down."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, metrics, optimizers

from trainloop import Callback, Every, Phase, PhaseError, StepResult, Trainer, WeightAveraging, data, random, waive

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=[20, 4]).astype("float32")
PAIRS = data.from_arrays((X, X.sum(axis=1, keepdims=True)), batch_size=8)


def healthy() -> tf_keras.Sequential:
    return tf_keras.Sequential(
        [layers.Input([4]), layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(1)]
    )


def make(model, kind=Trainer, **options) -> Trainer:
    return kind(model, optimizers.Adam(0.01), **{"loss": "mse", "default_callbacks": False, "seed": 0} | options)


def state_of(trainer: Trainer) -> list[np.ndarray]:
    return [variable.numpy() for variable in (*trainer.model.variables, trainer.state.step, trainer.state.window)]


def assert_unchanged(trainer: Trainer, before: list[np.ndarray]) -> None:
    for now, then in zip(state_of(trainer), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_every_phase_of_a_healthy_trainer_holds(jit_compile):
    trainer = make(healthy(), metrics=["mae"], jit_compile=jit_compile, callbacks=[WeightAveraging(ema=0.9)])
    trainer.fit(PAIRS, epochs=1, eval_data=PAIRS)
    for phase in Phase:
        report = trainer.contract(phase)
        assert report.verdict == "holds", report
        assert report.phase is phase
        assert not report.not_resumable
        assert not report.unwritten
        assert not report.unreached
    names = {effect.variable for effect in trainer.contract(Phase.TRAIN).effects}
    assert {"dense/kernel", "batch_normalization/moving_mean", "optimizer/iteration"} <= names
    evaluated = [effect.variable for effect in trainer.contract(Phase.EVAL).effects]
    assert evaluated == ["metrics/mae/count", "metrics/mae/total"]


def test_a_step_on_two_replicas_holds(two_replicas):
    with two_replicas.scope():
        trainer = make(healthy(), metrics=["mae"])
    trainer.fit(PAIRS, epochs=1, eval_data=PAIRS)
    report = trainer.contract(Phase.TRAIN)
    assert report.verdict == "holds", report
    assert [effect.count for effect in report.effects if effect.variable == "dense/kernel"] == [2]
    assert {effect.layer for effect in report.effects if effect.kind == "random"} == {"dropout"}
    assert trainer.contract(Phase.EVAL).verdict == "holds"


@pytest.mark.parametrize("replicas", [1, 2])
def test_float16_with_loss_scaling_holds(replicas, two_replicas):
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    strategy = two_replicas if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        trainer = make(healthy())
    trainer.fit(PAIRS, steps=1)
    assert trainer.contract(Phase.TRAIN).verdict == "holds"


def drawing() -> tf_keras.Sequential:
    return tf_keras.Sequential(
        [
            layers.Input([4]),
            layers.Dense(3),
            layers.Lambda(lambda x: tf.nn.dropout(x, 0.5), name="raw"),
            layers.Dense(1),
        ]
    )


@pytest.mark.parametrize("run", ["evaluate", "predict"])
def test_a_violation_is_raised_before_the_first_step_and_changes_nothing(run):
    trainer = make(drawing())
    before = state_of(trainer)
    for _ in range(2):  # it is not forgotten
        with pytest.raises(PhaseError, match="raw: draws random numbers in phase") as raised:
            getattr(trainer, run)(PAIRS)
        assert raised.value.violations[0].path == "raw"
    assert_unchanged(trainer, before)
    assert trainer.phase is None


def test_a_violation_of_the_evaluation_stops_fit_before_it_trains(tmp_path):
    trainer = make(drawing(), workdir=tmp_path / "run")
    before = state_of(trainer)
    with pytest.raises(PhaseError, match="raw"):
        trainer.fit(PAIRS, epochs=1, eval_data=PAIRS)
    assert_unchanged(trainer, before)
    assert trainer.step == 0
    assert not (tmp_path / "run").exists()
    assert trainer.fit(PAIRS, steps=1) is not None, "in TRAIN the draw is allowed"


class Averaging(Trainer):
    """Keeps an average of the first layer's weights."""

    def __init__(self, model, optimizer, *, average, **options):
        super().__init__(model, optimizer, **options)
        self.average = average

    def compute_loss(self, batch, phase):
        return tf.reduce_mean(tf.square(phase.call(self.models["model"], batch[0]) - batch[1]))

    def train_step(self, batch, phase):
        result = super().train_step(batch, phase)
        self.average.assign(0.9 * self.average + 0.1 * self.models["model"].trainable_variables[0])
        return result


class Teacher(tf.Module):
    def __init__(self):
        super().__init__()
        self.average = tf.Variable(tf.zeros([4, 3]))

    def __call__(self, x):
        return x @ self.average


def test_what_no_checkpoint_holds_may_not_be_written():
    trainer = make(healthy(), Averaging, average=tf.Variable(tf.zeros([4, 3]), name="average"))
    before = state_of(trainer)
    with pytest.raises(PhaseError, match=r"average: is written, but no checkpoint holds it.*Put the model"):
        trainer.fit(PAIRS, steps=1)
    assert_unchanged(trainer, before)


def test_what_a_model_among_models_holds_may_be_written():
    models = {"model": healthy(), "teacher": Teacher()}
    optimizer = {"model": optimizers.Adam(0.01)}
    trainer = Averaging(models, optimizer, average=models["teacher"].average, default_callbacks=False)
    trainer.fit(PAIRS, steps=1)
    assert "teacher/average" in {effect.variable for effect in trainer.contract(Phase.TRAIN).effects}


class WithMetric(Trainer):
    """Updates a metric that was not given as one."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen = {"rows": metrics.Mean(name="rows")}

    def eval_step(self, batch, phase):
        result = super().eval_step(batch, phase)
        self.seen["rows"].update_state(batch[0])
        return result


class WithMetricInTraining(WithMetric):
    def train_step(self, batch, phase):
        result = super().train_step(batch, phase)
        self.seen["rows"].update_state(batch[0])
        return result


def test_a_metric_kept_as_an_attribute_may_be_written_in_eval_but_not_unsaved_in_train():
    trainer = make(healthy(), WithMetricInTraining)
    trainer.evaluate(PAIRS)
    with pytest.raises(PhaseError, match="metrics/rows/total: is written, but no checkpoint"):
        trainer.fit(PAIRS, steps=1)


class Forgetting(Trainer):
    def train_step(self, batch, phase):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.stop_gradient(phase.call(self.model, batch[0])) - 1.0))
            loss += tf.reduce_sum(self.model.layers[-1].kernel)
        gradients = self.gradients(tape, loss)
        kept = [(g, v) for g, v in zip(gradients, self.trainable_variables(), strict=True) if g is not None]
        self.optimizers["model"].apply_gradients(kept)
        return StepResult(loss=loss)


def test_forgotten_variables_are_a_warning_that_is_given_once():
    trainer = make(healthy(), Forgetting)
    with pytest.warns(UserWarning, match="reads but never updates: dense/kernel, dense/bias"):
        trainer.fit(PAIRS, steps=1)
    trainer.run_eagerly = True
    trainer.fit(PAIRS, steps=2)
    trainer.run_eagerly = False
    trainer.model.layers[2].trainable = False  # another graph, and the same findings
    trainer.fit(PAIRS, steps=3)
    assert "dense/kernel" in trainer.contract(Phase.TRAIN).unwritten


class Weighted(Trainer):
    """Weighs its loss by a variable of its own, as where the weights of several losses are learned."""

    def __init__(self, model, optimizer, trainable=True, is_updated=False, **options):
        super().__init__(model, optimizer, **options)
        self.log_scales = {"first": tf.Variable(0.5, trainable=trainable), "unused": tf.Variable(0.0)}
        self.alias = model.weights[0]  # which is frozen below by its layer, and trainable by itself
        self.is_updated = is_updated

    def compute_loss(self, batch, phase):
        scale = self.log_scales["first"]
        loss = tf.exp(-scale) * tf.reduce_mean(tf.square(phase.call(self.model, batch[0]))) + tf.reduce_sum(self.alias)
        if self.is_updated:
            scale.assign_sub(0.1)
        return loss


def frozen_below():
    model = tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(4, trainable=False), layers.Dense(1)])
    assert model.weights[0].trainable
    return model


def test_a_variable_of_the_trainers_own_that_is_not_trained_is_told_of_by_its_name():
    trainer = make(frozen_below(), Weighted)
    with pytest.warns(
        UserWarning, match=r"never updates: log_scales/first\. .* attributes of the Trainer and no weights"
    ):
        trainer.fit(PAIRS, steps=1)
    assert trainer.contract(Phase.TRAIN).unwritten == ("log_scales/first",)
    trainer.evaluate(PAIRS)
    assert trainer.contract(Phase.EVAL).unwritten == ()


def test_a_variable_of_the_trainers_own_that_is_not_to_be_trained_is_not_told_of():
    trainer = make(frozen_below(), Weighted, trainable=False)
    trainer.fit(PAIRS, steps=1)
    assert trainer.contract(Phase.TRAIN).unwritten == ()


def test_a_variable_of_the_trainers_own_that_no_checkpoint_holds_is_refused_by_its_name_where_it_is_updated():
    with pytest.raises(PhaseError, match=r"\n  log_scales/first: is written, but no checkpoint holds it"):
        make(frozen_below(), Weighted, is_updated=True).fit(PAIRS, steps=1)


class Forgetful(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.head, self.dead = layers.Dense(1), layers.Dropout(0.5)

    def call(self, inputs):
        return self.head(inputs)


def test_a_dead_dropout_is_a_warning():
    trainer = make(Forgetful())
    with pytest.warns(UserWarning, match="never calls: dead") as caught:
        trainer.fit(PAIRS, steps=1)
    [place] = [each.filename for each in caught if "never calls" in str(each.message)]  # tf-keras 2.18 warns of its own
    assert place == __file__  # where fit was called, not somewhere in the package


class Unkeyed(Trainer):
    """Draws where no key can be given."""

    def compute_loss(self, batch, phase):
        x, y = batch
        if phase.training:
            x = tf.function(lambda rows: rows + tf.random.normal([4]))(x)
        return tf.reduce_mean(tf.square(phase.call(self.model, x) - y))


def test_what_cannot_be_resumed_is_a_warning_where_there_is_something_to_resume(tmp_path):
    make(healthy(), Unkeyed).fit(PAIRS, steps=1)
    trainer = make(healthy(), Unkeyed, workdir=tmp_path)
    with pytest.warns(UserWarning, match="will not repeat to the bit .*RandomStandardNormal"):
        trainer.fit(PAIRS, steps=1)
    report = trainer.contract(Phase.TRAIN)
    assert len(report.not_resumable) == 1
    assert report.verdict == "holds"


class Declared(Trainer):
    def eval_step(self, batch, phase):
        return StepResult(loss=tf.reduce_mean(phase.call(self.model, batch[0] + random.normal([4]))))


def test_declared_draws_are_allowed_in_eval_and_shown():
    trainer = make(healthy(), Declared)
    trainer.evaluate(PAIRS)
    [effect] = [each for each in trainer.contract(Phase.EVAL).effects if each.kind == "random"]
    assert effect.is_declared


class CallingPython(Trainer):
    def eval_step(self, batch, phase):
        tf.py_function(lambda x: None, [batch[0]], [])
        return super().eval_step(batch, phase)


def test_what_is_not_proved_runs_and_is_said(caplog):
    trainer = make(healthy(), CallingPython)
    with caplog.at_level("WARNING", logger="absl"):
        trainer.evaluate(PAIRS)
        trainer.evaluate(PAIRS)
    said = [record.getMessage() for record in caplog.records if "not proved" in record.getMessage()]
    assert len(said) == 1
    assert "EagerPyFunc" in said[0]
    assert trainer.contract(Phase.EVAL).verdict == "not proved"


def test_steps_that_run_eagerly_are_not_proved():
    trainer = make(healthy(), run_eagerly=True)
    trainer.evaluate(PAIRS)
    report = trainer.contract(Phase.EVAL)
    assert report.verdict == "not proved"
    assert "eagerly" in report.unproved[0]


def test_waived_effects_pass():
    model = drawing()
    waive(model, "random raw", reason="the published model does so")
    trainer = make(model)
    trainer.evaluate(PAIRS)
    assert trainer.contract(Phase.EVAL).waived[0].reason == "the published model does so"


def test_the_reports_are_written_into_the_workdir(tmp_path):
    class Evaluating(Callback):
        trigger = Every(steps=2)

        def on_trigger(self, trainer):
            trainer.predict(PAIRS)

    path = tmp_path / "run" / "contract.json"
    trainer = make(healthy(), workdir=tmp_path / "run", callbacks=[Evaluating()])
    trainer.evaluate(PAIRS)
    assert not path.exists(), "nothing is written before fit"
    trainer.fit(PAIRS, steps=1)
    assert list(json.loads(path.read_text())) == ["train", "eval"]
    trainer.fit(PAIRS, steps=2)
    written = json.loads(path.read_text())
    assert list(written) == ["train", "eval", "predict"]
    assert written["train"] == trainer.contract(Phase.TRAIN).to_json()
    assert written["train"]["verdict"] == "holds"


def test_contract_compiles_what_was_not_compiled_yet_and_runs_nothing():
    trainer = make(healthy())
    with pytest.raises(ValueError, match="contract: no data were seen yet"):
        trainer.contract(Phase.TRAIN)
    trainer.predict(PAIRS)
    before = state_of(trainer)
    assert trainer.contract(Phase.TRAIN).verdict == "holds"
    assert trainer.contract(Phase.EVAL).verdict == "holds"
    assert_unchanged(trainer, before)
    with pytest.raises(TypeError, match="contract: phase='train' is not a Phase"):
        trainer.contract("train")  # pyright: ignore[reportArgumentType]


def test_contract_reports_a_violation_and_raises_none():
    trainer = make(drawing())
    trainer.fit(PAIRS, steps=1)
    report = trainer.contract(Phase.EVAL)
    assert report.verdict == "violated"
    assert report.violations[0].path == "raw"
    assert any(effect.kind == "random" for effect in report.effects)


def test_contract_without_an_optimizer_has_no_training_step():
    trainer = Trainer(healthy(), loss="mse", default_callbacks=False)
    trainer.evaluate(PAIRS)
    with pytest.raises(ValueError, match="contract: optimizer=None"):
        trainer.contract(Phase.TRAIN)


class WithEncoder(Trainer):
    """Keeps a second net beside `model=`, as is usual elsewhere."""

    def __init__(self, model, encoder, of_encoder=None, **options):
        super().__init__(model, **options)
        self.encoder, self.of_encoder = encoder, of_encoder

    def compute_loss(self, batch, phase):
        coded = (self.of_encoder or phase).call(self.encoder, batch[0])
        return tf.reduce_mean(tf.square(phase.call(self.model, coded)))


def net(units):
    return tf_keras.Sequential([tf_keras.Input([4]), layers.Dense(units)])


def test_a_net_that_is_in_no_model_is_neither_trained_nor_saved_and_told_of():
    trainer = WithEncoder(net(1), net(4), optimizer="sgd", default_callbacks=False)
    with pytest.warns(
        UserWarning, match=r"and no model of model= holds: sequential(_\d+)?\. They are neither trained nor saved"
    ):
        trainer.fit(PAIRS, steps=1)
    trainer.fit(PAIRS, steps=2)  # told once


@pytest.mark.parametrize("how", ["in PREDICT", "frozen", "in model="])
def test_a_net_that_is_not_to_be_trained_is_not_told_of(how):
    encoder = net(4)
    if how == "frozen":
        encoder.trainable = False
    model = net(1)
    if how == "in model=":
        model = tf_keras.Sequential([tf_keras.Input([4]), encoder, layers.Dense(1)])
    of_encoder = Phase.PREDICT if how == "in PREDICT" else None
    WithEncoder(model, encoder, of_encoder, optimizer="sgd", default_callbacks=False).fit(PAIRS, steps=1)
