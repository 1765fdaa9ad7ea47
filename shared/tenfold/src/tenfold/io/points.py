"""Point clouds from and to `.bin`, `.npy`, `.npz`, `.ply` and `.pcd` files."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tenfold.io import arrays, pcd, ply
from tenfold.io._files import StrPath, bad_file, short
from tenfold.io._tables import Array, Table, as_matrix, split_rows
from tenfold.io.atomic import write_bytes

_AXES = ("x", "y", "z")
_USUAL_NAMES = {
    4: (*_AXES, "intensity"),
    5: (*_AXES, "intensity", "ring"),
    6: (*_AXES, "r", "g", "b"),
}
Columns = int | Sequence[str] | None


@dataclass(eq=False)
class PointCloud:
    """Points and what else the file says of each.

    Attributes:
        xyz: coordinates (N, 3), float32 or float64, in the file's frame and unit.
        fields: further columns by name, (N,) or (N, k), in the file's own types.

    Raises:
        TypeError: `xyz` is not float32 or float64.
        ValueError: a wrong shape.

    Example:
        >>> cloud = PointCloud(np.zeros((2, 3), np.float32), {"intensity": np.ones(2, np.float32)})
        >>> len(cloud), cloud.array().shape
        (2, (2, 4))
    """

    xyz: npt.NDArray[np.float32] | npt.NDArray[np.float64]
    fields: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.xyz.dtype not in (np.float32, np.float64):
            raise TypeError(f"PointCloud: xyz: got {self.xyz.dtype}; expected float32 or float64")
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3:
            raise ValueError(f"PointCloud: xyz: got shape {self.xyz.shape}; expected (N, 3)")
        for name, values in self.fields.items():
            if values.ndim not in (1, 2) or len(values) != len(self.xyz) or name in _AXES:
                what = f"got {name!r} of shape {values.shape}"
                raise ValueError(f"PointCloud: fields: {what}; expected (N,) or (N, k), N = {len(self.xyz)}")

    def __len__(self) -> int:
        return len(self.xyz)

    def table(self) -> Table:
        """All columns by name, "x", "y", "z" first."""
        return {**{axis: self.xyz[:, k] for k, axis in enumerate(_AXES)}, **self.fields}

    def array(self, columns: Sequence[str] | None = None) -> npt.NDArray[np.float32]:
        """Columns side by side as float32 (N, C): the named ones in that order, or all.

        Raises:
            ValueError: a name that the cloud does not have.
        """
        table = self.table()
        for name in columns or ():
            if name not in table:
                raise ValueError(f"array: columns: got {name!r}; this cloud has {', '.join(table)}")
        parts = [as_matrix(table[name]) for name in columns or table]
        return np.concatenate(parts, axis=1).astype(np.float32)


def read_points(path: StrPath, columns: Columns = None) -> PointCloud:
    """Read a point cloud; the ending of the file's name chooses the format.

    - `.bin`: bare float32 rows. Without `columns` a name ending in `.pcd.bin` means the 5 columns of
      nuScenes, any other the 4 of KITTI; a size that does not fit is an error.
    - `.npy`: an array (N, C), or a structured one with the fields x, y, z.
    - `.npz`: its array `points` (N, C); or `xyz` (N, 3) with the other arrays as fields; or its only array.
    - `.ply` (ascii, binary): the element vertex. `.pcd` (ascii, binary, binary_compressed): all fields.

    Args:
        path: the file.
        columns: for arrays without names, their number or names: 4 means x, y, z, intensity; 5 adds ring;
            6 means x, y, z, r, g, b; otherwise c3, c4, ... follow z. For files with names, the ones to keep.

    Returns:
        The cloud; xyz is float64 where the file has more precision than float32, otherwise float32.

    Raises:
        UserInputError: unreadable, damaged, truncated, of an unknown format, or without a column; one
            sentence that names file and field. Counts in headers are checked against the file's size before
            any memory is taken.
        ValueError: `columns` itself is wrong.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "000000.bin"
        >>> cloud = PointCloud(np.ones((3, 3), np.float32), {"intensity": np.zeros(3, np.float32)})
        >>> write_points(file, cloud)
        >>> read_points(file).fields["intensity"]
        array([0., 0., 0.], dtype=float32)
    """
    _check_columns(columns)
    name = Path(path).name.lower()
    match Path(name).suffix:
        case ".bin":
            number = columns if isinstance(columns, int) else len(columns) if columns else 0
            number = number or (5 if name.endswith(".pcd.bin") else 4)
            return _from_matrix(path, "array", arrays.read_bin(path, number), columns)
        case ".npy":
            return _from_array(path, "array", arrays.read_npy(path), columns)
        case ".npz":
            return _from_archive(path, arrays.read_npz(path), columns)
        case ".ply":
            return _from_table(path, ply.read_ply(path)[0], columns)
        case ".pcd":
            return _from_table(path, pcd.read_pcd(path), columns)
    bad_file(path, "name", "has no known ending; expected .bin, .npy, .npz, .ply or .pcd")


def read_point_array(path: StrPath, columns: Columns = None) -> npt.NDArray[np.float32]:
    """`read_points` as one float32 array (N, C), in the order of `columns` if they are names.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.ply"
        >>> write_points(file, PointCloud(np.ones((3, 3))))
        >>> read_point_array(file).shape
        (3, 3)
    """
    cloud = read_points(path, columns)
    return cloud.array(None if columns is None or isinstance(columns, int) else columns)


def read_mesh(path: StrPath) -> tuple[PointCloud, npt.NDArray[np.int64]]:
    """Read the vertices and triangles (F, 3) of a `.ply` mesh; larger polygons are cut into fans.

    Raises:
        UserInputError: as `read_points`; or no faces, a face of less than three corners, or a corner that is
            no vertex.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.ply"
        >>> write_mesh(file, PointCloud(np.eye(3)), np.array([[0, 1, 2]]))
        >>> read_mesh(file)[1]
        array([[0, 1, 2]])
    """
    table, faces = ply.read_ply(path, faces=True)
    cloud = _from_table(path, table, None)
    if faces is None:
        bad_file(path, "face", "the header announces no such element; use read_points")
    return cloud, _triangles(path, faces, len(cloud))


def _triangles(path: StrPath, faces: ply.Lists, vertices: int) -> npt.NDArray[np.int64]:
    corners = faces.values
    if (faces.lengths < 3).any():
        bad_file(path, "face", f"face {int(np.argmax(faces.lengths < 3))} has less than 3 corners")
    outside = ~((corners >= 0) & (corners < vertices) & (corners == np.floor(corners)))
    if outside.any():
        bad_file(path, "face", f"a corner is vertex {corners[np.argmax(outside)]:g} of {vertices}")
    first = np.cumsum(faces.lengths) - faces.lengths
    per_face = faces.lengths - 2
    start = np.repeat(first, per_face)
    step = np.arange(len(start)) - np.repeat(np.cumsum(per_face) - per_face, per_face)
    return np.stack([corners[start], corners[start + step + 1], corners[start + step + 2]], 1).astype(
        np.int64
    )


def _check_columns(columns: Columns) -> None:
    if columns is None:
        return
    if isinstance(columns, (str, bool)) or not isinstance(columns, (int, Sequence)):
        raise TypeError(f"read_points: columns: got {columns!r}; expected a number or a list of names")
    if isinstance(columns, int):
        if not 3 <= columns <= 1024:
            raise ValueError(f"read_points: columns: got {columns}; expected 3 to 1024")
    elif not set(_AXES) <= set(columns) or len(set(columns)) != len(columns):
        raise ValueError(
            f"read_points: columns: got {list(columns)}; expected distinct names with x, y and z"
        )


def _from_matrix(path: StrPath, name: str, values: Array, columns: Columns) -> PointCloud:
    """Rows whose columns have no names in the file."""
    if values.ndim != 2 or values.shape[1] < 3 or values.dtype.kind not in "iufb":
        problem = f"got {values.dtype} of shape {values.shape}; expected numbers (N, 3 or more)"
        bad_file(path, short(name), problem)
    number = values.shape[1]
    usual = _USUAL_NAMES.get(number, (*_AXES, *(f"c{k}" for k in range(3, number))))
    names = usual if columns is None or isinstance(columns, int) else tuple(columns)
    if (columns if isinstance(columns, int) else len(names)) != number:
        bad_file(path, "columns", f"the array has {number}; expected {columns}")
    table = {name: np.ascontiguousarray(values[:, k]) for k, name in enumerate(names)}
    return _from_table(path, table, None)


def _from_array(path: StrPath, name: str, values: Array, columns: Columns) -> PointCloud:
    if values.dtype.names is None:
        return _from_matrix(path, name, values, columns)
    if values.ndim != 1:
        bad_file(path, short(name), f"got a structured array of shape {values.shape}; expected (N,)")
    rows: npt.NDArray[np.void] = values.view(np.ndarray)  # type: ignore[assignment]
    return _from_table(path, split_rows(rows, values.dtype.names), columns)


def _from_archive(path: StrPath, found: dict[str, Array], columns: Columns) -> PointCloud:
    if "points" in found:
        return _from_array(path, "points", found["points"], columns)
    if "xyz" in found:
        xyz = found.pop("xyz")
        if xyz.ndim != 2 or xyz.shape[1] != 3:
            bad_file(path, "xyz", f"got shape {xyz.shape}; expected (N, 3)")
        axes = {axis: xyz[:, k] for k, axis in enumerate(_AXES)}
        return _from_table(path, {**axes, **found}, columns)
    if len(found) == 1:
        ((name, values),) = found.items()
        return _from_array(path, name, values, columns)
    bad_file(path, "points", f"is missing; the archive holds {short(', '.join(found)) or 'nothing'}")


def _from_table(path: StrPath, table: Table, columns: Columns) -> PointCloud:
    named = None if columns is None or isinstance(columns, int) else columns
    for name in (*_AXES, *(named or ())):
        if name not in table:
            bad_file(path, name, f"is missing; the file has {short(', '.join(table), 200) or 'no columns'}")
    if isinstance(columns, int) and len(table) != columns:
        bad_file(path, "columns", f"the file has {len(table)}; expected {columns}")
    if named is not None:
        table = {name: table[name] for name in named}
    axes = [table[axis] for axis in _AXES]
    length = len(axes[0]) if axes[0].ndim else 0
    for name, values in table.items():
        if values.dtype.kind not in "iufb" or values.dtype.itemsize > 8:
            bad_file(path, short(name), f"got {values.dtype} values; expected numbers of at most 64 bits")
        if values.shape[:1] != (length,) or values.ndim > (1 if name in _AXES else 2):
            bad_file(path, short(name), f"got shape {values.shape}; expected ({length},)")
    # float32 holds whole numbers of up to 16 bits exactly, and halves; everything else needs float64.
    kind = np.result_type(np.float32, *(a.dtype for a in axes))
    xyz = np.stack(axes, axis=1).astype(kind)
    return PointCloud(xyz, {name: values for name, values in table.items() if name not in _AXES})


def write_points(path: StrPath, cloud: PointCloud, *, encoding: str | None = None) -> None:
    """Write a point cloud atomically; the ending of the file's name chooses the format.

    `.bin` and `.npy` hold one nameless array (N, C): float32 for `.bin`, the type of `xyz` for `.npy`. Floats
    are rounded to it; whole numbers that it cannot hold exactly are an error. `.ply` and `.pcd` keep names
    and types.

    Args:
        path: the file.
        cloud: the points.
        encoding: of `.ply`: "ascii", "binary_little_endian" (default), "binary_big_endian"; of `.pcd`:
            "ascii", "binary" (default), "binary_compressed".

    Raises:
        ValueError: an unknown ending or encoding, or values that the format cannot hold.
        UserInputError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.pcd"
        >>> write_points(file, PointCloud(np.zeros((5, 3))), encoding="binary_compressed")
        >>> len(read_points(file))
        5
    """
    suffix = Path(path).suffix.lower()
    if encoding is not None and suffix not in (".ply", ".pcd"):
        raise ValueError(f"write_points: encoding: got {encoding!r}; {suffix or 'such a'} file has none")
    match suffix:
        case ".bin":
            write_bytes(path, _matrix(cloud, np.dtype("<f4")).tobytes())
        case ".npy":
            matrix = _matrix(cloud, cloud.xyz.dtype)
            packed = io.BytesIO()  # numpy writes real files by itself and hides why that failed
            np.lib.format.write_array(packed, matrix, allow_pickle=False)
            write_bytes(path, packed.getbuffer())
        case ".ply":
            ply.write_ply(path, cloud.table(), encoding=encoding or "binary_little_endian")
        case ".pcd":
            pcd.write_pcd(path, cloud.table(), encoding=encoding or "binary")
        case _:
            raise ValueError(f"write_points: path: got {path}; expected the ending .bin, .npy, .ply or .pcd")


def write_mesh(
    path: StrPath,
    cloud: PointCloud,
    faces: npt.NDArray[np.integer],
    *,
    encoding: str = "binary_little_endian",
) -> None:
    """Write vertices and triangles (F, 3) to a `.ply` file atomically.

    Raises:
        ValueError: `faces` has another shape or names no vertex; or as `write_points`.

    Example: see `read_mesh`.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"write_mesh: faces: got shape {faces.shape}; expected (F, 3)")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(cloud):
        raise ValueError(
            f"write_mesh: faces: got {faces.min()} to {faces.max()}; expected 0 to {len(cloud) - 1}"
        )
    ply.write_ply(path, cloud.table(), faces=faces, encoding=encoding)


def _matrix(cloud: PointCloud, dtype: np.dtype[np.floating]) -> npt.NDArray[np.floating]:
    parts = []
    for name, values in cloud.table().items():
        cast = values.astype(dtype)
        if values.dtype.kind in "iub" and not np.array_equal(cast.astype(values.dtype), values):
            raise ValueError(
                f"write_points: {name}: got {values.dtype} values that {dtype} cannot hold exactly"
            )
        parts.append(as_matrix(cast))
    return np.concatenate(parts, axis=1)
