"""Files that are either the old ones or the new ones, never half of each."""

import errno
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from tenfold.io._files import StrPath, bad_file

# Some file systems cannot sync a folder, and a folder may be writable but unreadable: the rename stands.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF}

# What a write, sync or close says of the storage; such errors carry no file name.
_STORAGE_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE}


@contextmanager
def atomic_write(path: StrPath, mode: str = "wb", *, encoding: str = "utf-8") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success sync it and rename it over `path`.

    Whatever goes wrong inside the block or while closing (an exception, a full disk, an unwritable folder),
    the old file is untouched and no temporary file is left. Symbolic links are followed, an existing file
    keeps its permissions. Only SIGKILL or a power cut can leave a temporary (`.<name>.<hex>.tmp`).

    Args:
        path: the file to create or replace; its folder must exist.
        mode: "wb" or "w".
        encoding: of text mode.

    Raises:
        UserInputError: the file cannot be written; the message names it and the reason.
        ValueError: another mode.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_write(target, "w") as file:
        ...     _ = file.write("whole or not at all")
        >>> target.read_text()
        'whole or not at all'
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write: mode: got {mode!r}; expected 'w' or 'wb'")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        with _created(target, temporary, mode, encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and _is_ours(error, temporary, target):
            bad_file(path, "file", f"cannot be written ({error.strerror or error})", error)
        raise


def _is_ours(error: OSError, temporary: Path, target: Path) -> bool:
    """Whether it comes from this write; one about another file or a socket belongs to the caller's block."""
    if error.filename is None:
        return error.errno in _STORAGE_ERRORS
    return error.filename in (str(temporary), str(target), str(target.parent))


def _created(target: Path, temporary: Path, mode: str, encoding: str) -> IO[Any]:
    """Open the temporary exclusively, with the permissions that the target has or would get."""
    if target.exists() and not target.is_file():
        bad_file(target, "file", "cannot be written (it is a folder or a device)")
    # os.open and not tempfile: the kernel then applies the umask, as for any new file.
    number = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
    if target.exists():
        os.chmod(temporary, target.stat().st_mode & 0o7777)
    return open(number, mode, encoding=None if "b" in mode else encoding)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def make_folder(folder: StrPath, argument: str = "out") -> Path:
    """Create a folder for results, and those above it, where there is none; return its path.

    Args:
        folder: the folder.
        argument: what the user calls it, for the message.

    Raises:
        UserInputError: it cannot be created.

    Example:
        >>> import tempfile
        >>> make_folder(f"{tempfile.mkdtemp()}/a/b").is_dir()
        True
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        bad_file(path, argument, f"cannot be created ({error.strerror or error})", error)
    return path


def check_folder(folder: StrPath, argument: str = "out") -> None:
    """Say before an hour of work, not after it, that results cannot be written; creates nothing.

    Args:
        folder: where `make_folder` will be asked for a folder.
        argument: what the user calls it, for the message.

    Raises:
        UserInputError: it, or the folder in which it would be created, is a file or not writable.

    Example:
        >>> import tempfile
        >>> check_folder(f"{tempfile.mkdtemp()}/a/b")
    """
    path = Path(folder)
    try:
        there = next(place for place in (path, *path.absolute().parents) if place.exists())
        reason = "" if there.is_dir() else f"{there} is no folder"
    except OSError as error:  # a name too long, a folder that one may not enter
        bad_file(path, argument, f"cannot be created ({error.strerror or error})", error)
    if not reason and not os.access(there, os.W_OK | os.X_OK):
        reason = f"{there} is not writable"
    if reason:
        bad_file(path, argument, f"cannot be created ({reason})")


def check_output(path: StrPath, endings: Sequence[str] = (".onnx", ".pt2"), argument: str = "output") -> None:
    """Say before the work that a file cannot be written.

    Args:
        path: the file.
        endings: allowed ones.
        argument: what the user calls it, for the message.

    Raises:
        UserInputError: another ending, or no such folder.

    Example:
        >>> check_output("network.onnx")
    """
    target = Path(path)
    if target.suffix not in endings:
        allowed = " or ".join(part for part in (", ".join(endings[:-1]), endings[-1]) if part)
        bad_file(path, argument, f"got the ending {target.suffix!r}; expected {allowed}")
    if not target.parent.is_dir():
        bad_file(path, argument, f"the folder {target.parent} does not exist")


@contextmanager
def staged(path: StrPath) -> Iterator[Path]:
    """A place for the file `path` in a new folder beside it; what the block leaves there moves to its own place.

    For writers that want a path, or that write a second file: nobody ever sees half a file, and after an error
    the old ones are there and nothing else.

    Args:
        path: the file to create or replace; its folder must exist.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "network.onnx"
        >>> with staged(target) as written:
        ...     written.name, written.write_bytes(b"graph"), target.exists()
        ('network.onnx', 5, False)
        >>> [file.name for file in target.parent.iterdir()]
        ['network.onnx']
    """
    target = Path(path)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".staged") as folder:
        yield Path(folder) / target.name
        for file in Path(folder).iterdir():  # ONNX may put large weights into a second file
            os.replace(file, target.parent / file.name)


def write_bytes(path: StrPath, data: bytes | bytearray | memoryview) -> None:
    """Write bytes atomically; see `atomic_write`.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
        >>> write_bytes(target, b"abc"); target.stat().st_size
        3
    """
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: StrPath, text: str) -> None:
    """Write UTF-8 text atomically, line ends as given; see `atomic_write`.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> write_text(target, "Zürich"); target.stat().st_size
        7
    """
    write_bytes(path, text.encode("utf-8"))


def write_json(path: StrPath, document: object, *, indent: int | None = 2) -> None:
    r"""Write a JSON document atomically; keys stay in order, a new line ends the file.

    Raises:
        TypeError: something in the document is no JSON value (the old file stays).
        ValueError: NaN or infinity, which JSON cannot hold.

    Example:
        >>> import tempfile, pathlib
        >>> target = pathlib.Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(target, {"seed": 0}, indent=None); target.read_text()
        '{"seed": 0}\n'
    """
    write_text(path, json.dumps(document, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")
