"""`sweep`: trains the jobs of a plan one after the other, beside whatever other processes do the same."""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import tqdm
from ml_collections import config_dict

from trainloop.launch.errors import LaunchError
from trainloop.launch.program import prepared
from trainloop.sweeping import figure, table
from trainloop.sweeping.plan import RECORD, Plan
from trainloop.workdir import Workdir

if TYPE_CHECKING:
    from trainloop.sweeping.study import Claim, Result, SharedStudy


def sweep(
    plan: Plan, workdir: str | os.PathLike[str], *, strategy: str = "none", verbose_tf: bool = False
) -> list[Result]:
    """Trains what of the plan is not trained yet, and writes `sweep.csv` and `sweep.png`.

    The same call again goes on where this one was stopped or killed, and returns at once where all is done. At the same
    time in another process, it shares the work. `Plan.identity` says what may be added later.

    Args:
      plan: What is to be done.
      workdir: The sweep's directory; the runs are in `trials/` below it.
      strategy: The value of `--strategy`.
      verbose_tf: The value of `--verbose_tf`.

    Returns:
      All that is done, by values and seeds.

    Raises:
      LaunchError: If the directory holds another sweep, a package is missing, or the metric does not exist.
    """
    directory = pathlib.Path(workdir)
    _check_packages()
    _check_same_sweep(plan, Workdir(directory))
    from trainloop.sweeping.study import SharedStudy

    study = SharedStudy(plan, directory)
    try:
        if study.done() < plan.size:
            with prepared(config_dict.ConfigDict(plan.config), strategy=strategy, verbose_tf=verbose_tf):
                _train(study, plan, directory, verbose_tf=verbose_tf)
    except Exception:
        study.withdraw()
        raise
    results = study.results()
    table.save(results, directory / "sweep.csv")
    figure.draw(results, plan).savefig(directory / "sweep.png", dpi=150)
    return results


def _train(study: SharedStudy, plan: Plan, directory: pathlib.Path, *, verbose_tf: bool) -> None:
    from trainloop.sweeping import trial  # which imports TensorFlow

    with _Progress(study, plan) as progress:
        while claim := study.take():
            progress.begins(claim)
            trial.run(claim, study, plan, directory, verbose_tf=verbose_tf, tell=progress.is_at)
            progress.ended(claim)
            table.save(study.results(), directory / "sweep.csv")


class _Progress:
    """A bar over the trials in a terminal; anywhere else, a line a trial."""

    def __init__(self, study: SharedStudy, plan: Plan):
        self._study, self._plan, self._name = study, plan, ""
        self._bar = tqdm.tqdm(
            total=plan.size,
            initial=study.done(),
            unit=" trials",
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} trials [{elapsed}, {remaining} left{postfix}]",
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def begins(self, claim: Claim) -> None:
        self._name = claim.job.name
        self._bar.set_postfix_str(self._name)

    def is_at(self, step: int, total: int | None) -> None:
        self._bar.set_postfix_str(f"{self._name}, step {step}{'' if total is None else f' of {total}'}")

    def ended(self, claim: Claim) -> None:
        done = self._study.done()  # others may have ended some in the meantime
        result = next(each for each in self._study.results() if each.job == claim.job)
        value = result.metrics.get(self._plan.metric)
        if self._bar.disable:
            said = "diverged" if value is None or result.state == "diverged" else f"{self._plan.metric} {value:.4g}"
            sys.stderr.write(f"trial {done} of {self._plan.size}  {claim.job.name}  {said}\n")
        self._bar.update(done - self._bar.n)


def _check_packages() -> None:
    for package in ("optuna", "matplotlib"):
        try:
            __import__(package)
        except ImportError as error:
            raise LaunchError(
                f'a sweep needs {package}, which is not installed: pip install "trainloop-tf[sweep]"'
            ) from error


def _check_same_sweep(plan: Plan, workdir: Workdir) -> None:
    if workdir.path.exists() and not workdir.path.is_dir():
        raise LaunchError(f"--workdir={workdir} is a file; expected a directory, or a path that does not exist yet")
    record = workdir.path / RECORD
    if not record.exists():
        if workdir.config.exists():
            raise LaunchError(f"--workdir={workdir} holds a run; a sweep needs a directory of its own")
        return
    old, new = json.loads(record.read_text()), json.loads(json.dumps(plan.identity))
    if changes := [key for key in old | new if old.get(key) != new.get(key)]:
        lines = "\n".join(f"  {key}: was {old.get(key)!r}, now {new.get(key)!r}" for key in changes)
        raise LaunchError(
            f"--workdir={workdir} holds another sweep:\n{lines}\nGive the old values, or another --workdir"
        )
