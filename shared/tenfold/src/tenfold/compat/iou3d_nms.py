"""The names of OpenPCDet's box ops (`iou3d_nms`, `roiaware_pool3d`, `roipoint_pool3d`), on any device.

Boxes are (x, y, z, dx, dy, dz, heading) with the geometric centre, as in `tenfold.ops`. What differs from the
peer:

- Overlaps are exact. The peer lets corners count within 1e-2 and sorts vertices by angle, so it inflates small
  overlaps and may exceed 1. Unions are not clamped to 1e-6: boxes without size overlap nothing.
- The functions ending in ``_gpu`` run wherever their tensors are.
- `RoIPointPool3d` has a gradient to the features (the peer raises), and enlarges no box without size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from tenfold import ops

__all__ = [
    "RoIAwarePool3d",
    "RoIPointPool3d",
    "boxes_aligned_iou3d_gpu",
    "boxes_bev_iou_cpu",
    "boxes_iou3d_gpu",
    "boxes_iou_bev",
    "nms_gpu",
    "nms_normal_gpu",
    "points_in_boxes_cpu",
    "points_in_boxes_gpu",
]

_CPU_MARGIN = 1e-2
_GPU_MARGIN = 1e-5


def boxes_bev_iou_cpu(boxes_a: Any, boxes_b: Any) -> Any:
    """Bird's-eye IoU of all pairs; NumPy in, NumPy out.

    Args:
        boxes_a: (N, 7) array or tensor.
        boxes_b: (M, 7).

    Returns:
        (N, M) of the kind of the input.

    Example:
        >>> import numpy as np
        >>> box = np.array([[0, 0, 0, 4, 2, 1, 0.3]], dtype=np.float32)
        >>> boxes_bev_iou_cpu(box, box)
        array([[1.]], dtype=float32)
    """
    iou = ops.box_iou_bev(torch.as_tensor(boxes_a), torch.as_tensor(boxes_b))
    return iou.numpy() if isinstance(boxes_a, np.ndarray) else iou


def boxes_iou_bev(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """Bird's-eye IoU (N, M) of boxes (N, 7) and (M, 7).

    Example:
        >>> boxes_iou_bev(torch.tensor([[0.0, 0, 0, 2, 1, 1, 0]]), torch.tensor([[0.0, 0, 9, 1, 2, 1, 0]]))
        tensor([[0.3333]])
    """
    return ops.box_iou_bev(boxes_a, boxes_b)


def boxes_iou3d_gpu(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """3D IoU (N, M) of boxes (N, 7) and (M, 7).

    Example:
        >>> boxes_iou3d_gpu(torch.tensor([[0.0, 0, 0, 2, 1, 1, 0]]), torch.tensor([[0.0, 0, 0.5, 2, 1, 1, 0]]))
        tensor([[0.3333]])
    """
    return ops.box_iou_3d(boxes_a, boxes_b)


def boxes_aligned_iou3d_gpu(boxes_a: Tensor, boxes_b: Tensor) -> Tensor:
    """3D IoU of row i with row i: (N, 1), the peer's shape. The boxes may be rotated; "aligned" means paired.

    Example:
        >>> box = torch.tensor([[0.0, 0, 0, 2, 1, 1, 0.5]])
        >>> boxes_aligned_iou3d_gpu(box, box)
        tensor([[1.]])
    """
    return ops.box_iou_3d(boxes_a, boxes_b, paired=True)[:, None]


def nms_gpu(
    boxes: Tensor, scores: Tensor, thresh: float, pre_maxsize: int | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Suppression by bird's-eye IoU, strictly above the threshold; ties in score go to the lower row.

    Args:
        boxes: (N, 7).
        scores: (N,).
        thresh: in [0, 1].
        pre_maxsize: only the best scores take part.
        kwargs: ignored, as in the peer.

    Returns:
        ``(keep, None)``: int64 rows by descending score.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [0.1, 0, 0, 4, 2, 1, 0]])
        >>> nms_gpu(boxes, torch.tensor([0.5, 0.9]), 0.1)
        (tensor([1]), None)
    """
    return ops.nms_rotated(boxes, scores, thresh, pre_max=pre_maxsize), None


def nms_normal_gpu(boxes: Tensor, scores: Tensor, thresh: float, **kwargs: Any) -> tuple[Tensor, None]:
    """Suppression by bird's-eye IoU with every heading taken as 0.

    Args:
        boxes: (N, 7).
        scores: (N,).
        thresh: in [0, 1].
        kwargs: ignored, as in the peer.

    Returns:
        ``(keep, None)``.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, 0], [0, 0, 0, 4, 2, 1, 1.5]])
        >>> nms_normal_gpu(boxes, torch.tensor([0.5, 0.9]), 0.5)
        (tensor([1]), None)
    """
    return ops.nms_bev_aligned(boxes, scores, thresh), None


def points_in_boxes_cpu(points: Any, boxes: Any) -> Any:
    """Mask of all pairs with the margin of the peer's CPU code, 1e-2 in x and y.

    Args:
        points: (N, 3) array or tensor.
        boxes: (M, 7).

    Returns:
        (M, N) int32 of zeros and ones, NumPy for NumPy.

    Example:
        >>> import numpy as np
        >>> points_in_boxes_cpu(np.array([[1.005, 0, 0]]), np.array([[0.0, 0, 0, 2, 2, 2, 0]]))
        array([[1]], dtype=int32)
    """
    mask = ops.points_in_boxes(
        torch.as_tensor(points), torch.as_tensor(boxes), mode="mask", margin=_CPU_MARGIN
    ).int()
    return mask.numpy() if isinstance(points, np.ndarray) else mask


def points_in_boxes_gpu(points: Tensor, boxes: Tensor) -> Tensor:
    """First box of every point, with the margin of the peer's CUDA code, 1e-5.

    Args:
        points: (B, N, 3).
        boxes: (B, M, 7); zero rows pad and hold nothing (in the peer they hold the origin).

    Returns:
        (B, N) int32, -1 outside.

    Example:
        >>> points_in_boxes_gpu(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0]]]))
        tensor([[1]], dtype=torch.int32)
    """
    return ops.points_in_boxes(points, boxes, margin=_GPU_MARGIN)


class RoIAwarePool3d(nn.Module):
    """`tenfold.ops.roi_grid_pool3d` with the peer's call.

    Args:
        out_size: cells along each axis, one number or three.
        max_pts_each_voxel: slots of a cell. The first holds the count, so one point less is used.

    Example:
        >>> pool = RoIAwarePool3d(2)
        >>> rois = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
        >>> pool(rois, torch.tensor([[0.5, 0.5, 0.5]]), torch.ones(1, 4)).shape
        torch.Size([1, 2, 2, 2, 4])
    """

    def __init__(self, out_size: int | Sequence[int], max_pts_each_voxel: int = 128) -> None:
        super().__init__()
        self.out_size = out_size
        self.max_pts_each_voxel = max_pts_each_voxel

    def forward(self, rois: Tensor, pts: Tensor, pts_feature: Tensor, pool_method: str = "max") -> Tensor:
        """Pool (N, C) features over (M, gx, gy, gz); ``pool_method`` is "max" or "avg"."""
        return ops.roi_grid_pool3d(
            rois,
            pts,
            pts_feature,
            self.out_size,
            max_points=self.max_pts_each_voxel - 1,
            mode=cast(Literal["max", "avg"], pool_method),
            margin=_GPU_MARGIN,
        )


class RoIPointPool3d(nn.Module):
    """`tenfold.ops.roi_point_pool` with the peer's call.

    Args:
        num_sampled_points: slots of a box.
        pool_extra_width: metres added to the sizes, in all; one number or three.

    Example:
        >>> pool = RoIPointPool3d(4)
        >>> points, boxes = torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0, 0, 2, 2, 2, 0]]])
        >>> pooled, empty = pool(points, torch.ones(1, 1, 2), boxes)
        >>> pooled.shape, empty
        (torch.Size([1, 1, 4, 5]), tensor([[0]], dtype=torch.int32))
    """

    def __init__(
        self, num_sampled_points: int = 512, pool_extra_width: float | Sequence[float] = 1.0
    ) -> None:
        super().__init__()
        self.num_sampled_points = num_sampled_points
        width = pool_extra_width
        self.pool_extra_width = (width,) * 3 if isinstance(width, (int, float)) else tuple(width)

    def forward(self, points: Tensor, point_features: Tensor, boxes3d: Tensor) -> tuple[Tensor, Tensor]:
        """Pool (B, N, 3) points and (B, N, C) features into (B, M, k, 3 + C); empty flags (B, M) int32."""
        pooled, empty = ops.roi_point_pool(
            points,
            point_features,
            boxes3d,
            self.num_sampled_points,
            enlarge=self.pool_extra_width,
            margin=_GPU_MARGIN,
        )
        return pooled, empty.int()
