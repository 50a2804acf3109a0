"""`Profiler`: which steps are traced, and that a trace is ended whatever happens."""

import pytest
import tensorflow as tf

from trainloop import Callback, Every, Profiler


@pytest.fixture
def calls(monkeypatch):
    """What is asked of TensorFlow's profiler."""
    made = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda directory: made.append(("start", directory)))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: made.append(("stop",)))
    return made


class Steps(Callback):
    """Notes how many calls of the profiler there were before each step was over."""

    trigger = Every(steps=1)

    def __init__(self, calls):
        self.calls, self.seen = calls, []

    def on_trigger(self, trainer):
        self.seen.append(len(self.calls))


def test_traces_the_steps_of_the_range(make_trainer, pairs, tmp_path, calls):
    steps = Steps(calls)
    make_trainer(steps, Profiler(steps=(2, 4)), workdir=tmp_path).fit(pairs, steps=6)
    assert calls == [("start", str(tmp_path / "events")), ("stop",)]
    assert steps.seen == [0, 0, 1, 1, 2, 2]  # begun after step 2, ended after step 4


def test_ends_with_fit(make_trainer, pairs, tmp_path, calls):
    make_trainer(Profiler(steps=(2, 100)), workdir=tmp_path).fit(pairs, steps=4)
    assert [name for name, *_ in calls] == ["start", "stop"]


class Boom(Callback):
    trigger = Every(steps=3)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def test_ends_with_an_exception(make_trainer, pairs, tmp_path, calls):
    with pytest.raises(ZeroDivisionError):
        make_trainer(Profiler(steps=(2, 100)), Boom(), workdir=tmp_path).fit(pairs, steps=4)
    assert [name for name, *_ in calls] == ["start", "stop"]


def test_a_run_resumed_behind_the_range_is_not_traced(fake_trainer, calls, tmp_path):
    profiler, trainer = Profiler(steps=(2, 4)), fake_trainer(step=4, workdir=tmp_path)
    profiler.on_fit_begin(trainer)
    profiler.on_trigger(trainer)
    profiler.on_fit_end(trainer)
    assert calls == []


def test_writes_a_profile(make_trainer, pairs, tmp_path):
    make_trainer(Profiler(steps=(1, 2)), workdir=tmp_path).fit(pairs, steps=3)
    assert list((tmp_path / "events").rglob("*.xplane.pb"))


def test_needs_a_workdir(make_trainer, pairs):
    with pytest.raises(ValueError, match="Profiler writes files, but the Trainer has workdir=None"):
        make_trainer(Profiler()).fit(pairs, steps=2)


@pytest.mark.parametrize("steps", [(0, 5), (5, 5), (5, 2), (1, 2, 3), 5, (1.0, 2.0), (True, 2)])
def test_bad_arguments(steps):
    with pytest.raises(ValueError, match=r"Profiler: steps=.* must be two whole numbers, 0 < first < last"):
        Profiler(steps=steps)
