"""Losses that several packages share: pure functions of tensors, no state."""

from tenfold.losses._bins import bin_box_loss
from tenfold.losses._box import direction_loss, sin_difference, smooth_l1
from tenfold.losses._corner import corner_loss
from tenfold.losses._focal import sigmoid_focal_loss
from tenfold.losses._reduce import mean_count

__all__ = [
    "bin_box_loss",
    "corner_loss",
    "direction_loss",
    "mean_count",
    "sigmoid_focal_loss",
    "sin_difference",
    "smooth_l1",
]
