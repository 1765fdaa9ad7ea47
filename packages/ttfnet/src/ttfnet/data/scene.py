"""A picture with its objects, on the way to the network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FloatArray", "IntArray", "Pixels", "Scene", "flip"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[Any]
_NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture with its objects, on the way through the augmentations.

    Attributes:
        image: ``(H, W, 3)`` RGB; uint8, or float32 on the same scale without limits.
        boxes: ``(M, 4)`` x1, y1, x2, y2 in pixels.
        labels: ``(M,)``.
        ignore: ``(K, 4)`` regions that are no background.
    """

    image: Pixels
    boxes: FloatArray
    labels: IntArray
    ignore: FloatArray = field(default_factory=lambda: _NO_BOXES)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.shape[0], self.image.shape[1]

    def keep(self, rows: npt.NDArray[np.bool_]) -> Scene:
        """With those objects only."""
        return replace(self, boxes=self.boxes[rows], labels=self.labels[rows])


def flip(scene: Scene) -> Scene:
    """The mirror image."""
    width = scene.size[1]

    def turned(boxes: FloatArray) -> FloatArray:
        return np.column_stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]))

    return replace(scene, image=scene.image[:, ::-1], boxes=turned(scene.boxes), ignore=turned(scene.ignore))
