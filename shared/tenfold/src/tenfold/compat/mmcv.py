"""The names of `mmcv.ops` that `tenfold.ops` covers, with their layouts.

Quirks that are kept: (boxes, score) rows as output of suppression, the ``offset`` of the inclusive-pixel
convention, bottom-centre z of 3D boxes, channel-first features, one slot lost in RoI-aware pooling. Quirks that
are not: the peer's CPU code of rotated suppression compares with ``>=`` and its CUDA code with ``>``, here it is
``>`` everywhere; `batched_nms` shifts boxes apart by class, which loses precision, here classes are exact groups;
overlaps are exact (the peer's may exceed 1 or drop to a third for identical boxes); repeated calls give the
same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from tenfold import ops

__all__ = [
    "DynamicScatter",
    "RoIAwarePool3d",
    "RoIPointPool3d",
    "Voxelization",
    "ball_query",
    "batched_nms",
    "box_iou_rotated",
    "boxes_iou3d",
    "boxes_overlap_bev",
    "diff_iou_rotated_2d",
    "diff_iou_rotated_3d",
    "dynamic_scatter",
    "furthest_point_sample",
    "gather_points",
    "grouping_operation",
    "knn",
    "nms",
    "nms3d",
    "nms3d_normal",
    "nms_rotated",
    "points_in_boxes_all",
    "points_in_boxes_cpu",
    "points_in_boxes_part",
    "three_interpolate",
    "three_nn",
    "voxelization",
]

# ---- suppression and overlap


def _least(scores: Tensor, score_threshold: float) -> float | None:
    """The threshold in the scores' precision, in which the peer compares; None filters nothing."""
    return float(scores.new_tensor(score_threshold)) if score_threshold > 0 else None


def _arrays(*values: Any) -> tuple[bool, list[Tensor]]:
    return isinstance(values[0], np.ndarray), [torch.as_tensor(v) for v in values]


def _back(as_numpy: bool, *values: Tensor) -> Any:
    return tuple(v.numpy() for v in values) if as_numpy else values


def nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> Any:
    """Suppression of 2D boxes.

    Args:
        boxes: (N, 4) x1, y1, x2, y2; array or tensor.
        scores: (N,).
        iou_threshold: suppress strictly above it.
        offset: 0, or 1 where x2 and y2 are the last pixels inside.
        score_threshold: above 0, only boxes with a larger score take part.
        max_num: most boxes to keep; -1 keeps all.

    Returns:
        ``(dets, inds)``: (K, 5) kept boxes with their scores, by descending score, and their rows. NumPy for NumPy.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [1, 0, 9, 9], [20, 20, 29, 29]])
        >>> nms(boxes, torch.tensor([0.5, 0.9, 0.8]), 0.5)[1]
        tensor([1, 2])
    """
    if offset not in (0, 1):
        raise ValueError(f"nms: offset: got {offset}; expected 0 or 1")
    as_numpy, (b, s) = _arrays(boxes, scores)
    grown = b + b.new_tensor([0, 0, offset, offset]) if offset else b
    keep = ops.nms(
        grown,
        s,
        iou_threshold,
        score_threshold=_least(s, score_threshold),
        max_out=max_num if max_num >= 0 else None,
    )
    return _back(as_numpy, torch.cat([b[keep], s[keep, None]], 1), keep)


def batched_nms(
    boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: dict[str, Any] | None, class_agnostic: bool = False
) -> tuple[Tensor, Tensor]:
    """Suppression within each class.

    Args:
        boxes: (N, 4), or (N, 5) rotated x, y, w, h, angle.
        scores: (N,).
        idxs: (N,) integer classes.
        nms_cfg: ``type`` ("nms" or "nms_rotated"), ``iou_threshold``, ``score_threshold``, ``max_num``,
            ``class_agnostic``; ``split_thr`` is ignored. None only sorts.
        class_agnostic: one class for all.

    Returns:
        ``(dets, keep)``: kept boxes with their scores, and their rows, by descending score.

    Raises:
        NotImplementedError: another type, such as "soft_nms".

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9]])
        >>> batched_nms(boxes, torch.tensor([0.5, 0.9]), torch.tensor([0, 1]), {"iou_threshold": 0.5})[1]
        tensor([1, 0])
    """
    if nms_cfg is None:
        ordered, keep = scores.sort(descending=True, stable=True)
        return torch.cat([boxes[keep], ordered[:, None]], -1), keep
    options = {**nms_cfg}
    kind = options.pop("type", "nms")
    if kind not in ("nms", "nms_rotated"):
        raise NotImplementedError(f"batched_nms: nms_cfg: got type {kind!r}; expected 'nms' or 'nms_rotated'")
    agnostic = options.pop("class_agnostic", class_agnostic)
    threshold = options.pop("iou_threshold", options.pop("iou_thr", None))
    if threshold is None:
        raise ValueError("batched_nms: nms_cfg: got no iou_threshold; expected a number in [0, 1]")
    labels = torch.zeros_like(idxs) if agnostic else idxs
    most, least = options.get("max_num", -1), options.get("score_threshold", 0)
    if boxes.shape[-1] == 5:
        keep = ops.nms_rotated(boxes, scores, threshold, labels=labels)
        keep = keep[scores[keep] > least] if least > 0 else keep
        keep = keep[:most] if most >= 0 else keep
    else:
        keep = ops.batched_nms(
            boxes,
            scores,
            labels,
            threshold,
            score_threshold=_least(scores, least),
            max_out=most if most >= 0 else None,
        )
    return torch.cat([boxes[keep], scores[keep, None]], -1), keep


def _counter_clockwise(boxes: Tensor, clockwise: bool) -> Tensor:
    """The peer's angle grows from x to y, as ours, when ``clockwise`` (it thinks of y pointing down)."""
    return boxes if clockwise else torch.cat([boxes[:, :4], -boxes[:, 4:]], 1)


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    iou_threshold: float,
    labels: Tensor | None = None,
    clockwise: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Suppression of rotated boxes.

    Args:
        dets: (N, 5) x, y, w, h, angle in radians.
        scores: (N,).
        iou_threshold: suppress strictly above it.
        labels: (N,) classes that do not suppress each other.
        clockwise: the angle turns x towards y; False turns it the other way.

    Returns:
        ``(dets, keep)``: (K, 6) with scores, and rows by descending score.

    Example:
        >>> dets = torch.tensor([[0.0, 0, 4, 2, 0.1], [0, 0, 4, 2, 0.2]])
        >>> nms_rotated(dets, torch.tensor([0.5, 0.9]), 0.3)[1]
        tensor([1])
    """
    keep = ops.nms_rotated(_counter_clockwise(dets, clockwise), scores, iou_threshold, labels=labels)
    return torch.cat([dets[keep], scores[keep, None]], 1), keep


def box_iou_rotated(
    bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", aligned: bool = False, clockwise: bool = True
) -> Tensor:
    """IoU of rotated boxes.

    Args:
        bboxes1: (N, 5) x, y, w, h, angle in radians.
        bboxes2: (M, 5).
        mode: "iou", or "iof" over the area of ``bboxes1``.
        aligned: row i with row i.
        clockwise: as for `nms_rotated`.

    Returns:
        (N, M), or (N,) when aligned.

    Example:
        >>> box_iou_rotated(torch.tensor([[0.0, 0, 2, 1, 0]]), torch.tensor([[0.0, 0, 1, 2, 0]]))
        tensor([[0.3333]])
    """
    if mode not in ("iou", "iof"):
        raise ValueError(f"box_iou_rotated: mode: got {mode!r}; expected 'iou' or 'iof'")
    return ops.box_iou_bev(
        _counter_clockwise(bboxes1, clockwise),
        _counter_clockwise(bboxes2, clockwise),
        paired=aligned,
        mode=mode,
    )


def boxes_overlap_bev(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Bird's-eye intersection areas (N, M) of boxes (N, 7) and (M, 7)."""
    return ops.boxes_overlap_bev(boxes_a, boxes_b)


def boxes_iou3d(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """3D IoU (N, M) of boxes (N, 7) and (M, 7) with the geometric centre."""
    return ops.box_iou_3d(boxes_a, boxes_b)


def nms3d(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppression of (N, 7) boxes by bird's-eye IoU, despite its name; rows by descending score."""
    return ops.nms_rotated(boxes, scores, iou_threshold)


def nms3d_normal(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Suppression of (N, 7) boxes by bird's-eye IoU with every heading taken as 0."""
    return ops.nms_bev_aligned(boxes, scores, iou_threshold)


def _paired_rows(box1: Tensor, box2: Tensor, columns: int) -> Tensor:
    flat = ops.rotated_iou(box1.reshape(-1, columns), box2.reshape(-1, columns))
    return flat.reshape(box1.shape[:-1])


def diff_iou_rotated_2d(box1: Tensor, box2: Tensor) -> Tensor:
    """Differentiable IoU (B, N) of paired boxes (B, N, 5): x, y, w, h, angle.

    Example:
        >>> box = torch.tensor([[[0.0, 0, 2, 1, 0.3]]])
        >>> diff_iou_rotated_2d(box, box)
        tensor([[1.]])
    """
    return _paired_rows(box1, box2, 5)


def diff_iou_rotated_3d(box3d1: Tensor, box3d2: Tensor) -> Tensor:
    """Differentiable IoU (B, N) of paired boxes (B, N, 7): x, y, z, w, h, l, angle, l being the height."""
    return _paired_rows(box3d1, box3d2, 7)


# ---- points in boxes and pools: z is the bottom of the box


def _centred(boxes: Tensor) -> Tensor:
    lift = torch.zeros_like(boxes)
    lift[..., 2] = boxes[..., 5] / 2
    return boxes + lift


def points_in_boxes_part(points: Tensor, boxes: Tensor) -> Tensor:
    """First box of every point.

    Args:
        points: (B, M, 3).
        boxes: (B, T, 7) with the **bottom** centre: z is the lower face.

    Returns:
        (B, M) int32, -1 outside.

    Example:
        >>> points_in_boxes_part(torch.tensor([[[0.0, 0, 0.9]]]), torch.tensor([[[0.0, 0, 0, 1, 1, 1, 0]]]))
        tensor([[0]], dtype=torch.int32)
    """
    return ops.points_in_boxes(points, _centred(boxes), margin=0.0)


def points_in_boxes_all(points: Tensor, boxes: Tensor) -> Tensor:
    """All boxes of every point: (B, M, T) int32 of zeros and ones; boxes with the bottom centre."""
    return ops.points_in_boxes(points, _centred(boxes), mode="mask", margin=0.0).transpose(1, 2).int()


def points_in_boxes_cpu(points: Tensor, boxes: Tensor) -> Tensor:
    """As `points_in_boxes_all`: the peer's CPU code has the same convention."""
    return points_in_boxes_all(points, boxes)


class RoIAwarePool3d(nn.Module):
    """Pooling over a grid in each box; boxes with the bottom centre.

    Args:
        out_size: cells along each axis.
        max_pts_per_voxel: slots of a cell. The first holds the count, so one point less is used.
        mode: "max" or "avg".
    """

    def __init__(
        self, out_size: int | Sequence[int], max_pts_per_voxel: int = 128, mode: str = "max"
    ) -> None:
        super().__init__()
        if mode not in ("max", "avg"):
            raise ValueError(f"RoIAwarePool3d: mode: got {mode!r}; expected 'max' or 'avg'")
        self.out_size, self.max_pts_per_voxel, self.mode = out_size, max_pts_per_voxel, mode

    def forward(self, rois: Tensor, pts: Tensor, pts_feature: Tensor) -> Tensor:
        """Pool (N, C) features of (N, 3) points over (M, 7) boxes: (M, gx, gy, gz, C)."""
        return ops.roi_grid_pool3d(
            _centred(rois),
            pts,
            pts_feature,
            self.out_size,
            max_points=self.max_pts_per_voxel - 1,
            mode=cast(Literal["max", "avg"], self.mode),
            margin=0.0,
        )


class RoIPointPool3d(nn.Module):
    """Points of each box in a fixed number of slots; boxes with the bottom centre.

    Args:
        num_sampled_points: slots of a box.
    """

    def __init__(self, num_sampled_points: int = 512) -> None:
        super().__init__()
        self.num_sampled_points = num_sampled_points

    def forward(self, points: Tensor, point_features: Tensor, boxes3d: Tensor) -> tuple[Tensor, Tensor]:
        """Pool (B, N, 3) and (B, N, C) into (B, M, k, 3 + C); empty flags (B, M) int32."""
        pooled, empty = ops.roi_point_pool(
            points, point_features, _centred(boxes3d), self.num_sampled_points, margin=0.0
        )
        return pooled, empty.int()


# ---- voxels


def voxelization(
    points: Tensor,
    voxel_size: Sequence[float],
    coors_range: Sequence[float],
    max_points: int = 35,
    max_voxels: int = 20000,
    deterministic: bool = True,
) -> Any:
    """Voxels with caps, or the cell of every point where a cap is -1.

    Args:
        points: (N, C), x, y, z first.
        voxel_size: along x, y, z.
        coors_range: lower, then upper corner.
        max_points: stored points of a voxel, or -1.
        max_voxels: voxels, or -1.
        deterministic: ignored; it always is.

    Returns:
        voxels (V, P, C), coordinates (V, 3) int32 z, y, x, and points per voxel (V,) int32; or coordinates (N, 3)
        int32 of every point, -1 outside the range.

    Example:
        >>> voxelization(torch.tensor([[0.5, 1.5, 2.5]]), [1, 1, 1], [0, 0, 0, 4, 4, 4], 2, 9)[1]
        tensor([[2, 1, 0]], dtype=torch.int32)
    """
    if max_points == -1 or max_voxels == -1:
        coords, owner, _ = ops.dynamic_voxelize(points, voxel_size, coors_range, order="first")
        cells = torch.cat([coords[:, 1:], coords.new_full((1, 3), -1)])
        return cells[owner.long()]
    grid = ops.voxelize(points, voxel_size, coors_range, max_points, max_voxels)
    return grid.voxels, grid.coords[:, 1:], grid.num_points


class Voxelization(nn.Module):
    """`voxelization` as a module; ``max_voxels`` may be (training, testing)."""

    def __init__(
        self,
        voxel_size: Sequence[float],
        point_cloud_range: Sequence[float],
        max_num_points: int,
        max_voxels: int | tuple[int, int] = 20000,
        deterministic: bool = True,
    ) -> None:
        super().__init__()
        self.voxel_size, self.point_cloud_range = voxel_size, point_cloud_range
        self.max_num_points = max_num_points
        self.max_voxels = (max_voxels, max_voxels) if isinstance(max_voxels, int) else max_voxels

    def forward(self, input: Tensor) -> Any:
        """Voxels of (N, C) points, see `voxelization`."""
        most = self.max_voxels[0 if self.training else 1]
        return voxelization(input, self.voxel_size, self.point_cloud_range, self.max_num_points, most)


def dynamic_scatter(
    feats: Tensor, coors: Tensor, reduce_type: Literal["max", "sum", "mean"] = "max"
) -> tuple[Tensor, Tensor]:
    """Reduce the rows that share coordinates.

    Args:
        feats: (N, C).
        coors: (N, D) integer coordinates; rows with a negative one are left out.
        reduce_type: "max", "sum" or "mean".

    Returns:
        (M, C) and (M, D), ordered lexicographically. Gradients flow to ``feats``.

    Example:
        >>> dynamic_scatter(torch.tensor([[1.0], [5.0], [3.0]]), torch.tensor([[0, 1], [0, 1], [-1, 0]]))
        (tensor([[5.]]), tensor([[0, 1]]))
    """
    used = (coors >= 0).all(1)
    cells, owner = torch.unique(coors[used], dim=0, return_inverse=True)
    index = torch.full((len(coors),), -1, device=coors.device)
    index[used] = owner
    return ops.scatter(feats, index, len(cells), reduce_type), cells


class DynamicScatter(nn.Module):
    """`dynamic_scatter` of one cloud, coors (N, 3), or of a batch, coors (N, 4) with the element first.

    Args:
        voxel_size: kept for the peer's signature.
        point_cloud_range: likewise.
        average_points: mean instead of maximum.
    """

    def __init__(
        self, voxel_size: Sequence[float], point_cloud_range: Sequence[float], average_points: bool
    ) -> None:
        super().__init__()
        self.voxel_size, self.point_cloud_range = voxel_size, point_cloud_range
        self.average_points = average_points

    def forward(self, points: Tensor, coors: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce (N, C) points: (M, C) and (M, 3 or 4)."""
        return dynamic_scatter(points, coors, "mean" if self.average_points else "max")


# ---- points: padded batches, channel-first features


def furthest_point_sample(points_xyz: Tensor, num_points: int) -> Tensor:
    """(B, num_points) int32 rows of (B, N, 3) points; ties go to the lower row (in the peer to any)."""
    return ops.farthest_point_sample(points_xyz, num_points).int()


def ball_query(
    min_radius: float, max_radius: float, sample_num: int, xyz: Tensor, center_xyz: Tensor
) -> Tensor:
    """(B, M, sample_num) int32 first neighbours of (B, M, 3) centres among (B, N, 3); zeros where none is."""
    return ops.ball_query(xyz, center_xyz, max_radius, sample_num, min_radius=min_radius)[0]


def knn(k: int, xyz: Tensor, center_xyz: Tensor | None = None, transposed: bool = False) -> Tensor:
    """(B, k, M) int32 nearest neighbours, nearest first; ``transposed`` takes (B, 3, N) and (B, 3, M)."""
    centers = xyz if center_xyz is None else center_xyz
    if transposed:
        xyz, centers = xyz.transpose(1, 2), centers.transpose(1, 2)
    return ops.knn(xyz, centers, k)[1].transpose(1, 2).contiguous()


def three_nn(target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """Distances and int32 rows (B, N, 3) of the nearest source points of (B, N, 3) targets."""
    return ops.three_nn(target, source)


def three_interpolate(features: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """(B, C, N) weighted sums of the three rows of (B, C, M) features; gradients to features and weights."""
    return ops.three_interpolate(features.transpose(1, 2), indices, weight).transpose(1, 2)


def grouping_operation(features: Tensor, indices: Tensor) -> Tensor:
    """(B, C, M, k) columns of (B, C, N) features at (B, M, k); zeros at -1."""
    return ops.gather_rows(features.transpose(1, 2), indices).permute(0, 3, 1, 2)


def gather_points(features: Tensor, indices: Tensor) -> Tensor:
    """(B, C, M) columns of (B, C, N) features at (B, M); zeros at -1."""
    return ops.gather_rows(features.transpose(1, 2), indices).transpose(1, 2)
