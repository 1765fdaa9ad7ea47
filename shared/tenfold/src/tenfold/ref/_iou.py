"""Reference of the rotated box overlaps: polygons cut by half-planes, in world axes and float64."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["box_iou", "pairs_iou_bev", "pairs_iou_bev_padded"]

KINDS = ("bev", "3d", "aligned_3d")
MODES = ("iou", "inter", "iof", "giou")
_CHUNK = 1 << 14


def bev_columns(boxes: Tensor) -> Tensor:
    """Return (x, y, dx, dy, yaw) of boxes with 5 or 7 columns, in float64."""
    wide = boxes.double()
    return wide[:, [0, 1, 3, 4, 6]] if wide.shape[1] == 7 else wide


def corners(bev: Tensor, origin: Tensor) -> Tensor:
    """Return (P, 4, 2) corners, counter-clockwise, relative to origins (P, 2)."""
    signs = bev.new_tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    local = bev[:, None, 2:4] * signs
    c, s = bev[:, 4:].cos(), bev[:, 4:].sin()
    turned = torch.stack([c * local[..., 0] - s * local[..., 1], s * local[..., 0] + c * local[..., 1]], -1)
    return (bev[:, :2] - origin)[:, None] + turned


def clip(polygon: Tensor, point: Tensor, normal: Tensor) -> Tensor:
    """Cut (P, K, 2) polygons by the half-planes normal·(q − point) <= 0; the result has 2K vertices.

    A vertex outside is dropped onto the border line: the number of vertices stays fixed, and what lies
    outside becomes a path along the border that has no area.
    """
    height = ((polygon - point[:, None]) * normal[:, None]).sum(-1)
    after = height.roll(-1, 1)
    inside = polygon - height.clamp(min=0)[..., None] * normal[:, None]
    crosses = (height > 0) != (after > 0)
    step = height / torch.where(crosses, height - after, torch.ones_like(after))
    crossing = polygon + step[..., None] * (polygon.roll(-1, 1) - polygon)
    return torch.stack([inside, torch.where(crosses[..., None], crossing, inside)], 2).flatten(1, 2)


def _beside(a: Tensor, b: Tensor) -> Tensor:
    """(P,) rows where b lies beyond a side of a."""
    c, s = a[:, 4:].cos(), a[:, 4:].sin()
    x, y = corners(b, a[:, :2]).unbind(-1)
    local, half = torch.stack([c * x + s * y, c * y - s * x], -1), a[:, 2:4] / 2
    return ((local.amin(1) >= half) | (local.amax(1) <= -half)).any(-1)


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area common to the BEV boxes a (P, 5) and b (P, 5), all finite and with positive sizes."""
    origin = (a[:, :2] + b[:, :2]) / 2
    frame, polygon = corners(a, origin), corners(b, origin)
    normal = torch.stack([a[:, 4].cos(), a[:, 4].sin()], -1)
    for side in range(4):  # +x, +y, -x, -y: corner 0 lies on the first two, corner 2 on the others
        polygon = clip(polygon, frame[:, 0 if side < 2 else 2], normal)
        normal = torch.stack(
            [-normal[:, 1], normal[:, 0]], -1
        )  # a quarter turn; adding it to a huge yaw does nothing
    after = polygon.roll(-1, 1)
    area = 0.5 * (polygon[..., 0] * after[..., 1] - polygon[..., 1] * after[..., 0]).sum(-1)
    # What rounding alone can produce is no overlap: boxes with a side between them and touching ones have none.
    sa, sb = a[:, 2:4].sum(-1) / 2, b[:, 2:4].sum(-1) / 2
    none = _beside(a, b) | _beside(b, a) | (area <= (sa + sb) * torch.minimum(sa, sb) * 2.0**-46)
    area = torch.where(none, 0.0, area)
    smaller = torch.minimum(a[:, 2] * a[:, 3], b[:, 2] * b[:, 3])
    return torch.where((a == b).all(-1), smaller, torch.minimum(area, smaller))


def hull_area(points: list[list[float]]) -> float:
    """Area of the convex hull of a few points (monotone chain)."""
    area = 0.0
    for order in (sorted(points), sorted(points, reverse=True)):
        chain: list[list[float]] = []
        for q in order:
            while len(chain) >= 2:
                o, p = chain[-2:]
                if (p[0] - o[0]) * (q[1] - o[1]) - (p[1] - o[1]) * (q[0] - o[0]) > 0:
                    break
                chain.pop()
            chain.append(q)
        area += 0.5 * sum(p[0] * q[1] - p[1] * q[0] for p, q in pairwise(chain))
    return area


def has_extent(boxes: Tensor, kind: int) -> Tensor:
    """Rows that are finite and have positive sizes (with the height, for volumes)."""
    sizes = boxes[:, 3:6] if kind else bev_columns(boxes)[:, 2:4]
    sizes = sizes.double()
    size, area = sizes.prod(1), sizes[:, 0] * sizes[:, 1]
    return boxes.isfinite().all(1) & (sizes > 0).all(1) & (size > 0) & size.isfinite() & area.isfinite()


def _measure(a: Tensor, b: Tensor, kind: int, mode: int) -> Tensor:
    """One value per pair of rows, all with extent."""
    flat_a, flat_b = bev_columns(a), bev_columns(b)
    if kind == 2:
        flat_a[:, 4], flat_b[:, 4] = 0.0, 0.0
    inter = intersection(flat_a, flat_b)
    size_a, size_b = flat_a[:, 2] * flat_a[:, 3], flat_b[:, 2] * flat_b[:, 3]
    span = torch.ones_like(inter)
    if kind:
        (za, ha), (zb, hb) = (x[:, [2, 5]].double().unbind(1) for x in (a, b))
        apart = (za - zb).abs()
        inter = inter * torch.minimum((ha + hb) / 2 - apart, torch.minimum(ha, hb)).clamp(min=0)
        span = torch.maximum((ha + hb) / 2 + apart, torch.maximum(ha, hb))
        size_a, size_b = size_a * ha, size_b * hb
    union = size_a + size_b - inter
    if mode == 1:
        return inter
    if mode == 2:
        return inter / size_a
    if mode == 0:
        return inter / union
    points = torch.cat([corners(flat_a, flat_a[:, :2]), corners(flat_b, flat_a[:, :2])], 1)
    if kind == 2:
        enclosing = (points.amax(1) - points.amin(1)).prod(1)
    else:
        enclosing = points.new_tensor([hull_area(p) for p in points.tolist()])
    enclosing = torch.maximum(enclosing * span, union)
    return inter / union - (enclosing - union) / enclosing


def measure(a: Tensor, b: Tensor, kind: int, mode: int) -> Tensor:
    """Values of the pairs of rows of a (P, C) and b (P, C'), in the dtype of a; 0 without extent."""
    out = a.new_zeros(len(a))
    rows = (has_extent(a, kind) & has_extent(b, kind)).nonzero().flatten()
    for part in torch.split(rows, _CHUNK):
        out[part] = _measure(a[part], b[part], kind, mode).to(out.dtype)
    return out


def check_finite(op: str, name: str, boxes: Tensor) -> None:
    """Raise ValueError for the first row that is not finite."""
    bad = ~boxes.isfinite().all(1)
    if bool(bad.any()):
        raise ValueError(f"{op}: {name}: row {int(bad.nonzero()[0])} is not finite; expected finite boxes")


def box_iou(a: Tensor, b: Tensor, kind: int, mode: int, paired: bool, validate: bool = False) -> Tensor:
    """Overlaps as `tenfold.ops.box_iou_bev`, `box_iou_3d` and `box_iou_aligned_3d` define them.

    Args:
        a: (N, 5 or 7).
        b: (M, 5 or 7).
        kind: index into ``KINDS``.
        mode: index into ``MODES``.
        paired: row with row instead of all pairs.
        validate: raise ValueError for rows that are not finite.
    """
    if validate:
        check_finite(f"box_iou_{KINDS[kind]}", "a", a)
        check_finite(f"box_iou_{KINDS[kind]}", "b", b)
    if paired:
        return measure(a, b, kind, mode)
    n, m = len(a), len(b)
    return measure(a.repeat_interleave(m, 0), b.repeat(n, 1), kind, mode).reshape(n, m)


def pairs_iou_bev(a: Tensor, b: Tensor, thr: float, validate: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs with IoU > thr as `tenfold.ops.pairs_iou_bev` defines them."""
    if validate:
        check_finite("pairs_iou_bev", "a", a)
        check_finite("pairs_iou_bev", "b", b)
    iou = box_iou(a, b, 0, 0, False)
    i, j = (iou.double() > thr).nonzero().unbind(1)
    return i, j, iou[i, j]


def pairs_iou_bev_padded(
    a: Tensor, b: Tensor, thr: float, max_pairs: int, validate: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first pairs of `pairs_iou_bev`, filled up with rows -1 and IoU 0, and the number of all pairs."""
    if validate:
        check_finite("pairs_iou_bev_padded", "a", a)
        check_finite("pairs_iou_bev_padded", "b", b)
    i, j, iou = pairs_iou_bev(a, b, thr)
    rows, values = i.new_full((2, max_pairs), -1), iou.new_zeros(max_pairs)
    rows[:, : len(i)] = torch.stack([i, j])[:, :max_pairs]
    values[: len(i)] = iou[:max_pairs]
    return rows[0].clone(), rows[1].clone(), values, torch.tensor(len(i), device=i.device)
