"""Which points belong to which object, and where in it they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tenfold.geometry import enlarge_boxes, points_to_box_frame
from tenfold.ops import points_in_boxes
from tenfold.ops._checks import require_shape

IGNORED = -1


class PointTargets(NamedTuple):
    """What `assign_points` returns.

    Args:
        labels: (N,) int64: 0 background, 1 to C the class, -1 ignored.
        inside: (P,) int64 rows of the foreground points, ascending.
        boxes: (P, 7) box of each foreground point.
    """

    labels: Tensor
    inside: Tensor
    boxes: Tensor


@torch.no_grad()
def assign_points(xyz: Tensor, offsets: Tensor, gt_boxes: Tensor, *, enlarge: float = 0.2) -> PointTargets:
    """Points inside a box are foreground; those close around it are ignored.

    In overlapping boxes the first one wins.

    Args:
        xyz: (N, 3) stacked points.
        offsets: (B + 1,).
        gt_boxes: (B, M, 8), zero padded, 1-based label last.
        enlarge: metres that are added to each extent for "close around" (in total, not per side).

    Raises:
        ValueError: other shapes.

    Example:
        >>> box = torch.tensor([[[5.0, 0, 0, 4, 2, 2, 0, 1]]])
        >>> points = torch.tensor([[5.0, 0, 0], [7.05, 0, 0], [8.0, 0, 0]])
        >>> assign_points(points, torch.tensor([0, 3]), box).labels.tolist()
        [1, -1, 0]
    """
    frames, most = gt_boxes.shape[:2]
    require_shape("assign_points", "gt_boxes", gt_boxes, (len(offsets) - 1, "M", 8), "slice velocities off")
    xyz = xyz.contiguous()
    boxes = gt_boxes[..., :7].flatten(0, 1).to(xyz).contiguous()
    box_offsets = torch.arange(frames + 1, device=xyz.device) * most
    where: dict[str, Any] = {"offsets": offsets, "box_offsets": box_offsets}
    row = points_in_boxes(xyz, boxes, **where).long()
    # Padding stays without extent: it must not grow into a box at the origin.
    used = gt_boxes[..., 7].flatten()[:, None] > 0
    around = torch.where(used, enlarge_boxes(boxes, enlarge), boxes)
    near = points_in_boxes(xyz, around, **where) >= 0
    inside = (row >= 0).nonzero()[:, 0]
    labels = torch.where(near, IGNORED, 0)
    labels[inside] = gt_boxes[..., 7].flatten().long()[row[inside]]
    return PointTargets(labels, inside, boxes[row[inside]])


def part_targets(points: Tensor, boxes: Tensor) -> Tensor:
    """Where in its box a point lies (Part-A2, Shi et al. 2020, eq. 2): (N, 3) in [0, 1].

    Args:
        points: (N, 3).
        boxes: (N, 7).

    Example:
        >>> part_targets(torch.tensor([[5.0, 0, 0], [7.0, 1, 1]]), torch.tensor([[5.0, 0, 0, 4, 2, 2, 0]] * 2))
        tensor([[0.5000, 0.5000, 0.5000],
                [1.0000, 1.0000, 1.0000]])
    """
    local: Tensor = points_to_box_frame(points, boxes)
    return local / boxes[:, 3:6] + 0.5


__all__ = ["IGNORED", "PointTargets", "assign_points", "part_targets"]
