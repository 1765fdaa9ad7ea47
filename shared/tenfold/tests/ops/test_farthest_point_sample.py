"""farthest_point_sample: contract, brute force in NumPy (bit-equal), closed forms, real frames, wrong variants."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import ball_query, farthest_point_sample, group
from tenfold.testing import kernels, stride_variant


def numpy_fps(xyz, m, start=0, *, last=False, contracted=False, skip_origin=False):
    """The definition in NumPy; the options make the wrong variants that the checks must turn down."""
    xyz = np.asarray(xyz)
    distance = np.full(len(xyz), np.inf, xyz.dtype)
    if skip_origin:  # as VoteNet's CUDA kernel does
        distance[(xyz**2).sum(axis=1) <= 1e-3] = -1
    row, chosen = start, []
    for _ in range(m):
        chosen.append(row)
        d = xyz - xyz[row]
        if contracted:
            d2 = (d.astype(np.float64) ** 2).sum(axis=1).astype(xyz.dtype)
        else:
            d2 = np.zeros(len(xyz), xyz.dtype)
            for axis in range(xyz.shape[1]):
                d2 = d2 + d[:, axis] * d[:, axis]
        distance = np.minimum(distance, d2)
        row = int(len(xyz) - 1 - distance[::-1].argmax()) if last else int(distance.argmax())
    return torch.tensor(chosen, dtype=torch.int64)


def cloud(n: int, seed: int = 0, *, scale: float = 10.0, dtype=torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, 3, generator=g) - 0.5) * scale).to(dtype)


def lattice(n: int) -> torch.Tensor:
    axis = torch.arange(n, dtype=torch.float32)
    points = torch.cartesian_prod(axis, axis, axis)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]


def sampled(xyz, m, start=0):
    return farthest_point_sample(xyz, m, start=start)


# ---- checks that take the implementation, so that wrong ones can be fed to them


def check_ties(fps):
    points = lattice(8)
    kernels.assert_same(fps(points, 200, 3), numpy_fps(points, 200, 3))


def check_rounding(fps):
    """Points on a sphere around the first: the last bit of d2 decides which is farthest."""
    for seed in range(20):
        points = torch.randn(300, 3, generator=torch.Generator().manual_seed(seed))
        points = torch.cat([torch.zeros(1, 3), points / points.norm(dim=1, keepdim=True)])
        kernels.assert_same(fps(points, 30), numpy_fps(points, 30))


def check_origin(fps):
    points = torch.cat([torch.tensor([[5.0, 0, 0], [0.001, 0, 0]]), torch.full((500, 3), 5.0)])
    assert 1 in fps(points, 30).tolist()


WRONG = {
    "highest index of a tie": (check_ties, {"last": True}),
    "contracted distance": (check_rounding, {"contracted": True}),
    "points near the origin skipped": (check_origin, {"skip_origin": True}),
}


@pytest.mark.parametrize("check", [check_ties, check_rounding, check_origin])
def test_definition(check):
    check(sampled)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    check, options = WRONG[name]
    with pytest.raises(AssertionError):
        check(lambda *args: numpy_fps(*args, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 255, 256, 257, 1500, 9000])
def test_equals_numpy(n, dtype):
    points = cloud(n, n, dtype=dtype)
    for m in (1, 2, 23, 24, 25, 300):
        kernels.assert_same(sampled(points, m, n // 2), numpy_fps(points, m, n // 2))


@pytest.mark.parametrize("dims", [1, 2, 3, 4, 7])
def test_dimensions(dims):
    points = torch.randn(900, 8, generator=torch.Generator().manual_seed(0))
    expected = numpy_fps(points[:, :dims], 120, 5)
    kernels.assert_same(farthest_point_sample(points, 120, start=5, dims=dims), expected)


def test_real_frame(kitti_frame):
    points = kitti_frame()[:, :3].contiguous()
    kernels.assert_same(sampled(points, 150), numpy_fps(points, 150))
    few = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:8192]].contiguous()
    kernels.assert_same(sampled(few, 2048), numpy_fps(few, 2048))


def test_closed_forms():
    line = torch.zeros(9, 3)
    line[:, 0] = torch.arange(9.0)
    assert sampled(line, 5).tolist() == [0, 8, 4, 2, 6]
    points = cloud(5000, 1)
    order = sampled(points, 1000)
    assert len(set(order.tolist())) == 1000
    ordered = points[order]
    assert sampled(ordered, 1000).tolist() == list(range(1000))  # a sample of a sample is its beginning
    gaps = torch.cdist(ordered[:200].double(), ordered[:200].double())
    closest = [float(gaps[:j, :j][~torch.eye(j, dtype=torch.bool)].min()) for j in range(2, 200)]
    assert all(a >= b for a, b in pairwise(closest))
    kernels.assert_same(sampled(points, 1000)[:300], sampled(points, 300))


def test_more_samples_than_points():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [3, 0, 0]])
    assert sampled(points, 6, 1).tolist() == [1, 2, 0, 0, 0, 0]
    equal = torch.ones(3000, 3)
    assert sampled(equal, 40, 7).tolist() == [7] + [0] * 39
    assert sampled(torch.cat([equal, equal[:1] * 2]), 40).tolist() == [0, 3000] + [0] * 38


def test_uneven_clouds():
    powers = 2.0 ** (torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) * 120 - 60)
    with np.errstate(over="ignore"):
        kernels.assert_same(sampled(powers, 500), numpy_fps(powers, 500))
        kernels.assert_same(sampled(powers.double(), 500), numpy_fps(powers.double(), 500))
    far = cloud(3000, 2)
    far[1234] = 1e6
    kernels.assert_same(sampled(far, 300), numpy_fps(far, 300))
    for keep in ([0], [2], [0, 1]):
        flat = torch.zeros(3000, 3)
        flat[:, keep] = cloud(3000, 6, scale=50)[:, keep]
        kernels.assert_same(sampled(flat, 300), numpy_fps(flat, 300))
    shifted = cloud(3000, 4) + 1e6
    kernels.assert_same(sampled(shifted, 300), numpy_fps(shifted, 300))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    n, m = draw(st.integers(0, 300)), draw(st.integers(0, 60))
    scale = draw(st.sampled_from([1e-6, 1e-2, 1.0, 100.0, 1e6]))
    points = cloud(n, draw(st.integers(0, 1000)), scale=scale)
    if draw(st.booleans()):
        points = (points / scale * 8).round() * (scale / 8)
    if n and draw(st.booleans()):
        special = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 1e30, 3e38])
        for _ in range(draw(st.integers(1, 4))):
            points[draw(st.integers(0, n - 1)), draw(st.integers(0, 2))] = draw(special)
    points = points.to(draw(st.sampled_from([torch.float32, torch.float64])))
    start, dims = draw(st.integers(0, max(n - 1, 0))), draw(st.integers(1, 3))
    points = stride_variant(points, draw(st.integers(0, 2)))
    with tenfold.validation("meta"):
        expected = ref.farthest_point_sample(points, [m], [start], dims)
        kernels.assert_same(farthest_point_sample(points, m, start=start, dims=dims), expected)


# ---- batches


def test_padded_batch_with_lengths():
    xyz = torch.rand(4, 400, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([400, 0, 300, 5])
    xyz[2, 300:] = float("nan")  # unused rows are not read
    got = farthest_point_sample(xyz, 40, lengths=lengths)
    assert got.shape == (4, 40)
    assert got[1].tolist() == [-1] * 40
    for b in (0, 2, 3):
        kernels.assert_same(got[b], numpy_fps(xyz[b, : lengths[b]], 40))
    each = farthest_point_sample(xyz, [40, 3, 0, 2], start=[9, 0, 0, 4], lengths=lengths)
    kernels.assert_same(each, ref.farthest_point_sample(xyz, [40, 3, 0, 2], [9, 0, 0, 4], 3, lengths))
    assert each[2].tolist() == [-1] * 40
    assert farthest_point_sample(xyz, 3, lengths=lengths.int()).dtype == torch.int64


def test_stacked_batch_uses_global_rows():
    xyz, offsets = cloud(900, 1), torch.tensor([0, 400, 400, 900, 900])
    got = farthest_point_sample(xyz, [30, 2, 40, 0], start=[3, 0, 1, 0], offsets=offsets)
    expected = [numpy_fps(xyz[:400], 30, 3), torch.tensor([-1, -1]), numpy_fps(xyz[400:], 40, 1) + 400]
    kernels.assert_same(got, torch.cat(expected))
    assert farthest_point_sample(xyz, 7, offsets=offsets).shape == (28,)


def test_given_distances():
    feats = torch.randn(2, 60, 16, generator=torch.Generator().manual_seed(0))
    gap = feats[:, :, None] - feats[:, None]
    dist = (gap * gap).sum(dim=-1)
    got = farthest_point_sample(None, 20, dist=dist, start=[2, 5])
    kernels.assert_same(got, ref.farthest_point_sample_dist(dist, [20], [2, 5]))
    for b, start in enumerate((2, 5)):
        row, low, chosen = start, np.full(60, np.inf, np.float32), []
        for _ in range(20):
            chosen.append(row)
            low = np.minimum(low, dist[b, row].numpy())
            row = int(low.argmax())
        assert got[b].tolist() == chosen
    short = farthest_point_sample(None, 5, dist=dist.double(), lengths=torch.tensor([30, 0]))
    assert short[1].tolist() == [-1] * 5
    assert int(short[0].max()) < 30
    broken = dist.clone()
    broken[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"dist: entry \(1, 2, 3\) is not finite"):
        farthest_point_sample(None, 5, dist=broken)
    with tenfold.validation("meta"):
        kernels.assert_same(
            farthest_point_sample(None, 9, dist=broken), ref.farthest_point_sample_dist(broken, [9], [0])
        )


def test_nothing_in_nothing_out():
    assert sampled(torch.zeros(0, 3), 4).tolist() == [-1] * 4
    assert sampled(torch.zeros(5, 3), 0).shape == (0,)
    assert sampled(torch.zeros(0, 7, 3), 4).shape == (0, 4)
    assert sampled(torch.zeros(2, 0, 3), 3).tolist() == [[-1] * 3] * 2
    assert farthest_point_sample(torch.zeros(0, 3), 3, offsets=torch.tensor([0])).shape == (0,)
    assert farthest_point_sample(torch.zeros(0, 3), [], offsets=torch.tensor([0])).shape == (0,)


def test_non_finite_points_are_never_chosen():
    points = cloud(500, 1)
    points[0], points[9, 1] = float("nan"), float("inf")
    with tenfold.validation("meta"):
        for m in (10, 600):
            chosen = sampled(points, m)
            assert chosen[0] == 1  # the lowest finite index stands in for the start
            assert not {0, 9} & set(chosen.tolist())
        assert sampled(torch.full((5, 3), float("nan")), 3).tolist() == [-1] * 3
    with pytest.raises(ValueError, match="farthest_point_sample: xyz: row 0 is not finite"):
        sampled(points, 3)
    points[0] = 0
    with pytest.raises(ValueError, match="xyz: row 9 is not finite"):
        sampled(points, 3)
    padded = points.view(2, 250, 3)
    with pytest.raises(ValueError, match="row 9 of batch element 0 is not finite"):
        sampled(padded, 3)


def test_half_precision_is_computed_in_float32():
    points = cloud(400, 1)
    for dtype in (torch.float16, torch.bfloat16):
        half = points.to(dtype)
        kernels.assert_same(sampled(half, 60), sampled(half.float(), 60))


def test_sizes_that_shrink_and_grow_leave_nothing_behind():
    for n in (9000, 300, 5, 260, 7000):
        points = cloud(n, n)
        kernels.assert_same(sampled(points, 50), numpy_fps(points, 50))


# ---- the same bits everywhere


def test_threads_levels_strides():
    points = cloud(12_000, 1, scale=30)
    for call in (
        lambda: sampled(points, 500),
        lambda: sampled(points.double(), 200),
        lambda: sampled(points.view(8, -1, 3), 200),
        lambda: farthest_point_sample(points, 40, dims=2),
        lambda: sampled(lattice(12), 300),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    kernels.check_strides(lambda p: sampled(p, 60), points[:600])
    kernels.check_strides(
        lambda p, o: farthest_point_sample(p, 4, offsets=o), points[:20], torch.tensor([0, 5, 20])
    )


def test_operator_checks():
    points, offsets = cloud(200), torch.tensor([0, 100, 200])
    op = torch.ops.tenfold.farthest_point_sample.default
    kernels.check_op(op, (points, [9], [0], 3, None, None, True))
    kernels.check_op(op, (points, [9, 4], [0, 3], 2, None, offsets, True), traced=False)
    padded = (points.view(2, 100, 3), [9, 4], [0], 3, torch.tensor([50, 100]), None, True)
    kernels.check_op(op, padded, traced=False)
    dist = torch.cdist(points, points)[None]
    kernels.check_op(torch.ops.tenfold.farthest_point_sample_dist.default, (dist, [9], [0], None, True))


def _pipeline(xyz):
    idx = farthest_point_sample(xyz, 16)
    centers = xyz[idx]
    table, count = ball_query(xyz, centers, 2.0, 8)
    return group(xyz, table, count, center=centers).amax(dim=1)


def test_compiles_and_exports_without_graph_breaks():
    compiled = torch.compile(_pipeline, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (100, 300):
        kernels.assert_same(compiled(cloud(n)), _pipeline(cloud(n)))

    class Pipeline(torch.nn.Module):
        def forward(self, xyz):
            return _pipeline(xyz)

    program = torch.export.export(
        Pipeline(), (cloud(100),), dynamic_shapes=({0: torch.export.Dim("n", min=20, max=10_000)},)
    )
    kernels.assert_same(program.module()(cloud(250)), _pipeline(cloud(250)))


def test_no_gradient_and_autocast():
    points = cloud(500).requires_grad_()
    assert not sampled(points, 5).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(sampled(points, 50), sampled(points.detach(), 50))


def test_forked_workers():
    kernels.check_forked(lambda: sampled(cloud(2000), 64))


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for n in (2_000, 30_000, 120_000):
        for points in (cloud(n), torch.ones(n, 3), 2.0 ** cloud(n, scale=200)):
            assert kernels.scratch_bytes(lambda points=points: sampled(points, 64)) <= 48 * n + 16_384


# ---- messages

P, PADDED = cloud(6), cloud(6).view(2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: sampled([1], 3), TypeError, "farthest_point_sample: xyz: got list"),
        (lambda: sampled(None, 3), TypeError, "xyz: got None"),
        (lambda: sampled(P.long(), 3), TypeError, "xyz: got torch.int64"),
        (lambda: sampled(P[:, :2], 3), ValueError, r"xyz: got shape \(6, 2\).*dims = 3"),
        (lambda: sampled(P, -1), ValueError, "m: got -1"),
        (lambda: sampled(P, 2.5), ValueError, "m: got 2.5"),
        (lambda: sampled(P, [1, 2]), ValueError, "m: got 2 numbers"),
        (
            lambda: sampled(P, 2, 6),
            ValueError,
            "start: got 6 for batch element 0; expected a row from 0 to 5",
        ),
        (lambda: sampled(P, 2, -1), ValueError, "start: got -1"),
        (lambda: sampled(PADDED, 2, [0, 3]), ValueError, "start: got 3 for batch element 1"),
        (lambda: farthest_point_sample(P, 2, dims=0), ValueError, "dims: got 0"),
        (lambda: farthest_point_sample(P, 2, lengths=torch.tensor([6])), ValueError, "use offsets"),
        (lambda: farthest_point_sample(PADDED, 2, lengths=torch.tensor([4, 1])), ValueError, "entry 0 is 4"),
        (
            lambda: farthest_point_sample(P, 2, offsets=torch.tensor([0, 7])),
            ValueError,
            "offsets: entry 1 is 7",
        ),
        (lambda: farthest_point_sample(P, 2, dist=P[None]), ValueError, "xyz: got points with dist"),
        (lambda: farthest_point_sample(None, 2, dist=P), ValueError, r"dist: got shape \(6, 3\)"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()
