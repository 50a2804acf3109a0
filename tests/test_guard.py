"""The guard: which layer calls a scope reaches, and what each family is told."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, policy, register_family

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
def test_what_the_code_says_stays_where_one_boolean_says_it_all(kind):
    """A frozen base: its dropout is off and its batch norm at rest in TRAIN too."""
    base, head = kind(), layers.Dropout(0.5)
    x = inputs()

    def model(x):
        return head(base(x, training=False))

    with Phase.TRAIN.scope():
        base(x)
        statistics = batch_norm_of(base).moving_mean.numpy()
        assert np.array_equal(base(x, training=False), base(x, training=False))
        assert not np.array_equal(model(x), model(x))
    np.testing.assert_array_equal(batch_norm_of(base).moving_mean, statistics)


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
