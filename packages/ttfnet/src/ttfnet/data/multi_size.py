"""Training on inputs of several sizes: one size for all images of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ttfnet.data.dataset import Batch

__all__ = ["drawn_size", "resize_batch"]


def drawn_size(sizes: Sequence[int], seed: int, epoch: int, step: int) -> int:
    """The size of a step: the same in every process, and after resuming.

    Example:
        >>> {drawn_size((416, 512), 0, 0, step) for step in range(20)} == {416, 512}
        True
    """
    return int(np.random.default_rng((seed, epoch, step)).choice(np.asarray(sizes)))


def resize_batch(batch: Batch, side: int) -> Batch:
    """The batch with square inputs of another size; boxes that come below one pixel are left out and counted.

    Args:
        batch: with square inputs.
        side: multiple of 32.
    """
    factor = side / batch.images.shape[-1]
    if factor == 1:
        return batch
    images = F.interpolate(batch.images, (side, side), mode="bilinear", antialias=factor < 1)
    whole = [((own[:, 2:] - own[:, :2]) * factor >= 1).all(1) for own in batch.boxes]
    lost = sum(len(own) - int(own.sum()) for own in whole)

    def kept(tensors: list[Tensor]) -> list[Tensor]:
        return [t[w] for t, w in zip(tensors, whole, strict=True)]

    return replace(
        batch,
        images=images.contiguous(),
        boxes=[own * factor for own in kept(batch.boxes)],
        labels=kept(batch.labels),
        ignore=[own * factor for own in batch.ignore],
        scales=[(x * factor, y * factor) for x, y in batch.scales],
        dropped=batch.dropped + lost,
    )
