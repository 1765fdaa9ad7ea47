"""NumPy in, NumPy out, no torch: loops that are sequential or awkward in arrays, compiled.

Importing this module loads no torch. Inputs are checked, never cast silently; the GIL is released; results
are owned by NumPy; functions are thread-safe.
"""

from tenfold.host._matching import KittiCounts, match_kitti, match_kitti_scores

__all__ = ["KittiCounts", "match_kitti", "match_kitti_scores"]
