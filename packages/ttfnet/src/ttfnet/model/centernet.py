"""CenterNet (Zhou et al. 2019), the baseline: one regression sample per object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ttfnet.decoding import best_peaks
from ttfnet.losses import LossSum, heatmap_focal_sum, reduced, wide
from ttfnet.model.detector import Detector, LossOptions
from ttfnet.model.dla import DLAUp
from ttfnet.model.heads import head_branch
from ttfnet.model.neck import CenterNetNeck, TTFNeck
from ttfnet.model.ttfnet import ignored_pixels
from ttfnet.targets import circular_targets

__all__ = ["CenterNet", "CenterNetOutput"]


class CenterNetOutput(NamedTuple):
    """What the network says.

    Attributes:
        heatmap: ``(B, C, H/4, W/4)`` logits.
        sides: ``(B, 2, H/4, W/4)`` width and height in map pixels.
        offset: ``(B, 2, H/4, W/4)`` of the centre from its pixel, x and y, map pixels.
    """

    heatmap: Tensor
    sides: Tensor
    offset: Tensor


class CenterNet(Detector):
    """CenterNet: heat map, L1 on sides and offset at the centres only.

    Args:
        backbone: see `ttfnet.TTFNet`.
        num_classes: C.
        neck: ``"centernet"`` as published (with dla34 its iterative aggregation), or ``"ttfnet"`` for a
            comparison of the losses alone.
        neck_op: ``"dcnv2"`` or ``"conv"``.
        neck_channels: widths of the three neck steps.
        shortcuts: of the ``"ttfnet"`` neck.
        head_channels: hidden channels of heat map and the other branches.
        head_layers: their 3x3 convolutions.
        heatmap_bias: first bias of the heat map.
        kaiming_heads: see `ttfnet.TTFNet`.
        losses: only ``heatmap``, ``clamp`` and ``sync_normalizer`` matter; sides weigh 0.1, offsets 1.

    Example:
        >>> out = CenterNet("small", 3).eval()(torch.zeros(1, 3, 64, 64))
        >>> [tuple(part.shape) for part in out]
        [(1, 3, 16, 16), (1, 2, 16, 16), (1, 2, 16, 16)]
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int = 80,
        *,
        neck: str = "centernet",
        neck_op: str = "dcnv2",
        neck_channels: Sequence[int] = (256, 128, 64),
        shortcuts: Sequence[int] = (1, 2, 3),
        head_channels: Sequence[int] = (64, 64),
        head_layers: Sequence[int] = (1, 1),
        heatmap_bias: float = -2.19,
        kaiming_heads: bool = False,
        losses: LossOptions | None = None,
    ) -> None:
        settings = {
            "neck": neck,
            "neck_op": neck_op,
            "neck_channels": list(neck_channels),
            "shortcuts": list(shortcuts),
            "head_channels": list(head_channels),
            "head_layers": list(head_layers),
        }
        super().__init__(backbone, num_classes, settings)
        if neck == "centernet" and backbone == "dla34":
            self.neck = DLAUp(self.backbone.channels)
        elif neck == "centernet":
            self.neck = CenterNetNeck(self.backbone.channels, neck_channels, neck_op)
        elif neck == "ttfnet":
            self.neck = TTFNeck(self.backbone.channels, neck_channels, shortcuts, neck_op)
        else:
            raise ValueError(f"neck: got {neck!r}; expected 'centernet' or 'ttfnet'")
        inputs: int = self.neck.out_channels  # type: ignore[assignment]
        (broad, narrow), (deep, shallow) = head_channels, head_layers
        self.heatmap = head_branch(inputs, broad, deep, num_classes, 0.01, heatmap_bias, kaiming_heads)
        self.sides = head_branch(inputs, narrow, shallow, 2, 0.001, kaiming=kaiming_heads)
        self.offset = head_branch(inputs, narrow, shallow, 2, 0.001, kaiming=kaiming_heads)
        self.loss_options = losses or LossOptions()

    def forward(self, images: Tensor) -> CenterNetOutput:
        """Maps of normalised images ``(B, 3, H, W)``; H and W multiples of 32."""
        x = self.features(images)
        return CenterNetOutput(self.heatmap(x), self.sides(x), self.offset(x))

    def loss(
        self,
        out: CenterNetOutput,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignore: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch, with the names of `TTFNet.loss`; ``loss_box`` is that of sides and offset."""
        device = out.heatmap.device
        boxes, labels = [wide(b.to(device)) for b in boxes], [c.to(device) for c in labels]
        height, width = out.heatmap.shape[-2:]
        size = (height * self.stride, width * self.stride)
        target, centres = circular_targets(boxes, labels, size, self.num_classes, self.stride)
        mask = None
        if ignore is not None and any(len(regions) for regions in ignore):
            mask = ignored_pixels(ignore, out.heatmap, self.stride)
        options = self.loss_options
        heat = heatmap_focal_sum(out.heatmap, target, mask, options.clamp)
        image = torch.repeat_interleave(
            torch.arange(len(boxes), device=device), torch.tensor([len(c) for c in centres], device=device)
        )
        place, box = torch.cat(centres), torch.cat(boxes)
        kept = place[:, 0] >= 0
        image, place, box = image[kept], place[kept], box[kept]
        sides = wide(out.sides[image, :, place[:, 1], place[:, 0]])
        offset = wide(out.offset[image, :, place[:, 1], place[:, 0]])
        wanted = (box[:, 2:] - box[:, :2]) / self.stride
        middle = (box[:, 2:] + box[:, :2]) / 2 / self.stride - place
        count = torch.tensor(2.0 * len(box), device=device)
        loss_sides = LossSum((sides - wanted).abs().sum() + 0 * out.sides.sum(), count)
        loss_offset = LossSum((offset - middle).abs().sum() + 0 * out.offset.sum(), count)
        loss_heatmap = options.heatmap * reduced(heat, options.sync_normalizer, floor=1.0)
        loss_box = 0.1 * reduced(loss_sides, options.sync_normalizer, epsilon=1e-4)
        loss_box = loss_box + reduced(loss_offset, options.sync_normalizer, epsilon=1e-4)
        return {
            "loss": loss_heatmap + loss_box,
            "loss_heatmap": loss_heatmap,
            "loss_box": loss_box,
            "num_pos": heat.normalizer,
            "weight_sum": count / 2,
        }

    def decode(self, out: CenterNetOutput, max_det: int = 100) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed-size boxes, scores and labels; see `ttfnet.decode`."""
        scores, labels, places = best_peaks(out.heatmap.float(), max_det)
        width = out.heatmap.shape[-1]
        rows = places[..., None].expand(-1, -1, 2)
        sides = out.sides.float().flatten(2).transpose(1, 2).gather(1, rows)
        offset = out.offset.float().flatten(2).transpose(1, 2).gather(1, rows)
        centre = torch.stack((places % width, places // width), -1) + offset
        boxes = torch.cat((centre - sides / 2, centre + sides / 2), -1) * self.stride
        return boxes, scores, labels

    def mirrored(self, out: CenterNetOutput) -> CenterNetOutput:
        """See `Detector`."""
        heat, sides, offset = (part.flip(-1) for part in out)
        return CenterNetOutput(heat, sides, torch.stack((1 - offset[:, 0], offset[:, 1]), 1))
