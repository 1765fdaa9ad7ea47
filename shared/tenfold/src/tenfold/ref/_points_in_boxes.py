"""Reference of points in boxes: every point turned into every box's frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tenfold.ref._batching import points_and_boxes

__all__ = ["points_in_boxes_csr", "points_in_boxes_first", "points_in_boxes_mask", "points_in_boxes_padded"]


def box_turns(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine (M,) of the boxes' yaw: taken in float64 through libm, then rounded."""
    finite = [angle if math.isfinite(angle) else 0.0 for angle in boxes[:, 6].double().tolist()]
    return (
        boxes.new_tensor([math.cos(angle) for angle in finite]),
        boxes.new_tensor([math.sin(angle) for angle in finite]),
    )


def inside_boxes(points: Tensor, boxes: Tensor, margin: float, z_margin: float) -> Tensor:
    """Return (M, N) bool for points (N, 3) and boxes (M, 7) of one element."""
    cosine, sine = (turn[:, None] for turn in box_turns(boxes))
    d = points[None, :, :] - boxes[:, None, :3]
    x = d[..., 0] * cosine + d[..., 1] * sine
    y = d[..., 1] * cosine - d[..., 0] * sine
    half = boxes[:, None, 3:6] / 2 + boxes.new_tensor([margin, margin, z_margin])
    inside = (x.abs() < half[..., 0]) & (y.abs() < half[..., 1]) & (d[..., 2].abs() <= half[..., 2])
    usable = boxes.isfinite().all(dim=1) & (boxes[:, 3:6] > 0).all(dim=1)
    return inside & usable[:, None] & points.isfinite().all(dim=1)


def points_in_boxes_mask(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Mode "mask" of `tenfold.ops.points_in_boxes`."""
    n, m = points.shape[-2], boxes.shape[-2]
    pairs = points_and_boxes(
        "points_in_boxes", points, boxes, lengths, box_lengths, offsets, box_offsets, validate
    )
    mask = torch.zeros((*points.shape[:-2], m, n), dtype=torch.bool, device=points.device)
    for element, ((begin, count), (first, number)) in enumerate(pairs):
        inside = inside_boxes(
            points.reshape(-1, 3)[begin : begin + count],
            boxes.reshape(-1, 7)[first : first + number],
            margin,
            z_margin,
        )
        if points.dim() == 3:
            mask[element, :number, :count] = inside
        else:
            mask[first : first + number, begin : begin + count] = inside
    return mask


def points_in_boxes_first(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
    validate: bool = False,
) -> Tensor:
    """Mode "first" of `tenfold.ops.points_in_boxes`."""
    mask = points_in_boxes_mask(
        points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate
    )
    if mask.shape[-2] == 0:
        return torch.full(points.shape[:-1], -1, dtype=torch.int32, device=points.device)
    first = mask.to(torch.uint8).argmax(dim=-2)
    return torch.where(mask.any(dim=-2), first, -1).to(torch.int32)


def points_in_boxes_csr(
    points: Tensor,
    boxes: Tensor,
    margin: float,
    z_margin: float,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mode "csr" of `tenfold.ops.points_in_boxes`."""
    mask = points_in_boxes_mask(points, boxes, margin, z_margin, None, None, offsets, box_offsets, validate)
    bounds = torch.zeros(len(mask) + 1, dtype=torch.int64, device=points.device)
    bounds[1:] = mask.sum(dim=1).cumsum(0)
    return bounds, mask.nonzero()[:, 1].to(torch.int32)


def points_in_boxes_padded(
    points: Tensor,
    boxes: Tensor,
    max_points: int,
    margin: float,
    z_margin: float,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
    validate: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fixed-size lists as `tenfold.ops.points_in_boxes_padded` defines them."""
    mask = points_in_boxes_mask(
        points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets, validate
    )
    n = mask.shape[-1]
    column = torch.arange(n, device=mask.device)
    ordered = torch.where(mask, column, n).sort(dim=-1).values[..., :max_points]
    point = torch.full((*mask.shape[:-1], max_points), -1, dtype=torch.int32, device=mask.device)
    point[..., : ordered.shape[-1]] = torch.where(ordered < n, ordered, -1).to(torch.int32)
    return point, mask.sum(dim=-1).to(torch.int32)
