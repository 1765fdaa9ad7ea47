"""ball_query: contract, brute force in NumPy (bit-equal), SciPy's kd-tree, real frames, wrong variants."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import tenfold
from tenfold import _native, ref
from tenfold.ops import ball_query, ball_query_multi
from tenfold.testing import kernels, sample_data, stride_variant


def numpy_ball_query(
    xyz, centers, radius, k, min_radius=0.0, *, le=False, nearest=False, contracted=False, pad=True
):
    """The definition in NumPy; the options make the wrong variants that the checks must turn down."""
    xyz, centers = np.asarray(xyz), np.asarray(centers)
    kind = xyz.dtype.type
    r2, rmin2 = kind(radius) * kind(radius), kind(min_radius) * kind(min_radius)
    idx = np.zeros((len(centers), k), np.int32)
    count = np.zeros(len(centers), np.int32)
    for row, center in enumerate(centers):
        d = xyz - center
        if contracted:  # as with a fused multiply-add
            wide = d.astype(np.float64)
            d2 = ((wide**2).sum(axis=1)).astype(kind)
        else:
            d2 = (d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2]
        hits = np.flatnonzero(((d2 <= r2) if le else (d2 < r2)) & ((d2 >= rmin2) | (d2 == 0)))
        if nearest:
            hits = hits[np.argsort(d2[hits], kind="stable")]
        hits = hits[:k]
        if len(hits):
            idx[row] = hits[0] if pad else 0
        idx[row, : len(hits)] = hits
        count[row] = len(hits)
    return torch.from_numpy(idx), torch.from_numpy(count)


def cloud(n: int, seed: int = 0, *, scale: float = 10.0, dtype=torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, 3, generator=g) - 0.5) * scale).to(dtype)


def lattice(n: int) -> torch.Tensor:
    """Integer points: distances of exactly 1, 2, 3 ... and many equal ones."""
    axis = torch.arange(n, dtype=torch.float32)
    return torch.cartesian_prod(axis, axis, axis)


# ---- checks that take the implementation, so that wrong ones can be fed to them


def check_boundary(query):
    points = lattice(7)
    for radius in (1.0, 2.0, 3.0):
        expected = numpy_ball_query(points, points, radius, 40)
        kernels.assert_same(query(points, points, radius, 40), expected)


def check_index_order(query):
    points = cloud(400, 3)
    kernels.assert_same(query(points, points[:50], 2.5, 5), numpy_ball_query(points, points[:50], 2.5, 5))


def check_padding(query):
    points = torch.tensor([[5.0, 0, 0], [0, 0, 0], [0.5, 0, 0]])
    idx, count = query(points, torch.tensor([[0.0, 0, 0], [50.0, 0, 0]]), 1.0, 4)
    assert idx.tolist() == [[1, 2, 1, 1], [0, 0, 0, 0]]
    assert count.tolist() == [2, 0]


def check_rounding(query):
    """Radii that equal a computed distance: the last bit of d2 decides."""
    g = torch.Generator().manual_seed(1)
    points = torch.randn(4000, 3, generator=g)
    center = torch.zeros(1, 3)
    d2 = (points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]) + points[:, 2] * points[:, 2]
    for radius in d2.sqrt()[:200].tolist():
        kernels.assert_same(
            query(points, center, radius, 4000), numpy_ball_query(points, center, radius, 4000)
        )


CHECKS = [check_boundary, check_index_order, check_padding, check_rounding]
WRONG = {
    "inclusive": (check_boundary, {"le": True}),
    "nearest instead of first": (check_index_order, {"nearest": True}),
    "no padding with the first hit": (check_padding, {"pad": False}),
    "contracted distance": (check_rounding, {"contracted": True}),
}


@pytest.mark.parametrize("check", CHECKS)
def test_definition(check):
    check(ball_query)
    check(lambda xyz, centers, radius, k: ref.ball_query(xyz, centers, radius, 0.0, k))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    check, options = WRONG[name]
    with pytest.raises(AssertionError):
        check(lambda *args: numpy_ball_query(*args, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 8, 16, 17, 32, 33, 64, 65, 300])
@pytest.mark.parametrize("min_radius", [0.0, 0.6])
def test_equals_numpy(k, min_radius, dtype):
    points = cloud(1500, dtype=dtype)
    centers = torch.cat([points[::25], cloud(40, 7, scale=14, dtype=dtype)])
    for radius in (0.7, 1.5, 4.0, 30.0):
        expected = numpy_ball_query(points, centers, radius, k, min_radius)
        kernels.assert_same(ball_query(points, centers, radius, k, min_radius=min_radius), expected)


@pytest.mark.parametrize(
    ("name", "radius"), [("kitti", 0.5), ("kitti", 1.0), ("nuscenes", 1.0), ("scannet", 0.2)]
)
def test_real_frames(name, radius, kitti_frame, nuscenes_sweep):
    if name == "scannet":
        path = sample_data("scannet", "scene0000_00.bin")
        points = torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 6))
    else:
        points = {"kitti": kitti_frame, "nuscenes": nuscenes_sweep}[name]()
    order = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))
    points = points[order[:16384], :3].contiguous()
    centers = points[:300]
    idx, count = ball_query(points, centers, radius, 64)
    kernels.assert_same((idx, count), numpy_ball_query(points, centers, radius, 64))
    tree = cKDTree(points.double().numpy())
    inner = tree.query_ball_point(centers.double().numpy(), radius * (1 - 1e-5))
    outer = tree.query_ball_point(centers.double().numpy(), radius * (1 + 1e-5))
    for row in range(len(centers)):
        found = set(idx[row, : count[row]].tolist())
        highest = max(found)
        complete = int(count[row]) < 64
        assert found <= set(outer[row])
        assert {i for i in inner[row] if complete or i <= highest} <= found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    n, m = draw(st.integers(0, 300)), draw(st.integers(0, 40))
    scale = draw(st.sampled_from([1e-6, 1e-2, 1.0, 100.0, 1e6]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    points = cloud(n, draw(st.integers(0, 1000)), scale=scale)
    if draw(st.booleans()):
        points = (points / scale * 8).round() * (scale / 8)
    if draw(st.booleans()):
        points[:, draw(st.integers(0, 2))] = points[0, 0] if n else 0.0
    if n and draw(st.booleans()):
        special = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 1e30, -1e6, 3e38])
        for _ in range(draw(st.integers(1, 4))):
            points[draw(st.integers(0, n - 1)), draw(st.integers(0, 2))] = draw(special)
    centers = cloud(m, 5, scale=scale)
    if n and m:
        centers[::2] = points[torch.arange(len(centers[::2])) % n]
    points = points + draw(st.sampled_from([0.0, 0.0, scale * 1e4]))
    points, centers = points.to(dtype), centers.to(dtype)
    variant = draw(st.integers(0, 2))
    if n and variant:
        points = stride_variant(points, variant)
    radius = scale * draw(st.sampled_from([1e-3, 0.06, 0.125, 0.25, 0.3, 5.0]))
    k = draw(st.sampled_from([1, 3, 16, 20, 33, 65]))
    min_radius = draw(st.sampled_from([0.0, 0.0, radius / 2]))
    with tenfold.validation("meta"):
        expected = ref.ball_query(points, centers, radius, min_radius, k)
        kernels.assert_same(ball_query(points, centers, radius, k, min_radius=min_radius), expected)
        scales = [(radius, k), (radius * 0.4, 4), (radius * 2, 70)][: draw(st.integers(1, 3))]
        multi = ball_query_multi(points, centers, [r for r, _ in scales], [c for _, c in scales])
        for (r, count), result in zip(scales, multi, strict=True):
            kernels.assert_same(result, ref.ball_query(points, centers, r, 0.0, count))


# ---- traps


@pytest.mark.parametrize("outlier", [1e6, -1e30, 3e38])
def test_far_outlier(outlier):
    points = cloud(3000, 2)
    points[1234] = outlier
    centers = torch.cat([points[::40], points[1234:1235]])
    kernels.assert_same(ball_query(points, centers, 0.4, 16), numpy_ball_query(points, centers, 0.4, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [1e6, -1e6, 1e4])
def test_offset_coordinates(offset, dtype):
    points = (cloud(3000, 4, dtype=torch.float64) + offset).to(dtype)
    for radius in (0.03, 0.5, 2.0):
        expected = numpy_ball_query(points, points[::40], radius, 20)
        kernels.assert_same(ball_query(points, points[::40], radius, 20), expected)


def test_collinear_and_flat_clouds():
    for keep in ([0], [1], [2], [0, 1], [1, 2]):
        points = torch.zeros(3000, 3)
        points[:, keep] = cloud(3000, 6, scale=50)[:, keep]
        kernels.assert_same(
            ball_query(points, points[::40], 0.8, 20), numpy_ball_query(points, points[::40], 0.8, 20)
        )
    diagonal = cloud(3000, 6, scale=5000)[:, :1].expand(-1, 3).contiguous()
    expected = numpy_ball_query(diagonal, diagonal[::40], 9.0, 20)
    kernels.assert_same(ball_query(diagonal, diagonal[::40], 9.0, 20), expected)


def test_many_equal_points_are_not_quadratic():
    spread = cloud(20_000, 8, scale=100)
    points = torch.cat([torch.ones(100_000, 3), spread])
    begin = time.process_time()
    idx, count = ball_query(points, points, 1.0, 32)
    assert time.process_time() - begin < 5.0  # all pairs would be 10^10 distances
    assert idx[:100_000].unique(dim=0).shape[0] == 1
    assert idx[5].tolist() == list(range(32))
    kernels.assert_same((idx[-60:], count[-60:]), numpy_ball_query(points, points[-60:], 1.0, 32))
    near = torch.tensor([[2.5, 1.0, 1.0]]).repeat(100_000, 1)  # a cell away from all of them, none in reach
    begin = time.process_time()
    assert int(ball_query(points[:100_000], near, 1.0, 32)[1].max()) == 0
    assert int(ball_query(points, near, 1.0, 32)[1].max()) <= 32
    assert time.process_time() - begin < 10.0


def test_radius_that_covers_the_cloud_stops_early():
    points = cloud(100_000, 9)
    begin = time.process_time()
    idx, count = ball_query(points, points, 1e3, 16)
    assert time.process_time() - begin < 3.0
    assert bool((idx == torch.arange(16)).all())
    assert bool((count == 16).all())


def test_sizes_that_shrink_and_grow_leave_nothing_behind():
    for n in (3000, 200, 5, 0, 150, 4000):
        points = cloud(n, n)
        kernels.assert_same(
            ball_query(points, points[:20], 0.9, 33), numpy_ball_query(points, points[:20], 0.9, 33)
        )


def test_sizes_around_the_grid_threshold():
    for n in range(124, 133):
        points = cloud(n, n)
        kernels.assert_same(ball_query(points, points, 1.5, 8), numpy_ball_query(points, points, 1.5, 8))


def test_non_finite_points_are_no_neighbours():
    points = cloud(500, 1)
    clean = points.clone()
    points[7], points[9, 1] = float("nan"), float("inf")
    clean[7] = clean[9] = 1e9
    centers = torch.cat([clean[:5], torch.full((1, 3), float("nan")), torch.full((1, 3), float("inf"))])
    with tenfold.validation("meta"):
        idx, count = ball_query(points, centers, 3.0, 64)
    kernels.assert_same((idx[:5], count[:5]), numpy_ball_query(clean, centers[:5], 3.0, 64))
    assert count[5:].tolist() == [0, 0]
    with pytest.raises(ValueError, match="ball_query: xyz: row 7 is not finite"):
        ball_query(points, clean, 3.0, 64)
    with pytest.raises(ValueError, match="ball_query: centers: row 5 is not finite"):
        ball_query(clean, centers, 3.0, 64)


def test_half_precision_is_computed_in_float32():
    points = cloud(300, 1)
    for dtype in (torch.float16, torch.bfloat16):
        half = points.to(dtype)
        kernels.assert_same(ball_query(half, half, 1.0, 8), ball_query(half.float(), half.float(), 1.0, 8))
    mixed = ball_query(points, points.double(), 1.0, 8)
    kernels.assert_same(mixed, ball_query(points.double(), points.double(), 1.0, 8))


# ---- batches


def test_padded_batch_with_lengths():
    g = torch.Generator().manual_seed(0)
    xyz, centers = torch.rand(3, 200, 3, generator=g), torch.rand(3, 30, 3, generator=g)
    lengths, center_lengths = torch.tensor([200, 0, 150]), torch.tensor([30, 10, 7], dtype=torch.int32)
    xyz[2, 150:] = float("nan")  # unused rows are not read
    idx, count = ball_query(xyz, centers, 0.3, 12, lengths=lengths, center_lengths=center_lengths)
    assert idx.shape == (3, 30, 12)
    for b in range(3):
        m = int(center_lengths[b])
        expected = numpy_ball_query(xyz[b, : lengths[b]], centers[b, :m], 0.3, 12)
        kernels.assert_same((idx[b, :m], count[b, :m]), expected)
        assert int(idx[b, m:].abs().sum()) == 0
        assert int(count[b, m:].sum()) == 0
    args = (xyz, centers, 0.3, 0.0, 12, lengths, center_lengths.long())
    kernels.assert_same((idx, count), ref.ball_query(*args))


def test_stacked_batch_uses_global_rows():
    xyz, centers = cloud(900, 1), cloud(100, 2)
    offsets, center_offsets = torch.tensor([0, 400, 400, 900, 900]), torch.tensor([0, 50, 60, 100, 100])
    idx, count = ball_query(xyz, centers, 1.2, 12, offsets=offsets, center_offsets=center_offsets)
    for b in range(4):
        rows = slice(int(center_offsets[b]), int(center_offsets[b + 1]))
        e_idx, e_count = numpy_ball_query(xyz[offsets[b] : offsets[b + 1]], centers[rows], 1.2, 12)
        e_idx = torch.where(e_count[:, None] > 0, e_idx + int(offsets[b]), 0).int()
        kernels.assert_same((idx[rows], count[rows]), (e_idx, e_count))
    expected = ref.ball_query(xyz, centers, 1.2, 0.0, 12, None, None, offsets, center_offsets)
    kernels.assert_same((idx, count), expected)
    multi = ball_query_multi(
        xyz, centers, [1.2, 0.5], [12, 70], offsets=offsets, center_offsets=center_offsets
    )
    kernels.assert_same(multi[0], (idx, count))
    expected = ref.ball_query(xyz, centers, 0.5, 0.0, 70, None, None, offsets, center_offsets)
    kernels.assert_same(multi[1], expected)


def test_many_tiny_elements():
    xyz = cloud(5000, 1, scale=2)
    offsets = torch.arange(0, 5001, 10)
    got = ball_query(xyz, xyz, 0.8, 4, offsets=offsets, center_offsets=offsets)
    expected = ref.ball_query(xyz, xyz, 0.8, 0.0, 4, None, None, offsets, offsets)
    kernels.assert_same(got, expected)


def test_nothing_in_nothing_out():
    none, some = torch.zeros(0, 3), cloud(5)
    assert ball_query(none, some, 1.0, 3)[0].tolist() == [[0, 0, 0]] * 5
    assert ball_query(some, none, 1.0, 3)[0].shape == (0, 3)
    assert ball_query(none, none, 1.0, 3)[1].shape == (0,)
    assert ball_query(torch.zeros(0, 4, 3), torch.zeros(0, 2, 3), 1.0, 3)[0].shape == (0, 2, 3)
    assert ball_query(torch.zeros(2, 0, 3), torch.zeros(2, 2, 3), 1.0, 3)[1].tolist() == [[0, 0]] * 2
    zero = torch.tensor([0])
    assert ball_query(none, none, 1.0, 3, offsets=zero, center_offsets=zero)[0].shape == (0, 3)
    zeros = torch.tensor([0, 0, 0])
    assert ball_query(none, none, 1.0, 3, offsets=zeros, center_offsets=zeros)[0].shape == (0, 3)


# ---- the same bits everywhere


def test_threads_levels_strides():
    points = cloud(20_000, 1, scale=30)
    centers = points[::7].contiguous()
    for call in (
        lambda: ball_query(points, centers, 0.9, 24),
        lambda: ball_query(points, centers, 0.9, 100),
        lambda: ball_query(points.double(), centers.double(), 0.9, 24),
        lambda: ball_query_multi(points, centers, [0.4, 0.9], [8, 40]),
        lambda: ball_query(points.view(10, -1, 3), points.view(10, -1, 3), 0.9, 16),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    kernels.check_strides(lambda p, c: ball_query(p, c, 0.9, 24), points[:2000], centers[:100])
    offsets = torch.tensor([0, 5, 20])
    kernels.check_strides(
        lambda p, o: ball_query(p, p, 9.0, 4, offsets=o, center_offsets=o), points[:20], offsets
    )


def test_operator_checks():
    points = cloud(200)
    offsets = torch.tensor([0, 100, 200])
    op, multi = torch.ops.tenfold.ball_query.default, torch.ops.tenfold.ball_query_multi.default
    kernels.check_op(op, (points, points[:9], 1.0, 0.0, 4, None, None, None, None, True))
    kernels.check_op(op, (points, points, 1.0, 0.0, 4, None, None, offsets, offsets, True), traced=False)
    kernels.check_op(
        multi, (points, points[:9], [1.0, 2.0], [0.0, 0.5], [4, 6], None, None, None, None, True)
    )


def test_compiles_without_graph_breaks():
    def features(xyz, centers):
        idx, count = ball_query(xyz, centers, 1.0, 8)
        (small, _), (_, many) = ball_query_multi(xyz, centers, [0.5, 1.0], [4, 8])
        return xyz[idx.long()].mean(dim=1) * count[:, None], small + many[:, None]

    compiled = torch.compile(features, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (100, 300):
        points = cloud(n)
        kernels.assert_same(compiled(points, points[:10]), features(points, points[:10]))


def test_no_gradient():
    points = cloud(50).requires_grad_()
    idx, count = ball_query(points, points[:5], 1.0, 4)
    assert not idx.requires_grad
    assert not count.requires_grad


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for n in (2_000, 30_000, 120_000):
        points = cloud(n, scale=n ** (1 / 3))
        for scale in (1.0, 0.01):
            taken = kernels.scratch_bytes(
                lambda points=points, scale=scale: ball_query(
                    points, points[: len(points) // 4], 1.5 * scale, 32
                )
            )
            assert taken <= 32 * n + 4 * 2 * 32 * 64 + 65536


def test_time_does_not_grow_with_the_square():
    """The exponent itself is measured by the benchmark; sixteen times the points far enough apart for any machine."""

    def seconds(n):
        points = cloud(n, scale=2 * n ** (1 / 3))
        best = []
        for _ in range(4):
            begin = time.process_time()
            ball_query(points, points, 1.5, 16)
            best.append(time.process_time() - begin)
        return min(best)

    assert seconds(128_000) / seconds(8_000) < 100  # the square: 256


# ---- messages

P, C = cloud(6), cloud(2)
PADDED, OFFSETS = cloud(6).view(2, 3, 3), torch.tensor([0, 3, 6])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ball_query([1], C, 1.0, 3), TypeError, "ball_query: xyz: got list"),
        (lambda: ball_query(P.long(), C, 1.0, 3), TypeError, "ball_query: xyz: got torch.int64"),
        (lambda: ball_query(P, C.int(), 1.0, 3), TypeError, "ball_query: centers: got torch.int32"),
        (lambda: ball_query(P[:, :2], C, 1.0, 3), ValueError, r"ball_query: xyz: got shape \(6, 2\)"),
        (lambda: ball_query(torch.zeros(6, 4), C, 1.0, 3), ValueError, "slice the coordinates off"),
        (lambda: ball_query(P, C[0], 1.0, 3), ValueError, r"ball_query: centers: got shape \(3,\)"),
        (
            lambda: ball_query(P, C[None], 1.0, 3),
            ValueError,
            "ball_query: centers: .*both padded or both stacked",
        ),
        (lambda: ball_query(PADDED, C[None], 1.0, 3), ValueError, "ball_query: centers: got batch size 1"),
        (lambda: ball_query(P, C.to("meta"), 1.0, 3), ValueError, "ball_query: centers: on meta"),
        (lambda: ball_query(P, C, 0.0, 3), ValueError, "ball_query: radius: got 0.0"),
        (lambda: ball_query(P, C, -1.0, 3), ValueError, "ball_query: radius: got -1.0"),
        (lambda: ball_query(P, C, float("nan"), 3), ValueError, "ball_query: radius: got nan"),
        (lambda: ball_query(P, C, float("inf"), 3), ValueError, "ball_query: radius: got inf"),
        (lambda: ball_query(P, C, 1.0, 3, min_radius=-1), ValueError, "ball_query: min_radius: got -1"),
        (lambda: ball_query(P, C, 1.0, 3, min_radius=2), ValueError, "ball_query: min_radius: got 2"),
        (lambda: ball_query(P, C, 1.0, 0), ValueError, "ball_query: k: got 0"),
        (lambda: ball_query(P, C, 1.0, 2**31), ValueError, "ball_query: k: got 2147483648"),
        (
            lambda: ball_query(P, C, 1.0, 3, lengths=torch.tensor([6])),
            ValueError,
            "ball_query: lengths: .*use offsets",
        ),
        (lambda: ball_query(PADDED, PADDED, 1.0, 3, offsets=OFFSETS), ValueError, "offsets: .*use lengths"),
        (
            lambda: ball_query(PADDED, PADDED, 1.0, 3, lengths=torch.ones(2)),
            TypeError,
            "lengths: got torch.float32",
        ),
        (
            lambda: ball_query(PADDED, PADDED, 1.0, 3, center_lengths=torch.tensor([1])),
            ValueError,
            "ball_query: center_lengths: got shape",
        ),
        (
            lambda: ball_query(PADDED, PADDED, 1.0, 3, lengths=torch.tensor([1, 4])),
            ValueError,
            "ball_query: lengths: entry 1 is 4; expected 0 to 3",
        ),
        (
            lambda: ball_query(P, P, 1.0, 3, offsets=OFFSETS),
            ValueError,
            "center_offsets: got 1 batch elements",
        ),
        (
            lambda: ball_query(
                P, P, 1.0, 3, offsets=torch.tensor([0, 4, 3, 6]), center_offsets=torch.tensor([0, 1, 2, 6])
            ),
            ValueError,
            "ball_query: offsets: entry 2 is 3; expected values that rise from 0 to 6",
        ),
        (
            lambda: ball_query(P, P, 1.0, 3, offsets=OFFSETS, center_offsets=torch.tensor([0, 3, 7])),
            ValueError,
            "ball_query: center_offsets: entry 2 is 7",
        ),
        (lambda: ball_query_multi(P, C, [], []), ValueError, "ball_query_multi: radii: got none"),
        (lambda: ball_query_multi(P, C, [1.0], [1, 2]), ValueError, "ball_query_multi: ks: got 2 values"),
        (
            lambda: ball_query_multi(P, C, [1.0], [1], min_radii=[]),
            ValueError,
            "ball_query_multi: min_radii: got 0",
        ),
        (lambda: ball_query_multi(P, C, [1.0, -1.0], [1, 1]), ValueError, "radii: got -1.0 as entry 1"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("offsets", [[0, 4, 3, 6], [1, 6], [0, 7], [0, 5], [-1, 6], [0, 2**62, 6]])
def test_reference_and_kernel_turn_down_the_same_offsets(offsets):
    offsets = torch.tensor(offsets)
    args = (P, P, 1.0, 0.0, 3, None, None, offsets, offsets, True)
    with pytest.raises(ValueError, match="ball_query: offsets: entry") as expected:
        ref.ball_query(*args)
    with pytest.raises(ValueError, match="ball_query: offsets: entry") as got:
        ball_query(P, P, 1.0, 3, offsets=offsets, center_offsets=offsets)
    assert str(got.value) == str(expected.value)


def test_raw_operator_misuse_raises():
    op, multi = torch.ops.tenfold.ball_query.default, torch.ops.tenfold.ball_query_multi.default
    none = (None, None, None, None, True)
    good = torch.zeros(4, 3)
    bad = [
        (torch.zeros(4), good, 1.0, 0.0, 3),
        (torch.zeros(4, 2), good, 1.0, 0.0, 3),
        (good, torch.zeros(4, 4), 1.0, 0.0, 3),
        (good, good.double(), 1.0, 0.0, 3),
        (good.half(), good.half(), 1.0, 0.0, 3),
        (good.long(), good.long(), 1.0, 0.0, 3),
        (torch.zeros(2, 4, 3), torch.zeros(3, 4, 3), 1.0, 0.0, 3),
        (good, good, float("nan"), 0.0, 3),
        (good, good, 1.0, float("nan"), 3),
        (good, good, 1.0, 0.0, 0),
        (good, good, 1.0, 0.0, -5),
    ]
    for args in bad:
        with pytest.raises(RuntimeError, match="expected"):
            op(*args, *none)
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="expected"):
        op(good, good, 1.0, 0.0, 3, None, None, empty, empty, True)
    with pytest.raises(RuntimeError, match="expected"):
        op(good, good, 1.0, 0.0, 3, None, None, torch.zeros(2), torch.zeros(2), True)
    for radii, inner, ks in (([], [], []), ([1.0], [], [1]), ([1.0], [0.0], []), ([1.0, 2.0], [0.0], [1, 2])):
        with pytest.raises(RuntimeError, match="expected"):
            multi(good, good, radii, inner, ks, *none)
