"""filtered_lrelu: scipy, a band-limited sinusoid, reference, gradients of two orders, wrong variants, contract."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, upfirdn

from tenfold import _native, ref
from tenfold.ops import filtered_lrelu
from tenfold.testing import kernels

OPS = torch.ops.tenfold


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lowpass(taps, cutoff, dtype=torch.float64):
    return torch.from_numpy(firwin(taps, cutoff, fs=2.0)).to(dtype)


def reference(
    x, bias=None, *, up_filter=None, down_filter=None, up=1, down=1, padding=0, slope=0.2, gain=math.sqrt(2),
    clamp=None, flip=False,
):  # fmt: skip
    one, four = x.new_ones(1), (padding,) * 4 if isinstance(padding, int) else padding
    filters = [one if f is None else f for f in (up_filter, down_filter)]
    return ref.filtered_lrelu(
        x, bias, *filters, up, down, four, flip, slope, gain, -1.0 if clamp is None else clamp
    )


# ---- checks that take the implementation


def check_scipy(op):
    """The three steps by scipy, with the padding that lets it see its own ends."""
    x, b = random(1, 2, 11, 40), random(2, seed=1)
    for up, down in ((2, 2), (4, 2), (2, 4), (2, 1)):
        fu, fd = random(6 * up, seed=2), random(6 * down, seed=3)

        def both(v, f, up, down):
            for axis in (2, 3):
                v = np.apply_along_axis(lambda r: upfirdn(f.numpy(), r, up, down), axis, v)
            return v

        # scipy's convolution is full: K - 1 zeros in front, and no zeros behind the last sample.
        ends = (len(fu) - 1, len(fu) - up)
        u = both((x + b[:, None, None]).numpy(), fu, up, 1) * up**2
        y = both(F.leaky_relu(torch.from_numpy(u), 0.2).numpy() * 1.5, fd, 1, 1)
        y = y[:, :, len(fd) - 1 : u.shape[2], len(fd) - 1 : u.shape[3]][:, :, ::down, ::down]
        got = op(x, b, up_filter=fu, down_filter=fd, up=up, down=down, padding=(*ends, *ends), gain=1.5)
        assert got.shape == y.shape
        torch.testing.assert_close(got, torch.from_numpy(y), rtol=0, atol=1e-9)


def check_bias_inside_padding(op):
    """Padding is zeros around x + bias: the bias does not reach into it."""
    x, b = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    got = op(x, b, padding=1, gain=1.0)
    assert got[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]


def check_clamp(op):
    x = torch.tensor([[[[10.0, -10.0, 0.5]]]], dtype=torch.float64)
    assert op(x, gain=1.0, clamp=1.0).flatten().tolist() == [1.0, -1.0, 0.5]


def check_sinusoid(op):
    """With an all-pass activation and proper filters a band-limited wave comes back (away from the border)."""
    n, f = 64, lowpass(24, 0.5)
    wave = torch.sin(torch.arange(n, dtype=torch.float64) * 2 * math.pi * 3 / n)
    x = (wave[:, None] * wave.roll(5))[None, None]
    y = op(x, up_filter=f, down_filter=f, up=2, down=2, padding=(23, 22, 23, 22), slope=1.0, gain=1.0)
    assert y.shape == x.shape
    torch.testing.assert_close(y[..., 12:-12, 12:-12], x[..., 12:-12, 12:-12], rtol=0, atol=2e-2)


CHECKS = [check_scipy, check_bias_inside_padding, check_clamp, check_sinusoid]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("op", [filtered_lrelu, reference], ids=["kernel", "reference"])
def test_definition(op, check):
    check(op)


def bias_everywhere(x, b=None, *, padding=0, **more):
    if not isinstance(padding, int):
        return filtered_lrelu(x, b, padding=padding, **more)
    return filtered_lrelu(F.pad(x, [padding] * 4), b, **more)


def nearest(x, *rest, up_filter=None, up=1, **more):
    if up_filter is not None:
        box = torch.ones(up, dtype=x.dtype) / up
        up_filter = F.pad(box, [0, len(up_filter) - up])
    return filtered_lrelu(x, *rest, up_filter=up_filter, up=up, **more)


WRONG = {
    "bias everywhere": bias_everywhere,
    "no clamp": lambda x, *a, clamp=None, **more: filtered_lrelu(x, *a, **more),
    "flipped": lambda x, *a, **more: filtered_lrelu(x, *a, flip=True, **more),
    "gain of one axis": lambda x, *a, up=1, **more: filtered_lrelu(x, *a, up=up, **more) / up,
    "nearest": nearest,
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


def a_filter(draw, seed):
    if draw(st.booleans()):
        return random(draw(st.integers(1, 13)), seed=seed)
    return random(draw(st.integers(1, 5)), draw(st.integers(1, 5)), seed=seed)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_reference_with_gradients(data):
    draw = data.draw
    factor = st.sampled_from([1, 2, 2, 3, 4])
    shape = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 24)),
        draw(st.integers(1, 50)),
    )
    x = random(*shape, seed=draw(st.integers(0, 99))).requires_grad_()
    bias = random(shape[1], seed=1).requires_grad_() if draw(st.booleans()) else None
    more = {
        "up_filter": a_filter(draw, 2),
        "down_filter": a_filter(draw, 3),
        "up": draw(factor),
        "down": draw(factor),
        "padding": tuple(draw(st.integers(-3, 9)) for _ in range(4)),
        "clamp": draw(st.sampled_from([None, 2.0])),
        "flip": draw(st.booleans()),
    }
    try:
        got = filtered_lrelu(x, bias, **more)
    except ValueError:  # a padded map smaller than its filter: the plain form refuses it too
        with pytest.raises(RuntimeError):
            reference(x, bias, **more)
        return
    expected = reference(x, bias, **more)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)
    weight, inputs = random(*got.shape, seed=4), [x] if bias is None else [x, bias]
    grads = [torch.autograd.grad((y * weight).sum(), inputs) for y in (got, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["taps", "matrix"])
@pytest.mark.parametrize(("up", "down"), [(2, 2), (4, 2), (1, 1)])
def test_gradients_of_two_orders(up, down, kind):
    x, b = random(1, 2, 4, 5).requires_grad_(), random(2, seed=1).requires_grad_()
    shape = (4,) if kind == "taps" else (3, 2)
    more = {
        "up_filter": random(*shape, seed=2),
        "down_filter": random(*shape, seed=3),
        "up": up,
        "down": down,
    }

    def f(x, b):
        return filtered_lrelu(x, b, padding=(3, 2, 1, 3), clamp=3.0, **more)

    u = ref.upfirdn2d(
        (x + b[:, None, None]).detach(), more["up_filter"], (up, up), (1, 1), (3, 2, 1, 3), False, up**2
    )
    y = ref.bias_act(u, None, None, 0.2, math.sqrt(2), -1.0)
    inside = u[u != 0]  # the padding stays 0
    assert float(inside.abs().min()) > 1e-4  # away from the kink and the clamp
    assert float((y.abs() - 3).abs().min()) > 1e-4
    assert torch.autograd.gradcheck(f, (x, b), eps=1e-7, atol=1e-5, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(f, (x, b), eps=1e-7, atol=1e-5, nondet_tol=0.0)


def test_second_derivative_keeps_the_parameters_of_a_penalty():
    """The gradient penalty of a small net equals that of the plain form."""
    w = random(3, 3, 1, 1, seed=1)
    more = {"up_filter": lowpass(12, 0.5), "down_filter": lowpass(12, 0.5), "up": 2, "down": 2, "padding": 11}
    results = []
    for op in (filtered_lrelu, reference):
        x, weight = random(2, 3, 6, 6).requires_grad_(), w.clone().requires_grad_()
        y = op(F.conv2d(x, weight), **more)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(g.square().sum(), (x, weight)))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-7)


def test_threads_levels_strides():
    f = lowpass(12, 0.5, torch.float32)
    for shape in ((1, 3, 60, 50), (2, 40, 20, 30)):
        x, b = random(*shape, dtype=torch.float32), random(shape[1], seed=1, dtype=torch.float32)
        for up, down in ((2, 2), (4, 2)):

            def call(x=x, b=b, up=up, down=down):
                return filtered_lrelu(x, b, up_filter=f, down_filter=f, up=up, down=down, padding=9)

            kernels.check_threads(call)
            kernels.check_levels(call, rtol=1e-4)
    radial = torch.outer(lowpass(5, 0.5), lowpass(5, 0.4)) + 0.01 * torch.eye(5, dtype=torch.float64)
    kernels.check_strides(
        lambda x, b, f: filtered_lrelu(x, b, up_filter=f, down_filter=f, up=2, down=2, padding=4),
        random(2, 3, 5, 6), random(3, seed=1), radial,
    )  # fmt: skip


def test_operator_checks():
    f = lowpass(4, 0.5)
    x, b = random(1, 2, 5, 6).requires_grad_(), random(2, seed=1).requires_grad_()
    kernels.check_op(OPS.filtered_lrelu.default, (x, b, f, f, 2, 2, [3, 2, 3, 2], False, 0.2, 1.4, 2.0))
    v = random(1, 2, 5, 6, seed=2).requires_grad_()
    pads = ([3, 2, 3, 2], [3, 2, 3, 2], [0, 0, 0, 0])
    kernels.check_op(
        OPS.filtered_lrelu_gate.default,
        (v, x.detach(), None, f, f, f, 2, 2, 2, *pads, [False] * 3, 4.0, 0.2, 1.4, 2.0),
    )


def test_compile():
    t = lowpass(12, 0.5, torch.float32)

    def f(x, b):
        return filtered_lrelu(x * 2, b, up_filter=t, down_filter=t, up=2, down=2, padding=11).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (6, 9):
        grads = []
        for call in (f, compiled):
            a = random(1, 3, n, n + 1, dtype=torch.float32).requires_grad_()
            b = random(3, seed=1, dtype=torch.float32).requires_grad_()
            grads.append(torch.autograd.grad(call(a, b), (a, b)))
        kernels.assert_same(*grads)


def test_half_precision_and_empty():
    x, f = random(1, 2, 8, 9, dtype=torch.float32), lowpass(12, 0.5, torch.float32)
    more = {"up_filter": f, "down_filter": f, "up": 2, "down": 2, "padding": 11}
    for dtype in (torch.float16, torch.bfloat16):
        got = filtered_lrelu(x.to(dtype), **more)
        assert got.dtype is dtype
        kernels.assert_same(got, filtered_lrelu(x.to(dtype).float(), **more).to(dtype))
    assert filtered_lrelu(x[:0], **more).shape == (0, *filtered_lrelu(x, **more).shape[1:])
    nan = x.clone()
    nan[0, 0, 4, 4] = float("nan")
    kernels.assert_same(filtered_lrelu(nan, **more).isnan(), reference(nan, **more).isnan())


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_the_upsampled_map_is_never_kept():
    x, f = random(1, 70, 128, 128, dtype=torch.float32), lowpass(12, 0.5, torch.float32)
    used = kernels.scratch_bytes(
        lambda: filtered_lrelu(x, up_filter=f, down_filter=f, up=2, down=2, padding=11)
    )
    assert 0 < used < 128 * 1024 < 4 * x[0].numel()


X = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: filtered_lrelu(None), TypeError, "filtered_lrelu: x: got NoneType"),
        (lambda: filtered_lrelu(X[0]), ValueError, "x: got shape"),
        (lambda: filtered_lrelu(X, torch.zeros(3)), ValueError, "bias: got shape"),
        (lambda: filtered_lrelu(X, up=0), ValueError, "up: got 0"),
        (lambda: filtered_lrelu(X, down=65), ValueError, "down: got 65"),
        (lambda: filtered_lrelu(X, up_filter=torch.zeros(0)), ValueError, "up_filter: got shape"),
        (lambda: filtered_lrelu(X, down_filter=torch.ones(9)), ValueError, "as large as the filter"),
        (lambda: filtered_lrelu(X, padding=-3), ValueError, "as large as the filter"),
        (lambda: filtered_lrelu(X, clamp=-2.0), ValueError, "clamp: got -2.0"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    one = torch.ones(1)
    base = [X, None, one, one, 1, 1, [0] * 4, False, 0.2, 1.0, -1.0]
    for at, value in (
        (0, X[0]),
        (1, torch.zeros(3)),
        (2, one.double()),
        (4, 0),
        (5, 1000),
        (6, [0]),
        (6, [-9, 0, 0, 0]),
    ):
        args = list(base)
        args[at] = value
        with pytest.raises(RuntimeError, match=r"expected|smaller"):
            OPS.filtered_lrelu(*args)
    gate = [X, X, None, one, one, one, 1, 1, 1, [0] * 4, [0] * 4, [0] * 4, [False] * 3, 1.0, 0.2, 1.0, -1.0]
    for at, value in ((0, X[..., 1:]), (0, X.double()), (12, [False])):
        args = list(gate)
        args[at] = value
        with pytest.raises(RuntimeError, match="expected"):
            OPS.filtered_lrelu_gate(*args)
