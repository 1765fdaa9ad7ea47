"""The detection metrics on generated detections at the size of the validation sets.

KITTI's has 3,769 frames, nuScenes' 6,019 key frames. The development kit of nuScenes is a peer where it is
installed, on fewer frames: it takes minutes for the full split.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.model import Call, Case, Goal, Peer, Row, within
from speed.common import finite
from tenfold.eval.kitti import KittiAnnotations, kitti_eval
from tenfold.eval.nuscenes import CLASSES, DISTANCES, NuScenesBoxes, NuScenesSample, nuscenes_eval

_SIZES = np.array([(1.5, 1.6, 3.9), (1.75, 0.65, 0.85), (1.75, 0.6, 1.75)])
_NAMES = np.array(["Car", "Pedestrian", "Cyclist"])


def _kitti_frame(rng: np.random.Generator) -> tuple[KittiAnnotations, KittiAnnotations]:
    """About 6 objects and 12 detections of a frame."""
    number = int(rng.integers(1, 12))
    kind = rng.choice(3, number, p=(0.75, 0.17, 0.08))
    z = rng.uniform(6, 60, number)
    place = np.stack((rng.uniform(-0.6, 0.6, number) * z, np.full(number, 1.7), z), axis=1)
    turn = rng.uniform(-3, 3, number)
    truth = _annotations(kind, place, turn, None, rng.integers(0, 3, number))
    extra = int(rng.integers(0, 8))
    rows = np.concatenate((np.flatnonzero(rng.random(number) < 0.85), rng.integers(0, number, extra)))
    moved = place[rows] + rng.normal(0, 0.2, (len(rows), 3))
    moved[len(rows) - extra :, 0] += 6
    score = rng.random(len(rows)).round(4)
    return truth, _annotations(kind[rows], moved, turn[rows] + rng.normal(0, 0.1, len(rows)), score)


def _annotations(kind: Any, place: Any, turn: Any, score: Any, occluded: Any = None) -> KittiAnnotations:
    size, depth = _SIZES[kind], np.maximum(place[:, 2], 3)
    u, v = 609.6 + 721.5 * place[:, 0] / depth, 172.9 + 721.5 * place[:, 1] / depth
    half = 721.5 * size[:, 2] / depth / 2
    box = np.stack((u - half, v - 721.5 * size[:, 0] / depth, u + half, v), axis=1)
    zero = np.zeros(len(kind))
    alpha = turn - np.arctan2(place[:, 0], depth)
    hidden = zero if occluded is None else occluded
    return KittiAnnotations(_NAMES[kind].tolist(), zero, hidden, alpha, box, size, place, turn, score)


def kitti_frames(scale: float, dtype: str) -> Case:
    """Generated frames, as many as the validation set has."""
    rng = np.random.default_rng(0)
    count = round(3769 * scale)
    gt, det = zip(*(_kitti_frame(rng) for _ in range(count)), strict=True)
    boxes = sum(map(len, det))
    return Case(count, f"{count:,} frames, {boxes:,} detections", {"gt": gt, "det": det})


def _kitti(case: Case) -> Call:
    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = kitti_eval(case["gt"], case["det"])
        return np.array([list(curve.ap.values()) for curve in result.curves])

    return run


def nuscenes_frames(count: int) -> Callable[[float, str], Case]:
    """Generated key frames: about 30 objects and 60 detections in each."""

    def make(scale: float, dtype: str) -> Case:
        rng = np.random.default_rng(1)
        gt, det = {}, {}
        for k in range(round(count * scale)):
            number = int(rng.integers(10, 50))
            truth = _nuscenes_boxes(rng, number, rng.choice(10, number), rng.uniform(-45, 45, (number, 2)))
            rows = np.concatenate(
                (np.flatnonzero(rng.random(number) < 0.85), rng.integers(0, number, number))
            )
            names = [CLASSES.index(truth.name[r]) for r in rows]
            spots = truth.translation[rows, :2] + rng.normal(0, 0.6, (len(rows), 2))
            gt[str(k)] = NuScenesSample(truth, np.zeros(2), NuScenesBoxes.empty())
            det[str(k)] = _nuscenes_boxes(rng, len(rows), names, spots, rng.random(len(rows)))
        boxes = sum(map(len, det.values()))
        return Case(len(gt), f"{len(gt):,} key frames, {boxes:,} detections", {"gt": gt, "det": det})

    return make


def _nuscenes_boxes(
    rng: np.random.Generator, n: int, kinds: Any, spots: Any, score: Any = None
) -> NuScenesBoxes:
    half = rng.uniform(-np.pi, np.pi, n) / 2
    zero = np.zeros(n)
    return NuScenesBoxes(
        [CLASSES[k] for k in kinds],
        np.column_stack((spots, np.ones(n))),
        rng.uniform(0.5, 5, (n, 3)),
        np.stack((np.cos(half), zero, zero, np.sin(half)), axis=1),
        rng.normal(0, 2, (n, 2)),
        ["vehicle.moving"] * n,
        score=score,
    )


def _nuscenes(case: Case) -> Call:
    def run() -> Any:
        result = nuscenes_eval(case["gt"], case["det"])
        return np.array([[result.aps[name, d] for d in DISTANCES] for name in CLASSES] + [[result.nds] * 4])

    return run


def _kit(case: Case) -> Call:
    """The official evaluation; building its boxes and filtering them is not timed."""
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.detection.evaluate import DetectionEval

    kit = DetectionEval.__new__(DetectionEval)
    kit.cfg, kit.verbose = config_factory("detection_cvpr_2019"), False
    limits = kit.cfg.class_range
    sides = []
    for frames in ({t: s.boxes for t, s in case["gt"].items()}, case["det"]):
        boxes = EvalBoxes()
        for token, b in frames.items():
            near = [k for k in range(len(b)) if np.hypot(*b.translation[k, :2]) < limits[b.name[k]]]
            rows = [
                DetectionBox(
                    token,
                    *(tuple(getattr(b, c)[k]) for c in ("translation", "size", "rotation", "velocity")),
                    detection_name=b.name[k],
                    detection_score=-1.0 if b.score is None else float(b.score[k]),
                    attribute_name=b.attribute[k],
                )
                for k in near
            ]
            boxes.add_boxes(token, rows)
        sides.append(boxes)
    kit.gt_boxes, kit.pred_boxes = sides

    def run() -> Any:
        metrics, _ = kit.evaluate()
        aps = [[metrics.get_label_ap(name, d) for d in DISTANCES] for name in CLASSES]
        return np.array([*aps, [metrics.nd_score] * 4])

    return run


ROWS = (
    Row(
        key="kitti_eval",
        op="kitti_eval",
        title="KITTI evaluation, 3 classes, R11 and R40, 2D/AOS/BEV/3D",
        make=kitti_frames,
        ours=_kitti,
        agree=finite,
        goal=Goal("ms", 60_000),
        growth=False,
        quick=True,
    ),
    Row(
        key="nuscenes_eval",
        op="nuscenes_eval",
        title="nuScenes detection metric, 10 classes",
        make=nuscenes_frames(6019),
        ours=_nuscenes,
        agree=finite,
        goal=Goal("ms", 60_000),
        growth=False,
    ),
    Row(
        key="nuscenes_eval_small",
        op="nuscenes_eval",
        title="nuScenes detection metric, beside the official kit",
        make=nuscenes_frames(60),
        ours=_nuscenes,
        agree=within(1e-9),
        peers=(
            Peer(
                "nuscenes-devkit",
                "nuscenes-devkit",
                "nuscenes",
                _kit,
                note="without loading and filtering of boxes",
            ),
        ),
        growth=False,
    ),
)
