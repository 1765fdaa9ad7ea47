"""Images with labels of their pixels: KITTI's pixel-level benchmark, and KINS on the images of KITTI object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset

from pircnn.losses import IGNORE
from pircnn.model.unet import image_tensor
from tenfold._errors import UserInputError
from tenfold.io import read_image, read_json
from tenfold.train.resume import sample_generator

__all__ = [
    "CITYSCAPES",
    "SEMANTIC_CLASSES",
    "KinsDataset",
    "KittiSemanticDataset",
    "lookup_table",
    "paint_instances",
]

Pixels = npt.NDArray[np.uint8]

#: The ten merged classes and the Cityscapes names that each takes.
SEMANTIC_CLASSES: dict[str, tuple[str, ...]] = {
    "Car": ("car", "caravan"),
    "Pedestrian": ("person",),
    "Cyclist": ("rider", "motorcycle", "bicycle"),
    "Ground": ("ground", "terrain"),
    "Vegetation": ("vegetation",),
    "Building": ("building", "wall", "fence", "guard rail", "bridge", "tunnel"),
    "Traffic": ("pole", "polegroup", "traffic light", "traffic sign"),
    "Sky": ("sky",),
    "Road": ("road", "sidewalk", "parking", "rail track"),
    "Other": ("truck", "bus", "trailer", "train"),
}
#: Cityscapes ids, 0 to 33; -1 is the license plate, which an 8-bit image holds as 255.
CITYSCAPES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip


def lookup_table() -> Pixels:
    """(256,) merged class of every Cityscapes id; 255 is ignored.

    Example:
        >>> table = lookup_table()
        >>> table[[26, 24, 7, 0, 255]].tolist()
        [0, 1, 8, 255, 255]
    """
    table = np.full(256, IGNORE, np.uint8)
    for number, names in enumerate(SEMANTIC_CLASSES.values()):
        for name in names:
            table[CITYSCAPES.index(name)] = number
    return table


class KittiSemanticDataset(Dataset[tuple[Tensor, Tensor]]):
    """KITTI's pixel-level semantic benchmark, ten merged classes.

    ``ROOT/training/{image_2, semantic}/NNNNNN_10.png``; ``semantic`` holds Cityscapes ids. There is no official split:
    frames whose place in the sorted list leaves 4 divided by 5 are "val", the others "train".

    Args:
        root: folder with ``training``, such as ``data_semantics``.
        split: "train", "val" or "all".
        augment: mirror (p 0.5); a crop of 60 to 100 % with the image's proportions, resized back (p 0.5);
            brightness, contrast, saturation, hue within 0.1 (p 0.5 each).
        size: (height, width) to which images and labels are resized, for batches; None keeps theirs.
        seed: of the augmentation.
        exclude: names to leave out, such as those whose drive is in the detection's val split.

    Raises:
        UserInputError: missing folders or files, on access an image and labels of different sizes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        *,
        augment: bool = False,
        size: tuple[int, int] | None = None,
        seed: int = 0,
        exclude: Sequence[str] = (),
    ) -> None:
        if split not in ("train", "val", "all"):
            raise UserInputError(f"data: split: got {split!r}; expected train, val or all")
        self.folder = Path(root) / "training"
        names = sorted(path.name for path in (self.folder / "image_2").glob("*_10.png"))
        if not names:
            raise UserInputError(
                f"{self.folder / 'image_2'}: no image NNNNNN_10.png; expected KITTI semantics"
            )
        wanted = {"train": (0, 1, 2, 3), "val": (4,), "all": (0, 1, 2, 3, 4)}[split]
        left_out = {Path(name).stem for name in exclude}
        self.names = tuple(n for k, n in enumerate(names) if k % 5 in wanted and Path(n).stem not in left_out)
        missing = [n for n in self.names if not (self.folder / "semantic" / n).is_file()]
        if missing:
            raise UserInputError(f"{self.folder / 'semantic' / missing[0]}: the labels are missing")
        self.augment, self.size, self.seed, self.epoch = augment, size, seed, 0
        self._table = lookup_table()

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random numbers of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[Pixels, Pixels]:
        """Image (H, W, 3) and merged labels (H, W), as they are on disk."""
        name = self.names[index]
        image = read_image(self.folder / "image_2" / name)
        told = read_image(self.folder / "semantic" / name)[..., 0]
        if told.shape != image.shape[:2]:
            raise UserInputError(
                f"{self.folder / 'semantic' / name}: size: got {told.shape[::-1]}; expected the image's "
                f"{image.shape[1::-1]}"
            )
        return image, self._table[told]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Normalised image (3, H, W) and labels (H, W) int64."""
        return self.sample(index, sample_generator(self.seed, self.epoch, index))

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """As indexing, with random numbers of one's own."""
        image, labels = self.read(index)
        if self.augment:
            image, labels = _augmented(image, labels, rng)
        if self.size is not None:
            image, labels = _resized(image, labels, self.size)
        return image_tensor(torch.from_numpy(np.array(image))), torch.from_numpy(labels.astype(np.int64))


def _resized(image: Pixels, labels: Pixels, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    if image.shape[:2] == size:
        return image, labels
    wanted = (size[1], size[0])
    small = Image.fromarray(image).resize(wanted, Image.Resampling.BILINEAR)
    told = Image.fromarray(labels).resize(wanted, Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(told)


def _augmented(image: Pixels, labels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    size = (image.shape[0], image.shape[1])
    if rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    if rng.random() < 0.5:
        share = rng.uniform(0.6, 1.0)
        height, width = round(size[0] * share), round(size[1] * share)
        top, left = int(rng.integers(size[0] - height + 1)), int(rng.integers(size[1] - width + 1))
        cut = (slice(top, top + height), slice(left, left + width))
        image, labels = _resized(np.ascontiguousarray(image[cut]), np.ascontiguousarray(labels[cut]), size)
    return _jittered(image, rng), np.ascontiguousarray(labels)


# RGB to luma and two colour differences (NTSC); hue turns the latter.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def _jittered(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and hue, each with probability one half and within a tenth."""
    factor = 1 + rng.uniform(-0.1, 0.1, 4) * (rng.random(4) < 0.5)
    yiq = image.astype(np.float64) @ _YIQ.T * factor[0]
    mean = yiq[..., 0].mean()
    yiq[..., 0] = mean + (yiq[..., 0] - mean) * factor[1]
    turn = (factor[3] - 1) * 2 * np.pi
    cos, sin = np.cos(turn), np.sin(turn)
    yiq[..., 1:] = yiq[..., 1:] @ np.array([[cos, sin], [-sin, cos]]) * factor[1] * factor[2]
    return np.asarray(np.clip(np.round(yiq @ np.linalg.inv(_YIQ).T), 0, 255), np.uint8)


class KinsDataset:
    """Label maps of KITTI object's own images, from the in-modal masks of KINS.

    Called with a frame's name it gives (H, W) uint8: 0 background, 1 and more the classes, None without annotation.
    Annotations are not redistributed; see github.com/qqlu/Amodal-Instance-Segmentation-through-KINS-Dataset.

    Args:
        path: ``update_train_2020.json`` or ``update_test_2020.json``.
        classes: names of KINS categories for labels 1, 2, ...

    Raises:
        UserInputError: no such document, or an unknown class.
    """

    def __init__(
        self,
        path: str | Path,
        classes: Sequence[Sequence[str]] = (("car", "van"), ("pedestrian",), ("cyclist",)),
    ) -> None:
        document = read_json(path)
        for name in ("images", "annotations", "categories"):
            if not isinstance(document, dict) or name not in document:
                raise UserInputError(f"{path}: {name}: missing; expected KINS annotations")
        known = {item["name"].lower(): item["id"] for item in document["categories"]}
        unknown = [name for group in classes for name in group if name not in known]
        if unknown:
            raise UserInputError(f"{path}: categories: no {unknown[0]!r}; known are {', '.join(known)}")
        self.path = path
        self.label = {known[name]: k + 1 for k, group in enumerate(classes) for name in group}
        self.sizes = {item["id"]: (item["height"], item["width"]) for item in document["images"]}
        self.ids = {Path(item["file_name"]).stem: item["id"] for item in document["images"]}
        self.objects: dict[Any, list[dict[str, Any]]] = {}
        for item in document["annotations"]:
            self.objects.setdefault(item["image_id"], []).append(item)

    def __call__(self, frame_id: str) -> Pixels | None:
        """Label map of a frame."""
        image = self.ids.get(frame_id)
        if image is None:
            return None
        return paint_instances(self.objects.get(image, []), self.label, self.sizes[image])


def paint_instances(
    objects: Sequence[dict[str, Any]], label_of: dict[Any, int], size: tuple[int, int]
) -> Pixels:
    """In-modal masks painted from far to near (by ``oco_id``, the nearest of a cluster last).

    Args:
        objects: KINS annotations: ``category_id``, ``oco_id`` and ``i_segm``, polygons or run lengths.
        label_of: label of each category; others are background.
        size: (height, width).

    Raises:
        UserInputError: a mask of unknown form.

    Example:
        >>> square = [[1, 1, 3, 1, 3, 3, 1, 3]]
        >>> paint_instances([{"category_id": 4, "oco_id": 0, "i_segm": square}], {4: 1}, (5, 5)).sum()
        np.uint64(9)
    """
    canvas = np.zeros(size, np.uint8)
    for item in sorted(objects, key=lambda o: -int(o.get("oco_id", 0))):
        if item["category_id"] in label_of:
            mask = _mask(item.get("i_segm", item.get("segmentation")), size)
            canvas[mask] = label_of[item["category_id"]]
    return canvas


def _mask(told: Any, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    if isinstance(told, dict) and "counts" in told:
        counts = told["counts"]
        runs = _runs(counts) if isinstance(counts, str) else list(counts)
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        if len(values) != size[0] * size[1]:
            raise UserInputError(f"KINS: i_segm: {len(values)} pixels; expected {size[0] * size[1]}")
        return values.reshape(size[::-1]).T
    if isinstance(told, list):
        canvas = Image.new("1", (size[1], size[0]))
        for polygon in told:
            ImageDraw.Draw(canvas).polygon([float(v) for v in polygon], fill=1)
        return np.asarray(canvas, dtype=bool)
    raise UserInputError(f"KINS: i_segm: got {type(told).__name__}; expected polygons or run lengths")


def _runs(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: 5 bits a character, each run from the third on as a difference."""
    runs: list[int] = []
    place = 0
    while place < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[place]) - 48
            value |= (bits & 0x1F) << shift
            more, place, shift = bool(bits & 0x20), place + 1, shift + 5
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
