"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._iou import box_iou, pairs_iou_bev
from tenfold.ref._nms import nms
from tenfold.ref._nms_rotated import nms_rotated, nms_rotated_padded

__all__ = ["box_iou", "nms", "nms_rotated", "nms_rotated_padded", "pairs_iou_bev"]
