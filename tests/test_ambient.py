"""What holds for the code that runs here, whoever asks: another thread, a graph, code that ends out of order."""

import threading

import pytest
import tensorflow as tf

from trainloop.ambient import Ambient


class Incomparable:
    """As a tensor in a graph is: `==` has no truth value."""

    def __eq__(self, other):
        raise TypeError("compared")

    __hash__ = object.__hash__


def test_the_innermost_value_holds_and_none_is_ever_compared():
    ambient, outer, inner = Ambient(), Incomparable(), Incomparable()
    with ambient.opened(outer):
        with ambient.opened(inner):
            assert ambient.current() is inner
        assert ambient.current() is outer
    assert ambient.current() is None


def test_values_of_two_threads_end_in_any_order():
    ambient, opened, close = Ambient(), threading.Event(), threading.Event()
    found = []

    def other():
        with ambient.opened(Incomparable()):
            opened.set()
            close.wait(60)
        found.append(ambient.current())

    thread = threading.Thread(target=other)
    thread.start()
    assert opened.wait(60)
    try:
        with ambient.opened(Incomparable()):  # which was opened last, and ends first
            pass
    finally:
        close.set()
        thread.join(60)
    assert found == [None]
    assert ambient.current() is None


def test_a_thread_that_works_for_a_graph_finds_what_was_opened_around_it():
    ambient, found = Ambient(), []
    with tf.Graph().as_default() as graph, ambient.opened("of the graph"):

        def works_for_the_graph():
            found.append(ambient.current())
            with graph.as_default():
                found.append(ambient.current())

        thread = threading.Thread(target=works_for_the_graph)
        thread.start()
        thread.join(60)
    assert found == [None, "of the graph"]


def test_an_exception_of_the_block_is_not_replaced():
    ambient = Ambient()
    with pytest.raises(ValueError, match="the user's"), ambient.opened(Incomparable()), ambient.opened(Incomparable()):
        raise ValueError("the user's")
