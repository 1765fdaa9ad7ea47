"""Which parameters learn how: the image network slower than the detector."""

from __future__ import annotations

from typing import Any

import torch

from pircnn.model import PIRCNN

__all__ = ["fusion_gradients", "parameter_groups"]


def parameter_groups(
    model: PIRCNN, lr: float, weight_decay: float = 0.01, image_lr: float = 0.1
) -> list[dict[str, Any]]:
    """Groups for `tenfold.train.decoupled_adam`; a frozen image network is in none of them.

    Args:
        model: the detector.
        lr: peak learning rate.
        weight_decay: of all.
        image_lr: of the image network, as a share of `lr`.

    Example:
        >>> model = PIRCNN.from_config(branch="joint", seg_widths=(8, 16, 16, 16))
        >>> [g["lr"] for g in parameter_groups(model, 0.01)]
        [0.01, 0.001]
    """
    own = list(model.image_net.parameters()) if model.image_net is not None else []
    image = {id(p) for p in own}
    rest = [p for p in model.parameters() if id(p) not in image]
    groups: list[dict[str, Any]] = [{"params": rest, "lr": lr, "weight_decay": weight_decay}]
    trained = [p for p in own if p.requires_grad]
    if trained:
        groups.append({"params": trained, "lr": lr * image_lr, "weight_decay": weight_decay})
    return groups


def fusion_gradients(model: PIRCNN) -> dict[str, float]:
    """Norm of the gradient of every tensor of the fusion after a backward pass; 0 where there is none.

    The public release trains none of them: its pooling passes no gradient.
    """
    if model.fusion is None:
        return {}
    return {
        name: 0.0 if p.grad is None else float(torch.linalg.vector_norm(p.grad))
        for name, p in model.fusion.named_parameters()
    }
