"""Heads: the class heat map and the box sides, without normalisation layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["TTFHead", "head_branch"]

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)


def head_branch(
    inputs: int, hidden: int, layers: int, outputs: int, std: float, bias: float = 0.0, kaiming: bool = False
) -> nn.Sequential:
    """``layers`` 3x3 convolutions with ReLU, then a 1x1 convolution.

    Args:
        inputs: channels.
        hidden: channels between.
        layers: number of 3x3 convolutions.
        outputs: channels.
        std: of the normal initialisation of all weights; biases start at zero.
        bias: of the last convolution.
        kaiming: initialise the hidden convolutions by their fan-out instead, for training from scratch.
    """
    modules: list[nn.Module] = []
    for k in range(layers):
        conv = nn.Conv2d(inputs if k == 0 else hidden, hidden, 3, 1, 1)
        if kaiming:
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(conv.weight, std=std)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        modules += [conv, nn.ReLU(inplace=True)]
    last = nn.Conv2d(hidden if layers else inputs, outputs, 1)
    nn.init.normal_(last.weight, std=std)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*modules, last)


class TTFHead(nn.Module):
    """Heat-map logits, and distances ``scale * ReLU(conv)`` to the four sides in input pixels.

    Args:
        inputs: channels of the neck's map.
        num_classes: C.
        channels: hidden channels of the two branches.
        layers: 3x3 convolutions of the two branches.
        scale: factor s of the distances, part of the forward pass.
        bias: of the last convolution of the distances; 1 keeps its ReLU alive in training from scratch.
        class_specific: four distances for each class.
        kaiming: see `head_branch`.

    Example:
        >>> heat, sides = TTFHead(8, 3)(torch.zeros(1, 8, 4, 4))
        >>> heat.shape, sides.shape, round(heat.mean().item(), 4)
        (torch.Size([1, 3, 4, 4]), torch.Size([1, 4, 4, 4]), -4.5951)
    """

    def __init__(
        self,
        inputs: int,
        num_classes: int,
        channels: tuple[int, int] = (128, 64),
        layers: tuple[int, int] = (2, 1),
        *,
        scale: float = 16.0,
        bias: float = 0.0,
        class_specific: bool = False,
        kaiming: bool = False,
    ) -> None:
        super().__init__()
        sides = 4 * num_classes if class_specific else 4
        self.heatmap = head_branch(
            inputs, channels[0], layers[0], num_classes, 0.01, PRIOR_BIAS, kaiming=kaiming
        )
        self.distances = head_branch(inputs, channels[1], layers[1], sides, 0.001, bias, kaiming=kaiming)
        self.scale = scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` logits and ``(B, 4, H, W)`` distances of ``(B, inputs, H, W)``."""
        return self.heatmap(x), torch.relu(self.distances(x)) * self.scale
