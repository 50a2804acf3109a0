"""The directory of one run: every path inside it, its lock, and small files that a crash cannot tear."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import shlex
import socket
import sys
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any


class WorkdirLocked(RuntimeError):
    """Another writer holds the workdir.

    Attributes:
      owner: What the `LOCK` file says of the holder (`host`, `pid`, `started`, `command`); empty if it says nothing.
    """

    def __init__(self, workdir: Workdir, owner: Mapping[str, Any]) -> None:
        self.owner = dict(owner)
        if (owner.get("pid"), owner.get("host")) == (os.getpid(), socket.gethostname()):
            holder = "this same process, through another Workdir or Trainer"
        elif owner:
            holder = (
                f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('started')}: "
                f"{owner.get('command')}"
            )
        else:
            holder = "another process, which has left no name"
        super().__init__(
            f"workdir={str(workdir)!r} is in use by {holder}. One run writes to a workdir at a time: "
            "wait until it ends, stop it, or give another workdir="
        )


class Workdir:
    """The directory of one run.

    Nothing is written before `create`, `lock`, or one of the writing methods is called.

    Args:
      path: The directory; it need not exist yet.

    Raises:
      TypeError: If `path` is no path, or empty.

    Example:
      >>> import tempfile
      >>> workdir = Workdir(tempfile.mkdtemp())
      >>> with workdir.lock():
      ...     workdir.write_json(workdir.config, {"seed": 1})
      ...     for step in (100, 200, 300):
      ...         workdir.append_jsonl(workdir.metrics, {"step": step})
      >>> workdir.cut_jsonl(workdir.metrics, step=200)
      >>> workdir.metrics.read_text().splitlines()
      ['{"step": 100}', '{"step": 200}']
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise TypeError(f"workdir={path!r} must be the path of a directory, such as 'runs/first'")
        self.path = pathlib.Path(path)
        self._lock_depth = 0
        self._lock_descriptor: int | None = None

    def __fspath__(self) -> str:
        return str(self.path)

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"Workdir({str(self.path)!r})"

    @property
    def config(self) -> pathlib.Path:
        """The configuration the run was started with."""
        return self.path / "config.json"

    @property
    def metrics(self) -> pathlib.Path:
        """One JSON line a report."""
        return self.path / "metrics.jsonl"

    @property
    def phases(self) -> pathlib.Path:
        """One JSON line for each phase entered and left."""
        return self.path / "phases.jsonl"

    @property
    def contract(self) -> pathlib.Path:
        """What each compiled step was found to draw and to write."""
        return self.path / "contract.json"

    @property
    def events(self) -> pathlib.Path:
        """TensorBoard's directory."""
        return self.path / "events"

    @property
    def checkpoints(self) -> pathlib.Path:
        """The directory of committed checkpoints."""
        return self.path / "checkpoints"

    @property
    def predictions(self) -> pathlib.Path:
        """What the programs predicted last."""
        return self.path / "predictions.npz"

    @property
    def report(self) -> pathlib.Path:
        """The page that sums the run up."""
        return self.path / "report.html"

    @property
    def lock_file(self) -> pathlib.Path:
        """The file whose lock makes one writer of many; it stays behind, and only its lock means anything."""
        return self.path / "LOCK"

    def create(self) -> None:
        """Makes the directory, and its parents, where they do not exist.

        Raises:
          NotADirectoryError: If the path, or one of its parents is a file.
        """
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)

    def check(self) -> None:
        """Raises NotADirectoryError where the path, or one of its parents, is a file; writes nothing."""
        in_the_way = [path for path in (self.path, *self.path.parents) if os.path.lexists(path) and not path.is_dir()]
        if in_the_way:
            raise NotADirectoryError(
                f"workdir={str(self)!r}: {str(in_the_way[0])!r} is a file, expected a directory or a path that does "
                "not exist yet. Give another workdir="
            )

    def write_json(self, path: str | os.PathLike[str], value: Any) -> None:
        """Writes `value` as JSON in one atomic step: a reader, or a crash, meets the old file or the new one whole.

        Args:
          path: The file, usually one of this object's paths. Its directory is made where it does not exist.
          value: Anything `json` takes, and NumPy scalars and arrays. NaN and infinities are written as `json` does.
        """
        text = json.dumps(value, indent=2, default=_plain) + "\n"
        _replace(pathlib.Path(path), text.encode())

    def append_jsonl(self, path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
        """Adds one line to a file of JSON lines.

        The line is not forced to the disk: records newer than the last checkpoint are cut away on a restart anyway.

        Args:
          path: The file, usually `metrics` or `phases`. Its directory is made where it does not exist.
          record: The line's content.
        """
        path = pathlib.Path(path)
        line = json.dumps(record, default=_plain) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", buffering=0) as file:  # One write call, so that a line is torn by a crash or not at all.
            file.write(line.encode())

    def cut_jsonl(self, path: str | os.PathLike[str], step: int, size: int | None = None) -> None:
        """Drops the records after `step`, in one atomic step.

        A line that is no JSON object (a crash can tear the last one) is dropped too; a record without a `"step"` stays.

        Args:
          path: The file.
          step: The last step to keep.
          size: How long the file was when that step was saved, in bytes: what was added later is dropped too.
        """
        path = pathlib.Path(path)
        try:
            old = path.read_bytes()
        except FileNotFoundError:
            return
        kept = b"".join(line for line in old[:size].splitlines(keepends=True) if _is_kept(line, step))
        if kept != old:
            _replace(path, kept)

    @property
    def is_locked(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock_depth > 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the workdir for writing; the directory is made where it does not exist.

        The operating system drops the lock when its process ends, however it ends. The same object may nest its own
        lock; any other, in this process or elsewhere, is refused at once.

        Yields:
          Nothing; the lock is held inside the `with` block.

        Raises:
          NotADirectoryError: If the workdir is a file.
          WorkdirLocked: If another writer holds it.
        """
        if self._lock_depth == 0:
            self.create()
            self._lock_descriptor = self._acquire()
        self._lock_depth += 1
        try:
            yield
        finally:
            self._lock_depth -= 1
            if self._lock_depth == 0:
                self._release()

    def _acquire(self) -> int:
        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise WorkdirLocked(self, _read_owner(descriptor)) from None
            if not (self.lock_file.exists() and os.path.samestat(os.fstat(descriptor), os.stat(self.lock_file))):
                raise WorkdirLocked(self, {})  # Its holder has just deleted it: this lock would exclude nobody.
            owner = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
                "command": shlex.join(sys.orig_argv),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        _HELD.add(self)
        return descriptor

    def _release(self) -> None:
        if self._lock_descriptor is None:  # A forked child let go of it already.
            return
        _HELD.discard(self)
        os.ftruncate(self._lock_descriptor, 0)
        os.close(self._lock_descriptor)
        self._lock_descriptor = None

    def _forget_lock(self) -> None:
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)  # Without unlocking: the parent's descriptor keeps the lock.
            self._lock_descriptor = None


_HELD: weakref.WeakSet[Workdir] = weakref.WeakSet()


def _leave_locks_to_the_parent() -> None:
    # A lock lives as long as any copy of its descriptor, so a forked data worker that outlives a killed run would keep
    # the workdir locked in the name of a dead process.
    for workdir in list(_HELD):
        workdir._forget_lock()
    _HELD.clear()


os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


def _read_owner(descriptor: int) -> dict[str, Any]:
    owner: dict[str, Any] = {}
    deadline = time.monotonic() + 0.5  # A second writer is to be refused within a second.
    while time.monotonic() < deadline:
        # The owner writes its name just after it takes the lock: a reader in between finds nothing, or a half, or the
        # name of an owner that was killed.
        with contextlib.suppress(ValueError):
            owner = dict(json.loads(os.pread(descriptor, 1 << 16, 0)))
            if not _is_dead(owner):
                break
        time.sleep(0.05)
    return owner


def _is_dead(owner: Mapping[str, Any]) -> bool:
    if owner.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(owner.get("pid", 0)), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError, ValueError):
        return False
    return False


def _is_kept(line: bytes, step: int) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and isinstance(record, dict) and record.get("step", step) <= step


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays.
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written as JSON")


def _replace(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
