"""The one definition of our 3-D boxes, and what can be done with them.

A box is ``(x, y, z, dx, dy, dz, heading)``: geometric centre, full extents (metres) and the angle of the
``dx`` axis, counter-clockwise about +z from +x (radians). Datasets append the velocity ``(vx, vy)``, so the
functions that move boxes accept 7 or 9 columns. Every function takes torch tensors or NumPy arrays, keeps
dtype and device, never writes to its input, and works for any number of boxes, zero included.
"""

import math
from typing import Any, Literal

import torch

from tenfold.geometry._arrays import Array, dual, require_columns

TAU = 2 * math.pi

# Corner k of a box is centre + CORNER_SIGNS[k] * extents / 2, turned by the heading: counter-clockwise seen
# from above, starting at the front right; first the bottom face (0-3), then the corners above it (4-7).
CORNER_SIGNS = (
    (1, -1, -1),
    (1, 1, -1),
    (-1, 1, -1),
    (-1, -1, -1),
    (1, -1, 1),
    (1, 1, 1),
    (-1, 1, 1),
    (-1, -1, 1),
)

# Pairs of corner indices that form the twelve edges.
BOX_EDGES = (
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 0),
    (4, 5),
    (5, 6),
    (6, 7),
    (7, 4),
    (0, 4),
    (1, 5),
    (2, 6),
    (3, 7),
)


@dual
def wrap_angle(v: Array, offset: float = 0.5, period: float = TAU) -> Array:
    """Wrap angles into ``[-offset * period, (1 - offset) * period)``.

    Args:
        v: angles in radians, any shape.
        offset: 0.5 gives [-period/2, period/2), 0 gives [0, period).
        period: radians.

    >>> wrap_angle(torch.tensor([3 * math.pi, -0.5])).tolist()  # doctest: +ELLIPSIS
    [-3.14..., -0.5]
    """
    value = v
    result = value - torch.floor(value / period + offset) * period
    return result


@dual
def rotate_z(points: Array, angle: Array | float) -> Array:
    """Rotate points about +z, counter-clockwise seen from above.

    Args:
        points: ``(..., C)`` with x, y first and C >= 2; further columns (z, features) are kept.
        angle: radians; a number, or a tensor that broadcasts against ``points[..., 0]``.

    >>> rotate_z(torch.tensor([[1.0, 0.0, 5.0]]), math.pi / 2).round(decimals=3).tolist()
    [[-0.0, 1.0, 5.0]]
    """
    p = points
    if p.ndim < 1 or p.shape[-1] < 2:
        raise ValueError(
            f"rotate_z: points: shape {tuple(p.shape)} was received; a last axis of 2 or more is expected"
        )
    a = torch.as_tensor(angle, dtype=p.dtype, device=p.device)
    cos, sin = torch.cos(a), torch.sin(a)
    x, y = p[..., 0], p[..., 1]
    turned = torch.stack((x * cos - y * sin, x * sin + y * cos), dim=-1)
    result = torch.cat((turned, p[..., 2:]), dim=-1)
    return result


@dual
def box_corners(boxes: Array) -> Array:
    """Eight corners of each box.

    Args:
        boxes: ``(..., 7)``.

    Returns:
        ``(..., 8, 3)``. Corners 0-3 are the bottom face, counter-clockwise seen from above and starting at
        the front right (local +x, -y): front right, front left, rear left, rear right. Corners 4-7 lie
        above 0-3. `BOX_EDGES` lists the edges.

    >>> box_corners(torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]]))[0, :2].tolist()
    [[2.0, -1.0, -0.5], [2.0, 1.0, -0.5]]
    """
    b = boxes
    require_columns("box_corners", "boxes", b, (7,))
    signs = b.new_tensor(CORNER_SIGNS) * 0.5
    local = signs * b[..., None, 3:6]
    result = rotate_z(local, b[..., None, 6]) + b[..., None, :3]
    return result


@dual
def bev_corners(boxes: Array) -> Array:
    """Four corners ``(..., 4, 2)`` of each box ``(..., 7)`` seen from above, in the order of `box_corners`.

    >>> bev_corners(torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]]))[0].tolist()
    [[2.0, -1.0], [2.0, 1.0], [-2.0, 1.0], [-2.0, -1.0]]
    """
    result = box_corners(boxes)
    return result[..., :4, :2]


@dual
def points_to_box_frame(points: Array, boxes: Array) -> Array:
    """Coordinates of points in the frame of boxes: origin at the centre, +x along the heading.

    Args:
        points: ``(..., 3)``.
        boxes: ``(..., 7)``; the leading axes broadcast against those of `points`.

    >>> box = torch.tensor([1.0, 0, 0, 4, 2, 1, math.pi / 2])
    >>> points_to_box_frame(torch.tensor([1.0, 2, 0]), box).round(decimals=3).tolist()
    [2.0, -0.0, 0.0]
    """
    p = points
    b = boxes
    require_columns("points_to_box_frame", "points", p, (3,))
    require_columns("points_to_box_frame", "boxes", b, (7,))
    shifted = p - b[..., :3]
    return rotate_z(shifted, -b[..., 6])


@dual
def points_from_box_frame(points: Array, boxes: Array) -> Array:
    """Inverse of `points_to_box_frame`.

    >>> box = torch.tensor([1.0, 0, 0, 4, 2, 1, 0.3])
    >>> p = torch.tensor([0.5, -2.0, 1.0])
    >>> torch.allclose(points_from_box_frame(points_to_box_frame(p, box), box), p, atol=1e-6)
    True
    """
    p = points
    b = boxes
    require_columns("points_from_box_frame", "points", p, (3,))
    require_columns("points_from_box_frame", "boxes", b, (7,))
    result = rotate_z(p, b[..., 6]) + b[..., :3]
    return result


@dual
def transform_points(points: Array, matrix: Array) -> Array:
    """Apply an affine matrix ``(4, 4)`` or ``(3, 4)`` to points ``(..., C)``; columns after z are kept.

    >>> shift = torch.tensor([[1.0, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7]])
    >>> transform_points(torch.zeros(1, 3), shift).tolist()
    [[5.0, 6.0, 7.0]]
    """
    p = points
    m = matrix
    if m.shape not in {(4, 4), (3, 4)}:
        raise ValueError(
            f"transform_points: matrix: shape {tuple(m.shape)} was received; (4, 4) or (3, 4) is expected"
        )
    m = m.to(p.dtype)
    moved = p[..., :3] @ m[:3, :3].T + m[:3, 3]
    result = torch.cat((moved, p[..., 3:]), dim=-1)
    return result


@dual
def transform_boxes(boxes: Array, matrix: Array, tolerance: float = 0.2) -> Array:
    """Move boxes by a rigid transform whose rotation is mostly about z (a vehicle or sensor pose).

    The centre moves exactly; the heading is that of the rotated ``dx`` axis seen from above (pitch and roll
    cannot be kept in a 7-column box); extents stay; velocities in columns 7-8 rotate with the frame, their
    vertical part is dropped.

    Args:
        boxes: ``(..., 7)`` or ``(..., 9)``.
        matrix: ``(4, 4)`` or ``(3, 4)``, a rotation and a translation.
        tolerance: how far the rotation's z axis may tilt (radians).

    Raises:
        ValueError: the matrix is no rotation within 1e-2, mirrors, or tilts by more than `tolerance`.

    >>> turn = torch.tensor([[0.0, -1, 0, 10], [1, 0, 0, 0], [0, 0, 1, 0]])
    >>> box = torch.tensor([[1.0, 0, 0, 4, 2, 1, 0]])
    >>> transform_boxes(box, turn)[0, [0, 1, 6]].tolist()  # doctest: +ELLIPSIS
    [10.0, 1.0, 1.57...]
    """
    b = boxes
    m = matrix
    require_columns("transform_boxes", "boxes", b, (7, 9))
    _require_upright_rotation(m, tolerance)
    rotation = m[:3, :3].to(b.dtype)
    centre = transform_points(b[..., :3], m)
    axis = (
        torch.stack((torch.cos(b[..., 6]), torch.sin(b[..., 6]), torch.zeros_like(b[..., 6])), -1)
        @ rotation.T
    )
    heading = torch.atan2(axis[..., 1], axis[..., 0])
    parts: list[Any] = [centre, b[..., 3:6], heading[..., None]]
    if b.shape[-1] == 9:
        parts.append(b[..., 7:9] @ rotation[:2, :2].T)
    result = torch.cat(parts, dim=-1)
    return result


def _require_upright_rotation(matrix: torch.Tensor, tolerance: float) -> None:
    if matrix.shape not in {(4, 4), (3, 4)}:
        raise ValueError(
            f"transform_boxes: matrix: shape {tuple(matrix.shape)} was received; (4, 4) or (3, 4) is expected"
        )
    rotation = matrix[:3, :3].double()
    error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64, device=matrix.device)).abs().max()
    # The negated form also catches NaN.
    if not (error < 1e-2 and torch.linalg.det(rotation) > 0):
        raise ValueError(
            "transform_boxes: matrix: its 3x3 part is no proper rotation; a rigid transform is expected; "
            "use scale_boxes and flip_boxes for scaling and mirroring"
        )
    if rotation[2, 2] < math.cos(tolerance):
        raise ValueError(
            f"transform_boxes: matrix: cos(tilt of its z axis) is {float(rotation[2, 2]):.3f}; "
            f"a tilt of at most {tolerance} rad is expected, because a box turns about z only"
        )


@dual
def limit_heading(boxes: Array) -> Array:
    """Copy of boxes ``(..., 7 | 9)`` with the heading wrapped into [-pi, pi).

    >>> limit_heading(torch.tensor([[0.0, 0, 0, 1, 1, 1, 7.0]]))[0, 6].item()  # doctest: +ELLIPSIS
    0.716...
    """
    b = boxes
    require_columns("limit_heading", "boxes", b, (7, 9))
    return _with_heading(b, wrap_angle(b[..., 6]))


def _with_heading(boxes: torch.Tensor, heading: torch.Tensor) -> torch.Tensor:
    return torch.cat((boxes[..., :6], heading[..., None], boxes[..., 7:]), dim=-1)


@dual
def flip_points(points: Array, across: Literal["x", "y"]) -> Array:
    """Mirror points ``(..., C)``: across the x axis y changes its sign, across the y axis x does.

    >>> flip_points(torch.tensor([[1.0, 2, 3]]), "x").tolist()
    [[1.0, -2.0, 3.0]]
    """
    p = points
    signs = p.new_ones(p.shape[-1])
    signs[_flipped_column(across)] = -1
    return p * signs


@dual
def flip_boxes(boxes: Array, across: Literal["x", "y"]) -> Array:
    """Mirror boxes ``(..., 7 | 9)`` with their velocities, as `flip_points` does with points.

    >>> flip_boxes(torch.tensor([[1.0, 2, 3, 4, 2, 1, 0.5]]), "x")[0, [1, 6]].tolist()
    [-2.0, -0.5]
    """
    b = boxes
    require_columns("flip_boxes", "boxes", b, (7, 9))
    column = _flipped_column(across)
    signs = b.new_ones(b.shape[-1])
    signs[column] = -1
    if b.shape[-1] == 9:
        signs[7 + column] = -1
    heading = -b[..., 6] if across == "x" else math.pi - b[..., 6]
    return _with_heading(b * signs, wrap_angle(heading))


def _flipped_column(across: str) -> int:
    if across not in {"x", "y"}:
        raise ValueError(f"flip: across: {across!r} was received; 'x' or 'y' is expected")
    return 1 if across == "x" else 0


@dual
def rotate_boxes(boxes: Array, angle: float) -> Array:
    """Rotate boxes ``(..., 7 | 9)`` about the origin's z axis by `angle` radians, velocities included.

    >>> rotate_boxes(torch.tensor([[1.0, 0, 0, 4, 2, 1, 0]]), math.pi / 2)[0, 6].item()  # doctest: +ELLIPSIS
    1.57...
    """
    b = boxes
    require_columns("rotate_boxes", "boxes", b, (7, 9))
    parts: list[Any] = [rotate_z(b[..., :3], angle), b[..., 3:6], wrap_angle(b[..., 6:7] + angle)]
    if b.shape[-1] == 9:
        parts.append(rotate_z(b[..., 7:9], angle))
    return torch.cat(parts, dim=-1)


@dual
def scale_boxes(boxes: Array, factor: float) -> Array:
    """Scale centres, extents and velocities of boxes ``(..., 7 | 9)`` about the origin.

    >>> scale_boxes(torch.tensor([[1.0, 2, 3, 4, 2, 1, 0.5]]), 2.0).tolist()
    [[2.0, 4.0, 6.0, 8.0, 4.0, 2.0, 0.5]]
    """
    b = boxes
    require_columns("scale_boxes", "boxes", b, (7, 9))
    if not factor > 0:
        raise ValueError(f"scale_boxes: factor: {factor} was received; a positive number is expected")
    return _with_heading(b * factor, b[..., 6])


@dual
def enlarge_boxes(boxes: Array, total: float | tuple[float, float, float]) -> Array:
    """Add `total` metres (or one number per axis) to the full extents of boxes ``(..., 7 | 9)``.

    >>> enlarge_boxes(torch.tensor([[0.0, 0, 0, 4, 2, 1, 0]]), 0.5)[0, 3:6].tolist()
    [4.5, 2.5, 1.5]
    """
    b = boxes
    require_columns("enlarge_boxes", "boxes", b, (7, 9))
    extra = torch.as_tensor(total, dtype=b.dtype, device=b.device)
    return torch.cat((b[..., :3], b[..., 3:6] + extra, b[..., 6:]), dim=-1)
