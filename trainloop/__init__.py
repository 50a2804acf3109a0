"""A training-loop framework for TensorFlow and tf-keras with explicit phases.

Names are imported when they are first used, so that a program can answer `--help`, or refuse a wrong flag, without the
seconds that TensorFlow takes to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

from trainloop import versions

if TYPE_CHECKING:
    from trainloop import data as data
    from trainloop import launch as launch
    from trainloop import random as random
    from trainloop.auditing import Audit, audit
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
    from trainloop.checkpoint import CheckpointNotSaved
    from trainloop.contract_report import ContractReport
    from trainloop.contracts import contract
    from trainloop.manifest import CheckpointDamaged
    from trainloop.phase import Phase
    from trainloop.pinning import follow, pin, unpin
    from trainloop.policy import Policy, register_family
    from trainloop.results import History, MCPrediction, StepResult
    from trainloop.trainer import Trainer
    from trainloop.transfer import LoadedWeights, load_weights
    from trainloop.triggers import At, AtEnd, Every
    from trainloop.verify import ResumeReport, verify_resume
    from trainloop.violations import PhaseError, Violation
    from trainloop.waivers import waive
    from trainloop.workdir import Workdir, WorkdirLocked

__version__ = "0.1.0"

versions.check_installed()  # before any module imports tf-keras

__all__ = [
    "At",
    "AtEnd",
    "Audit",
    "Callback",
    "CheckpointDamaged",
    "CheckpointNotSaved",
    "Checkpointing",
    "ContractReport",
    "EarlyStopping",
    "Every",
    "History",
    "Inference",
    "KerasCallback",
    "LoadedWeights",
    "MCPrediction",
    "MetricsLog",
    "NonFiniteLossError",
    "Phase",
    "PhaseError",
    "Policy",
    "Profiler",
    "ProgressBar",
    "ResumeReport",
    "StepResult",
    "StopOnNaN",
    "TensorBoard",
    "Trainer",
    "Violation",
    "WeightAveraging",
    "Workdir",
    "WorkdirLocked",
    "audit",
    "contract",
    "data",
    "follow",
    "launch",
    "load_weights",
    "pin",
    "random",
    "register_family",
    "unpin",
    "verify_resume",
    "waive",
]

_HOMES = {
    "auditing": ["Audit", "audit"],
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
    "checkpoint": ["CheckpointNotSaved"],
    "contracts": ["contract"],
    "manifest": ["CheckpointDamaged"],
    "phase": ["Phase"],
    "pinning": ["follow", "pin", "unpin"],
    "policy": ["Policy", "register_family"],
    "results": ["History", "MCPrediction", "StepResult"],
    "trainer": ["Trainer"],
    "transfer": ["LoadedWeights", "load_weights"],
    "triggers": ["At", "AtEnd", "Every"],
    "contract_report": ["ContractReport"],
    "verify": ["ResumeReport", "verify_resume"],
    "violations": ["PhaseError", "Violation"],
    "waivers": ["waive"],
    "workdir": ["Workdir", "WorkdirLocked"],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("data", "launch", "random"):
        return importlib.import_module(f"trainloop.{name}")
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"trainloop.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'trainloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
