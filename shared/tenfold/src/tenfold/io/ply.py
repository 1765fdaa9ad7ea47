"""The Stanford polygon format `.ply` (ascii, binary of both byte orders) as tables of columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tenfold.io._files import StrPath, bad_file, read_file, short
from tenfold.io._tables import (
    Array,
    Table,
    ascii_rows,
    binary_rows,
    join_rows,
    parse_count,
    split_rows,
    write_ascii_rows,
)
from tenfold.io.atomic import write_bytes

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_NAMES = {code: name for name, code in reversed(_TYPES.items())}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_WIDER = {"i8": ("i4", "u4"), "u8": ("u4",), "b1": ("u1",), "f2": ("f4",)}
ENCODINGS = tuple(_ORDERS)


@dataclass
class _Property:
    name: str
    code: str
    length_code: str = ""  # of a list: the type of its length


@dataclass
class _Element:
    name: str
    count: int
    properties: list[_Property]

    def has_lists(self) -> bool:
        return any(p.length_code for p in self.properties)


@dataclass
class Lists:
    """A list property: row i holds `lengths[i]` of the `values`, which follow one another."""

    lengths: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64] | npt.NDArray[np.int64]


def read_ply(path: StrPath, *, faces: bool = False) -> tuple[Table, Lists | None]:
    """The columns of the vertex element and, if asked for, the vertex numbers of its faces.

    Args:
        path: the file.
        faces: read the element "face" too; without it the reading stops after the vertices.

    Returns:
        Columns by name, each (N,) in its own type; the faces, `None` where not asked for or absent.

    Raises:
        UserInputError: damaged, truncated, or not a PLY file; names file and field.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.ply"
        >>> write_ply(file, {"x": np.arange(2.0), "y": np.arange(2.0), "z": np.arange(2.0)})
        >>> read_ply(file)[0]["x"]
        array([0., 1.])
    """
    data = read_file(path)
    order, elements, start = _header(path, data)
    body = _Binary(path, data, start, order) if order else _Ascii(path, data, start)
    vertices: Table | None = None
    found: Lists | None = None
    wanted = {"vertex", "face"} if faces else {"vertex"}
    for element in elements:
        if not wanted:
            break
        if element.has_lists():
            lists = body.lists(element)
            if element.name == "face" and faces:
                found = _face_numbers(path, lists)
            if element.name == "vertex":
                bad_file(path, "vertex", "has a list property; only plain properties are read")
        else:
            table = body.scalars(element)
            vertices = table if element.name == "vertex" else vertices
        wanted.discard(element.name)
    if vertices is None:
        bad_file(path, "vertex", "the header announces no such element")
    return vertices, found


def _face_numbers(path: StrPath, lists: dict[str, Lists]) -> Lists:
    for name in ("vertex_indices", "vertex_index"):
        if name in lists:
            return lists[name]
    bad_file(path, "face", "has no list property vertex_indices")


def _header(path: StrPath, data: bytes) -> tuple[str, list[_Element], int]:
    if data[:4] not in (b"ply\n", b"ply\r"):
        bad_file(path, "header", "does not begin with the line 'ply'")
    elements: list[_Element] = []
    order: str | None = None
    at = data.find(b"\n") + 1
    while True:
        end = data.find(b"\n", at)
        if at == 0 or end < 0:
            bad_file(path, "header", "ends before the line 'end_header'")
        line, at = data[at:end].decode("latin1"), end + 1
        words = line.split()
        match words:
            case ["end_header"]:
                break
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", name, "1.0"] if name in _ORDERS:
                order = _ORDERS[name]
            case ["element", name, count]:
                elements.append(_Element(name, parse_count(path, f"element {short(name)}", count), []))
            case ["property", *rest] if elements:
                elements[-1].properties.append(_property(path, elements[-1], rest))
            case _:
                bad_file(path, "header", f"has the line '{short(line)}', which is not understood")
    if order is None:
        bad_file(path, "format", "the header has no such line")
    return order, elements, at


def _property(path: StrPath, element: _Element, words: Sequence[str]) -> _Property:
    match words:
        case ["list", length, kind, name] if (
            length in _TYPES and kind in _TYPES and "f" not in _TYPES[length]
        ):
            made = _Property(name, _TYPES[kind], _TYPES[length])
        case [kind, name] if kind in _TYPES:
            made = _Property(name, _TYPES[kind])
        case _:
            line = short(" ".join(words))
            bad_file(
                path, f"element {short(element.name)}", f"has the property '{line}', which is not understood"
            )
    if any(p.name == made.name for p in element.properties):
        bad_file(path, f"element {short(element.name)}", f"has the property {short(made.name)} twice")
    return made


def _row_type(element: _Element, order: str) -> np.dtype[np.void]:
    return np.dtype([(f"f{k}", order + p.code) for k, p in enumerate(element.properties)])


class _Binary:
    """The elements of a binary body, one after the other."""

    def __init__(self, path: StrPath, data: bytes, start: int, order: str) -> None:
        self._path, self._data, self._at, self._order = path, data, start, order

    def scalars(self, element: _Element) -> Table:
        if not element.properties:
            return {}
        dtype = _row_type(element, self._order)
        rows = binary_rows(self._path, element.name, self._data, dtype, count=element.count, offset=self._at)
        self._at += element.count * dtype.itemsize
        return split_rows(rows, [p.name for p in element.properties])

    def lists(self, element: _Element) -> dict[str, Lists]:
        least = sum(np.dtype(p.length_code or p.code).itemsize for p in element.properties)
        left = len(self._data) - self._at
        if element.count * least > left:
            self._fail(element, f"the header announces {element.count} rows but {left} bytes follow")
        return self._equal_lists(element) or self._ragged_lists(element)

    def _fail(self, element: _Element, problem: str) -> None:
        bad_file(self._path, element.name, problem)

    def _equal_lists(self, element: _Element) -> dict[str, Lists] | None:
        """The usual case, read in one step: every row has lists as long as those of the first row."""
        if element.count == 0:
            return {
                p.name: Lists(np.empty(0, np.int64), np.empty(0)) for p in element.properties if p.length_code
            }
        start = self._at
        first = self._ragged_lists(_Element(element.name, 1, element.properties))
        self._at = start
        parts: list[tuple[str, str] | tuple[str, str, tuple[int]]] = []
        for k, p in enumerate(element.properties):
            if p.length_code:
                parts.append((f"n{k}", self._order + p.length_code))
                parts.append((f"f{k}", self._order + p.code, (int(first[p.name].lengths[0]),)))
            else:
                parts.append((f"f{k}", self._order + p.code))
        dtype = np.dtype(parts)
        if element.count * dtype.itemsize > len(self._data) - start:
            return None
        rows = np.frombuffer(self._data, dtype, element.count, start)
        read = {}
        for k, p in enumerate(element.properties):
            if p.length_code:
                lengths = rows[f"n{k}"].astype(np.int64)
                if (lengths != lengths[0]).any():
                    return None
                read[p.name] = Lists(lengths, _wide(rows[f"f{k}"].reshape(-1)))
        self._at += element.count * dtype.itemsize
        return read

    def _ragged_lists(self, element: _Element) -> dict[str, Lists]:
        lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.length_code}
        values: dict[str, list[Array]] = {name: [] for name in lengths}
        for _ in range(element.count):
            for p in element.properties:
                count = 1
                if p.length_code:
                    count = int(self._take(element, p.length_code, 1)[0])
                    if count < 0:
                        self._fail(element, f"{short(p.name)} has a list of length {count}")
                taken = self._take(element, p.code, count)
                if p.length_code:
                    lengths[p.name].append(count)
                    values[p.name].append(taken)
        return {
            name: Lists(np.array(lengths[name], np.int64), _wide(np.concatenate(values[name])))
            for name in lengths
        }

    def _take(self, element: _Element, code: str, count: int) -> Array:
        dtype = np.dtype(self._order + code)
        if count * dtype.itemsize > len(self._data) - self._at:
            self._fail(element, "the file ends inside a row")
        taken = np.frombuffer(self._data, dtype, count, self._at) if count else np.empty(0, dtype)
        self._at += count * dtype.itemsize
        return taken


class _Ascii:
    """The elements of a text body: one line a row."""

    def __init__(self, path: StrPath, data: bytes, start: int) -> None:
        self._path = path
        self._lines = [line for line in data[start:].decode("latin1").split("\n") if line.strip()]
        self._at = 0

    def scalars(self, element: _Element) -> Table:
        if not element.properties:
            return {}
        lines = self._lines[self._at : self._at + element.count]
        rows = ascii_rows(self._path, element.name, lines, _row_type(element, ""), element.count)
        self._at += element.count
        return split_rows(rows, [p.name for p in element.properties])

    def lists(self, element: _Element) -> dict[str, Lists]:
        lines = self._lines[self._at : self._at + element.count]
        if len(lines) < element.count:
            problem = f"the header announces {element.count} rows but {len(lines)} lines follow"
            bad_file(self._path, element.name, problem)
        self._at += element.count
        lengths: dict[str, list[int]] = {p.name: [] for p in element.properties if p.length_code}
        values: dict[str, list[float]] = {name: [] for name in lengths}
        for row, line in enumerate(lines):
            try:
                self._row(element, line.split(), lengths, values)
            except (ValueError, IndexError) as error:
                bad_file(self._path, element.name, f"row {row} is damaged ('{short(line)}')", error)
        return {
            name: Lists(np.array(lengths[name], np.int64), _wide(np.array(values[name]))) for name in lengths
        }

    @staticmethod
    def _row(
        element: _Element, words: list[str], lengths: dict[str, list[int]], values: dict[str, list[float]]
    ) -> None:
        at = 0
        for p in element.properties:
            if p.length_code:
                count = int(words[at])
                if not 0 <= count < len(words) - at:
                    raise ValueError("the list is longer than the line")
                lengths[p.name].append(count)
                values[p.name].extend(float(word) for word in words[at + 1 : at + 1 + count])
                at += count
            else:
                float(words[at])
            at += 1
        if at != len(words):
            raise ValueError("the line is longer than its row")


def _wide(values: Array) -> npt.NDArray[np.float64] | npt.NDArray[np.int64]:
    return values.astype(np.int64) if values.dtype.kind in "iu" else values.astype(np.float64)


def write_ply(
    path: StrPath,
    table: Table,
    *,
    faces: npt.NDArray[np.integer] | None = None,
    encoding: str = "binary_little_endian",
) -> None:
    """Write columns (N,) and, if given, triangles (F, 3) atomically.

    PLY knows whole numbers of up to 32 bits and single and double floats; wider whole numbers are narrowed
    where every value fits.

    Raises:
        ValueError: an unknown encoding, a column of another shape, or values that PLY cannot hold.
        UserInputError: the file cannot be written.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.ply"
        >>> write_ply(file, {"x": np.zeros(1), "label": np.array([3])}, encoding="ascii")
        >>> file.read_text().splitlines()[-1]
        '0 3'
    """
    if encoding not in _ORDERS:
        raise ValueError(f"write_ply: encoding: got {encoding!r}; expected one of {', '.join(_ORDERS)}")
    table = {name: _storable(name, column) for name, column in table.items()}
    types = [column.dtype.str[1:] for column in table.values()]
    order = _ORDERS[encoding]
    rows = join_rows(table, types, order)
    lines = ["ply", f"format {encoding} 1.0", f"element vertex {len(rows)}"]
    lines += [f"property {_NAMES[code]} {name}" for name, code in zip(table, types, strict=True)]
    triangles = np.empty(0, [("n", "u1"), ("v", order + "i4", (3,))])
    if faces is not None:
        lines += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        triangles = np.empty(len(faces), triangles.dtype)
        triangles["n"], triangles["v"] = 3, faces
    head = "\n".join([*lines, "end_header", ""]).encode("ascii")
    pack = np.ndarray.tobytes if order else write_ascii_rows
    write_bytes(path, head + pack(rows) + pack(triangles))


def _storable(name: str, column: Array) -> Array:
    if not name.isascii() or not name or name.split() != [name]:
        raise ValueError(f"write_ply: table: got the column name {name!r}; expected one ASCII word")
    if column.ndim != 1:
        raise ValueError(f"write_ply: {name}: got shape {column.shape}; expected (N,)")
    code = column.dtype.str[1:]
    if code in _NAMES:
        return column
    for narrow in _WIDER.get(code, ()):
        if np.array_equal(column.astype(narrow).astype(column.dtype), column, equal_nan=code == "f2"):
            return column.astype(narrow)
    raise ValueError(
        f"write_ply: {name}: got {column.dtype} values; PLY holds (u)int8-32, float32 and float64"
    )
