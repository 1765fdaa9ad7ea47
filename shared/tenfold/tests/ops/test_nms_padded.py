"""nms_padded: the rows of nms in an output of fixed size; the oracle is torchvision's nms."""

import math

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import nms_padded
from tenfold.testing import kernels


def make_boxes(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=g) * 100
    return torch.cat([corner, corner + torch.rand(n, 2, generator=g) * 30], dim=1), torch.rand(n, generator=g)


def check_padding(run) -> None:
    for n, max_out in ((0, 0), (0, 3), (1, 0), (50, 7), (50, 50), (900, 2000)):
        boxes, scores = make_boxes(n)
        rows = torchvision.ops.nms(boxes, scores, 0.4)[:max_out]
        keep, count = run(boxes, scores, 0.4, max_out=max_out)
        assert (keep.dtype, keep.shape, count.dtype, count.shape) == (
            torch.int64,
            (max_out,),
            torch.int32,
            (),
        )
        assert int(count) == len(rows)
        kernels.assert_same(keep[: len(rows)], rows)
        assert bool((keep[len(rows) :] == -1).all())


def test_padding():
    check_padding(nms_padded)


def padded_with_zero(*args, max_out):
    keep, count = nms_padded(*args, max_out=max_out)
    return keep.clamp(min=0), count


def counts_before_the_cut(*args, max_out):
    keep, _ = nms_padded(*args, max_out=max_out)
    return keep, nms_padded(*args, max_out=10**4)[1]


@pytest.mark.parametrize("wrong", [padded_with_zero, counts_before_the_cut])
def test_wrong_variants_are_caught(wrong):
    with pytest.raises(AssertionError):
        check_padding(wrong)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.integers(0, 200),
    st.integers(0, 2**20),
    st.integers(0, 60),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.booleans(),
)
def test_fuzz_against_reference(n, seed, max_out, threshold, score_threshold, special):
    boxes, scores = make_boxes(n, seed)
    if n and special:
        boxes[seed % n, seed % 4] = (math.nan, math.inf, -0.0, 1e6)[seed // 4 % 4]
        scores[seed // 3 % n] = (math.nan, math.inf, -math.inf, -0.0)[seed // 5 % 4]
    with tenfold.validation("meta"):
        actual = nms_padded(boxes, scores, threshold, max_out=max_out, score_threshold=score_threshold)
    kernels.assert_same(actual, ref.nms_padded(boxes, scores, threshold, max_out, score_threshold))


def test_stale_memory_does_not_show():
    for n, max_out in ((3000, 4000), (5, 4000), (0, 100), (3000, 10)):
        boxes, scores = make_boxes(n)
        keep, count = nms_padded(boxes, scores, 0.5, max_out=max_out)
        assert bool((keep[int(count) :] == -1).all())


def test_threads_levels_strides():
    boxes, scores = make_boxes(3000)
    kernels.check_threads(lambda: nms_padded(boxes, scores, 0.4, max_out=500))
    kernels.check_levels(lambda: nms_padded(boxes, scores, 0.4, max_out=500))
    kernels.check_strides(lambda b, s: nms_padded(b, s, 0.4, max_out=100), *make_boxes(200))


def test_half_precision_and_mixed_dtypes():
    boxes, scores = make_boxes(100)
    boxes = boxes.half()
    expected = nms_padded(boxes.float(), scores, 0.4, max_out=30)
    kernels.assert_same(nms_padded(boxes, scores, 0.4, max_out=30), expected)


def test_opcheck_and_compile():
    boxes, scores = make_boxes(20)
    op = torch.ops.tenfold.nms_padded.default
    kernels.check_op(op, (boxes, scores, 0.5, 30, None, True))
    kernels.check_op(op, (boxes.double(), scores.double(), 0.5, 3, 0.1, False), traced=False)

    def top(boxes, scores):
        keep, count = nms_padded(boxes, scores, 0.5, max_out=5)
        return boxes[keep.clamp(min=0)], count

    compiled = torch.compile(top, fullgraph=True, backend="aot_eager")
    kernels.assert_same(compiled(boxes, scores), top(boxes, scores))


def test_static_shapes_on_meta():
    keep, count = nms_padded(torch.zeros(9, 4, device="meta"), torch.zeros(9, device="meta"), 0.5, max_out=7)
    assert keep.shape == (7,)
    assert count.shape == ()


def test_no_gradient():
    boxes, scores = make_boxes(20)
    for result in nms_padded(boxes.requires_grad_(), scores.requires_grad_(), 0.5, max_out=5):
        assert not result.requires_grad


@pytest.mark.parametrize(
    ("max_out", "error", "text"),
    [
        (None, TypeError, "nms_padded: max_out: got NoneType; expected an int"),
        (1.0, TypeError, "nms_padded: max_out: got float; expected an int"),
        (-1, ValueError, "nms_padded: max_out: got -1; expected a number from 0 to 2"),
        (2**31, ValueError, "nms_padded: max_out: got 2147483648; expected a number from 0 to 2"),
    ],
)
def test_wrong_max_out(max_out, error, text):
    with pytest.raises(error, match=text):
        nms_padded(torch.zeros(3, 4), torch.zeros(3), 0.5, max_out=max_out)


def test_errors_name_this_op():
    with pytest.raises(ValueError, match=r"nms_padded: scores: got shape \(2,\)"):
        nms_padded(torch.zeros(3, 4), torch.zeros(2), 0.5, max_out=1)
    inverted = torch.tensor([[1.0, 0, 0, 1]])
    for run in (nms_padded, lambda *args, max_out: ref.nms_padded(*args, max_out, validate=True)):
        with pytest.raises(ValueError, match="nms_padded: boxes: row 0 is inverted"):
            run(inverted, torch.ones(1), 0.5, max_out=1)


def test_raw_op_misuse_does_not_crash():
    op = torch.ops.tenfold.nms_padded.default
    boxes, scores = make_boxes(5)
    for args in (
        (boxes[0], scores, 0.5, 3),
        (boxes, scores[:2], 0.5, 3),
        (boxes, scores, 0.5, -3),
        (boxes, scores, 0.5, 2**40),
    ):
        with pytest.raises(RuntimeError):
            op(*args, None, True)
