"""Runs every ```python block of the documents: a file's blocks in order, in one namespace, in an empty directory."""

import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMED = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
DOCUMENTS = [path for path in [*NAMED, *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]


def python_blocks(text: str) -> Iterator[str]:
    """Each block's code under as many empty lines as stand before it, so that its line numbers are the document's."""
    lines = text.splitlines()
    opened = None
    for number, line in enumerate(lines):
        if opened is None and line.startswith("```"):
            opened = number
        elif opened is not None and line.rstrip() == "```":
            if lines[opened].rstrip() == "```python":
                yield "\n" * (opened + 1) + "\n".join(lines[opened + 1 : number]) + "\n"
            opened = None
    if opened is not None:
        raise AssertionError(f"the block opened in line {opened + 1} is never closed")


def run_document(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the blocks of `path` in a module of their own, which dataclasses and pickle can look up by its name.

    What a workdir keeps is there when a script runs again, so the blocks with a workdir are then run once more.
    """
    module = types.ModuleType(path.stem)
    monkeypatch.setitem(sys.modules, path.stem, module)
    blocks = list(python_blocks(path.read_text()))
    for block in [*blocks, *(block for block in blocks if "workdir=" in block)]:
        try:
            # AutoGraph reads the source of what it compiles: under this file name it finds the document itself.
            exec(compile(block, path, "exec"), module.__dict__)
        except Exception as error:
            if isinstance(error, SyntaxError) and error.filename == str(path):
                line = error.lineno
            else:
                line = next(f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path))
            raise AssertionError(f"{path.name}, line {line}: {type(error).__name__}: {error}") from error


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_document(path, monkeypatch)


def write(folder: Path, *lines: str) -> Path:
    path = folder / "page.md"
    path.write_text("\n".join(lines))
    return path


def test_blocks_share_a_namespace_and_others_are_left_alone(monkeypatch, tmp_path):
    bash = ["```bash", "make train", "```"]
    run_document(write(tmp_path, "```python", "x = 1", "```", *bash, "```python", "assert x == 1", "```"), monkeypatch)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (["def f():", "    raise ValueError('no')", "f()"], "page.md, line 6: ValueError: no"),
        (["x = = 1"], "page.md, line 4: SyntaxError"),
    ],
)
def test_a_failing_example_is_named_by_file_and_line(code, said, monkeypatch, tmp_path):
    page = write(tmp_path, "# Title", "", "```python", *code, "```")
    with pytest.raises(AssertionError, match=said):
        run_document(page, monkeypatch)


def test_a_block_with_a_workdir_runs_twice(monkeypatch, tmp_path):
    code = ["import pathlib", "pathlib.Path('run').mkdir()  # as workdir='run' would"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match=r"page\.md, line 3: FileExistsError"):
        run_document(write(tmp_path, "```python", *code, "```"), monkeypatch)


def test_a_block_that_is_never_closed_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(AssertionError, match="line 1 is never closed"):
        run_document(write(tmp_path, "```python", "x = 1"), monkeypatch)


def test_examples_may_be_compiled_by_tensorflow(monkeypatch, tmp_path):
    """AutoGraph needs the source: without it the `if` on a tensor would raise."""
    code = [
        "import tensorflow as tf",
        "@tf.function",
        "def f(x):",
        "    if x > 0:",
        "        return x",
        "    return -x",
        "assert f(tf.constant(-1)) == 1",
    ]
    run_document(write(tmp_path, "text", "```python", *code, "```"), monkeypatch)
