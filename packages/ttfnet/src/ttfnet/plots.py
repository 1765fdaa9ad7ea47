"""Precision-recall curves and the confusion matrix as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tenfold.io import write_bytes, write_text
from tenfold.viz import Series, encode_image, line_plot, ramp, standalone
from ttfnet.evaluation import CocoResult

__all__ = ["confusion_image", "precision_recall_chart", "write_plots"]

_CELL = 22


def write_plots(
    folder: Path, result: CocoResult, matrix: npt.NDArray[np.int64], class_names: Sequence[str]
) -> list[Path]:
    """Write ``precision_recall.svg`` and ``confusion.png``; returns what was written."""
    written = []
    chart = precision_recall_chart(result)
    if chart:
        write_text(folder / "precision_recall.svg", standalone(chart))
        written.append(folder / "precision_recall.svg")
    write_bytes(folder / "confusion.png", encode_image(confusion_image(matrix, class_names)))
    return [*written, folder / "confusion.png"]


def precision_recall_chart(result: CocoResult, most: int = 8) -> str:
    """SVG of precision against recall at an overlap of 0.5: the mean, and the classes with the highest AP."""
    curves = {name: curve for name, curve in result.precision.items() if result.per_class[name] > -1}
    if not curves:
        return ""
    ranked = sorted(curves, key=lambda name: -result.per_class[name])[:most]
    mean = np.mean(list(curves.values()), axis=0)
    series = [Series("mean", list(zip(result.recall[::4].tolist(), mean[::4].tolist(), strict=True)))]
    for name in ranked if len(curves) > 1 else []:
        points = zip(result.recall[::4].tolist(), curves[name][::4].tolist(), strict=True)
        series.append(Series(f"{name}, AP {100 * result.per_class[name]:.1f}", list(points)))
    return line_plot(series, x_label="recall", y_label="precision at overlap 0.5")


def confusion_image(matrix: npt.NDArray[np.int64], class_names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Picture of a confusion matrix, each row in shares of its true class; the last ones mean "nothing".

    Of more than 25 classes, those with the most objects are shown.
    """
    from PIL import Image, ImageDraw

    count = len(class_names)
    order = np.argsort(-matrix[:-1].sum(1), kind="stable")[:25]
    places = np.array([*sorted(order.tolist()), count])
    shown = matrix[np.ix_(places, places)].astype(np.float64)
    names = [class_names[k] if k < count else "nothing" for k in places]
    total = np.maximum(matrix[places].sum(1, keepdims=True), 1)
    shares = shown / total
    left = 8 + 7 * max(map(len, names))
    side = _CELL * len(names)
    canvas = Image.new("RGB", (max(left + side + 8, 260), 30 + side + left), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((4, 8), "rows: true class, columns: found class", fill="black")
    colours = np.asarray(ramp(shares.reshape(-1), 0.0, 1.0)).reshape(*shares.shape, -1)
    for i, name in enumerate(names):
        draw.text((4, 32 + _CELL * i), name, fill="black")
        for j in range(len(names)):
            x, y = left + _CELL * j, 30 + _CELL * i
            colour = tuple(int(v) for v in colours[i, j][:3])
            draw.rectangle((x, y, x + _CELL - 2, y + _CELL - 2), fill=colour)
            if shown[i, j]:
                draw.text(
                    (x + 2, y + 5),
                    f"{min(shown[i, j], 999):.0f}",
                    fill="white" if shares[i, j] < 0.6 else "black",
                )
    for j, name in enumerate(names):
        label = Image.new("RGB", (left, 14), "white")
        ImageDraw.Draw(label).text((2, 1), name, fill="black")
        canvas.paste(label.rotate(-90, expand=True), (left + _CELL * j + 3, 32 + side))
    return np.asarray(canvas)
