"""The slow, readable twin of every op: the oracle of the tests and the fallback without native code."""

from tenfold.ref._ball_query import ball_query, ball_query_multi
from tenfold.ref._nms import nms

__all__ = ["ball_query", "ball_query_multi", "nms"]
