"""`MetricsLog`: `metrics.jsonl` and `phases.jsonl`, line by line."""

import itertools
import json

import numpy as np
import pytest

from trainloop import Callback, Every, Inference, MetricsLog, Phase
from trainloop.workdir import Workdir


def lines(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.fixture
def log():
    """A log whose clock counts its own calls."""
    return MetricsLog(clock=itertools.count(100.0).__next__)


def test_a_line_for_each_report_and_evaluation(make_trainer, pairs, tmp_path, log):
    trainer = make_trainer(log, workdir=tmp_path)
    history = trainer.fit(pairs, epochs=2, eval_data=pairs)
    written = lines(trainer.workdir.metrics)
    assert [(line["step"], line["phase"]) for line in written] == [(4, "train"), (4, "eval"), (8, "train"), (8, "eval")]
    assert [line["metrics"]["loss"] for line in written[::2]] == history["loss"]
    assert [line["metrics"] for line in written[1::2]] == [{"loss": loss} for loss in history["eval/loss"]]
    assert set(written[0]["metrics"]) == {"loss", "learning_rate", "steps_per_second", "examples_per_second"}
    assert set(written[0]) == {"step", "phase", "time", "metrics"}


def test_named_sets_keep_their_name_within_the_phase(make_trainer, pairs, tmp_path, log):
    trainer = make_trainer(log, workdir=tmp_path)
    trainer.fit(pairs, epochs=1, eval_data={"test": pairs, "other": pairs})
    assert set(lines(trainer.workdir.metrics)[1]["metrics"]) == {"test/loss", "other/loss"}


class Evaluating(Callback):
    trigger = Every(steps=4)

    def on_trigger(self, trainer):
        raise ZeroDivisionError


def test_a_line_for_each_phase_entered_and_left(make_trainer, pairs, tmp_path, log):
    predict = Inference(pairs, trigger=Every(steps=2), to=lambda trainer, result: None)
    trainer = make_trainer(log, predict, workdir=tmp_path)
    trainer.fit(pairs, steps=3, eval_data=pairs)
    written = lines(trainer.workdir.phases)
    assert [(line["step"], line["phase"], line["event"]) for line in written] == [
        (0, "train", "entered"),
        (2, "predict", "entered"),
        (2, "predict", "left"),
        (3, "eval", "entered"),
        (3, "eval", "left"),
        (3, "train", "left"),
    ]
    assert [line["why"] for line in written[:3]] == ["fit", "predict", "predict"]
    times = [line["time"] for line in written]
    assert times == sorted(times)
    assert times[0] == 100.0


def test_a_phase_is_left_after_an_exception_too(make_trainer, pairs, tmp_path, log):
    trainer = make_trainer(Evaluating(), log, workdir=tmp_path)
    with pytest.raises(ZeroDivisionError):
        trainer.fit(pairs, steps=8)
    assert [(line["step"], line["event"]) for line in lines(trainer.workdir.phases)] == [(0, "entered"), (4, "left")]


def test_arrays_and_numbers_that_json_does_not_know(fake_trainer, tmp_path, log):
    trainer = fake_trainer(workdir=Workdir(tmp_path), step=7)
    log.on_fit_begin(trainer)
    metrics = {
        "eval/loss": float("nan"),
        "eval/top": float("inf"),
        "eval/recall": np.array([[0.5, np.nan], [1.0, -np.inf]], np.float32),
        "eval/count": np.int64(3),
    }
    log.on_phase_end(trainer, Phase.EVAL, metrics)
    (written,) = lines(trainer.workdir.metrics)
    assert written["metrics"] == {"loss": None, "top": None, "recall": [[0.5, None], [1.0, None]], "count": 3}


def test_nothing_is_written_outside_of_fit(make_trainer, pairs, tmp_path, log):
    trainer = make_trainer(log, workdir=tmp_path)
    trainer.evaluate(pairs)
    assert list(tmp_path.iterdir()) == []
    trainer.fit(pairs, steps=1)
    before = trainer.workdir.phases.read_text(), trainer.workdir.metrics.read_text()
    trainer.evaluate(pairs)
    trainer.predict(pairs)
    assert (trainer.workdir.phases.read_text(), trainer.workdir.metrics.read_text()) == before


def test_the_time_is_wall_time_by_default(fake_trainer, tmp_path, monkeypatch):
    import time

    trainer, log = fake_trainer(workdir=Workdir(tmp_path)), MetricsLog()
    log.on_fit_begin(trainer)
    before = time.time()
    log.on_report(trainer, {"loss": 1.0})
    assert before <= lines(trainer.workdir.metrics)[0]["time"] <= time.time()
