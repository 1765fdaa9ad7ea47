"""Which parameters learn how: offset layers take no weight decay, and may learn faster."""

from __future__ import annotations

from typing import Any

from torch import nn

from denfi.model.denfi import Denfi

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 0.01, offset_lr: float | None = None
) -> list[dict[str, Any]]:
    """Groups for `tenfold.train.decoupled_adam`, each parameter in one of them.

    Args:
        model: anything that holds a `Denfi`, or none.
        lr: peak learning rate.
        weight_decay: of everything but the offset layers.
        offset_lr: of the offset layers; by default the same.

    Example:
        >>> from denfi.model import DenfiDet
        >>> groups = parameter_groups(DenfiDet.from_config("denfidet_tiny"), 0.004, offset_lr=0.02)
        >>> [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups][1]
        (4, 0.02, 0.0)
    """
    offsets = [p for m in model.modules() if isinstance(m, Denfi) for p in m.offset_parameters()]
    chosen = {id(p) for p in offsets}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups: list[dict[str, Any]] = [{"params": others, "lr": lr, "weight_decay": weight_decay}]
    if offsets:
        groups.append({"params": offsets, "lr": offset_lr or lr, "weight_decay": 0.0})
    return groups
