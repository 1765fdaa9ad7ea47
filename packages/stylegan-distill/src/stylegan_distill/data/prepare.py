"""Images of any size to an archive of square ones, with the filter that made them on record.

The filter matters: the same network has an FID of 4.3 or 5.3 depending on whether the real images went through a box
or a Lanczos filter.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stylegan_distill.data.sources import FFHQ_INDEX, SPLITS, ffhq_files, is_lmdb, read_lmdb
from tenfold._errors import UserInputError
from tenfold.io import atomic_write, read_image

__all__ = ["FILTERS", "IMAGE_ENDINGS", "fit_square", "list_images", "prepare_images", "write_archive"]

Pixels = npt.NDArray[np.uint8]

#: Filters of ``prepare``.
FILTERS = ("box", "lanczos", "bilinear")
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, sorted by their path.

    Raises:
        UserInputError: no such folder, or no images in it.
    """
    if not folder.is_dir():
        raise UserInputError(f"{folder}: source: no such folder")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS and p.is_file())
    if not found:
        raise UserInputError(f"{folder}: source: holds no images ({', '.join(IMAGE_ENDINGS)})")
    return found


def fit_square(image: Pixels, resolution: int, filter: str = "lanczos") -> Pixels:
    """Centre-crop to a square and resize.

    Args:
        image: ``(H, W, 3)``.
        resolution: side of the result.
        filter: one of `FILTERS`; "bilinear" widens its support when it shrinks, as torchvision's Resize.

    Raises:
        ValueError: an unknown filter.

    >>> fit_square(np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3), 2, "box").shape
    (2, 2, 3)
    """
    from PIL import Image

    if filter not in FILTERS:
        raise ValueError(f"fit_square: filter: got {filter!r}; expected one of {', '.join(FILTERS)}")
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side == resolution:
        return square
    how = Image.Resampling[filter.upper()]
    return np.asarray(Image.fromarray(square).resize((resolution, resolution), how))


def prepare_images(
    source: Path,
    out: Path,
    resolution: int,
    filter: str = "lanczos",
    tell: Callable[[int, int], None] | None = None,
    *,
    split: str = "all",
) -> int:
    """Write all images below a folder into an uncompressed zip file of square PNGs.

    The layout is NVIDIA's: ``00000/img00000000.png`` and ``dataset.json``, whose key ``"prepared"`` records filter,
    resolution and count. The filter is "none" where every image has the size already. Where the source has a
    ``dataset.json`` with labels they are carried over.

    Args:
        source: folder, walked recursively; one with ``ffhq-dataset-v2.json`` is read by that index, one with
            ``data.mdb`` as LMDB (LSUN's, or as rosinality's tool packs it).
        out: zip file to write; it appears whole or not at all.
        resolution: side, a power of two.
        filter: one of `FILTERS`.
        tell: called with (done, all) after every image.
        split: of FFHQ: all, training or validation.

    Returns:
        The number of images.

    Raises:
        UserInputError: an unknown filter, a side that is no power of two, no or damaged images, a split without index.
        MissingExtraError: an LMDB folder without the package lmdb.
    """
    if filter not in FILTERS:
        raise UserInputError(f"filter: got {filter!r}; expected one of {', '.join(FILTERS)}")
    if resolution < 4 or resolution & (resolution - 1):
        raise UserInputError(f"resolution: got {resolution}; expected a power of two from 4 on")
    if out.suffix != ".zip":
        raise UserInputError(f"{out}: out: got the ending {out.suffix!r}; expected .zip")
    count, found, labels = _source(source, resolution, split)
    prepared = {"filter": "none", "resolution": resolution, "source": source.name}
    if split != "all":
        prepared["split"] = split

    def images() -> Iterator[Pixels]:
        for number, image in enumerate(found, 1):
            if min(image.shape[:2]) != resolution:
                prepared["filter"] = filter  # read once all images are written
            yield fit_square(image, resolution, filter)
            if tell is not None:
                tell(number, count)

    write_archive(out, images(), prepared, labels)
    return count


def _source(source: Path, resolution: int, split: str) -> tuple[int, Iterator[Pixels], list[Any] | None]:
    """Number of images, the images, their labels."""
    if is_lmdb(source):
        count, images = read_lmdb(source, resolution)
        labels = None
    else:
        indexed = (source / FFHQ_INDEX).is_file()
        files = ffhq_files(source, split) if indexed else list_images(source)
        count, images, labels = len(files), map(read_image, files), _labels(source, files)
        if indexed:
            return count, images, labels
    if split != "all":
        wanted = f"all, or a folder with {FFHQ_INDEX}" if split in SPLITS else f"one of {', '.join(SPLITS)}"
        raise UserInputError(f"split: got {split!r}; expected {wanted}")
    return count, images, labels


def _labels(source: Path, files: Sequence[Path]) -> list[Any] | None:
    table = source / "dataset.json"
    if not table.is_file():
        return None
    try:
        found = json.loads(table.read_text(encoding="utf-8")).get("labels")
        by_name = dict(found) if found else {}
        return [by_name[path.relative_to(source).as_posix()] for path in files] if found else None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise UserInputError(f"{table}: labels: expected a list of [file, label] of every image") from error


def write_archive(
    out: Path, images: Iterator[Pixels], prepared: dict[str, Any], labels: Sequence[Any] | None = None
) -> None:
    """Write images into a zip file in NVIDIA's layout, atomically; see `prepare_images`."""
    from PIL import Image

    names: list[str] = []
    with atomic_write(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for number, pixels in enumerate(images):
            packed = io.BytesIO()
            Image.fromarray(pixels).save(packed, "PNG")
            names.append(f"{number // 1000:05d}/img{number:08d}.png")
            archive.writestr(_stamped(names[-1]), packed.getvalue())
        table = None if labels is None else [[n, label] for n, label in zip(names, labels, strict=True)]
        document = {"labels": table, "prepared": {**prepared, "count": len(names)}}
        archive.writestr(_stamped("dataset.json"), json.dumps(document))


def _stamped(name: str) -> zipfile.ZipInfo:
    """An entry without the time of day, so that equal images make equal files."""
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
