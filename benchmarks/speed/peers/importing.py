"""What it takes to import trainloop, once TensorFlow and tf-keras are there."""

from __future__ import annotations

from benchmarks.speed.turns import Turns
from benchmarks.speed.workloads import Workload


def trainer(workload: Workload, steps: int, turns: Turns) -> None:
    """One turn: the import of the Trainer, and of all that it needs."""
    del workload, steps
    import tensorflow as tf
    import tf_keras

    del tf, tf_keras
    turns.next()
    from trainloop import Trainer

    del Trainer
    turns.next()
