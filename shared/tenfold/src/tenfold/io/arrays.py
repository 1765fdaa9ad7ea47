"""Plain arrays in files: `.bin` (bare float32 rows), `.npy` and `.npz`, none of them with pickled objects."""

import ast
import io
import math
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io._files import StrPath, bad_file, read_file, short
from tenfold.io._tables import native

Array = npt.NDArray[np.generic]
_MAX_HEADER = 10_000
_MAX_DEFLATE_RATIO = 1040  # what deflate can reach at most; more is a forged size


def read_bin(path: StrPath, columns: int) -> npt.NDArray[np.float32]:
    """Bare little-endian float32 values as (N, columns), the layout of KITTI (4) and nuScenes (5).

    Raises:
        UserInputError: the size of the file is no whole number of rows; names both sizes.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.bin"
        >>> np.arange(8, dtype="<f4").tofile(file)
        >>> read_bin(file, 4).shape
        (2, 4)
    """
    data = read_file(path)
    row = 4 * columns
    if len(data) % row:
        fitting = [n for n in range(3, 17) if len(data) % (4 * n) == 0]
        hint = f"; whole rows would be {', '.join(map(str, fitting))} columns" if fitting else ""
        bad_file(
            path, "columns", f"{len(data)} bytes are no multiple of {columns} columns ({row} bytes){hint}"
        )
    return np.frombuffer(data, "<f4").reshape(-1, columns).astype(np.float32)


def read_npy(path: StrPath) -> Array:
    """A `.npy` array of plain numbers, its header checked against the size of the file first.

    Raises:
        UserInputError: damaged, truncated, of Python objects, or not a `.npy` file.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.npy"
        >>> np.save(file, np.eye(2)); read_npy(file).shape
        (2, 2)
    """
    return _parse_npy(path, "array", read_file(path))


def read_npz(path: StrPath) -> dict[str, Array]:
    """All arrays of a `.npz` file by name.

    Raises:
        UserInputError: damaged, truncated, of Python objects, or not a `.npz` file.

    Example:
        >>> import tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.npz"
        >>> np.savez(file, a=np.eye(2), b=np.zeros(3)); sorted(read_npz(file))
        ['a', 'b']
    """
    data = read_file(path)
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if member.file_size > _MAX_DEFLATE_RATIO * member.compress_size + 64:
                    bad_file(
                        path, short(name), f"claims {member.file_size} bytes from {member.compress_size}"
                    )
                arrays[name] = _parse_npy(path, short(name), archive.read(member))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, UserInputError):
            raise
        bad_file(path, "archive", f"is damaged or no .npz file ({short(str(error))})", error)
    return arrays


def _parse_npy(path: StrPath, name: str, data: bytes) -> Array:
    width = {1: 2, 2: 4, 3: 4}.get(data[6] if len(data) > 6 else 0)
    if data[:6] != b"\x93NUMPY" or width is None:
        bad_file(path, name, "does not begin like a .npy file")
    size = int.from_bytes(data[8 : 8 + width], "little")
    start = 8 + width + size
    if size > _MAX_HEADER or start > len(data):
        bad_file(path, name, f"its header of {size} bytes is damaged ({len(data)} bytes in all)")
    dtype, shape, fortran = _npy_header(path, name, data[8 + width : start])
    needed = math.prod(shape) * dtype.itemsize
    if needed != len(data) - start:
        problem = f"the header announces shape {shape} ({needed} bytes) but {len(data) - start} bytes follow"
        bad_file(path, name, problem)
    if needed == 0:
        return np.empty(shape, dtype.newbyteorder("="))
    order: Any = "F" if fortran else "C"
    return native(np.ndarray(shape, dtype, data, start, order=order))


def _npy_header(path: StrPath, name: str, text: bytes) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    try:
        header = ast.literal_eval(text.decode("utf-8").strip())
        dtype = np.lib.format.descr_to_dtype(header["descr"])
        shape, fortran = header["shape"], header["fortran_order"]
        sound = isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 2**60 for n in shape)
        # numpy multiplies the other lengths even where one is 0.
        sound = sound and math.prod(n for n in shape if n) * dtype.itemsize < 2**63
    except (ValueError, SyntaxError, TypeError, KeyError, IndexError, RecursionError, MemoryError) as error:
        bad_file(path, name, f"its header is damaged ({short(str(error))})", error)
    if dtype.hasobject:
        bad_file(path, name, "holds Python objects; only plain numbers are read")
    if not sound or len(shape) > 32 or (dtype.itemsize == 0 and math.prod(shape)):
        bad_file(path, name, f"its shape {short(repr(shape))} is damaged")
    return dtype, shape, bool(fortran)
