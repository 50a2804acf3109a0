"""`SharedStudy`: the book of a sweep, from which several processes take their jobs; an Optuna study in SQLite."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import pathlib
import time
from collections.abc import Iterator, Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from trainloop.sweeping.axes import Axis
from trainloop.sweeping.plan import RECORD, Job, Plan
from trainloop.workdir import Workdir, WorkdirLocked

COMPLETE, PRUNED, DIVERGED = "complete", "pruned", "diverged"
_VALUES, _SEED, _METRICS = "values", "seed", "metrics"
_LOOK_AGAIN = 0.05  # seconds
_PROPOSALS = 20  # until a search that proposes only what was tried before is taken for exhausted


@dataclasses.dataclass(frozen=True)
class Result:
    """A job that is done.

    Attributes:
      job: What was trained.
      state: `"complete"`, `"pruned"` or `"diverged"`.
      metrics: What was measured at its end, by full name; empty where it did not get there.
    """

    job: Job
    state: str
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A job that this process has taken.

    Attributes:
      job: What to train.
      trial: Optuna's trial.
      lock: Held until the result is booked.
    """

    job: Job
    trial: optuna.Trial
    lock: contextlib.ExitStack


class SharedStudy:
    """Hands out the jobs of a plan, each to one process, and keeps what came out.

    Whoever takes a job holds a lock until its result is booked; the operating system drops it when the process ends in
    whatever way. A trial that runs by the book and has no lock was killed: its job is handed out again, at once. (A
    heartbeat, which Optuna has for this, knows it only after a minute or two.)

    Args:
      plan: What is to be done.
      directory: Of the sweep.
    """

    def __init__(self, plan: Plan, directory: pathlib.Path):
        self._plan = plan
        self._directory = directory
        self._book = Workdir(directory)
        # A grid has no parameters in Optuna's sense, whose lists of values cannot grow.
        self._distributions = {axis.key: _distribution(axis) for axis in plan.axes} if plan.is_search else {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        record, database = directory / RECORD, directory / "sweep.db"
        url = f"sqlite:///{database}"
        with self._alone():
            self._made = [path for path in (record, database) if not path.exists()]
            self._book.write_json(record, plan.identity)
            self._study = optuna.create_study(
                study_name="sweep",
                storage=optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}}),
                direction="maximize" if plan.mode == "max" else "minimize",
                pruner=optuna.pruners.MedianPruner() if plan.prune else optuna.pruners.NopPruner(),
                load_if_exists=True,
            )

    def results(self) -> list[Result]:
        """Returns all that is done, by values and seeds; also what only an earlier command has asked for."""
        done = [
            Result(job, state, trial.user_attrs.get(_METRICS, {}))
            for job, trial in self._trials()
            if (state := _state_of(trial))
        ]
        keys = [axis.key for axis in self._plan.axes]
        return sorted(done, key=lambda each: ([dict(each.job.values)[key] for key in keys], each.job.seed))

    def done(self) -> int:
        """Returns how many of the plan's jobs are done."""
        jobs = {result.job for result in self.results()}
        return min(len(jobs), self._plan.size) if self._plan.is_search else len(jobs.intersection(self._plan.grid()))

    def take(self) -> Claim | None:
        """Takes the next job, or returns None where all that is left is in the hands of others."""
        with self._alone():
            self._fail_the_dead()
            trials = self._trials()
            taken = {job for job, trial in trials if _state_of(trial) or trial.state is TrialState.RUNNING}
            if not self._plan.is_search:
                job = next((job for job in self._plan.grid() if job not in taken), None)
                return None if job is None else self._begun(job)
            if len(taken) >= self._plan.size:
                return None
            points = dict.fromkeys(job.values for job, _ in trials)
            jobs = itertools.starmap(Job, itertools.product(points, self._plan.all_seeds()))
            job = next((job for job in jobs if job not in taken), None)
            return self._proposed(taken, len(points)) if job is None else self._begun(job)

    def finish(self, claim: Claim, metrics: Mapping[str, float], *, pruned: bool) -> None:
        """Books what came out.

        Args:
          claim: The job.
          metrics: What was measured at its end, the plan's metric among them: if that is not finite, the job diverged.
          pruned: Whether it was stopped early.
        """
        claim.trial.set_user_attr(_METRICS, dict(metrics))
        if not math.isfinite(metrics[self._plan.metric]):
            self.fail(claim, diverged=True)
            return
        with self._alone(), claim.lock:
            if pruned:
                self._study.tell(claim.trial, state=TrialState.PRUNED)
            else:
                self._study.tell(claim.trial, metrics[self._plan.metric])

    def fail(self, claim: Claim, *, diverged: bool) -> None:
        """Books that nothing came out.

        Args:
          claim: The job.
          diverged: Whether that is the result; else it was an accident, and the job will be handed out again.
        """
        claim.trial.set_user_attr(DIVERGED, diverged)
        with self._alone(), claim.lock:
            self._study.tell(claim.trial, state=TrialState.FAIL)

    def withdraw(self) -> None:
        """Takes the sweep back if it was begun here and has come to nothing: it would refuse the mended command."""
        with self._alone():
            begun = any(
                _state_of(trial)
                or trial.state is TrialState.RUNNING
                or (self._directory / "trials" / job.name).exists()
                for job, trial in self._trials()
            )
            for path in () if begun else self._made:
                path.unlink(missing_ok=True)

    def _begun(self, job: Job) -> Claim:
        with self._locked(job) as lock:
            values = dict(job.values)
            parameters = values if self._plan.is_search else {}
            self._study.enqueue_trial(parameters, user_attrs={_VALUES: values, _SEED: job.seed})
            return Claim(job, self._study.ask(self._distributions), lock.pop_all())

    def _proposed(self, taken: set[Job], points: int) -> Claim | None:
        for attempt in range(_PROPOSALS):
            # A sampler for each proposal, seeded by their number: all processes would else propose the same points.
            self._study.sampler = optuna.samplers.TPESampler(seed=_PROPOSALS * points + attempt)
            trial = self._study.ask(self._distributions)
            job = Job.of(trial.params, self._plan.all_seeds()[0])
            if job not in taken:
                with self._locked(job) as lock:
                    trial.set_user_attr(_SEED, job.seed)
                    return Claim(job, trial, lock.pop_all())
            self._study.tell(trial, state=TrialState.FAIL)
        return None

    def _fail_the_dead(self) -> None:
        """Books as failed what was killed: between two lines of `take`, or later on."""
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.WAITING:
                self._study.tell(self._study.ask(self._distributions), state=TrialState.FAIL)
            elif trial.state is TrialState.RUNNING:
                with contextlib.suppress(WorkdirLocked), self._locked(_job_of(trial)):
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def _locked(self, job: Job | None) -> contextlib.ExitStack:
        lock = contextlib.ExitStack()
        if job is not None:
            lock.enter_context(Workdir(self._directory / "locks" / job.name).lock())
        return lock

    def _trials(self) -> list[tuple[Job, FrozenTrial]]:
        trials = self._study.get_trials(deepcopy=False)
        return [(job, trial) for trial in trials if (job := _job_of(trial)) is not None]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keeps the other processes waiting."""
        with contextlib.ExitStack() as held:
            while not self._book.is_locked:
                try:
                    held.enter_context(self._book.lock())
                except WorkdirLocked:
                    time.sleep(_LOOK_AGAIN)
            yield


def _distribution(axis: Axis) -> BaseDistribution:
    if not axis.is_range:
        return CategoricalDistribution(axis.values)
    if isinstance(axis.low, int) and isinstance(axis.high, int):
        return IntDistribution(axis.low, axis.high, log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _job_of(trial: FrozenTrial) -> Job | None:
    """Returns what a trial trains; None where it was killed before that was written down."""
    seed = trial.user_attrs.get(_SEED)
    return None if seed is None else Job.of(trial.user_attrs.get(_VALUES, trial.params), seed)


def _state_of(trial: FrozenTrial) -> str | None:
    """Returns how a trial has ended, or None where its job is still to be done."""
    if trial.state is TrialState.FAIL:
        return DIVERGED if trial.user_attrs.get(DIVERGED) else None
    return {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED}.get(trial.state)
