"""Grouping points by the cells of a regular grid: with caps (`voxelize`) and without (`dynamic_voxelize`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import (
    FLOATS,
    HALVES,
    as_compute,
    require,
    require_float,
    require_integers,
    require_size,
    require_tensor,
)
from tenfold.ops._library import define, invoke, no_second_derivative

__all__ = [
    "PaddedVoxels",
    "Voxels",
    "dynamic_voxelize",
    "dynamic_voxelize_padded",
    "voxelize",
    "voxelize_padded",
]


class Voxels(NamedTuple):
    """What `voxelize` returns.

    Args:
        voxels: (V, P, C) stored points, unused slots zero; with ``mean=True`` (V, C) their mean.
        coords: (V, 4) int32 cell as b, z, y, x.
        num_points: (V,) int32 stored points.
        point2voxel: (N,) int32 voxel of every point whose cell has one, stored or not; else -1.
        dropped: (3,) int64 points outside the range, lost to ``max_voxels``, lost to ``max_points``.
    """

    voxels: Tensor
    coords: Tensor
    num_points: Tensor
    point2voxel: Tensor
    dropped: Tensor


class PaddedVoxels(NamedTuple):
    """What `voxelize_padded` returns: `Voxels` with B * max_voxels rows; the first ``count`` are used."""

    voxels: Tensor
    coords: Tensor
    num_points: Tensor
    point2voxel: Tensor
    dropped: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count


# ---- operators ------------------------------------------------------------------------------------------

_GRID = "Tensor points, Tensor? offsets, float[] voxel_size, float[] lower, int[] grid"
_CAPS = "SymInt max_points, SymInt max_voxels, bool mean, bool validate"
_FIVE = "(Tensor voxels, Tensor coords, Tensor num_points, Tensor point2voxel, Tensor dropped)"


def _fake_rows(
    rows: Any, points: Tensor, max_points: int, mean: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    channels = points.shape[1]
    return (
        points.new_empty((rows, channels) if mean else (rows, max_points, channels)),
        points.new_empty((rows, 4), dtype=torch.int32),
        points.new_empty((rows,), dtype=torch.int32),
        points.new_empty((points.shape[0],), dtype=torch.int32),
        points.new_empty((3,), dtype=torch.int64),
    )


def _fake_voxelize(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
    mean: bool,
    validate: bool,
) -> tuple[Tensor, ...]:
    return _fake_rows(torch.library.get_ctx().new_dynamic_size(), points, max_points, mean)


def _fake_padded(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_points: int,
    max_voxels: int,
    mean: bool,
    validate: bool,
) -> tuple[Tensor, ...]:
    batch = 1 if offsets is None else offsets.shape[0] - 1
    rows = _fake_rows(batch * max_voxels, points, max_points, mean)
    return (*rows, points.new_empty((), dtype=torch.int32))


def _fake_out(points: Tensor, *_: Any) -> Tensor:
    rows: Any = torch.library.get_ctx().new_dynamic_size()
    return points.new_empty((rows, 0))


def _fake_backward(grad: Tensor, point2voxel: Tensor, max_points: int, mean: bool) -> Tensor:
    return grad.new_empty((point2voxel.shape[0], grad.shape[-1]))


def _fake_cells(rows: Any, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (
        points.new_empty((rows, 4), dtype=torch.int32),
        points.new_empty((points.shape[0],), dtype=torch.int32),
        points.new_empty((rows,), dtype=torch.int32),
    )


def _fake_dynamic(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    lex: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_cells(torch.library.get_ctx().new_dynamic_size(), points)


def _fake_dynamic_padded(
    points: Tensor,
    offsets: Tensor | None,
    size: Sequence[float],
    lower: Sequence[float],
    grid: Sequence[int],
    max_voxels: int,
    lex: bool,
    validate: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_fake_cells(max_voxels, points), points.new_empty((), dtype=torch.int32)


_voxelize_backward = define(
    "voxelize_backward(Tensor grad, Tensor point2voxel, SymInt max_points, bool mean) -> Tensor",
    contract=1,
    reference=ref.voxelize_backward,
    fake=_fake_backward,
    backward=no_second_derivative("voxelize"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.max_points, ctx.mean = inputs[5], inputs[7]
    ctx.save_for_backward(output[3])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    (point2voxel,) = ctx.saved_tensors
    return (invoke(_voxelize_backward, grad, point2voxel, ctx.max_points, ctx.mean), *([None] * 8))


_voxelize = define(
    f"voxelize({_GRID}, {_CAPS}) -> {_FIVE}",
    contract=1,
    reference=ref.voxelize,
    fake=_fake_voxelize,
    backward=_backward,
    setup_context=_setup_context,
)

_voxelize_padded = define(
    f"voxelize_padded({_GRID}, {_CAPS}) -> {_FIVE[:-1]}, Tensor count)",
    contract=1,
    reference=ref.voxelize_padded,
    fake=_fake_padded,
    backward=_backward,
    setup_context=_setup_context,
)

_voxelize_out = define(
    f"voxelize_out({_GRID}, {_CAPS}, Tensor(a!) voxels, Tensor(b!) coords, Tensor(c!) num_points, "
    "Tensor(d!) point2voxel, Tensor(e!) dropped) -> Tensor count",
    contract=1,
    reference=ref.voxelize_out,
    fake=_fake_out,
)

_dynamic_voxelize = define(
    f"dynamic_voxelize({_GRID}, bool lex, bool validate) -> "
    "(Tensor coords, Tensor point2voxel, Tensor counts)",
    contract=1,
    reference=ref.dynamic_voxelize,
    fake=_fake_dynamic,
)

_dynamic_voxelize_padded = define(
    f"dynamic_voxelize_padded({_GRID}, SymInt max_voxels, bool lex, bool validate) -> "
    "(Tensor coords, Tensor point2voxel, Tensor counts, Tensor count)",
    contract=1,
    reference=ref.dynamic_voxelize_padded,
    fake=_fake_dynamic_padded,
)

# ---- public functions -----------------------------------------------------------------------------------


def _round_half_away(value: float) -> int:
    whole = math.floor(value)
    return whole + (value - whole >= 0.5)


def _grid(op: str, voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[Any, Any, Any]:
    """Check size and range; return them as floats with the number of cells along x, y, z."""
    size = [float(s) for s in voxel_size]
    bounds = [float(r) for r in point_range]
    require(len(size) == 3, f"{op}: voxel_size: got {len(size)} numbers; expected 3: x, y, z")
    require(
        len(bounds) == 6,
        f"{op}: point_range: got {len(bounds)} numbers; expected 6: x, y, z of the lower corner, then upper",
    )
    for axis, s, lo, hi in zip("xyz", size, bounds[:3], bounds[3:], strict=True):
        require(0 < s < math.inf, f"{op}: voxel_size: got {s} along {axis}; expected a finite size above 0")
        require(
            -math.inf < lo < hi < math.inf,
            f"{op}: point_range: got {lo} to {hi} along {axis}; expected finite bounds, lower < upper",
        )
    extents = [(hi - lo) / s for s, lo, hi in zip(size, bounds[:3], bounds[3:], strict=True)]
    require(
        all(0.5 <= e < 2**31 - 1 for e in extents),
        f"{op}: voxel_size: the grid has {extents} cells; expected from 1 to 2^31 - 1 along every axis",
    )
    grid = [_round_half_away(e) for e in extents]
    require(
        grid[0] * grid[1] * grid[2] < 2**63,
        f"{op}: voxel_size: the grid has {grid} cells; expected fewer than 2^63 in all; use larger voxels",
    )
    return size, bounds[:3], grid


def _check_points(op: str, points: Tensor, offsets: Tensor | None) -> None:
    require_float(op, "points", points)
    if points.dim() != 2 or points.shape[1] < 3:
        hint = "; stack a padded batch and pass offsets" if points.dim() == 3 else ""
        raise ValueError(f"{op}: points: got shape {tuple(points.shape)}; expected (N, C) with C >= 3{hint}")
    if offsets is None:
        return
    require_integers(op, "offsets", offsets)
    require(
        offsets.dim() == 1 and offsets.shape[0] >= 1,
        f"{op}: offsets: got shape {tuple(offsets.shape)}; expected (B + 1,)",
    )
    require(
        offsets.device == points.device,
        f"{op}: offsets: on {offsets.device}; expected the device of points, {points.device}",
    )


def _check_caps(op: str, max_points: int, max_voxels: int) -> None:
    require(max_points >= 1, f"{op}: max_points: got {max_points}; expected at least 1")
    require(max_voxels >= 1, f"{op}: max_voxels: got {max_voxels}; expected at least 1")


def _check_order(op: str, order: str) -> None:
    require(order in ("lex", "first"), f"{op}: order: got {order!r}; expected 'lex' or 'first'")


def _check_out(points: Tensor, max_points: int, mean: bool, out: Voxels) -> None:
    op = "voxelize"
    if not (isinstance(out, tuple) and len(out) == 5):
        raise TypeError(
            f"{op}: out: got {type(out).__name__}; expected Voxels, as an earlier call returned them"
        )
    require(
        not (points.requires_grad and torch.is_grad_enabled()),
        f"{op}: out: points require a gradient; expected none, because buffers cannot carry it",
    )
    channels = points.shape[1]
    shapes: tuple[tuple[Any, ...], ...] = (
        ("R", channels) if mean else ("R", max_points, channels),
        ("R", 4),
        ("R",),
        ("N",),
        (3,),
    )
    dtypes = (points.dtype, torch.int32, torch.int32, torch.int32, torch.int64)
    for name, buffer, shape, dtype in zip(Voxels._fields, out, shapes, dtypes, strict=True):
        require_tensor(op, f"out.{name}", buffer)
        if buffer.dtype is not dtype:
            raise TypeError(f"{op}: out.{name}: got {buffer.dtype}; expected {dtype}")
        fits = buffer.dim() == len(shape) and all(
            isinstance(want, str) or have == want for have, want in zip(buffer.shape, shape, strict=True)
        )
        expected = f"({', '.join(map(str, shape))}), contiguous"
        require(
            fits and buffer.is_contiguous(),
            f"{op}: out.{name}: got shape {tuple(buffer.shape)}, strides {buffer.stride()}; "
            f"expected {expected}",
        )
        require(
            buffer.device == points.device,
            f"{op}: out.{name}: on {buffer.device}; expected the device of points, {points.device}",
        )
    require(
        out.point2voxel.shape[0] >= points.shape[0],
        f"{op}: out.point2voxel: got {out.point2voxel.shape[0]} rows; "
        f"expected at least N = {points.shape[0]}",
    )


def voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    *,
    offsets: Tensor | None = None,
    mean: bool = False,
    out: Voxels | None = None,
) -> Voxels:
    """Sort points into the voxels of a regular grid, with a cap on voxels and on points in a voxel.

    The grid has round((upper - lower) / size) cells along each axis (halves away from zero); a point's cell
    is floor((p - lower) / size), computed with a true division in the precision of the points, and a point
    outside the grid (p = upper included) is dropped. The first point of a new cell opens a voxel while the
    batch element has fewer than ``max_voxels``; later points of existing voxels are still added. A voxel
    stores its first ``max_points`` points. Voxels are ordered by batch element, then first come. The result
    equals spconv's CPU generator.

    Args:
        points: (N, C) with x, y, z in the first three columns, in metres; float32 or float64. The cell of a
            half-precision point is computed in float32.
        voxel_size: x, y, z.
        point_range: x, y, z of the lower corner, then of the upper one.
        max_points: per voxel. With ``mean=True`` any large number means no cap.
        max_voxels: per batch element.
        offsets: (B + 1,) int64 or int32, first row of every batch element and N; None is one element.
        mean: return the mean of the stored points, accumulated in float32 (float64 for float64), instead of
            the points themselves.
        out: an earlier result whose tensors have at least as many rows as needed; it is overwritten, and the
            result is views of it. It carries no gradient, and the dtype of points must be float32 or float64.

    Returns:
        `Voxels`. ``voxels`` carries the gradient of the stored points, the other tensors none.

    Raises:
        ValueError: wrong shapes, options or offsets; ``out`` too small or sharing memory; at validation level
            "cheap" a coordinate that is not finite (below it, such a point is in no voxel).
        TypeError: not floating-point tensors.

    Example:
        >>> import torch
        >>> from tenfold.ops import voxelize
        >>> points = torch.tensor([[0.1, 0.1, 0.1], [1.5, 0.2, 0.3], [0.2, 0.2, 0.2], [9.0, 0.0, 0.0]])
        >>> result = voxelize(points, (1, 1, 1), (0, 0, 0, 4, 4, 4), max_points=2, max_voxels=10)
        >>> result.coords.tolist(), result.point2voxel.tolist(), result.dropped.tolist()
        ([[0, 0, 0, 0], [0, 0, 0, 1]], [0, 1, 0, -1], [1, 0, 0])
    """
    _check_points("voxelize", points, offsets)
    _check_caps("voxelize", max_points, max_voxels)
    size, lower, grid = _grid("voxelize", voxel_size, point_range)
    validate = checks_content(points.is_cpu)
    if out is not None:
        if points.dtype not in FLOATS:
            raise TypeError(f"voxelize: out: points are {points.dtype}; expected float32 or float64 with out")
        _check_out(points, max_points, mean, out)
        count = invoke(
            _voxelize_out, points, offsets, size, lower, grid, max_points, max_voxels, mean, validate, *out
        ).shape[0]
        return Voxels(
            out.voxels[:count],
            out.coords[:count],
            out.num_points[:count],
            out.point2voxel[: points.shape[0]],
            out.dropped,
        )
    result = invoke(
        _voxelize, as_compute(points), offsets, size, lower, grid, max_points, max_voxels, mean, validate
    )
    if points.dtype in HALVES:
        return Voxels(result[0].to(points.dtype), *result[1:])
    return Voxels(*result)


def voxelize_padded(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_points: int,
    max_voxels: int,
    *,
    offsets: Tensor | None = None,
    mean: bool = False,
) -> PaddedVoxels:
    """`voxelize` with a fixed output size, for static graphs and CUDA graphs.

    Args:
        points: as `voxelize`.
        voxel_size: as `voxelize`.
        point_range: as `voxelize`.
        max_points: as `voxelize`.
        max_voxels: as `voxelize`; the outputs have B * max_voxels rows.
        offsets: as `voxelize`.
        mean: as `voxelize`.

    Returns:
        `PaddedVoxels`: the voxels first, packed over the batch; then rows of zeros with coords -1 and no
        points. ``count`` is an int32 scalar tensor.

    Raises:
        ValueError: as `voxelize`.
        TypeError: as `voxelize`.

    Example:
        >>> import torch
        >>> from tenfold.ops import voxelize_padded
        >>> result = voxelize_padded(torch.rand(100, 3), (1, 1, 1), (0, 0, 0, 1, 1, 1), 5, 4)
        >>> result.voxels.shape, int(result.count)
        (torch.Size([4, 5, 3]), 1)
    """
    op = "voxelize_padded"
    _check_points(op, points, offsets)
    _check_caps(op, max_points, max_voxels)
    size, lower, grid = _grid(op, voxel_size, point_range)
    result = invoke(
        _voxelize_padded,
        as_compute(points),
        offsets,
        size,
        lower,
        grid,
        max_points,
        max_voxels,
        mean,
        checks_content(points.is_cpu),
    )
    if points.dtype in HALVES:
        return PaddedVoxels(result[0].to(points.dtype), *result[1:])
    return PaddedVoxels(*result)


def dynamic_voxelize(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    *,
    offsets: Tensor | None = None,
    order: Literal["lex", "first"] = "lex",
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the voxel of every point, without caps; reduce the points with `scatter`.

    Cells are those of `voxelize`.

    Args:
        points: (N, C) with x, y, z in the first three columns, in metres.
        voxel_size: x, y, z.
        point_range: x, y, z of the lower corner, then of the upper one.
        offsets: (B + 1,) int64 or int32, first row of every batch element and N; None is one element.
        order: "lex" sorts voxels by (b, z, y, x), which does not depend on the order of points and saves
            sparse convolutions a sort; "first" is by batch element, then first come.

    Returns:
        coords (V, 4) int32 as b, z, y, x; point2voxel (N,) int32, -1 outside the grid; counts (V,) int32.
        None carries a gradient.

    Raises:
        ValueError: wrong shapes, options or offsets; at validation level "cheap" a coordinate that is not
            finite (below it, such a point is in no voxel).
        TypeError: not floating-point tensors.

    Example:
        >>> import torch
        >>> from tenfold.ops import dynamic_voxelize, scatter
        >>> points = torch.tensor([[2.5, 0.0, 0.0], [0.5, 0.0, 0.0], [2.7, 0.0, 0.0]])
        >>> coords, point2voxel, counts = dynamic_voxelize(points, (1, 1, 1), (0, 0, 0, 4, 4, 4))
        >>> coords[:, 3].tolist(), counts.tolist()
        ([0, 2], [1, 2])
        >>> scatter(points, point2voxel, len(coords), "mean")[:, 0]
        tensor([0.5000, 2.6000])
    """
    op = "dynamic_voxelize"
    _check_points(op, points, offsets)
    _check_order(op, order)
    size, lower, grid = _grid(op, voxel_size, point_range)
    result: tuple[Tensor, Tensor, Tensor] = invoke(
        _dynamic_voxelize,
        as_compute(points),
        offsets,
        size,
        lower,
        grid,
        order == "lex",
        checks_content(points.is_cpu),
    )
    return result


def dynamic_voxelize_padded(
    points: Tensor,
    voxel_size: Sequence[float],
    point_range: Sequence[float],
    max_voxels: int,
    *,
    offsets: Tensor | None = None,
    order: Literal["lex", "first"] = "lex",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`dynamic_voxelize` with a fixed output size, for static graphs and CUDA graphs.

    Unlike `voxelize_padded` it copies no points, keeps the lexicographic order, and its size is that of the whole
    batch.

    Args:
        points: as `dynamic_voxelize`.
        voxel_size: as `dynamic_voxelize`.
        point_range: as `dynamic_voxelize`.
        max_voxels: rows of the result, for the whole batch.
        offsets: as `dynamic_voxelize`.
        order: as `dynamic_voxelize`.

    Returns:
        coords (max_voxels, 4) int32, the first that `dynamic_voxelize` returns followed by rows of -1;
        point2voxel (N,) int32, -1 outside the grid and for points whose voxel is not stored; counts
        (max_voxels,) int32, zeros behind the voxels; and the number of all voxels, an int32 scalar, which may be
        more than were stored. None carries a gradient.

    Raises:
        ValueError: as `dynamic_voxelize`, or a negative ``max_voxels``.
        TypeError: as `dynamic_voxelize`.

    Example:
        >>> import torch
        >>> from tenfold.ops import dynamic_voxelize_padded, scatter
        >>> points = torch.tensor([[2.5, 0.0, 0.0], [0.5, 0.0, 0.0], [2.7, 0.0, 0.0]])
        >>> coords, point2voxel, counts, count = dynamic_voxelize_padded(points, (1, 1, 1), (0, 0, 0, 4, 4, 4), 3)
        >>> coords[:, 3].tolist(), counts.tolist(), int(count)
        ([0, 2, -1], [1, 2, 0], 2)
        >>> scatter(points, point2voxel, 3, "mean")[:, 0]
        tensor([0.5000, 2.6000, 0.0000])
    """
    op = "dynamic_voxelize_padded"
    _check_points(op, points, offsets)
    _check_order(op, order)
    require_size(op, "max_voxels", max_voxels)
    size, lower, grid = _grid(op, voxel_size, point_range)
    result: tuple[Tensor, Tensor, Tensor, Tensor] = invoke(
        _dynamic_voxelize_padded,
        as_compute(points),
        offsets,
        size,
        lower,
        grid,
        max_voxels,
        order == "lex",
        checks_content(points.is_cpu),
    )
    return result
