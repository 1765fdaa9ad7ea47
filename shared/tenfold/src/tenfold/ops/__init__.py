"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._library import __contract__
from tenfold.ops._nms import nms
from tenfold.ops._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_submanifold,
    sparse_conv,
    sparse_max_pool,
)

__all__ = [
    "__contract__",
    "nms",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_submanifold",
    "sparse_conv",
    "sparse_max_pool",
]

_native.load(__contract__)
