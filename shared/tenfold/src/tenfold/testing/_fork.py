"""A process that has imported torch once and forks: a child of a test starts in milliseconds, not in seconds.

The server runs nothing but imports, so that a fork of it has no threads, generators or caches that a test has touched.
"""

import contextlib
import faulthandler
import importlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.testing._child import child_environment, main

__all__ = ["Forked", "fork_call", "fork_server"]

# Imported by the server before a fork where the test process has them too.
_COSTLY = (
    "numpy",
    "torch",
    "torch.distributed",
    "pytest",
    "hypothesis",
    "PIL.Image",
    "torchvision",
    "lightning.pytorch",
)
_START = f"import sys; from {__name__} import serve; serve(int(sys.argv[1]))"
_lock = threading.Lock()
_server: socket.socket | None = None


class Forked:
    """A forked child, with what `finish_call` and `kill_group` need of a `subprocess.Popen`."""

    def __init__(self, pid: int, status: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._said: list[list[bytes]] = [[], []]
        self._readers = [
            _thread(_collect, fd, kept) for fd, kept in zip((stdout, stderr), self._said, strict=True)
        ]
        self._end = _thread(self._await_end, status)

    def _await_end(self, status: int) -> None:
        with os.fdopen(status, "rb") as pipe:
            answer = pipe.read()
        self.returncode = struct.unpack("i", answer)[0] if len(answer) == 4 else -signal.SIGKILL

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        return self.returncode

    def wait(self) -> int:
        """The exit status; negative for a signal."""
        self._end.join()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        for thread in (self._end, *self._readers):
            thread.join(timeout)
            if thread.is_alive():
                raise subprocess.TimeoutExpired("a forked call", timeout or 0)
        stdout, stderr = (b"".join(parts).decode(errors="replace") for parts in self._said)
        return stdout, stderr


def fork_call(
    payload: Path,
    result: int,
    *,
    env: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
    needs: Sequence[str] = (),
) -> Forked:
    """Run ``tenfold.testing._child.main(payload, result)`` in a fork of the server, in this folder."""
    modules = [*needs, *(name for name in _COSTLY if name in sys.modules)]
    request = (str(payload), child_environment(env), os.getcwd(), limit_bytes)
    with _lock, tempfile.NamedTemporaryFile(suffix=".request") as file:
        file.write(pickle.dumps((request, modules)))
        file.flush()
        pipes = [os.pipe() for _ in range(3)]
        control = _connect()
        try:
            socket.send_fds(control, [file.name.encode()], [*(writer for _, writer in pipes), result])
        finally:
            for _, writer in pipes:
                os.close(writer)
        stdout, stderr, status = (reader for reader, _ in pipes)
        answer = os.read(status, 4)
    if len(answer) != 4:
        raise RuntimeError("the server of forked calls has ended")
    return Forked(struct.unpack("i", answer)[0], status, stdout, stderr)


def fork_server() -> None:
    """Fork the server off this process, which then need not import everything a second time.

    For a process that will import all of it anyway and has done nothing else yet: its imports are made here.
    """
    global _server
    for name in _COSTLY:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _serve_apart(theirs.fileno())
    theirs.close()
    _server = ours


def _serve_apart(fd: int) -> None:
    """As `_connect`'s command line starts it: no files and streams of the parent, one torch thread, an own session."""
    code = 1
    try:
        os.setsid()
        faulthandler.disable()  # its file is closed here
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, fd)
        os.closerange(fd + 1, os.sysconf("SC_OPEN_MAX"))
        parents = sys.stdin, sys.stdout, sys.stderr  # kept, for they would close what they stand on
        sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
        os.environ.update(child_environment())
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(1)  # it has read the environment of the parent
        serve(fd)
        del parents
        code = 0
    finally:
        os._exit(code)


def _connect() -> socket.socket:
    global _server
    if _server is None:
        ours, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                env=child_environment(),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        _server = ours
    return _server


def _thread(target: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, daemon=True)
    thread.start()
    return thread


def _collect(fd: int, kept: list[bytes]) -> None:
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        kept.extend(iter(lambda: pipe.read(65536), b""))


def serve(fd: int) -> None:
    """The server: forks at every request until the process that started it has gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    control = socket.socket(fileno=fd)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 4)
        if not message:
            os._exit(0)
        request, modules = pickle.loads(Path(os.fsdecode(message)).read_bytes())
        _import(modules, request[1])
        if os.fork() == 0:
            control.close()
            _keep(request, fds)
        for own in fds:
            os.close(own)


def _import(modules: Sequence[str], env: Mapping[str, str]) -> None:
    """Import what the test process has; what fails here will fail in the child, which can tell."""
    sys.path[:] = ["", *env["PYTHONPATH"].split(os.pathsep)]
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _keep(request: tuple[str, dict[str, str], str, int | None], fds: Sequence[int]) -> None:
    """Fork the child, tell its number and, when it has ended, its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        _child(*request, fds)
    stdout, stderr, status, result = fds
    for fd in (stdout, stderr, result):
        os.close(fd)
    with contextlib.suppress(OSError):  # the child may have done so itself, or ended
        os.setpgid(pid, pid)
    os.write(status, struct.pack("i", pid))
    _, code = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        os.write(status, struct.pack("i", os.waitstatus_to_exitcode(code)))
    os._exit(0)


def _child(
    payload: str, env: Mapping[str, str], folder: str, limit_bytes: int | None, fds: Sequence[int]
) -> None:
    stdout, stderr, status, result = fds
    code = 1
    try:
        os.setpgid(0, 0)
        os.close(status)
        for fd, standard in ((stdout, 1), (stderr, 2)):
            os.dup2(fd, standard)
            os.close(fd)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
        if limit_bytes is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
        code = main(payload, str(result))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
