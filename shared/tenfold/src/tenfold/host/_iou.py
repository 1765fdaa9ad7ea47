"""Overlaps of boxes, for all pairs of two sets or frame by frame."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tenfold.host._arrays import array, offsets, raise_not_finite
from tenfold.host._backend import call

__all__ = ["box_iou_2d", "box_iou_3d", "box_iou_bev", "box_iou_frames"]

Floats = NDArray[np.float64]
Mode = Literal["iou", "inter", "iof"]

_KINDS = {"2d": 0, "bev": 1, "3d": 2}
_MODES = {"iou": 0, "inter": 1, "iof": 2}


def _boxes(op: str, name: str, value: object, kind: str) -> Floats:
    columns, meaning = (4, "x1, y1, x2, y2") if kind == "2d" else (7, "x, y, z, dx, dy, dz, yaw")
    boxes = array(op, name, value, np.float64, 2)
    if boxes.shape[1] != columns:
        raise ValueError(f"{op}: {name}: got shape {boxes.shape}; expected (N, {columns}): {meaning}")
    return boxes


def _code(op: str, name: str, value: str, codes: dict[str, int]) -> int:
    if value not in codes:
        raise ValueError(f"{op}: {name}: got {value!r}; expected one of {', '.join(map(repr, codes))}")
    return codes[value]


def _blocks(
    op: str, a: Floats, b: Floats, a_rows: NDArray[np.int64], b_rows: NDArray[np.int64], kind: int, mode: str
) -> Floats:
    code = _code(op, "mode", mode, _MODES)
    out = np.empty(int((np.diff(a_rows) * np.diff(b_rows)).sum()), np.float64)
    bad = np.zeros(2, np.int64)
    if call("box_iou", len(a_rows) - 1, a_rows, b_rows, a, b, kind, code, out, bad):
        raise_not_finite(op, "ab"[bad[0]], int(bad[1]))
    return out


def _all_pairs(op: str, a: object, b: object, kind: str, mode: str) -> Floats:
    first, second = _boxes(op, "a", a, kind), _boxes(op, "b", b, kind)
    rows = [np.array([0, len(boxes)], np.int64) for boxes in (first, second)]
    flat = _blocks(op, first, second, rows[0], rows[1], _KINDS[kind], mode)
    return flat.reshape(len(first), len(second))


def box_iou_2d(a: object, b: object, *, mode: Mode = "iou") -> Floats:
    """Overlap of image boxes, all pairs.

    Args:
        a: (N, 4) float64 x1, y1, x2, y2; widths are x2 - x1, without the pixel that some tools add.
        b: (M, 4).
        mode: "iou", "inter" (area) or "iof" (intersection over the area of the box of ``a``).

    Returns:
        (N, M) float64; 0 where a box has no area.

    Raises:
        ValueError: wrong shapes or mode, or a box that is not finite.
        TypeError: arrays that are not float64.

    Example:
        >>> box_iou_2d([[0.0, 0.0, 2.0, 2.0]], [[1.0, 0.0, 3.0, 2.0]], mode="iof")
        array([[0.5]])
    """
    return _all_pairs("box_iou_2d", a, b, "2d", mode)


def box_iou_bev(a: object, b: object, *, mode: Mode = "iou") -> Floats:
    """Overlap of the footprints of boxes, all pairs; the arithmetic of `tenfold.ops.box_iou_bev`.

    Args:
        a: (N, 7) float64 x, y, z, dx, dy, dz, yaw; metres and radians.
        b: (M, 7).
        mode: "iou", "inter" (area) or "iof" (intersection over the area of the box of ``a``).

    Returns:
        (N, M) float64; exactly 1 for identical boxes, 0 where a size is <= 0.

    Raises:
        ValueError: wrong shapes or mode, or a box that is not finite.
        TypeError: arrays that are not float64.

    Example:
        >>> box_iou_bev([[0, 0, 0, 2, 2, 2, 0.0]], [[1, 0, 9, 2, 2, 2, 0.0]]).round(4)
        array([[0.3333]])
    """
    return _all_pairs("box_iou_bev", a, b, "bev", mode)


def box_iou_3d(a: object, b: object, *, mode: Mode = "iou") -> Floats:
    """Overlap of the volumes of boxes, all pairs; the arithmetic of `tenfold.ops.box_iou_3d`.

    Args:
        a: (N, 7) float64 x, y, z, dx, dy, dz, yaw; metres and radians.
        b: (M, 7).
        mode: "iou", "inter" (volume) or "iof" (intersection over the volume of the box of ``a``).

    Returns:
        (N, M) float64; exactly 1 for identical boxes, 0 where a size is <= 0.

    Raises:
        ValueError: wrong shapes or mode, or a box that is not finite.
        TypeError: arrays that are not float64.

    Example:
        >>> box_iou_3d([[0, 0, 0, 2, 2, 2, 0.0]], [[0, 0, 1, 2, 2, 2, 0.0]]).round(4)
        array([[0.3333]])
    """
    return _all_pairs("box_iou_3d", a, b, "3d", mode)


def box_iou_frames(
    a: object,
    b: object,
    a_offsets: object,
    b_offsets: object,
    *,
    kind: Literal["2d", "bev", "3d"] = "3d",
    mode: Mode = "iou",
) -> Floats:
    """Overlaps within each of many frames in one call, in the form that `match_kitti` takes.

    Args:
        a: (A, 7) float64 boxes of all frames, or (A, 4) for kind "2d".
        b: (B, 7) or (B, 4).
        a_offsets: (F + 1,) int64 first box of each frame.
        b_offsets: (F + 1,).
        kind: "2d", "bev" or "3d", see `box_iou_2d`, `box_iou_bev`, `box_iou_3d`.
        mode: as there.

    Returns:
        (total,) frame after frame, each a row-major block (boxes of a, boxes of b).

    Raises:
        ValueError: wrong shapes, offsets or options, or a box that is not finite.
        TypeError: arrays of another dtype.

    Example:
        >>> boxes = [[0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]]
        >>> box_iou_frames(boxes, boxes, [0, 1, 2], [0, 0, 2], kind="2d").round(4)
        array([0.3333, 1.    ])
    """
    op = "box_iou_frames"
    code = _code(op, "kind", kind, _KINDS)
    first, second = _boxes(op, "a", a, kind), _boxes(op, "b", b, kind)
    a_rows, b_rows = (
        offsets(op, "a_offsets", a_offsets, len(first)),
        offsets(op, "b_offsets", b_offsets, len(second)),
    )
    if len(a_rows) != len(b_rows):
        raise ValueError(
            f"{op}: b_offsets: got {len(b_rows)} entries; expected {len(a_rows)}, one per frame + 1"
        )
    return _blocks(op, first, second, a_rows, b_rows, code, mode)
