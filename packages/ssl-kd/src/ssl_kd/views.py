"""Four views of each image: the image itself and three transforms of it.

Views of one image lie next to each other: row 4i of a flattened batch is image i as it is, rows 4i+1 to 4i+3
are its transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tenfold.distill.data import Augment, ResizedCrop

__all__ = ["VIEWS", "MixedViews", "RotationViews"]

VIEWS = 4
Pixels = npt.NDArray[np.uint8]
Rng = np.random.Generator


class RotationViews:
    """An image turned by 0, 90, 180 and 270 degrees counter-clockwise, cropped and normalised view by view.

    One random mirror is shared by the four views and applied before the rotation; each view then has its own
    crop.

    Args:
        transform: pads, crops and normalises; its probability of a mirror is that of the shared one. Without
            both it draws nothing and needs no generator.
        shared_flip: False draws a mirror for each view (a variant that makes positives harder).

    >>> views = RotationViews(Augment(pad=0, flip=0.0))
    >>> views(np.zeros((8, 8, 3), np.uint8)).shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(self, transform: Augment | ResizedCrop, shared_flip: bool = True) -> None:
        self.transform, self.shared_flip = transform, shared_flip

    def __call__(self, image: Any, rng: Rng | None = None) -> Tensor:
        """``(H, W, 3)`` of 0 to 255, or a Pillow image, to ``(4, 3, H, W)``."""
        return self.batch(np.asarray(image)[None], [rng])[0]

    def batch(self, images: Pixels, rngs: Sequence[Rng | None]) -> Tensor:
        """``(B, H, W, 3)`` to ``(B, 4, 3, H, W)``; square images, one generator for each."""
        if isinstance(self.transform, ResizedCrop):
            return torch.stack([self._resized(image, rng) for image, rng in zip(images, rngs, strict=True)])
        if images.shape[1] != images.shape[2]:
            raise ValueError(f"RotationViews: image: got {images.shape[1:3]}; expected a square")
        crop = self.transform
        if crop.flip and self.shared_flip:
            images = _mirrored(images, rngs, crop.flip)
            crop = Augment(crop.pad, 0.0, crop.mean, crop.std, crop.fill)
        turned = np.stack([np.rot90(images, k, axes=(1, 2)) for k in range(VIEWS)], 1)
        flat = turned.reshape(-1, *turned.shape[2:])
        # The generator of an image serves its four views, one after the other.
        drawn = crop.batch(flat, [rng for rng in rngs for _ in range(VIEWS)])
        return drawn.view(len(images), VIEWS, *drawn.shape[1:])

    def plain(self) -> RotationViews:
        """The views without mirror and crop, for evaluation."""
        return RotationViews(self.transform.plain(), self.shared_flip)

    def _resized(self, image: Pixels, rng: Rng | None) -> Tensor:
        """Large images: one mirror for all, then each turned view has a resized crop of its own."""
        shared = self.shared_flip and self.transform.train  # type: ignore[union-attr]
        if shared:
            image = _mirrored(image[None], [rng], 0.5)[0]
        crops = [self.transform(np.ascontiguousarray(np.rot90(image, k)), rng) for k in range(VIEWS)]
        return torch.stack(crops)


def _mirrored(images: Pixels, rngs: Sequence[Rng | None], probability: float) -> Pixels:
    if any(rng is None for rng in rngs):
        raise ValueError("RotationViews: rng: got None; a random mirror needs a generator for each image")
    flips = np.array([rng.random() < probability for rng in rngs if rng is not None])
    result = images.copy()
    result[flips] = result[flips, :, ::-1]
    return result


class MixedViews:
    """The image, and three views each of which is one of: grey, turned, resized crop, other colours.

    Args:
        transform: pads, crops and normalises every view.

    >>> MixedViews(Augment(pad=0, flip=0.0))(np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0)).shape
    torch.Size([4, 3, 8, 8])
    """

    def __init__(self, transform: Augment) -> None:
        self.transform = transform

    def __call__(self, image: Any, rng: Rng | None = None) -> Tensor:
        """``(H, W, 3)`` to ``(4, 3, H, W)``."""
        pixels = np.asarray(image)
        if rng is None:
            raise ValueError("MixedViews: rng: got None; expected a generator")
        kinds = (_grey, _turned, _resized_crop, _recoloured)
        views = [pixels, *(kinds[int(rng.integers(len(kinds)))](pixels, rng) for _ in range(VIEWS - 1))]
        return torch.stack([self.transform(view, rng) for view in views])

    def batch(self, images: Pixels, rngs: Sequence[Rng | None]) -> Tensor:
        """``(B, H, W, 3)`` to ``(B, 4, 3, H, W)``."""
        return torch.stack([self(image, rng) for image, rng in zip(images, rngs, strict=True)])

    def plain(self) -> MixedViews:
        """Without mirror and crop; the transforms stay random."""
        return MixedViews(self.transform.plain())


def _grey(image: Pixels, rng: Rng) -> Pixels:
    weights = np.array([0.299, 0.587, 0.114])
    grey = np.rint(image @ weights).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _turned(image: Pixels, rng: Rng) -> Pixels:
    return np.ascontiguousarray(np.rot90(image, int(rng.integers(1, 4))))


def _resized_crop(image: Pixels, rng: Rng) -> Pixels:
    from PIL import Image

    picture = Image.fromarray(image)
    side = np.sqrt(rng.uniform(0.2, 1.0)) * min(picture.size)
    x, y = rng.uniform(0, picture.width - side), rng.uniform(0, picture.height - side)
    return np.asarray(picture.resize(picture.size, Image.Resampling.BILINEAR, box=(x, y, x + side, y + side)))


def _recoloured(image: Pixels, rng: Rng) -> Pixels:
    """Brightness, contrast and saturation by factors from 0.2 to 1.8, hue by up to a fifth of the circle."""
    from PIL import Image, ImageEnhance

    picture = Image.fromarray(image)
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = kind(picture).enhance(rng.uniform(0.2, 1.8))
    hsv = np.array(picture.convert("HSV"))
    hsv[:, :, 0] += np.uint8(round(rng.uniform(-0.2, 0.2) * 255) % 256)
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))
