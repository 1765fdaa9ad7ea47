"""Pictures of what the module looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont

from tenfold.geometry import bev_corners

if TYPE_CHECKING:
    from denfi.experiment import EdgeRun

__all__ = ["BRANCHES", "draw_looks", "edge_panels"]

Pixels = npt.NDArray[np.uint8]

#: Branch -> name in words and colour of its sampling points.
BRANCHES = {"cls": ("classification", (255, 208, 70)), "reg": ("regression", (90, 220, 255))}
_SCALE, _GAP, _TITLE = 8, 6, 22
_INK, _PAPER = (235, 238, 244), (16, 18, 24)
_SMOOTH = 2


def draw_looks(
    picture: Pixels,
    limits: Sequence[float],
    resolution: float,
    starts: npt.NDArray[Any],
    ends: dict[str, npt.NDArray[Any]],
    proposals: npt.NDArray[Any] | None = None,
) -> Pixels:
    """Draw proposals, and lines from feature pixels to their sampling points, on a picture of `tenfold.viz.bev_image`.

    Args:
        picture: (H, W, 3) uint8.
        limits: x0, y0, z0, x1, y1, z1 of the picture, metres.
        resolution: metres per pixel of the picture.
        starts: (N, 2) x, y of the feature pixels, metres.
        ends: branch -> (N, 2) sampling points, metres.
        proposals: (M, 5) x, y, l, w, heading, outlined in white.
    """

    def place(xy: npt.NDArray[Any]) -> npt.NDArray[Any]:
        flat = np.asarray(xy, np.float64).reshape(-1, 2)
        return np.stack([(limits[4] - flat[:, 1]) / resolution, (limits[3] - flat[:, 0]) / resolution], 1)

    canvas = _Canvas(picture)
    begin = place(starts)
    for box in () if proposals is None else proposals:
        canvas.outline(place(_corners(box)), _INK)
    for name, points in ends.items():
        canvas.lines(begin, place(points), BRANCHES[name][1])
    canvas.dots(begin, _INK, 1.2)
    for name, points in ends.items():
        canvas.dots(place(points), BRANCHES[name][1], 2.2)
    entries = [(f"sampled for {BRANCHES[name][0]}", BRANCHES[name][1]) for name in ends]
    canvas.legend(entries + [("boundary proposal", _INK)] * (proposals is not None))
    return canvas.pixels()


class _Canvas:
    """Smooth lines and dots on a picture."""

    def __init__(self, picture: Pixels) -> None:
        image = Image.fromarray(picture)
        self.size = image.size
        self.image = image.resize((image.width * _SMOOTH, image.height * _SMOOTH), Image.Resampling.NEAREST)
        self.draw = ImageDraw.Draw(self.image)

    def lines(self, starts: npt.NDArray[Any], ends: npt.NDArray[Any], colour: tuple[int, int, int]) -> None:
        for a, b in zip(starts * _SMOOTH, ends * _SMOOTH, strict=True):
            self.draw.line([*a.tolist(), *b.tolist()], fill=colour, width=_SMOOTH)

    def dots(self, places: npt.NDArray[Any], colour: tuple[int, int, int], radius: float) -> None:
        for x, y in (places * _SMOOTH).tolist():
            r = radius * _SMOOTH
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)

    def outline(self, corners: npt.NDArray[Any], colour: tuple[int, int, int]) -> None:
        flat = [tuple(row) for row in (corners * _SMOOTH).tolist()]
        self.draw.line([*flat, flat[0]], fill=colour, width=_SMOOTH)

    def legend(self, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
        font = ImageFont.load_default(size=12 * _SMOOTH)
        for number, (name, colour) in enumerate(entries):
            y = (10 + 18 * number) * _SMOOTH
            self.draw.rectangle([40 * _SMOOTH, y, 52 * _SMOOTH, y + 12 * _SMOOTH], fill=colour)
            self.draw.text((58 * _SMOOTH, y), name, fill=_INK, font=font)

    def pixels(self) -> Pixels:
        return np.asarray(self.image.resize(self.size, Image.Resampling.BOX), dtype=np.uint8)


def edge_panels(runs: dict[str, EdgeRun], maps: int = 3) -> Pixels:
    """Rows: runs of the mechanism test; columns: held-out maps, with where interior pixels look.

    Edges are grey; the front edge, which alone holds the class, is red or blue. Objects are outlined; a yellow dot is
    a sampling point.
    """
    rows = []
    for title, run in runs.items():
        panels = [_edge_panel(run, number) for number in range(maps)]
        gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
        row = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], 1)
        rows += [_title(f"{title}: {run.numbers['accuracy']:.0f} % right", row.shape[1]), row]
    return np.concatenate(rows)


def _title(text: str, width: int) -> Pixels:
    image = Image.new("RGB", (width, _TITLE), _PAPER)
    ImageDraw.Draw(image).text((6, 3), text, fill=_INK, font=ImageFont.load_default(size=14))
    return np.asarray(image, dtype=np.uint8)


def _edge_panel(run: EdgeRun, number: int) -> Pixels:
    feat, boxes = run.maps.feat[number].numpy(), run.maps.boxes[number].numpy()
    edges = np.clip(feat[1] / 1.5, 0, 1)[..., None] * 0.45
    told = np.clip(feat[0] / 1.5, -1, 1)[..., None]
    red, blue = np.array([1.0, 0.25, 0.2]), np.array([0.25, 0.45, 1.0])
    strong = np.abs(told) > 0.55
    colour = np.where(strong, np.where(told > 0, red, blue) * np.abs(told), edges)
    small = (np.clip(colour, 0, 1) * 235 + 10).astype(np.uint8)
    canvas = _Canvas(np.ascontiguousarray(small.repeat(_SCALE, 0).repeat(_SCALE, 1)))
    for box in boxes:
        canvas.outline(_corners(box) * _SCALE, (150, 155, 165))
    row, column = (run.maps.labels[number] >= 0).nonzero(as_tuple=True)
    every = slice(None, None, 2)
    row, column = row[every], column[every]
    starts = torch.stack((column + 0.5, row + 0.5), 1)
    moved = starts + run.offsets[number][:, row, column].flip(0).T
    canvas.lines(starts.numpy() * _SCALE, moved.numpy() * _SCALE, (200, 205, 215))
    canvas.dots(moved.numpy() * _SCALE, BRANCHES["cls"][1], 2.4)
    return canvas.pixels()


def _corners(box: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(4, 2) corners of x, y, length, width, heading."""
    x, y, length, width, theta = box.tolist()
    return np.asarray(bev_corners(np.array([x, y, 0.0, length, width, 1.0, theta])))
