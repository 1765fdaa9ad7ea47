"""Reference of TTFNet's training targets: one box after the other, as the paper's section 3 tells it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ttf_targets"]

AREAS = ("log", "sqrt", "linear", "norm")
WEIGHTS = ("gaussian", "flat", "none")
SHAPES = ("elliptic", "circular")


def _kernel(center: int, radius: int, size: int) -> Tensor:
    """(size,) float32 Gaussian of sigma (2 radius + 1) / 6 around the centre, zero beyond the radius."""
    d = torch.arange(size, dtype=torch.float64) - float(center)
    sigma = (2 * radius + 1) / 6
    return torch.where(d.abs() <= radius, (-d * d / (2 * sigma * sigma)).exp(), 0.0).float()


def _importance(area: float, mode: int) -> float:
    """Weight of a whole box; boxes below one pixel count nothing under "log"."""
    if AREAS[mode] == "log":
        return max(math.log(area), 0.0)
    return {"sqrt": math.sqrt(area), "linear": area, "norm": 1.0}[AREAS[mode]]


def _one_image(
    boxes: Tensor,
    labels: Tensor,
    num_classes: int,
    height: int,
    width: int,
    stride: int,
    alpha: float,
    beta: float,
    area_mode: int,
    weight_mode: int,
    shape_mode: int,
) -> tuple[Tensor, Tensor, Tensor]:
    heat = torch.zeros(num_classes, height, width)
    target = torch.zeros(4, height, width)
    weight = torch.zeros(height, width)
    x1, y1, x2, y2 = boxes.double().unbind(1)
    area = (x2 - x1) * (y2 - y1)
    usable = boxes.isfinite().all(1) & (labels >= 0) & (labels < num_classes) & (x2 > x1) & (y2 > y1)
    usable &= area.isfinite()
    for m in area.sort(descending=True, stable=True).indices.tolist():
        if not bool(usable[m]):
            continue
        ax1, ay1, ax2, ay2 = (float(v[m]) for v in (x1, y1, x2, y2))
        cx, cy = math.floor((ax1 + ax2) / 2 / stride), math.floor((ay1 + ay2) / 2 / stride)
        w = min(max(ax2 / stride, 0), width - 1) - min(max(ax1 / stride, 0), width - 1)
        h = min(max(ay2 / stride, 0), height - 1) - min(max(ay1 / stride, 0), height - 1)
        if SHAPES[shape_mode] == "circular":
            w = h = min(w, h)
        kernels = []
        for scale in (alpha, beta):
            rx, ry = math.floor(scale * w / 2), math.floor(scale * h / 2)
            kernels.append((_kernel(cx, rx, width), _kernel(cy, ry, height)))
        gx, gy = kernels[0]
        label = int(labels[m])
        heat[label] = torch.maximum(heat[label], gy[:, None] * gx[None])
        gx, gy = kernels[1]
        covered = (gy > 0)[:, None] & (gx > 0)[None]
        omega = _importance(float(area[m]), area_mode)
        if WEIGHTS[weight_mode] == "gaussian":
            share = gy[:, None] * gx[None] * (omega / (gy.double().sum() * gx.double().sum())).float()
        elif WEIGHTS[weight_mode] == "flat":
            share = torch.full((height, width), omega / max(int(covered.sum()), 1))
        else:
            share = torch.ones(height, width)
        weight = torch.where(covered, share, weight)
        target = torch.where(covered, boxes[m].float()[:, None, None], target)
    return heat, target, weight


def ttf_targets(
    boxes: Tensor,
    labels: Tensor,
    num_classes: int,
    height: int,
    width: int,
    stride: int,
    alpha: float,
    beta: float,
    area: int,
    weight: int,
    shape: int,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return heat maps (B, C, H, W), box targets (B, 4, H, W) and weights (B, H, W), all float32."""
    if validate:
        used = labels >= 0
        bad = used & (labels >= num_classes)
        for name, wrong, what in (
            ("labels", bad, f"is above {num_classes - 1}; expected -1 (padding) or a class"),
            ("boxes", used & ~boxes.isfinite().all(-1), "is not finite; expected finite numbers"),
        ):
            if bool(wrong.any()):
                b, m = wrong.nonzero()[0].tolist()
                raise ValueError(f"ttf_targets: {name}: row {m} of image {b} {what}")
    device = boxes.device
    boxes, labels = boxes.cpu(), labels.cpu()
    parts = [
        _one_image(boxes[b], labels[b], num_classes, height, width, stride, alpha, beta, area, weight, shape)
        for b in range(boxes.shape[0])
    ]
    shapes = ((num_classes, height, width), (4, height, width), (height, width))
    stacked = [
        (torch.stack([part[i] for part in parts]) if parts else torch.zeros(0, *shape)).to(device)
        for i, shape in enumerate(shapes)
    ]
    return stacked[0], stacked[1], stacked[2]
