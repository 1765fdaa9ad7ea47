"""Reference of the differentiable paired overlap: values by clipped polygons, gradients by boundary lengths."""

from __future__ import annotations

from functools import cmp_to_key

import torch
from torch import Tensor

from tenfold.ref._iou import bev_columns, check_finite, has_extent, hull_area, intersection, measure

__all__ = ["rotated_iou", "rotated_iou_backward"]

IOU, GIOU, DIOU = range(3)
_TINY = 1e-12  # relative: what counts as the same line or the same corner
_SIGNS = ((1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))
_NORMALS = ((0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0))  # of the sides that begin at these corners
_BEV = [0, 1, 3, 4, 6]


def _seven(boxes: Tensor) -> Tensor:
    """Boxes as (N, 7) float64; flat ones get the height 1."""
    wide = boxes.double()
    if wide.shape[1] == 7:
        return wide
    z = torch.zeros_like(wide[:, :1])
    return torch.cat([wide[:, :2], z, wide[:, 2:4], z + 1, wide[:, 4:]], 1)


def _world(boxes: Tensor, local: Tensor) -> Tensor:
    """(P, K, 2) points of the boxes' frames, relative to the world's origin."""
    c, s = boxes[:, 6:].cos(), boxes[:, 6:].sin()
    x, y = local.unbind(-1)
    return torch.stack([boxes[:, :1] + c * x - s * y, boxes[:, 1:2] + s * x + c * y], -1)


def _local(boxes: Tensor, world: Tensor) -> Tensor:
    c, s = boxes[:, 6:].cos(), boxes[:, 6:].sin()
    x, y = (world - boxes[:, None, :2]).unbind(-1)
    return torch.stack([c * x + s * y, c * y - s * x], -1)


def _area_gradient(own: Tensor, other: Tensor) -> Tensor:
    """(P, 7) gradient of the area common to two boxes with respect to ``own``.

    Each side of ``own`` contributes the length of its part inside ``other``, half of it where both boxes have
    a side there.
    """
    half, limit = own[:, 3:5] / 2, other[:, None, 3:5] / 2
    origin = own[:, :2].clone()
    own, other = own.clone(), other.clone()
    own[:, :2] -= origin
    other[:, :2] -= origin
    tiny = _TINY * (half.sum(1) + limit[:, 0].sum(1) + other[:, :2].abs().sum(1))[:, None, None]
    begin = half[:, None] * half.new_tensor(_SIGNS)  # (P, side, axis), as all that follows
    end = begin.roll(-1, 1)
    nx, ny = half.new_tensor(_NORMALS).unbind(1)
    c, s = own[:, 6:].cos(), own[:, 6:].sin()
    turned = torch.stack([c * nx - s * ny, s * nx + c * ny], -1)
    normal = _local(torch.cat([torch.zeros_like(other[:, :6]), other[:, 6:]], 1), turned)
    q0, q1 = (_local(other, _world(own, ends)) for ends in (begin, end))
    border = torch.where(normal > 0, limit, -limit)
    shared = ((q0 - border).abs() <= tiny) & ((q1 - border).abs() <= tiny)
    step = q1 - q0
    flat = step.abs() <= tiny * 1e-3
    safe = torch.where(flat, 1.0, step)
    t0, t1 = (-limit - q0) / safe, (limit - q0) / safe
    t0, t1 = torch.minimum(t0, t1), torch.maximum(t0, t1)
    t0 = torch.where(flat, torch.where(q0.abs() > limit, 2.0, 0.0), t0)
    low = torch.where(shared, 0.0, t0).amax(2).clamp(min=0)
    high = torch.where(shared, 1.0, torch.where(flat, 1.0, t1)).amin(2).clamp(max=1)
    edge = end - begin
    length = (high - low).clamp(min=0) * edge.abs().sum(2) * torch.where(shared.any(2), 0.5, 1.0)
    middle = begin + ((low + high) / 2)[..., None] * edge
    total = torch.zeros_like(own)
    total[:, :2] = (length[..., None] * turned).sum(1)
    total[:, 3], total[:, 4] = (length[:, 1] + length[:, 3]) / 2, (length[:, 0] + length[:, 2]) / 2
    total[:, 6] = (length * (middle[..., 0] * ny - middle[..., 1] * nx)).sum(1)
    return total


def _corner_gradient(boxes: Tensor, push: Tensor) -> Tensor:
    """(P, 7) gradient of the boxes whose corners (P, 4, 2) have the gradients ``push``."""
    c, s = boxes[:, 6:].cos(), boxes[:, 6:].sin()
    sign = boxes.new_tensor(_SIGNS)
    local = boxes[:, None, 3:5] / 2 * sign
    gx, gy = push.unbind(-1)
    along, across = c * gx + s * gy, c * gy - s * gx
    total = torch.zeros_like(boxes)
    total[:, 0], total[:, 1] = gx.sum(1), gy.sum(1)
    total[:, 3] = (along * sign[:, 0]).sum(1) / 2
    total[:, 4] = (across * sign[:, 1]).sum(1) / 2
    total[:, 6] = (across * local[..., 0] - along * local[..., 1]).sum(1)
    return total


def _all_corners(a: Tensor, b: Tensor) -> Tensor:
    """(P, 8, 2) corners of both boxes relative to the centre of a."""
    sign = a.new_tensor(_SIGNS)
    b, a = b.clone(), a.clone()
    b[:, :2] -= a[:, :2]
    a[:, :2] = 0
    return torch.cat([_world(x, x[:, None, 3:5] / 2 * sign) for x in (a, b)], 1)


def _hull_push(points: list[list[float]], tiny: float) -> list[list[float]]:
    """Gradient of the hull's area with respect to 8 points; points that coincide share it."""

    def compare(i: int, j: int) -> int:  # corners above one another go by y, whatever rounding does to x
        dx, dy = points[i][0] - points[j][0], points[i][1] - points[j][1]
        step = dx if abs(dx) > tiny else dy
        return (step > 0) - (step < 0)

    order = sorted(range(8), key=cmp_to_key(compare))
    flat = tiny * (tiny / _TINY)  # a corner on an edge of the hull is no vertex

    def turns(o: int, p: int, q: int) -> bool:
        (ox, oy), (px, py), (qx, qy) = points[o], points[p], points[q]
        return (px - ox) * (qy - oy) - (py - oy) * (qx - ox) > flat

    chain: list[int] = []
    for way in (order, order[::-1]):
        part: list[int] = []
        for i in way:
            while len(part) >= 2 and not turns(part[-2], part[-1], i):
                part.pop()
            part.append(i)
        chain += part[:-1]
    push = [[0.0, 0.0] for _ in range(8)]
    for k, i in enumerate(chain):
        before, after = points[chain[k - 1]], points[chain[(k + 1) % len(chain)]]
        g = (0.5 * (after[1] - before[1]), 0.5 * (before[0] - after[0]))
        same = [j for j in range(8) if all(abs(points[j][a] - points[i][a]) <= tiny for a in (0, 1))]
        for j in same:
            push[j][0] += g[0] / len(same)
            push[j][1] += g[1] / len(same)
    return push


def _extent_push(points: Tensor, tiny: Tensor) -> tuple[Tensor, Tensor]:
    """Side lengths (P, 2) of the box around 8 points and their gradient (P, 8, 2), shared by ties."""
    low, high = points.amin(1), points.amax(1)
    top = (points >= high[:, None] - tiny[:, None, None]).double()
    bottom = (points <= low[:, None] + tiny[:, None, None]).double()
    return high - low, top / top.sum(1, keepdim=True) - bottom / bottom.sum(1, keepdim=True)


def _same_height(a: Tensor, b: Tensor) -> Tensor:
    return _TINY * ((a[:, 5] + b[:, 5]) / 2 + (a[:, 2] - b[:, 2]).abs())


def _interval(a: Tensor, b: Tensor, span: bool) -> tuple[Tensor, Tensor]:
    """Gradients of the overlap of the z intervals, or of their span, with respect to z and dz of a."""
    step, tiny = b[:, 2] - a[:, 2], _same_height(a, b)
    upper = step + b[:, 5] / 2 - a[:, 5] / 2  # positive: a's upper end is the lower one
    lower = b[:, 5] / 2 - a[:, 5] / 2 - step
    top, bottom = (torch.where(e.abs() <= tiny, 0.5, (e > 0).double()) for e in (upper, lower))
    if span:
        top, bottom = 1 - top, 1 - bottom
    return top - bottom, (top + bottom) / 2


def _pair_gradients(a: Tensor, b: Tensor, kind: int, flat: bool) -> tuple[Tensor, Tensor]:
    """(P, 7) gradients of the value with respect to a and b, all with extent."""
    own, other = torch.cat([a, b]), torch.cat([b, a])
    area = intersection(bev_columns(a), bev_columns(b)).repeat(2)
    apart = own[:, :3] - other[:, :3]
    reach = (own[:, 5] + other[:, 5]) / 2
    low, high = torch.minimum(own[:, 5], other[:, 5]), torch.maximum(own[:, 5], other[:, 5])
    overlap = torch.minimum((reach - apart[:, 2].abs()).clamp(min=0), low)
    inter = area * overlap
    union = own[:, 3:6].prod(1) + other[:, 3:6].prod(1) - inter
    dz, dh = _interval(own, other, False)
    inside = (overlap > _same_height(own, other)) & (area > 0)
    d_inter = _area_gradient(own, other) * overlap[:, None]
    d_inter[:, 2] += area * dz
    d_inter[:, 5] += area * dh
    d_inter = torch.where(inside[:, None], d_inter, 0)
    d_size = torch.zeros_like(own)
    d_size[:, 3:6] = own[:, [4, 3, 3]] * own[:, [5, 5, 4]]
    d_union = d_size - d_inter
    total = d_inter / union[:, None] - d_union * (inter / union.square())[:, None]
    if kind != IOU:
        points = _all_corners(a, b)
        tiny = _TINY * (own[:, 3:5].sum(1) + other[:, 3:5].sum(1) + apart[:, :2].abs().sum(1))[: len(a)]
        span = torch.maximum(reach + apart[:, 2].abs(), high)
        sz, sh = _interval(own, other, True)
    if kind == GIOU:
        rows = points.tolist()
        hull = points.new_tensor([hull_area(p) for p in rows]).repeat(2)
        pushes = [_hull_push(p, t) for p, t in zip(rows, tiny.tolist(), strict=True)]
        d_hull = _corner_gradient(own, _each_own(points.new_tensor(pushes).view(-1, 8, 2))) * span[:, None]
        d_hull[:, 2] += hull * sz
        d_hull[:, 5] += hull * sh
        enclosing = torch.maximum(hull * span, union)
        total += d_union / enclosing[:, None] - d_hull * (union / enclosing.square())[:, None]
    elif kind == DIOU:
        side, push = _extent_push(points, tiny)
        diagonal = side.square().sum(1).repeat(2) + (0 if flat else span.square())
        d_diagonal = _corner_gradient(own, _each_own(push * (2 * side[:, None])))
        if not flat:
            d_diagonal[:, 2] += 2 * span * sz
            d_diagonal[:, 5] += 2 * span * sh
        d_square = torch.zeros_like(own)
        d_square[:, :3] = 2 * apart
        square = apart.square().sum(1)
        total -= d_square / diagonal[:, None] - d_diagonal * (square / diagonal.square())[:, None]
    return total[: len(a)], total[len(a) :]


def _each_own(push: Tensor) -> Tensor:
    """(2 P, 4, 2) from (P, 8, 2): what concerns the corners of a, then what concerns those of b."""
    return torch.cat([push[:, :4], push[:, 4:]])


def rotated_iou(pred: Tensor, target: Tensor, kind: int, validate: bool = False) -> Tensor:
    """Return the value (N,) of every pair of rows, as `tenfold.ops.rotated_iou` defines it."""
    if validate:
        check_finite("rotated_iou", "pred", pred)
        check_finite("rotated_iou", "target", target)
    volume = int(pred.shape[1] == 7)
    if kind != DIOU:
        return measure(pred, target, volume, 3 if kind == GIOU else 0)
    out = pred.new_zeros(len(pred))
    rows = (has_extent(pred, volume) & has_extent(target, volume)).nonzero().flatten()
    iou = measure(pred.double(), target.double(), volume, 0)[rows]
    a, b = _seven(pred)[rows], _seven(target)[rows]
    points = _all_corners(a, b)
    side = points.amax(1) - points.amin(1)
    diagonal = side.square().sum(1)
    if volume:
        reach = (a[:, 2] - b[:, 2]).abs() + (a[:, 5] + b[:, 5]) / 2
        diagonal = diagonal + torch.maximum(reach, torch.maximum(a[:, 5], b[:, 5])).square()
    out[rows] = (iou - (a[:, :3] - b[:, :3]).square().sum(1) / diagonal).to(out.dtype)
    return out


def rotated_iou_backward(grad: Tensor, pred: Tensor, target: Tensor, kind: int) -> tuple[Tensor, Tensor]:
    """Return the gradients of pred and target; zero rows where a box has no extent."""
    volume = int(pred.shape[1] == 7)
    rows = (has_extent(pred, volume) & has_extent(target, volume)).nonzero().flatten()
    parts = _pair_gradients(_seven(pred)[rows], _seven(target)[rows], kind, not volume)
    outputs = []
    for boxes, part in zip((pred, target), parts, strict=True):
        result = torch.zeros_like(boxes, memory_format=torch.contiguous_format)
        columns = part if volume else part[:, _BEV]
        result[rows] = (columns * grad[rows].double()[:, None]).to(result.dtype)
        outputs.append(result)
    return outputs[0], outputs[1]
