"""Where something is run aside: in another thread where a trace or a strategy's scope is open, and only there."""

import threading

import tensorflow as tf

from trainloop.aside import run_aside


def test_a_thread_is_made_only_where_something_is_open():
    here = threading.get_ident()
    assert run_aside(threading.get_ident) == here
    threads = []

    @tf.function
    def traced():
        threads.append(run_aside(threading.get_ident))

    traced()
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        threads.append(run_aside(threading.get_ident))
    assert len(threads) == 2
    assert here not in threads
