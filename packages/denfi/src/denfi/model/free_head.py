"""An anchor-free head: every pixel of an object's middle says the object's class and box."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.losses import focal_over_pixels, stack
from denfi.model.proposal import new_convolution
from denfi.targets import boundary_targets, split_truth
from tenfold.lidar.postprocess import PostProcess, select_detections, select_per_class
from tenfold.losses import smooth_l1
from tenfold.ops._checks import as_compute

__all__ = ["AnchorFreeHead", "FreeOutputs", "decode_pixels", "encode_pixels"]

# Boxes of codes without height stand on the ground plane's middle with this one.
_FLAT_HEIGHT = 1.0
_SMALLEST = 1e-3


class FreeOutputs(NamedTuple):
    """Raw outputs per pixel.

    Args:
        classes: (B, K, H, W) logits.
        boxes: (B, 8 or 6, H, W) codes.
    """

    classes: Tensor
    boxes: Tensor


def encode_pixels(boxes: Tensor, centres: Tensor, flat: bool = False) -> Tensor:
    """Codes of boxes (N, 7) at pixel centres (N, 2).

    Returns:
        (N, 8) offsets x, y and height z in metres, logarithms of dx, dy, dz, sine and cosine of the heading; or,
        ``flat``, (N, 6) offsets, logarithms of dx, dy, sine and cosine of twice the heading: a box and its
        opposite are one.

    Example:
        >>> code = encode_pixels(torch.tensor([[1.0, 2, 0, 1, 1, 1, 0]]), torch.tensor([[0.0, 0.0]]), flat=True)
        >>> code.tolist()
        [[1.0, 2.0, 0.0, 0.0, 0.0, 1.0]]
    """
    offset, heading = boxes[:, :2] - centres, boxes[:, 6:]
    size = boxes[:, 3:6].clamp(min=_SMALLEST).log()
    if flat:
        return torch.cat((offset, size[:, :2], (2 * heading).sin(), (2 * heading).cos()), 1)
    return torch.cat((offset, boxes[:, 2:3], size, heading.sin(), heading.cos()), 1)


def decode_pixels(codes: Tensor, centres: Tensor, flat: bool = False) -> Tensor:
    """Boxes (N, 7) of codes (N, 8 or 6) at pixel centres (N, 2); the inverse of `encode_pixels`.

    Flat boxes have their centre at z = 0, one metre of height, and a heading in [-pi/2, pi/2].
    """
    xy = codes[:, :2] + centres
    if flat:
        size = torch.cat((codes[:, 2:4].exp(), torch.full_like(xy[:, :1], _FLAT_HEIGHT)), 1)
        heading = torch.atan2(codes[:, 4], codes[:, 5]) / 2
        return torch.cat((xy, torch.zeros_like(xy[:, :1]), size, heading[:, None]), 1)
    heading = torch.atan2(codes[:, 6], codes[:, 7])
    return torch.cat((xy, codes[:, 2:3], codes[:, 3:6].exp(), heading[:, None]), 1)


class AnchorFreeHead(nn.Module):
    """Two 1x1 convolutions: classes on one map, box codes on the other. Pixels are assigned as proposals are.

    Args:
        in_channels: of the features.
        num_classes: classes.
        grid: where the pixels lie.
        codes: "3d" or "flat", see `encode_pixels`.
        sigma1: see `boundary_targets`.
        sigma2: see `boundary_targets`.
        box_weight: of the box loss.

    Example:
        >>> head = AnchorFreeHead(16, 3, BevGrid(0.0, 0.0, 0.4, 4, 5))
        >>> feat = torch.zeros(1, 16, 4, 5)
        >>> head(feat, feat).boxes.shape
        torch.Size([1, 8, 4, 5])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        grid: BevGrid,
        codes: Literal["3d", "flat"] = "3d",
        *,
        sigma1: float = 0.45,
        sigma2: float = 0.70,
        box_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if codes not in ("3d", "flat"):
            raise ValueError(f"AnchorFreeHead: codes: got {codes!r}; expected '3d' or 'flat'")
        self.grid, self.flat, self.box_weight = grid, codes == "flat", box_weight
        self.sigma1, self.sigma2 = sigma1, sigma2
        self.conv_cls = new_convolution(in_channels, num_classes, bias=-math.log(99))
        self.conv_box = new_convolution(in_channels, 6 if self.flat else 8)

    #: Of an exported graph.
    output_names = ("classes", "boxes")

    def forward(self, x: Tensor, x_boxes: Tensor | None = None) -> FreeOutputs:
        """Maps (B, C, H, W) of both branches to raw outputs; one map serves both without the second."""
        regression = x if x_boxes is None else x_boxes
        return FreeOutputs(as_compute(self.conv_cls(x)), as_compute(self.conv_box(regression)))

    def losses(self, outputs: FreeOutputs, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Scalars ``loss``, ``loss_cls``, ``loss_box`` (per positive pixel) and ``num_positives``.

        Args:
            outputs: of `forward`.
            gt_boxes: (B, M, 8), zero padded, 1-based label last.
        """
        made = stack(
            [
                boundary_targets(b.to(outputs.boxes), k, self.grid, self.sigma1, self.sigma2)
                for b, k in zip(*split_truth(gt_boxes), strict=True)
            ]
        )
        frame, row, column = made.where
        rows = [frame_boxes[frame_boxes[:, -1] > 0] for frame_boxes in gt_boxes]
        first = torch.tensor([0, *map(len, rows)], device=frame.device).cumsum(0)
        wanted = torch.cat(rows)[first[frame] + made.owner][:, :7].to(outputs.boxes)
        target = encode_pixels(wanted, self._centres(row, column), self.flat)
        found = outputs.boxes[frame, :, row, column]
        box = smooth_l1(found, target, beta=1 / 9).sum() / made.count.to(found.dtype)
        cls = focal_over_pixels(outputs.classes, made)
        return {
            "loss": cls + self.box_weight * box,
            "loss_cls": cls,
            "loss_box": self.box_weight * box,
            "num_positives": torch.tensor(len(frame), device=frame.device),
        }

    @torch.no_grad()
    def detect(self, outputs: FreeOutputs, options: PostProcess) -> list[dict[str, Tensor]]:
        """Detections of every frame; only pixels that reach the score threshold are decoded."""
        found = []
        scores = outputs.classes.sigmoid()
        for frame in range(len(scores)):
            best, labels = scores[frame].max(0)
            row, column = (best >= options.score_threshold).nonzero(as_tuple=True)
            codes = outputs.boxes[frame][:, row, column].T
            boxes = decode_pixels(codes, self._centres(row, column), self.flat)
            if options.per_class:
                found.append(select_per_class(boxes, scores[frame][:, row, column].T, options))
            else:
                found.append(select_detections(boxes, best[row, column], labels[row, column], options))
        return found

    def _centres(self, row: Tensor, column: Tensor) -> Tensor:
        x, y = self.grid.centres(self.conv_box.weight)
        return torch.stack((x[column], y[row]), 1)
