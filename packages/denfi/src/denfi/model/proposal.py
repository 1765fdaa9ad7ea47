"""The dense boundary proposal module: at every pixel, the borders of the object that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.losses import BoundaryWeights, boundary_iou_loss, focal_over_pixels, heading_losses, stack
from denfi.targets import AngleRange, boundary_targets, decode_heading, encode_heading
from tenfold.ops._checks import as_compute, require_float, require_shape

__all__ = ["BoundaryOutput", "DenseBoundaryProposal", "new_convolution"]

# exp(6) cells are farther than any object reaches.
_MOST = 6.0


class BoundaryOutput(NamedTuple):
    """What `DenseBoundaryProposal` says of a map.

    Args:
        cls_logits: (B, K, H, W), or None at inference.
        dist: (B, 4, H, W) left, front, right, rear, metres.
        bin_logits: (B, n, H, W) of the heading's bins.
        bin_res: (B, n, H, W) residuals, in units of half a bin.
        proposals: (B, 5, H, W) left, front, right, rear in cells, and the heading in radians.
    """

    cls_logits: Tensor | None
    dist: Tensor
    bin_logits: Tensor
    bin_res: Tensor
    proposals: Tensor


def new_convolution(inputs: int, outputs: int, *, std: float = 0.01, bias: float = 0.0) -> nn.Conv2d:
    """A 1x1 convolution with normally distributed weights."""
    layer = nn.Conv2d(inputs, outputs, 1)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=std)
    nn.init.constant_(layer.bias, bias)
    return layer


class DenseBoundaryProposal(nn.Module):
    """Two 1x1 convolutions on the bird's-eye features: classes, and four distances with a binned heading.

    The classes shape the features in training and are skipped in evaluation.

    Args:
        in_channels: of the features.
        num_classes: classes.
        num_angle_bins: bins of the heading.
        cell_size: side of a pixel, metres.
        angle_range: "2pi", or "pi" where a heading and its opposite are one.
        origin: lower border of the map along x and y, metres; only `loss` needs it.
        sigma1: see `boundary_targets`.
        sigma2: see `boundary_targets`.
        weights: of the losses.

    Source:
        Section on the dense boundary proposal module and figure 4 of the paper. A distance is
        ``cell * exp(gamma * raw)`` with a learnable gamma (FCOS, Tian et al. 2019), which the paper leaves open.

    Example:
        >>> proposal = DenseBoundaryProposal(16, 3)
        >>> proposal(torch.zeros(1, 16, 4, 5)).proposals.shape
        torch.Size([1, 5, 4, 5])
        >>> sum(p.numel() for p in DenseBoundaryProposal(512, 3).parameters())
        15904
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_angle_bins: int = 12,
        cell_size: float = 0.4,
        angle_range: AngleRange = "2pi",
        *,
        origin: tuple[float, float] = (0.0, 0.0),
        sigma1: float = 0.45,
        sigma2: float = 0.70,
        weights: BoundaryWeights | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_angle_bins = num_classes, num_angle_bins
        self.cell_size, self.angle_range, self.origin = cell_size, angle_range, origin
        self.sigma1, self.sigma2 = sigma1, sigma2
        self.weights = weights or BoundaryWeights()
        self.conv_cls = new_convolution(in_channels, num_classes, bias=-math.log(99))
        self.conv_reg = new_convolution(in_channels, 4 + 2 * num_angle_bins)
        self.gamma = nn.Parameter(torch.ones(()))

    def forward(self, feat: Tensor, *, classify: bool | None = None) -> BoundaryOutput:
        """Proposals of features (B, C, H, W); float32 under autocast.

        ``classify`` says whether to compute the class logits, by default in training only.
        """
        op = "DenseBoundaryProposal"
        require_float(op, "feat", feat)
        require_shape(op, "feat", feat, ("B", self.conv_reg.in_channels, "H", "W"))
        n = self.num_angle_bins
        wanted = self.training if classify is None else classify
        raw, bin_logits, bin_res = as_compute(self.conv_reg(feat)).split((4, n, n), 1)
        cells = torch.exp(self.gamma * raw.clamp(max=_MOST))
        best = bin_logits.argmax(1, keepdim=True)
        theta = decode_heading(best, bin_res.gather(1, best), n, self.angle_range)
        return BoundaryOutput(
            as_compute(self.conv_cls(feat)) if wanted else None,
            cells * self.cell_size,
            bin_logits,
            bin_res,
            torch.cat((cells, theta), 1),
        )

    def grid(self, height: int, width: int) -> BevGrid:
        """Where the pixels of a map of this size lie."""
        return BevGrid(*self.origin, self.cell_size, height, width)

    def loss(
        self, output: BoundaryOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Losses of a batch, weighted, each per positive pixel of the batches of all processes.

        Args:
            output: of `forward` with class logits.
            boxes: (M, 5) x, y, l, w, heading of each frame; metres and radians.
            labels: (M,) classes from 0, or -1 for boxes not to be learnt.

        Returns:
            Scalars ``boundary_cls``, ``boundary_iou``, ``boundary_bin`` and ``boundary_res``.

        Raises:
            ValueError: without class logits, or another number of frames.
        """
        if output.cls_logits is None:
            raise ValueError(
                "DenseBoundaryProposal.loss: output: got no class logits; expected those of training"
            )
        if not len(boxes) == len(labels) == len(output.dist):
            raise ValueError(
                f"DenseBoundaryProposal.loss: boxes, labels: got {len(boxes)} and {len(labels)} frames; "
                f"expected {len(output.dist)}"
            )
        grid = self.grid(*output.dist.shape[-2:])
        made = stack(
            [
                boundary_targets(
                    b.to(output.dist), k, grid, self.sigma1, self.sigma2, angle_range=self.angle_range
                )
                for b, k in zip(boxes, labels, strict=True)
            ]
        )
        frame, row, column = made.where
        dist, bin_logits, bin_res = (
            maps[frame, :, row, column] for maps in (output.dist, output.bin_logits, output.bin_res)
        )
        index, residual = encode_heading(made.heading, self.num_angle_bins, self.angle_range)
        bins, residuals = heading_losses(bin_logits, bin_res, index, residual)
        overlap, w = boundary_iou_loss(dist, made.dist), self.weights
        count = made.count.to(overlap.dtype)
        return {
            "boundary_cls": w.total * w.classes * focal_over_pixels(output.cls_logits, made),
            "boundary_iou": w.total * w.iou * overlap.sum() / count,
            "boundary_bin": w.total * w.bins * bins.sum() / count,
            "boundary_res": w.total * w.residual * residuals.sum() / count,
        }
