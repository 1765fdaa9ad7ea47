"""What each family of CUDA kernels is asked to do on hardware, and the least memory traffic that it needs.

`bytes` counts every input read once and every result written once, and the passes of the sorts in between: the floor of
the time is that traffic at the memory's speed. A kernel that is far above it is bound by something else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tenfold import ops

SPEED = 3e12  # bytes a second: the memory of the GPUs that these predictions are for

Call = Callable[[], Any]


@dataclass(frozen=True)
class Workload:
    """One line of the table of predictions.

    Args:
        name: operator and size.
        operators: the operators whose kernels it runs.
        make: draws inputs on a device and returns the call.
        bytes: least traffic.
        bound: what the kernel is expected to be bound by, with its reason.
        rtol: tolerance against the CPU kernel; None compares bits.
    """

    name: str
    operators: tuple[str, ...]
    make: Callable[[torch.device], Call]
    bytes: int
    bound: str
    rtol: float | None = None

    @property
    def floor(self) -> float:
        """Microseconds that the traffic takes."""
        return self.bytes / SPEED * 1e6


def sort_bytes(n: int, key: int, bits: int) -> int:
    """A pass of 8 bits reads the keys twice and the rows once, and writes both."""
    return n * (3 * key + 8) * ((bits + 7) // 8)


def _random(device: torch.device, *shape: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(shape, generator=generator) * scale).to(device)


def _cloud(device: torch.device, n: int) -> torch.Tensor:
    return _random(device, n, 3) * torch.tensor([70.4, 80.0, 4.0], device=device) - torch.tensor(
        [0.0, 40.0, 3.0], device=device
    )


def _voxelize(device: torch.device) -> Call:
    points = torch.cat([_cloud(device, 120_000), _random(device, 120_000, 1)], 1)
    return lambda: tuple(ops.voxelize(points, (0.05, 0.05, 0.1), (0, -40, -3, 70.4, 40, 1), 5, 40_000))


def _scatter(device: torch.device) -> Call:
    feats, index = _random(device, 60_000, 64), (_random(device, 60_000) * 12_000).long()
    return lambda: ops.scatter(feats, index, 12_000, "max")


def _nms(device: torch.device) -> Call:
    corner = _random(device, 10_000, 2, scale=1000.0)
    boxes = torch.cat([corner, corner + 5 + _random(device, 10_000, 2, scale=60.0)], 1)
    scores = _random(device, 10_000)
    return lambda: ops.nms(boxes, scores, 0.5)


def _ground_boxes(device: torch.device, n: int) -> torch.Tensor:
    size = torch.tensor([3.9, 1.6, 1.5], device=device) * (0.8 + _random(device, n, 3, scale=0.4))
    return torch.cat([_cloud(device, n), size, _random(device, n, 1, scale=6.28)], 1)


def _nms_rotated(device: torch.device) -> Call:
    boxes, scores = _ground_boxes(device, 4096), _random(device, 4096)
    return lambda: ops.nms_rotated(boxes, scores, 0.1)


def _box_iou(device: torch.device) -> Call:
    boxes = _ground_boxes(device, 500)
    return lambda: ops.box_iou_bev(boxes, boxes.flip(0))


def _ball_query(device: torch.device) -> Call:
    xyz = _cloud(device, 16_384)
    return lambda: ops.ball_query(xyz, xyz[:4096], 1.0, 32)


def _knn(device: torch.device) -> Call:
    xyz = _cloud(device, 16_384)
    return lambda: ops.three_nn(xyz, xyz[:4096])


def _fps(device: torch.device) -> Call:
    xyz = _cloud(device, 16_384)[None]
    return lambda: ops.farthest_point_sample(xyz, 4096)


def _group(device: torch.device) -> Call:
    feats, table = _random(device, 16_384, 64), (_random(device, 4096, 32) * 16_384).int()
    return lambda: ops.group(feats, table)


def _points_in_boxes(device: torch.device) -> Call:
    points, boxes = _cloud(device, 120_000), _ground_boxes(device, 500)
    return lambda: ops.points_in_boxes(points, boxes)


def _roi_grid(device: torch.device) -> Call:
    points, boxes = _cloud(device, 20_000), _ground_boxes(device, 128)
    feats = _random(device, 20_000, 64)
    return lambda: ops.roi_grid_pool3d(boxes, points, feats, 12)


def _sites(device: torch.device) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    flat = torch.randperm(41 * 400 * 352, generator=generator)[:20_000].sort().values
    site = torch.stack([torch.zeros_like(flat), flat // (400 * 352), flat // 352 % 400, flat % 352], 1)
    return site.int().to(device)


def _rulebook(device: torch.device) -> Call:
    coords = _sites(device)
    return lambda: ops.rulebook_submanifold(coords, (41, 400, 352), 1, 3)


def _sparse_conv(device: torch.device) -> Call:
    table = ops.rulebook_submanifold(_sites(device), (41, 400, 352), 1, 3)
    feats, weight = _random(device, 20_000, 64), _random(device, 64, 3, 3, 3, 64)
    return lambda: ops.sparse_conv(feats, weight, table)


def _peaks(device: torch.device) -> Call:
    heat = _random(device, 1, 80, 128, 128)
    return lambda: ops.topk_peaks(heat, 100)


def _bilinear(device: torch.device) -> Call:
    feat = _random(device, 2, 256, 200, 176)
    uv = _random(device, 2, 4096, 2, scale=170.0)
    return lambda: ops.bilinear_sample(feat, uv)


def _filters(device: torch.device) -> Call:
    x, taps = _random(device, 1, 128, 256, 256), _random(device, 12) / 12
    more = {"up_filter": taps, "down_filter": taps, "up": 2, "down": 2, "padding": (11, 10, 11, 10)}
    return lambda: ops.filtered_lrelu(x, **more)


def _ttf(device: torch.device) -> Call:
    corner = _random(device, 8, 30, 2, scale=400.0)
    boxes = torch.cat([corner, corner + 8 + _random(device, 8, 30, 2, scale=90.0)], 2)
    labels = (_random(device, 8, 30) * 80).long()
    return lambda: ops.ttf_targets(boxes, labels, (512, 512), 80)


def _lookup(device: torch.device) -> Call:
    coords = _sites(device)
    table = ops.VoxelTable(coords)
    return lambda: ops.lookup(table, coords)


_N = 120_000
WORKLOADS = (
    Workload(
        "voxelize 120 k points, 40 k voxels of 5",
        ("voxelize",),
        _voxelize,
        2 * 16 * _N + sort_bytes(_N, 8, 27) + 6 * 4 * _N + 40_000 * (5 * 16 + 24),
        "launches (24 kernels) and one wait for the number of voxels",
    ),
    Workload(
        "scatter max 60 k x 64 into 12 k",
        ("scatter",),
        _scatter,
        60_000 * (256 + 12) + sort_bytes(60_000, 4, 14) + 12_000 * 64 * 8,
        "memory: rows are gathered whole",
    ),
    Workload(
        "nms 10,000 boxes",
        ("nms",),
        _nms,
        10_000 * 20 + sort_bytes(10_000, 4, 32) + 5 * 2048 * 32 * 16,
        "the block that walks each chunk: 160 words of 64 candidates, one after the other",
    ),
    Workload(
        "nms_rotated 4,096 boxes",
        ("nms_rotated",),
        _nms_rotated,
        4096 * (32 + 2 * 80) + sort_bytes(4096, 4, 32) + 2 * 2048 * 32 * 16,
        "float64 clipping of near pairs",
    ),
    Workload(
        "box_iou_bev 500 x 500",
        ("box_iou",),
        _box_iou,
        500 * 2 * (28 + 80) + 250_000 * 4,
        "launches; float64 clipping on devices with few float64 units",
    ),
    Workload(
        "ball_query 16 k points, 4 k centres, k 32",
        ("ball_query",),
        _ball_query,
        16_384 * 12 + 4096 * (12 + 132),
        "distance tests: at most 67 M, points come from the second-level cache",
    ),
    Workload("three_nn 16 k on 4 k", ("knn",), _knn, 16_384 * (12 + 24) + 4096 * 12, "distance tests: 67 M"),
    Workload(
        "farthest_point_sample 16 k to 4 k",
        ("farthest_point_sample",),
        _fps,
        16_384 * 12 + 4096 * 8,
        "latency: 4,096 picks one after the other in one block",
    ),
    Workload(
        "group 131,072 x 64",
        ("group",),
        _group,
        16_384 * 256 + 131_072 * (4 + 256),
        "memory: the result is written once",
    ),
    Workload(
        "points_in_boxes 120 k x 500",
        ("points_in_boxes_first",),
        _points_in_boxes,
        _N * 16 + 500 * 68,
        "box tests: 60 M, boxes come from the first-level cache",
    ),
    Workload(
        "roi_grid_pool3d 128 boxes of 12^3, 64 channels",
        ("roi_grid_pool3d",),
        _roi_grid,
        128 * 1728 * 64 * 8 + 20_000 * (12 + 256),
        "memory: results and first rows are written once",
        1e-5,
    ),
    Workload(
        "rulebook_submanifold 20 k sites, 3^3",
        ("rulebook_submanifold",),
        _rulebook,
        20_000 * (16 + 16 + 108) + sort_bytes(20_000, 8, 23),
        "latency of 540 k binary searches of 15 steps",
    ),
    Workload(
        "sparse_conv 20 k sites, 64 to 64",
        ("sparse_conv",),
        _sparse_conv,
        20_000 * (256 + 256 + 108) + 27 * 64 * 64 * 4,
        "float32 arithmetic of the present tiles",
        1e-3,
    ),
    Workload(
        "topk_peaks 80 x 128 x 128, k 100",
        ("topk_peaks",),
        _peaks,
        1_310_720 * 8 + sort_bytes(1_310_720, 4, 32),
        "memory: all scores are sorted, four passes",
    ),
    Workload(
        "bilinear_sample 2 x 4,096 positions, 256 channels",
        ("bilinear_sample",),
        _bilinear,
        2 * 4096 * 256 * 4 * 5,
        "memory: planes are read 4 bytes at a time, so sectors are read for one value each",
        1e-5,
    ),
    Workload(
        "filtered_lrelu 128 x 256 x 256, up 2, down 2",
        ("filtered_lrelu",),
        _filters,
        128 * 4 * (2 * 256 * 256 + 2 * 522 * 522),
        "arithmetic and cached reads: 36 taps for each number going up, 144 going down",
        1e-4,
    ),
    Workload(
        "ttf_targets 8 images of 30 boxes",
        ("ttf_targets",),
        _ttf,
        8 * 128 * 128 * 85 * 4,
        "memory: the maps are written once",
        1e-5,
    ),
    Workload(
        "lookup 20 k of 20 k cells", ("lookup",), _lookup, 20_000 * (16 + 16 + 4), "latency: one launch"
    ),
)
