"""Programs launched in processes of their own, each forked from one that has imported TensorFlow.

The import takes four seconds of the processor, which some thirty launches would each pay. What a program does before
and while it imports TensorFlow is not seen here; a test of that starts Python itself.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
DEADLINE = 150.0  # seconds
_MESSAGE = 2**17  # bytes at most


class Launched:
    """A Python program in a process of its own: the part of `subprocess.Popen` that tests need.

    Args:
      program: The file.
      *args: Its arguments.
      cwd: Where it runs.
      env: What its environment holds besides this process's.
    """

    def __init__(self, program: Path, *args: str, cwd: Path, env: Mapping[str, str] | None = None):
        self.command = [str(program), *args]
        self.returncode: int | None = None
        self._outputs = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (closed by `finish`)
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | dict(env or {})
        message = json.dumps({"argv": self.command, "cwd": str(cwd), "environment": environment}).encode()
        with theirs:
            fds = [theirs.fileno(), *(output.fileno() for output in self._outputs)]
            socket.send_fds(_parent(), [message], fds)
        pid = self._received(DEADLINE)
        if not pid:
            raise AssertionError(f"{self.command} was not launched")
        self.pid = int(pid)
        _running.append(self)

    def poll(self) -> int | None:
        """Returns the status that it has ended with, or None."""
        if self.returncode is None and (status := self._received(1e-3)) is not None:
            self.returncode = int(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self, deadline: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Waits for its end; where that takes longer than a deadline, in seconds, ends it and raises."""
        status = self.returncode if self.returncode is not None else self._received(deadline)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            self._received(deadline)
        self._channel.close()
        _running.remove(self)
        printed = []
        for output in self._outputs:
            with output:
                output.seek(0)
                printed.append(output.read())
        if status is None:
            raise AssertionError(f"{self.command} was not done after {deadline} s:\n{''.join(printed)}")
        self.returncode = int(status)
        return subprocess.CompletedProcess(self.command, self.returncode, *printed)

    def _received(self, timeout: float) -> str | None:
        self._channel.settimeout(timeout)
        try:
            return self._channel.recv(32).decode()
        except TimeoutError:
            return None


_running: list[Launched] = []


@functools.cache
def _parent() -> socket.socket:
    """The socket of the process that programs are forked from, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT)

    def end() -> None:
        for each in _running:  # of a test that has failed before it was finished
            each.send_signal(signal.SIGKILL)
        ours.close()
        process.kill()
        process.wait()

    atexit.register(end)
    return ours


def _serve(requests: socket.socket) -> None:
    """Forks for each request a process that forks the program, and waits for its end."""
    import sklearn.datasets
    import sklearn.model_selection
    import tensorflow as tf
    import tf_keras

    del sklearn, tf, tf_keras
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _MESSAGE, 3)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            with socket.socket(fileno=fds[0]) as channel:
                program = os.fork()
                if program == 0:
                    channel.close()
                    _become(json.loads(message), fds[1:])
                channel.send(str(program).encode())
                channel.send(str(os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])).encode())
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _become(described: dict[str, object], outputs: list[int]) -> NoReturn:
    for fd, output in enumerate(outputs, start=1):
        os.dup2(output, fd)
        os.close(output)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(described["environment"])
    os.chdir(described["cwd"])
    sys.argv = list(described["argv"])
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
