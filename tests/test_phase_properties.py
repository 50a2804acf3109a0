"""Whatever came before, a phase does what the table says: random sequences of phases, pins, flags, saves and loads."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from trainloop import Phase, PhaseError, follow, pin, unpin

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


AnyOrder.TestCase.settings = hypothesis.settings(max_examples=25, stateful_step_count=12)
TestCallsInAnyOrder = AnyOrder.TestCase
