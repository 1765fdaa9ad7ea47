"""Rotated box overlaps: Shapely, torchvision, Monte-Carlo, closed forms, reference, wrong variants."""

import math

import numpy as np
import pytest
import shapely
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import box_iou_3d, box_iou_aligned_3d, box_iou_bev, boxes_overlap_bev, pairs_iou_bev
from tenfold.testing import kernels

PUBLIC = {"bev": box_iou_bev, "3d": box_iou_3d, "aligned_3d": box_iou_aligned_3d}
MODES = ("iou", "inter", "iof", "giou")
BEV = [0, 1, 3, 4, 6]


def make_boxes(n: int, seed: int, *, columns: int = 7, span: float = 20.0, dtype=torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    centre = (torch.rand(n, 3, generator=g) - 0.5) * torch.tensor([span, span, 3.0])
    size = torch.rand(n, 3, generator=g) * 5 + 0.1
    boxes = torch.cat([centre, size, torch.randn(n, 1, generator=g) * 4], 1).to(dtype)
    return boxes if columns == 7 else boxes[:, BEV].contiguous()


def wild_boxes(n: int, seed: int, dtype=torch.float32) -> Tensor:
    """BEV boxes with sides 1e-3 .. 1e4 of ratio at most 1e4, centres to 1e5."""
    g = torch.Generator().manual_seed(seed)
    centre = (torch.rand(n, 2, generator=g, dtype=torch.float64) * 2 - 1) * 1e5
    long = 10 ** (torch.rand(n, 1, generator=g, dtype=torch.float64) * 7 - 3)
    size = torch.cat([long, long * 10 ** (-4 * torch.rand(n, 1, generator=g, dtype=torch.float64))], 1)
    yaw = torch.randn(n, 1, generator=g, dtype=torch.float64) * 10 ** (torch.rand(n, 1, generator=g) * 6 - 3)
    return torch.cat([centre, size, yaw], 1).to(dtype)


def polygons(boxes: Tensor, origin: Tensor) -> np.ndarray:
    """Shapely polygons of BEV boxes, relative to origins (N, 2), so that far centres cost no digits."""
    b = boxes.double().numpy().copy()
    b[:, :2] -= origin.double().numpy()
    c, s = np.cos(b[:, 4:]), np.sin(b[:, 4:])
    lx = b[:, 2:3] * np.array([0.5, -0.5, -0.5, 0.5])
    ly = b[:, 3:4] * np.array([0.5, 0.5, -0.5, -0.5])
    return shapely.polygons(np.stack([b[:, :1] + c * lx - s * ly, b[:, 1:2] + s * lx + c * ly], -1))


def shapely_paired(a: Tensor, b: Tensor, mode: str = "iou") -> np.ndarray:
    p, q = polygons(a, a[:, :2]), polygons(b, a[:, :2])
    inter = shapely.area(shapely.intersection(p, q))
    size_a, size_b = (x[:, 2].double() * x[:, 3].double() for x in (a, b))
    union = size_a.numpy() + size_b.numpy() - inter
    if mode == "inter":
        return inter
    if mode == "iof":
        return inter / size_a.numpy()
    iou = inter / union
    if mode == "iou":
        return iou
    hull = shapely.area(shapely.convex_hull(shapely.union(p, q)))
    return iou - (hull - union) / hull


def near_pairs(n: int, seed: int, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Wild boxes, and for each another of about its size and place, so that most pairs overlap."""
    a = wild_boxes(n, seed, torch.float64)
    g = torch.Generator().manual_seed(seed + 1)
    b = a.clone()
    b[:, :2] += a[:, 2:4].amin(1, keepdim=True) * torch.randn(n, 2, generator=g)
    b[:, 2:4] *= torch.rand(n, 2, generator=g, dtype=torch.float64) + 0.5
    b[:, 4] += torch.randn(n, generator=g, dtype=torch.float64) * 10 ** (-7 * torch.rand(n, generator=g))
    return a.to(dtype), b.to(dtype)


# ---- checks that take the implementation, so that wrong ones can be shown to fail


def check_against_shapely(impl) -> None:
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-9)):
        a, b = near_pairs(2000, 3, dtype)
        for mode in MODES:
            expected = shapely_paired(a, b, mode)
            scale = np.maximum(expected, 1.0) if mode == "inter" else 1.0
            got = impl(a, b, paired=True, mode=mode).double().numpy()
            assert np.abs((got - expected) / scale).max() < tolerance, (dtype, mode)


def check_closed_forms(impl) -> None:
    def one(p: list[float], q: list[float], mode: str = "iou") -> float:
        return float(impl(torch.tensor([p]), torch.tensor([q]), mode=mode)[0, 0])

    square = [0.0, 0.0, 1.0, 1.0, 0.0]
    assert one(square, [0.0, 0.0, 1.0, 1.0, math.pi / 4]) == pytest.approx(0.70710678, abs=1e-6)
    assert one([3.0, 1.0, 4.0, 2.0, 0.3], [3.0, 1.0, 4.0, 2.0, 0.3 + math.pi]) == pytest.approx(1, abs=1e-6)
    assert one([3.0, 1.0, 4.0, 2.0, 0.3], [3.0, 1.0, 2.0, 4.0, 0.3 + math.pi / 2]) == pytest.approx(
        1, abs=1e-6
    )
    assert one([0.0, 0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 2.0, 1.0, math.pi / 2]) == pytest.approx(1 / 3, abs=1e-7)
    assert one([0.0, 0.0, 2.0, 1.0, 0.0], [0.0, 0.0, 1.0, 2.0, 0.0], "inter") == 1.0
    assert one([0.0, 0.0, 4.0, 4.0, 0.0], [0.0, 0.0, 2.0, 2.0, 0.7], "iof") == pytest.approx(0.25, abs=1e-7)
    assert one([0.0, 0.0, 2.0, 2.0, 0.7], [0.0, 0.0, 4.0, 4.0, 0.0], "iof") == pytest.approx(1.0, abs=1e-7)
    assert one(square, [3.0, 0.0, 1.0, 1.0, 0.0], "giou") == pytest.approx(-0.5, abs=1e-7)
    assert one(square, [0.5, 0.0, 1.0, 1.0, 0.0], "giou") == pytest.approx(1 / 3, abs=1e-7)
    # Heading is counter-clockwise: a long box at +45 degrees covers (1, 1), not (1, -1).
    long = [0.0, 0.0, 4.0, 0.4, math.pi / 4]
    assert one(long, [1.0, 1.0, 0.2, 0.2, 0.0], "inter") == pytest.approx(0.04, abs=1e-6)
    assert one(long, [1.0, -1.0, 0.2, 0.2, 0.0], "inter") == 0


def check_identical_and_symmetric(impl) -> None:
    for dtype in (torch.float32, torch.float64):
        boxes = wild_boxes(2000, 7, dtype)
        assert bool((impl(boxes, boxes.clone(), paired=True) == 1).all())
        a, b = near_pairs(2000, 11, dtype)
        for mode in ("iou", "inter", "giou"):
            there, back = impl(a, b, paired=True, mode=mode), impl(b, a, paired=True, mode=mode)
            assert torch.equal(there, back), mode
        values = impl(a, b, paired=True)
        assert bool(((values >= 0) & (values <= 1)).all())


def check_touching(impl) -> None:
    row = torch.arange(6.0)
    grid = torch.stack(torch.meshgrid(row, row, indexing="ij"), -1).reshape(-1, 2)
    boxes = torch.cat([grid, torch.ones(36, 2), torch.zeros(36, 1)], 1)
    assert torch.equal(impl(boxes, boxes, mode="inter"), torch.eye(36))
    # Rotated: moved along the own axis by its own length, which rounding turns into a hair of overlap or gap.
    a = wild_boxes(5000, 5, torch.float64)
    a[:, :2] = 0
    b = a.clone()
    b[:, 0] += a[:, 2] * a[:, 4].cos()
    b[:, 1] += a[:, 2] * a[:, 4].sin()
    assert not bool(impl(a, b, paired=True).any())


CHECKS = [check_closed_forms, check_identical_and_symmetric, check_touching, check_against_shapely]


@pytest.mark.parametrize("check", CHECKS)
def test_checks(check):
    check(box_iou_bev)


def _degrees(a, b, **kw):
    return box_iou_bev(*(torch.cat([x[:, :4], torch.deg2rad(x[:, 4:])], 1) for x in (a, b)), **kw)


def _clockwise(a, b, **kw):
    return box_iou_bev(*(torch.cat([x[:, :4], -x[:, 4:]], 1) for x in (a, b)), **kw)


def _one_side_float32(a, b, **kw):
    """One box's cosine and sine from another routine, as if rounded to float32."""
    c, s = b[:, 4].float().cos().double(), b[:, 4].float().sin().double()
    return box_iou_bev(a.double(), torch.cat([b[:, :4].double(), torch.atan2(s, c)[:, None]], 1), **kw).to(
        a.dtype
    )


def _hulls(a, b, **kw):
    def hull(x):
        c, s = x[:, 4:].cos().abs(), x[:, 4:].sin().abs()
        size = torch.cat([x[:, 2:3] * c + x[:, 3:4] * s, x[:, 2:3] * s + x[:, 3:4] * c], 1)
        return torch.cat([x[:, :2], size, torch.zeros_like(c)], 1)

    return box_iou_bev(hull(a), hull(b), **kw)


def _half_sizes(a, b, **kw):
    return box_iou_bev(*(torch.cat([x[:, :2], 2 * x[:, 2:4], x[:, 4:]], 1) for x in (a, b)), **kw)


def _iof_of_b(a, b, *, paired=False, mode="iou"):
    if mode != "iof":
        return box_iou_bev(a, b, paired=paired, mode=mode)
    other = box_iou_bev(b, a, paired=paired, mode=mode)
    return other if paired else other.T


def _asymmetric(a, b, *, paired=False, mode="iou"):
    value = box_iou_bev(a, b, paired=paired, mode=mode)
    first = a[:, 0] < b[:, 0] if paired else a[:, None, 0] < b[None, :, 0]
    return torch.where(first, value * (1 + 2e-7), value)


def _grown(a, b, **kw):
    return box_iou_bev(*(torch.cat([x[:, :2], x[:, 2:4] + 1e-6, x[:, 4:]], 1) for x in (a, b)), **kw)


@pytest.mark.parametrize(
    "wrong", [_degrees, _clockwise, _one_side_float32, _hulls, _half_sizes, _iof_of_b, _asymmetric, _grown]
)
def test_wrong_variants_are_caught(wrong):
    kernels.assert_caught(CHECKS, wrong)


# ---- oracles


def test_hundred_thousand_wild_boxes_are_identical_to_themselves():
    for dtype in (torch.float32, torch.float64):
        boxes = wild_boxes(100_000, 1, dtype)
        assert bool((box_iou_bev(boxes, boxes.clone(), paired=True) == 1).all())
    tall = torch.cat([boxes[:, :2], boxes[:, :1] * 7, boxes[:, 2:4], boxes[:, 2:3], boxes[:, 4:]], 1)
    assert bool((box_iou_3d(tall, tall.clone(), paired=True) == 1).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_pairs_equal_torchvision(dtype):
    a, b = (make_boxes(150, seed, columns=5, dtype=dtype) for seed in (0, 1))
    # Degrees, and counter-clockwise where y points down.
    degrees = [torch.cat([x[:, :4], -torch.rad2deg(x[:, 4:])], 1).double() for x in (a, b)]
    expected = torchvision.ops.box_iou(*degrees, fmt="cxcywhr")
    torch.testing.assert_close(box_iou_bev(a, b).double(), expected.double(), rtol=0, atol=5e-6)


def test_monte_carlo():
    a, b = torch.tensor([[0.2, 0.1, 3.0, 1.5, 0.4]]), torch.tensor([[0.6, -0.3, 2.0, 2.5, -0.8]])
    points = (torch.rand(400_000, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 6

    def inside(box):
        c, s = box[4].cos(), box[4].sin()
        d = points - box[:2]
        local = torch.stack([c * d[:, 0] + s * d[:, 1], c * d[:, 1] - s * d[:, 0]], 1)
        return (local.abs() < box[2:4] / 2).all(1)

    hit_a, hit_b = inside(a[0]), inside(b[0])
    both = (hit_a & hit_b).double().mean()
    expected = both / (hit_a | hit_b).double().mean()
    assert float(box_iou_bev(a, b)) == pytest.approx(float(expected), abs=0.01)
    assert float(boxes_overlap_bev(a, b)) == pytest.approx(float(both) * 36, abs=0.05)


def test_thin_and_nearly_parallel_boxes():
    g = torch.Generator().manual_seed(2)
    n = 400
    a = torch.cat([torch.rand(n, 2, generator=g) * 1e5, torch.tensor([[1e3, 1e-4]]).expand(n, 2)], 1).double()
    a = torch.cat([a, torch.randn(n, 1, generator=g).double()], 1)
    b = a.clone()
    b[:, 4] += torch.tensor([1e-7, -1e-7, 1e-9, 1e-16])[torch.arange(n) % 4]
    along = torch.rand(n, generator=g).double() * 900
    across = torch.rand(n, generator=g).double() * 1e-4
    b[:, 0] += along * a[:, 4].cos() - across * a[:, 4].sin()
    b[:, 1] += along * a[:, 4].sin() + across * a[:, 4].cos()
    # The two centres in the frame of a, then integrated over x: the height of the common strip.
    d = b[:, :2] - a[:, :2]
    x = d[:, 0] * a[:, 4].cos() + d[:, 1] * a[:, 4].sin()
    y = d[:, 1] * a[:, 4].cos() - d[:, 0] * a[:, 4].sin()
    t = torch.linspace(0, 1, 5_001, dtype=torch.float64)
    left, right = x - 500, torch.full_like(x, 500)
    at = left[:, None] + (right - left)[:, None] * t
    middle = y[:, None] + (at - x[:, None]) * (b[:, 4] - a[:, 4])[:, None]
    height = (1e-4 - middle.abs()).clamp(min=0)
    inter = torch.trapezoid(height, dim=1) * (right - left) / 5_000
    expected = inter / (0.2 - inter)
    torch.testing.assert_close(box_iou_bev(a, b, paired=True), expected, rtol=0, atol=1e-6)
    short = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.3]]), torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.3 + 1e-7]])
    assert float(box_iou_bev(*short)) == pytest.approx(1, abs=1e-6)


def test_yaw_is_unrestricted():
    boxes = make_boxes(300, 3, columns=5, dtype=torch.float64)
    turned = boxes.clone()
    turned[:, 4] += 2 * math.pi * torch.arange(300, dtype=torch.float64)
    torch.testing.assert_close(
        box_iou_bev(boxes, turned, paired=True), torch.ones(300).double(), atol=1e-9, rtol=0
    )
    for yaw in (1e6 + 0.5, -3e7, 1e12, -1e22, 3e300):  # the library's sine knows the angle exactly
        huge, small = boxes.clone(), boxes.clone()
        huge[:, 4] = yaw
        small[:, 4] = math.atan2(math.sin(yaw), math.cos(yaw))
        torch.testing.assert_close(box_iou_bev(huge, boxes), box_iou_bev(small, boxes), atol=1e-12, rtol=0)


def test_rigid_motion_and_scale_do_not_change_the_iou():
    a, b = (make_boxes(200, seed, columns=5, dtype=torch.float64) for seed in (4, 5))
    angle, shift = 0.7, torch.tensor([30.0, -8.0], dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    moved = [torch.cat([x[:, :2] @ turn.T + shift, x[:, 2:4], x[:, 4:] + angle], 1) for x in (a, b)]
    expected = box_iou_bev(a, b)
    torch.testing.assert_close(box_iou_bev(*moved), expected, atol=1e-12, rtol=0)
    scaled = [x * torch.tensor([1024.0, 1024, 1024, 1024, 1]) for x in (a, b)]
    assert torch.equal(box_iou_bev(*scaled), expected)


@pytest.mark.parametrize("mode", MODES)
def test_volumes(mode):
    a, b = (make_boxes(120, seed, span=6, dtype=torch.float64) for seed in (8, 9))
    inter = box_iou_bev(a, b, mode="inter") * interval(a, b)
    aligned = aligned_inter(a, b)
    flat = [torch.cat([x[:, :6], torch.zeros(len(x), 1).double()], 1) for x in (a, b)]
    for op, common, (p, q) in ((box_iou_3d, inter, (a, b)), (box_iou_aligned_3d, aligned, flat)):
        union = a[:, 3:6].prod(1)[:, None] + b[:, 3:6].prod(1)[None] - common
        if mode == "giou":
            enclosing = span(a, b) * (hulls(p, q) if op is box_iou_3d else aligned_hull(a, b))
            expected = common / union - (enclosing - union) / enclosing
        else:
            expected = {"iou": common / union, "inter": common, "iof": common / a[:, 3:6].prod(1)[:, None]}[
                mode
            ]
        torch.testing.assert_close(op(a, b, mode=mode), expected, atol=1e-9, rtol=1e-9)


def edges(boxes: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    return boxes[:, axis] - boxes[:, axis + 3] / 2, boxes[:, axis] + boxes[:, axis + 3] / 2


def interval(a: Tensor, b: Tensor, axis: int = 2) -> Tensor:
    (la, ua), (lb, ub) = edges(a, axis), edges(b, axis)
    return (torch.minimum(ua[:, None], ub) - torch.maximum(la[:, None], lb)).clamp(min=0)


def span(a: Tensor, b: Tensor, axis: int = 2) -> Tensor:
    (la, ua), (lb, ub) = edges(a, axis), edges(b, axis)
    return torch.maximum(ua[:, None], ub) - torch.minimum(la[:, None], lb)


def aligned_inter(a: Tensor, b: Tensor) -> Tensor:
    return interval(a, b, 0) * interval(a, b, 1) * interval(a, b, 2)


def aligned_hull(a: Tensor, b: Tensor) -> Tensor:
    return span(a, b, 0) * span(a, b, 1)


def hulls(a: Tensor, b: Tensor) -> Tensor:
    zero = torch.zeros(1, 2)
    p, q = polygons(a[:, BEV], zero), polygons(b[:, BEV], zero)
    return torch.from_numpy(shapely.area(shapely.convex_hull(shapely.union(p[:, None], q[None]))))


# ---- contract


def test_columns_may_differ_between_the_inputs():
    a, b = make_boxes(20, 0), make_boxes(30, 1)
    expected = box_iou_bev(a, b)
    for p, q in ((a[:, BEV], b), (a, b[:, BEV]), (a[:, BEV], b[:, BEV])):
        assert torch.equal(box_iou_bev(p, q), expected)
    assert torch.equal(boxes_overlap_bev(a, b), box_iou_bev(a, b, mode="inter"))


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize("mode", MODES)
def test_boxes_without_extent_overlap_nothing(kind, mode):
    boxes = make_boxes(12, 0)
    odd = boxes.clone()
    odd[0, 3], odd[1, 4], odd[2, 3], odd[3, 3:5] = 0, -1, -0.0, -2
    odd[4, 0], odd[5, 6], odd[6, 4] = math.nan, math.inf, -math.inf
    if kind != "bev":
        odd[7, 5], odd[8, 5] = 0, -1
    bad = torch.arange(9 if kind != "bev" else 7)
    with tenfold.validation("meta"):
        table, back = PUBLIC[kind](odd, boxes, mode=mode), PUBLIC[kind](boxes, odd, mode=mode)
        paired = PUBLIC[kind](odd, boxes, mode=mode, paired=True)
    assert not bool(table[bad].any())
    assert not bool(back[:, bad].any())
    assert not bool(paired[bad].any())
    good = torch.arange(9, 12)
    assert torch.equal(table[good], PUBLIC[kind](boxes[good], boxes, mode=mode))


def test_sizes_beyond_the_range_of_double_have_no_extent():
    boxes = torch.tensor(
        [[0, 0, 1e200, 1e200, 0], [0, 0, 1e-200, 1e-200, 0], [0, 0, 1, 1, 0]], dtype=torch.float64
    )
    assert torch.equal(box_iou_bev(boxes, boxes), torch.diag(torch.tensor([0.0, 0, 1])).double())
    small = torch.tensor([[0.0, 0.0, 1e-40, 1e-40, 0.5], [1e30, 0.0, 1e25, 1e20, 0.5]])
    assert torch.equal(box_iou_bev(small, small), torch.eye(2))


@pytest.mark.parametrize("kind", PUBLIC)
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty(kind, n, m):
    for mode in MODES:
        result = PUBLIC[kind](torch.zeros(n, 7), torch.zeros(m, 7, dtype=torch.float64), mode=mode)
        assert result.shape == (n, m)
        assert result.dtype == torch.float64
    assert PUBLIC[kind](torch.zeros(0, 7), torch.zeros(0, 7), paired=True).shape == (0,)
    assert [x.shape for x in pairs_iou_bev(torch.zeros(n, 5), torch.zeros(m, 7), 0.1)] == [(0,)] * 3


def test_dtypes():
    a, b = make_boxes(20, 0), make_boxes(20, 1)
    assert box_iou_bev(a.half(), b.half()).dtype == torch.float32
    assert torch.equal(box_iou_bev(a.bfloat16(), b), box_iou_bev(a.bfloat16().float(), b))
    assert torch.equal(box_iou_bev(a, b.double()), box_iou_bev(a.double(), b.double()))


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_pairs_equal_the_table(threshold):
    for seed, (n, m) in enumerate([(60, 90), (300, 7), (1, 400), (0, 4)]):
        a, b = make_boxes(n, seed, span=12), make_boxes(m, seed + 50, span=12)
        a[: n // 3] = b[:1]
        table = box_iou_bev(a, b)
        i, j = (table.double() > threshold).nonzero().unbind(1)
        kernels.assert_same(pairs_iou_bev(a, b, threshold), (i, j, table[i, j]))


def by_reference(op, *args):
    with tenfold.reference():
        return op(*args)


# A side of one box lies between the two, at a distance from the small one that is thousands of its sizes.
APART = [
    ([-0.0082, 0.0031, 0.00017, 0.0045, 4.0989], [-18.079, -23.759, 32.338, 1.4663, 4.9939]),
    ([-0.0090, 0.0011, 0.0032, 0.00042, 3.2465], [-6.3749, -7.4847, 26.904, 7.8617, 3.3611]),
    (
        [0.65666, -0.49335, 0.0061991, 0.06925, -2.3562],
        [-0.0011459, -0.0050163, 0.0017100, 0.00010003, 3.1416],
    ),
    ([0.25215, -0.2555, 0.028088, 0.30364, 1e30], [-0.63559, 0.62841, 0.42792, 0.17873, 0.14957]),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_that_are_apart_make_no_pair(dtype):
    """Shapely finds them apart; rounding in the reference's clipping once gave them an IoU of 1e-15, or of 0.1."""
    a, b = (torch.tensor([pair[i] for pair in APART], dtype=dtype) for i in range(2))
    distances = shapely.distance(polygons(a[:3], torch.zeros(3, 2)), polygons(b[:3], torch.zeros(3, 2)))
    assert (distances > 0.001).all()
    for call in (pairs_iou_bev, lambda *args: by_reference(pairs_iou_bev, *args)):
        found = call(a, b, 0.0)
        assert not any(i == j for i, j in zip(found[0].tolist(), found[1].tolist(), strict=True))


def test_pairs_threshold_is_strict():
    def check(impl):
        a = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0], [0.5, 0.0, 1.0, 1.0, 0.0]])
        assert impl(a, a, 0.5)[0].tolist() == [0, 1]
        assert impl(a, a, 0.4999)[0].tolist() == [0, 0, 1, 1]

    def inclusive(a, b, thr):
        return (box_iou_bev(a, b) >= thr).nonzero().unbind(1)

    check(pairs_iou_bev)
    with pytest.raises(AssertionError):
        check(inclusive)


def special_boxes(n: int, g: torch.Generator, style: int, dtype) -> Tensor:
    boxes = torch.cat([torch.randn(n, 3, generator=g) * 3, torch.rand(n, 3, generator=g) * 4 + 0.1], 1)
    boxes = torch.cat([boxes, torch.randn(n, 1, generator=g) * 3], 1)
    if style == 1:  # coarse: touching, equal and nested boxes at right angles
        boxes = boxes.round()
        boxes[:, 6] = 0
    if style == 2 and n > 1:
        boxes[n // 2 :] = boxes[: n - n // 2].clone()
    if style == 3:
        boxes[:, :6] *= 10 ** (torch.rand(n, 1, generator=g) * 6 - 3)
    if style == 4 and n:
        odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42, 0.0, -3.0])
        where = torch.rand(n, 7, generator=g) < 0.1
        boxes[where] = odd[torch.randint(0, 7, (int(where.sum()),), generator=g)]
    return boxes.to(dtype)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(0, 3), (1, 1), (7, 9), (13, 8), (1, 60), (40, 20), (300, 2), (2, 300)]),
    style=st.integers(0, 4),
    kind=st.integers(0, 2),
    mode=st.sampled_from([0, 0, 1, 2, 3]),
    paired=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_fuzz_against_reference(seed, shape, style, kind, mode, paired, dtype):
    g = torch.Generator().manual_seed(seed)
    n, m = shape
    a, b = special_boxes(n, g, style, dtype), special_boxes(n if paired else m, g, style, dtype)
    unit = 10.0 ** (seed % 13 - 6)
    a[:, :6] *= unit
    b[:, :6] *= unit
    with tenfold.validation("meta"):
        got = list(PUBLIC.values())[kind](a, b, paired=paired, mode=MODES[mode])
    expected = ref.box_iou(a, b, kind, mode, paired)
    scale = torch.ones_like(expected)
    if mode == 1:  # areas and volumes: relative to the larger box
        size_a, size_b = (x[:, 3:6].nan_to_num(0, 0, 0).abs().amax(1).clamp(min=1) ** 3 for x in (a, b))
        scale = torch.maximum(size_a, size_b) if paired else torch.maximum(size_a[:, None], size_b)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=tolerance)


def test_threads_levels_and_strides():
    a, b = make_boxes(900, 0, span=60), make_boxes(1200, 1, span=60)
    small_a, small_b = make_boxes(40, 2), make_boxes(50, 3)
    a[5, 6] = 1e9
    for op in PUBLIC.values():
        for mode in MODES:
            big = (a[:200], b) if mode == "giou" else (a, b)
            kernels.check_threads(lambda op=op, mode=mode, big=big: op(*big, mode=mode))
            kernels.check_levels(lambda op=op, mode=mode: op(small_a, small_b, mode=mode))
            kernels.check_levels(lambda op=op, mode=mode: op(small_a, small_b[:40], mode=mode, paired=True))
        kernels.check_strides(op, small_a, small_b)
        kernels.check_threads(lambda op=op: op(a, b[:900], paired=True))
    kernels.check_threads(lambda: pairs_iou_bev(a, b, 0.05))
    kernels.check_levels(lambda: pairs_iou_bev(a, b, 0.05))
    kernels.check_strides(lambda p, q: pairs_iou_bev(p, q, 0.05), small_a, small_b)


def test_opcheck():
    a, b = make_boxes(6, 0), make_boxes(5, 1)
    op = torch.ops.tenfold.box_iou.default
    for mode in range(4):
        kernels.check_op(op, (a, b, 1, mode, False, True), traced=mode == 0)
    kernels.check_op(op, (a, a, 0, 0, True, False), traced=False)
    kernels.check_op(torch.ops.tenfold.pairs_iou_bev.default, (a, b, 0.01, True))


def test_compiles_without_graph_breaks():
    def program(a, b):
        i, j, iou = pairs_iou_bev(a, b, 0.1)
        return box_iou_3d(a, b) + box_iou_bev(a, b, mode="giou"), i, j, iou * 2

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    for n, m in ((9, 11), (7, 12)):
        a, b = make_boxes(n, 0, span=5), make_boxes(m, 1, span=5)
        kernels.assert_same(compiled(a, b), program(a, b))


def test_carries_no_gradient():
    a = make_boxes(4, 0).requires_grad_()
    for op in PUBLIC.values():
        assert not op(a, a).requires_grad
    assert not pairs_iou_bev(a, a, 0.1)[2].requires_grad


def test_scratch_stays_within_its_bound():
    n, m = 3000, 5000
    a, b = make_boxes(n, 0, span=300), make_boxes(m, 1, span=300)
    for call in (lambda: box_iou_bev(a, b), lambda: box_iou_3d(a, b), lambda: pairs_iou_bev(a, b, 0.1)):
        assert 0 < kernels.scratch_bytes(call) <= 64 * (n + m) + 65536


def test_shrinking_and_growing_calls_leave_no_trace():
    boxes = make_boxes(500, 0, span=15)
    for n in (500, 3, 0, 1, 120, 2, 499):
        table = box_iou_bev(boxes[:n], boxes[: n // 2])
        expected = (
            torch.stack([box_iou_bev(boxes[i : i + 1], boxes[: n // 2])[0] for i in range(min(n, 5))])
            if n
            else table
        )
        assert torch.equal(table[:5], expected)


@pytest.mark.parametrize("kind", PUBLIC)
def test_messages(kind):
    op, boxes = PUBLIC[kind], torch.zeros(3, 7)
    name = f"box_iou_{kind}"
    for a, b, error, text in (
        (boxes.numpy(), boxes, TypeError, f"{name}: a: got ndarray"),
        (boxes, boxes.int(), TypeError, f"{name}: b: got torch.int32"),
        (boxes[0], boxes, ValueError, f"{name}: a: got shape"),
        (boxes, torch.zeros(3, 6), ValueError, f"{name}: b: got shape"),
        (boxes, torch.zeros(3, 9), ValueError, r"slice the box columns, b\[:, :7\]"),
        (boxes, boxes.to("meta"), ValueError, f"{name}: b: on meta"),
    ):
        with pytest.raises(error, match=text):
            op(a, b)
    with pytest.raises(ValueError, match=f"{name}: mode: got 'union'"):
        op(boxes, boxes, mode="union")
    with pytest.raises(ValueError, match=f"{name}: b: got 2 rows"):
        op(boxes, boxes[:2], paired=True)
    odd = boxes.clone()
    odd[2, 1] = math.nan
    for a, b, which in ((odd, boxes, "a"), (boxes, odd, "b")):
        with pytest.raises(ValueError, match=f"{name}: {which}: row 2 is not finite") as native:
            op(a, b)
        with pytest.raises(ValueError) as reference:
            ref.box_iou(a, b, list(PUBLIC).index(kind), 0, False, True)
        assert str(native.value) == str(reference.value)


def test_pairs_messages():
    boxes = torch.zeros(3, 5)
    for thr in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="pairs_iou_bev: thr: got"):
            pairs_iou_bev(boxes, boxes, thr)
    with pytest.raises(ValueError, match="pairs_iou_bev: a: row 0 is not finite"):
        pairs_iou_bev(boxes + math.inf, boxes, 0.1)
    with pytest.raises(ValueError, match="pairs_iou_bev: b: got shape"):
        pairs_iou_bev(boxes, boxes[:, :4], 0.1)


def test_raw_operator_survives_misuse():
    boxes = torch.zeros(3, 7)
    op, pairs = torch.ops.tenfold.box_iou.default, torch.ops.tenfold.pairs_iou_bev.default
    for args in (
        (boxes[:, :6], boxes, 0, 0, False, True),
        (boxes[0], boxes, 0, 0, False, True),
        (boxes, boxes.double(), 0, 0, False, True),
        (boxes.int(), boxes.int(), 0, 0, False, True),
        (boxes, boxes, 3, 0, False, True),
        (boxes, boxes, 0, -1, False, True),
        (boxes, boxes[:2], 0, 0, True, True),
        (boxes[:, :5], boxes, 1, 0, False, True),
    ):
        with pytest.raises(RuntimeError):
            op(*args)
    for args in (
        (boxes[:, :4], boxes, 0.1, True),
        (boxes, boxes, math.nan, True),
        (boxes, boxes, -1.0, True),
    ):
        with pytest.raises(RuntimeError):
            pairs(*args)
