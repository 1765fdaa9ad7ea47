"""The names of `pytorch3d.ops` for points and boxes: padded batches, ``lengths``, named tuples.

What differs from the peer:

- Distances are those of `tenfold.ops` and deterministic; ties go to the lower index.
- `box3d_overlap` takes boxes that stand upright (any yaw, no roll or pitch); others raise.
- `sample_farthest_points` starts at row 0 unless asked for random starts, then from torch's generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold import ops

__all__ = ["ball_query", "box3d_overlap", "knn_gather", "knn_points", "sample_farthest_points"]


class _KNN(NamedTuple):
    dists: Tensor
    idx: Tensor
    knn: Tensor | None


def knn_gather(x: Tensor, idx: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Rows of x (N, M, U) at idx (N, L, K): (N, L, K, U), zero where idx is -1 or beyond ``lengths``.

    Example:
        >>> knn_gather(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[1, -1]]])).flatten()
        tensor([2., 0.])
    """
    idx = idx.long()
    used = idx >= 0
    if lengths is not None:
        used = used & (torch.arange(idx.shape[2], device=x.device) < lengths[:, None, None])
    n, l, k = idx.shape  # noqa: E741
    rows = torch.where(used, idx, 0).reshape(n, l * k, 1).expand(-1, -1, x.shape[2])
    return torch.where(used[..., None], x.gather(1, rows).reshape(n, l, k, x.shape[2]), 0)


def _squared(p1: Tensor, p2: Tensor, idx: Tensor) -> Tensor:
    """Squared distances to the neighbours, with gradients to both clouds; 0 where idx is -1."""
    d = (p1[:, :, None] - knn_gather(p2, idx)).square()
    return torch.where(idx >= 0, (d[..., 0] + d[..., 1]) + d[..., 2], 0)


def knn_points(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
    norm: int = 2,
    K: int = 1,
    version: int = -1,
    return_nn: bool = False,
    return_sorted: bool = True,
) -> _KNN:
    """The K nearest points of p2 for every point of p1, by ascending distance.

    Args:
        p1: (N, P1, 3) queries.
        p2: (N, P2, 3) references.
        lengths1: (N,) used queries; rows behind have distance 0 and index 0, as in the peer.
        lengths2: (N,) used references; missing neighbours likewise.
        norm: only 2.
        K: neighbours.
        version: ignored.
        return_nn: also gather the neighbours.
        return_sorted: ignored, the result always is.

    Returns:
        ``(dists, idx, knn)``: squared distances (N, P1, K), differentiable; int64 indices; (N, P1, K, 3) or None.

    Example:
        >>> p = torch.tensor([[[0.0, 0, 0], [2.0, 0, 0]]])
        >>> knn_points(p, p, K=2).dists
        tensor([[[0., 4.],
                 [0., 4.]]])
    """
    if norm != 2:
        raise NotImplementedError(f"knn_points: norm: got {norm}; only 2 is available")
    _, found = ops.knn(p2.detach(), p1.detach(), K, lengths=lengths2, query_lengths=lengths1)
    idx = found.long()
    if lengths1 is not None:
        inside = torch.arange(p1.shape[1], device=p1.device) < lengths1[:, None]
        idx = torch.where(inside[..., None], idx, -1)
    near = knn_gather(p2, idx) if return_nn else None
    return _KNN(_squared(p1, p2, idx), idx.clamp(min=0), near)


def ball_query(
    p1: Tensor,
    p2: Tensor,
    lengths1: Tensor | None = None,
    lengths2: Tensor | None = None,
    K: int = 500,
    radius: float = 0.2,
    return_nn: bool = True,
) -> _KNN:
    """The first K points of p2, in index order, strictly within a radius of every point of p1.

    Args:
        p1: (N, P1, 3) centres.
        p2: (N, P2, 3) points.
        lengths1: (N,) used centres.
        lengths2: (N,) used points.
        K: most neighbours.
        radius: in the units of the points.
        return_nn: also gather the neighbours.

    Returns:
        ``(dists, idx, knn)``: squared distances (N, P1, K), 0 in free slots; int64 indices, -1 in free slots;
        (N, P1, K, 3), zero in free slots, or None.

    Example:
        >>> p = torch.tensor([[[0.0, 0, 0], [0.1, 0, 0], [5.0, 0, 0]]])
        >>> ball_query(p, p, K=3, radius=1.0).idx[0, 0]
        tensor([ 0,  1, -1])
    """
    found, count = ops.ball_query(
        p2.detach(), p1.detach(), radius, K, lengths=lengths2, center_lengths=lengths1
    )
    free = torch.arange(K, device=p1.device) >= count[..., None]
    idx = torch.where(free, -1, found).long()
    return _KNN(_squared(p1, p2, idx), idx, knn_gather(p2, idx) if return_nn else None)


def sample_farthest_points(
    points: Tensor,
    lengths: Tensor | None = None,
    K: int | Sequence[int] | Tensor = 50,
    random_start_point: bool = False,
) -> tuple[Tensor, Tensor]:
    """Farthest point samples of every cloud.

    Args:
        points: (N, P, 3).
        lengths: (N,) used points.
        K: samples, one number or one per cloud.
        random_start_point: start at a random point of each cloud instead of the first.

    Returns:
        (N, max K, 3) points and (N, max K) int64 indices. Clouds with fewer than K points give each point once;
        the rest is 0 and -1.

    Example:
        >>> p = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [9.0, 0, 0]]])
        >>> sample_farthest_points(p, K=2)[1]
        tensor([[0, 2]])
    """
    n, p = points.shape[:2]
    used = torch.full((n,), p) if lengths is None else lengths.to("cpu", torch.int64)
    wanted = torch.as_tensor(K, device="cpu").expand(n) if not isinstance(K, int) else torch.full((n,), K)
    most = int(wanted.max()) if n else 0
    start = [int(torch.randint(max(int(u), 1), (1,))) for u in used] if random_start_point else 0
    idx = ops.farthest_point_sample(points.detach(), most, start=start, lengths=used.to(points.device))
    slots = torch.arange(most, device=points.device)
    inside = slots < torch.minimum(used, wanted).to(points.device)[:, None]
    idx = torch.where(inside, idx, -1)
    return knn_gather(points, idx[:, None])[:, 0], idx


def _upright(name: str, corners: Tensor) -> Tensor:
    """(N, 7) boxes of corners (N, 8, 3): 0-1 is along x, 0-3 along y, 0-4 along z of the box."""
    if corners.dim() != 3 or tuple(corners.shape[1:]) != (8, 3):
        raise ValueError(f"box3d_overlap: {name}: got shape {tuple(corners.shape)}; expected (N, 8, 3)")
    wide = corners.double()
    x, y, z = (wide[:, i] - wide[:, 0] for i in (1, 3, 4))
    size = torch.stack([x.norm(dim=1), y.norm(dim=1), z.norm(dim=1)], 1)
    tolerance = 1e-4 * size.amax(1).clamp(min=1e-12)
    turned = torch.stack([-x[:, 1], x[:, 0]], 1) / size[:, :1].clamp(min=1e-12) * size[:, 1:2]
    box = torch.stack([turned[:, 0], turned[:, 1], torch.zeros_like(turned[:, 0])], 1)
    bad = (
        ((y - box).norm(dim=1) > tolerance)
        | (x[:, 2].abs() > tolerance)
        | (z[:, :2].norm(dim=1) > tolerance)
        | ((wide[:, 6] - wide[:, 0] - x - y - z).norm(dim=1) > tolerance)
    )
    if bool(bad.any()):
        raise NotImplementedError(
            f"box3d_overlap: {name}: row {int(bad.nonzero()[0])} is no upright box with corners in the order "
            "(0,0,0) (1,0,0) (1,1,0) (0,1,0) (0,0,1) (1,0,1) (1,1,1) (0,1,1); only those are available"
        )
    yaw = torch.atan2(x[:, 1], x[:, 0])
    return torch.cat([(wide[:, 0] + wide[:, 6]) / 2, size, yaw[:, None]], 1)


def box3d_overlap(boxes1: Tensor, boxes2: Tensor, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Intersection volumes and IoU of all pairs of upright boxes given by corners.

    Args:
        boxes1: (N, 8, 3) corners in the order of the unit cube (0,0,0) (1,0,0) (1,1,0) (0,1,0), then z = 1.
        boxes2: (M, 8, 3).
        eps: ignored; the peer checks coplanarity with it.

    Returns:
        (N, M) volumes and (N, M) IoU; no gradient.

    Example:
        >>> cube = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1],
        ...                       [0, 1, 1]]])
        >>> volume, iou = box3d_overlap(cube, cube + torch.tensor([0.5, 0.0, 0.0]))
        >>> round(volume.item(), 4), round(iou.item(), 4)
        (0.5, 0.3333)
    """
    a, b = _upright("boxes1", boxes1), _upright("boxes2", boxes2)
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    return ops.box_iou_3d(a, b, mode="inter").to(dtype), ops.box_iou_3d(a, b).to(dtype)
