"""Loss of boxes that are told by bins and residuals."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tenfold.geometry import BinBoxCoder
from tenfold.losses._box import smooth_l1
from tenfold.ops._checks import require_float, require_shape

__all__ = ["bin_box_loss"]


def bin_box_loss(
    codes: Tensor, boxes: Tensor, points: Tensor, coder: BinBoxCoder, *, size_weight: float = 3.0
) -> Tensor:
    """Cross entropy of the bins, smooth L1 of the residuals in the true bins, of height and of extents.

    Args:
        codes: (N, coder.code_size) predictions.
        boxes: (N, 7).
        points: (N, 3) what the codes are relative to.
        coder: see `tenfold.geometry.BinBoxCoder`.
        size_weight: of the extents.

    Returns:
        (N,) losses.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: not floating point.

    Source:
        PointRCNN (Shi et al. 2019), eq. 5, with the author's weight of the extents.

    Example:
        >>> import torch
        >>> coder = BinBoxCoder((3.9, 1.6, 1.5))
        >>> g, p = torch.tensor([[10.0, 1, -1, 4, 1.7, 1.5, 0.3]]), torch.tensor([[9.0, 1.2, -0.7]])
        >>> sharp = coder.exact(g, p) * torch.tensor([99.0] * 24 + [1.0] * 25 + [99.0] * 12 + [1.0] * 15)
        >>> bin_box_loss(sharp, g, p, coder).item() < 1e-6
        True
    """
    op = "bin_box_loss"
    require_float(op, "codes", codes)
    require_shape(op, "codes", codes, ("N", coder.code_size))
    require_shape(op, "boxes", boxes, (len(codes), 7))
    require_shape(op, "points", points, (len(codes), 3))
    pred, true = coder.split(codes), coder.encode(boxes, points)

    def axis(logits: Tensor, residuals: Tensor, index: Tensor, wanted: Tensor) -> Tensor:
        own = residuals.gather(1, index[:, None])[:, 0]
        return F.cross_entropy(logits, index, reduction="none") + smooth_l1(own, wanted, beta=1.0)

    ground = axis(pred.x_bin, pred.x_residual, true.x_bin, true.x_residual)
    ground = ground + axis(pred.y_bin, pred.y_residual, true.y_bin, true.y_residual)
    heading = axis(pred.heading_bin, pred.heading_residual, true.heading_bin, true.heading_residual)
    height = smooth_l1(pred.z, true.z, beta=1.0)
    size = smooth_l1(pred.size, true.size, beta=1.0).mean(1)
    return ground + heading + height + size_weight * size
