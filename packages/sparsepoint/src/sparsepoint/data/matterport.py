"""Matterport3D, region by region, from its official layout. The detection protocol is ours: no other one exists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from sparsepoint.classes import LABEL_SETS, LabelSet
from sparsepoint.data.files import boxes_of_instances, colours_of, first_folder, integers, read_table
from sparsepoint.data.scenes import Scene
from tenfold._errors import UserInputError
from tenfold.io import field, read_json, read_mesh

__all__ = ["MPCAT40", "TEST_HOUSES", "VAL_HOUSES", "Matterport3DDetection", "read_house"]

#: Official splits; every other house trains.
VAL_HOUSES = (
    *("2azQ1b91cZZ", "8194nk5LbLH", "EU6Fwq7SyZv", "oLBMNvg9in8", "QUCTc6BB5sX", "TbHJrupSAjP"),
    *("X7HyMhZNoso", "pLe4wQe7qrG", "x8F5xyUWy9e", "Z6MFQCViBuw", "zsNo4HB9uLZ"),
)
TEST_HOUSES = (
    *("2t7WUuJeko7", "5ZKStnWn8Zo", "ARNzJeq3xxb", "fzynW3qQPVF", "jtcxE69GiFV", "pa4otMbVnkk"),
    *("q9vSo1VnCiC", "rqfALeAoiTq", "UwV83HsGsw3", "wc2JMjhGNzB", "WYY7iVyf5p8", "YFuZgdQ5vWj"),
    *("yqstnuAEVhm", "YVUC4YcDtcY", "gxdoqLR6rwA", "gYvKGZ5eRqb", "RPmz2sHmrrY", "Vt2qJdWjCF2"),
)

#: Object categories of the alternative label set, mpcat40, with their numbers there.
MPCAT40 = {
    **{"chair": 3, "door": 4, "table": 5, "picture": 6, "cabinet": 7, "cushion": 8, "window": 9, "sofa": 10},
    **{"bed": 11, "curtain": 12, "chest_of_drawers": 13, "plant": 14, "sink": 15, "toilet": 18, "stool": 19},
    **{"towel": 20, "mirror": 21, "tv_monitor": 22, "shower": 23, "bathtub": 25, "counter": 26},
    **{"fireplace": 27, "lighting": 28, "shelving": 31, "blinds": 32, "gym_equipment": 33, "seating": 34},
    **{"board_panel": 35, "furniture": 36, "appliances": 37, "clothes": 38},
}
_LEAST_VERTICES = 5000
_LEFT_OUT = ("Z", "-")


@dataclass(frozen=True)
class House:
    """What a .house file says.

    Args:
        regions: number -> label, one letter.
        objects: region -> rows of oriented boxes: centre, two axes, three radii (12 numbers).
    """

    regions: dict[int, str]
    objects: dict[int, np.ndarray]


def read_house(path: Path) -> House:
    """Regions and oriented boxes of a ``.house`` file.

    Raises:
        UserInputError: the file cannot be read, or a line is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="strict").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: file: cannot be read ({error})") from error
    regions: dict[int, str] = {}
    objects: dict[int, list[list[float]]] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0] not in ("R", "O"):
            continue
        try:
            if words[0] == "R":
                regions[int(words[1])] = words[5]
            else:
                box = [float(word) for word in words[4:16]]
                if len(box) != 12:
                    raise ValueError("too short")
                objects.setdefault(int(words[2]), []).append(box)
        except (ValueError, IndexError) as error:
            raise UserInputError(f"{path}: line {number}: is damaged ({error})") from error
    return House(regions, {k: np.asarray(v) for k, v in objects.items()})


class Matterport3DDetection:
    """A split of Matterport3D: one sample is a region of a house, classes are ScanNet's 18.

    Regions labelled ``Z`` or ``-`` and those with less than 5,000 vertices are left out. Houses are not aligned with
    their walls.

    Args:
        root: the folder with the houses (or ``v1/scans``, ``scans``) and ``metadata/category_mapping.tsv``.
        split: "train", "val" or "test": the official houses.
        boxes: "aabb" along the axes, or "obb": the annotated box nearest to it, turned about z alone.
        classes: "scannet" or "mpcat40".
        least_vertices: of a region.

    Raises:
        UserInputError: a missing or damaged file.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        boxes: Literal["aabb", "obb"] = "aabb",
        classes: Literal["scannet", "mpcat40"] = "scannet",
        least_vertices: int = _LEAST_VERTICES,
    ) -> None:
        self.root = Path(root)
        if split not in ("train", "val", "test"):
            raise UserInputError(f"{root}: split: got {split!r}; expected train, val or test")
        if boxes not in ("aabb", "obb") or classes not in ("scannet", "mpcat40"):
            raise UserInputError(f"{root}: boxes, classes: got {boxes!r}, {classes!r}")
        self.boxes, self.least_vertices = boxes, least_vertices
        bins = 12 if boxes == "obb" else 1
        if classes == "scannet":
            base = LABEL_SETS["matterport3d"]
            self.labels = LabelSet(base.names, base.sizes, bins, base.ids)
        else:
            sizes = ((0.8, 0.8, 0.8),) * len(MPCAT40)  # `prepare` measures those of the training houses
            self.labels = LabelSet(tuple(MPCAT40), sizes, bins, tuple(MPCAT40.values()))
        column = "nyu40id" if classes == "scannet" else "mpcat40index"
        table = read_table(self.root / "metadata" / "category_mapping.tsv", ("raw_category", column))
        self._number = {r["raw_category"]: int(r[column]) for r in table if r[column].strip().isdigit()}
        folders = (self.root / "v1" / "scans", self.root / "scans", self.root)
        self.scans = first_folder(folders, "the folder of the houses")
        self._houses: dict[str, House] = {}
        self._regions = [region for house in self._chosen(split) for region in self._of_house(house)]
        if not self._regions:
            raise UserInputError(f"{self.scans}: raw: no region of the split {split}")
        self.names: Sequence[str] = [f"{house}_region{number}" for house, number in self._regions]

    def _chosen(self, split: str) -> list[str]:
        found = sorted(f.name for f in self.scans.iterdir() if (f / "region_segmentations").is_dir())
        own = {"val": VAL_HOUSES, "test": TEST_HOUSES}.get(split)
        held_out = {*VAL_HOUSES, *TEST_HOUSES}
        return [h for h in found if (h in own if own is not None else h not in held_out)]

    def _of_house(self, house: str) -> list[tuple[str, int]]:
        folder = self.scans / house
        self._houses[house] = read_house(folder / "house_segmentations" / f"{house}.house")
        regions = []
        for number, label in sorted(self._houses[house].regions.items()):
            path = folder / "region_segmentations" / f"region{number}.ply"
            if label not in _LEFT_OUT and path.is_file() and _vertices(path) >= self.least_vertices:
                regions.append((house, number))
        return regions

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One region."""
        house, number = self._regions[index]
        stem = self.scans / house / "region_segmentations" / f"region{number}"
        cloud, faces = read_mesh(stem.with_suffix(".ply"))
        points = cloud.xyz.astype(np.float32)
        instance, semantic, kinds = self._instances(stem, faces, len(points))
        boxes, labels = boxes_of_instances(points, instance, kinds)
        if self.boxes == "obb":
            boxes = _oriented(boxes, self._houses[house].objects.get(number, np.zeros((0, 12))))
        meta = {"region": self._houses[house].regions[number]}
        name = self.names[index]
        return Scene(name, points, boxes, labels, colours_of(cloud), instance, semantic, np.eye(4), meta)

    def _instances(
        self, stem: Path, faces: np.ndarray, number: int
    ) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
        segments_file, groups_file = stem.with_suffix(".fsegs.json"), stem.with_suffix(".semseg.json")
        listed = field(read_json(segments_file), "segIndices", list, path=segments_file)
        segment = integers(segments_file, "segIndices", listed, len(faces))
        document = read_json(groups_file)
        wanted = {k: label for label, k in enumerate(self.labels.ids)}
        instance, semantic = np.zeros(number, np.int32), np.zeros(number, np.int32)
        kinds: dict[int, int] = {}
        for k, _ in enumerate(field(document, "segGroups", list, path=groups_file)):
            raw = field(document, f"segGroups[{k}].label", str, path=groups_file)
            own = field(document, f"segGroups[{k}].segments", list, path=groups_file)
            inside = np.isin(segment, integers(groups_file, f"segGroups[{k}].segments", own))
            vertices = np.unique(faces[inside])
            instance[vertices] = k + 1
            semantic[vertices] = self._number.get(raw, 0)
            if self._number.get(raw, 0) in wanted:
                kinds[k + 1] = wanted[self._number[raw]]
        return instance, semantic, kinds


def _vertices(path: Path) -> int:
    """What the head of a .ply file says; the file itself is read later."""
    with path.open("rb") as file:
        for line in file.read(4096).splitlines():
            words = line.split()
            if words[:2] == [b"element", b"vertex"] and len(words) == 3 and words[2].isdigit():
                return int(words[2])
    raise UserInputError(f"{path}: vertex: the header announces no such element")


def _oriented(boxes: np.ndarray, annotated: np.ndarray) -> np.ndarray:
    """Boxes replaced by the annotated one whose centre is nearest and inside; its first axis gives the yaw."""
    result = boxes.copy()
    for row, box in enumerate(boxes):
        if len(annotated) == 0:
            break
        apart = np.abs(annotated[:, :3] - box[:3])
        best = int((apart**2).sum(1).argmin())
        if (apart[best] > box[3:6] / 2 + 0.05).any():
            continue
        centre, first, second, radii = np.split(annotated[best], (3, 6, 9))
        axes = np.stack((first, second, np.cross(first, second)))
        upright = int(np.abs(axes[:, 2]).argmax())
        flat = [k for k in range(3) if k != upright]
        yaw = np.arctan2(axes[flat[0], 1], axes[flat[0], 0])
        size = 2 * radii[[flat[0], flat[1], upright]]
        result[row] = [*centre, *size, yaw]
    return result
