"""Heads: the class heat map and the box sides, without normalisation layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ttfnet.model.deform import DeformConv2dPack
from ttfnet.model.lite import LiteConv

__all__ = ["TTFHead", "head_branch"]

PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)


def head_branch(
    inputs: int,
    hidden: int,
    layers: int,
    outputs: int,
    std: float,
    bias: float = 0.0,
    kaiming: bool = False,
    op: str = "conv",
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
        op: ``"conv"``; ``"dcnv2"`` or ``"lite"`` as in PAFNet and PAFNet-Lite.

    Raises:
        ValueError: an unknown ``op``.
    """
    modules: list[nn.Module] = []
    for k in range(layers):
        modules += _hidden_layer(op, inputs if k == 0 else hidden, hidden, None if kaiming else std)
    last = nn.Conv2d(hidden if layers else inputs, outputs, 1)
    nn.init.normal_(last.weight, std=std)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*modules, last)


def _hidden_layer(op: str, inputs: int, outputs: int, std: float | None) -> list[nn.Module]:
    """A 3x3 convolution (or what stands for it) and its ReLU; without ``std`` initialised by fan-out."""
    if op == "lite":
        return [LiteConv(inputs, outputs)]
    if op not in ("conv", "dcnv2"):
        raise ValueError(f"head_op: got {op!r}; expected 'conv', 'dcnv2' or 'lite'")
    conv = nn.Conv2d(inputs, outputs, 3, 1, 1) if op == "conv" else DeformConv2dPack(inputs, outputs)
    if std is None:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(conv.weight, std=std if op == "conv" else 0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return [conv, nn.ReLU(inplace=True)]


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
        op: see `head_branch`.

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
        op: str = "conv",
    ) -> None:
        super().__init__()
        sides = 4 * num_classes if class_specific else 4
        (broad, narrow), (deep, shallow) = channels, layers
        self.heatmap = head_branch(inputs, broad, deep, num_classes, 0.01, PRIOR_BIAS, kaiming, op)
        self.distances = head_branch(inputs, narrow, shallow, sides, 0.001, bias, kaiming, op)
        self.scale = scale

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, C, H, W)`` logits and ``(B, 4, H, W)`` distances of ``(B, inputs, H, W)``."""
        return self.heatmap(x), torch.relu(self.distances(x)) * self.scale
