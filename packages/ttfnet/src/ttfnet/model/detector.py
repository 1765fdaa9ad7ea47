"""What TTFNet and CenterNet share: backbone, prediction, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ttfnet.decoding import Detections, select
from ttfnet.model.backbones import build_backbone

__all__ = ["Detector", "LossOptions"]


@dataclass(frozen=True)
class LossOptions:
    """How losses are weighted and divided.

    Attributes:
        heatmap: factor of the localisation loss.
        box: factor of the regression loss.
        side_offset: added to every side in the GIoU; see `ttfnet.losses.generalized_iou`.
        clamp: limit probabilities as the official code does (it can freeze training; for comparisons).
        sync_normalizer: divide by numbers of all processes together.
    """

    heatmap: float = 1.0
    box: float = 5.0
    side_offset: float = 1.0
    clamp: bool = False
    sync_normalizer: bool = False


class Detector(nn.Module):
    """Base of the detectors.

    Attributes:
        num_classes: C.
        stride: input pixels per map pixel.
        settings: the constructor's arguments, which a checkpoint keeps.
    """

    stride = 4
    neck: nn.Module

    def __init__(self, backbone: str, num_classes: int, settings: dict[str, Any]) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}; expected at least 1")
        self.backbone = build_backbone(backbone)
        self.num_classes = num_classes
        self.settings = {"backbone": backbone, "num_classes": num_classes, **settings}

    def features(self, images: Tensor) -> Tensor:
        """The neck's map of a checked batch."""
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] % 32 or images.shape[3] % 32:
            raise ValueError(
                f"images: got shape {tuple(images.shape)}; expected (B, 3, H, W) with multiples of 32"
            )
        out: Tensor = self.neck(self.backbone(images))
        return out

    def decode(self, out: Any, max_det: int = 100) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed-size boxes, scores and labels of the forward pass's output; see `ttfnet.decode`."""
        raise NotImplementedError

    def loss(
        self,
        out: Any,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignore: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the forward pass's output."""
        raise NotImplementedError

    def mirrored(self, out: Any) -> Any:
        """The output for the unmirrored images, of an output for mirrored ones."""
        raise NotImplementedError

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        conf: float = 0.01,
        max_det: int = 100,
        nms_iou: float | None = None,
        flip_test: bool = False,
    ) -> list[Detections]:
        """Objects of each image, in input pixels.

        Args:
            images: ``(B, 3, H, W)`` normalised; H and W multiples of 32.
            conf: objects must have a higher score.
            max_det: most objects of an image.
            nms_iou: class-wise suppression above this overlap; None (as published) does without.
            flip_test: average with the mirrored images.
        """
        out = self(images)
        if flip_test:
            other = self.mirrored(self(images.flip(-1)))
            out = self._averaged(out, other)
        boxes, scores, labels = self.decode(out, max_det)
        size = (int(images.shape[2]), int(images.shape[3]))
        return [
            select(b, s, c, conf=conf, size=size, nms_iou=nms_iou)
            for b, s, c in zip(boxes, scores, labels, strict=True)
        ]

    @staticmethod
    def _averaged(first: Any, second: Any) -> Any:
        heat = torch.logit((first[0].sigmoid() + second[0].sigmoid()) / 2, eps=1e-12)
        return type(first)(heat, *((a + b) / 2 for a, b in zip(first[1:], second[1:], strict=True)))
