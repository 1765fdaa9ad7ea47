"""What each family of CUDA kernels is asked to do on hardware, and the least memory traffic that it needs.

`bytes` counts every input read once and every result written once, and the passes of the sorts in between: the floor of
the time is that traffic at the memory's speed. What is expected on top of it are launches, waits of the host, and the
work that outlasts the traffic, counted in `work` by the rates below. No GPU has confirmed any of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tenfold import ops

# Of the GPUs that these predictions are for (data centre, about 130 multiprocessors).
SPEED = 3e12  # bytes a second, memory
SHARE = 0.7  # of it, for streams of whole lines
LAUNCH = 3.0  # microseconds from one short kernel to the next
WAIT = 10.0  # microseconds until the host has read a number and goes on

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
        work: microseconds of arithmetic or latency that the traffic cannot hide, as `bound` counts them.
        waits: numbers that the host reads from the device.
    """

    name: str
    operators: tuple[str, ...]
    make: Callable[[torch.device], Call]
    bytes: int
    bound: str
    rtol: float | None = None
    work: float = 0.0
    waits: int = 0

    @property
    def floor(self) -> float:
        """Microseconds that the traffic takes."""
        return self.bytes / SPEED * 1e6

    def expected(self, launches: int) -> float:
        """Microseconds that the first run should show, with so many kernels launched."""
        return max(self.floor / SHARE, self.work) + LAUNCH * launches + WAIT * self.waits


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
    x, taps = _random(device, 1, 32, 256, 256), _random(device, 12) / 12
    more = {"up_filter": taps, "down_filter": taps, "up": 2, "down": 2, "padding": (11, 10, 11, 10)}
    return lambda: ops.filtered_lrelu(x, **more)


def _bias_act(device: torch.device) -> Call:
    x, bias = _random(device, 1, 128, 256, 256), _random(device, 128)
    return lambda: ops.bias_act(x, bias)


def _upfirdn(device: torch.device) -> Call:
    x, taps = _random(device, 1, 32, 256, 256), torch.tensor([1.0, 3.0, 3.0, 1.0], device=device) / 8
    return lambda: ops.upfirdn2d(x, taps, up=2, padding=(2, 1, 2, 1), gain=4.0)


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
        "launches and one wait for the number of voxels",
        waits=2,
    ),
    Workload(
        "scatter max 60 k x 64 into 12 k",
        ("scatter",),
        _scatter,
        60_000 * (256 + 12) + sort_bytes(60_000, 4, 14) + 12_000 * 64 * 8,
        "memory (rows are gathered whole), launches of the sort",
    ),
    Workload(
        "nms 10,000 boxes",
        ("nms",),
        _nms,
        10_000 * 20 + sort_bytes(10_000, 4, 32) + 5 * 2048 * 32 * 16,
        "the block that walks each chunk: 160 words of 64 candidates one after the other, 3 us each",
        work=480,
        waits=1,
    ),
    Workload(
        "nms_rotated 4,096 boxes",
        ("nms_rotated",),
        _nms_rotated,
        4096 * (32 + 2 * 80) + sort_bytes(4096, 4, 32) + 2 * 2048 * 32 * 16,
        "likewise: 64 words, 3 us each; float64 clipping of near pairs beside it",
        work=200,
        waits=1,
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
        "latency: a warp walks 512 steps of 32 points, 0.2 us each from the second-level cache",
        work=100,
    ),
    Workload(
        "three_nn 16 k on 4 k",
        ("knn",),
        _knn,
        16_384 * (12 + 24) + 4096 * 12,
        "67 M distance tests: 4,096 a thread, 25 cycles each with 4 warps a multiprocessor",
        work=60,
    ),
    Workload(
        "farthest_point_sample 16 k to 4 k",
        ("farthest_point_sample",),
        _fps,
        16_384 * 12 + 4096 * 8,
        "latency: 4,096 picks one after the other in one block, 1.3 us each",
        work=5_300,
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
        "60 M box tests: 9 loads from the first-level cache each",
        work=75,
    ),
    Workload(
        "roi_grid_pool3d 128 boxes of 12^3, 64 channels",
        ("roi_grid_pool3d",),
        _roi_grid,
        128 * 1728 * 64 * 8 + 20_000 * (12 + 256),
        "memory: results and first rows are written once",
        1e-5,
        waits=1,
    ),
    Workload(
        "rulebook_submanifold 20 k sites, 3^3",
        ("rulebook_submanifold",),
        _rulebook,
        20_000 * (16 + 16 + 108) + sort_bytes(20_000, 8, 23),
        "540 k binary searches of 15 steps: a sector of the second-level cache each, 260 MB at 5 TB/s",
        work=52,
    ),
    Workload(
        "sparse_conv 20 k sites, 64 to 64",
        ("sparse_conv",),
        _sparse_conv,
        20_000 * (256 + 256 + 108) + 27 * 64 * 64 * 4,
        "float32 arithmetic of 1.0 G operations in 1,900 present tiles, half of the device idle",
        1e-3,
        work=70,
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
        2 * 256 * 4 * (200 * 176 + 4096),
        "memory: 8 k pairs of neighbours meet nearly every sector of a plane",
    ),
    Workload(
        "bias_act 128 x 256 x 256",
        ("bias_act",),
        _bias_act,
        128 * 256 * 256 * 8,
        "memory: read once, written once",
    ),
    Workload(
        "upfirdn2d 32 x 256 x 256, up 2",
        ("upfirdn2d",),
        _upfirdn,
        32 * 4 * 5 * 256 * 256,
        "memory; 4 cached reads and 40 instructions for each of 8 M numbers beside it",
        1e-5,
        work=15,
    ),
    Workload(
        "filtered_lrelu 32 x 256 x 256, up 2, down 2",
        ("filtered_lrelu",),
        _filters,
        32 * 4 * (2 * 256 * 256 + 2 * 522 * 522),
        "36 cached reads for each of 9 M numbers going up, 144 for each of 2 M going down: 5 G instructions",
        1e-4,
        work=160,
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
