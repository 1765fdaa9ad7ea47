"""ScanNetV2 from its official layout, or from the arrays that VoteNet's preparation writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.files import boxes_of_instances, colours_of, integers, read_table
from sparsepoint.data.scenes import Scene, read_list
from tenfold._errors import UserInputError
from tenfold.geometry import transform_points
from tenfold.io import field, read_json, read_points
from tenfold.io.arrays import read_npy

__all__ = ["ScanNetDetection", "read_alignment"]

_LABELS = "scannetv2-labels.combined.tsv"


def read_alignment(path: Path) -> np.ndarray:
    """``axisAlignment`` (4, 4) of a scan's text file; the identity where the file has none (test scans).

    Raises:
        UserInputError: the file cannot be read, or the entry is not sixteen numbers.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: file: cannot be read ({error})") from error
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip() == "axisAlignment":
            try:
                numbers = np.array([float(word) for word in value.split()])
            except ValueError as error:
                raise UserInputError(f"{path}: axisAlignment: is not made of numbers") from error
            if numbers.shape != (16,) or not np.isfinite(numbers).all():
                raise UserInputError(f"{path}: axisAlignment: got {len(numbers)} numbers; expected 16")
            return numbers.reshape(4, 4)
    return np.eye(4)


class ScanNetDetection:
    """A split of ScanNetV2: 18 classes, boxes along the axes after alignment with the walls.

    Args:
        root: the folder with ``scans/`` (or ``scans_test/``), the label table and the official split lists (there, in
            ``splits/`` or in ``meta_data/``); or the folder with VoteNet's ``<scene>_vert.npy`` and its split lists.
        split: "train", "val" or "test"; or any list ``scannetv2_<split>.txt``.

    Raises:
        UserInputError: a missing or damaged file.

    Source: VoteNet's preparation; boxes are those of the full mesh.
    """

    def __init__(self, root: str | Path, split: str = "train") -> None:
        self.root, self.split = Path(root), split
        self.labels: LabelSet = LABEL_SETS["scannet"]
        self.names: Sequence[str] = read_list(self._list())
        self.prepared = (self.root / f"{self.names[0]}_vert.npy").is_file()
        self._label_of = {number: k for k, number in enumerate(self.labels.ids)}
        self._nyu40 = {} if self.prepared else self._raw_categories()

    def _list(self) -> Path:
        name = f"scannetv2_{self.split}.txt"
        for folder in (
            self.root,
            self.root / "splits",
            self.root / "meta_data",
            self.root.parent / "meta_data",
        ):
            if (folder / name).is_file():
                return folder / name
        return self.root / name

    def _raw_categories(self) -> dict[str, int]:
        rows = read_table(self.root / _LABELS, ("raw_category", "nyu40id"))
        return {row["raw_category"]: int(row["nyu40id"]) for row in rows if row["nyu40id"].strip().isdigit()}

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One scan."""
        name = self.names[index]
        return self._prepared(name) if self.prepared else self._raw(name)

    def _raw(self, name: str) -> Scene:
        folders = [self.root / "scans" / name, self.root / "scans_test" / name]
        folder = next((f for f in folders if f.is_dir()), folders[0])
        cloud = read_points(folder / f"{name}_vh_clean_2.ply")
        align = read_alignment(folder / f"{name}.txt")
        points = transform_points(cloud.xyz.astype(np.float64), align).astype(np.float32)
        aggregation = folder / f"{name}.aggregation.json"
        if not aggregation.is_file() and (folder.parent.name == "scans_test" or self.split == "test"):
            nothing = np.zeros((0, 7), np.float32)
            return Scene(name, points, nothing, np.zeros(0, np.int64), colours_of(cloud), align=align)
        instance, kinds = self._instances(folder, name, aggregation, len(points))
        semantic = np.zeros(len(points), np.int32)
        for number, nyu40 in kinds.items():
            semantic[instance == number] = nyu40
        wanted = {n: self._label_of[k] for n, k in kinds.items() if k in self._label_of}
        boxes, labels = boxes_of_instances(points, instance, wanted)
        return Scene(name, points, boxes, labels, colours_of(cloud), instance, semantic, align)

    def _instances(
        self, folder: Path, name: str, aggregation: Path, number: int
    ) -> tuple[np.ndarray, dict[int, int]]:
        """Instance of every vertex (later groups win), and the nyu40 class of every instance."""
        segments_file = folder / f"{name}_vh_clean_2.0.010000.segs.json"
        listed = field(read_json(segments_file), "segIndices", list, path=segments_file)
        segment = integers(segments_file, "segIndices", listed, number)
        document = read_json(aggregation)
        groups = field(document, "segGroups", list, path=aggregation)
        instance, kinds = np.zeros(number, np.int32), {}
        for k, _ in enumerate(groups):
            object_id = field(document, f"segGroups[{k}].objectId", int, path=aggregation)
            raw = field(document, f"segGroups[{k}].label", str, path=aggregation)
            own = field(document, f"segGroups[{k}].segments", list, path=aggregation)
            instance[np.isin(segment, integers(aggregation, f"segGroups[{k}].segments", own))] = object_id + 1
            kinds[object_id + 1] = self._nyu40.get(raw, 0)
        return instance, kinds

    def _prepared(self, name: str) -> Scene:
        """VoteNet's arrays: aligned points, boxes with full sizes and the nyu40 class in the last column."""

        def load(part: str, columns: int | None = None) -> np.ndarray:
            path = self.root / f"{name}_{part}.npy"
            found: np.ndarray = np.asarray(read_npy(path))
            if found.ndim != (1 if columns is None else 2) or (columns and found.shape[1] != columns):
                raise UserInputError(
                    f"{path}: array: got shape {found.shape}; expected {columns or 1} columns"
                )
            return found

        vertices, rows = load("vert", 6), load("bbox", 7)
        instance, semantic = load("ins_label"), load("sem_label")
        if not len(vertices) == len(instance) == len(semantic):
            raise UserInputError(
                f"{self.root / name}_ins_label.npy: array: got {len(instance)} entries; expected {len(vertices)}"
            )
        kept = np.isin(rows[:, 6].astype(int), self.labels.ids)
        boxes = rows[kept].astype(np.float32)
        labels = np.asarray([self._label_of[int(k)] for k in boxes[:, 6]], np.int64)
        boxes[:, 6] = 0.0
        return Scene(
            name,
            vertices[:, :3].astype(np.float32),
            boxes,
            labels,
            vertices[:, 3:].astype(np.float32),
            instance.astype(np.int32),
            semantic.astype(np.int32),
        )
