"""One form for the scenes of every data set, the cache they are prepared into, and what a network gets of them."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsepoint.classes import LabelSet
from sparsepoint.config import SparsePointConfig
from sparsepoint.losses import Truth
from sparsepoint.postprocess import axis_aligned_hull
from sparsepoint.targets import kept_instances, votes_from_boxes, votes_from_instances
from tenfold._errors import UserInputError
from tenfold.geometry import flip_boxes, flip_points, rotate_boxes, rotate_z, scale_boxes
from tenfold.io import make_folder, read_json, write_bytes, write_json, write_text
from tenfold.io.arrays import read_npz
from tenfold.train.resume import sample_generator

__all__ = [
    "Augmentation",
    "Batch",
    "PreparedScenes",
    "Scene",
    "SceneSamples",
    "Scenes",
    "collate",
    "floor_of",
    "network_points",
    "read_scene",
    "write_scene",
    "write_set",
]

Floats = npt.NDArray[Any]
_FLOOR_PERCENTILE = 0.99  # of z, in percent: the published recipe's, and not the 99th


@dataclass(frozen=True, eq=False)
class Scene:
    """One room or frame, in our frame: metres, z up.

    Attributes:
        name: of the scene.
        points: (N, 3) float32; aligned with the walls where the data set says how.
        colours: (N, 3) float32 from 0 to 255, or None.
        boxes: (G, 7) float32.
        labels: (G,) int64.
        instance: (N,) int32 number of the object of each point, 0 for none; or None.
        semantic: (N,) int32 foreign class of each point; or None.
        align: (4, 4) float64 from the source's frame to ours.
        meta: whatever else is worth keeping, plain data.
    """

    name: str
    points: Floats
    boxes: Floats
    labels: npt.NDArray[np.int64]
    colours: Floats | None = None
    instance: npt.NDArray[np.int32] | None = None
    semantic: npt.NDArray[np.int32] | None = None
    align: Floats = field(default_factory=lambda: np.eye(4))
    meta: dict[str, Any] = field(default_factory=dict)


class Scenes(Protocol):
    """A split of a data set."""

    labels: LabelSet
    names: Sequence[str]

    def __len__(self) -> int:
        """Number of scenes."""

    def scene(self, index: int) -> Scene:
        """One of them."""


# ---- cache ---------------------------------------------------------------------------------------


def write_scene(path: Path, scene: Scene) -> None:
    """Write a scene as .npz, atomically: points (N, 6), boxes, labels, align, meta, and instances where known."""
    number = len(scene.points)
    colours = np.zeros((number, 3)) if scene.colours is None else scene.colours
    arrays: dict[str, Any] = {
        "points": np.concatenate((scene.points, colours), 1).astype(np.float32),
        "boxes": scene.boxes.astype(np.float32),
        "labels": scene.labels.astype(np.int16),
        "align": scene.align.astype(np.float64),
        "meta": np.frombuffer(
            json.dumps({"name": scene.name, "coloured": scene.colours is not None, **scene.meta}).encode(),
            np.uint8,
        ),
    }
    if scene.instance is not None and scene.semantic is not None:
        arrays["instance"] = scene.instance.astype(np.int32)
        arrays["semantic"] = scene.semantic.astype(np.int16)
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    write_bytes(path, packed.getvalue())


def read_scene(path: Path) -> Scene:
    """Read what `write_scene` wrote.

    Raises:
        UserInputError: missing, damaged, or of wrong shapes.
    """
    arrays: dict[str, Any] = read_npz(path)
    for name, columns in (("points", 6), ("boxes", 7), ("labels", None), ("align", 4), ("meta", None)):
        if name not in arrays:
            raise UserInputError(
                f"{path}: {name}: is missing; expected a scene written by `sparsepoint prepare`"
            )
        wanted = 1 if columns is None else 2
        if arrays[name].ndim != wanted or (columns and arrays[name].shape[1] != columns):
            raise UserInputError(
                f"{path}: {name}: got shape {arrays[name].shape}; expected {columns} columns"
            )
    points, number = arrays["points"], len(arrays["points"])
    for name in ("instance", "semantic"):
        if name in arrays and len(arrays[name]) != number:
            raise UserInputError(f"{path}: {name}: got {len(arrays[name])} rows; expected {number}")
    if len(arrays["labels"]) != len(arrays["boxes"]):
        raise UserInputError(f"{path}: labels: got {len(arrays['labels'])}; expected {len(arrays['boxes'])}")
    try:
        meta = json.loads(arrays["meta"].tobytes().decode())
        name, coloured = meta.pop("name"), meta.pop("coloured")
    except (ValueError, KeyError, AttributeError) as error:
        raise UserInputError(f"{path}: meta: is damaged") from error
    return Scene(
        name,
        points[:, :3],
        arrays["boxes"],
        arrays["labels"].astype(np.int64),
        points[:, 3:] if coloured else None,
        arrays.get("instance"),
        arrays["semantic"].astype(np.int32) if "semantic" in arrays else None,
        arrays["align"],
        meta,
    )


def write_set(
    out: Path, dataset: str, labels: LabelSet, splits: dict[str, Sequence[str]], **more: Any
) -> None:
    """Write what a folder of scenes is: the lists of its splits, and ``dataset.json`` with the classes."""
    make_folder(out)
    for name, scenes in splits.items():
        write_text(out / f"{name}.txt", "".join(f"{scene}\n" for scene in scenes))
    document = {
        "dataset": dataset,
        "classes": list(labels.names),
        "mean_sizes": [list(size) for size in labels.sizes],
        "heading_bins": labels.heading_bins,
        "ids": list(labels.ids),
        **more,
    }
    write_json(out / "dataset.json", document)


class PreparedScenes:
    """A split of a folder that `sparsepoint prepare` wrote.

    Args:
        root: the folder.
        split: name of its list.

    Raises:
        UserInputError: no such folder, list or scene.
    """

    def __init__(self, root: str | Path, split: str) -> None:
        self.root = Path(root)
        document = read_json(self.root / "dataset.json")
        try:
            self.labels = LabelSet(
                tuple(document["classes"]),
                tuple((float(a), float(b), float(c)) for a, b, c in document["mean_sizes"]),
                int(document["heading_bins"]),
                tuple(int(i) for i in document.get("ids", ())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserInputError(f"{self.root / 'dataset.json'}: classes: is damaged ({error})") from error
        self.meta: dict[str, Any] = document
        self.names: Sequence[str] = read_list(self.root / f"{split}.txt")

    def __len__(self) -> int:
        return len(self.names)

    def scene(self, index: int) -> Scene:
        """One scene of the split."""
        return read_scene(self.root / "scenes" / f"{self.names[index]}.npz")


def read_list(path: Path) -> list[str]:
    """Names in a text file, one a line.

    Raises:
        UserInputError: no such file, or none in it.
    """
    if not path.is_file():
        raise UserInputError(f"{path}: split: no such file")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserInputError(f"{path}: split: cannot be read ({error})") from error
    if not names:
        raise UserInputError(f"{path}: split: holds no name")
    return names


# ---- samples -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """What training does to a scene.

    Args:
        flip_x: probability that x changes its sign.
        flip_y: probability that y does.
        rotation: about z, uniform in plus or minus this, radians.
        scale: range of the factor.
    """

    flip_x: float = 0.5
    flip_y: float = 0.5
    rotation: float = math.pi / 36
    scale: tuple[float, float] = (1.0, 1.0)

    def apply(
        self, points: Tensor, boxes: Tensor, rng: np.random.Generator, *, hull: bool
    ) -> tuple[Tensor, Tensor, float]:
        """Points (N, 3), boxes (G, 7) and the factor that lengths grew by.

        ``hull``: boxes stay aligned with the axes and become the hulls of the turned ones, a little too large, as in
        the published recipes.
        """
        for chance, across in ((self.flip_x, "y"), (self.flip_y, "x")):
            if rng.random() < chance:
                points, boxes = flip_points(points, across), flip_boxes(boxes, across)  # type: ignore[arg-type]
        angle = float(rng.uniform(-self.rotation, self.rotation)) if self.rotation else 0.0
        if angle:
            points, boxes = rotate_z(points, angle), rotate_boxes(boxes, angle)
        if hull and len(boxes):
            boxes = axis_aligned_hull(boxes)
        factor = float(rng.uniform(*self.scale))
        return points * factor, scale_boxes(boxes, factor), factor


def floor_of(points: Floats) -> float:
    """Height of the floor: the 0.99-th percentile of z (VoteNet's recipe)."""
    return float(np.percentile(points[:, 2], _FLOOR_PERCENTILE))


def choose_rows(number: int, wanted: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of a subsample: without replacement, or with where there are too few."""
    return rng.choice(number, wanted, replace=number < wanted)


def network_points(
    points: Tensor, floor: float, colours: Tensor | None, features: int, factor: float = 1.0
) -> Tensor:
    """(N, 3 + F) x, y, z, then the height above the floor, then colours as (rgb / 255 - 0.5).

    Args:
        points: (N, 3), augmented.
        floor: height of the floor before augmentation, metres.
        colours: (N, 3) from 0 to 255.
        features: 0, 1 (height) or 4 (height and colours).
        factor: lengths were multiplied by.

    Raises:
        UserInputError: colours are asked for and there are none.
    """
    parts = [points]
    if features in (1, 4):
        parts.append(points[:, 2:3] - floor * factor)
    if features in (3, 4):
        if colours is None:
            raise UserInputError("model: features: the scenes have no colours; expected 0 or 1")
        parts.append(colours / 255.0 - 0.5)
    found = torch.cat(parts, 1)
    if found.shape[1] != 3 + features:
        raise UserInputError(f"model: features: got {features}; expected 0, 1, 3 or 4")
    return found


@dataclass(frozen=True, eq=False)
class Sample:
    """What a network gets of one scene."""

    index: int
    name: str
    points: Tensor
    boxes: Tensor
    labels: Tensor
    vote_mask: Tensor | None = None
    votes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Some scenes.

    Attributes:
        points: (B, N, 3 + F).
        truth: objects, and votes where the network has any.
        index: of each scene in its split.
        names: of the scenes.
    """

    points: Tensor
    truth: Truth
    index: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.points)

    def to(self, device: Any) -> Batch:
        """The same on another device."""
        truth = Truth(
            [b.to(device) for b in self.truth.boxes],
            [k.to(device) for k in self.truth.labels],
            None if self.truth.vote_mask is None else self.truth.vote_mask.to(device),
            None if self.truth.votes is None else self.truth.votes.to(device),
        )
        return replace(self, points=self.points.to(device), truth=truth)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack the points; objects stay ragged."""
    masks = [s.vote_mask for s in samples if s.vote_mask is not None]
    votes = [s.votes for s in samples if s.votes is not None]
    truth = Truth(
        [s.boxes for s in samples],
        [s.labels for s in samples],
        torch.stack(masks) if masks else None,
        torch.stack(votes) if votes else None,
    )
    points = torch.stack([s.points for s in samples])
    return Batch(points, truth, tuple(s.index for s in samples), tuple(s.name for s in samples))


class SceneSamples(Dataset[Sample]):
    """Scenes as a network takes them: subsampled, augmented, with height and vote targets.

    The randomness of a sample follows from (seed, epoch, index), so evaluation with another seed is another
    subsample, and a resumed run sees what an uninterrupted one would.

    Args:
        scenes: the split.
        config: of the detector.
        augmentation: of training; None evaluates.
        seed: of everything random.
        repeat: passes over the split in an epoch.
        votes: make vote targets.
    """

    def __init__(
        self,
        scenes: Scenes,
        config: SparsePointConfig,
        augmentation: Augmentation | None = None,
        *,
        seed: int = 0,
        repeat: int = 1,
        votes: bool = False,
    ) -> None:
        self.scenes, self.config, self.augmentation = scenes, config, augmentation
        self.seed, self.repeat, self.votes, self.epoch = seed, repeat, votes, 0

    def __len__(self) -> int:
        return len(self.scenes) * self.repeat

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's randomness to draw."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Sample:
        rng = sample_generator(self.seed, self.epoch, index)
        scene = finite_scene(self.scenes.scene(index % len(self.scenes)))
        return make_sample(scene, index, self.config, self.scenes.labels, rng, self.augmentation, self.votes)


def finite_scene(scene: Scene) -> Scene:
    """The scene without points that are not finite.

    Raises:
        UserInputError: no point is left.
    """
    good = np.isfinite(scene.points).all(1)
    if not good.any():
        raise UserInputError(f"{scene.name}: points: no finite point among {len(scene.points)}")
    if good.all():
        return scene
    return replace(
        scene,
        points=scene.points[good],
        colours=None if scene.colours is None else scene.colours[good],
        instance=None if scene.instance is None else scene.instance[good],
        semantic=None if scene.semantic is None else scene.semantic[good],
    )


def make_sample(
    scene: Scene,
    index: int,
    config: SparsePointConfig,
    labels: LabelSet,
    rng: np.random.Generator,
    augmentation: Augmentation | None,
    votes: bool,
) -> Sample:
    """One subsample of a scene; see `SceneSamples`."""
    floor = floor_of(scene.points)
    rows = choose_rows(len(scene.points), config.num_points, rng)
    points = torch.from_numpy(scene.points[rows].astype(np.float32))
    boxes = torch.from_numpy(scene.boxes.astype(np.float32)).reshape(-1, 7)
    colours = None if scene.colours is None else torch.from_numpy(scene.colours[rows].astype(np.float32))
    factor = 1.0
    if augmentation is not None:
        points, boxes, factor = augmentation.apply(points, boxes, rng, hull=config.heading_bins == 1)
    mask, offsets = None, None
    if votes and scene.instance is not None and scene.semantic is not None and labels.ids:
        instance = torch.from_numpy(scene.instance[rows].astype(np.int64))
        semantic = torch.from_numpy(scene.semantic[rows].astype(np.int64))
        mask, offsets = votes_from_instances(points, kept_instances(instance, semantic, labels.ids))
    elif votes:
        mask, offsets = votes_from_boxes(points, boxes)
    seen = network_points(points, floor, colours, config.features, factor)
    return Sample(index, scene.name, seen, boxes, torch.from_numpy(scene.labels), mask, offsets)
