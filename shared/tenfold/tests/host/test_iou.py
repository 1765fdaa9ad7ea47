"""Box overlaps in NumPy: against polygons, against the torch ops bit for bit, frame by frame."""

import numpy as np
import pytest
import shapely
import torch

from tenfold import host, ops


def random_boxes(n, seed, spread=8.0):
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(-spread, spread, (n, 3)), rng.uniform(0.3, 6, (n, 3))
    return np.concatenate([centres, sizes, rng.uniform(-7, 7, (n, 1))], axis=1)


def footprint(box):
    x, y, _, dx, dy, _, yaw = box
    corners = np.array([[dx, dy], [-dx, dy], [-dx, -dy], [dx, -dy]]) / 2
    turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
    return shapely.Polygon(corners @ turn + [x, y])


def polygon_overlaps(a, b, kind, mode):
    result = np.zeros((len(a), len(b)))
    for i, p in enumerate(a):
        for j, q in enumerate(b):
            inter = footprint(p).intersection(footprint(q)).area
            sizes = [s[3] * s[4] for s in (p, q)]
            if kind == "3d":
                top = min(p[2] + p[5] / 2, q[2] + q[5] / 2)
                inter *= max(0.0, top - max(p[2] - p[5] / 2, q[2] - q[5] / 2))
                sizes = [s[3] * s[4] * s[5] for s in (p, q)]
            below = {"iou": sizes[0] + sizes[1] - inter, "inter": 1.0, "iof": sizes[0]}[mode]
            result[i, j] = inter / below
    return result


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("kind", ["bev", "3d"])
@pytest.mark.parametrize("mode", ["iou", "inter", "iof"])
def test_rotated_overlaps_equal_polygons(kind, mode):
    a, b = random_boxes(30, 1, 4.0), random_boxes(25, 2, 4.0)
    function = host.box_iou_bev if kind == "bev" else host.box_iou_3d
    expected = polygon_overlaps(a, b, kind, mode)
    assert (expected > 0).mean() > 0.1
    np.testing.assert_allclose(function(a, b, mode=mode), expected, atol=1e-10)


@pytest.mark.usefixtures("binding")
def test_same_bits_as_the_torch_ops():
    a, b = random_boxes(200, 3), random_boxes(150, 4)
    b[:50] = a[:50]
    for mode in ("iou", "inter", "iof"):
        for ours, theirs in ((host.box_iou_bev, ops.box_iou_bev), (host.box_iou_3d, ops.box_iou_3d)):
            want = theirs(torch.from_numpy(a), torch.from_numpy(b), mode=mode).numpy()
            np.testing.assert_array_equal(ours(a, b, mode=mode), want)
    assert (host.box_iou_3d(a, a).diagonal() == 1.0).all()


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_sizes_beyond_double_have_no_overlap(scale):
    box = np.array([[0.0, 0, scale, scale]])
    rotated = np.array([[0.0, 0, 0, scale, scale, scale, 0]])
    for mode in ("iou", "inter", "iof"):
        assert host.box_iou_2d(box, box, mode=mode)[0, 0] == 0
        assert host.box_iou_bev(rotated, rotated, mode=mode)[0, 0] == 0


def test_closed_forms():
    square = np.array([[3.0, -2, 1, 2, 2, 2, 0.3]])
    turned = square + np.array([0, 0, 0, 0, 0, 0, np.pi / 4])
    assert host.box_iou_bev(square, turned)[0, 0] == pytest.approx(1 / np.sqrt(2), abs=1e-12)
    touching = square + np.array([2 * np.cos(0.3), 2 * np.sin(0.3), 0, 0, 0, 0, 0])
    assert host.box_iou_bev(square, touching)[0, 0] == 0
    assert host.box_iou_3d(square, square * [1, 1, 1, 0, 1, 1, 1])[0, 0] == 0
    assert host.box_iou_3d(square, square + np.array([0, 0, 2, 0, 0, 0, 0]))[0, 0] == 0


@pytest.mark.usefixtures("binding")
def test_image_boxes_equal_shapely():
    rng = np.random.default_rng(0)
    a, b = (np.concatenate([c, c + rng.uniform(-1, 9, (40, 2))], 1) for c in rng.uniform(0, 9, (2, 40, 2)))

    def area(box):
        return shapely.box(*box) if box[2] > box[0] and box[3] > box[1] else shapely.Polygon()

    p, q = ([area(box) for box in boxes] for boxes in (a, b))
    inter = shapely.area(shapely.intersection(np.array(p)[:, None], np.array(q)))
    p, q = shapely.area(p)[:, None], shapely.area(q)
    for mode, below in (("iou", p + q - inter), ("iof", p), ("inter", 1.0)):
        expected = np.divide(inter, below, out=np.zeros_like(inter), where=inter > 0)
        np.testing.assert_allclose(host.box_iou_2d(a, b, mode=mode), expected, atol=1e-12, rtol=0)
    assert 0.1 < (inter > 0).mean() < 0.9


@pytest.mark.usefixtures("binding")
@pytest.mark.parametrize("kind", ["2d", "bev", "3d"])
def test_frames_are_blocks_of_all_pairs(kind):
    rng = np.random.default_rng(5)
    counts = rng.integers(0, 7, (2, 40))
    rows = np.concatenate([np.zeros((2, 1), np.int64), np.cumsum(counts, axis=1)], axis=1)
    a, b = (random_boxes(r[-1], i, spread=3) for i, r in enumerate(rows))
    if kind == "2d":
        a, b = (np.concatenate([x[:, :2], x[:, :2] + x[:, 3:5]], 1) for x in (a, b))
    function = {"2d": host.box_iou_2d, "bev": host.box_iou_bev, "3d": host.box_iou_3d}[kind]
    bounds = zip(rows[0], rows[0][1:], rows[1], rows[1][1:], strict=False)
    blocks = [function(a[i:j], b[k:m]).ravel() for i, j, k, m in bounds]
    got = host.box_iou_frames(a, b, *rows, kind=kind)
    np.testing.assert_array_equal(got, np.concatenate(blocks))
    assert (got > 0).any()


@pytest.mark.parametrize("function", [host.box_iou_bev, host.box_iou_3d])
def test_empty_sets_and_layouts(function):
    none, some = np.zeros((0, 7)), random_boxes(6, 0)
    assert function(none, some).shape == (0, 6)
    assert function(some, none).shape == (6, 0)
    assert host.box_iou_2d(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0, 0)
    assert host.box_iou_frames(none, none, [0], [0]).shape == (0,)
    before = some.copy()
    expected = function(before[::2].copy(), before[::-1].copy())
    np.testing.assert_array_equal(function(some[::2], some[::-1]), expected)
    np.testing.assert_array_equal(some, before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda b: host.box_iou_bev(b.astype(np.float32), b),
            TypeError,
            "box_iou_bev: a: got float32; expected float64",
        ),
        (
            lambda b: host.box_iou_3d(b, b[:, :5]),
            ValueError,
            r"box_iou_3d: b: got shape \(3, 5\); expected \(N, 7\)",
        ),
        (
            lambda b: host.box_iou_2d(b, b),
            ValueError,
            r"box_iou_2d: a: got shape \(3, 7\); expected \(N, 4\)",
        ),
        (lambda b: host.box_iou_bev(b[0], b), ValueError, r"box_iou_bev: a: got shape \(7,\)"),
        (
            lambda b: host.box_iou_bev(b, b, mode="giou"),
            ValueError,
            "mode: got 'giou'; expected one of 'iou'",
        ),
        (lambda b: host.box_iou_frames(b, b, [0, 3], [0, 3], kind="4d"), ValueError, "kind: got '4d'"),
        (
            lambda b: host.box_iou_frames(b, b, [0, 4], [0, 3]),
            ValueError,
            "a_offsets: expected non-decreasing",
        ),
        (
            lambda b: host.box_iou_frames(b, b, [0, 3], [0, 3, 3]),
            ValueError,
            "b_offsets: got 3 entries; expected 2",
        ),
        (lambda b: host.box_iou_3d(b, np.where(b == b[1], np.nan, b)), ValueError, "b: row 1 is not finite"),
        (lambda b: host.box_iou_3d(np.where(b == b[0], np.inf, b), b), ValueError, "a: row 0 is not finite"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(random_boxes(3, 0))
