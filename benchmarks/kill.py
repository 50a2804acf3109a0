"""Kills a training run with SIGKILL, again and again, and sees whether it ends as one that was left alone.

    python benchmarks/kill.py                       # 200 kills, in about 15 minutes on two cores
    python benchmarks/kill.py --kills=20 --seed=7
    python benchmarks/kill.py --workdir=/tmp/kills  # keeps the directory of a run that ended differently

Everything is on at once: dropout, batch norm, augmentation, shuffling, Adam, an average of the weights, microbatches,
mixed precision with loss scaling, evaluations, Monte-Carlo inference and a stage that unfreezes the base. A run is
killed at a random moment of training, of an evaluation, of the inference, or of saving, and started again, until it is
done. Then its whole state, the log of the rows that each step has seen, and its metrics.jsonl are compared, bit by bit,
with those of a run that was never killed. The program ends with status 1 if anything differs.

Each run is a process that is forked from one which has imported TensorFlow and has not used it yet: that spares each
kill the seconds of an import. The moments of the kills follow from --seed; what a process has done by then does not.
"""

import collections
import dataclasses
import mmap
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import tensorflow as tf
import tf_keras
from absl import app, flags
from tf_keras import layers

from trainloop import (
    AtEnd,
    Callback,
    Checkpointing,
    Every,
    Inference,
    MetricsLog,
    Phase,
    Trainer,
    WeightAveraging,
    data,
)
from trainloop.verify.comparison import differences, digest, leave, log_differences, log_of, state_of, take
from trainloop.workdir import Workdir

_KILLS = flags.DEFINE_integer("kills", 200, "How many times a run is killed.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Decides when the kills come.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the runs lie; a throw-away directory if not given.")

ROWS, BATCH, STAGES = 52, 8, (4, 8)  # an epoch is seven batches, the last one of four rows
STEPS = 7 * STAGES[-1]
KINDS = ("starting", "train", "eval", "mc_predict", "saving")
_DEADLINE = 120.0  # seconds for one process


class Seen(tf.Module):
    """How often each step has seen each row: a log that is part of the state, and that the step itself writes."""

    def __init__(self) -> None:
        super().__init__()
        self.times = tf.Variable(tf.zeros([STEPS, ROWS], tf.int32), trainable=False)

    def __call__(self, step: tf.Tensor, rows: tf.Tensor) -> None:
        places = tf.stack([tf.fill(tf.shape(rows), tf.cast(step, tf.int32)), rows], axis=1)
        self.times.scatter_nd_add(places, tf.ones_like(rows))


class Logged(Trainer):
    """Trains `net`, and notes the rows that it was given; the data bring the number of each row along."""

    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        (x, rows), y = batch
        if phase is Phase.TRAIN:
            self.model["seen"](self.step, rows)
        outputs = phase.call(self.model["net"], x)
        return self.loss(y, outputs), outputs

    def predict_step(self, batch: Any, phase: Phase) -> Any:
        return phase.call(self.model["net"], batch[0][0])


class Progress(Callback):
    """Tells the parent what the run is doing, through memory that both see."""

    def __init__(self, page: "Page"):
        self.page = page

    def on_phase_begin(self, trainer: Trainer, phase: Phase) -> None:
        self.page.enter(phase.value)

    def on_phase_end(self, trainer: Trainer, phase: Phase, metrics: Any) -> None:
        self.page.now = "starting" if phase is Phase.TRAIN else "train"


class Page:
    """What a run is doing, and how often each phase was entered, in memory that outlives a fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1 + len(KINDS))

    def enter(self, kind: str) -> None:
        self.now = kind
        place = 1 + KINDS.index(kind)
        self._memory[place] = min(self._memory[place] + 1, 255)

    @property
    def now(self) -> str:
        return KINDS[self._memory[0]]

    @now.setter
    def now(self, kind: str) -> None:
        self._memory[0] = KINDS.index(kind)

    def entered(self, kind: str) -> int:
        return self._memory[1 + KINDS.index(kind)]


def program(workdir: pathlib.Path, page: Page) -> Trainer:
    """What a user's script does, from its first line to its last."""
    tf_keras.utils.set_random_seed(1)
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    rng = np.random.default_rng(0)
    x = rng.normal(size=[ROWS, 6, 6, 1]).astype("float32")
    y = (x.sum(axis=(1, 2, 3)) > 0).astype("int32")
    rows = np.arange(ROWS, dtype=np.int32)
    base = tf_keras.Sequential([layers.Flatten(), layers.Dense(16), layers.BatchNormalization(), layers.ReLU()])
    net = tf_keras.Sequential(
        [
            tf_keras.Input([6, 6, 1]),
            layers.RandomFlip(),
            base,
            layers.Dropout(0.3),
            layers.Dense(2, dtype="float32"),
        ]
    )
    train_data = data.from_arrays(((x, rows), y), batch_size=BATCH, augment_fn=noisy)
    held_out = data.from_arrays(((x[:16], rows[:16]), y[:16]), batch_size=BATCH)
    trainer = Logged(
        {"net": net, "seen": Seen()},
        {
            "net": tf_keras.mixed_precision.LossScaleOptimizer(
                tf_keras.optimizers.Adam(0.01), initial_scale=2.0**20, dynamic_growth_steps=5
            )
        },
        loss=tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[tf_keras.metrics.SparseCategoricalAccuracy("accuracy")],
        seed=3,
        workdir=workdir,
        microbatches=2,
        report_every=Every(steps=4),
        default_callbacks=False,
        callbacks=[
            Progress(page),
            WeightAveraging(ema=0.9),
            Inference(held_out, phase=Phase.MC_PREDICT, samples=4, trigger=Every(steps=5), to=log_spread),
            MetricsLog(),
            Checkpointing(Every(steps=3) | AtEnd(), keep=2),
        ],
    )
    trainer.restore_or_initialize()
    base.trainable = False
    trainer.fit(train_data, epochs=STAGES[0], eval_data=held_out)
    base.trainable = True
    trainer.optimizer["net"].learning_rate = 0.003
    trainer.fit(train_data, epochs=STAGES[1], eval_data=held_out)
    return trainer


def noisy(batch: Any, key: tf.Tensor) -> Any:
    (x, rows), y = batch
    return (x + 0.1 * tf.random.stateless_normal(tf.shape(x), key), rows), y


def log_spread(trainer: Trainer, prediction: Any) -> None:
    trainer.log({"spread": float(prediction.std.mean())})


@dataclasses.dataclass
class Plan:
    """When a process is killed: some time after it has entered a kind of work so many times.

    Attributes:
      kind: The kind of work.
      times: How many times.
      delay: Seconds from then on.
    """

    kind: str
    times: int
    delay: float

    @classmethod
    def drawn(cls, rng: random.Random) -> "Plan":
        kind = rng.choice(KINDS)
        if kind == "starting":  # importing is done; building, restoring and tracing take some seconds
            return cls(kind, 0, rng.uniform(0, 2))
        if kind == "train":  # it is entered once a stage, and lasts to its end
            return cls(kind, 1, rng.uniform(0, 1))
        return cls(kind, rng.randint(1, 3), rng.uniform(0, 0.02))


def forked(workdir: pathlib.Path, end: pathlib.Path) -> tuple[int, Page]:
    """Starts the program in a process of its own; what it ends with is left in `end`."""
    page = Page()
    pid = os.fork()
    if pid:
        return pid, page
    status = 1
    try:
        output = os.open(end.with_suffix(".stderr"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 2)
        leave(end, state_of(program(workdir, page)))
        status = 0
    except BaseException:  # noqa: BLE001 (whatever it was, nothing of the parent's code may run in the child)
        traceback.print_exc()
    finally:
        os._exit(status)


def being_written(workdir: pathlib.Path) -> set[str]:
    """Returns the checkpoints that have not got their name yet, those that a killed process has left among them."""
    try:
        return {name for name in os.listdir(workdir / "checkpoints") if name.startswith(".writing")}
    except FileNotFoundError:
        return set()


def run_until(pid: int, page: Page, workdir: pathlib.Path, plan: Plan | None) -> str | None:
    """Waits for a process, and kills it by a plan.

    Returns:
      What it was doing when it was killed, or None where it ended by itself.

    Raises:
      RuntimeError: If it failed, or lasts too long.
    """
    start, left, saves, was_saving, due = time.monotonic(), being_written(workdir), 0, False, None
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            if status:
                raise RuntimeError(f"a run failed with status {status}")
            return None
        now = time.monotonic()
        saving = bool(being_written(workdir) - left)
        saves, was_saving = saves + (saving and not was_saving), saving
        if plan is not None and due is None:
            done = saves if plan.kind == "saving" else page.entered(plan.kind)
            due = now + plan.delay if done >= plan.times else None
        late = now - start > _DEADLINE
        if late or (due is not None and now >= due):
            doing = "saving" if saving else page.now
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            if late:
                raise RuntimeError(f"a run was not done after {_DEADLINE:.0f} s")
            return doing
        time.sleep(0.0005)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    with tempfile.TemporaryDirectory(prefix="trainloop-kill-") as temporary:
        place = pathlib.Path(_WORKDIR.value or temporary)
        place.mkdir(parents=True, exist_ok=True)
        sys.exit(kill_all(place, _KILLS.value, random.Random(_SEED.value)))


def kill_all(place: pathlib.Path, kills: int, rng: random.Random) -> int:
    """Makes runs until so many kills are done; returns 1 where one ended otherwise than the run that was left alone."""
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores, {kills} kills, seed {_SEED.value}", flush=True)
    began = time.monotonic()
    alone = place / "alone"
    run_until(*forked(alone, place / "alone.end"), alone, None)
    expected, log = take(place / "alone.end"), log_of(Workdir(alone))
    print(f"the run that is left alone: {STEPS} steps, {len(expected)} values, sha256 {digest(expected)}", flush=True)

    killed: collections.Counter[str] = collections.Counter()
    runs = differing = damaged = 0
    while killed.total() < kills:
        runs += 1
        workdir, end = place / f"run_{runs}", place / f"run_{runs}.end"
        while True:
            plan = Plan.drawn(rng) if killed.total() < kills else None
            doing = run_until(*forked(workdir, end), workdir, plan)
            if doing is None:
                break
            killed[doing] += 1
        told = [*differences(expected, take(end)), *log_differences(log, log_of(Workdir(workdir)))]
        damaged += len(list((workdir / "checkpoints").glob("damaged*")))
        differing += bool(told)
        seconds = (time.monotonic() - began) / max(1, killed.total())
        verdict = f"differs: {told[0]} and {len(told) - 1} more" if told else "the same"
        print(f"run {runs}, after {killed.total()} kills ({seconds:.1f} s each): {verdict}", flush=True)
        if not told:
            shutil.rmtree(workdir)
    of_kinds = ", ".join(f"{killed[kind]} {kind}" for kind in KINDS)
    print(f"{killed.total()} kills: {of_kinds}")
    print(f"{runs} runs: {differing} ended otherwise, {damaged} damaged checkpoints passed over")
    return int(differing > 0)


if __name__ == "__main__":
    app.run(main)
