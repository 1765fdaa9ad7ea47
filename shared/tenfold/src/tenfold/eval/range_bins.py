"""Average precision by distance, for claims about what a detector does far away."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tenfold.eval._kitti_result import DIFFICULTIES
from tenfold.eval.kitti import (
    ENOUGH_OBJECTS,
    FewObjectsWarning,
    KittiAnnotations,
    KittiResult,
    Metric,
    kitti_eval,
)

__all__ = ["RangeBins", "range_bins"]

_SHOWN: tuple[Metric, ...] = ("bev", "3d")


@dataclass(frozen=True, eq=False)
class RangeBins:
    """The KITTI evaluation in bins of distance; ``str`` of it is a table.

    Args:
        results: `KittiResult` of each bin (from, to) in metres.
    """

    results: Mapping[tuple[float, float], KittiResult]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: a list of bins, each with its distances and its result."""
        return {
            "bins": [{"from": lo, "to": hi, "result": r.to_dict()} for (lo, hi), r in self.results.items()]
        }

    def table(self, metrics: Sequence[Metric] | None = None, recall: int | None = None) -> str:
        """Return strict average precision and number of objects (easy / moderate / hard) as text.

        Args:
            metrics: columns; by default "bev" and "3d", or those of them that were evaluated, or else "2d".
            recall: kind of average precision; by default 40, or 11 if only that was evaluated.

        Raises:
            KeyError: a metric or kind that was not evaluated.
        """
        first = next(iter(self.results.values()))
        evaluated = {c.metric for c in first.curves}
        metrics = metrics or [m for m in _SHOWN if m in evaluated] or ["2d"]
        recall = recall or max(first.recall)
        lines = []
        for name in first.classes:
            heads = "".join(f"{m + f' AP|R{recall}':>24}" for m in metrics)
            lines += ["", f"{name:<12}{heads}{'ground truth':>20}"]
            for edges, result in self.results.items():
                cells = [_levels(result, name, m, recall) for m in metrics]
                counts = "/".join(str(result.curve(name, metrics[0], d).n_gt) for d in DIFFICULTIES)
                lines.append(f"{_name(edges):<12}{''.join(f'{c:>24}' for c in cells)}{counts:>20}")
        return "\n".join(lines[1:])

    def __str__(self) -> str:
        return self.table()


def _name(edges: tuple[float, float]) -> str:
    return f"{edges[0]:g}-{edges[1]:g} m"


def _levels(result: KittiResult, name: str, metric: Metric, recall: int) -> str:
    return " / ".join(f"{result.ap(name, metric, d, recall=recall):.2f}" for d in DIFFICULTIES)


def range_bins(
    gt: Sequence[KittiAnnotations],
    det: Sequence[KittiAnnotations],
    classes: Sequence[str] = ("Car", "Pedestrian", "Cyclist"),
    edges: Sequence[float] = (0.0, 20.0, 40.0, 70.0),
    **options: Any,
) -> RangeBins:
    """Evaluate objects in bins of their distance on the ground.

    In each bin, objects of other bins are ignored, and so are their detections and the false detections of
    other bins. The warning about too few objects is given once, for all bins.

    Args:
        gt: as for `tenfold.eval.kitti.kitti_eval`.
        det: likewise.
        classes: likewise.
        edges: increasing distances in metres; a bin includes its lower edge only.
        **options: further arguments of `kitti_eval`, the same for every bin.

    Raises:
        ValueError: edges that do not increase, and as `kitti_eval`.

    Example:
        >>> import warnings
        >>> from tenfold.eval.kitti import KittiAnnotations
        >>> warnings.simplefilter("ignore")
        >>> car = (["Car"], [0], [0], [1.5], [[600, 150, 700, 210]], [[1.5, 1.6, 3.9]], [[1, 1.7, 30]], [1.5])
        >>> gt, det = KittiAnnotations(*car), KittiAnnotations(*car, [0.9])
        >>> bins = range_bins([gt] * 50, [det] * 50, ["Car"])
        >>> [bins.results[b].ap("Car") for b in bins.results]
        [0.0, 100.0, 0.0]
    """
    if len(edges) < 2 or any(not 0 <= lo < hi for lo, hi in pairwise(edges)):
        raise ValueError(
            f"range_bins: edges: got {tuple(edges)}; expected two or more increasing distances >= 0"
        )
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewObjectsWarning)
        for lo, hi in pairwise(edges):
            results[lo, hi] = kitti_eval(gt, det, classes, distance=(lo, hi), **options)
    few = [_name(b) for b, r in results.items() if any(c.n_gt < ENOUGH_OBJECTS for c in r.curves)]
    if few:
        warnings.warn(
            f"range_bins: fewer than {ENOUGH_OBJECTS} objects of some class and difficulty in "
            f"{', '.join(few)}; there, even a perfect detector's average precision is below 100",
            FewObjectsWarning,
            stacklevel=2,
        )
    return RangeBins(results)
