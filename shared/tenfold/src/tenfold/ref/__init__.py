"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._nms import nms
from tenfold.ref._scatter import scatter, scatter_backward
from tenfold.ref._voxelize import (
    dynamic_voxelize,
    voxelize,
    voxelize_backward,
    voxelize_out,
    voxelize_padded,
)

__all__ = [
    "dynamic_voxelize",
    "nms",
    "scatter",
    "scatter_backward",
    "voxelize",
    "voxelize_backward",
    "voxelize_out",
    "voxelize_padded",
]
