"""Padded and stacked batches for the references: which rows belong to which element."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

__all__ = ["element_rows", "points_and_boxes", "raise_non_finite"]

_Range = tuple[int, int]


def element_rows(
    op: str, points: Tensor, lengths: Tensor | None, offsets: Tensor | None, prefix: str = ""
) -> list[_Range]:
    """Return (first row, number of rows) of every element in the flattened points.

    Raises:
        ValueError: lengths outside 0 to N, or offsets that do not rise from 0 to the number of points.
    """
    n = points.shape[-2]
    if points.dim() == 3:
        counts = [n] * points.shape[0] if lengths is None else lengths.tolist()
        for entry, count in enumerate(counts):
            if not 0 <= count <= n:
                raise ValueError(f"{op}: {prefix}lengths: entry {entry} is {count}; expected 0 to {n}")
        return [(entry * n, count) for entry, count in enumerate(counts)]
    bounds = [0, n] if offsets is None else offsets.tolist()
    for entry, value in enumerate(bounds):
        rises = value == 0 if entry == 0 else value >= bounds[entry - 1]
        if not rises or value > n or (entry == len(bounds) - 1 and value != n):
            raise ValueError(
                f"{op}: {prefix}offsets: entry {entry} is {value}; expected values that rise from 0 to {n}"
            )
    return [(low, high - low) for low, high in pairwise(bounds)]


def raise_non_finite(op: str, name: str, points: Tensor, element: int, begin: int, count: int) -> None:
    """Raise ValueError for the first non-finite row of an element."""
    rows = points.reshape(-1, points.shape[-1])[begin : begin + count]
    bad = ~rows.isfinite().all(dim=1)
    if not bool(bad.any()):
        return
    row = int(bad.nonzero()[0])
    where = f"row {row} of batch element {element}" if points.dim() == 3 else f"row {begin + row}"
    what = "numbers" if name in ("boxes", "rois") else "coordinates"
    raise ValueError(f"{op}: {name}: {where} is not finite; expected finite {what}")


def points_and_boxes(
    op: str,
    points: Tensor,
    boxes: Tensor,
    lengths: Tensor | None,
    box_lengths: Tensor | None,
    offsets: Tensor | None,
    box_offsets: Tensor | None,
    validate: bool,
    name: str = "boxes",
    prefix: str = "box_",
) -> list[tuple[_Range, _Range]]:
    """Return `element_rows` of points and of boxes, element by element.

    Args:
        name: of the boxes argument, for messages.
        prefix: of the boxes' lengths and offsets, for messages.

    Raises:
        ValueError: as `element_rows`; with ``validate`` also a row that is not finite.
    """
    point_rows = element_rows(op, points, lengths, offsets)
    pairs = list(zip(point_rows, element_rows(op, boxes, box_lengths, box_offsets, prefix), strict=True))
    if validate:
        for element, (p, b) in enumerate(pairs):
            raise_non_finite(op, "points", points, element, *p)
            raise_non_finite(op, name, boxes, element, *b)
    return pairs
