"""The versions that were tested: refused are all others, and the places that name them agree."""

import importlib.metadata
import json
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tensorflow as tf
import tf_keras

from trainloop import versions
from trainloop.versions import TESTED, check_versions

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def noxfile():
    return runpy.run_path(str(ROOT / "noxfile.py"))


@pytest.mark.parametrize("minor", TESTED)
@pytest.mark.parametrize("patch", ["0", "3", "0-rc1"])
def test_a_tested_pair_passes(minor, patch):
    check_versions(f"{minor}.{patch}", f"{minor}.1")


@pytest.mark.parametrize(
    ("tensorflow", "tf_keras", "fitting"),
    [
        ("2.17.1", "2.17.0", "2.21"),
        ("2.22.0", "2.22.0", "2.21"),
        ("2.22.0-dev20260401", "2.22.0", "2.21"),
        ("2.2.1", "2.2.1", "2.21"),
        ("3.18.0", "3.18.0", "2.21"),
        ("2.20.0", "2.21.0", "2.20"),
        ("2.21.0", "2.20.1", "2.21"),
        ("2.19.1", "2.15.1", "2.19"),
    ],
)
def test_any_other_is_refused_by_name_with_what_to_install(tensorflow, tf_keras, fitting):
    with pytest.raises(ImportError) as caught:
        check_versions(tensorflow, tf_keras)
    assert str(caught.value) == (
        "trainloop was tested with TensorFlow and tf-keras 2.18 to 2.21, both of one minor version; "
        f"found TensorFlow {tensorflow} and tf-keras {tf_keras}. Install two that belong together: "
        f"pip install 'tensorflow=={fitting}.*' 'tf-keras=={fitting}.*' 'tensorboard=={fitting}.*'"
    )


def test_the_package_is_refused_at_import_by_what_is_installed(monkeypatch):
    """By what the installer wrote down: `import tf_keras` may be what breaks."""
    monkeypatch.delitem(sys.modules, "tf_keras")
    monkeypatch.setattr(importlib.metadata, "version", {"tensorflow": "2.18.1", "tf-keras": "2.21.0"}.__getitem__)
    with pytest.raises(ImportError, match=r"found TensorFlow 2\.18\.1 and tf-keras 2\.21\.0"):
        runpy.run_path(str(ROOT / "trainloop" / "__init__.py"))


def test_nothing_the_installer_wrote_is_read_where_the_modules_can_be_asked(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", pytest.fail)
    versions.check_installed()


@pytest.mark.parametrize(("module", "name"), [(tf, "TensorFlow"), (tf_keras, "tf-keras")])
def test_what_no_installer_wrote_down_is_refused_when_it_is_imported(monkeypatch, module, name):
    def unknown(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    with monkeypatch.context() as without:
        without.delitem(sys.modules, "tf_keras")
        versions.check_installed()
    monkeypatch.setattr(module, "__version__", "2.22.0")
    with pytest.raises(ImportError, match=rf"found .*{name} 2\.22\.0"):
        runpy.run_path(str(ROOT / "trainloop" / "keras_hooks.py"))


def test_a_tf_keras_that_lacks_a_private_name_is_refused_at_import(monkeypatch):
    from tf_keras.src import engine

    monkeypatch.delattr(engine, "base_layer_utils")
    monkeypatch.setitem(sys.modules, "tf_keras.src.engine.base_layer_utils", None)
    with pytest.raises(ImportError, match=r"this tf-keras .* is built differently .*base_layer_utils.*Install"):
        runpy.run_path(str(ROOT / "trainloop" / "keras_hooks.py"))


@pytest.mark.parametrize("package", ["tensorflow", "tf-keras", "tensorboard"])
def test_the_declared_range_is_what_is_tested(package):
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    major, newest = TESTED[-1].split(".")
    assert f"{package}>={TESTED[0]},<{major}.{int(newest) + 1}" in dependencies


def test_each_version_has_a_session(noxfile):
    assert noxfile["VERSIONS"] == TESTED
    command = [sys.executable, "-m", "nox", "--list", "--json"]
    listed = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert [(session["name"], session["python"]) for session in listed] == [(f"phases-{v}", "3.11") for v in TESTED]


def test_a_new_file_of_tests_is_a_test_of_phases(noxfile):
    """So that nobody has to remember to list it; what is listed as something else must be there."""
    files = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert files >= noxfile["OTHER_TESTS"]
    assert noxfile["PHASE_TESTS"] == [f"tests/{name}" for name in sorted(files - noxfile["OTHER_TESTS"])]
    assert {"tests/test_guard.py", "tests/test_phase.py", "tests/test_keras_hooks.py"} <= set(noxfile["PHASE_TESTS"])
