"""Class names and mean sizes (dx, dy, dz in metres) of the data sets, in the order of their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["LABEL_SETS", "LabelSet"]

Size = tuple[float, float, float]


@dataclass(frozen=True)
class LabelSet:
    """What a data set detects.

    Attributes:
        names: by label.
        sizes: mean full extents of each class, metres.
        heading_bins: 1 for axis-aligned boxes, else bins of the heading.
        ids: foreign number of each class (nyu40 or a data set's own), where there is one.
    """

    names: tuple[str, ...]
    sizes: tuple[Size, ...]
    heading_bins: int = 1
    ids: tuple[int, ...] = ()

    @property
    def mean_size(self) -> Size:
        """Mean over classes of the class means: scale of the size losses and of the matching cost."""
        columns = list(zip(*self.sizes, strict=True))
        return (_mean(columns[0]), _mean(columns[1]), _mean(columns[2]))


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


def _label_set(rows: Mapping[str, tuple[float, ...]], heading_bins: int = 1) -> LabelSet:
    """Rows: name -> three sizes, then the foreign number if there is one."""
    sizes = tuple((row[0], row[1], row[2]) for row in rows.values())
    ids = tuple(int(row[3]) for row in rows.values() if len(row) > 3)
    return LabelSet(tuple(rows), sizes, heading_bins, ids)


# nyu40 39 is "otherfurniture"; the community's tables call its boxes "garbagebin", and so do ours.
_SCANNET = {
    "cabinet": (0.7697, 0.8116, 0.9257, 3),
    "bed": (1.8769, 1.8426, 1.1932, 4),
    "chair": (0.6133, 0.6149, 0.7183, 5),
    "sofa": (1.3955, 1.5122, 0.8344, 6),
    "table": (0.9795, 1.0675, 0.6330, 7),
    "door": (0.5317, 0.5956, 1.7500, 8),
    "window": (0.9625, 0.7246, 1.1482, 9),
    "bookshelf": (0.8322, 1.0491, 1.6876, 10),
    "picture": (0.2113, 0.4206, 0.5373, 11),
    "counter": (1.4440, 1.8971, 0.2699, 12),
    "desk": (1.0294, 1.4041, 0.8755, 14),
    "curtain": (1.3766, 0.6552, 1.6813, 16),
    "refrigerator": (0.6651, 0.7111, 1.2989, 24),
    "showercurtain": (0.4200, 0.3791, 1.7514, 28),
    "toilet": (0.5936, 0.5912, 0.7392, 33),
    "sink": (0.5087, 0.5066, 0.3014, 34),
    "bathtub": (1.1512, 1.0546, 0.4971, 36),
    "garbagebin": (0.4754, 0.4925, 0.5802, 39),
}
_SUNRGBD = {
    "bed": (2.114256, 1.620300, 0.927272),
    "table": (0.791118, 1.279516, 0.718182),
    "sofa": (0.923508, 1.867419, 0.845495),
    "chair": (0.591958, 0.552978, 0.827272),
    "toilet": (0.699104, 0.454178, 0.756250),
    "desk": (0.695190, 1.346299, 0.736364),
    "dresser": (0.528526, 1.002642, 1.172878),
    "night_stand": (0.500618, 0.632163, 0.683424),
    "bookshelf": (0.404671, 1.071108, 1.688889),
    "bathtub": (0.765840, 1.398258, 0.472728),
}
# Rough sizes of furniture; `prepare` writes those of the training areas beside the cache, which then win.
_S3DIS = {
    "table": (1.2, 1.2, 0.75, 7),
    "chair": (0.6, 0.6, 0.9, 8),
    "sofa": (1.5, 1.5, 0.8, 9),
    "bookcase": (0.9, 0.9, 2.0, 10),
    "board": (1.0, 1.0, 1.2, 11),
}
_ROOMS = {
    "table": (1.2, 0.8, 0.72),
    "chair": (0.5, 0.5, 0.9),
    "cabinet": (0.8, 0.45, 1.2),
    "bin": (0.35, 0.35, 0.5),
}

#: Data set -> its classes.
LABEL_SETS: dict[str, LabelSet] = {
    "scannet": _label_set(_SCANNET),
    "sunrgbd": _label_set(_SUNRGBD, 12),
    "s3dis": _label_set(_S3DIS),
    "matterport3d": _label_set(_SCANNET),
    "rooms": _label_set(_ROOMS),
}
