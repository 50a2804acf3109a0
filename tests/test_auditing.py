"""The audit: what it says of a model, and that it leaves the model as it was."""

import functools
import json
import random
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

import trainloop
from trainloop import Phase
from trainloop.auditing import figure, table
from trainloop.auditing.untouched import variables_put_back
from trainloop.effects import read_effects
from trainloop.tracing import Trace

PHASES = [phase.value for phase in Phase]


def batch(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def small() -> tf_keras.Model:
    """One layer of each family that Keras has; the names are those that Keras makes up."""
    inputs = tf_keras.Input([6, 6, 3])
    hidden = layers.Conv2D(4, 3)(layers.RandomFlip()(inputs))
    hidden = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization()(hidden)))
    hidden = layers.GaussianNoise(0.1)(layers.Flatten()(hidden))
    return tf_keras.Model(inputs, layers.Dense(2)(hidden), name="small")


def rows(audit: trainloop.Audit) -> dict[str, tuple[str, ...]]:
    """What each layer does in each phase, and how it got its value."""
    return {row.path: (*(row.does[phase] for phase in PHASES), row.source) for row in audit.rows}


def test_each_family_in_each_phase():
    audit = trainloop.audit(small(), batch(4, 6, 6, 3))
    assert rows(audit) == {
        "random_flip": ("on", "off", "off", "off", "on", "inherited"),
        "batch_normalization": ("batch", "moving", "moving", "moving", "batch", "inherited"),
        "dropout": ("on", "off", "off", "on", "off", "inherited"),
        "gaussian_noise": ("on", "off", "off", "on", "off", "inherited"),
    }
    by_path = {row.path: row for row in audit.rows}
    assert [by_path[path].rate for path in rows(audit)] == [None, None, 0.5, 0.1]
    assert by_path["dropout"].layer_class == "Dropout"
    assert by_path["random_flip"].family == "augmentation"
    assert [(each.phase, each.verdict) for each in audit.verdicts] == [(phase, "holds") for phase in PHASES]
    assert audit.ok
    assert audit.violations == ()
    assert (audit.model, audit.inputs) == ("small", "float32[4, 6, 6, 3]")


class Parts(tf_keras.Model):
    """Each of its layers gets its value in another way."""

    def __init__(self):
        super().__init__()
        self.inherits = layers.Dropout(0.5)
        self.passed = layers.Dropout(0.5)
        self.wired = layers.Dropout(0.5)
        self.pinned = layers.Dropout(0.5)
        self.follows = layers.Dropout(0.5)
        self.unreached = layers.Dropout(0.5)
        self.frozen = layers.BatchNormalization(trainable=False)
        self.lstm = layers.LSTM(3, recurrent_dropout=0.2)
        self.idle = layers.LSTM(3)
        trainloop.pin(self.pinned, Phase.PREDICT)
        trainloop.follow(self.follows)

    def call(self, x, training=None):
        x = self.wired(self.passed(self.inherits(x), training=training), training=True)
        x = self.frozen(self.follows(self.pinned(x), training=False))
        return self.lstm(x) + self.idle(x)


@functools.cache
def audit_of_parts() -> trainloop.Audit:
    return trainloop.audit(Parts(), batch(2, 4, 3))


def test_how_each_layer_got_its_value():
    audit = audit_of_parts()
    assert rows(audit) == {
        "inherits": ("on", "off", "off", "on", "-", "inherited"),
        "passed": ("on", "off", "off", "on", "-", "passed"),
        "wired": ("on", "on", "on", "on", "-", "hard-wired"),
        "pinned": ("off", "off", "off", "off", "-", "pinned"),
        "follows": ("on", "off", "off", "on", "-", "followed"),
        "frozen": ("frozen", "moving", "moving", "moving", "-", "inherited"),
        "lstm": ("on", "off", "off", "on", "-", "inherited"),
        "unreached": ("-", "-", "-", "-", "-", "unreached"),
    }
    assert audit.verdicts[4].verdict == "does not apply"
    assert audit.verdicts[4].reason == "every batch normalization is frozen"
    [found] = audit.violations
    assert found.phases == ("eval", "predict")
    assert found.violation.path == "wired"
    assert not audit.ok


def test_a_layer_that_nobody_told_is_supplied():
    dropout = layers.Dropout(0.5)
    audit = trainloop.audit(lambda x: 2 * dropout(x), batch(2, 3))
    assert rows(audit) == {"dropout": ("on", "off", "off", "on", "-", "supplied")}


def test_a_layer_without_a_family_that_draws_has_a_row():
    class Drops(layers.Layer):
        def call(self, x, training=False):
            return tf.nn.dropout(x, 0.5) if training else x

    audit = trainloop.audit(tf_keras.Sequential([Drops(), layers.Dense(2)]), batch(2, 3))
    assert rows(audit)["drops"][:3] == ("on", "off", "off")
    assert audit.rows[0].family is None


def test_the_contract_sees_what_no_layer_shows():
    raw = layers.Lambda(lambda x: tf.nn.dropout(x, 0.5), name="raw")
    model = tf_keras.Sequential([raw, layers.Dense(2)])
    audit = trainloop.audit(model, batch(2, 3))
    assert {each.phase: each.verdict for each in audit.verdicts} == {
        "train": "holds",
        "eval": "violated",
        "predict": "violated",
        "mc_predict": "does not apply",
        "update_bn": "does not apply",
    }
    [found] = audit.violations
    assert (found.violation.path, found.phases) == ("raw", ("eval", "predict"))
    assert not audit.ok
    trainloop.waive(model, "random raw", reason="as published")
    audit = trainloop.audit(model, batch(2, 3))
    assert audit.ok
    assert [waived.reason for waived in audit.verdicts[1].waived] == ["as published"]
    assert "waived: random raw (as published)" in str(audit)


def test_what_cannot_be_proved_is_named_and_is_no_violation():
    opaque = layers.Lambda(lambda x: tf.py_function(lambda y: y, [x], tf.float32))
    audit = trainloop.audit(tf_keras.Sequential([opaque]), batch(2, 3))
    assert audit.verdicts[1].verdict == "not proved"
    assert audit.verdicts[1].reason.startswith("EagerPyFunc ")
    assert "eval        not proved: EagerPyFunc " in str(audit)
    assert audit.ok


class Module(tf.Module):
    def __init__(self):
        super().__init__("module")
        self.weight = tf.Variable(tf.ones([3, 3]))

    def __call__(self, x):
        return x @ self.weight


def subclassed() -> tf_keras.Model:
    class Model(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [tf_keras.Sequential([layers.Dense(3), layers.Dropout(0.5)]) for _ in range(2)]

        def call(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    return Model()


@pytest.mark.parametrize(
    ("model", "paths"),
    [
        (lambda: tf_keras.Sequential([layers.Dense(3), layers.Dropout(0.5)]), ["dropout"]),
        (lambda: tf_keras.Sequential([tf_keras.Sequential([layers.Dropout(0.5)], name="inner")]), ["inner/dropout"]),
        (subclassed, ["blocks/0/dropout", "blocks/1/dropout"]),
        (lambda: layers.Dropout(0.5), ["dropout"]),
        (Module, []),
        (lambda: tf.nn.relu, []),
    ],
    ids=["lazy", "nested", "subclassed", "layer", "module", "function"],
)
def test_models_of_every_kind(model, paths):
    audit = trainloop.audit(model(), batch(4, 3))
    assert [row.path for row in audit.rows] == paths
    assert audit.ok
    none = {each.phase: each.reason for each in audit.verdicts if each.verdict == "does not apply"}
    assert none == {"update_bn": "no batch normalization"} | (
        {} if paths else {"mc_predict": "no dropout and no noise layer"}
    )


def test_a_loaded_model(tmp_path):
    small().save(tmp_path / "small.keras")
    loaded = tf_keras.models.load_model(tmp_path / "small.keras")
    assert rows(trainloop.audit(loaded)) == rows(trainloop.audit(small()))


def test_a_long_table_folds_what_is_alike_and_fits_the_terminal(monkeypatch):
    inputs = hidden = tf_keras.Input([4])
    for number in range(3):
        name = f"a_block_with_a_name_that_is_rather_long_{number}"
        block = [layers.BatchNormalization(), layers.Dropout(0.1 + 0.1 * number)]
        hidden = tf_keras.Sequential(block, name=name)(hidden)
    audit = trainloop.audit(tf_keras.Model(inputs, layers.Dense(2)(hidden), name="deep"))
    whole = str(audit)
    monkeypatch.setattr(table, "MAX_LINES", 5)
    folded = str(audit)
    assert max(len(line) for line in [*whole.splitlines(), *folded.splitlines()]) <= table.WIDTH
    assert whole.count(" BatchNormalization ") == 3
    assert "more like it" not in whole
    assert folded.count(" BatchNormalization ") == 1
    assert "and 2 more like it, of rates 0.1 to 0.3" in folded
    assert "    a_block_with_a_name_that_is_rather_long_0/batch_normalization\n" in folded


def test_the_table():
    text = str(audit_of_parts())
    assert text.splitlines()[0] == "audit of parts on float32[2, 4, 3]: 8 phase-sensitive layers, 1 violation, 2 lints"
    for line in [
        "    wired      Dropout               0.5  on      on      on       on          -          hard-wired",
        "    update_bn   does not apply: every batch normalization is frozen",
        "  wired  [eval, predict]",
        "  never-reached: unreached",
    ]:
        assert line in text.splitlines()


def test_json_holds_all_of_it():
    audit = trainloop.audit(small(), batch(4, 6, 6, 3))
    read = json.loads(audit.to_json())
    assert read["ok"] is True
    assert read["rows"][2] == {
        "path": "dropout", "layer_class": "Dropout", "family": "dropout", "rate": 0.5, "source": "inherited",
        "does": {"train": "on", "eval": "off", "predict": "off", "mc_predict": "on", "update_bn": "off"},
    }  # fmt: skip
    assert [each["path"] for each in read["measurements"]] == [row.path for row in audit.rows]
    assert {lint["name"] for lint in read["lints"]} == {lint.name for lint in audit.lints}
    constant = trainloop.audit(tf_keras.Sequential([layers.Dropout(0.5)]), np.zeros([4, 3], "float32"))
    assert json.loads(constant.to_json())["measurements"][0]["variance_ratio"] is None


# What was measured.


def test_measured_moments_are_those_of_the_data():
    x = batch(512, 64)
    [dropout] = trainloop.audit(tf_keras.Sequential([layers.Dropout(0.5), layers.Dense(2)]), x).measurements
    assert dropout.path == "dropout"
    assert (dropout.eval_mean, dropout.eval_variance) == pytest.approx((x.mean(), x.var()), rel=1e-5)
    assert dropout.train_mean == pytest.approx(x.mean(), abs=0.02)
    assert dropout.train_variance == pytest.approx(2 * x.var(), rel=0.02)
    assert dropout.variance_ratio == pytest.approx(0.5, rel=0.02)
    assert dropout.mean_shift == pytest.approx(0.0, abs=0.02)


def test_audits_of_one_model_are_alike():
    """Whatever the seed of the process is."""
    model = small()
    tf.random.set_seed(1)
    first = trainloop.audit(model, batch(4, 6, 6, 3))
    tf.random.set_seed(2)
    assert trainloop.audit(model, batch(4, 6, 6, 3)) == first


def test_each_draw_is_another_one():
    """A mean over one draw of four units would be a multiple of a half."""
    [dropout] = trainloop.audit(tf_keras.Sequential([layers.Dropout(0.5)]), np.ones([1, 4], "float32")).measurements
    assert dropout.train_mean * 2 != round(dropout.train_mean * 2)


def test_each_draw_begins_in_the_same_state():
    model = tf_keras.Sequential([layers.LSTM(3, stateful=True, dropout=1e-6)])
    [lstm] = trainloop.audit(model, batch(4, 5, 3)).measurements
    assert lstm.train_mean == pytest.approx(lstm.eval_mean, rel=1e-4)


def test_between_two_draws_generators_go_on():
    noise, sums, generator = tf.Variable(0.0), tf.Variable([1.0]), tf.random.Generator.from_seed(1)

    @tf.function
    def draw() -> tf.Tensor:
        sums.assign_add([1.0])
        return noise + generator.normal([])

    concrete, first = draw.get_concrete_function(), generator.state.numpy()
    with variables_put_back(tf.Module(), concrete, read_effects(concrete, Trace())) as put_back:
        draws = []
        for _ in range(2):
            draws.append(float(concrete()))
            put_back()
            assert sums.numpy() == [1.0]
    assert draws[0] != draws[1]
    np.testing.assert_array_equal(generator.state, first)


def test_shapes_alone_measure_nothing():
    audit = trainloop.audit(small(), (None, 6, 6, 3))
    assert audit.measurements == ()
    assert audit.inputs == "float32[None, 6, 6, 3]"
    with pytest.raises(ValueError, match=r"Audit.figure: nothing was measured. Give audit a batch of data"):
        audit.figure()


def test_the_figure_has_a_line_for_each_layer(tmp_path):
    audit = trainloop.audit(small(), batch(4, 6, 6, 3))
    page = audit.figure()
    means, variances, ratios = page.axes
    assert [label.get_text() for label in means.get_yticklabels()] == [row.path for row in audit.rows]
    drawn = {points.get_label(): points.get_offsets()[:, 0].tolist() for points in variances.collections[1:]}
    assert drawn["evaluation"] == pytest.approx([each.eval_variance for each in audit.measurements])
    assert drawn["training (mean of 16 draws)"] == pytest.approx([each.train_variance for each in audit.measurements])
    assert [text.get_text() for text in ratios.texts] == [f"{each.variance_ratio:.3g}" for each in audit.measurements]
    page.savefig(tmp_path / "audit.png")
    assert (tmp_path / "audit.png").stat().st_size > 10_000


def test_the_figure_of_a_deep_model_shows_what_moves_most(monkeypatch):
    monkeypatch.setattr(figure, "MOST_LAYERS", 2)
    stack = [layers.GaussianNoise(0.01), layers.GaussianNoise(1.0), layers.Dropout(0.5)]
    drawn = trainloop.audit(tf_keras.Sequential([*stack, layers.Dense(2)]), batch(64, 64)).figure()
    assert [label.get_text() for label in drawn.axes[0].get_yticklabels()] == ["gaussian_noise_1", "dropout"]
    assert "the 2 of 3 layers whose variance moves most" in drawn.texts[0].get_text()


def test_a_figure_without_matplotlib_says_what_to_install(monkeypatch):
    audit = trainloop.audit(small(), batch(4, 6, 6, 3))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'not installed: pip install "trainloop-tf\[report\]"'):
        audit.figure()


# Nothing is changed.


class Stateful(tf_keras.Model):
    """Everything that a call can change: statistics, states, seeds, losses, counters in Python."""

    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5, seed=3)
        self.bn = layers.BatchNormalization()
        self.rnn = layers.LSTM(3, stateful=True, dropout=0.2)
        self.head = layers.Dense(2, activity_regularizer="l2")
        self.counter = tf.Variable(0, trainable=False)
        self.generator = tf.random.Generator.from_seed(1)
        self.calls = 0

    def call(self, x):
        self.calls += 1
        self.counter.assign_add(1)
        self.add_metric(tf.reduce_mean(x), name="mean")
        x = x + self.generator.normal(tf.shape(x))
        return self.head(self.rnn(self.bn(self.drop(x))))


def everything(model: Stateful) -> list[object]:
    kept = [variable.numpy().tolist() for variable in model.variables]
    kept += [model.generator.state.numpy().tolist(), model.calls, model.trainable, model.bn.trainable]
    kept += [model.drop._random_generator._seed, model.rnn.cell._random_generator._seed]
    kept += [[loss.numpy() for loss in model.losses], [metric.result().numpy() for metric in model.metrics]]
    kept += [tf_keras.backend.learning_phase(), trainloop.guard.all_pins(), sorted(vars(model))]
    return [*kept, random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def test_an_audit_leaves_everything_as_it_was():
    x = batch(4, 5, 3)
    model = Stateful()
    trainloop.pin(model.drop, Phase.TRAIN)
    model(x, training=True)
    before = everything(model)
    tf.random.set_seed(5)
    expected = tf.random.uniform([3]).numpy()
    tf.random.set_seed(5)
    audit = trainloop.audit(model, x)
    assert audit.measurements
    np.testing.assert_array_equal(tf.random.uniform([3]), expected)
    assert everything(model) == before
    for loss in model.losses:
        loss.numpy()


def test_losses_of_the_audit_do_not_stay_behind():
    model = layers.Dense(2, activity_regularizer="l2")
    model.build([None, 3])
    trainloop.audit(model, batch(4, 3))
    assert model.losses == []


def test_an_audit_that_fails_leaves_everything_as_it_was():
    model = Stateful()
    model(batch(4, 5, 3), training=True)
    before = everything(model)
    model.head.call = None  # fails when all before it has been traced
    with pytest.raises(TypeError):
        trainloop.audit(model, batch(4, 5, 3))
    del model.head.call
    assert everything(model) == before


def test_a_model_that_was_not_built_gets_the_weights_of_its_first_call():
    def weights(build) -> list[np.ndarray]:
        tf_keras.utils.set_random_seed(3)
        model = subclassed()
        build(model)
        return [*model.get_weights(), tf.random.uniform([2]).numpy()]

    plain = weights(lambda model: model(batch(4, 3)))
    for ours, theirs in zip(weights(lambda model: trainloop.audit(model, batch(4, 3))), plain, strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Bad input.


def test_a_model_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"audit: model=3 is not callable; pass a model, a layer or a function"):
        trainloop.audit(3, batch(2, 3))
    with pytest.raises(TypeError, match=r"was made by Keras 3 \(tf.keras\); trainloop works with tf_keras"):
        trainloop.audit(tf.keras.Sequential([tf.keras.layers.Dense(1)]), batch(2, 3))


@pytest.mark.parametrize(
    ("inputs", "error", "said"),
    [
        (None, ValueError, "audit: inputs=None, but sequential does not say what it takes; pass a batch, or its shape"),
        (tf.data.Dataset.range(3), TypeError, "is a data set; pass one batch of x"),
        ([object()], TypeError, "audit: inputs holds <object object .* expected a batch of arrays or tensors"),
    ],
)
def test_inputs_that_are_no_batch(inputs, error, said):
    with pytest.raises(error, match=said):
        trainloop.audit(tf_keras.Sequential([layers.Dense(1)]), inputs)


def test_inputs_that_do_not_fit_keep_keras_own_error_and_say_what_the_model_expects():
    with pytest.raises(ValueError, match="incompatible with the layer") as raised:
        trainloop.audit(small(), batch(2, 5))
    note = "audit: model was called on float32[2, 5]; small was built on float32[None, 6, 6, 3]"
    assert note in raised.value.__notes__


def test_an_error_in_the_users_call_surfaces_as_itself():
    class Fault(Exception):
        pass

    class Faulty(tf_keras.Model):
        def call(self, x):
            raise Fault("mine")

    with pytest.raises(Fault, match="mine") as raised:
        trainloop.audit(Faulty(), batch(2, 3))
    assert "audit: model was called on float32[2, 3]; faulty takes (x)" in raised.value.__notes__


@pytest.mark.parametrize(
    "inputs",
    [
        {"a": batch(4, 3), "b": batch(4, 2)},
        {"a": tf.TensorSpec([None, 3]), "b": tf.TensorSpec([None, 2])},
    ],
    ids=["data", "specs"],
)
def test_nested_inputs(inputs):
    a, b = tf_keras.Input([3], name="a"), tf_keras.Input([2], name="b")
    model = tf_keras.Model({"a": a, "b": b}, layers.Dropout(0.5)(layers.Concatenate()([a, b])))
    audit = trainloop.audit(model, inputs)
    assert rows(audit)["dropout"][0] == "on"
    assert bool(audit.measurements) == ("TensorSpec" not in str(type(inputs["a"])))


def test_whole_numbers_are_taken_where_the_model_was_built_on_them():
    inputs = tf_keras.Input([5], dtype="int32")
    model = tf_keras.Model(inputs, layers.Dropout(0.5)(layers.Embedding(7, 3)(inputs)))
    assert trainloop.audit(model, (None, 5)).inputs == "int32[None, 5]"
