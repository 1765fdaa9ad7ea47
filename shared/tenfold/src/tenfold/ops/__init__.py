"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._library import (
    __contract__,
)
from tenfold.ops._nms import (
    nms,
)
from tenfold.ops._scatter import (
    scatter,
)
from tenfold.ops._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_submanifold,
    sparse_conv,
    sparse_max_pool,
)
from tenfold.ops._voxelize import (
    PaddedVoxels,
    Voxels,
    dynamic_voxelize,
    voxelize,
    voxelize_padded,
)

__all__ = [
    "PaddedVoxels",
    "Voxels",
    "__contract__",
    "dynamic_voxelize",
    "nms",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_submanifold",
    "scatter",
    "sparse_conv",
    "sparse_max_pool",
    "voxelize",
    "voxelize_padded",
]

_native.load(__contract__)
