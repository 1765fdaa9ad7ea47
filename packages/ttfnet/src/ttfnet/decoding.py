"""From maps to detections: peaks of the heat map, the best of them, and their boxes. No IoU suppression."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Detections", "best_peaks", "decode", "peaks", "select"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Objects of one image, best first.

    Attributes:
        boxes: ``(n, 4)`` x1, y1, x2, y2 in pixels.
        scores: ``(n,)`` in (0, 1).
        labels: ``(n,)`` int64 classes from 0.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.scores)

    def __getitem__(self, keep: Tensor) -> Detections:
        """Those rows, given as a mask or as indices."""
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep])


def peaks(logits: Tensor) -> Tensor:
    """Bool map: where a logit is the first maximum of its 3x3 neighbourhood (in row-major order).

    Of two equal neighbours one survives; comparing values alone would keep both.

    Example:
        >>> peaks(torch.tensor([[[[1.0, 3.0, 3.0, 0.0]]]])).tolist()
        [[[[False, True, False, False]]]]
    """
    _, where = F.max_pool2d(logits, 3, 1, 1, return_indices=True)
    height, width = logits.shape[-2:]
    return where == torch.arange(height * width, device=logits.device).view(height, width)


def best_peaks(heatmap: Tensor, max_det: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best peaks of all classes together.

    Args:
        heatmap: ``(B, C, H, W)`` logits.
        max_det: K; at most C * H * W are returned.

    Returns:
        ``(B, K)`` scores, best first (0 where there are fewer peaks), classes, and places ``y * W + x``.
    """
    _, _, height, width = heatmap.shape
    scores = heatmap.sigmoid() * peaks(heatmap)
    flat = scores.flatten(1)
    best, index = flat.topk(min(max_det, flat.shape[1]), dim=1)
    return best, index // (height * width), index % (height * width)


def decode(
    heatmap: Tensor, distances: Tensor, max_det: int = 100, stride: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels of the best peaks, a fixed number for each image.

    Args:
        heatmap: ``(B, C, H, W)`` logits; left as they are.
        distances: ``(B, 4, H, W)`` or, one for each class, ``(B, 4 C, H, W)``: left, top, right, bottom in
            input pixels.
        max_det: K.
        stride: input pixels per map pixel.

    Returns:
        ``(B, K, 4)`` x1, y1, x2, y2 in input pixels, ``(B, K)`` scores (0: no peak), ``(B, K)`` classes.

    Example:
        >>> heat = torch.full((1, 2, 4, 4), -9.0); heat[0, 1, 2, 3] = 2.0
        >>> boxes, scores, labels = decode(heat, torch.full((1, 4, 4, 4), 5.0), max_det=1)
        >>> boxes[0, 0].tolist(), labels.item()
        ([7.0, 3.0, 17.0, 13.0], 1)
    """
    heatmap, distances = heatmap.float(), distances.float()
    scores, labels, places = best_peaks(heatmap, max_det)
    width = heatmap.shape[-1]
    if distances.shape[1] > 4:  # one set of sides for each class
        maps = distances.unflatten(1, (-1, 4)).flatten(3).transpose(2, 3).flatten(1, 2)  # (B, C H W, 4)
        rows = labels * (heatmap.shape[2] * width) + places
    else:
        maps, rows = distances.flatten(2).transpose(1, 2), places
    sides = maps.gather(1, rows[..., None].expand(-1, -1, 4))
    base = torch.stack((places % width, places // width), -1).to(sides.dtype) * stride
    boxes = torch.cat((base - sides[..., :2], base + sides[..., 2:]), -1)
    return boxes, scores, labels


def select(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    conf: float,
    size: tuple[int, int] | None = None,
    nms_iou: float | None = None,
) -> Detections:
    """One image's rows above a score, clipped to the image, and thinned by class-wise suppression if asked.

    Args:
        boxes: ``(K, 4)``.
        scores: ``(K,)``, best first.
        labels: ``(K,)``.
        conf: rows must have a higher score.
        size: height and width to clip to.
        nms_iou: overlap above which the weaker box of a class goes; None keeps all, as published.
    """
    keep = scores > conf
    found = Detections(boxes[keep], scores[keep], labels[keep])
    if size is not None:
        limits = found.boxes.new_tensor([size[1], size[0]] * 2)
        found = Detections(torch.minimum(found.boxes.clamp(min=0), limits), found.scores, found.labels)
    if nms_iou is not None:
        from tenfold.ops import batched_nms

        found = found[batched_nms(found.boxes, found.scores, found.labels, nms_iou)]
    return found
