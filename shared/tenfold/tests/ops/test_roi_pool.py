"""roi_point_pool and roi_grid_pool3d: contract, NumPy loops, reference, gradients, wrong variants."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import points_in_boxes, roi_grid_pool3d, roi_point_pool
from tenfold.testing import kernels, stride_variant

OPS = torch.ops.tenfold


def scene(n: int, m: int, c: int = 4, seed: int = 0, *, size: float = 8.0, dtype=torch.float32, coarse=False):
    g = torch.Generator().manual_seed(seed)
    points = (torch.rand(n, 3, generator=g) - 0.5) * torch.tensor([size, size, 2.0])
    centers = (torch.rand(m, 3, generator=g) - 0.5) * torch.tensor([size, size, 1.0])
    sizes = torch.rand(m, 3, generator=g) * torch.tensor([4.0, 2.0, 1.5]) + 0.3
    boxes = torch.cat([centers, sizes, torch.randn(m, 1, generator=g) * 3], 1)
    feats = torch.randn(n, c, generator=g)
    return points.to(dtype), ((feats * 2).round() if coarse else feats).to(dtype), boxes.to(dtype)


def members(points, boxes, **margins):
    mask = points_in_boxes(points, boxes, mode="mask", **margins)
    return [row.nonzero().flatten() for row in mask]


def numpy_point_pool(points, feats, boxes, k, *, enlarge=(0, 0, 0), cyclic=True, per_side=1):
    """The definition as a loop; options make wrong variants."""
    grown = boxes.clone()
    grown[:, 3:6] += per_side * boxes.new_tensor(enlarge) * (boxes[:, 3:6] > 0).all(1, keepdim=True)
    out = np.zeros((len(boxes), k, 3 + feats.shape[1]), points.numpy().dtype)
    for m, rows in enumerate(members(points, grown)):
        for j in range(k if len(rows) else 0):
            place = j % len(rows) if cyclic else min(j, len(rows) - 1)
            row = int(rows[place if j >= len(rows) else j])
            out[m, j] = torch.cat([points[row], feats[row]]).numpy()
    empty = [len(r) == 0 for r in members(points, grown)]
    return torch.from_numpy(out), torch.tensor(empty, dtype=torch.bool)


def numpy_grid_pool(
    rois, points, feats, grid, max_points=127, mode="max", *, floor_at=math.floor, x_major=True
):
    out = np.zeros((len(rois), *grid, feats.shape[1]), points.numpy().dtype)
    kind = points.numpy().dtype.type
    for m, rows in enumerate(members(points, rois)):
        x, y, z, *size, yaw = rois[m].numpy()
        c, s = kind(math.cos(float(yaw))), kind(math.sin(float(yaw)))
        cells: dict[tuple[int, ...], list[int]] = {}
        for row in rows.tolist():
            px, py, pz = points[row].numpy() - np.array([x, y, z])
            local = (px * c + py * s, py * c - px * s, pz)
            cell = tuple(
                min(max(floor_at((v + d / kind(2)) / (d / kind(g))), 0), g - 1)
                for v, d, g in zip(local, size, grid, strict=True)
            )
            cells.setdefault(cell if x_major else cell[::-1], []).append(row)
        for cell, inside in cells.items():
            used = feats[inside[:max_points]].numpy()
            total = used[0].copy()
            for value in used[1:]:
                total = np.maximum(total, value) if mode == "max" else total + value
            out[(m, *cell)] = total if mode == "max" else total / kind(len(used))
    return torch.from_numpy(out)


# ---- checks that take the implementation


def check_slots(pool):
    """Three points in eight slots: 0 1 2 0 1 2 0 1."""
    points = torch.tensor([[5.0, 0, 0], [0.1, 0, 0], [0.2, 0, 0], [-0.3, 0, 0], [9, 9, 9]])
    box = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0.3], [7, 7, 7, 1, 1, 1, 0]])
    pooled, empty = pool(points, torch.arange(5.0)[:, None], box, 8)
    assert pooled[0, :, 3].tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert pooled[0, 2, :3].tolist() == points[3].tolist()
    assert empty.tolist() == [False, True]
    assert not pooled[1].any()


def check_first_k(pool):
    points = torch.zeros(20, 3)
    pooled, _ = pool(points, torch.arange(20.0)[:, None], torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]), 5)
    assert pooled[0, :, 3].tolist() == [0, 1, 2, 3, 4]


def check_enlarge(pool):
    """Half of the growth on each side; a box without size does not grow."""
    points = torch.tensor([[0.74, 0, 0], [0.76, 0, 0]])
    boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]])
    pooled, empty = pool(points, torch.tensor([[1.0], [2.0]]), boxes, 2, enlarge=(0.5, 0, 0))
    assert pooled[0, :, 3].tolist() == [1, 1]
    assert empty.tolist() == [False, True]


POINT_CHECKS = [check_slots, check_first_k, check_enlarge]
POINT_WRONG = {"last hit repeated": {"cyclic": False}, "growth on each side": {"per_side": 2}}


@pytest.mark.parametrize("check", POINT_CHECKS, ids=lambda c: c.__name__)
def test_point_definition(check):
    check(roi_point_pool)
    check(numpy_point_pool)


@pytest.mark.parametrize("name", POINT_WRONG)
def test_wrong_point_variants_are_caught(name):
    kernels.assert_caught(POINT_CHECKS, lambda *a, **more: numpy_point_pool(*a, **more, **POINT_WRONG[name]))


def check_cells(pool):
    """Cells count from the low corner along the box's own axes; the face belongs to the last cell."""
    roi = torch.tensor([[1.0, 2.0, 0.0, 4.0, 2.0, 2.0, math.pi / 2]])  # its x axis points along +y
    points = torch.tensor([[1.0, 0.5, -0.9], [1.9, 3.5, 0.9], [0.1, 3.9, 1.0], [1.0, 2.0, 0.0]])
    pooled = pool(roi, points, torch.tensor([[1.0], [2.0], [4.0], [8.0]]), (2, 2, 2))
    assert pooled[0, 0, 1, 0, 0] == 1
    assert pooled[0, 1, 0, 1, 0] == 2
    assert pooled[0, 1, 1, 1, 0] == 8  # the top face and the middle
    assert int((pooled != 0).sum()) == 3


def check_capacity(pool):
    points, feats = torch.zeros(5, 3), torch.tensor([[1.0], [2.0], [3.0], [9.0], [9.0]])
    roi = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
    assert pool(roi, points, feats, (1, 1, 1), max_points=3).item() == 3
    assert pool(roi, points, feats, (1, 1, 1), max_points=3, mode="avg").item() == 2


def check_negative_maximum(pool):
    roi = torch.tensor([[0.0, 0, 0, 2, 1, 1, 0]])
    pooled = pool(roi, torch.tensor([[0.5, 0, 0]]), torch.tensor([[-3.0]]), (2, 1, 1))
    assert pooled.flatten().tolist() == [0, -3]


GRID_CHECKS = [check_cells, check_capacity, check_negative_maximum]
GRID_WRONG = {
    "z-major": lambda *a, **more: numpy_grid_pool(*a, **more, x_major=False),
    "no capacity": lambda *a, max_points=127, mode="max": numpy_grid_pool(*a, mode=mode),
    "maximum from zero": lambda *a, **more: numpy_grid_pool(*a, **more).clamp(min=0),
    "ceil": lambda *a, **more: numpy_grid_pool(*a, **more, floor_at=math.ceil),
}


@pytest.mark.parametrize("check", GRID_CHECKS, ids=lambda c: c.__name__)
def test_grid_definition(check):
    check(roi_grid_pool3d)
    check(numpy_grid_pool)


@pytest.mark.parametrize("name", GRID_WRONG)
def test_wrong_grid_variants_are_caught(name):
    kernels.assert_caught(GRID_CHECKS, GRID_WRONG[name], (AssertionError, IndexError))


# ---- against NumPy and the reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m"), [(0, 3), (4, 0), (300, 5), (3000, 20)])
def test_equals_numpy(n, m, dtype):
    points, feats, boxes = scene(n, m, dtype=dtype, coarse=True)
    for k in (1, 16, 600):
        kernels.assert_same(
            roi_point_pool(points, feats, boxes, k), numpy_point_pool(points, feats, boxes, k)
        )
    for mode in ("max", "avg"):
        for grid, cap in (((3, 4, 2), 127), ((6, 6, 6), 2)):
            got = roi_grid_pool3d(boxes, points, feats, grid, max_points=cap, mode=mode)
            kernels.assert_same(got, numpy_grid_pool(boxes, points, feats, grid, cap, mode))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    n, m, c = draw(st.integers(0, 200)), draw(st.integers(0, 12)), draw(st.sampled_from([0, 1, 5, 17]))
    points, feats, boxes = scene(n, m, c, draw(st.integers(0, 500)), dtype=dtype, coarse=draw(st.booleans()))
    if draw(st.booleans()):  # points on faces and cell borders
        points, boxes = (points * 2).round() / 2, (boxes * 2).round() / 2
    if n and m and draw(st.booleans()):
        for value in (float("nan"), float("inf"), 0.0, -1.0, 1e-42, 1e30):
            target = draw(st.sampled_from([points, feats, boxes])) if c else points
            target.view(-1)[draw(st.integers(0, target.numel() - 1))] = value
    offsets, box_offsets = None, None
    if draw(st.booleans()):
        cut, box_cut = draw(st.integers(0, n)), draw(st.integers(0, m))
        offsets, box_offsets = torch.tensor([0, cut, cut, n]), torch.tensor([0, box_cut, m, m])
    if n and draw(st.booleans()):
        points, feats = stride_variant(points, 2), stride_variant(feats, 2)
    batch = (None, None, offsets, box_offsets)
    k, enlarge = (
        draw(st.sampled_from([0, 1, 7, 50])),
        draw(st.sampled_from([(0.0, 0.0, 0.0), (0.5, 0.2, 1.0)])),
    )
    args = (points, feats, boxes, k, enlarge, 1e-5, 0.0, *batch, False)
    got = OPS.roi_point_pool(*args)
    kernels.assert_same(got, ref.roi_point_pool(*args))
    grad = torch.randn(got[0].shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    kernels.assert_same(
        OPS.roi_point_pool_backward(grad, *got[1:], n), ref.roi_point_pool_backward(grad, *got[1:], n)
    )
    grid, cap = draw(st.sampled_from([[1, 1, 1], [2, 3, 4], [5, 1, 2]])), draw(st.sampled_from([1, 3, 127]))
    for maximum in (True, False):
        args = (boxes, points, feats, grid, cap, maximum, True, 1e-5, 0.0, *batch, False)
        pooled, arg = OPS.roi_grid_pool3d(*args)
        kernels.assert_same((pooled, arg), ref.roi_grid_pool3d(*args))
        kernels.assert_same(OPS.roi_grid_pool3d(*args[:6], False, *args[7:])[0], pooled)
        grad = torch.randn(pooled.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
        back = (grad, arg, boxes, points, grid, cap, maximum, 1e-5, 0.0, *batch)
        kernels.assert_same(OPS.roi_grid_pool3d_backward(*back), ref.roi_grid_pool3d_backward(*back))


# ---- batches


def test_padded_batch_equals_its_elements():
    parts = [scene(200, 6, seed=s) for s in range(3)]
    points, feats, boxes = (torch.stack(column) for column in zip(*parts, strict=True))
    lengths, box_lengths = torch.tensor([200, 90, 0]), torch.tensor([6, 2, 6])
    points[1, 90:], boxes[1, 2:] = float("nan"), float("nan")  # not read
    options = {"lengths": lengths}
    pooled, empty = roi_point_pool(points, feats, boxes, 9, **options, box_lengths=box_lengths)
    grid = roi_grid_pool3d(boxes, points, feats, 3, **options, roi_lengths=box_lengths)
    assert pooled.shape == (3, 6, 9, 7)
    assert grid.shape == (3, 6, 3, 3, 3, 4)
    for b in range(3):
        n, m = int(lengths[b]), int(box_lengths[b])
        one = (points[b, :n], feats[b, :n], boxes[b, :m])
        kernels.assert_same((pooled[b, :m], empty[b, :m]), roi_point_pool(*one, 9))
        kernels.assert_same(grid[b, :m], roi_grid_pool3d(one[2], *one[:2], 3))
        assert bool(empty[b, m:].all())
        assert not pooled[b, m:].any()
        assert not grid[b, m:].any()


def test_stacked_batch_and_roi_batch():
    points, feats, boxes = scene(500, 12)
    offsets, roi_offsets = torch.tensor([0, 200, 200, 500]), torch.tensor([0, 5, 7, 12])
    expected = torch.cat(
        [
            roi_grid_pool3d(boxes[a:b], points[p:q], feats[p:q], (2, 3, 4))
            for a, b, p, q in ((0, 5, 0, 200), (5, 7, 200, 200), (7, 12, 200, 500))
        ]
    )
    kernels.assert_same(
        roi_grid_pool3d(boxes, points, feats, (2, 3, 4), offsets=offsets, roi_offsets=roi_offsets), expected
    )
    owner = torch.tensor([0] * 5 + [1] * 2 + [2] * 5)
    kernels.assert_same(
        roi_grid_pool3d(boxes, points, feats, (2, 3, 4), offsets=offsets, roi_batch=owner), expected
    )
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = roi_grid_pool3d(
        boxes[order], points, feats, (2, 3, 4), offsets=offsets, roi_batch=owner[order].int()
    )
    kernels.assert_same(shuffled, expected[order])
    with pytest.raises(
        ValueError, match="roi_grid_pool3d: roi_batch: row 3 is 5; expected values from 0 to 2"
    ):
        roi_grid_pool3d(
            boxes, points, feats, 2, offsets=offsets, roi_batch=torch.where(torch.arange(12) == 3, 5, owner)
        )


def test_more_points_than_a_piece():
    points, feats, boxes = scene(40_000, 10, 2, coarse=True)
    kernels.assert_same(roi_point_pool(points, feats, boxes, 50), numpy_point_pool(points, feats, boxes, 50))
    kernels.assert_same(
        roi_grid_pool3d(boxes, points, feats, (3, 3, 3)), numpy_grid_pool(boxes, points, feats, (3, 3, 3))
    )


# ---- gradients


def test_repeated_slots_accumulate():
    """Three points in 512 slots are read 171, 171 and 170 times."""
    points = torch.zeros(3, 3)
    feats = torch.zeros(3, 2, requires_grad=True)
    pooled, _ = roi_point_pool(points, feats, torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]), 512)
    pooled.sum().backward()
    assert feats.grad[:, 0].tolist() == [171.0, 171.0, 170.0]


@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck(padded):
    points, feats, boxes = scene(40, 5, 3, size=3.0, dtype=torch.float64)
    if padded:
        points, feats, boxes = (t.view(2, -1, t.shape[1]) for t in (points, feats, boxes[:4]))
    feats.requires_grad_()
    point = lambda f: roi_point_pool(points, f, boxes, 9)[0]  # noqa: E731
    assert torch.autograd.gradcheck(point, feats, nondet_tol=0.0)
    for mode in ("max", "avg"):
        grid = lambda f, mode=mode: roi_grid_pool3d(boxes, points, f, 2, max_points=4, mode=mode)  # noqa: E731
        assert torch.autograd.gradcheck(grid, feats, nondet_tol=0.0)


def test_no_gradient_to_points_and_boxes():
    points, feats, boxes = (t.requires_grad_() for t in scene(60, 4))
    total = roi_point_pool(points, feats, boxes, 8)[0].sum() + roi_grid_pool3d(boxes, points, feats, 2).sum()
    total.backward()
    assert points.grad is None
    assert boxes.grad is None
    assert feats.grad is not None
    plain = feats.detach()
    assert not roi_point_pool(points, plain, boxes, 8)[0].requires_grad


def test_second_derivative_raises():
    points, feats, boxes = scene(60, 4)
    feats.requires_grad_()
    for name, out in (
        ("roi_point_pool", roi_point_pool(points, feats, boxes, 8)[0]),
        ("roi_grid_pool3d", roi_grid_pool3d(boxes, points, feats, 2)),
    ):
        (grad,) = torch.autograd.grad(out.square().sum(), feats, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"{name}: second derivatives"):
            torch.autograd.grad(grad.sum(), feats)


# ---- the contract of every op


def test_threads_levels_strides():
    points, feats, boxes = scene(6000, 40, 40, coarse=True)
    pooled, point, count = OPS.roi_point_pool(
        points, feats, boxes, 100, [0.0] * 3, 1e-5, 0.0, *[None] * 4, True
    )
    calls = [
        lambda: roi_point_pool(points, feats, boxes, 100),
        lambda: OPS.roi_point_pool_backward(pooled * 1.1, point, count, 6000),
    ]
    for maximum in (True, False):
        args = (boxes, points, feats, [4, 4, 4], 127, maximum, True, 1e-5, 0.0, *[None] * 4)
        out, arg = OPS.roi_grid_pool3d(*args, True)
        calls.append(lambda a=args: OPS.roi_grid_pool3d(*a, True))
        calls.append(
            lambda o=out, g=arg, k=maximum: OPS.roi_grid_pool3d_backward(
                o * 1.1, g, boxes, points, [4, 4, 4], 127, k, 1e-5, 0.0, *[None] * 4
            )
        )
    for call in calls:
        kernels.check_threads(call)
        kernels.check_levels(call)
    small = scene(100, 5)
    kernels.check_strides(lambda p, f, b: roi_point_pool(p, f, b, 6), *small)
    kernels.check_strides(lambda p, f, b: roi_grid_pool3d(b, p, f, 2, mode="avg"), *small)


def test_operator_checks():
    points, feats, boxes = scene(60, 5)
    offsets, box_offsets = torch.tensor([0, 30, 60]), torch.tensor([0, 2, 5])
    batch = (None, None, offsets, box_offsets)
    f = feats.clone().requires_grad_()
    kernels.check_op(
        OPS.roi_point_pool.default, (points, f, boxes, 7, [0.1, 0.0, 0.0], 1e-5, 0.0, *batch, True)
    )
    pooled, point, count = OPS.roi_point_pool(points, feats, boxes, 7, [0.0] * 3, 1e-5, 0.0, *batch, True)
    kernels.check_op(OPS.roi_point_pool_backward.default, (pooled, point, count, 60), traced=False)
    for maximum in (True, False):
        args = (boxes, points, f, [2, 2, 2], 127, maximum, True, 1e-5, 0.0, *batch, True)
        kernels.check_op(OPS.roi_grid_pool3d.default, args)
        out, arg = OPS.roi_grid_pool3d(boxes, points, feats, *args[3:])
        back = (out, arg, boxes, points, [2, 2, 2], 127, maximum, 1e-5, 0.0, *batch)
        kernels.check_op(OPS.roi_grid_pool3d_backward.default, back, traced=False)


def test_compile():
    def f(points, feats, boxes):
        pooled, empty = roi_point_pool(points, feats * 2, boxes, 8)
        grid = roi_grid_pool3d(boxes, points, feats, 2) + roi_grid_pool3d(boxes, points, feats, 2, mode="avg")
        return (pooled.sum((1, 2)) * ~empty).sum() + grid.square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (40, 70):
        points, feats, boxes = scene(n, 5)
        grads = []
        for call in (f, compiled):
            leaf = feats.clone().requires_grad_()
            grads.append(torch.autograd.grad(call(points, leaf, boxes), leaf))
        kernels.assert_same(*grads)


def test_half_precision_and_autocast():
    points, feats, boxes = scene(200, 6)
    for dtype in (torch.float16, torch.bfloat16):
        low = feats.to(dtype).requires_grad_()
        pooled, _ = roi_point_pool(points, low, boxes, 8)
        assert pooled.dtype is torch.float32  # coordinates are not rounded
        kernels.assert_same(pooled, roi_point_pool(points, low.float(), boxes, 8)[0])
        grid = roi_grid_pool3d(boxes, points, low, 2, mode="avg")
        assert grid.dtype is dtype
        kernels.assert_same(grid, roi_grid_pool3d(boxes, points, low.float(), 2, mode="avg").to(dtype))
        (pooled.sum() + grid.sum()).backward()
        assert low.grad.dtype is dtype
    expected = roi_grid_pool3d(boxes, points, feats, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(roi_grid_pool3d(boxes, points, feats, 2), expected)


def test_nan_wins_the_maximum():
    roi, points = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]]), torch.zeros(4, 3)
    feats = torch.tensor([[1.0], [float("nan")], [3.0], [float("nan")]], requires_grad=True)
    out = roi_grid_pool3d(roi, points, feats, 1)
    assert bool(out.isnan().all())
    out.sum().backward()
    assert feats.grad.flatten().tolist() == [0, 1, 0, 0]


def test_non_finite_points_and_boxes():
    points, feats, boxes = scene(100, 6)
    broken, bad_box = points.clone(), boxes.clone()
    broken[7, 1], bad_box[2, 6] = float("nan"), float("inf")
    calls = {
        "roi_point_pool": (lambda p, b: roi_point_pool(p, feats, b, 5), "boxes"),
        "roi_grid_pool3d": (lambda p, b: roi_grid_pool3d(b, p, feats, 2), "rois"),
    }
    for op, (call, name) in calls.items():
        for values, text in (
            ((broken, boxes), f"{op}: points: row 7 is not finite; expected finite coordinates"),
            ((points, bad_box), f"{op}: {name}: row 2 is not finite; expected finite numbers"),
        ):
            with pytest.raises(ValueError, match=text):
                call(*values)
            with tenfold.reference(), pytest.raises(ValueError, match=text):
                call(*values)
        with tenfold.validation("meta"):
            call(broken, bad_box)


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for n in (2_000, 20_000, 100_000):
        points, feats, boxes = scene(n, 40, 8, size=30.0)
        hits = int(points_in_boxes(points, boxes, mode="mask").sum())
        for call in (
            lambda p=points, f=feats, b=boxes: roi_point_pool(p, f, b, 128),
            lambda p=points, f=feats, b=boxes: roi_grid_pool3d(b, p, f, 6),
        ):
            assert kernels.scratch_bytes(call) <= 24 * n + 12 * hits + 200 * len(boxes) + 4 * 216 + 8192


P, F2, B = scene(6, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: roi_point_pool([1], F2, B), TypeError, "roi_point_pool: points: got list"),
        (lambda: roi_point_pool(P, [1], B), TypeError, "roi_point_pool: feats: got list"),
        (lambda: roi_point_pool(P, F2[:5], B), ValueError, r"roi_point_pool: feats: got shape \(5, 4\)"),
        (lambda: roi_point_pool(P, F2, B[:, :6]), ValueError, r"roi_point_pool: boxes: got shape \(2, 6\)"),
        (lambda: roi_point_pool(P, F2, B, -1), ValueError, "roi_point_pool: k: got -1"),
        (
            lambda: roi_point_pool(P, F2, B, enlarge=(1, 2)),
            ValueError,
            r"enlarge: got \[1, 2\]; expected three",
        ),
        (lambda: roi_point_pool(P, F2, B, enlarge=(1, -2, 0)), ValueError, "enlarge: got"),
        (lambda: roi_point_pool(P, F2, B, margin=-1.0), ValueError, "margin: got -1.0"),
        (
            lambda: roi_grid_pool3d(B[:, :5], P, F2, 2),
            ValueError,
            r"roi_grid_pool3d: rois: got shape \(2, 5\)",
        ),
        (lambda: roi_grid_pool3d(B, P, F2, (2, 2)), ValueError, r"grid: got \(2, 2\); expected one or three"),
        (lambda: roi_grid_pool3d(B, P, F2, 0), ValueError, "grid: got 0"),
        (lambda: roi_grid_pool3d(B, P, F2, 2, max_points=0), ValueError, "max_points: got 0"),
        (lambda: roi_grid_pool3d(B, P, F2, 2, mode="sum"), ValueError, "mode: got 'sum'"),
        (
            lambda: roi_grid_pool3d(B, P, F2, 2, roi_batch=torch.zeros(2).long()),
            ValueError,
            "roi_batch: expected stacked",
        ),
        (
            lambda: roi_grid_pool3d(
                B, P, F2, 2, offsets=torch.tensor([0, 6]), roi_batch=torch.zeros(3).long()
            ),
            ValueError,
            r"roi_batch: got shape \(3,\)",
        ),
        (
            lambda: roi_grid_pool3d(B, P, F2, 2, offsets=torch.tensor([0, 3, 6])),
            ValueError,
            "roi_offsets: got 1 batch",
        ),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    table, count = torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    grad = torch.zeros(2, 3, 7)
    for args in [
        (grad[:1], table, count, 6),
        (grad, table.long(), count, 6),
        (grad, table, count[:1], 6),
        (grad, table, count, -1),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.roi_point_pool_backward(*args)
    # Tables that point elsewhere are skipped, not followed.
    assert not OPS.roi_point_pool_backward(grad + 1, table + 99, count + 3, 6).any()
    out = torch.ones(2, 1, 1, 1, 4)
    wild = torch.full((2, 1, 4), 10**6, dtype=torch.int32)
    rest = (B, P, [1, 1, 1], 127, True, 1e-5, 0.0, *[None] * 4)
    assert not OPS.roi_grid_pool3d_backward(out, wild, *rest).any()
    for bad in [(out[:1], wild), (out, wild[:1])]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.roi_grid_pool3d_backward(*bad, *rest)
