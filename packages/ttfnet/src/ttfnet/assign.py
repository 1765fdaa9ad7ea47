"""Target assignment of a batch by the fastest version there is; all give the same bits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ttfnet.targets import TargetOptions, Targets, ttf_targets

__all__ = ["assign_targets"]


def assign_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    size: tuple[int, int],
    num_classes: int,
    options: TargetOptions,
) -> Targets:
    """As `ttfnet.ttf_targets`."""
    return ttf_targets(boxes, labels, size, num_classes, options)
