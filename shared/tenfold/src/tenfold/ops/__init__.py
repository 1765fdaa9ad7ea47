"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._ball_query import ball_query, ball_query_multi
from tenfold.ops._batching import offsets_from_batch_index, pad, stack
from tenfold.ops._library import __contract__
from tenfold.ops._nms import nms
from tenfold.ops._points_in_boxes import points_in_boxes, points_in_boxes_padded

__all__ = [
    "__contract__",
    "ball_query",
    "ball_query_multi",
    "nms",
    "offsets_from_batch_index",
    "pad",
    "points_in_boxes",
    "points_in_boxes_padded",
    "stack",
]

_native.load(__contract__)
