"""The training recipe: parameter groups, linear scaling of the learning rate, warm-up and decay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from tenfold.train.schedules import GroupSchedule, step_with_warmup

__all__ = ["milestones", "parameter_groups", "scaled_lr", "sgd", "warmup_schedule"]

#: Shares of the run after which the learning rate falls to a tenth; the published 9/12, 11/12, 18/24, 22/24,
#: 90/120 and 110/120 epochs.
DECAY = (0.75, 11 / 12)
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def parameter_groups(
    model: nn.Module, lr: float, weight_decay: float = 4e-4, offset_lr_mult: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters by the published rule: convolution biases learn twice as fast and do not decay.

    Normalisation layers learn and decay as weights do. Frozen parameters are left out.

    Args:
        model: the network.
        lr: of the weights.
        weight_decay: of everything but convolution biases.
        offset_lr_mult: factor on the learning rate of the layers that predict sampling offsets.

    Example:
        >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)), lr=0.1)
        >>> [(len(g["params"]), g["lr"], g["weight_decay"]) for g in groups]
        [(3, 0.1, 0.0004), (1, 0.2, 0.0)]
    """
    kinds: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, module in model.named_modules():
        offset = offset_lr_mult if "offset_mask" in name.split(".") else 1.0
        for key, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            bias = key == "bias" and not isinstance(module, _NORMS)
            kind = (offset * (2.0 if bias else 1.0), 0.0 if bias else weight_decay)
            kinds.setdefault(kind, []).append(parameter)
    return [
        {"params": parameters, "lr": lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in kinds.items()
    ]


def sgd(
    model: nn.Module,
    lr: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 4e-4,
    offset_lr_mult: float = 1.0,
) -> torch.optim.SGD:
    """Stochastic gradient descent with `parameter_groups`."""
    return torch.optim.SGD(
        parameter_groups(model, lr, weight_decay, offset_lr_mult), lr=lr, momentum=momentum
    )


def scaled_lr(base_lr: float, base_batch: int, total_batch: int) -> float:
    """Linear scaling: the learning rate in proportion to the images of a step.

    Example:
        >>> round(scaled_lr(0.016, 128, 16), 6)
        0.002
    """
    return base_lr * total_batch / base_batch


def milestones(total_steps: int, steps_per_epoch: int, decay: Sequence[float] = DECAY) -> list[int]:
    """Steps at which the learning rate falls; ends of epochs where the run has twelve or more.

    Example:
        >>> milestones(24 * 916, 916) == [18 * 916, 22 * 916], milestones(300, 25)
        (True, [225, 275])
    """
    epochs = total_steps / steps_per_epoch
    if epochs >= 12:
        return [round(share * epochs) * steps_per_epoch for share in decay]
    return [round(share * total_steps) for share in decay]


def warmup_schedule(
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    steps_per_epoch: int,
    *,
    warmup_steps: int = 500,
    decay: Sequence[float] = DECAY,
) -> GroupSchedule:
    """Linear warm-up from a fifth, then a tenth at each of `milestones`; step it after every step."""
    lr = partial(
        step_with_warmup,
        milestones=milestones(total_steps, steps_per_epoch, decay),
        warmup_steps=min(warmup_steps, max(total_steps // 5, 1)),
        start=0.2,
    )
    return GroupSchedule(optimizer, {"lr": lr})
