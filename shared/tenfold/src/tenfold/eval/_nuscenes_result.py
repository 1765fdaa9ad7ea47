"""What the nuScenes evaluation returns, and its table."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERRORS", "NuScenesCurve", "NuScenesResult"]

Floats = NDArray[np.float64]

#: Errors of true positives: distance (m), 1 - overlap of sizes, angle (rad), velocity (m/s), attribute.
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")

_SHORT = {"trans_err": "ATE", "scale_err": "ASE", "orient_err": "AOE", "vel_err": "AVE", "attr_err": "AAE"}


@dataclass(frozen=True, eq=False)
class NuScenesCurve:
    """One class at one matching distance, at recall 0, 0.01, ..., 1.

    Args:
        class_name: e.g. "car".
        distance: metres between centres, below which a detection matches.
        n_gt: objects that count.
        precision: (101,), 0 where recall is not reached.
        confidence: (101,) score at each recall, 0 where it is not reached.
        errors: (101,) for each of `ERRORS`: mean over the matches from the highest score to that recall.
    """

    class_name: str
    distance: float
    n_gt: int
    precision: Floats
    confidence: Floats
    errors: dict[str, Floats]


@dataclass(frozen=True, eq=False)
class NuScenesResult:
    """Result of `nuscenes_eval`; ``str`` of it is a table.

    Args:
        frames: how many were evaluated.
        classes: that the means run over.
        curves: one per class and distance.
        aps: average precision in [0, 1] by (class, distance).
        errors: of true positives by (class, name of the error); NaN where it means nothing.
        ap_weight: of mAP in NDS.
    """

    frames: int
    classes: tuple[str, ...]
    curves: tuple[NuScenesCurve, ...]
    aps: dict[tuple[str, float], float]
    errors: dict[tuple[str, str], float]
    ap_weight: float = 5.0

    def curve(self, class_name: str, distance: float = 2.0) -> NuScenesCurve:
        """Return one curve.

        Raises:
            KeyError: it was not evaluated.
        """
        for c in self.curves:
            if (c.class_name, c.distance) == (class_name, distance):
                return c
        raise KeyError(f"{class_name}, {distance} m was not evaluated")

    def ap(self, class_name: str, distance: float | None = None) -> float:
        """Average precision in [0, 1] at one distance, or the mean over all.

        Raises:
            KeyError: it was not evaluated.
        """
        if distance is not None:
            return self.aps[class_name, distance]
        mine = [value for (name, _), value in self.aps.items() if name == class_name]
        if not mine:
            raise KeyError(f"{class_name} was not evaluated")
        return float(np.mean(mine))

    @property
    def mean_ap(self) -> float:
        """Mean over classes and distances, in [0, 1]."""
        return float(np.mean([self.ap(name) for name in self.classes]))

    @property
    def mean_errors(self) -> dict[str, float]:
        """Each error's mean over the classes for which it means something."""
        means = {}
        for error in ERRORS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # no class has it: NaN
                means[error] = float(np.nanmean([self.errors[name, error] for name in self.classes]))
        return means

    @property
    def scores(self) -> dict[str, float]:
        """1 - error, at least 0; without those that mean nothing for any class."""
        return {
            error: max(0.0, 1.0 - value) for error, value in self.mean_errors.items() if not np.isnan(value)
        }

    @property
    def nds(self) -> float:
        """The nuScenes detection score, in [0, 1]: weighted mean of mAP and `scores`."""
        total = self.ap_weight * self.mean_ap + float(np.sum(list(self.scores.values())))
        return total / (self.ap_weight + len(self.scores))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, with the names of the development kit; NaN becomes None."""
        distances = sorted({c.distance for c in self.curves})
        return {
            "frames": self.frames,
            "mean_ap": self.mean_ap,
            "nd_score": self.nds,
            "tp_errors": {k: _plain(v) for k, v in self.mean_errors.items()},
            "tp_scores": self.scores,
            "mean_dist_aps": {name: self.ap(name) for name in self.classes},
            "label_aps": {n: {str(d): self.aps[n, d] for d in distances} for n in self.classes},
            "label_tp_errors": {n: {e: _plain(self.errors[n, e]) for e in ERRORS} for n in self.classes},
            "n_gt": {name: self.curve(name).n_gt for name in self.classes},
        }

    def __str__(self) -> str:
        heads = "".join(f"{_SHORT[e]:>8}" for e in ERRORS)
        lines = [
            f"nuScenes detection evaluation of {self.frames} frames",
            "",
            f"{'class':<22}{'AP':>8}{heads}{'ground truth':>15}",
        ]
        for name in self.classes:
            cells = "".join(_cell(self.errors[name, e]) for e in ERRORS)
            lines.append(f"{name:<22}{self.ap(name):>8.4f}{cells}{self.curve(name).n_gt:>15}")
        means = "".join(_cell(value) for value in self.mean_errors.values())
        lines += [
            f"{'mean':<22}{self.mean_ap:>8.4f}{means}",
            "",
            f"mAP {self.mean_ap:.4f}   NDS {self.nds:.4f}",
        ]
        return "\n".join(lines)


def _cell(value: float) -> str:
    return f"{'-':>8}" if np.isnan(value) else f"{value:>8.4f}"


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
