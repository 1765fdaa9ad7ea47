"""Rows of voxelisation, scatter, ball query and points in boxes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kernels import boxes as make_boxes
from kernels import frames
from kernels.limits import Limits
from kernels.model import Call, Case, Goal, Peer, Row, all_but, bit_equal, within

# ------------------------------------------------------------------ voxels


@dataclass(frozen=True)
class Grid:
    """A published voxel configuration."""

    size: tuple[float, float, float]
    limits: tuple[float, float, float, float, float, float]
    max_points: int
    max_voxels: int


SECOND = Grid((0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1), 5, 40_000)
PILLARS = Grid((0.16, 0.16, 4.0), (0, -39.68, -3, 69.12, 39.68, 1), 32, 16_000)
SWEEPS = Grid((0.1, 0.1, 0.2), (-51.2, -51.2, -5, 51.2, 51.2, 3), 10, 60_000)


def _voxel_case(frame: Callable[[], frames.Frame], grid: Grid) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        cloud = frames.denser(frame().points, scale)
        data = {
            "points": torch.from_numpy(cloud),
            "grid": grid,
            "max_voxels": max(1, round(grid.max_voxels * scale)),
            "source": frame().source,
        }
        return Case(len(cloud), f"{len(cloud):,} points", data)

    return make


def _ours_voxelize(case: Case, **more: Any) -> Call:
    from tenfold.ops import voxelize

    grid = case["grid"]
    return lambda: voxelize(
        case["points"], grid.size, grid.limits, grid.max_points, case["max_voxels"], **more
    )


def _ours_voxelize_out(case: Case) -> Call:
    return _ours_voxelize(case, out=_ours_voxelize(case)())


def _voxels(raw: Any, _case: Case) -> tuple[Any, ...]:
    return raw.voxels.numpy(), raw.coords[:, 1:].numpy(), raw.num_points.numpy()


def _spconv_generator(case: Case) -> Any:
    from spconv.utils import Point2VoxelCPU3d

    grid = case["grid"]
    channels = case["points"].shape[1]
    return Point2VoxelCPU3d(list(grid.size), list(grid.limits), channels, case["max_voxels"], grid.max_points)


def _spconv_voxelize(case: Case) -> Call:
    from cumm import tensorview as tv

    generator, points = _spconv_generator(case), tv.from_numpy(case["points"].numpy())
    return lambda: generator.point_to_voxel(points)


def _spconv_table_bytes(case: Case) -> Call:
    generator = _spconv_generator(case)
    return lambda: generator.densehashdata.numpy().nbytes


def _mmcv_voxelize(case: Case) -> Call:
    from mmcv.ops import Voxelization

    grid = case["grid"]
    layer = Voxelization(list(grid.size), list(grid.limits), grid.max_points, case["max_voxels"])
    return lambda: layer(case["points"])


def _cells(case: Case) -> np.ndarray:
    """Cell (x, y, z) of each point, -1 outside; single precision with a true division."""
    grid, points = case["grid"], case["points"].numpy()[:, :3]
    low, size = (np.array(v, dtype=np.float32) for v in (grid.limits[:3], grid.size))
    extent = [round((grid.limits[a + 3] - grid.limits[a]) / grid.size[a]) for a in range(3)]
    cell: np.ndarray = np.floor((points - low) / size).astype(np.int64)
    cell[((cell < 0) | (cell >= extent)).any(axis=1)] = -1
    return cell


def _voxels_by_definition(case: Case) -> tuple[np.ndarray, ...]:
    """One point after the other: first come, first served, up to both caps."""
    points, grid = case["points"].numpy(), case["grid"]
    voxels = np.zeros((case["max_voxels"], grid.max_points, points.shape[1]), dtype=np.float32)
    counts = np.zeros(case["max_voxels"], dtype=np.int32)
    found: dict[tuple[int, int, int], int] = {}
    for i, (x, y, z) in enumerate(_cells(case).tolist()):
        if x < 0 or ((z, y, x) not in found and len(found) == case["max_voxels"]):
            continue
        voxel = found.setdefault((z, y, x), len(found))
        if counts[voxel] < grid.max_points:
            voxels[voxel, counts[voxel]] = points[i]
            counts[voxel] += 1
    return voxels[: len(found)], np.array(list(found), dtype=np.int32), counts[: len(found)]


_VOXEL_PEERS = (
    Peer(
        "spconv",
        "spconv",
        "spconv",
        _spconv_voxelize,
        normal=lambda raw, _: tuple(part.numpy().copy() for part in raw),
        note="its generator keeps output and table between calls; their allocation is not timed",
    ),
    Peer(
        "mmcv",
        "onedl-mmcv",
        "mmcv.ops",
        _mmcv_voxelize,
        normal=lambda raw, _: tuple(part.numpy() for part in raw),
    ),
)


def _voxel_bytes(case: Case, limits: Limits) -> tuple[str, float]:
    """Read the points, write the point map and the filled output: an upper bound of useful traffic."""
    points = case["points"]
    grid = case["grid"]
    return limits.copy(
        points.nbytes + 4 * len(points) + 4 * case["max_voxels"] * grid.max_points * points.shape[1]
    )


def _voxel_row(
    key: str, title: str, frame: Callable[[], frames.Frame], grid: Grid, goal: Goal, **more: Any
) -> Row:
    return Row(
        key=key,
        op="voxelize",
        title=title,
        make=_voxel_case(frame, grid),
        ours=_ours_voxelize,
        ours_out=_ours_voxelize_out,
        agree=bit_equal,
        normal=_voxels,
        peers=_VOXEL_PEERS,
        oracle=_voxels_by_definition,
        goal=goal,
        limit=_voxel_bytes,
        parallel=True,
        **more,
    )


# ------------------------------------------------------------------ dynamic mean


def _ours_mean(order: str) -> Callable[[Case], Call]:
    def build(case: Case) -> Call:
        from tenfold.ops import dynamic_voxelize, scatter

        grid, points = case["grid"], case["points"]

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            coords, owner, _ = dynamic_voxelize(points, grid.size, grid.limits, order=order)
            return coords, scatter(points, owner, len(coords), "mean")

        return run

    return build


def _sorted_mean(raw: tuple[torch.Tensor, torch.Tensor], _: Case) -> tuple[np.ndarray, np.ndarray]:
    """Cells and means in lexicographic order, whichever order they came in."""
    cells, means = raw[0][:, -3:].numpy(), raw[1].numpy()
    order = np.lexsort(cells.T[::-1])
    return cells[order], means[order]


def _torch_mean(case: Case) -> Call:
    """Unique keys and index_add, as dynamic voxel encoders do it."""
    grid, points = case["grid"], case["points"]
    size = torch.tensor(grid.size)
    low = torch.tensor(grid.limits[:3], dtype=torch.float32)
    extent = [(grid.limits[a + 3] - grid.limits[a]) / grid.size[a] for a in range(3)]
    shape = torch.tensor([round(e) for e in extent])

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        cell = torch.floor((points[:, :3] - low) / size).long()
        keep = ((cell >= 0) & (cell < shape)).all(dim=1)
        cell, kept = cell[keep], points[keep]
        key = (cell[:, 2] * shape[1] + cell[:, 1]) * shape[0] + cell[:, 0]
        unique, owner, counts = torch.unique(key, return_inverse=True, return_counts=True)
        total = torch.zeros(len(unique), points.shape[1]).index_add_(0, owner, kept)
        plane = shape[1] * shape[0]
        coords = torch.stack([unique // plane, unique % plane // shape[0], unique % shape[0]], dim=1)
        return coords, total / counts[:, None]

    return run


def _open3d_mean(case: Case) -> Call:
    import open3d as o3d

    cloud = o3d.t.geometry.PointCloud(o3d.core.Tensor.from_numpy(case["points"][:, :3].contiguous().numpy()))
    return lambda: cloud.voxel_down_sample(case["grid"].size[0])


def _mean_by_definition(case: Case) -> tuple[np.ndarray, np.ndarray]:
    cell, points = _cells(case), case["points"].double().numpy()
    keep = cell[:, 0] >= 0
    coords, owner, counts = np.unique(cell[keep][:, ::-1], axis=0, return_inverse=True, return_counts=True)
    total = np.zeros((len(coords), points.shape[1]))
    np.add.at(total, owner, points[keep])
    return coords, total / counts[:, None]


def _mean_row(
    key: str, title: str, frame: Callable[[], frames.Frame], grid: Grid, order: str = "first", **more: Any
) -> Row:
    return Row(
        key=key,
        op="dynamic_voxelize + scatter",
        title=title,
        make=_voxel_case(frame, grid),
        ours=_ours_mean(order),
        # Sums of up to thousands of coordinates, in another order.
        agree=within(2e-5),
        normal=_sorted_mean,
        peers=(
            Peer("torch unique + index_add", "torch", "torch", _torch_mean),
            Peer(
                "Open3D",
                "open3d-cpu",
                "open3d",
                _open3d_mean,
                same=False,
                note="cubic voxels, grid through the origin, no range, no map from points to voxels",
            ),
        ),
        oracle=_mean_by_definition,
        goal=Goal("ratio", 4, 7),
        limit=lambda case, limits: limits.copy(2 * case["points"].nbytes + 4 * case.size),
        parallel=True,
        **more,
    )


# ------------------------------------------------------------------ scatter


def _scatter_case(scale: float, dtype: str) -> Case:
    n, num = round(60_000 * scale), round(12_000 * scale)
    rng = np.random.default_rng(n)
    feats = torch.from_numpy(rng.standard_normal((n, 64), dtype=np.float32)).to(getattr(torch, dtype))
    return Case(
        n,
        f"{n:,} × 64 rows to {num:,}",
        {"feats": feats, "index": torch.from_numpy(rng.integers(0, num, n)), "num": num},
    )


def _ours_scatter(case: Case) -> Call:
    from tenfold.ops import scatter

    return lambda: scatter(case["feats"], case["index"], case["num"], "max")


def _torch_scatter(case: Case) -> Call:
    feats, index = case["feats"], case["index"]

    def run() -> torch.Tensor:
        out: torch.Tensor = feats.new_zeros(case["num"], feats.shape[1])
        rows = index[:, None].expand_as(feats)
        out.scatter_reduce_(0, rows, feats, "amax", include_self=False)
        return out

    return run


def _scatter_by_definition(case: Case) -> Any:
    out = np.full((case["num"], 64), -np.inf)
    np.maximum.at(out, case["index"].numpy(), case["feats"].double().numpy())
    return np.where(np.isinf(out), 0.0, out)


# ------------------------------------------------------------------ ball query


def _ball_case(
    frame: Callable[[], frames.Frame], *, points: int, centers: int, radius: float, k: int
) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        cloud = frame().points
        rng = np.random.default_rng(0)
        base = cloud[np.sort(rng.choice(len(cloud), min(points, len(cloud)), replace=False))]
        xyz = np.ascontiguousarray(frames.wider(base, scale)[:, :3])
        rows = np.sort(rng.choice(len(xyz), max(1, len(xyz) * centers // points), replace=False))
        data = {
            "xyz": torch.from_numpy(xyz),
            "centers": torch.from_numpy(xyz[rows]),
            "radius": radius,
            "k": k,
            "source": frame().source,
        }
        return Case(len(xyz), f"{len(xyz):,} points, {len(rows):,} centres, r {radius:g}, k {k}", data)

    return make


def _ours_ball(case: Case) -> Call:
    from tenfold.ops import ball_query

    return lambda: ball_query(case["xyz"], case["centers"], case["radius"], case["k"])


def _torch_ball(case: Case) -> Call:
    """All distances in blocks of centres, the first k hits in index order, padded with the first."""
    xyz, centers, k = case["xyz"], case["centers"], case["k"]
    limit = torch.tensor(case["radius"], dtype=torch.float32).square()
    count_all, rows = len(xyz), torch.arange(len(xyz), dtype=torch.int32)

    def block(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gap = part[:, None, :] - xyz[None]
        distance = (gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1]) + gap[..., 2] * gap[..., 2]
        hit = distance < limit
        first = torch.where(hit, rows, count_all).topk(min(k, count_all), largest=False, sorted=True).values
        count = hit.sum(dim=1).clamp(max=k).int()
        first = torch.where(first == count_all, first[:, :1], first)
        return torch.where(count[:, None] > 0, first, 0), count

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        parts = [block(part) for part in centers.split(256)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    return run


def _scipy_ball(case: Case) -> Call:
    from scipy.spatial import cKDTree

    def run() -> list[list[int]]:
        tree = cKDTree(case["xyz"].numpy())
        return tree.query_ball_point(case["centers"].numpy(), case["radius"], return_sorted=True)  # type: ignore[no-any-return]

    return run


def _open3d_ball(case: Case) -> Call:
    import open3d as o3d

    def run() -> Any:
        search = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor.from_numpy(case["xyz"].numpy()))
        search.hybrid_index(case["radius"])
        return search.hybrid_search(
            o3d.core.Tensor.from_numpy(case["centers"].numpy()), case["radius"], case["k"]
        )

    return run


def _cluster_ball(case: Case) -> Call:
    from torch_cluster import radius

    return lambda: radius(case["xyz"], case["centers"], case["radius"], max_num_neighbors=case["k"])


def _ball_by_definition(case: Case) -> tuple[np.ndarray, np.ndarray]:
    xyz, centers, k = case["xyz"].numpy(), case["centers"].numpy(), case["k"]
    limit = np.float32(case["radius"]) * np.float32(case["radius"])
    table = np.zeros((len(centers), k), dtype=np.int32)
    counts = np.zeros(len(centers), dtype=np.int32)
    for row, center in enumerate(centers):
        gap = xyz - center
        square = gap * gap
        hits = np.flatnonzero((square[:, 0] + square[:, 1]) + square[:, 2] < limit)[:k]
        if len(hits):
            table[row] = hits[0]
            table[row, : len(hits)] = hits
            counts[row] = len(hits)
    return table, counts


_BALL_PEERS = (
    Peer("torch brute force", "torch", "torch", _torch_ball, max_size=20_000),
    Peer(
        "Open3D hybrid search",
        "open3d-cpu",
        "open3d",
        _open3d_ball,
        same=False,
        note="the nearest k, not the first k",
    ),
    Peer(
        "SciPy cKDTree",
        "scipy",
        "scipy",
        _scipy_ball,
        same=False,
        note="all hits as Python lists, d <= r, float64",
    ),
    Peer(
        "torch-cluster",
        "torch-cluster",
        "torch_cluster",
        _cluster_ball,
        same=False,
        note="pair list in tree order",
    ),
)


def _candidates(case: Case, limits: Limits) -> tuple[str, float]:
    """Eight operations for each point in the 27 cells around a centre."""
    from scipy.spatial import cKDTree

    counts = cKDTree(case["xyz"].numpy()).query_ball_point(
        case["centers"].numpy(), 1.5 * case["radius"], p=np.inf, return_length=True
    )
    return limits.vector(8.0 * float(np.sum(counts)))


def _ball_row(
    key: str,
    title: str,
    frame: Callable[[], frames.Frame],
    *,
    points: int,
    centers: int,
    radius: float,
    k: int,
    **more: Any,
) -> Row:
    return Row(
        key=key,
        op="ball_query",
        title=title,
        make=_ball_case(frame, points=points, centers=centers, radius=radius, k=k),
        ours=_ours_ball,
        agree=bit_equal,
        normal=lambda raw, _: (raw[0].numpy(), raw[1].numpy()),
        peers=_BALL_PEERS,
        oracle=_ball_by_definition,
        goal=Goal("ratio", 4, 8, against="Open3D hybrid search"),
        limit=_candidates,
        parallel=True,
        **more,
    )


# ------------------------------------------------------------------ points in boxes


def _inside_case(count: int) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        frame = frames.kitti()
        cloud = frames.denser(frame.points, scale)
        placed = make_boxes.around_points(np.random.default_rng(count), frame.points, count).astype(
            np.float32
        )
        data = {
            "points": torch.from_numpy(np.ascontiguousarray(cloud[:, :3])),
            "boxes": torch.from_numpy(placed),
            "source": frame.source,
        }
        return Case(len(cloud), f"{len(cloud):,} points, {count} boxes", data)

    return make


def _ours_inside(case: Case) -> Call:
    from tenfold.ops import points_in_boxes

    return lambda: points_in_boxes(case["points"], case["boxes"], mode="first")


def _torch_inside(case: Case) -> Call:
    """A loop over boxes from the last to the first; each overwrites the points that it holds."""
    points, boxes = case["points"], case["boxes"]

    def run() -> torch.Tensor:
        owner = torch.full((len(points),), -1, dtype=torch.int32)
        for i in range(len(boxes) - 1, -1, -1):
            x, y, z, dx, dy, dz, heading = boxes[i].unbind()
            cos, sin = heading.double().cos().float(), heading.double().sin().float()
            gap_x, gap_y = points[:, 0] - x, points[:, 1] - y
            along, across = gap_x * cos + gap_y * sin, gap_y * cos - gap_x * sin
            inside = (points[:, 2] - z).abs() <= dz / 2
            inside &= (along.abs() < dx / 2 + 1e-5) & (across.abs() < dy / 2 + 1e-5)
            owner[inside] = i
        return owner

    return run


def _torch_inside_at_once(case: Case) -> Call:
    """All boxes against all points in (M, N) tensors: the usual formulation, and what the goals were set against."""
    points, boxes = case["points"], case["boxes"]
    number = torch.arange(len(boxes), dtype=torch.int32)[:, None]

    def run() -> torch.Tensor:
        gap = points[None] - boxes[:, None, :3]
        cos, sin = boxes[:, 6].double().cos().float()[:, None], boxes[:, 6].double().sin().float()[:, None]
        along = gap[..., 0] * cos + gap[..., 1] * sin
        across = gap[..., 1] * cos - gap[..., 0] * sin
        half = boxes[:, None, 3:6] / 2
        inside = gap[..., 2].abs() <= half[..., 2]
        inside &= (along.abs() < half[..., 0] + 1e-5) & (across.abs() < half[..., 1] + 1e-5)
        owner = torch.where(inside, number, len(boxes)).amin(dim=0)
        return torch.where(owner == len(boxes), -1, owner)

    return run


def _open3d_inside(case: Case) -> Call:
    import open3d as o3d

    points = o3d.utility.Vector3dVector(case["points"].double().numpy())
    placed = []
    for x, y, z, dx, dy, dz, heading in case["boxes"].double().numpy():
        turn = o3d.geometry.get_rotation_matrix_from_xyz((0.0, 0.0, heading))
        placed.append(o3d.geometry.OrientedBoundingBox(np.array([x, y, z]), turn, np.array([dx, dy, dz])))

    def run() -> np.ndarray:
        owner = np.full(len(points), -1, dtype=np.int32)
        for i in range(len(placed) - 1, -1, -1):
            owner[placed[i].get_point_indices_within_bounding_box(points)] = i
        return owner

    return run


def _inside_by_definition(case: Case) -> Any:
    points, boxes = case["points"].double().numpy(), case["boxes"].double().numpy()
    owner = np.full(len(points), -1, dtype=np.int32)
    for i in range(len(boxes) - 1, -1, -1):
        gap = points - boxes[i, :3]
        cos, sin = np.cos(boxes[i, 6]), np.sin(boxes[i, 6])
        local = np.stack(
            [gap[:, 0] * cos + gap[:, 1] * sin, gap[:, 1] * cos - gap[:, 0] * sin, gap[:, 2]], axis=1
        )
        owner[(np.abs(local) < boxes[i, 3:6] / 2 + [1e-5, 1e-5, 0]).all(axis=1)] = i
    return owner


def _inside_row(count: int, must: float, stretch: float, **more: Any) -> Row:
    return Row(
        key=f"points-in-boxes-{count}",
        op="points_in_boxes",
        title=f"points_in_boxes, one sweep, {count} boxes",
        make=_inside_case(count),
        ours=_ours_inside,
        agree=all_but(1e-4),
        peers=(
            Peer("torch loop", "torch", "torch", _torch_inside),
            Peer("torch (M, N)", "torch", "torch", _torch_inside_at_once, max_size=200_000),
            Peer(
                "Open3D loop",
                "open3d-cpu",
                "open3d",
                _open3d_inside,
                note="float64, no margin; points and boxes converted before",
            ),
        ),
        oracle=_inside_by_definition,
        goal=Goal("ratio", must, stretch, against="torch (M, N)"),
        limit=lambda case, limits: limits.copy(case["points"].nbytes + 4 * case.size),
        parallel=True,
        **more,
    )


ROWS: tuple[Row, ...] = (
    _voxel_row(
        "voxelize-kitti",
        "voxelize, KITTI sweep, SECOND grid",
        frames.kitti,
        SECOND,
        Goal("ratio", 1.3, 2),
        quick=True,
    ),
    _voxel_row(
        "voxelize-sweeps",
        "voxelize, ten sweeps, 60 k × 10",
        frames.nuscenes_sweeps,
        SWEEPS,
        Goal("ratio", 1.8, 3),
    ),
    _voxel_row(
        "voxelize-pillars",
        "voxelize, KITTI sweep, pillars of 32",
        frames.kitti,
        PILLARS,
        Goal("ratio", 1, 1.3),
    ),
    Row(
        "voxelize-scratch",
        "voxelize",
        "voxelize scratch memory, SECOND grid",
        _voxel_case(frames.kitti, SECOND),
        _ours_voxelize,
        bit_equal,
        normal=_voxels,
        peers=(Peer("spconv", "spconv", "spconv", _spconv_table_bytes, note="its dense table"),),
        oracle=_voxels_by_definition,
        goal=Goal("bytes", 8e6),
        growth=False,
        measure="bytes",
        quick=True,
    ),
    _mean_row("mean-voxels-kitti", "dynamic mean voxels, KITTI sweep", frames.kitti, SECOND, quick=True),
    _mean_row("mean-voxels-sweeps", "dynamic mean voxels, ten sweeps", frames.nuscenes_sweeps, SWEEPS),
    _mean_row("mean-voxels-kitti-lex", "the same, voxels sorted by (z, y, x)", frames.kitti, SECOND, "lex"),
    _mean_row(
        "mean-voxels-sweeps-lex",
        "the same, ten sweeps, voxels sorted",
        frames.nuscenes_sweeps,
        SWEEPS,
        "lex",
    ),
    Row(
        "scatter-max",
        "scatter",
        "scatter max, 60,000 × 64 to 12,000",
        _scatter_case,
        _ours_scatter,
        bit_equal,
        normal=lambda raw, _: raw.double().numpy(),
        peers=(
            Peer(
                "torch scatter_reduce",
                "torch",
                "torch",
                _torch_scatter,
                normal=lambda raw, _: raw.double().numpy(),
            ),
        ),
        oracle=_scatter_by_definition,
        goal=Goal("ratio", 1.5, 3),
        parallel=True,
        quick=True,
        dtypes=("float32", "float64", "bfloat16"),
        limit=lambda case, limits: limits.copy(case["feats"].nbytes * (1 + case["num"] / case.size)),
    ),
    _ball_row(
        "ball-query-r0.5",
        "ball_query, 16 k points, 4 k centres, r .5",
        frames.kitti,
        points=16_384,
        centers=4096,
        radius=0.5,
        k=32,
        quick=True,
    ),
    _ball_row(
        "ball-query-r1.0",
        "ball_query, 16 k points, 4 k centres, r 1",
        frames.kitti,
        points=16_384,
        centers=4096,
        radius=1.0,
        k=32,
    ),
    _ball_row(
        "ball-query-indoor",
        "ball_query, indoor 20 k points, 2 k centres, r .2",
        frames.indoor,
        points=20_000,
        centers=2048,
        radius=0.2,
        k=64,
    ),
    _inside_row(50, 150, 300, quick=True),
    _inside_row(500, 1400, 2500),
)
