"""The point cloud format `.pcd` of the Point Cloud Library (ascii, binary, binary_compressed) as columns."""

import struct
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tenfold.io import lzf
from tenfold.io._files import StrPath, bad_file, read_file, short
from tenfold.io._tables import (
    Array,
    Table,
    ascii_rows,
    binary_rows,
    join_rows,
    native,
    parse_count,
    split_rows,
    write_ascii_rows,
)
from tenfold.io.atomic import write_bytes

_TYPES = {
    **{("I", 1): "i1", ("I", 2): "i2", ("I", 4): "i4", ("I", 8): "i8"},
    **{("U", 1): "u1", ("U", 2): "u2", ("U", 4): "u4", ("U", 8): "u8"},
    **{("F", 4): "f4", ("F", 8): "f8"},
}
_LETTERS = {code: letter for (letter, _), code in _TYPES.items()}
_MAX_COUNT = 1 << 16  # values in one field of one point: histograms have hundreds
_MAX_POINT = 1 << 24  # bytes in one point
ENCODINGS = ("ascii", "binary", "binary_compressed")


@dataclass
class _Header:
    names: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    points: int = 0
    data: str = ""
    start: int = 0

    def row_type_size(self) -> int:
        return sum(int(code[1:]) * n for code, n in zip(self.codes, self.counts, strict=True))

    def row_type(self) -> np.dtype[np.void]:
        parts = zip(self.codes, self.counts, strict=True)
        return np.dtype([(f"f{k}", "<" + code, (n,) if n > 1 else ()) for k, (code, n) in enumerate(parts)])


def read_pcd(path: StrPath) -> Table:
    """The columns of a cloud, in file order: (N,), or (N, count) where a field has several values.

    Padding (fields named "_") is dropped. Points that the writer marked invalid keep their NaN coordinates.
    PCL packs colours into a field "rgb": see `unpack_rgb`.

    Raises:
        UserInputError: damaged, truncated, or not a PCD file; names file and field.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.pcd"
        >>> write_pcd(file, {"x": np.arange(2.0), "label": np.array([7, 8], np.uint16)})
        >>> read_pcd(file)["label"]
        array([7, 8], dtype=uint16)
    """
    data = read_file(path)
    header = _header(path, data)
    names = ["" if name == "_" else name for name in header.names]
    dtype = header.row_type()
    if header.data == "binary_compressed":
        return _compressed(path, data, header, names)
    if header.data == "binary":
        rows = binary_rows(path, "DATA", data, dtype, count=header.points, offset=header.start)
    else:
        lines = [line for line in data[header.start :].decode("latin1").split("\n") if line.strip()]
        rows = ascii_rows(path, "DATA", lines, dtype, header.points)
    return split_rows(rows, names)


def _header(path: StrPath, data: bytes) -> _Header:
    entries: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in entries:
        end = data.find(b"\n", at)
        if end < 0:
            bad_file(path, "header", "ends before the line 'DATA'")
        words, at = data[at:end].decode("latin1").split(), end + 1
        if words and not words[0].startswith("#"):
            if words[0] in entries or not (words[0].isascii() and words[0].isalpha()):
                bad_file(path, "header", f"has the line '{short(' '.join(words))}', which is not understood")
            entries[words[0]] = words[1:]
    header = _Header(start=at, names=_entry(path, entries, "FIELDS"))
    _field_types(path, entries, header)
    (header.data,) = _entry(path, entries, "DATA", 1)
    if header.data not in ENCODINGS:
        bad_file(path, "DATA", f"got {short(header.data)}; expected one of {', '.join(ENCODINGS)}")
    header.points = _points(path, entries)
    return header


def _entry(path: StrPath, entries: dict[str, list[str]], name: str, count: int | None = None) -> list[str]:
    if name not in entries:
        bad_file(path, name, "the header has no such line")
    words = entries[name]
    if (count is not None and len(words) != count) or not words:
        bad_file(path, name, f"got {len(words)} entries; expected {count or 'at least 1'}")
    return words


def _field_types(path: StrPath, entries: dict[str, list[str]], header: _Header) -> None:
    number = len(header.names)
    real = [name for name in header.names if name != "_"]
    if len(set(real)) != len(real):
        bad_file(path, "FIELDS", "a field is named twice")
    sizes = [parse_count(path, "SIZE", word) for word in _entry(path, entries, "SIZE", number)]
    counts = [parse_count(path, "COUNT", w) for w in entries.get("COUNT", ["1"] * number)]
    if len(counts) != number or not all(1 <= n <= _MAX_COUNT for n in counts):
        bad_file(path, "COUNT", f"expected {number} numbers from 1 to {_MAX_COUNT}")
    for letter, size in zip(_entry(path, entries, "TYPE", number), sizes, strict=True):
        if (letter, size) not in _TYPES:
            bad_file(
                path, "TYPE", f"got {short(letter)} of {size} bytes; expected I or U of 1-8, F of 4 or 8"
            )
        header.codes.append(_TYPES[letter, size])
    header.counts = counts
    if header.row_type_size() > _MAX_POINT:
        bad_file(path, "COUNT", f"a point would take {header.row_type_size()} bytes")


def _points(path: StrPath, entries: dict[str, list[str]]) -> int:
    width = parse_count(path, "WIDTH", _entry(path, entries, "WIDTH", 1)[0])
    height = parse_count(path, "HEIGHT", _entry(path, entries, "HEIGHT", 1)[0])
    points = width * height
    if "POINTS" in entries:
        points = parse_count(path, "POINTS", _entry(path, entries, "POINTS", 1)[0])
    if points != width * height:
        bad_file(path, "POINTS", f"got {points}; expected WIDTH x HEIGHT = {width * height}")
    return points


def _compressed(path: StrPath, data: bytes, header: _Header, names: list[str]) -> Table:
    """Fields one after the other, each with all its points, compressed as a whole."""
    if len(data) < header.start + 8:
        bad_file(path, "DATA", "the file ends before the compressed sizes")
    packed, size = struct.unpack_from("<II", data, header.start)
    expected = header.points * header.row_type().itemsize
    if size != expected:
        bad_file(path, "DATA", f"{size} bytes are compressed but the header announces {expected}")
    body = data[header.start + 8 : header.start + 8 + packed]
    if len(body) != packed:
        bad_file(path, "DATA", f"{packed} compressed bytes are announced but {len(body)} follow")
    try:
        plain = lzf.decompress(body, size)
    except ValueError as error:
        bad_file(path, "DATA", str(error), error)
    table: Table = {}
    at = 0
    for name, code, count in zip(names, header.codes, header.counts, strict=True):
        dtype = np.dtype("<" + code)
        shape = (header.points, count) if count > 1 else (header.points,)
        if name:
            table[name] = native(np.ndarray(shape, dtype, plain, at)) if size else np.empty(shape, dtype)
        at += header.points * count * dtype.itemsize
    return table


def unpack_rgb(packed: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Colours (N, 3) of PCL's field "rgb" (N,): the bits 0x00RRGGBB, kept in a float or whole number.

    Raises:
        TypeError: not a 32-bit type.

    Example:
        >>> unpack_rgb(np.array([0x0A0B0C], np.uint32))
        array([[10, 11, 12]], dtype=uint8)
    """
    if packed.dtype.itemsize != 4 or packed.dtype.kind not in "iuf":
        raise TypeError(f"unpack_rgb: packed: got {packed.dtype}; expected float32, int32 or uint32")
    bits = np.ascontiguousarray(packed).view(np.uint32)
    return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=-1).astype(np.uint8)


def write_pcd(path: StrPath, table: Table, *, encoding: str = "binary") -> None:
    """Write columns (N,) or (N, count) atomically, as an unorganised cloud (HEIGHT 1).

    Raises:
        ValueError: an unknown encoding, or a column that PCD cannot hold.
        UserInputError: the file cannot be written.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.pcd"
        >>> write_pcd(file, {"x": np.array([1.5], np.float32)}, encoding="ascii")
        >>> file.read_text().splitlines()[-1]
        '1.5'
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"write_pcd: encoding: got {encoding!r}; expected one of {', '.join(ENCODINGS)}")
    table = {name: _storable(name, column) for name, column in table.items()}
    codes = [column.dtype.str[1:] for column in table.values()]
    rows = join_rows(table, codes, "<")
    lines = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        f"FIELDS {' '.join(table)}",
        f"SIZE {' '.join(code[1:] for code in codes)}",
        f"TYPE {' '.join(_LETTERS[code] for code in codes)}",
        f"COUNT {' '.join(str(column.shape[1]) if column.ndim > 1 else '1' for column in table.values())}",
        f"WIDTH {len(rows)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(rows)}",
        f"DATA {encoding}",
        "",
    ]
    write_bytes(path, "\n".join(lines).encode("ascii") + _body(rows, encoding))


def _body(rows: npt.NDArray[np.void], encoding: str) -> bytes:
    if encoding == "ascii":
        return write_ascii_rows(rows)
    if encoding == "binary":
        return rows.tobytes()
    plain = b"".join(rows[name].tobytes() for name in rows.dtype.names or ())
    packed = lzf.compress(plain)
    return struct.pack("<II", len(packed), len(plain)) + packed


def _storable(name: str, column: Array) -> Array:
    if not name.isascii() or name.split() != [name] or name == "_":
        raise ValueError(f"write_pcd: table: got the column name {name!r}; expected one ASCII word")
    if column.ndim > 2 or (column.ndim == 2 and not 1 <= column.shape[1] <= _MAX_COUNT):
        raise ValueError(f"write_pcd: {name}: got shape {column.shape}; expected (N,) or (N, count)")
    if column.dtype.kind == "b":
        return column.astype(np.uint8)
    if column.dtype.str[1:] == "f2":
        return column.astype(np.float32)
    if column.dtype.str[1:] not in _LETTERS:
        raise ValueError(f"write_pcd: {name}: got {column.dtype} values; PCD holds whole numbers and floats")
    return column
