"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._iou import box_iou_3d, box_iou_aligned_3d, box_iou_bev, boxes_overlap_bev, pairs_iou_bev
from tenfold.ops._library import __contract__
from tenfold.ops._nms import nms
from tenfold.ops._nms_rotated import nms_3d, nms_bev_aligned, nms_rotated, nms_rotated_padded

__all__ = [
    "__contract__",
    "box_iou_3d",
    "box_iou_aligned_3d",
    "box_iou_bev",
    "boxes_overlap_bev",
    "nms",
    "nms_3d",
    "nms_bev_aligned",
    "nms_rotated",
    "nms_rotated_padded",
    "pairs_iou_bev",
]

_native.load(__contract__)
