"""Run a function of a test file in a process of its own.

Test files cannot be imported by name (pytest loads them by path), so neither fork-free multiprocessing nor a
plain pickle reaches their functions. The child loads the file by its path, under its own name.
"""

import contextlib
import importlib
import importlib.util
import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.testing._fork import Forked

_LIMIT = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execvp(sys.argv[2], sys.argv[2:])
"""


@dataclass
class Outcome:
    """How a child process ended.

    Attributes:
        returncode: exit status; negative for a signal.
        stdout: what it printed.
        stderr: what it printed as errors.
        value: what the function returned, for a function that ended well.
        error: "TypeName: message" of what the function raised, else "".
        trace: the traceback of that error, else "".
    """

    returncode: int
    stdout: str = ""
    stderr: str = ""
    value: Any = None
    error: str = ""
    trace: str = ""


def pack_call(function: Callable[..., Any], args: Sequence[Any]) -> bytes:
    """Everything that the child needs to find and call the function."""
    name = getattr(function, "__qualname__", "")
    if not name or "<" in name:
        raise TypeError(f"function: got {function!r}; expected one defined at the top level of a file")
    source = str(Path(inspect.getfile(function)).resolve())
    # Arguments are packed apart: their classes may live in the file, which must be loaded first.
    return pickle.dumps((source, function.__module__, name, pickle.dumps(tuple(args))))


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with its import path, one thread for numerical libraries, and `extra`."""
    own = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, **(extra or {})}


def kill_group(process: "subprocess.Popen[Any] | Forked") -> None:
    """SIGKILL a process that leads its own session, and all its children; then reap it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_call(
    payload: Path,
    *,
    env: Mapping[str, str] | None = None,
    limit_bytes: int | None = None,
    needs: Sequence[str] = (),
) -> tuple["Forked", int]:
    """Start the child; the result comes through a pipe, which no limit on file sizes touches.

    The modules `needs` have been imported in it.
    """
    from tenfold.testing._fork import fork_call

    reader, writer = os.pipe()
    try:
        return fork_call(payload, writer, env=env, limit_bytes=limit_bytes, needs=needs), reader
    finally:
        os.close(writer)


def limited(command: Sequence[str | os.PathLike[str]], limit_bytes: int) -> list[str]:
    """The command under RLIMIT_FSIZE.

    A small interpreter sets the limit and becomes the command: a `preexec_fn` would run Python between fork
    and exec, which can hang where the parent has threads, as torch does.
    """
    return [sys.executable, "-c", _LIMIT, str(limit_bytes), *(os.fspath(word) for word in command)]


def finish_call(process: "Forked", reader: int, timeout: float) -> Outcome:
    """Wait for a child of `start_call`; after `timeout` seconds kill it and raise `TimeoutError`."""
    parts: list[bytes] = []
    with os.fdopen(reader, "rb") as pipe:
        collector = threading.Thread(target=lambda: parts.append(pipe.read()), daemon=True)
        collector.start()
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            stdout, stderr = process.communicate()
            raise TimeoutError(
                f"the child did not end within {timeout} s; it said: {stderr[-2000:]}"
            ) from None
        finally:
            kill_group(process)  # grandchildren would keep the pipe open
            collector.join()
    value, error, trace = pickle.loads(parts[0]) if parts and parts[0] else (None, "", "")
    return Outcome(process.wait(), stdout, stderr, value, error, trace)


def _load(source: str, module: str) -> Any:
    try:
        named = importlib.import_module(module)
        if Path(named.__file__ or "").resolve() == Path(source):
            return named
    except ImportError:
        pass
    spec = importlib.util.spec_from_file_location(module, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {source}")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[module] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def call_packed(packed: tuple[str, str, str, bytes]) -> Any:
    """Find and call what `pack_call` packed."""
    source, module, name, args = packed
    function: Any = _load(source, module)
    for part in name.split("."):
        function = getattr(function, part)
    return function(*pickle.loads(args))


def main(payload: str, pipe: str) -> int:
    """The child: call, and send value or error through the pipe."""
    try:
        result = pickle.dumps((call_packed(pickle.loads(Path(payload).read_bytes())), "", ""))
        status = 0
    except BaseException as error:
        result = pickle.dumps((None, f"{type(error).__name__}: {error}", traceback.format_exc()))
        status = 1
    with os.fdopen(int(pipe), "wb") as file:
        file.write(result)
    return status
