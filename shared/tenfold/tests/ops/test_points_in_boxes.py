"""points_in_boxes: contract, NumPy oracle (bit-equal), Open3D, real frames, wrong variants caught."""

import json
import math
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tenfold
from tenfold import _native, ref
from tenfold.ops import points_in_boxes, points_in_boxes_padded
from tenfold.testing import kernels, require, sample_data, stride_variant


def numpy_mask(
    points,
    boxes,
    margin=1e-5,
    z_margin=0.0,
    *,
    closed=False,
    open_z=False,
    clockwise=False,
    bottom=False,
    zero=False,
):
    """The definition in NumPy; the options make the wrong variants that the checks must turn down."""
    points, boxes = np.asarray(points), np.asarray(boxes)
    kind = points.dtype.type
    mask = np.zeros((len(boxes), len(points)), bool)
    for row, (x, y, z, dx, dy, dz, yaw) in enumerate(boxes):
        if not (zero or (dx > 0 and dy > 0 and dz > 0)):
            continue
        c, s = kind(math.cos(float(yaw))), kind(math.sin(float(yaw)))
        s = -s if clockwise else s
        px, py, pz = points[:, 0] - x, points[:, 1] - y, points[:, 2] - z
        pz = pz - dz / 2 if bottom else pz
        lx, ly = px * c + py * s, py * c - px * s
        hx, hy, hz = dx / kind(2) + kind(margin), dy / kind(2) + kind(margin), dz / kind(2) + kind(z_margin)
        in_plane = (abs(lx) <= hx) & (abs(ly) <= hy) if closed else (abs(lx) < hx) & (abs(ly) < hy)
        mask[row] = in_plane & (abs(pz) < hz if open_z else abs(pz) <= hz)
    return torch.from_numpy(mask)


def scene(n: int, m: int, seed: int = 0, *, size: float = 60.0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    points = (torch.rand(n, 3, generator=g) - 0.5) * torch.tensor([size, size, 4.0])
    centers = (torch.rand(m, 3, generator=g) - 0.5) * torch.tensor([size, size, 2.0])
    sizes = torch.rand(m, 3, generator=g) * torch.tensor([4.0, 2.0, 1.5]) + 0.3
    yaw = torch.randn(m, 1, generator=g) * 3
    return points.to(dtype), torch.cat([centers, sizes, yaw], dim=1).to(dtype)


def mask_to_csr(mask):
    offsets = torch.zeros(len(mask) + 1, dtype=torch.int64)
    offsets[1:] = mask.sum(dim=1).cumsum(0)
    return offsets, mask.nonzero()[:, 1].int()


def mask_to_first(mask):
    first = torch.full((mask.shape[1],), -1, dtype=torch.int32)
    for box in reversed(range(len(mask))):
        first[mask[box]] = box
    return first


def assert_all_forms(points, boxes, mask, **margins):
    kernels.assert_same(points_in_boxes(points, boxes, mode="mask", **margins), mask, what="mask")
    kernels.assert_same(points_in_boxes(points, boxes, **margins), mask_to_first(mask), what="first")
    offsets, point = points_in_boxes(points, boxes, mode="csr", **margins)
    kernels.assert_same((offsets, point), mask_to_csr(mask), what="csr")
    table, count = points_in_boxes_padded(points, boxes, 5, **margins)
    assert count.tolist() == mask.sum(dim=1).tolist()
    for row in range(len(boxes)):
        inside = point[offsets[row] : offsets[row + 1]][:5].tolist()
        assert table[row].tolist() == inside + [-1] * (5 - len(inside))


# ---- checks that take the implementation, so that wrong ones can be fed to them


def check_faces(mask_of):
    """Points exactly on the faces: the top and bottom are inside, the sides are not."""
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0, 2.0, 1.0, 0.0]])
    points = torch.tensor([[3.0, 2, 3], [1, 3.0, 3], [1, 2, 3.5], [1, 2, 2.5], [2.9, 2.9, 3.5], [1, 2, 3.51]])
    assert mask_of(points, box, 0.0)[0].tolist() == [False, False, True, True, True, False]


def check_turn(mask_of):
    """Yaw turns counter-clockwise: a long box at 45 degrees holds (1, 1)."""
    box = torch.tensor([[0.0, 0, 0, 4, 0.5, 1, math.pi / 4]])
    assert mask_of(torch.tensor([[1.0, 1, 0], [1, -1, 0]]), box, 0.0)[0].tolist() == [True, False]


def check_centre(mask_of):
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    assert mask_of(torch.tensor([[0.0, 0, -0.9], [0, 0, 1.5]]), box, 0.0)[0].tolist() == [True, False]


def check_zero_size(mask_of):
    boxes = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, -1, 1, 0], [0, 0, 0, 1, 1, 0, 0]])
    assert not mask_of(torch.zeros(1, 3), boxes, 0.1).any()


CHECKS = [check_faces, check_turn, check_centre, check_zero_size]
WRONG = {
    "closed sides": (check_faces, {"closed": True}),
    "open top": (check_faces, {"open_z": True}),
    "clockwise": (check_turn, {"clockwise": True}),
    "bottom centre": (check_centre, {"bottom": True}),
    "zero sizes caught": (check_zero_size, {"zero": True}),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("copies", [1, 20])
def test_definition(check, copies):
    def native(points, boxes, margin):
        """Repeated far away, so that the grid is used as well."""
        far = torch.cat(
            [boxes] + [boxes + torch.tensor([100.0 * i, 0, 0, 0, 0, 0, 0]) for i in range(1, copies)]
        )
        padded = torch.cat([points, torch.full((200 * (copies > 1), 3), 50.0)])
        return points_in_boxes(padded, far, mode="mask", margin=margin)[: len(boxes), : len(points)]

    check(native)
    check(lambda points, boxes, margin: ref.points_in_boxes_mask(points, boxes, margin, 0.0))


@pytest.mark.parametrize("name", WRONG)
def test_wrong_variants_are_caught(name):
    check, options = WRONG[name]
    with pytest.raises(AssertionError):
        check(lambda points, boxes, margin: numpy_mask(points, boxes, margin, **options))


def test_margins():
    box = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0]])
    points = torch.tensor([[1.000001, 0, 0], [1.00002, 0, 0], [0, 0, 1.000001], [0, 0, 1.05]])
    assert points_in_boxes(points, box).tolist() == [0, -1, -1, -1]
    assert points_in_boxes(points, box, margin=0.0).tolist() == [-1, -1, -1, -1]
    assert points_in_boxes(points, box, z_margin=0.1).tolist() == [0, -1, 0, 0]
    assert points_in_boxes(points, box, margin=1e-4).tolist() == [0, 0, -1, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("m", [0, 1, 7, 8, 9, 60])
@pytest.mark.parametrize("n", [0, 1, 127, 128, 129, 5000])
def test_equals_numpy(n, m, dtype):
    points, boxes = scene(n, m, dtype=dtype)
    assert_all_forms(points, boxes, numpy_mask(points, boxes))
    mask = numpy_mask(points, boxes, 0.3, 0.2)
    assert_all_forms(points, boxes, mask, margin=0.3, z_margin=0.2)


def test_more_points_than_a_piece():
    points, boxes = scene(100_003, 40)
    mask = numpy_mask(points, boxes)
    assert int(mask.sum()) > 500
    assert_all_forms(points, boxes, mask)
    assert_all_forms(points, boxes[:3], mask[:3])


def test_overlapping_boxes_and_the_lowest_wins():
    points, boxes = scene(3000, 50, size=6.0)
    mask = numpy_mask(points, boxes)
    assert int((mask.sum(dim=0) > 3).sum()) > 100
    assert_all_forms(points, boxes, mask)


def test_against_open3d():
    o3d = require("open3d")
    points, boxes = scene(8000, 30, size=20.0)
    mask = points_in_boxes(points, boxes, mode="mask", margin=0.0)
    cloud = o3d.utility.Vector3dVector(points.double().numpy())
    for row, box in enumerate(boxes.double().tolist()):
        x, y, z, dx, dy, dz, yaw = box
        turn = np.array([[math.cos(yaw), -math.sin(yaw), 0], [math.sin(yaw), math.cos(yaw), 0], [0, 0, 1]])

        def inside(grow, centre=(x, y, z), turn=turn, size=(dx, dy, dz)):
            oriented = o3d.geometry.OrientedBoundingBox(centre, turn, np.array(size) + grow)
            return set(oriented.get_point_indices_within_bounding_box(cloud))

        found = set(mask[row].nonzero().flatten().tolist())
        assert inside(-1e-4) <= found <= inside(1e-4)


def test_kitti_frame(kitti_frame):
    points = kitti_frame()[:, :3].contiguous()
    g = torch.Generator().manual_seed(0)
    centers = points[torch.randint(0, len(points), (60,), generator=g)]
    boxes = torch.cat(
        [centers, torch.tensor([[3.9, 1.6, 1.5]]).expand(60, 3), torch.rand(60, 1, generator=g) * 6], 1
    )
    assert_all_forms(points, boxes, numpy_mask(points, boxes))


def test_nuscenes_frame(nuscenes_sweep):
    points = nuscenes_sweep()[:, :3].contiguous()
    instances = json.loads(sample_data("nuscenes", "sample.json").read_text())["data_list"][0]["instances"]
    boxes = torch.tensor([one["bbox_3d"] for one in instances], dtype=torch.float32)
    assert_all_forms(points, boxes, numpy_mask(points, boxes))
    # The data set counted the points of each box itself, before the boxes were moved to the sensor's frame.
    recorded = torch.tensor([one["num_lidar_pts"] for one in instances])
    difference = (points_in_boxes_padded(points, boxes, 1, margin=0.0)[1] - recorded).abs()
    assert int((difference == 0).sum()) >= 60
    assert bool((difference <= 1 + 0.1 * recorded).all())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_fuzz(data):
    draw = data.draw
    n, m = draw(st.integers(0, 300)), draw(st.integers(0, 40))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = draw(st.sampled_from([1e-6, 1e-2, 1.0, 1e6]))
    points, boxes = scene(n, m, draw(st.integers(0, 1000)), size=draw(st.sampled_from([5.0, 60.0])))
    if draw(st.booleans()):  # points on faces, equal boxes
        points, boxes = (points * 2).round() / 2, (boxes * 2).round() / 2
        boxes[:, 6] = (boxes[:, 6]).round() * (math.pi / 2)
    points *= scale
    boxes[:, :6] *= scale
    special = st.sampled_from(
        [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, -1.0, 1e-42, 1e30, -1e6, 3e38]
    )
    if n and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            points[draw(st.integers(0, n - 1)), draw(st.integers(0, 2))] = draw(special)
    if m and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            boxes[draw(st.integers(0, m - 1)), draw(st.integers(0, 6))] = draw(special)
    offset = draw(st.sampled_from([0.0, 0.0, scale * 1e4]))
    points, boxes[:, :3] = (points + offset).to(dtype), boxes[:, :3] + offset
    boxes = boxes.to(dtype)
    variant = draw(st.integers(0, 2))
    if n and m and variant:
        points, boxes = stride_variant(points, variant), stride_variant(boxes, variant)
    margin, z_margin = draw(st.sampled_from([0.0, 1e-5, 0.1])), draw(st.sampled_from([0.0, 0.1]))
    with tenfold.validation("meta"):
        mask = ref.points_in_boxes_mask(points, boxes, margin, z_margin)
        assert_all_forms(points, boxes, mask, margin=margin, z_margin=z_margin)


# ---- traps


@pytest.mark.parametrize("far", [1e6, 1e30])
def test_far_points_and_boxes(far):
    points, boxes = scene(5000, 40)
    points[17], boxes[3, :3] = far, far
    assert_all_forms(points, boxes, numpy_mask(points, boxes))
    begin = time.process_time()
    points_in_boxes(*scene(200_000, 300))
    plain = time.process_time() - begin
    points, boxes = scene(200_000, 300)
    points[17], boxes[3, :3] = far, far
    begin = time.process_time()
    points_in_boxes(points, boxes)
    assert time.process_time() - begin < 20 * plain + 0.05  # all pairs: more than a hundred times


def test_offset_coordinates():
    for dtype in (torch.float32, torch.float64):
        points, boxes = scene(5000, 40, dtype=torch.float64)
        points, boxes = (
            (points + 1e6).to(dtype),
            (boxes + torch.tensor([1e6, 1e6, 1e6, 0, 0, 0, 0])).to(dtype),
        )
        assert_all_forms(points, boxes, numpy_mask(points, boxes))


def test_boxes_of_very_different_sizes():
    points, boxes = scene(5000, 40)
    boxes[5, 3:6] = 1e5
    boxes[6, 3:6] = 1e-4
    boxes[7, 3] = 1e4
    boxes[8, 4] = 1e-3
    assert_all_forms(points, boxes, numpy_mask(points, boxes))


def test_equal_points():
    points, boxes = torch.ones(20_000, 3), scene(0, 30, size=4.0)[1]
    assert_all_forms(points, boxes, numpy_mask(points, boxes))


def test_sizes_that_shrink_and_grow_leave_nothing_behind():
    for n, m in ((5000, 50), (150, 9), (3, 2), (0, 50), (5000, 0), (9000, 60)):
        points, boxes = scene(n, m, n)
        assert_all_forms(points, boxes, numpy_mask(points, boxes))


def test_non_finite_input():
    points, boxes = scene(500, 20, size=8.0)
    clean_points, clean_boxes = points.clone(), boxes.clone()
    points[7, 0], points[8, 2] = float("nan"), float("inf")
    boxes[3, 6], boxes[4, 3] = float("inf"), float("nan")
    clean_points[7:9] = 1e9
    clean_boxes[3:5, 3:6] = 0
    with tenfold.validation("meta"):
        assert_all_forms(points, boxes, numpy_mask(clean_points, clean_boxes))
    for call in (
        points_in_boxes,
        lambda p, b: points_in_boxes(p, b, mode="csr"),
        lambda p, b: points_in_boxes_padded(p, b, 3),
    ):
        with pytest.raises(ValueError, match="points_in_boxes: points: row 7 is not finite"):
            call(points, clean_boxes)
        with pytest.raises(ValueError, match="points_in_boxes: boxes: row 3 is not finite"):
            call(clean_points, boxes)


def test_half_precision_is_computed_in_float32():
    points, boxes = scene(300, 20, size=10.0)
    for dtype in (torch.float16, torch.bfloat16):
        p, b = points.to(dtype), boxes.to(dtype)
        kernels.assert_same(points_in_boxes(p, b), points_in_boxes(p.float(), b.float()))
    kernels.assert_same(
        points_in_boxes(points, boxes.double()), points_in_boxes(points.double(), boxes.double())
    )


# ---- batches


def test_padded_batch_with_lengths():
    points = torch.stack([scene(300, 0, s, size=12.0)[0] for s in range(3)])
    boxes = torch.stack([scene(0, 12, s, size=12.0)[1] for s in range(3)])
    lengths, box_lengths = torch.tensor([300, 100, 0]), torch.tensor([12, 5, 12], dtype=torch.int32)
    points[1, 100:], boxes[1, 5:] = float("nan"), float("nan")  # unused rows are not read
    options = {"lengths": lengths, "box_lengths": box_lengths}
    mask = points_in_boxes(points, boxes, mode="mask", **options)
    first = points_in_boxes(points, boxes, **options)
    table, count = points_in_boxes_padded(points, boxes, 4, **options)
    assert mask.shape == (3, 12, 300)
    for b in range(3):
        n, m = int(lengths[b]), int(box_lengths[b])
        expected = torch.zeros(12, 300, dtype=torch.bool)
        expected[:m, :n] = numpy_mask(points[b, :n], boxes[b, :m])
        kernels.assert_same(mask[b], expected)
        kernels.assert_same(first[b], mask_to_first(expected))
        assert count[b].tolist() == expected.sum(dim=1).tolist()
    args = (points, boxes, 1e-5, 0.0, lengths, box_lengths.long())
    kernels.assert_same(first, ref.points_in_boxes_first(*args))
    kernels.assert_same((table, count), ref.points_in_boxes_padded(points, boxes, 4, *args[2:]))


def test_stacked_batch_uses_global_rows():
    points, boxes = scene(700, 30, size=10.0)
    offsets, box_offsets = torch.tensor([0, 300, 300, 700, 700]), torch.tensor([0, 10, 14, 30, 30])
    options = {"offsets": offsets, "box_offsets": box_offsets}
    mask = torch.zeros(30, 700, dtype=torch.bool)
    for b in range(4):
        p, q = slice(*offsets[b : b + 2].tolist()), slice(*box_offsets[b : b + 2].tolist())
        mask[q, p] = numpy_mask(points[p], boxes[q])
    assert_all_forms(points, boxes, mask, **options)
    kernels.assert_same(
        points_in_boxes(points, boxes, mode="csr", **options),
        ref.points_in_boxes_csr(points, boxes, 1e-5, 0.0, offsets, box_offsets),
    )


def test_nothing_in_nothing_out():
    points, boxes = scene(4, 3)
    none, no_box = torch.zeros(0, 3), torch.zeros(0, 7)
    assert points_in_boxes(none, boxes).shape == (0,)
    assert points_in_boxes(points, no_box).tolist() == [-1] * 4
    assert points_in_boxes(points, no_box, mode="mask").shape == (0, 4)
    assert [t.tolist() for t in points_in_boxes(none, boxes, mode="csr")] == [[0, 0, 0, 0], []]
    assert [t.tolist() for t in points_in_boxes(points, no_box, mode="csr")] == [[0], []]
    assert points_in_boxes_padded(none, boxes, 2)[0].tolist() == [[-1, -1]] * 3
    assert points_in_boxes_padded(points, boxes, 0)[0].shape == (3, 0)
    assert points_in_boxes(torch.zeros(0, 4, 3), torch.zeros(0, 2, 7), mode="mask").shape == (0, 2, 4)
    assert points_in_boxes(torch.zeros(2, 0, 3), torch.zeros(2, 2, 7)).shape == (2, 0)
    zeros = torch.tensor([0, 0, 0])
    assert points_in_boxes(none, no_box, offsets=zeros, box_offsets=zeros).shape == (0,)


# ---- the same bits everywhere


def test_threads_levels_strides():
    points, boxes = scene(80_000, 30, size=40.0)
    for call in (
        lambda: points_in_boxes(points, boxes),
        lambda: points_in_boxes(points, boxes[:4]),
        lambda: points_in_boxes(points, boxes, mode="mask"),
        lambda: points_in_boxes(points, boxes, mode="csr"),
        lambda: points_in_boxes(points.double(), boxes.double(), mode="csr"),
        lambda: points_in_boxes_padded(points, boxes, 20),
        lambda: points_in_boxes(points.view(8, -1, 3), boxes[None].expand(8, -1, -1)),
    ):
        kernels.check_threads(call)
        kernels.check_levels(call)
    kernels.check_strides(points_in_boxes, points[:500], boxes)
    kernels.check_strides(lambda p, b: points_in_boxes(p, b, mode="csr"), points[:500], boxes)


def test_operator_checks():
    points, boxes = scene(200, 9, size=8.0)
    offsets, box_offsets = torch.tensor([0, 100, 200]), torch.tensor([0, 4, 9])
    ops = torch.ops.tenfold
    rest = (1e-5, 0.0, None, None, offsets, box_offsets, True)
    kernels.check_op(ops.points_in_boxes_first.default, (points, boxes, *rest))
    kernels.check_op(ops.points_in_boxes_mask.default, (points, boxes, *rest))
    kernels.check_op(ops.points_in_boxes_csr.default, (points, boxes, 1e-5, 0.0, None, None, True))
    kernels.check_op(ops.points_in_boxes_padded.default, (points, boxes, 3, *rest))


def test_compiles_without_graph_breaks():
    def summary(points, boxes):
        first = points_in_boxes(points, boxes)
        mask = points_in_boxes(points, boxes, mode="mask")
        offsets, point = points_in_boxes(points, boxes, mode="csr")
        table, count = points_in_boxes_padded(points, boxes, 4)
        return first + mask.sum(dim=0), offsets * 2, point + 1, table + count[:, None]

    compiled = torch.compile(summary, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (100, 300):
        points, boxes = scene(n, 12, size=8.0)
        kernels.assert_same(compiled(points, boxes), summary(points, boxes))


def test_no_gradient():
    points, boxes = scene(50, 4, size=5.0)
    points.requires_grad_()
    boxes.requires_grad_()
    for result in (
        (points_in_boxes(points, boxes), points_in_boxes(points, boxes, mode="mask")),
        points_in_boxes(points, boxes, mode="csr"),
        points_in_boxes_padded(points, boxes, 3),
    ):
        assert not any(t.requires_grad for t in result)


@pytest.mark.skipif(_native.cpu_level() == 0, reason="counts the kernels' scratch bytes")
def test_scratch_bound():
    for n in (2_000, 20_000, 120_000):
        points, boxes = scene(n, 50, size=30.0)
        hits = int(points_in_boxes(points, boxes, mode="mask").sum())
        for mode in ("first", "mask", "csr"):
            call = partial(points_in_boxes, points, boxes, mode=mode)
            assert kernels.scratch_bytes(call) <= 24 * n + 8 * hits + 128 * len(boxes) + 4096, mode


# ---- messages

P, B = scene(6, 2)
PADDED = P.view(2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: points_in_boxes([1], B), TypeError, "points_in_boxes: points: got list"),
        (lambda: points_in_boxes(P.long(), B), TypeError, "points_in_boxes: points: got torch.int64"),
        (lambda: points_in_boxes(P, B.int()), TypeError, "points_in_boxes: boxes: got torch.int32"),
        (
            lambda: points_in_boxes(torch.zeros(6, 4), B),
            ValueError,
            r"points: got shape \(6, 4\); .* slice the",
        ),
        (
            lambda: points_in_boxes(P, torch.zeros(2, 9)),
            ValueError,
            r"boxes: got shape \(2, 9\); .*dx, dy, dz, yaw",
        ),
        (lambda: points_in_boxes(P, B[0]), ValueError, r"boxes: got shape \(7,\); expected \(M, 7\)"),
        (lambda: points_in_boxes(P, B[None]), ValueError, "boxes: .*both padded or both stacked"),
        (
            lambda: points_in_boxes(PADDED, B[None]),
            ValueError,
            "boxes: got batch size 1; expected that of points, 2",
        ),
        (lambda: points_in_boxes(P, B.to("meta")), ValueError, "points_in_boxes: boxes: on meta"),
        (lambda: points_in_boxes(P, B, mode="all"), ValueError, "points_in_boxes: mode: got 'all'"),
        (
            lambda: points_in_boxes(PADDED, B[:, None], mode="csr"),
            ValueError,
            "mode: got 'csr' with padded points",
        ),
        (lambda: points_in_boxes(P, B, margin=-1), ValueError, "points_in_boxes: margin: got -1"),
        (lambda: points_in_boxes(P, B, margin=float("nan")), ValueError, "points_in_boxes: margin: got nan"),
        (lambda: points_in_boxes(P, B, z_margin=math.inf), ValueError, "points_in_boxes: z_margin: got inf"),
        (lambda: points_in_boxes(P, B, lengths=torch.tensor([6])), ValueError, "lengths: .*use offsets"),
        (
            lambda: points_in_boxes(P, B, offsets=torch.tensor([0, 3, 6])),
            ValueError,
            "box_offsets: got 1 batch",
        ),
        (
            lambda: points_in_boxes(P, B, offsets=torch.tensor([0, 7]), box_offsets=torch.tensor([0, 2])),
            ValueError,
            "points_in_boxes: offsets: entry 1 is 7",
        ),
        (
            lambda: points_in_boxes(P, B, offsets=torch.tensor([0, 6]), box_offsets=torch.tensor([1, 2])),
            ValueError,
            "points_in_boxes: box_offsets: entry 0 is 1",
        ),
        (
            lambda: points_in_boxes(PADDED, B[:, None], box_lengths=torch.tensor([0, 2])),
            ValueError,
            "points_in_boxes: box_lengths: entry 1 is 2",
        ),
        (lambda: points_in_boxes_padded(P, B, -1), ValueError, "points_in_boxes_padded: max_points: got -1"),
        (
            lambda: points_in_boxes_padded(P, B[:, :6], 1),
            ValueError,
            "points_in_boxes_padded: boxes: got shape",
        ),
    ],
)
def test_messages(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_raw_operator_misuse_raises():
    ops = torch.ops.tenfold
    good = torch.zeros(4, 3)
    boxes = torch.zeros(2, 7)
    bad = [
        (torch.zeros(4), boxes, 0.0, 0.0),
        (torch.zeros(4, 2), boxes, 0.0, 0.0),
        (good, torch.zeros(2, 6), 0.0, 0.0),
        (good, boxes.double(), 0.0, 0.0),
        (good.half(), boxes.half(), 0.0, 0.0),
        (good.long(), boxes.long(), 0.0, 0.0),
        (torch.zeros(2, 4, 3), torch.zeros(3, 4, 7), 0.0, 0.0),
        (good, boxes, float("nan"), 0.0),
        (good, boxes, 0.0, -1.0),
    ]
    for args in bad:
        for op in (ops.points_in_boxes_first, ops.points_in_boxes_mask):
            with pytest.raises(RuntimeError, match="expected"):
                op(*args, None, None, None, None, True)
        with pytest.raises(RuntimeError, match="expected"):
            ops.points_in_boxes_csr(*args, None, None, True)
        with pytest.raises(RuntimeError, match="expected"):
            ops.points_in_boxes_padded(*args[:2], 3, *args[2:], None, None, None, None, True)
    with pytest.raises(RuntimeError, match="expected"):
        ops.points_in_boxes_csr(torch.zeros(2, 4, 3), torch.zeros(2, 4, 7), 0.0, 0.0, None, None, True)
    with pytest.raises(RuntimeError, match="expected"):
        ops.points_in_boxes_padded(good, boxes, -1, 0.0, 0.0, None, None, None, None, True)
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="expected"):
        ops.points_in_boxes_first(good, boxes, 0.0, 0.0, None, None, empty, empty, True)
