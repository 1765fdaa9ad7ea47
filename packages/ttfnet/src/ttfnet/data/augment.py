"""Augmentations of the long schedules (section 4.1 of the paper follows SSD) and of CenterNet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ttfnet.data.scene import FloatArray, Scene

__all__ = ["colour_jitter", "expand", "min_iou_crop", "photometric", "scaled_crop"]

# Principal components of ImageNet's colours (Krizhevsky et al. 2012), for images in 0 to 1.
_COLOUR_VALUES = np.array([0.2141788, 0.01817699, 0.00341571])
_COLOUR_VECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)


def photometric(scene: Scene, rng: np.random.Generator) -> Scene:
    """Brightness, contrast, saturation, hue and channel order, each with probability 0.5; nothing is cut off."""
    image = scene.image.astype(np.float32)
    if rng.random() < 0.5:
        image = image + np.float32(rng.uniform(-32, 32))
    early = rng.random() < 0.5
    if early and rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.5, 1.5))
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else None
    hue = rng.uniform(-18, 18) if rng.random() < 0.5 else None
    if saturation is not None or hue is not None:
        h, s, v = _to_hsv(image)
        if saturation is not None:
            s = s * np.float32(saturation)
        if hue is not None:
            h = (h + np.float32(hue)) % 360
        image = _from_hsv(h, s, v)
    if not early and rng.random() < 0.5:
        image = image * np.float32(rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        image = image[..., rng.permutation(3)]
    return replace(scene, image=image)


def _to_hsv(image: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hue in degrees, saturation, and value on the image's scale."""
    r, g, b = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(-1)
    spread = value - image.min(-1)
    safe = np.where(spread == 0, 1, spread)
    hue = np.where(value == r, (g - b) / safe, np.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = np.where(spread == 0, 0, hue * 60 % 360).astype(np.float32)
    saturation = spread / np.where(value == 0, 1, np.abs(value))
    return hue, saturation.astype(np.float32), value


def _from_hsv(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> FloatArray:
    sector = hue / 60
    size = np.abs(value) * saturation  # a negative value (after darkening) keeps its order of channels
    channels = []
    for shift in (5, 3, 1):
        k = (sector + shift) % 6
        channels.append(value - size * np.clip(np.minimum(k, 4 - k), 0, 1))
    return np.stack(channels, -1).astype(np.float32)


def expand(scene: Scene, rng: np.random.Generator, fill: tuple[float, ...]) -> Scene:
    """The picture somewhere on a canvas of one to four times its sides."""
    height, width = scene.size
    ratio = rng.uniform(1, 4)
    tall, wide = int(height * ratio), int(width * ratio)
    top, left = int(rng.uniform(0, tall - height)), int(rng.uniform(0, wide - width))
    canvas = np.empty((tall, wide, 3), scene.image.dtype)
    canvas[:] = np.asarray(fill).round() if canvas.dtype == np.uint8 else fill
    canvas[top : top + height, left : left + width] = scene.image
    shift = np.array([left, top, left, top], np.float32)
    return replace(scene, image=canvas, boxes=scene.boxes + shift, ignore=scene.ignore + shift)


def min_iou_crop(scene: Scene, rng: np.random.Generator) -> Scene:
    """A part of the picture that overlaps every box enough; boxes with their centre outside go.

    The demand is drawn from {keep the picture, 0.1, 0.3, 0.5, 0.7, 0.9, 0}; fifty parts are tried before it
    is drawn again.
    """
    height, width = scene.size
    while True:
        mode = int(rng.integers(7))
        if mode == 0:
            return scene
        least = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)[mode - 1]
        for _ in range(50):
            w, h = rng.uniform(0.3 * width, width), rng.uniform(0.3 * height, height)
            if not 0.5 <= h / w <= 2:
                continue
            left, top = int(rng.uniform(0, width - w)), int(rng.uniform(0, height - h))
            part = np.array([left, top, left + int(w), top + int(h)], np.float32)
            if len(scene.boxes):
                centre = (scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2
                inside = np.asarray(((centre > part[:2]) & (centre < part[2:])).all(1), dtype=np.bool_)
                if _overlaps(part, scene.boxes).min() < least or not inside.any():
                    continue
                scene = scene.keep(inside)
            return _cropped(scene, part)


def _overlaps(part: FloatArray, boxes: FloatArray) -> FloatArray:
    sides = np.clip(np.minimum(part[2:], boxes[:, 2:]) - np.maximum(part[:2], boxes[:, :2]), 0, None)
    common = sides.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    ratio: FloatArray = common / ((part[2:] - part[:2]).prod() + areas - common)
    return ratio


def _cropped(scene: Scene, part: FloatArray) -> Scene:
    """The part inside whole-numbered limits, which lie inside the picture."""
    x1, y1, x2, y2 = (int(v) for v in part)
    limits = np.array([x1, y1, x2, y2], np.float32)

    def cut(boxes: FloatArray) -> FloatArray:
        inside = np.clip(boxes, limits[[0, 1, 0, 1]], limits[[2, 3, 2, 3]])
        shifted: FloatArray = inside - limits[[0, 1, 0, 1]]
        return shifted

    ignore = cut(scene.ignore)
    image = scene.image[y1:y2, x1:x2]
    return replace(scene, image=image, boxes=cut(scene.boxes), ignore=ignore[_with_area(ignore)])


def _with_area(boxes: FloatArray) -> npt.NDArray[np.bool_]:
    """Of which something is left."""
    return np.asarray((boxes[:, 2:] > boxes[:, :2]).all(1), dtype=np.bool_)


def _border(length: int) -> int:
    """How far from the edge CenterNet keeps the middle of its crops."""
    parts = 1
    while length - 128 // parts <= 128 // parts:
        parts *= 2
    return 128 // parts


def scaled_crop(scene: Scene, rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """A square around a random point, its side the picture's longer one times 0.6 to 1.3; black outside."""
    height, width = scene.size
    side = max(height, width) * rng.choice(np.arange(6, 14) / 10)
    aspect = size[1] / size[0]
    half = np.array([side * max(aspect, 1.0), side * max(1 / aspect, 1.0)]) / 2
    middle = [rng.integers(_border(n), max(n - _border(n), _border(n) + 1)) for n in (width, height)]
    x1, y1 = (round(m - h) for m, h in zip(middle, half, strict=True))
    wide, tall = (max(round(2 * h), 1) for h in half)
    canvas = np.zeros((tall, wide, 3), scene.image.dtype)
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x1 + wide, width), min(y1 + tall, height)
    canvas[top - y1 : bottom - y1, left - x1 : right - x1] = scene.image[top:bottom, left:right]
    shift, limits = np.array([x1, y1, x1, y1], np.float32), np.array([wide, tall] * 2, np.float32)
    boxes, ignore = (np.clip(b - shift, 0, limits) for b in (scene.boxes, scene.ignore))
    scene = replace(scene, image=canvas, boxes=boxes, ignore=ignore[_with_area(ignore)])
    return scene.keep(_with_area(boxes))


def colour_jitter(scene: Scene, rng: np.random.Generator) -> Scene:
    """Brightness, contrast and saturation of up to 0.4 in random order, and lighting along the colour axes."""
    image = scene.image.astype(np.float32) / 255
    grey = (image @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    anchors = [np.float32(0), grey.mean(), grey]
    for k in rng.permutation(3):
        factor = np.float32(1 + rng.uniform(-0.4, 0.4))
        image = image * factor + anchors[k] * (1 - factor)
    # The vectors' rows are blue, green, red.
    light = _COLOUR_VECTORS @ (_COLOUR_VALUES * rng.normal(scale=0.1, size=3))
    return replace(scene, image=((image + light[::-1]) * 255).astype(np.float32))
