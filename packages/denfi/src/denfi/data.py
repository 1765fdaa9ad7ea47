"""Generated data: maps whose evidence lies on one edge, and bird's-eye scenes whose points lie on visible edges.

Readers of real data are those of `tenfold.lidar`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["EdgeMaps", "Scene", "edge_maps", "scene", "scene_batch"]

Floats = npt.NDArray[np.float64]

# ---- maps with evidence on the front edge --------------------------------------------------------

_SIDE, _CHANNELS, _OBJECTS = 40, 4, 2
_NOISE, _EVIDENCE, _EDGE = 0.3, 1.5, 0.75
_LENGTHS, _WIDTHS = (8.0, 14.0), (4.0, 6.0)
_PROPOSAL_NOISE, _INTERIOR = 0.1, 0.45
# Objects stay on the map and apart at any heading: half a diagonal and the edge's thickness.
_MARGIN = math.hypot(_LENGTHS[1], _WIDTHS[1]) / 2 + _EDGE


@dataclass(frozen=True, eq=False)
class EdgeMaps:
    """Maps with two objects each; lengths in cells, positions in (row, column).

    Attributes:
        feat: (N, 4, 40, 40). Channel 0 holds an object's class as a sign, on its front edge alone; channel 1
            marks all four edges; everything carries noise.
        proposals: (N, 5, 40, 40) left, front, right, rear, heading with noise inside objects, random outside.
        labels: (N, 40, 40) 0 or 1 at interior pixels, -1 elsewhere.
        boxes: (N, 2, 5) x (column), y (row), length, width, heading.
        frames: (N, 2, 2, 40, 40) coordinates of every pixel along and across each object.
    """

    feat: Tensor
    proposals: Tensor
    labels: Tensor
    boxes: Tensor
    frames: Tensor

    def __len__(self) -> int:
        return len(self.feat)

    def part(self, rows: slice) -> EdgeMaps:
        """Some of the maps."""
        return EdgeMaps(*(t[rows] for t in (self.feat, self.proposals, self.labels, self.boxes, self.frames)))


def edge_maps(count: int, seed: int, headings: Literal["axis", "rotated"] = "rotated") -> EdgeMaps:
    """Maps on which the class of an interior pixel is told at the front edge alone.

    Args:
        count: number of maps.
        seed: of everything.
        headings: "axis" for heading 0 everywhere, or "rotated".

    Example:
        >>> maps = edge_maps(2, 0)
        >>> maps.feat.shape, sorted(maps.labels.unique().tolist())
        (torch.Size([2, 4, 40, 40]), [-1, 0, 1])
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    centres = _apart(count, uniform)
    length, width = (uniform(*limits, count, _OBJECTS) for limits in (_LENGTHS, _WIDTHS))
    theta = (
        uniform(-math.pi, math.pi, count, _OBJECTS) if headings == "rotated" else torch.zeros(count, _OBJECTS)
    )
    boxes = torch.cat((centres, torch.stack((length, width, theta), -1)), -1)
    frames = _pixel_frames(boxes)
    u, v = frames.unbind(2)
    half_l, half_w = (boxes[..., k, None, None] / 2 for k in (2, 3))
    classes = torch.randint(0, 2, (count, _OBJECTS), generator=generator)

    feat = torch.randn(count, _CHANNELS, _SIDE, _SIDE, generator=generator) * _NOISE
    front = ((u - half_l).abs() <= _EDGE) & (v.abs() <= half_w)
    signs = (2.0 * classes - 1)[..., None, None]
    feat[:, 0] += _EVIDENCE * (front * signs).sum(1)
    reach = torch.maximum(u.abs() - half_l, v.abs() - half_w)
    feat[:, 1] += _EVIDENCE * (reach.abs() <= _EDGE).any(1)

    inside = reach <= 0
    owner = inside.long().argmax(1, keepdim=True)
    own_u, own_v, own_l, own_w, own_theta = (
        t.expand_as(u).gather(1, owner)[:, 0] for t in (u, v, half_l, half_w, theta[..., None, None])
    )
    told = torch.stack((own_w - own_v, own_l - own_u, own_w + own_v, own_l + own_u, own_theta), 1)
    told = told + torch.randn(told.shape, generator=generator) * _PROPOSAL_NOISE
    noise = uniform(0, _LENGTHS[1] / 2, *told.shape)
    noise[:, 4] = uniform(-math.pi, math.pi, *noise[:, 4].shape)
    proposals = torch.where(inside.any(1, keepdim=True), told, noise)

    interior = ((u.abs() <= _INTERIOR * half_l) & (v.abs() <= _INTERIOR * half_w)).any(1)
    own_class = classes[..., None, None].expand_as(owner.expand_as(u)).gather(1, owner)[:, 0]
    labels = torch.where(interior, own_class, -1)
    return EdgeMaps(feat, proposals, labels, boxes, frames)


def _apart(count: int, uniform: Any) -> Tensor:
    """Centres (N, 2, 2) of two objects that never touch."""
    kept: list[Tensor] = []
    have = 0
    while have < count:
        drawn = uniform(_MARGIN, _SIDE - _MARGIN, 4 * count + 16, _OBJECTS, 2)
        good = drawn[(drawn[:, 0] - drawn[:, 1]).norm(dim=-1) >= 2 * _MARGIN]
        kept.append(good)
        have += len(good)
    return torch.cat(kept)[:count]


def _pixel_frames(boxes: Tensor) -> Tensor:
    """(N, M, 2, 40, 40) coordinates of the pixel centres along and across each box (N, M, 5)."""
    place = torch.arange(_SIDE) + 0.5
    dx, dy = place - boxes[..., 0, None, None], place[:, None] - boxes[..., 1, None, None]
    cos, sin = boxes[..., 4, None, None].cos(), boxes[..., 4, None, None].sin()
    return torch.stack((dx * cos + dy * sin, dy * cos - dx * sin), 2)


# ---- bird's-eye scenes ---------------------------------------------------------------------------

_PATCH, _SENSOR = 9.6, 25.0
_SPACING, _KEPT, _JITTER = 0.12, 0.75, 0.04
_CLUTTER = 40


@dataclass(frozen=True, eq=False)
class Scene:
    """One frame seen from above.

    Attributes:
        points: (N, 3) float32 x, y, z = 0, metres; only edges that face the sensor have any.
        boxes: (M, 7) float32, centred at z = 0, one metre high.
        sensor: (2,) its place.
    """

    points: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    sensor: Floats


def scene(seed: tuple[int, ...]) -> Scene:
    """Cars, walls and clutter on a patch of 19.2 m, seen by a sensor 25 m away in a random direction.

    A fixed direction would let one constant shift find the visible edges.

    Args:
        seed: numbers that name the scene.

    Example:
        >>> s = scene((0, 1))
        >>> 2 <= len(s.boxes) <= 4, s.points.shape[1]
        (True, 3)
    """
    rng = np.random.default_rng(seed)
    angle = rng.uniform(-np.pi, np.pi)
    sensor = _SENSOR * np.array([np.cos(angle), np.sin(angle)])
    boxes = _cars(rng)
    parts = [_visible_edges(box, sensor, rng) for box in boxes]
    for _ in range(rng.integers(2, 6)):
        middle, heading, length = (
            rng.uniform(-_PATCH, _PATCH, 2),
            rng.uniform(0, np.pi),
            rng.uniform(0.6, 3.0),
        )
        step = length / 2 * np.array([np.cos(heading), np.sin(heading)])
        parts.append(_line(middle - step, middle + step, rng))
    parts.append(rng.uniform(-_PATCH, _PATCH, (_CLUTTER, 2)))
    xy = np.concatenate(parts)
    points = np.concatenate((xy, np.zeros((len(xy), 1))), 1).astype(np.float32)
    rows = np.zeros((len(boxes), 7), np.float32)
    rows[:, [0, 1, 3, 4, 6]], rows[:, 5] = boxes, 1.0
    return Scene(points, rows, sensor)


def _cars(rng: np.random.Generator) -> Floats:
    """(M, 5) two to four boxes whose circumscribed circles do not meet."""
    wanted, boxes = rng.integers(2, 5), np.zeros((0, 5))
    for _ in range(200):
        length, width = rng.uniform(3.2, 5.0), rng.uniform(1.4, 2.1)
        radius = np.hypot(length, width) / 2
        centre = rng.uniform(-_PATCH + radius, _PATCH - radius, 2)
        others = np.hypot(boxes[:, 2], boxes[:, 3]) / 2
        if (np.hypot(*(boxes[:, :2] - centre).T) > others + radius).all():
            row = [*centre, length, width, rng.uniform(-np.pi, np.pi)]
            boxes = np.concatenate((boxes, [row]))
        if len(boxes) == wanted:
            break
    return boxes


def _visible_edges(box: Floats, sensor: Floats, rng: np.random.Generator) -> Floats:
    """Points of the sides whose outer face looks towards the sensor."""
    parts = []
    for quarter in range(4):
        heading = box[4] + quarter * np.pi / 2
        outward = np.array([np.cos(heading), np.sin(heading)])
        depth, reach = (box[2], box[3]) if quarter % 2 == 0 else (box[3], box[2])
        middle = box[:2] + outward * depth / 2
        if outward @ (sensor - middle) > 0:
            along = np.array([-outward[1], outward[0]]) * reach / 2
            parts.append(_line(middle - along, middle + along, rng))
    return np.concatenate([np.zeros((0, 2)), *parts])


def _line(start: Floats, end: Floats, rng: np.random.Generator) -> Floats:
    """Measured points of a line: a fixed spacing, some missing, each a little off."""
    number = max(2, round(float(np.hypot(*(end - start))) / _SPACING) + 1)
    points = start + np.linspace(0, 1, number)[:, None] * (end - start)
    points = points[rng.random(number) < _KEPT]
    return np.asarray(points + rng.normal(0, _JITTER, points.shape))


def scene_batch(seeds: list[tuple[int, ...]]) -> dict[str, Any]:
    """Scenes as a detector's batch, labels included.

    Example:
        >>> batch = scene_batch([(0, 1), (0, 2)])
        >>> batch["batch_size"], batch["gt_boxes"].shape[2]
        (2, 8)
    """
    scenes = [scene(seed) for seed in seeds]
    gt_boxes = torch.zeros(len(scenes), max(len(s.boxes) for s in scenes), 8)
    for row, s in zip(gt_boxes, scenes, strict=True):
        row[: len(s.boxes), :7] = torch.from_numpy(s.boxes)
        row[: len(s.boxes), 7] = 1
    points = [torch.from_numpy(np.insert(s.points, 0, k, axis=1)) for k, s in enumerate(scenes)]
    return {"points": torch.cat(points), "gt_boxes": gt_boxes, "batch_size": len(scenes), "scenes": scenes}
