"""One trial of a sweep: a run in a workdir of its own, and what is measured at its end."""

from __future__ import annotations

import difflib
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tf_keras

from trainloop.callback import Callback
from trainloop.callbacks import NonFiniteLossError, ProgressBar
from trainloop.data import AddressedData, Data, unwrapped
from trainloop.launch.errors import LaunchError
from trainloop.launch.recipe import Recipe
from trainloop.launch.task import Task
from trainloop.monitor import Monitor
from trainloop.sweeping.plan import Plan
from trainloop.sweeping.pruning import Pruning
from trainloop.triggers import Every
from trainloop.workdir import Workdir

if TYPE_CHECKING:
    from trainloop.sweeping.study import Claim, SharedStudy
    from trainloop.trainer import Trainer


class Steps(Callback):
    """Tells how far a trial is, about each second.

    Args:
      tell: Called with the step and the total of steps, or None where that is not known.
    """

    trigger = Every(seconds=1)

    def __init__(self, tell: Callable[[int, int | None], None]):
        self._tell = tell

    def on_trigger(self, trainer: Trainer) -> None:
        self._tell(trainer.step, trainer.total_steps)


def run(
    claim: Claim,
    study: SharedStudy,
    plan: Plan,
    directory: pathlib.Path,
    *,
    verbose_tf: bool,
    tell: Callable[[int, int | None], None],
) -> None:
    """Trains one job, or goes on with it where it was killed, and books the result.

    Args:
      claim: The job.
      study: The book.
      plan: Of the sweep.
      directory: Of the sweep.
      verbose_tf: The value of `--verbose_tf`.
      tell: Called with the step and the total of steps while it trains.

    Raises:
      LaunchError: If the plan's metric is not among those of the evaluation.
    """
    config = claim.job.config(plan.config)
    workdir = Workdir(directory / "trials" / claim.job.name)
    try:
        tf_keras.backend.clear_session()
        task = Recipe(config, strategy="none", verbose_tf=verbose_tf)(str(workdir))  # inside the sweep's strategy
        pruning = Pruning(claim.trial, Monitor(plan.metric, plan.mode, "--metric"))
        task.trainer.callbacks = [Steps(tell), pruning, *filter(_is_no_bar, task.trainer.callbacks)]
        metrics = _trained(task, plan, workdir, config)
    except NonFiniteLossError:
        study.fail(claim, diverged=True)
    except BaseException as error:
        study.fail(claim, diverged=False)
        if isinstance(error, Exception):
            error.add_note(
                f"in the sweep's trial {claim.job.name}, with which the same command begins again; if it fails for "
                "these values only, leave them out of --over"
            )
        raise
    else:
        study.finish(claim, metrics, pruned=pruning.pruned)


def _is_no_bar(callback: Callback) -> bool:
    return not isinstance(callback, ProgressBar)


def _trained(task: Task, plan: Plan, workdir: Workdir, config: dict[str, Any]) -> dict[str, float]:
    trainer = task.trainer
    trainer.restore_or_initialize()
    if trainer.step == 0:
        _check_metric(plan.metric, _measured(task, steps=1))  # rather now than when it is trained
    workdir.write_json(workdir.config, config)  # for scripts/evaluate.py
    trainer.fit(task.train_data, eval_data=task.eval_data, **task.fit)
    return _measured(task)


def _measured(task: Task, steps: int | None = None) -> dict[str, float]:
    """Returns the metrics on the training and the evaluation data, both in EVAL, so that the two can be compared.

    The metrics that `fit` reports of the training data are those of a model that is being changed, with dropout on.
    """
    trainer, sets = task.trainer, {"train": task.train_data}
    if isinstance(task.eval_data, Mapping):
        sets |= {f"eval/{name}": data for name, data in task.eval_data.items()}
    elif task.eval_data is not None:
        sets["eval"] = task.eval_data
    measured = {}
    for name, data in sets.items():
        if name == "train" and not steps:
            data = _with_an_end(data, task.fit.get("steps_per_epoch") or trainer.step)
        scores = trainer.evaluate(data, steps=steps)
        measured |= {
            f"{name}/{metric}": float(value) for metric, value in scores.items() if not getattr(value, "ndim", 0)
        }
    return measured


def _with_an_end(data: Data, batches: int) -> Data:
    """Returns finite data as they are, and of others as many batches as an epoch has, or without epochs the run had."""
    dataset = unwrapped(data)
    if isinstance(dataset, AddressedData) or dataset.cardinality() >= 0:
        return data
    return dataset.take(batches)  # of an unknown number, which may be smaller


def _check_metric(metric: str, measured: Mapping[str, float]) -> None:
    if metric in measured:
        return
    near = difflib.get_close_matches(metric, measured, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(measured)}"
    raise LaunchError(f"--metric={metric}: the config's task has no such metric; {hint}")
