"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._library import __contract__
from tenfold.ops._nms import batched_nms, nms, nms_padded

__all__ = ["__contract__", "batched_nms", "nms", "nms_padded"]

_native.load(__contract__)
