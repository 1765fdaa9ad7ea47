"""COCO's detection metrics by pycocotools, precision-recall curves, confusion matrix."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tenfold._errors import MissingExtraError, UserInputError
from ttfnet.data.annotations import Annotations, read_annotations
from ttfnet.decoding import Detections

__all__ = ["NAMES", "CocoResult", "coco_evaluate", "confusion_matrix", "evaluate", "result_rows"]

#: The twelve numbers, in pycocotools' order.
NAMES = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CocoResult:
    """What an evaluation gave.

    Attributes:
        numbers: the twelve numbers in [0, 1]; -1 where nothing was to be found.
        per_class: class name -> AP; -1 for a class without objects.
        recall: ``(101,)`` recall of the curves' points.
        precision: class name -> ``(101,)`` precision at an overlap of 0.5, -1 without objects.
    """

    numbers: dict[str, float]
    per_class: dict[str, float]
    recall: Floats
    precision: dict[str, Floats]

    def __str__(self) -> str:
        numbers = "  ".join(f"{name} {100 * value:.1f}" for name, value in self.numbers.items() if value >= 0)
        return numbers or "nothing to evaluate"


def coco_evaluate(
    results: str | Path | Sequence[Mapping[str, Any]], annotations: str | Path
) -> dict[str, float]:
    """The twelve COCO numbers of a list of results (or its JSON file) against an annotation file.

    Args:
        results: ``[{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...]``.
        annotations: COCO annotation file.

    Raises:
        UserInputError: unreadable files, or results that do not fit the annotations.
        MissingExtraError: pycocotools is not installed.
    """
    from tenfold.io import read_json

    rows = read_json(results) if isinstance(results, str | Path) else list(results)
    name = str(results) if isinstance(results, str | Path) else "results"
    return evaluate(rows, read_annotations(annotations), source=name).numbers


def evaluate(
    rows: Sequence[Mapping[str, Any]], annotations: Annotations, source: str = "results"
) -> CocoResult:
    """Metrics over all images of the annotation file, those without detections too."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise MissingExtraError('evaluation needs pycocotools: pip install "ttfnet[train]"') from error
    _check(rows, annotations, source)
    names = annotations.class_names
    if not rows or not annotations.document["annotations"]:
        empty = dict.fromkeys(NAMES, 0.0 if annotations.document["annotations"] else -1.0)
        curve = np.zeros(101)
        return CocoResult(
            empty, dict.fromkeys(names, -1.0), np.linspace(0, 1, 101), dict.fromkeys(names, curve)
        )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = annotations.document
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes([dict(row) for row in rows]), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    precision = run.eval["precision"]  # (overlap, recall, class, area, number)
    per_class = {}
    for k, name in enumerate(names):
        own = precision[:, :, k, 0, 2]
        per_class[name] = float(own[own > -1].mean()) if (own > -1).any() else -1.0
    curves = {name: precision[0, :, k, 0, 2] for k, name in enumerate(names)}
    numbers = {name: float(value) for name, value in zip(NAMES, run.stats, strict=True)}
    return CocoResult(numbers, per_class, np.asarray(run.params.recThrs), curves)


def _check(rows: Sequence[Mapping[str, Any]], annotations: Annotations, source: str) -> None:
    images = {record.image_id for record in annotations.records}
    categories = set(annotations.category_ids)
    if not isinstance(rows, list | tuple):
        raise UserInputError(f"{source}: document: got a {type(rows).__name__}; expected a list of results")
    for number, row in enumerate(rows):
        missing = {"image_id", "category_id", "bbox", "score"} - set(row)
        if missing:
            raise UserInputError(f"{source}: [{number}].{min(missing)}: missing")
        if row["image_id"] not in images or row["category_id"] not in categories:
            raise UserInputError(
                f"{source}: [{number}]: image {row['image_id']}, category {row['category_id']} are not in "
                f"{annotations.path}"
            )


def result_rows(found: Detections, image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's result records of one image, with the original category ids; boxes in original pixels."""
    boxes = found.boxes.double().cpu()
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    corners, scores = boxes[:, :2].tolist(), found.scores.cpu().tolist()
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": [*corner, *size], "score": score}
        for corner, size, score, label in zip(corners, sizes, scores, found.labels.tolist(), strict=True)
    ]


def confusion_matrix(
    rows: Sequence[Mapping[str, Any]], annotations: Annotations, *, conf: float = 0.3, iou: float = 0.5
) -> npt.NDArray[np.int64]:
    """``(C + 1, C + 1)`` counts: row true class, column found class; the last row and column mean "nothing".

    Detections above ``conf`` are matched to objects of any class, best overlap first, each at most once.
    """
    label_of = {category: k for k, category in enumerate(annotations.category_ids)}
    count = len(label_of)
    matrix = np.zeros((count + 1, count + 1), np.int64)
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["score"] > conf:
            by_image.setdefault(row["image_id"], []).append(row)
    for record in annotations.records:
        own = by_image.get(record.image_id, [])
        found = np.array([r["bbox"] for r in own], dtype=np.float64).reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        labels = [label_of[r["category_id"]] for r in own]
        pairs = _matched(record.boxes.astype(np.float64), found, iou)
        for truth, guess in pairs:
            matrix[record.labels[truth], labels[guess]] += 1
        for truth in set(range(len(record.boxes))) - {t for t, _ in pairs}:
            matrix[record.labels[truth], count] += 1
        for guess in set(range(len(own))) - {g for _, g in pairs}:
            matrix[count, labels[guess]] += 1
    return matrix


def _matched(truth: Floats, found: Floats, least: float) -> list[tuple[int, int]]:
    """Pairs of the greedy matching by overlap."""
    low = np.maximum(truth[:, None, :2], found[None, :, :2])
    high = np.minimum(truth[:, None, 2:], found[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(2)
    areas = [(b[:, 2:] - b[:, :2]).prod(1) for b in (truth, found)]
    overlap = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12)
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = (set(), set())
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        t, g = (int(v) for v in np.unravel_index(place, overlap.shape))
        if overlap[t, g] < least:
            break
        if t not in used[0] and g not in used[1]:
            pairs.append((t, g))
            used[0].add(t)
            used[1].add(g)
    return pairs
