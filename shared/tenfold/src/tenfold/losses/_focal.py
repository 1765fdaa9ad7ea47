"""Focal losses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tenfold.ops._checks import require, require_float, require_shape

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss of independent sigmoids (Lin et al. 2017, eq. 5), element by element.

    ``FL = -alpha_t (1 - p_t)^gamma log p_t``, with ``p_t = p`` where the target is 1 and ``1 - p`` where it
    is 0. Written with the logits, so it neither overflows nor loses its gradient at large ones.

    Args:
        logits: any shape.
        targets: the same shape, in [0, 1].
        alpha: weight of the targets 1; targets 0 weigh ``1 - alpha``.
        gamma: how fast well classified elements fade, >= 0.

    Returns:
        The loss of each element, in the shape of ``logits``.

    Raises:
        ValueError: shapes that differ, or an option out of range.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0])).mul(16 / torch.tensor(2.0).log())
        tensor([1., 3.])
    """
    op = "sigmoid_focal_loss"
    require_float(op, "logits", logits)
    require_float(op, "targets", targets)
    require_shape(
        op, "targets", targets, tuple(logits.shape), "targets are one-hot, without a background column"
    )
    require(0 <= alpha <= 1, f"{op}: alpha: got {alpha}; expected a share in [0, 1]")
    require(gamma >= 0, f"{op}: gamma: got {gamma}; expected a number >= 0")
    p = logits.sigmoid()
    missed = targets * (1 - p) + (1 - targets) * p
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return weight * missed.pow(gamma) * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
