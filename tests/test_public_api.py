"""The public door: what `import trainloop` offers, and what it may not need."""

import subprocess
import sys

import trainloop

PUBLIC = {
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
}

EXTRAS = ["sklearn", "matplotlib", "jinja2", "optuna"]


EVERY_NAME = "[getattr(trainloop, name) for name in trainloop.__all__]"


def test_the_door_is_this_list():
    assert set(trainloop.__all__) == PUBLIC
    assert len(trainloop.__all__) == len(PUBLIC), "a name stands twice in trainloop.__all__"


def test_every_public_name_is_there_and_documented():
    for name in trainloop.__all__:
        assert getattr(trainloop, name).__doc__, f"trainloop.{name} has no docstring"


def test_import_needs_no_extra():
    """`pip install trainloop-tf` alone must be enough: None in `sys.modules` makes an import fail."""
    program = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS})); import trainloop; {EVERY_NAME}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_names_are_imported_when_they_are_used():
    """So that a command line can be refused, or `--help` answered, without the seconds that TensorFlow takes."""
    program = "import sys; from trainloop import launch; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
