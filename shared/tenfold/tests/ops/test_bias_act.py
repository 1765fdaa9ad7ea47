"""bias_act: closed forms, torch's leaky ReLU, reference, gradients of two orders, wrong variants, contract."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold import _native, ref
from tenfold.ops import bias_act
from tenfold.testing import kernels

OPS = torch.ops.tenfold
NAN, INF = float("nan"), float("inf")


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reference(x, bias=None, *, noise=None, slope=0.2, gain=math.sqrt(2), clamp=None):
    return ref.bias_act(x, bias, noise, slope, gain, -1.0 if clamp is None else clamp)


def check_torch(op):
    x, b, n = random(2, 3, 5, 37), random(3, seed=1), random(2, 1, 5, 37, seed=2)
    expected = F.leaky_relu(x + b[:, None, None] + n, 0.2) * 1.5
    torch.testing.assert_close(op(x, b, noise=n, gain=1.5), expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(
        op(x, b, noise=n, gain=1.5, clamp=0.7), expected.clamp(-0.7, 0.7), rtol=0, atol=1e-14
    )


def check_linear(op):
    x = random(4, 6)
    torch.testing.assert_close(op(x, slope=1.0, gain=1.0), x, rtol=0, atol=0)
    torch.testing.assert_close(op(x), F.leaky_relu(x, 0.2) * math.sqrt(2), rtol=0, atol=1e-14)


def check_shared_noise(op):
    x, n = random(3, 2, 4), random(1, 1, 4, seed=1)
    torch.testing.assert_close(op(x, noise=n, slope=1.0, gain=1.0), x + n, rtol=0, atol=0)


CHECKS = [check_torch, check_linear, check_shared_noise]


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("op", [bias_act, reference], ids=["kernel", "reference"])
def test_definition(op, check):
    check(op)


WRONG = {
    "bias forgotten": lambda x, bias=None, **more: bias_act(x, **more),
    "clamp before the gain": lambda x, *a, gain=math.sqrt(2), **more: (
        bias_act(x, *a, gain=1.0, **more) * gain
    ),
    "first image's noise": lambda x, *a, noise=None, **more: bias_act(
        x, *a, noise=None if noise is None else noise[:1], **more
    ),
    "plain gain": lambda x, *a, gain=1.0, **more: bias_act(x, *a, gain=gain, **more),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_reference(data):
    draw = data.draw
    shape = (
        draw(st.integers(0, 3)),
        draw(st.integers(0, 5)),
        *draw(st.lists(st.integers(0, 40), max_size=2)),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    x = random(*shape, dtype=dtype)
    if x.numel() and draw(st.booleans()):
        for value in (NAN, INF, -INF, -0.0, 1e-40):
            x.view(-1)[draw(st.integers(0, x.numel() - 1))] = value
    bias = random(shape[1], seed=1, dtype=dtype) if draw(st.booleans()) else None
    noise = None
    if draw(st.booleans()):
        noise = random(draw(st.sampled_from([1, shape[0]])), 1, *shape[2:], seed=2, dtype=dtype)
    rest = (draw(st.sampled_from([0.0, 0.2, 1.0])), draw(st.sampled_from([1.0, 1.7])))
    rest = (*rest, draw(st.sampled_from([-1.0, 0.0, 0.9])))
    # Gain and slope are rounded to the dtype at different places.
    rtol = 1e-6 if dtype is torch.float32 else 1e-14
    kernels.assert_same(OPS.bias_act(x, bias, noise, *rest), ref.bias_act(x, bias, noise, *rest), rtol=rtol)
    v = random(*shape, seed=3, dtype=dtype)
    got = OPS.bias_act_gate(v, x, bias, noise, *rest)
    kernels.assert_same(got, ref.bias_act_gate(v, x, bias, noise, *rest), rtol=rtol)


@pytest.mark.parametrize("clamp", [None, 0.8])
def test_gradients_of_two_orders(clamp):
    inputs = [random(2, 3, 4, 5), random(3, seed=1), random(2, 1, 4, 5, seed=2)]
    inputs[0] = inputs[0] + 0.05 * inputs[0].sign()
    inputs = [i.requires_grad_() for i in inputs]

    def f(x, b, n):
        return bias_act(x, b, noise=n, gain=1.3, clamp=clamp)

    u = (inputs[0] + inputs[1][:, None, None] + inputs[2]).detach()
    assert float(u.abs().min()) > 1e-5  # away from the kink
    assert torch.autograd.gradcheck(f, inputs, nondet_tol=0.0)
    assert torch.autograd.gradgradcheck(f, inputs, nondet_tol=0.0)
    shared = [inputs[0], inputs[1], random(1, 1, 4, 5, seed=2).requires_grad_()]
    assert torch.autograd.gradcheck(f, shared, nondet_tol=0.0)


def test_threads_levels_strides():
    x, b, n = (
        random(2, 5, 130, 90, dtype=torch.float32),
        random(5, seed=1).float(),
        random(2, 1, 130, 90).float(),
    )
    kernels.check_threads(lambda: bias_act(x, b, noise=n))
    kernels.check_levels(lambda: bias_act(x, b, noise=n, clamp=1.0))
    kernels.check_strides(
        lambda x, b, n: bias_act(x, b, noise=n), random(2, 3, 5, 6), random(3), random(2, 1, 5, 6)
    )


def test_operator_checks():
    x, b, n = random(2, 3, 4, 5), random(3, seed=1), random(2, 1, 4, 5, seed=2)
    leaves = [v.requires_grad_() for v in (x, b, n)]
    kernels.check_op(OPS.bias_act.default, (*leaves, 0.2, 1.4, 1.0))
    kernels.check_op(
        OPS.bias_act_gate.default,
        (random(2, 3, 4, 5, seed=4).requires_grad_(), x.detach(), None, None, 0.2, 1.4, -1.0),
    )


def test_compile():
    def f(x, b):
        return bias_act(x * 2, b, clamp=2.0).square().sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (6, 9):
        grads = []
        for call in (f, compiled):
            a, b = random(n, 3, n).requires_grad_(), random(3, seed=1).requires_grad_()
            grads.append(torch.autograd.grad(call(a, b), (a, b)))
        kernels.assert_same(*grads)


def test_half_precision_and_autocast():
    x, b = random(2, 3, 9, dtype=torch.float32), random(3, seed=1).float()
    for dtype in (torch.float16, torch.bfloat16):
        got = bias_act(x.to(dtype), b)
        assert got.dtype is dtype
        kernels.assert_same(got, bias_act(x.to(dtype).float(), b).to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(bias_act(x, b), reference(x, b), rtol=1e-6)


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_no_scratch():
    x = random(4, 30, 40, 50)
    assert kernels.scratch_bytes(lambda: bias_act(x)) == 0


X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bias_act(3), TypeError, "bias_act: x: got int"),
        (lambda: bias_act(X.int()), TypeError, "x: got torch.int32"),
        (lambda: bias_act(X[0, 0]), ValueError, r"x: got shape \(4,\)"),
        (lambda: bias_act(X, torch.zeros(4)), ValueError, r"bias: got shape \(4,\); expected \(3,\)"),
        (
            lambda: bias_act(X, noise=torch.zeros(2, 3, 4)),
            ValueError,
            "noise: got shape .* expected .B or 1, 1, 4",
        ),
        (lambda: bias_act(X, clamp=-1.0), ValueError, "clamp: got -1.0"),
        (lambda: bias_act(X, slope=NAN), ValueError, "slope: got nan"),
        (lambda: bias_act(X.to("meta"), torch.zeros(3)), ValueError, "bias: on cpu; expected meta"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    for args in [
        (X[0, 0], None, None),
        (X, torch.zeros(2), None),
        (X, None, torch.zeros(3, 1, 4)),
        (X.int(), None, None),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.bias_act(*args, 0.2, 1.0, -1.0)
    with pytest.raises(RuntimeError, match="expected"):
        OPS.bias_act_gate(X[:1], X, None, None, 0.2, 1.0, -1.0)
