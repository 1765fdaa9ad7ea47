"""Your own scenes, and those that mmdetection3d has described."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.files import colours_of
from sparsepoint.data.scenes import Scene
from tenfold._errors import UserInputError
from tenfold.geometry import boxes_from_axis_aligned, boxes_from_mmdet3d, transform_points
from tenfold.io import field, read_json, read_points

__all__ = ["CustomDetection", "MMDet3DDetection"]

_IGNORED = -1  # label of mmdetection3d


def _numbers(path: Path, name: str, value: Any, columns: int) -> np.ndarray:
    try:
        found = np.asarray(value, float).reshape(-1, columns) if len(value) else np.zeros((0, columns))
    except (ValueError, TypeError) as error:
        raise UserInputError(f"{path}: {name}: expected rows of {columns} numbers") from error
    if found.shape[0] != len(value) or not np.isfinite(found).all():
        raise UserInputError(f"{path}: {name}: expected rows of {columns} finite numbers")
    return found


class CustomDetection:
    """Scenes of your own, listed in ``boxes.json``.

    ``{"classes": [...], "scenes": [{"id": "kitchen", "points": "kitchen.ply", "boxes": [[x, y, z, dx, dy, dz, yaw]],
    "labels": ["chair"], "split": "train", "align": [16 numbers]}]}``. Points may be .ply (meshes too), .npy, .npz,
    .bin or .pcd; labels are names or numbers; a scene without "split" belongs to every split; "align" moves points, and
    the boxes are those of the moved points.

    Args:
        root: the folder with boxes.json, or that file.
        split: which scenes.

    Raises:
        UserInputError: a missing or damaged file, or field.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        given = Path(root)
        self.path = given if given.suffix == ".json" else given / "boxes.json"
        self.document = read_json(self.path)
        names = field(self.document, "classes", list, path=self.path)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise UserInputError(f"{self.path}: classes: got {names!r}; expected one or more distinct names")
        entries = field(self.document, "scenes", list, path=self.path)
        self._rows = [
            k for k, e in enumerate(entries) if not isinstance(e, dict) or e.get("split", split) == split
        ]
        if not self._rows:
            raise UserInputError(f"{self.path}: scenes: none of the split {split!r}")
        ids = [field(self.document, f"scenes[{k}].id", str, path=self.path) for k in range(len(entries))]
        first: dict[str, int] = {}
        for k, name in enumerate(ids):
            if first.setdefault(name, k) != k:  # `prepare` would write one over the other
                raise UserInputError(f"{self.path}: scenes[{k}].id: got {name!r}, as scenes[{first[name]}]")
        self.names: Sequence[str] = [ids[k] for k in self._rows]
        objects = [self._objects(k, names) for k in range(len(entries))]
        self.labels = _label_set(names, objects)
        self._boxes = dict(enumerate(objects))

    def _objects(self, k: int, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        listed = field(self.document, f"scenes[{k}].boxes", list, path=self.path)
        boxes = _numbers(self.path, f"scenes[{k}].boxes", listed, 7)
        given = field(self.document, f"scenes[{k}].labels", list, path=self.path)
        if len(given) != len(boxes):
            raise UserInputError(
                f"{self.path}: scenes[{k}].labels: got {len(given)}; expected {len(boxes)}, one for each box"
            )
        labels = []
        for word in given:
            number = names.index(word) if word in names else word
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(names):
                raise UserInputError(
                    f"{self.path}: scenes[{k}].labels: got {word!r}; expected one of {names}"
                )
            labels.append(number)
        if (boxes[:, 3:6] <= 0).any():
            raise UserInputError(f"{self.path}: scenes[{k}].boxes: a size is not positive")
        return boxes.astype(np.float32), np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One scene."""
        k = self._rows[index]
        file = self.path.parent / field(self.document, f"scenes[{k}].points", str, path=self.path)
        cloud = read_points(file)
        align = np.eye(4)
        if self.document["scenes"][k].get("align") is not None:
            listed = field(self.document, f"scenes[{k}].align", list, path=self.path)
            align = _numbers(self.path, f"scenes[{k}].align", [listed], 16).reshape(4, 4)
        points = transform_points(cloud.xyz.astype(np.float64), align).astype(np.float32)
        boxes, labels = self._boxes[k]
        return Scene(self.names[index], points, boxes, labels, colours_of(cloud), align=align)


def _label_set(names: Sequence[str], objects: Sequence[tuple[np.ndarray, np.ndarray]]) -> LabelSet:
    """Classes with the mean sizes of the boxes there are; a cube of 80 cm for a class without any."""
    boxes = np.concatenate([np.zeros((0, 7)), *(b for b, _ in objects)])
    labels = np.concatenate([np.zeros(0, np.int64), *(k for _, k in objects)])
    sizes = []
    for label in range(len(names)):
        own = boxes[labels == label, 3:6]
        a, b, c = own.mean(0).tolist() if len(own) else (0.8, 0.8, 0.8)
        sizes.append((float(a), float(b), float(c)))
    turned = bool((np.abs(boxes[:, 6]) > 1e-6).any())
    return LabelSet(tuple(names), tuple(sizes), 12 if turned else 1)


class MMDet3DDetection:
    """Scenes that an information file of mmdetection3d (1.1, as JSON) describes: ScanNet or SUN RGB-D.

    Points in such folders are not aligned with the walls, boxes are: the alignment in the file is applied.

    Args:
        info: the JSON file.
        points: folder of the point files; that of the file by default.

    Raises:
        UserInputError: a missing or damaged file, or field.
    """

    def __init__(self, info: str | Path, points: str | Path | None = None) -> None:
        self.path = Path(info)
        self.folder = self.path.parent if points is None else Path(points)
        self.document = read_json(self.path)
        entries = field(self.document, "data_list", list, path=self.path)
        kind = str(
            self.document.get("metainfo", {}).get(
                "DATASET", self.document.get("metainfo", {}).get("dataset", "")
            )
        )
        known = {"SCANNET": "scannet", "SUNRGBD": "sunrgbd"}
        if kind.upper() not in known:
            raise UserInputError(f"{self.path}: metainfo.DATASET: got {kind!r}; expected SCANNET or SUNRGBD")
        self.labels = LABEL_SETS[known[kind.upper()]]
        self.names: Sequence[str] = [
            Path(field(self.document, f"data_list[{k}].lidar_points.lidar_path", str, path=self.path)).stem
            for k in range(len(entries))
        ]

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One scene."""
        where = f"data_list[{index}]"
        entry = self.document["data_list"][index]
        file = self.folder / entry["lidar_points"]["lidar_path"]
        cloud = read_points(
            file, field(self.document, f"{where}.lidar_points.num_pts_feats", int, path=self.path)
        )
        align = np.eye(4)
        if entry.get("axis_align_matrix") is not None:
            align = _numbers(self.path, f"{where}.axis_align_matrix", entry["axis_align_matrix"], 4)
            if align.shape != (4, 4):
                raise UserInputError(
                    f"{self.path}: {where}.axis_align_matrix: got {len(align)} rows; expected 4"
                )
        points = transform_points(cloud.xyz.astype(np.float64), align).astype(np.float32)
        rows, labels = [], []
        for k, _ in enumerate(entry.get("instances", [])):
            label = field(self.document, f"{where}.instances[{k}].bbox_label_3d", int, path=self.path)
            if label == _IGNORED:
                continue
            if not 0 <= label < len(self.labels.names):
                raise UserInputError(
                    f"{self.path}: {where}.instances[{k}].bbox_label_3d: got {label}; expected 0 to "
                    f"{len(self.labels.names) - 1}, or {_IGNORED} for what is ignored"
                )
            rows.append(field(self.document, f"{where}.instances[{k}].bbox_3d", list, path=self.path))
            labels.append(label)
        columns = 6 if rows and len(rows[0]) == 6 else 7
        boxes = _numbers(self.path, f"{where}.instances", rows, columns)
        middle = (0.5, 0.5, 0.5)
        boxes = boxes_from_axis_aligned(boxes) if columns == 6 else boxes_from_mmdet3d(boxes, origin=middle)
        return Scene(
            self.names[index],
            points,
            boxes.astype(np.float32),
            np.asarray(labels, np.int64),
            colours_of(cloud),
            align=align,
        )
