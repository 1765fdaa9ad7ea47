"""Rulebooks and sparse convolution: dense convolution, the reference and spconv as oracles."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import ops, ref
from tenfold.testing import kernels, require, threads

SHAPE = (5, 6, 7)


def sites(n, seed=0, *, shape=SHAPE, batch=2, shuffled=True):
    g = torch.Generator().manual_seed(seed)
    cells = batch * shape[0] * shape[1] * shape[2]
    chosen = torch.randperm(cells, generator=g)[: min(n, cells)]
    if not shuffled:
        chosen = chosen.sort().values
    z, y, x = shape
    return torch.stack(
        [chosen // (z * y * x), chosen // (y * x) % z, chosen // x % y, chosen % x], dim=1
    ).int()


def values(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def triple(v):
    return [v] * 3 if isinstance(v, int) else list(v)


def to_dense(features, coords, shape=SHAPE, batch=2):
    dense = features.new_zeros(batch, features.shape[1], *shape)
    c = coords.long()
    dense[c[:, 0], :, c[:, 1], c[:, 2], c[:, 3]] = features
    return dense


def at(dense, coords):
    c = coords.long()
    return dense[c[:, 0], :, c[:, 1], c[:, 2], c[:, 3]]


SUBMANIFOLD = [(3, 1), (5, 1), ((3, 1, 1), 1), ((1, 3, 5), 1), (3, 2), (1, 1)]
STRIDED = [
    (3, 2, 1, 1),
    (3, 2, (0, 1, 1), 1),
    ((3, 1, 1), (2, 1, 1), 0, 1),
    (2, 2, 0, 1),
    (3, 1, 2, 2),
    (3, 3, 0, 1),
    (1, 2, 0, 1),
]


@pytest.mark.parametrize(("kernel", "dilation"), [*SUBMANIFOLD, (2, 1), ((2, 3, 4), 1)])
@pytest.mark.parametrize("n", [0, 1, 40, 300])
@pytest.mark.parametrize("shuffled", [False, True])
def test_submanifold_rulebook_equals_reference(kernel, dilation, n, shuffled):
    coords = sites(n, shuffled=shuffled)
    got = ops.rulebook_submanifold(coords, SHAPE, 2, kernel, dilation=dilation)
    kernels.assert_same(got, ref.rulebook_submanifold(coords, SHAPE, 2, triple(kernel), triple(dilation)))


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), STRIDED)
@pytest.mark.parametrize("n", [0, 1, 40, 300])
def test_strided_rulebook_equals_reference(kernel, stride, padding, dilation, n):
    coords = sites(n)
    got = ops.rulebook_strided(coords, SHAPE, 2, kernel, stride=stride, padding=padding, dilation=dilation)
    want = ref.rulebook_strided(coords, SHAPE, 2, *map(triple, (kernel, stride, padding, dilation)))
    kernels.assert_same(got[:2], want)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(0, 120),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    batch=st.integers(1, 3),
    kernel=st.tuples(*[st.integers(1, 4)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    spoil=st.booleans(),
)
def test_fuzz_rulebooks(seed, n, shape, batch, kernel, stride, padding, dilation, spoil):
    """Random geometry; half the cases hold out-of-range and repeated sites at validation level "meta"."""
    coords = sites(n, seed, shape=shape, batch=batch)
    if spoil and len(coords):
        g = torch.Generator().manual_seed(seed)
        coords = coords[torch.randint(len(coords), (len(coords),), generator=g)]
        coords[torch.rand(len(coords), generator=g) < 0.1] = -1
        coords[torch.rand(len(coords), generator=g) < 0.1] = 2**31 - 1
    with tenfold.validation("meta"):
        got = ops.rulebook_submanifold(coords, shape, batch, kernel, dilation=dilation)
        kernels.assert_same(got, ref.rulebook_submanifold(coords, shape, batch, kernel, dilation))
        extents = [
            (m + 2 * p - d * (k - 1) - 1) // s + 1
            for m, k, s, p, d in zip(shape, kernel, stride, padding, dilation, strict=True)
        ]
        if min(extents) < 1:
            with pytest.raises(ValueError, match=r"output extent along [zyx] would be"):
                ops.rulebook_strided(
                    coords, shape, batch, kernel, stride=stride, padding=padding, dilation=dilation
                )
            return
        found, table, _ = ops.rulebook_strided(
            coords, shape, batch, kernel, stride=stride, padding=padding, dilation=dilation
        )
        kernels.assert_same(
            (found, table), ref.rulebook_strided(coords, shape, batch, kernel, stride, padding, dilation)
        )
        inverse = ops.rulebook_invert(table, len(coords))
        kernels.assert_same(inverse, ref.rulebook_invert(table, len(coords)))


def test_wide_grids_use_64_bit_keys():
    """More than 2^31 cells: neighbours must still be found, at the far corner too."""
    shape = (4000, 100_000, 100_000)
    far = [[1, 3999, 99_999, 99_999], [1, 3999, 99_999, 99_998], [0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]
    coords = torch.tensor(far, dtype=torch.int32)
    kernels.assert_same(
        ops.rulebook_submanifold(coords, shape, 2, 3),
        ref.rulebook_submanifold(coords, shape, 2, [3] * 3, [1] * 3),
    )
    got = ops.rulebook_strided(coords, shape, 2, 3, stride=2, padding=1)[:2]
    kernels.assert_same(got, ref.rulebook_strided(coords, shape, 2, [3] * 3, [2] * 3, [1] * 3, [1] * 3))
    with pytest.raises(ValueError, match="more than 2\\^63 cells"):
        ops.rulebook_submanifold(coords, (2**30, 2**30, 2**30), 2, 3)


def check_against_dense(conv, kernel, dilation):
    """A submanifold layer equals conv3d at the sites, with the weight permuted (0, 4, 1, 2, 3)."""
    coords, k = sites(90), triple(kernel)
    x, w, b = values(90, 3), values(4, *k, 3, seed=2), values(4, seed=3)
    table = ops.rulebook_submanifold(coords, SHAPE, 2, kernel, dilation=dilation)
    padding = [d * (n // 2) for n, d in zip(k, triple(dilation), strict=True)]
    dense = F.conv3d(
        to_dense(x, coords), w.permute(0, 4, 1, 2, 3), b, padding=padding, dilation=triple(dilation)
    )
    torch.testing.assert_close(conv(x, w, table, b), at(dense, coords), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation"), SUBMANIFOLD)
def test_submanifold_convolution_equals_dense(kernel, dilation):
    check_against_dense(ops.sparse_conv, kernel, dilation)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, w, t, b: ops.sparse_conv(x, w.flip(1, 2, 3), t, b),
        lambda x, w, t, b: ops.sparse_conv(x, w.transpose(1, 2), t, b),
        lambda x, w, t, b: ops.sparse_conv(x, w, t.clamp(min=0), b),
        lambda x, w, t, b: ops.sparse_conv(x, w, t),
    ],
)
def test_wrong_variants_are_caught(wrong):
    with pytest.raises(AssertionError):
        check_against_dense(wrong, 3, 1)


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), STRIDED)
def test_strided_and_inverse_convolution_equal_dense(kernel, stride, padding, dilation):
    coords, k = sites(90), triple(kernel)
    x, w = values(90, 3), values(4, *k, 3, seed=2)
    found, table, shape = ops.rulebook_strided(
        coords, SHAPE, 2, kernel, stride=stride, padding=padding, dilation=dilation
    )
    options = {"stride": triple(stride), "padding": triple(padding), "dilation": triple(dilation)}
    dense = F.conv3d(to_dense(x, coords), w.permute(0, 4, 1, 2, 3), **options)
    assert dense.shape[2:] == shape
    y = ops.sparse_conv(x, w, table)
    torch.testing.assert_close(y, at(dense, found), rtol=1e-10, atol=1e-10)
    reached = F.conv3d(to_dense(torch.ones(90, 1).double(), coords), torch.ones(1, 1, *k).double(), **options)
    assert int((reached > 0.5).sum()) == len(found)  # no site is missing

    # The inverse layer is the transposed convolution restricted to the sites.
    v = values(5, *k, 4, seed=4)
    back = ops.sparse_conv(y, v, ops.rulebook_invert(table, 90))
    up = F.conv_transpose3d(to_dense(y, found, shape), v.permute(4, 0, 1, 2, 3), **options)
    z, h, w_ = (min(a, b) for a, b in zip(up.shape[2:], SHAPE, strict=True))
    covered = (coords[:, 1] < z) & (coords[:, 2] < h) & (coords[:, 3] < w_)
    torch.testing.assert_close(back[covered], at(up, coords[covered]), rtol=1e-10, atol=1e-10)


def test_equals_spconv():
    spconv = require("spconv") and require("spconv.pytorch")
    from spconv.core import ConvAlgo

    torch.manual_seed(0)
    coords = sites(150)
    x = values(150, 8, dtype=torch.float32)
    layers = [
        spconv.SubMConv3d(8, 6, 3, bias=True, algo=ConvAlgo.Native),
        spconv.SparseConv3d(8, 6, 3, stride=2, padding=1, algo=ConvAlgo.Native),
        spconv.SparseConv3d(8, 6, (3, 1, 1), stride=(2, 1, 1), algo=ConvAlgo.Native),
    ]
    for layer in layers:
        with torch.no_grad(), threads(1):  # on two threads spconv loses a row now and then
            theirs = layer(spconv.SparseConvTensor(x, coords, list(SHAPE), 2))
        if layer.subm:
            found, table = coords, ops.rulebook_submanifold(coords, SHAPE, 2, 3)
        else:
            found, table, _ = ops.rulebook_strided(
                coords, SHAPE, 2, layer.kernel_size, stride=layer.stride, padding=layer.padding
            )
        ours = ops.sparse_conv(x, layer.weight.detach(), table, layer.bias.detach())
        lookup = {tuple(c): row for row, c in enumerate(theirs.indices.tolist())}
        assert len(lookup) == len(found)
        order = torch.tensor([lookup[tuple(c)] for c in found.tolist()])
        torch.testing.assert_close(ours, theirs.features[order], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("c_in", "c_out"), [(1, 1), (4, 16), (16, 16), (5, 7), (32, 48), (64, 64), (128, 33)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_tile_shapes_equal_reference(c_in, c_out, dtype):
    coords = sites(300)
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    x, w, b = (
        values(len(coords), c_in, dtype=dtype),
        values(c_out, 27, c_in, seed=2, dtype=dtype),
        values(c_out),
    )
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11

    def run():
        return (
            torch.ops.tenfold.sparse_conv(x, w, b.to(dtype), table, True),
            torch.ops.tenfold.sparse_conv_weight(x, values(len(coords), c_out, seed=5, dtype=dtype), table),
        )

    kernels.check_threads(run)
    kernels.check_levels(run, rtol=tolerance)
    got = run()
    torch.testing.assert_close(
        got[0], ref.sparse_conv(x, w, b.to(dtype), table), rtol=tolerance, atol=tolerance
    )
    grad = values(len(coords), c_out, seed=5, dtype=dtype)
    torch.testing.assert_close(got[1], ref.sparse_conv_weight(x, grad, table), rtol=tolerance, atol=tolerance)


def test_gradients():
    coords = sites(30)
    _, table, _ = ops.rulebook_strided(coords, SHAPE, 2, 3, stride=2, padding=1)
    x, w, b = values(30, 2), values(3, 3, 3, 3, 2, seed=2), values(3, seed=3)
    for t in (x, w, b):
        t.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: ops.sparse_conv(x, w, table, b), (x, w, b), nondet_tol=0)
    assert torch.autograd.gradcheck(lambda x: ops.sparse_max_pool(x, table), (x,), nondet_tol=0)
    same = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    for symmetric in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, w, s=symmetric: ops.sparse_conv(x, w, same, symmetric=s), (x, w), nondet_tol=0
        )
    y = ops.sparse_conv(x, w, table, b)
    (first,) = torch.autograd.grad(y.square().sum(), w, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(first.sum(), x)


def test_max_pool_is_a_true_maximum():
    coords = sites(60)
    _, table, _ = ops.rulebook_strided(coords, SHAPE, 2, 2, stride=2)
    x = values(60, 3) - 10  # all negative
    got = ops.sparse_max_pool(x, table)
    kernels.assert_same(got, ref.sparse_max_pool(x, table)[0])
    kernels.check_threads(lambda: ops.sparse_max_pool(x, table))
    assert bool((got < 0).all())


def test_properties():
    """Linearity, row permutation permutes outputs, inverse of strided restores the sites, K = 1 is a product."""
    coords = sites(80)
    x, w = values(80, 3), values(4, 3, 3, 3, 3, seed=2)
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    y = ops.sparse_conv(x, w, table)
    torch.testing.assert_close(ops.sparse_conv(2 * x, w, table), 2 * y)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    moved = ops.rulebook_submanifold(coords[order], SHAPE, 2, 3)
    kernels.assert_same(ops.sparse_conv(x[order], w, moved), y[order])
    flipped = torch.where(table >= 0, table, -1).flip(0)
    kernels.assert_same(ops.rulebook_invert(table, 80), flipped)  # pairs of a submanifold layer are symmetric
    one = ops.rulebook_submanifold(coords, SHAPE, 2, 1)
    torch.testing.assert_close(ops.sparse_conv(x, w[:, :1, :1, :1], one), x @ w[:, 0, 0, 0].T)


def test_operators_pass_opcheck():
    coords = sites(50)
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    x, w = (
        values(50, 3, dtype=torch.float32).requires_grad_(),
        values(4, 27, 3, dtype=torch.float32).requires_grad_(),
    )
    op = torch.ops.tenfold
    kernels.check_op(op.rulebook_submanifold.default, (coords, list(SHAPE), 2, [3] * 3, [1] * 3, True))
    kernels.check_op(
        op.rulebook_strided.default, (coords, list(SHAPE), 2, [3] * 3, [2] * 3, [1] * 3, [1] * 3, True)
    )
    kernels.check_op(op.rulebook_invert.default, (table, 50))
    kernels.check_op(op.sparse_conv.default, (x, w, None, table, True))
    kernels.check_op(op.sparse_max_pool.default, (x, table))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(backend):
    coords = sites(50)
    x = values(50, 3, dtype=torch.float32)

    def pipeline(x, coords, w):
        found, table, _ = ops.rulebook_strided(coords, SHAPE, 2, 3, stride=2, padding=1)
        return ops.sparse_conv(x, w, table).relu(), found

    compiled = torch.compile(pipeline, fullgraph=True, backend=backend)
    weight = values(4, 3, 3, 3, 3, dtype=torch.float32)
    kernels.assert_same(compiled(x, coords, weight), pipeline(x, coords, weight), rtol=1e-5)


def test_strides_and_half_precision():
    coords = sites(70)
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    x, w = values(70, 4, dtype=torch.float32), values(6, 3, 3, 3, 4, dtype=torch.float32)
    kernels.check_strides(ops.sparse_conv, x, w, table)
    kernels.check_strides(lambda c: ops.rulebook_submanifold(c, SHAPE, 2, 3), coords)
    kernels.check_strides(lambda c: ops.rulebook_strided(c, SHAPE, 2, 3, stride=2)[:2], coords)
    for dtype in (torch.float16, torch.bfloat16):
        y = ops.sparse_conv(x.to(dtype), w.to(dtype), table)
        assert y.dtype == dtype
        exact = ops.sparse_conv(x.to(dtype).float(), w.to(dtype).float(), table)
        kernels.assert_same(y, exact.to(dtype))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda c, t: ops.rulebook_submanifold(c[:, :3], SHAPE, 2),
            ValueError,
            r"coords: got shape \(9, 3\)",
        ),
        (lambda c, t: ops.rulebook_submanifold(c.float(), SHAPE, 2), TypeError, "coords: got torch.float32"),
        (lambda c, t: ops.rulebook_submanifold(c, (5, 6), 2), ValueError, "spatial_shape: got"),
        (lambda c, t: ops.rulebook_submanifold(c, SHAPE, 2, 0), ValueError, "kernel_size: got 0"),
        (
            lambda c, t: ops.rulebook_submanifold(c, SHAPE, 1),
            ValueError,
            r"coords: row \d+ is outside the grid",
        ),
        (
            lambda c, t: ops.rulebook_submanifold(torch.cat([c, c[:1]]), SHAPE, 2),
            ValueError,
            "coords: row 9 repeats a site",
        ),
        (
            lambda c, t: ops.rulebook_strided(c, SHAPE, 2, 6),
            ValueError,
            "the output extent along z would be 0",
        ),
        (lambda c, t: ops.rulebook_strided(c, SHAPE, 2, 3, stride=0), ValueError, "stride: got 0"),
        (lambda c, t: ops.rulebook_invert(t, 3), ValueError, "an entry is not below rows"),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(9, 2), torch.zeros(4, 3, 3, 3, 3), t),
            ValueError,
            r"weight: got shape \(4, 3, 3, 3, 3\)",
        ),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(9, 2), torch.zeros(4, 1, 3, 3, 2), t),
            ValueError,
            "table: got 27 offsets; expected 9",
        ),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(4, 2), torch.zeros(4, 3, 3, 3, 2), t),
            ValueError,
            "names a row that features do not have",
        ),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(9, 2).int(), torch.zeros(4, 3, 3, 3, 2), t),
            TypeError,
            "features: got torch.int32",
        ),
        (lambda c, t: ops.rulebook_invert(t.float(), 9), TypeError, "table: got torch.float32"),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(9, 2), torch.zeros(4, 3, 3, 3, 2), t.float()),
            TypeError,
            "sparse_conv: table: got torch.float32",
        ),
        (
            lambda c, t: ops.sparse_conv(torch.zeros(9, 2), torch.zeros(4, 3, 3, 3, 2), t, [0.0] * 4),
            TypeError,
            "bias: got list",
        ),
        (lambda c, t: ops.sparse_max_pool(torch.zeros(9, 2), None), TypeError, "table: got NoneType"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    coords = sites(9, seed=4)
    assert int(coords[:, 0].max()) == 1
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    with pytest.raises(error, match=message):
        call(coords, table)


def test_misuse_of_raw_operators_does_not_crash():
    coords, op = sites(9), torch.ops.tenfold
    table = ops.rulebook_submanifold(coords, SHAPE, 2, 3)
    x, w = torch.zeros(9, 2), torch.zeros(4, 27, 2)
    bad = [
        lambda: op.rulebook_submanifold(coords.long(), list(SHAPE), 2, [3] * 3, [1] * 3, False),
        lambda: op.rulebook_submanifold(coords, [5, 6], 2, [3] * 3, [1] * 3, False),
        lambda: op.rulebook_submanifold(coords, list(SHAPE), -1, [3] * 3, [1] * 3, False),
        lambda: op.rulebook_submanifold(coords, list(SHAPE), 2, [2**20] * 3, [1] * 3, False),
        lambda: op.rulebook_strided(coords, list(SHAPE), 2, [9] * 3, [1] * 3, [0] * 3, [1] * 3, False),
        lambda: op.rulebook_invert(table, -1),
        lambda: op.sparse_conv(x, w[:, :26], None, table, False),
        lambda: op.sparse_conv(x, w, torch.zeros(3), table, False),
        lambda: op.sparse_conv(x[:3], w, None, table, False),
        lambda: op.sparse_conv_weight(x, torch.zeros(3, 4), table),
        lambda: op.sparse_max_pool(x[:3], table),
    ]
    for call in bad:
        with pytest.raises(RuntimeError):
            call()


def test_scratch_stays_within_its_bound():
    coords = sites(20_000, shape=(40, 200, 200), batch=1, shuffled=False)
    for call in (
        lambda: ops.rulebook_submanifold(coords, (40, 200, 200), 1, 3),
        lambda: ops.rulebook_strided(coords, (40, 200, 200), 1, 3, stride=2, padding=1)[1],
    ):
        pairs = int((call() >= 0).sum())
        assert kernels.scratch_bytes(call) <= 24 * max(pairs, 2 * 20_000) + 256 * 1024
    table = ops.rulebook_submanifold(coords, (40, 200, 200), 1, 3)
    x, w = torch.zeros(20_000, 64), torch.zeros(64, 3, 3, 3, 64)
    for count in (1, 2):  # the panels of the weights are shared, the tiles are each thread's own
        taken = kernels.scratch_bytes(lambda: ops.sparse_conv(x, w, table), count)
        assert taken - w.numel() * 4 <= count * 256 * 1024
