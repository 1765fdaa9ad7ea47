"""COCO's annotation files, read with every irregularity counted, named and, where harmless, repaired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.io import read_json

__all__ = ["Annotations", "ImageRecord", "Report", "read_annotations"]

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

#: What a report may count -> what became of it.
PROBLEMS = {
    "annotations of unknown images": "left out",
    "annotations of unknown categories": "left out",
    "annotations without a box of four numbers": "left out",
    "boxes that are not finite": "left out",
    "boxes without area": "left out",
    "boxes outside their image": "left out",
    "boxes beyond the border": "clipped",
    "annotations without an area": "width x height is used",
    "annotations marked ignore": "left out",
    "crowd regions": "no objects; their pixels count as background unless asked otherwise",
    "repeated annotation ids": "kept",
    "repeated image ids": "the first is kept",
    "images without annotations": "left out of training",
    "images with a side below 32 pixels": "left out of training",
}


@dataclass
class Report:
    """What was irregular in an annotation file.

    Attributes:
        counts: problem -> how often.
        examples: problem -> the first place.
        hints: what the numbers together suggest.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    hints: list[str] = field(default_factory=list)

    def add(self, problem: str, example: str) -> None:
        """Counts one more."""
        self.counts[problem] = self.counts.get(problem, 0) + 1
        self.examples.setdefault(problem, example)

    @property
    def lost(self) -> int:
        """Annotations that were left out although somebody meant them as objects."""
        lost = ("unknown", "without a box", "not finite", "without area", "outside their image")
        return sum(n for name, n in self.counts.items() if any(word in name for word in lost))

    def __str__(self) -> str:
        lines = [
            f"  {count:,} {name}: {PROBLEMS[name]} (first: {self.examples[name]})"
            for name, count in self.counts.items()
        ]
        return "\n".join([*(lines or ["  nothing irregular"]), *(f"  hint: {hint}" for hint in self.hints)])


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects.

    Attributes:
        image_id: as in the file.
        file_name: relative to the folder of images.
        size: height and width in pixels.
        boxes: ``(M, 4)`` x1, y1, x2, y2, continuous pixels, inside the image.
        labels: ``(M,)`` 0-based by ascending category id.
        ignore: ``(K, 4)`` crowd regions.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    boxes: FloatArray
    labels: IntArray
    ignore: FloatArray


@dataclass(frozen=True, eq=False)
class Annotations:
    """An annotation file.

    Attributes:
        path: of the file.
        records: images in the file's order.
        class_names: by label.
        category_ids: by label, as in the file.
        document: the file's content with missing areas and crowd flags filled in, for the evaluation.
        report: what was irregular.
    """

    path: Path
    records: list[ImageRecord]
    class_names: list[str]
    category_ids: list[int]
    document: dict[str, Any]
    report: Report

    def for_training(self) -> list[ImageRecord]:
        """Images with annotations and with both sides of at least 32 pixels."""
        return [r for r in self.records if (len(r.boxes) or len(r.ignore)) and min(r.size) >= 32]

    def counts(self) -> IntArray:
        """``(C,)`` objects of each class."""
        labels = [r.labels for r in self.records]
        together = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        return np.bincount(together, minlength=len(self.class_names)).astype(np.int64)


def read_annotations(path: str | Path) -> Annotations:
    """Read a COCO annotation file.

    Category ids may start at 0 and have gaps; images may be without objects. A file without ``annotations``
    (the test-dev list) has images only.

    Raises:
        UserInputError: no JSON, no COCO layout, no image, or no category.
    """
    path = Path(path)
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserInputError(
            f"{path}: document: got a {type(document).__name__}; expected COCO's images, ..."
        )
    images = _list(path, document, "images")
    categories = _list(path, document, "categories")
    annotations = _list(path, document, "annotations") if "annotations" in document else []
    report = Report()
    ids, names = _categories(path, categories)
    label_of = {category: label for label, category in enumerate(ids)}
    sizes, order = _images(path, images, report)
    found: dict[int, list[tuple[list[float], int]]] = {image: [] for image in order}
    crowds: dict[int, list[list[float]]] = {image: [] for image in order}
    kept: list[dict[str, Any]] = []
    seen: set[Any] = set()
    for number, item in enumerate(annotations):
        place = f"annotations[{number}]"
        if not isinstance(item, dict):
            raise UserInputError(f"{path}: {place}: got a {type(item).__name__}; expected an object")
        if item.get("id") in seen:
            report.add("repeated annotation ids", place)
        seen.add(item.get("id"))
        box = _box(item, sizes, label_of, place, report)
        if box is None:
            continue
        if "area" not in item:
            report.add("annotations without an area", place)
        width, height = float(item["bbox"][2]), float(item["bbox"][3])
        area = item["area"] if _number(item.get("area")) else width * height
        crowd = int(bool(item.get("iscrowd", 0)))
        # Ids of our own: the evaluation takes them for keys, and 0 or a repeated one spoils its result.
        kept.append({**item, "id": len(kept) + 1, "area": area, "iscrowd": crowd})
        if crowd:
            report.add("crowd regions", place)
            crowds[item["image_id"]].append(box)
        elif item.get("ignore"):
            report.add("annotations marked ignore", place)
        else:
            found[item["image_id"]].append((box, label_of[item["category_id"]]))
    records = [_record(path, image, order[image], found[image], crowds[image], report) for image in order]
    fixed = {
        "images": [order[image] for image in order],
        "categories": categories,
        "annotations": kept,
    }
    result = Annotations(path, records, names, ids, fixed, report)
    _add_hints(result, annotations, sizes)
    return result


def _list(path: Path, document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise UserInputError(f"{path}: {name}: got {type(value).__name__}; expected COCO's list of {name}")
    return value


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _categories(path: Path, categories: list[Any]) -> tuple[list[int], list[str]]:
    by_id: dict[int, str] = {}
    for number, item in enumerate(categories):
        if not isinstance(item, dict) or not isinstance(item.get("id"), int):
            raise UserInputError(f"{path}: categories[{number}].id: missing or no whole number")
        if item["id"] in by_id:
            raise UserInputError(f"{path}: categories[{number}].id: {item['id']} appears twice")
        by_id[item["id"]] = str(item.get("name", item["id"]))
    if not by_id:
        raise UserInputError(f"{path}: categories: got none; expected at least one class")
    ids = sorted(by_id)
    return ids, [by_id[k] for k in ids]


def _images(
    path: Path, images: list[Any], report: Report
) -> tuple[dict[int, tuple[int, int]], dict[int, dict[str, Any]]]:
    order: dict[int, dict[str, Any]] = {}
    for number, item in enumerate(images):
        place = f"images[{number}]"
        if not isinstance(item, dict):
            raise UserInputError(f"{path}: {place}: got a {type(item).__name__}; expected an object")
        for name, kind in (("id", int), ("file_name", str), ("width", int), ("height", int)):
            if not isinstance(item.get(name), kind) or (kind is int and name != "id" and item[name] < 1):
                raise UserInputError(
                    f"{path}: {place}.{name}: got {item.get(name)!r}; expected a {kind.__name__}"
                )
        if item["id"] in order:
            report.add("repeated image ids", place)
            continue
        order[item["id"]] = item
    if not order:
        raise UserInputError(f"{path}: images: got none")
    return {k: (item["height"], item["width"]) for k, item in order.items()}, order


def _box(
    item: Mapping[str, Any],
    sizes: Mapping[int, tuple[int, int]],
    labels: Mapping[int, int],
    place: str,
    report: Report,
) -> list[float] | None:
    """The clipped box, or None with the reason counted."""
    problem = _problem(item, sizes, labels)
    if problem is not None:
        report.add(problem[0], f"{place}.{problem[1]}")
        return None
    (x1, y1, x2, y2), (height, width) = _corners(item), sizes[item["image_id"]]
    # Rounding of coordinates is no reason to complain.
    if max(-x1, -y1, x2 - width, y2 - height) > 1:
        report.add("boxes beyond the border", f"{place}.bbox {item['bbox']}, image {width} x {height}")
    return [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]


def _corners(item: Mapping[str, Any]) -> tuple[float, float, float, float]:
    x, y, w, h = (float(v) for v in item["bbox"])
    return x, y, x + w, y + h


def _problem(
    item: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], labels: Mapping[int, int]
) -> tuple[str, str] | None:
    """Why an annotation cannot be used: the problem, and the field with its value."""
    if item.get("image_id") not in sizes:
        return "annotations of unknown images", f"image_id {item.get('image_id')!r}"
    if item.get("category_id") not in labels:
        return "annotations of unknown categories", f"category_id {item.get('category_id')!r}"
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_number(v) for v in box):
        return "annotations without a box of four numbers", "bbox"
    if not all(math.isfinite(v) for v in box):
        return "boxes that are not finite", f"bbox {box}"
    area = item.get("area")
    if box[2] <= 0 or box[3] <= 0 or (_number(area) and area is not None and area <= 0):
        return "boxes without area", f"bbox {box}, area {area}"
    (x1, y1, x2, y2), (height, width) = _corners(item), sizes[item["image_id"]]
    if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
        return "boxes outside their image", f"bbox {box}, image {width} x {height}"
    return None


def _record(
    path: Path,
    image: int,
    item: Mapping[str, Any],
    found: list[tuple[list[float], int]],
    crowds: list[list[float]],
    report: Report,
) -> ImageRecord:
    if not found and not crowds:
        report.add("images without annotations", item["file_name"])
    if min(item["height"], item["width"]) < 32:
        report.add("images with a side below 32 pixels", item["file_name"])
    boxes = np.array([box for box, _ in found], dtype=np.float32).reshape(-1, 4)
    labels = np.array([label for _, label in found], dtype=np.int64)
    ignore = np.array(crowds, dtype=np.float32).reshape(-1, 4)
    return ImageRecord(image, item["file_name"], (item["height"], item["width"]), boxes, labels, ignore)


def _add_hints(data: Annotations, annotations: list[Any], sizes: Mapping[int, tuple[int, int]]) -> None:
    total, report = len(annotations), data.report
    if not total:
        return
    beyond = report.counts.get("boxes beyond the border", 0) + report.counts.get(
        "boxes outside their image", 0
    )
    if beyond > 0.2 * total:
        report.hints.append(
            f"{beyond / total:.0%} of the boxes leave their image: bbox must be [x, y, width, height] in pixels, "
            "not [x1, y1, x2, y2]"
        )
    values = [v for a in annotations[:1000] for v in (a.get("bbox") or []) if _number(v)]
    if values and max(values) <= 1.0:
        report.hints.append(
            "all coordinates are at most 1: bbox must be in pixels, not relative to the image"
        )
    empty = [name for name, n in zip(data.class_names, data.counts(), strict=True) if not n]
    if empty:
        shown = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        report.hints.append(f"{len(empty)} of {len(data.class_names)} classes have no object: {shown}")
    if report.lost > 0.25 * total:
        report.hints.append(f"{report.lost / total:.0%} of the annotations are left out")
