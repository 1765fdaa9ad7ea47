"""Rotated suppression: Shapely, brute force over the IoU tables, the reference, and wrong variants."""

import math
import time
from functools import partial

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tenfold
from tenfold import ref
from tenfold.ops import (
    box_iou_3d,
    box_iou_bev,
    nms_3d,
    nms_bev_aligned,
    nms_rotated,
    nms_rotated_padded,
)
from tenfold.testing import kernels

PUBLIC = [nms_rotated, nms_3d, nms_bev_aligned]


def make_boxes(n: int, seed: int, *, style: str = "spread", dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """7-column boxes and scores with ties, in one of the styles that stress a part of the algorithm."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(n, 3, generator=g) * torch.tensor([30.0, 30.0, 2.0])
    size = torch.rand(n, 3, generator=g) * 4 + 0.2
    boxes = torch.cat([centre, size, torch.randn(n, 1, generator=g) * 3], 1)
    if style == "clusters":
        objects = max(n // 60, 1)
        which = torch.randint(0, objects, (n,), generator=g)
        boxes = boxes[:objects][which] + 0.15 * torch.randn(n, 7, generator=g)
        boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.1
    if style == "sizes":
        boxes[:, 3:5] = 10 ** (torch.rand(n, 2, generator=g) * 5 - 3)
    if style == "coarse":
        boxes = boxes.round()
        boxes[:, 6] = 0
    if style == "copies" and n > 1:
        boxes[n // 2 :] = boxes[: n - n // 2].clone()
    if style == "outliers" and n > 2:
        boxes[0, 0], boxes[1, 1], boxes[2, :2] = 1e6, -1e30, -3e7
    scores = (torch.rand(n, generator=g) * 50).round() / 50
    return boxes.to(dtype), scores.to(dtype)


STYLES = ("spread", "clusters", "sizes", "coarse", "copies", "outliers")


def iou_table(op, boxes: Tensor) -> Tensor:
    if op is nms_3d:
        return box_iou_3d(boxes, boxes)
    if op is nms_bev_aligned:
        boxes = torch.cat([boxes[:, :-1], torch.zeros(len(boxes), 1, dtype=boxes.dtype)], 1)
    return box_iou_bev(boxes, boxes)


def greedy(above: np.ndarray, scores: Tensor, *groups: Tensor) -> list[int]:
    """The definition, from a boolean table of pairs above the threshold."""
    same = np.ones_like(above)
    for group in groups:
        same &= group.numpy()[:, None] == group.numpy()[None]
    dead = np.zeros(len(above), dtype=bool)
    keep = []
    for row in torch.sort(scores, descending=True, stable=True).indices.tolist():
        if not dead[row]:
            keep.append(row)
            dead |= above[row] & same[row]
    return keep


def shapely_above(boxes: Tensor, threshold: float) -> tuple[np.ndarray, float]:
    """Pairs above the threshold by Shapely, and how close the closest pair comes to it."""
    b = boxes[:, [0, 1, 3, 4, 6]].double().numpy()
    c, s = np.cos(b[:, 4:]), np.sin(b[:, 4:])
    lx, ly = b[:, 2:3] * np.array([0.5, -0.5, -0.5, 0.5]), b[:, 3:4] * np.array([0.5, 0.5, -0.5, -0.5])
    p = shapely.polygons(np.stack([b[:, :1] + c * lx - s * ly, b[:, 1:2] + s * lx + c * ly], -1))
    inter = shapely.area(shapely.intersection(p[:, None], p[None]))
    area = b[:, 2] * b[:, 3]
    iou = inter / (area[:, None] + area[None] - inter)
    return iou > threshold, float(np.abs(iou - threshold)[~np.eye(len(b), dtype=bool)].min())


# ---- checks that take the implementation, so that wrong ones can be shown to fail


def check_against_shapely(impl) -> None:
    for seed, threshold in ((0, 0.1), (1, 0.3), (2, 0.7)):
        boxes, scores = make_boxes(150, seed, style="clusters" if seed else "spread")
        above, margin = shapely_above(boxes, threshold)
        assert margin > 1e-7
        assert impl(boxes, scores, threshold).tolist() == greedy(above, scores)


def check_exact_thresholds(impl) -> None:
    """IoU exactly 1/3 and 1/2 in the box dtype: only a strictly greater IoU suppresses."""
    scores = torch.tensor([0.9, 0.8])
    third = torch.tensor([[0.0, 0, 2, 1, 0.7], [0.0, 0, 2, 1, 0.7]])
    third[1, 0] += math.cos(third[0, 4])
    third[1, 1] += math.sin(third[0, 4])
    for boxes, value in (
        (third, float(box_iou_bev(third[:1], third[1:]))),
        (torch.tensor([[0.0, 0, 2, 1, 0], [0.5, 0, 1, 1, 0]]), 0.5),
        (torch.tensor([[0.0, 0, 2, 1, 0], [0.0, 0, 1, 2, 0]]), float(torch.tensor(1 / 3))),
    ):
        assert impl(boxes, scores, value).tolist() == [0, 1]
        assert impl(boxes, scores, value - 1e-4).tolist() == [0]
        assert impl(boxes, scores, value - 1e-7).tolist() == [0]


def check_ties(impl) -> None:
    boxes = torch.tensor([[0.0, 0, 4, 2, 0.3]]).repeat(100, 1)
    boxes[::2, 0] += 50
    assert impl(boxes, torch.ones(100), 0.5).tolist() == [0, 1]
    assert impl(boxes, torch.zeros(100).copysign(torch.arange(100) % 3 - 1.0), 0.5).tolist() == [0, 1]
    assert impl(boxes, torch.arange(100.0), 0.5).tolist() == [99, 98]
    assert impl(boxes, torch.ones(100), 1.0).tolist() == list(range(100))


CHECKS = [check_ties, check_exact_thresholds, check_against_shapely]  # the costly one last


@pytest.mark.parametrize("check", CHECKS)
def test_checks(check):
    check(nms_rotated)


def _from_table(rule):
    def impl(boxes, scores, threshold):
        bev = boxes if boxes.shape[1] == 5 else boxes[:, [0, 1, 3, 4, 6]]
        return torch.tensor(greedy(rule(bev, threshold), scores), dtype=torch.int64)

    return impl


def _unstable(boxes, scores, threshold):
    back = nms_rotated(boxes.flip(0), scores.flip(0), threshold)
    return len(boxes) - 1 - back


def _suppressed_suppress(boxes, scores, threshold):
    above = box_iou_bev(boxes, boxes).double() > threshold
    order = torch.sort(scores, descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    beaten = (above & (rank[None] < rank[:, None])).any(1)
    return order[~beaten[order]]


WRONG = {
    "inclusive": _from_table(lambda b, t: (box_iou_bev(b, b).double() >= t).numpy()),
    "yaw ignored": nms_bev_aligned,
    "clockwise": lambda b, s, t: nms_rotated(torch.cat([b[:, :-1], -b[:, -1:]], 1), s, t),
    "unstable": _unstable,
    "suppressed suppress": _suppressed_suppress,
    "overlap over own area": _from_table(lambda b, t: (box_iou_bev(b, b, mode="iof").double() > t).numpy()),
    "rounded": _from_table(lambda b, t: (box_iou_bev(b, b).double() * (1 - 2e-7) > t).numpy()),
    "ascending": lambda b, s, t: nms_rotated(b, -s, t),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    kernels.assert_caught(CHECKS, WRONG[name])


# ---- brute force over our own IoU table: the grid, the rejects and the guess change nothing


@pytest.mark.parametrize("op", PUBLIC)
@pytest.mark.parametrize("style", STYLES)
def test_equals_brute_force(op, style):
    for seed, n in enumerate((1, 2, 63, 64, 65, 66, 350)):
        dtype = torch.float64 if seed % 2 else torch.float32
        boxes, scores = make_boxes(n, seed, style=style, dtype=dtype)
        table = iou_table(op, boxes).double().numpy()
        g = torch.Generator().manual_seed(seed)
        labels, batch = torch.randint(-2, 3, (n,), generator=g), torch.randint(0, 3, (n,), generator=g)
        for threshold in (0.0, 0.01, 0.05, 0.3, 0.8, 1.0):
            above = table > threshold
            assert op(boxes, scores, threshold).tolist() == greedy(above, scores)
            kept = op(boxes, scores, threshold, labels=labels, batch=batch).tolist()
            assert kept == greedy(above, scores, labels, batch)


def test_many_kept_boxes_at_a_high_threshold():
    boxes, scores = make_boxes(2500, 5, style="clusters")
    for threshold in (0.5, 0.8):
        above = iou_table(nms_rotated, boxes).double().numpy() > threshold
        kept = nms_rotated(boxes, scores, threshold).tolist()
        assert kept == greedy(above, scores)
    assert len(kept) > 1000


def test_invariants():
    boxes, scores = make_boxes(400, 9, style="clusters")
    scores = torch.randperm(400, generator=torch.Generator().manual_seed(0)).float()
    kept = nms_rotated(boxes, scores, 0.3)
    assert torch.equal(nms_rotated(boxes[kept], scores[kept], 0.3), torch.arange(len(kept)))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    assert torch.equal(order[nms_rotated(boxes[order], scores[order], 0.3)], kept)
    dropped = torch.tensor(sorted(set(range(400)) - set(kept.tolist())))
    higher = scores[kept][None] > scores[dropped][:, None]
    assert bool(((box_iou_bev(boxes[dropped], boxes[kept]) > 0.3) & higher).any(1).all())
    scaled = boxes * torch.tensor([64.0, 64, 64, 64, 64, 64, 1])
    assert torch.equal(nms_rotated(scaled, scores, 0.3), kept)
    assert torch.equal(nms_rotated(boxes[:, [0, 1, 3, 4, 6]], scores, 0.3), kept)


@pytest.mark.parametrize("op", PUBLIC)
def test_groups_equal_separate_calls(op):
    boxes, scores = make_boxes(600, 2, style="clusters")
    g = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (600,), generator=g) * (2**40) - 7
    batch = torch.randint(-1, 2, (600,), generator=g)
    for use_labels, use_batch in ((True, False), (False, True), (True, True)):
        label = labels if use_labels else torch.zeros_like(labels)
        element = batch if use_batch else torch.zeros_like(batch)
        for pre_max, post_max in ((None, None), (150, None), (None, 9), (120, 20), (0, None), (None, 0)):
            rows = []
            for b in element.unique():
                part = (element == b).nonzero().flatten()
                part = part[torch.sort(scores[part], descending=True, stable=True).indices]
                if pre_max is not None:
                    part = part[:pre_max]
                own = torch.cat(
                    [
                        s[op(boxes[s], scores[s], 0.2)]
                        for s in (part[label[part] == c] for c in label.unique())
                    ]
                )
                own = own.sort().values
                own = own[torch.sort(scores[own], descending=True, stable=True).indices]
                rows.append(own if post_max is None else own[:post_max])
            expected = torch.cat(rows).sort().values
            expected = expected[torch.sort(scores[expected], descending=True, stable=True).indices]
            kept = op(
                boxes,
                scores,
                0.2,
                labels=labels if use_labels else None,
                batch=batch if use_batch else None,
                pre_max=pre_max,
                post_max=post_max,
            )
            assert torch.equal(kept, expected), (use_labels, use_batch, pre_max, post_max)


def test_limits_of_one_group():
    boxes, scores = make_boxes(300, 4, style="clusters")
    everything = nms_rotated(boxes, scores, 0.2)
    for post_max in (0, 1, 5, len(everything), 10_000):
        assert torch.equal(nms_rotated(boxes, scores, 0.2, post_max=post_max), everything[:post_max])
    best = torch.sort(scores, descending=True, stable=True).indices[:40]
    expected = best[nms_rotated(boxes[best], scores[best], 0.2)]
    assert torch.equal(nms_rotated(boxes, scores, 0.2, pre_max=40), expected)


@pytest.mark.parametrize("overlap", ["bev", "3d", "aligned"])
def test_padded_twin(overlap):
    op = dict(zip(("bev", "3d", "aligned"), PUBLIC, strict=True))[overlap]
    boxes, scores = make_boxes(200, 6, style="clusters")
    labels = torch.arange(200, dtype=torch.int32) % 2
    for post_max in (0, 3, 150, 500):
        rows = op(boxes, scores, 0.2, post_max=post_max, pre_max=180, labels=labels)
        keep, count = nms_rotated_padded(
            boxes, scores, 0.2, post_max, pre_max=180, labels=labels, overlap=overlap
        )
        assert keep.shape == (post_max,)
        assert (count.dtype, count.shape) == (torch.int32, ())
        assert torch.equal(keep[: int(count)], rows)
        assert bool((keep[int(count) :] == -1).all())


# ---- odd input


def test_rows_that_are_not_finite_are_never_kept():
    boxes, scores = make_boxes(80, 1)
    good = torch.ones(80, dtype=torch.bool)
    for i, value in enumerate((math.nan, math.inf, -math.inf)):
        for column in range(7):
            boxes[10 * i + column, column] = value
            good[10 * i + column] = False
    scores[70], scores[71], scores[72] = math.nan, math.inf, -math.inf
    good[70] = False
    rows = good.nonzero().flatten()
    for op in PUBLIC:
        with tenfold.validation("meta"):
            kept = op(boxes, scores, 0.3)
        assert torch.equal(kept, rows[op(boxes[rows], scores[rows], 0.3)])
        assert kept[0] == 71
    with tenfold.validation("meta"):
        assert nms_rotated(torch.full((3, 5), math.nan), torch.ones(3), 0.5).shape == (0,)


def test_boxes_without_extent_stay_and_suppress_nothing():
    boxes = torch.tensor([[0.0, 0, 4, 2, 0.3]]).repeat(70, 1)
    boxes[:, 2:4] = torch.tensor([[0.0, 2.0], [4.0, -1.0], [-4.0, -2.0], [-0.0, 0.0], [4.0, 2.0]]).repeat(
        14, 1
    )
    kept = nms_rotated(boxes, torch.arange(70.0), 0.0)
    assert kept.tolist() == [69] + [i for i in range(68, -1, -1) if i % 5 != 4]
    flat = torch.tensor([[0.0, 0, 0, 4, 2, 0, 0]]).repeat(2, 1)
    assert len(nms_3d(flat, torch.ones(2), 0.1)) == 2
    assert len(nms_rotated(flat, torch.ones(2), 0.1)) == 1


@pytest.mark.parametrize("op", PUBLIC)
def test_empty(op):
    for dtype in (torch.float32, torch.float64):
        kept = op(torch.zeros(0, 7, dtype=dtype), torch.zeros(0, dtype=dtype), 0.5)
        assert (kept.shape, kept.dtype) == ((0,), torch.int64)
    none = torch.zeros(0, dtype=torch.int64)
    assert op(
        torch.zeros(0, 7), torch.zeros(0), 0.5, labels=none, batch=none, pre_max=3, post_max=3
    ).shape == (0,)
    keep, count = nms_rotated_padded(torch.zeros(0, 7), torch.zeros(0), 0.5, 4)
    assert keep.tolist() == [-1] * 4
    assert int(count) == 0


def test_extreme_coordinates_and_sizes():
    boxes, scores = make_boxes(300, 3, style="sizes", dtype=torch.float64)
    for factor in (1e-160, 1e-40, 1e40, 1e150, 1e300):
        scaled = boxes * torch.tensor([factor] * 6 + [1.0], dtype=torch.float64)
        with tenfold.validation("meta"):
            table = iou_table(nms_rotated, scaled).numpy()
            expected = [r for r in greedy(table > 0.1, scores) if bool(scaled[r].isfinite().all())]
            assert nms_rotated(scaled, scores, 0.1).tolist() == expected
    mixed = boxes.clone()
    mixed[::3, 3:5] *= 1e155
    mixed[1::3, 3:5] *= 1e-100
    assert nms_rotated(mixed, scores, 0.1).tolist() == greedy(
        iou_table(nms_rotated, mixed).numpy() > 0.1, scores
    )


def special_boxes(n: int, seed: int, style: int) -> tuple[Tensor, Tensor]:
    boxes, scores = make_boxes(n, seed, style=STYLES[style % len(STYLES)])
    if style >= len(STYLES) and n:
        g = torch.Generator().manual_seed(seed)
        odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-42, 0.0, -3.0, 1e6, 1e-6])
        where = torch.rand(n, 7, generator=g) < 0.05
        boxes[where] = odd[torch.randint(0, len(odd), (int(where.sum()),), generator=g)]
        where = torch.rand(n, generator=g) < 0.1
        scores[where] = odd[torch.randint(0, len(odd), (int(where.sum()),), generator=g)]
    return boxes, scores


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([0, 1, 2, 5, 17, 40, 70]),
    style=st.integers(0, 2 * len(STYLES) - 1),
    metric=st.integers(0, 2),
    threshold=st.sampled_from([0.0, 0.013, 0.117, 0.37, 0.71, 0.93, 1.0]),
    limits=st.tuples(st.sampled_from([None, 0, 3, 50]), st.sampled_from([None, 0, 2, 30])),
    groups=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_fuzz_against_reference(seed, n, style, metric, threshold, limits, groups, dtype):
    boxes, scores = (x.to(dtype) for x in special_boxes(n, seed, style))
    g = torch.Generator().manual_seed(seed + 1)
    labels, batch = (torch.randint(-1, 2, (n,), generator=g) if use else None for use in groups)
    pre_max, post_max = limits
    with tenfold.validation("meta"):
        kept = PUBLIC[metric](
            boxes, scores, threshold, labels=labels, batch=batch, pre_max=pre_max, post_max=post_max
        )
    expected = ref.nms_rotated(boxes, scores, labels, batch, threshold, metric, pre_max, post_max)
    kernels.assert_same(kept, expected)


# ---- how it runs


def test_threads_levels_and_strides():
    boxes, scores = make_boxes(6000, 0, style="clusters")
    labels = torch.arange(6000) % 3
    for op in PUBLIC:
        kernels.check_threads(lambda op=op: op(boxes, scores, 0.3, labels=labels, batch=labels // 2))
        kernels.check_levels(lambda op=op: op(boxes[:900], scores[:900], 0.3))
        kernels.check_levels(lambda op=op: op(boxes[:900].double(), scores[:900].double(), 0.7))
        kernels.check_strides(
            lambda b, s, k, e, op=op: op(b, s, 0.3, labels=k, batch=e),
            boxes[:100],
            scores[:100],
            labels[:100],
            labels[:100] // 2,
        )


def test_opcheck():
    boxes, scores = make_boxes(12, 0)
    groups = torch.arange(12) % 2
    op, padded = torch.ops.tenfold.nms_rotated.default, torch.ops.tenfold.nms_rotated_padded.default
    kernels.check_op(op, (boxes, scores, None, None, 0.3, 0, None, None, True))
    kernels.check_op(op, (boxes, scores, groups, groups, 0.3, 1, 9, 5, False), traced=False)
    kernels.check_op(padded, (boxes, scores, groups, 0.3, 2, 9, 5, True))


def test_compiles_without_graph_breaks():
    def program(boxes, scores, labels):
        kept = nms_rotated(boxes, scores.sigmoid(), 0.3, labels=labels, post_max=20)
        fixed, count = nms_rotated_padded(boxes, scores, 0.3, 8, overlap="3d")
        return boxes[kept] * 2, fixed, count, nms_3d(boxes, scores, 0.1, batch=labels)

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    for n in (50, 40):
        boxes, scores = make_boxes(n, 1, style="clusters")
        labels = torch.arange(n) % 2
        kernels.assert_same(compiled(boxes, scores, labels), program(boxes, scores, labels))


def test_carries_no_gradient():
    boxes, scores = make_boxes(5, 0)
    boxes.requires_grad_()
    scores.requires_grad_()
    assert not nms_rotated(boxes, scores, 0.5).requires_grad
    assert not nms_rotated_padded(boxes, scores, 0.5, 3)[0].requires_grad


def test_dtypes():
    boxes, scores = make_boxes(90, 2, style="clusters")
    half = nms_rotated(boxes.half(), scores.half(), 0.3)
    assert torch.equal(half, nms_rotated(boxes.half().float(), scores.half().float(), 0.3))
    assert torch.equal(
        nms_rotated(boxes, scores.double(), 0.3), nms_rotated(boxes.double(), scores.double(), 0.3)
    )
    labels = torch.arange(90) % 3
    for dtype in (torch.uint8, torch.int16, torch.int32):
        kept = nms_rotated(boxes, scores, 0.3, labels=labels.to(dtype))
        assert torch.equal(kept, nms_rotated(boxes, scores, 0.3, labels=labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scratch_stays_within_its_bound(dtype):
    n = 10_000
    boxes, scores = make_boxes(n, 0, style="sizes", dtype=dtype)
    one, many = torch.zeros(n, dtype=torch.int64), torch.arange(n) % 7
    grouped = ({"labels": one, "batch": one}, {"labels": many, "batch": many, "post_max": 50})
    for op in PUBLIC:
        for groups in ({}, *grouped) if dtype is torch.float64 else ({},):  # doubles take the more
            taken = kernels.scratch_bytes(partial(op, boxes, scores, 0.1, **groups))
            assert 0 < taken <= 120 * n + 262_144


def test_time_grows_almost_linearly():
    def seconds(n: int) -> float:
        g = torch.Generator().manual_seed(0)
        side = 1.6 * math.sqrt(n)
        size = torch.tensor([4.2, 1.8]).expand(n, 2)
        boxes = torch.cat(
            [torch.rand(n, 2, generator=g) * side, size, torch.rand(n, 1, generator=g) * 6.3], 1
        )
        boxes[0, 0] = 1e6
        scores = torch.rand(n, generator=g)
        best = math.inf
        for _ in range(4):
            start = time.process_time()
            nms_rotated(boxes, scores, 0.1)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(80_000) < 100 * seconds(5_000)  # sixteen times the boxes; a quadratic method takes 256


def test_shrinking_and_growing_calls_leave_no_trace():
    boxes, scores = make_boxes(900, 0, style="clusters")
    for n in (900, 3, 0, 1, 300, 2, 899):
        above = iou_table(nms_3d, boxes[:n]).double().numpy() > 0.3
        assert nms_3d(boxes[:n], scores[:n], 0.3).tolist() == greedy(above, scores[:n])


@pytest.mark.parametrize("op", PUBLIC)
def test_messages(op):
    name = op.__name__
    boxes, scores = make_boxes(4, 0)
    for b, s, error, text in (
        (boxes.numpy(), scores, TypeError, f"{name}: boxes: got ndarray"),
        (boxes.int(), scores, TypeError, f"{name}: boxes: got torch.int32"),
        (boxes, scores.long(), TypeError, f"{name}: scores: got torch.int64"),
        (boxes[:, :6], scores, ValueError, f"{name}: boxes: got shape"),
        (torch.zeros(4, 9), scores, ValueError, r"slice the box columns, boxes\[:, :7\]"),
        (boxes, scores[:3], ValueError, f"{name}: scores: got shape"),
        (boxes, scores.to("meta"), ValueError, f"{name}: scores: on meta"),
    ):
        with pytest.raises(error, match=text):
            op(b, s, 0.5)
    for threshold in (-0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=f"{name}: iou_threshold: got"):
            op(boxes, scores, threshold)
    for limit in ("pre_max", "post_max"):
        with pytest.raises(ValueError, match=f"{name}: {limit}: got -1"):
            op(boxes, scores, 0.5, **{limit: -1})
    for group in ("labels", "batch"):
        with pytest.raises(TypeError, match=f"{name}: {group}: got torch.float32"):
            op(boxes, scores, 0.5, **{group: scores})
        with pytest.raises(ValueError, match=f"{name}: {group}: got shape"):
            op(boxes, scores, 0.5, **{group: torch.zeros(3, dtype=torch.int64)})
    odd = boxes.clone()
    odd[2, 0] = math.inf
    missing = scores.clone()
    missing[1] = math.nan
    for b, s, text in (
        (odd, scores, f"{name}: boxes: row 2 is not finite"),
        (boxes, missing, f"{name}: scores: row 1 is NaN"),
        (odd, missing, f"{name}: scores: row 1 is NaN"),
    ):
        with pytest.raises(ValueError, match=text) as native:
            op(b, s, 0.5)
        with pytest.raises(ValueError) as reference:
            ref.nms_rotated(b, s, None, None, 0.5, PUBLIC.index(op), None, None, True)
        assert str(native.value) == str(reference.value)


def test_padded_messages():
    boxes, scores = make_boxes(4, 0)
    for overlap, post_max, text in (
        ("iou", 3, "overlap: got 'iou'"),
        ("bev", -1, "post_max: got -1"),
        ("bev", None, "post_max: got None"),
    ):
        with pytest.raises(ValueError, match=f"nms_rotated_padded: {text}"):
            nms_rotated_padded(boxes, scores, 0.5, post_max, overlap=overlap)
    with pytest.raises(ValueError, match="nms_rotated_padded: boxes: got shape"):
        nms_rotated_padded(boxes[:, :5], scores, 0.5, 3, overlap="3d")


def test_raw_operator_survives_misuse():
    boxes, scores = make_boxes(4, 0)
    ok = [boxes, scores, None, None, 0.5, 0, None, None, True]
    for position, value in (
        (0, boxes[:, :6]),
        (0, boxes[0]),
        (0, boxes.double()),
        (0, boxes.int()),
        (1, scores[:3]),
        (1, boxes),
        (2, torch.zeros(3, dtype=torch.int64)),
        (2, torch.zeros(4, dtype=torch.int32)),
        (3, torch.zeros(4)),
        (4, math.nan),
        (4, -1.0),
        (5, 3),
    ):
        args = list(ok)
        args[position] = value
        with pytest.raises(RuntimeError):
            torch.ops.tenfold.nms_rotated.default(*args)
    for limit in (-5, 2**40):
        args = [*ok[:6], limit, limit, True]
        assert torch.ops.tenfold.nms_rotated.default(*args).numel() <= 4
    for post_max in (-1, 2**31):
        with pytest.raises(RuntimeError):
            torch.ops.tenfold.nms_rotated_padded.default(boxes, scores, None, 0.5, 0, None, post_max, True)
