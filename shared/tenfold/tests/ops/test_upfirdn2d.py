"""upfirdn2d: scipy and closed forms as oracles, reference, gradients of two orders, wrong variants, contract."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import upfirdn

from tenfold import _native, ref
from tenfold.ops import upfirdn2d
from tenfold.testing import kernels

OPS = torch.ops.tenfold
BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- checks that take the implementation


def check_scipy(op):
    """Without padding scipy's form is ours with K - 1 zeros around, cut to its own length."""
    for up, down, taps in ((1, 1, 4), (2, 1, 12), (1, 2, 12), (4, 1, 24), (2, 3, 5), (3, 2, 7)):
        x, f = random(1, 2, 9, 70), random(taps, seed=1)
        rows = np.apply_along_axis(lambda r: upfirdn(f.numpy(), r, up, down), 3, x.numpy())
        both = np.apply_along_axis(lambda r: upfirdn(f.numpy(), r, up, down), 2, rows)
        got = op(x, f, up=up, down=down, padding=(taps - 1,) * 4)
        torch.testing.assert_close(
            got[:, :, : both.shape[2], : both.shape[3]], torch.from_numpy(both), rtol=0, atol=1e-12
        )


def check_impulse(op):
    """An impulse shows the filter, not its mirror image; flipped, the mirror image."""
    x, f = torch.zeros(1, 1, 5, 5, dtype=torch.float64), random(3, 4)
    x[0, 0, 2, 2] = 1
    assert torch.equal(op(x, f, padding=(2, 2, 1, 1))[0, 0, 1:4, 1:5], f)
    assert torch.equal(op(x, f, padding=(2, 2, 1, 1), flip=True)[0, 0, 1:4, 1:5], f.flip(0, 1))


def check_sides(op):
    """Padding: left, right, top, bottom; up and down: vertical, horizontal."""
    x = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    assert op(x, one, padding=(1, 0, 0, 2))[0, 0].tolist() == [[0, 1, 1, 1]] * 2 + [[0, 0, 0, 0]] * 2
    assert op(x, one, up=(1, 2))[0, 0].tolist() == [[1, 0, 1, 0, 1, 0]] * 2
    assert op(x, one, down=(2, 1), padding=(-1, 0, 0, 0))[0, 0].tolist() == [[1, 1]]


def check_gain(op):
    """Up by two with gain four keeps a constant map inside."""
    y = op(
        torch.ones(1, 1, 8, 8, dtype=torch.float64), BINOMIAL.double(), up=2, padding=(2, 1, 2, 1), gain=4.0
    )
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12, dtype=torch.float64))


CHECKS = [check_scipy, check_impulse, check_sides, check_gain]


def reference(x, f, *, up=1, down=1, padding=(0, 0, 0, 0), flip=False, gain=1.0):
    pair = [v if isinstance(v, tuple) else (v, v) for v in (up, down)]
    return ref.upfirdn2d(x, f, *pair, padding, flip, gain)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("op", [upfirdn2d, reference], ids=["kernel", "reference"])
def test_definition(op, check):
    check(op)


def wrong_sides(x, f, *, padding=(0, 0, 0, 0), **more):
    return upfirdn2d(x, f, padding=(padding[2], padding[3], padding[0], padding[1]), **more)


WRONG = {
    "correlates": lambda x, f, flip=False, **more: upfirdn2d(x, f, flip=not flip, **more),
    "sides swapped": wrong_sides,
    "gain forgotten": lambda x, f, gain=1.0, **more: upfirdn2d(x, f, **more),
    "axes swapped": lambda x, f, **more: upfirdn2d(x.transpose(2, 3), f, **more).transpose(2, 3),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_reference(data):
    draw = data.draw
    factor = st.tuples(st.integers(1, 4), st.integers(1, 4))
    up, down = draw(factor), draw(factor)
    kind = draw(st.sampled_from(["taps", "matrix", "product"]))
    f = random(draw(st.integers(1, 9)), seed=1)
    if kind != "taps":
        f = random(draw(st.integers(1, 6)), draw(st.integers(1, 6)), seed=1)
    if kind == "product":
        f = torch.outer(f[0], f[:, 0])
    shape = (
        draw(st.integers(0, 2)),
        draw(st.integers(0, 3)),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 80)),
    )
    padding = tuple(draw(st.integers(-3, 8)) for _ in range(4))
    x, flip, gain = (
        random(*shape, seed=draw(st.integers(0, 99))),
        draw(st.booleans()),
        draw(st.floats(0.1, 4)),
    )
    try:
        got = upfirdn2d(x, f, up=up, down=down, padding=padding, flip=flip, gain=gain)
    except ValueError:
        sizes = [shape[2] * up[0] + sum(padding[2:]), shape[3] * up[1] + sum(padding[:2])]
        assert sizes[0] < f.shape[0] or sizes[1] < f.shape[-1]
        return
    expected = ref.upfirdn2d(x, f, up, down, padding, flip, gain)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("filter", [random(4, seed=1), random(3, 2, seed=1)], ids=["taps", "matrix"])
@pytest.mark.parametrize(
    ("up", "down", "padding"), [(2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1)), (3, 2, (-1, 4, 2, 0))]
)
def test_gradients_of_two_orders(filter, up, down, padding):
    x = random(1, 2, 5, 6).requires_grad_()

    def f(x):
        return upfirdn2d(x, filter, up=up, down=down, padding=padding, gain=1.5)

    assert torch.autograd.gradcheck(f, (x,), nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(f, (x,), nondet_tol=0.0)


def test_gradient_is_the_transpose():
    """<f(x), y> = <x, f^T y>, at a size with several blocks and vector tails."""
    x, f = random(2, 40, 37, 91).requires_grad_(), random(12, seed=1)
    y = upfirdn2d(x, f, up=4, down=2, padding=(9, 8, 9, 8))
    v = random(*y.shape, seed=2)
    (back,) = torch.autograd.grad((y * v).sum(), x)
    torch.testing.assert_close((y * v).sum(), (back * x).sum())


def test_threads_levels_strides():
    for shape, f in (
        ((1, 3, 70, 90), BINOMIAL),
        ((2, 70, 20, 33), random(5, 4, seed=1, dtype=torch.float32)),
    ):
        x = random(*shape, dtype=torch.float32)
        for up, down in ((2, 1), (1, 2), (1, 1)):

            def call(x=x, f=f, up=up, down=down):
                return upfirdn2d(x, f, up=up, down=down, padding=3)

            kernels.check_threads(call)
            kernels.check_levels(call, rtol=1e-4)
    kernels.check_strides(
        lambda x, f: upfirdn2d(x, f, up=2, padding=2), random(2, 3, 5, 6), random(4, seed=1)
    )


def test_operator_checks():
    x = random(1, 2, 6, 7, dtype=torch.float32)
    for f in (BINOMIAL, torch.outer(BINOMIAL, BINOMIAL)):
        args = (x.clone().requires_grad_(), f, [2, 1], [1, 3], [2, 1, 0, -1], False, 2.0)
        kernels.check_op(OPS.upfirdn2d.default, args, traced=f is BINOMIAL)


def test_compile():
    def f(x):
        return upfirdn2d(x * 2, BINOMIAL, up=2, padding=(2, 1, 2, 1), gain=4.0).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (6, 9):
        x = random(1, 3, n, n + 1, dtype=torch.float32)
        grads = []
        for call in (f, compiled):
            a = x.clone().requires_grad_()
            grads.append(torch.autograd.grad(call(a), a))
        kernels.assert_same(*grads)


def test_export():
    class Up(torch.nn.Module):
        def forward(self, x):
            return upfirdn2d(x, BINOMIAL, up=2, padding=(2, 1, 2, 1), gain=4.0)

    x = random(2, 3, 6, 7, dtype=torch.float32)
    program = torch.export.export(Up(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    more = random(5, 3, 6, 7, dtype=torch.float32)
    kernels.assert_same(program.module()(more), Up()(more))


def test_half_precision_and_empty():
    x = random(1, 2, 8, 9, dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        got = upfirdn2d(x.to(dtype), BINOMIAL, up=2, padding=2)
        assert got.dtype is dtype
        kernels.assert_same(got, upfirdn2d(x.to(dtype).float(), BINOMIAL, up=2, padding=2).to(dtype))
    assert upfirdn2d(x[:0], BINOMIAL).shape == (0, 2, 5, 6)
    assert upfirdn2d(x[:, :, :0], BINOMIAL, padding=2).shape == (1, 2, 1, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert upfirdn2d(x, BINOMIAL).dtype is torch.float32


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_is_a_few_rows():
    x = random(1, 64, 128, 128, dtype=torch.float32)
    assert 0 < kernels.scratch_bytes(lambda: upfirdn2d(x, BINOMIAL, up=2, padding=2)) < 64 * 1024


X = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: upfirdn2d([1], BINOMIAL), TypeError, "upfirdn2d: x: got list"),
        (lambda: upfirdn2d(X.long(), BINOMIAL), TypeError, "x: got torch.int64"),
        (lambda: upfirdn2d(X[0], BINOMIAL), ValueError, r"x: got shape \(2, 4, 4\)"),
        (lambda: upfirdn2d(X, torch.zeros(0)), ValueError, r"filter: got shape \(0,\)"),
        (lambda: upfirdn2d(X, torch.zeros(2, 2, 2)), ValueError, "filter: got shape"),
        (lambda: upfirdn2d(X, BINOMIAL, up=0), ValueError, "up: got 0"),
        (lambda: upfirdn2d(X, BINOMIAL, down=(1, 2, 3)), ValueError, "down: got"),
        (lambda: upfirdn2d(X, BINOMIAL, padding=(1, 2)), ValueError, "padding: got"),
        (lambda: upfirdn2d(X, torch.ones(5)), ValueError, "x: got shape .* as large as the filter"),
        (lambda: upfirdn2d(X, BINOMIAL.clone().requires_grad_()), ValueError, "filter: requires a gradient"),
        (lambda: upfirdn2d(X.to("meta"), BINOMIAL), ValueError, "filter: on cpu; expected meta"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    for args in [
        (X[0], BINOMIAL, [1, 1], [1, 1], [0] * 4, False, 1.0),
        (X, BINOMIAL.double(), [1, 1], [1, 1], [0] * 4, False, 1.0),
        (X, BINOMIAL, [0, 1], [1, 1], [0] * 4, False, 1.0),
        (X, BINOMIAL, [1], [1, 1], [0] * 4, False, 1.0),
        (X, BINOMIAL, [1, 1], [1, 1], [-9, 0, 0, 0], False, 1.0),
        (X, BINOMIAL, [1, 1], [1, 1], [2**40] * 4, False, 1.0),
    ]:
        with pytest.raises(RuntimeError, match=r"expected|smaller"):
            OPS.upfirdn2d(*args)
