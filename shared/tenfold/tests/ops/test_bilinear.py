"""bilinear_sample: contract, grid_sample and closed forms as oracles, reference, gradients, wrong variants."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import bilinear_sample
from tenfold.testing import kernels

BORDERS = ("zero", "clamp", "parity")
CODE = {name: i for i, name in enumerate(BORDERS)}
OPS = torch.ops.tenfold
NAN, INF = float("nan"), float("inf")


def scene(b, c, h, w, n, seed=0, *, dtype=torch.float32, half_steps=False):
    g = torch.Generator().manual_seed(seed)
    feat = torch.randn(b, c, h, w, generator=g, dtype=torch.float64)
    uv = torch.rand(b, n, 2, generator=g, dtype=torch.float64) * (torch.tensor([w, h]) + 4) - 2.5
    return feat.to(dtype), ((uv * 2).round() / 2 if half_steps else uv).to(dtype)


def torch_sample(feat, uv, border):
    """grid_sample in pixel coordinates."""
    size = torch.tensor([feat.shape[3], feat.shape[2]], dtype=uv.dtype)
    grid = 2 * uv / (size - 1) - 1
    mode = {"zero": "zeros", "clamp": "border"}[border]
    out = F.grid_sample(feat, grid[:, :, None], mode="bilinear", padding_mode=mode, align_corners=True)
    return out[..., 0].transpose(1, 2)


def pvrcnn_sample(feat, uv):
    """The bird's-eye interpolation of PV-RCNN, written from its description: clamped corners in the weights."""
    b, c, h, w = feat.shape
    out = uv.new_zeros(b, uv.shape[1], c)
    for i in range(b):
        for j, (x, y) in enumerate(uv[i]):
            x0, y0 = int(x.floor()), int(y.floor())
            x1, y1 = x0 + 1, y0 + 1
            x0, x1 = (min(max(v, 0), w - 1) for v in (x0, x1))
            y0, y1 = (min(max(v, 0), h - 1) for v in (y0, y1))
            for yy, xx, wgt in (
                (y0, x0, (x1 - x) * (y1 - y)),
                (y1, x0, (x1 - x) * (y - y0)),
                (y0, x1, (x - x0) * (y1 - y)),
                (y1, x1, (x - x0) * (y - y0)),
            ):
                out[i, j] += feat[i, :, yy, xx] * wgt
    return out


# ---- checks that take the implementation


def check_ramp(sample):
    """S(v, u) = u + 1000 v is reproduced exactly inside, on pixel centres and at the last row and column."""
    feat = (torch.arange(7.0) + 1000 * torch.arange(5.0)[:, None])[None, None]
    uv = torch.tensor([[[0.0, 0.0], [6.0, 4.0], [2.5, 1.25], [6.0, 0.0], [0.25, 4.0]]])
    for border in ("zero", "clamp"):
        assert sample(feat, uv, border)[0, :, 0].tolist() == [0.0, 4006.0, 1252.5, 6.0, 4000.25]


def check_outside(sample):
    feat = torch.ones(1, 1, 3, 4)
    uv = torch.tensor([[[-0.25, 1.0], [3.5, 1.0], [1.0, -0.5], [9.0, 1.0], [-1.0, 1.0], [3.25, 2.5]]])
    assert sample(feat, uv, "zero")[0, :, 0].tolist() == [0.75, 0.5, 0.5, 0.0, 0.0, 0.375]
    assert sample(feat, uv, "clamp")[0, :, 0].tolist() == [1.0] * 6
    assert sample(feat, uv, "parity")[0, :, 0].tolist() == [0.0] * 6


def check_parity_edge(sample):
    """PV-RCNN's form: exactly on the last row or column, or beyond, the weights cancel."""
    feat = torch.arange(12.0).view(1, 1, 3, 4) + 1
    uv = torch.tensor([[[3.0, 1.0], [2.75, 1.0], [1.0, 2.0], [-0.5, 1.0], [0.0, 0.0]]])
    assert sample(feat, uv, "parity")[0, :, 0].tolist() == [0.0, 7.75, 0.0, 0.0, 1.0]


CHECKS = [check_ramp, check_outside, check_parity_edge]


def native(feat, uv, border):
    return bilinear_sample(feat, uv, border=border)


def reference(feat, uv, border):
    return ref.bilinear_sample(feat, uv, None, CODE[border], False)


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("sample", [native, reference])
def test_definition(check, sample):
    check(sample)
    check(lambda feat, uv, border: sample(feat.to(memory_format=torch.channels_last), uv, border))


WRONG = {
    "rows and columns swapped": lambda f, uv, b: native(f, uv.flip(-1), b),
    "half-pixel centres": lambda f, uv, b: native(f, uv - 0.5, b),
    "nearest": lambda f, uv, b: native(f, uv.round(), b),
    "parity is clamp": lambda f, uv, b: native(f, uv, "clamp" if b == "parity" else b),
    "zero is clamp": lambda f, uv, b: native(f, uv, "clamp" if b == "zero" else b),
    "truncation": lambda f, uv, b: native(f, torch.where(uv < 0, uv.trunc(), uv), b),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


@pytest.mark.parametrize("border", ["zero", "clamp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_grid_sample(border, dtype):
    for shape in ((2, 3, 9, 14, 60), (1, 33, 30, 20, 500), (1, 1, 2, 2, 9)):
        feat, uv = scene(*shape, dtype=dtype)
        tolerance = (
            2e-4 if dtype is torch.float32 else 1e-12
        )  # grid_sample scales the position there and back
        for layout in (torch.contiguous_format, torch.channels_last):
            got = bilinear_sample(feat.to(memory_format=layout), uv, border=border)
            torch.testing.assert_close(got, torch_sample(feat, uv, border), rtol=0, atol=tolerance)


@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_gradients_equal_those_of_grid_sample(border):
    feat, uv = scene(2, 5, 9, 14, 60, dtype=torch.float64)
    weight = torch.randn(2, 60, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grads = []
    for call in (lambda f, p: bilinear_sample(f, p, border=border), lambda f, p: torch_sample(f, p, border)):
        f, p = feat.clone().requires_grad_(), uv.clone().requires_grad_()
        grads.append(torch.autograd.grad((call(f, p) * weight).sum(), (f, p)))
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)


def test_equals_pvrcnn_form():
    feat, uv = scene(2, 3, 6, 8, 50, dtype=torch.float64)
    torch.testing.assert_close(
        bilinear_sample(feat, uv, border="parity"), pvrcnn_sample(feat, uv), rtol=0, atol=1e-12
    )


def test_gradient_of_the_map_sums_to_one_per_point_inside():
    feat = torch.zeros(1, 2, 6, 8, requires_grad=True)
    uv = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([7.0, 5.0])
    bilinear_sample(feat, uv).sum().backward()
    torch.testing.assert_close(feat.grad.sum((0, 2, 3)), torch.full((2,), 40.0))


def test_valid_rows_only():
    feat, uv = scene(2, 3, 9, 14, 30)
    valid = torch.rand(2, 30, generator=torch.Generator().manual_seed(0)) < 0.5
    expected = torch.where(valid[..., None], bilinear_sample(feat, uv), 0)
    uv[~valid] = NAN  # not read, not complained about
    kernels.assert_same(bilinear_sample(feat, uv, valid), expected)
    f, p = feat.clone().requires_grad_(), uv.clone().requires_grad_()
    bilinear_sample(f, p, valid).sum().backward()
    assert bool(f.grad.isfinite().all())
    assert not p.grad[~valid].any()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    shape = (draw(st.integers(0, 2)), draw(st.sampled_from([0, 1, 3, 16, 17, 40])))
    shape += (
        draw(st.sampled_from([0, 1, 2, 9])),
        draw(st.sampled_from([0, 1, 2, 13])),
        draw(st.integers(0, 40)),
    )
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    feat, uv = scene(*shape, draw(st.integers(0, 1000)), dtype=dtype, half_steps=draw(st.booleans()))
    if uv.numel() and draw(st.booleans()):
        for value in (NAN, INF, -INF, -0.0, 1e-40, 1e6, -3e38, 2**31, 16777217.0):
            uv.view(-1)[draw(st.integers(0, uv.numel() - 1))] = value
    valid = None
    if draw(st.booleans()):
        valid = torch.rand(shape[0], shape[4], generator=torch.Generator().manual_seed(1)) < 0.6
    if draw(st.booleans()):
        feat = feat.contiguous(memory_format=torch.channels_last)
    border = draw(st.integers(0, 2))
    expected = ref.bilinear_sample(feat, uv, valid, border, False)
    kernels.assert_same(OPS.bilinear_sample(feat, uv, valid, border, False), expected)
    grad = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    got = OPS.bilinear_sample_backward(grad, feat, uv, valid, border, True, True)
    kernels.assert_same(
        got,
        ref.bilinear_sample_backward(grad, feat, uv, valid, border, True, True),
        rtol=1e-5 if dtype is torch.float32 else 1e-12,
    )


# ---- the contract of every op


@pytest.mark.parametrize("border", BORDERS)
def test_threads_levels_strides(border):
    feat, uv = scene(2, 40, 30, 50, 5000)
    last = feat.contiguous(memory_format=torch.channels_last)
    grad = torch.randn(2, 5000, 40, generator=torch.Generator().manual_seed(1))
    for f in (feat, last):
        for call in (
            lambda f=f: bilinear_sample(f, uv, border=border),
            lambda f=f: OPS.bilinear_sample_backward(grad, f, uv, None, CODE[border], True, True),
        ):
            kernels.check_threads(call)
            kernels.check_levels(call)
    kernels.check_strides(lambda f, p: bilinear_sample(f, p, border=border), *scene(2, 3, 5, 6, 20))


def test_both_layouts_give_the_same_bits():
    feat, uv = scene(2, 40, 30, 50, 300)
    kernels.assert_same(
        bilinear_sample(feat, uv), bilinear_sample(feat.contiguous(memory_format=torch.channels_last), uv)
    )


def test_operator_checks():
    feat, uv = scene(2, 3, 5, 6, 10)
    valid = torch.ones(2, 10, dtype=torch.bool)
    kernels.check_op(OPS.bilinear_sample.default, (feat.requires_grad_(), uv, valid, 0, True))
    kernels.check_op(OPS.bilinear_sample.default, (feat.detach(), uv.requires_grad_(), None, 1, False))
    grad = torch.randn(2, 10, 3)
    for rest in ((valid, 2, True, False), (None, 0, False, True)):
        back = (grad, feat.detach(), uv.detach(), *rest)
        kernels.check_op(OPS.bilinear_sample_backward.default, back, traced=False)


def test_compile():
    def f(feat, uv):
        return sum(bilinear_sample(feat * 2, uv, border=b).square().sum() for b in BORDERS)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (12, 20):
        feat, uv = scene(1, 3, 6, 7, n)
        grads = []
        for call in (f, compiled):
            a, b = feat.clone().requires_grad_(), uv.clone().requires_grad_()
            grads.append(torch.autograd.grad(call(a, b), (a, b)))
        kernels.assert_same(*grads)


@pytest.mark.parametrize("border", BORDERS)
def test_gradcheck(border):
    feat, uv = scene(2, 3, 5, 6, 12, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = (feat.contiguous(memory_format=layout).requires_grad_(), uv.requires_grad_())
        assert torch.autograd.gradcheck(
            lambda f, p: bilinear_sample(f, p, border=border), inputs, nondet_tol=0.0
        )


def test_second_derivative_raises():
    feat, uv = scene(1, 2, 4, 5, 6)
    feat.requires_grad_()
    (grad,) = torch.autograd.grad(bilinear_sample(feat, uv).square().sum(), feat, create_graph=True)
    with pytest.raises(NotImplementedError, match="bilinear_sample: second derivatives"):
        torch.autograd.grad(grad.sum(), feat)


def test_half_precision_and_autocast():
    feat, uv = scene(1, 5, 8, 9, 20)
    for dtype in (torch.float16, torch.bfloat16):
        low = feat.to(dtype).requires_grad_()
        got = bilinear_sample(low, uv)
        assert got.dtype is dtype
        kernels.assert_same(got, bilinear_sample(low.float(), uv).to(dtype))
        got.sum().backward()
        assert low.grad.dtype is dtype
    expected = bilinear_sample(feat, uv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(bilinear_sample(feat, uv), expected)


def test_non_finite_positions():
    feat, uv = scene(2, 3, 5, 6, 10)
    uv[1, 4, 0] = INF
    with pytest.raises(ValueError, match="bilinear_sample: uv: row 4 of batch element 1 is not finite"):
        bilinear_sample(feat, uv)
    with tenfold.validation("meta"):
        assert not bilinear_sample(feat, uv, border="clamp")[1, 4].any()


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_no_scratch():
    feat, uv = scene(1, 64, 60, 70, 5000)
    assert kernels.scratch_bytes(lambda: bilinear_sample(feat, uv)) == 0


F4, P3 = torch.zeros(2, 3, 4, 5), torch.zeros(2, 7, 2)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bilinear_sample([1], P3), TypeError, "bilinear_sample: feat: got list"),
        (lambda: bilinear_sample(F4, P3.long()), TypeError, "bilinear_sample: uv: got torch.int64"),
        (lambda: bilinear_sample(F4[0], P3), ValueError, "bilinear_sample: feat: got shape"),
        (lambda: bilinear_sample(F4, P3[:1]), ValueError, r"uv: got shape \(1, 7, 2\); expected \(2, N, 2\)"),
        (
            lambda: bilinear_sample(F4, P3, P3[..., 0]),
            TypeError,
            "valid: got torch.float32; expected torch.bool",
        ),
        (lambda: bilinear_sample(F4, P3, torch.ones(2, 6, dtype=torch.bool)), ValueError, "valid: got shape"),
        (
            lambda: bilinear_sample(F4, P3, border="wrap"),
            ValueError,
            "border: got 'wrap'; expected one of zero",
        ),
        (lambda: bilinear_sample(F4, P3.to("meta")), ValueError, "uv: on meta"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    for args in [
        (F4[0], P3, None, 0, False),
        (F4, P3[..., :1], None, 0, False),
        (F4, P3.double(), None, 0, False),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.bilinear_sample(*args)
    with pytest.raises(RuntimeError, match="expected"):
        OPS.bilinear_sample_backward(torch.zeros(2, 7, 2), F4, P3, None, 0, True, True)
