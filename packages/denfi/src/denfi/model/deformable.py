"""The two other deformable designs that the paper compares with, and the full form of its own."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denfi.model.conv import _check, encode_proposals
from tenfold.lidar.models.voxel_backbone import NORM_EPS, NORM_MOMENTUM
from tenfold.ops._checks import as_compute

__all__ = ["AnchorGuidedConv", "DeformableConv"]


class DeformableConv(nn.Module):
    """A full 3x3 deformable convolution with 18 offsets per pixel, normalisation, ReLU.

    Args:
        channels: in and out.
        source: "features": offsets by a 3x3 convolution of the features, which starts at zero (Dai et al. 2017;
            figure 2a of the paper); "proposals": by a 1x1 convolution of the boundary proposals.

    Example:
        >>> sum(p.numel() for p in DeformableConv(256).parameters())
        631826
    """

    def __init__(self, channels: int, source: Literal["features", "proposals"] = "features") -> None:
        super().__init__()
        self.source = source
        self.weight = _kernel(channels, 1 / math.sqrt(9 * channels / 2))
        if source == "features":
            self.offset = nn.Conv2d(channels, 18, 3, padding=1)
            nn.init.zeros_(self.offset.weight)
        else:
            self.offset = nn.Conv2d(5, 18, 1)
            nn.init.normal_(self.offset.weight, std=0.1)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm2d(channels, NORM_EPS, NORM_MOMENTUM)

    def forward(self, feat: Tensor, proposals: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H, W); proposals (B, 5, H, W) where offsets come from them, without gradient."""
        guide = feat
        if self.source == "proposals":
            _check("DeformableConv", feat, proposals, self.weight.shape[1])
            assert proposals is not None
            guide = encode_proposals(proposals.detach())
        return F.relu(self.norm(_deform(feat, self.offset(guide), self.weight)))


class AnchorGuidedConv(nn.Module):
    """Feature adaption of guided anchoring (Wang et al. 2019; figure 2b of the paper).

    A 1x1 convolution without bias turns the predicted shape, logarithms of width and length, into the offsets of
    four groups of channels; a 3x3 deformable convolution and a ReLU follow.

    Args:
        channels: in and out, a multiple of 4.

    Raises:
        ValueError: channels that four groups do not divide.

    Example:
        >>> sum(p.numel() for p in AnchorGuidedConv(256).parameters())
        589968
    """

    groups = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % self.groups:
            raise ValueError(
                f"AnchorGuidedConv: channels: got {channels}; expected a multiple of {self.groups}"
            )
        self.offset = nn.Conv2d(2, self.groups * 18, 1, bias=False)
        nn.init.normal_(self.offset.weight, std=0.1)
        self.weight = _kernel(channels, 0.01)

    def forward(self, feat: Tensor, shape: Tensor | None = None) -> Tensor:
        """(B, C, H, W) with shapes (B, 2, H, W) to (B, C, H, W)."""
        _check("AnchorGuidedConv", feat, shape, self.weight.shape[1], 2)
        assert shape is not None
        return F.relu(_deform(feat, self.offset(shape.detach()), self.weight))


def _kernel(channels: int, std: float) -> nn.Parameter:
    weight = torch.empty(channels, channels, 3, 3)
    return nn.Parameter(nn.init.normal_(weight, std=std))


def _deform(feat: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
    from torchvision.ops import deform_conv2d  # slow to import, and the paper's own module does without

    values = as_compute(feat)
    out: Tensor = deform_conv2d(values, offset.to(values.dtype), weight.to(values.dtype), padding=1)
    return out.to(feat.dtype)
