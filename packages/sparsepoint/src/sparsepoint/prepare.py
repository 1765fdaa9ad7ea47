"""The verbs `prepare` and `check-data`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsepoint.classes import LabelSet
from sparsepoint.data import READERS, Scene, Scenes, open_scenes
from sparsepoint.data.scenes import choose_rows, finite_scene, write_scene, write_set
from tenfold._errors import UserInputError
from tenfold.host import points_in_boxes
from tenfold.io import make_folder, write_json
from tenfold.train.progress import bar

__all__ = ["check_data", "prepare"]

_SPLITS = ("train", "val")
_MEASURED = ("s3dis", "matterport3d", "custom")
_FEW_POINTS = 5


def prepare(
    dataset: Literal["scannet", "sunrgbd", "s3dis", "matterport3d", "custom"],
    raw: Path,
    out: Path,
    splits: Sequence[str] = _SPLITS,
    labels: Literal["v1", "v2"] = "v2",
    test_area: int = 5,
    boxes: Literal["aabb", "obb"] = "aabb",
    classes: Literal["scannet", "mpcat40"] = "scannet",
    max_points: int | None = None,
    skip_damaged: bool = False,
    seed: int = 0,
) -> None:
    """Read a data set's official files and write scenes that training opens quickly.

    Writes scenes/NAME.npz, SPLIT.txt and, last, dataset.json. Pure Python: SUN RGB-D needs no MATLAB.

    Args:
        dataset: Which.
        raw: Its folder, as downloaded.
        out: Folder to write.
        splits: Which lists to prepare.
        labels: Annotations of SUN RGB-D; figures of v1 and v2 must not be compared.
        test_area: Of S3DIS.
        boxes: Of Matterport3D, along the axes or turned about z.
        classes: Of Matterport3D.
        max_points: Keep so many random points of a scene; all by default.
        skip_damaged: Leave out scenes with a missing or damaged file, and say which.
        seed: Of the random points.
    """
    options: dict[str, dict[str, Any]] = {
        "sunrgbd": {"labels": labels},
        "s3dis": {"test_area": test_area},
        "matterport3d": {"boxes": boxes, "classes": classes},
    }
    if not splits:
        raise UserInputError("splits: got none; expected one or more")
    if max_points is not None and max_points < 1:
        raise UserInputError(f"max_points: got {max_points}; expected 1 or more")
    readers = {split: READERS[dataset](raw, split, **options.get(dataset, {})) for split in splits}
    make_folder(out / "scenes")
    lists: dict[str, Sequence[str]] = {}
    sizes: list[tuple[np.ndarray, np.ndarray]] = []
    for split, scenes in readers.items():
        kept = []
        for index in bar(range(len(scenes)), f"{dataset} {split}"):
            scene = _read(scenes, index, skip_damaged)
            if scene is None:
                continue
            write_scene(out / "scenes" / f"{scene.name}.npz", _thinned(scene, max_points, seed + index))
            kept.append(scene.name)
            if split == "train":
                sizes.append((scene.boxes, scene.labels))
        lists[split] = kept
        print(f"{split}: {len(kept)} scenes -> {out}")
    found = next(iter(readers.values())).labels
    if dataset in _MEASURED and sizes:
        found = _measured(found, sizes)
    write_set(out, dataset, found, lists, options=options.get(dataset, {}))


def _read(scenes: Scenes, index: int, skip: bool) -> Scene | None:
    try:
        return scenes.scene(index)
    except UserInputError as error:
        if not skip:
            raise
        print(f"left out: {scenes.names[index]}: {error}", file=sys.stderr)
        return None


def _thinned(scene: Scene, number: int | None, seed: int) -> Scene:
    if number is None or len(scene.points) <= number:
        return scene
    rows = np.sort(choose_rows(len(scene.points), number, np.random.default_rng(seed)))
    return replace(
        scene,
        points=scene.points[rows],
        colours=None if scene.colours is None else scene.colours[rows],
        instance=None if scene.instance is None else scene.instance[rows],
        semantic=None if scene.semantic is None else scene.semantic[rows],
    )


def _measured(labels: LabelSet, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> LabelSet:
    """The classes with the mean sizes of the training boxes; those without a box keep theirs."""
    boxes = np.concatenate([b for b, _ in found])
    kinds = np.concatenate([k for _, k in found])
    sizes = []
    for label, usual in enumerate(labels.sizes):
        own = boxes[kinds == label, 3:6]
        a, b, c = own.mean(0).tolist() if len(own) else usual
        sizes.append((max(float(a), 0.01), max(float(b), 0.01), max(float(c), 0.01)))
    return replace(labels, sizes=tuple(sizes))


def check_data(
    root: Path,
    split: str = "train",
    dataset: Literal["scannet", "sunrgbd", "s3dis", "matterport3d", "custom"] | None = None,
    scenes: int = 20,
    out: Path | None = None,
) -> None:
    """Look whether frames, boxes and points of a data set fit each other, before any training.

    Ends with a warning for each thing that looks wrong: z that is not up, boxes without points (alignment or frame), a
    yaw where none should be, sizes that are no furniture's.

    Args:
        root: Prepared folder, folder with boxes.json, or official files.
        split: Which list.
        dataset: Whose official files; not needed for the other two.
        scenes: Look at the first so many.
        out: JSON file for the numbers.
    """
    if scenes < 1:
        raise UserInputError(f"scenes: got {scenes}; expected 1 or more")
    found = open_scenes(root, split, dataset)
    rows = [_numbers(found.scene(i)) for i in range(min(scenes, len(found)))]
    total = sum(r["boxes"] for r in rows)
    report: dict[str, Any] = {
        "scenes": len(rows),
        "boxes": total,
        "points, mean": float(np.mean([r["points"] for r in rows])),
        "points not finite": sum(r["broken"] for r in rows),
        "boxes with 5 points or more, %": 100 * sum(r["filled"] for r in rows) / max(total, 1),
        "points in boxes, %": float(np.mean([r["covered"] for r in rows])),
        "height of the scene, m": float(np.mean([r["height"] for r in rows])),
        "widest side, m": float(np.mean([r["width"] for r in rows])),
        "level surfaces, %": float(np.mean([r["level"] for r in rows])),
        "turned boxes, %": 100 * sum(r["turned"] for r in rows) / max(total, 1),
        "smallest size, m": min((r["smallest"] for r in rows), default=0.0),
        "largest size, m": max((r["largest"] for r in rows), default=0.0),
    }
    for name, value in report.items():
        print(f"{name:<34}{value:12.4g}")
    warnings = _warnings(report, rows, found.labels)
    for warning in warnings:
        print(f"warning: {warning}")
    if out is not None:
        write_json(out, {**report, "warnings": warnings, "by_scene": rows})


def _numbers(whole: Scene) -> dict[str, Any]:
    scene = finite_scene(whole)
    points, boxes = scene.points.astype(np.float64), scene.boxes.astype(np.float64)
    inside = np.zeros(len(points), bool)
    filled = 0
    for box in boxes:
        own = np.asarray(points_in_boxes(points, box[None])) >= 0
        inside |= own.reshape(-1)
        filled += int(own.sum() >= _FEW_POINTS)
    extent = np.percentile(points, 99, axis=0) - np.percentile(points, 1, axis=0)
    cells = np.unique(np.floor((points[:, 2] - points[:, 2].min()) / 0.05), return_counts=True)[1]
    return {
        "name": scene.name,
        "points": len(points),
        "broken": len(whole.points) - len(points),
        "boxes": len(boxes),
        "filled": filled,
        "covered": 100 * float(inside.mean()),
        "height": float(extent[2]),
        "width": float(extent[:2].max()),
        "level": 100 * float(cells.max() / len(points)),
        "turned": int((np.abs(boxes[:, 6]) > 1e-6).sum()),
        "smallest": float(boxes[:, 3:6].min()) if len(boxes) else 0.0,
        "largest": float(boxes[:, 3:6].max()) if len(boxes) else 0.0,
    }


def _warnings(report: dict[str, Any], rows: Sequence[dict[str, Any]], labels: LabelSet) -> list[str]:
    found = []
    if report["boxes"] and report["boxes with 5 points or more, %"] < 80:
        empty = [r["name"] for r in rows if r["boxes"] and r["filled"] < 0.5 * r["boxes"]]
        found.append(
            "many boxes hold no points: points and boxes are not in one frame (alignment?)"
            + (f": {', '.join(empty[:5])}" if empty else "")
        )
    if report["height of the scene, m"] > report["widest side, m"]:
        found.append("scenes are higher than wide: is z up, and the unit metres?")
    if report["level surfaces, %"] < 2:
        found.append("no height holds many points: is z up?")
    if labels.heading_bins == 1 and report["turned boxes, %"] > 0:
        found.append("boxes have a yaw, but the classes say that boxes lie along the axes")
    if report["boxes"] and (report["smallest size, m"] <= 0 or report["largest size, m"] > 20):
        found.append("sizes are not those of furniture: half sizes, millimetres, or no size at all?")
    if report["points not finite"]:
        found.append("points that are not finite are left out")
    if report["boxes"] == 0:
        found.append("no object in any scene")
    return found
