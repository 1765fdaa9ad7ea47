"""The loss: cross-entropy with weighted classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.losses import mean_count

__all__ = ["boundary_loss"]


def boundary_loss(logits: Tensor, labels: Tensor, class_weights: Sequence[float] = (1.0, 9.0)) -> Tensor:
    """Weighted mean of the cross-entropy over the boundaries of a batch, of all processes together.

    Args:
        logits: (..., 2).
        labels: (...) 0, 1, or -1 for a boundary that is left out.
        class_weights: of no boundary and boundary; only their ratio counts.

    Returns:
        A number; 0 where every boundary is left out. Averaged over processes, as DistributedDataParallel averages
        gradients, it is the weighted mean over all their boundaries.

    Source: section 4.3 of the paper (weights 1 to 9; the released configuration has 0.5 and 5).

    >>> boundary_loss(torch.zeros(3, 2), torch.tensor([0, 1, -1])).item() == torch.tensor(2.0).log().item()
    True
    """
    flat = labels.reshape(-1)
    weight = torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
    summed = F.cross_entropy(logits.reshape(-1, 2), flat, weight=weight, ignore_index=-1, reduction="sum")
    counted = weight[flat.clamp(min=0)] * (flat >= 0)
    return summed / mean_count(counted.sum(), least=1e-9)
