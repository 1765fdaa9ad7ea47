"""Membership and voxels in NumPy: the same results as the torch ops and as plain Python, in both bindings."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tenfold import host, ops

SIZE, RANGE = (0.5, 0.5, 1.0), (-5.0, -5.0, -2.0, 5.0, 5.0, 2.0)


def scene(dtype, points=3000, boxes=20, seed=0):
    rng = np.random.default_rng(seed)
    b = np.concatenate(
        [rng.uniform(-5, 5, (boxes, 3)), rng.uniform(0.5, 5, (boxes, 3)), rng.uniform(-7, 7, (boxes, 1))],
        axis=1,
    )
    b[:, 2] /= 4
    b[3, 3:6] = 0
    return rng.uniform(-6, 6, (points, 3)).astype(dtype) * dtype([1, 1, 0.4]), b.astype(dtype)


def plain_mask(points, boxes):
    """The definition in float64, without the margins: for points that are not near a face."""
    mask = np.zeros((len(boxes), len(points)), bool)
    for row, (x, y, z, dx, dy, dz, yaw) in enumerate(boxes.astype(np.float64)):
        px, py, pz = (points.astype(np.float64) - [x, y, z]).T
        along, across = px * np.cos(yaw) + py * np.sin(yaw), py * np.cos(yaw) - px * np.sin(yaw)
        mask[row] = (abs(along) < dx / 2) & (abs(across) < dy / 2) & (abs(pz) <= dz / 2)
    return mask


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [0, 1, 3000, 70000])
def test_membership_equals_the_op_and_the_definition(dtype, points):
    p, b = scene(dtype, points)
    mask = host.points_in_boxes(p, b, mode="mask")
    assert mask.dtype == np.bool_
    assert (mask != plain_mask(p, b)).sum() <= 1e-5 * mask.size
    torch_p, torch_b = torch.from_numpy(p), torch.from_numpy(b)
    np.testing.assert_array_equal(mask, ops.points_in_boxes(torch_p, torch_b, mode="mask").numpy())
    first = host.points_in_boxes(p, b)
    np.testing.assert_array_equal(first, np.where(mask.any(0), mask.argmax(0), -1))
    assert first.dtype == np.int32
    offsets, point = host.points_in_boxes(p, b, mode="csr")
    np.testing.assert_array_equal(offsets, np.concatenate([[0], np.cumsum(mask.sum(1))]))
    np.testing.assert_array_equal(point, np.nonzero(mask)[1])
    assert (offsets.dtype, point.dtype) == (np.int64, np.int32)


@pytest.mark.usefixtures("binding")
def test_margins_and_no_boxes():
    box = np.array([[0.0, 0, 0, 2, 2, 2, 0]])
    points = np.array([[1.05, 0, 0], [0, 0, 1.05], [0, 0, 1.0], [1.0, 0, 0]])
    assert host.points_in_boxes(points, box).tolist() == [-1, -1, 0, 0]
    assert host.points_in_boxes(points, box, margin=0.0).tolist() == [-1, -1, 0, -1]
    assert host.points_in_boxes(points, box, margin=0.1, z_margin=0.1).tolist() == [0, 0, 0, 0]
    none = np.zeros((0, 7))
    assert host.points_in_boxes(points, none).tolist() == [-1] * 4
    assert host.points_in_boxes(points, none, mode="mask").shape == (0, 4)
    assert [x.tolist() for x in host.points_in_boxes(points, none, mode="csr")] == [[0], []]


def plain_voxels(points, max_points, max_voxels):
    """The definition in plain Python: cells of float32 divisions, first come, first served."""
    lower, size = points.dtype.type(RANGE[:3]), points.dtype.type(SIZE)
    cells, stored, where, dropped = {}, [], [], [0, 0, 0]
    for p in points:
        cell = tuple(np.floor((p[:3] - lower) / size).astype(int)[::-1])
        if any(c < 0 or c >= n for c, n in zip(cell, (4, 20, 20))):
            dropped[0] += 1
            where.append(-1)
        elif cell not in cells and len(cells) == max_voxels:
            dropped[1] += 1
            where.append(-1)
        else:
            row = cells.setdefault(cell, len(cells))
            if row == len(stored):
                stored.append([])
            where.append(row)
            if len(stored[row]) < max_points:
                stored[row].append(p)
            else:
                dropped[2] += 1
    return list(cells), stored, where, dropped


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 10**9), (3, 500), (10, 20)])
def test_voxels_equal_the_op_and_plain_python(dtype, max_points, max_voxels):
    rng = np.random.default_rng(1)
    points = np.concatenate([scene(dtype)[0], rng.random((3000, 2)).astype(dtype)], axis=1)
    got = host.voxelize(points, SIZE, RANGE, max_points, max_voxels)
    coords, stored, where, dropped = plain_voxels(points, max_points, max_voxels)
    assert got.coords[:, 1:].tolist() == [list(map(int, c)) for c in coords]
    assert got.point2voxel.tolist() == where
    assert got.dropped.tolist() == dropped
    assert got.num_points.tolist() == [len(s) for s in stored]
    for row, want in zip(got.voxels, stored, strict=True):
        np.testing.assert_array_equal(row[: len(want)], want)
        assert not row[len(want) :].any()
    for mean in (False, True):
        ours = host.voxelize(points, SIZE, RANGE, max_points, max_voxels, mean=mean)
        theirs = ops.voxelize(torch.from_numpy(points), SIZE, RANGE, max_points, max_voxels, mean=mean)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b.numpy())
            assert a.dtype == b.numpy().dtype


@pytest.mark.usefixtures("binding")
def test_voxels_of_a_batch_and_of_nothing():
    points = scene(np.float32)[0]
    offsets = np.array([0, 0, 1000, 3000])
    ours = host.voxelize(points, SIZE, RANGE, 4, 300, offsets=offsets)
    theirs = ops.voxelize(torch.from_numpy(points), SIZE, RANGE, 4, 300, offsets=torch.from_numpy(offsets))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    nothing = host.voxelize(points[:0], SIZE, RANGE, 4, 300)
    assert nothing.voxels.shape == (0, 4, 3)
    assert host.voxelize(points + np.float32(100), SIZE, RANGE, 4, 300, mean=True).voxels.shape == (0, 3)
    # 64-bit keys: more cells than 32 bits count
    fine = host.voxelize(points, (1e-3, 1e-3, 1e-3), RANGE, 2, 10**6)
    wide = ops.voxelize(torch.from_numpy(points), (1e-3, 1e-3, 1e-3), RANGE, 2, 10**6)
    np.testing.assert_array_equal(fine.coords, wide.coords.numpy())


def bad_row(points, row):
    points = points.copy()
    points[row, 1] = np.nan
    return points


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p, b: host.points_in_boxes(p, b.astype(np.float64)),
            TypeError,
            "boxes: got float64; expected float32",
        ),
        (
            lambda p, b: host.points_in_boxes(p.astype(int), b),
            TypeError,
            "points: got int64; expected float32 or",
        ),
        (
            lambda p, b: host.points_in_boxes(p[:, :2], b),
            ValueError,
            r"points: got shape \(50, 2\); expected \(N, 3\)",
        ),
        (lambda p, b: host.points_in_boxes(p, b[:, :6]), ValueError, r"boxes: got shape \(4, 6\)"),
        (lambda p, b: host.points_in_boxes(p, b, mode="all"), ValueError, "mode: got 'all'"),
        (lambda p, b: host.points_in_boxes(p, b, margin=-1), ValueError, "margin: got -1"),
        (lambda p, b: host.points_in_boxes(p, b, z_margin=np.nan), ValueError, "z_margin: got nan"),
        (lambda p, b: host.points_in_boxes(bad_row(p, 7), b), ValueError, "points: row 7 is not finite"),
        (
            lambda p, b: host.points_in_boxes(p, bad_row(b, 2), mode="csr"),
            ValueError,
            "boxes: row 2 is not finite",
        ),
        (
            lambda p, b: host.voxelize(bad_row(p, 9), SIZE, RANGE, 1, 1),
            ValueError,
            "points: row 9 is not finite",
        ),
        (lambda p, b: host.voxelize(p[:, :2], SIZE, RANGE, 1, 1), ValueError, r"points: got shape \(50, 2\)"),
        (
            lambda p, b: host.voxelize(p.astype(np.float16), SIZE, RANGE, 1, 1),
            TypeError,
            "points: got float16",
        ),
        (lambda p, b: host.voxelize(p, SIZE, RANGE, 0, 1), ValueError, "max_points: got 0"),
        (lambda p, b: host.voxelize(p, SIZE, RANGE, 1, 0), ValueError, "max_voxels: got 0"),
        (lambda p, b: host.voxelize(p, SIZE[:2], RANGE, 1, 1), ValueError, "voxel_size: got shape"),
        (lambda p, b: host.voxelize(p, (0.5, 0, 1), RANGE, 1, 1), ValueError, "voxel_size: got .* above 0"),
        (lambda p, b: host.voxelize(p, SIZE, RANGE[:5], 1, 1), ValueError, "point_range: got shape"),
        (lambda p, b: host.voxelize(p, SIZE, RANGE[::-1], 1, 1), ValueError, "point_range: .* lower < upper"),
        (lambda p, b: host.voxelize(p, (99, 1, 1), RANGE, 1, 1), ValueError, "voxel_size: the grid has"),
        (lambda p, b: host.voxelize(p, (1e-9, 1, 1), RANGE, 1, 1), ValueError, "voxel_size: the grid has"),
        (
            lambda p, b: host.voxelize(p, (1e-8, 1e-8, 1e-8), RANGE, 1, 1),
            ValueError,
            "fewer than 2.63 in all",
        ),
        (
            lambda p, b: host.voxelize(p, SIZE, RANGE, 2**31, 9),
            ValueError,
            "max_points: got .* fewer than 2.31 rows",
        ),
        (
            lambda p, b: host.voxelize(p, SIZE, RANGE, 1, 1, offsets=[0, 51]),
            ValueError,
            "offsets: expected non-decr",
        ),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(*scene(np.float32, 50, 4))


def test_threads_do_not_disturb_each_other():
    def work(seed):
        points, boxes = scene(np.float32, 2000, seed=seed)
        double = boxes.astype(np.float64)
        return (
            host.points_in_boxes(points, boxes),
            host.voxelize(points, SIZE, RANGE, 4, 500).voxels,
            host.box_iou_3d(double, double),
        )

    expected = [work(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for want, got in zip(expected * 4, pool.map(work, list(range(8)) * 4), strict=True):
            for a, b in zip(want, got, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("binding")
def test_other_threads_run_during_a_call():
    boxes = scene(np.float64, 1, 3000)[1]
    started, ticks = threading.Event(), []

    def work():
        started.set()
        begin = time.perf_counter()
        host.box_iou_3d(boxes, boxes)
        ticks.append((begin, time.perf_counter()))

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    seen = []
    while worker.is_alive():
        seen.append(time.perf_counter())
        time.sleep(0.001)
    begin, end = ticks[0]
    # Were the lock held, this thread would not have run between the call's start and its end.
    quarter = (end - begin) / 4
    assert sum(begin + quarter < t < end - quarter for t in seen) >= 3
