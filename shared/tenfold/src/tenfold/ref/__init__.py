"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._iou import box_iou, pairs_iou_bev
from tenfold.ref._nms import nms

__all__ = ["box_iou", "nms", "pairs_iou_bev"]
