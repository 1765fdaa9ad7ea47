"""Features of the points inside rotated boxes: a fixed number of points, or the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import HALVES, LIMIT, as_compute, require, require_float, require_integers
from tenfold.ops._library import define, invoke, no_second_derivative
from tenfold.ops._points_in_boxes import check_points_boxes

__all__ = ["roi_grid_pool3d", "roi_point_pool"]


def _fake_point_pool(
    points: Tensor, feats: Tensor, boxes: Tensor, k: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    shape = boxes.shape[:-1]
    return (
        feats.new_empty((*shape, k, 3 + feats.shape[-1])),
        points.new_empty((*shape, k), dtype=torch.int32),
        points.new_empty(shape, dtype=torch.int32),
    )


def _fake_point_backward(grad: Tensor, point: Tensor, count: Tensor, rows: int) -> Tensor:
    return grad.new_empty((*point.shape[:-2], rows, grad.shape[-1] - 3))


def _fake_grid_pool(
    rois: Tensor,
    points: Tensor,
    feats: Tensor,
    grid: Sequence[int],
    max_points: int,
    maximum: bool,
    need_arg: bool,
    *_: Any,
) -> tuple[Tensor, Tensor]:
    shape, channels = rois.shape[:-1], feats.shape[-1]
    cells = grid[0] * grid[1] * grid[2]
    return feats.new_empty((*shape, *grid, channels)), feats.new_empty(
        (*shape, cells, channels) if maximum and need_arg else (0,), dtype=torch.int32
    )


def _fake_grid_backward(grad: Tensor, arg: Tensor, rois: Tensor, points: Tensor, *_: Any) -> Tensor:
    return grad.new_empty((*points.shape[:-1], grad.shape[-1]))


_BATCH = "Tensor? lengths, Tensor? box_lengths, Tensor? offsets, Tensor? box_offsets"

_point_backward = define(
    "roi_point_pool_backward(Tensor grad, Tensor point, Tensor count, SymInt rows) -> Tensor",
    contract=1,
    reference=ref.roi_point_pool_backward,
    fake=_fake_point_backward,
    backward=no_second_derivative("roi_point_pool"),
)
_grid_backward = define(
    "roi_grid_pool3d_backward(Tensor grad, Tensor arg, Tensor rois, Tensor points, int[] grid, "
    f"SymInt max_points, bool maximum, float margin, float z_margin, {_BATCH}) -> Tensor",
    contract=1,
    reference=ref.roi_grid_pool3d_backward,
    fake=_fake_grid_backward,
    backward=no_second_derivative("roi_grid_pool3d"),
)


def _setup_point(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.rows = inputs[1].shape[-2]
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _point_gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return (None, invoke(_point_backward, grad, *ctx.saved_tensors, ctx.rows), *([None] * 10))


def _setup_grid(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    rois, points, _, ctx.grid, ctx.max_points, ctx.maximum, _, ctx.margin, ctx.z_margin, *batch, _ = inputs
    ctx.save_for_backward(output[1], rois, points, *batch)
    ctx.mark_non_differentiable(output[1])


def _grid_gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    arg, rois, points, *batch = ctx.saved_tensors
    options = (ctx.grid, ctx.max_points, ctx.maximum, ctx.margin, ctx.z_margin)
    return (None, None, invoke(_grid_backward, grad, arg, rois, points, *options, *batch), *([None] * 11))


_roi_point_pool = define(
    "roi_point_pool(Tensor points, Tensor feats, Tensor boxes, SymInt k, float[] enlarge, float margin, "
    f"float z_margin, {_BATCH}, bool validate) -> (Tensor pooled, Tensor point, Tensor count)",
    contract=1,
    reference=ref.roi_point_pool,
    fake=_fake_point_pool,
    backward=_point_gradient,
    setup_context=_setup_point,
)
_roi_grid_pool3d = define(
    "roi_grid_pool3d(Tensor rois, Tensor points, Tensor feats, int[] grid, SymInt max_points, bool maximum, "
    f"bool need_arg, float margin, float z_margin, {_BATCH}, bool validate) -> (Tensor pooled, Tensor arg)",
    contract=1,
    reference=ref.roi_grid_pool3d,
    fake=_fake_grid_pool,
    backward=_grid_gradient,
    setup_context=_setup_grid,
)


def _check_feats(op: str, points: Tensor, feats: Tensor) -> None:
    require_float(op, "feats", feats)
    require(
        feats.dim() == points.dim() and feats.shape[:-1] == points.shape[:-1],
        f"{op}: feats: got shape {tuple(feats.shape)} with points of shape {tuple(points.shape)}; expected one "
        "row per point",
    )
    require(feats.device == points.device, f"{op}: feats: on {feats.device}; expected {points.device}")


def roi_point_pool(
    points: Tensor,
    feats: Tensor,
    boxes: Tensor,
    k: int = 512,
    *,
    enlarge: Sequence[float] = (0.0, 0.0, 0.0),
    margin: float = 1e-5,
    z_margin: float = 0.0,
    lengths: Tensor | None = None,
    box_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    box_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Collect k points of every box with their features (PointRCNN's RoI pooling, with a gradient).

    The first k points inside a box, in index order, fill its slots; with fewer, slot j holds hit j modulo their
    number. Membership is that of `points_in_boxes` for boxes enlarged by ``enlarge``; a box with a size <= 0
    stays empty however much it is enlarged.

    Args:
        points: (N, 3), padded (B, N, 3) or stacked (sum N, 3); metres.
        feats: (N, C) or (B, N, C), a row per point.
        boxes: (M, 7), (B, M, 7) or (sum M, 7) in the same form: x, y, z, dx, dy, dz, yaw.
        k: slots of every box.
        enlarge: metres added to dx, dy, dz in all (half of it on each side).
        margin: as for `points_in_boxes`, like all arguments below.
        z_margin: added to dz / 2.
        lengths: (B,) used points of padded elements.
        box_lengths: (B,) used boxes.
        offsets: (B + 1,) of stacked points.
        box_offsets: (B + 1,) of stacked boxes.

    Returns:
        pooled (M, k, 3 + C) or (B, M, k, 3 + C): coordinates, then features, in the common dtype; and empty
        (M,) or (B, M) bool: boxes without a point, whose slots are zero. The gradient flows to ``feats`` alone;
        repeated slots accumulate.

    Raises:
        ValueError: wrong shapes or options; content checks as `points_in_boxes`.
        TypeError: wrong dtypes.
        NotImplementedError: a second derivative is asked for.

    Example:
        >>> import torch
        >>> from tenfold.ops import roi_point_pool
        >>> points = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0], [5.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]])
        >>> pooled, empty = roi_point_pool(points, torch.tensor([[1.0], [2.0], [3.0]]), boxes, 3)
        >>> pooled[0, :, 3], empty
        (tensor([1., 3., 1.]), tensor([False,  True]))
    """
    op = "roi_point_pool"
    require(0 <= k < LIMIT, f"{op}: k: got {k}; expected a number from 0 to 2^31 - 1")
    growth = [float(e) for e in enlarge]
    require(
        len(growth) == 3 and all(0.0 <= e < 1e30 for e in growth),
        f"{op}: enlarge: got {list(enlarge)}; expected three numbers from 0 to 1e30, in metres",
    )
    require_float(op, "points", points)
    points, boxes, lengths, box_lengths, offsets, box_offsets = check_points_boxes(
        op, points, boxes, margin, z_margin, lengths, box_lengths, offsets, box_offsets
    )
    _check_feats(op, points, feats)
    wide = as_compute(feats)
    common = torch.promote_types(points.dtype, wide.dtype)
    pooled, _, count = invoke(
        _roi_point_pool,
        points.detach().to(common),
        wide.to(common),
        boxes.detach().to(common),
        k,
        growth,
        margin,
        z_margin,
        lengths,
        box_lengths,
        offsets,
        box_offsets,
        checks_content(points.is_cpu),
    )
    return pooled, count == 0


def _sorted_rois(
    op: str, rois: Tensor, roi_batch: Tensor, batch: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rois ordered by batch element, their offsets, and the way back (None where they were in order)."""
    require_integers(op, "roi_batch", roi_batch)
    require(
        tuple(roi_batch.shape) == (rois.shape[0],),
        f"{op}: roi_batch: got shape {tuple(roi_batch.shape)}; expected ({rois.shape[0]},), one per row of rois",
    )
    eager = not torch.compiler.is_compiling()
    if eager and checks_content(rois.is_cpu):
        bad = (roi_batch < 0) | (roi_batch >= batch)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise ValueError(
                f"{op}: roi_batch: row {row} is {int(roi_batch[row])}; expected values from 0 to {batch - 1}"
            )
    wanted = torch.arange(batch + 1, device=rois.device, dtype=roi_batch.dtype)
    if eager and bool((roi_batch[1:] >= roi_batch[:-1]).all()):
        return rois, torch.searchsorted(roi_batch, wanted), None
    order = roi_batch.argsort(stable=True)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=rois.device))
    return rois[order], torch.searchsorted(roi_batch[order], wanted), back


def roi_grid_pool3d(
    rois: Tensor,
    points: Tensor,
    feats: Tensor,
    grid: int | Sequence[int],
    *,
    max_points: int = 127,
    mode: Literal["max", "avg"] = "max",
    margin: float = 1e-5,
    z_margin: float = 0.0,
    lengths: Tensor | None = None,
    roi_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    roi_offsets: Tensor | None = None,
    roi_batch: Tensor | None = None,
) -> Tensor:
    """Pool the points of every box over the cells of a grid in its frame (Part-A2's RoI-aware pooling).

    A point inside the box (as `points_in_boxes`) with local coordinate l belongs to the cell
    ``floor((l + d / 2) / (d / g))`` of each axis, clamped to the grid. A cell uses its first ``max_points``
    points in index order. An empty cell is 0. Memory grows with the number of points inside boxes, not with
    cells times ``max_points``.

    Args:
        rois: (M, 7), padded (B, M, 7) or stacked (sum M, 7): x, y, z, dx, dy, dz, yaw; metres and radians.
        points: (N, 3), (B, N, 3) or (sum N, 3), in the same form.
        feats: (N, C) or (B, N, C), a row per point.
        grid: cells along x, y and z of the box, one number for all or three.
        max_points: points that a cell uses at most. Peers that reserve 128 slots, of which the first holds the
            count, use 127.
        mode: "max" (the first of equal values takes the gradient, NaN wins) or "avg" over the points used.
        margin: as for `points_in_boxes`, like the arguments below.
        z_margin: added to dz / 2.
        lengths: (B,) used points of padded elements.
        roi_lengths: (B,) used boxes.
        offsets: (B + 1,) of stacked points.
        roi_offsets: (B + 1,) of stacked rois.
        roi_batch: (M,) batch element of every roi instead of ``roi_offsets``; any order.

    Returns:
        (M, gx, gy, gz, C), with a leading B for padded input, in the dtype of ``feats``. The gradient flows to
        ``feats`` alone.

    Raises:
        ValueError: wrong shapes or options; content checks as `points_in_boxes`, and of ``roi_batch``.
        TypeError: wrong dtypes.
        NotImplementedError: a second derivative is asked for.

    Example:
        >>> import torch
        >>> from tenfold.ops import roi_grid_pool3d
        >>> rois = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 2.0, 0.0]])
        >>> points = torch.tensor([[-1.0, 0.0, 0.0], [-1.5, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> roi_grid_pool3d(rois, points, torch.tensor([[1.0], [2.0], [3.0]]), (2, 1, 1)).flatten()
        tensor([2., 3.])
    """
    op = "roi_grid_pool3d"
    cells = [grid] * 3 if isinstance(grid, int) else [int(g) for g in grid]
    require(
        len(cells) == 3 and all(1 <= g < LIMIT for g in cells) and cells[0] * cells[1] * cells[2] < LIMIT,
        f"{op}: grid: got {grid}; expected one or three numbers from 1 whose product is below 2^31",
    )
    require(
        1 <= max_points < LIMIT, f"{op}: max_points: got {max_points}; expected a number from 1 to 2^31 - 1"
    )
    require(mode in ("max", "avg"), f"{op}: mode: got {mode!r}; expected 'max' or 'avg'")
    back = None
    if roi_batch is not None:
        require(
            offsets is not None and roi_offsets is None and rois.dim() == 2,
            f"{op}: roi_batch: expected stacked rois with offsets of the points and without roi_offsets",
        )
        assert offsets is not None
        rois, roi_offsets, back = _sorted_rois(op, rois, roi_batch, offsets.shape[0] - 1)
    points, rois, lengths, roi_lengths, offsets, roi_offsets = check_points_boxes(
        op, points, rois, margin, z_margin, lengths, roi_lengths, offsets, roi_offsets, "rois", "roi_"
    )
    _check_feats(op, points, feats)
    wide = as_compute(feats)
    common = torch.promote_types(points.dtype, wide.dtype)
    need_arg = mode == "max" and feats.requires_grad and torch.is_grad_enabled()
    pooled, _ = invoke(
        _roi_grid_pool3d,
        rois.detach().to(common),
        points.detach().to(common),
        wide.to(common),
        cells,
        max_points,
        mode == "max",
        need_arg,
        margin,
        z_margin,
        lengths,
        roi_lengths,
        offsets,
        roi_offsets,
        checks_content(points.is_cpu),
    )
    result: Tensor = pooled if back is None else pooled[back]
    return result.to(feats.dtype) if feats.dtype in HALVES else result
