"""First stage to second stage: which boxes become regions of interest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.ops import nms_bev_aligned, nms_rotated
from tenfold.ops._checks import require_shape


@dataclass(frozen=True)
class ProposalOptions:
    """How proposals are chosen from the boxes of a first stage.

    Args:
        pre_max: only this many best boxes take part in the suppression.
        iou_threshold: of the suppression, which does not look at classes.
        post_max: only this many are kept; frames with fewer are padded.
        depth_quotas: share of ``pre_max`` and ``post_max`` for boxes in each of ``depth_bands``; None has no
            bands.
        depth_bands: borders along x, metres; as many bands as quotas.
        aligned: suppress by rectangles that ignore the heading, as the author of PointRCNN does.

    Raises:
        ValueError: a value out of range.
    """

    pre_max: int = 9000
    iou_threshold: float = 0.8
    post_max: int = 512
    depth_quotas: tuple[float, ...] | None = None
    depth_bands: tuple[float, ...] = (0.0, 40.0, 80.0)
    aligned: bool = False

    def __post_init__(self) -> None:
        if self.pre_max < 1 or self.post_max < 1:
            raise ValueError(
                f"ProposalOptions: pre_max, post_max: got {self.pre_max}, {self.post_max}; expected 1 or more"
            )
        if not 0 <= self.iou_threshold <= 1:
            raise ValueError(
                f"ProposalOptions: iou_threshold: got {self.iou_threshold}; expected a number in [0, 1]"
            )
        quotas = self.depth_quotas
        if quotas is not None and (
            len(quotas) + 1 != len(self.depth_bands) or not all(q > 0 for q in quotas)
        ):
            raise ValueError(
                f"ProposalOptions: depth_quotas: got {quotas} for bands {self.depth_bands}; "
                "expected one positive share per band"
            )


class Proposals(NamedTuple):
    """Regions of interest of a batch.

    Args:
        boxes: (B, R, 7 or 9); unused rows are zero.
        scores: (B, R) class logit of the first stage; 0 in unused rows.
        labels: (B, R) int64, 0-based; 0 in unused rows.
        counts: (B,) used rows of each frame; they come first.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    counts: Tensor

    @property
    def used(self) -> Tensor:
        """(B, R) bool."""
        return torch.arange(self.boxes.shape[1], device=self.boxes.device) < self.counts[:, None]


@torch.no_grad()
def propose(boxes: Tensor, logits: Tensor, options: ProposalOptions) -> Proposals:
    """Choose proposals: the score of a box is its best class logit, its label that class.

    Args:
        boxes: (B, N, 7 or 9); boxes with an entry that is not finite are left out.
        logits: (B, N, C).
        options: see `ProposalOptions`.

    Returns:
        `Proposals` with R = ``options.post_max``, best first, without gradient.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0, 0, 4, 2, 2, 0], [0.1, 0, 0, 4, 2, 2, 0], [9.0, 0, 0, 4, 2, 2, 0]]])
        >>> found = propose(boxes, torch.tensor([[[0.0, 1.0], [2.0, 0.0], [0.5, 0.0]]]), ProposalOptions(post_max=3))
        >>> found.labels.tolist(), found.counts.tolist()
        ([[0, 0, 0]], [2])
    """
    require_shape("propose", "logits", logits, (*boxes.shape[:2], "C"), "one row of logits per box")
    scores, labels = logits.max(-1)
    room = options.post_max
    out = Proposals(
        boxes.new_zeros(len(boxes), room, boxes.shape[-1]),
        scores.new_zeros(len(boxes), room),
        labels.new_zeros(len(boxes), room),
        labels.new_zeros(len(boxes)),
    )
    for frame in range(len(boxes)):
        keep = _choose(boxes[frame], scores[frame], options)
        out.boxes[frame, : len(keep)] = boxes[frame, keep]
        out.scores[frame, : len(keep)] = scores[frame, keep]
        out.labels[frame, : len(keep)] = labels[frame, keep]
        out.counts[frame] = len(keep)
    return out


def _choose(boxes: Tensor, scores: Tensor, options: ProposalOptions) -> Tensor:
    usable = boxes.isfinite().all(1) & scores.isfinite()
    if options.depth_quotas is None:
        return _suppress(boxes, scores, usable, options, options.pre_max, options.post_max)
    parts, borders = [], options.depth_bands
    for quota, near, far in zip(options.depth_quotas, borders[:-1], borders[1:], strict=True):
        band = usable & (boxes[:, 0] > near) & (boxes[:, 0] <= far)
        pre, post = round(options.pre_max * quota), round(options.post_max * quota)
        parts.append(_suppress(boxes, scores, band, options, max(1, pre), max(1, post)))
    keep = torch.cat(parts)[: options.post_max]
    return keep[torch.argsort(scores[keep], descending=True, stable=True)]


def _suppress(
    boxes: Tensor, scores: Tensor, usable: Tensor, options: ProposalOptions, pre_max: int, post_max: int
) -> Tensor:
    rows = usable.nonzero()[:, 0]
    suppress = nms_bev_aligned if options.aligned else nms_rotated
    keep = suppress(
        boxes[rows, :7].contiguous(), scores[rows], options.iou_threshold, pre_max=pre_max, post_max=post_max
    )
    return rows[keep]


def recall(proposals: Proposals, gt_boxes: Tensor, threshold: float = 0.5) -> tuple[int, int]:
    """How many ground-truth boxes some proposal overlaps in 3D, of how many.

    Args:
        proposals: see `propose`.
        gt_boxes: (B, M, 8 or 10), zero padded, label last.
        threshold: 3D IoU.

    Returns:
        Covered and all ground-truth boxes.
    """
    from tenfold.ops import box_iou_3d

    covered = total = 0
    for frame, rows in enumerate(gt_boxes):
        gt = rows[rows[:, -1] > 0, :7].contiguous()
        own = proposals.boxes[frame, : int(proposals.counts[frame]), :7].contiguous()
        total += len(gt)
        if len(own) and len(gt):
            covered += int((box_iou_3d(own, gt.to(own)).amax(0) >= threshold).sum())
    return covered, total
