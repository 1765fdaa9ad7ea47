"""Anchor boxes on a bird's-eye grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Size = tuple[float, float, float]


@dataclass(frozen=True)
class AnchorClass:
    """The anchors of one class and when they match.

    Args:
        name: class name.
        sizes: (dx, dy, dz) of each anchor, metres.
        rotations: headings, radians; every size gets each of them.
        bottom: height of the anchors' bottom face, metres; the centre lies dz / 2 above.
        matched: bird's-eye IoU from which an anchor is positive.
        unmatched: IoU below which it is negative; anchors between the two are ignored.

    Raises:
        ValueError: no size or rotation, a size that is not positive, thresholds out of order.
    """

    name: str
    sizes: tuple[Size, ...]
    rotations: tuple[float, ...] = (0.0, 1.57)
    bottom: float = -1.78
    matched: float = 0.6
    unmatched: float = 0.45

    def __post_init__(self) -> None:
        if not self.sizes or any(len(size) != 3 or min(size) <= 0 for size in self.sizes):
            raise ValueError(
                f"AnchorClass: sizes: got {self.sizes}; expected positive (dx, dy, dz) of each anchor"
            )
        if not self.rotations:
            raise ValueError("AnchorClass: rotations: got none; expected one heading or more")
        if not 0 <= self.unmatched <= self.matched <= 1:
            raise ValueError(
                f"AnchorClass: unmatched, matched: got {self.unmatched}, {self.matched}; "
                "expected 0 <= unmatched <= matched <= 1"
            )

    @property
    def per_cell(self) -> int:
        """Anchors of this class in each cell."""
        return len(self.sizes) * len(self.rotations)


KITTI_ANCHORS = (
    AnchorClass("Car", ((3.9, 1.6, 1.56),)),
    AnchorClass("Pedestrian", ((0.8, 0.6, 1.73),), bottom=-0.6, matched=0.5, unmatched=0.35),
    AnchorClass("Cyclist", ((1.76, 0.6, 1.73),), bottom=-0.6, matched=0.5, unmatched=0.35),
)

# Class, (dx, dy, dz), bottom, matched, unmatched: CBGS (Zhu et al. 2019) as OpenPCDet sets it.
_NUSCENES = (
    ("car", (4.63, 1.97, 1.74), -0.95, 0.6, 0.45),
    ("truck", (6.93, 2.51, 2.84), -0.6, 0.55, 0.4),
    ("construction_vehicle", (6.37, 2.85, 3.19), -0.225, 0.5, 0.35),
    ("bus", (10.5, 2.94, 3.47), -0.085, 0.55, 0.4),
    ("trailer", (12.29, 2.90, 3.87), 0.115, 0.5, 0.35),
    ("barrier", (0.50, 2.53, 0.98), -1.33, 0.55, 0.4),
    ("motorcycle", (2.11, 0.77, 1.47), -1.085, 0.5, 0.3),
    ("bicycle", (1.70, 0.60, 1.28), -1.18, 0.5, 0.35),
    ("pedestrian", (0.73, 0.67, 1.77), -0.935, 0.6, 0.4),
    ("traffic_cone", (0.41, 0.41, 1.07), -1.285, 0.6, 0.4),
)
NUSCENES_ANCHORS = tuple(
    AnchorClass(name, (size,), bottom=bottom, matched=matched, unmatched=unmatched)
    for name, size, bottom, matched, unmatched in _NUSCENES
)
#: Classes that share a head of `MultiHead` on nuScenes.
NUSCENES_GROUPS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)
#: Anchors whose class a configuration may name without giving its anchors.
KNOWN_ANCHORS = {anchor.name: anchor for anchor in (*KITTI_ANCHORS, *NUSCENES_ANCHORS)}


def make_anchors(
    point_range: Sequence[float], grid: tuple[int, int], classes: Sequence[AnchorClass]
) -> Tensor:
    """Anchors of every class in every cell of a bird's-eye grid.

    Positions run from the lower to the upper border of the range, both included: the outermost anchors lie on
    the border, and the step is a little wider than a cell. Trained weights depend on it.

    Args:
        point_range: x, y, z of the lower corner, then of the upper, metres.
        grid: (ny, nx) cells of the feature map.
        classes: in the order of the head's classes.

    Returns:
        (ny, nx, A, 7) float32 boxes; the A anchors of a cell run over class, size, rotation.

    Raises:
        ValueError: a grid or class list that is empty, or a range that is not six numbers.

    Example:
        >>> anchors = make_anchors((0, -40, -3, 70.4, 40, 1), (200, 176), KITTI_ANCHORS)
        >>> anchors.shape, anchors[0, 0, 1].tolist()[:2]
        (torch.Size([200, 176, 6, 7]), [0.0, -40.0])
    """
    if len(point_range) != 6:
        raise ValueError(f"make_anchors: point_range: got {len(point_range)} numbers; expected 6")
    ny, nx = grid
    if ny < 1 or nx < 1 or not classes:
        raise ValueError(
            f"make_anchors: got grid {grid} and {len(classes)} classes; expected one or more of each"
        )
    x = torch.linspace(point_range[0], point_range[3], nx)
    y = torch.linspace(point_range[1], point_range[4], ny)
    shapes = torch.tensor(
        [(c.bottom + size[2] / 2, *size, angle) for c in classes for size in c.sizes for angle in c.rotations]
    )
    anchors = torch.empty(ny, nx, len(shapes), 7)
    anchors[..., 0] = x[None, :, None]
    anchors[..., 1] = y[:, None, None]
    anchors[..., 2:] = shapes
    return anchors
