"""Generated pictures of rectangles, ellipses and triangles, written in COCO's layout."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold.io import write_json

__all__ = ["CLASS_NAMES", "draw_scene", "write_shapes"]

CLASS_NAMES = ("rectangle", "ellipse", "triangle")
_COLOURS = np.array([[0.85, 0.3, 0.25], [0.25, 0.75, 0.35], [0.3, 0.4, 0.9]])
_MOST_OVERLAP = 0.2

Floats = npt.NDArray[np.float64]


def write_shapes(
    root: str | Path,
    counts: dict[str, int],
    *,
    seed: int = 0,
    size: int = 96,
    sides: tuple[float, float] = (20.0, 80.0),
) -> None:
    """Write ``annotations/instances_<split>.json`` and PNG files ``<split>/000000.png``.

    Args:
        root: folder; created.
        counts: split -> number of pictures.
        seed: a seed and a split give one set of pictures.
        size: of the square pictures, pixels.
        sides: range of the geometric mean of an object's sides, pixels; log-uniform.

    Raises:
        UserInputError: the folder cannot be written.
    """
    from PIL import Image

    root = Path(root)
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate(counts.items()):
        (root / split).mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(count):
            rng = np.random.default_rng([seed, number, index])
            picture, boxes, labels, areas = draw_scene(rng, size, sides)
            packed = io.BytesIO()
            Image.fromarray(picture).save(packed, "PNG", compress_level=1)
            name = f"{index:06d}.png"
            (root / split / name).write_bytes(
                packed.getvalue()
            )  # the annotation file, written last, vouches for all
            images.append({"id": index + 1, "file_name": name, "width": size, "height": size})
            for box, label, area in zip(boxes.tolist(), labels, areas, strict=True):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": label + 1,
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "area": area,
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASS_NAMES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        write_json(
            root / "annotations" / f"instances_{split}.json", json.loads(json.dumps(document)), indent=None
        )


def draw_scene(
    rng: np.random.Generator, size: int = 96, sides: tuple[float, float] = (20.0, 80.0)
) -> tuple[npt.NDArray[np.uint8], Floats, list[int], list[float]]:
    """One picture ``(size, size, 3)``, its boxes ``(M, 4)`` x1, y1, x2, y2, labels, and areas in pixels.

    One to three objects that overlap by less than 0.2, on a smooth background with noise.

    Example:
        >>> picture, boxes, labels, areas = draw_scene(np.random.default_rng(0))
        >>> picture.shape, 1 <= len(boxes) <= 3
        ((96, 96, 3), True)
    """
    y, x = np.mgrid[0:size, 0:size] + 0.5
    image = _background(rng, x / size, y / size)
    boxes: list[list[float]] = []
    labels: list[int] = []
    areas: list[float] = []
    for _ in range(int(rng.integers(1, 4))):
        box = _place(rng, size, sides, boxes)
        if box is None:
            continue
        label = int(rng.integers(len(CLASS_NAMES)))
        mask = _mask(label, box, x, y)
        colour = np.clip(_COLOURS[label] + rng.normal(scale=0.12, size=3), 0, 1)
        checker = ((x // 6 + y // 6) % 2 - 0.5) * rng.uniform(0, 0.15)
        image = np.where(mask[..., None], colour + checker[..., None], image)
        boxes.append(box)
        labels.append(label)
        areas.append(float(mask.sum()))
    image = image + rng.normal(scale=0.04, size=image.shape)
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    return pixels, np.array(boxes, dtype=np.float64).reshape(-1, 4), labels, areas


def _background(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    waves = np.zeros((*x.shape, 3))
    for _ in range(3):
        fx, fy, phase = rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(0, 2 * np.pi)
        waves += np.sin(2 * np.pi * (fx * x + fy * y) + phase)[..., None] * rng.uniform(-0.12, 0.12, 3)
    return waves + rng.uniform(0.35, 0.65, 3)


def _place(
    rng: np.random.Generator, size: int, sides: tuple[float, float], others: list[list[float]]
) -> list[float] | None:
    """A box of whole pixels that overlaps the others little; None if there is no room."""
    for _ in range(30):
        mean = np.exp(rng.uniform(*np.log(sides)))
        aspect = np.exp(rng.uniform(-np.log(2.5), np.log(2.5)))
        w, h = mean * np.sqrt(aspect), mean / np.sqrt(aspect)
        if max(w, h) > size - 2:
            continue
        x1, y1 = (float(np.round(rng.uniform(0, size - side))) for side in (w, h))
        box = [x1, y1, min(x1 + max(round(w), 3), float(size)), min(y1 + max(round(h), 3), float(size))]
        if all(_iou(box, other) < _MOST_OVERLAP for other in others):
            return box
    return None


def _iou(a: list[float], b: list[float]) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def _mask(label: int, box: list[float], x: Floats, y: Floats) -> npt.NDArray[np.bool_]:
    x1, y1, x2, y2 = box
    u, v = (x - x1) / (x2 - x1), (y - y1) / (y2 - y1)
    inside: npt.NDArray[np.bool_] = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    if CLASS_NAMES[label] == "ellipse":
        return inside & ((u - 0.5) ** 2 + (v - 0.5) ** 2 <= 0.25)
    if CLASS_NAMES[label] == "triangle":
        return inside & (np.abs(u - 0.5) <= v / 2)
    return inside
