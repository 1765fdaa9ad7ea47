"""Rows of peaks, RoI pools, rotated losses, voxel queries, bilinear sampling and detector targets."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from kernels import boxes as make_boxes
from kernels import frames
from kernels.limits import Limits
from kernels.model import Call, Case, Goal, Peer, Row, bit_equal, within

# ------------------------------------------------------------------ peaks


def _heat_case(scale: float, _dtype: str) -> Case:
    classes = max(1, round(80 * scale))
    g = torch.Generator().manual_seed(0)
    heat = torch.randn(1, classes, 128, 128, generator=g, dtype=torch.float64).sigmoid().float()
    return Case(heat.numel(), f"{classes} x 128 x 128, 100 peaks", {"heat": heat, "k": 100})


def _ours_peaks(case: Case) -> Call:
    from tenfold.ops import topk_peaks

    return lambda: topk_peaks(case["heat"], case["k"])


def _torch_peaks(case: Case) -> Call:
    """Max-pool, mask and one top-k, as CenterNet-style decoders do it."""
    heat, k = case["heat"], case["k"]

    def run() -> tuple[torch.Tensor, ...]:
        kept = heat * (F.max_pool2d(heat, 3, 1, 1) == heat)
        scores, place = kept.flatten(1).topk(k)
        return scores, place // 16384, place // 128 % 128, place % 128

    return run


def _peaks_by_definition(case: Case) -> tuple[np.ndarray, ...]:
    heat = case["heat"][0].numpy()
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    place = np.flatnonzero((windows <= heat[..., None, None]).all(axis=(-1, -2)))
    order = place[np.argsort(-heat.ravel()[place], kind="stable")][: case["k"]]
    return tuple(part[None] for part in (heat.ravel()[order], *np.unravel_index(order, heat.shape)))


# ------------------------------------------------------------------ points in regions


def _region_case(points: int, rois: int, channels: int) -> Any:
    def make(scale: float, _dtype: str) -> Case:
        frame = frames.kitti()
        rng = np.random.default_rng(7)
        count = round(points * scale)
        cloud = frames.denser(frame.points, max(1.0, count / len(frame.points)))
        chosen = np.sort(rng.choice(len(cloud), count, replace=False))
        xyz = torch.from_numpy(np.ascontiguousarray(cloud[chosen, :3]))
        placed = torch.from_numpy(make_boxes.around_points(rng, frame.points, rois).astype(np.float32))
        feats = torch.from_numpy(rng.standard_normal((count, channels)).astype(np.float32))
        data = {"points": xyz, "feats": feats, "boxes": placed, "source": frame.source}
        return Case(count, f"{count:,} points, {rois} boxes, {channels} channels", data)

    return make


def _inside(points: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(M, N) membership and (M, N, 3) local coordinates: the usual formulation."""
    gap = points[None] - boxes[:, None, :3]
    cos, sin = boxes[:, 6].double().cos().float()[:, None], boxes[:, 6].double().sin().float()[:, None]
    local = torch.stack(
        [gap[..., 0] * cos + gap[..., 1] * sin, gap[..., 1] * cos - gap[..., 0] * sin, gap[..., 2]], -1
    )
    half = boxes[:, None, 3:6] / 2
    inside = (local[..., :2].abs() < half[..., :2] + 1e-5).all(-1) & (local[..., 2].abs() <= half[..., 2])
    return inside, local


SLOTS = 512


def _ours_slots(case: Case) -> Call:
    from tenfold.ops import roi_point_pool

    return lambda: roi_point_pool(case["points"], case["feats"], case["boxes"], SLOTS)


def _torch_slots(case: Case) -> Call:
    points, feats, boxes = case["points"], case["feats"], case["boxes"]
    n = len(points)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        inside, _ = _inside(points, boxes)
        count = inside.sum(1)
        first = torch.where(inside, torch.arange(n), n).topk(min(SLOTS, n), largest=False).values
        slot = torch.arange(SLOTS) % count.clamp(1, SLOTS)[:, None]
        rows = first.gather(1, slot).clamp(max=n - 1)
        pooled = torch.cat([points[rows], feats[rows]], -1)
        return torch.where((count > 0)[:, None, None], pooled, 0), count == 0

    return run


def _slots_by_definition(case: Case) -> tuple[np.ndarray, np.ndarray]:
    points, feats = case["points"].numpy(), case["feats"].numpy()
    inside = _inside(case["points"], case["boxes"])[0].numpy()
    out = np.zeros((len(inside), SLOTS, 3 + feats.shape[1]), np.float32)
    for row, mask in enumerate(inside):
        hits = np.flatnonzero(mask)
        if len(hits):
            rows = hits[np.arange(SLOTS) % min(len(hits), SLOTS)]
            out[row] = np.concatenate([points[rows], feats[rows]], axis=1)
    return out, ~inside.any(axis=1)


CELLS = 12


def _ours_grid(case: Case) -> Call:
    from tenfold.ops import roi_grid_pool3d

    return lambda: roi_grid_pool3d(case["boxes"], case["points"], case["feats"], CELLS, max_points=10**6)


def _cell_of(local: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    cell = ((local + size / 2) / (size / CELLS)).floor().clamp(0, CELLS - 1).long()
    return (cell[:, 0] * CELLS + cell[:, 1]) * CELLS + cell[:, 2]


def _torch_grid(case: Case) -> Call:
    """Membership of all pairs, then one scatter_reduce over the hits."""
    points, feats, boxes = case["points"], case["feats"], case["boxes"]

    def run() -> torch.Tensor:
        inside, local = _inside(points, boxes)
        row, point = inside.nonzero(as_tuple=True)
        cell = row * CELLS**3 + _cell_of(local[row, point], boxes[row, 3:6])
        out = torch.zeros(len(boxes) * CELLS**3, feats.shape[1])
        index = cell[:, None].expand(-1, feats.shape[1])
        out.scatter_reduce_(0, index, feats[point], "amax", include_self=False)
        return out.view(len(boxes), CELLS, CELLS, CELLS, -1)

    return run


def _grid_by_definition(case: Case) -> np.ndarray:
    inside, local = _inside(case["points"], case["boxes"])
    feats = case["feats"].numpy()
    out = np.full((len(inside), CELLS**3, feats.shape[1]), -np.inf, np.float32)
    for row, mask in enumerate(inside):
        hits = mask.nonzero().flatten()
        cells = _cell_of(local[row, hits], case["boxes"][row, 3:6].expand(len(hits), 3)).numpy()
        np.maximum.at(out[row], cells, feats[hits.numpy()])
    return np.where(np.isinf(out), 0, out).reshape(len(inside), CELLS, CELLS, CELLS, -1)


# ------------------------------------------------------------------ rotated losses


def _loss_case(scale: float, _dtype: str) -> Case:
    n = round(4096 * scale)
    rng = np.random.default_rng(3)
    target = np.concatenate(
        [rng.uniform(-40, 40, (n, 2)), rng.uniform(1, 5, (n, 2)), rng.uniform(-3, 3, (n, 1))], 1
    )
    pred = target + rng.normal(0, [0.4, 0.4, 0.2, 0.2, 0.2], (n, 5))
    pred[:, 2:4] = np.abs(pred[:, 2:4]) + 0.1
    data = {"pred": torch.from_numpy(pred), "target": torch.from_numpy(target)}
    return Case(n, f"{n:,} pairs, forward and backward, float64", data)


def _loss_call(case: Case, value: Any) -> Call:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        pred = case["pred"].clone().requires_grad_()
        iou = value(pred, case["target"])
        (grad,) = torch.autograd.grad(iou.sum(), pred)
        return iou.detach(), grad

    return run


def _ours_loss(case: Case) -> Call:
    from tenfold.ops import rotated_iou

    return _loss_call(case, rotated_iou)


def _polygon_loss(case: Case) -> Call:
    """Polygon clipping written in torch, differentiated by autograd."""
    from tenfold.ref._iou import intersection

    def value(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        inter = intersection(pred, target)
        return inter / (pred[:, 2] * pred[:, 3] + target[:, 2] * target[:, 3] - inter)

    return _loss_call(case, value)


def _loss_by_differences(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Values by Shapely, gradients by their central differences, on the first 200 pairs."""
    from shapely import affinity, geometry

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        shapes = [
            affinity.translate(
                affinity.rotate(
                    geometry.box(-w / 2, -h / 2, w / 2, h / 2), t, origin=(0, 0), use_radians=True
                ),
                x,
                y,
            )
            for x, y, w, h, t in (a, b)
        ]
        inter = shapes[0].intersection(shapes[1]).area
        return float(inter / (shapes[0].area + shapes[1].area - inter))

    pred, target = case["pred"][:200].numpy(), case["target"][:200].numpy()
    values = np.array([iou(a, b) for a, b in zip(pred, target, strict=True)])
    grads = np.zeros_like(pred)
    for column in range(5):
        step = np.zeros(5)
        step[column] = 1e-6
        grads[:, column] = [
            (iou(a + step, b) - iou(a - step, b)) / 2e-6 for a, b in zip(pred, target, strict=True)
        ]
    return values, grads


def _first_pairs(raw: Any, _: Case) -> tuple[np.ndarray, ...]:
    return tuple(part[:200].numpy() for part in raw)


# ------------------------------------------------------------------ voxel query


def _query_case(scale: float, _dtype: str) -> Case:
    from tenfold.ops import voxelize

    frame = frames.kitti()
    cloud = torch.from_numpy(np.ascontiguousarray(frame.points[:, :3]))
    low, size = torch.tensor([0.0, -40.0, -3.0]), torch.tensor([0.2, 0.2, 0.4])
    grid = voxelize(cloud, tuple(size.tolist()), (0, -40, -3, 70.4, 40, 1), 1, 60_000)
    centres = (grid.coords[:, [3, 2, 1]].float() + 0.5) * size + low
    m = round(6000 * scale)
    g = torch.Generator().manual_seed(0)
    pick = torch.randint(len(centres), (m,), generator=g)
    points = centres[pick] + torch.rand(m, 3, generator=g) * 0.4 - 0.2
    cell = ((points - low) / size).floor().int().flip(1)
    queries = torch.cat([torch.zeros(m, 1, dtype=torch.int32), cell], 1)
    data = {
        "coords": grid.coords,
        "centres": centres,
        "queries": queries,
        "points": points,
        "source": frame.source,
    }
    return Case(m, f"{len(centres):,} voxels, {m:,} queries, ranges 4, r 0.8, k 16", data)


_RANGES, _RADIUS, _K = (4, 4, 4), 0.8, 16


def _ours_query(case: Case) -> Call:
    from tenfold.ops import VoxelTable, voxel_query

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        table = VoxelTable(case["coords"])
        return voxel_query(table, case["centres"], case["queries"], case["points"], _RANGES, _RADIUS, _K)

    return run


def _torch_query(case: Case) -> Call:
    """A dense index volume and 729 look-ups for every query, in blocks."""
    coords, centres, queries, points = (case[k] for k in ("coords", "centres", "queries", "points"))
    shape = (10 + 8, 400 + 8, 352 + 8)
    reach = torch.arange(-4, 5)
    offsets = torch.cartesian_prod(reach, reach, reach)
    flat = (offsets[:, 0] * shape[1] + offsets[:, 1]) * shape[2] + offsets[:, 2]
    limit = torch.tensor(_RADIUS).square()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        volume = torch.full((shape[0] * shape[1] * shape[2],), -1, dtype=torch.int64)
        place = ((coords[:, 1] + 4) * shape[1] + coords[:, 2] + 4) * shape[2] + coords[:, 3] + 4
        volume[place.long()] = torch.arange(len(coords))
        tables, counts = [], []
        for begin in range(0, len(queries), 512):
            q = queries[begin : begin + 512].long().clamp(min=0)
            base = (
                ((q[:, 1].clamp(max=9) + 4) * shape[1] + q[:, 2].clamp(max=399) + 4) * shape[2]
                + q[:, 3].clamp(max=351)
                + 4
            )
            rows = volume[base[:, None] + flat]
            gap = centres[rows.clamp(min=0)] - points[begin : begin + 512, None]
            square = (gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1]) + gap[..., 2] * gap[..., 2]
            hit = (rows >= 0) & (square <= limit)
            order = torch.where(hit, torch.arange(729), 729).topk(_K, largest=False).values
            count = hit.sum(1).clamp(max=_K)
            order = torch.where(order == 729, order[:, :1], order).clamp(max=728)
            tables.append(torch.where(count[:, None] > 0, rows.gather(1, order), 0))
            counts.append(count)
        return torch.cat(tables), torch.cat(counts)

    return run


def _query_by_definition(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary of cells and three nested loops."""
    rows = {tuple(c): i for i, c in enumerate(case["coords"][:, 1:].tolist())}
    centres, points = case["centres"].numpy(), case["points"].numpy()
    limit = np.float32(_RADIUS) * np.float32(_RADIUS)
    table = np.zeros((case.size, _K), np.int64)
    counts = np.zeros(case.size, np.int64)
    steps = [(z, y, x) for z in range(-4, 5) for y in range(-4, 5) for x in range(-4, 5)]
    for q, (_, z, y, x) in enumerate(case["queries"].tolist()):
        found = [i for dz, dy, dx in steps if (i := rows.get((z + dz, y + dy, x + dx))) is not None]
        square = (centres[found] - points[q]) ** 2
        near = np.flatnonzero((square[:, 0] + square[:, 1]) + square[:, 2] <= limit)[:_K]
        hits = np.array(found)[near]
        counts[q] = len(hits)
        if len(hits):
            table[q] = hits[0]
            table[q, : len(hits)] = hits
    return table, counts


def _lookup_case(scale: float, _dtype: str) -> Case:
    """Cells of a sweep, looked for in another order, half of them moved to where mostly nothing is."""
    whole = _query_case(1.0, "float32")
    coords = whole["coords"]
    m = round(len(coords) * scale)
    g = torch.Generator().manual_seed(0)
    asked = coords[torch.randint(len(coords), (m,), generator=g)].clone()
    asked[::2, 1] += 5
    return Case(m, f"{len(coords):,} cells, {m:,} look-ups", {**whole.data, "asked": asked})


def _ours_lookup(case: Case) -> Call:
    from tenfold.ops import VoxelTable, lookup

    table = VoxelTable(case["coords"])
    return lambda: lookup(table, case["asked"])


def _cell_keys(coords: torch.Tensor) -> torch.Tensor:
    wide = coords.long()
    return (wide[:, 1] * 1024 + wide[:, 2]) * 1024 + wide[:, 3]


def _torch_lookup(case: Case) -> Call:
    keys, order = _cell_keys(case["coords"]).sort()

    def run() -> torch.Tensor:
        asked = _cell_keys(case["asked"])
        place = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == asked, order[place], -1)

    return run


def _lookup_by_definition(case: Case) -> np.ndarray:
    rows = {tuple(c): i for i, c in enumerate(case["coords"].tolist())}
    return np.array([rows.get(tuple(c), -1) for c in case["asked"].tolist()])


# ------------------------------------------------------------------ bilinear sampling


def _map_case(channels: int, height: int, width: int, points: int, last: bool) -> Any:
    def make(scale: float, _dtype: str) -> Case:
        n = round(points * scale)
        g = torch.Generator().manual_seed(0)
        feat = torch.randn(1, channels, height, width, generator=g)
        uv = torch.rand(1, n, 2, generator=g) * torch.tensor([width - 1.0, height - 1.0])
        feat = feat.contiguous(memory_format=torch.channels_last) if last else feat
        layout = ", channels last" if last else ""
        return Case(n, f"{channels} x {height} x {width}{layout}, {n:,} points", {"feat": feat, "uv": uv})

    return make


def _ours_bilinear(case: Case) -> Call:
    from tenfold.ops import bilinear_sample

    return lambda: bilinear_sample(case["feat"], case["uv"])


def _torch_bilinear(case: Case) -> Call:
    feat, uv = case["feat"], case["uv"]
    size = torch.tensor([feat.shape[3] - 1.0, feat.shape[2] - 1.0])

    def run() -> torch.Tensor:
        grid = (uv / size * 2 - 1)[:, :, None]
        out = F.grid_sample(feat, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return out[..., 0].transpose(1, 2).contiguous()

    return run


def _bilinear_by_definition(case: Case) -> np.ndarray:
    feat, uv = case["feat"][0].double().numpy(), case["uv"][0].double().numpy()
    low = np.floor(uv).astype(int)
    high = np.minimum(low + 1, [feat.shape[2] - 1, feat.shape[1] - 1])
    a, b = (uv - low)[:, 0], (uv - low)[:, 1]
    top = feat[:, low[:, 1], low[:, 0]] * (1 - a) + feat[:, low[:, 1], high[:, 0]] * a
    bottom = feat[:, high[:, 1], low[:, 0]] * (1 - a) + feat[:, high[:, 1], high[:, 0]] * a
    return (top * (1 - b) + bottom * b).T[None]


def _bilinear_row(key: str, title: str, make: Any, goal: Goal, **more: Any) -> Row:
    return Row(
        key,
        "bilinear_sample",
        title,
        make,
        _ours_bilinear,
        within(2e-4),
        normal=lambda raw, _: raw.numpy(),
        peers=(
            Peer("torch grid_sample", "torch", "torch", _torch_bilinear, normal=lambda raw, _: raw.numpy()),
        ),
        oracle=_bilinear_by_definition,
        goal=goal,
        limit=lambda case, limits: limits.copy(5 * 4 * case.size * case["feat"].shape[1]),
        parallel=True,
        **more,
    )


# ------------------------------------------------------------------ detector targets


def _targets_case(scale: float, _dtype: str) -> Case:
    images = max(1, round(16 * scale))
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(images, 20, 2, generator=g) * 400
    extent = torch.rand(images, 20, 2, generator=g) * 160 + 12
    labels = torch.randint(80, (images, 20), generator=g)
    data = {"boxes": torch.cat([corner, corner + extent], 2), "labels": labels}
    return Case(images, f"{images} images of 512 x 512, 20 boxes, 80 classes", data)


def _ours_targets(case: Case) -> Call:
    from tenfold.ops import ttf_targets

    return lambda: ttf_targets(case["boxes"], case["labels"], (512, 512), 80)


def _torch_targets(case: Case) -> Call:
    """(M, H, W) kernels of an image at a time, an owner per cell."""

    def one(boxes: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = area.sort(descending=True, stable=True).indices
        boxes, labels, area = boxes[order], labels[order], area[order]
        center = ((boxes[:, :2] + boxes[:, 2:]) / 2 / 4).floor()
        small = (boxes / 4).clamp(0, 127)
        radius = (0.54 * (small[:, 2:] - small[:, :2]) / 2).floor()

        def kernel(axis: int) -> torch.Tensor:
            d, r = torch.arange(128.0) - center[:, axis, None], radius[:, axis, None]
            return torch.where(d.abs() <= r, (-d * d / (2 * ((2 * r + 1) / 6) ** 2)).exp(), 0)

        gx, gy = kernel(0), kernel(1)
        both = gy[:, :, None] * gx[:, None, :]
        heat = torch.zeros(80, 128, 128)
        heat.scatter_reduce_(0, labels[:, None, None].expand_as(both), both, "amax")
        owner = torch.where(both > 0, torch.arange(len(boxes))[:, None, None], -1).amax(0)
        pick, used = owner.clamp(min=0), owner >= 0
        scale = area.log() / (gx.sum(1) * gy.sum(1))
        weight = torch.where(used, both.gather(0, pick[None])[0] * scale[pick], 0)
        return heat, torch.where(used, boxes[pick].permute(2, 0, 1), 0), weight

    def run() -> list[torch.Tensor]:
        parts = [one(b, y) for b, y in zip(case["boxes"], case["labels"], strict=True)]
        return [torch.stack(column) for column in zip(*parts, strict=True)]

    return run


def _targets_by_definition(case: Case) -> tuple[np.ndarray, ...]:
    """One box after the other, from large to small."""
    n = len(case["boxes"])
    heat, weight = np.zeros((n, 80, 128, 128)), np.zeros((n, 128, 128))
    target = np.zeros((n, 4, 128, 128))
    cell = np.arange(128)
    for i, (boxes, labels) in enumerate(
        zip(case["boxes"].double().numpy(), case["labels"].numpy(), strict=True)
    ):
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for m in np.argsort(-area, kind="stable"):
            axes = []
            for a in range(2):
                middle = np.floor((boxes[m, a] + boxes[m, a + 2]) / 8)
                side = np.clip(boxes[m, a + 2] / 4, 0, 127) - np.clip(boxes[m, a] / 4, 0, 127)
                r = np.floor(0.54 * side / 2)
                d = cell - middle
                axes.append(np.where(np.abs(d) <= r, np.exp(-d * d / (2 * ((2 * r + 1) / 6) ** 2)), 0))
            both = axes[1][:, None] * axes[0][None]
            heat[i, labels[m]] = np.maximum(heat[i, labels[m]], both)
            weight[i] = np.where(both > 0, np.log(area[m]) * both / both.sum(), weight[i])
            target[i] = np.where(both > 0, boxes[m][:, None, None], target[i])
    return heat, target, weight


def _numpy(raw: Any, _: Case) -> tuple[np.ndarray, ...]:
    return tuple(part.numpy() for part in raw)


def _written(case: Case, limits: Limits) -> tuple[str, float]:
    return limits.copy(2 * 4 * case.size * 85 * 128 * 128)


ROWS: tuple[Row, ...] = (
    Row(
        "topk-peaks",
        "topk_peaks",
        "topk_peaks, 80 × 128 × 128, k 100",
        _heat_case,
        _ours_peaks,
        bit_equal,
        normal=_numpy,
        peers=(Peer("torch max_pool + topk", "torch", "torch", _torch_peaks, normal=_numpy),),
        oracle=_peaks_by_definition,
        goal=Goal("ratio", 20, 60),
        limit=lambda case, limits: limits.copy(case["heat"].nbytes),
        parallel=True,
        quick=True,
    ),
    Row(
        "roi-point-pool",
        "roi_point_pool",
        "roi_point_pool, 16 k points × 128, 128 boxes, k 512",
        _region_case(16_384, 128, 128),
        _ours_slots,
        bit_equal,
        normal=_numpy,
        peers=(Peer("torch (M, N)", "torch", "torch", _torch_slots, normal=_numpy, max_size=70_000),),
        oracle=_slots_by_definition,
        goal=Goal("ratio", 4, 8),
        limit=lambda case, limits: limits.copy(2 * 4 * 128 * SLOTS * 131),
        parallel=True,
    ),
    Row(
        "roi-grid-pool",
        "roi_grid_pool3d",
        "roi_grid_pool3d, 16 k points × 16, 128 boxes of 12³",
        _region_case(16_384, 128, 16),
        _ours_grid,
        bit_equal,
        normal=lambda raw, _: raw.numpy(),
        peers=(
            Peer(
                "torch (M, N) + scatter_reduce",
                "torch",
                "torch",
                _torch_grid,
                normal=lambda raw, _: raw.numpy(),
                max_size=70_000,
            ),
        ),
        oracle=_grid_by_definition,
        goal=Goal("ratio", 10, 20),
        limit=lambda case, limits: limits.copy(2 * 4 * 128 * CELLS**3 * 16),
        parallel=True,
    ),
    Row(
        "rotated-iou-gradient",
        "rotated_iou",
        "rotated_iou, 4,096 pairs, forward and backward",
        _loss_case,
        _ours_loss,
        within(2e-4),
        normal=_first_pairs,
        peers=(
            Peer(
                "torch polygon clipping",
                "torch",
                "torch",
                _polygon_loss,
                normal=_first_pairs,
                note="tenfold.ref's polygons, differentiated by autograd",
            ),
        ),
        oracle=_loss_by_differences,
        goal=Goal("ratio", 5, 15),
        parallel=True,
    ),
    Row(
        "voxel-query",
        "VoxelTable + voxel_query",
        "voxel_query with its table, 6 k queries, 9³ cells, k 16",
        _query_case,
        _ours_query,
        bit_equal,
        normal=_numpy,
        peers=(Peer("torch dense volume", "torch", "torch", _torch_query, normal=_numpy),),
        oracle=_query_by_definition,
        goal=Goal("ratio", 10, 30),
        parallel=True,
    ),
    Row(
        "lookup",
        "lookup",
        "lookup of cells in a ready table",
        _lookup_case,
        _ours_lookup,
        bit_equal,
        normal=lambda raw, _: raw.numpy(),
        peers=(
            Peer(
                "torch searchsorted",
                "torch",
                "torch",
                _torch_lookup,
                normal=lambda raw, _: raw.numpy(),
                note="keys sorted before",
            ),
        ),
        oracle=_lookup_by_definition,
        parallel=True,
    ),
    _bilinear_row(
        "bilinear-bev",
        "bilinear_sample, bird's-eye map 256 × 200 × 176, 2,048 points",
        _map_case(256, 200, 176, 2048, last=False),
        Goal("ratio", 1, 2),
    ),
    _bilinear_row(
        "bilinear-image",
        "bilinear_sample, image features 64 × 375 × 1,242 channels last, 16 k points",
        _map_case(64, 375, 1242, 16_384, last=True),
        Goal("ratio", 1.5, 4),
    ),
    Row(
        "ttf-targets",
        "ttf_targets",
        "ttf_targets, 16 images, 20 boxes, 80 classes",
        _targets_case,
        _ours_targets,
        within(1e-4),
        normal=_numpy,
        peers=(Peer("torch (M, H, W)", "torch", "torch", _torch_targets, normal=_numpy),),
        oracle=_targets_by_definition,
        goal=Goal("ratio", 2, 4),
        limit=_written,
        parallel=True,
    ),
)
