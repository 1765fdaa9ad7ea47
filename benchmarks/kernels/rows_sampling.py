"""Rows of farthest point sampling, nearest neighbours and grouping."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kernels import frames
from kernels.limits import Limits
from kernels.model import Call, Case, Goal, Peer, Row, bit_equal, within


def _cloud(frame: Callable[[], frames.Frame], points: int | None, scale: float) -> torch.Tensor:
    """So many points of a frame in random order, a larger or smaller place with the scale."""
    source = frame().points
    count = len(source) if points is None else points
    wide = frames.wider(source, max(1.0, scale)) if count * scale > len(source) else source
    order = np.random.default_rng(0).permutation(len(wide))[: round(count * scale)]
    return torch.from_numpy(np.ascontiguousarray(wide[order, :3]))


# ------------------------------------------------------------------ farthest point sampling


def _fps_case(points: int | None, samples: int, fixed: bool) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        xyz = _cloud(frames.kitti, points, scale)
        m = samples if fixed else round(samples * scale)
        data = {"xyz": xyz, "m": m, "source": frames.kitti().source}
        return Case(len(xyz), f"{len(xyz):,} points, {m:,} samples", data)

    return make


def _ours_fps(case: Case) -> Call:
    from tenfold.ops import farthest_point_sample

    return lambda: farthest_point_sample(case["xyz"], case["m"])


def _fpsample_bucket(case: Case) -> Call:
    import fpsample

    height = max(3, round(np.log2(case.size / 256)))
    return lambda: fpsample.bucket_fps_kdline_sampling(case["xyz"].numpy(), case["m"], h=height)


def _fpsample_plain(case: Case) -> Call:
    import fpsample

    return lambda: fpsample.fps_sampling(case["xyz"].numpy(), case["m"], start_idx=0)


def _cluster_fps(case: Case) -> Call:
    from torch_cluster import fps

    return lambda: fps(case["xyz"], ratio=(case["m"] - 0.5) / case.size, random_start=False)


def _torch_fps(case: Case) -> Call:
    xyz, m = case["xyz"], case["m"]

    def run() -> torch.Tensor:
        distance = torch.full((len(xyz),), float("inf"))
        chosen = torch.zeros(m, dtype=torch.int64)
        row = 0
        for j in range(m):
            chosen[j] = row
            gap = xyz - xyz[row]
            square = gap * gap
            torch.minimum(distance, (square[:, 0] + square[:, 1]) + square[:, 2], out=distance)
            row = int(distance.argmax())
        return chosen

    return run


def _fps_by_definition(case: Case) -> np.ndarray:
    xyz = case["xyz"].numpy()
    columns = [np.ascontiguousarray(xyz[:, axis]) for axis in range(3)]
    distance = np.full(len(xyz), np.inf, np.float32)
    chosen, row = [], 0
    for _ in range(case["m"]):
        chosen.append(row)
        x, y, z = (column - column[row] for column in columns)
        np.minimum(distance, (x * x + y * y) + z * z, out=distance)
        row = int(distance.argmax())
    return np.array(chosen)


_FPS_PEERS = (
    Peer(
        "fpsample bucket",
        "fpsample",
        "fpsample",
        _fpsample_bucket,
        same=False,
        note="begins at another row, so samples another set",
    ),
    Peer(
        "fpsample exact",
        "fpsample",
        "fpsample",
        _fpsample_plain,
        same=False,
        note="ties differ",
        max_size=20_000,
    ),
    Peer(
        "torch-cluster",
        "torch-cluster",
        "torch_cluster",
        _cluster_fps,
        same=False,
        note="ties differ",
        max_size=20_000,
    ),
    Peer("torch loop", "torch", "torch", _torch_fps, max_size=20_000),
)


def _fps_row(
    key: str, title: str, points: int | None, samples: int, goal: Goal, *, fixed: bool = False, **more: Any
) -> Row:
    return Row(
        key=key,
        op="farthest_point_sample",
        title=title,
        make=_fps_case(points, samples, fixed),
        ours=_ours_fps,
        agree=bit_equal,
        normal=lambda raw, _: np.asarray(raw),
        peers=_FPS_PEERS,
        oracle=_fps_by_definition,
        goal=goal,
        near_linear=fixed,  # otherwise samples grow with the points
        limit=lambda case, limits: limits.vector(10.0 * case.size * np.log(case["m"])),
        **more,
    )


# ------------------------------------------------------------------ nearest neighbours


def _knn_case(
    frame: Callable[[], frames.Frame], refs: int, queries: int | None, k: int
) -> Callable[[float, str], Case]:
    def make(scale: float, _dtype: str) -> Case:
        cloud = _cloud(frame, queries or refs, scale)
        ref = cloud[: round(refs * scale)].contiguous()
        data = {"ref": ref, "query": cloud, "k": k, "source": frame().source}
        return Case(len(cloud), f"{len(cloud):,} queries, {len(ref):,} points, k {k}", data)

    return make


def _ours_knn(case: Case) -> Call:
    from tenfold.ops import knn

    return lambda: knn(case["ref"], case["query"], case["k"])


def _ours_three_nn(case: Case) -> Call:
    from tenfold.ops import three_nn

    return lambda: three_nn(case["query"], case["ref"])


def _scipy_knn(case: Case) -> Call:
    from scipy.spatial import cKDTree

    return lambda: cKDTree(case["ref"].numpy()).query(case["query"].numpy(), case["k"])


def _open3d_knn(case: Case) -> Call:
    import open3d as o3d

    def run() -> Any:
        search = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor.from_numpy(case["ref"].numpy()))
        search.knn_index()
        return search.knn_search(o3d.core.Tensor.from_numpy(case["query"].numpy()), case["k"])

    return run


def _cluster_knn(case: Case) -> Call:
    from torch_cluster import knn

    return lambda: knn(case["ref"], case["query"], case["k"])


def _torch_knn(case: Case) -> Call:
    def run() -> list[Any]:
        parts = case["query"].split(512)
        return [torch.cdist(part, case["ref"]).topk(case["k"], largest=False) for part in parts]

    return run


def _gaps(case: Case, idx: np.ndarray) -> np.ndarray:
    """Distances of the neighbours found, in float64: what implementations agree on whatever their ties."""
    gap = case["ref"].numpy().astype(np.float64)[idx] - case["query"].numpy().astype(np.float64)[:, None]
    return np.sqrt((gap * gap).sum(axis=2))


_KNN_PEERS = (
    Peer(
        "SciPy cKDTree",
        "scipy",
        "scipy",
        _scipy_knn,
        normal=lambda raw, case: _gaps(case, raw[1]),
        note="float64",
    ),
    Peer("Open3D", "open3d-cpu", "open3d", _open3d_knn, normal=lambda raw, case: _gaps(case, raw[0].numpy())),
    Peer(
        "torch-cluster",
        "torch-cluster",
        "torch_cluster",
        _cluster_knn,
        normal=lambda raw, case: _gaps(case, raw[1].view(-1, case["k"]).numpy()),
    ),
    Peer(
        "torch cdist + topk",
        "torch",
        "torch",
        _torch_knn,
        same=False,
        note="distances by a matrix product, less exact",
        max_size=20_000,
    ),
)


def _knn_by_definition(case: Case) -> np.ndarray:
    from scipy.spatial import cKDTree

    return cKDTree(case["ref"].double().numpy()).query(case["query"].double().numpy(), case["k"])[0]  # type: ignore[no-any-return]


def _knn_row(key: str, op: str, title: str, make: Callable[[float, str], Case], ours: Any, goal: Goal) -> Row:
    return Row(
        key=key,
        op=op,
        title=title,
        make=make,
        ours=ours,
        agree=within(1e-6),
        normal=lambda raw, case: _gaps(case, raw[1].numpy()),
        peers=_KNN_PEERS,
        oracle=_knn_by_definition,
        goal=goal,
        limit=lambda case, limits: limits.vector(8.0 * case.size * 4 * case["k"]),
        parallel=True,
    )


# ------------------------------------------------------------------ grouping


def _group_case(groups: int, k: int) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        from tenfold.ops import ball_query

        cloud = _cloud(frames.kitti, 16_384, scale)
        m = round(groups * scale)
        idx, count = ball_query(cloud, cloud[:m].contiguous(), 1.0, k)
        g = torch.Generator().manual_seed(0)
        feats = torch.randn(len(cloud), 64, generator=g).to(getattr(torch, dtype))
        data = {
            "feats": feats,
            "idx": idx,
            "long": idx.long(),
            "count": count,
            "source": frames.kitti().source,
        }
        return Case(m * k, f"{m * k:,} rows of {len(cloud):,} × 64", data)

    return make


def _ours_group(case: Case) -> Call:
    from tenfold.ops import group

    return lambda: group(case["feats"], case["idx"])


def _ours_group_out(case: Case) -> Call:
    from tenfold.ops import group

    out = case["feats"].new_empty(*case["idx"].shape, 64)
    return lambda: group(case["feats"], case["idx"], out=out)


def _torch_index_out(case: Case) -> Call:
    out = case["feats"].new_empty(case["long"].numel(), 64)
    flat = case["long"].flatten()
    return lambda: torch.index_select(case["feats"], 0, flat, out=out)


def _clone(case: Case) -> Call:
    gathered = case["feats"][case["long"]]
    return gathered.clone


def _wide(raw: torch.Tensor, case: Case) -> np.ndarray:
    return raw.double().numpy().reshape(*case["idx"].shape, 64)


def _group_by_definition(case: Case) -> np.ndarray:
    return case["feats"].double().numpy()[case["idx"].numpy()]  # type: ignore[no-any-return]


def _moved(case: Case, limits: Limits) -> tuple[str, float]:
    return limits.copy(2 * case.size * 64 * case["feats"].element_size())


def _ours_group_max(case: Case) -> Call:
    from tenfold.ops import group_max

    return lambda: group_max(case["feats"], case["idx"], case["count"])


# ------------------------------------------------------------------ interpolation


def _interpolate_case(scale: float, dtype: str) -> Case:
    from tenfold.ops import interpolation_weights, three_nn

    cloud = _cloud(frames.kitti, 16_384, scale)
    known = cloud[: len(cloud) // 4].contiguous()
    dist, idx = three_nn(cloud, known)
    g = torch.Generator().manual_seed(0)
    data = {
        "feats": torch.randn(len(known), 128, generator=g).to(getattr(torch, dtype)),
        "idx": idx,
        "long": idx.long(),
        "weight": interpolation_weights(dist, idx),
        "source": frames.kitti().source,
    }
    return Case(len(cloud), f"{len(cloud):,} rows from {len(known):,} × 128", data)


def _ours_interpolate(case: Case) -> Call:
    from tenfold.ops import three_interpolate

    return lambda: three_interpolate(case["feats"], case["idx"], case["weight"])


def _torch_interpolate(case: Case) -> Call:
    return lambda: (case["feats"][case["long"]] * case["weight"][..., None]).sum(dim=1)


def _interpolate_by_definition(case: Case) -> np.ndarray:
    weight = case["weight"].double().numpy()[..., None]
    return (case["feats"].double().numpy()[case["idx"].numpy()] * weight).sum(axis=1)  # type: ignore[no-any-return]


_GROUP = _group_case(4096, 32)

ROWS: tuple[Row, ...] = (
    _fps_row(
        "fps-16k",
        "farthest_point_sample, 16,384 points to 4,096",
        16_384,
        4096,
        Goal("ratio", 1.5, 3, against="fpsample bucket"),
        quick=True,
    ),
    _fps_row(
        "fps-120k",
        "farthest_point_sample, one sweep to 2,048",
        None,
        2048,
        Goal("ratio", 1.3, 2.5, against="fpsample bucket"),
        growth=False,
    ),
    _fps_row(
        "fps-4k",
        "farthest_point_sample, 4,096 points to 1,024",
        4096,
        1024,
        Goal("ratio", 1.5, 3, against="fpsample bucket"),
        growth=False,
    ),
    _fps_row(
        "fps-512",
        "farthest_point_sample, 16,384 points to 512",
        16_384,
        512,
        Goal("ratio", 1.5, 3, against="fpsample bucket"),
        fixed=True,
    ),
    _knn_row(
        "three-nn",
        "three_nn",
        "three_nn, 16 k points on 4 k",
        _knn_case(frames.kitti, 4096, 16_384, 3),
        _ours_three_nn,
        Goal("ratio", 2, 4, against="torch-cluster"),
    ),
    _knn_row(
        "knn-16",
        "knn",
        "knn, 20 k points among themselves, k 16",
        _knn_case(frames.indoor, 20_000, None, 16),
        _ours_knn,
        Goal("ratio", 3, 5),
    ),
    Row(
        "group-fresh",
        "group",
        "group, 131,072 × 64, new tensor",
        _GROUP,
        _ours_group,
        bit_equal,
        normal=_wide,
        peers=(
            Peer(
                "torch indexing",
                "torch",
                "torch",
                lambda case: lambda: case["feats"][case["long"]],
                normal=_wide,
            ),
            Peer("torch clone of the result", "torch", "torch", _clone, same=False, note="the bare copy"),
        ),
        oracle=_group_by_definition,
        goal=Goal("ratio", 1 / 1.1, against="torch clone of the result"),
        parallel=True,
        dtypes=("float32", "float64", "bfloat16"),
        limit=_moved,
    ),
    Row(
        "group-out",
        "group",
        "group, 131,072 × 64, into a given tensor",
        _GROUP,
        _ours_group_out,
        bit_equal,
        normal=_wide,
        peers=(Peer("torch index_select out=", "torch", "torch", _torch_index_out, normal=_wide),),
        oracle=_group_by_definition,
        goal=Goal("ratio", 1, 1.3),
        parallel=True,
        limit=_moved,
    ),
    Row(
        "group-max",
        "group_max",
        "group_max, 4,096 × 32, 64 channels",
        _GROUP,
        _ours_group_max,
        bit_equal,
        normal=lambda raw, _: (raw[0] if isinstance(raw, tuple) else raw).double().numpy(),
        peers=(
            Peer(
                "torch indexing + amax",
                "torch",
                "torch",
                lambda case: lambda: case["feats"][case["long"]].amax(dim=1),
                normal=lambda raw, _: raw.double().numpy(),
            ),
        ),
        oracle=lambda case: _group_by_definition(case).max(axis=1),
        goal=Goal("ratio", 12, 25),
        parallel=True,
        quick=True,
        limit=lambda case, limits: limits.copy(case.size * 64 * case["feats"].element_size()),
    ),
    Row(
        "three-interpolate",
        "three_interpolate",
        "three_interpolate, 16 k rows of 128 channels",
        _interpolate_case,
        _ours_interpolate,
        within(1e-5),
        normal=lambda raw, _: raw.double().numpy(),
        peers=(
            Peer(
                "torch indexing + sum",
                "torch",
                "torch",
                _torch_interpolate,
                normal=lambda raw, _: raw.double().numpy(),
            ),
        ),
        oracle=_interpolate_by_definition,
        parallel=True,
        limit=lambda case, limits: limits.copy(case.size * 128 * 4 * 4),
    ),
)
