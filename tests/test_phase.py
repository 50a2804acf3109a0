"""`Phase`: its values, `phase.call` and `phase.scope`, with no Trainer in sight."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase
from trainloop.phase import check_phase

layers = tf_keras.layers
ONES = tf.ones([4, 50])


def share_of_zeros(outputs):
    return float(tf.reduce_mean(tf.cast(outputs == 0.0, tf.float32)))


def drops(outputs):
    return share_of_zeros(outputs) > 0.2


class TakesTraining(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.dropout(x, training=training)

    def decode(self, x):
        return self.dropout(x)


class TakesNone(TakesTraining):
    def call(self, x):
        return self.dropout(x)


class DoesNotForward(TakesTraining):
    def call(self, x, training=None):
        del training
        return self.dropout(x)


class PlainModule(tf.Module):
    """No Keras at all."""

    def __call__(self, x, training):
        return tf.nn.dropout(x, 0.5) if training else x


class ModuleOfLayers(tf.Module):
    def __init__(self):
        super().__init__()
        self.dropout = layers.Dropout(0.5)

    def __call__(self, x):
        return self.dropout(x)


def function_of(dropout, x):
    return dropout(x)


def functional():
    inputs = layers.Input([50])
    return tf_keras.Model(inputs, layers.Dropout(0.5)(inputs))


CALLABLES = {
    "layer": lambda: layers.Dropout(0.5),
    "functional": functional,
    "sequential": lambda: tf_keras.Sequential([layers.Dropout(0.5)]),
    "takes training": TakesTraining,
    "takes none": TakesNone,
    "does not forward": DoesNotForward,
    "method of a model": lambda: TakesTraining().decode,
    "module": PlainModule,
    "module of layers": ModuleOfLayers,
    "function": lambda: functools.partial(function_of, layers.Dropout(0.5)),
    "function with training": lambda: lambda x, training: tf.nn.dropout(x, 0.5) if training else x,
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
@pytest.mark.parametrize("name", CALLABLES)
def test_a_call_is_in_its_phase(name, compiled):
    model = CALLABLES[name]()
    for phase, expected in [(Phase.TRAIN, True), (Phase.EVAL, False), (Phase.TRAIN, True), (Phase.PREDICT, False)]:
        call = functools.partial(phase.call, model)
        assert drops(tf.function(call)(ONES) if compiled else call(ONES)) == expected


def test_all_arguments_reach_the_model():
    def model(a, *rest, factor):
        return a + sum(rest), factor

    assert Phase.EVAL.call(model, 1, 2, 3, factor=4) == (6, 4)
    attention = layers.MultiHeadAttention(1, 2)
    x = tf.ones([1, 3, 2])
    outputs, scores = Phase.TRAIN.call(attention, x, x, return_attention_scores=True, use_causal_mask=True)
    assert (outputs.shape, scores.shape) == ((1, 3, 2), (1, 1, 3, 3))


def test_the_value_is_the_prefix_of_metrics():
    assert [phase.value for phase in Phase] == ["train", "eval", "predict", "mc_predict", "update_bn"]


def test_a_call_adds_no_op_to_the_graph():
    model = tf_keras.Sequential([layers.Dense(3, input_shape=(50,)), layers.BatchNormalization(), layers.Dropout(0.5)])

    def graph_of(call):
        graph = tf.function(call).get_concrete_function(tf.TensorSpec([4, 50])).graph
        return [(op.type, op.name) for op in graph.get_operations()]

    for phase in (Phase.TRAIN, Phase.EVAL):
        plain = graph_of(lambda x, phase=phase: model(x, training=phase.training))
        assert graph_of(lambda x, phase=phase: phase.call(model, x)) == plain


def test_an_own_loop_without_a_trainer():
    """Somebody's training loop, into which the phase is dropped."""
    model = tf_keras.Sequential([layers.Dense(20, input_shape=(3,)), layers.BatchNormalization(), layers.Dropout(0.3)])
    head = layers.Dense(1)
    head.build([None, 20])
    optimizer = tf_keras.optimizers.Adam(0.05)
    optimizer.build([*model.trainable_variables, *head.trainable_variables])
    x = np.random.default_rng(0).normal(size=[64, 3]).astype("float32")
    y = x.sum(1, keepdims=True)

    @tf.function
    def train(steps):
        for _ in tf.range(steps):
            with tf.GradientTape() as tape, Phase.TRAIN.scope():
                loss = tf.reduce_mean(tf.square(head(model(x)) - y))
            variables = [*model.trainable_variables, *head.trainable_variables]
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    @tf.function
    def evaluate():
        return tf.reduce_mean(tf.square(head(Phase.EVAL.call(model, x)) - y))

    statistics = model.layers[1].moving_mean
    before, unmoved = evaluate(), statistics.numpy()
    np.testing.assert_array_equal(statistics, np.zeros(20))
    assert evaluate() == before
    train(tf.constant(60))
    after = evaluate()
    assert np.abs(statistics.numpy() - unmoved).max() > 0.02
    assert evaluate() == after < 0.2 * before


def test_a_scope_puts_plain_calls_into_its_phase():
    model = TakesTraining()
    assert not drops(model(ONES))
    with Phase.TRAIN.scope():
        assert drops(model(ONES))
    with Phase.EVAL.scope():
        assert not drops(model(ONES))
    assert not drops(model(ONES))


def test_random_flip_agrees_with_dropout_where_nothing_is_said():
    """Without a phase Keras has `RandomFlip` on while `Dropout` in the same model is off."""
    flip, dropout = layers.RandomFlip("horizontal", seed=1), layers.Dropout(0.5)
    images = tf.tile(tf.range(16.0)[None, None, :, None], [64, 2, 1, 1]) + 1.0

    def flipped_and_dropped():
        return bool(tf.reduce_any(flip(images) != images)), drops(dropout(images))

    assert flipped_and_dropped() == (True, False)
    for phase in Phase:
        with phase.scope():
            assert flipped_and_dropped() == (phase.policy.augmentation, phase.policy.dropout), phase


def test_scopes_nest_and_the_innermost_wins():
    dropout = layers.Dropout(0.5)
    with Phase.TRAIN.scope():
        assert drops(dropout(ONES))
        assert not drops(Phase.PREDICT.call(dropout, ONES))
        with Phase.EVAL.scope():
            assert not drops(dropout(ONES))
            assert drops(Phase.TRAIN.call(function_of, dropout, ONES))
            assert not drops(dropout(ONES))
        assert drops(dropout(ONES))


def test_a_scope_ends_with_an_exception():
    dropout = layers.Dropout(0.5)

    def failing(x):
        raise KeyError("mine")

    with Phase.EVAL.scope():
        with pytest.raises(KeyError, match="mine"), Phase.TRAIN.scope():
            Phase.TRAIN.call(failing, dropout(ONES))
        assert not drops(dropout(ONES))
    with pytest.raises(KeyError, match="mine"):
        Phase.TRAIN.call(failing, ONES)
    assert not drops(dropout(ONES))


def test_a_phase_inside_a_layer_wins_over_the_call_around_it():
    class Student(layers.Layer):
        def __init__(self):
            super().__init__()
            self.own, self.teacher = layers.Dropout(0.5), TakesNone()

        def call(self, x):
            return self.own(x), Phase.PREDICT.call(self.teacher, x), Phase.PREDICT.call(self.teacher.decode, x)

    own, called, decoded = Phase.TRAIN.call(Student(), ONES)
    assert (drops(own), drops(called), drops(decoded)) == (True, False, False)


def test_a_scope_without_a_layer_call_warns_where_it_stands():
    with pytest.warns(UserWarning, match="'train' saw no layer call") as caught, Phase.TRAIN.scope():
        tf.nn.dropout(ONES, 0.5)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_scope_around_a_function_that_was_traced_before_warns():
    dropout = layers.Dropout(0.5)
    function = tf.function(dropout)
    with Phase.EVAL.scope():
        assert not drops(function(ONES))
    with pytest.warns(UserWarning, match="already traced tf.function"), Phase.TRAIN.scope():
        assert not drops(function(ONES))


@pytest.mark.filterwarnings("ignore:the scope of phase")
def test_a_model_built_inside_a_scope_has_no_phase_baked_in():
    with Phase.TRAIN.scope():
        model = functional()
    assert not drops(Phase.EVAL.call(model, ONES))
    assert drops(Phase.TRAIN.call(model, ONES))


def test_training_is_not_to_be_said_twice():
    with pytest.raises(TypeError, match=r"EVAL.call: training=True was given, but the phase passes training=; drop it"):
        Phase.EVAL.call(layers.Dropout(0.5), ONES, training=True)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match=r"EVAL.call: model='dense' is not callable; pass a model or a func"):
        Phase.EVAL.call("dense", ONES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("eval", "phase='eval' is not a Phase; it must be .*Phase.TRAIN.*; did you mean Phase.EVAL?"),
        ("TRAIN", "did you mean Phase.TRAIN?"),
        (True, "phase=True is not a Phase"),
        (None, "phase=None is not a Phase"),
    ],
)
def test_a_phase_is_never_a_string_or_a_bool(given, said):
    with pytest.raises(TypeError, match=said):
        check_phase(given)


def test_who_makes_up_a_phase_is_told_which_there_are():
    with pytest.raises(
        ValueError, match=r"^Phase\('test'\) is none .* Phase.TRAIN, .*: a test set is evaluated in Phase.EVAL$"
    ):
        Phase("test")
    with pytest.raises(ValueError, match=r"^Phase\(True\) is none of the phases, which are .* Phase.UPDATE_BN$"):
        Phase(True)


def test_a_phase_that_does_not_serve_is_named():
    assert check_phase(Phase.EVAL, (Phase.EVAL,)) is Phase.EVAL
    with pytest.raises(ValueError, match=r"evaluate=Phase.TRAIN does not serve here; it must be .*Phase.EVAL$"):
        check_phase(Phase.TRAIN, (Phase.EVAL,), "evaluate")


def sign_of_sum(x: tf.Tensor) -> tf.Tensor:
    if tf.reduce_sum(x) > 0:  # of a tensor, so that AutoGraph has to convert it
        return tf.ones([])
    return -tf.ones([])


def test_autograph_is_on_in_a_function_where_it_is_for_its_caller():
    compiled = tf.function(lambda x: Phase.EVAL.call(sign_of_sum, x))
    assert [float(compiled(tf.constant(value))) for value in (2.0, -2.0)] == [1.0, -1.0]


def test_autograph_is_off_in_a_function_where_it_is_for_its_caller():
    compiled = tf.function(lambda x: Phase.EVAL.call(sign_of_sum, x), autograph=False)
    with pytest.raises(tf.errors.OperatorNotAllowedInGraphError):
        compiled(tf.constant(2.0))


def test_a_users_exception_reaches_a_caller_that_autograph_converted_as_itself():
    class Mine(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(one, two)

    def fails(x: tf.Tensor) -> tf.Tensor:
        raise Mine("one", "two")

    @tf.function
    def caught(x: tf.Tensor) -> tf.Tensor:
        try:
            Phase.EVAL.call(fails, x)
        except Mine as error:
            return tf.constant(error.args)
        return tf.constant([])

    assert caught(tf.constant(2.0)).numpy().tolist() == [b"one", b"two"]
