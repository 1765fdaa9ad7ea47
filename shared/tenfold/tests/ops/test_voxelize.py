"""voxelize: contract, oracle (spconv's CPU generator, bit-equal), reference, wrong variants."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import Voxels, voxelize, voxelize_padded
from tenfold.ops._voxelize import _grid
from tenfold.testing import kernels, require

RAW = torch.ops.tenfold.voxelize.default
UNIT = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 8.0, 8.0, 4.0))
KITTI = ((0.05, 0.05, 0.1), (0.0, -40.0, -3.0, 70.4, 40.0, 1.0), 5, 40_000)
PILLARS = ((0.16, 0.16, 4.0), (0.0, -39.68, -3.0, 69.12, 39.68, 1.0), 32, 16_000)
NUSCENES = ((0.1, 0.1, 0.2), (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), 10, 60_000)


def ten_sweeps(sweep: Tensor) -> Tensor:
    moved = []
    for k in range(10):
        angle = torch.tensor(0.01 * k)
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        copy = sweep.clone()
        copy[:, :2] = copy[:, :2] @ turn.T + torch.tensor([0.5 * k, 0.02 * k])
        moved.append(copy)
    return torch.cat(moved)


def cloud(n: int, seed: int = 0, *, channels: int = 4, coarse: bool = False, dtype=torch.float32) -> Tensor:
    """Points in and around the UNIT grid; coarse ones lie on cell borders and repeat."""
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, channels, generator=g, dtype=torch.float64) * 10 - 1
    return ((points * 2).round() / 2 if coarse else points).to(dtype)


def reference(points, size, bounds, max_points, max_voxels, *, offsets=None, mean=False):
    size, lower, grid = _grid("voxelize", size, bounds)
    return ref.voxelize(points, offsets, size, lower, grid, max_points, max_voxels, mean, False)


# ---- oracle ----------------------------------------------------------------------------------------------


def spconv_voxels(points: Tensor, size, bounds, max_points: int, max_voxels: int):
    spconv = require("spconv") and require("spconv.utils")
    tv = require("cumm.tensorview")
    generator = spconv.Point2VoxelCPU3d(list(size), list(bounds), points.shape[1], max_voxels, max_points)
    voxels, coords, num = generator.point_to_voxel(tv.from_numpy(points.contiguous().numpy()))
    return [torch.from_numpy(t.numpy().copy()) for t in (voxels, coords, num)]


def check_against_spconv(call, points: Tensor, size, bounds, max_points: int, max_voxels: int) -> None:
    result = call(points, size, bounds, max_points, max_voxels)
    expected = spconv_voxels(points, size, bounds, max_points, max_voxels)
    kernels.assert_same(expected, [result[0], result[1][:, 1:], result[2]], what="spconv")
    assert not result[1][:, 0].any()


@pytest.mark.parametrize(
    "config", [KITTI, PILLARS, (*KITTI[:2], 1, 500)], ids=["second", "pillars", "capped"]
)
@pytest.mark.parametrize("frame", [0, 1, 2])
def test_equals_spconv_on_kitti(frame, config, kitti_frame):
    check_against_spconv(voxelize, kitti_frame(frame), *config)


def test_equals_spconv_on_ten_sweeps(nuscenes_sweep):
    check_against_spconv(voxelize, ten_sweeps(nuscenes_sweep()), *NUSCENES)


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 1), (3, 20), (100, 1000)])
def test_equals_spconv_on_random_clouds(coarse, max_points, max_voxels):
    for seed, (n, channels) in enumerate([(1, 3), (300, 3), (1000, 4), (3000, 7)]):
        points = cloud(n, seed, channels=channels, coarse=coarse)
        check_against_spconv(voxelize, points, *UNIT, max_points, max_voxels)
        check_against_spconv(
            voxelize, points, (0.1, 0.1, 0.2), (0.0, -1.0, 0.3, 6.4, 6.4, 4.1), max_points, max_voxels
        )


def test_point2voxel_and_dropped_agree_with_the_rest_on_kitti(kitti_frame):
    points = kitti_frame()
    result = voxelize(points, *KITTI)
    counts = torch.bincount(result.point2voxel[result.point2voxel >= 0], minlength=len(result.coords))
    assert torch.equal(counts.clamp(max=5).int(), result.num_points)
    assert int(result.num_points.sum() + result.dropped.sum()) == len(points)
    lower = torch.tensor(KITTI[1][:3])
    cell = ((points[:, :3] - lower) / torch.tensor(KITTI[0])).floor().int().flip(1)
    held = result.point2voxel >= 0
    assert torch.equal(cell[held], result.coords[result.point2voxel[held].long(), 1:])


# ---- closed forms ----------------------------------------------------------------------------------------


def check_caps(call) -> None:
    """Six points, two voxels of two points each: every rule of the caps shows."""
    x = torch.tensor([0.5, 1.5, 0.6, 2.5, 0.7, 1.6])
    points = torch.stack([x, torch.full((6,), 0.5), torch.full((6,), 0.5)], dim=1)
    voxels, coords, num, p2v, dropped = call(points, *UNIT, 2, 2)
    assert coords.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert num.tolist() == [2, 2]
    assert p2v.tolist() == [0, 1, 0, -1, 0, 1]
    assert dropped.tolist() == [0, 1, 1]
    assert torch.equal(voxels, points[torch.tensor([[0, 2], [1, 5]])])


def check_borders(call) -> None:
    """The lower bound is in, the upper out; cells are half open; the sign of zero does not matter."""
    x = torch.tensor([0.0, -0.0, 8.0, 7.9999995, 1.0, 0.99999994, -1e-30, 1e30, -1e30])
    points = torch.stack([x, torch.full((9,), 0.5), torch.full((9,), 0.5)], dim=1)
    _, coords, _, p2v, dropped = call(points, *UNIT, 9, 9)
    assert coords[:, 3].tolist() == [0, 7, 1]
    assert p2v.tolist() == [0, 0, -1, 1, 2, 0, -1, -1, -1]
    assert dropped.tolist() == [4, 0, 0]


def check_division(call) -> None:
    """True float32 division: a product with 1 / size, or float64, puts some of these in another cell."""
    k = torch.arange(1, 1400, dtype=torch.float64)
    x = torch.cat([(k * 0.05).float(), (k * 0.05).float().nextafter(torch.tensor(0.0)), (k / 20).float()])
    points = torch.stack([x, torch.full_like(x, 0.5), torch.full_like(x, 0.5)], dim=1)
    result = call(points, (0.05, 1.0, 1.0), (0.0, 0.0, 0.0, 100.0, 1.0, 1.0), 10_000, 10_000)
    expected = torch.floor(x / torch.tensor(0.05))
    assert torch.equal(result[1][result[3].long(), 3], expected.int())


def check_batches(call) -> None:
    """Caps count per element; empty elements at the front, middle and end; offsets of both integer types."""
    points = cloud(60, 5, coarse=True)
    for dtype in (torch.int32, torch.int64):
        offsets = torch.tensor([0, 0, 20, 20, 45, 60, 60], dtype=dtype)
        whole = call(points, *UNIT, 2, 7, offsets=offsets)
        base, voxels = 0, []
        for b, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
            one = call(points[begin:end], *UNIT, 2, 7)
            assert len(one[1]) <= 7
            rows = slice(base, base + len(one[1]))
            assert torch.equal(whole[1][rows, 0], torch.full((len(one[1]),), b, dtype=torch.int32))
            assert torch.equal(whole[1][rows, 1:], one[1][:, 1:])
            p2v = whole[3][begin:end]
            assert torch.equal(torch.where(p2v >= 0, p2v - base, p2v), one[3])
            voxels.append(one[0])
            base += len(one[1])
        assert torch.equal(torch.cat(voxels), whole[0])
        assert base == len(whole[1])


def check_mean(call) -> None:
    for channels in (3, 4, 5, 9):
        points = cloud(500, 3, channels=channels)
        full = call(points, *UNIT, 3, 100)
        mean = call(points, *UNIT, 3, 100, mean=True)
        torch.testing.assert_close(mean[0], full[0].sum(dim=1) / full[2][:, None], rtol=1e-6, atol=1e-6)
        kernels.assert_same(full[1:], mean[1:])


CHECKS = (check_caps, check_borders, check_division, check_batches, check_mean)


@pytest.mark.parametrize("call", [voxelize, reference], ids=["native", "reference"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_closed_forms(check, call):
    check(call)


def variant(*, cell=None, cap_ends=False, order=False, recycle=False, global_cap=False):
    """The reference with one rule broken."""

    def call(points, size, bounds, max_points, max_voxels, *, offsets=None, mean=False):
        size, lower, grid = _grid("voxelize", size, bounds)
        if cell is not None:
            before = ref._voxelize.cells
            ref._voxelize.cells = cell
        try:
            if cap_ends:  # stops at the cap: later points of existing voxels are lost
                full = reference(points, size, bounds, max_points, 10**6, offsets=offsets)
                beyond = (full[3] >= max_voxels).nonzero()
                if len(beyond):
                    points = points.clone()
                    points[int(beyond[0]) :] = 1e9
            if global_cap and offsets is not None:
                count = len(
                    ref.voxelize(points, None, size, lower, grid, max_points, max_voxels, mean, False)[1]
                )
                max_voxels = max(1, min(max_voxels, count // len(offsets)))
            if recycle and not mean:  # keeps the last points instead of the first
                flipped = ref.voxelize(
                    points.flip(0), None, size, lower, grid, max_points, max_voxels, mean, False
                )
                return (flipped[0], flipped[1], flipped[2], flipped[3].flip(0), flipped[4])
            result = ref.voxelize(points, offsets, size, lower, grid, max_points, max_voxels, mean, False)
            if order:  # sorted instead of first come
                by = sorted(range(len(result[1])), key=lambda v: result[1][v].tolist())
                rank = torch.tensor(by).argsort() if by else torch.zeros(0, dtype=torch.int64)
                p2v = torch.where(result[3] >= 0, rank[result[3].clamp(min=0).long()].int(), result[3])
                return (result[0][by], result[1][by], result[2][by], p2v, result[4])
            return result
        finally:
            if cell is not None:
                ref._voxelize.cells = before

    return call


def _cells(*, reciprocal=False, inclusive=False, double=False):
    def cells(points, size, lower, grid):
        dtype = torch.float64 if double else points.dtype
        lo, step = torch.tensor(lower).to(dtype), torch.tensor(size).to(dtype)
        shifted = points[:, :3].to(dtype) - lo
        cell = torch.floor(shifted * (1 / step) if reciprocal else shifted / step)
        end = torch.tensor(grid)
        inside = ((cell >= 0) & ((cell <= end) if inclusive else (cell < end))).all(dim=1)
        return torch.where(inside[:, None], cell, 0).long().flip(1), inside

    return cells


WRONG = {
    "reciprocal": variant(cell=_cells(reciprocal=True)),
    "upper bound inclusive": variant(cell=_cells(inclusive=True)),
    "float64 cells": variant(cell=_cells(double=True)),
    "stops at the cap": variant(cap_ends=True),
    "sorted voxels": variant(order=True),
    "last points kept": variant(recycle=True),
    "cap shared by the batch": variant(global_cap=True),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


def test_grid_rounds_half_away_from_zero():
    ones = (1.0, 1.0)
    for extent, cells in [(2.5, 3), (3.5, 4), (2.49, 2), (0.5, 1), (70.4 / 0.05, 1408)]:
        assert _grid("voxelize", (1.0, *ones), (0.0, 0.0, 0.0, extent, *ones))[2][0] == cells


def test_set_of_voxels_does_not_depend_on_order_without_caps():
    points = cloud(800, 1, coarse=True)
    permuted = points[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    found = []
    for p in (points, permuted):
        r = voxelize(p, *UNIT, 800, 800)
        found.append(
            {tuple(c): sorted(v[:n].tolist()) for c, v, n in zip(r.coords.tolist(), r.voxels, r.num_points)}
        )
    assert found[0] == found[1]


# ---- against the reference -------------------------------------------------------------------------------

SPECIAL = [float("nan"), float("inf"), -float("inf"), -0.0, 1e-40, 1e-6, 1e6, 1e30, 8.0, 4.0]


@st.composite
def requests(draw):
    n = draw(st.sampled_from([0, 1, 2, 5, 17, 40, 90, 300]))
    channels = draw(st.integers(3, 7))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    seed = draw(st.integers(0, 2**31))
    points = cloud(n, seed, channels=channels, coarse=draw(st.booleans()), dtype=dtype)
    g = torch.Generator().manual_seed(seed)
    if draw(st.booleans()) and n:
        where = torch.rand(n, 3, generator=g) < 0.1
        values = torch.tensor(SPECIAL, dtype=dtype)[torch.randint(len(SPECIAL), (n, 3), generator=g)]
        points[:, :3] = torch.where(where, values, points[:, :3])
    if draw(st.booleans()):
        points = points.T.contiguous().T
    offsets = None
    if draw(st.booleans()):
        cuts = torch.randint(0, n + 1, (draw(st.integers(0, 4)),), generator=g).sort().values
        offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([n])])
    size = draw(st.sampled_from([(1.0, 1.0, 1.0), (0.3, 0.7, 4.0), (2.5, 1e-4, 1e-4), (1e-5, 1e-5, 1e-5)]))
    caps = draw(st.sampled_from([1, 2, 5, 1000])), draw(st.sampled_from([1, 2, 7, 50, 10**6]))
    return points, size, UNIT[1], *caps, offsets, draw(st.booleans())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(requests())
def test_equals_reference(request):
    *args, offsets, mean = request
    with tenfold.validation("meta"):
        result = voxelize(*args, offsets=offsets, mean=mean)
    expected = reference(*args, offsets=offsets, mean=mean)
    kernels.assert_same(expected[1:], result[1:])
    kernels.assert_same(expected[0], result.voxels, rtol=1e-6 if mean else None)


def test_more_than_2_to_31_cells():
    points = cloud(3000, 2, coarse=True)
    size, bounds = (1e-4, 1e-4, 1e-4), (0.0, 0.0, 0.0, 8.0, 8.0, 4.0)
    grid = _grid("voxelize", size, bounds)[2]
    assert np.prod(grid, dtype=object) > 2**31
    for caps in ((1, 50), (7, 10**6)):
        expected = reference(points, size, bounds, *caps)
        kernels.assert_same(expected, voxelize(points, size, bounds, *caps))
    assert int(expected[1].max()) > 2**15


def test_keys_made_to_collide():
    """Cells at multiples of powers of two, which weak hashes send to one slot: still linear, still right."""
    for step in (1 << 10, 1 << 16, 1 << 20):
        count = min(20_000, (1 << 30) // step)
        x = torch.arange(count, dtype=torch.float64) * step + 0.5
        points = torch.stack([x, torch.full_like(x, 0.5), torch.full_like(x, 0.5)], dim=1)
        for width in (2**30, 2**40):  # 32-bit and 64-bit keys
            rows = width // 2**30
            result = voxelize(points, (1, 1, 1), (0, 0, 0, 2**30, rows, 1), 2, count + 1)
            assert torch.equal(result.coords[:, 3].double() + 0.5, x)
            assert torch.equal(result.point2voxel, torch.arange(count, dtype=torch.int32))


def test_many_equal_points():
    points = torch.full((200_000, 4), 0.5)
    result = voxelize(points, *UNIT, 5, 10)
    assert result.num_points.tolist() == [5]
    assert result.dropped.tolist() == [0, 0, 199_995]


# ---- the contract of every op ----------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("config", [KITTI, PILLARS, NUSCENES, (*KITTI[:2], 2, 3000)])
def test_threads(config, mean):
    g = torch.Generator().manual_seed(0)
    points = torch.rand(300_000, 4, generator=g) * torch.tensor([80.0, 90.0, 5.0, 1.0]) - torch.tensor(
        [4.0, 45, 3.5, 0]
    )
    points[:, :3] = points[:, :3] * torch.rand(300_000, 1, generator=g) ** 2  # dense near the sensor
    kernels.check_threads(lambda: voxelize(points, *config, mean=mean))
    offsets = torch.tensor([0, 0, 120_000, 250_000, 250_007, 300_000, 300_000])
    kernels.check_threads(lambda: voxelize(points, *config, mean=mean, offsets=offsets))


def test_threads_agree_with_reference_on_a_capped_batch():
    points = cloud(70_000, 9)
    offsets = torch.tensor([0, 69_990, 70_000])
    size, bounds = (0.01, 0.01, 0.01), UNIT[1]
    with kernels.threads(2):
        result = voxelize(points, size, bounds, 1, 20_000, offsets=offsets)
    kernels.assert_same(reference(points, size, bounds, 1, 20_000, offsets=offsets), result)


@pytest.mark.parametrize("mean", [False, True])
def test_levels(mean):
    for points in (
        cloud(3000, 4),
        cloud(3000, 4, coarse=True, dtype=torch.float64),
        cloud(700, 4, channels=9),
    ):
        kernels.check_levels(lambda p=points: voxelize(p, (0.05, 0.05, 0.1), UNIT[1], 3, 700, mean=mean))


def test_strides():
    offsets = torch.tensor([0, 100, 200])
    kernels.check_strides(lambda p, o: voxelize(p, *UNIT, 3, 50, offsets=o), cloud(200), offsets)


def test_shrinking_then_growing():
    calls = [(cloud(n, n), caps) for n in (5000, 3, 0, 4000, 10, 5000) for caps in ((1, 5), (9, 5000))]
    for points, caps in calls:
        kernels.assert_same(
            voxelize(points, (0.5, 0.5, 0.5), UNIT[1], *caps),
            reference(points, (0.5, 0.5, 0.5), UNIT[1], *caps),
        )


@pytest.mark.parametrize("mean", [False, True])
def test_opcheck(mean):
    plain = [] if mean else [cloud(40), cloud(0)]
    for points in (*plain, cloud(40, dtype=torch.float64).requires_grad_()):
        offsets = torch.tensor([0, len(points) // 2, len(points)])
        args = [points, offsets, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [8, 8, 4], 3, 20, mean, True]
        traced = points.requires_grad
        kernels.check_op(RAW, args, traced=traced)
        kernels.check_op(torch.ops.tenfold.voxelize_padded.default, args, traced=traced)
        out = [*(t.clone() for t in RAW(*[a.detach() if isinstance(a, Tensor) else a for a in args]))]
        out_args = [points.detach(), *args[1:], *out]
        kernels.check_op(torch.ops.tenfold.voxelize_out.default, out_args, traced=traced)
        backward_args = [torch.rand_like(out[0]), out[3], 3, mean]
        kernels.check_op(torch.ops.tenfold.voxelize_backward.default, backward_args, traced=False)


def test_compile():
    def f(points):
        r = voxelize(points * 2, *UNIT, 3, 20, mean=True)
        p = voxelize_padded(points * 2, *UNIT, 3, 20)
        return r.voxels * 2, r.coords + 1, r.point2voxel, p.voxels + 1, p.count

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (30, 50):
        points = cloud(n, n)
        kernels.assert_same(f(points), compiled(points))


def test_compile_with_gradient():
    def f(points):
        return voxelize(points / 2, *UNIT, 3, 20).voxels.square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    grads = []
    for g in (f, compiled):
        points = cloud(50).requires_grad_()
        g(points).backward()
        grads.append(points.grad)
    assert grads[0].abs().sum() > 0
    kernels.assert_same(grads[0], grads[1])


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck(padded, mean):
    g = torch.Generator().manual_seed(0)
    points = torch.rand(20, 4, generator=g, dtype=torch.float64) * 3
    points[:, :3] = points[:, :3].floor() + 0.25 + points[:, :3].frac() / 2  # away from the borders
    op = voxelize_padded if padded else voxelize
    offsets = torch.tensor([0, 12, 20])
    assert torch.autograd.gradcheck(
        lambda p: op(p, *UNIT, 2, 6, mean=mean, offsets=offsets).voxels,
        points.requires_grad_(),
        nondet_tol=0.0,
    )


def test_gradient_reaches_stored_points_alone():
    x = torch.tensor([0.5, 1.5, 0.6, 2.5, 0.7, 1.6])
    points = torch.stack([x, torch.full((6,), 0.5), torch.full((6,), 0.5)], dim=1).requires_grad_()
    result = voxelize(points, *UNIT, 2, 2)
    result.voxels.sum().backward()
    assert points.grad[:, 0].tolist() == [1, 1, 1, 0, 0, 1]
    points.grad = None
    voxelize(points, *UNIT, 2, 2, mean=True).voxels.sum().backward()
    assert points.grad[:, 0].tolist() == [0.5, 0.5, 0.5, 0, 0, 0.5]
    for output in (result.coords, result.num_points, result.point2voxel, result.dropped):
        assert not output.requires_grad
    result = voxelize(points, *UNIT, 2, 2)
    (grad,) = torch.autograd.grad(result.voxels.square().sum(), points, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(grad.sum(), points)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_binned_in_float32(dtype):
    points = cloud(300).to(dtype).requires_grad_()
    result = voxelize(points, *UNIT, 3, 50)
    wide = voxelize(points.detach().float(), *UNIT, 3, 50)
    kernels.assert_same(wide[1:], result[1:])
    assert torch.equal(result.voxels, wide.voxels.to(dtype))
    result.voxels.sum().backward()
    assert points.grad.dtype is dtype
    assert points.grad.sum() == 4 * int(result.num_points.sum())


def test_autocast_changes_nothing():
    points = cloud(300)
    expected = voxelize(points, *UNIT, 3, 50, mean=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(expected, voxelize(points, *UNIT, 3, 50, mean=True))


def test_empty():
    for n, offsets in [(0, None), (0, [0]), (0, [0, 0, 0]), (4, [0, 0, 4]), (4, [0, 4, 4])]:
        points = torch.full((n, 5), 0.5, requires_grad=True)
        result = voxelize(points, *UNIT, 2, 3, offsets=None if offsets is None else torch.tensor(offsets))
        v = min(n, 1)
        assert [tuple(t.shape) for t in result] == [(v, 2, 5), (v, 4), (v,), (n,), (3,)]
        result.voxels.sum().backward()
        assert points.grad.shape == (n, 5)
    assert voxelize(torch.full((3, 3), 99.0), *UNIT, 2, 3, mean=True).voxels.shape == (0, 3)


def test_meta_device():
    with pytest.raises(RuntimeError, match=r"(?i)fake|dynamic|meta"):
        voxelize(torch.empty(5, 4, device="meta"), *UNIT, 2, 3)


def test_not_finite_points():
    points = cloud(1000)
    points[700, 1] = float("nan")
    points[800, 2] = float("inf")
    points[900, 3] = float("nan")  # a feature: no matter
    with pytest.raises(ValueError, match="voxelize: points: row 700 is not finite"):
        voxelize(points, *UNIT, 3, 50)
    with pytest.raises(ValueError, match="voxelize_padded: points: row 700 is not finite"):
        voxelize_padded(points, *UNIT, 3, 50)
    with tenfold.validation("meta"):
        assert voxelize(points, *UNIT, 3, 50).point2voxel[[700, 800]].tolist() == [-1, -1]


def test_padded_equals_plain():
    points = cloud(300, coarse=True)
    for offsets, mean in itertools.product([None, torch.tensor([0, 100, 100, 300])], [False, True]):
        plain = voxelize(points, *UNIT, 3, 40, offsets=offsets, mean=mean)
        padded = voxelize_padded(points, *UNIT, 3, 40, offsets=offsets, mean=mean)
        count = int(padded.count)
        assert count == len(plain.coords)
        assert len(padded.coords) == 40 * (1 if offsets is None else 3)
        kernels.assert_same(list(plain[:3]), [t[:count] for t in padded[:3]])
        kernels.assert_same(list(plain[3:]), list(padded[3:5]))
        assert not padded.voxels[count:].any()
        assert not padded.num_points[count:].any()
        assert bool((padded.coords[count:] == -1).all())
    size, lower, grid = _grid("voxelize", *UNIT)
    expected = ref.voxelize_padded(points, offsets, size, lower, grid, 3, 40, mean, False)
    kernels.assert_same(expected[1:], padded[1:])
    kernels.assert_same(expected[0], padded.voxels, rtol=1e-6)


def buffers(rows: int, n: int, points: int = 3, channels: int = 4) -> Voxels:
    return Voxels(
        torch.full((rows, points, channels), 77.0),
        torch.full((rows, 4), 77, dtype=torch.int32),
        torch.full((rows,), 77, dtype=torch.int32),
        torch.full((n,), 77, dtype=torch.int32),
        torch.full((3,), 77),
    )


def test_out():
    out = buffers(100, 1000)
    for n in (1000, 10, 0, 700):
        points = cloud(n, n)
        result = voxelize(points, *UNIT, 3, 100, out=out)
        kernels.assert_same(voxelize(points, *UNIT, 3, 100), result)
        for view, buffer in zip(result, out):
            assert view.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
    few, out_of_few = cloud(20), buffers(100, 1000)
    found = len(voxelize(few, *UNIT, 3, 100, out=out_of_few).coords)
    assert 0 < found < 20
    assert bool((out_of_few.voxels[found:] == 77).all())  # rows behind the voxels are left alone
    mean = out._replace(voxels=torch.empty(100, 4))
    kernels.assert_same(
        voxelize(points, *UNIT, 3, 100, mean=True), voxelize(points, *UNIT, 3, 100, mean=True, out=mean)
    )


def test_out_errors():
    points = cloud(300) / 2
    out = buffers(100, 300)
    needed = len(voxelize(points, *UNIT, 3, 100).coords)
    call = lambda **kw: voxelize(points, *UNIT, 3, 100, **kw)  # noqa: E731
    with pytest.raises(ValueError, match=f"voxelize: out: too small; expected at least {needed} rows"):
        call(out=buffers(needed - 1, 300))
    with pytest.raises(ValueError, match=r"out.point2voxel: got 299 rows"):
        call(out=buffers(100, 299))
    storage = torch.empty(1200)
    shared = storage.view(300, 4).copy_(points)
    with pytest.raises(ValueError, match="out: shares memory with points"):
        voxelize(shared, *UNIT, 3, 100, out=out._replace(voxels=storage.view(100, 3, 4)))
    table = torch.empty(500, dtype=torch.int32)
    with pytest.raises(ValueError, match="out: buffers share memory"):
        call(out=out._replace(num_points=table[:100], coords=table[50:450].view(100, 4)))
    with pytest.raises(ValueError, match=r"out.voxels: got shape"):
        call(out=buffers(100, 300, points=4))
    with pytest.raises(ValueError, match=r"out.voxels: got shape .* contiguous"):
        call(out=out._replace(voxels=torch.empty(100, 4, 3).transpose(1, 2)))
    with pytest.raises(TypeError, match=r"out.voxels: got torch.float64"):
        call(out=out._replace(voxels=out.voxels.double()))
    with pytest.raises(TypeError, match="out: got Tensor"):
        call(out=out.voxels)
    with pytest.raises(ValueError, match="points require a gradient"):
        voxelize(points.clone().requires_grad_(), *UNIT, 3, 100, out=out)
    with pytest.raises(TypeError, match=r"out: points are torch\.float16"):
        voxelize(points.half(), *UNIT, 3, 100, out=out)


POINTS = torch.full((4, 4), 0.5)
ERRORS = [
    (TypeError, "points: got list", {"points": [[0.0, 0.0, 0.0]]}),
    (TypeError, "points: got torch.int64", {"points": torch.zeros(4, 4, dtype=torch.int64)}),
    (ValueError, r"points: got shape \(4, 2\)", {"points": torch.zeros(4, 2)}),
    (ValueError, r"points: got shape \(4, 4, 4\).*offsets", {"points": torch.zeros(4, 4, 4)}),
    (ValueError, "voxel_size: got 2 numbers", {"voxel_size": (1, 1)}),
    (ValueError, "voxel_size: got 0.0 along y", {"voxel_size": (1, 0, 1)}),
    (ValueError, "voxel_size: got nan along z", {"voxel_size": (1, 1, float("nan"))}),
    (ValueError, "voxel_size: got -1.0 along x", {"voxel_size": (-1, 1, 1)}),
    (ValueError, "point_range: got 3 numbers", {"point_range": (0, 0, 0)}),
    (ValueError, "point_range: got 4.0 to 4.0 along z", {"point_range": (0, 0, 4, 8, 8, 4)}),
    (ValueError, "point_range: got 0.0 to inf along y", {"point_range": (0, 0, 0, 8, float("inf"), 4)}),
    (ValueError, "voxel_size: the grid has .* from 1 to", {"voxel_size": (100, 1, 1)}),
    (ValueError, r"voxel_size: the grid has .* 2\^31", {"voxel_size": (1e-9, 1, 1)}),
    (ValueError, r"voxel_size: the grid has .* 2\^63", {"voxel_size": (4e-9, 4e-9, 4e-9)}),
    (ValueError, "max_points: got 0", {"max_points": 0}),
    (ValueError, "max_voxels: got 0", {"max_voxels": 0}),
    (TypeError, "offsets: got list", {"offsets": [0, 4]}),
    (TypeError, "offsets: got torch.float32", {"offsets": torch.tensor([0.0, 4.0])}),
    (ValueError, r"offsets: got shape \(0,\)", {"offsets": torch.zeros(0, dtype=torch.int64)}),
    (ValueError, r"offsets: got shape \(1, 2\)", {"offsets": torch.tensor([[0, 4]])}),
    (ValueError, "offsets: expected to start at 0", {"offsets": torch.tensor([1, 4])}),
    (ValueError, "offsets: expected to start at 0 and to end at N", {"offsets": torch.tensor([0, 5])}),
    (ValueError, "offsets: decrease", {"offsets": torch.tensor([0, 3, 2, 4])}),
    (ValueError, "offsets: decrease", {"offsets": torch.tensor([0, 2**40, 4])}),
]


@pytest.mark.parametrize("op", [voxelize, voxelize_padded])
@pytest.mark.parametrize(("error", "match", "change"), ERRORS)
def test_errors(op, error, match, change):
    given_ = {
        "points": POINTS,
        "voxel_size": UNIT[0],
        "point_range": UNIT[1],
        "max_points": 2,
        "max_voxels": 3,
    } | change
    with pytest.raises(error, match=f"{op.__name__}: {match}"):
        op(**given_)


def test_raw_op_misuse_raises():
    ok = [cloud(4), None, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [8, 8, 4], 2, 3, False, True]
    bad = {
        0: [
            torch.zeros(4),
            torch.zeros(4, 2),
            torch.zeros(4, 4, dtype=torch.int32),
            torch.zeros(4, 4).half(),
        ],
        1: [torch.tensor([0.0]), torch.tensor([0, 9]), torch.tensor(0), torch.tensor([0, 3, 1, 4])],
        2: [[1.0], []],
        3: [[0.0, 0.0]],
        4: [[8, 8], [0, 8, 8], [-1, 8, 8], [2**31, 1, 1], [2**30, 2**30, 2**30]],
        5: [0, -1],
        6: [0, -5],
    }
    for op in (RAW, torch.ops.tenfold.voxelize_padded.default):
        for position, values in bad.items():
            for value in values:
                args = list(ok)
                args[position] = value
                with pytest.raises(RuntimeError, match="expected"):
                    op(*args)
    with pytest.raises(RuntimeError, match=r"2\^31"):
        torch.ops.tenfold.voxelize_padded.default(*ok[:5], 2**20, 2**20, False, True)
    for size in (
        [float("nan")] * 3,
        [0.0] * 3,
        [float("inf")] * 3,
        [-1.0] * 3,
    ):  # total, whatever the numbers
        assert RAW(*ok[:2], size, *ok[3:])[4].sum() >= 0
    backward = torch.ops.tenfold.voxelize_backward.default
    grad, p2v = torch.zeros(3, 2, 4), torch.zeros(5, dtype=torch.int32)
    for args in (
        (grad, p2v + 3, 2, False),
        (grad, p2v.long(), 2, False),
        (grad, p2v, 3, False),
        (grad, p2v, 2, True),
    ):
        with pytest.raises(RuntimeError, match="expected"):
            backward(*args)
    out = buffers(1, 4, points=2)
    for change in (
        {"voxels": torch.zeros(3)},
        {"coords": out.coords[:, :3]},
        {"dropped": out.dropped[:2]},
        {"num_points": out.num_points.long()},
    ):
        with pytest.raises(RuntimeError, match="expected"):
            torch.ops.tenfold.voxelize_out.default(*ok, *out._replace(**change))


def test_huge_max_points_needs_mean():
    points = cloud(10)
    with pytest.raises(ValueError, match="max_points: expected fewer than 2\\^31 rows"):
        voxelize(points, *UNIT, 2**31, 10)
    result = voxelize(points, *UNIT, 2**40, 2**40, mean=True)
    assert int(result.num_points.sum()) + int(result.dropped[0]) == 10


def scratch_of(n: int, size, bounds, count: int) -> int:
    points = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) * 8
    return kernels.scratch_bytes(lambda: voxelize(points, size, bounds, 5, n), count)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("size", [(1e-3, 1e-3, 1e-2), (1.0, 1.0, 1.0), (1e-4, 1e-4, 1e-4), (0.2, 0.2, 0.2)])
def test_scratch_is_bounded(size, count):
    """32 bytes a point on one thread, whatever the grid; several threads also keep the split."""
    for n in (20_000, 40_000, 200_000):
        assert scratch_of(n, size, (0, 0, 0, 8, 8, 8), count) <= (32 if count == 1 else 42) * n + 200_000


def test_scratch_of_kitti_grid(kitti_frame):
    points = kitti_frame()
    assert kernels.scratch_bytes(lambda: voxelize(points, *KITTI)) <= 8e6
