"""The contract on any function: each rule of each phase, kept and broken."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, metrics, optimizers

import trainloop
from trainloop import Phase, contract, follow, pin, random, register_family

X = np.ones([4, 3], np.float32)
HEALTHY = (Phase.TRAIN, Phase.EVAL, Phase.PREDICT, Phase.MC_PREDICT, Phase.UPDATE_BN)
WITHOUT_DRAWS = (Phase.EVAL, Phase.PREDICT, Phase.UPDATE_BN)


def sequential(*parts) -> tf_keras.Sequential:
    model = tf_keras.Sequential(parts)
    model.build([None, 3])
    return model


def healthy() -> tf_keras.Sequential:
    return sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.3))


def raw(x):
    return tf.nn.dropout(x, 0.5)


def paths(report) -> list[str]:
    return [violation.path for violation in report.violations]


@pytest.mark.parametrize("phase", HEALTHY)
@pytest.mark.parametrize(
    "model",
    [
        healthy,
        lambda: sequential(layers.Dense(3), layers.BatchNormalization(renorm=True), layers.GaussianNoise(0.1)),
        lambda: sequential(layers.Dense(3), layers.BatchNormalization(synchronized=True), layers.AlphaDropout(0.1)),
        lambda: sequential(layers.Reshape([3, 1]), layers.LSTM(2, dropout=0.1), layers.BatchNormalization()),
        lambda: sequential(
            layers.Reshape([3, 1]),
            layers.TimeDistributed(tf_keras.Sequential([layers.BatchNormalization(), layers.Dropout(0.1)])),
        ),
        lambda: sequential(
            layers.Reshape([1, 3, 1]), layers.RandomFlip(), layers.BatchNormalization(), layers.SpatialDropout2D(0.1)
        ),
    ],
)
def test_a_healthy_model_keeps_every_contract(model, phase):
    report = contract(model(), phase, X)
    assert report.verdict == "holds", report
    assert not report.violations
    assert not report.unproved


def test_nothing_is_run_and_no_variable_changes():
    model, ran = healthy(), []

    def step(x):
        tf.py_function(ran.append, [x], [])
        return model(x)

    before = [variable.numpy() for variable in model.variables]
    contract(step, Phase.TRAIN, X)
    assert ran == []
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_effects_are_named_by_layer_and_variable():
    inner = tf_keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.3)], name="encoder")
    report = contract(sequential(inner, layers.Dense(1)), Phase.TRAIN, X)
    assert [(each.kind, each.layer, each.variable, each.count) for each in report.effects] == [
        ("random", "encoder/dropout", "", 1),
        ("write", "encoder/batch_normalization", "encoder/batch_normalization/moving_mean", 1),
        ("write", "encoder/batch_normalization", "encoder/batch_normalization/moving_variance", 1),
    ]


@pytest.mark.parametrize("phase", WITHOUT_DRAWS)
def test_a_raw_draw_is_a_violation_where_nothing_may_be_drawn(phase):
    model = sequential(layers.Dense(3), layers.BatchNormalization(), layers.Lambda(raw, name="raw"))
    report = contract(model, phase, X)
    assert report.verdict == "violated"
    assert paths(report) == ["raw"]
    assert "RandomUniform" in report.violations[0].what
    assert phase.value in report.violations[0].what


def test_a_raw_draw_without_a_layer_goes_by_the_name_of_its_op():
    def step(x):
        with tf.name_scope("noise"):
            return x + tf.random.normal([3])

    [path] = paths(contract(step, Phase.EVAL, X))
    assert path.startswith("noise/")


@pytest.mark.parametrize("phase", Phase)
def test_a_declared_draw_is_allowed_in_every_phase(phase):
    model = healthy()

    def step(x):
        shifted = x + random.normal([3]) + tf.random.stateless_uniform([3], seed=random.key())
        return model(tf.map_fn(lambda row: row + tf.random.stateless_normal([3], seed=random.key()), shifted))

    assert contract(step, phase, X).verdict == "holds"


def test_a_draw_after_a_declared_one_is_not_declared_by_it():
    def step(x):
        return tf.nn.dropout(x + random.normal([3]), 0.5) + tf.random.stateless_uniform([3], seed=[1, 2])

    report = contract(step, Phase.EVAL, X)
    assert len(report.violations) == 2
    assert [each.is_declared for each in report.effects if each.op_type == "RandomStandardNormal"] == [True]


def test_augmentation_is_a_violation_of_mc_predict_only_where_it_is_on():
    model = sequential(layers.Dropout(0.5), layers.Reshape([1, 3, 1]), layers.RandomFlip(name="flip"))
    assert contract(model, Phase.MC_PREDICT, X).verdict == "holds"
    pin(model, Phase.UPDATE_BN, match="flip")
    assert contract(model, Phase.MC_PREDICT, X).verdict == "holds", "a pin sets what holds for a layer"


class Augmenting(layers.Layer):
    """Augments whatever it is told."""

    def call(self, inputs):
        return inputs + tf.random.normal([3])


def test_an_augmentation_that_obeys_nobody_is_a_violation_of_mc_predict():
    register_family(Augmenting, "augmentation")
    model = sequential(layers.Dropout(0.5), Augmenting(name="jitter"), layers.BatchNormalization())
    assert paths(contract(model, Phase.MC_PREDICT, X)) == ["jitter"]
    assert contract(model, Phase.TRAIN, X).verdict == "holds"
    assert contract(model, Phase.UPDATE_BN, X).verdict == "holds"
    assert paths(contract(model, Phase.EVAL, X)) == ["jitter"]


def test_a_branch_that_the_phase_rules_out_does_not_count():
    """`RandomCrop` has its draw in a branch of the graph of every phase; in EVAL the branch is never taken."""
    crop = layers.RandomCrop(4, 4)
    image = tf.TensorSpec([2, 6, 6, 3])
    assert contract(crop, Phase.EVAL, image).verdict == "holds"
    assert any(effect.kind == "random" for effect in contract(crop, Phase.TRAIN, image).effects)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "condition",
    [
        lambda known, given: tf.constant(known),
        lambda known, given: tf.reduce_all((known, given)) if not known else tf.reduce_any((known, given)),
        lambda known, given: tf.logical_not(tf.logical_not(tf.identity(tf.constant(known)))),
        lambda known, given: tf.logical_and(known, given) if not known else tf.logical_or(given, known),
    ],
)
def test_a_condition_is_followed_as_far_as_it_is_known(known, condition):
    def draw(x):
        return tf.nn.dropout(x, 0.5)

    def function(x, given):
        return tf.cond(condition(known, given), lambda: draw(x), lambda: x)

    report = contract(function, Phase.EVAL, tf.TensorSpec([3]), tf.TensorSpec([], tf.bool))
    assert report.verdict == ("violated" if known else "holds")


@pytest.mark.parametrize("combine", [tf.reduce_all, tf.reduce_any, lambda parts: parts[1]])
def test_a_condition_that_is_not_known_may_be_either(combine):
    def function(x, given):
        return tf.cond(combine((given, given)), lambda: x, lambda: tf.nn.dropout(x, 0.5))

    report = contract(function, Phase.EVAL, tf.TensorSpec([3]), tf.TensorSpec([], tf.bool))
    assert report.verdict == "violated"


def test_the_statistics_of_a_loaded_model_are_known_as_such(tmp_path):
    inputs = layers.Input([4])
    tf_keras.Model(inputs, layers.Dense(2)(layers.BatchNormalization()(inputs))).save(tmp_path, save_format="tf")
    loaded = tf_keras.models.load_model(tmp_path, compile=False)
    report = contract(loaded, Phase.UPDATE_BN, tf.TensorSpec([2, 4]))
    assert report.verdict == "holds"
    assert {effect.variable for effect in report.effects} == {
        "batch_normalization/moving_mean",
        "batch_normalization/moving_variance",
    }


def test_the_layer_that_bidirectional_only_copies_is_not_dead():
    model = tf_keras.Sequential([layers.Input([5, 3]), layers.Bidirectional(layers.LSTM(2, dropout=0.5))])
    assert contract(model, Phase.TRAIN, tf.TensorSpec([2, 5, 3])).unreached == ()


def test_mc_predict_needs_something_to_draw():
    [violation] = contract(sequential(layers.Dense(3)), Phase.MC_PREDICT, X).violations
    assert "draws nothing" in violation.what


def test_update_bn_needs_a_batch_normalization_that_is_not_frozen():
    model = healthy()
    model.layers[1].trainable = False
    [violation] = contract(model, Phase.UPDATE_BN, X).violations
    assert "writes no statistics" in violation.what


class Counting(layers.Layer):
    """Counts its calls in a variable, in every phase."""

    def build(self, input_shape):
        self.calls = self.add_weight("calls", initializer="zeros", trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs


@pytest.mark.parametrize("phase", [Phase.EVAL, Phase.PREDICT, Phase.MC_PREDICT, Phase.UPDATE_BN])
def test_a_write_to_the_model_is_a_violation(phase):
    model = sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.3), Counting(name="counter"))
    [violation] = contract(model, phase, X).violations
    assert violation.path == "counter/calls"
    assert "by layer 'counter'" in violation.what
    assert contract(model, Phase.TRAIN, X).verdict == "holds"


WRITES = {
    "cond": lambda v: tf.cond(v > 0, lambda: v.assign_add(1.0), v.read_value),
    "while": lambda v: tf.while_loop(lambda i: i < 3.0, lambda i: i + v.assign_add(1.0), [0.0]),
    "function": lambda v: tf.function(lambda: tf.cond(v > 0, lambda: v.assign_add(1.0), v.read_value))(),
    "compiled": lambda v: tf.function(lambda: v.assign_add(1.0), jit_compile=True)(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_is_named_wherever_it_stands(write):
    class Writing(tf.Module):
        def __init__(self):
            super().__init__()
            self.kept = {"state": [tf.Variable(1.0)]}

        def __call__(self, x):
            write(self.kept["state"][0])
            return x

    [path] = paths(contract(Writing(), Phase.PREDICT, X))
    assert path.startswith("kept/")


def test_a_write_under_a_strategy_is_named(two_replicas):
    with two_replicas.scope():
        model = sequential(layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5), Counting(name="counter"))

    def step(x):
        return two_replicas.run(model, (x,))

    assert paths(contract(step, Phase.EVAL, X)) == ["counter/calls"]
    report = contract(step, Phase.TRAIN, X)
    assert report.verdict == "holds"
    assert [each.count for each in report.effects if each.kind == "random"] == [2]


def test_metrics_may_be_written_in_eval_but_not_in_predict():
    model, seen = healthy(), metrics.Mean(name="seen")

    def step(x):
        seen.update_state(model(x))

    assert contract(step, Phase.EVAL, X).verdict == "holds"
    assert paths(contract(step, Phase.PREDICT, X)) == ["metrics/seen/total", "metrics/seen/count"]


def test_the_state_of_a_stateful_rnn_may_be_written_in_every_phase():
    model = tf_keras.Sequential(
        [layers.LSTM(2, stateful=True, dropout=0.1, batch_input_shape=(4, 3, 1)), layers.BatchNormalization()]
    )
    for phase in Phase:
        report = contract(model, phase, X[..., None])
        assert report.verdict == "holds", report
        assert {each.variable for each in report.effects if "states" in each.variable} == {
            "lstm/states/0",
            "lstm/states/1",
        }


class Silent(layers.Dropout):
    """Says it drops and does not."""

    def call(self, inputs, training=None):
        return inputs


def test_a_live_dropout_that_draws_nothing_is_a_violation():
    model = sequential(Silent(0.5, name="silent"), layers.Dropout(0.5))
    assert paths(contract(model, Phase.TRAIN, X)) == ["silent"]
    assert contract(sequential(Silent(0.0)), Phase.TRAIN, X).verdict == "holds"


class Still(layers.BatchNormalization):
    """Uses the batch's statistics and keeps none."""

    def call(self, inputs, training=None):
        return (inputs - tf.reduce_mean(inputs, 0)) * self.gamma


def test_a_batch_normalization_that_writes_nothing_is_a_violation():
    model = sequential(layers.Dense(3), Still(name="still"), layers.BatchNormalization())
    assert paths(contract(model, Phase.TRAIN, X)) == ["still"]
    assert paths(contract(model, Phase.UPDATE_BN, X)) == ["still"]
    model.layers[1].trainable = False
    assert contract(model, Phase.TRAIN, X).verdict == "holds"


class Remembering(layers.Layer):
    """Wraps its inside in a tf.function that knows no phase."""

    def __init__(self, **options):
        super().__init__(**options)
        self.normal, self.drop = layers.BatchNormalization(name="inner_norm"), layers.Dropout(0.5, name="inner_drop")

    def build(self, input_shape):
        self.normal.build(input_shape)  # before the function is traced, which may make variables only once

    @tf.function
    def call(self, inputs):
        return self.drop(self.normal(inputs))


class Outer(tf_keras.Model):
    """No Sequential, which would trace its layers in a graph of Keras's own before the first call."""

    def __init__(self):
        super().__init__()
        self.block = Remembering()

    def call(self, inputs):
        return self.block(inputs)


def remembering(phase) -> Outer:
    """A model with an inner function that was traced in one phase."""
    model = Outer()
    phase.call(model, tf.constant(X))
    return model


def test_a_function_stuck_in_evaluation_is_a_violation_of_train():
    model = remembering(Phase.EVAL)
    assert contract(model, Phase.EVAL, X).verdict == "holds"
    report = contract(model, Phase.TRAIN, X)
    assert sorted(paths(report)) == ["block/drop", "block/normal"]
    assert "tf.function 'call'" in report.violations[0].what


def test_a_function_stuck_in_training_is_a_violation_of_eval():
    model = remembering(Phase.TRAIN)
    assert contract(model, Phase.TRAIN, X).verdict == "holds"
    assert sorted(paths(contract(model, Phase.EVAL, X))) == [
        "block/drop",
        "block/normal/moving_mean",
        "block/normal/moving_variance",
    ]


class Box(layers.Layer):
    """A loaded black box, called as in training."""

    def __init__(self, path, **options):
        super().__init__(**options)
        self.box = tf.saved_model.load(path)

    def call(self, inputs):
        return self.box(inputs, training=True)


def test_a_loaded_black_box_called_as_in_training_is_a_violation_of_eval(tmp_path):
    healthy().save(tmp_path / "box", save_format="tf")
    report = contract(sequential(Box(str(tmp_path / "box"), name="box")), Phase.EVAL, X)
    assert report.verdict == "violated"
    assert {each.kind for each in report.effects} == {"random", "write"}
    assert all(path.startswith("box") or "moving" in path for path in paths(report)), paths(report)


def test_a_module_that_does_not_forward_the_phase_is_named():
    class Unforwarding(tf.Module):
        def __init__(self):
            super().__init__()
            self.drop = layers.Dropout(0.5)

        def __call__(self, x, training=None):
            return raw(x) if training is None else self.drop(x, training=True)

    report = contract(Unforwarding(), Phase.EVAL, X)
    assert report.verdict == "violated"
    assert paths(report) == ["drop"]


def test_the_guards_violations_are_in_the_report_and_nothing_is_raised():
    inputs = tf_keras.Input([3])
    model = tf_keras.Model(inputs, layers.Dropout(0.5, name="baked")(inputs, training=True))
    report = contract(model, Phase.EVAL, X)
    assert report.verdict == "violated"
    assert "baked" in paths(report)
    follow(model, match="baked")
    assert contract(model, Phase.EVAL, X).verdict == "holds"


def test_layers_pinned_to_another_phase_are_judged_by_it():
    model = sequential(layers.Dense(3), layers.Dropout(0.5, name="mc"), layers.Dropout(0.5))
    pin(model, Phase.MC_PREDICT, match="mc")
    report = contract(model, Phase.EVAL, X)
    assert report.verdict == "holds"
    assert [each.layer for each in report.effects] == ["mc"]
    teacher = sequential(layers.Dense(3), layers.Lambda(raw, name="raw"))
    pin(teacher, Phase.EVAL)
    assert paths(contract(lambda x: model(x) + teacher(x), Phase.TRAIN, X)) == ["raw"]


def test_a_python_function_is_not_proved_and_named():
    model = sequential(layers.Lambda(lambda x: tf.numpy_function(np.tanh, [x], tf.float32), name="numpy"))
    report = contract(model, Phase.EVAL, X)
    assert report.verdict == "not proved"
    [reason] = report.unproved
    assert "PyFunc" in reason
    assert "'numpy'" in reason


def test_a_variable_that_the_step_forgets_is_listed():
    model, optimizer = healthy(), optimizers.SGD()
    optimizer.build(model.trainable_variables)

    def step(x, variables):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    assert contract(lambda x: step(x, model.trainable_variables), Phase.TRAIN, X).unwritten == ()
    report = contract(lambda x: step(x, model.trainable_variables[1:]), Phase.TRAIN, X)
    assert report.unwritten == ("dense/kernel",)
    assert report.verdict == "holds"
    model.layers[0].trainable = False
    assert contract(lambda x: step(x, model.trainable_variables), Phase.TRAIN, X).unwritten == ()


class Forgetful(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.dense, self.dead, self.none = layers.Dense(3), layers.Dropout(0.5), layers.Dropout(0.0)
        self.rnn = layers.LSTM(2, dropout=0.1)

    def call(self, inputs):
        return self.rnn(self.dense(inputs)[..., None])


def test_a_dropout_that_training_never_reaches_is_listed():
    report = contract(Forgetful(), Phase.TRAIN, X)
    assert report.unreached == ("dead",)
    assert report.verdict == "holds"
    assert contract(Forgetful(), Phase.EVAL, X).unreached == ()


@pytest.mark.parametrize("given", [X, tf.constant(X), tf.TensorSpec([None, 3])])
def test_arguments_may_be_arrays_tensors_or_specs(given):
    assert contract(healthy(), Phase.EVAL, given).verdict == "holds"


def test_methods_functions_and_traced_functions_are_taken():
    class Coder(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.decoder = tf_keras.Sequential([layers.Dense(3), layers.Lambda(raw, name="raw")])

        def decode(self, z):
            return self.decoder(z)

        @tf.function
        def decode_traced(self, z):
            return self.decoder(z)

    coder = Coder()
    assert paths(contract(coder.decode, Phase.EVAL, X)) == ["decoder/raw"]
    Phase.TRAIN.call(coder.decode_traced, tf.constant(X))
    assert contract(coder.decode_traced, Phase.EVAL, X).violations[0].path.endswith("raw")


def test_a_function_that_runs_its_own_phases_is_judged_by_them():
    model = healthy()
    assert contract(lambda x: Phase.TRAIN.call(model, x), Phase.TRAIN, X).verdict == "holds"
    report = contract(lambda x: Phase.TRAIN.call(model, x), Phase.EVAL, X)
    assert sorted(paths(report)) == ["batch_normalization/moving_mean", "batch_normalization/moving_variance"]


def test_an_exception_of_the_function_is_raised_as_itself():
    def step(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        contract(step, Phase.EVAL, X)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match=r"fn=3 is not callable; pass a model"):
        contract(3, Phase.EVAL)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"fn=ndarray of shape \(4, 3\) is not callable"):
        contract(X, Phase.EVAL, healthy())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"contract: 'sequential\w*' was given no inputs; pass a batch"):
        contract(healthy(), Phase.EVAL)
    with pytest.raises(TypeError, match=r"contract: phase='eval' is not a Phase"):
        contract(healthy(), "eval", X)  # pyright: ignore[reportArgumentType]


def test_the_report_can_be_read_by_people_and_by_programs():
    model = sequential(layers.Lambda(raw, name="raw"), Counting(name="counter"))
    report = contract(model, Phase.EVAL, X)
    text = str(report)
    assert text.startswith("contract of phase 'eval': violated")
    assert "raw" in text
    assert "counter/calls" in text
    assert "RandomUniform" in text
    plain = report.to_json()
    assert plain["verdict"] == "violated"
    assert plain["phase"] == "eval"
    assert [violation["path"] for violation in plain["violations"]] == ["raw", "counter/calls"]
    assert plain["effects"][0]["kind"] == "random"
    assert trainloop.ContractReport is type(report)


def test_what_a_layer_does_after_a_scope_inside_its_call_is_still_its_own():
    class Drop(layers.Layer):
        def __init__(self):
            super().__init__()
            self.score, self.rate = layers.Dense(3), 0.5

        def call(self, x, training=None):
            scores = Phase.EVAL.call(self.score, x)
            return tf.nn.dropout(x, self.rate) + 0.0 * scores if training else x

    register_family(Drop, "dropout")
    drop = Drop()
    assert contract(drop, Phase.TRAIN, tf.TensorSpec([2, 3])).verdict == "holds"
    pin(drop, Phase.MC_PREDICT)
    assert contract(drop, Phase.EVAL, tf.TensorSpec([2, 3])).verdict == "holds"


class Loop:
    """Somebody's own loop, with its compiled call in an attribute."""

    def __init__(self):
        self.model = healthy()
        self.compiled = tf.function(lambda x: self.model(x, training=False))
        self.compiled(X)

    def step(self, x):
        return self.compiled(x)

    def make_step(self):
        def step(x):
            return 2.0 * self.step(x)

        return step


@pytest.mark.parametrize("make", [lambda loop: loop.step, Loop.make_step])
def test_a_whole_step_that_was_traced_in_another_phase_is_named_by_the_models_within_reach(make):
    step = make(Loop())
    assert set(paths(contract(step, Phase.TRAIN, X))) == {"batch_normalization", "dropout"}
    assert contract(step, Phase.EVAL, X).verdict == "holds"


def test_statistics_that_a_function_traced_before_writes_for_a_frozen_layer_are_a_violation():
    model = sequential(layers.BatchNormalization(name="norm"), layers.Dense(1))
    compiled = tf.function(lambda x: model(x, training=True))
    compiled(X)
    assert contract(compiled.get_concrete_function(X), Phase.TRAIN, X).verdict == "holds"
    model.get_layer("norm").trainable = False
    report = contract(lambda x: 2.0 * compiled(x), Phase.TRAIN, X)
    assert paths(report) == ["norm/moving_mean", "norm/moving_variance"]
    assert "though BatchNormalization is frozen" in report.violations[0].what


def test_statistics_of_a_frozen_layer_may_be_copied_from_another_one():
    student, teacher = healthy(), healthy()
    teacher.trainable = False

    def step(x):
        for mine, theirs in zip(teacher.variables, student.variables, strict=True):
            mine.assign(0.9 * mine + 0.1 * theirs)
        return student(x) + Phase.PREDICT.call(teacher, x)

    assert contract(step, Phase.TRAIN, X).verdict == "holds"


@pytest.mark.parametrize("in_a_layer", [False, True])
def test_what_a_function_draws_in_a_scope_of_its_own_is_judged_by_that(in_a_layer):
    def step(x):
        return Phase.PREDICT.call(raw, x)

    function = sequential(layers.Lambda(step)) if in_a_layer else step
    report = contract(function, Phase.TRAIN, X)
    assert "in phase 'predict'" in report.violations[0].what
    assert contract(lambda x: Phase.TRAIN.call(raw, x), Phase.EVAL, X).verdict == "holds"


def test_a_teacher_traced_before_serves_in_its_own_phase():
    student, teacher = healthy(), healthy()
    compiled = tf.function(lambda x: teacher(x, training=False))
    compiled(X)

    def step(x):
        return student(x) + Phase.PREDICT.call(lambda y: 2.0 * compiled(y), x)

    assert contract(step, Phase.TRAIN, X).verdict == "holds"


class Holding(layers.Layer):
    """Calls a function that was traced before, in one mode whatever it is told."""

    def __init__(self, function, training, **options):
        super().__init__(**options)
        self.function, self.mode = function, training

    def call(self, x, training=None):
        return self.function(x, training=training if self.mode is None else self.mode)


def traced_in_both_modes():
    hidden = [layers.Dense(3)]  # reached by no name, and does nothing that would be seen
    function = tf.function(lambda x, training: hidden[0](x) * (2.0 if training else 1.0))
    for training in (True, False):
        function(X, training=training)
    return function


def test_a_function_traced_before_is_held_to_what_it_is_told():
    held = Holding(traced_in_both_modes(), False, name="held")
    report = contract(held, Phase.TRAIN, X)
    assert paths(report) == ["held"]
    assert "with training=False; phase 'train' expects training=True" in report.violations[0].what
    assert contract(held, Phase.EVAL, X).verdict == "holds"
    passing = Holding(traced_in_both_modes(), None)
    assert {contract(passing, phase, X).verdict for phase in (Phase.TRAIN, Phase.EVAL)} == {"holds"}
    assert contract(lambda x: held.function(x, training=True), Phase.EVAL, X).verdict == "violated"


def test_what_a_function_is_told_is_known_under_a_tape_too():
    held = Holding(traced_in_both_modes(), False, name="held")
    held.function(X, training=False)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(held(x))
        return tape.gradient(loss, x)

    assert paths(contract(step, Phase.TRAIN, tf.constant(X))) == ["held"]
    by_position = contract(lambda x: held.function(x, True), Phase.EVAL, tf.constant(X))
    assert "with training=True; phase 'eval'" in by_position.violations[0].what


@pytest.mark.parametrize("way", ["pinned", "frozen", "in a scope"])
def test_a_function_traced_before_may_mean_what_it_is_told(way):
    held = Holding(traced_in_both_modes(), False)
    if way == "pinned":
        pin(held, Phase.EVAL)
    held.trainable = way != "frozen"
    step = held if way != "in a scope" else lambda x: Phase.PREDICT.call(held.function, x)
    assert contract(step, Phase.TRAIN, X).verdict == "holds"


def test_where_nothing_was_said_is_told():
    """The verdict holds where the function is called in the phase, and says so."""
    model = sequential(layers.Dense(3), layers.Dropout(0.5, name="drop"))

    @tf.function
    def forgetful(x):
        return model(x)

    report = contract(forgetful, Phase.TRAIN, X)
    assert report.verdict == "holds"
    assert report.supplied == ("sequential",)
    assert "told nothing   sequential: in this phase where it is called in it" in str(report)
    assert contract(lambda x: model(x, training=True), Phase.TRAIN, X).supplied == ()
    dense = sequential(layers.Dense(3))
    assert contract(lambda x: 2.0 * dense(x), Phase.TRAIN, X).supplied == (), "it does the same in every phase"
    assert contract(model, Phase.TRAIN, X).supplied == ()


def test_a_draw_is_found_by_its_line_and_its_pin():
    model = sequential(layers.Lambda(raw, name="raw"))
    line = raw.__code__.co_firstlineno + 1
    assert f"test_contracts.py:{line})" in contract(model, Phase.EVAL, X).violations[0].what
    assert "pinned" not in contract(model, Phase.EVAL, X).violations[0].what
    pin(model, Phase.EVAL)
    [violation] = contract(model, Phase.TRAIN, X).violations
    assert "in phase 'eval', to which it is pinned" in violation.what


def test_dropout_that_is_pinned_is_named_where_mc_predict_needs_some():
    model = sequential(layers.Dense(3), layers.Dropout(0.5, name="drop"))
    pin(model, Phase.EVAL)
    [violation] = contract(model, Phase.MC_PREDICT, X).violations
    assert "drop are pinned to another phase" in violation.what
    assert "unpin" in violation.fix


def test_an_optimizers_slots_are_one_row_for_people():
    model, optimizer = sequential(layers.Dense(3), layers.Dense(1)), optimizers.Adam()
    optimizer.build(model.trainable_variables)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    report = contract(step, Phase.TRAIN, X)
    assert str(report).count("optimizer/") < 4
    assert sum(each.variable.startswith("optimizer/") for each in report.effects) > 8
