"""From a picture and its boxes to the network's input: augmentation, resizing, normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvf
from torch import Tensor

from tenfold._errors import UserInputError
from ttfnet.checkpoint import NORMALIZATIONS
from ttfnet.data.augment import colour_jitter, expand, min_iou_crop, photometric, scaled_crop
from ttfnet.data.scene import Pixels, Scene, flip

__all__ = ["Pipeline", "Sample", "resize_image"]


@dataclass(frozen=True, eq=False)
class Sample:
    """What the network is fed with.

    Attributes:
        image: ``(3, H, W)`` float32, normalised.
        boxes: ``(M, 4)`` in input pixels.
        labels: ``(M,)`` int64.
        ignore: ``(K, 4)``.
        image_id: as in the annotation file.
        size: height and width of the original.
        scale: input pixels per original pixel, x and y.
        dropped: objects that augmentation made too small or cut off.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    ignore: Tensor
    image_id: int
    size: tuple[int, int]
    scale: tuple[float, float]
    dropped: int = 0


def resize_image(image: Pixels, size: tuple[int, int]) -> Tensor:
    """``(3, H, W)`` tensor of the input's dtype: bilinear with antialiasing, in training and prediction alike."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    out: Tensor = tvf.resize(pixels, list(size), antialias=True) if pixels.shape[1:] != size else pixels
    return out


@dataclass(frozen=True)
class Pipeline:
    """Scene to sample.

    Attributes:
        size: height and width of the network's input, multiples of 32.
        augment: ``"none"``, ``"flip"`` (1x and 2x schedules), ``"heavy"`` (10x schedules) or ``"centernet"``.
        normalization: see `ttfnet.checkpoint.NORMALIZATIONS`.
        resize: ``"squash"``, ``"letterbox"``, or ``"original"``, which keeps every picture's own size and adds
            what CenterNet adds at the right and below: up to ``(side | 31) + 1``.

    Example:
        >>> scene = Scene(np.zeros((60, 80, 3), np.uint8), np.array([[8, 6, 40, 30]], np.float32), np.array([0]))
        >>> sample = Pipeline((64, 160))(scene)
        >>> [round(v, 1) for v in sample.boxes[0].tolist()], sample.scale
        ([16.0, 6.4, 80.0, 32.0], (2.0, 1.0666666666666667))
    """

    size: tuple[int, int] = (512, 512)
    augment: Literal["none", "flip", "heavy", "centernet"] = "none"
    normalization: str = "imagenet"
    resize: str = "squash"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 32 or any(side % 32 for side in self.size):
            raise UserInputError(f"size: got {list(self.size)}; expected height and width, multiples of 32")
        for name, known in (
            ("augment", ("none", "flip", "heavy", "centernet")),
            ("normalization", tuple(NORMALIZATIONS)),
            ("resize", ("squash", "letterbox", "original")),
        ):
            if getattr(self, name) not in known:
                raise UserInputError(
                    f"{name}: got {getattr(self, name)!r}; expected one of {', '.join(known)}"
                )

        if self.resize == "original" and self.augment != "none":
            raise UserInputError("resize: got 'original' with augmentation; it is for evaluation alone")

    def __call__(self, scene: Scene, rng: np.random.Generator | None = None, image_id: int = 0) -> Sample:
        """The sample; ``rng`` is needed where there is augmentation."""
        original, before = scene.size, len(scene.boxes)
        if self.augment != "none":
            if rng is None:
                raise ValueError("Pipeline: rng: missing; augmentation draws from it")
            scene = self._augmented(scene, rng)
        pixels, scale = self._resized(scene)
        factor = np.array([*scale, *scale], np.float32)
        boxes, ignore = scene.boxes * factor, scene.ignore * factor
        # A box below one pixel has no logarithm of its area worth learning from.
        whole = (
            (boxes[:, 2:] - boxes[:, :2] >= 1).all(1) if self.augment != "none" else np.ones(len(boxes), bool)
        )
        mean, deviation = (torch.tensor(v)[:, None, None] for v in NORMALIZATIONS[self.normalization])
        image = (pixels.float() - mean) / deviation
        if self.resize != "squash":  # what is added has the mean's colour
            height, width = self._padded(scene)
            image = torch.nn.functional.pad(image, (0, width - image.shape[2], 0, height - image.shape[1]))
        return Sample(
            image,
            torch.from_numpy(boxes[whole]),
            torch.from_numpy(scene.labels[whole]),
            torch.from_numpy(ignore),
            image_id,
            original,
            scale,
            before - int(whole.sum()),
        )

    def _augmented(self, scene: Scene, rng: np.random.Generator) -> Scene:
        if self.augment == "heavy":
            scene = photometric(scene, rng)
            if rng.random() < 0.5:
                scene = expand(scene, rng, NORMALIZATIONS["imagenet"][0])
            scene = min_iou_crop(scene, rng)
        elif self.augment == "centernet":
            scene = scaled_crop(scene, rng, self.size)
        if rng.random() < 0.5:
            scene = flip(scene)
        return colour_jitter(scene, rng) if self.augment == "centernet" else scene

    def _padded(self, scene: Scene) -> tuple[int, int]:
        """Height and width of the network's input."""
        if self.resize != "original":
            return self.size
        return (scene.size[0] | 31) + 1, (scene.size[1] | 31) + 1

    def _resized(self, scene: Scene) -> tuple[Tensor, tuple[float, float]]:
        (height, width), size = scene.size, self.size
        if self.resize == "original":
            size = scene.size
        if self.resize == "letterbox":
            ratio = min(size[0] / height, size[1] / width)
            size = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        return resize_image(scene.image, size), (size[1] / width, size[0] / height)
