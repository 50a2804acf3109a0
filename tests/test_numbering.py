"""What is drawn in a step depends on the run's seed, the phase, the place, the replica, and where the draw stands."""

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.keyed_steps import all_differ, compiled, eagerly, step_of, unkeyed
from trainloop import PhaseError, draws, numbering

layers = tf_keras.layers


# What the numbers depend on


def test_the_numbers_depend_on_seed_phase_place_and_replica_and_on_nothing_else() -> None:
    def draw() -> tf.Tensor:
        return tf.random.normal([4])

    first = compiled(draw)
    tf.random.set_seed(99)
    tf.random.normal([3])
    np.testing.assert_array_equal(compiled(draw), first)
    np.testing.assert_array_equal(eagerly(draw), first)
    np.testing.assert_array_equal(compiled(lambda: tf.random.normal([4], seed=5)), first)
    others = [compiled(draw, **other) for other in ({"seed": 2}, {"phase": "eval"}, {"replica": 1}, {"place": 1})]
    assert all_differ([first, *others])


def test_the_numbers_are_these_in_every_version() -> None:
    """A change of them would break the resume of every run that was saved before it."""
    found = compiled(lambda: tf.random.uniform([2], maxval=1_000_000, dtype=tf.int32), place=5)
    in_loop = compiled(
        lambda: tf.map_fn(lambda _: tf.random.uniform([], maxval=1_000_000, dtype=tf.int32), tf.range(2))
    )
    assert (found.tolist(), in_loop.tolist()) == ([977461, 983065], [603528, 115455])


def test_a_draw_that_is_keyed_may_be_compiled_by_xla() -> None:
    expected = compiled(lambda: tf.random.uniform([4], maxval=1000, dtype=tf.int32))
    step = tf.function(
        step_of(lambda: tf.random.uniform([4], maxval=1000, dtype=tf.int32)), autograph=False, jit_compile=True
    )
    np.testing.assert_array_equal(step(tf.constant(0, tf.int64)), expected)


def test_each_draw_of_a_step_is_another_one() -> None:
    assert all_differ(compiled(lambda: [tf.random.uniform([4]) for _ in range(5)]))
    same_seed = [layers.Dropout(0.5, seed=3), layers.Dropout(0.5, seed=3)]
    assert all_differ(compiled(lambda: [layer(tf.ones([64]), training=True) for layer in same_seed]))


def test_masks_of_steps_and_layers_are_independent() -> None:
    """The correlation of any two masks of n units is within five standard deviations, 5 / sqrt(n), of 0."""
    n = 10_000
    drops = [layers.Dropout(0.5) for _ in range(3)]

    def draw() -> list[tf.Tensor]:
        return [drop(tf.ones([n]), training=True) for drop in drops]

    masks = np.array([mask for place in range(6) for mask in compiled(draw, place)]) != 0
    assert np.abs(masks.mean(axis=1) - 0.5).max() < 5 * 0.5 / np.sqrt(n)
    correlations = np.corrcoef(masks) - np.eye(len(masks))
    assert np.abs(correlations).max() < 5 / np.sqrt(n)
    neighbours = np.corrcoef(masks[:, 1:].ravel(), masks[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(masks.size)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_kept_values_are_scaled_bit_by_bit(rate: float) -> None:
    x = tf.random.normal([1000])
    dropped = compiled(lambda: layers.Dropout(rate)(x, training=True))
    kept = dropped != 0
    np.testing.assert_array_equal(dropped[kept], (x.numpy() * np.float32(1 / (1 - rate)))[kept])
    assert abs((1 - kept.mean()) - rate) < 5 * np.sqrt(rate * (1 - rate) / 1000)


# Keras's layers

SEQUENCE, IMAGES = [4, 6, 8], [4, 16, 16, 3]
RANDOM_LAYERS = {
    "Dropout": (lambda: layers.Dropout(0.5), SEQUENCE),
    "SpatialDropout1D": (lambda: layers.SpatialDropout1D(0.5), SEQUENCE),
    "SpatialDropout2D": (lambda: layers.SpatialDropout2D(0.5), IMAGES),
    "SpatialDropout3D": (lambda: layers.SpatialDropout3D(0.5), [4, 2, 2, 2, 3]),
    "AlphaDropout": (lambda: layers.AlphaDropout(0.5), SEQUENCE),
    "GaussianDropout": (lambda: layers.GaussianDropout(0.5), SEQUENCE),
    "GaussianNoise": (lambda: layers.GaussianNoise(0.5), SEQUENCE),
    "LSTM": (lambda: layers.LSTM(5, dropout=0.3), SEQUENCE),
    "GRU": (lambda: layers.GRU(5, dropout=0.3), SEQUENCE),
    "SimpleRNN": (lambda: layers.SimpleRNN(5, dropout=0.3), SEQUENCE),
    "recurrent LSTM": (lambda: layers.LSTM(5, recurrent_dropout=0.3), SEQUENCE),
    "recurrent GRU": (lambda: layers.GRU(5, recurrent_dropout=0.3), SEQUENCE),
    "recurrent SimpleRNN": (lambda: layers.SimpleRNN(5, recurrent_dropout=0.3), SEQUENCE),
    "ConvLSTM1D": (lambda: layers.ConvLSTM1D(2, 3, dropout=0.3, recurrent_dropout=0.3), [2, 3, 5, 2]),
    "Bidirectional": (lambda: layers.Bidirectional(layers.GRU(5, dropout=0.3)), SEQUENCE),
    "Attention": (lambda: SelfAttention(layers.Attention(dropout=0.5), as_list=True), SEQUENCE),
    "MultiHeadAttention": (lambda: SelfAttention(layers.MultiHeadAttention(2, 4, dropout=0.5)), SEQUENCE),
    "RandomFlip": (layers.RandomFlip, IMAGES),
    "RandomRotation": (lambda: layers.RandomRotation(0.3), IMAGES),
    "RandomZoom": (lambda: layers.RandomZoom(0.3), IMAGES),
    "RandomTranslation": (lambda: layers.RandomTranslation(0.3, 0.3), IMAGES),
    "RandomContrast": (lambda: layers.RandomContrast(0.5), IMAGES),
    "RandomBrightness": (lambda: layers.RandomBrightness(0.5), IMAGES),
    "RandomCrop": (lambda: layers.RandomCrop(7, 7), IMAGES),
    "RandomHeight": (lambda: layers.RandomHeight(0.5), IMAGES),
    "RandomWidth": (lambda: layers.RandomWidth(0.5), IMAGES),
}


# When it runs eagerly, Keras draws these masks once for all time steps, and when it is compiled once in each of them.
MASKS_IN_LOOP = {"SimpleRNN", "recurrent LSTM", "recurrent GRU", "recurrent SimpleRNN", "ConvLSTM1D"}


class SelfAttention(layers.Layer):
    def __init__(self, attention: layers.Layer, as_list: bool = False):
        super().__init__()
        self.attention = attention
        self.as_list = as_list

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.attention([inputs, inputs]) if self.as_list else self.attention(inputs, inputs)


@pytest.fixture(params=[False, True], ids=["legacy", "generator"])
def _generators(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways in which Keras's layers draw: with ops of TensorFlow 1, and each with a generator of its own."""
    if request.param:
        tf_keras.backend.experimental.enable_tf_random_generator()
    yield
    tf_keras.backend.experimental.disable_tf_random_generator()


@pytest.mark.usefixtures("_generators")
@pytest.mark.parametrize("name", RANDOM_LAYERS)
def test_every_random_layer_of_keras_is_keyed(name: str) -> None:
    make, shape = RANDOM_LAYERS[name]
    layer, x = make(), tf.random.uniform(shape, 0.0, 255.0 if shape is IMAGES else 1.0)
    layer(x, training=False)  # so that its variables are there
    states = [variable.numpy() for variable in layer.variables]
    step = tf.function(step_of(lambda: layer(x, training=True)), autograph=False)
    drawn = [step(tf.constant(place, tf.int64)).numpy() for place in range(4)]
    assert len({each.tobytes() for each in drawn}) > 1, "the draws are the same in each step"
    np.testing.assert_array_equal(step(tf.constant(2, tf.int64)), drawn[2])
    for variable, state in zip(layer.variables, states, strict=True):
        np.testing.assert_array_equal(variable, state)
    if name not in MASKS_IN_LOOP:
        np.testing.assert_allclose(eagerly(lambda: layer(x, training=True)), drawn[0], atol=1e-3)


# Loops and branches


class DropInCell(layers.Layer):
    state_size = output_size = 32

    def __init__(self) -> None:
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, inputs: tf.Tensor, states: Any) -> Any:
        return self.drop(inputs), states


def mapped() -> tf.Tensor:
    return tf.map_fn(lambda _: tf.random.uniform([4]), tf.zeros([5]))


def scanned() -> tf.Tensor:
    return tf.scan(lambda _, __: tf.random.uniform([4]), tf.zeros([5]), tf.zeros([4]))


def looped() -> tf.Tensor:
    def body(i: tf.Tensor, rows: tf.TensorArray) -> Any:
        return i + 1, rows.write(i, tf.random.uniform([4]))

    rows = tf.TensorArray(tf.float32, 5)
    return tf.while_loop(lambda i, _: i < 5, body, (0, rows), maximum_iterations=9)[1].stack()


def looped_until_a_draw_says_so() -> tf.Tensor:
    """Draws in the condition; 40 iterations would have a probability of 2e-21."""

    def body(i: tf.Tensor, rows: tf.TensorArray) -> Any:
        return i + 1, rows.write(i, tf.random.uniform([4]))

    rows = tf.TensorArray(tf.float32, 40)
    n, rows = tf.while_loop(lambda i, _: tf.random.uniform([]) > 0.3, body, (0, rows), maximum_iterations=40)
    return rows.stack()[:n]


def recurrent() -> tf.Tensor:
    out = layers.RNN(DropInCell(), return_sequences=True)(tf.ones([2, 5, 32]), training=True)
    return tf.transpose(out, [1, 0, 2])


LOOPS = [mapped, scanned, looped, looped_until_a_draw_says_so, recurrent]


@pytest.mark.parametrize("loop", LOOPS)
def test_the_draws_of_a_loop_differ_by_iteration(loop: Callable[[], tf.Tensor]) -> None:
    rows = compiled(loop)
    assert all_differ(rows)
    assert all_differ([*rows, *compiled(loop, place=1)])
    np.testing.assert_array_equal(eagerly(loop), rows)


def test_the_draws_of_a_condition_are_not_those_of_the_body() -> None:
    """The loop goes on while a draw is above 0.3: the body's, if they were the same, would all be above it too."""
    firsts = np.concatenate([compiled(looped_until_a_draw_says_so, place)[:, 0] for place in range(5)])
    assert len(firsts) > 10
    assert firsts.min() < 0.3


def test_all_counters_count_in_nested_loops() -> None:
    def nested() -> tf.Tensor:
        return tf.map_fn(lambda _: tf.stack([mapped(), mapped()]), tf.zeros([3]))

    found = compiled(nested)
    assert all_differ(found.reshape([-1, 4]))
    np.testing.assert_array_equal(eagerly(nested), found)


def test_a_recurrent_mask_of_keras_differs_by_time_step_as_without_keys() -> None:
    """Compiled, Keras draws it in the body of the loop."""
    layer, x = layers.SimpleRNN(1, recurrent_dropout=0.5, return_sequences=True), tf.ones([1, 30, 1])
    layer(x)
    layer.set_weights([np.zeros([1, 1]), np.ones([1, 1]), np.ones([1])])
    layer.cell.activation = tf.identity  # the state is 1, or the last one doubled and 1 more
    keyed = compiled(lambda: layer(x, training=True))[0, :, 0]
    stock = tf.function(lambda: layer(x, training=True), autograph=False)().numpy()[0, :, 0]
    for states in (keyed, stock):
        assert 1 < np.sum(states == 1) < 30


def test_autograph_loops_and_branches_are_keyed() -> None:
    def draw() -> tf.Tensor:
        rows = tf.TensorArray(tf.float32, 5)
        for i in tf.range(5):
            row = tf.zeros([4])
            if i > 0:
                row = tf.random.uniform([4])
            rows = rows.write(i, row)
        return rows.stack()

    converted = tf.autograph.to_graph(draw)
    assert unkeyed(converted) == []
    assert all_differ(compiled(converted))


def test_branches_are_keyed_and_leave_what_follows_as_it_is() -> None:
    def draw(threshold: float) -> list[tf.Tensor]:
        chosen = tf.random.uniform([]) < threshold
        return [
            tf.cond(chosen, lambda: tf.random.uniform([4]), lambda: tf.zeros([4])),
            tf.cond(chosen, lambda: tf.zeros([4]), lambda: tf.random.uniform([4])),
            tf.cond(chosen, lambda: tf.random.uniform([4]), lambda: tf.random.uniform([4])),
            tf.switch_case(tf.constant(1), [lambda: tf.zeros([4]), lambda: tf.random.uniform([4])]),
            tf.case([(chosen, lambda: tf.random.uniform([4]))], lambda: tf.random.uniform([4])),
            tf.random.uniform([4]),
        ]

    yes, no = compiled(lambda: draw(2.0)), compiled(lambda: draw(-1.0))
    for one, other in ((yes, eagerly(lambda: draw(2.0))), (no, eagerly(lambda: draw(-1.0)))):
        np.testing.assert_array_equal(one, other)
    assert all_differ([each for each in [*yes[:5], *no[:3], no[4]] if each.any()])
    np.testing.assert_array_equal(yes[3], no[3])
    np.testing.assert_array_equal(yes[5], no[5])


def test_what_draws_nothing_moves_no_other_draw() -> None:
    """Keras runs an LSTM as a loop eagerly, and as a function of its own compiled."""
    lstm = layers.LSTM(2)
    lstm(tf.ones([1, 3, 2]))

    def draw() -> list[tf.Tensor]:
        lstm(tf.ones([1, 3, 2]))
        return [mapped(), tf.random.uniform([4])]

    for one, other in zip(compiled(draw), eagerly(draw), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(compiled(draw)[0], compiled(mapped))


def test_a_graph_in_which_nothing_is_drawn_is_the_same_with_keys() -> None:
    cell = layers.RNN(DropInCell())

    def quiet() -> list[tf.Tensor]:
        chosen = tf.reduce_sum(tf.ones([3])) > 0
        return [
            tf.map_fn(lambda x: x * 2, tf.ones([3])),
            tf.cond(chosen, lambda: tf.ones([]), lambda: tf.zeros([])),
            tf.switch_case(tf.cast(chosen, tf.int32), [lambda: tf.ones([]), lambda: tf.zeros([])]),
            cell(tf.ones([2, 5, 32]), training=False),
        ]

    def ops(step: Callable[[tf.Tensor], Any]) -> list[Any]:
        graph = tf.function(step, autograph=False).get_concrete_function(tf.constant(0, tf.int64)).graph
        inner = {
            op.get_attr(name).name
            for op in graph.get_operations()
            for name in ("body", "cond")
            if name in op.node_def.attr
        }
        graphs = [graph, *(graph._get_function(name).graph for name in sorted(inner))]
        return [(op.type, re.sub(r"\d+", "", op.name)) for each in graphs for op in each.get_operations()]

    keyed = ops(step_of(quiet))
    assert len(keyed) > 50
    assert keyed == ops(lambda place: quiet())


# What cannot be keyed


def test_what_is_drawn_outside_of_the_step_is_none_of_its_draws() -> None:
    def draw() -> tf.Tensor:
        with tf.init_scope():
            tf.random.uniform([])
        return tf.random.uniform([4])

    assert unkeyed(draw) == []
    np.testing.assert_array_equal(compiled(draw), compiled(lambda: tf.random.uniform([4])))


@tf.function
def inner_function() -> tf.Tensor:
    return tf.random.normal([2])


def test_a_draw_in_an_inner_function_is_noted() -> None:
    assert unkeyed(inner_function) == ["RandomStandardNormal in inner_function"]


def test_a_draw_in_vectorized_map_is_left_to_differ_by_row() -> None:
    def draw() -> tf.Tensor:
        return tf.vectorized_map(lambda _: tf.random.uniform([4]), tf.zeros([5]))

    [note, *_] = unkeyed(draw)
    assert note.startswith("RandomUniform in ")
    assert all_differ(compiled(draw))


@pytest.mark.filterwarnings("ignore:Seed 7 from outer graph")
def test_a_draw_in_a_data_pipeline_is_noted() -> None:
    def draw() -> tf.Tensor:
        rows = tf.data.Dataset.range(3).map(lambda _: tf.random.uniform([]))
        return rows.reduce(0.0, lambda total, x: total + x)

    assert any("RandomUniform in Dataset_map" in note for note in unkeyed(draw))


def test_what_infers_shapes_is_not_noted() -> None:
    class Dropping(tf_keras.Model):
        def call(self, inputs: tf.Tensor) -> tf.Tensor:
            return tf.nn.dropout(inputs, 0.5)

    model = Dropping()
    step = step_of(lambda: model.compute_output_shape([1, 2]))
    step(tf.constant(0, tf.int64))
    assert step.trace.unkeyed == []


def test_a_function_of_the_step_itself_is_keyed() -> None:
    def draw() -> list[tf.Tensor]:
        def inner() -> list[tf.Tensor]:
            with numbering.function_of_step():
                return [tf.random.uniform([4]), *tf.unstack(mapped(), num=5)]

        first, second = (tf.function(inner, autograph=False)() for _ in range(2))
        return [*first, *second, tf.random.uniform([4])]

    assert unkeyed(draw) == []
    found = compiled(draw)
    assert all_differ(found)
    assert all_differ([*found, *compiled(draw, place=1)])
    for one, other in zip(found, eagerly(draw), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_function_of_a_step_may_be_called_outside_of_one() -> None:
    with numbering.function_of_step():
        assert tf.random.uniform([2]).shape == [2]


# tf.recompute_grad

drop, other_drop = layers.Dropout(0.5), layers.Dropout(0.3)
weight = tf.Variable(tf.random.normal([16, 16], seed=1))
Wrap = Callable[[Callable[..., tf.Tensor]], Callable[..., tf.Tensor]]


def one_layer_in_two_blocks(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    block = wrap(lambda u: drop(tf.sin(u), training=True))
    return block(x) + 10 * block(2 * x)


def two_layers(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    return wrap(lambda u: other_drop(tf.sin(drop(u, training=True) @ weight), training=True))(x)


def nested(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    def outer(u: tf.Tensor) -> tf.Tensor:
        inner = wrap(lambda v: drop(tf.sin(v), training=True))
        return inner(other_drop(2 * u, training=True)) + inner(u) + drop(tf.cos(u), training=True)

    return wrap(outer)(x)


def with_a_loop_and_a_branch_inside(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    def block(u: tf.Tensor) -> tf.Tensor:
        u = tf.map_fn(lambda row: drop(tf.sin(row), training=True), u)
        return tf.cond(
            tf.random.uniform([]) < 0.5, lambda: drop(u * u, training=True), lambda: other_drop(u, training=True)
        )

    return wrap(block)(x)


def with_draws_around(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    x = drop(x, training=True)
    x = wrap(lambda u: drop(tf.sin(u), training=True))(x)
    return drop(x * x, training=True)


def without_arguments(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    return x @ wrap(lambda: drop(tf.sin(weight), training=True))()


RECOMPUTED = [
    one_layer_in_two_blocks,
    two_layers,
    nested,
    with_a_loop_and_a_branch_inside,
    with_draws_around,
    without_arguments,
]
POINTS = tf.random.uniform([8, 16], 1.0, 2.0, seed=3)


def value_and_gradients(block: Callable[..., tf.Tensor], wrap: Wrap) -> list[tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(POINTS)
        y = block(POINTS, wrap)
        loss = tf.reduce_sum(y * y)
    found = tape.gradient(loss, [POINTS, weight], unconnected_gradients="zero")
    return [y, *found]


def numbered(monkeypatch: pytest.MonkeyPatch) -> Wrap:
    """Calls a function without recomputation, its draws numbered as if there were one."""

    def wrap(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
        def inner(*args: Any) -> tf.Tensor:
            return function(*args)

        return inner

    forward = next(const for const in wrap.__code__.co_consts if getattr(const, "co_name", "") == "inner")

    def recomputations() -> list[draws.Recomputation]:
        found, frame = [], sys._getframe()
        while frame is not None:
            if frame.f_code is forward:
                found.append(draws.Recomputation(frame, frame.f_locals["args"], False))
            frame = frame.f_back
        return found[::-1]

    monkeypatch.setattr(draws, "recomputations", recomputations)
    return wrap


@pytest.mark.parametrize("run", [compiled, eagerly])
@pytest.mark.parametrize("block", RECOMPUTED)
def test_a_recomputed_gradient_is_that_of_the_same_masks(
    block: Callable[..., tf.Tensor], run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(lambda: value_and_gradients(block, tf.recompute_grad))
    expected = run(lambda: value_and_gradients(block, numbered(monkeypatch)))
    assert np.abs(found[1]).sum() > 0
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", [compiled, eagerly])
def test_a_recomputed_gradient_may_be_taken_in_a_branch(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient(wrap: Wrap) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(POINTS)
            loss = tf.reduce_sum(with_a_loop_and_a_branch_inside(POINTS, wrap) ** 2)
        return tf.cond(loss > 0, lambda: tape.gradient(loss, POINTS), lambda: POINTS)

    found = run(lambda: gradient(tf.recompute_grad))
    np.testing.assert_allclose(found, run(lambda: gradient(numbered(monkeypatch))), rtol=1e-4, atol=1e-4)


def test_blocks_of_one_layer_have_masks_of_their_own() -> None:
    block = tf.recompute_grad(lambda u: drop(u, training=True))
    assert all_differ(
        compiled(lambda: [block(tf.ones([64])), block(tf.ones([64])), drop(tf.ones([64]), training=True)])
    )


def in_a_loop(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    block = wrap(lambda u: drop(tf.sin(u), training=True))
    return tf.while_loop(lambda i, _: i < 3, lambda i, u: (i + 1, block(u)), (0, x))[1]


def in_a_branch(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    block = wrap(lambda u: drop(tf.sin(u), training=True))
    return tf.cond(tf.reduce_sum(x) > 0, lambda: block(x), lambda: x)


def called_twice_without_arguments(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    block = wrap(lambda: drop(tf.sin(weight), training=True))
    return x @ block() @ block()


def around_an_inner_function(x: tf.Tensor, wrap: Wrap) -> tf.Tensor:
    return wrap(tf.function(lambda u: drop(tf.sin(u), training=True), autograph=False))(x)


@pytest.mark.parametrize("block", [in_a_loop, in_a_branch, called_twice_without_arguments, around_an_inner_function])
def test_what_cannot_be_recomputed_with_the_same_mask_is_refused(block: Callable[..., tf.Tensor]) -> None:
    with pytest.raises(
        PhaseError, match=r"of phase 'train'(.|\n)*dropout.*under tf.recompute_grad.*in a loop"
    ) as caught:
        compiled(lambda: value_and_gradients(block, tf.recompute_grad))
    assert caught.value.phase == "train"
    [violation] = caught.value.violations
    assert "another mask" in violation.what


@pytest.mark.parametrize("block", [in_a_loop, in_a_branch])
def test_nothing_is_refused_where_no_gradient_is_asked_for(block: Callable[..., tf.Tensor]) -> None:
    assert np.isfinite(compiled(lambda: block(POINTS, tf.recompute_grad))).all()


@pytest.mark.parametrize("block", [in_a_loop, in_a_branch])
def test_eagerly_loops_and_branches_can_be_recomputed(
    block: Callable[..., tf.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = eagerly(lambda: value_and_gradients(block, tf.recompute_grad))
    expected = eagerly(lambda: value_and_gradients(block, numbered(monkeypatch)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
