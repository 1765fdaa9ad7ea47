"""Text files of annotations: any Unicode encoding, errors that name the line."""

from __future__ import annotations

import codecs
from pathlib import Path

from tenfold._errors import UserInputError

__all__ = ["read_lines", "read_numbers"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(path: str | Path) -> list[str]:
    """Lines of a text file in UTF-8, UTF-16 (with or without mark) or Latin-1.

    Raises:
        UserInputError: the file cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserInputError(f"{path}: file: cannot be read ({error.strerror or error})") from error
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data.decode(name, errors="replace").splitlines()
    if data[1:2] == b"\x00":
        return data.decode("utf-16-le", errors="replace").splitlines()
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        return data.decode("latin-1").splitlines()


def read_numbers(path: str | Path, least: int = 1) -> list[list[int]]:
    """Whole numbers of each line that is not empty, separated by blanks or commas.

    Raises:
        UserInputError: unreadable, something else than numbers, or fewer than `least` in a line.
    """
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            row = [int(word) for word in words]
        except ValueError as error:
            raise UserInputError(f"{path}: line {number}: expected whole numbers") from error
        if len(row) < least:
            raise UserInputError(f"{path}: line {number}: got {len(row)} numbers; expected {least}")
        rows.append(row)
    return rows
