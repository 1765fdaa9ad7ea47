"""Choosing points that cover a cloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._batching import check_batch, row_count
from tenfold.ops._checks import LIMIT, as_compute, require, require_float
from tenfold.ops._library import define, invoke

__all__ = ["farthest_point_sample"]

_OP = "farthest_point_sample"


def _shape(m: Sequence[int], batch: int, padded: bool) -> tuple[int, ...]:
    if len(m) == 1:
        return (batch, m[0]) if padded else (batch * m[0],)
    return (batch, max(m)) if padded else (sum(m),)


def _fake_points(
    xyz: Tensor,
    m: Sequence[int],
    start: Sequence[int],
    dims: int,
    lengths: Tensor | None,
    offsets: Tensor | None,
    validate: bool,
) -> Tensor:
    padded = xyz.dim() == 3
    batch = xyz.shape[0] if padded else 1 if offsets is None else offsets.shape[0] - 1
    return xyz.new_empty(_shape(m, batch, padded), dtype=torch.int64)


def _fake_dist(
    dist: Tensor, m: Sequence[int], start: Sequence[int], lengths: Tensor | None, validate: bool
) -> Tensor:
    return dist.new_empty(_shape(m, dist.shape[0], True), dtype=torch.int64)


_sample = define(
    "farthest_point_sample(Tensor xyz, SymInt[] m, SymInt[] start, int dims, Tensor? lengths, "
    "Tensor? offsets, bool validate) -> Tensor",
    contract=1,
    reference=ref.farthest_point_sample,
    fake=_fake_points,
)
_sample_dist = define(
    "farthest_point_sample_dist(Tensor dist, SymInt[] m, SymInt[] start, Tensor? lengths, bool validate) "
    "-> Tensor",
    contract=1,
    reference=ref.farthest_point_sample_dist,
    fake=_fake_dist,
)


def _check_counts(name: str, value: int | Sequence[int], batch: int) -> list[int]:
    values = list(value) if isinstance(value, Sequence) else [value]
    require(
        not isinstance(value, Sequence) or len(values) == batch,
        f"{_OP}: {name}: got {len(values)} numbers; expected one number, or one for each of {batch} elements",
    )
    for number in values:
        fine = not isinstance(number, (float, Tensor)) and 0 <= number < LIMIT
        require(fine, f"{_OP}: {name}: got {number}; expected an integer from 0 to 2^31 - 1")
    # An empty batch needs no number, but the operator tells one number for all from one for each by the length.
    return values or [0]


def _check_points(xyz: Tensor, dims: int) -> Tensor:
    require_float(_OP, "xyz", xyz)
    require(dims >= 1, f"{_OP}: dims: got {dims}; expected a number >= 1")
    fine = xyz.dim() in (2, 3) and xyz.shape[-1] >= dims
    require(
        fine,
        f"{_OP}: xyz: got shape {tuple(xyz.shape)}; expected (N, C) or (B, N, C) with C >= dims = {dims}",
    )
    rows = row_count(xyz)
    require(rows < LIMIT, f"{_OP}: xyz: got {rows} rows; expected fewer than 2^31")
    return as_compute(xyz)


def _check_dist(dist: Tensor) -> Tensor:
    require_float(_OP, "dist", dist)
    fine = dist.dim() == 3 and dist.shape[1] == dist.shape[2]
    require(fine, f"{_OP}: dist: got shape {tuple(dist.shape)}; expected (B, N, N)")
    require(dist.shape[1] < LIMIT, f"{_OP}: dist: got {dist.shape[1]} rows; expected fewer than 2^31")
    return as_compute(dist)


def farthest_point_sample(
    xyz: Tensor | None,
    m: int | Sequence[int],
    *,
    start: int | Sequence[int] = 0,
    lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    dims: int = 3,
    dist: Tensor | None = None,
) -> Tensor:
    """Choose points one after the other, each as far as possible from those chosen before.

    The first is ``start``; then always the point whose squared distance to its nearest chosen point is
    largest, the lowest index where several tie. Squared distances are (dx*dx + dy*dy) + dz*dz in the points'
    precision. The result is exact and the same for any number of threads; its prefix of length j is the
    sample of j points. With m above the number of distinct points the rule goes on, and gives the lowest
    index once every distance is 0. A point with a non-finite coordinate is never chosen; where ``start`` is
    one, the lowest finite index stands in. An element without a point to choose gives -1.

    Args:
        xyz: points, (N, C), padded (B, N, C) or stacked (sum N, C); metres. float32 or float64 (half
            precision is up-cast). None with ``dist``.
        m: points to choose, or one number for each element.
        start: row of the first point inside its element, or one for each element.
        lengths: (B,) used points of each padded element.
        offsets: (B + 1,) first row of each stacked element, and the number of rows.
        dims: the first columns of xyz that count: 2 samples in bird's eye view. Up to 3 the time grows
            slower than m; above, as N * m.
        dist: (B, N, N) distances to use instead, row i from point i; for sampling in feature space (3DSSD's
            F-FPS).

    Returns:
        int64 rows. (m,) for (N, C); (B, m) for padded points, counted from the start of the element; (B * m,)
        rows of stacked points. With one m for each element: (B, max m), with -1 behind, or (sum m,). No
        gradient.

    Raises:
        ValueError: wrong shapes, options, lengths or offsets, or a start beyond its element; at validation
            level "cheap" also a coordinate or distance that is not finite.
        TypeError: not floating-point tensors, or lengths or offsets that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import farthest_point_sample
        >>> xyz = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
        >>> farthest_point_sample(xyz, 3)
        tensor([0, 2, 3])
    """
    if dist is not None:
        require(xyz is None, f"{_OP}: xyz: got points with dist; expected None, the distances say all")
        require(offsets is None, f"{_OP}: offsets: got offsets with dist; expected lengths")
        dist = _check_dist(dist)
        lengths, _ = check_batch(_OP, "dist", dist, lengths, None)
        m, start = _check_counts("m", m, len(dist)), _check_counts("start", start, len(dist))
        chosen: Tensor = invoke(_sample_dist, dist, m, start, lengths, checks_content(dist.is_cpu))
        return chosen
    if xyz is None:
        raise TypeError(f"{_OP}: xyz: got None; expected a torch.Tensor, or dist")
    xyz = _check_points(xyz, dims)
    lengths, offsets = check_batch(_OP, "xyz", xyz, lengths, offsets)
    batch = xyz.shape[0] if xyz.dim() == 3 else 1 if offsets is None else offsets.shape[0] - 1
    m, start = _check_counts("m", m, batch), _check_counts("start", start, batch)
    chosen = invoke(_sample, xyz, m, start, dims, lengths, offsets, checks_content(xyz.is_cpu))
    return chosen
