"""Evaluation of detectors: AP with and without suppression, and what makes the difference."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sparsepoint.data.scenes import Batch
from sparsepoint.models.output import Detections3D
from sparsepoint.postprocess import suppress
from tenfold.eval.voc3d import NoTruthWarning, Voc3dDetections, Voc3dResult, Voc3dTruth, voc3d_eval
from tenfold.host import box_iou_3d

__all__ = ["Evaluation", "IndoorAP", "both_ways", "collect", "duplicates_per_gt", "evaluate"]

NMS_IOU = 0.25
_RECALL_SHARE = 0.9


class IndoorAP:
    """VOC-3D average precision, scene by scene.

    Args:
        classes: names by label.
        iou: overlaps, exclusive.

    Example:
        >>> box = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
        >>> found = Detections3D(box, torch.tensor([0.9]), torch.tensor([0]), torch.tensor([0]))
        >>> IndoorAP(["chair"]).update([found], [(box, torch.tensor([0]))]).compute().mean_ap(0.5)
        1.0
    """

    def __init__(self, classes: Sequence[str], iou: Sequence[float] = (0.25, 0.5)) -> None:
        self.classes, self.iou = tuple(classes), tuple(iou)
        self.truth: list[Voc3dTruth] = []
        self.found: list[Voc3dDetections] = []

    def update(
        self, preds: Iterable[Detections3D], gts: Iterable[tuple[torch.Tensor, torch.Tensor]]
    ) -> IndoorAP:
        """Add scenes: detections, and (boxes (G, 7), labels (G,)) of each."""
        for found, (boxes, labels) in zip(preds, gts, strict=True):
            self.found.append(as_record(found))
            self.truth.append(Voc3dTruth(boxes.double().cpu().numpy(), labels.cpu().numpy()))
        return self

    def compute(self) -> Voc3dResult:
        """The evaluation of all scenes so far."""
        return voc3d_eval(self.truth, self.found, self.classes, self.iou)


def as_record(found: Detections3D) -> Voc3dDetections:
    """Detections as arrays."""
    return Voc3dDetections(
        found.boxes.detach().double().cpu().numpy(),
        found.scores.detach().double().cpu().numpy(),
        found.labels.cpu().numpy(),
    )


def duplicates_per_gt(
    found: Sequence[Voc3dDetections], truth: Sequence[Voc3dTruth], iou: float = 0.25
) -> float:
    """How many more detections than one an object gets, on average over the objects that get any.

    Only detections at or above the score that gives 90 % of the largest recall count.

    Args:
        found: detections of every scene.
        truth: objects of the same scenes.
        iou: of the volumes, inclusive, within a class.

    Returns:
        0 for a detector without duplicates; NaN where nothing is found at all.
    """
    best: list[float] = []
    hits: list[tuple[float, int]] = []
    offset = 0
    for det, gt in zip(found, truth, strict=True):
        scores, number = np.asarray(det.scores), len(gt.labels)
        if len(scores) and number:
            near = box_iou_3d(np.asarray(det.boxes, float), np.asarray(gt.boxes, float)) >= iou
            near &= np.asarray(det.labels)[:, None] == np.asarray(gt.labels)[None]
            for row, column in zip(*near.nonzero(), strict=True):
                hits.append((float(scores[row]), offset + int(column)))
            best += [float(scores[near[:, k]].max()) for k in range(number) if near[:, k].any()]
        offset += number
    if not best:
        return float("nan")
    kept = max(1, int(np.ceil(_RECALL_SHARE * len(best))))
    level = sorted(best, reverse=True)[kept - 1]
    counts: dict[int, int] = {}
    for score, target in hits:
        if score >= level:
            counts[target] = counts.get(target, 0) + 1
    return sum(count - 1 for count in counts.values()) / len(counts)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A detector on a split.

    Attributes:
        plain: without suppression.
        suppressed: with class-wise suppression at a volume IoU of 0.25 (the dense baseline: its own).
        duplicates: per object, without suppression.
        per_scene: detections in a scene, without suppression.
        milliseconds: median of a scene, without and with suppression.
        plain_records: detections without suppression.
        truth: objects.
    """

    plain: Voc3dResult
    suppressed: Voc3dResult
    duplicates: float
    per_scene: float
    milliseconds: tuple[float, float]
    plain_records: list[Voc3dDetections] = field(default_factory=list)
    truth: list[Voc3dTruth] = field(default_factory=list)

    def delta(self, overlap: float) -> float:
        """What suppression adds to the mean AP."""
        return self.suppressed.mean_ap(overlap) - self.plain.mean_ap(overlap)

    def numbers(self) -> dict[str, float]:
        """The figures that are always printed."""
        values = {}
        for overlap in self.plain.overlaps:
            values[f"mAP@{overlap:g}"] = self.plain.mean_ap(overlap)
            values[f"mAP@{overlap:g} with NMS"] = self.suppressed.mean_ap(overlap)
            values[f"delta NMS@{overlap:g}"] = self.delta(overlap)
        values["mAR@0.25"] = self.plain.mean_recall(self.plain.overlaps[0])
        values["duplicates"] = self.duplicates
        values["detections"] = self.per_scene
        values["ms"], values["ms with NMS"] = self.milliseconds
        return values

    def __str__(self) -> str:
        lines = [str(self.plain), ""]
        lines += [f"{name:<20}{value:10.4f}" for name, value in self.numbers().items()]
        return "\n".join(lines)


def both_ways(
    model: Any, points: torch.Tensor, **options: Any
) -> tuple[list[Detections3D], list[Detections3D], tuple[float, float]]:
    """Detections of a batch without and with suppression, and the milliseconds a scene of both.

    Args:
        model: `SparsePoint` or `VoteNet`, in evaluation mode; the dense one suppresses in its own way.
        points: (B, N, 3 + F).
        **options: of ``predict``.
    """
    start = _now(points)
    plain = model.predict(points, nms=None, **options)
    middle = _now(points)
    if model.config.dense:
        less = model.predict(points, nms=NMS_IOU, **options)
        start_less = middle
    else:
        less = [suppress(found, NMS_IOU) for found in plain]
        start_less = start
    end = _now(points)
    return plain, less, (1000 * (middle - start) / len(points), 1000 * (end - start_less) / len(points))


def _now(points: torch.Tensor) -> float:
    """Seconds, after what a GPU has been given is done."""
    if points.is_cuda:
        torch.cuda.synchronize(points.device)
    return time.perf_counter()


def collect(
    model: Any, batches: Iterable[Batch], **options: Any
) -> tuple[
    list[Detections3D], list[Detections3D], list[tuple[torch.Tensor, torch.Tensor]], list[float], list[float]
]:
    """Detections without and with suppression, objects, and milliseconds a scene of both, over batches."""
    plain: list[Detections3D] = []
    suppressed: list[Detections3D] = []
    truth: list[tuple[torch.Tensor, torch.Tensor]] = []
    times: tuple[list[float], list[float]] = ([], [])
    for batch in batches:
        bare, less, (before, after) = both_ways(model, batch.points, **options)
        plain += bare
        suppressed += less
        truth += list(zip(batch.truth.boxes, batch.truth.labels, strict=True))
        times[0].append(before)
        times[1].append(after)
    return plain, suppressed, truth, times[0], times[1]


def evaluate(model: Any, batches: Iterable[Batch], classes: Sequence[str], **options: Any) -> Evaluation:
    """Evaluate a detector in evaluation mode.

    Args:
        model: `SparsePoint` or `VoteNet`.
        batches: of the split.
        classes: names by label.
        **options: of ``predict``.
    """
    plain, suppressed, truth, before, after = collect(model, batches, **options)
    return summarise(plain, suppressed, truth, classes, (before, after))


def summarise(
    plain: Sequence[Detections3D],
    suppressed: Sequence[Detections3D],
    truth: Sequence[tuple[torch.Tensor, torch.Tensor]],
    classes: Sequence[str],
    times: tuple[Sequence[float], Sequence[float]] = ((0.0,), (0.0,)),
) -> Evaluation:
    """The evaluation of what a detector has found."""
    bare, less = IndoorAP(classes).update(plain, truth), IndoorAP(classes).update(suppressed, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoTruthWarning)
        first, second = bare.compute(), less.compute()
    return Evaluation(
        first,
        second,
        duplicates_per_gt(bare.found, bare.truth),
        float(np.mean([len(found) for found in plain])) if len(plain) else 0.0,
        (float(np.median(times[0])), float(np.median(times[1]))),
        bare.found,
        bare.truth,
    )
