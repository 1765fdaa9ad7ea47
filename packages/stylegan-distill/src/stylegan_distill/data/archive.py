"""Images in a zip file or folder, read when asked for."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stylegan_distill.data.prepare import IMAGE_ENDINGS, list_images
from tenfold._errors import UserInputError
from tenfold.io import read_image

__all__ = ["ImageSource", "open_images"]

Pixels = npt.NDArray[np.uint8]


class ImageSource:
    """Square images of one size and, where there are any, their labels.

    Attributes:
        resolution: side, pixels.
        facts: how the images were prepared, ``{"filter": "box", ...}``; empty where nobody recorded it.
        labels: one whole number or list for each image, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_zip = path.suffix == ".zip"
        self._held: tuple[int, zipfile.ZipFile] | None = None
        if self._is_zip:
            names = [n for n in self._archive().namelist() if Path(n).suffix.lower() in IMAGE_ENDINGS]
            self._names = sorted(names)
            if not self._names:
                raise UserInputError(f"{path}: data: holds no images")
        else:
            self._names = [p.relative_to(path).as_posix() for p in list_images(path)]
        document = self._document()
        self.facts: Mapping[str, Any] = document.get("prepared") or {}
        self.labels = self._read_labels(document.get("labels"))
        self.resolution = 0  # set by the first image
        self.resolution = self.pixels(0).shape[0]

    def __len__(self) -> int:
        return len(self._names)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": None}

    def _archive(self) -> zipfile.ZipFile:
        """The zip file, opened by this process: workers that shared one would read at each other's places."""
        if self._held is None or self._held[0] != os.getpid():
            self._held = (os.getpid(), _opened(self.path))
        return self._held[1]

    def pixels(self, index: int) -> Pixels:
        """One image ``(R, R, 3)``; grey ones are repeated.

        Raises:
            UserInputError: a damaged image, or one of another size than the first.
        """
        name = self._names[index]
        image = read_image(self.path / name) if not self._is_zip else self._unpacked(name)
        height, width = image.shape[:2]
        if height != width or (self.resolution and width != self.resolution):
            wanted = f"{self.resolution} x {self.resolution}" if self.resolution else "a square"
            raise UserInputError(
                f"{self.path}: {name}: got {width} x {height}; expected {wanted} (`prepare` makes them so)"
            )
        return image

    def _unpacked(self, name: str) -> Pixels:
        from PIL import Image

        try:
            with Image.open(io.BytesIO(self._archive().read(name))) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # Pillow has no closed list of what a damaged image raises
            raise UserInputError(f"{self.path}: {name}: is no sound image") from error

    def _document(self) -> dict[str, Any]:
        try:
            if self._is_zip:
                archive = self._archive()
                text = archive.read("dataset.json") if "dataset.json" in archive.namelist() else b"{}"
            else:
                table = self.path / "dataset.json"
                text = table.read_bytes() if table.is_file() else b"{}"
            found = json.loads(text)
        except (ValueError, zipfile.BadZipFile) as error:
            raise UserInputError(f"{self.path}: dataset.json: is not JSON") from error
        if not isinstance(found, dict):
            raise UserInputError(f"{self.path}: dataset.json: expected an object")
        return found

    def _read_labels(self, table: Any) -> list[Any] | None:
        if table is None:
            return None
        try:
            by_name = {str(name): label for name, label in table}
            found = [by_name[name] for name in self._names]
        except (TypeError, ValueError, KeyError) as error:
            raise UserInputError(
                f"{self.path}: dataset.json: labels: expected [file, label] of every image"
            ) from error
        if not (_are_classes(found) or _are_vectors(found)):
            raise UserInputError(
                f"{self.path}: dataset.json: labels: expected whole numbers from 0 on, or lists of numbers, all of one "
                "length"
            )
        return found


def _are_classes(labels: list[Any]) -> bool:
    return all(type(label) is int and label >= 0 for label in labels)


def _are_vectors(labels: list[Any]) -> bool:
    lengths = {len(label) if isinstance(label, list) else None for label in labels}
    numbers = (value for label in labels if isinstance(label, list) for value in label)
    return len(lengths) == 1 and None not in lengths and all(type(v) in (int, float) for v in numbers)


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserInputError(f"{path}: data: cannot be read as a zip file ({error})") from error


def open_images(path: str | Path) -> ImageSource:
    """Images of a zip file or folder, as `prepare` writes them or NVIDIA's tool does.

    Raises:
        UserInputError: no such file or folder, nothing in it, or images that are no squares of one size.
    """
    return ImageSource(Path(path))
