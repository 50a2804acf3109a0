"""Whatever came before, a phase does what the table says: random sequences of phases, pins, flags, saves and loads."""

import tempfile

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from trainloop import Checkpointing, Every, Phase, PhaseError, Trainer, data, follow, pin, unpin

layers = tf_keras.layers
ROWS, WIDTH = 64, 4
X = np.random.default_rng(0).normal(3.0, 2.0, size=[ROWS, WIDTH]).astype("float32")

PARTS = ["norm", "drop", "noise", "base", "wired"]

phases, parts = st.sampled_from(list(Phase)), st.sampled_from(PARTS)


class Net(tf_keras.Model):
    """Shows what each of its layers made of the inputs; one of them is told True in its every call."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(WIDTH)
        self.norm, self.drop, self.noise = layers.BatchNormalization(), layers.Dropout(0.5), layers.GaussianNoise(1.0)
        self.base = tf_keras.Sequential([layers.BatchNormalization(), layers.Dropout(0.5)])
        self.wired = layers.Dropout(0.5)

    def call(self, x):
        shown = {name: getattr(self, name)(x) for name in ("norm", "drop", "noise", "base")}
        return {**shown, "dense": self.dense(x), "wired": self.wired(x, training=True)}


def moved(norm, before):
    return not np.array_equal(norm.moving_mean, before)


class AnyOrder(RuleBasedStateMachine):
    """Eager and compiled calls of one model; `held` says what each of its parts was last told."""

    @initialize()
    def make(self):
        tf_keras.utils.set_random_seed(1)
        self.net = Net()
        follow(self.net.wired)
        Phase.EVAL.call(self.net, X)
        unpin(self.net.wired)
        self.parts = {name: getattr(self.net, name) for name in PARTS}
        self.held = dict.fromkeys(self.parts)
        self.followed = set()
        self.saved = None

    @rule(phase=phases, compiled=st.booleans(), through_scope=st.booleans())
    def run(self, phase, compiled, through_scope):
        norms = {"norm": self.net.norm, "base": self.net.base.layers[0]}
        before = {name: norm.moving_mean.numpy() for name, norm in norms.items()}
        kernel = self.net.dense.kernel.numpy()

        def call(x):
            if not through_scope:
                return phase.call(self.net, x)
            with phase.scope():
                return self.net(x)

        call = tf.function(call) if compiled else call
        if phase in (Phase.EVAL, Phase.PREDICT) and self.held["wired"] is None and "wired" not in self.followed:
            with pytest.raises(PhaseError) as raised:
                call(X)
            assert [violation.path for violation in raised.value.violations] == ["wired"]
            return
        shown = {name: value.numpy() for name, value in call(X).items()}
        for name in self.parts:
            policy = (self.held[name] or phase).policy
            if name in norms:
                trains = policy.batch_norm == "batch" and norms[name].trainable
                assert moved(norms[name], before[name]) == trains, name
            if name == "norm":
                assert (abs(shown[name].mean()) < 0.1) == trains  # normalized by the batch, or by other statistics
            elif name == "noise":
                assert np.array_equal(shown[name], X) != policy.noise
            else:
                assert (shown[name] == 0).any() == policy.dropout, name
        np.testing.assert_array_equal(self.net.dense.kernel, kernel)
        for name, norm in norms.items():  # far from the batch's again
            norm.moving_mean.assign(before[name])

    @rule(name=parts, phase=phases)
    def pin(self, name, phase):
        pin(self.parts[name], phase)
        self.held[name] = phase
        self.followed.discard(name)

    @rule(name=parts, by_pattern=st.booleans())
    def unpin(self, name, by_pattern):
        if by_pattern:
            unpin(self.net, match=name)
        else:
            unpin(self.parts[name])
        self.held[name] = None
        self.followed.discard(name)

    @rule(name=parts)
    def follow(self, name):
        follow(self.parts[name])
        self.held[name] = None
        self.followed.add(name)

    @rule(name=st.sampled_from(["norm", "base", "drop"]), value=st.booleans())
    def set_trainable(self, name, value):
        self.parts[name].trainable = value

    @rule(phase=phases)
    def fail_inside(self, phase):
        try:
            with phase.scope():
                self.net(X[:1])
                raise KeyError
        except (KeyError, PhaseError):
            pass
        self.net.norm.moving_mean.assign(tf.zeros([WIDTH]))
        self.net.base.layers[0].moving_mean.assign(tf.zeros([WIDTH]))

    @rule()
    def save(self):
        self.saved = [value.copy() for value in self.net.get_weights()]

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self):
        self.net.set_weights(self.saved)


def values(variables):
    return [variable.numpy().copy() for variable in variables]


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class AnyRun(RuleBasedStateMachine):
    """One run, trained and interrupted by everything else a Trainer does, checkpoints and new processes included."""

    def __init__(self):
        super().__init__()
        self.workdir = tempfile.TemporaryDirectory()

    def teardown(self):
        self.workdir.cleanup()

    def trainer(self):
        tf_keras.utils.set_random_seed(1)
        hidden = tf_keras.Sequential([layers.Dense(3, "relu"), layers.BatchNormalization(), layers.Dropout(0.5)])
        self.model = tf_keras.Sequential([layers.Input([WIDTH]), hidden, layers.Dense(2, "softmax")])
        every = [Checkpointing(Every(steps=1), keep=2)]
        options = {"callbacks": every, "default_callbacks": False, "workdir": self.workdir.name, "seed": 3}
        trainer = Trainer(self.model, "adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"], **options)
        self.hidden, self.norm = hidden, hidden.layers[1]
        return trainer

    @initialize()
    def make(self):
        self.data = data.from_arrays((X[:12], (X[:12, 0] > 3).astype("int32")), batch_size=4)
        self.run, self.pinned, self.saved, self.scores = self.trainer(), None, None, None

    def everything(self):
        optimizer = [] if not self.run.step else self.run.optimizer.variables
        return values([*self.model.variables, *optimizer, self.run.state.step, self.run.state.epoch])

    def statistics(self):
        return values(self.norm.non_trainable_variables if self.norm.trainable else self.norm.variables[2:])

    @rule()
    def fit(self):
        kernels, statistics = values([self.hidden.layers[0].kernel]), self.statistics()
        before = self.run.step
        self.run.fit(self.data, steps=before + 1)
        assert self.run.step == before + 1
        assert same(kernels, values([self.hidden.layers[0].kernel])) != self.hidden.trainable
        assert same(statistics, self.statistics()) != (self.pinned is None and self.norm.trainable)
        self.saved, self.scores = self.everything(), None

    @rule(phase=st.sampled_from([Phase.EVAL, Phase.MC_PREDICT]))
    def evaluate(self, phase):
        before = self.everything()
        scores = self.run.evaluate(self.data, phase=phase, samples=2 if phase is Phase.MC_PREDICT else None)
        assert same(before, self.everything())
        if phase is Phase.EVAL:
            assert self.scores in (None, scores)
            self.scores = scores

    @rule(phase=st.sampled_from([Phase.PREDICT, Phase.MC_PREDICT]))
    def predict(self, phase):
        before, x = self.everything(), data.from_arrays(X[:12], batch_size=4)
        if phase is Phase.PREDICT:
            found = self.run.predict(x)
            np.testing.assert_array_equal(found, self.run.predict(x))
        else:
            found = self.run.predict(x, phase=phase, samples=3)
            np.testing.assert_array_equal(found.mean, self.run.predict(x, phase=phase, samples=3).mean)
            assert found.std.max() > 0
        assert same(before, self.everything())

    @precondition(lambda self: self.norm.trainable and self.pinned is None)
    @rule()
    def update_bn(self):
        weights = values(self.model.trainable_variables)
        self.run.update_bn(self.data)
        assert same(weights, values(self.model.trainable_variables))
        first = self.statistics()
        self.norm.moving_mean.assign_add(tf.ones_like(self.norm.moving_mean))
        self.run.update_bn(self.data)
        np.testing.assert_allclose(first, self.statistics(), rtol=1e-5, atol=1e-6)
        self.scores = None

    @precondition(lambda self: self.pinned is None)
    @rule()
    def pin_norm(self):
        pin(self.norm, Phase.EVAL)
        self.pinned = Phase.EVAL

    @rule()
    def unpin_all(self):
        unpin(self.model)
        self.pinned = None

    @rule(value=st.booleans())
    def set_trainable(self, value):
        self.hidden.trainable = value

    @precondition(lambda self: self.saved is not None)
    @rule()
    def start_again(self):
        """As a new process would, after a kill."""
        trainable, pinned = self.hidden.trainable, self.pinned
        self.run = self.trainer()
        self.run.restore_or_initialize()
        assert same(self.saved, self.everything())
        self.hidden.trainable = trainable
        if pinned is not None:
            pin(self.norm, pinned)
        self.scores = None


AnyOrder.TestCase.settings = hypothesis.settings(max_examples=15, stateful_step_count=12)
# Each example compiles its steps anew: to make a failing one smaller would take longer than to read it.
AnyRun.TestCase.settings = hypothesis.settings(
    max_examples=4, stateful_step_count=10, phases=[hypothesis.Phase.generate]
)
TestCallsInAnyOrder = AnyOrder.TestCase
TestRunsInAnyOrder = AnyRun.TestCase
