"""Membership of points in rotated 3D boxes."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._batching import check_batches, row_count
from tenfold.ops._checks import FLOATS, LIMIT, as_compute, require, require_float, require_size
from tenfold.ops._library import define, invoke

__all__ = ["points_in_boxes", "points_in_boxes_padded"]

_MAX_MARGIN = 1e30


def _fake_first(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
) -> Tensor:
    return points.new_empty(points.shape[:-1], dtype=torch.int32)


def _fake_mask(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
) -> Tensor:
    return points.new_empty((*points.shape[:-2], boxes.shape[-2], points.shape[-2]), dtype=torch.bool)


def _fake_csr(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    hits = torch.library.get_ctx().new_dynamic_size()
    return (
        points.new_empty((boxes.shape[0] + 1,), dtype=torch.int64),
        points.new_empty((hits,), dtype=torch.int32),
    )


def _fake_padded(
    points: Tensor,
    boxes: Tensor,
    max_points: int,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    shape = boxes.shape[:-1]
    return points.new_empty((*shape, max_points), dtype=torch.int32), points.new_empty(
        shape, dtype=torch.int32
    )


_MARGINS = "float margin, float z_margin"
_PADDED = "Tensor? lengths, Tensor? box_lengths"
_STACKED = "Tensor? offsets, Tensor? box_offsets, bool validate"

_first = define(
    f"points_in_boxes_first(Tensor points, Tensor boxes, {_MARGINS}, {_PADDED}, {_STACKED}) -> Tensor",
    contract=1,
    reference=ref.points_in_boxes_first,
    fake=_fake_first,
)
_mask = define(
    f"points_in_boxes_mask(Tensor points, Tensor boxes, {_MARGINS}, {_PADDED}, {_STACKED}) -> Tensor",
    contract=1,
    reference=ref.points_in_boxes_mask,
    fake=_fake_mask,
)
_csr = define(
    f"points_in_boxes_csr(Tensor points, Tensor boxes, {_MARGINS}, {_STACKED}) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.points_in_boxes_csr,
    fake=_fake_csr,
)
_padded = define(
    f"points_in_boxes_padded(Tensor points, Tensor boxes, SymInt max_points, {_MARGINS}, {_PADDED}, "
    f"{_STACKED}) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.points_in_boxes_padded,
    fake=_fake_padded,
)


def check_points_boxes(
    op: str,
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    name: str = "boxes",
    prefix: str = "box_",
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Check the arguments that the ops on points and boxes share and return them as the kernels take them.

    Args:
        name: of the boxes argument, for messages.
        prefix: of the boxes' lengths and offsets, for messages.
    """
    for option, value in (("margin", margin), ("z_margin", z_margin)):
        require(0.0 <= value < _MAX_MARGIN, f"{op}: {option}: got {value}; expected a number from 0 to 1e30")
    fine = (
        isinstance(points, Tensor)
        and isinstance(boxes, Tensor)
        and points.dtype in FLOATS
        and boxes.dtype is points.dtype
        and points.dim() == 2
        and boxes.dim() == 2
        and points.shape[1] == 3
        and boxes.shape[1] == 7
        and points.device == boxes.device
        and points.shape[0] < LIMIT
        and boxes.shape[0] < LIMIT
        and lengths is None
        and box_lengths is None
        and offsets is None
        and box_offsets is None
    )
    if fine:
        return points, boxes, None, None, None, None
    _check_shapes(op, points, boxes, name)
    lengths, box_lengths, offsets, box_offsets = check_batches(
        op, ("points", name), prefix, points, boxes, lengths, box_lengths, offsets, box_offsets
    )
    points, boxes = as_compute(points), as_compute(boxes)
    common = torch.promote_types(points.dtype, boxes.dtype)
    return points.to(common), boxes.to(common), lengths, box_lengths, offsets, box_offsets


def _check_shapes(op: str, points: Tensor, boxes: Tensor, boxes_name: str) -> None:
    require_float(op, "points", points)
    require_float(op, boxes_name, boxes)
    for name, value, columns, letter, hint in (
        ("points", points, 3, "N", "slice the coordinates off: points[..., :3]"),
        (boxes_name, boxes, 7, "M", "x, y, z, dx, dy, dz, yaw; slice other columns off"),
    ):
        fine = value.dim() in (2, 3) and value.shape[-1] == columns
        require(
            fine,
            f"{op}: {name}: got shape {tuple(value.shape)}; expected ({letter}, {columns}) or "
            f"(B, {letter}, {columns}); {hint}",
        )
    require(
        points.dim() == boxes.dim(),
        f"{op}: {boxes_name}: got shape {tuple(boxes.shape)} with points of shape {tuple(points.shape)}; "
        "expected both padded or both stacked",
    )
    require(
        points.dim() == 2 or points.shape[0] == boxes.shape[0],
        f"{op}: {boxes_name}: got batch size {boxes.shape[0]}; expected that of points, {points.shape[0]}",
    )
    require(
        points.device == boxes.device,
        f"{op}: {boxes_name}: on {boxes.device}; expected the device of points, {points.device}",
    )
    for name, value in (("points", points), (boxes_name, boxes)):
        rows = row_count(value)
        require(rows < LIMIT, f"{op}: {name}: got {rows} rows; expected fewer than 2^31")


@overload
def points_in_boxes(
    points: Tensor,
    boxes: Tensor,
    *,
    mode: Literal["first", "mask"] = ...,
    margin: float = ...,
    z_margin: float = ...,
    lengths: Tensor | None = ...,
    box_lengths: Tensor | None = ...,
    offsets: Tensor | None = ...,
    box_offsets: Tensor | None = ...,
) -> Tensor: ...


@overload
def points_in_boxes(
    points: Tensor,
    boxes: Tensor,
    *,
    mode: Literal["csr"],
    margin: float = ...,
    z_margin: float = ...,
    lengths: Tensor | None = ...,
    box_lengths: Tensor | None = ...,
    offsets: Tensor | None = ...,
    box_offsets: Tensor | None = ...,
) -> tuple[Tensor, Tensor]: ...


def points_in_boxes(
    points: Tensor,
    boxes: Tensor,
    *,
    mode: Literal["first", "mask", "csr"] = "first",
    margin: float = 1e-5,
    z_margin: float = 0.0,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Say which points lie in which rotated boxes.

    A point is inside when ``|z - cz| <= dz/2 + z_margin`` and, in the box's frame, ``|x| < dx/2 + margin``
    and ``|y| < dy/2 + margin``, computed in the points' precision; the yaw's sine and cosine are taken in
    float64 and rounded. A box with a size <= 0 contains nothing, so zero rows may pad the boxes.

    Args:
        points: (N, 3), padded (B, N, 3) or stacked (sum N, 3); metres. float32 or float64 (half precision is
            up-cast).
        boxes: (M, 7), (B, M, 7) or (sum M, 7), in the same form: centre x, y, z, full sizes dx, dy, dz, yaw
            counter-clockwise about +z in radians.
        mode: what to return, see below.
        margin: added to dx/2 and dy/2. 1e-5 is customary in driving code; indoor code passes 0.
        z_margin: added to dz/2.
        lengths: (B,) used points of each padded element.
        box_lengths: (B,) used boxes of each padded element.
        offsets: (B + 1,) first row of each stacked element's points, and their number.
        box_offsets: (B + 1,) likewise for the boxes.

    Returns:
        "first": int32 (N,) or (B, N), the lowest box a point is in, or -1. Boxes count from the start of a
        padded element, or are rows of stacked boxes.
        "mask": bool (M, N) or (B, M, N); in stacked form false between different elements.
        "csr": offsets int64 (M + 1,) and point int32 (hits,): the points of box m are
        ``point[offsets[m]:offsets[m + 1]]``, ascending, as rows of ``points``. Not for padded input; its
        fixed-size twin is `points_in_boxes_padded`.
        None carries a gradient.

    Raises:
        ValueError: wrong shapes, options, lengths or offsets; at validation level "cheap" also a coordinate
            or box entry that is not finite. Below that level such a point is in no box and such a box holds
            no point.
        TypeError: not floating-point tensors, or lengths or offsets that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import points_in_boxes
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [1.9, 0.0, 0.5]])
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]])
        >>> points_in_boxes(points, boxes)
        tensor([ 0, -1,  0], dtype=torch.int32)
    """
    op = "points_in_boxes"
    points, boxes, lengths, box_lengths, offsets, box_offsets = check_points_boxes(
        op, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets
    )
    validate = checks_content(points.is_cpu)
    if mode == "csr":
        require(
            points.dim() == 2,
            f"{op}: mode: got 'csr' with padded points of shape {tuple(points.shape)}; expected stacked "
            "points; use tenfold.ops.stack or points_in_boxes_padded",
        )
        bounds, point = invoke(_csr, points, boxes, margin, z_margin, offsets, box_offsets, validate)
        return bounds, point
    require(mode in ("first", "mask"), f"{op}: mode: got {mode!r}; expected 'first', 'mask' or 'csr'")
    which = _first if mode == "first" else _mask
    result: Tensor = invoke(
        which, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate
    )
    return result


def points_in_boxes_padded(
    points: Tensor,
    boxes: Tensor,
    max_points: int,
    *,
    margin: float = 1e-5,
    z_margin: float = 0.0,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """List the first points inside each rotated box, in tables of fixed size.

    Args:
        points: as for `points_in_boxes`, like all arguments that are not listed here.
        boxes: as for `points_in_boxes`.
        max_points: columns of the table.

    Returns:
        point (M, max_points) or (B, M, max_points) int32: ascending, padded with -1; points count from the
        start of a padded element, or are rows of stacked points. count (M,) or (B, M) int32: all points in
        the box, which may be more than were stored. Neither carries a gradient.

    Raises:
        ValueError: as `points_in_boxes`, or a negative ``max_points``.
        TypeError: as `points_in_boxes`.

    Example:
        >>> import torch
        >>> from tenfold.ops import points_in_boxes_padded
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [1.9, 0.0, 0.5]])
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]])
        >>> points_in_boxes_padded(points, boxes, 3)
        (tensor([[ 0,  2, -1]], dtype=torch.int32), tensor([2], dtype=torch.int32))
    """
    op = "points_in_boxes_padded"
    require_size(op, "max_points", max_points)
    points, boxes, lengths, box_lengths, offsets, box_offsets = check_points_boxes(
        op, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets
    )
    point, count = invoke(
        _padded,
        points,
        boxes,
        max_points,
        margin,
        z_margin,
        lengths,
        box_lengths,
        offsets,
        box_offsets,
        checks_content(points.is_cpu),
    )
    return point, count
