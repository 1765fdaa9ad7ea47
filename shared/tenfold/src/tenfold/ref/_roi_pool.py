"""Reference of the RoI pools: membership by `inside_boxes`, then one loop per box."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tenfold.ref._batching import points_and_boxes
from tenfold.ref._points_in_boxes import box_turns, inside_boxes

__all__ = ["roi_grid_pool3d", "roi_grid_pool3d_backward", "roi_point_pool", "roi_point_pool_backward"]


def enlarged(boxes: Tensor, enlarge: Sequence[float]) -> Tensor:
    """Boxes with larger sizes; those without extent stay as they are."""
    grown = boxes.clone()
    has_size = (boxes[..., 3:6] > 0).all(-1, keepdim=True)
    grown[..., 3:6] = torch.where(
        has_size, boxes[..., 3:6] + boxes.new_tensor(list(enlarge)), boxes[..., 3:6]
    )
    return grown


def roi_point_pool(
    points: Tensor,
    feats: Tensor,
    boxes: Tensor,
    k: int,
    enlarge: Sequence[float],
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return pooled (..., M, k, 3 + C), the first k hits (..., M, k) int32 or -1, and all hits (..., M) int32."""
    op = "roi_point_pool"
    elements = points_and_boxes(op, points, boxes, lengths, box_lengths, offsets, box_offsets, validate)
    flat_points, flat_feats = points.reshape(-1, 3), feats.flatten(0, -2)
    flat_boxes = enlarged(boxes.reshape(-1, 7), enlarge)
    m = flat_boxes.shape[0]
    pooled = feats.new_zeros((m, k, 3 + feats.shape[-1]))
    point = torch.full((m, k), -1, dtype=torch.int32, device=points.device)
    count = torch.zeros(m, dtype=torch.int32, device=points.device)
    slot = torch.arange(k, device=points.device)
    for (begin, number), (first, boxes_here) in elements:
        inside = inside_boxes(
            flat_points[begin : begin + number], flat_boxes[first : first + boxes_here], margin, z_margin
        )
        shown = 0 if points.dim() == 3 else begin
        for row in range(boxes_here):
            hits = inside[row].nonzero().flatten()
            count[first + row] = len(hits)
            if len(hits) == 0 or k == 0:
                continue
            stored = hits[:k]
            point[first + row, : len(stored)] = (stored + shown).to(torch.int32)
            chosen = begin + stored[slot % len(stored)]
            pooled[first + row] = torch.cat([flat_points[chosen].to(feats.dtype), flat_feats[chosen]], 1)
    shape = boxes.shape[:-1]
    return pooled.reshape(*shape, k, 3 + feats.shape[-1]), point.reshape(*shape, k), count.reshape(shape)


def roi_point_pool_backward(grad: Tensor, point: Tensor, count: Tensor, rows: int) -> Tensor:
    """Gradient of feats: (B, rows, C) for padded input, (rows, C) for stacked."""
    k, channels = point.shape[-1], grad.shape[-1] - 3
    batch = point.shape[0] if point.dim() == 3 else 1
    per = point.shape[1] if point.dim() == 3 else 0
    result = grad.new_zeros((batch * rows, channels))
    flat_point, flat_count = point.flatten(0, -2), count.flatten()
    flat_grad = grad.flatten(0, -3)[..., 3:]
    for box in range(flat_point.shape[0]):
        stored = min(int(flat_count[box]), k)
        base = box // per * rows if per else 0
        for j in range(stored):
            total = flat_grad[box, j].clone()
            for again in range(j + stored, k, stored):
                total += flat_grad[box, again]
            result[base + int(flat_point[box, j])] += total
    return result.reshape(batch, rows, channels) if point.dim() == 3 else result


def _lists(
    points: Tensor, rois: Tensor, grid: Sequence[int], max_points: int, margin: float, z_margin: float
) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (roi, cell, points of the cell, ascending, at most max_points) of one element."""
    inside = inside_boxes(points, rois, margin, z_margin)
    cosine, sine = box_turns(rois)
    shape = rois.new_tensor(list(grid))
    for row in range(rois.shape[0]):
        hits = inside[row].nonzero().flatten()
        d = points[hits] - rois[row, :3]
        local = torch.stack(
            [
                d[:, 0] * cosine[row] + d[:, 1] * sine[row],
                d[:, 1] * cosine[row] - d[:, 0] * sine[row],
                d[:, 2],
            ],
            1,
        )
        size = rois[row, 3:6]
        cell = ((local + size / 2) / (size / shape)).floor()
        cell = torch.minimum(torch.where(cell > 0, cell, 0), shape - 1).long()
        flat = (cell[:, 0] * grid[1] + cell[:, 1]) * grid[2] + cell[:, 2]
        for one in flat.unique().tolist():
            yield row, one, hits[flat == one][:max_points]


def roi_grid_pool3d(
    rois: Tensor,
    points: Tensor,
    feats: Tensor,
    grid: Sequence[int],
    max_points: int,
    maximum: bool,
    need_arg: bool,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    roi_lengths: Tensor | None,
    offsets: Tensor | None,
    roi_offsets: Tensor | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    """Return pooled (..., M, gx, gy, gz, C) and, for the maximum, its arg as rows of the flattened points."""
    op = "roi_grid_pool3d"
    batching = (lengths, roi_lengths, offsets, roi_offsets)
    elements = points_and_boxes(op, points, rois, *batching, validate, "rois", "roi_")
    flat_points, flat_feats = points.reshape(-1, 3), feats.flatten(0, -2)
    flat_rois = rois.reshape(-1, 7)
    cells, channels = math.prod(grid), feats.shape[-1]
    pooled = feats.new_zeros((flat_rois.shape[0], cells, channels))
    arg = torch.full(
        pooled.shape if maximum and need_arg else (0,), -1, dtype=torch.int32, device=points.device
    )
    for (begin, number), (first, rois_here) in elements:
        here = (flat_points[begin : begin + number], flat_rois[first : first + rois_here])
        for row, cell, chosen in _lists(*here, grid, max_points, margin, z_margin):
            values = flat_feats[begin + chosen]
            if maximum:
                best, which = values[0], torch.zeros(channels, dtype=torch.int64, device=points.device)
                for i in range(1, len(values)):
                    better = ((values[i] > best) | values[i].isnan()) & ~best.isnan()
                    best, which = torch.where(better, values[i], best), torch.where(better, i, which)
                pooled[first + row, cell] = best
                if need_arg:
                    arg[first + row, cell] = (begin + chosen[which]).to(torch.int32)
            else:
                total = values[0].clone()
                for value in values[1:]:
                    total += value
                pooled[first + row, cell] = total / len(values)
    shape = rois.shape[:-1]
    if maximum and need_arg:
        arg = arg.reshape(*shape, cells, channels)
    return pooled.reshape(*shape, *grid, channels), arg


def roi_grid_pool3d_backward(
    grad: Tensor,
    arg: Tensor,
    rois: Tensor,
    points: Tensor,
    grid: Sequence[int],
    max_points: int,
    maximum: bool,
    margin: float,
    z_margin: float,
    lengths: Tensor | None,
    roi_lengths: Tensor | None,
    offsets: Tensor | None,
    roi_offsets: Tensor | None,
) -> Tensor:
    """Gradient of feats, in the form of points: to the arg of the maximum, or 1 / n to each averaged point."""
    channels = grad.shape[-1]
    flat_points, flat_rois = points.reshape(-1, 3), rois.reshape(-1, 7)
    result = grad.new_zeros((flat_points.shape[0], channels))
    flat = grad.reshape(flat_rois.shape[0], math.prod(grid), channels)
    if maximum:
        values, rows = flat.flatten(0, 1), arg.flatten(0, -2).long()
        for cell in (rows >= 0).any(1).nonzero().flatten().tolist():
            column = (rows[cell] >= 0).nonzero().flatten()
            result[rows[cell, column], column] += values[cell, column]
        return result.reshape(*points.shape[:-1], channels)
    elements = points_and_boxes(
        "roi_grid_pool3d", points, rois, lengths, roi_lengths, offsets, roi_offsets, False, "rois", "roi_"
    )
    for (begin, number), (first, rois_here) in elements:
        here = (flat_points[begin : begin + number], flat_rois[first : first + rois_here])
        for row, cell, chosen in _lists(*here, grid, max_points, margin, z_margin):
            result[begin + chosen] += flat[first + row, cell] / len(chosen)
    return result.reshape(*points.shape[:-1], channels)
