"""Texts and JSON documents, read with errors that name the file and the field; what names a file's content."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tenfold._errors import UserInputError
from tenfold.io._files import StrPath, bad_file, read_file, short


def read_json(path: StrPath) -> Any:
    """Read a JSON document (UTF-8, with or without byte order mark).

    Raises:
        UserInputError: the file cannot be read, is no UTF-8 or no JSON; with line and column.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.json"
        >>> _ = file.write_text('{"boxes": [1, 2]}')
        >>> read_json(file)
        {'boxes': [1, 2]}
    """
    data = read_file(path)
    try:
        return json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        bad_file(path, f"line {error.lineno}, column {error.colno}", f"is not JSON ({error.msg})", error)
    except UnicodeDecodeError as error:
        bad_file(path, f"byte {error.start}", "is not UTF-8 text", error)
    except (RecursionError, ValueError) as error:
        bad_file(path, "document", f"cannot be read as JSON ({short(str(error))})", error)


def read_text(path: StrPath) -> str:
    """Read a UTF-8 text.

    Raises:
        UserInputError: a missing file, or one that is no text.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = file.write_text("000000 000001")
        >>> read_text(file).split()
        ['000000', '000001']
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserInputError(f"{path}: the file is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: the file cannot be read as text ({error})") from error


def field(document: Any, name: str, kind: type | tuple[type, ...], *, path: StrPath) -> Any:
    """One field of a document, checked: `name` is like ``images[0].size``.

    `bool` never passes for a number, and a whole number passes where `float` is asked for.

    Raises:
        UserInputError: the field is absent or of another kind; the message names file and field.

    Example:
        >>> field({"images": [{"width": 640}]}, "images[0].width", int, path="a.json")
        640
    """
    value = document
    for step in re.findall(r"[^.\[\]]+|\[\d+\]", name):
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else _member(value, step)
        except (KeyError, IndexError, TypeError) as error:
            bad_file(path, name, "is missing", error)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join(k.__name__ for k in kinds)
        bad_file(path, name, f"got {type(value).__name__} {short(repr(value))}; expected {names}")
    return value


def file_hash(path: StrPath) -> str:
    """First 16 hexadecimal digits of a file's SHA-256, which name its content, such as a checkpoint's.

    Raises:
        UserInputError: the file cannot be read.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "empty"
        >>> file.touch(); file_hash(file)
        'e3b0c44298fc1c14'
    """
    return hashlib.sha256(read_file(path)).hexdigest()[:16]


def _member(value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError
    return value[key]
