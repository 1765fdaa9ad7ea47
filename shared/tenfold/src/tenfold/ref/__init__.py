"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._nms import nms
from tenfold.ref._sparse_conv import (
    rulebook_invert,
    rulebook_strided,
    rulebook_submanifold,
    sparse_conv,
    sparse_conv_weight,
    sparse_max_pool,
)

__all__ = [
    "nms",
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_submanifold",
    "sparse_conv",
    "sparse_conv_weight",
    "sparse_max_pool",
]
