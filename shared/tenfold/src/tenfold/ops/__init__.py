"""The kernels' Python face: one module per op family, every op with its contract in its docstring."""

from tenfold import _native
from tenfold.ops._library import __contract__
from tenfold.ops._nms import nms

__all__ = ["__contract__", "nms"]

_native.load(__contract__)
