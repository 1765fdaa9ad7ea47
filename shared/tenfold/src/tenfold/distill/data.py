"""Images and labels: CIFAR's own files, image folders, and augmentation that a resumed run repeats.

Every sample's randomness comes from (seed, epoch, index), so it does not depend on workers, processes or
restarts.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tenfold._errors import UserInputError
from tenfold.io import make_folder, read_image, restricted_load, write_bytes
from tenfold.io.images import load_pillow
from tenfold.train.resume import sample_generator

__all__ = [
    "CIFAR_MEAN",
    "CIFAR_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augment",
    "FolderImages",
    "ImageArrays",
    "LabelledImages",
    "ResizedCrop",
    "read_cifar",
    "read_image_folder",
    "write_cifar",
]

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Rng = np.random.Generator

CIFAR_MEAN, CIFAR_STD = (0.5071, 0.4866, 0.4409), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}


@dataclass(frozen=True)
class LabelledImages:
    """A data set in memory.

    Attributes:
        images: ``(N, H, W, 3)`` of 0 to 255.
        labels: ``(N,)``.
        class_names: one for each class.
    """

    images: Pixels
    labels: Ints
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: npt.ArrayLike) -> LabelledImages:
        """The images of these indices."""
        rows = np.asarray(indices, dtype=np.int64)
        return LabelledImages(self.images[rows], self.labels[rows], self.class_names)


# ---- CIFAR's files -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    classes: int
    md5: dict[str, str]


_LAYOUTS = {
    "cifar100": _Layout(
        "cifar-100-python",
        ("train",),
        "test",
        "meta",
        "fine_labels",
        "fine_label_names",
        100,
        {
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
    "cifar10": _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
        10,
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        },
    ),
}


def read_cifar(
    root: str | Path, name: str = "cifar100", *, train: bool = True, side: int = 32, verify: bool = False
) -> LabelledImages:
    """CIFAR-100 or CIFAR-10 from its published Python files, without running code from them.

    Args:
        root: folder that holds ``cifar-100-python`` or ``cifar-10-batches-py``.
        name: ``"cifar100"`` (fine labels) or ``"cifar10"``.
        train: the training set, else the test set.
        side: width and height of the images; 32 in the published files.
        verify: also compare the files' MD5 sums with the published ones.

    Raises:
        UserInputError: a missing or damaged file, another number of columns, a label outside the classes.
    """
    layout = _layout(name)
    folder = Path(root) / layout.folder
    if not folder.is_dir():
        raise UserInputError(f"{folder}: no such folder; expected the unpacked Python version of {name}")
    class_names = _class_names(folder / layout.meta, layout, verify)
    parts = [
        _read_batch(folder / file, layout, len(class_names), side, verify) for file in _files(layout, train)
    ]
    images = np.concatenate([part[0] for part in parts])
    return LabelledImages(images, np.concatenate([part[1] for part in parts]), class_names)


def _layout(name: str) -> _Layout:
    if name not in _LAYOUTS:
        raise UserInputError(f"dataset: got {name!r}; expected {' or '.join(_LAYOUTS)}")
    return _LAYOUTS[name]


def _files(layout: _Layout, train: bool) -> tuple[str, ...]:
    return layout.train if train else (layout.test,)


def _load(path: Path, layout: _Layout, verify: bool) -> dict[str, Any]:
    if verify and path.is_file():
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        if found != layout.md5[path.name]:
            raise UserInputError(
                f"{path}: md5: got {found}; expected {layout.md5[path.name]} of the published file"
            )
    content = restricted_load(path, encoding="latin1")
    if not isinstance(content, dict):
        raise UserInputError(f"{path}: got a {type(content).__name__}; expected a dictionary")
    return content


def _class_names(path: Path, layout: _Layout, verify: bool) -> tuple[str, ...]:
    names = _load(path, layout, verify).get(layout.names)
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise UserInputError(f"{path}: {layout.names}: expected a list of class names")
    return tuple(names)


def _read_batch(path: Path, layout: _Layout, classes: int, side: int, verify: bool) -> tuple[Pixels, Ints]:
    content = _load(path, layout, verify)
    data, labels = content.get("data"), content.get(layout.labels)
    columns = 3 * side * side
    if (
        not isinstance(data, np.ndarray)
        or data.dtype != np.uint8
        or data.ndim != 2
        or data.shape[1] != columns
    ):
        found = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise UserInputError(f"{path}: data: got {found}; expected uint8 (n, {columns})")
    if not isinstance(labels, list) or len(labels) != len(data):
        raise UserInputError(f"{path}: {layout.labels}: expected a list of {len(data)} numbers")
    if not all(isinstance(k, int) and 0 <= k < classes for k in labels):
        raise UserInputError(f"{path}: {layout.labels}: expected whole numbers from 0 to {classes - 1}")
    images = np.ascontiguousarray(data.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))
    return images, np.array(labels, dtype=np.int64)


def write_cifar(
    root: str | Path, train: LabelledImages, test: LabelledImages, name: str = "cifar100"
) -> None:
    """Write images in the exact layout of CIFAR's Python files; the folder is created.

    Raises:
        UserInputError: a file cannot be written.
    """
    layout = _layout(name)
    folder = Path(root) / layout.folder
    make_folder(folder, "root")
    for file, part in zip(
        layout.train, np.array_split(np.arange(len(train)), len(layout.train)), strict=True
    ):
        _write_batch(folder / file, train.subset(part), layout, file)
    _write_batch(folder / layout.test, test, layout, layout.test)
    write_bytes(folder / layout.meta, pickle.dumps({layout.names: list(train.class_names)}, protocol=2))


def _write_batch(path: Path, part: LabelledImages, layout: _Layout, name: str) -> None:
    rows = np.ascontiguousarray(part.images.transpose(0, 3, 1, 2)).reshape(len(part), -1)
    content: dict[str, Any] = {
        "data": rows,
        layout.labels: part.labels.tolist(),
        "filenames": [f"{k:06d}.png" for k in range(len(part))],
        "batch_label": name,
    }
    if layout.labels == "fine_labels":
        content["coarse_labels"] = (part.labels // 5).tolist()
    write_bytes(path, pickle.dumps(content, protocol=2))


# ---- image folders -------------------------------------------------------------------------------


def read_image_folder(
    root: str | Path, split: str, *, side: int = 32, per_class: int | None = None
) -> LabelledImages:
    """Small images of one size from ``<root>/<split>/<class>/*``, a folder or a ``.zip`` file of one.

    In a zip file the split may lie below other folders. Classes are sorted by name, images too.

    Args:
        root: folder or zip file.
        split: such as ``"train"``.
        side: expected width and height.
        per_class: read only the first so many images of each class.

    Raises:
        UserInputError: no such folder, no classes, a class folder without images, or an image that is
            damaged or of another size.
    """
    listed = _list_zip(Path(root), split) if Path(root).suffix == ".zip" else _list_folder(Path(root), split)
    names = tuple(sorted(listed))
    images, labels = [], []
    for label, name in enumerate(names):
        for source in listed[name][:per_class]:
            pixels = source.read()
            if pixels.shape != (side, side, 3):
                raise UserInputError(f"{source.name}: size: got {pixels.shape[:2]}; expected {side} x {side}")
            images.append(pixels)
            labels.append(label)
    return LabelledImages(np.stack(images), np.array(labels, dtype=np.int64), names)


@dataclass(frozen=True)
class _Source:
    name: str
    archive: Path | None = None

    def read(self) -> Pixels:
        if self.archive is None:
            return read_image(self.name)
        pillow, archive = load_pillow().Image, _open_zip(self.archive)
        try:
            with pillow.open(io.BytesIO(archive.read(self.name))) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # neither zipfile nor Pillow has a closed list of what damage raises
            raise UserInputError(f"{self.archive}: {self.name}: is no sound image") from error


_ARCHIVES: dict[Path, zipfile.ZipFile] = {}


def _open_zip(path: Path) -> zipfile.ZipFile:
    if path not in _ARCHIVES:
        try:
            _ARCHIVES[path] = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserInputError(f"{path}: cannot be read as a zip file ({error})") from error
    return _ARCHIVES[path]


def _list_zip(path: Path, split: str) -> dict[str, list[_Source]]:
    found: dict[str, list[_Source]] = {}
    for name in sorted(_open_zip(path).namelist()):
        parts = name.split("/")
        if len(parts) >= 3 and parts[-3] == split and Path(name).suffix.lower() in _IMAGES:
            found.setdefault(parts[-2], []).append(_Source(name, path))
    if not found:
        raise UserInputError(f"{path}: holds no {split}/<class>/<image>")
    return found


def _list_folder(root: Path, split: str) -> dict[str, list[_Source]]:
    folder = root / split
    if not folder.is_dir():
        raise UserInputError(f"{folder}: no such folder; expected {split}/<class>/<image>")
    found = {}
    for inner in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = sorted(str(p) for p in inner.iterdir() if p.suffix.lower() in _IMAGES)
        found[inner.name] = [_Source(file) for file in files]
    if not any(found.values()):
        raise UserInputError(f"{folder}: holds no <class>/<image>")
    # It would count as a class that nothing belongs to; torchvision's ImageFolder refuses it too.
    for name, sources in found.items():
        if not sources:
            raise UserInputError(f"{folder / name}: holds no image; expected {split}/<class>/<image>")
    return found


# ---- augmentation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augment:
    """Crop out of a padded image, mirror, normalise; for small images of one size.

    Attributes:
        pad: pixels of padding on each side before the crop; 0 crops nothing.
        flip: probability of a mirror image.
        mean: of the normalisation, in units of the full range.
        std: likewise.
        fill: value of the padding, 0 to 255.

    >>> Augment(pad=0, flip=0.0)(np.zeros((8, 8, 3), np.uint8), None).shape
    torch.Size([3, 8, 8])
    """

    pad: int = 4
    flip: float = 0.5
    mean: tuple[float, float, float] = CIFAR_MEAN
    std: tuple[float, float, float] = CIFAR_STD
    fill: int = 0

    def __call__(self, image: Pixels, rng: Rng | None) -> Tensor:
        """``(H, W, 3)`` to ``(3, H, W)`` float32."""
        return self.batch(image[None], [rng])[0]

    def batch(self, images: Pixels, rngs: Sequence[Rng | None]) -> Tensor:
        """``(B, H, W, 3)`` to ``(B, 3, H, W)`` float32; one generator for each image."""
        if self.pad or self.flip:
            images = self._moved(images, rngs)
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float()
        mean, std = (torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return pixels.div_(255.0).sub_(mean).div_(std)

    def plain(self) -> Augment:
        """The same without crop and mirror, for evaluation."""
        return Augment(0, 0.0, self.mean, self.std, self.fill)

    def _moved(self, images: Pixels, rngs: Sequence[Rng | None]) -> Pixels:
        if any(rng is None for rng in rngs):
            raise ValueError("Augment: rng: got None; expected a generator for each image")
        # The numbers of one image come from its own generator, in this order.
        draws = [(rng.integers(0, 2 * self.pad + 1, 2), rng.random()) for rng in rngs if rng is not None]
        corners = np.array([draw[0] for draw in draws])
        mirrored = np.array([draw[1] for draw in draws]) < self.flip
        size = images.shape[1:3]
        margin = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
        padded = np.pad(images, margin, constant_values=self.fill)
        windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=(1, 2))
        moved: Pixels = windows[np.arange(len(images)), corners[:, 0], corners[:, 1]].transpose(0, 2, 3, 1)
        moved[mirrored] = moved[mirrored, :, ::-1]
        return moved


@dataclass(frozen=True)
class ResizedCrop:
    """Random area and aspect, resized, mirrored (training); resized and cropped in the middle (evaluation).

    The usual ImageNet pair; bilinear, by Pillow.

    Attributes:
        size: side of the result.
        train: which of the two.
        resize: shorter side before the middle crop.
        scale: range of the share of the area.
        mean: of the normalisation.
        std: likewise.
    """

    size: int = 224
    train: bool = True
    resize: int = 256
    scale: tuple[float, float] = (0.08, 1.0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __call__(self, image: Pixels, rng: Rng | None) -> Tensor:
        """``(H, W, 3)`` of any size to ``(3, size, size)`` float32."""
        pillow = load_pillow().Image
        picture = pillow.fromarray(image)
        if self.train:
            if rng is None:
                raise ValueError("ResizedCrop: rng: got None; expected a generator")
            box = self._random_box(picture.width, picture.height, rng)
            picture = picture.resize((self.size, self.size), pillow.Resampling.BILINEAR, box=box)
            if rng.random() < 0.5:
                picture = picture.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
        else:
            picture = picture.resize(
                (self.size, self.size), pillow.Resampling.BILINEAR, box=self._middle_box(*picture.size)
            )
        return Augment(0, 0.0, self.mean, self.std)(np.asarray(picture), None)

    def plain(self) -> ResizedCrop:
        """The evaluation's transform."""
        return ResizedCrop(self.size, False, self.resize, self.scale, self.mean, self.std)

    def _random_box(self, width: int, height: int, rng: Rng) -> tuple[float, float, float, float]:
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
                return (x, y, x + w, y + h)
        side = min(width, height)  # an image too long for any draw: its middle square
        return ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)

    def _middle_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        side = min(width, height) * min(self.size / self.resize, 1.0)
        return ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)


Transform = Callable[[Pixels, Rng | None], Tensor]


class _Samples(Dataset[Any]):
    """What both kinds of data sets share: epochs, generators, batches of (x, y, index)."""

    def __init__(self, transform: Transform, seed: int, random: bool, fixed_views: int) -> None:
        self.transform, self.seed, self.random, self.fixed_views = transform, seed, random, fixed_views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next samples belong to; their crops repeat after ``fixed_views`` epochs, if set."""
        self.epoch = epoch % self.fixed_views if self.fixed_views else epoch

    def rng(self, index: int) -> Rng | None:
        """The generator of one sample."""
        return sample_generator(self.seed, self.epoch, index) if self.random else None

    def pixels(self, index: int) -> Pixels:
        """``(H, W, 3)``."""
        raise NotImplementedError

    def label(self, index: int) -> int:
        """Class of one sample."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """(image, label, index)."""
        return self.transform(self.pixels(index), self.rng(index)), self.label(index), index

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """A whole batch: images, labels ``(B,)``, indices ``(B,)``."""
        rngs = [self.rng(index) for index in indices]
        batch = getattr(self.transform, "batch", None)
        if batch is not None and isinstance(self, ImageArrays):
            x = batch(self.data.images[list(indices)], rngs)
        else:
            x = torch.stack(
                [self.transform(self.pixels(k), rng) for k, rng in zip(indices, rngs, strict=True)]
            )
        labels = torch.tensor([self.label(index) for index in indices])
        return x, labels, torch.tensor(list(indices))


class ImageArrays(_Samples):
    """Images in memory with a transform.

    Args:
        data: the images.
        transform: ``(image, generator)`` to a tensor; with a method ``batch`` it gets whole batches.
        seed: of the transform's randomness.
        random: whether the transform draws.
        fixed_views: crops repeat after so many epochs (for a `LogitCache`); 0 means never.

    >>> data = LabelledImages(np.zeros((4, 8, 8, 3), np.uint8), np.arange(4), ("a", "b", "c", "d"))
    >>> ImageArrays(data, Augment(pad=1)).__getitems__([0, 2])[0].shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(
        self,
        data: LabelledImages,
        transform: Any,
        *,
        seed: int = 0,
        random: bool = True,
        fixed_views: int = 0,
    ) -> None:
        super().__init__(transform, seed, random, fixed_views)
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @property
    def labels(self) -> Ints:
        """``(N,)``."""
        return self.data.labels

    def pixels(self, index: int) -> Pixels:
        """One image."""
        image: Pixels = self.data.images[index]
        return image

    def label(self, index: int) -> int:
        """Its class."""
        return int(self.data.labels[index])


class FolderImages(_Samples):
    """Images of any size, read when asked for, from ``<root>/<split>/<class>/*`` (ImageNet's layout).

    Args:
        root: the folder above the splits.
        split: such as ``"train"``.
        transform: ``(image, generator)`` to a tensor.
        seed: of the transform's randomness.
        random: whether the transform draws.
        fixed_views: see `ImageArrays`.

    Raises:
        UserInputError: no such folder, nothing in it, or a class folder without images.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: Any,
        *,
        seed: int = 0,
        random: bool = True,
        fixed_views: int = 0,
    ) -> None:
        super().__init__(transform, seed, random, fixed_views)
        listed = _list_folder(Path(root), split)
        self.class_names = tuple(sorted(listed))
        self.sources = [source for name in self.class_names for source in listed[name]]
        counts = [len(listed[name]) for name in self.class_names]
        self.labels: Ints = np.repeat(np.arange(len(counts)), counts)

    def keep(self, indices: npt.ArrayLike, labels: Ints | None = None) -> None:
        """Restrict to a subset, or replace the labels."""
        rows = np.asarray(indices, dtype=np.int64)
        self.labels = (self.labels if labels is None else labels)[rows]
        self.sources = [self.sources[k] for k in rows]

    def __len__(self) -> int:
        return len(self.sources)

    def pixels(self, index: int) -> Pixels:
        """One image, upright RGB."""
        return self.sources[index].read()

    def label(self, index: int) -> int:
        """Its class."""
        return int(self.labels[index])


def batch_as_is(batch: Any) -> Any:
    """Collate function for data sets that make whole batches themselves."""
    return batch
