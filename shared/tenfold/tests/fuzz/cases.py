"""One generator of calls for every operator; an operator that is added needs one entry.

A generator takes a NumPy generator and returns a call without arguments. `test_fuzz.py` runs it with the kernels
and with the references, and the results must agree: bits, or `rtol` for sums of floats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tenfold import ops
from tenfold.testing.strategies import random_floats
from tenfold.testing.tensors import stride_variant

Rng = np.random.Generator
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """How one operator is called, and how closely kernel and reference agree.

    Args:
        make: draws a call.
        rtol: None compares bits; a number is a tolerance for floating-point results.
    """

    make: Callable[[Rng], Call]
    rtol: float | None = None


def pick(rng: Rng, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]


def size(rng: Rng, most: int = 300) -> int:
    """Mostly small: edges are there, and references take a step for each row. One call in six draws up to most."""
    return int(rng.integers(0, min(most, pick(rng, 3, 3, 20, 20, 20, most)) + 1))


def dtype(rng: Rng) -> Any:
    return pick(rng, np.float32, np.float64)


def tensor(rng: Rng, array: Any) -> torch.Tensor:
    """The array, one time in three in one of the other memory layouts that may hold it."""
    value = torch.from_numpy(np.ascontiguousarray(array))
    if rng.random() < 2 / 3:
        return value
    # A tensor has at most 4 and 2 for each axis.
    return stride_variant(value, int(rng.integers(1, 3 + 2 * value.dim())))


def cloud(rng: Rng, rows: int | None = None, columns: int = 3, kind: Any = None, **more: Any) -> torch.Tensor:
    rows = size(rng) if rows is None else rows
    return tensor(rng, random_floats(rng, columns, rows=rows, dtype=kind or dtype(rng), special=True, **more))


def scores(rng: Rng, rows: int, kind: Any) -> torch.Tensor:
    """With ties; sometimes NaN or infinite."""
    steps = pick(rng, 1, 4, 100, 2**20)
    values = (rng.integers(0, steps + 1, rows) / steps).astype(kind)
    if rows and rng.random() < 0.3:
        values[rng.integers(0, rows, 1 + rows // 10)] = pick(rng, np.nan, np.inf, -np.inf, -0.0)
    return tensor(rng, values)


def plane_boxes(rng: Rng, rows: int, kind: Any) -> torch.Tensor:
    """x1 y1 x2 y2: mostly proper, sometimes inverted, empty or not finite."""
    corner = random_floats(rng, 2, rows=rows, dtype=kind, special=rng.random() < 0.3)
    scale = np.nanmax(np.abs(np.where(np.isfinite(corner), corner, 0)), initial=1e-3)
    side = (rng.exponential(0.5, (rows, 2)) * min(scale, 1e30)).astype(kind)
    if rng.random() < 0.2:
        side *= rng.choice([-1, 0, 1], side.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        return tensor(rng, np.concatenate([corner, corner + side], axis=1))


def ground_boxes(rng: Rng, rows: int, kind: Any, columns: int = 7, special: bool = True) -> torch.Tensor:
    """Rotated boxes with sizes comparable to their distances; some without extent."""
    spread = float(pick(rng, 1e-2, 1.0, 30.0))
    centre = rng.uniform(-spread, spread, (rows, columns // 2))
    extent = rng.exponential(spread / 3, (rows, columns // 2))
    yaw = pick(rng, rng.uniform(-7, 7, (rows, 1)), rng.integers(-4, 5, (rows, 1)) * (np.pi / 4))
    boxes = np.concatenate([centre, extent, yaw], axis=1)
    if rows and rng.random() < 0.3:
        boxes = boxes[rng.integers(0, max(1, rows // 3), rows)]
    if rows and special and rng.random() < 0.3:
        column = int(rng.integers(columns))
        # Beside a side of 1e30 the area of a small box is below what double precision resolves.
        most = 1e6 if columns // 2 <= column < columns - 1 else 1e30
        boxes[rng.integers(0, rows), column] = pick(rng, np.nan, np.inf, 0.0, -1.0, most)
    return tensor(rng, boxes.astype(kind))


def labels(rng: Rng, rows: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-2, 4, rows))


def sites(rng: Rng, shape: tuple[int, int, int], batch: int, most: int = 100) -> torch.Tensor:
    """Unique cells (b, z, y, x) in any order."""
    cells = batch * int(np.prod(shape))
    flat = rng.choice(cells, min(size(rng, most), cells), replace=False)
    if rng.random() < 0.5:
        flat.sort()
    return tensor(rng, np.stack(np.unravel_index(flat, (batch, *shape)), axis=1).astype(np.int32))


def gradient(rng: Rng, function: Callable[..., Any], *inputs: torch.Tensor) -> Call:
    """A call for the gradients of inputs, each result weighted by numbers that repeat themselves."""
    start = int(rng.integers(1000))

    def run() -> tuple[torch.Tensor, ...]:
        leaves = [value.detach().requires_grad_() for value in inputs]
        results = function(*leaves)
        total = torch.zeros((), dtype=inputs[0].dtype)
        for number, result in enumerate(results if isinstance(results, tuple) else (results,)):
            if result.requires_grad:
                weight = torch.arange(start + number, start + number + result.numel(), dtype=result.dtype)
                total = total + (result * ((weight * 0.37) % 2 - 1).view(result.shape)).sum()
        return torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else ()

    return run


def indices(rng: Rng, shape: tuple[int, ...], rows: int) -> torch.Tensor:
    return tensor(
        rng, rng.integers(-1, max(rows, 1), shape).astype(pick(rng, np.int32, np.int64)).clip(max=rows - 1)
    )


# ------------------------------------------------------------------ suppression and overlap


def nms(rng: Rng) -> Call:
    n, kind = size(rng), dtype(rng)
    args = (plane_boxes(rng, n, kind), scores(rng, n, kind), float(pick(rng, 0.0, 0.03, 0.5, 0.7, 1.0)))
    more = {"max_out": pick(rng, None, 0, 5), "score_threshold": pick(rng, None, 0.25)}
    return lambda: ops.nms(*args, **more)


def _batched(rng: Rng) -> tuple[tuple[Any, ...], torch.Tensor | None]:
    n, kind = size(rng, 80), dtype(rng)  # boxes of other labels stay, and the reference takes a step for each
    args = (plane_boxes(rng, n, kind), scores(rng, n, kind), labels(rng, n), float(pick(rng, 0.0, 0.5, 1.0)))
    return args, pick(rng, None, labels(rng, n))


def batched_nms(rng: Rng) -> Call:
    args, batch = _batched(rng)
    return lambda: ops.batched_nms(*args, batch=batch)


def batched_nms_padded(rng: Rng) -> Call:
    args, batch = _batched(rng)
    more = {"max_out": size(rng, 100), "score_threshold": pick(rng, None, 0.25)}
    return lambda: ops.batched_nms_padded(*args, batch=batch, **more)


def nms_rotated(rng: Rng) -> Call:
    n, kind, columns = size(rng, 40), dtype(rng), pick(rng, 5, 7)
    args = (ground_boxes(rng, n, kind, columns), scores(rng, n, kind), float(pick(rng, 0.0, 0.1, 0.5, 1.0)))
    more = {"pre_max": pick(rng, None, 0, 20), "post_max": pick(rng, None, 5)}
    return lambda: ops.nms_rotated(*args, **more)


def box_iou(rng: Rng) -> Call:
    kind, function = dtype(rng), pick(rng, ops.box_iou_bev, ops.box_iou_3d, ops.box_iou_aligned_3d)
    a, b = (ground_boxes(rng, size(rng, 30), kind) for _ in range(2))
    mode = pick(rng, "iou", "inter", "iof")
    return lambda: function(a, b, mode=mode)


def _pairs(rng: Rng) -> tuple[Any, ...]:
    kind = dtype(rng)
    a, b = (ground_boxes(rng, size(rng, 30), kind) for _ in range(2))
    return a, b, float(pick(rng, 0.0, 0.1, 0.5))


def pairs_iou_bev(rng: Rng) -> Call:
    args = _pairs(rng)
    return lambda: ops.pairs_iou_bev(*args)


def pairs_iou_bev_padded(rng: Rng) -> Call:
    args = (*_pairs(rng), size(rng))
    return lambda: ops.pairs_iou_bev_padded(*args)


def _box_pairs(rng: Rng, most: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
    n, kind = size(rng, most), dtype(rng)
    pred, target = (ground_boxes(rng, n, kind, special=False) for _ in range(2))
    return pred, target, pick(rng, "iou", "giou", "diou")


def rotated_iou(rng: Rng) -> Call:
    args = _box_pairs(rng, 60)
    return lambda: ops.rotated_iou(*args)


def rotated_iou_backward(rng: Rng) -> Call:
    pred, target, which = _box_pairs(rng, 9)
    return gradient(rng, lambda p, t: ops.rotated_iou(p, t, which), pred, target)


def topk_peaks(rng: Rng) -> Call:
    shape = (pick(rng, 1, 2), pick(rng, 1, 3), size(rng, 24), size(rng, 24))
    values = random_floats(rng, shape[1:], rows=shape[0], special=True)
    if rng.random() < 0.3:
        values = np.round(values, 1)
    heat = tensor(rng, values)
    more = {"k": pick(rng, 1, 7, 500), "kernel": pick(rng, 1, 3, 5), "per_class": pick(rng, False, True)}
    return lambda: ops.topk_peaks(heat, **more)


def peaks_at(rng: Rng) -> Call:
    heat = tensor(rng, random_floats(rng, (2, size(rng, 24), size(rng, 24)), rows=2, special=True))
    kernel = pick(rng, 1, 3, 5)
    return lambda: ops.peak_mask(heat, kernel)


# ------------------------------------------------------------------ voxels


def grid(rng: Rng) -> tuple[Any, ...]:
    scale = float(pick(rng, 1e-3, 1.0, 1e3))
    return tuple(scale * s for s in pick(rng, (1, 1, 1), (0.3, 0.7, 2.0))), tuple(
        scale * v for v in (-2, -2, -3, 2, 2, 3)
    )


def batch_offsets(rng: Rng, rows: int) -> torch.Tensor | None:
    inner = np.sort(rng.integers(0, rows + 1, int(rng.integers(0, 3))))
    return pick(rng, None, torch.from_numpy(np.concatenate([[0], inner, [rows]])))


def voxelize(rng: Rng) -> Call:
    points = cloud(rng, columns=pick(rng, 3, 4, 7))
    args = (points, *grid(rng), pick(rng, 1, 3, 40), pick(rng, 1, 10, 10**6))
    more = {"offsets": batch_offsets(rng, len(points)), "mean": pick(rng, False, True)}
    return lambda: tuple(ops.voxelize(*args, **more))


def voxelize_backward(rng: Rng) -> Call:
    points = cloud(rng, columns=4)
    args = (*grid(rng), pick(rng, 1, 3, 40), pick(rng, 1, 10, 10**6))
    mean = pick(rng, False, True)
    return gradient(rng, lambda p: ops.voxelize(p, *args, mean=mean)[0], points)


def _dynamic(rng: Rng) -> tuple[tuple[Any, ...], dict[str, Any]]:
    points = cloud(rng, columns=4)
    args = (points, *grid(rng))
    return args, {"offsets": batch_offsets(rng, len(points)), "order": pick(rng, "lex", "first")}


def dynamic_voxelize(rng: Rng) -> Call:
    args, more = _dynamic(rng)
    return lambda: ops.dynamic_voxelize(*args, **more)


def dynamic_voxelize_padded(rng: Rng) -> Call:
    args, more = _dynamic(rng)
    most = size(rng)
    return lambda: ops.dynamic_voxelize_padded(*args, most, **more)


def scatter(rng: Rng) -> Call:
    n, num = size(rng), int(rng.integers(1, pick(rng, 3, 50)))
    feats = tensor(rng, random_floats(rng, size(rng, 40), rows=n, dtype=dtype(rng), scales=(1.0, 1e3)))
    index, reduce = indices(rng, (n,), num), pick(rng, "sum", "mean", "max", "min")
    return lambda: ops.scatter(feats, index, num, reduce)


def scatter_backward(rng: Rng) -> Call:
    n, num = size(rng), int(rng.integers(1, pick(rng, 3, 50)))
    feats = tensor(rng, np.round(rng.standard_normal((n, size(rng, 40))), 1).astype(dtype(rng)))
    index, reduce = indices(rng, (n,), num), pick(rng, "sum", "mean", "max", "min")
    return gradient(rng, lambda f: ops.scatter(f, index, num, reduce), feats)


# ------------------------------------------------------------------ neighbours


def ball_query(rng: Rng) -> Call:
    kind = dtype(rng)
    args = (cloud(rng, kind=kind), cloud(rng, size(rng, 80), kind=kind))
    more = (float(pick(rng, 1e-6, 0.3, 1.0, 1e3, 1e6)), pick(rng, 1, 4, 33))
    return lambda: ops.ball_query(*args, *more)


def knn(rng: Rng) -> Call:
    kind = dtype(rng)
    args = (cloud(rng, kind=kind), cloud(rng, size(rng, 80), kind=kind), pick(rng, 1, 3, 16, 64))
    return lambda: ops.knn(*args)


def three_nn(rng: Rng) -> Call:
    kind = dtype(rng)
    args = (cloud(rng, size(rng, 80), kind=kind), cloud(rng, kind=kind))
    return lambda: ops.three_nn(*args)


def farthest_point_sample(rng: Rng) -> Call:
    points = cloud(rng)
    m = pick(rng, 0, 1, 7, len(points), len(points) + 5)
    start = int(rng.integers(0, max(len(points), 1)))
    return lambda: ops.farthest_point_sample(points, m, start=start)


def farthest_point_sample_dist(rng: Rng) -> Call:
    n, kind = size(rng, 60), dtype(rng)
    dist = tensor(rng, np.abs(random_floats(rng, (n, n), rows=1, dtype=kind, special=True)))
    m = pick(rng, 0, 1, 7, n + 5)
    return lambda: ops.farthest_point_sample(None, m, dist=dist)


def interpolate_backward(rng: Rng) -> Call:
    m, n, kind = 1 + size(rng, 50), size(rng, 30), dtype(rng)
    feats, table = tensor(rng, rng.standard_normal((m, size(rng, 20))).astype(kind)), indices(rng, (n, 3), m)
    weight = tensor(rng, rng.random((n, 3)).astype(kind))
    return gradient(rng, lambda f, w: ops.three_interpolate(f, table, w), feats, weight)


def three_interpolate(rng: Rng) -> Call:
    m, n, kind = size(rng, 50), size(rng), dtype(rng)
    feats = tensor(rng, random_floats(rng, size(rng, 20), rows=m, dtype=kind))
    args = (feats, indices(rng, (n, 3), m), tensor(rng, rng.random((n, 3)).astype(kind)))
    return lambda: ops.three_interpolate(*args)


def _groups(rng: Rng) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    m, rows, k = size(rng, 100), size(rng, 30), int(rng.integers(1, 9))
    feats = tensor(rng, random_floats(rng, int(rng.integers(1, 20)), rows=m, dtype=dtype(rng)))
    count = pick(rng, None, torch.from_numpy(rng.integers(0, k + 1, rows).astype(np.int32)))
    return feats, indices(rng, (rows, k), m), count


def group(rng: Rng) -> Call:
    args = _groups(rng)
    return lambda: ops.group(*args)


def group_max(rng: Rng) -> Call:
    args = _groups(rng)
    return lambda: ops.group_max(*args)


def group_max_backward(rng: Rng) -> Call:
    feats, table, count = _groups(rng)
    return gradient(rng, lambda f: ops.group_max(f, table, count)[0], feats)


def group_out(rng: Rng) -> Call:
    feats, table, count = _groups(rng)
    shape = (*table.shape, feats.shape[1])
    return lambda: ops.group(feats, table, count, out=torch.full(shape, torch.nan, dtype=feats.dtype))


# ------------------------------------------------------------------ points and boxes


def points_in_boxes(rng: Rng) -> Call:
    kind = dtype(rng)
    args = (cloud(rng, kind=kind, scales=(1.0, 30.0)), ground_boxes(rng, size(rng, 40), kind))
    more = {"mode": pick(rng, "first", "mask", "csr"), "margin": pick(rng, 0.0, 1e-5, 0.1)}
    return lambda: ops.points_in_boxes(*args, **more)


def _point_pool(rng: Rng) -> tuple[Any, ...]:
    kind, n = dtype(rng), size(rng)
    feats = tensor(rng, random_floats(rng, (n, 5), rows=1, dtype=kind))
    points = tensor(rng, random_floats(rng, (n, 3), rows=1, dtype=kind, special=True))
    return points, feats, ground_boxes(rng, size(rng, 20), kind)[None], pick(rng, 1, 8, 64)


def roi_point_pool(rng: Rng) -> Call:
    args = _point_pool(rng)
    return lambda: ops.roi_point_pool(*args)


def roi_point_pool_backward(rng: Rng) -> Call:
    points, feats, boxes, k = _point_pool(rng)
    return gradient(rng, lambda f: ops.roi_point_pool(points, f, boxes, k)[0][..., 3:], feats)


def _grid_pool(rng: Rng) -> tuple[tuple[Any, ...], dict[str, Any]]:
    kind, n = dtype(rng), size(rng)
    feats = tensor(rng, random_floats(rng, 5, rows=n, dtype=kind))
    args = (
        ground_boxes(rng, size(rng, 8), kind),
        cloud(rng, n, kind=kind),
        feats,
        pick(rng, 1, 3, (2, 4, 1)),
    )
    return args, {"mode": pick(rng, "max", "avg"), "max_points": pick(rng, 1, 3, 127)}


def roi_grid_pool3d(rng: Rng) -> Call:
    args, more = _grid_pool(rng)
    return lambda: ops.roi_grid_pool3d(*args, **more)


def roi_grid_pool3d_backward(rng: Rng) -> Call:
    (rois, points, feats, cells), more = _grid_pool(rng)
    return gradient(rng, lambda f: ops.roi_grid_pool3d(rois, points, f, cells, **more), feats)


# ------------------------------------------------------------------ sparse


def rulebook_submanifold(rng: Rng) -> Call:
    shape, batch = pick(rng, (4, 5, 6), (1, 1, 70), (9, 3, 20)), pick(rng, 1, 3)
    args = (sites(rng, shape, batch), shape, batch, pick(rng, 1, 2, 3, (1, 3, 5)))
    dilation = pick(rng, 1, 2)
    return lambda: ops.rulebook_submanifold(*args, dilation=dilation)


def _strided(rng: Rng) -> tuple[tuple[Any, ...], dict[str, int]]:
    shape, batch = pick(rng, (4, 5, 6), (5, 5, 70), (9, 5, 20)), pick(rng, 1, 3)
    args = (sites(rng, shape, batch), shape, batch, pick(rng, 1, 2, 3))
    return args, {"stride": pick(rng, 1, 2, 3), "padding": pick(rng, 0, 1), "dilation": pick(rng, 1, 2)}


def rulebook_strided(rng: Rng) -> Call:
    args, more = _strided(rng)
    return lambda: ops.rulebook_strided(*args, **more)[:2]


def rulebook_strided_padded(rng: Rng) -> Call:
    args, more = _strided(rng)
    most = size(rng)

    def run() -> tuple[torch.Tensor, ...]:
        found, table, _, count = ops.rulebook_strided_padded(*args, most, **more)
        return found, table, count

    return run


def _table(rng: Rng) -> tuple[torch.Tensor, int, tuple[int, int, int]]:
    rows, kernel = size(rng, 60), pick(rng, (3, 3, 3), (2, 2, 2), (1, 3, 1), (1, 1, 1))
    return indices(rng, (math.prod(kernel), size(rng, 60)), rows).int(), rows, kernel


def sparse_conv(rng: Rng) -> Call:
    table, rows, kernel = _table(rng)
    kind, c_in, c_out = dtype(rng), int(rng.integers(1, 40)), int(rng.integers(1, 40))
    feats = tensor(rng, rng.standard_normal((rows, c_in)).astype(kind))
    weight = tensor(rng, rng.standard_normal((c_out, *kernel, c_in)).astype(kind))
    return lambda: ops.sparse_conv(feats, weight, table)


def rulebook_invert(rng: Rng) -> Call:
    shape = (5, 5, 20)
    coords = sites(rng, shape, 2, most=60)
    stride, padding = pick(rng, 1, 2), pick(rng, 0, 1)

    def run() -> torch.Tensor:
        table = ops.rulebook_strided(coords, shape, 2, 3, stride=stride, padding=padding)[1]
        return ops.rulebook_invert(table, len(coords))

    return run


def sparse_conv_weight(rng: Rng) -> Call:
    shape, kernel = (4, 5, 6), pick(rng, (3, 3, 3), (1, 3, 1))
    coords, kind = sites(rng, shape, 2, most=40), dtype(rng)
    c_in, c_out = int(rng.integers(1, 20)), int(rng.integers(1, 20))
    feats = tensor(rng, rng.standard_normal((len(coords), c_in)).astype(kind))
    weight = tensor(rng, rng.standard_normal((c_out, *kernel, c_in)).astype(kind))

    def convolved(f: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        table = ops.rulebook_submanifold(coords, shape, 2, kernel)
        return ops.sparse_conv(f, w, table, symmetric=True)

    return gradient(rng, convolved, feats, weight)


def sparse_max_pool(rng: Rng) -> Call:
    table, rows, _ = _table(rng)
    feats = tensor(rng, random_floats(rng, int(rng.integers(1, 20)), rows=rows, dtype=dtype(rng)))
    return lambda: ops.sparse_max_pool(feats, table)


def lookup(rng: Rng) -> Call:
    shape = (4, 5, 6)
    table, coords = sites(rng, shape, 2), tensor(rng, rng.integers(-1, 7, (size(rng), 4)).astype(np.int32))
    return lambda: ops.lookup(ops.VoxelTable(table), coords)


def voxel_query(rng: Rng) -> Call:
    kind, cells = dtype(rng), sites(rng, (6, 6, 6), 2)
    centres = tensor(rng, random_floats(rng, 3, rows=len(cells), dtype=kind, scales=(1.0,)))
    m = size(rng, 60)
    coords = tensor(rng, rng.integers(0, 6, (m, 4)).astype(np.int32) % np.array([2, 6, 6, 6], np.int32))
    query = tensor(rng, random_floats(rng, 3, rows=m, dtype=kind, scales=(1.0,)))
    more = (pick(rng, (1, 1, 1), (0, 2, 3)), float(pick(rng, 0.2, 1.0, 5.0)), pick(rng, 1, 4, 16))
    return lambda: ops.voxel_query(ops.VoxelTable(cells), centres, coords, query, *more)


# ------------------------------------------------------------------ images


def bilinear_sample(rng: Rng) -> Call:
    kind, h, w = dtype(rng), int(rng.integers(1, 9)), int(rng.integers(1, 9))
    feat = tensor(rng, rng.standard_normal((2, 3, h, w)).astype(kind))
    n = size(rng, 60)
    uv = rng.uniform(-3, 12, (2, n, 2)).astype(kind)
    if rng.random() < 0.4:
        uv = np.round(uv)
    if n and rng.random() < 0.3:
        uv[0, int(rng.integers(n))] = pick(rng, np.nan, np.inf, 1e30)
    args, border = (feat, tensor(rng, uv)), pick(rng, "zero", "clamp", "parity")
    return lambda: ops.bilinear_sample(*args, border=border)


def bilinear_sample_backward(rng: Rng) -> Call:
    kind, h, w, n = dtype(rng), int(rng.integers(1, 9)), int(rng.integers(1, 9)), size(rng, 6)
    feat, uv = rng.standard_normal((2, 3, h, w)).astype(kind), rng.uniform(-3, 12, (2, n, 2)).astype(kind)
    border = pick(rng, "zero", "clamp", "parity")
    both = tensor(rng, feat), tensor(rng, uv)
    return gradient(rng, lambda f, p: ops.bilinear_sample(f, p, border=border), *both)


def ttf_targets(rng: Rng) -> Call:
    n = size(rng, 12)
    corner = rng.uniform(-10, 60, (n, 2))
    boxes = tensor(rng, np.concatenate([corner, corner + rng.exponential(20, (n, 2))], 1).astype(np.float32))
    args = (boxes, torch.from_numpy(rng.integers(-1, 3, n)), (48, 64), 3)
    more = {
        "area": pick(rng, "log", "sqrt", "linear", "norm"),
        "weight": pick(rng, "gaussian", "flat", "none"),
    }
    return lambda: ops.ttf_targets(*args, **more)


# ------------------------------------------------------------------ filters


def feature_map(rng: Rng, kind: Any, most: int = 30) -> torch.Tensor:
    shape = (int(rng.integers(0, 3)), int(rng.integers(0, 4)), *(int(n) for n in rng.integers(1, most, 2)))
    values = rng.standard_normal(shape).astype(kind)
    if values.size and rng.random() < 0.2:
        values.flat[int(rng.integers(values.size))] = pick(rng, np.nan, np.inf, -0.0, 1e-40)
    return tensor(rng, values)


def fir_filter(rng: Rng, kind: Any) -> torch.Tensor:
    shape = rng.integers(1, 13, 1) if rng.random() < 0.6 else rng.integers(1, 6, 2)
    return tensor(rng, rng.standard_normal(tuple(int(n) for n in shape)).astype(kind))


def pads(rng: Rng) -> tuple[int, ...]:
    return tuple(int(n) for n in rng.integers(-3, 13, 4))


def upfirdn2d(rng: Rng) -> Call:
    kind = dtype(rng)
    x, f = feature_map(rng, kind), fir_filter(rng, kind)
    up, down = ([int(n) for n in rng.integers(1, 5, 2)] for _ in range(2))
    more = {"padding": pads(rng), "flip": rng.random() < 0.5, "gain": pick(rng, 1.0, 4.0)}
    return lambda: ops.upfirdn2d(x, f, up=up, down=down, **more)


def _activation(rng: Rng) -> dict[str, Any]:
    return {
        "slope": pick(rng, 0.0, 0.2, 1.0),
        "gain": pick(rng, 1.0, 1.5),
        "clamp": pick(rng, None, 0.0, 0.9),
    }


def _bias(rng: Rng, x: torch.Tensor, kind: Any) -> torch.Tensor | None:
    return tensor(rng, rng.standard_normal(x.shape[1]).astype(kind)) if rng.random() < 0.6 else None


def bias_act(rng: Rng) -> Call:
    kind = dtype(rng)
    x = feature_map(rng, kind)
    bias, noise = _bias(rng, x, kind), None
    if rng.random() < 0.5:
        batch = pick(rng, 1, x.shape[0])
        noise = tensor(rng, rng.standard_normal((batch, 1, *x.shape[2:])).astype(kind))
    more = _activation(rng)
    return lambda: ops.bias_act(x, bias, noise=noise, **more)


def bias_act_gate(rng: Rng) -> Call:
    kind = dtype(rng)
    x, more = (
        torch.from_numpy(rng.standard_normal((2, 3, 5, int(rng.integers(1, 40)))).astype(kind)),
        _activation(rng),
    )
    bias = torch.from_numpy(rng.standard_normal(3).astype(kind))
    return gradient(rng, lambda x, b: ops.bias_act(x, b, **more), x, bias)


def _between(rng: Rng, kind: Any) -> dict[str, Any]:
    filters = {name: fir_filter(rng, kind) for name in ("up_filter", "down_filter") if rng.random() < 0.9}
    factors = {name: pick(rng, 1, 2, 2, 3, 4) for name in ("up", "down")}
    return {**filters, **factors, **_activation(rng), "padding": pads(rng), "flip": rng.random() < 0.5}


def filtered_lrelu(rng: Rng) -> Call:
    kind = dtype(rng)
    x, more = feature_map(rng, kind, 20), _between(rng, kind)
    bias = _bias(rng, x, kind)
    return lambda: ops.filtered_lrelu(x, bias, **more)


def filtered_lrelu_gate(rng: Rng) -> Call:
    kind, more = dtype(rng), _between(rng, dtype(rng))
    more = {
        k: v.to(torch.from_numpy(np.zeros(1, kind)).dtype) if "filter" in k else v for k, v in more.items()
    }
    x = torch.from_numpy(rng.standard_normal((1, 2, 6, int(rng.integers(1, 20)))).astype(kind))
    bias = torch.from_numpy(rng.standard_normal(2).astype(kind))
    return gradient(rng, lambda x, b: ops.filtered_lrelu(x, b, **more), x, bias)


CASES: dict[str, Case] = {
    "ball_query": Case(ball_query),
    "batched_nms": Case(batched_nms),
    "batched_nms_padded": Case(batched_nms_padded),
    "bias_act": Case(bias_act, rtol=1e-5),
    "bias_act_gate": Case(bias_act_gate, rtol=1e-4),
    "bilinear_sample": Case(bilinear_sample, rtol=1e-5),
    "bilinear_sample_backward": Case(bilinear_sample_backward, rtol=1e-4),
    "box_iou": Case(box_iou, rtol=1e-5),
    "dynamic_voxelize": Case(dynamic_voxelize),
    "dynamic_voxelize_padded": Case(dynamic_voxelize_padded),
    "farthest_point_sample": Case(farthest_point_sample),
    "farthest_point_sample_dist": Case(farthest_point_sample_dist),
    "filtered_lrelu": Case(filtered_lrelu, rtol=1e-3),
    "filtered_lrelu_gate": Case(filtered_lrelu_gate, rtol=1e-3),
    "group": Case(group),
    "group_max": Case(group_max),
    "group_max_backward": Case(group_max_backward, rtol=1e-4),
    "group_out": Case(group_out),
    "interpolate_backward": Case(interpolate_backward, rtol=1e-4),
    "knn": Case(knn),
    "lookup": Case(lookup),
    "nms": Case(nms),
    "nms_rotated": Case(nms_rotated),
    "pairs_iou_bev": Case(pairs_iou_bev, rtol=1e-5),
    "pairs_iou_bev_padded": Case(pairs_iou_bev_padded, rtol=1e-5),
    "peaks_at": Case(peaks_at),
    "points_in_boxes": Case(points_in_boxes),
    "roi_grid_pool3d": Case(roi_grid_pool3d, rtol=1e-5),
    "roi_grid_pool3d_backward": Case(roi_grid_pool3d_backward, rtol=1e-4),
    "roi_point_pool": Case(roi_point_pool),
    "roi_point_pool_backward": Case(roi_point_pool_backward, rtol=1e-4),
    "rotated_iou": Case(rotated_iou, rtol=1e-4),
    "rotated_iou_backward": Case(rotated_iou_backward, rtol=1e-4),
    "rulebook_invert": Case(rulebook_invert),
    "rulebook_strided": Case(rulebook_strided),
    "rulebook_strided_padded": Case(rulebook_strided_padded),
    "rulebook_submanifold": Case(rulebook_submanifold),
    "scatter": Case(scatter, rtol=1e-4),
    "scatter_backward": Case(scatter_backward, rtol=1e-4),
    "sparse_conv": Case(sparse_conv, rtol=1e-4),
    "sparse_conv_weight": Case(sparse_conv_weight, rtol=1e-3),
    "sparse_max_pool": Case(sparse_max_pool),
    "three_interpolate": Case(three_interpolate, rtol=1e-5),
    "three_nn": Case(three_nn),
    "topk_peaks": Case(topk_peaks),
    "ttf_targets": Case(ttf_targets, rtol=1e-5),
    "upfirdn2d": Case(upfirdn2d, rtol=1e-3),
    "voxel_query": Case(voxel_query),
    "voxelize": Case(voxelize, rtol=1e-5),
    "voxelize_backward": Case(voxelize_backward, rtol=1e-5),
}
