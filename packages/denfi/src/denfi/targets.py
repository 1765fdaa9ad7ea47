"""What the boundary proposals learn: which pixels belong to which box, four distances, and the heading's code.

A pixel p of a box (x, y, l, w, heading) has the distances ``front = l/2 - u``, ``rear = l/2 + u``,
``left = w/2 - v`` and ``right = w/2 + v``, where (u, v) are its coordinates in the box's own frame. In tensors
they stand in the order of the paper's map, **l, t, r, b**: left, front, right, rear.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from denfi.grid import BevGrid
from tenfold.geometry import HeadingBinCoder, wrap_angle
from tenfold.ops._checks import require, require_shape

__all__ = [
    "IGNORED",
    "NEGATIVE",
    "AngleRange",
    "BoundaryTargets",
    "boundary_targets",
    "decode_boundary",
    "decode_heading",
    "encode_heading",
    "split_truth",
]

AngleRange = Literal["2pi", "pi"]
NEGATIVE, IGNORED = -1, -2
_TURNS = {"2pi": 1, "pi": 2}


def _turns(op: str, angle_range: str) -> int:
    require(
        angle_range in _TURNS, f"{op}: angle_range: got {angle_range!r}; expected one of {', '.join(_TURNS)}"
    )
    return _TURNS[angle_range]


def encode_heading(heading: Tensor, bins: int = 12, angle_range: AngleRange = "2pi") -> tuple[Tensor, Tensor]:
    """Bin and residual of headings; bin 0 is centred at heading 0.

    Args:
        heading: any shape, radians.
        bins: number of bins over the range.
        angle_range: "2pi", or "pi" where a heading and its opposite are one.

    Returns:
        Bins int64 and residuals in units of half a bin, in [-1, 1), in the shape of ``heading``.

    Source:
        PointRCNN (Shi et al. 2019), eq. 2, as the paper's bin-based rotation loss uses it.

    Example:
        >>> k, r = encode_heading(torch.tensor([0.6, 0.6 + math.pi]), angle_range="pi")
        >>> k.tolist()
        [2, 2]
    """
    turns = _turns("encode_heading", angle_range)
    # Opposite headings become equal when the angle is doubled, and 2 pi / n of the double is pi / n.
    return HeadingBinCoder(bins).encode(heading * turns)


def decode_heading(
    index: Tensor, residual: Tensor, bins: int = 12, angle_range: AngleRange = "2pi"
) -> Tensor:
    """Headings of bins and residuals, the inverse of `encode_heading`.

    Args:
        index: bins, any shape.
        residual: the same shape, in units of half a bin.
        bins: number of bins over the range.
        angle_range: as it was encoded.

    Returns:
        Radians, in (-pi, pi], or in [0, pi) for "pi".

    Example:
        >>> round(decode_heading(*encode_heading(torch.tensor(4.0))).item() + 2 * math.pi, 5)
        4.0
    """
    turns = _turns("decode_heading", angle_range)
    heading = HeadingBinCoder(bins).decode(index, residual) / turns
    if turns == 2:
        return _folded(heading)
    return torch.where(heading <= -math.pi, heading + 2 * math.pi, heading)


def _folded(heading: Tensor) -> Tensor:
    folded: Tensor = wrap_angle(heading, 0.0, math.pi)
    # Rounding can lift an angle just below 0 to pi itself.
    return torch.where(folded >= math.pi, torch.zeros_like(folded), folded)


class BoundaryTargets(NamedTuple):
    """What `boundary_targets` returns for one frame.

    Args:
        labels: (H, W) int64: the class of a positive pixel, `NEGATIVE` (-1) or `IGNORED` (-2).
        dist: (4, H, W) left, front, right, rear, metres; 0 off the positive pixels.
        heading: (H, W) radians, likewise.
        owner: (H, W) int64 row of the box of a positive pixel, -1 elsewhere.
    """

    labels: Tensor
    dist: Tensor
    heading: Tensor
    owner: Tensor


@torch.no_grad()
def boundary_targets(
    boxes: Tensor,
    labels: Tensor,
    grid: BevGrid,
    sigma1: float = 0.45,
    sigma2: float = 0.70,
    *,
    angle_range: AngleRange = "2pi",
) -> BoundaryTargets:
    """Targets of one frame at the cell centres of a grid.

    Inside the box scaled by ``sigma1`` a pixel is positive, inside the one scaled by ``sigma2`` it is ignored,
    anywhere else it is negative: the object's own outer ring too. An object without a positive pixel gets the
    cell of its centre; a pixel of several boxes takes the smallest; positive wins over ignored. Boxes of the
    label -1 (not to be learnt, such as "DontCare") leave their ``sigma2`` region ignored.

    Args:
        boxes: (M, 5) x, y, l, w, heading; metres and radians.
        labels: (M,) classes from 0, or -1.
        grid: of the feature map.
        sigma1: share of the box whose pixels are positive.
        sigma2: share of the box outside which pixels are negative.
        angle_range: "pi" turns headings into [0, pi) before distances are measured, so that opposite headings
            give the same targets.

    Raises:
        ValueError: shapes that do not fit, or not 0 < sigma1 < sigma2 < 1.

    Source:
        The paper's figure 4 and loss section; what they leave open is listed in the package's documentation.

    Example:
        >>> grid = BevGrid(0.0, 0.0, 1.0, height=4, width=8)
        >>> t = boundary_targets(torch.tensor([[4.0, 2.0, 6.0, 3.0, 0.0]]), torch.tensor([0]), grid)
        >>> t.labels[1].tolist(), t.dist[:, 1, 3].tolist()
        ([-1, -1, -2, 0, 0, -2, -1, -1], [2.0, 3.5, 1.0, 2.5])
    """
    op = "boundary_targets"
    require_shape(op, "boxes", boxes, ("M", 5), "x, y, l, w, heading")
    require_shape(op, "labels", labels, (len(boxes),))
    require(
        0 < sigma1 < sigma2 < 1,
        f"{op}: sigma1, sigma2: got {sigma1}, {sigma2}; expected 0 < sigma1 < sigma2 < 1",
    )
    if _turns(op, angle_range) == 2:
        boxes = torch.cat((boxes[:, :4], _folded(boxes[:, 4:])), 1)
    shape = (grid.height, grid.width)
    label_map = torch.full(shape, NEGATIVE, dtype=torch.int64, device=boxes.device)
    index = torch.full(shape, -1, dtype=torch.int64, device=boxes.device)
    dist, heading = boxes.new_zeros(4, *shape), boxes.new_zeros(shape)
    if not len(boxes):
        return BoundaryTargets(label_map, dist, heading, index)
    u, v = _in_box_frames(boxes, grid)
    # Distance from the box's axes in units of its half sides: 1 is the border.
    reach = torch.maximum(
        u.abs() / (boxes[:, 2] / 2)[:, None, None], v.abs() / (boxes[:, 3] / 2)[:, None, None]
    )
    learnt = labels >= 0
    positive = _with_centre_cells((reach <= sigma1) & learnt[:, None, None], learnt, boxes, grid)
    label_map[(reach <= sigma2).any(0)] = IGNORED
    area = torch.where(positive, (boxes[:, 2] * boxes[:, 3])[:, None, None], torch.inf)
    smallest, owner = area.min(0)
    own = smallest.isfinite()
    index[own] = owner[own]
    label_map[own] = labels[owner[own]].to(torch.int64)
    u, v = (t.gather(0, owner[None])[0][own] for t in (u, v))
    half_l, half_w = boxes[owner[own], 2] / 2, boxes[owner[own], 3] / 2
    # The cell of a centre may stick out of a box that is smaller than the cell.
    dist[:, own] = torch.stack((half_w - v, half_l - u, half_w + v, half_l + u)).clamp(min=0)
    heading[own] = boxes[owner[own], 4]
    return BoundaryTargets(label_map, dist, heading, index)


def _in_box_frames(boxes: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """(M, H, W) coordinates of every cell centre along and across every box."""
    x, y = grid.centres(boxes)
    dx, dy = x[None, None, :] - boxes[:, 0, None, None], y[None, :, None] - boxes[:, 1, None, None]
    cos, sin = boxes[:, 4].cos()[:, None, None], boxes[:, 4].sin()[:, None, None]
    return dx * cos + dy * sin, dy * cos - dx * sin


def _with_centre_cells(positive: Tensor, learnt: Tensor, boxes: Tensor, grid: BevGrid) -> Tensor:
    """Boxes to be learnt that hold no pixel of their own get the cell of their centre, where that is on the map."""
    column = ((boxes[:, 0] - grid.x_min) / grid.cell).floor().long()
    row = ((boxes[:, 1] - grid.y_min) / grid.cell).floor().long()
    inside = (column >= 0) & (column < grid.width) & (row >= 0) & (row < grid.height)
    bare = (learnt & inside & ~positive.flatten(1).any(1)).nonzero()[:, 0]
    positive[bare, row[bare], column[bare]] = True
    return positive


def decode_boundary(dist: Tensor, theta: Tensor, grid: BevGrid) -> Tensor:
    """The boxes that boundary proposals describe.

    Args:
        dist: (B, 4, H, W) left, front, right, rear, metres.
        theta: (B, H, W) headings, radians.
        grid: of the map.

    Returns:
        (B, H, W, 5) x, y, l, w, heading.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> grid = BevGrid(0.0, 0.0, 1.0, height=4, width=8)
        >>> box = torch.tensor([[4.0, 2.0, 6.0, 3.0, 0.3]])
        >>> t = boundary_targets(box, torch.tensor([0]), grid)
        >>> torch.allclose(decode_boundary(t.dist[None], t.heading[None], grid)[0, 1, 3], box[0], atol=1e-5)
        True
    """
    op = "decode_boundary"
    require_shape(op, "dist", dist, ("B", 4, grid.height, grid.width))
    require_shape(op, "theta", theta, (dist.shape[0], grid.height, grid.width))
    left, front, right, rear = dist.unbind(1)
    x, y = grid.centres(dist)
    along, across = (front - rear) / 2, (left - right) / 2
    cos, sin = theta.cos(), theta.sin()
    centre_x = x[None, None, :] + along * cos - across * sin
    centre_y = y[None, :, None] + along * sin + across * cos
    return torch.stack((centre_x, centre_y, front + rear, left + right, theta), -1)


def split_truth(gt_boxes: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Footprints (M, 5) and 0-based labels (M,) of each frame of a detector's batch.

    Args:
        gt_boxes: (B, M, 8), or (B, M, 10) with velocity: 1-based label last, rows of label 0 are padding.

    Example:
        >>> boxes, labels = split_truth(torch.tensor([[[5.0, 1, -1, 4, 2, 1.5, 0.3, 2], [0] * 8]]))
        >>> boxes[0].shape, labels[0].tolist()
        (torch.Size([1, 5]), [1])
    """
    rows: Sequence[Tensor] = [frame[frame[:, -1] > 0] for frame in gt_boxes]
    return [r[:, [0, 1, 3, 4, 6]] for r in rows], [r[:, -1].long() - 1 for r in rows]
