"""Keeps the package's layers acyclic, and the private side of tf-keras in one module."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "trainloop"

# Each module may import only what stands above it. A package (callbacks, report, tasks) is one layer.
LAYERS = [
    "versions",
    "policy",
    "triggers",
    "workdir",
    "aside",
    "violations",
    "origins",
    "signatures",
    "ambient",
    "keras_hooks",
    "user_code",
    "layer_paths",
    "tracing",
    "function_calls",
    "stateless",
    "draws",
    "numbering",
    "random",
    "guard",
    "first_traces",
    "phase",
    "pinning",
    "variables",
    "op_roles",
    "effects",
    "replays",
    "waivers",
    "contract_report",
    "step_effects",
    "remarks",
    "verdicts",
    "results",
    "contracts",
    "batches",
    "losses",
    "state",
    "data",
    "step_context",
    "gradient_sums",
    "before_updates",
    "steps",
    "summing_loop",
    "gathering_loop",
    "step_contracts",
    "batch_norm",
    "moments",
    "monte_carlo",
    "environment",
    "manifest",
    "checksums",
    "store",
    "snapshot",
    "restored",
    "checkpoint",
    "numerics",
    "callback",
    "monitor",
    "arguments",
    "transfer",
    "callbacks",
    "default_callbacks",
    "interrupts",
    "agenda",
    "reporting",
    "step_methods",
    "phase_loops",
    "evaluator",
    "resumable",
    "position",
    "between_chunks",
    "going_back",
    "preparing",
    "trainer",
    "auditing",
    "launch",
    "verify",
    "sweeping",
    "report",
    "tasks",
]
SEPARATE_FILES = {"callbacks"}  # files in this layer do not import each other

FILES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = sorted(path for folder in ("scripts", "configs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> list[str]:
    """`trainloop/callbacks/tensorboard.py` as ["callbacks", "tensorboard"], an `__init__.py` as its folder."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def nodes_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from nodes_at_run_time(other)
        else:
            yield from nodes_at_run_time(node)


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported at run time; `package` is where relative imports start."""
    for node in nodes_at_run_time(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = ["trainloop", *package][: len(package) + 2 - node.level] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*start, *filter(None, [node.module]), alias.name])


def layer_faults(source: str, path: Path) -> list[str]:
    """What the imports in `source`, the text of `path`, do against the order of the layers."""
    here = dotted(path)
    is_package = path.name == "__init__.py"
    if not here:  # trainloop/__init__.py is the front door and sees every layer
        return []
    layer = here[0]
    if layer not in LAYERS:
        return [
            f"{name_of(path)} is in no layer: put {layer!r} into LAYERS in tests/test_layers.py, below what it imports"
        ]
    faults = []
    for line, name in imported(ast.parse(source), here if is_package else here[:-1]):
        first, *target = name.split(".")
        if first != "trainloop":
            continue
        where = f"{name_of(path)}:{line} imports {name}"
        if not target or target[0] not in LAYERS:
            faults.append(f"{where}: import it from the module that defines it, not from the package's front door")
        elif target[0] != layer:
            if LAYERS.index(target[0]) > LAYERS.index(layer):
                faults.append(f"{where}, which stands below {layer}: {layer} may import only what stands above it")
        elif layer in SEPARATE_FILES and not is_package:
            faults.append(f"{where}: files of {layer} do not import each other; what two of them need belongs above")
    return faults


def attribute_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, ast.unparse(node)


def keras_3_uses(source: str, path: Path) -> list[str]:
    """Where `source` reaches Keras 3, by import or as an attribute of TensorFlow."""
    tree = ast.parse(source)
    names = [*imported(tree, []), *attribute_names(tree)]
    keras_3 = re.compile(r"(keras|(tf|tensorflow)\.keras|tensorflow\.python\.keras)(\..+)?")
    lines = sorted({line for line, name in names if keras_3.fullmatch(name)})
    return [f"{name_of(path)}:{line} uses Keras 3: import tf_keras instead" for line in lines]


def private_keras_uses(source: str, path: Path) -> list[str]:
    """Where `source` reaches private names of tf-keras, by import or as an attribute."""
    tree = ast.parse(source)
    private = re.compile(r"tf_keras\.(.+\.)?(src|__internal__|_[^_.][^.]*)(\..+)?")
    lines = sorted({line for line, name in [*imported(tree, []), *attribute_names(tree)] if private.fullmatch(name)})
    return [f"{name_of(path)}:{line} uses a private name of tf-keras: that belongs in keras_hooks.py" for line in lines]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_only_what_stands_above(path):
    faults = layer_faults(path.read_text(), path)
    assert not faults, "\n".join(faults)


# Tests are left out: they hand Keras 3 objects to trainloop, to see them refused.
@pytest.mark.parametrize("path", FILES + PROGRAMS, ids=name_of)
def test_keras_3_is_not_used(path):
    faults = keras_3_uses(path.read_text(), path)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("path", FILES + PROGRAMS, ids=name_of)
def test_private_names_of_tf_keras_stay_in_keras_hooks(path):
    faults = [] if path == PACKAGE / "keras_hooks.py" else private_keras_uses(path.read_text(), path)
    assert not faults, "\n".join(faults)


def test_contributing_lists_the_layers_in_this_order():
    """The table in CONTRIBUTING.md tells people what this file tells the machine."""
    rows = re.findall(r"^\| `(\w+)(?:\.py|/)` \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert rows == [name for name in LAYERS if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()]


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("policy.py", "from trainloop.trainer import Trainer", "stands below policy"),
        ("policy.py", "from .trainer import Trainer", "stands below policy"),
        ("policy.py", "from . import trainer", "stands below policy"),
        ("policy.py", "def f():\n    import trainloop.trainer", "policy.py:2 imports trainloop.trainer"),
        ("state.py", "if TYPE_CHECKING:\n    pass\nelse:\n    from trainloop import steps", "stands below state"),
        ("callbacks/early_stopping.py", "from ..trainer import Trainer", "stands below callbacks"),
        ("callbacks/early_stopping.py", "from .progress_bar import ProgressBar", "do not import each other"),
        ("callbacks/__init__.py", "from ..trainer import Trainer", "stands below callbacks"),
        ("trainer.py", "from trainloop import Phase", "not from the package's front door"),
        ("trainer.py", "import trainloop", "not from the package's front door"),
        ("helpers.py", "", "put 'helpers' into LAYERS"),
    ],
)
def test_a_breach_of_the_layers_is_found(file, source, fault):
    (found,) = layer_faults(source, PACKAGE / file)
    assert fault in found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("__init__.py", "from trainloop.trainer import Trainer"),
        ("trainer.py", "from trainloop import policy, triggers\nfrom .callbacks.checkpointing import Checkpointing"),
        ("callbacks/__init__.py", "from trainloop.callbacks.profiler import Profiler\nfrom . import tensorboard"),
        ("callbacks/early_stopping.py", "if TYPE_CHECKING:\n    from trainloop.trainer import Trainer"),
        ("callbacks/early_stopping.py", "import tensorflow as tf\nfrom ..callback import Callback"),
        ("report/page.py", "from .plots import curve"),
    ],
)
def test_what_the_layers_allow_passes(file, source):
    assert layer_faults(source, PACKAGE / file) == []


@pytest.mark.parametrize(
    "source",
    [
        "import keras",
        "from keras import layers",
        "import tensorflow.keras as k",
        "from tensorflow import keras",
        "from tensorflow.keras.layers import Dense",
        "tf.keras.layers.Dense(1)",
    ],
)
def test_keras_3_is_recognised(source):
    assert keras_3_uses(source, PACKAGE / "trainer.py")


@pytest.mark.parametrize(
    "source",
    [
        "import tf_keras.src.backend",
        "from tf_keras import src",
        "from tf_keras.src import backend",
        "tf_keras.src.engine",
        "tf_keras.backend._GRAPH",
        "tf_keras.__internal__.backend",
    ],
)
def test_private_names_of_tf_keras_are_recognised(source):
    assert private_keras_uses(source, PACKAGE / "trainer.py")


def test_the_public_side_of_tf_keras_passes():
    source = "import tf_keras\nfrom tf_keras.layers import Dense\ntf_keras.layers.Dense(1)\ntf_keras.__file__"
    assert keras_3_uses(source, PACKAGE / "trainer.py") == []
    assert private_keras_uses(source, PACKAGE / "trainer.py") == []
