"""Pictures: points and boxes on the camera image, and what the image network sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pircnn.calibration import KittiCalib
from tenfold.viz import class_colour, draw_boxes_3d, draw_points

__all__ = ["projection_picture", "semantics_picture", "stacked"]

Pixels = npt.NDArray[np.uint8]
_BAR = 22


def projection_picture(
    image: Pixels,
    points: npt.NDArray[np.float32],
    calib: KittiCalib,
    boxes: npt.ArrayLike = (),
    labels: npt.ArrayLike | None = None,
    scores: npt.ArrayLike | None = None,
    *,
    class_names: Sequence[str] | None = None,
    size: int = 2,
) -> Pixels:
    """Points, coloured by depth, and boxes (M, 7) on a copy of the image (H, W, 3)."""
    shown = draw_points(image, points, calib.matrix, size=size)
    rows = np.asarray(boxes, np.float64).reshape(-1, 7)
    return draw_boxes_3d(shown, rows, calib.matrix, labels, scores, class_names=class_names)


def semantics_picture(image: Pixels, semantics: npt.NDArray[np.float32], names: Sequence[str]) -> Pixels:
    """The likeliest class of every pixel over the image, with a legend; (H + 22, W, 3).

    Args:
        image: (H, W, 3) uint8.
        semantics: (Cs, H, W).
        names: of the channels.
    """
    told = semantics.argmax(0)
    colours = np.array([class_colour(k) for k in range(len(semantics))], np.float64)
    mixed = (0.45 * image + 0.55 * colours[told]).astype(np.uint8)
    bar = Image.new("RGB", (image.shape[1], _BAR), (24, 26, 32))
    draw, font = ImageDraw.Draw(bar), ImageFont.load_default(size=12)
    x = 6.0
    for k, name in enumerate(names):
        draw.rectangle([x, 6, x + 10, 16], fill=class_colour(k))
        draw.text((x + 14, 3), name, fill=(230, 232, 236), font=font)
        x += 26 + draw.textlength(name, font=font)
    return np.concatenate((mixed, np.asarray(bar, np.uint8)))


def stacked(panels: Sequence[tuple[str, Pixels]], scale: int = 1) -> Pixels:
    """Pictures of one width, one below the other, each under its title.

    Args:
        panels: title and (H, W, 3) uint8.
        scale: each pixel becomes so many on a side.
    """
    parts = []
    for title, pixels in panels:
        large = pixels.repeat(scale, 0).repeat(scale, 1)
        bar = Image.new("RGB", (large.shape[1], _BAR), (255, 255, 255))
        ImageDraw.Draw(bar).text((6, 3), title, fill=(20, 22, 28), font=ImageFont.load_default(size=14))
        parts += [np.asarray(bar, np.uint8), large]
    return np.concatenate(parts)
