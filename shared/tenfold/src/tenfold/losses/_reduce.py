"""Normalisers that several processes share."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mean_count"]


def mean_count(count: Tensor, least: float = 1.0) -> Tensor:
    """Mean of a count over all processes, at least ``least / processes``.

    A sum over this process's items divided by it, averaged over processes as DistributedDataParallel averages
    gradients, is the sum over all items divided by all counts (at least ``least``): many processes equal one.

    Args:
        count: scalar, the number (or weight) of this process's items.
        least: what the count of all processes is raised to.

    Returns:
        Scalar of the same dtype, or float32 of an integer; no gradient. Without `torch.distributed` it is the
        count, at least ``least``.

    Example:
        >>> import torch
        >>> mean_count(torch.tensor(0)), mean_count(torch.tensor(7))
        (tensor(1.), tensor(7.))
    """
    total = count.detach().clone()
    total = total if total.is_floating_point() else total.float()
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return total.clamp(min=least)
    dist.all_reduce(total)
    return total.clamp(min=least) / dist.get_world_size()
