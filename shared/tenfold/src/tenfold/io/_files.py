"""What every reader of this room shares: opening a file, and complaining about it in one sentence."""

import os
from pathlib import Path
from typing import NoReturn

from tenfold._errors import UserInputError

StrPath = str | os.PathLike[str]


def bad_file(path: StrPath, field: str, problem: str, cause: BaseException | None = None) -> NoReturn:
    """Raise the `UserInputError` "path: field: problem", on one line."""
    line = " ".join(f"{os.fspath(path)}: {field}: {problem}".split())
    raise UserInputError(line) from cause


def read_file(path: StrPath) -> bytes:
    """The whole content of a regular file; anything else is a `UserInputError` that names the path."""
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            bad_file(path, "file", "is a folder or a device; expected a regular file")
        return target.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, UserInputError):
            raise
        bad_file(path, "file", f"cannot be read ({getattr(error, 'strerror', None) or error})", error)


def short(value: object, limit: int = 60) -> str:
    """A value from a file, safe to put into a message: printable and of bounded length."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= limit else text[: limit - 3] + "..."
