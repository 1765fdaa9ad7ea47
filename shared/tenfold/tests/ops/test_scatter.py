"""scatter: contract, oracles (torch, a NumPy loop), reference, gradients, wrong variants."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import scatter
from tenfold.testing import kernels

RAW = torch.ops.tenfold.scatter.default
REDUCTIONS = ("sum", "mean", "max", "min")
CODE = {name: i for i, name in enumerate(REDUCTIONS)}


def rows(
    n: int, channels: int, num: int, seed: int = 0, *, coarse=False, dtype=torch.float32
) -> tuple[Tensor, Tensor]:
    """Features and an unordered index that skips every third segment and holds -1."""
    g = torch.Generator().manual_seed(seed)
    feats = torch.randn(n, channels, generator=g, dtype=torch.float64)
    index = torch.randint(-1, max(num, 1), (n,), generator=g)
    index = torch.where(index % 3 == 2, -1, index) if num else torch.full((n,), -1)
    return ((feats * 2).round() if coarse else feats).to(dtype), index


def reference(feats, index, num, reduce):
    return ref.scatter(feats, index, num, CODE[reduce], False, False)[0]


# ---- checks that take the implementation -----------------------------------------------------------------


def check_small(call) -> None:
    feats = torch.tensor([[1.0, -5.0], [2.0, -6.0], [4.0, -1.0], [9.0, 9.0], [8.0, -7.0]])
    index = torch.tensor([2, 0, 2, -1, 2])
    zero = [0.0, 0.0]
    assert call(feats, index, 3, "sum").tolist() == [[2.0, -6.0], zero, [13.0, -13.0]]
    assert torch.equal(call(feats, index, 3, "mean")[2], torch.tensor([13.0, -13.0]) / 3)
    assert call(feats, index, 3, "max").tolist() == [[2.0, -6.0], zero, [8.0, -1.0]]
    assert call(feats, index, 3, "min").tolist() == [[2.0, -6.0], zero, [1.0, -7.0]]


def check_numpy_loop(call) -> None:
    """Float32 sums in ascending row order, bit for bit; true division for the mean."""
    for n, channels, num in [(500, 1, 7), (400, 5, 60), (300, 17, 300), (200, 64, 3)]:
        feats, index = rows(n, channels, num, n)
        total = np.zeros((num, channels), np.float32)
        count = np.zeros((num, 1), np.float32)
        for i, s in enumerate(index.tolist()):
            if s >= 0:
                total[s] = total[s] + feats[i].numpy()
                count[s] += 1
        kernels.assert_same(torch.from_numpy(total), call(feats, index, num, "sum"))
        kernels.assert_same(torch.from_numpy(total / np.maximum(count, 1)), call(feats, index, num, "mean"))


def check_torch(call) -> None:
    """Extremes equal torch's, infinities included."""
    for channels, reduce in itertools.product((1, 3, 4, 5, 16, 33), ("max", "min")):
        feats, index = rows(300, channels, 50, channels, coarse=True)
        feats[::7] = float("inf")
        feats[1::7] = -float("inf")
        used = index >= 0
        expected = torch.zeros(50, channels).scatter_reduce_(
            0, index[used, None].expand(-1, channels), feats[used], "a" + reduce, include_self=False
        )
        kernels.assert_same(expected, call(feats, index, 50, reduce))


def check_gradient(call) -> None:
    """The first of equal extremes takes the whole gradient, each channel for itself."""
    feats = torch.tensor([[1.0, 3.0], [1.0, 2.0], [0.0, 3.0], [5.0, 5.0]], requires_grad=True)
    index = torch.tensor([1, 1, 1, -1])
    for reduce, expected in {
        "max": [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        "min": [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]],
        "sum": [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]],
        "mean": (torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]]) / 3).tolist(),
    }.items():
        (grad,) = torch.autograd.grad(call(feats, index, 3, reduce).sum(), feats)
        assert grad.tolist() == expected


CHECKS = (check_small, check_numpy_loop, check_torch, check_gradient)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_checks(check):
    check(scatter)


@pytest.mark.parametrize("check", CHECKS[:3], ids=lambda c: c.__name__)
def test_checks_of_the_reference(check):
    check(reference)


class _LastArg(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats, index, num, reduce):
        flipped, arg, _ = ref.scatter(feats.flip(0), index.flip(0), num, CODE[reduce], True, False)
        ctx.save_for_backward(arg)
        ctx.n = len(feats)
        return flipped

    @staticmethod
    def backward(ctx, grad):
        (arg,) = ctx.saved_tensors
        result = grad.new_zeros(ctx.n + 1, grad.shape[1])
        result.scatter_(0, torch.where(arg >= 0, ctx.n - 1 - arg.long(), ctx.n), grad)
        return result[:-1], None, None, None


def last_arg(feats, index, num, reduce):
    return (
        _LastArg.apply(feats, index, num, reduce)
        if reduce in ("max", "min")
        else scatter(feats, index, num, reduce)
    )


def zero_start(feats, index, num, reduce):
    result = scatter(feats, index, num, reduce)
    return result.clamp(min=0) if reduce == "max" else result.clamp(max=0) if reduce == "min" else result


WRONG = {
    "last arg of ties": last_arg,
    "extremes start at zero": zero_start,
    "reversed sum": lambda f, i, n, r: (
        scatter(f.flip(0), i.flip(0), n, r) if r in ("sum", "mean") else scatter(f, i, n, r)
    ),
    "float64 sum": lambda f, i, n, r: scatter(f.double(), i, n, r).to(f.dtype),
    "mean by reciprocal": lambda f, i, n, r: (
        scatter(f, i, n, r)
        if r != "mean"
        else scatter(f, i, n, "sum") * (1 / torch.bincount(i[i >= 0], minlength=n).clamp(min=1))[:, None]
    ),
    "-1 is the last segment": lambda f, i, n, r: scatter(f, i % n, n, r),
    "mean over all rows": lambda f, i, n, r: (
        scatter(f, i, n, "sum") / len(f) if r == "mean" else scatter(f, i, n, r)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


# ---- against the reference -------------------------------------------------------------------------------


@st.composite
def requests(draw):
    n = draw(st.sampled_from([0, 1, 2, 5, 17, 40, 90, 300]))
    channels = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 16, 33]))
    num = draw(st.sampled_from([0, 1, 2, 10, 100, 400]))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    seed = draw(st.integers(0, 2**31))
    feats, index = rows(n, channels, num, seed, coarse=draw(st.booleans()), dtype=dtype)
    g = torch.Generator().manual_seed(seed)
    if draw(st.booleans()):
        special = torch.tensor(
            [float("nan"), float("inf"), -float("inf"), -0.0, 1e-40, 1e-6, 1e6, 3e38], dtype=dtype
        )
        values = special[torch.randint(len(special), feats.shape, generator=g)]
        feats = torch.where(torch.rand(feats.shape, generator=g) < 0.1, values, feats)
    if draw(st.booleans()):
        wild = torch.tensor([-1, -2, num, num + 1, 2**31, -(2**40), 2**32])
        index = torch.where(
            torch.rand(n, generator=g) < 0.1, wild[torch.randint(7, (n,), generator=g)], index
        )
    elif draw(st.booleans()):
        index = index.sort().values.int()
    if draw(st.booleans()):
        feats = feats.T.contiguous().T
    return feats, index, num, draw(st.sampled_from(REDUCTIONS))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(requests())
def test_equals_reference(request):
    feats, index, num, reduce = request
    with tenfold.validation("meta"):
        for need_arg in (False, True):
            expected = ref.scatter(feats, index, num, CODE[reduce], need_arg, False)
            kernels.assert_same(expected, RAW(feats, index, num, CODE[reduce], need_arg, False))
    grad = torch.randn(num, feats.shape[1], dtype=feats.dtype)
    kernels.assert_same(
        ref.scatter_backward(grad, index, *expected[1:], CODE[reduce]),
        torch.ops.tenfold.scatter_backward(grad, index, *expected[1:], CODE[reduce]),
    )


# ---- the contract of every op ----------------------------------------------------------------------------


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize(
    ("n", "channels", "num"), [(25_000, 64, 5_000), (300_000, 5, 60_000), (300_000, 4, 3), (20_000, 130, 1)]
)
def test_threads(n, channels, num, reduce):
    """Also one giant segment; the other half of the index is in order."""
    feats, index = rows(n, channels, num)
    index[n // 2 :] = index[n // 2 :].sort().values
    for kind in (index, index.int()):
        kernels.check_threads(lambda i=kind: scatter(feats, i, num, reduce))
    kernels.check_threads(lambda: RAW(feats, index, num, CODE[reduce], True, True))
    result = RAW(feats, index, num, CODE[reduce], True, True)
    grad = torch.rand_like(result[0])
    kernels.check_threads(lambda: torch.ops.tenfold.scatter_backward(grad, index, *result[1:], CODE[reduce]))


@pytest.mark.parametrize(
    ("n", "channels", "num", "reductions"), [(600, 1000, 5, REDUCTIONS), (17_000, 31, 2_000, ("mean", "max"))]
)
def test_two_threads_equal_the_reference(n, channels, num, reductions):
    """Two megabytes, at which the work is split by channels or by segments, against the loop."""
    feats, index = rows(n, channels, num, coarse=True)
    for reduce in reductions:
        with kernels.threads(2):
            result = RAW(feats, index, num, CODE[reduce], True, True)
        kernels.assert_same(ref.scatter(feats, index, num, CODE[reduce], True, False), result)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_levels_and_strides(reduce):
    for channels, dtype in itertools.product((1, 4, 19, 64), (torch.float32, torch.float64)):
        feats, index = rows(500, channels, 80, dtype=dtype)
        kernels.check_levels(lambda f=feats, i=index: RAW(f, i, 80, CODE[reduce], True, True))
    kernels.check_strides(lambda f, i: scatter(f, i, 80, reduce), feats, index)


def test_shrinking_then_growing():
    for n, num, reduce in itertools.product((400, 3, 0, 300), (140, 0, 5), REDUCTIONS):
        feats, index = rows(n, 6, num, n)
        kernels.assert_same(reference(feats, index, num, reduce), scatter(feats, index, num, reduce))


def test_row_order_matters_little():
    feats, index = rows(5000, 8, 100)
    by = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    for reduce in ("max", "min"):
        kernels.assert_same(scatter(feats, index, 100, reduce), scatter(feats[by], index[by], 100, reduce))
    for reduce in ("sum", "mean"):
        torch.testing.assert_close(
            scatter(feats, index, 100, reduce),
            scatter(feats[by], index[by], 100, reduce),
            rtol=1e-6,
            atol=2e-5,
        )


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_opcheck(reduce):
    for n, num, grad in [(30, 8, True), (0, 4, False), (5, 0, False)]:
        feats, index = rows(n, 3, num)
        args = [feats.requires_grad_(grad), index, num, CODE[reduce], grad, True]
        kernels.check_op(RAW, args, traced=grad)
    feats, index = rows(30, 3, 8)
    result = RAW(feats, index, 8, CODE[reduce], True, True)
    back = [result[0], index, *result[1:], CODE[reduce]]
    kernels.check_op(torch.ops.tenfold.scatter_backward.default, back, traced=False)


def test_compile():
    def f(feats, index):
        return [scatter(feats * 2, index, 8, r) + 1 for r in REDUCTIONS]

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (20, 30):
        feats, index = rows(n, 4, 8, n)
        kernels.assert_same(f(feats, index), compiled(feats, index))
        found = []
        for call in (f, compiled):
            leaf = feats.clone().requires_grad_()
            results = call(leaf, index)
            found.append([*results, *torch.autograd.grad(sum(t.square().sum() for t in results), leaf)])
        kernels.assert_same(*found)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_gradcheck(reduce):
    for channels, coarse_index in itertools.product((1, 4, 6), (torch.int32, torch.int64)):
        feats, index = rows(20, channels, 6, dtype=torch.float64)
        call = lambda f, i=index.to(coarse_index): scatter(f, i, 6, reduce)  # noqa: E731
        assert torch.autograd.gradcheck(call, feats.requires_grad_(), nondet_tol=0.0)


def test_second_derivative_raises():
    feats, index = rows(20, 3, 6)
    (grad,) = torch.autograd.grad(
        scatter(feats.requires_grad_(), index, 6).square().sum(), feats, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="scatter: second derivatives"):
        torch.autograd.grad(grad.sum(), feats)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_half_precision_accumulates_in_float32(reduce, dtype):
    feats, index = rows(3000, 5, 4, dtype=dtype)
    feats.requires_grad_()
    result = scatter(feats, index, 4, reduce)
    assert result.dtype is dtype
    wide = feats.detach().float().requires_grad_()
    expected = scatter(wide, index, 4, reduce)
    assert torch.equal(result, expected.to(dtype))
    result.sum().backward()
    expected.sum().backward()
    assert feats.grad.dtype is dtype
    assert torch.equal(feats.grad, wide.grad.to(dtype))


def test_autocast_keeps_the_dtype():
    feats, index = rows(300, 5, 40)
    expected = scatter(feats, index, 40, "mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(expected, scatter(feats, index, 40, "mean"))


def test_empty_segments_and_inputs():
    for n, channels, num in [(0, 3, 4), (5, 0, 4), (5, 3, 0), (0, 0, 0)]:
        for reduce in REDUCTIONS:
            feats = torch.ones(n, channels, requires_grad=True)
            result = scatter(feats, torch.full((n,), -1), num, reduce)
            assert result.shape == (num, channels)
            assert not result.any()
            result.sum().backward()
            assert feats.grad.shape == feats.shape
            assert not feats.grad.any()


def test_nan_wins():
    nan = float("nan")
    feats = torch.tensor([[1.0], [nan], [3.0], [nan]], requires_grad=True)
    for reduce in ("max", "min"):
        result = scatter(feats, torch.zeros(4, dtype=torch.int64), 1, reduce)
        assert bool(result.isnan().all())
        (grad,) = torch.autograd.grad(result.sum(), feats)
        assert grad.flatten().tolist() == [0, 1, 0, 0]


def test_index_out_of_range():
    feats, index = rows(100, 3, 10)
    for bad in (10, -2, 2**31, 2**32, -(2**33)):
        broken = index.clone()
        broken[[7, 50]] = bad
        with pytest.raises(
            ValueError, match=rf"scatter: index: row 7 holds {bad}; expected values from -1 to 9"
        ):
            scatter(feats, broken, 10)
        ignored = torch.where(broken == bad, -1, broken)
        with tenfold.validation("meta"):
            leaf = feats.clone().requires_grad_()
            for reduce in REDUCTIONS:
                result = scatter(leaf, broken, 10, reduce)
                kernels.assert_same(scatter(feats, ignored, 10, reduce), result)
                (grad,) = torch.autograd.grad(result.sum(), leaf)
                assert not grad[[7, 50]].any()


FEATS, INDEX = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("error", "match", "args"),
    [
        (TypeError, "feats: got list", ([[1.0]], INDEX, 3, "sum")),
        (TypeError, "feats: got torch.int64", (FEATS.long(), INDEX, 3, "sum")),
        (
            ValueError,
            r"feats: got shape \(4,\); expected \(N, C\); add a channel",
            (FEATS[:, 0], INDEX, 3, "sum"),
        ),
        (TypeError, "index: got list", (FEATS, [0], 3, "sum")),
        (TypeError, "index: got torch.int16", (FEATS, INDEX.short(), 3, "sum")),
        (ValueError, r"index: got shape \(3,\); expected \(4,\)", (FEATS, INDEX[:3], 3, "sum")),
        (ValueError, r"index: got shape \(4, 1\)", (FEATS, INDEX[:, None], 3, "sum")),
        (ValueError, "index: on meta", (FEATS, INDEX.to("meta"), 3, "sum")),
        (ValueError, "num: got -1", (FEATS, INDEX, -1, "sum")),
        (ValueError, r"num: expected from 0 to 2\^31 - 1", (FEATS, INDEX, 2**31, "sum")),
        (ValueError, "reduce: got 'prod'; expected one of sum, mean, max, min", (FEATS, INDEX, 3, "prod")),
    ],
)
def test_errors(error, match, args):
    with pytest.raises(error, match=f"scatter: {match}"):
        scatter(*args)


def test_raw_op_misuse_raises():
    for args in [
        (FEATS[0], INDEX, 3, 0),
        (FEATS, INDEX[:2], 3, 0),
        (FEATS, INDEX.float(), 3, 0),
        (FEATS, INDEX, -1, 0),
        (FEATS, INDEX, 3, 4),
        (FEATS.half(), INDEX, 3, 0),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            RAW(*args, True, True)
    empty, count = torch.zeros(0, 2, dtype=torch.int32), torch.zeros(3, dtype=torch.int32)
    backward = torch.ops.tenfold.scatter_backward.default
    for args in [
        (FEATS[:3], INDEX, empty, count, 2),
        (FEATS[:3], INDEX, empty, count[:2], 1),
        (FEATS[:3], INDEX, empty, count.long(), 1),
        (FEATS[:3, 0], INDEX, empty, count, 0),
        (FEATS[:3], INDEX, empty, count, 9),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            backward(*args)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scratch_is_bounded(reduce, count):
    for n, channels, num in [
        (10_000, 64, 2000),
        (20_000, 64, 2000),
        (300_000, 5, 10),
        (50_000, 16, 100_000),
    ]:
        call = partial(scatter, *rows(n, channels, num), num, reduce)
        assert kernels.scratch_bytes(call, count) <= 8 * (n + num) + 100_000
