"""`Checkpointing`: when it saves, and what is kept."""

import pytest

from trainloop import AtEnd, Checkpointing, Every


def test_keeps_the_newest_and_the_best(make_trainer, pairs, tmp_path):
    # The loss falls, so by "max" the first checkpoint is the best: it stays beside the newest two.
    saving = Checkpointing(Every(epochs=1), keep=2, monitor="eval/loss", mode="max")
    trainer = make_trainer(saving, workdir=tmp_path)
    history = trainer.fit(pairs, epochs=5, eval_data=pairs)
    assert history["eval/loss"] == sorted(history["eval/loss"], reverse=True)
    assert trainer.checkpoints.steps() == [4, 16, 20]
    assert trainer.checkpoints.find("best") == 4
    assert trainer.checkpoints.manifest(20)["metrics"]["eval/loss"] == history["eval/loss"][-1]


def test_monitors_the_evaluation_loss_by_default(make_trainer, pairs, tmp_path):
    trainer = make_trainer(Checkpointing(Every(epochs=1), keep=1), workdir=tmp_path, learning_rate=1.0)  # it diverges
    history = trainer.fit(pairs, epochs=3, eval_data=pairs)
    assert history["eval/loss"][0] < history["eval/loss"][-1]
    assert trainer.checkpoints.steps() == [4, 12]
    assert trainer.checkpoints.find("best") == 4


def test_a_resumed_run_knows_the_best_before_it_evaluates(make_trainer, pairs, tmp_path):
    def saving():
        return Checkpointing(Every(steps=2), keep=1)

    make_trainer(saving(), workdir=tmp_path, learning_rate=1.0).fit(pairs, epochs=2, eval_data=pairs)
    resumed = make_trainer(saving(), workdir=tmp_path, learning_rate=1.0)
    resumed.restore_or_initialize()
    resumed.fit(pairs, steps=10)
    assert resumed.checkpoints.steps() == [4, 10]


def test_saves_at_the_end_by_default(make_trainer, pairs, tmp_path):
    trainer = make_trainer(Checkpointing(), workdir=tmp_path)
    trainer.fit(pairs, steps=3)
    assert trainer.checkpoints.steps() == [3]


def test_a_misspelt_metric_is_named_after_saving(make_trainer, pairs, tmp_path):
    trainer = make_trainer(Checkpointing(AtEnd(), monitor="eval/los", mode="min"), workdir=tmp_path)
    with pytest.raises(ValueError, match=r"Checkpointing: monitor='eval/los' .*did you mean 'eval/loss'"):
        trainer.fit(pairs, epochs=1, eval_data=pairs)
    assert trainer.checkpoints.steps() == [4]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trigger": 100}, TypeError, r"Checkpointing: trigger=100 is not a trigger.*Every\(steps=100\)"),
        ({"trigger": None}, TypeError, "Checkpointing: trigger=None would never save"),
        ({"keep": 0}, ValueError, "Checkpointing: keep=0"),
        ({"monitor": "eval/accuracy"}, ValueError, "Checkpointing: monitor='eval/accuracy' is no loss"),
        ({"monitor": "eval/loss", "mode": "best"}, ValueError, "Checkpointing: mode='best'"),
        ({"mode": "max"}, ValueError, "Checkpointing: mode='max' says which values are better, but not of what"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Checkpointing(**options)
