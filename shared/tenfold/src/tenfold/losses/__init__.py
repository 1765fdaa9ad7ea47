"""Losses that several packages share: pure functions of tensors, no state."""

from tenfold.losses._box import direction_loss, sin_difference, smooth_l1
from tenfold.losses._focal import sigmoid_focal_loss

__all__ = ["direction_loss", "sigmoid_focal_loss", "sin_difference", "smooth_l1"]
