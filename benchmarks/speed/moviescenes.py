"""Speed of moviescenes: shots beside PySceneDetect's, the grouping of a long film, the network."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kernels.model import Call, Case, Goal, Peer, Row, Verdict, within
from moviescenes.data.film import FilmPlan, plan_film, write_film
from moviescenes.grouping import optimal_grouping
from moviescenes.model import LGSS, LGSSConfig
from moviescenes.shots import detect_shots
from speed.common import finite

_SIZE = (426, 240)
_SUPER_SHOTS = 600


@cache
def _film() -> tuple[Path, FilmPlan, Any]:
    folder = tempfile.TemporaryDirectory(prefix="tenfold-speed-")
    path = Path(folder.name) / "film.mp4"
    plan = plan_film(7, 6)
    write_film(path, plan, size=_SIZE)
    return path, plan, folder  # the folder lives as long as the process


def _video(_scale: float, _dtype: str) -> Case:
    path, plan, _ = _film()
    frames = sum(plan.lengths)
    text = f"{frames:,} frames of {_SIZE[0]} x {_SIZE[1]}, {len(plan.hard_cuts)} hard cuts"
    return Case(frames, text, {"path": path, "truth": plan.hard_cuts})


def _ours(case: Case) -> Call:
    return lambda: np.array([shot.start_frame for shot in detect_shots(case["path"])][1:])


def _scenedetect(case: Case) -> Call:
    import scenedetect

    def call() -> Any:
        found = scenedetect.detect(str(case["path"]), scenedetect.ContentDetector())
        return np.array([start.frame_num for start, _ in found][1:])

    return call


def _true_cuts(case: Case) -> Any:
    return np.array(case["truth"])


def _precision(ours: Any, other: Any) -> Verdict:
    """Precision and recall of cuts to within a frame, with the other list as the truth."""
    hits = sum(bool(len(ours)) and np.abs(ours - cut).min() <= 1 for cut in other)
    right = sum(bool(len(other)) and np.abs(other - cut).min() <= 1 for cut in ours)
    text = f"precision {right / max(1, len(ours)):.3f}, recall {hits / max(1, len(other)):.3f}"
    return Verdict(bool(hits == len(other) and right == len(ours)), text)


def _similarity(scale: float, _dtype: str) -> Case:
    count = round(_SUPER_SHOTS * scale)
    rows = np.random.default_rng(0).normal(size=(count, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Case(count, f"{count} super shots, 50 to 400 scenes", {"square": rows @ rows.T})


def _grouping(case: Case) -> Call:
    return lambda: np.array(optimal_grouping(case["square"], (50, 400))[1])


def _numpy_grouping(case: Case) -> Call:
    """The same objective and recursion, row by row in NumPy; its value alone is compared."""

    def call() -> Any:
        square = case["square"]
        gain = _numpy_gains(square)
        best, values = gain[0].copy(), [gain[0, -1]]
        for k in range(2, min(400, len(square)) + 1):
            following = np.full(len(square), -np.inf)
            for b in range(k - 1, len(square)):
                following[b] = (best[k - 2 : b] + gain[k - 1 : b + 1, b]).max()
            best = following
            values.append(best[-1])
        return np.array(max(values[49:]))

    return call


def _numpy_gains(square: Any) -> Any:
    n = len(square)
    gain = np.zeros((n, n))
    for a in range(n):
        sums, tops = np.zeros(n - a), np.full(n - a, -np.inf)
        for b in range(a + 1, n):
            row = square[b, a:b]
            sums[: b - a] += row
            np.maximum(tops[: b - a], row, out=tops[: b - a])
            sums[b - a], tops[b - a] = row.sum(), row.max()
            size = b - a
            gain[a, b] = sums[: size + 1].sum() / size + (1 / (1 + np.exp(-tops[: size + 1]))).sum()
    return gain


@cache
def _network() -> LGSS:
    torch.manual_seed(0)
    return LGSS(LGSSConfig(dims={"place": 2048, "cast": 512, "act": 512, "aud": 512})).eval()


def _features(_scale: float, _dtype: str) -> Case:
    rng = np.random.default_rng(0)
    sizes = {"place": 2048, "cast": 512, "act": 512, "aud": 512}
    data = {key: rng.normal(size=(401, size)).astype(np.float32) for key, size in sizes.items()}
    return Case(400, "400 boundaries at the paper's widths, audio as 512 numbers", {"features": data})


def _predict(case: Case) -> Call:
    return lambda: _network().predict(case["features"])


ROWS = (
    Row(
        key="moviescenes-shots",
        op="detect_shots",
        title="decoding and shots",
        make=_video,
        ours=_ours,
        agree=_precision,
        oracle=_true_cuts,
        peers=(
            Peer(
                "PySceneDetect",
                "scenedetect-headless",
                "scenedetect",
                _scenedetect,
                note="ContentDetector with its defaults; decoding included in both",
            ),
        ),
        goal=Goal("ratio", 1.0),
        growth=False,
        parallel=True,
        quick=True,
    ),
    Row(
        key="moviescenes-grouping",
        op="optimal_grouping",
        title="optimal grouping of a film",
        make=_similarity,
        ours=_grouping,
        agree=within(1e-9),
        peers=(Peer("NumPy, row by row", "numpy", "numpy", _numpy_grouping),),
        goal=Goal("ms", 3000),
        growth=False,
    ),
    Row(
        key="moviescenes-network",
        op="LGSS.predict",
        title="scores of a film's boundaries",
        make=_features,
        ours=_predict,
        agree=finite,
        goal=Goal("ms", 200),
        growth=False,
        parallel=True,
    ),
)
