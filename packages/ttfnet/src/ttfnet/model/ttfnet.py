"""The network of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ttfnet.assign import assign_targets
from ttfnet.decoding import decode
from ttfnet.losses import (
    generalized_iou,
    heatmap_focal_sum,
    predicted_boxes,
    reduced,
    weighted_giou_sum,
    wide,
)
from ttfnet.model.detector import Detector, LossOptions
from ttfnet.model.dla import DLAUp
from ttfnet.model.heads import TTFHead
from ttfnet.model.lite import LiteNeck
from ttfnet.model.neck import TTFNeck
from ttfnet.targets import TargetOptions, Targets

__all__ = ["TTFNet", "TTFOutput", "ignored_pixels"]

# Hidden channels and 3x3 convolutions of the heat-map and the distance branch, where not as for DarkNet-53.
_HEADS = {
    "resnet18": ((128, 64), (2, 1)),
    "small": ((128, 64), (2, 1)),
    "dla34": ((256, 64), (2, 1)),
    "mobilenetv3": ((48, 24), (2, 2)),
}


class TTFOutput(NamedTuple):
    """What the network says.

    Attributes:
        heatmap: ``(B, C, H/4, W/4)`` logits.
        distances: ``(B, 4, H/4, W/4)`` left, top, right, bottom in input pixels.
    """

    heatmap: Tensor
    distances: Tensor


class TTFNet(Detector):
    """Training-Time-Friendly Network (Liu et al., AAAI 2020).

    Args:
        backbone: resnet18, resnet34, darknet53, dla34, resnet50, resnet101, resnet50vd, resnet50vd_dcn,
            mobilenetv3 or small.
        num_classes: C.
        pretrained_backbone: file or state dict with the backbone's weights; nothing is downloaded.
        neck_op: ``"dcnv2"``, ``"conv"`` for runtimes without deformable convolution, or ``"lite"`` for the
            depthwise neck of PAFNet-Lite.
        neck_channels: widths of the three neck steps.
        shortcuts: convolutions in the shortcuts from C4, C3 and C2.
        align_corners: of the up-sampling.
        head_channels: hidden channels of heat map and distances; by default the published ones.
        head_layers: their 3x3 convolutions; by default the published ones.
        head_op: ``"conv"``; ``"dcnv2"`` or ``"lite"`` as in PAFNet and PAFNet-Lite.
        wh_scale: factor s of the distances.
        wh_bias_init: first bias of the distances; 0 as published, 1 for training from scratch.
        kaiming_heads: hidden head convolutions initialised by fan-out instead of the published small normals.
        class_specific: distances of each class apart.
        targets: how targets are made.
        losses: how losses are weighted.

    Raises:
        ValueError: an unknown name or a wrong number.
        UserInputError: pretrained weights that do not fit.

    Example:
        >>> from tenfold.train import count_parameters
        >>> count_parameters(TTFNet("resnet18"))
        14208933
        >>> out = TTFNet("small", num_classes=3).eval()(torch.zeros(1, 3, 64, 96))
        >>> out.heatmap.shape, out.distances.shape
        (torch.Size([1, 3, 16, 24]), torch.Size([1, 4, 16, 24]))
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        num_classes: int = 80,
        pretrained_backbone: str | Path | Mapping[str, Tensor] | None = None,
        *,
        neck_op: str = "dcnv2",
        neck_channels: Sequence[int] = (256, 128, 64),
        shortcuts: Sequence[int] = (1, 2, 3),
        align_corners: bool = True,
        head_channels: Sequence[int] | None = None,
        head_layers: Sequence[int] | None = None,
        head_op: str = "conv",
        wh_scale: float = 16.0,
        wh_bias_init: float = 0.0,
        kaiming_heads: bool = False,
        class_specific: bool = False,
        targets: TargetOptions | None = None,
        losses: LossOptions | None = None,
    ) -> None:
        channels, layers = _HEADS.get(backbone, ((128, 64), (2, 2)))
        channels = channels if head_channels is None else _pair("head_channels", head_channels)
        layers = layers if head_layers is None else _pair("head_layers", head_layers)
        settings = {
            "neck_op": neck_op,
            "neck_channels": list(neck_channels),
            "shortcuts": list(shortcuts),
            "align_corners": align_corners,
            "head_channels": list(channels),
            "head_layers": list(layers),
            "head_op": head_op,
            "wh_scale": wh_scale,
            "class_specific": class_specific,
        }
        super().__init__(backbone, num_classes, settings)
        if backbone == "dla34":
            self.neck = DLAUp(self.backbone.channels)
        elif neck_op == "lite":
            self.neck = LiteNeck(self.backbone.channels, neck_channels, shortcuts)
        else:
            self.neck = TTFNeck(self.backbone.channels, neck_channels, shortcuts, neck_op, align_corners)
        self.head = TTFHead(
            self.neck.out_channels,  # type: ignore[arg-type]
            num_classes,
            channels,
            layers,
            scale=wh_scale,
            bias=wh_bias_init,
            class_specific=class_specific,
            kaiming=kaiming_heads,
            op=head_op,
        )
        self.target_options = replace(targets or TargetOptions(), per_class=class_specific)
        self.loss_options = losses or LossOptions()
        if pretrained_backbone is not None:
            from ttfnet.checkpoint import load_backbone

            load_backbone(self.backbone, pretrained_backbone)

    def forward(self, images: Tensor) -> TTFOutput:
        """Maps of normalised images ``(B, 3, H, W)``; H and W multiples of 32."""
        return TTFOutput(*self.head(self.features(images)))

    def targets(self, out: TTFOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
        """Targets for an output, on its device, in float32 even under autocast."""
        height, width = out.heatmap.shape[-2:]
        device = out.heatmap.device
        with torch.autocast(device.type, enabled=False):
            return assign_targets(
                [b.to(device) for b in boxes],
                [c.to(device) for c in labels],
                (height * self.stride, width * self.stride),
                self.num_classes,
                self.target_options,
            )

    def loss(
        self,
        out: TTFOutput,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignore: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; ``"loss"`` is the one to minimise.

        Args:
            out: of the forward pass.
            boxes: list of ``(M, 4)`` x1, y1, x2, y2 in input pixels.
            labels: list of ``(M,)`` int64.
            ignore: list of ``(K, 4)`` regions, such as crowds, whose pixels are no negatives.

        Returns:
            ``loss``, ``loss_heatmap``, ``loss_box``, and for the log ``num_pos``, ``weight_sum`` and
            ``peak_iou``, the mean overlap of boxes predicted at the labelled centres.
        """
        target = self.targets(out, boxes, labels)
        options = self.loss_options
        mask = None
        if ignore is not None and any(len(regions) for regions in ignore):
            mask = ignored_pixels(ignore, out.heatmap, self.stride)
        heat = heatmap_focal_sum(out.heatmap, target.heatmap, mask, options.clamp)
        distances, wanted, weight = out.distances, target.boxes, target.weight
        if self.target_options.per_class:
            distances = distances.unflatten(1, (-1, 4)).flatten(0, 1)
            wanted, weight = wanted.unflatten(1, (-1, 4)).flatten(0, 1), weight.flatten(0, 1)
        found = predicted_boxes(wide(distances))
        sides = weighted_giou_sum(found, wanted, weight, options.side_offset)
        loss_heatmap = options.heatmap * reduced(heat, options.sync_normalizer, floor=1.0)
        loss_box = options.box * reduced(sides, options.sync_normalizer, epsilon=1e-4)
        return {
            "loss": loss_heatmap + loss_box,
            "loss_heatmap": loss_heatmap,
            "loss_box": loss_box,
            "num_pos": heat.normalizer,
            "weight_sum": sides.normalizer,
            "peak_iou": _peak_iou(found, wanted, target.heatmap),
        }

    def decode(self, out: TTFOutput, max_det: int = 100) -> tuple[Tensor, Tensor, Tensor]:
        """See `ttfnet.decode`."""
        return decode(out.heatmap, out.distances, max_det, self.stride)

    def mirrored(self, out: TTFOutput) -> TTFOutput:
        """See `Detector`; left and right change places.

        A map pixel stands for the input place 4 i, the mirrored map's same pixel for 4 i + 4: the difference
        goes to the sides.
        """
        heat, sides = out.heatmap.flip(-1), out.distances.flip(-1).unflatten(1, (-1, 4))
        shift = sides.new_tensor([-1.0, 0.0, 1.0, 0.0])[:, None, None] * self.stride
        return TTFOutput(heat, (sides[:, :, [2, 1, 0, 3]] + shift).flatten(1, 2))


def ignored_pixels(regions: Sequence[Tensor], heatmap: Tensor, stride: int) -> Tensor:
    """``(B, H, W)`` bool: map pixels whose input place lies in a region of their image."""
    height, width = heatmap.shape[-2:]
    x = torch.arange(width, device=heatmap.device) * stride
    y = (torch.arange(height, device=heatmap.device) * stride)[:, None]
    masks = []
    for own in regions:
        x1, y1, x2, y2 = own.to(heatmap.device).T[..., None, None]
        masks.append(((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).any(0))
    return torch.stack(masks)


@torch.no_grad()
def _peak_iou(found: Tensor, wanted: Tensor, heatmap: Tensor) -> Tensor:
    centre = (heatmap == 1).any(1) if len(heatmap) == len(found) else (heatmap == 1).flatten(0, 1)
    # Negative values as 0: for boxes around a common point the rest is close to the plain overlap.
    overlap = generalized_iou(found, wanted.to(found.dtype), dim=1).clamp(min=0)
    return (overlap * centre).sum() / centre.sum().clamp(min=1)


def _pair(name: str, values: Sequence[int]) -> tuple[int, int]:
    if len(values) != 2:
        raise ValueError(f"{name}: got {list(values)}; expected two numbers, for heat map and distances")
    return values[0], values[1]
