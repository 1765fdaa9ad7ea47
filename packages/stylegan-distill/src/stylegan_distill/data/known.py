"""MNIST and CIFAR-10 at 32 x 32, from their own files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tenfold._errors import UserInputError
from tenfold.distill.data import read_image_folder

__all__ = ["read_cifar10", "read_mnist"]

Pixels = npt.NDArray[np.uint8]


def read_mnist(folder: str | Path, limit: int | None = None, *, train: bool = True) -> Pixels:
    """MNIST's digits, two pixels of black around each, in three equal channels: ``(N, 32, 32, 3)``.

    Args:
        folder: holds ``train-images-idx3-ubyte.gz`` (or the same unpacked), or ``MNIST/raw`` with them.
        limit: read the first so many.
        train: the training set, else the test set.

    Raises:
        UserInputError: a missing or damaged file.
    """
    stem = f"{'train' if train else 't10k'}-images-idx3-ubyte"
    places = [
        base / name for base in (Path(folder), Path(folder) / "MNIST/raw") for name in (f"{stem}.gz", stem)
    ]
    path = next((p for p in places if p.is_file()), None)
    if path is None:
        raise UserInputError(f"{folder}: data: expected {stem}.gz")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = np.frombuffer(file.read(16).ljust(16, b"\0"), ">i4")
            if head[0] != 2051 or tuple(head[2:]) != (28, 28):
                raise UserInputError(f"{path}: header: expected MNIST's images of 28 x 28")
            count = int(head[1]) if limit is None else min(limit, int(head[1]))
            pixels = np.frombuffer(file.read(count * 784), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise UserInputError(f"{path}: data: is damaged or truncated ({error})") from error
    if pixels.size != count * 784:
        raise UserInputError(f"{path}: data: got {pixels.size // 784} images; expected {count}")
    padded = np.pad(pixels.reshape(count, 28, 28), ((0, 0), (2, 2), (2, 2)))
    return np.repeat(padded[..., None], 3, 3)


def read_cifar10(archive: str | Path, limit_per_class: int | None = None, *, train: bool = True) -> Pixels:
    """CIFAR-10 as a folder or zip file of ``{train,test}/<class>/*``: ``(N, 32, 32, 3)``.

    Args:
        archive: folder or zip file.
        limit_per_class: read the first so many of each class.
        train: the training set, else the test set.

    Raises:
        UserInputError: as `tenfold.distill.data.read_image_folder`.
    """
    return read_image_folder(archive, "train" if train else "test", per_class=limit_per_class).images
