"""Sweeps: what is asked for, who trains it, and what comes out."""

import csv
import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import tf_keras
from ml_collections import config_dict

from tests.launching import ROOT, Launched
from trainloop import Callback, Every, Trainer, data
from trainloop.launch import LaunchError, Task
from trainloop.monitor import Monitor
from trainloop.sweeping import Axis, Plan, parse_axis, sweep, trial
from trainloop.sweeping.figure import draw
from trainloop.sweeping.plan import Job
from trainloop.sweeping.pruning import Pruning
from trainloop.sweeping.study import Claim, Result, SharedStudy
from trainloop.sweeping.sweep import _Progress
from trainloop.sweeping.table import shown
from trainloop.workdir import Workdir

CONFIG = {"task": "tests.test_sweeping:line", "seed": 3, "rate": 0.1, "depth": 1, "kind": "plain", "wide": False}
RATES = Axis("rate", (0.1, 0.2, 0.3))


def plan(*axes: Axis, **options) -> Plan:
    return Plan(axes or (RATES,), CONFIG, **{"metric": "eval/loss", **options})


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("rate=0.0,0.1,...,0.3", Axis("rate", (0.0, 0.1, 0.2, 0.3))),
        ("rate=3,2,...,0", Axis("rate", (3.0, 2.0, 1.0, 0.0))),
        ("depth=1,8", Axis("depth", (1, 8))),
        ("kind=plain,..", Axis("kind", ("plain", ".."))),
        ("wide=true,False", Axis("wide", (True, False))),
        ("model.width=4,8", Axis("model.width", (4, 8))),
        ("rate=1e-4..1e-2:log", Axis("rate", low=1e-4, high=1e-2, log=True)),
        ("depth=1..8", Axis("depth", low=1, high=8)),
        ("nothing=1,0.5", Axis("nothing", (1.0, 0.5))),
        ("nothing=1,2", Axis("nothing", (1, 2))),
        ("nothing=1..2.5", Axis("nothing", low=1.0, high=2.5)),
    ],
)
def test_over_as_it_is_typed(text, axis):
    config = config_dict.ConfigDict({**CONFIG, "model": {"width": 4}, "nothing": None})
    assert repr(parse_axis(text, config)) == repr(axis)  # 1 is equal to 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rat=0.1,0.2", r"--over=rat: the config has no key 'rat'; did you mean --over=rate\?"),
        ("rate", "--over=rate: expected KEY=VALUES"),
        ("rate=0.1,high", r"'high' is no value for config\.rate, which is 0\.1; expected values"),
        ("rate=nan", "'nan' is no value"),
        ("depth=1.5", r"'1\.5' is no value for config\.depth, which is 1;"),
        ("wide=1", "'1' is no value for config.wide"),
        ("seed=1,2", "give their number with --seeds=N"),
        ("rate=0.1,0.2,0.1", "a value is given twice"),
        ("rate=0.0,0.1,...,0.25", "reached in equal steps"),
        ("rate=0.0,...,0.3", "reached in equal steps"),
        ("rate=0.1,0.1,...,0.3", "reached in equal steps"),
        ("rate=1..0.5", "from a smaller to a larger number"),
        ("rate=0..0.5:log", "both above zero"),
        ("kind=a..b", "is no number, so it has no range"),
        ("layers=1,2", r"config.layers is \(1, 2\); a sweep varies numbers"),
    ],
)
def test_what_over_is_refused_for(text, said):
    with pytest.raises(LaunchError, match=said):
        parse_axis(text, config_dict.ConfigDict({**CONFIG, "layers": (1, 2)}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"axes": ()}, "--over is missing"),
        ({"axes": (RATES, RATES)}, r"--over=rate=\.\.\. is given twice"),
        ({"metric": "loss"}, "--metric=loss: expected a metric of an evaluation"),
        ({"metric": "train/loss"}, "--metric=train/loss: expected a metric of an evaluation"),
        ({"metric": "eval/accuracy"}, "is no loss, so say which is better: --mode=max or --mode=min"),
        ({"axes": (Axis("rate", low=0.1, high=0.2),)}, "--trials is missing"),
        ({"config": {"rate": 0.1}, "seeds": 2}, "--seeds=2 needs a config with a key 'seed'"),
    ],
)
def test_a_plan_that_does_not_hold_together(options, said):
    with pytest.raises(LaunchError, match=said):
        Plan(**{"axes": (RATES,), "config": CONFIG, **options})


def test_a_grid_goes_through_all_values_with_one_seed_after_the_other():
    jobs = list(plan(Axis("rate", (0.1, 0.2)), Axis("model.width", (4,)), seeds=2).grid())
    assert [job.name for job in jobs] == [
        "model.width=4,rate=0.1,seed=3",
        "model.width=4,rate=0.2,seed=3",
        "model.width=4,rate=0.1,seed=4",
        "model.width=4,rate=0.2,seed=4",
    ]
    base = {"rate": 0.5, "seed": 3, "model": {"width": 9, "depth": 1}}
    assert jobs[-1].config(base) == {"rate": 0.2, "seed": 4, "model": {"width": 4, "depth": 1}}
    assert base["model"]["width"] == 9
    assert len(list(plan(seeds=5, trials=4).grid())) == 4


def test_a_long_or_odd_value_makes_a_name_that_a_directory_can_have():
    names = {Job.of({"path": "a/b" * 100}, seed).name for seed in range(3)}
    assert len(names) == 3
    assert all(len(name) < 200 and "/" not in name for name in names)


def take(study: SharedStudy) -> Claim:
    claim = study.take()
    assert claim is not None
    return claim


def finish(study: SharedStudy, claim: Claim, loss: float = 0.0, *, pruned: bool = False) -> None:
    study.finish(claim, {"train/loss": loss / 2, "eval/loss": loss}, pruned=pruned)


def test_two_processes_share_the_jobs_and_make_none_twice(tmp_path):
    one, other = SharedStudy(plan(seeds=2), tmp_path), SharedStudy(plan(seeds=2), tmp_path)
    jobs = []
    while (claim := one.take()) is not None:
        beside = take(other)
        jobs += [claim.job, beside.job]
        finish(one, claim)
        finish(other, beside)
    assert jobs == list(plan(seeds=2).grid())
    assert other.take() is None
    assert one.done() == other.done() == 6


def test_a_trial_whose_process_was_killed_is_made_again_and_one_that_runs_is_not(tmp_path):
    one, other = SharedStudy(plan(), tmp_path), SharedStudy(plan(), tmp_path)
    killed, running = take(one), take(one)
    killed.lock.close()  # what the operating system does when a process ends
    again = take(other)
    assert again.job == killed.job
    last = take(other)
    assert last.job not in (killed.job, running.job)
    assert other.take() is None
    for claim in (running, again, last):
        finish(one, claim)
    assert [result.job for result in one.results()] == list(plan().grid())


def test_an_accident_is_made_again_and_a_divergence_is_a_result(tmp_path):
    study = SharedStudy(plan(), tmp_path)
    first, second = take(study), take(study)
    study.fail(first, diverged=False)
    study.fail(second, diverged=True)
    again, last = take(study), take(study)
    assert again.job == first.job
    assert last.job not in (first.job, second.job)
    assert study.take() is None
    assert [(result.job, result.state) for result in study.results()] == [(second.job, "diverged")]


def test_a_kill_while_a_trial_is_handed_out_leaves_nothing_behind(tmp_path):
    study = SharedStudy(plan(), tmp_path)
    study._study.enqueue_trial({}, user_attrs={"values": {"rate": 0.1}, "seed": 3})  # and killed before it was taken
    study._study.ask()  # this one before its seed was written
    claims = [take(study) for _ in range(3)]
    assert [claim.job for claim in claims] == list(plan().grid())
    assert study.take() is None


@pytest.mark.parametrize(("key", "values"), [("rate", (0.1, 0.9)), ("kind", ("a", "b")), ("wide", (True, False))])
def test_values_and_seeds_may_be_added(tmp_path, key, values):
    small, large = plan(Axis(key, values[:1])), plan(Axis(key, values), seeds=2)
    assert small.identity == large.identity
    study = SharedStudy(small, tmp_path)
    finish(study, take(study))
    assert study.take() is None
    more = SharedStudy(large, tmp_path)
    added = [take(more) for _ in range(3)]
    assert {claim.job for claim in added} == set(large.grid()) - set(small.grid())


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Axis("rate", low=0.1, high=0.2), Axis("rate", low=0.1, high=0.2, log=True)),
        (Axis("rate", low=1, high=2), Axis("rate", low=1.0, high=2.5)),
        (Axis("rate", (0.1, 0.2)), Axis("rate", low=0.1, high=0.2)),
    ],
)
def test_a_search_of_another_kind_is_another_sweep(tmp_path, before, now):
    depth = Axis("depth", low=1, high=4)
    SharedStudy(plan(before, depth, trials=3), tmp_path)
    with pytest.raises(LaunchError, match=r"holds another sweep:\n  --over: was .* a range of"):
        sweep(plan(now, depth, trials=3), tmp_path)


def test_to_a_search_seeds_trials_and_wider_ranges_may_be_added(tmp_path):
    small = plan(Axis("rate", low=0.1, high=0.2), Axis("kind", ("a", "b")), trials=1)
    large = plan(Axis("rate", low=0.01, high=0.9), Axis("kind", ("a", "b")), trials=3, seeds=2)
    assert small.identity == large.identity
    finish(one := SharedStudy(small, tmp_path), first := take(one))
    more = SharedStudy(large, tmp_path)
    second, third = take(more), take(more)
    assert second.job == Job(first.job.values, seed=4)
    assert third.job.values != second.job.values
    assert third.job.seed == 3


def test_what_is_not_finite_is_a_divergence_and_counts_for_no_mean(tmp_path, capfd):
    study, asked = SharedStudy(plan(), tmp_path), plan()
    with _Progress(study, asked) as progress:
        for train, evaluation in ((1.0, math.nan), (math.inf, 2.0), (math.nan, 3.0)):
            study.finish(claim := take(study), {"train/loss": train, "eval/loss": evaluation}, pruned=False)
            progress.ended(claim)
    assert study.take() is None
    first, *others = study.results()
    assert first.state == "diverged"
    assert first.metrics["train/loss"] == 1.0
    assert math.isnan(first.metrics["eval/loss"])
    assert [each.state for each in others] == ["complete", "complete"]
    assert "trial 1 of 3  rate=0.1,seed=3  diverged\n" in capfd.readouterr().err
    same_point = [dataclasses.replace(each, job=Job(others[0].job.values, seed)) for seed, each in enumerate(others)]
    one_more = Result(Job(others[0].job.values, 2), "complete", {"train/loss": 0.5, "eval/loss": 4.0})
    trials = [first, *same_point, one_more]
    assert shown(trials, asked).splitlines()[2].split() == ["0.2", "3", "0.5000", "3.0000", "±", "1.0000", "best"]
    draw(trials, asked).savefig(tmp_path / "sweep.png")


def test_a_sweep_that_came_to_nothing_is_taken_back_by_whoever_began_it(tmp_path):
    one, other = SharedStudy(plan(), tmp_path), SharedStudy(plan(), tmp_path)
    files = tmp_path / "sweep.json", tmp_path / "sweep.db"
    claim = take(other)
    one.withdraw()
    assert all(file.exists() for file in files)  # the other one is at work
    other.fail(claim, diverged=False)
    other.withdraw()
    assert all(file.exists() for file in files)  # it did not make them
    (tmp_path / "trials" / claim.job.name).mkdir(parents=True)
    one.withdraw()
    assert all(file.exists() for file in files)  # the trial will go on
    (tmp_path / "trials" / claim.job.name).rmdir()
    one.withdraw()
    assert not any(file.exists() for file in files)
    assert (tmp_path / "LOCK").exists()


@pytest.mark.parametrize("axis", [RATES, Axis("rate", low=0.1, high=0.2)])
def test_an_error_while_a_job_is_handed_out_lets_go_of_it(tmp_path, monkeypatch, axis):
    study = SharedStudy(plan(axis, trials=3), tmp_path)

    def broken(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(study._study, "enqueue_trial", broken)
    monkeypatch.setattr(optuna.Trial, "set_user_attr", broken)
    with pytest.raises(OSError, match="disk full") as _held:  # with its frames
        study.take()
    [directory] = (tmp_path / "locks").iterdir()
    with Workdir(directory).lock():
        pass


def test_an_error_in_a_trial_says_which_one(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(trial, "Recipe", lambda *_, **__: broken)
    study = SharedStudy(plan(), tmp_path)
    with pytest.raises(ZeroDivisionError) as caught:
        trial.run(take(study), study, plan(), tmp_path, verbose_tf=False, tell=broken)
    assert caught.value.__notes__[0].startswith("in the sweep's trial rate=0.1,seed=3, with which the same command")


def test_training_data_are_measured_whole_where_they_have_an_end():
    rows = data.from_arrays(np.zeros([8, 1]), batch_size=4)
    finite = rows.once
    assert trial._with_an_end(rows, 9) is rows
    assert trial._with_an_end(finite, 9) is finite
    assert trial._with_an_end(data.from_dataset(finite.repeat(), resume="replay"), 9).cardinality() == 9
    unknown = finite.filter(lambda _: True)
    assert len(list(trial._with_an_end(unknown, 9))) == 2


def test_a_search_trains_each_point_with_all_seeds_and_never_one_twice(tmp_path):
    axes = (Axis("rate", low=1e-3, high=1e-1, log=True), Axis("depth", (1, 2)))
    asked = plan(*axes, seeds=2, trials=8)
    one, other = SharedStudy(asked, tmp_path), SharedStudy(asked, tmp_path)
    jobs = []
    while (claim := one.take()) is not None:
        beside = take(other)
        assert beside.job.values == claim.job.values
        assert (claim.job.seed, beside.job.seed) == (3, 4)
        jobs += [claim.job, beside.job]
        finish(one, claim, dict(claim.job.values)["rate"])
        finish(other, beside, dict(claim.job.values)["rate"])
    assert len(set(jobs)) == 8
    assert all(1e-3 <= dict(job.values)["rate"] <= 1e-1 and dict(job.values)["depth"] in (1, 2) for job in jobs)
    assert one.done() == 8


def test_a_search_of_few_points_ends_when_all_are_tried(tmp_path):
    asked = plan(Axis("depth", low=1, high=3), trials=9)
    study = SharedStudy(asked, tmp_path)
    depths = []
    while (claim := study.take()) is not None:
        depths.append(dict(claim.job.values)["depth"])
        finish(study, claim)
    assert sorted(depths) == [1, 2, 3]


def test_the_table_shows_means_spreads_and_the_best(tmp_path):
    study = SharedStudy(plan(seeds=3), tmp_path)
    losses = {0.1: (1.0, 2.0, 3.0), 0.2: (0.5, 0.7, 9.9), 0.3: (4.0, 4.0, None)}
    while (claim := study.take()) is not None:
        loss = losses[dict(claim.job.values)["rate"]][claim.job.seed - 3]
        if loss is None:
            study.fail(claim, diverged=True)
        else:
            finish(study, claim, loss, pruned=loss == 9.9)
    lines = shown(study.results(), plan(seeds=3)).splitlines()
    assert lines[0].split() == ["rate", "trials", "train/loss", "eval/loss"]
    assert lines[1].split() == ["0.1", "3", "1.0000", "±", "0.5000", "2.0000", "±", "1.0000"]
    assert lines[2].split() == [
        "0.2",
        "2",
        "+",
        "1",
        "pruned",
        "0.3000",
        "±",
        "0.0707",
        "0.6000",
        "±",
        "0.1414",
        "best",
    ]
    assert lines[3].split()[:5] == ["0.3", "2", "+", "1", "diverged"]


def line(*, seed, rate, depth, kind, wide, workdir, callbacks=()):
    """A task: a line through points, four steps in two epochs."""
    del depth, wide
    x = np.linspace(-1, 1, 8, dtype="float32")[:, np.newaxis]
    trainer = Trainer(
        tf_keras.Sequential([tf_keras.Input([1]), tf_keras.layers.Dense(1)]),
        tf_keras.optimizers.SGD(float("inf") if kind == "divergent" else rate),
        loss="mse",
        seed=seed,
        workdir=workdir,
        callbacks=callbacks,
    )
    pairs = data.from_arrays((x, 2 * x), batch_size=4)
    return Task(trainer, pairs, eval_data=pairs, fit={"epochs": 2})


class CtrlC(Callback):
    """Ctrl-C, once."""

    trigger = Every(epochs=1)

    def on_fit_begin(self, trainer):
        self.is_first = not os.path.exists(f"{trainer.workdir}/pressed")
        assert trainer.step == (0 if self.is_first else 2)

    def on_trigger(self, trainer):
        if self.is_first:
            open(f"{trainer.workdir}/pressed", "x").close()
            os.kill(os.getpid(), signal.SIGINT)


class CtrlCAtTheEnd(Callback):
    """Ctrl-C when the training has ended, and its result is not booked."""

    def on_fit_end(self, trainer):
        os.kill(os.getpid(), signal.SIGINT)


def interrupted_line(**arguments):
    """A task whose first trial is stopped by Ctrl-C at its end, and the second one after the first epoch."""
    return line(**arguments, callbacks=[CtrlC() if arguments["rate"] == 0.3 else CtrlCAtTheEnd()])


def trained(directory: Path) -> dict[str, list[int]]:
    """The steps that each trial has reported, as often as it has."""
    return {
        path.parent.name: [
            record["step"] for record in map(json.loads, path.read_text().splitlines()) if record["phase"] == "train"
        ]
        for path in directory.glob("trials/*/metrics.jsonl")
    }


def test_a_sweep_is_stopped_goes_on_and_is_complete(tmp_path, capfd):
    """One after the other, since each trial is traced: Ctrl-C at an end, Ctrl-C within, the rest, nothing left."""
    rates = (0.1, 0.3)
    asked = Plan((Axis("rate", rates),), {**CONFIG, "task": "tests.test_sweeping:interrupted_line"})
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tmp_path / "s")
    assert trained(tmp_path / "s") == {"rate=0.1,seed=3": [2, 4]}
    assert not (tmp_path / "s" / "sweep.csv").exists()
    with pytest.raises(KeyboardInterrupt):
        sweep(asked, tmp_path / "s")
    assert trained(tmp_path / "s") == {"rate=0.1,seed=3": [2, 4], "rate=0.3,seed=3": [2]}
    results = sweep(asked, tmp_path / "s")
    assert trained(tmp_path / "s") == {f"rate={rate},seed=3": [2, 4] for rate in rates}
    assert sweep(asked, tmp_path / "s") == results
    assert trained(tmp_path / "s") == {f"rate={rate},seed=3": [2, 4] for rate in rates}
    assert capfd.readouterr().err.count("\ntrial 2 of 2  rate=0.3,seed=3  eval/loss ") == 1

    rows = list(csv.DictReader((tmp_path / "s" / "sweep.csv").read_text().splitlines()))
    assert [(row["rate"], row["seed"], row["state"]) for row in rows] == [
        ("0.1", "3", "complete"),
        ("0.3", "3", "complete"),
    ]
    # A larger rate gets nearer to the line in four steps, and the training data are evaluated as the others are.
    losses = [float(row["eval/loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses == [float(row["train/loss"]) for row in rows]
    assert (tmp_path / "s" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "s" / rows[0]["workdir"] / "config.json").read_text())["rate"] == 0.1


def test_a_divergence_is_a_result_and_mistakes_are_taken_back(tmp_path):
    (tmp_path / "s" / "locks").mkdir(parents=True)
    (tmp_path / "s" / "locks" / "mine").touch()
    asked = Plan((Axis("kind", ("divergent",)),), {**CONFIG, "task": "tests.test_sweeping:line"})
    with pytest.raises(LaunchError, match=r"--metric=eval/los: the config's task has no such metric; did you mean ev"):
        sweep(Plan(asked.axes, asked.config, metric="eval/los", mode="min"), tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["LOCK", "locks"]
    assert (tmp_path / "s" / "locks" / "mine").exists()
    [result] = sweep(asked, tmp_path / "s")
    assert (result.state, result.metrics) == ("diverged", {})
    with pytest.raises(LaunchError, match=r"holds another sweep:\n  config\.rate: was 0\.1, now 0\.9\n"):
        sweep(Plan(asked.axes, {**asked.config, "rate": 0.9}), tmp_path / "s")
    with pytest.raises(LaunchError, match="holds a run; a sweep needs a directory of its own"):
        sweep(asked, tmp_path / "s" / "trials" / "kind=divergent,seed=3")


class Bad:
    """An Optuna trial that is worse than all others from the start."""

    def __init__(self):
        self.reported = []

    def report(self, value, step):
        self.reported.append((step, value))

    def should_prune(self):
        return True


def test_pruning_reports_each_evaluation_once_and_stops_after_the_warm_up():
    x = np.ones([16, 1], "float32")
    pairs = data.from_arrays((x, x), batch_size=4)
    trial = Bad()
    pruning = Pruning(trial, Monitor("eval/loss", None, "--metric"))
    model = tf_keras.Sequential([tf_keras.Input([1]), tf_keras.layers.Dense(1)])
    trainer = Trainer(model, "sgd", loss="mse", callbacks=[pruning], default_callbacks=False)
    history = trainer.fit(pairs, steps=12, eval_data=pairs, eval_every=Every(steps=1))
    assert pruning.pruned
    assert trainer.step == 3  # a quarter of the run
    assert [step for step, _ in trial.reported] == [1, 2, 3]
    assert [value for _, value in trial.reported] == history["eval/loss"]
    assert history.stop_reason.startswith("Pruning: eval/loss is worse than that of most trials")

    second = Bad()
    again = Pruning(second, pruning._monitor)
    again.set_state(json.loads(json.dumps(pruning.get_state())))
    assert second.reported == trial.reported
    stopped = SimpleNamespace(reasons=[])
    stopped.request_stop = stopped.reasons.append
    again.on_fit_begin(stopped)
    assert len(stopped.reasons) == 1


TWO = f"""
import os, pathlib, signal, sys, time

sys.path.insert(0, {str(ROOT)!r})
HERE = pathlib.Path(__file__).parent

def get_config():
    return dict(task="two:task", seed=0, rate=0.1)

def task(*, rate, seed, workdir):
    from tests.test_sweeping import line
    from trainloop import Callback, Every

    class Dies(Callback):
        trigger = Every(epochs=1)
        def on_trigger(self, trainer):
            if rate == 0.2 and not (HERE / "died").exists():
                (HERE / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)

    (HERE / f"{{os.getpid()}}.pid").touch()
    while len(list(HERE.glob("*.pid"))) < 2:  # so that both take part
        time.sleep(0.02)
    return line(rate=rate, seed=seed, depth=1, kind="", wide=False, workdir=workdir, callbacks=[Dies()])
"""


def test_two_programs_share_a_sweep_and_one_that_is_killed_is_no_loss(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    flags = ["--config=two.py", "--workdir=s", "--over=rate=0.1,0.2", "--seeds=2"]
    programs = [Launched(ROOT / "scripts" / "sweep.py", *flags, cwd=tmp_path) for _ in range(2)]
    ends = sorted((program.finish() for program in programs), key=lambda end: end.returncode)
    assert [end.returncode for end in ends] == [-signal.SIGKILL, 0], ends
    assert "trial 4 of 4" in ends[1].stderr
    assert ends[1].stdout.count("± ") == 4  # train and eval, of two points
    assert list(trained(tmp_path / "s").values()) == [[2, 4]] * 4

    trials = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/s/sweep.db").get_trials()
    failed = [trial for trial in trials if trial.state.name == "FAIL"]
    complete = [
        (trial.user_attrs["values"]["rate"], trial.user_attrs["seed"])
        for trial in trials
        if trial.state.name == "COMPLETE"
    ]
    assert [trial.user_attrs["values"]["rate"] for trial in failed] == [0.2]
    assert sorted(complete) == [(rate, seed) for rate in (0.1, 0.2) for seed in (0, 1)]
