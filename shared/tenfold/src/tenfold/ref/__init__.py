"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._nms import (
    box_iou,
    nms,
)
from tenfold.ref._scatter import (
    scatter,
    scatter_backward,
)
from tenfold.ref._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_submanifold,
    sparse_conv,
    sparse_conv_weight,
    sparse_max_pool,
)
from tenfold.ref._voxelize import (
    cells,
    dynamic_voxelize,
    voxelize,
    voxelize_backward,
    voxelize_out,
    voxelize_padded,
)

__all__ = [
    "box_iou",
    "cells",
    "dynamic_voxelize",
    "nms",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_submanifold",
    "scatter",
    "scatter_backward",
    "sparse_conv",
    "sparse_conv_weight",
    "sparse_max_pool",
    "voxelize",
    "voxelize_backward",
    "voxelize_out",
    "voxelize_padded",
]
