"""ttf_targets: closed forms of the paper's construction, the vectorised form, the per-box reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import ttf_targets
from tenfold.testing import kernels

OPS = torch.ops.tenfold


def boxes_of(n: int, size=(96, 128), seed: int = 0, *, classes: int = 3):
    g = torch.Generator().manual_seed(seed)
    h, w = size
    corner = torch.rand(n, 2, generator=g) * torch.tensor([w, h]) * 0.9 - 6
    extent = torch.rand(n, 2, generator=g) ** 2 * torch.tensor([w, h]) * 0.7 + 1
    return torch.cat([corner, corner + extent], 1), torch.randint(classes, (n,), generator=g)


def vectorised(boxes, labels, size, classes, stride=4, alpha=0.54, beta=0.54):
    """The form with (M, H, W) tensors: one amax for the heat map, one owner per cell."""
    h, w = size[0] // stride, size[1] // stride
    boxes = boxes.double()
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = area.sort(descending=True, stable=True).indices
    boxes, labels, area = boxes[order], labels[order], area[order]
    cx = ((boxes[:, 0] + boxes[:, 2]) / 2 / stride).floor()
    cy = ((boxes[:, 1] + boxes[:, 3]) / 2 / stride).floor()
    limit = torch.tensor([w - 1, h - 1, w - 1, h - 1]).double()
    small = torch.minimum((boxes / stride).clamp(min=0), limit)
    bw, bh = small[:, 2] - small[:, 0], small[:, 3] - small[:, 1]

    def kernel(center, extent, n):
        r = (extent / 2).floor()[:, None]
        d = torch.arange(n).double() - center[:, None]
        return torch.where(d.abs() <= r, (-d * d / (2 * ((2 * r + 1) / 6) ** 2)).exp(), 0.0)

    heat = torch.zeros(classes, h, w).double()
    gx, gy = kernel(cx, alpha * bw, w), kernel(cy, alpha * bh, h)
    both = gy[:, :, None] * gx[:, None, :]
    for c in range(classes):
        mine = both[labels == c]
        if len(mine):
            heat[c] = mine.amax(0)
    gx, gy = kernel(cx, beta * bw, w), kernel(cy, beta * bh, h)
    both = gy[:, :, None] * gx[:, None, :]
    number = torch.arange(len(boxes))[:, None, None] + 1
    owner = torch.where(both > 0, number, 0).amax(0) - 1 if len(boxes) else torch.full((h, w), -1)
    used = owner >= 0
    pick = owner.clamp(min=0)
    weight, target = torch.zeros(h, w).double(), torch.zeros(4, h, w).double()
    if len(boxes):
        scale = area.log().clamp(min=0) / (gx.sum(1) * gy.sum(1)).clamp(min=1e-300)
        value = both.gather(0, pick[None])[0] * scale[pick]
        weight = torch.where(used, value, 0)
        target = torch.where(used, boxes[pick].permute(2, 0, 1), 0)
    return heat.float(), target.float(), weight.float()


# ---- checks that take the implementation


def check_one_box(targets):
    """Box (100, 60, 300, 160) in a 512 x 512 input: centre (50, 27), radii 13 and 6, 351 cells."""
    heat, target, weight = targets(torch.tensor([[100.0, 60, 300, 160]]), torch.tensor([0]), (512, 512), 1)
    assert heat[0, 27, 50] == 1
    assert int((heat == 1).sum()) == 1
    assert int((weight > 0).sum()) == int((heat > 0).sum()) == 27 * 13
    near = lambda value, expected: math.isclose(float(value), expected, rel_tol=2e-5)  # noqa: E731
    assert near(heat[0, 27, 63], 0.0154084)
    assert near(heat[0, 33, 63], 3.3307e-4)
    assert near(heat.double().sum(), 60.947919)
    assert near(weight.double().sum(), math.log(20000))
    assert near(weight[27, 50], 0.162491)
    assert target[:, 27, 50].tolist() == [100, 60, 300, 160]
    assert not target[:, weight == 0].any()


def check_small_over_large(targets):
    """The cells of an inner box learn it, in whatever order the boxes come."""
    boxes = torch.tensor([[100.0, 100, 140, 140], [20.0, 20, 220, 220]])
    for order in ([0, 1], [1, 0]):
        _, target, weight = targets(boxes[order], torch.tensor([0, 0]), (256, 256), 1)
        assert target[:, 30, 30].tolist() == [100, 100, 140, 140]
        assert target[:, 20, 30].tolist() == [20, 20, 220, 220]
        outer = float(weight.sum()) - math.log(1600)
        assert 0 < outer < math.log(40000)  # normalised before it was overwritten


def check_centre_is_not_rounded(targets):
    heat, _, _ = targets(torch.tensor([[0.0, 0.0, 14.0, 14.0]]), torch.tensor([0]), (64, 64), 1)
    assert heat[0, 1, 1] == 1


def check_classes_are_apart(targets):
    boxes = torch.tensor([[8.0, 8, 56, 56], [8.0, 8, 56, 56]])
    heat, _, _ = targets(boxes, torch.tensor([0, 2]), (64, 64), 3)
    assert heat.flatten(1).amax(1).tolist() == [1, 0, 1]


def check_one_pixel(targets):
    _, _, weight = targets(torch.tensor([[8.0, 8, 56, 48]]), torch.tensor([0]), (64, 64), 1, beta=0.01)
    assert int((weight > 0).sum()) == 1
    assert math.isclose(float(weight.sum()), math.log(48 * 40), rel_tol=1e-6)


CHECKS = [
    check_one_box,
    check_small_over_large,
    check_centre_is_not_rounded,
    check_classes_are_apart,
    check_one_pixel,
]


def reference(boxes, labels, size, classes, stride=4, alpha=0.54, beta=0.54):
    h, w = size[0] // stride, size[1] // stride
    maps = ref.ttf_targets(boxes[None], labels[None], classes, h, w, stride, alpha, beta, 0, 0, 0, False)
    return tuple(m[0] for m in maps)


def reordered(by):
    """Wrong: all boxes as large as each other, drawn in an order of their own."""

    def targets(boxes, labels, size, classes, **more):
        heat, _, _ = reference(boxes, labels, size, classes, **more)
        target, weight = torch.zeros(4, size[0] // 4, size[1] // 4), torch.zeros(size[0] // 4, size[1] // 4)
        for m in by(boxes):
            _, t, w = reference(boxes[m : m + 1], labels[m : m + 1], size, classes, **more)
            target, weight = torch.where(w > 0, t, target), torch.where(w > 0, w, weight)
        return heat, target, weight

    return targets


def areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


WRONG = {
    "large over small": reordered(lambda b: areas(b).argsort().tolist()),
    "input order": reordered(lambda b: range(len(b))),
    "rounded centre": lambda b, *rest, **more: reference(b + 2, *rest, **more),
    "one map for all classes": lambda b, labels, size, classes, **more: reference(
        b, labels * 0, size, classes, **more
    ),
    "normalised after overwriting": lambda *args, **more: (
        (r := reference(*args, **more))[0],
        r[1],
        r[2] * areas(args[0]).log().sum() / r[2].sum(),
    ),
    "sigma of the paper's text": lambda b, labels, size, classes, **more: reference(
        b, labels, size, classes, **{"alpha": 0.56, **more}
    ),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("targets", [ttf_targets, reference])
def test_definition(check, targets):
    check(targets)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


@pytest.mark.parametrize(("alpha", "beta"), [(0.54, 0.54), (0.54, 0.1), (0.2, 0.9)])
def test_equals_the_vectorised_form(alpha, beta):
    for n in (0, 1, 30, 100):
        boxes, labels = boxes_of(n, seed=n)
        got = ttf_targets(boxes, labels, (96, 128), 3, alpha=alpha, beta=beta)
        expected = vectorised(boxes, labels, (96, 128), 3, alpha=alpha, beta=beta)
        kernels.assert_same(got, expected, rtol=2e-6)
        kernels.assert_same(got[1], expected[1])


def test_options():
    boxes, labels = torch.tensor([[8.0, 16, 56, 48]]), torch.tensor([0])
    for area, importance in (("log", math.log(1536)), ("sqrt", 1536**0.5), ("linear", 1536.0), ("norm", 1.0)):
        for weight in ("gaussian", "flat"):
            total = ttf_targets(boxes, labels, (64, 64), 1, area=area, weight=weight)[2].double().sum()
            assert math.isclose(float(total), importance, rel_tol=1e-6)
    _, _, ones = ttf_targets(boxes, labels, (64, 64), 1, weight="none")
    assert set(ones.unique().tolist()) == {0.0, 1.0}
    heat, _, _ = ttf_targets(boxes, labels, (64, 64), 1, shape="circular")
    support = (heat[0] > 0).nonzero()
    assert (support.amax(0) - support.amin(0)).tolist() == [4, 4]  # radius floor(.54 * 8 / 2) both ways


def test_padding_and_useless_boxes_draw_nothing():
    boxes, labels = boxes_of(6)
    expected = ttf_targets(boxes, labels, (96, 128), 3)
    more = torch.cat([boxes, torch.tensor([[5.0, 5, 5, 90], [50.0, 5, 40, 90], [0.0, 0, 90, 90]])])
    got = ttf_targets(more, torch.cat([labels, torch.tensor([0, 1, -1])]), (96, 128), 3)
    kernels.assert_same(got, expected)
    tiny = ttf_targets(torch.tensor([[10.0, 10, 10.5, 10.5]]), torch.tensor([0]), (96, 128), 3)
    assert float(tiny[0].max()) == 1
    assert not tiny[2].any()  # ln(area) < 0 counts as 0


def test_batch_equals_its_images():
    parts = [boxes_of(9, seed=s) for s in range(4)]
    boxes, labels = (torch.stack(column) for column in zip(*parts, strict=True))
    labels[2, 4:] = -1
    got = ttf_targets(boxes, labels, (96, 128), 3)
    assert [t.shape for t in got] == [(4, 3, 24, 32), (4, 4, 24, 32), (4, 24, 32)]
    for i in range(4):
        kernels.assert_same([t[i] for t in got], ttf_targets(boxes[i], labels[i].int(), (96, 128), 3))
    assert ttf_targets(boxes[:0], labels[:0], (96, 128), 3)[0].shape == (0, 3, 24, 32)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    size = draw(st.sampled_from([(64, 96), (33, 70), (4, 4), (3, 50), (128, 40)]))
    boxes, labels = boxes_of(draw(st.integers(0, 20)), size, draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        boxes = (boxes / 8).round() * 8  # equal areas, cell borders
    if len(boxes) and draw(st.booleans()):
        for value in (float("nan"), float("inf"), -1e30, 1e30, 3e38, 0.0, 2**31):
            boxes.view(-1)[draw(st.integers(0, boxes.numel() - 1))] = value
        labels[draw(st.integers(0, len(labels) - 1))] = draw(st.sampled_from([-1, 3, -5, 2**40]))
    rest = (
        3,
        size[0] // 4,
        size[1] // 4,
        4,
        draw(st.sampled_from([0.0, 0.54, 1.5])),
        draw(st.sampled_from([0.01, 0.54])),
    )
    rest += (draw(st.integers(0, 3)), draw(st.integers(0, 2)), draw(st.integers(0, 1)), False)
    got = OPS.ttf_targets(boxes[None], labels[None], *rest)
    kernels.assert_same(got, ref.ttf_targets(boxes[None], labels[None], *rest), rtol=2e-6)


# ---- the contract of every op


def test_threads_levels_strides():
    parts = [boxes_of(60, seed=s) for s in range(5)]
    boxes, labels = (torch.stack(column) for column in zip(*parts, strict=True))
    call = lambda: ttf_targets(boxes, labels, (96, 128), 3)  # noqa: E731
    kernels.check_threads(call)
    kernels.check_levels(call, rtol=1e-6)
    kernels.check_strides(lambda b, y: ttf_targets(b, y, (96, 128), 3), boxes[:2, :9], labels[:2, :9])


def test_operator_checks():
    boxes, labels = boxes_of(5)
    args = (boxes[None], labels[None], 3, 24, 32, 4, 0.54, 0.54, 0, 0, 0, True)
    kernels.check_op(OPS.ttf_targets.default, args)


def test_compile():
    def f(boxes, labels):
        heat, target, weight = ttf_targets(boxes, labels, (96, 128), 3)
        return heat + 1, target * weight

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for n in (5, 8):
        kernels.assert_same(f(*boxes_of(n)), compiled(*boxes_of(n)))


def test_dtypes_autocast_and_gradient():
    boxes, labels = boxes_of(5)
    expected = ttf_targets(boxes, labels, (96, 128), 3)
    kernels.assert_same(ttf_targets(boxes.double(), labels, (96, 128), 3), expected)
    half = boxes.half()
    kernels.assert_same(
        ttf_targets(half, labels, (96, 128), 3), ttf_targets(half.float(), labels, (96, 128), 3)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        kernels.assert_same(ttf_targets(boxes.requires_grad_(), labels, (96, 128), 3), expected)
    assert not any(t.requires_grad for t in ttf_targets(boxes, labels, (96, 128), 3))


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_no_map_per_box():
    boxes, labels = boxes_of(300, (512, 512))
    taken = kernels.scratch_bytes(lambda: ttf_targets(boxes, labels, (512, 512), 3))
    assert taken <= 16 * 300 + 4 * 256 + 1024


B, L = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ttf_targets([1], L, (8, 8), 1), TypeError, "ttf_targets: boxes: got list"),
        (lambda: ttf_targets(B, L.float(), (8, 8), 1), TypeError, "labels: got torch.float32"),
        (
            lambda: ttf_targets(B[:, :3], L, (8, 8), 1),
            ValueError,
            r"boxes: got shape \(2, 3\); expected \(M, 4\)",
        ),
        (lambda: ttf_targets(B, L[:1], (8, 8), 1), ValueError, r"labels: got shape \(1,\)"),
        (lambda: ttf_targets(B, L, (8, -8), 1), ValueError, r"size: got \(8, -8\)"),
        (lambda: ttf_targets(B, L, (8, 8), 1, stride=0), ValueError, "stride: got 0"),
        (lambda: ttf_targets(B, L, (8, 8), 1, alpha=-1), ValueError, "alpha: got -1"),
        (
            lambda: ttf_targets(B, L, (8, 8), 1, area="log2"),
            ValueError,
            "area: got 'log2'; expected one of log",
        ),
        (lambda: ttf_targets(B, L, (8, 8), 1, weight="w"), ValueError, "weight: got 'w'"),
        (lambda: ttf_targets(B, L, (8, 8), 1, shape="s"), ValueError, "shape: got 's'"),
        (lambda: ttf_targets(B, L + 1, (8, 8), 1), ValueError, "labels: row 0 of image 0 is above 0"),
        (
            lambda: ttf_targets(B + math.nan, L, (8, 8), 1),
            ValueError,
            "boxes: row 0 of image 0 is not finite",
        ),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_op_misuse_raises():
    good = (B[None], L[None], 1, 8, 8, 4, 0.5, 0.5, 0, 0, 0, False)
    for i, value in ((0, B), (1, L), (2, -1), (3, 2**40), (5, 0), (6, -1.0), (8, 4), (9, 3), (10, 2)):
        args = [*good]
        args[i] = value
        with pytest.raises(RuntimeError, match="expected"):
            OPS.ttf_targets(*args)


def test_reference_switch():
    boxes, labels = boxes_of(5)
    with tenfold.reference():
        expected = ttf_targets(boxes, labels, (96, 128), 3)
    kernels.assert_same(ttf_targets(boxes, labels, (96, 128), 3), expected, rtol=1e-6)
