"""Neighbours within a radius."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._batching import check_batches, check_clouds, row_count
from tenfold.ops._checks import FLOATS, LIMIT, require
from tenfold.ops._library import define, invoke

__all__ = ["ball_query", "ball_query_multi"]


def _tables(centers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = centers.shape[:-1]
    return centers.new_empty((*shape, k), dtype=torch.int32), centers.new_empty(shape, dtype=torch.int32)


def _fake_ball_query(
    xyz: Tensor,
    centers: Tensor,
    radius: float,
    min_radius: float,
    k: int,
    lengths: Tensor | None,
    center_lengths: Tensor | None,
    offsets: Tensor | None,
    center_offsets: Tensor | None,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    return _tables(centers, k)


def _fake_ball_query_multi(
    xyz: Tensor,
    centers: Tensor,
    radii: list[float],
    min_radii: list[float],
    ks: list[int],
    lengths: Tensor | None,
    center_lengths: Tensor | None,
    offsets: Tensor | None,
    center_offsets: Tensor | None,
    validate: bool,
) -> list[Tensor]:
    return [table for k in ks for table in _tables(centers, k)]


_BATCH = "Tensor? lengths, Tensor? center_lengths, Tensor? offsets, Tensor? center_offsets, bool validate"

_ball_query = define(
    f"ball_query(Tensor xyz, Tensor centers, float radius, float min_radius, SymInt k, {_BATCH}) "
    "-> (Tensor, Tensor)",
    contract=1,
    reference=ref.ball_query,
    fake=_fake_ball_query,
)
_ball_query_multi = define(
    "ball_query_multi(Tensor xyz, Tensor centers, float[] radii, float[] min_radii, SymInt[] ks, "
    f"{_BATCH}) -> Tensor[]",
    contract=1,
    reference=ref.ball_query_multi,
    fake=_fake_ball_query_multi,
)


def _check_scale(op: str, radius: float, min_radius: float, k: int, s: str = "") -> None:
    name = "radii" if s else "radius"
    fine = math.isfinite(radius) and radius > 0
    require(fine, f"{op}: {name}: got {radius}{s}; expected a positive, finite number")
    name = "min_radii" if s else "min_radius"
    fine = 0.0 <= min_radius <= radius
    require(fine, f"{op}: {name}: got {min_radius}{s}; expected a number from 0 to the radius, {radius}")
    require(1 <= k < LIMIT, f"{op}: {'ks' if s else 'k'}: got {k}{s}; expected a number from 1 to 2^31 - 1")


def _plain(
    xyz: Tensor,
    centers: Tensor,
    lengths: Tensor | None,
    center_lengths: Tensor | None,
    offsets: Tensor | None,
    center_offsets: Tensor | None,
) -> bool:
    return (
        isinstance(xyz, Tensor)
        and isinstance(centers, Tensor)
        and xyz.dtype in FLOATS
        and centers.dtype is xyz.dtype
        and xyz.dim() in (2, 3)
        and centers.dim() == xyz.dim()
        and xyz.shape[-1] == 3
        and centers.shape[-1] == 3
        and (xyz.dim() == 2 or xyz.shape[0] == centers.shape[0])
        and xyz.device == centers.device
        and row_count(xyz) < LIMIT
        and row_count(centers) < LIMIT
        and lengths is None
        and center_lengths is None
        and offsets is None
        and center_offsets is None
    )


def ball_query(
    xyz: Tensor,
    centers: Tensor,
    radius: float,
    k: int,
    *,
    min_radius: float = 0.0,
    lengths: Tensor | None = None,
    center_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    center_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the first k points, in index order, strictly within a radius of each centre.

    A point is a hit when d2 < fl(radius * radius), where d2 = (dx*dx + dy*dy) + dz*dz in the points'
    precision; with ``min_radius`` also d2 >= fl(min_radius * min_radius) or d2 = 0. The hits are not the
    nearest ones but those with the lowest indices, as PointNet++ groups them.

    Args:
        xyz: points, (N, 3), padded (B, N, 3) or stacked (sum N, 3); metres. float32 or float64 (half
            precision is up-cast).
        centers: (M, 3), (B, M, 3) or (sum M, 3), in the same form.
        radius: positive and finite.
        k: slots per centre.
        min_radius: from 0 to ``radius``.
        lengths: (B,) used points of each padded element; centres see no others.
        center_lengths: (B,) used centres; the rows behind hold zeros.
        offsets: (B + 1,) first row of each stacked element, and the number of rows.
        center_offsets: (B + 1,) likewise for the centres.

    Returns:
        idx (M, k), (B, M, k) or (sum M, k) int32: ascending; slots behind the last hit repeat the first
        hit; zeros where there is none. Indices count from the start of a padded element, or are rows of
        stacked xyz. count (M,), (B, M) or (sum M,) int32: hits in the row, at most k. Neither carries a
        gradient.

    Raises:
        ValueError: wrong shapes, options, lengths or offsets; at validation level "cheap" also a coordinate
            that is not finite. Below that level such a point is no neighbour and such a centre has none.
        TypeError: not floating-point tensors, or lengths or offsets that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import ball_query
        >>> xyz = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        >>> ball_query(xyz, xyz[:1], radius=1.0, k=3)
        (tensor([[0, 2, 0]], dtype=torch.int32), tensor([2], dtype=torch.int32))
    """
    op = "ball_query"
    if not _plain(xyz, centers, lengths, center_lengths, offsets, center_offsets):
        xyz, centers = check_clouds(op, ("xyz", "centers"), xyz, centers)
        lengths, center_lengths, offsets, center_offsets = check_batches(
            op, ("xyz", "centers"), "center_", xyz, centers, lengths, center_lengths, offsets, center_offsets
        )
    _check_scale(op, radius, min_radius, k)
    idx, count = invoke(
        _ball_query,
        xyz,
        centers,
        radius,
        min_radius,
        k,
        lengths,
        center_lengths,
        offsets,
        center_offsets,
        checks_content(xyz.is_cpu),
    )
    return idx, count


def ball_query_multi(
    xyz: Tensor,
    centers: Tensor,
    radii: Sequence[float],
    ks: Sequence[int],
    *,
    min_radii: Sequence[float] | None = None,
    lengths: Tensor | None = None,
    center_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    center_offsets: Tensor | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Ball queries of several radii around the same centres, with one grid and one pass over the points.

    Args:
        xyz: as for `ball_query`, like all arguments that are not listed here.
        centers: as for `ball_query`.
        radii: one or more radii.
        ks: slots per centre for each radius.
        min_radii: inner radius for each radius; None for zeros.

    Returns:
        (idx, count) for each radius, equal to what `ball_query` returns.

    Raises:
        ValueError: as `ball_query`, or lists of different lengths.
        TypeError: as `ball_query`.

    Example:
        >>> import torch
        >>> from tenfold.ops import ball_query_multi
        >>> xyz = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        >>> [count.tolist() for _, count in ball_query_multi(xyz, xyz, [1.0, 4.0], [8, 8])]
        [[2, 1, 2], [3, 3, 3]]
    """
    op = "ball_query_multi"
    if not _plain(xyz, centers, lengths, center_lengths, offsets, center_offsets):
        xyz, centers = check_clouds(op, ("xyz", "centers"), xyz, centers)
        lengths, center_lengths, offsets, center_offsets = check_batches(
            op, ("xyz", "centers"), "center_", xyz, centers, lengths, center_lengths, offsets, center_offsets
        )
    inner = [0.0] * len(radii) if min_radii is None else list(min_radii)
    require(len(radii) > 0, f"{op}: radii: got none; expected at least one radius")
    require(
        len(ks) == len(radii), f"{op}: ks: got {len(ks)} values; expected one for each of {len(radii)} radii"
    )
    require(
        len(inner) == len(radii),
        f"{op}: min_radii: got {len(inner)} values; expected one for each of {len(radii)} radii",
    )
    for s, (radius, min_radius, k) in enumerate(zip(radii, inner, ks, strict=True)):
        _check_scale(op, radius, min_radius, k, f" as entry {s}")
    tables = invoke(
        _ball_query_multi,
        xyz,
        centers,
        list(radii),
        inner,
        list(ks),
        lengths,
        center_lengths,
        offsets,
        center_offsets,
        checks_content(xyz.is_cpu),
    )
    return list(zip(tables[::2], tables[1::2], strict=True))
