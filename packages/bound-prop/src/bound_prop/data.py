"""Image data in the official layouts, and the small generated digits of the demo.

Every data set is a pair of tensors: images ``(N, C, H, W)`` float32 in [0, 1], labels ``(N,)`` int64.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold._errors import UserInputError
from tenfold.io import read_image, restricted_load

__all__ = ["DATASETS", "Images", "Statistics", "cifar10", "glyphs", "load", "mnist", "tiny_imagenet"]

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Images:
    """A data set in memory.

    Attributes:
        images: ``(N, C, H, W)``, in [0, 1].
        labels: ``(N,)``.
        names: of the classes.
        title: the data set's honest name.
    """

    images: Tensor
    labels: Tensor
    names: tuple[str, ...]
    title: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Features of one image."""
        c, h, w = self.images.shape[1:]
        return c, h, w

    def head(self, count: int | None) -> Images:
        """The first images."""
        if count is None:
            return self
        return Images(self.images[:count], self.labels[:count], self.names, self.title)


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each channel, for a `Normalize` layer."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR10_STATISTICS = Statistics((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
TINY_STATISTICS = Statistics((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))

_MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def mnist(root: str | Path, split: Split = "train") -> Images:
    """MNIST from the official IDX files, plain or ``.gz``, in ``root`` or ``root/MNIST/raw``.

    Raises:
        UserInputError: a file is missing or damaged.
    """
    files = [_find_idx(Path(root), name) for name in _MNIST_FILES[split]]
    images, labels = _read_idx(files[0], 2051), _read_idx(files[1], 2049)
    if len(images) != len(labels):
        raise UserInputError(f"{files[1]}: count: got {len(labels)} labels for {len(images)} images")
    if labels.size and labels.max() > 9:
        raise UserInputError(f"{files[1]}: labels: got {labels.max()}; expected 0 to 9")
    tensor = torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)
    return Images(tensor, torch.from_numpy(labels.astype(np.int64)), tuple("0123456789"), "MNIST")


def _find_idx(root: Path, name: str) -> Path:
    for folder in (root, root / "MNIST" / "raw", root / "raw"):
        for ending in ("", ".gz"):
            if (folder / (name + ending)).is_file():
                return folder / (name + ending)
    raise UserInputError(f"{root / name}: file: does not exist, nor does {name}.gz there or in MNIST/raw")


def _read_idx(path: Path, magic: int) -> np.ndarray[Any, Any]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserInputError(f"{path}: file: cannot be read ({error})") from error
    rank = magic % 256
    if len(data) < 4 + 4 * rank or struct.unpack(">I", data[:4])[0] != magic:
        raise UserInputError(f"{path}: header: is not that of an IDX file with number {magic}")
    shape = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
    body = data[4 + 4 * rank :]
    if len(body) != int(np.prod([int(n) for n in shape], dtype=object)):
        raise UserInputError(f"{path}: size: {len(body)} bytes of data do not fit the shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


_CIFAR_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def cifar10(root: str | Path, split: Split = "train") -> Images:
    """CIFAR-10: the folder of pickles or of binary files, or a folder or zip file of class folders.

    A zip file or folder ``{train,test}/<class>/*`` of images is read as well (one level of folders around it is
    allowed); the title then says that the pixels come from those files.

    Raises:
        UserInputError: nothing of the kind is there, or a file is damaged.
    """
    path = Path(root)
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        names = [f"data_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_batch"]
        if all((folder / name).is_file() for name in names):
            return _cifar(_pickles(folder, names))
        if all((folder / f"{name}.bin").is_file() for name in names):
            return _cifar(_binaries(folder, names))
    for candidate in (path, path / "cifar10-jpeg.zip", path / "cifar10"):
        if candidate.is_file() and candidate.suffix == ".zip":
            return _from_zip(candidate, split)
        if (candidate / split).is_dir():
            return _from_folder(candidate / split, _CIFAR_NAMES, "CIFAR-10 (from image files)")
    raise UserInputError(f"{path}: root: holds no CIFAR-10: expected data_batch_1 or {split}/<class>/*.jpg")


def _cifar(parts: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]) -> Images:
    pixels = np.concatenate([p for p, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([y for _, y in parts]).astype(np.int64)
    images = torch.from_numpy(pixels.astype(np.float32) / 255)
    return Images(images, torch.from_numpy(labels), _CIFAR_NAMES, "CIFAR-10")


def _pickles(folder: Path, names: list[str]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    parts = []
    for name in names:
        content = restricted_load(folder / name, encoding="bytes")
        data, labels = (
            (content.get(key) for key in (b"data", b"labels")) if isinstance(content, dict) else (None,) * 2
        )
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != 3072 or labels is None:
            raise UserInputError(f"{folder / name}: data: expected (N, 3072) pixels with labels")
        parts.append((data, _ten_classes(np.asarray(labels), folder / name)))
    return parts


def _binaries(folder: Path, names: list[str]) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    parts = []
    for name in names:
        data = np.fromfile(folder / f"{name}.bin", np.uint8)
        if data.size == 0 or data.size % 3073:
            raise UserInputError(f"{folder / name}.bin: size: {data.size} bytes are no multiple of 3073")
        rows = data.reshape(-1, 3073)
        parts.append((rows[:, 1:], _ten_classes(rows[:, 0], folder / f"{name}.bin")))
    return parts


def _ten_classes(labels: np.ndarray[Any, Any], file: Path) -> np.ndarray[Any, Any]:
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() <= 9):
        raise UserInputError(f"{file}: labels: expected whole numbers from 0 to 9")
    return labels


def _from_zip(path: Path, split: Split) -> Images:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(
                n
                for n in archive.namelist()
                if f"/{split}/" in f"/{n}" and n.lower().endswith((".jpg", ".png"))
            )
            pixels = [np.asarray(_decode(archive.read(n), f"{path}:{n}")) for n in names]
    except (zipfile.BadZipFile, OSError, KeyError) as error:
        raise UserInputError(f"{path}: file: is no readable zip archive ({error})") from error
    if not names:
        raise UserInputError(f"{path}: {split}: expected {split}/<class>/*.jpg")
    labels = [_class_index(name.split("/")[-2], path) for name in names]
    kind = "JPEG re-encoded" if names[0].lower().endswith(".jpg") else "from image files"
    _check_one_size([(image.shape[:2], f"{path}:{name}") for image, name in zip(pixels, names, strict=True)])
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    return Images(images.contiguous(), torch.tensor(labels), _CIFAR_NAMES, f"CIFAR-10 ({kind})")


def _check_one_size(found: list[tuple[tuple[int, ...], str]]) -> None:
    first, one = found[0]
    for size, name in found:
        if size != first:
            raise UserInputError(f"{name}: size: got {size}; expected {first}, that of {one}")


def _decode(data: bytes, name: str) -> np.ndarray[Any, Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise UserInputError(f"{name}: image: is damaged ({error})") from error


def _class_index(name: str, path: Path) -> int:
    if name not in _CIFAR_NAMES:
        raise UserInputError(f"{path}: class: got {name!r}; expected one of {', '.join(_CIFAR_NAMES)}")
    return _CIFAR_NAMES.index(name)


def _from_folder(folder: Path, names: tuple[str, ...], title: str) -> Images:
    images, labels, found = [], [], []
    for index, name in enumerate(names):
        for file in sorted((folder / name).glob("*")):
            images.append(torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1))
            labels.append(index)
            found.append((tuple(images[-1].shape[1:]), str(file)))
    if not images:
        raise UserInputError(f"{folder}: images: there are none in folders named by class")
    _check_one_size(found)
    return Images(torch.stack(images).float().div_(255), torch.tensor(labels), names, title)


def tiny_imagenet(root: str | Path, split: Split = "train") -> Images:
    """Tiny-ImageNet-200; the class index is the place of the folder's name in sorted order.

    ``test`` is the validation set, in the official layout (``val/images`` with ``val_annotations.txt``) or with a
    folder for each class. Grey images become RGB.

    Raises:
        UserInputError: files are missing or damaged.
    """
    path = Path(root)
    if (path / "tiny-imagenet-200").is_dir():
        path = path / "tiny-imagenet-200"
    names = tuple(sorted(folder.name for folder in (path / "train").glob("*") if folder.is_dir()))
    if not names:
        raise UserInputError(f"{path / 'train'}: classes: expected one folder for each class")
    files: list[tuple[Path, int]] = []
    if split == "train":
        for index, name in enumerate(names):
            files += [(file, index) for file in sorted((path / "train" / name).rglob("*.JPEG"))]
    elif (path / "val" / "val_annotations.txt").is_file():
        files = _annotated(path / "val", names)
    else:
        for index, name in enumerate(names):
            files += [(file, index) for file in sorted((path / "val" / name).rglob("*.JPEG"))]
    if not files:
        raise UserInputError(f"{path}: {split}: holds no images")
    pixels = torch.empty(len(files), 3, 64, 64, dtype=torch.uint8)
    for row, (file, _) in enumerate(files):
        image = torch.from_numpy(np.array(read_image(file))).permute(2, 0, 1)
        if image.shape[1:] != (64, 64):
            raise UserInputError(f"{file}: size: got {tuple(image.shape[1:])}; expected 64 by 64")
        pixels[row] = image
    return Images(pixels.float().div_(255), torch.tensor([c for _, c in files]), names, "Tiny-ImageNet-200")


def _annotated(folder: Path, names: tuple[str, ...]) -> list[tuple[Path, int]]:
    place = {name: index for index, name in enumerate(names)}
    listing = folder / "val_annotations.txt"
    files = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("\t")
        if len(words) < 2 or words[1] not in place:
            raise UserInputError(
                f"{listing}: line {number}: expected a file and one of the {len(names)} classes"
            )
        files.append((folder / "images" / words[0], place[words[1]]))
    return files


_FONT = (
    ("01110", "10001", "10011", "10101", "11001", "10001", "01110"),
    ("00100", "01100", "00100", "00100", "00100", "00100", "01110"),
    ("01110", "10001", "00001", "00110", "01000", "10000", "11111"),
    ("11110", "00001", "00001", "01110", "00001", "00001", "11110"),
    ("00010", "00110", "01010", "10010", "11111", "00010", "00010"),
    ("11111", "10000", "11110", "00001", "00001", "10001", "01110"),
    ("00110", "01000", "10000", "11110", "10001", "10001", "01110"),
    ("11111", "00001", "00010", "00100", "01000", "01000", "01000"),
    ("01110", "10001", "10001", "01110", "10001", "10001", "01110"),
    ("01110", "10001", "10001", "01111", "00001", "00010", "01100"),
)


def glyphs(
    root: str | Path = "", split: Split = "train", *, seed: int = 0, counts: tuple[int, int] = (2000, 500)
) -> Images:
    """Ten bitmap digits of 5 x 7, stretched, moved, dimmed and noisy, on 14 x 14 pixels: generated, no files.

    Args:
        root: not used; every reader takes one.
        split: "train" or "test"; the two have their own random numbers.
        seed: of the generator.
        counts: images of each split.
    """
    count = counts[0 if split == "train" else 1]
    draw = np.random.default_rng([seed, 0 if split == "train" else 1])
    labels = np.arange(count) % 10
    bitmaps = torch.tensor([[[float(c) for c in row] for row in digit] for digit in _FONT])
    images = torch.zeros(count, 1, 14, 14)
    for k, label in enumerate(labels):
        height, width = int(draw.integers(9, 13)), int(draw.integers(7, 11))
        big = F.interpolate(bitmaps[label][None, None], (height, width), mode="bilinear", align_corners=False)
        big = (4 * (big[0, 0] - 0.35)).clamp(0, 1) * draw.uniform(0.75, 1.0)
        top, left = int(draw.integers(0, 15 - height)), int(draw.integers(0, 15 - width))
        images[k, 0, top : top + height, left : left + width] = big
    noise = torch.from_numpy(draw.normal(0.0, 0.05, images.shape)).float()
    return Images(
        (images + noise).clamp(0, 1), torch.from_numpy(labels), tuple("0123456789"), "generated glyphs"
    )


DATASETS: dict[str, Callable[..., Images]] = {
    "mnist": mnist,
    "cifar10": cifar10,
    "tiny_imagenet": tiny_imagenet,
    "glyphs": glyphs,
}


def load(name: str, root: str | Path, split: Split) -> Images:
    """A data set by name.

    Raises:
        UserInputError: an unknown name, or what the reader says of the files.

    >>> load("glyphs", "", "test").images.shape
    torch.Size([500, 1, 14, 14])
    """
    if name not in DATASETS:
        raise UserInputError(f"data: name: got {name!r}; expected one of {', '.join(DATASETS)}")
    return DATASETS[name](root, split)
