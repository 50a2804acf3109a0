"""The guard: which layer calls a scope reaches, and what each family is told."""

import re
import threading

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, PhaseError, guard, policy, register_family

layers = tf_keras.layers
ROWS, TIME, WIDTH = 32, 4, 6


class Subclassed(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.drop(self.norm(x, training=training), training=training)


class SaysNothing(Subclassed):
    def call(self, x):
        return self.drop(self.norm(x))


class LiteralNone(tf_keras.Model):
    """The literal None erases what Keras would have handed down."""

    def __init__(self):
        super().__init__()
        self.inner = SaysNothing()

    def call(self, x, training=None):
        return self.inner(x, training=None)


class HardWired(Subclassed):
    """Says True to all: one boolean cannot express MC_PREDICT and UPDATE_BN, so there the family decides."""

    def call(self, x):
        return self.drop(self.norm(x, training=True), training=True)


class ModuleOfLayers(tf.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5)

    def __call__(self, x):
        return self.drop(self.norm(x))


class Attending(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.norm, self.attend = layers.BatchNormalization(), layers.MultiHeadAttention(2, 3, dropout=0.5)

    def call(self, x):
        x = self.norm(x)
        return self.attend(x, x)


def functional():
    inputs = layers.Input([TIME, WIDTH])
    inner = tf_keras.Sequential([layers.BatchNormalization(), layers.Dense(WIDTH)])
    return tf_keras.Model(inputs, layers.Dropout(0.5)(inner(inputs)))


def luong():
    inputs = layers.Input([TIME, WIDTH])
    normed = layers.BatchNormalization()(inputs)
    return tf_keras.Model(inputs, layers.Attention(dropout=0.5)([normed, normed]))


def after_batch_norm(*others):
    return tf_keras.Sequential([layers.BatchNormalization(), *others])


MODELS = {
    "functional": functional,
    "subclassed": Subclassed,
    "says nothing": SaysNothing,
    "literal None": LiteralNone,
    "tf.Module": ModuleOfLayers,
    "LSTM": lambda: after_batch_norm(layers.LSTM(3, dropout=0.5)),
    "GRU, recurrent": lambda: after_batch_norm(layers.GRU(3, recurrent_dropout=0.5)),
    "RNN of a cell": lambda: after_batch_norm(layers.RNN(layers.SimpleRNNCell(3, dropout=0.5))),
    "Bidirectional": lambda: after_batch_norm(layers.Bidirectional(layers.SimpleRNN(3, recurrent_dropout=0.5))),
    "MultiHeadAttention": Attending,
    "Attention": luong,
    "TimeDistributed": lambda: layers.TimeDistributed(after_batch_norm(layers.Dropout(0.5))),
}


def batch_norm_of(model):
    (found,) = [module for module in model.submodules if isinstance(module, layers.BatchNormalization)]
    return found


def behaviour(call, model, x):
    """Returns whether units are dropped, and whether batch norm uses (and moves) the batch's statistics."""
    call(x)  # makes the variables
    dropped = not np.array_equal(call(x), call(x))
    norm, normalize, normed = batch_norm_of(model), batch_norm_of(model).call, []
    far_away = tf.fill([WIDTH], 1e4)
    norm.moving_mean.assign(far_away)
    norm.call = lambda inputs, **kwargs: normed.append(normalize(inputs, **kwargs)) or normed[-1]
    call(x)
    used_batch = float(tf.reduce_max(tf.abs(normed[-1]))) < 100
    moved = not np.array_equal(norm.moving_mean, far_away)
    assert moved == used_batch
    return dropped, used_batch


def inputs():
    return tf.constant(np.random.default_rng(0).normal(size=[ROWS, TIME, WIDTH]), tf.float32)


def expected(phase):
    return phase.policy.dropout, phase.policy.batch_norm == "batch"


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
@pytest.mark.parametrize("name", MODELS)
def test_every_family_does_what_its_phase_says(name, phase):
    model = MODELS[name]()
    assert behaviour(lambda x: phase.call(model, x), model, inputs()) == expected(phase)


@pytest.mark.parametrize("phase", [Phase.MC_PREDICT, Phase.UPDATE_BN], ids=lambda phase: phase.value)
@pytest.mark.parametrize("kind", [functional, HardWired])
def test_families_win_over_what_was_said_where_one_boolean_cannot_say_it(kind, phase):
    model = kind()

    def call(x):
        with phase.scope():
            return model(x, training=True)

    assert behaviour(call, model, inputs()) == expected(phase)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_in_a_graph_too(phase):
    model = SaysNothing()
    model(inputs())

    @tf.function
    def twice(x):
        with phase.scope():
            return model(x), model(x)

    one, other = twice(inputs())
    moved = np.abs(model.norm.moving_mean).max() > 0
    assert (not np.array_equal(one, other), moved) == expected(phase)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_noise_and_augmentation(phase):
    x = tf.random.uniform([8, 6, 6, 1])
    noise, crop = layers.GaussianNoise(1.0), layers.RandomTranslation(0.3, 0.3)
    assert bool(tf.reduce_any(phase.call(noise, x) != x)) == phase.policy.noise
    assert bool(tf.reduce_any(phase.call(crop, x) != x)) == phase.policy.augmentation


class Told(layers.Layer):
    """Notes what it is told."""

    def call(self, *inputs, training=None):
        self.training = training
        return inputs[0]


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_a_layer_of_no_family_is_told_the_training_of_the_phase(phase):
    told = Told()
    with phase.scope():
        told(tf.ones([1]), tf.ones([1]))
    assert told.training is phase.training


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_a_registered_layer_is_told_what_its_family_is(phase, monkeypatch):
    class DropPath(Told):
        pass

    monkeypatch.setattr(policy, "_FAMILIES", dict(policy._FAMILIES))
    register_family(DropPath, "dropout")
    drop_path = DropPath()
    model = tf_keras.Sequential([drop_path])
    phase.call(model, tf.ones([1, 1]))
    assert drop_path.training is phase.policy.dropout


@pytest.mark.parametrize("kind", [Subclassed, SaysNothing, LiteralNone])
def test_a_scope_of_its_own_holds_for_a_part(kind):
    """A frozen base: its dropout is off and its batch norm at rest in TRAIN too."""
    base, head = kind(), layers.Dropout(0.5)
    x = inputs()

    def model(x):
        return head(Phase.EVAL.call(base, x))

    with Phase.TRAIN.scope():
        base(x)
        statistics = batch_norm_of(base).moving_mean.numpy()
        assert np.array_equal(Phase.EVAL.call(base, x), Phase.EVAL.call(base, x))
        assert not np.array_equal(model(x), model(x))
    np.testing.assert_array_equal(batch_norm_of(base).moving_mean, statistics)


class Block(tf_keras.Model):
    """Calls a part with what it is told to say."""

    def __init__(self, part, **said):
        super().__init__()
        self.part, self.said = part, said

    def call(self, x):
        return self.part(x, **self.said)


def baked(value):
    x = layers.Input([TIME, WIDTH])
    return tf_keras.Model(x, layers.Dense(WIDTH)(layers.Dropout(0.5, name="drop")(x, training=value)))


class UnderAnotherName(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, x, is_training=False):
        return self.drop(x) if is_training else x


class Goes(tf_keras.Model):
    """Invokes the `call` of a part directly."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def call(self, x):
        return self.part.call(x)


def error_of(phase, model, x=None):
    """Returns the PhaseError of a model in a phase, traced."""
    x = inputs() if x is None else x
    with pytest.raises(PhaseError) as raised:
        tf.function(lambda x: phase.call(model, x)).get_concrete_function(x)
    return raised.value


def test_a_hard_wired_value_is_refused():
    error = error_of(Phase.TRAIN, Block(Block(layers.Dropout(0.5), training=False)))
    assert error.phase == "train"
    (violation,) = error.violations
    assert violation.path == "part/part"
    assert violation.what == (
        "Dropout has training=False hard-wired in the call of part (Block); phase 'train' expects training=True"
    )
    assert f"trainloop.pin(model, Phase.EVAL, match={violation.path!r})" in violation.fix
    assert f"1 violation of phase 'train':\n      {violation}" in str(error)


def test_a_value_baked_into_a_functional_graph_is_refused():
    error = error_of(Phase.EVAL, baked(True))
    (violation,) = error.violations
    assert violation.path == "drop"
    assert "Dropout has training=True baked into the functional graph of model (Functional)" in violation.what


def test_all_violations_of_a_trace_come_in_one_error_and_only_the_outermost_on_each_path():
    class Three(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.a = Block(layers.Dropout(0.5), training=False)
            self.b = Subclassed()
            self.c = SaysNothing()

        def call(self, x):
            return self.c(self.b(self.a(x), training=False))

    error = error_of(Phase.TRAIN, Three())
    assert [violation.path for violation in error.violations] == ["a/part", "b"]  # not b/norm and b/drop too


@pytest.mark.parametrize("value", [1, 0, np.bool_(True), tf.constant(True)], ids=repr)
def test_what_means_a_bool_counts_as_one(value):
    x = inputs()
    agreeing = Phase.TRAIN if bool(value) else Phase.EVAL
    model = Block(layers.Dropout(0.5), training=value)
    agreeing.call(model, x)
    with pytest.raises(PhaseError):
        (Phase.EVAL if bool(value) else Phase.TRAIN).call(model, x)


def test_a_tensor_that_is_not_known_yet_is_refused():
    drop = layers.Dropout(0.5)

    @tf.function
    def step(x, training):
        with Phase.TRAIN.scope():
            return drop(x, training=training)

    with pytest.raises(PhaseError, match=r"is called with a tensor, training=.*Pass a Python bool"):
        step(tf.ones([2]), tf.constant(True))


@pytest.mark.filterwarnings("ignore:.*set_learning_phase. is deprecated")
@pytest.mark.parametrize("value", [True, False])
def test_a_learning_phase_of_the_whole_process_loses_to_the_phase(value):
    tf_keras.backend.set_learning_phase(int(value))
    x, drop = inputs(), layers.Dropout(0.5)
    assert bool(tf.reduce_any(Phase.TRAIN.call(drop, x) == 0))
    assert not bool(tf.reduce_any(Phase.EVAL.call(drop, x) == 0))


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.UPDATE_BN, Phase.MC_PREDICT], ids=lambda phase: phase.value)
def test_a_mode_under_another_name_does_not_arrive_and_is_refused(phase):
    error = error_of(phase, Block(UnderAnotherName()))
    assert error.violations[0].path == "part"
    assert "UnderAnotherName runs with is_training=False, which Keras does not hand down" in error.violations[0].what


def test_a_mode_under_another_name_that_agrees_is_let_be():
    model = Block(UnderAnotherName(), is_training=True)
    assert bool(tf.reduce_any(Phase.TRAIN.call(model, inputs()) == 0))
    Phase.EVAL.call(UnderAnotherName(), inputs())


@pytest.mark.parametrize(
    "part",
    [layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.BatchNormalization(), layers.RandomFlip()],
    ids=lambda part: type(part).__name__,
)
def test_a_call_invoked_directly_goes_round_the_phase_and_is_refused(part):
    x = tf.ones([2, 4, 4, 1])
    part(x)
    phase = Phase.EVAL if isinstance(part, layers.RandomFlip) else Phase.TRAIN  # an augmentation is on by default
    error = error_of(phase, Goes(part), x)
    assert error.violations[0].path == "part"
    assert ".call was invoked directly" in error.violations[0].what


def test_a_call_invoked_directly_that_agrees_is_let_be():
    Phase.EVAL.call(Goes(layers.Dropout(0.5)), inputs())
    with Phase.TRAIN.scope():
        assert bool(tf.reduce_any(layers.Dropout(0.5).call(inputs(), training=True) == 0))


def test_an_eager_call_is_refused_before_the_layer_does_anything():
    norm = layers.BatchNormalization()
    norm(inputs())
    model = Block(Block(norm, training=True))
    with pytest.raises(PhaseError, match="part/part: BatchNormalization has training=True hard-wired"):
        Phase.EVAL.call(model, inputs())
    np.testing.assert_array_equal(norm.moving_mean, tf.zeros([WIDTH]))


def test_a_function_compiled_in_an_eager_scope_is_refused_before_it_runs():
    norm, ran = layers.BatchNormalization(), tf.Variable(0)
    norm(inputs())

    @tf.function
    def step(x):
        ran.assign_add(1)
        return norm(x, training=True)

    with pytest.raises(PhaseError), Phase.EVAL.scope():
        step(inputs())
    assert ran.numpy() == 0


def test_a_refused_scope_leaves_nothing_behind():
    drop = layers.Dropout(0.5)
    error_of(Phase.TRAIN, Block(drop, training=False))
    assert bool(tf.reduce_any(Phase.TRAIN.call(drop, inputs()) == 0))
    assert np.array_equal(drop(inputs()), inputs())


def test_an_exception_of_the_user_is_not_hidden_by_a_violation():
    def model(x):
        layers.Dropout(0.5)(x, training=False)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        tf.function(lambda x: Phase.TRAIN.call(model, x))(inputs())


def test_a_layer_in_a_closure_is_named_below_the_layer_that_calls_it():
    hidden = layers.Dropout(0.5)

    class Hides(tf_keras.Model):
        def call(self, x):
            return hidden(x, training=False)

    assert error_of(Phase.TRAIN, Block(Hides())).violations[0].path == "part/dropout"


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"literal None", "tf.Module", "says nothing"}))
@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.EVAL], ids=lambda phase: phase.value)
def test_the_guard_adds_nothing_to_the_graph_of_a_model_that_is_called_rightly(name, phase):
    model = MODELS[name]()
    x = inputs()
    Phase.EVAL.call(model, x)

    @tf.function
    def step(x):
        return model(x, training=phase.training)

    def graph():
        found = tf.function(step.python_function).get_concrete_function(x).graph.as_graph_def()
        functions = sorted(without_numbers(each) for each in found.library.function)
        found.library.Clear()
        return without_numbers(found), functions

    plain = graph()
    with phase.scope():
        guarded = graph()
    assert guarded == plain


def without_numbers(message):
    """TensorFlow numbers the functions of the whole process, and Keras gives each LSTM call another uuid."""
    return re.sub(r"_[0-9a-f-]{36}|_\d+", "", str(message))


@pytest.mark.parametrize(("rate", "phase"), [(0.5, Phase.TRAIN), (0.0, Phase.TRAIN), (0.5, Phase.EVAL)])
def test_a_mask_that_the_gradient_would_not_see_is_refused(rate, phase):
    drop = layers.Dropout(rate)

    def step(x):
        with tf.GradientTape() as tape, phase.scope():
            tape.watch(x)
            y = tf.recompute_grad(lambda x: drop(x) * 2.0)(x)
        return tape.gradient(y, x)

    if rate and phase is Phase.TRAIN:
        with pytest.raises(PhaseError, match=r"dropout: Dropout draws under tf.recompute_grad, which draws anew"):
            tf.function(step)(inputs())
    else:
        tf.function(step)(inputs())


def in_another_thread(function):
    """Runs `function` in a thread that builds the same graph, and returns what it returned."""
    graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    found = []

    def run():
        if graph is None:
            found.append(function())
        else:
            with graph.as_default():
                found.append(function())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_worker_that_builds_the_same_graph_is_in_the_scope():
    told = Told()

    @tf.function
    def step(x):
        with Phase.TRAIN.scope():
            return in_another_thread(lambda: told(x))

    step(tf.ones([1]))
    assert told.training is True


def test_a_worker_that_runs_eagerly_has_a_phase_of_its_own():
    """A scope is not the whole process's: the thread of a data pipeline must not be put into the phase of a step."""
    ours, theirs, named = Told(), Told(), Told()
    with Phase.TRAIN.scope():
        ours(tf.ones([1]))
        in_another_thread(lambda: theirs(tf.ones([1])))
        in_another_thread(lambda: Phase.EVAL.call(named, tf.ones([1])))
    assert (ours.training, theirs.training, named.training) == (True, None, False)


def test_another_graph_is_not_in_the_scope():
    told = Told()

    def other():
        with tf.Graph().as_default():
            told(tf.constant([1.0]))

    @tf.function
    def step(x):
        with Phase.TRAIN.scope():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return Told()(x)

    step(tf.ones([1]))
    assert told.training is None


def around_run(strategy, function):
    with Phase.TRAIN.scope():
        return strategy.run(function)


def around_compiled_run(strategy, function):
    compiled = tf.function(lambda: strategy.run(function))
    with Phase.TRAIN.scope():
        return compiled()


def inside_compiled(strategy, function):
    return tf.function(lambda: around_run(strategy, function))()


def inside_replica(strategy, function):
    def replica():
        with Phase.TRAIN.scope():
            return function()

    return tf.function(lambda: strategy.run(replica))()


@pytest.mark.parametrize("where", [around_run, around_compiled_run, inside_compiled, inside_replica])
def test_replicas_are_in_the_scope(where, two_replicas):
    """Each replica runs in a thread of its own."""
    with two_replicas.scope():
        dropout = layers.Dropout(0.5)
    outputs = two_replicas.experimental_local_results(where(two_replicas, lambda: dropout(tf.ones([100]))))
    assert len(outputs) == 2
    assert all(30 < np.sum(each.numpy() == 0) < 70 for each in outputs)


def test_each_replica_keeps_to_its_own_scope(two_replicas):
    told = {Phase.TRAIN: Told(), Phase.EVAL: Told()}
    phases = iter(told)

    def replica():
        phase = next(phases)
        with phase.scope():
            tf.distribute.get_replica_context().merge_call(lambda strategy: None)  # now both scopes are open
            return told[phase](tf.ones([1]))

    tf.function(lambda: two_replicas.run(replica))()
    assert {phase: each.training for phase, each in told.items()} == {Phase.TRAIN: True, Phase.EVAL: False}


def test_an_eager_loop_in_a_scope_keeps_nothing():
    drop = layers.Dropout(0.5)
    with guard.scope("train", Phase.TRAIN.policy) as scope:
        for _ in range(3):
            drop(tf.ones([1]))
    assert (scope.layer_calls, scope.trace.calls) == (3, [])
