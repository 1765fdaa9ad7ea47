"""nms: contract, oracle (torchvision, bit-equal), reference, and proof that wrong variants are caught."""

import itertools
import math
import time

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import nms
from tenfold.testing import kernels

INF = math.inf
NAN = math.nan
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1e-45, 1e-38, 1e-6, 1.0, 1e6, 3e38, -3e38]


def make_boxes(
    n: int,
    seed: int = 0,
    *,
    coarse: bool = False,
    dtype=torch.float32,
    extent: float = 100.0,
    largest: float = 30.0,
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g) * extent
    size = torch.rand(n, 2, generator=g) * largest
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    scores = torch.rand(n, generator=g)
    if coarse:  # many exact ties and touching boxes
        boxes, scores = (boxes / 8).round() * 8, (scores * 8).round() / 8
    return boxes.to(dtype), scores.to(dtype)


def clustered(n: int, clusters: int, seed: int = 0, extent: float = 1000.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    which = torch.randint(0, clusters, (n,), generator=g)
    centre = (torch.rand(clusters, 2, generator=g) * extent)[which] + torch.randn(n, 2, generator=g)
    size = (20 + 30 * torch.rand(clusters, 2, generator=g))[which] * (1 + 0.1 * torch.rand(n, 2, generator=g))
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), torch.rand(n, generator=g)


def log_uniform(
    n: int, seed: int = 0, *, octaves: float = 10.0, extent: float = 2000.0
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g) * extent
    size = torch.exp2(torch.rand(n, 2, generator=g) * octaves)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), torch.rand(n, generator=g)


def disjoint(n: int, side: float = 1.0, offset: float = 0.0) -> tuple[Tensor, Tensor]:
    """Equal squares on a lattice, touching but never overlapping; scores in no spatial order."""
    columns = math.ceil(math.sqrt(n))
    i = torch.arange(n)
    corner = torch.stack([i % columns, i // columns], dim=1) * side + offset
    scores = torch.rand(n, generator=torch.Generator().manual_seed(n))
    return torch.cat([corner, corner + side], dim=1).float(), scores


def greedy(boxes, scores, threshold, *, suppress=lambda q, t: q > t, divide=lambda a, b: a / b, stable=True):
    """A brute-force loop over NumPy scalars whose rules can be broken on purpose."""
    b, s = boxes.numpy(), scores.numpy()
    one = b.dtype.type
    order = np.argsort(-s, kind="stable") if stable else np.argsort(s, kind="stable")[::-1]
    keep: list[int] = []
    area = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    with np.errstate(all="ignore"):
        for i in order:
            k = np.array(keep, dtype=np.int64)
            w = np.maximum(one(0), np.minimum(b[k, 2], b[i, 2]) - np.maximum(b[k, 0], b[i, 0]))
            h = np.maximum(one(0), np.minimum(b[k, 3], b[i, 3]) - np.maximum(b[k, 1], b[i, 1]))
            inter = w * h
            iou = divide(inter, area[k] + area[i] - inter).astype(np.float64)
            if not suppress(iou, threshold).any():
                keep.append(int(i))
    return torch.tensor(keep, dtype=torch.int64)


# ---------------------------------------------------------------- checks that take the implementation


def check_ties(run) -> None:
    boxes, scores = make_boxes(120, coarse=True)
    for threshold in (0.0, 0.3, 0.5):
        kernels.assert_same(run(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def check_exact_thresholds(run) -> None:
    """Thresholds equal to quotients that occur, and their neighbours: only a true division decides right."""
    boxes = torch.randint(0, 12, (40, 2), generator=torch.Generator().manual_seed(3)).float()
    boxes = torch.cat(
        [boxes, boxes + torch.randint(1, 9, (40, 2), generator=torch.Generator().manual_seed(4))], 1
    )
    scores = torch.linspace(1, 0, 40)
    quotients = torchvision.ops.box_iou(boxes, boxes).flatten().unique()
    for q in quotients[(quotients > 0) & (quotients < 1)].tolist():
        for threshold in (q, float(np.nextafter(np.float32(q), np.float32(0))), math.nextafter(q, 0)):
            kernels.assert_same(run(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def check_zero_area(run) -> None:
    boxes = torch.tensor([[1.0, 1, 1, 5], [1, 1, 1, 5], [0, 0, 9, 9], [0, 0, 9, 9], [3, 3, 3, 3]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    kernels.assert_same(run(boxes, scores, 0.0), torch.tensor([0, 1, 2, 4]))


CHECKS = [check_ties, check_exact_thresholds, check_zero_area]


@pytest.mark.parametrize("check", CHECKS)
def test_checks(check):
    check(nms)
    check(greedy)


@pytest.mark.parametrize(
    ("check", "wrong"),
    [
        (check_ties, {"stable": False}),
        (check_ties, {"suppress": lambda q, t: q >= t}),
        (check_exact_thresholds, {"suppress": lambda q, t: q >= t}),
        (check_exact_thresholds, {"divide": lambda a, b: a * (np.float32(1) / b)}),
        (check_exact_thresholds, {"suppress": lambda q, t: q > np.float32(t)}),
        (check_zero_area, {"divide": lambda a, b: np.where(b > 0, a / b, np.float32(1))}),
    ],
)
def test_wrong_variants_are_caught(check, wrong):
    with pytest.raises(AssertionError):
        check(lambda *args: greedy(*args, **wrong))


# ---------------------------------------------------------------- oracles


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.05, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 300])
def test_equals_torchvision(n, coarse, threshold, dtype):
    boxes, scores = make_boxes(n, coarse=coarse, dtype=dtype)
    expected = torchvision.ops.nms(boxes, scores, threshold)
    kernels.assert_same(nms(boxes, scores, threshold), expected)


@pytest.mark.parametrize("threshold", [0.0, 0.001, 0.0499, 0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("n", [511, 512, 513, 767, 768, 769, 1025, 1500])
def test_list_and_grid_agree_at_the_switch(n, threshold):
    """All boxes are kept or nearly all, so the number of boxes is the length of the kept list."""
    for boxes, scores in (disjoint(n), make_boxes(n, n, extent=2000)):
        kernels.assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.05, 0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize("shape", ["uniform", "sizes over ten octaves", "dense", "coarse"])
def test_grid_equals_torchvision(shape, threshold, dtype):
    boxes, scores = {
        "uniform": lambda: make_boxes(4000, 1, extent=900),
        "sizes over ten octaves": lambda: log_uniform(4000),
        "dense": lambda: make_boxes(4000, 2, extent=300, largest=60),
        "coarse": lambda: make_boxes(4000, 3, coarse=True, extent=1000),
    }[shape]()
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    kernels.assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-60, 2.0**40, 2.0**60])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_extreme_scales_equal_torchvision(threshold, scale):
    boxes, scores = make_boxes(1500, 5, extent=400)
    boxes = boxes * scale
    kernels.assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_tiles_equal_torchvision(threshold):
    """Above some 26,000 boxes the plane is cut into tiles; many overlaps keep the oracle affordable."""
    boxes, scores = clustered(40000, 1500)
    kernels.assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def test_tiles_with_chains_across_borders():
    """Each box is suppressed by the one before: what one tile decides travels through many others."""
    steps = torch.arange(400.0)
    line = torch.stack([steps * 4, torch.zeros(400), steps * 4 + 10, torch.full((400,), 10.0)], dim=1)
    rows = torch.arange(100.0)[:, None] * 40
    boxes = (line[None] + torch.stack([rows * 0, rows, rows * 0, rows], dim=2)).reshape(-1, 4)
    boxes = torch.cat([boxes[::2], boxes[1::2][:, [1, 0, 3, 2]]])
    scores = torch.linspace(1, 0, len(boxes))
    for s in (
        scores,
        scores.flip(0),
        scores[torch.randperm(len(boxes), generator=torch.Generator().manual_seed(1))],
    ):
        whole = nms(boxes, s, 0.4, max_out=len(boxes) - 1)  # with an early stop the plane is not cut
        kernels.assert_same(nms(boxes, s, 0.4), whole)


# ---------------------------------------------------------------- adversarial shapes


@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.05, 0.5, 0.99, 1.0])
def test_equal_disjoint_boxes_all_stay(threshold):
    boxes, scores = disjoint(60000)
    kernels.assert_same(
        nms(boxes, scores, threshold), torch.sort(scores, descending=True, stable=True).indices
    )


def test_identical_boxes():
    boxes = torch.tensor([[1.0, 2, 5, 9]]).expand(60000, 4)
    scores = torch.rand(60000)
    kernels.assert_same(nms(boxes, scores, 0.99), scores.argmax()[None])
    kernels.assert_same(nms(boxes, scores, 1.0), torch.sort(scores, descending=True, stable=True).indices)


def test_two_piles_that_do_not_suppress_each_other():
    pile = torch.tensor([[0.0, 0, 10, 10], [4.0, 0, 14, 10]]).repeat_interleave(20000, dim=0)
    boxes = torch.cat([pile, disjoint(2000, side=10, offset=100)[0]])
    scores = torch.cat(
        [torch.linspace(1, 0.5, 20000), torch.linspace(1, 0.5, 20000), torch.linspace(2, 1.5, 2000)]
    )
    keep = nms(boxes, scores, 0.5)
    kernels.assert_same(keep, torch.cat([torch.arange(40000, 42000), torch.tensor([0, 20000])]))


@pytest.mark.parametrize("threshold", [0.0, 1e-9, 0.05, 0.5])
def test_giant_box_among_tiny_ones(threshold):
    boxes, _ = disjoint(5000)
    boxes = torch.cat([boxes, torch.tensor([[-1e6, -1e6, 1e6, 1e6]])])
    for giant in (-1.0, 0.5, 2.0):
        scores = torch.cat([torch.linspace(1, 0, 5000), torch.tensor([giant])])
        kernels.assert_same(nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_far_coordinates_and_outliers(threshold, dtype):
    boxes, scores = make_boxes(3000, 6, extent=600, dtype=dtype)
    far = boxes + 1e6
    kernels.assert_same(nms(far, scores, threshold), torchvision.ops.nms(far, scores, threshold))
    outliers = torch.cat(
        [boxes, torch.tensor([[1e6, 1e6, 1e6 + 9, 1e6 + 9], [-3e15, 0, -2e15, 1e15]], dtype=dtype)]
    )
    scores = torch.cat([scores, scores[:2]])
    kernels.assert_same(nms(outliers, scores, threshold), torchvision.ops.nms(outliers, scores, threshold))


def test_largest_finite_coordinates():
    """Areas beyond the largest number make every IoU 0, as the formula says."""
    boxes = torch.tensor([[-3e38, -3e38, 3e38, 3e38]] * 2 + [[0.0, 0, 1e30, 1e30]] * 2)
    for dtype in (torch.float32, torch.float64):
        scaled = boxes.to(dtype) * (1 if dtype is torch.float32 else 1e269)
        scores = torch.tensor([4.0, 3, 2, 1], dtype=dtype)
        kernels.assert_same(nms(scaled, scores, 0.0), torchvision.ops.nms(scaled, scores, 0.0))


def test_special_scores():
    boxes, _ = disjoint(6)
    scores = torch.tensor([0.0, -0.0, INF, -INF, 1e-45, -0.0])
    kernels.assert_same(nms(boxes, scores, 0.5), torch.tensor([2, 4, 0, 1, 5, 3]))
    kernels.assert_same(nms(boxes, scores, 0.5, score_threshold=0.0), torch.tensor([2, 4]))
    kernels.assert_same(nms(boxes, scores, 0.5, score_threshold=-INF), torch.tensor([2, 4, 0, 1, 5]))


def test_bad_rows_below_validation():
    boxes = torch.tensor(
        [[0.0, 0, 9, 9], [NAN, 0, 9, 9], [0, 0, INF, 9], [9, 9, 0, 0], [0, 0, 9, 9], [0, 0, 9, 9]]
    )
    scores = torch.tensor([0.5, 0.9, 0.9, 0.8, NAN, 0.4])
    with tenfold.validation("meta"):
        kernels.assert_same(nms(boxes, scores, 0.3), torch.tensor([3, 0]))


@pytest.mark.parametrize("threshold", [0.0, 0.04, 0.5])
def test_inverted_boxes_suppress_nothing(threshold):
    boxes, scores = make_boxes(1500, 7, extent=300)
    boxes[::3] = boxes[::3][:, [2, 1, 0, 3]]
    with tenfold.validation("meta"):
        kept = nms(boxes, scores, threshold)
    upright = torch.ones(1500, dtype=torch.bool)
    upright[::3] = False
    rows = upright.nonzero().flatten()
    expected = torch.cat(
        [rows[torchvision.ops.nms(boxes[rows], scores[rows], threshold)], torch.arange(0, 1500, 3)]
    )
    kernels.assert_same(kept.sort().values, expected.sort().values)


# ---------------------------------------------------------------- reference, fuzzed

number = st.sampled_from(SPECIAL) | st.floats(-1e6, 1e6, width=32) | st.integers(-4, 4).map(float)
ordinary = st.integers(-8, 8).map(float) | st.floats(-50, 50, width=32)


@st.composite
def problem(draw):
    n = draw(st.integers(0, 300))
    seed = draw(st.integers(0, 2**20))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    boxes, scores = make_boxes(
        n, seed, coarse=draw(st.booleans()), dtype=dtype, largest=draw(st.sampled_from([5.0, 30, 90]))
    )
    boxes = boxes * draw(st.sampled_from([1.0, 1e-6, 1e6]))
    if n and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 8))):
            boxes[draw(st.integers(0, n - 1)), draw(st.integers(0, 3))] = draw(number)
            scores[draw(st.integers(0, n - 1))] = draw(number)
    if n and draw(st.booleans()):  # duplicates
        copies = torch.randint(0, n, (n,), generator=torch.Generator().manual_seed(seed))
        boxes = boxes[copies]
    threshold = draw(st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.999, 1.0]) | st.floats(0, 1))
    score_threshold = draw(st.none() | st.sampled_from([0.0, 0.5, INF, -INF, NAN]))
    max_out = draw(st.none() | st.integers(0, 20))
    return boxes, scores, threshold, score_threshold, max_out


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problem())
def test_fuzz_against_reference(case):
    boxes, scores, threshold, score_threshold, max_out = case
    with tenfold.validation("meta"):
        actual = nms(boxes, scores, threshold, score_threshold=score_threshold, max_out=max_out)
    kernels.assert_same(actual, ref.nms(boxes, scores, threshold, score_threshold, max_out))


def test_shrinking_and_growing_sizes():
    for n in (3000, 10, 0, 900, 3, 5000, 600, 1, 30000, 40):
        boxes, scores = clustered(n, max(1, n // 5), seed=n)
        kernels.assert_same(nms(boxes, scores, 0.5), torchvision.ops.nms(boxes, scores, 0.5))


# ---------------------------------------------------------------- properties


def test_idempotent_and_explained():
    boxes, scores = make_boxes(2000, 8, extent=300)
    keep = nms(boxes, scores, 0.4)
    kernels.assert_same(nms(boxes[keep], scores[keep], 0.4), torch.arange(len(keep)))
    dropped = torch.ones(len(boxes), dtype=torch.bool)
    dropped[keep] = False
    iou = torchvision.ops.box_iou(boxes[dropped], boxes[keep])
    better = scores[keep][None] >= scores[dropped][:, None]
    assert bool(((iou > 0.4) & better).any(dim=1).all())


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_row_order_and_powers_of_two_do_not_matter(threshold):
    boxes, scores = make_boxes(30000, 9, extent=600)
    scores = torch.randperm(30000, generator=torch.Generator().manual_seed(2)).float()
    keep = nms(boxes, scores, threshold)
    shuffle = torch.randperm(30000, generator=torch.Generator().manual_seed(3))
    kernels.assert_same(shuffle[nms(boxes[shuffle], scores[shuffle], threshold)], keep)
    kernels.assert_same(nms(boxes * 2.0**20, scores, threshold), keep)


def test_max_out_and_score_threshold():
    boxes, scores = make_boxes(5000, 10, extent=900)
    keep = nms(boxes, scores, 0.5)
    for count in (0, 1, 600, len(keep), 10**9):
        kernels.assert_same(nms(boxes, scores, 0.5, max_out=count), keep[:count])
    kernels.assert_same(nms(boxes, scores, 0.5, score_threshold=0.25), keep[scores[keep] > 0.25])
    kernels.assert_same(nms(boxes, scores, 0.5, score_threshold=float(scores.max())), keep[:0])


def test_threads_levels_strides():
    for boxes, scores in (make_boxes(700, 11), clustered(30000, 9000, 12), log_uniform(3000, 13)):
        for threshold in (0.0, 0.45):
            kernels.check_threads(lambda: nms(boxes, scores, threshold))
            kernels.check_levels(lambda: nms(boxes, scores, threshold))
            kernels.check_levels(lambda: nms(boxes.double(), scores.double(), threshold))
    boxes, scores = make_boxes(300, 14)
    kernels.check_strides(lambda b, s: nms(b, s, 0.4), boxes, scores)
    one = boxes[:1].expand(50, 4)
    kernels.assert_same(nms(one, scores[:50], 0.4), scores[:50].argmax()[None])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_upcast(dtype):
    boxes, scores = make_boxes(400, 15, coarse=True)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    kernels.assert_same(nms(boxes, scores, 0.3), torchvision.ops.nms(boxes.float(), scores.float(), 0.3))
    kernels.assert_same(nms(boxes.float(), scores, 0.3), nms(boxes, scores, 0.3))
    kernels.assert_same(nms(boxes.double(), scores, 0.3), nms(boxes, scores, 0.3))


def test_scratch_is_bounded():
    for boxes, scores in (
        make_boxes(10000, 16, extent=2000),
        disjoint(25000),
        disjoint(80000),
        clustered(50000, 9),
    ):
        for threshold in (0.0, 0.5):
            taken = kernels.scratch_bytes(lambda b=boxes, s=scores, t=threshold: nms(b, s, t))
            assert taken <= 40 * len(boxes) + 65536


def process_seconds(call, rounds: int) -> float:
    best = INF
    for _ in range(rounds):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


def spread(n: int, *, extent: float) -> tuple[Tensor, Tensor]:
    boxes, scores = make_boxes(n, 17, extent=extent, largest=50)
    boxes[:, 2:] += 10
    return boxes, scores


@pytest.mark.parametrize(
    ("shape", "threshold"),
    [
        ("disjoint", 0.5),
        ("disjoint", 0.0),
        ("identical", 0.5),
        ("octaves", 0.5),
        ("octaves", 0.0),
        ("giant", 0.0),
    ],
)
def test_doubling_does_not_quadruple(shape, threshold):
    def case(n):
        if shape == "disjoint":
            return disjoint(n)
        if shape == "identical":
            return torch.ones(n, 4).cumsum(1)[:, [0, 0, 2, 2]], torch.rand(n)
        boxes, scores = log_uniform(n, octaves=8 if shape == "octaves" else 2, extent=20 * math.sqrt(n))
        if shape == "giant":
            boxes[0] = torch.tensor([-9.0, -9, 1e6, 1e6])
            scores[0] = -1
        return boxes, scores

    small, large = case(20000), case(40000)
    with kernels.threads(1):
        ratio = process_seconds(lambda: nms(*large, threshold), 5) / process_seconds(
            lambda: nms(*small, threshold), 5
        )
    assert ratio < 3.4


@pytest.mark.slow
@pytest.mark.parametrize(("density", "largest"), [("constant area", 120000), ("constant density", 300000)])
def test_growth_is_near_linear(density, largest):
    """At a constant area the number of kept neighbours grows too, so the bound holds over a smaller range."""
    sizes = [largest // 8, largest // 4, largest // 2, largest]
    seconds = []
    with kernels.threads(1):
        for n in sizes:
            extent = 1000 if density == "constant area" else 1000 * math.sqrt(n / 10000)
            boxes, scores = spread(n, extent=extent)
            seconds.append(process_seconds(lambda: nms(boxes, scores, 0.5), 9))
    exponent = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    assert exponent <= 1.15, (exponent, seconds)


# ---------------------------------------------------------------- torch integration


def test_opcheck():
    boxes, scores = make_boxes(20)
    op = torch.ops.tenfold.nms.default
    kernels.check_op(op, (boxes, scores, 0.5, None, None, True))
    kernels.check_op(op, (boxes.double(), scores.double(), 0.5, 0.1, 3, False), traced=False)
    kernels.check_op(op, (boxes[:0], scores[:0], 0.5, None, None, True), traced=False)


def test_compiles_without_graph_breaks():
    def top(boxes, scores):
        keep = nms(boxes, scores, 0.5, score_threshold=0.1)
        return boxes[keep] * 2, scores[keep]

    compiled = torch.compile(top, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (20, 33):
        boxes, scores = make_boxes(n)
        kernels.assert_same(compiled(boxes, scores), top(boxes, scores))


def test_no_gradient():
    boxes, scores = make_boxes(20)
    keep = nms(boxes.requires_grad_(), scores.requires_grad_(), 0.5)
    assert not keep.requires_grad
    assert keep.dtype == torch.int64


def test_meta_device():
    boxes, scores = make_boxes(20)
    with pytest.raises(ValueError, match="nms: scores: on cpu; expected the device of boxes, meta"):
        nms(boxes.to("meta"), scores, 0.5)


# ---------------------------------------------------------------- errors

GOOD = (torch.zeros(3, 4), torch.zeros(3), 0.5)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({0: [[0, 0, 1, 1]]}, TypeError, "nms: boxes: got list; expected a torch.Tensor"),
        ({1: None}, TypeError, "nms: scores: got NoneType; expected a torch.Tensor"),
        (
            {0: torch.zeros(3, 4, dtype=torch.int64)},
            TypeError,
            "nms: boxes: got torch.int64; expected float32",
        ),
        ({1: torch.zeros(3, dtype=torch.bool)}, TypeError, "nms: scores: got torch.bool; expected float32"),
        (
            {0: torch.zeros(3, 5)},
            ValueError,
            r"nms: boxes: got shape \(3, 5\); expected \(N, 4\); .*nms_rotated",
        ),
        ({0: torch.zeros(4)}, ValueError, r"nms: boxes: got shape \(4,\); expected \(N, 4\)"),
        ({0: torch.zeros(1, 3, 4)}, ValueError, "nms: boxes: got shape"),
        ({1: torch.zeros(2)}, ValueError, r"nms: scores: got shape \(2,\); expected \(3,\)"),
        ({1: torch.zeros(3, 1)}, ValueError, "nms: scores: got shape"),
        ({2: 1.5}, ValueError, r"nms: iou_threshold: got 1.5; expected a value in \[0, 1\]"),
        ({2: -0.1}, ValueError, "nms: iou_threshold: got -0.1"),
        ({2: NAN}, ValueError, "nms: iou_threshold: got nan"),
        ({2: "half"}, TypeError, "nms: iou_threshold: got str; expected a number"),
        ({"max_out": -1}, ValueError, "nms: max_out: got -1; expected a count >= 0"),
        ({"max_out": 2.0}, TypeError, "nms: max_out: got float; expected an int"),
        ({"score_threshold": "low"}, TypeError, "nms: score_threshold: got str; expected a number"),
    ],
)
def test_wrong_arguments(change, error, text):
    args = [change.get(i, value) for i, value in enumerate(GOOD)]
    options = {name: value for name, value in change.items() if isinstance(name, str)}
    with pytest.raises(error, match=text):
        nms(*args, **options)


@pytest.mark.parametrize("run", [nms, lambda b, s, t: ref.nms(b, s, t, validate=True)])
@pytest.mark.parametrize(
    ("row", "score", "text"),
    [
        ([0, 0, NAN, 1], 0.0, "nms: boxes: row 2 is not finite; expected finite coordinates"),
        ([0, -INF, 1, 1], 0.0, "nms: boxes: row 2 is not finite"),
        ([1, 0, 0, 1], 0.0, "nms: boxes: row 2 is inverted; expected x1 <= x2 and y1 <= y2"),
        ([0, 0, 1, 1], NAN, "nms: scores: row 2 is NaN; expected numbers"),
    ],
)
def test_content_is_validated(run, row, score, text):
    boxes, scores = disjoint(9)
    boxes[2], scores[2] = torch.tensor(row), score
    boxes[5] = NAN  # the first bad row is named
    with pytest.raises(ValueError, match=text):
        run(boxes, scores, 0.5)


def test_raw_op_misuse_does_not_crash():
    op = torch.ops.tenfold.nms.default
    tensors = [
        *(torch.zeros(shape) for shape in [(3, 4), (3,), (0,), (), (3, 5), (2, 4)]),
        torch.zeros(3, 4, dtype=torch.int32),
        torch.zeros(3, dtype=torch.float64),
        torch.zeros(3, 4, dtype=torch.half),
    ]
    for boxes, scores in itertools.product(tensors, tensors):
        if boxes.shape == (3, 4) and scores.shape == (3,) and boxes.dtype == scores.dtype:
            continue
        with pytest.raises(RuntimeError):
            op(boxes, scores, 0.5, None, None, True)
    for threshold in (NAN, -1.0, 2.0):
        with pytest.raises(RuntimeError):
            op(torch.zeros(3, 4), torch.zeros(3), threshold, None, None, True)
    assert len(op(torch.zeros(3, 4), torch.zeros(3), 0.5, NAN, -5, False)) == 0


def test_an_inverted_box_without_a_score_is_dropped():
    boxes = torch.tensor([[2.0, 0.0, 1.0, 1.0], [2.0, 0.0, 1.0, 1.0], [5.0, 5.0, 6.0, 6.0]])
    scores = torch.tensor([float("nan"), 0.5, 0.9])
    with tenfold.validation("meta"):
        assert nms(boxes, scores, 0.5).tolist() == [2, 1]
        assert tenfold.ops.batched_nms(boxes, scores, torch.zeros(3, dtype=torch.int64), 0.5).tolist() == [
            2,
            1,
        ]
