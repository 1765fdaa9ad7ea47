"""Target assignment of a batch by the fastest version there is; all give the same bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tenfold import ops
from ttfnet.targets import TargetOptions, Targets, ttf_targets

__all__ = ["assign_targets"]


@torch.no_grad()
def assign_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    size: tuple[int, int],
    num_classes: int,
    options: TargetOptions,
) -> Targets:
    """As `ttfnet.ttf_targets`; on a CPU by the core's kernel, which makes no map for each box.

    The kernel knows the ablations of alpha, beta, area, weight and shape; the others, and other devices, take
    the batched version.
    """
    plain = TargetOptions(
        alpha=options.alpha,
        beta=options.beta,
        area=options.area,
        weight=options.weight,
        shape=options.shape,
        stride=options.stride,
    )
    if options != plain or not boxes or not boxes[0].is_cpu:
        return ttf_targets(boxes, labels, size, num_classes, options)
    maps = ops.ttf_targets(
        pad_sequence([own.float() for own in boxes], batch_first=True),
        pad_sequence(list(labels), batch_first=True, padding_value=-1),
        size,
        num_classes,
        stride=options.stride,
        alpha=options.alpha,
        beta=options.beta,
        area=options.area,
        weight=options.weight,
        shape=options.shape,
    )
    return Targets(*maps)
