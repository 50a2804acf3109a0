"""Draws are offered to the handler of the innermost block, in its thread alone; all is put back when the last ends."""

import threading
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.ops import cond, gen_image_ops, gen_random_ops, while_loop

from tests.drawing import Counting, compiled
from trainloop import draws


class Refusing(Counting):
    """A handler that keys nothing."""

    def key(self, op: str) -> None:
        self.ops.append(op)


REPLACED = [
    *((gen_random_ops, name) for name in vars(gen_random_ops) if name.startswith(("random_", "multi", "truncated"))),
    (gen_image_ops, "sample_distorted_bounding_box_v2"),
    (tf.random.Generator, "skip"),
    (while_loop, "while_loop"),
    (cond, "cond"),
    (tf.compat.v1, "while_loop"),
    (tf.compat.v1, "cond"),
]


def looked_up() -> list[Any]:
    return [getattr(holder, name) for holder, name in REPLACED]


def test_everything_is_put_back_when_the_last_block_ends() -> None:
    before = looked_up()
    with draws.intercepted(Counting()):
        assert looked_up() != before
        with pytest.raises(KeyError), draws.intercepted(Refusing()):
            raise KeyError
        assert looked_up() != before
    assert looked_up() == before


def test_the_innermost_block_holds() -> None:
    outer, inner = Counting(), Counting()
    with draws.intercepted(outer):
        with draws.intercepted(inner):
            tf.random.uniform([])
        tf.random.normal([])
    assert (outer.ops, inner.ops) == (["RandomStandardNormal"], ["RandomUniform"])


def test_a_draw_without_a_key_stays_as_it_is() -> None:
    handler = Refusing()
    _, ops = compiled(lambda: tf.random.uniform([2]), handler)
    assert "RandomUniform" in ops
    assert handler.ops == ["RandomUniform"]


def test_other_threads_draw_as_ever() -> None:
    handler = Counting()
    tf.random.set_seed(1)
    expected = tf.random.uniform([3])
    found = []
    tf.random.set_seed(1)
    with draws.intercepted(handler):
        thread = threading.Thread(target=lambda: found.append(tf.random.uniform([3])))
        thread.start()
        thread.join()
    assert handler.ops == []
    np.testing.assert_array_equal(found[0], expected)


def test_blocks_of_two_threads_do_not_end_each_other() -> None:
    handler, entered, leave = Counting(), threading.Event(), threading.Event()

    def other() -> None:
        with draws.intercepted(Counting()):
            entered.set()
            leave.wait(60)

    before, thread = looked_up(), threading.Thread(target=other)
    with draws.intercepted(handler):
        thread.start()
        assert entered.wait(60)
    assert looked_up() != before, "the other block still lasts"
    leave.set()
    thread.join()
    assert looked_up() == before
    tf.random.uniform([])
    assert handler.ops == []


@pytest.mark.parametrize("compile_it", [False, True])
def test_what_a_variable_begins_with_is_no_draw_of_the_block(compile_it: bool) -> None:
    handler, made = Counting(), []

    def make() -> None:
        with draws.intercepted(handler):
            made.append(tf.Variable(lambda: tf.random.normal([2])))
            layer = tf_keras.layers.Dense(
                2, kernel_initializer=lambda shape, dtype: tf.random.normal(shape, dtype=dtype)
            )
            layer(tf.ones([1, 3]))
            made.append(layer.kernel)

    def step() -> None:
        if not made:
            make()

    (tf.function(step, autograph=False) if compile_it else step)()
    assert handler.ops == []
    assert all(np.isfinite(variable).all() for variable in made)


def test_autograph_converts_what_is_drawn_and_looped() -> None:
    handler = Counting()

    @tf.function
    def step(n: tf.Tensor) -> tf.Tensor:
        total = 0.0
        for _ in tf.range(n):
            if tf.random.uniform([]) < 2.0:
                total += 1.0
        return total

    with draws.intercepted(handler):
        assert step(tf.constant(3)) == 3.0
    assert handler.ops == ["RandomUniform"]


def test_calls_under_recompute_grad_are_told_apart() -> None:
    seen = []

    def block(x: tf.Tensor) -> tf.Tensor:
        seen.append(draws.recomputations())
        return tf.sin(x)

    again = tf.recompute_grad(block)

    def outer(x: tf.Tensor) -> tf.Tensor:
        return again(again(x))

    x = tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.recompute_grad(outer)(x)
    tape.gradient(y, x)
    assert draws.recomputations() == []
    assert [[each.again for each in calls] for calls in seen] == [
        [False, False],
        [False, False],
        [True, False],
        [True, False],
        [True, True],
        [True, True],
    ]
    assert seen[4][1].args is seen[3][1].args, "the gradient of the last call comes first"
    assert seen[2][0].args is seen[0][0].args
    assert seen[0][1].args is not seen[1][1].args
