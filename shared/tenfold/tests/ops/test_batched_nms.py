"""batched_nms: exact per (batch, label), ordered over all groups; oracle: torchvision's nms on each group."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import batched_nms, nms
from tenfold.testing import kernels

LOW, HIGH = -(2**63), 2**63 - 1


def make_case(n: int, groups: int, seed: int = 0, *, extent: float = 100.0, ties: bool = False):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 2, generator=g) * extent
    size = torch.rand(n, 2, generator=g) * 30
    scores = torch.rand(n, generator=g)
    if ties:
        scores = (scores * 8).round() / 8
    labels = torch.randint(0, max(groups, 1), (n,), generator=g)
    return torch.cat([centre - size / 2, centre + size / 2], dim=1), scores, labels


def per_group(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, batch: Tensor | None = None
) -> Tensor:
    """torchvision's nms on every group, merged by score descending and row ascending."""
    columns = labels[:, None] if batch is None else torch.stack([labels, batch], dim=1)
    rows = []
    for group in columns.unique(dim=0):
        member = (columns == group).all(dim=1).nonzero().flatten()
        rows.append(member[torchvision.ops.nms(boxes[member], scores[member], threshold)])
    keep = torch.cat(rows).sort().values if rows else torch.zeros(0, dtype=torch.int64)
    return keep[torch.sort(scores[keep], descending=True, stable=True).indices]


def check_groups(run) -> None:
    """Many ties, far groups, labels whose difference overflows: what an offset per label would get wrong."""
    boxes, scores, labels = make_case(600, 7, ties=True)
    boxes = boxes + 2.0**20
    for wide in (
        labels,
        labels * 2**33,
        labels * (2**62 // 3) - 2**62,
        torch.where(labels > 3, LOW, HIGH) + 0 * labels,
    ):
        kernels.assert_same(run(boxes, scores, wide, 0.4), per_group(boxes, scores, wide, 0.4))


def by_offset(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return torchvision.ops.boxes._batched_nms_coordinate_trick(boxes, scores, labels, threshold)


def by_truncated_label(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    return per_group(boxes, scores, labels.to(torch.int32).long(), threshold)


def without_stable_order(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    keep = per_group(boxes, scores, labels, threshold).sort(descending=True).values
    return keep[torch.sort(scores[keep], descending=True, stable=True).indices]


def test_groups():
    check_groups(batched_nms)


@pytest.mark.parametrize("wrong", [by_offset, by_truncated_label, without_stable_order])
def test_wrong_variants_are_caught(wrong):
    with pytest.raises(AssertionError):
        check_groups(wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("n", "groups"), [(0, 3), (1, 1), (300, 300), (2000, 1), (5000, 80), (9000, 4)])
def test_equals_the_loop_over_groups(n, groups, threshold, dtype):
    boxes, scores, labels = make_case(n, groups, seed=n, extent=400, ties=n == 5000)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    kernels.assert_same(
        batched_nms(boxes, scores, labels, threshold), per_group(boxes, scores, labels, threshold)
    )


@pytest.mark.parametrize("span", [3, 2**20, 2**40, 2**63])
def test_batch_and_label(span):
    boxes, scores, labels = make_case(800, 5, ties=True)
    batch = torch.randint(0, 4, (800,), generator=torch.Generator().manual_seed(1))
    labels, batch = labels * (span // 5) - span // 2, batch * (span // 4) - span // 2
    expected = per_group(boxes, scores, labels, 0.3, batch)
    kernels.assert_same(batched_nms(boxes, scores, labels, 0.3, batch=batch), expected)
    one = torch.full_like(labels, HIGH)
    kernels.assert_same(
        batched_nms(boxes, scores, one, 0.3, batch=labels), per_group(boxes, scores, labels, 0.3)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype):
    boxes, scores, labels = make_case(300, 6)
    labels = (labels * 20 - (0 if dtype is torch.uint8 else 60)).to(dtype)
    kernels.assert_same(batched_nms(boxes, scores, labels, 0.4), per_group(boxes, scores, labels.long(), 0.4))


def test_one_group_is_nms():
    boxes, scores, labels = make_case(3000, 1, extent=900)
    kernels.assert_same(batched_nms(boxes, scores, labels - 7, 0.5), nms(boxes, scores, 0.5))


def test_max_out_and_score_threshold():
    boxes, scores, labels = make_case(4000, 9)
    keep = batched_nms(boxes, scores, labels, 0.5)
    for count in (0, 1, 100, 10**9):
        kernels.assert_same(batched_nms(boxes, scores, labels, 0.5, max_out=count), keep[:count])
    kernels.assert_same(
        batched_nms(boxes, scores, labels, 0.5, score_threshold=0.6), keep[scores[keep] > 0.6]
    )


@st.composite
def problem(draw):
    n = draw(st.integers(0, 300))
    seed = draw(st.integers(0, 2**20))
    boxes, scores, labels = make_case(n, draw(st.integers(1, 12)), seed, ties=draw(st.booleans()))
    if n and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 6))):
            row = draw(st.integers(0, n - 1))
            boxes[row, draw(st.integers(0, 3))] = draw(
                st.sampled_from([math.nan, math.inf, -0.0, 1e-40, 1e6, -3e38])
            )
            labels[row] = draw(st.sampled_from([LOW, HIGH, -1, 2**31, -(2**32)]))
    batch = draw(st.none() | st.just(labels.flip(0) % 3) | st.just(labels.flip(0)))
    if draw(st.booleans()):
        boxes, scores = boxes.double(), scores.double()
    score_threshold = draw(st.none() | st.sampled_from([0.0, 0.5]))
    return (
        boxes,
        scores,
        labels,
        draw(st.floats(0, 1)),
        batch,
        score_threshold,
        draw(st.none() | st.integers(0, 40)),
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problem())
def test_fuzz_against_reference(case):
    boxes, scores, labels, threshold, batch, score_threshold, max_out = case
    with tenfold.validation("meta"):
        actual = batched_nms(
            boxes, scores, labels, threshold, batch=batch, score_threshold=score_threshold, max_out=max_out
        )
    kernels.assert_same(actual, ref.batched_nms(*case))


def test_shrinking_and_growing_sizes():
    for n in (9000, 5, 0, 300, 1, 12000, 40):
        boxes, scores, labels = make_case(n, 6, seed=n, extent=300)
        kernels.assert_same(batched_nms(boxes, scores, labels, 0.4), per_group(boxes, scores, labels, 0.4))


def test_threads_levels_strides():
    boxes, scores, labels = make_case(20000, 30, extent=600)
    kernels.check_threads(lambda: batched_nms(boxes, scores, labels, 0.4))
    kernels.check_levels(lambda: batched_nms(boxes, scores, labels, 0.4))
    boxes, scores, labels = make_case(200, 5)
    kernels.check_strides(
        lambda b, s, c, g: batched_nms(b, s, c, 0.4, batch=g), boxes, scores, labels, labels.flip(0) % 2
    )


@pytest.mark.parametrize("groups", [1, 2, 80, 30000])
def test_scratch_is_bounded(groups):
    boxes, scores, labels = make_case(30000, groups, extent=3000)
    taken = kernels.scratch_bytes(lambda: batched_nms(boxes, scores, labels, 0.5))
    assert taken <= 40 * 30000 + 65536


def test_opcheck_and_compile():
    boxes, scores, labels = make_case(20, 3)
    op = torch.ops.tenfold.batched_nms.default
    kernels.check_op(op, (boxes, scores, labels, 0.5, None, None, None, True))
    kernels.check_op(op, (boxes.double(), scores.double(), labels, 0.5, labels, 0.1, 4, False), traced=False)
    kernels.check_op(op, (boxes[:0], scores[:0], labels[:0], 0.5, None, None, None, True), traced=False)

    def run(boxes, scores, labels):
        return boxes[batched_nms(boxes, scores, labels, 0.5, max_out=9)]

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=True)
    kernels.assert_same(compiled(boxes, scores, labels), run(boxes, scores, labels))


def test_no_gradient():
    boxes, scores, labels = make_case(20, 3)
    assert not batched_nms(boxes.requires_grad_(), scores.requires_grad_(), labels, 0.5).requires_grad


@pytest.mark.parametrize(
    ("labels", "batch", "error", "text"),
    [
        (
            torch.zeros(3),
            None,
            TypeError,
            "batched_nms: labels: got torch.float32; expected an integer dtype",
        ),
        (torch.zeros(3, dtype=torch.bool), None, TypeError, "batched_nms: labels: got torch.bool"),
        ([0, 0, 0], None, TypeError, "batched_nms: labels: got list; expected a torch.Tensor"),
        (
            torch.zeros(2, dtype=torch.int64),
            None,
            ValueError,
            r"batched_nms: labels: got shape \(2,\); expected \(3,\)",
        ),
        (torch.zeros(3, 1, dtype=torch.int64), None, ValueError, "batched_nms: labels: got shape"),
        (
            torch.zeros(3, dtype=torch.int64),
            torch.zeros(3),
            TypeError,
            "batched_nms: batch: got torch.float32",
        ),
        (
            torch.zeros(3, dtype=torch.int64),
            torch.zeros(4, dtype=torch.int32),
            ValueError,
            "batched_nms: batch: got shape",
        ),
        (torch.zeros(3, dtype=torch.int64, device="meta"), None, ValueError, "batched_nms: labels: on meta"),
    ],
)
def test_wrong_groups(labels, batch, error, text):
    with pytest.raises(error, match=text):
        batched_nms(torch.zeros(3, 4), torch.zeros(3), labels, 0.5, batch=batch)


def test_errors_name_this_op():
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"batched_nms: boxes: got shape \(3, 7\)"):
        batched_nms(torch.zeros(3, 7), torch.zeros(3), labels, 0.5)
    with pytest.raises(ValueError, match="batched_nms: max_out: got -2"):
        batched_nms(torch.zeros(3, 4), torch.zeros(3), labels, 0.5, max_out=-2)
    for run in (batched_nms, lambda *args: ref.batched_nms(*args, validate=True)):
        with pytest.raises(ValueError, match="batched_nms: scores: row 0 is NaN; expected numbers"):
            run(torch.zeros(3, 4), torch.full((3,), math.nan), labels, 0.5)


def test_raw_op_misuse_does_not_crash():
    op = torch.ops.tenfold.batched_nms.default
    boxes, scores, labels = make_case(5, 2)
    for wrong in (
        labels[:3],
        labels.int(),
        labels.float(),
        labels[:, None],
        labels.sum(),
        torch.zeros(9, dtype=torch.int64),
    ):
        with pytest.raises(RuntimeError):
            op(boxes, scores, wrong, 0.5, None, None, None, True)
        with pytest.raises(RuntimeError):
            op(boxes, scores, labels, 0.5, wrong, None, None, True)
    with pytest.raises(RuntimeError):
        op(boxes.sum(), scores, labels, 0.5, None, None, None, True)
    with pytest.raises(RuntimeError):
        op(boxes[:, :3], scores, labels, 0.5, None, None, None, True)
