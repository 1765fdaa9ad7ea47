"""rotated_iou: values of box_iou, finite differences, autograd of the reference, invariants, wrong variants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import _native, ref
from tenfold.ops import box_iou_3d, box_iou_bev, rotated_iou
from tenfold.testing import kernels

KINDS = ("iou", "giou", "diou")
CODE = {name: i for i, name in enumerate(KINDS)}
OPS = torch.ops.tenfold
BEV = [0, 1, 3, 4, 6]


def pairs(n: int, seed: int = 0, *, columns: int = 7, spread: float = 1.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    place = torch.randn(n, 3, generator=g, dtype=torch.float64) * spread
    size = torch.rand(n, 3, generator=g, dtype=torch.float64) * 3 + 0.5
    pred = torch.cat([place, size, torch.randn(n, 1, generator=g, dtype=torch.float64) * 3], 1)
    noise = torch.randn(n, 7, generator=g, dtype=torch.float64) * 0.4
    target = pred + noise
    target[:, 3:6] = target[:, 3:6].abs() + 0.2
    if columns == 5:
        pred, target = pred[:, BEV], target[:, BEV]
    return pred.to(dtype), target.to(dtype)


def gradients(call, pred: Tensor, target: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    p, t = pred.clone().requires_grad_(), target.clone().requires_grad_()
    return torch.autograd.grad(call(p, t, kind).sum(), (p, t))


def differences(pred: Tensor, target: Tensor, kind: str, step: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Central differences of the values."""
    out = []
    for which in range(2):
        result = torch.zeros_like(pred)
        for column in range(pred.shape[1]):
            ends = []
            for sign in (1, -1):
                boxes = [pred.clone(), target.clone()]
                boxes[which][:, column] += sign * step
                ends.append(rotated_iou(*boxes, kind))
            result[:, column] = (ends[0] - ends[1]) / (2 * step)
        out.append(result)
    return out[0], out[1]


# ---- checks that take the implementation


def check_squares(call):
    """Squares of side 2, shifted by 1 along x: intersection 2, union 6."""
    pred, target = torch.tensor([[0.0, 0, 2, 2, 0]]).double(), torch.tensor([[1.0, 0, 2, 2, 0]]).double()
    gp, gt = gradients(call, pred, target, "iou")
    # d inter / dx = 2, d union / dx = -2: (2 * 6 + 2 * 2) / 36
    expected = torch.tensor(
        [4 / 9, 0.0, 1 / 36 * (1 * 6 - (2 - 1) * 2), 1 / 36 * (0.5 * 6 - (2 - 0.5) * 2), 0.0]
    )
    torch.testing.assert_close(gp[0], expected.double())
    torch.testing.assert_close(gt[0, 0], torch.tensor(-4 / 9).double())


def check_finite_differences(call):
    for columns in (5, 7):
        for kind in KINDS:
            pred, target = pairs(200, columns=columns)
            got, expected = gradients(call, pred, target, kind), differences(pred, target, kind)
            for g, e in zip(got, expected, strict=True):
                close = (g - e).abs() < 2e-6
                assert float(close.double().mean()) > 0.995  # a difference may step over a corner


def check_identical(call):
    """Identical boxes: finite, and the mean of both one-sided derivatives, which is zero along x, y and yaw."""
    boxes = pairs(50)[0]
    for columns in (5, 7):
        b = boxes if columns == 7 else boxes[:, BEV]
        for kind in KINDS:
            gp, gt = gradients(call, b, b.clone(), kind)
            assert bool(gp.isfinite().all())
            still = [0, 1, 4] if columns == 5 else [0, 1, 2, 6]
            torch.testing.assert_close(gp[:, still], torch.zeros_like(gp[:, still]), rtol=0, atol=1e-9)
            torch.testing.assert_close(gp, gt, rtol=0, atol=1e-9)


def check_disjoint(call):
    pred = torch.tensor([[0.0, 0, 0, 2, 1, 1, 0.3]]).double()
    target = torch.tensor([[9.0, 1, 0, 2, 1, 1, 0.9]]).double()
    assert not gradients(call, pred, target, "iou")[0].any()
    for kind in ("giou", "diou"):
        gp, _ = gradients(call, pred, target, kind)
        assert float(gp[0, 0]) > 1e-3  # towards the target
    above = pred + torch.tensor([0.0, 0, 5, 0, 0, 0, 0]).double()
    assert not gradients(call, pred, above, "iou")[0].any()


def by_reference(pred, target, kind):
    with tenfold.reference():
        return rotated_iou(pred, target, kind)


CHECKS = [check_squares, check_finite_differences, check_identical, check_disjoint]


class _Through(torch.autograd.Function):
    """The values with somebody else's gradients."""

    @staticmethod
    def forward(ctx, pred, target, kind, backward):
        ctx.save_for_backward(pred, target)
        ctx.kind, ctx.formula = kind, backward
        return rotated_iou(pred.detach(), target.detach(), kind)

    @staticmethod
    def backward(ctx, grad):
        return (*ctx.formula(grad, *ctx.saved_tensors, CODE[ctx.kind]), None, None)


def through(backward):
    return lambda p, t, kind: _Through.apply(p, t, kind, backward)


def altered(change):
    def backward(grad, pred, target, kind):
        return tuple(change(g.clone()) for g in ref.rotated_iou_backward(grad, pred, target, kind))

    return through(backward)


def turned(g):
    g[:, -1] = -g[:, -1]
    return g


def swapped(g):
    g[:, [0, 1]] = g[:, [1, 0]]
    return g


def sized(g):
    g[:, -3] = 2 * g[:, -3]
    return g


WRONG = {
    "yaw clockwise": altered(turned),
    "x and y swapped": altered(swapped),
    "half sizes": altered(sized),
    "only pred": through(lambda g, p, t, k: (ref.rotated_iou_backward(g, p, t, k)[0], torch.zeros_like(t))),
    "coincident sides count in full": through(
        lambda g, p, t, k: tuple(
            x + (p == t).all(1, keepdim=True) * 0.1 for x in ref.rotated_iou_backward(g, p, t, k)
        )
    ),
    "no pull when disjoint": through(
        lambda g, p, t, k: tuple(
            x * (rotated_iou(p, t, "iou") > 0)[:, None] for x in ref.rotated_iou_backward(g, p, t, k)
        )
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_definition(check):
    check(rotated_iou)
    check(through(ref.rotated_iou_backward))
    check(by_reference)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


# ---- values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_those_of_box_iou(dtype):
    pred, target = pairs(500, dtype=dtype)
    for kind in ("iou", "giou"):
        kernels.assert_same(rotated_iou(pred, target, kind), box_iou_3d(pred, target, paired=True, mode=kind))
        flat = pred[:, BEV], target[:, BEV]
        kernels.assert_same(rotated_iou(*flat, kind), box_iou_bev(*flat, paired=True, mode=kind))
    kernels.assert_same(rotated_iou(pred, pred), torch.ones(500, dtype=dtype))


def test_diou_of_unrotated_boxes():
    """Zheng et al.: IoU minus squared centre distance over the squared diagonal of the enclosing box."""
    pred = torch.tensor([[0.0, 0.0, 2.0, 2.0, 0.0], [0.0, 0.0, 2.0, 2.0, math.pi / 2]]).double()
    target = torch.tensor([[1.0, 1.0, 2.0, 2.0, 0.0]]).double().expand(2, 5)
    expected = 1 / 7 - 2 / 18
    torch.testing.assert_close(rotated_iou(pred, target, "diou"), torch.full((2,), expected).double())
    solid = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]]).double()
    shifted = torch.tensor([[1.0, 1, 1, 2, 2, 2, 0]]).double()
    torch.testing.assert_close(rotated_iou(solid, shifted, "diou"), torch.tensor([1 / 15 - 3 / 27]).double())
    assert rotated_iou(solid, solid, "diou").tolist() == [1.0]


# ---- gradients


@pytest.mark.parametrize("columns", [5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, columns):
    pred, target = pairs(40, 3, columns=columns)
    call = lambda p, t: rotated_iou(p, t, kind)  # noqa: E731
    assert torch.autograd.gradcheck(call, (pred.requires_grad_(), target.requires_grad_()), nondet_tol=0.0)


def test_gradient_equals_autograd_of_clipped_polygons():
    """The reference's polygon clipping is differentiable where nothing coincides."""
    pred, target = pairs(300, columns=5)
    pred.requires_grad_()
    target.requires_grad_()
    inter = ref._iou.intersection(pred, target)
    union = pred[:, 2] * pred[:, 3] + target[:, 2] * target[:, 3] - inter
    expected = torch.autograd.grad((inter / union).sum(), (pred, target))
    got = torch.autograd.grad(rotated_iou(pred, target).sum(), (pred, target))
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("columns", [5, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_moving_both_boxes_together_changes_nothing(kind, columns):
    pred, target = pairs(200, columns=columns)
    gp, gt = gradients(rotated_iou, pred, target, kind)
    for column in range(2 if columns == 5 else 3):
        torch.testing.assert_close(gp[:, column], -gt[:, column], rtol=0, atol=1e-9)
    if kind == "diou":
        return  # its enclosing box is aligned with the axes
    turn = sum(b[:, 0] * g[:, 1] - b[:, 1] * g[:, 0] + g[:, -1] for b, g in ((pred, gp), (target, gt)))
    torch.testing.assert_close(turn, torch.zeros_like(turn), rtol=0, atol=1e-8)
    if kind == "iou":  # and scaling both changes nothing
        size = slice(2, 4) if columns == 5 else slice(3, 6)
        where = 2 if columns == 5 else 3
        scale = sum(
            (b[:, :where] * g[:, :where]).sum(1) + (b[:, size] * g[:, size]).sum(1)
            for b, g in ((pred, gp), (target, gt))
        )
        torch.testing.assert_close(scale, torch.zeros_like(scale), rtol=0, atol=1e-8)


def test_losses_go_down():
    """Gradient ascent on GIoU brings disjoint boxes together."""
    pred, target = pairs(20, spread=2.0)
    pred = (pred + torch.tensor([3.0, -2.0, 1.0, 0, 0, 0, 0.4]).double()).requires_grad_()
    begin = rotated_iou(pred, target, "giou").detach().mean()
    optimiser = torch.optim.Adam([pred], lr=0.05)
    for _ in range(300):
        optimiser.zero_grad()
        (1 - rotated_iou(pred, target, "giou")).mean().backward()
        optimiser.step()
    assert float(begin) < 0
    assert float(rotated_iou(pred, target).detach().mean()) > 0.6


def test_special_pairs_are_finite():
    base = [0.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0]
    others = [
        [2.0, 0, 0, 2, 1, 1, 0],  # touching sides
        [2.0, 1, 0, 2, 1, 1, 0],  # touching corners
        [0.0, 0, 1, 2, 1, 1, 0],  # touching in z
        [0.0, 0, 0, 1, 2, 1, math.pi / 2],  # the same box with its sizes swapped
        [0.0, 0, 0, 2, 1, 1, math.pi],
        [0.0, 0, 0, 1, 0.5, 0.5, 0],  # inside
        [0.5, 0, 0, 1, 1, 1, 0],  # inside, three common sides
        [0.0, 0, 0, 1e-4, 1e3, 1, 1e-7],
        [0.0, 0, 0, 0, 1, 1, 0],  # nothing
        [0.0, 0, 0, 2, -1, 1, 0],
    ]
    pred, target = (torch.tensor(b, dtype=torch.float64) for b in ([base] * len(others), others))
    for kind in KINDS:
        gp, gt = gradients(rotated_iou, pred, target, kind)
        assert bool(gp.isfinite().all() & gt.isfinite().all())
        assert not gp[-2:].any()
        assert not gt[-2:].any()
        expected = ref.rotated_iou_backward(torch.ones(len(others)).double(), pred, target, CODE[kind])
        kernels.assert_same((gp, gt), expected, rtol=1e-9)
    swapped = gradients(rotated_iou, pred[3:4], target[3:4], "iou")[0]
    torch.testing.assert_close(swapped[:, [0, 1, 2, 6]], torch.zeros(1, 4).double(), rtol=0, atol=1e-9)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    columns, dtype = draw(st.sampled_from([5, 7])), draw(st.sampled_from([torch.float32, torch.float64]))
    n, kind = draw(st.integers(0, 30)), draw(st.integers(0, 2))
    pred, target = pairs(n, draw(st.integers(0, 1000)), columns=columns)
    if draw(st.booleans()):
        pred, target = pred.round(), target.round()  # common sides, touching boxes, zero sizes
        pred[:, -1], target[:, -1] = (b[:, -1].round() * (math.pi / 2) for b in (pred, target))
        dtype = (
            torch.float64
        )  # in float32 a quarter turn is none: neither common sides nor touching are exact
    scale = draw(st.sampled_from([1e-3, 1.0, 1e3]))
    pred[:, :-1] *= scale
    target[:, :-1] *= scale
    if n and draw(st.booleans()):
        for value in (float("nan"), float("inf"), 0.0, -1.0, 1e30, 1e-30):
            box = pred if draw(st.booleans()) else target
            box[draw(st.integers(0, n - 1)), draw(st.integers(0, columns - 2))] = value
    pred, target = pred.to(dtype), target.to(dtype)
    grad = torch.ones(n, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-7
    value = OPS.rotated_iou(pred, target, kind, False)
    assert bool(value.isfinite().all())
    kernels.assert_same(value, ref.rotated_iou(pred, target, kind), rtol=tolerance)
    got = OPS.rotated_iou_backward(grad, pred, target, kind)
    expected = ref.rotated_iou_backward(grad, pred, target, kind)
    for g, e in zip(got, expected, strict=True):
        # Extreme sizes are ill-conditioned: compare what is of ordinary size, relative to the largest of the row.
        usual = (e.abs().amax(1) < 1e3 / scale + 1e3) & e.isfinite().all(1)
        torch.testing.assert_close(g[usual], e[usual], rtol=1e-4, atol=1e-4 / min(scale, 1.0))


# ---- the contract of every op


@pytest.mark.parametrize("columns", [5, 7])
def test_threads_levels_strides(columns):
    pred, target = pairs(3000, columns=columns, dtype=torch.float32)
    grad = torch.rand(3000, generator=torch.Generator().manual_seed(1))
    for kind in range(3):
        for call in (
            lambda k=kind: OPS.rotated_iou(pred, target, k, False),
            lambda k=kind: OPS.rotated_iou_backward(grad, pred, target, k),
        ):
            kernels.check_threads(call)
            kernels.check_levels(call)
        kernels.check_strides(lambda p, t, k=KINDS[kind]: rotated_iou(p, t, k), pred[:40], target[:40])


def test_operator_checks():
    for columns, kind in ((5, "giou"), (7, "diou")):
        pred, target = pairs(9, columns=columns, dtype=torch.float32)
        kernels.check_op(OPS.rotated_iou.default, (pred.requires_grad_(), target, CODE[kind], True))
        args = (torch.ones(9), pred.detach(), target, CODE[kind])
        kernels.check_op(OPS.rotated_iou_backward.default, args, traced=False)


def test_compile():
    def f(pred, target):
        return sum((1 - rotated_iou(pred * 1.5, target, kind)).sum() for kind in KINDS)

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (8, 13):
        boxes = pairs(n, dtype=torch.float32)
        grads = []
        for call in (f, compiled):
            p, t = (b.clone().requires_grad_() for b in boxes)
            grads.append(torch.autograd.grad(call(p, t), (p, t)))
        kernels.assert_same(*grads)


def test_second_derivative_raises():
    pred, target = pairs(5)
    pred.requires_grad_()
    (grad,) = torch.autograd.grad(rotated_iou(pred, target).square().sum(), pred, create_graph=True)
    with pytest.raises(NotImplementedError, match="rotated_iou: second derivatives"):
        torch.autograd.grad(grad.sum(), pred)


def test_half_precision_and_autocast():
    pred, target = pairs(30, dtype=torch.float16)
    pred.requires_grad_()
    value = rotated_iou(pred, target)
    assert value.dtype is torch.float32
    kernels.assert_same(value, rotated_iou(pred.float(), target.float()))
    value.sum().backward()
    assert pred.grad.dtype is torch.float16
    wide = pairs(30, dtype=torch.float32)
    expected = rotated_iou(*wide, "giou")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(rotated_iou(*wide, "giou"), expected)


def test_empty_and_non_finite():
    none = torch.zeros(0, 7, requires_grad=True)
    rotated_iou(none, torch.zeros(0, 7), "giou").sum().backward()
    assert none.grad.shape == (0, 7)
    pred, target = pairs(6)
    target[2, 1] = float("nan")
    for kind in KINDS:
        with pytest.raises(ValueError, match="rotated_iou: target: row 2 is not finite"):
            rotated_iou(pred, target, kind)
        with tenfold.validation("meta"):
            gp, gt = gradients(rotated_iou, pred, target, kind)
            assert rotated_iou(pred, target, kind)[2] == 0
        assert not gp[2].any()
        assert bool(gt.isfinite().all())


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_does_not_grow():
    peaks = []
    for n in (1000, 8000):
        pred, target = (b.float().requires_grad_() for b in pairs(n))
        peaks.append(
            kernels.scratch_bytes(lambda p=pred, t=target: rotated_iou(p, t, "giou").sum().backward())
        )
    assert peaks[0] == peaks[1]


B7 = torch.ones(4, 7)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: rotated_iou([1], B7), TypeError, "rotated_iou: pred: got list"),
        (lambda: rotated_iou(B7, B7.long()), TypeError, "rotated_iou: target: got torch.int64"),
        (
            lambda: rotated_iou(B7[:, :6], B7),
            ValueError,
            r"pred: got shape \(4, 6\); expected \(N, 5\) or \(N, 7\)",
        ),
        (
            lambda: rotated_iou(B7, B7[:3]),
            ValueError,
            r"target: got shape \(3, 7\); expected that of pred, \(4, 7\)",
        ),
        (lambda: rotated_iou(B7, B7[:, :5]), ValueError, "target: got shape"),
        (
            lambda: rotated_iou(B7, B7, "ciou"),
            ValueError,
            "kind: got 'ciou'; expected one of iou, giou, diou",
        ),
        (lambda: rotated_iou(B7, B7.to("meta")), ValueError, "target: on meta"),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    for args in [
        (B7[0], B7, 0),
        (B7, B7[:2], 0),
        (B7, B7, 3),
        (B7, B7.double(), 0),
        (B7.half(), B7.half(), 0),
    ]:
        with pytest.raises(RuntimeError, match="expected"):
            OPS.rotated_iou(*args, False)
    with pytest.raises(RuntimeError, match="expected"):
        OPS.rotated_iou_backward(torch.ones(3), B7, B7, 0)
