"""A training-loop framework for TensorFlow and tf-keras with explicit phases."""

from trainloop import data, launch
from trainloop.callback import Callback
from trainloop.callbacks import (
    Checkpointing,
    EarlyStopping,
    Inference,
    KerasCallback,
    MetricsLog,
    NonFiniteLossError,
    Profiler,
    ProgressBar,
    StopOnNaN,
    TensorBoard,
    WeightAveraging,
)
from trainloop.phase import Phase
from trainloop.policy import Policy, register_family
from trainloop.results import History, StepResult
from trainloop.trainer import Trainer
from trainloop.triggers import At, AtEnd, Every
from trainloop.workdir import Workdir, WorkdirLocked

__version__ = "0.1.0"

__all__ = [
    "At",
    "AtEnd",
    "Callback",
    "Checkpointing",
    "EarlyStopping",
    "Every",
    "History",
    "Inference",
    "KerasCallback",
    "MetricsLog",
    "NonFiniteLossError",
    "Phase",
    "Policy",
    "Profiler",
    "ProgressBar",
    "StepResult",
    "StopOnNaN",
    "TensorBoard",
    "Trainer",
    "WeightAveraging",
    "Workdir",
    "WorkdirLocked",
    "data",
    "launch",
    "register_family",
]
