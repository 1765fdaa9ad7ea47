"""dynamic_voxelize: contract, oracle (torch.unique), agreement with voxelize, wrong variants."""

import itertools
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import dynamic_voxelize, scatter, voxelize
from tenfold.ops._voxelize import _grid
from tenfold.testing import kernels

RAW = torch.ops.tenfold.dynamic_voxelize.default
UNIT = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0, 8.0, 8.0, 4.0))
FINE = ((0.05, 0.05, 0.1), UNIT[1])
WIDE = ((1e-4, 1e-4, 1e-4), UNIT[1])  # more than 2^31 cells
ORDERS = ("lex", "first")


def cloud(n: int, seed: int = 0, *, channels: int = 4, coarse: bool = False, dtype=torch.float32) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(n, channels, generator=g, dtype=torch.float64) * 10 - 1
    return ((points * 2).round() / 2 if coarse else points).to(dtype)


def reference(points, size, bounds, *, offsets=None, order="lex"):
    size, lower, grid = _grid("dynamic_voxelize", size, bounds)
    return ref.dynamic_voxelize(points, offsets, size, lower, grid, order == "lex", False)


# ---- checks that take the implementation -----------------------------------------------------------------


def check_small(call) -> None:
    x = torch.tensor([2.5, 0.5, 2.7, 9.0, 1.5, 0.1])
    points = torch.stack([x, torch.full((6,), 0.5), torch.full((6,), 1.5)], dim=1)
    coords, p2v, counts = call(points, *UNIT, order="lex")
    assert coords.tolist() == [[0, 1, 0, 0], [0, 1, 0, 1], [0, 1, 0, 2]]
    assert p2v.tolist() == [2, 0, 2, -1, 1, 0]
    assert counts.tolist() == [2, 1, 2]
    coords, p2v, counts = call(points, *UNIT, order="first")
    assert coords[:, 3].tolist() == [2, 0, 1]
    assert p2v.tolist() == [0, 1, 0, -1, 2, 1]
    assert counts.tolist() == [2, 2, 1]


def check_unique(call) -> None:
    """torch.unique of the cells, in float32 division, is the lexicographic result."""
    for size, bounds in (UNIT, FINE, WIDE):
        points = (cloud(2000, 3, dtype=torch.float64) * 20).round().div(20).float()  # many on cell borders
        cell = ((points[:, :3] - torch.tensor(bounds[:3])) / torch.tensor(size)).floor()
        end = torch.tensor(_grid("", size, bounds)[2])
        inside = ((cell >= 0) & (cell < end)).all(dim=1)
        expected, inverse, counts = torch.unique(
            cell[inside].long().flip(1), dim=0, return_inverse=True, return_counts=True
        )
        coords, p2v, n = call(points, size, bounds, order="lex")
        assert torch.equal(coords[:, 1:].long(), expected)
        assert torch.equal(p2v[inside].long(), inverse)
        assert bool((p2v[~inside] == -1).all())
        assert torch.equal(n.long(), counts)


def check_batches(call) -> None:
    points = cloud(300, 8, coarse=True)
    bounds = [0, 0, 120, 120, 300, 300]
    for order, dtype in itertools.product(ORDERS, (torch.int32, torch.int64)):
        coords, p2v, counts = call(points, *UNIT, offsets=torch.tensor(bounds, dtype=dtype), order=order)
        base = 0
        for b, (begin, end) in enumerate(itertools.pairwise(bounds)):
            one = call(points[begin:end], *UNIT, order=order)
            rows = slice(base, base + len(one[0]))
            assert torch.equal(coords[rows, 1:], one[0][:, 1:])
            assert bool((coords[rows, 0] == b).all())
            assert torch.equal(counts[rows], one[2])
            local = p2v[begin:end]
            assert torch.equal(torch.where(local >= 0, local - base, local), one[1])
            base += len(one[0])
        assert base == len(coords)


def check_order_invariance(call) -> None:
    points = cloud(1000, 2, coarse=True)
    by = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    a, b = call(points, *UNIT, order="lex"), call(points[by], *UNIT, order="lex")
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1][by], b[1])
    assert torch.equal(a[2], b[2])


CHECKS = (check_small, check_unique, check_batches, check_order_invariance)


@pytest.mark.parametrize("call", [dynamic_voxelize, reference], ids=["native", "reference"])
@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_checks(check, call):
    check(call)


def _wrong(change):
    def call(points, size, bounds, *, offsets=None, order="lex"):
        return change(points, size, bounds, offsets, order)

    return call


def _x_major(points, size, bounds, offsets, order):
    coords, p2v, counts = reference(points, size, bounds, offsets=offsets, order=order)
    by = (
        sorted(range(len(coords)), key=lambda v: coords[v].tolist()[::-1])
        if order == "lex"
        else range(len(coords))
    )
    by = torch.tensor(list(by), dtype=torch.int64)
    return coords[by], torch.where(p2v >= 0, by.argsort()[p2v.clamp(min=0).long()].int(), p2v), counts[by]


def _capped(points, size, bounds, offsets, order):
    coords, p2v, counts = reference(points, size, bounds, offsets=offsets, order=order)
    return coords, p2v, counts.clamp(max=1)


WRONG = {
    "ignores the order": _wrong(lambda p, s, r, o, _: reference(p, s, r, offsets=o, order="lex")),
    "never sorts": _wrong(lambda p, s, r, o, _: reference(p, s, r, offsets=o, order="first")),
    "x-major": _wrong(_x_major),
    "batch forgotten": _wrong(lambda p, s, r, o, order: reference(p, s, r, order=order)),
    "counts capped": _wrong(_capped),
    "reciprocal": _wrong(
        lambda p, s, r, o, order: reference(
            (p[:, :3] - torch.tensor(r[:3])) * (1 / torch.tensor(s)),
            (1.0, 1.0, 1.0),
            (0, 0, 0, *[(b - a) / c for a, b, c in zip(r[:3], r[3:], s)]),
            offsets=o,
            order=order,
        )
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


# ---- real and random clouds ------------------------------------------------------------------------------

SECOND = ((0.05, 0.05, 0.1), (0.0, -40.0, -3.0, 70.4, 40.0, 1.0))


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_agrees_with_voxelize_on_kitti(frame, kitti_frame):
    points = kitti_frame(frame)
    hard = voxelize(points, *SECOND, len(points), len(points), mean=True)
    coords, p2v, counts = dynamic_voxelize(points, *SECOND, order="first")
    kernels.assert_same([hard.coords, hard.point2voxel, hard.num_points], [coords, p2v, counts])
    kernels.assert_same(hard.voxels, scatter(points, p2v, len(coords), "mean"))
    lex = dynamic_voxelize(points, *SECOND)
    key = (lex[0][:, 1].long() * 1600 + lex[0][:, 2]) * 1408 + lex[0][:, 3]
    assert bool((key[1:] > key[:-1]).all())
    assert torch.equal(lex[0][lex[1][p2v >= 0].long()], coords[p2v[p2v >= 0].long()])
    assert torch.equal(torch.bincount(lex[1][lex[1] >= 0]).int(), lex[2])


@st.composite
def requests(draw):
    n = draw(st.sampled_from([0, 1, 2, 5, 17, 40, 90, 300]))
    seed = draw(st.integers(0, 2**31))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    points = cloud(n, seed, channels=draw(st.integers(3, 6)), coarse=draw(st.booleans()), dtype=dtype)
    g = torch.Generator().manual_seed(seed)
    if draw(st.booleans()) and n:
        special = torch.tensor(
            [float("nan"), float("inf"), -float("inf"), -0.0, 1e-40, 1e6, 1e30, 8.0], dtype=dtype
        )
        values = special[torch.randint(len(special), (n, 3), generator=g)]
        points[:, :3] = torch.where(torch.rand(n, 3, generator=g) < 0.1, values, points[:, :3])
    offsets = None
    if draw(st.booleans()):
        cuts = torch.randint(0, n + 1, (draw(st.integers(0, 4)),), generator=g).sort().values
        offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([n])])
    size = draw(st.sampled_from([(1.0, 1.0, 1.0), (0.3, 0.7, 4.0), (2.5, 1e-4, 1e-4), (1e-5, 1e-5, 1e-5)]))
    return points, size, offsets, draw(st.sampled_from(ORDERS))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(requests())
def test_equals_reference(request):
    points, size, offsets, order = request
    with tenfold.validation("meta"):
        result = dynamic_voxelize(points, size, UNIT[1], offsets=offsets, order=order)
    kernels.assert_same(reference(points, size, UNIT[1], offsets=offsets, order=order), result)


# ---- the contract of every op ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("config", [FINE, WIDE, ((0.5, 0.5, 4.0), UNIT[1])], ids=["hash", "wide", "dense"])
def test_threads(config, order):
    points = cloud(250_000, 1) * torch.rand(250_000, 1, generator=torch.Generator().manual_seed(0))
    kernels.check_threads(lambda: dynamic_voxelize(points, *config, order=order))
    offsets = torch.tensor([0, 0, 100_000, 200_000, 200_003, 250_000, 250_000])
    kernels.check_threads(lambda: dynamic_voxelize(points, *config, order=order, offsets=offsets))


@pytest.mark.parametrize("order", ORDERS)
def test_levels_and_strides(order):
    points, offsets = cloud(900, 4), torch.tensor([0, 400, 900])
    for config in (UNIT, FINE, WIDE):
        kernels.check_levels(lambda c=config: dynamic_voxelize(points, *c, order=order))
        kernels.check_strides(
            lambda p, o, c=config: dynamic_voxelize(p, *c, order=order, offsets=o), points, offsets
        )


def test_shrinking_then_growing():
    for n, order in itertools.product((3000, 3, 0, 2000, 10, 3000), ORDERS):
        points = cloud(n, n)
        kernels.assert_same(
            reference(points, *FINE, order=order), dynamic_voxelize(points, *FINE, order=order)
        )


def test_opcheck():
    for points, lex in itertools.product(
        (cloud(40), cloud(0), cloud(40, dtype=torch.float64)), (False, True)
    ):
        offsets = torch.tensor([0, len(points) // 2, len(points)])
        args = [points, offsets, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [8, 8, 4], lex, True]
        kernels.check_op(RAW, args, traced=lex and len(points) > 0 and points.dtype is torch.float32)


def test_compile_with_scatter():
    def f(points):
        coords, p2v, counts = dynamic_voxelize(points, *UNIT)
        return coords + 1, counts + 1, scatter(points * 2, p2v, coords.shape[0], "mean")

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (30, 50):
        points = cloud(n, n)
        kernels.assert_same(f(points), compiled(points))


def test_no_gradient_but_through_scatter():
    points = cloud(50).requires_grad_()
    result = dynamic_voxelize(points, *UNIT)
    assert not any(t.requires_grad for t in result)
    scatter(points, result[1], len(result[0]), "sum").sum().backward()
    assert torch.equal(points.grad[:, 0], (result[1] >= 0).float())


def test_half_precision_is_binned_in_float32():
    points = cloud(300).half()
    kernels.assert_same(dynamic_voxelize(points.float(), *FINE), dynamic_voxelize(points, *FINE))


def test_empty():
    for n, offsets in [(0, None), (0, [0]), (0, [0, 0, 0]), (4, [0, 0, 4]), (4, [0, 4, 4])]:
        points = torch.full((n, 5), 0.5)
        for order in ORDERS:
            result = dynamic_voxelize(
                points, *UNIT, order=order, offsets=None if offsets is None else torch.tensor(offsets)
            )
            assert [tuple(t.shape) for t in result] == [(min(n, 1), 4), (n,), (min(n, 1),)]
            assert all(t.dtype is torch.int32 for t in result)


def test_errors():
    points = cloud(20)
    for error, match, change in [
        (ValueError, "order: got 'x'", {"order": "x"}),
        (ValueError, "offsets: decrease", {"offsets": torch.tensor([0, 12, 4, 20])}),
        (ValueError, "offsets: expected to start at 0 and to end at N", {"offsets": torch.tensor([0, 12])}),
        (ValueError, "voxel_size: got 0.0 along x", {"voxel_size": (0, 1, 1)}),
        (ValueError, r"points: got shape \(20, 2\)", {"points": points[:, :2]}),
        (TypeError, "points: got torch.int32", {"points": points.int()}),
    ]:
        with pytest.raises(error, match=f"dynamic_voxelize: {match}"):
            dynamic_voxelize(**({"points": points, "voxel_size": UNIT[0], "point_range": UNIT[1]} | change))
    points[3, 0] = float("inf")
    with pytest.raises(ValueError, match="dynamic_voxelize: points: row 3 is not finite"):
        dynamic_voxelize(points, *UNIT)
    with tenfold.validation("meta"):
        assert int(dynamic_voxelize(points, *UNIT)[1][3]) == -1


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e-4, 0.2])
def test_scratch_is_bounded(size, order, count):
    for n in (20_000, 40_000, 200_000):
        points = torch.rand(n, 3, generator=torch.Generator().manual_seed(0)) * 4
        call = partial(dynamic_voxelize, points, (size,) * 3, UNIT[1], order=order)
        assert kernels.scratch_bytes(call, count) <= (32 if count == 1 else 40) * n + 200_000
