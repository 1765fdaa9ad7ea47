"""The plug-in: boundary proposals, and one refinement of the features for each branch of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from denfi.grid import BevGrid
from denfi.model.conv import DenfiConv, SeparableConv
from denfi.model.deformable import AnchorGuidedConv, DeformableConv
from denfi.model.proposal import BoundaryOutput, DenseBoundaryProposal
from denfi.model.shape import ShapeOutput, ShapeProposal
from denfi.model.variants import DenfiConfig, Refinement
from denfi.targets import boundary_targets, split_truth
from tenfold.lidar.postprocess import PostProcess
from tenfold.ops._checks import require_shape

__all__ = ["Denfi", "DenfiHead", "DenfiOutputs"]

Truth = tuple[Sequence[Tensor], Sequence[Tensor]]


class Denfi(nn.Module):
    """Between a bird's-eye backbone and its head: features in, features of each branch and the proposals out.

    Resolution and channels stay, so that any dense head can follow.

    Args:
        in_channels: of the features.
        num_classes: classes of the boundary proposals.
        grid: where the pixels lie.
        config: see `DenfiConfig`.

    Source:
        Figure 3 of the paper.

    Example:
        >>> grid = BevGrid(0.0, -40.0, 0.4, height=200, width=176)
        >>> sum(p.numel() for p in Denfi(512, 3, grid).parameters())
        551480
        >>> feat = torch.zeros(2, 8, 4, 5)
        >>> cls_feat, reg_feat, boundary = Denfi(8, 1, BevGrid(0.0, 0.0, 0.4, 4, 5))(feat)
        >>> cls_feat.shape, boundary.proposals.shape
        (torch.Size([2, 8, 4, 5]), torch.Size([2, 5, 4, 5]))
    """

    proposal: DenseBoundaryProposal | ShapeProposal | None

    def __init__(
        self, in_channels: int, num_classes: int, grid: BevGrid, config: DenfiConfig | None = None
    ) -> None:
        super().__init__()
        c = self.config = config or DenfiConfig()
        self.grid = grid
        origin = (grid.x_min, grid.y_min)
        if c.row.supervision == "boundary":
            self.proposal = DenseBoundaryProposal(
                in_channels,
                num_classes,
                c.num_angle_bins,
                grid.cell,
                c.angle_range,
                origin=origin,
                sigma1=c.sigma1,
                sigma2=c.sigma2,
                weights=c.weights,
            )
        elif c.row.supervision == "shape":
            self.proposal = ShapeProposal(in_channels, grid.cell, origin, c.sigma1, c.sigma2, c.weights.total)
        else:
            self.proposal = None
        self.refine_cls = _refinement(c.row.cls, in_channels, c)
        # The attribute is the same module where both branches share it; its parameters count once.
        self.refine_reg = self.refine_cls if c.row.shared else _refinement(c.row.reg, in_channels, c)

    def forward(
        self, feat: Tensor, truth: Truth | None = None
    ) -> tuple[Tensor, Tensor, BoundaryOutput | ShapeOutput | None]:
        """Features (B, C, H, W) to those of the classification and of the regression branch, and the proposals.

        Args:
            feat: of the backbone.
            truth: footprints (M, 5) and 0-based labels (M,) of each frame; only the variant "denfi-oracle" reads
                them.

        Raises:
            ValueError: a map of another size than the grid's, or no truth for the oracle.
        """
        require_shape("Denfi", "feat", feat, ("B", "C", self.grid.height, self.grid.width))
        output: Any = None if self.proposal is None else self.proposal(feat)
        guide = None if output is None else self._guide(output.proposals, truth)
        cls_feat = self.refine_cls(feat, guide)
        reg_feat = cls_feat if self.config.row.shared else self.refine_reg(feat, guide)
        return cls_feat, reg_feat, output

    def loss(
        self,
        output: BoundaryOutput | ShapeOutput | None,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Weighted losses of the proposals; empty where there are none. See `DenseBoundaryProposal.loss`."""
        if self.proposal is None or output is None:
            return {}
        return self.proposal.loss(output, boxes, labels)  # type: ignore[arg-type]

    def offset_parameters(self) -> list[nn.Parameter]:
        """Those of the layers that make offsets of proposals: they take no weight decay."""
        layers = [m.offset for m in self.modules() if isinstance(m, DenfiConv)]
        return [p for layer in layers for p in layer.parameters()]

    def _guide(self, proposals: Tensor, truth: Truth | None) -> Tensor:
        source = self.config.row.source
        if source == "shuffled":
            return _shuffled(proposals, self.training)
        if source == "oracle":
            if truth is None:
                raise ValueError(
                    "Denfi: truth: got none; the variant 'denfi-oracle' needs it in evaluation too"
                )
            return self._with_truth(proposals, truth)
        return proposals

    @torch.no_grad()
    def _with_truth(self, proposals: Tensor, truth: Truth) -> Tensor:
        """The truth at positive pixels. Negative ones keep the prediction: a constant would tell them apart."""
        c, result = self.config, proposals.clone()
        for frame, (boxes, labels) in enumerate(zip(*truth, strict=True)):
            made = boundary_targets(
                boxes.to(proposals), labels, self.grid, c.sigma1, c.sigma2, angle_range=c.angle_range
            )
            row, column = (made.labels >= 0).nonzero(as_tuple=True)
            result[frame, :4, row, column] = made.dist[:, row, column] / self.grid.cell
            result[frame, 4, row, column] = made.heading[row, column]
        return result


def _refinement(kind: Refinement, channels: int, config: DenfiConfig) -> nn.Module:
    if kind == "none":
        return _Unrefined()
    if kind == "separable":
        return SeparableConv(channels, norm=config.norm)
    if kind == "anchor_guided":
        return AnchorGuidedConv(channels)
    if kind in ("deformable", "denfi_deformable"):
        return DeformableConv(channels, "features" if kind == "deformable" else "proposals")
    return DenfiConv(
        channels,
        offset_encoding=config.row.encoding,
        detach_proposals=config.detach_proposals,
        norm=config.norm,
        backend=config.backend,
        offset_std=config.offset_std,
    )


class _Unrefined(nn.Module):
    """The features as they are."""

    def forward(self, feat: Tensor, proposals: Tensor | None = None) -> Tensor:
        return feat


def _shuffled(proposals: Tensor, training: bool) -> Tensor:
    """Proposals of other pixels of the same frame; in evaluation always the same permutation."""
    parts = []
    for frame in proposals.flatten(2):
        generator = None if training else torch.Generator().manual_seed(0)
        order = torch.randperm(frame.shape[1], generator=generator)
        parts.append(frame[:, order.to(frame.device)])
    return torch.stack(parts).view(proposals.shape)


class DenfiOutputs(NamedTuple):
    """What a head behind a `Denfi` says.

    Args:
        head: the head's own outputs.
        boundary: of the proposals, None without.
    """

    head: Any
    boundary: BoundaryOutput | ShapeOutput | None


class DenfiHead(nn.Module):
    """A `Denfi` in front of a head with two branches, as one head: the detector around it need not know.

    Args:
        denfi: the plug-in.
        head: ``head(cls_feat, reg_feat)`` gives its outputs, ``head.losses(outputs, gt_boxes)`` a dict with
            ``loss``, ``head.detect(outputs, options)`` detections: `AnchorHead` and `AnchorFreeHead` do.

    Attributes:
        truth: footprints and labels of the frames that come next, for the oracle.
        last: proposals of the last call, for pictures.
    """

    truth: Truth | None
    last: BoundaryOutput | ShapeOutput | None

    def __init__(self, denfi: Denfi, head: nn.Module) -> None:
        super().__init__()
        self.denfi, self.head = denfi, head
        self.truth = None
        self.last = None

    @property
    def output_names(self) -> list[str]:
        """Of the exported graph: the head's outputs, then the proposals'."""
        names = ["classes", "boxes"]
        if getattr(self.head, "conv_dir_cls", None) is not None:
            names.append("direction")
        if isinstance(self.denfi.proposal, DenseBoundaryProposal):
            names += ["dist", "bin_logits", "bin_res", "proposals"]
        return names + ["shape"] * isinstance(self.denfi.proposal, ShapeProposal)

    def forward(self, x: Tensor) -> DenfiOutputs:
        """(B, C, H, W) to the head's outputs and the proposals."""
        cls_feat, reg_feat, boundary = self.denfi(x, self.truth)
        if not torch.compiler.is_compiling() and not self.training:
            self.last = boundary
        return DenfiOutputs(self.head(cls_feat, reg_feat), boundary)

    def losses(self, outputs: DenfiOutputs, gt_boxes: Tensor) -> dict[str, Tensor]:
        """The head's losses and those of the proposals; ``loss`` is the sum of all."""
        losses: dict[str, Tensor] = self.head.losses(outputs.head, gt_boxes)  # type: ignore[operator]
        own = self.denfi.loss(outputs.boundary, *split_truth(gt_boxes))
        return {**losses, **own, "loss": sum(own.values(), losses["loss"])}

    def detect(self, outputs: DenfiOutputs, options: PostProcess) -> list[dict[str, Tensor]]:
        """Detections of every frame; the proposals never become one."""
        found: list[dict[str, Tensor]] = self.head.detect(outputs.head, options)  # type: ignore[operator]
        return found

    def boxes(self, outputs: DenfiOutputs) -> Tensor:
        """All decoded boxes (B, N, 7), as proposals of two-stage detectors need them."""
        boxes: Tensor = self.head.boxes(outputs.head)  # type: ignore[operator]
        return boxes

    def logits(self, outputs: DenfiOutputs) -> Tensor:
        """All class logits (B, N, C), likewise."""
        logits: Tensor = self.head.logits(outputs.head)  # type: ignore[operator]
        return logits
