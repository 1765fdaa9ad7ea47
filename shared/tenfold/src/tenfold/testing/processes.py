"""Processes that are killed, run out of disk, or cannot write: what a program must survive."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.testing._child import (
    Outcome,
    child_environment,
    finish_call,
    kill_group,
    limited,
    pack_call,
    start_call,
)

Command = Sequence[str | os.PathLike[str]]


@dataclass
class KilledAndResumed:
    """Both runs of `sigkill_and_resume`; the first one's `returncode` is -9."""

    killed: Outcome
    resumed: Outcome


def sigkill_and_resume(
    command: Command,
    *,
    when: Callable[[list[str]], bool],
    resume_command: Command | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 120,
) -> KilledAndResumed:
    r"""Run a command, kill it and its children with SIGKILL as soon as `when` holds, then run it again.

    Args:
        command: program and arguments; Python children should print with ``flush=True``.
        when: called again and again with the lines printed so far; it may look at files instead.
        resume_command: the second run; `command` again where not given.
        env: added to this process's environment.
        cwd: working folder of both runs.
        timeout: seconds for each run.

    Returns:
        Both outcomes. The second run's exit status is the caller's to judge.

    Raises:
        AssertionError: the first run ended by itself before `when` held; its output is in the message.
        TimeoutError: a run took longer than `timeout`; it has been killed.

    Example:
        >>> step = "import time; print('step 1', flush=True); time.sleep(60)"
        >>> done = sigkill_and_resume(
        ...     ["python3", "-c", step], when=lambda lines: "step 1" in lines,
        ...     resume_command=["python3", "-c", "print('goes on')"])
        >>> done.killed.returncode, done.resumed.stdout
        (-9, 'goes on\n')
    """
    killed = _run_until(command, when, env=env, cwd=cwd, timeout=timeout)
    resumed = _run_until(resume_command or command, None, env=env, cwd=cwd, timeout=timeout)
    return KilledAndResumed(killed, resumed)


def _run_until(
    command: Command,
    when: Callable[[list[str]], bool] | None,
    *,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | None,
    timeout: float,
) -> Outcome:
    """Run to the end (`when` is None) or until the kill."""
    process = subprocess.Popen(
        [os.fspath(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(env),
        cwd=cwd,
        start_new_session=True,
    )
    lines: list[str] = []
    errors: list[str] = []
    readers = [_collect(process.stdout, lines), _collect(process.stderr, errors)]
    late = False
    give_up = time.monotonic() + timeout
    try:
        while not (when and when([line.rstrip("\n") for line in lines])):
            late = time.monotonic() > give_up
            if late or process.poll() is not None:
                break
            time.sleep(0.005)
    finally:
        kill_group(process)
        for reader in readers:
            reader.join(5)  # a child that left the group may hold the pipe for ever
    outcome = Outcome(process.returncode, "".join(lines), "".join(errors))
    said = f"output: {outcome.stdout[-2000:]} {outcome.stderr[-2000:]}"
    if late:
        raise TimeoutError(f"{command} took longer than {timeout} s; {said}")
    if when and process.returncode != -signal.SIGKILL:
        raise AssertionError(f"{command} ended by itself ({outcome.returncode}) before the kill; {said}")
    return outcome


def _collect(stream: Any, lines: list[str]) -> threading.Thread:
    def read() -> None:
        with stream:
            lines.extend(iter(stream.readline, ""))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    return thread


def call_apart(
    function: Callable[..., Any],
    *args: Any,
    env: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
    timeout: float = 120,
) -> Outcome:
    """Call a function in a process of its own, in this folder; it has torch, where this one has, and starts at once.

    Args:
        function: at the top level of a file, which the child loads: for a child that has loaded nothing of a
            package, the file must not either.
        args: must pickle.
        env: added to this process's environment.
        limit_bytes: largest size of any file written, see `disk_full`.
        timeout: seconds.

    Returns:
        How it ended, with the function's value or error.

    Raises:
        TimeoutError: it took longer; it has been killed.

    Example:
        >>> import colorsys
        >>> call_apart(colorsys.rgb_to_hsv, 0.0, 1.0, 0.0).value
        (0.3333333333333333, 1.0, 1.0)
    """
    with tempfile.TemporaryDirectory() as folder:
        payload = Path(folder) / "call"
        payload.write_bytes(pack_call(function, args))
        process, reader = start_call(payload, env=env, limit_bytes=limit_bytes)
        return finish_call(process, reader, timeout)


def disk_full(
    target: Callable[..., Any] | Command,
    *args: Any,
    limit_bytes: int,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 120,
) -> Outcome:
    """Run a function or a command that cannot write any file beyond `limit_bytes`, as on a full disk.

    The limit is RLIMIT_FSIZE with its signal ignored, so that the write fails with an `OSError` (EFBIG) in
    the middle of the file, after part of the data was accepted.

    Args:
        target: a function at the top level of a file, or program and arguments.
        args: the function's arguments; must pickle.
        limit_bytes: largest size of any file written.
        env: added to this process's environment.
        cwd: working folder, of a command.
        timeout: seconds.

    Returns:
        How it ended; for a function also its value or error.

    Raises:
        TimeoutError: it took longer; it has been killed.

    Example:
        >>> import sys, tempfile
        >>> code = "import pathlib; pathlib.Path('a').write_bytes(bytes(100))"
        >>> done = disk_full([sys.executable, "-c", code], limit_bytes=10, cwd=tempfile.mkdtemp())
        >>> done.returncode, "File too large" in done.stderr
        (1, True)
    """
    # No byte code: a truncated .pyc would outlive the test.
    env = {"PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
    if callable(target):
        return call_apart(target, *args, env=env, limit_bytes=limit_bytes, timeout=timeout)
    return _run_until(limited(target, limit_bytes), None, env=env, cwd=cwd, timeout=timeout)


@contextmanager
def full_disk(limit_bytes: int) -> Iterator[None]:
    """Let this process write no file beyond `limit_bytes` in a block: `disk_full` without the price of a start.

    Python ignores the limit's signal by itself, so that a write fails with an `OSError`.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a"
        >>> with full_disk(10):
        ...     path.write_bytes(bytes(100))
        Traceback (most recent call last):
        ...
        OSError: [Errno 27] File too large
    """
    import resource  # no such module on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    byte_code, sys.dont_write_bytecode = (
        sys.dont_write_bytecode,
        True,
    )  # a truncated .pyc would outlive the test
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sys.dont_write_bytecode = byte_code


def assert_survives_disk_full(
    write: Callable[..., Any], path: str | os.PathLike[str], *args: Any, limit_bytes: int = 4096
) -> Outcome:
    """Check a writer on a full disk: it fails, names the path, keeps the old file and leaves nothing behind.

    Args:
        write: called as ``write(path, *args)``; a function at the top level of a file that writes more than
            `limit_bytes`.
        path: the file to write; its folder must be empty or absent.
        args: further arguments; must pickle.
        limit_bytes: where the disk is full.

    Raises:
        AssertionError: what the writer does wrong.

    Example: see the tests of `tenfold.io`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert not list(path.parent.iterdir()), f"{path.parent} is not empty"
    old = b"old content"
    path.write_bytes(old)
    done = disk_full(write, path, *args, limit_bytes=limit_bytes)
    assert done.error, "the writer did not fail: it swallows the error, or writes less than limit_bytes"
    assert path.read_bytes() == old, f"the old file is damaged; the writer said {done.error}"
    left = sorted(p.name for p in path.parent.iterdir() if p != path)
    assert not left, f"files left behind: {left}"
    assert path.name in done.error, f"the error does not name the file: {done.error}"
    return done


def unwritable_path(folder: Path) -> Path:
    """A path that nobody can create, not even root: it lies below a regular file.

    Example:
        >>> import tempfile
        >>> path = unwritable_path(Path(tempfile.mkdtemp()))
        >>> path.open("w")
        Traceback (most recent call last):
        ...
        NotADirectoryError: [Errno 20] Not a directory: ...
    """
    blocker = folder / "a-regular-file"
    blocker.touch()
    return blocker / "output"
