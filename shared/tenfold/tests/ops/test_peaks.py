"""peak_mask and topk_peaks: contract, torch's max-pool chain as oracle, reference, gradients, wrong variants."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import peak_mask, topk_peaks
from tenfold.testing import kernels

INF, NAN = float("inf"), float("nan")
OPS = torch.ops.tenfold


def maps(b, c, h, w, seed=0, *, coarse=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    heat = torch.randn(b, c, h, w, generator=g, dtype=torch.float64)
    return ((heat * coarse).round() / coarse if coarse else heat).to(dtype)


def pooled_peaks(heat, kernel):
    """The usual chain: keep what equals its max-pool."""
    return heat == F.max_pool2d(heat, kernel, 1, kernel // 2)


def chain(heat, k, kernel, threshold=-INF):
    """Max-pool, mask, stable sort: the definition on maps without NaN."""
    peak = (pooled_peaks(heat, kernel) & (heat > threshold)).flatten(1)
    flat = heat.flatten(1)
    rows = []
    for keep, value in zip(peak, flat, strict=True):
        place = keep.nonzero().flatten()
        order = value[place].sort(descending=True, stable=True).indices[:k]
        rows.append(place[order])
    h, w = heat.shape[-2:]
    scores = heat.new_full((len(heat), k), -INF)
    tables = [torch.full((len(heat), k), -1) for _ in range(3)]
    for b, place in enumerate(rows):
        scores[b, : len(place)] = flat[b, place]
        for table, column in zip(tables, (place // (h * w), place // w % h, place % w), strict=True):
            table[b, : len(place)] = column
    return (scores, *tables)


# ---- checks that take the implementation, so that wrong ones can be fed to them


def check_plateau(top):
    heat = torch.tensor([[[[1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]]])
    scores, classes, ys, xs = top(heat, 5)
    assert scores.tolist() == [[2.0, 1.0, 1.0, -INF, -INF]]
    assert [t[0].tolist() for t in (classes, ys, xs)] == [
        [0, 0, 0, -1, -1],
        [0, 0, 0, -1, -1],
        [3, 0, 1, -1, -1],
    ]


def check_ties_by_place(top):
    heat = torch.zeros(1, 3, 5, 7)
    heat[0, [2, 0, 0, 1], [1, 4, 1, 3], [3, 0, 5, 3]] = 1.0
    assert [t[0].tolist() for t in top(heat, 4)[1:]] == [[0, 0, 1, 2], [1, 4, 3, 1], [5, 0, 3, 3]]


def check_strict_threshold(top):
    heat = torch.tensor([[[[0.5, 0.0, 0.75]]]])
    assert top(heat, 2, threshold=0.5)[0].tolist() == [[0.75, -INF]]


def check_borders(top):
    heat = -1 - torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    heat[0, 0, [0, 0, 8, 8], [0, 8, 0, 8]] = torch.tensor([-0.1, -0.2, -0.3, -0.4])
    assert [t[0, :4].tolist() for t in top(heat, 4)[2:]] == [[0, 0, 8, 8], [0, 8, 0, 8]]


def check_nan(top):
    heat = torch.zeros(1, 1, 3, 40)
    heat[0, 0, 1, 20], heat[0, 0, 1, 10], heat[0, 0, 2, 11], heat[0, 0, 1, 30] = 5.0, 6.0, NAN, 4.0
    scores, _, _, xs = top(heat, 2)
    assert (scores[0].tolist(), xs[0].tolist()) == ([5.0, 4.0], [20, 30])


CHECKS = [check_plateau, check_ties_by_place, check_strict_threshold, check_borders, check_nan]


def reference(heat, k, kernel=3, threshold=-INF, per_class=False):
    return ref.topk_peaks(heat, k, kernel, threshold, per_class)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("top", [topk_peaks, reference])
def test_definition(check, top):
    check(top)


def strict_peaks(heat, k, threshold=-INF):
    """Wrong: a plateau has no peak."""
    around = F.unfold(F.pad(heat, (1, 1, 1, 1), value=-INF).flatten(0, 1)[:, None], 3)
    others = around[:, [0, 1, 2, 3, 5, 6, 7, 8]].amax(1).view_as(heat)
    return chain(torch.where(heat > others, heat, -INF), k, 1, threshold)


WRONG = {
    "strict maxima": strict_peaks,
    "last of ties": lambda heat, k, threshold=-INF: [
        t if i != 3 else torch.where(t >= 0, heat.shape[-1] - 1 - t, t)
        for i, t in enumerate(chain(heat.flip(-1), k, 3, threshold))
    ],
    "threshold inclusive": lambda heat, k, threshold=-INF: chain(heat, k, 3, threshold - 1e-6),
    "zero padding": lambda heat, k, threshold=-INF: chain(
        torch.where(heat >= F.max_pool2d(F.pad(heat, (1, 1, 1, 1)), 3, 1), heat, -INF), k, 1, threshold
    ),
    "NaN ignored": lambda heat, k, threshold=-INF: chain(heat.nan_to_num(nan=-INF), k, 3, threshold),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name], (AssertionError, TypeError))


@pytest.mark.parametrize("kernel", [1, 3, 5, 9])
@pytest.mark.parametrize(
    "shape", [(2, 3, 17, 33), (1, 1, 1, 1), (1, 2, 40, 7), (1, 4, 16, 128), (2, 1, 3, 200)]
)
def test_equals_the_max_pool_chain(shape, kernel):
    for coarse in (0, 3):
        heat = maps(*shape, kernel, coarse=coarse)
        kernels.assert_same(peak_mask(heat, kernel), torch.where(pooled_peaks(heat, kernel), heat, 0))
        for k in (1, 20, 5000):
            kernels.assert_same(topk_peaks(heat, k, kernel=kernel), chain(heat, k, kernel))
            kernels.assert_same(topk_peaks(heat.double(), k, kernel=kernel), chain(heat.double(), k, kernel))
        kernels.assert_same(topk_peaks(heat, 9, kernel=kernel, threshold=0.4), chain(heat, 9, kernel, 0.4))


def test_per_class_equals_each_class_alone():
    heat = maps(2, 5, 20, 37, coarse=4)
    together = topk_peaks(heat, 6, per_class=True)
    assert together[0].shape == (2, 5, 6)
    for c in range(5):
        scores, classes, ys, xs = topk_peaks(heat[:, c : c + 1], 6)
        expected = (scores, torch.where(classes >= 0, c, -1), ys, xs)
        kernels.assert_same([t[:, c] for t in together], expected)


def test_constant_and_sloping_maps():
    """Every pixel a peak; and one peak in each map."""
    flat = torch.full((1, 2, 50, 60), 0.3)
    assert topk_peaks(flat, 100)[3][0].tolist() == [*range(60), *range(40)]
    ramp = torch.arange(3000.0).view(1, 1, 50, 60)
    assert topk_peaks(ramp, 3)[0].tolist() == [[2999.0, -INF, -INF]]


def test_signed_zeros_tie():
    heat = torch.full((1, 1, 1, 9), -1.0)
    heat[..., 1], heat[..., 4], heat[..., 7] = -0.0, 0.0, -0.0
    assert topk_peaks(heat, 3)[3].tolist() == [[1, 4, 7]]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    shape = (
        draw(st.integers(0, 2)),
        draw(st.integers(0, 4)),
        draw(st.integers(0, 20)),
        draw(st.integers(0, 70)),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    heat = maps(*shape, draw(st.integers(0, 1000)), coarse=draw(st.sampled_from([0, 1, 4])), dtype=dtype)
    heat *= draw(st.sampled_from([1e-6, 1.0, 1e6]))
    if heat.numel() and draw(st.booleans()):
        for value in (NAN, INF, -INF, -0.0, 1e-42, 3e38):
            heat.view(-1)[draw(st.integers(0, heat.numel() - 1))] = value
    if draw(st.booleans()):
        heat = heat.transpose(-1, -2).contiguous().transpose(-1, -2)
    kernel, k = draw(st.sampled_from([1, 3, 5])), draw(st.sampled_from([0, 1, 7, 70, 300]))
    threshold, per_class = draw(st.sampled_from([-INF, 0.0, 0.5, INF])), draw(st.booleans())
    kernels.assert_same(peak_mask(heat, kernel), torch.where(ref.peaks_at(heat, kernel), heat, 0))
    expected = ref.topk_peaks(heat, k, kernel, threshold, per_class)
    kernels.assert_same(
        topk_peaks(heat, k, kernel=kernel, threshold=threshold, per_class=per_class), expected
    )


# ---- the contract of every op


def test_threads_levels_strides():
    heat = maps(1, 40, 100, 150, coarse=50)
    for call in (
        lambda: topk_peaks(heat, 100),
        lambda: topk_peaks(heat, 30, per_class=True),
        lambda: topk_peaks(heat.double(), 100, kernel=5),
        lambda: peak_mask(heat),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    small = maps(2, 3, 11, 20)
    kernels.check_strides(lambda h: topk_peaks(h, 9), small)
    kernels.check_strides(peak_mask, small)


def test_operator_checks():
    heat = maps(2, 3, 8, 9)
    kernels.check_op(OPS.peaks_at.default, (heat, 3))
    kernels.check_op(OPS.topk_peaks.default, (heat, 5, 3, 0.1, False))
    kernels.check_op(OPS.topk_peaks.default, (heat, 5, 3, 0.1, True), traced=False)
    kernels.check_op(OPS.topk_peaks.default, (heat[:0], 5, 3, 0.1, False), traced=False)


def test_compile():
    def f(heat):
        scores, classes, ys, xs = topk_peaks(heat, 10)
        return peak_mask(heat * 2).sum() + scores.sum(), classes + ys * xs

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for h in (10, 14):
        heat = maps(2, 3, h, 12)
        kernels.assert_same(f(heat), compiled(heat))


def test_gradient_passes_at_peaks():
    heat = maps(1, 2, 6, 7, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(peak_mask, heat, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(peak_mask, heat)
    (grad,) = torch.autograd.grad(peak_mask(heat).sum(), heat)
    kernels.assert_same(grad.bool(), pooled_peaks(heat.detach(), 3))
    assert not any(t.requires_grad for t in topk_peaks(heat, 3))


def test_half_precision_and_autocast():
    for dtype in (torch.float16, torch.bfloat16):
        heat = maps(1, 3, 20, 30).to(dtype)
        scores, *rest = topk_peaks(heat, 12)
        wide, *expected = topk_peaks(heat.float(), 12)
        assert scores.dtype is dtype
        kernels.assert_same([scores.float(), *rest], [wide, *expected])
        assert peak_mask(heat).dtype is dtype
    heat = maps(1, 3, 20, 30)
    expected = topk_peaks(heat, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(topk_peaks(heat, 5), expected)


def test_reference_switch():
    heat = maps(1, 2, 9, 9)
    with tenfold.reference():
        expected = topk_peaks(heat, 4)
    kernels.assert_same(topk_peaks(heat, 4), expected)


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for k, shape in ((10, (1, 8, 64, 64)), (100, (2, 80, 64, 64)), (1000, (1, 3, 200, 300))):
        heat = torch.full(shape, 0.5)  # every pixel a peak
        assert kernels.scratch_bytes(partial(topk_peaks, heat, k)) <= 32 * max(k, 64) * shape[0] + 4096
        mask = kernels.scratch_bytes(partial(peak_mask, heat))
        assert mask <= 32 * k * shape[0] + 16 * 3 * (shape[3] + 2) + 4096


H = torch.zeros(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: topk_peaks([1.0]), TypeError, "topk_peaks: heat: got list"),
        (lambda: topk_peaks(H.long()), TypeError, "topk_peaks: heat: got torch.int64"),
        (lambda: topk_peaks(H[0]), ValueError, r"topk_peaks: heat: got shape \(1, 4, 4\)"),
        (lambda: topk_peaks(H, -1), ValueError, "topk_peaks: k: got -1"),
        (lambda: topk_peaks(H, kernel=2), ValueError, "topk_peaks: kernel: got 2; expected an odd"),
        (lambda: peak_mask(H, 0), ValueError, "peak_mask: kernel: got 0"),
        (lambda: topk_peaks(H, threshold=math.nan), ValueError, "topk_peaks: threshold: got nan"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    for args in [
        (H[0], 1, 3, 0.0, False),
        (H, -1, 3, 0.0, False),
        (H, 1, 4, 0.0, False),
        (H.half(), 1, 3, 0.0, True),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.topk_peaks(*args)
