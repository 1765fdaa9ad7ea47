"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._nms import batched_nms, nms, nms_padded

__all__ = ["batched_nms", "nms", "nms_padded"]
