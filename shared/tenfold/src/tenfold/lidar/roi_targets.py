"""Second stages: which proposals are trained on, and what they should say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tenfold.geometry import ResidualCoder, rotate_z, wrap_angle
from tenfold.lidar.proposals import Proposals
from tenfold.ops import box_iou_3d
from tenfold.ops._checks import require_shape


@dataclass(frozen=True)
class RoISampling:
    """How regions of interest are drawn and labelled in training.

    Args:
        per_frame: regions per frame.
        fg_share: at most this share is foreground.
        reg_fg: IoU from which a box is regressed.
        score: "roi_iou": the class target rises from 0 at IoU ``cls_bg`` to 1 at ``cls_fg``; "cls": it is 1
            above ``cls_fg``, 0 below ``cls_bg`` and ignored between.
        cls_fg, cls_bg: see ``score``.
        hard_low: IoU from which background is hard.
        hard_share: share of hard background, where there is some of both.
        noise: shake the drawn regions, as the author of PointRCNN does; see `shake_boxes`.

    Raises:
        ValueError: a value out of range.
    """

    per_frame: int = 128
    fg_share: float = 0.5
    reg_fg: float = 0.55
    score: str = "roi_iou"
    cls_fg: float = 0.75
    cls_bg: float = 0.25
    hard_low: float = 0.1
    hard_share: float = 0.8
    noise: bool = False

    def __post_init__(self) -> None:
        if self.per_frame < 1:
            raise ValueError(f"RoISampling: per_frame: got {self.per_frame}; expected 1 or more")
        if self.score not in ("roi_iou", "cls"):
            raise ValueError(f"RoISampling: score: got {self.score!r}; expected 'roi_iou' or 'cls'")
        for name in ("fg_share", "reg_fg", "cls_fg", "cls_bg", "hard_low", "hard_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"RoISampling: {name}: got {getattr(self, name)}; expected a number in [0, 1]"
                )
        if self.cls_bg >= self.cls_fg:
            raise ValueError(
                f"RoISampling: cls_bg, cls_fg: got {self.cls_bg}, {self.cls_fg}; expected cls_bg < cls_fg"
            )


class RoITargets(NamedTuple):
    """Drawn regions and what they should say.

    Args:
        rois: (B, R, 7 or 9).
        scores: (B, R) class logit of the first stage.
        labels: (B, R) int64, 0-based.
        ious: (B, R) 3D IoU with the best ground truth of the same class.
        gt_boxes: (B, R, 7) that ground truth; zeros without one.
        classes: (B, R) class target in [0, 1], -1 ignored.
        regressed: (B, R) bool, whether the box is trained on.
    """

    rois: Tensor
    scores: Tensor
    labels: Tensor
    ious: Tensor
    gt_boxes: Tensor
    classes: Tensor
    regressed: Tensor


def best_same_class(boxes: Tensor, labels: Tensor, gt_boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Largest 3D IoU of each box with the ground truth of its own class, and that ground truth.

    Args:
        boxes: (N, 7).
        labels: (N,) 0-based.
        gt_boxes: (M, 8) label last, 1-based; rows with label 0 are padding.

    Returns:
        (N,) IoU, 0 where the class has no ground truth, and (N,) row of ``gt_boxes`` (the lowest on ties).
    """
    if not len(boxes) or not len(gt_boxes):
        return boxes.new_zeros(len(boxes)), labels.new_zeros(len(boxes))
    overlap = box_iou_3d(boxes.contiguous(), gt_boxes[:, :7].to(boxes).contiguous())
    same = labels[:, None] + 1 == gt_boxes[:, 7].long()
    return torch.where(same, overlap, 0).max(1)


def _draw(number: int, count: int, generator: torch.Generator | None) -> Tensor:
    """``number`` of ``count`` rows with replacement."""
    return torch.randint(count, (number,), generator=generator)


def draw_background(
    ious: Tensor, number: int, options: RoISampling, generator: torch.Generator | None = None
) -> Tensor:
    """``number`` rows below ``options.reg_fg``, drawn with replacement, hard ones preferred.

    Args:
        ious: (N,).
        number: of rows.
        options: see `RoISampling`.
        generator: of the random numbers; None takes torch's.

    Returns:
        (number,) rows, or none where nothing lies below.
    """
    below = ious < options.reg_fg
    hard = (below & (ious >= options.hard_low)).nonzero()[:, 0]
    easy = (below & (ious < options.hard_low)).nonzero()[:, 0]
    if not len(hard) or not len(easy):
        rows = hard if len(hard) else easy
        return rows[_draw(number, len(rows), generator).to(rows.device)] if len(rows) else rows
    wanted = min(int(number * options.hard_share), len(hard))
    picked = (
        hard[_draw(wanted, len(hard), generator).to(hard.device)],
        easy[_draw(number - wanted, len(easy), generator).to(hard.device)],
    )
    return torch.cat(picked)


def draw_rois(ious: Tensor, options: RoISampling, generator: torch.Generator | None = None) -> Tensor:
    """``options.per_frame`` rows of one frame's proposals (OpenPCDet's sampler).

    Up to ``fg_share`` of them reach the foreground IoU (the smaller of ``reg_fg`` and ``cls_fg``), without
    replacement; the rest is background. A frame of foreground alone repeats it; a frame of neither repeats
    what it has.

    Args:
        ious: (N,), N >= 1.
        options: see `RoISampling`.
        generator: of the random numbers; None takes torch's.
    """
    foreground = (ious >= min(options.reg_fg, options.cls_fg)).nonzero()[:, 0]
    share = min(round(options.fg_share * options.per_frame), len(foreground))
    background = draw_background(ious, options.per_frame - share, options, generator)
    if len(background):
        order = torch.randperm(len(foreground), generator=generator).to(ious.device)[:share]
        return torch.cat((foreground[order], background))
    rows = foreground if len(foreground) else torch.arange(len(ious), device=ious.device)
    return rows[_draw(options.per_frame, len(rows), generator).to(rows.device)]


@torch.no_grad()
def sample_rois(
    proposals: Proposals, gt_boxes: Tensor, options: RoISampling, generator: torch.Generator | None = None
) -> RoITargets:
    """Draw regions of interest of every frame and label them.

    Args:
        proposals: see `propose`; unused rows count as easy background.
        gt_boxes: (B, M, 8), zero padded, 1-based label last.
        options: see `RoISampling`.
        generator: of the random numbers; None takes torch's.

    Raises:
        ValueError: other shapes.
    """
    require_shape("sample_rois", "gt_boxes", gt_boxes, (len(proposals.boxes), "M", 8), "slice velocities off")
    parts: list[tuple[Tensor, ...]] = []
    for frame, gt in enumerate(gt_boxes):
        boxes, labels = proposals.boxes[frame], proposals.labels[frame]
        ious, match = best_same_class(boxes[:, :7], labels, gt)
        rows = draw_rois(ious, options, generator)
        found = gt[match[rows], :7].to(boxes) if len(gt) else boxes.new_zeros(len(rows), 7)
        found = torch.where(ious[rows, None] > 0, found, 0)
        chosen, overlap = boxes[rows], ious[rows]
        if options.noise:
            shaken, overlap = shake_boxes(chosen[:, :7], overlap, found, options.reg_fg, generator)
            chosen = torch.cat((shaken, chosen[:, 7:]), 1)
        parts.append((chosen, proposals.scores[frame, rows], labels[rows], overlap, found))
    rois, scores, labels, ious, found = (torch.stack(column) for column in zip(*parts, strict=True))
    return RoITargets(rois, scores, labels, ious, found, class_targets(ious, options), ious > options.reg_fg)


# Shift in metres, share of the extents, angle: the author's five levels.
_LEVELS = (
    (0.2, 0.10, math.pi / 12),
    (0.3, 0.15, math.pi / 12),
    (0.5, 0.15, math.pi / 9),
    (0.8, 0.15, math.pi / 6),
    (1.0, 0.15, math.pi / 3),
)


def shake_boxes(
    boxes: Tensor,
    ious: Tensor,
    gt_boxes: Tensor,
    foreground: float,
    generator: torch.Generator | None = None,
    *,
    tries: int = 10,
    kept: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Noise on regions of interest that leaves foreground foreground (PointRCNN's second stage in training).

    Each try draws one of five levels and within it shift, extents and heading uniformly; a region stays as it is
    with probability ``kept``. Foreground that has lost its overlap is drawn again, and after the last try is
    left as it was.

    Args:
        boxes: (N, 7).
        ious: (N,) with their ground truth.
        gt_boxes: (N, 7) that ground truth, zeros without one.
        foreground: IoU that foreground keeps.
        generator: of the random numbers; None takes torch's.
        tries: at most.
        kept: probability.

    Returns:
        (N, 7) boxes and (N,) their IoU.
    """
    result, overlap = boxes.clone(), ious.clone()
    open_rows = (boxes[:, 3:6] > 0).all(1).nonzero()[:, 0]
    wanted = ious >= foreground
    for _ in range(tries):
        if not len(open_rows):
            break
        noisy = _shaken(boxes[open_rows], kept, generator)
        found = box_iou_3d(noisy.contiguous(), gt_boxes[open_rows].contiguous(), paired=True)
        good = (found >= foreground) | ~wanted[open_rows]
        result[open_rows[good]], overlap[open_rows[good]] = noisy[good], found[good].to(overlap.dtype)
        open_rows = open_rows[~good]
    return result, overlap


def _shaken(boxes: Tensor, kept: float, generator: torch.Generator | None) -> Tensor:
    number = len(boxes)

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(number, *shape, generator=generator) * 2 - 1).to(boxes)

    levels = torch.tensor(_LEVELS)[_draw(number, len(_LEVELS), generator)].to(boxes)
    shift, size, turn = uniform(3) * levels[:, :1], uniform(3) * levels[:, 1:2], uniform(1) * levels[:, 2:]
    noisy = torch.cat((boxes[:, :3] + shift, boxes[:, 3:6] * (1 + size), boxes[:, 6:] + turn), 1)
    still = torch.rand(number, 1, generator=generator).to(boxes) < kept
    return torch.where(still, boxes, noisy)


def draw_factors(number: int, flip: float, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """Factors (number, 3) of x, y and z for `stretch_boxes`: one scale for all axes, y negative in mirrored rows.

    Args:
        number: of rows.
        flip: probability of a mirror image across the x axis.
        scale: the factor is uniform in 1 plus or minus this.
        generator: of the random numbers; None takes torch's.

    Example:
        >>> draw_factors(2, flip=1.0, scale=0.0).tolist()
        [[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]
    """
    factors = (1 + scale * (2 * torch.rand(number, 1, generator=generator) - 1)).repeat(1, 3)
    factors[:, 1] *= torch.where(torch.rand(number, generator=generator) < flip, -1.0, 1.0)
    return factors


def stretch_boxes(boxes: Tensor, factors: Tensor) -> Tensor:
    """Scale and mirror each box about the sensor, as its points are when multiplied by `factors`.

    Args:
        boxes: (..., 7).
        factors: (..., 3), see `draw_factors`.

    Example:
        >>> stretch_boxes(torch.tensor([1.0, 2, 3, 4, 2, 1, 0.5]), torch.tensor([2.0, -2.0, 2.0])).tolist()
        [2.0, -4.0, 6.0, 8.0, 4.0, 2.0, -0.5]
    """
    heading = boxes[..., 6:] * factors[..., 1:2].sign()
    return torch.cat((boxes[..., :3] * factors, boxes[..., 3:6] * factors.abs(), heading), -1)


def class_targets(ious: Tensor, options: RoISampling) -> Tensor:
    """Class target of regions by their IoU; -1 is ignored.

    Example:
        >>> class_targets(torch.tensor([0.2, 0.5, 0.8]), RoISampling()).tolist()
        [0.0, 0.5, 1.0]
        >>> class_targets(torch.tensor([0.2, 0.5, 0.8]), RoISampling(score="cls", cls_fg=0.6, cls_bg=0.45)).tolist()
        [0.0, -1.0, 1.0]
    """
    if options.score == "roi_iou":
        return ((ious - options.cls_bg) / (options.cls_fg - options.cls_bg)).clamp(0, 1)
    ignored = torch.full_like(ious, -1)
    return torch.where(ious > options.cls_fg, 1.0, torch.where(ious < options.cls_bg, 0.0, ignored))


def canonical_boxes(gt_boxes: Tensor, rois: Tensor) -> Tensor:
    """Ground truth in the frame of its region: origin at the centre, +x along the heading.

    A box that looks the other way is turned by pi, so that headings lie in (-pi / 2, pi / 2).

    Args:
        gt_boxes: (..., 7).
        rois: (..., 7).

    Returns:
        (..., 7).

    Example:
        >>> roi = torch.tensor([9.0, 2, -1, 4, 2, 1.5, 0.3])
        >>> canonical_boxes(roi + torch.tensor([0.0, 0, 0, 0, 0, 0, math.pi]), roi)[6].abs().item() < 1e-6
        True
    """
    centre = rotate_z(gt_boxes[..., :3] - rois[..., :3], -rois[..., 6])
    # To (-pi/2, pi/2]: a region cannot tell the front of a box from its rear.
    heading = -wrap_angle(rois[..., 6] - gt_boxes[..., 6], 0.5, math.pi)
    return torch.cat((centre, gt_boxes[..., 3:6], heading[..., None]), -1)


_CODER = ResidualCoder()


def _at_origin(rois: Tensor, heading: bool) -> Tensor:
    """Regions as anchors of the residual code: centre 0, heading 0 or their own."""
    angle = rois[..., 6:7] if heading else torch.zeros_like(rois[..., 6:7])
    return torch.cat((torch.zeros_like(rois[..., :3]), rois[..., 3:6], angle), -1)


def encode_rois(gt_boxes: Tensor, rois: Tensor) -> Tensor:
    """Codes (..., 7) of ground truth (..., 7) relative to regions (..., 7); all 0 where they are equal."""
    return _CODER.encode(canonical_boxes(gt_boxes, rois), _at_origin(rois, heading=False))


def decode_rois(codes: Tensor, rois: Tensor) -> Tensor:
    """Boxes (..., 7) of codes (..., 7) relative to regions (..., 7).

    Example:
        >>> roi = torch.tensor([[9.0, 2, -1, 4, 2, 1.5, 0.3]])
        >>> gt = roi + torch.tensor([[0.5, -0.2, 0.1, 0.3, 0.1, -0.1, 0.2]])
        >>> torch.allclose(decode_rois(encode_rois(gt, roi), roi), gt, atol=1e-5)
        True
    """
    local = _CODER.decode(codes, _at_origin(rois, heading=True))
    centre = rotate_z(local[..., :3], rois[..., 6]) + rois[..., :3]
    return torch.cat((centre, local[..., 3:]), -1)
