"""What the bits of a run depend on, by name."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import environment


def test_all_is_named_that_bits_depend_on() -> None:
    described = environment.describe(jit_compile=True, replicas=2)
    assert described == json.loads(json.dumps(described))
    assert described["tensorflow"] == tf.__version__
    assert described["tensorflow git"] == tf.version.GIT_VERSION
    assert described["tensorflow compiler"] == tf.version.COMPILER_VERSION
    assert (described["tf-keras"], described["numpy"]) == (tf_keras.__version__, np.__version__)
    assert (described["devices"], described["replicas"]) == ({"CPU": 2}, 2)
    assert len(described["device kinds"]) == 1
    assert (described["jit_compile"], described["XLA autoclustering"]) == (True, False)


def test_threads_are_counted_as_tensorflow_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.describe()["intra-op threads"] == 1, "TF_NUM_INTRAOP_THREADS of conftest.py"
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 5})
    assert environment.describe()["intra-op threads"] == 3, "one a core"
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 7)
    assert environment.describe()["intra-op threads"] == 7


def test_differences_say_from_what_to_what() -> None:
    saved = {"tensorflow": "2.20.0", "devices": {"GPU": 1}, "jit_compile": False}
    here = {"tensorflow": "2.21.0", "devices": {"GPU": 1}, "jit_compile": True, "numpy": "2.0"}
    assert environment.differences(saved, here) == [
        "tensorflow 2.20.0 -> 2.21.0",
        "jit_compile False -> True",
        "numpy None -> 2.0",
    ]
