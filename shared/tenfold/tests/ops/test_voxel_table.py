"""VoxelTable, lookup and voxel_query: contract, dictionary and dense-volume oracles, reference, wrong variants."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import VoxelTable, lookup, voxel_query, voxelize
from tenfold.testing import kernels

OPS = torch.ops.tenfold


def cells(v: int, seed: int = 0, *, batch: int = 2, shape=(6, 20, 25), low=0, dtype=torch.int32):
    """Distinct cells in random order."""
    g = torch.Generator().manual_seed(seed)
    volume = batch * shape[0] * shape[1] * shape[2]
    flat = torch.randperm(volume, generator=g)[: min(v, volume)]
    x, rest = flat % shape[2], flat // shape[2]
    return (
        torch.stack([rest // shape[1] // shape[0], rest // shape[1] % shape[0], rest % shape[1], x], 1) + low
    ).to(dtype)


def centres(coords, size=(0.5, 0.4, 0.8)):
    return (coords[:, [3, 2, 1]].float() + 0.5) * torch.tensor(size)


def scene(v: int, m: int, seed: int = 0, **more):
    coords = cells(v, seed, **more)
    g = torch.Generator().manual_seed(seed + 1)
    pick = torch.randint(len(coords), (m,), generator=g) if len(coords) else torch.zeros(0, dtype=torch.int64)
    query = coords[pick] + torch.randint(-2, 3, (len(pick), 4), generator=g) * torch.tensor([0, 1, 1, 1])
    points = centres(query) + torch.rand(len(pick), 3, generator=g) * 0.4 - 0.2
    return coords, centres(coords), query.to(coords.dtype), points


def dense_query(
    coords, xyz_vox, query, points, ranges, radius, k, *, inclusive=True, order="zyx", pad="first"
):
    """The usual way: an index volume, then a loop over the offsets. The options make wrong variants."""
    low = torch.minimum(coords.amin(0), query.amin(0)).long() - torch.tensor([0, *ranges])
    high = torch.maximum(coords.amax(0), query.amax(0)).long() + torch.tensor([0, *ranges]) + 1
    volume = np.full((high - low).tolist(), -1)
    volume[tuple((coords.long() - low).T.numpy())] = np.arange(len(coords))
    offsets = list(itertools.product(*(range(-r, r + 1) for r in ranges)))
    if order == "xyz":
        offsets.sort(key=lambda o: o[::-1])
    limit = np.float32(radius) * np.float32(radius)
    idx, count = np.zeros((len(query), k), np.int32), np.zeros(len(query), np.int32)
    for q, cell in enumerate((query.long() - low).tolist()):
        hits = []
        for dz, dy, dx in offsets:
            row = volume[cell[0], cell[1] + dz, cell[2] + dy, cell[3] + dx]
            if row < 0:
                continue
            d = xyz_vox[row].numpy() - points[q].numpy()
            square = (d[0] * d[0] + d[1] * d[1]) + d[2] * d[2]
            if square <= limit if inclusive else square < limit:
                hits.append(row)
        hits = hits[:k]
        count[q] = len(hits)
        if hits:
            idx[q] = hits[0] if pad == "first" else hits[-1]
            idx[q, : len(hits)] = hits
    return torch.from_numpy(idx), torch.from_numpy(count)


def native_query(coords, xyz_vox, query, points, ranges, radius, k):
    return voxel_query(VoxelTable(coords), xyz_vox, query, points, ranges, radius, k)


def reference_query(coords, xyz_vox, query, points, ranges, radius, k):
    table = ref.voxel_table(coords, True)
    return ref.voxel_query(*table, xyz_vox, query, points, list(ranges), radius, k, True)


# ---- checks that take the implementation


def check_inclusive(query):
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 3]])
    xyz = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
    idx, count = query(coords, xyz, coords[:1], xyz[:1], (0, 0, 3), 3.0, 2)
    assert (idx.tolist(), count.tolist()) == ([[0, 1]], [2])
    assert query(coords, xyz, coords[:1], xyz[:1], (0, 0, 2), 3.0, 2)[1].tolist() == [1]


def check_scan_order(query):
    coords = torch.tensor([[0, 1, 1, 2], [0, 1, 2, 1], [0, 2, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]])
    xyz = torch.zeros(5, 3)
    idx, _ = query(coords, xyz, coords[3:4], xyz[:1], (1, 1, 1), 1.0, 6)
    assert idx.tolist() == [[4, 3, 0, 1, 2, 4]]


def check_nothing_found(query):
    coords = torch.tensor([[0, 0, 0, 0]])
    xyz = torch.zeros(1, 3)
    far = torch.tensor([[0, 9, 9, 9], [1, 0, 0, 0], [-1, 0, 0, 0]])
    idx, count = query(coords, xyz, far, torch.zeros(3, 3), (1, 1, 1), 1.0, 2)
    assert (idx.tolist(), count.tolist()) == ([[0, 0]] * 3, [0, 0, 0])


CHECKS = [check_inclusive, check_scan_order, check_nothing_found]
WRONG = {
    "exclusive radius": {"inclusive": False},
    "x-major": {"order": "xyz"},
    "padded with the last": {"pad": "last"},
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("query", [native_query, reference_query])
def test_definition(check, query):
    check(query)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS[:2], lambda *args: dense_query(*args, **WRONG[name]))


@pytest.mark.parametrize("v", [0, 1, 2, 100, 3000])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_lookup_equals_a_dictionary(v, dtype):
    coords = cells(v, low=-3, dtype=dtype)
    rows = {tuple(c): i for i, c in enumerate(coords.tolist())}
    wanted = torch.cat([coords, cells(500, 9, shape=(8, 24, 30), low=-5, dtype=dtype)])
    expected = torch.tensor([rows.get(tuple(c), -1) for c in wanted.tolist()], dtype=torch.int32)
    table = VoxelTable(coords)
    assert len(table) == v
    kernels.assert_same(lookup(table, wanted), expected)
    kernels.assert_same(ref.lookup(*ref.voxel_table(coords, True), wanted), expected)
    kernels.assert_same(table.tensors, ref.voxel_table(coords, True))


def test_wide_and_far_cells():
    """Extents of up to 2^31 an axis, negative cells, queries at the ends of int64."""
    big = 2**31 - 2
    coords = torch.tensor([[0, 0, 0, 0], [0, -big, 0, big], [0, 5, 7, -big]])
    ends = torch.tensor([[2**63 - 1] * 4, [-(2**63)] * 4, [0, 0, 0, 2**62]])
    assert lookup(VoxelTable(coords[:2]), torch.cat([coords, ends])).tolist() == [0, 1, -1, -1, -1, -1]
    xyz = torch.zeros(6, 3)
    _, count = voxel_query(VoxelTable(coords[:2]), xyz[:2], torch.cat([coords, ends]), xyz, (1, 1, 1), 1.0, 2)
    assert count.tolist() == [1, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="VoxelTable: coords: they span 2\\^63 cells or more"):
        VoxelTable(coords)
    with pytest.raises(ValueError, match="they span 2\\^63"):
        VoxelTable(torch.tensor([[-(2**63), 0, 0, 0], [2**63 - 1, 0, 0, 0]]))


def test_repeated_cells():
    coords = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 1]])
    with pytest.raises(
        ValueError, match="VoxelTable: coords: row 2 repeats the cell of row 0; expected distinct"
    ):
        VoxelTable(coords)
    with pytest.raises(ValueError, match="row 2 repeats the cell of row 0"):
        ref.voxel_table(coords, True)
    with tenfold.validation("meta"):
        table = VoxelTable(coords)
    assert lookup(table, coords).tolist() == [0, 1, 0, 1, 0]
    idx, count = voxel_query(table, torch.zeros(5, 3), coords[:1], torch.zeros(1, 3), (2, 2, 2), 1.0, 4)
    assert (idx.tolist(), count.tolist()) == ([[1, 0, 1, 1]], [2])


@pytest.mark.parametrize(
    ("ranges", "radius", "k"), [((1, 1, 1), 0.7, 4), ((2, 4, 4), 1.6, 16), ((0, 3, 1), 9.0, 3)]
)
def test_query_equals_a_dense_volume(ranges, radius, k):
    for v in (50, 1500):
        args = (*scene(v, 120, v), ranges, radius, k)
        kernels.assert_same(native_query(*args), dense_query(*args))


def test_real_voxels():
    """Voxels of a scan find themselves, and radius 0+ finds only the own voxel."""
    points = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)) * 20
    grid = voxelize(points, (0.5, 0.5, 0.5), (0, 0, 0, 20, 20, 20), 3, 20_000)
    table, xyz = VoxelTable(grid.coords), centres(grid.coords, (0.5, 0.5, 0.5))
    idx, count = voxel_query(table, xyz, grid.coords, xyz, (1, 1, 1), 0.01, 2)
    assert bool((count == 1).all())
    assert torch.equal(idx[:, 0].long(), torch.arange(len(xyz)))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    coords, xyz, query, points = scene(
        draw(st.integers(0, 200)),
        draw(st.integers(0, 30)),
        draw(st.integers(0, 1000)),
        batch=draw(st.integers(1, 3)),
        shape=draw(st.sampled_from([(1, 1, 40), (5, 6, 7), (2, 30, 1)])),
        low=draw(st.sampled_from([0, -7, 1000])),
        dtype=draw(st.sampled_from([torch.int32, torch.int64])),
    )
    if len(coords) and draw(st.booleans()):
        coords = coords[
            torch.randint(len(coords), (len(coords),), generator=torch.Generator().manual_seed(0))
        ]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    xyz, points = xyz.to(dtype), points.to(dtype)
    if draw(st.booleans()):
        xyz, points = (xyz * 2).round() / 2, (points * 2).round() / 2  # ties with the radius
    for value in (float("nan"), float("inf"), 3e38):
        if len(xyz) and len(points) and draw(st.booleans()):
            xyz[draw(st.integers(0, len(xyz) - 1)), 0] = value
            points[draw(st.integers(0, len(points) - 1)), 1] = -value
    if draw(st.booleans()):
        query = query.T.contiguous().T
    ranges = [draw(st.integers(0, 3)) for _ in range(3)]
    radius, k = draw(st.sampled_from([0.5, 1.0, 2.5])), draw(st.sampled_from([1, 2, 9]))
    with tenfold.validation("meta"):
        table = VoxelTable(coords)
        kernels.assert_same(table.tensors, ref.voxel_table(coords, False))
        kernels.assert_same(lookup(table, query), ref.lookup(*table.tensors, query))
        got = voxel_query(table, xyz, query, points, ranges, radius, k)
    kernels.assert_same(got, ref.voxel_query(*table.tensors, xyz, query, points, ranges, radius, k, False))


# ---- the contract of every op


def test_threads_levels_strides():
    coords, xyz, query, points = scene(4000, 20_000, batch=1, shape=(10, 40, 50))
    table = VoxelTable(coords)
    for call in (
        lambda: VoxelTable(coords).tensors,
        lambda: lookup(table, query),
        lambda: voxel_query(table, xyz, query, points, (1, 2, 2), 1.0, 8),
        lambda: voxel_query(table, xyz.double(), query.long(), points.double(), (1, 2, 2), 1.0, 8),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    small = scene(60, 30)
    kernels.check_strides(lambda c, x, q, p: native_query(c, x, q, p, (1, 1, 1), 0.9, 3), *small)
    kernels.check_strides(lambda c, q: lookup(VoxelTable(c), q), small[0], small[2])


def test_operator_checks():
    coords, xyz, query, points = scene(40, 10)
    table = VoxelTable(coords).tensors
    kernels.check_op(OPS.voxel_table.default, (coords, True))
    kernels.check_op(OPS.lookup.default, (*table, query))
    kernels.check_op(OPS.voxel_query.default, (*table, xyz, query, points, [1, 1, 1], 0.9, 4, True))


def test_compile():
    def f(coords, xyz, query, points):
        table = VoxelTable(coords)
        idx, count = voxel_query(table, xyz, query, points, (1, 1, 1), 0.9, 4)
        return lookup(table, query) + count, idx + 1

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for v in (30, 50):
        args = scene(v, 12, v)
        kernels.assert_same(f(*args), compiled(*args))


def test_half_precision_autocast_and_gradient():
    coords, xyz, query, points = scene(100, 30)
    table = VoxelTable(coords)
    low = (xyz.half(), points.half())
    kernels.assert_same(
        voxel_query(table, low[0], query, low[1], (1, 1, 1), 0.9, 4),
        voxel_query(table, low[0].float(), query, low[1].float(), (1, 1, 1), 0.9, 4),
    )
    expected = voxel_query(table, xyz, query, points, (1, 1, 1), 0.9, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(voxel_query(table, xyz, query, points, (1, 1, 1), 0.9, 4), expected)
    out = voxel_query(table, xyz.requires_grad_(), query, points.requires_grad_(), (1, 1, 1), 0.9, 4)
    assert not any(t.requires_grad for t in out)


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for v in (2000, 30_000):
        coords, xyz, query, points = scene(v, 500, batch=1, shape=(10, 60, 70))
        taken = kernels.scratch_bytes(partial(VoxelTable, coords))
        assert taken <= 16 * v + 100_000  # the sort's second array and its histograms
        search = partial(voxel_query, VoxelTable(coords), xyz, query, points, (1, 2, 2), 1.0, 8)
        assert kernels.scratch_bytes(search) == 0


C, X = torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0]]), torch.zeros(2, 3)
T = VoxelTable(C)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: VoxelTable([1]), TypeError, "VoxelTable: coords: got list"),
        (
            lambda: VoxelTable(C.float()),
            TypeError,
            "VoxelTable: coords: got torch.float32; expected int64 or int32",
        ),
        (
            lambda: VoxelTable(C[:, :3]),
            ValueError,
            r"coords: got shape \(2, 3\); expected \(V, 4\); columns are b",
        ),
        (lambda: lookup(C, C), TypeError, "lookup: table: got Tensor; expected a VoxelTable"),
        (lambda: lookup(T, C[0]), ValueError, r"lookup: coords: got shape \(4,\)"),
        (lambda: lookup(T, C.to("meta")), ValueError, "lookup: coords: on meta"),
        (lambda: voxel_query(T, X[:1], C, X, (1, 1, 1), 1.0, 1), ValueError, r"xyz_vox: got shape \(1, 3\)"),
        (
            lambda: voxel_query(T, X, C, X[:1], (1, 1, 1), 1.0, 1),
            ValueError,
            r"xyz_query: got shape \(1, 3\)",
        ),
        (
            lambda: voxel_query(T, X, C, X, (1, 1), 1.0, 1),
            ValueError,
            r"ranges: got \[1, 1\]; expected three",
        ),
        (lambda: voxel_query(T, X, C, X, (1, -1, 1), 1.0, 1), ValueError, "ranges: got"),
        (lambda: voxel_query(T, X, C, X, (1, 1, 1), 0.0, 1), ValueError, "radius: got 0.0"),
        (lambda: voxel_query(T, X, C, X, (1, 1, 1), 1.0, 0), ValueError, "k: got 0"),
        (
            lambda: voxel_query(T, X + float("nan"), C, X, (1, 1, 1), 1.0, 1),
            ValueError,
            "xyz_vox: row 0 is not",
        ),
        (
            lambda: voxel_query(T, X, C, X + float("inf"), (1, 1, 1), 1.0, 1),
            ValueError,
            "xyz_query: row 0 is not",
        ),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    """Tensors that are not those of one table cannot make the kernels read elsewhere."""
    keys, rows, directory, meta = T.tensors
    for table in [
        (keys[:1], rows, directory, meta),
        (keys, rows + 5, directory, meta),
        (keys, rows, directory + 100, meta),
        (keys, rows, directory.flip(0), meta),
        (keys, rows, directory, meta * 0 - 1),
        (keys, rows, directory, meta[:3]),
        (keys, rows, directory, torch.tensor([0, 0, 0, 0, 2**40, 2**40, 1, 1, 0])),
        (keys, rows, directory, torch.tensor([0, 0, 0, 0, 2**40, 1, 1, 1, 0])),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.lookup(*table, C)
