"""The head of CBGS (Zhu et al. 2019): groups of classes with branches of their own, and velocities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.geometry import ResidualCoder
from tenfold.lidar.anchors import AnchorClass, make_anchors
from tenfold.lidar.models.anchor_head import LossWeights
from tenfold.lidar.models.voxel_backbone import NORM_EPS, NORM_MOMENTUM
from tenfold.lidar.postprocess import PostProcess, keep_best, select_per_class
from tenfold.lidar.targets import AnchorTargets, assign_targets
from tenfold.losses import sigmoid_focal_loss, smooth_l1
from tenfold.ops._checks import as_compute

NUSCENES_WEIGHTS = LossWeights(1.0, 0.25, 0.0, (1.0,) * 8 + (0.2, 0.2), negatives=2.0)
# Numbers per anchor of each regression branch.
_BRANCHES = {"reg": 2, "height": 1, "size": 3, "angle": 2, "velo": 2}
_NOWHERE = -1e4  # logit of a class in an anchor of another group


class MultiOutputs(NamedTuple):
    """Raw outputs of each group; its anchors run over class, size, rotation, then y, x.

    Args:
        classes: for each group (B, N_g, C_g) logits of the group's classes.
        boxes: for each group (B, N_g, 8 or 10) codes.
    """

    classes: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]


def _branch(c_in: int, c_mid: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_mid, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_mid),
        nn.ReLU(),
        nn.Conv2d(c_mid, c_out, 3, padding=1),
    )


class GroupHead(nn.Module):
    """Branches of one group of classes.

    The outputs of the regression branches are joined and then read as (anchor, code). With more than one
    anchor in a cell the branches' names therefore do not say which code they give; published weights were
    trained this way.

    Args:
        in_channels: of the shared features.
        channels: of the branches.
        anchors: in a cell.
        labels: 1-based labels of the classes.
        velocity: whether there is a branch for it.
    """

    head_label_indices: Tensor

    def __init__(
        self, in_channels: int, channels: int, anchors: int, labels: Sequence[int], *, velocity: bool
    ) -> None:
        super().__init__()
        self.per_cell = anchors
        self.conv_cls = _branch(in_channels, channels, anchors * len(labels))
        names = [name for name in _BRANCHES if velocity or name != "velo"]
        self.conv_box = nn.ModuleDict(
            {f"conv_{name}": _branch(in_channels, channels, anchors * _BRANCHES[name]) for name in names}
        )
        self.register_buffer("head_label_indices", torch.tensor(labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal (fan-out) regression with bias 0; scores start at 0.01."""
        for module in self.conv_box.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bias = self.conv_cls[-1].bias
        assert isinstance(bias, Tensor)
        nn.init.constant_(bias, -math.log(99))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, ny, nx) to class logits and codes, anchor before y before x."""
        regression = torch.cat([branch(x) for branch in self.conv_box.values()], 1)
        return self._flat(self.conv_cls(x)), self._flat(regression)

    def _flat(self, maps: Tensor) -> Tensor:
        b, channels, ny, nx = maps.shape
        columns = channels // self.per_cell
        split = maps.view(b, self.per_cell, columns, ny, nx).permute(0, 1, 3, 4, 2)
        return as_compute(split.reshape(b, -1, columns))


class MultiHead(nn.Module):
    """A shared layer, and one `GroupHead` per group.

    Args:
        in_channels: of the features.
        classes: anchors of every class.
        groups: names of the classes of each head, all classes in their order.
        point_range: x, y, z of the lower corner, then of the upper, metres.
        grid: (ny, nx) of the features.
        channels: of the shared layer and of the branches.
        velocity: whether boxes carry vx, vy.
        weights: of the losses.

    Raises:
        ValueError: groups that do not hold the classes in their order.

    Example:
        >>> from tenfold.lidar.anchors import NUSCENES_ANCHORS, NUSCENES_GROUPS
        >>> head = MultiHead(512, NUSCENES_ANCHORS, NUSCENES_GROUPS, (-51.2, -51.2, -5, 51.2, 51.2, 3), (16, 16))
        >>> outputs = head(torch.zeros(1, 512, 16, 16))
        >>> [tuple(part.shape) for part in outputs.boxes][:2]
        [(1, 512, 10), (1, 1024, 10)]
    """

    anchors: Tensor

    def __init__(
        self,
        in_channels: int,
        classes: Sequence[AnchorClass],
        groups: Sequence[Sequence[str]],
        point_range: Sequence[float],
        grid: tuple[int, int],
        *,
        channels: int = 64,
        velocity: bool = True,
        weights: LossWeights | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        names = [item.name for item in self.classes]
        if [name for group in groups for name in group] != names:
            raise ValueError(f"MultiHead: groups: got {groups}; expected all of {names}, in this order")
        self.weights = weights or NUSCENES_WEIGHTS
        self.coder = ResidualCoder("sincos", velocity=velocity)
        self._labels = [[names.index(name) for name in group] for group in groups]  # 0-based
        self.shared_conv = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM),
            nn.ReLU(),
        )
        self.rpn_heads = nn.ModuleList()
        for group in self._labels:
            per_cell = sum(self.classes[label].per_cell for label in group)
            published = [label + 1 for label in group]
            self.rpn_heads.append(GroupHead(channels, channels, per_cell, published, velocity=velocity))
        self.register_buffer("anchors", make_anchors(point_range, grid, self.classes), persistent=False)

    def forward(self, x: Tensor) -> MultiOutputs:
        """(B, C, ny, nx) to raw outputs, float32 under autocast."""
        shared = self.shared_conv(x)
        pairs = [head(shared) for head in self.rpn_heads]
        return MultiOutputs(tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))

    def group_anchors(self) -> list[Tensor]:
        """(A_g, ny, nx, 7) of each group: the order of its outputs."""
        found, start = [], 0
        for labels in self._labels:
            stop = start + sum(self.classes[label].per_cell for label in labels)
            found.append(self.anchors[:, :, start:stop].permute(2, 0, 1, 3).contiguous())
            start = stop
        return found

    def losses(self, outputs: MultiOutputs, gt_boxes: Tensor) -> dict[str, Tensor]:
        """Losses of a batch: every frame is normalised by its positives of all groups, then averaged.

        Args:
            outputs: of `forward`.
            gt_boxes: (B, M, 8), or (B, M, 10) with velocity; zero padded, 1-based label last.

        Returns:
            Scalars ``loss``, ``loss_cls``, ``loss_box`` (weighted) and ``num_positives``.
        """
        anchors = self.group_anchors()
        targets = self._targets(gt_boxes, anchors)
        count = torch.stack([(t.labels > 0).sum(1) for t in targets]).sum(0)
        like = outputs.classes[0]
        frame_weight = 1 / (count.clamp(min=1) * max(1, len(gt_boxes))).to(like.dtype)
        classes = boxes = like.new_zeros(())
        for group, target in enumerate(targets):
            classes = classes + self._class_loss(outputs.classes[group], target, frame_weight, group)
            boxes = boxes + self._box_loss(outputs.boxes[group], target, frame_weight, anchors[group])
        losses = {"loss_cls": self.weights.classes * classes, "loss_box": self.weights.boxes * boxes}
        return {"loss": losses["loss_cls"] + losses["loss_box"], **losses, "num_positives": count.sum()}

    def _targets(self, gt_boxes: Tensor, group_anchors: list[Tensor]) -> list[AnchorTargets]:
        """Targets of each group, with the global 1-based labels."""
        found = []
        for labels, anchors in zip(self._labels, group_anchors, strict=True):
            classes = [self.classes[k] for k in labels]
            # (A, ny, nx, 7) stands in for (ny, nx, A, 7): the order of the outputs is kept.
            found.append(
                assign_targets(anchors, gt_boxes, classes, first_label=labels[0] + 1, anchor_first=True)
            )
        return found

    def _class_loss(self, logits: Tensor, targets: AnchorTargets, frame_weight: Tensor, group: int) -> Tensor:
        local = (targets.labels - self._labels[group][0]).clamp(min=0)
        local = torch.where(targets.labels > 0, local, 0)
        one_hot = F.one_hot(local, logits.shape[-1] + 1)[..., 1:].to(logits.dtype)
        focal = sigmoid_focal_loss(logits, one_hot).sum(-1)
        weight = torch.where(targets.labels == 0, self.weights.negatives, 1.0).to(focal.dtype)
        weight = weight * (targets.labels >= 0)
        return (focal * weight * frame_weight[:, None]).sum()

    def _box_loss(
        self, codes: Tensor, targets: AnchorTargets, frame_weight: Tensor, anchors: Tensor
    ) -> Tensor:
        rows, per_frame = targets.positive, codes.shape[1]
        own = anchors.view(-1, 7)[rows % per_frame]
        wanted = self.coder.encode(targets.boxes, own).to(codes.dtype)
        weights = self.weights.codes and self.weights.codes[: self.coder.code_size]
        difference = smooth_l1(codes.flatten(0, 1)[rows], wanted, beta=0.0, code_weights=weights)
        return (difference.sum(1) * frame_weight[rows // per_frame]).sum()

    def boxes(self, outputs: MultiOutputs) -> Tensor:
        """All decoded boxes (B, N, 7 or 9), groups one after the other."""
        parts = [
            self.coder.decode(codes, anchors.view(-1, 7).expand(len(codes), -1, -1))
            for codes, anchors in zip(outputs.boxes, self.group_anchors(), strict=True)
        ]
        return torch.cat(parts, 1)

    def logits(self, outputs: MultiOutputs) -> Tensor:
        """All class logits (B, N, C) in the same order; classes of other groups are out of reach."""
        parts = []
        for logits, labels in zip(outputs.classes, self._labels, strict=True):
            full = logits.new_full((*logits.shape[:2], len(self.classes)), _NOWHERE)
            full[..., labels[0] : labels[-1] + 1] = logits
            parts.append(full)
        return torch.cat(parts, 1)

    @torch.no_grad()
    def detect(self, outputs: MultiOutputs, options: PostProcess) -> list[dict[str, Tensor]]:
        """Detections of every frame: suppression within each class."""
        frames = len(outputs.classes[0])
        anchors = [part.view(-1, 7) for part in self.group_anchors()]
        return [self._detect_frame(outputs, anchors, frame, options) for frame in range(frames)]

    def _detect_frame(
        self, outputs: MultiOutputs, anchors: list[Tensor], frame: int, options: PostProcess
    ) -> dict[str, Tensor]:
        parts = []
        for group, labels in enumerate(self._labels):
            scores = outputs.classes[group][frame].sigmoid()
            rows = (scores.amax(-1) >= options.score_threshold).nonzero()[:, 0]
            boxes = self.coder.decode(outputs.boxes[group][frame, rows], anchors[group][rows])
            found = select_per_class(boxes, scores[rows], options)
            parts.append({**found, "labels": found["labels"] + labels[0]})
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return keep_best(joined, options.total_max)
