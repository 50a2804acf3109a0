"""`Checkpointing`: when it saves, and what is kept."""

import logging

import pytest

from trainloop import At, AtEnd, Callback, Checkpointing, Every, environment
from trainloop.checkpoint import CheckpointNotSaved
from trainloop.manifest import CheckpointDamaged
from trainloop.store import Store


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


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
    ("keep_every", "kept"),
    [(Every(steps=4), [4, 8, 10]), (Every(steps=3), [3, 6, 9, 10]), (Every(epochs=1), [4, 8, 10])],
)
def test_saves_and_keeps_for_good_what_keep_every_names(make_trainer, pairs, tmp_path, keep_every, kept):
    saving = Checkpointing(Every(steps=2) | AtEnd(), keep=1, keep_every=keep_every)
    trainer = make_trainer(saving, workdir=tmp_path)
    trainer.fit(pairs, steps=10)
    assert trainer.checkpoints.steps() == kept


@pytest.fixture
def no_room(monkeypatch):
    """The disk is full when these steps are saved."""
    steps, commit = set(), Store.commit

    def failing(store, step, *rest, **options):
        if step in steps:
            raise OSError(28, "No space left on device")
        commit(store, step, *rest, **options)

    monkeypatch.setattr(Store, "commit", failing)
    return steps


def test_a_run_outlives_a_save_that_failed(make_trainer, pairs, tmp_path, no_room, caplog):
    no_room.add(4)
    trainer = make_trainer(Checkpointing(Every(steps=2)), workdir=tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer.fit(pairs, steps=8)
    assert trainer.checkpoints.steps() == [2, 6, 8]
    [warning] = [record.getMessage() for record in caplog.records if "not saved" in record.getMessage()]
    assert warning.startswith("the checkpoint of step 4 was not saved in ")
    assert "No space left on device" in warning


def test_a_run_that_is_to_raise_ends_when_the_next_save_is_due(make_trainer, pairs, tmp_path, no_room):
    no_room.add(4)
    trainer = make_trainer(Checkpointing(Every(steps=2), on_failure="raise"), workdir=tmp_path)
    with pytest.raises(CheckpointNotSaved, match="step 4 was not saved") as caught:
        trainer.fit(pairs, steps=8)
    assert (trainer.step, caught.value.step, trainer.checkpoints.steps()) == (6, 4, [2])


@pytest.mark.parametrize("on_failure", ["warn", "raise"])
def test_no_run_ends_in_silence_without_its_last_checkpoint(make_trainer, pairs, tmp_path, no_room, on_failure):
    no_room.add(8)
    trainer = make_trainer(Checkpointing(Every(steps=4), on_failure=on_failure), workdir=tmp_path)
    with pytest.raises(CheckpointNotSaved, match="step 8 was not saved"):
        trainer.fit(pairs, steps=8)
    assert (trainer.step, trainer.checkpoints.steps()) == (8, [4])
    no_room.clear()
    trainer.fit(pairs, steps=9)
    assert trainer.checkpoints.steps() == [4]
    resumed = make_trainer(Checkpointing(Every(steps=4)), workdir=tmp_path)
    assert resumed.restore_or_initialize() == 4


def test_what_went_wrong_first_is_what_comes_out(make_trainer, pairs, tmp_path, no_room):
    class Fails(Callback):
        trigger = At(steps=5)

        def on_trigger(self, trainer):
            raise ZeroDivisionError("mine")

    no_room.add(4)
    trainer = make_trainer(Fails(), Checkpointing(Every(steps=4)), workdir=tmp_path)
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        trainer.fit(pairs, steps=8)
    assert any("step 4 was not saved" in note for note in caught.value.__notes__)


def test_a_run_goes_back_to_the_newest_whole_checkpoint_and_never_to_its_start(make_trainer, pairs, tmp_path, caplog):
    def saving():
        return Checkpointing(Every(steps=2))

    straight = make_trainer(saving(), workdir=tmp_path / "straight")
    straight.fit(pairs, steps=8)
    make_trainer(saving(), workdir=tmp_path / "run").fit(pairs, steps=6)
    resumed = make_trainer(saving(), workdir=tmp_path / "run")
    checkpoints = resumed.checkpoints
    for step in (6, 4):
        (checkpoints.path(step) / "state.index").write_bytes(b"")
    before = [variable.numpy().tolist() for variable in resumed.model.variables]
    with pytest.raises(
        CheckpointDamaged, match=r"^restore: the checkpoint 4 is damaged: .*00004/state.index has 0 bytes"
    ):
        resumed.restore(4)
    assert [variable.numpy().tolist() for variable in resumed.model.variables] == before
    with caplog.at_level(logging.WARNING):
        assert resumed.restore_or_initialize() == 2
    assert all(f"restore: passed over step {step}: " in caplog.text for step in (6, 4))
    resumed.fit(pairs, steps=8)
    for one, other in zip(resumed.model.variables, straight.model.variables, strict=True):
        assert one.numpy().tolist() == other.numpy().tolist()

    for step in checkpoints.steps():
        (checkpoints.path(step) / "manifest.json").unlink()
    again = make_trainer(saving(), workdir=tmp_path / "run")
    with pytest.raises(
        CheckpointDamaged, match=r"^restore: no checkpoint in .* is whole: step 8: .*manifest.json cannot"
    ):
        again.restore_or_initialize()
    assert [variable.numpy().tolist() for variable in again.model.variables] == before


def test_a_resume_under_other_conditions_is_told(make_trainer, pairs, tmp_path, monkeypatch, caplog):
    make_trainer(Checkpointing(), workdir=tmp_path).fit(pairs, steps=1)
    with caplog.at_level(logging.WARNING):
        make_trainer(Checkpointing(), workdir=tmp_path).restore_or_initialize()
        assert "other conditions" not in caplog.text
        caplog.clear()
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
        monkeypatch.setattr(environment, "_versions", lambda: {"tensorflow": "2.99.0"})
        make_trainer(Checkpointing(), workdir=tmp_path, jit_compile=True).restore_or_initialize()
    record, _ = caplog.records  # and where the run stands
    assert record.getMessage().startswith(
        "the run goes on under other conditions than it was saved under, so its bits may"
    )
    for changed in (" -> 2.99.0; ", "intra-op threads 1 -> 3; ", "jit_compile False -> True"):
        assert changed in record.getMessage()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trigger": 100}, TypeError, r"Checkpointing: trigger=100 is not a trigger.*Every\(steps=100\)"),
        ({"trigger": None}, TypeError, "Checkpointing: trigger=None would never save"),
        ({"keep": 0}, ValueError, "Checkpointing: keep=0"),
        ({"monitor": "eval/accuracy"}, ValueError, "Checkpointing: monitor='eval/accuracy' is no loss"),
        ({"monitor": "eval/loss", "mode": "best"}, ValueError, "Checkpointing: mode='best'"),
        ({"keep_every": 100}, TypeError, r"Checkpointing: keep_every=100 is not a trigger.*Every\(steps=100\)"),
        ({"keep_every": Every(seconds=9)}, ValueError, r"keep_every=Every\(seconds=9\) must be Every\(steps=...\) or"),
        ({"keep_every": At(steps=9)}, ValueError, r"keep_every=At\(steps=9\) must be Every"),
        ({"on_failure": "stop"}, ValueError, "on_failure='stop' is unknown; it must be 'warn' or 'raise'"),
        ({"mode": "max"}, ValueError, "Checkpointing: mode='max' says which values are better, but not of what"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        Checkpointing(**options)
