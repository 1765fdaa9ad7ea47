"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._ball_query import ball_query, ball_query_multi
from tenfold.ref._nms import nms
from tenfold.ref._points_in_boxes import (
    points_in_boxes_csr,
    points_in_boxes_first,
    points_in_boxes_mask,
    points_in_boxes_padded,
)

__all__ = [
    "ball_query",
    "ball_query_multi",
    "nms",
    "points_in_boxes_csr",
    "points_in_boxes_first",
    "points_in_boxes_mask",
    "points_in_boxes_padded",
]
