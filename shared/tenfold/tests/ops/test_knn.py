"""knn, three_nn, interpolation_weights: brute force in NumPy (bit-equal), SciPy's kd-tree, wrong variants."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

import tenfold
from tenfold import _native, ref
from tenfold.ops import interpolation_weights, knn, three_interpolate, three_nn
from tenfold.testing import kernels, stride_variant


def numpy_knn(points, query, k, *, last=False, contracted=False, squared=True):
    """The definition in NumPy; the options make the wrong variants that the checks must turn down."""
    points, query = np.asarray(points), np.asarray(query)
    dist2 = np.full((len(query), k), np.inf, points.dtype)
    idx = np.full((len(query), k), -1, np.int32)
    for row, q in enumerate(query):
        d = points - q
        if contracted:
            d2 = (d.astype(np.float64) ** 2).sum(axis=1).astype(points.dtype)
        else:
            d2 = (d[:, 0] * d[:, 0] + d[:, 1] * d[:, 1]) + d[:, 2] * d[:, 2]
        farthest = np.partition(d2, k - 1)[k - 1] if k < len(d2) else np.inf
        # Candidates in ascending order; where the k-th is not finite, all that are.
        near = np.flatnonzero(d2 <= farthest if farthest < np.inf else d2 < np.inf)
        near = near[::-1] if last else near
        order = near[np.argsort(d2[near], kind="stable")][:k]
        dist2[row, : len(order)], idx[row, : len(order)] = d2[order], order
    return torch.from_numpy(dist2 if squared else np.sqrt(dist2)), torch.from_numpy(idx)


def cloud(n: int, seed: int = 0, *, scale: float = 10.0, dtype=torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return ((torch.rand(n, 3, generator=g) - 0.5) * scale).to(dtype)


def lattice(n: int) -> torch.Tensor:
    axis = torch.arange(n, dtype=torch.float32)
    points = torch.cartesian_prod(axis, axis, axis)
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))]


def check_ties(search):
    points = lattice(8)
    kernels.assert_same(search(points, points, 7), numpy_knn(points, points, 7))


def check_rounding(search):
    points = cloud(4000, 1)
    kernels.assert_same(search(points, points[:500], 20), numpy_knn(points, points[:500], 20))


WRONG = {
    "highest index of a tie": (check_ties, {"last": True}),
    "contracted distance": (check_rounding, {"contracted": True}),
    "root of the distance": (check_rounding, {"squared": False}),
}


@pytest.mark.parametrize("check", [check_ties, check_rounding])
def test_definition(check):
    check(knn)
    check(lambda points, query, k: ref.knn(points, query, k))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    check, options = WRONG[name]
    with pytest.raises(AssertionError):
        check(lambda *args: numpy_knn(*args, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 8, 9, 16, 17, 33, 64])
def test_equals_numpy(k, dtype):
    for n in (0, 1, 20, 33, 1500, 6000):
        points = cloud(n, n, dtype=dtype)
        query = torch.cat(
            [points[::25], cloud(40, 7, scale=14, dtype=dtype), cloud(3, 8, scale=1e4, dtype=dtype)]
        )
        kernels.assert_same(knn(points, query, k), numpy_knn(points, query, k))


def test_real_frame(kitti_frame):
    points = kitti_frame()[:, :3].contiguous()
    query = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:20_000]]
    tree, rows = cKDTree(points.double().numpy()), slice(0, 20_000, 200)
    for k in (3, 16):
        dist2, idx = knn(points, query, k)
        kernels.assert_same((dist2[rows], idx[rows]), numpy_knn(points, query[rows], k))
        expected, _ = tree.query(query[::20].double().numpy(), k)
        np.testing.assert_allclose(dist2[::20].double().sqrt().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_three_nn():
    known, unknown = cloud(300, 1), cloud(1000, 2)
    kernels.assert_same(three_nn(unknown, known), numpy_knn(known, unknown, 3, squared=False))
    dist, idx = three_nn(unknown, known[:2])
    assert bool((idx[:, 2] == -1).all())
    assert bool(dist[:, 2].isinf().all())
    weight = interpolation_weights(dist, idx)
    torch.testing.assert_close(weight.sum(dim=1), torch.ones(1000))
    assert bool((weight[:, 2] == 0).all())


def test_interpolation_weights():
    dist, idx = three_nn(cloud(200, 1), cloud(50, 2))
    inverse = 1 / (dist + 1e-8)
    kernels.assert_same(
        interpolation_weights(dist, idx), inverse / inverse.sum(dim=1, keepdim=True), rtol=1e-6
    )
    none = interpolation_weights(torch.full((2, 3), float("inf")), torch.full((2, 3), -1))
    assert none.tolist() == [[0.0] * 3] * 2
    on_top = interpolation_weights(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(on_top, torch.tensor([[1.0, 0.0, 0.0]]), rtol=0, atol=1e-7)
    d = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    table = torch.tensor([[0, 1, 2], [0, 1, -1], [-1, -1, -1], [2, 1, 0]])
    assert torch.autograd.gradcheck(lambda d: interpolation_weights(d, table), (d,))
    missing = torch.full((1, 3), float("inf")).requires_grad_()
    interpolation_weights(missing, torch.full((1, 3), -1)).sum().backward()
    assert missing.grad.tolist() == [[0.0] * 3]


def test_a_linear_function_is_interpolated_between_its_bounds():
    known, unknown = cloud(2000, 1), cloud(500, 2)
    dist, idx = three_nn(unknown, known)
    got = three_interpolate(known, idx, interpolation_weights(dist, idx))
    corners = known[idx.long()]
    assert bool((got >= corners.amin(dim=1) - 1e-5).all())
    assert bool((got <= corners.amax(dim=1) + 1e-5).all())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    n, m = draw(st.integers(0, 300)), draw(st.integers(0, 40))
    scale = draw(st.sampled_from([1e-6, 1e-2, 1.0, 100.0, 1e6]))
    points = cloud(n, draw(st.integers(0, 1000)), scale=scale)
    if draw(st.booleans()):
        points = (points / scale * 8).round() * (scale / 8)
    if draw(st.booleans()):
        points[:, draw(st.integers(0, 2))] = 0.5
    special = st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e-42, 1e30, 3e38])
    query = cloud(m, 5, scale=scale)
    if n and m:
        query[::2] = points[torch.arange(len(query[::2])) % n]
    for rows in (points, query):
        if len(rows) and draw(st.booleans()):
            for _ in range(draw(st.integers(1, 4))):
                rows[draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, 2))] = draw(special)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    points, query = points.to(dtype), query.to(dtype)
    if n:
        points = stride_variant(points, draw(st.integers(0, 2)))
    k = draw(st.sampled_from([1, 3, 8, 16, 20, 33, 64]))
    with tenfold.validation("meta"):
        kernels.assert_same(knn(points, query, k), ref.knn(points, query, k))


# ---- traps


def test_uneven_clouds():
    for points in (
        2.0 ** (torch.rand(3000, 3, generator=torch.Generator().manual_seed(0)) * 100 - 50),
        torch.cat([cloud(3000, 2), torch.full((1, 3), 1e6)]),
        torch.cat([torch.ones(2000, 3), cloud(1000, 3)]),
        cloud(3000, 4) + 1e6,
        cloud(3000, 6, scale=50) * torch.tensor([1.0, 0.0, 0.0]),
    ):
        with np.errstate(over="ignore"):
            kernels.assert_same(knn(points, points[::60], 9), numpy_knn(points, points[::60], 9))


@pytest.mark.parametrize("k", [8, 40])
def test_many_equal_points(k):
    """No more work than for others: leaves as far as the last neighbour, but with higher indices, are skipped."""
    points = torch.cat([torch.ones(100_000, 3), cloud(10_000, 8, scale=100)])
    begin = time.process_time()
    dist2, idx = knn(points, points, k)
    assert time.process_time() - begin < 6.0  # all pairs would be 10^10 distances
    assert idx[:100_000].unique(dim=0).tolist() == [list(range(k))]
    assert int(dist2[:100_000].count_nonzero()) == 0
    rows = slice(100_000, 100_040)
    kernels.assert_same((dist2[rows], idx[rows]), numpy_knn(points, points[rows], k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_queries_alone_in_groups_and_among_the_points(dtype):
    """Few queries for many points, many for few, and the points themselves take different ways."""
    points = torch.cat([cloud(9000, 1), lattice(10)]).to(dtype)
    some = torch.cat([points[::700], cloud(5, 2, scale=30, dtype=dtype)])
    many = torch.cat([cloud(5000, 3, dtype=dtype), cloud(300, 4, scale=200, dtype=dtype)])
    for query in (some[:1], some[:3], some, many, points, points.clone(), points[:-1]):
        dist2, idx = knn(points, query, 7)
        rows = torch.randperm(len(query), generator=torch.Generator().manual_seed(0))[:150]
        kernels.assert_same((dist2[rows], idx[rows]), numpy_knn(points, query[rows], 7))
    points[5000, 1], points[17, 0] = float("nan"), float("inf")
    with tenfold.validation("meta"):
        dist2, idx = knn(points, points, 5)
        kernels.assert_same((dist2, idx), knn(points, points.clone(), 5))
        kernels.assert_same((dist2[:300], idx[:300]), ref.knn(points, points[:300], 5))
    assert idx[5000].tolist() == idx[17].tolist() == [-1] * 5


def test_overflowing_distances_are_missing():
    points = torch.tensor([[0.0, 0, 0], [1e30, 0, 0], [3e38, 0, 0]])
    dist2, idx = knn(points, points, 3)
    assert idx.tolist() == [[0, -1, -1], [1, -1, -1], [2, -1, -1]]
    assert dist2[:, 0].tolist() == [0.0] * 3


def test_padded_and_stacked_batches():
    g = torch.Generator().manual_seed(0)
    points, query = torch.rand(3, 200, 3, generator=g), torch.rand(3, 30, 3, generator=g)
    lengths, query_lengths = torch.tensor([200, 0, 150]), torch.tensor([30, 10, 7], dtype=torch.int32)
    points[2, 150:] = float("nan")
    got = knn(points, query, 5, lengths=lengths, query_lengths=query_lengths)
    kernels.assert_same(got, ref.knn(points, query, 5, lengths, query_lengths.long()))
    assert got[1][1].unique().tolist() == [-1]
    flat, rows = cloud(900, 1), cloud(100, 2)
    offsets, query_offsets = torch.tensor([0, 400, 400, 900, 900]), torch.tensor([0, 50, 60, 100, 100])
    got = knn(flat, rows, 5, offsets=offsets, query_offsets=query_offsets)
    kernels.assert_same(got, ref.knn(flat, rows, 5, None, None, offsets, query_offsets))
    assert int(got[1][60:].min()) >= 400
    dist, idx = three_nn(rows, flat, offsets=query_offsets, known_offsets=offsets)
    kernels.assert_same((dist, idx), ref.knn(flat, rows, 3, None, None, offsets, query_offsets, root=True))
    kernels.assert_same(
        three_nn(query, points, lengths=query_lengths, known_lengths=lengths)[1],
        ref.knn(points, query, 3, lengths, query_lengths.long())[1],
    )


def test_many_tiny_elements():
    xyz, offsets = cloud(5000, 1), torch.arange(0, 5001, 10)
    got = knn(xyz, xyz, 4, offsets=offsets, query_offsets=offsets)
    kernels.assert_same(got, ref.knn(xyz, xyz, 4, None, None, offsets, offsets))


def test_non_finite():
    points, query = cloud(50, 1), cloud(5, 2)
    points[7, 1], query[3, 0] = float("nan"), float("inf")
    with tenfold.validation("meta"):
        idx = knn(points, query, 64)[1]
    assert 7 not in idx
    assert idx[3].unique().tolist() == [-1]
    with pytest.raises(ValueError, match="knn: ref: row 7 is not finite"):
        knn(points, query, 3)
    with pytest.raises(ValueError, match="knn: query: row 3 is not finite"):
        knn(points[:5], query, 3)


def test_nothing_in_nothing_out():
    none, some = torch.zeros(0, 3), cloud(5)
    assert knn(none, some, 2)[1].tolist() == [[-1, -1]] * 5
    assert knn(some, none, 2)[0].shape == (0, 2)
    assert knn(torch.zeros(0, 4, 3), torch.zeros(0, 2, 3), 3)[0].shape == (0, 2, 3)
    zero = torch.tensor([0])
    assert knn(none, none, 2, offsets=zero, query_offsets=zero)[1].shape == (0, 2)


# ---- the same bits everywhere


def test_threads_levels_strides():
    points = cloud(20_000, 1, scale=30)
    for call in (
        lambda: knn(points, points[::3], 3),
        lambda: knn(points, points[::7], 20),
        lambda: knn(points.double(), points[::9].double(), 12),
        lambda: knn(points.view(10, -1, 3), points.view(10, -1, 3)[:, ::4], 5),
        lambda: knn(lattice(15), lattice(15), 9),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    kernels.check_strides(lambda p, q: knn(p, q, 5), points[:1000], points[:100])


def test_operator_checks():
    points, offsets = cloud(200), torch.tensor([0, 100, 200])
    op = torch.ops.tenfold.knn.default
    kernels.check_op(op, (points, points[:9], 4, None, None, None, None, False, True))
    kernels.check_op(op, (points, points, 4, None, None, offsets, offsets, True, True), traced=False)


def test_compiles_without_graph_breaks():
    def features(unknown, known, feats):
        dist, idx = three_nn(unknown, known)
        return three_interpolate(feats, idx, interpolation_weights(dist, idx))

    compiled = torch.compile(features, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (100, 300):
        args = cloud(n), cloud(40, 1), torch.rand(40, 6)
        kernels.assert_same(compiled(*args), features(*args))


def test_no_gradient_autocast_and_half():
    points = cloud(50).requires_grad_()
    dist2, idx = knn(points, points[:5], 4)
    assert not dist2.requires_grad
    assert not idx.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert knn(points, points, 4)[0].dtype == torch.float32
    half = cloud(200).half()
    kernels.assert_same(knn(half, half, 4), knn(half.float(), half.float(), 4))


def test_forked_workers():
    kernels.check_forked(lambda: knn(cloud(2000), cloud(2000), 4))


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
# Above 65,536 points a sixteenth of them is more than a few thousand.
@pytest.mark.parametrize("n", [2_000, 20_000, pytest.param(120_000, marks=pytest.mark.slow)])
def test_scratch_bound(n):
    for points in (cloud(n), torch.ones(n, 3), 2.0 ** cloud(n, scale=200)):
        for query in (points[:300], points, points.flip(0)):
            # Whoever sorts queries sorts a few thousand at a time, or a sixteenth of the points.
            chunk = 0 if query is points else min(len(query), max(4096, n // 16))
            taken = kernels.scratch_bytes(lambda points=points, query=query: knn(points, query, 8))
            assert taken <= 32 * n + 40 * chunk + 32_768


P, Q, PADDED = cloud(6), cloud(2), cloud(6).view(2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: knn([1], Q, 3), TypeError, "knn: ref: got list"),
        (lambda: knn(P, Q.int(), 3), TypeError, "knn: query: got torch.int32"),
        (lambda: knn(P[:, :2], Q, 3), ValueError, r"knn: ref: got shape \(6, 2\)"),
        (lambda: knn(P, Q[None], 3), ValueError, "knn: query: .*both padded or both stacked"),
        (lambda: knn(P, Q, 0), ValueError, "knn: k: got 0"),
        (lambda: knn(P, Q, 65), ValueError, "knn: k: got 65"),
        (lambda: knn(P, Q, 3, lengths=torch.tensor([6])), ValueError, "knn: lengths: .*use offsets"),
        (
            lambda: knn(PADDED, PADDED, 3, query_lengths=torch.tensor([1, 4])),
            ValueError,
            "query_lengths: entry 1",
        ),
        (lambda: knn(P, P, 3, offsets=torch.tensor([0, 3, 6])), ValueError, "query_offsets: got 1 batch"),
        (lambda: three_nn(P, Q[:, :2]), ValueError, r"three_nn: known: got shape \(2, 2\)"),
        (lambda: interpolation_weights(P, P[:2]), ValueError, "interpolation_weights: idx: got shape"),
        (lambda: interpolation_weights(P, P, 0.0), ValueError, "interpolation_weights: eps: got 0.0"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()
