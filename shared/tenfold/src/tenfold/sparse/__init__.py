"""Sparse 3D convolution: tensors, layers and checkpoints."""

from tenfold.sparse._checkpoint import convert_spconv_state_dict, load_spconv_state_dict
from tenfold.sparse._layers import (
    SparseConv3d,
    SparseInverseConv3d,
    SparseMaxPool3d,
    SparseModule,
    SparseSequential,
    SubMConv3d,
    ToDense,
)
from tenfold.sparse._tensor import Rulebook, Sites, SparseTensor

__all__ = [
    "Rulebook",
    "Sites",
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseMaxPool3d",
    "SparseModule",
    "SparseSequential",
    "SparseTensor",
    "SubMConv3d",
    "ToDense",
    "convert_spconv_state_dict",
    "load_spconv_state_dict",
]
