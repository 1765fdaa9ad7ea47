"""The shape alone, as guided anchoring predicts it: the supervision of the row `ga`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.losses import stack
from denfi.model.proposal import new_convolution
from denfi.targets import boundary_targets
from tenfold.losses import smooth_l1
from tenfold.ops._checks import as_compute

__all__ = ["ShapeOutput", "ShapeProposal"]


class ShapeOutput(NamedTuple):
    """Logarithms of width and length in cells, (B, 2, H, W)."""

    proposals: Tensor


class ShapeProposal(nn.Module):
    """A 1x1 convolution that predicts width and length at every pixel (Wang et al. 2019, shape prediction).

    Args:
        in_channels: of the features.
        cell_size: metres.
        origin: lower border of the map along x and y, metres.
        sigma1, sigma2: see `boundary_targets`.
        weight: of the loss.
    """

    def __init__(
        self,
        in_channels: int,
        cell_size: float,
        origin: tuple[float, float],
        sigma1: float,
        sigma2: float,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = new_convolution(in_channels, 2)
        self.cell_size, self.origin = cell_size, origin
        self.sigma1, self.sigma2, self.weight = sigma1, sigma2, weight

    def forward(self, feat: Tensor) -> ShapeOutput:
        """Shapes of features (B, C, H, W)."""
        return ShapeOutput(as_compute(self.conv(feat)))

    def loss(
        self, output: ShapeOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Scalar ``boundary_shape``: smooth L1 of both logarithms, per positive pixel."""
        grid = BevGrid(*self.origin, self.cell_size, *output.proposals.shape[-2:])
        made = stack(
            [
                boundary_targets(b.to(output.proposals), k, grid, self.sigma1, self.sigma2)
                for b, k in zip(boxes, labels, strict=True)
            ]
        )
        frame, row, column = made.where
        sides = torch.stack((made.dist[:, 0] + made.dist[:, 2], made.dist[:, 1] + made.dist[:, 3]), 1)
        wanted = sides.clamp(min=1e-3).log() - math.log(self.cell_size)
        found = output.proposals[frame, :, row, column]
        total = smooth_l1(found, wanted, beta=1.0).sum()
        return {"boundary_shape": self.weight * total / made.count.to(total.dtype)}
