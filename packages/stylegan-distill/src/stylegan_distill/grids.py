"""Grids of generated images, and videos of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from tenfold._errors import MissingExtraError
from tenfold.io import check_output, staged

__all__ = ["image_grid", "labelled_rows", "require_av", "to_pixels", "write_video"]

Pixels = npt.NDArray[np.uint8]

_PAPER, _INK, _GAP, _TITLE = (16, 18, 24), (226, 229, 236), 3, 20
_LEAST_SIDE = 48


def to_pixels(images: Tensor) -> Pixels:
    """``(B, C, H, W)`` in [-1, 1] to ``(B, H, W, 3)`` of 0 to 255, clamped and rounded; grey is repeated."""
    array = images.detach().float().cpu().clamp(-1, 1).add(1).mul(127.5).round().byte().numpy()
    wide = array.repeat(3, 1) if array.shape[1] == 1 else array
    return np.ascontiguousarray(wide.transpose(0, 2, 3, 1))


def image_grid(images: Tensor, columns: int | None = None, *, enlarge: bool = True) -> Pixels:
    """Images side by side, row after row.

    Args:
        images: ``(B, 3, R, R)`` in [-1, 1].
        columns: images in a row; None: a square grid.
        enlarge: repeat the pixels of small images until a side has 48.

    Returns:
        ``(H, W, 3)`` of 0 to 255.

    Raises:
        ValueError: no images.

    >>> import torch
    >>> image_grid(torch.zeros(5, 3, 64, 64), 3).shape
    (131, 198, 3)
    """
    if len(images) == 0:
        raise ValueError("image_grid: images: got none")
    tiles = to_pixels(images)
    if enlarge:
        factor = max(1, -(-_LEAST_SIDE // tiles.shape[1]))
        tiles = tiles.repeat(factor, 1).repeat(factor, 2)
    count, height, width, _ = tiles.shape
    across = columns or int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    grid = np.empty((down * (height + _GAP) - _GAP, across * (width + _GAP) - _GAP, 3), np.uint8)
    grid[:] = _PAPER
    for number, tile in enumerate(tiles):
        y, x = divmod(number, across)
        top, left = y * (height + _GAP), x * (width + _GAP)
        grid[top : top + height, left : left + width] = tile
    return grid


def labelled_rows(rows: Mapping[str, Tensor]) -> Pixels:
    """One row of images for each name, the name above it.

    Args:
        rows: name -> ``(B, 3, R, R)`` in [-1, 1], the same B and R everywhere.

    Returns:
        ``(H, W, 3)`` of 0 to 255.
    """
    from PIL import Image, ImageDraw, ImageFont

    parts = []
    font = ImageFont.load_default(size=13)
    for name, images in rows.items():
        grid = image_grid(images, len(images))
        title = Image.new("RGB", (grid.shape[1], _TITLE), _PAPER)
        ImageDraw.Draw(title).text((4, 2), name, fill=_INK, font=font)
        parts += [np.asarray(title, np.uint8), grid]
    return np.concatenate(parts)


def require_av() -> Any:
    """The package that writes videos.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError('videos need PyAV: pip install "stylegan-distill[video]"') from error
    return av


def write_video(path: Path, frames: Iterable[Pixels], fps: int = 24) -> int:
    """Write frames ``(H, W, 3)`` as an H.264 video; the file appears whole or not at all.

    Args:
        path: ends in .mp4.
        frames: all of one size; odd sides lose their last row or column.
        fps: frames a second.

    Returns:
        The number of frames.

    Raises:
        UserInputError: another ending, or a folder that cannot be written.
        MissingExtraError: the package av is not installed (extra ``video``).
    """
    av = require_av()
    check_output(path, (".mp4",), "out")
    count = 0
    with staged(path) as part, av.open(f"file:{part.absolute()}", "w") as sink:
        stream = sink.add_stream("libx264", rate=fps)
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "18"}
        for frame in frames:
            even = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if count == 0:
                stream.height, stream.width = even.shape[:2]
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            count += 1
        sink.mux(stream.encode())
    return count
