"""A training-loop framework for TensorFlow and tf-keras with explicit phases.

Names are imported when they are first used, so that a program can answer `--help`, or refuse a wrong flag, without the
seconds that TensorFlow takes to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainloop import data as data
    from trainloop import launch as launch
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
    from trainloop.pinning import follow, pin, unpin
    from trainloop.policy import Policy, register_family
    from trainloop.results import History, StepResult
    from trainloop.trainer import Trainer
    from trainloop.triggers import At, AtEnd, Every
    from trainloop.violations import PhaseError, Violation
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
    "PhaseError",
    "Policy",
    "Profiler",
    "ProgressBar",
    "StepResult",
    "StopOnNaN",
    "TensorBoard",
    "Trainer",
    "Violation",
    "WeightAveraging",
    "Workdir",
    "WorkdirLocked",
    "data",
    "follow",
    "launch",
    "pin",
    "register_family",
    "unpin",
]

_HOMES = {
    "callback": ["Callback"],
    "callbacks": [
        "Checkpointing",
        "EarlyStopping",
        "Inference",
        "KerasCallback",
        "MetricsLog",
        "NonFiniteLossError",
        "Profiler",
        "ProgressBar",
        "StopOnNaN",
        "TensorBoard",
        "WeightAveraging",
    ],
    "phase": ["Phase"],
    "pinning": ["follow", "pin", "unpin"],
    "policy": ["Policy", "register_family"],
    "results": ["History", "StepResult"],
    "trainer": ["Trainer"],
    "triggers": ["At", "AtEnd", "Every"],
    "violations": ["PhaseError", "Violation"],
    "workdir": ["Workdir", "WorkdirLocked"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("data", "launch"):
        return importlib.import_module(f"trainloop.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"trainloop.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'trainloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
