"""Point operations for data loaders: membership in boxes and voxels, without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array, offsets, raise_not_finite, suffix
from tenfold.host._backend import call

__all__ = ["HostVoxels", "points_in_boxes", "voxelize"]

_INDEX_LIMIT = 2**31
_MAX_MARGIN = 1e30
_BUFFER = 2**26  # elements of a voxel buffer that is allocated by its bound
_PIECE = 32768  # points that the kernel counts together
_REFUSED = -2
# Odd and different in every process, so that no stored input collides on purpose;
# results do not depend on it.
_MULTIPLIER = int.from_bytes(os.urandom(8), "little", signed=True) | 1

_FIRST, _MASK, _COUNT, _FILL = range(4)


def _rows(op: str, name: str, value: object, columns: int, dtype: Any) -> NDArray[Any]:
    given = array(op, name, value, dtype, 2)
    if given.shape[1] != columns:
        raise ValueError(f"{op}: {name}: got shape {given.shape}; expected (N, {columns})")
    if len(given) >= _INDEX_LIMIT:
        raise ValueError(f"{op}: {name}: got {len(given)} rows; expected fewer than 2^31")
    return given


@overload
def points_in_boxes(
    points: object,
    boxes: object,
    *,
    mode: Literal["first"] = ...,
    margin: float = ...,
    z_margin: float = ...,
) -> NDArray[np.int32]: ...


@overload
def points_in_boxes(
    points: object, boxes: object, *, mode: Literal["mask"], margin: float = ..., z_margin: float = ...
) -> NDArray[np.bool_]: ...


@overload
def points_in_boxes(
    points: object, boxes: object, *, mode: Literal["csr"], margin: float = ..., z_margin: float = ...
) -> tuple[NDArray[np.int64], NDArray[np.int32]]: ...


def points_in_boxes(
    points: object,
    boxes: object,
    *,
    mode: Literal["first", "mask", "csr"] = "first",
    margin: float = 1e-5,
    z_margin: float = 0.0,
) -> NDArray[Any] | tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Say which points lie in which rotated boxes; the kernel of `tenfold.ops.points_in_boxes`, run serially.

    Args:
        points: (N, 3) float32 or float64, metres.
        boxes: (M, 7) of the same dtype: x, y, z, dx, dy, dz, yaw. A size <= 0 holds nothing.
        mode: what to return, see below.
        margin: added to dx/2 and dy/2.
        z_margin: added to dz/2.

    Returns:
        "first": (N,) int32, the lowest box a point is in, or -1. "mask": (M, N) bool. "csr": offsets (M + 1,)
        int64 and point (hits,) int32, the points of each box in ascending order.

    Raises:
        ValueError: wrong shapes or options, or a row that is not finite.
        TypeError: another dtype, or two different ones.

    Example:
        >>> points_in_boxes(np.array([[0.0, 0, 0], [9, 0, 0]]), np.array([[0.0, 0, 0, 4, 2, 1, 0]]))
        array([ 0, -1], dtype=int32)
    """
    op = "points_in_boxes"
    kind = suffix(op, "points", np.asarray(points))
    p = _rows(op, "points", points, 3, np.asarray(points).dtype)
    b = _rows(op, "boxes", boxes, 7, p.dtype)
    for name, value in (("margin", margin), ("z_margin", z_margin)):
        if not 0.0 <= value < _MAX_MARGIN:
            raise ValueError(f"{op}: {name}: got {value}; expected a number from 0 to 1e30")
    n, m = len(p), len(b)
    names = {"first": np.int32, "mask": np.uint8, "place": np.int64, "point": np.int32}
    none: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, dtype in names.items()}

    def run(output: int, **used: NDArray[Any]) -> None:
        buffers = none | used
        bad = np.zeros(2, np.int64)
        head = (n, p, m, b, float(margin), float(z_margin), output)
        if call(f"points_in_boxes_{kind}", *head, *buffers.values(), bad):
            raise_not_finite(op, ("points", "boxes")[bad[0]], int(bad[1]))

    if mode == "first":
        first = np.full(n, -1, np.int32)
        run(_FIRST, first=first)
        return first
    if mode == "mask":
        mask = np.zeros((m, n), np.uint8)
        run(_MASK, mask=mask)
        return mask.view(np.bool_)
    if mode != "csr":
        raise ValueError(f"{op}: mode: got {mode!r}; expected 'first', 'mask' or 'csr'")
    pieces = -(-n // _PIECE)
    hits = np.zeros((m, pieces), np.int64)
    run(_COUNT, place=hits)
    ends = np.cumsum(hits.ravel())
    point = np.empty(int(ends[-1]) if ends.size else 0, np.int32)
    run(_FILL, place=ends.reshape(hits.shape) - hits, point=point)
    return np.concatenate([[0], np.cumsum(hits.sum(axis=1))]).astype(np.int64), point


class HostVoxels(NamedTuple):
    """What `voxelize` returns; the fields of `tenfold.ops.Voxels` as arrays.

    Args:
        voxels: (V, P, C) stored points, unused slots zero; with ``mean=True`` (V, C) their mean.
        coords: (V, 4) int32 cell as b, z, y, x.
        num_points: (V,) int32 stored points.
        point2voxel: (N,) int32 voxel of every point whose cell has one, stored or not; else -1.
        dropped: (3,) int64 points outside the range, lost to ``max_voxels``, lost to ``max_points``.
    """

    voxels: NDArray[Any]
    coords: NDArray[np.int32]
    num_points: NDArray[np.int32]
    point2voxel: NDArray[np.int32]
    dropped: NDArray[np.int64]


def _grid(voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[NDArray[Any], ...]:
    """Return lower corner, size (float64) and number of cells (int64) along x, y, z."""
    op = "voxelize"
    size, bounds = np.array(voxel_size, np.float64), np.array(point_range, np.float64)
    if size.shape != (3,):
        raise ValueError(f"{op}: voxel_size: got shape {size.shape}; expected 3 numbers: x, y, z")
    if bounds.shape != (6,):
        raise ValueError(
            f"{op}: point_range: got shape {bounds.shape}; expected 6 numbers: lower corner, upper corner"
        )
    lower, upper = bounds[:3].copy(), bounds[3:]
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(f"{op}: voxel_size: got {size.tolist()}; expected finite sizes above 0")
    if not (np.isfinite(bounds).all() and (lower < upper).all()):
        raise ValueError(f"{op}: point_range: got {bounds.tolist()}; expected finite bounds, lower < upper")
    extents = (upper - lower) / size
    if not ((extents >= 0.5) & (extents < _INDEX_LIMIT - 1)).all():
        raise ValueError(
            f"{op}: voxel_size: the grid has {extents.tolist()} cells; "
            "expected from 1 to 2^31 - 1 along every axis"
        )
    whole = np.floor(extents)
    cells = (whole + (extents - whole >= 0.5)).astype(np.int64)
    if math.prod(cells.tolist()) >= 2**63:
        raise ValueError(
            f"{op}: voxel_size: the grid has {cells.tolist()} cells; expected fewer than 2^63 in all"
        )
    return lower, size, cells


def voxelize(
    points: object,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    *,
    offsets: object = None,
    mean: bool = False,
) -> HostVoxels:
    """Sort points into the voxels of a regular grid; the kernels of `tenfold.ops.voxelize`, run serially.

    Args:
        points: (N, C >= 3) float32 or float64 with x, y, z first, metres.
        voxel_size: x, y, z.
        point_range: x, y, z of the lower corner, then of the upper one.
        max_points: per voxel.
        max_voxels: per batch element.
        offsets: (B + 1,) int64 first row of every batch element and N; None is one element.
        mean: return the mean of the stored points instead of the points themselves.

    Raises:
        ValueError: wrong shapes or options, or a coordinate that is not finite.
        TypeError: another dtype.

    Example:
        >>> points = np.array([[0.1, 0.1, 0.1], [1.5, 0.2, 0.3], [0.2, 0.2, 0.2]], np.float32)
        >>> voxelize(points, (1, 1, 1), (0, 0, 0, 4, 4, 4), max_points=2, max_voxels=10).num_points
        array([2, 1], dtype=int32)
    """
    op = "voxelize"
    kind = suffix(op, "points", np.asarray(points))
    p = array(op, "points", points, np.asarray(points).dtype, 2)
    n, channels = p.shape
    if channels < 3:
        raise ValueError(f"{op}: points: got shape {p.shape}; expected (N, C) with C >= 3")
    if n >= _INDEX_LIMIT:
        raise ValueError(f"{op}: points: got {n} rows; expected fewer than 2^31")
    for name, value in (("max_points", max_points), ("max_voxels", max_voxels)):
        if not 1 <= value < 2**63:
            raise ValueError(f"{op}: {name}: got {value}; expected at least 1")
    rows = _row_offsets(op, offsets, n)
    batch = len(rows) - 1
    lower, size, cells = _grid(voxel_size, point_range)
    point2voxel, dropped, bad_row = np.empty(n, np.int32), np.empty(3, np.int64), np.empty(1, np.int64)

    def run(copy: bool, most: int, slots: int) -> tuple[int, tuple[NDArray[Any], ...]]:
        """Run the kernel into fresh buffers of ``most`` voxels with ``slots`` stored rows each."""
        outputs = (
            np.empty((most, channels) if mean else (most, slots, channels), p.dtype),
            *(np.empty((most, 4), np.int32), np.empty(most, np.int32)),
        )
        found = call(
            *(f"voxelize_{kind}", n, channels, p, batch, rows, lower, size, cells, max_points, max_voxels),
            *(int(mean), _MULTIPLIER, int(copy), most, *outputs, point2voxel, dropped, bad_row),
        )
        if found == _REFUSED:
            raise_not_finite(op, "points", int(bad_row[0]))
        return found, outputs

    # Unused rows of a buffer cost no memory while nobody writes to them; a bound beyond all memory is counted
    # first and allocated exactly.
    most, slots = min(n, max_voxels * batch), 1 if mean else max_points
    if most * slots * channels > _BUFFER:
        most, _ = run(False, most, 0)
    if not mean and max_points * most >= _INDEX_LIMIT:
        raise ValueError(
            f"{op}: max_points: got {max_points} for {most} voxels; expected fewer than 2^31 rows in all "
            "voxels together; mean=True has no such limit"
        )
    found, (voxels, coords, num_points) = run(True, most, slots)
    return HostVoxels(
        voxels[:found].copy(), coords[:found].copy(), num_points[:found].copy(), point2voxel, dropped
    )


def _row_offsets(op: str, value: object, rows: int) -> NDArray[np.int64]:
    return np.array([0, rows], np.int64) if value is None else offsets(op, "offsets", value, rows)
