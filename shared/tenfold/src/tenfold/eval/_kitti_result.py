"""What the KITTI evaluation returns: one curve per class, metric, difficulty and overlap, and their table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DIFFICULTIES", "Difficulty", "KittiCurve", "KittiResult", "Metric", "Table"]

Metric = Literal["2d", "aos", "bev", "3d"]
Difficulty = Literal["easy", "moderate", "hard"]
Table = Literal["strict", "loose"]

DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "moderate", "hard")


@dataclass(frozen=True, eq=False)
class KittiCurve:
    """Precision over recall of one class, metric, difficulty and minimum overlap.

    Args:
        class_name: e.g. "Car".
        metric: "2d", "bev", "3d", or "aos": orientation similarity of the 2D matches.
        difficulty: "easy", "moderate" or "hard".
        table: "strict" or "loose" minimum overlaps.
        min_overlap: a match's overlap is greater than this.
        n_gt: objects that count.
        thresholds: (T,) scores, descending, that sample the recall; T <= 41.
        precision: (41,) at recall 0, 1/40, ..., 1, made monotone; 0 where recall is not reached.
        ap: average precision in percent by number of recall positions, 11 or 40.
    """

    class_name: str
    metric: Metric
    difficulty: Difficulty
    table: Table
    min_overlap: float
    n_gt: int
    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    ap: dict[int, float]


@dataclass(frozen=True, eq=False)
class KittiResult:
    """Result of `kitti_eval`; ``str`` of it is a table.

    Args:
        frames: how many were evaluated.
        classes: in the order asked for.
        recall: the kinds of average precision, 11, 40 or both.
        curves: one per class, table, metric and difficulty.
    """

    frames: int
    classes: tuple[str, ...]
    recall: tuple[int, ...]
    curves: tuple[KittiCurve, ...]

    def curve(
        self,
        class_name: str,
        metric: Metric = "3d",
        difficulty: Difficulty = "moderate",
        table: Table = "strict",
    ) -> KittiCurve:
        """Return one curve.

        Raises:
            KeyError: it was not evaluated. "aos" is missing where the detections have no alpha.
        """
        for c in self.curves:
            if (c.class_name, c.metric, c.difficulty, c.table) == (class_name, metric, difficulty, table):
                return c
        raise KeyError(f"{class_name}, {metric}, {difficulty}, {table} was not evaluated")

    def ap(
        self,
        class_name: str,
        metric: Metric = "3d",
        difficulty: Difficulty = "moderate",
        table: Table = "strict",
        recall: int = 40,
    ) -> float:
        """Return one average precision in percent.

        Raises:
            KeyError: it was not evaluated.
        """
        return self.curve(class_name, metric, difficulty, table).ap[recall]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: frames, recall, and one entry per curve."""
        entries = [
            {
                "class": c.class_name,
                "metric": c.metric,
                "difficulty": c.difficulty,
                "table": c.table,
                "min_overlap": c.min_overlap,
                "n_gt": c.n_gt,
                "ap": {f"R{k}": v for k, v in c.ap.items()},
                "precision": c.precision.tolist(),
            }
            for c in self.curves
        ]
        return {"frames": self.frames, "recall": list(self.recall), "curves": entries}

    def __str__(self) -> str:
        title = f"KITTI object evaluation of {self.frames} frames: average precision in percent"
        parts = [title, *(self._class_table(name) for name in self.classes)]
        return "\n\n".join(parts)

    def _class_table(self, name: str) -> str:
        columns = "".join(f"{d:>10}" for d in DIFFICULTIES)
        heads = "".join(f"{f'AP|R{k}':^30}" for k in self.recall)
        lines = [f"{name:<20}{heads}".rstrip(), f"{'metric   overlap':<20}{columns * len(self.recall)}"]
        by_row: dict[tuple[str, float], list[KittiCurve]] = {}
        for c in self.curves:
            if c.class_name == name:
                by_row.setdefault((c.metric, c.min_overlap), []).append(c)
        for (metric, overlap), curves in by_row.items():
            # Equal overlaps of both tables make one row of equal numbers.
            values = "".join(f"{c.ap[k]:>10.2f}" for k in self.recall for c in curves[: len(DIFFICULTIES)])
            lines.append(f"{metric:<9}{overlap:<11.2f}{values}")
        counts = "".join(f"{c.n_gt:>10}" for c in next(iter(by_row.values()))[: len(DIFFICULTIES)])
        return "\n".join([*lines, f"{'ground truth':<20}{counts}"])
