"""Greedy matching: against pycocotools, and against the rules of each benchmark said once more in plain Python."""

import itertools

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tenfold import host

pytestmark = pytest.mark.usefixtures("binding")


def frames(seed, count=15, most=7):
    """Offsets of detections and ground truth of many frames, some empty; a generator for the rest."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, most, (2, count))
    det, gt = (np.concatenate([[0], np.cumsum(s)]).astype(np.int64) for s in sizes)
    return det, gt, rng


def frame_of(offsets):
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def overlap_case(seed):
    """Overlaps and scores on a coarse grid, so that ties are common."""
    det, gt, rng = frames(seed)
    flat = rng.integers(0, 11, int((np.diff(det) * np.diff(gt)).sum())) / 10
    return det, gt, flat, rng.integers(0, 6, det[-1]) / 8, rng


def block(det, gt, flat, f):
    start = int((np.diff(det)[:f] * np.diff(gt)[:f]).sum())
    return flat[start : start + (det[f + 1] - det[f]) * (gt[f + 1] - gt[f])].reshape(det[f + 1] - det[f], -1)


def naive_nuscenes(det, gt, det_xy, gt_xy, score, threshold):
    frame = frame_of(det)
    taken, match = set(), [-1] * len(score)
    for _, d in sorted(((s, i) for i, s in enumerate(score)), reverse=True):
        near = [
            (float(np.hypot(*(det_xy[d] - gt_xy[g]))), g)
            for g in range(gt[frame[d]], gt[frame[d] + 1])
            if g not in taken
        ]
        if near and min(near)[0] < threshold:
            match[d] = min(near)[1]
            taken.add(match[d])
    return match


@pytest.mark.parametrize("seed", range(25))
def test_nuscenes_equals_a_plain_restatement(seed):
    det, gt, rng = frames(seed)
    det_xy, gt_xy = (rng.integers(0, 8, (n, 2)) / 2 for n in (det[-1], gt[-1]))
    score = rng.integers(0, 6, det[-1]) / 8
    got = host.match_nuscenes(det, gt, det_xy, gt_xy, score)
    assert got.order.tolist() == sorted(range(len(score)), key=lambda i: (-score[i], -i))
    for row, threshold in enumerate((0.5, 1.0, 2.0, 4.0)):
        assert got.match[row].tolist() == naive_nuscenes(det, gt, det_xy, gt_xy, score, threshold)
        found = got.match[row] >= 0
        away = np.linalg.norm(det_xy[found] - gt_xy[got.match[row][found]], axis=1)
        np.testing.assert_allclose(got.distance[row][found], away, rtol=1e-15)
        assert np.isposinf(got.distance[row][~found]).all()


def test_nuscenes_takes_the_later_of_equal_scores_and_a_strict_bound():
    got = host.match_nuscenes([0, 2], [0, 1], np.zeros((2, 2)), np.array([[0.5, 0]]), np.ones(2), [0.5, 0.6])
    assert got.match.tolist() == [[-1, -1], [-1, 0]]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_nuscenes_distances_of_any_size(scale):
    args = ([0, 1], [0, 2], np.zeros((1, 2)), np.array([[3.0, 4], [1, 1]]) * scale, np.ones(1), [2 * scale])
    got = host.match_nuscenes(*args)
    assert got.match.tolist() == [[1]]
    assert got.distance[0, 0] == pytest.approx(np.sqrt(2) * scale, rel=1e-12)


def naive_voc(det, gt, flat, score, difficult, bar, inclusive):
    frame, taken, state = frame_of(det), set(), [0] * len(score)
    for d in sorted(range(len(score)), key=lambda i: (-score[i], i)):
        row = block(det, gt, flat, frame[d])[d - det[frame[d]]]
        if len(row) == 0 or not (row.max() >= bar if inclusive else row.max() > bar):
            continue
        g = gt[frame[d]] + int(np.flatnonzero(row == row.max())[0])
        if difficult[g]:
            state[d] = -1
        elif g not in taken:
            state[d] = 1
            taken.add(g)
    return state


@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("seed", range(15))
def test_voc_equals_a_plain_restatement(seed, inclusive):
    det, gt, flat, score, rng = overlap_case(seed)
    difficult = rng.random(gt[-1]) < 0.3
    got = host.match_voc(det, gt, flat, score, difficult, 0.5, inclusive=inclusive)
    assert got.state.tolist() == naive_voc(det, gt, flat, score, difficult, 0.5, inclusive)
    assert ((got.match >= 0) | (got.state == 0)).all()


def coco_evaluation(seed, images=12):
    """A COCO data set of one class with crowds, and detections that often overlap it."""
    rng = np.random.default_rng(seed)
    truths, found, number = [], [], itertools.count(1)
    for image in range(1, images + 1):
        boxes = rng.integers(1, 20, (rng.integers(0, 7), 4)).astype(float)
        for box in boxes:
            area = float(box[2] * box[3])
            crowd = int(rng.random() < 0.2)
            truths.append(
                {"id": next(number), "image_id": image, "category_id": 1, "area": area, "iscrowd": crowd}
                | {"bbox": box.tolist()}
            )
        near = boxes[rng.integers(0, len(boxes), 8)] if len(boxes) else np.zeros((0, 4))
        for box in np.concatenate([near, rng.integers(1, 20, (4, 4))]) + rng.integers(
            0, 3, (len(near) + 4, 4)
        ):
            score = float(rng.integers(0, 6) / 8)
            found.append({"image_id": image, "category_id": 1, "bbox": box.tolist(), "score": score})
    data = COCO()
    data.dataset = {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": 1}],
        "annotations": truths,
    }
    data.createIndex()
    evaluation = COCOeval(data, data.loadRes(found), "bbox")
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 80]], ["small"]
    evaluation.evaluate()
    return evaluation


@pytest.mark.parametrize("seed", range(6))
def test_coco_equals_pycocotools(seed, capsys):
    evaluation = coco_evaluation(seed)
    capsys.readouterr()
    images = evaluation.params.imgIds
    truth = [evaluation._gts[i, 1] for i in images]
    found = [evaluation._dts[i, 1] for i in images]
    gt, det = (np.concatenate([[0], np.cumsum([len(x) for x in s])]).astype(np.int64) for s in (truth, found))
    # What pycocotools reports are the overlaps in the order of descending score; ours are in the given order.
    blocks = []
    for image, dets, gts in zip(images, found, truth, strict=True):
        ranked = np.argsort([-d["score"] for d in dets], kind="mergesort")
        back = np.empty(len(dets), int)
        back[ranked] = np.arange(len(dets))
        overlap = np.asarray(evaluation.ious[image, 1]).reshape(len(dets), len(gts))
        blocks.append(overlap[back].ravel())
    flat = np.concatenate([np.zeros(0), *blocks])
    objects = [g for gts in truth for g in gts]
    score = np.array([d["score"] for dets in found for d in dets])
    crowd = np.array([g["iscrowd"] for g in objects], bool)
    ignored = np.array([bool(g["iscrowd"]) or not 0 <= g["area"] <= 80 for g in objects])
    got = host.match_coco(det, gt, flat, score, ignored, crowd, evaluation.params.iouThrs)
    ids = np.array([*(g["id"] for g in objects), 0])
    matched = 0
    for f, result in enumerate(evaluation.evalImgs):
        if result is None:
            assert det[f] == det[f + 1]
            assert gt[f] == gt[f + 1]
            continue
        rows = det[f] + np.argsort(got.rank[det[f] : det[f + 1]])
        np.testing.assert_array_equal(ids[got.match[:, rows]], result["dtMatches"])
        inside = result["dtMatches"] > 0
        np.testing.assert_array_equal(got.ignored[:, rows][inside], result["dtIgnore"].astype(bool)[inside])
        matched += int(inside.sum())
    assert matched > 50


def test_coco_ranks_cut_like_fewer_detections():
    det, gt, flat, score, _ = overlap_case(5)
    none = np.zeros(gt[-1], bool)
    got = host.match_coco(det, gt, flat, score, none, none)
    keep = got.rank < 2
    frame = frame_of(det)
    rows = np.concatenate([np.full(np.diff(gt)[frame[d]], keep[d]) for d in range(det[-1])])
    fewer = np.concatenate([[0], np.cumsum(np.bincount(frame[keep], minlength=len(det) - 1))]).astype(
        np.int64
    )
    again = host.match_coco(fewer, gt, flat[rows], score[keep], none, none)
    np.testing.assert_array_equal(again.match, got.match[:, keep])


@pytest.mark.parametrize("seed", range(30))
def test_greedy_pairs_equal_a_plain_restatement(seed):
    rng = np.random.default_rng(seed)
    score = rng.integers(0, 6, tuple(rng.integers(0, 8, 2))) / 4
    match, taken = [-1] * len(score), set()
    for _, row, column in sorted((-s, r, c) for (r, c), s in np.ndenumerate(score)):
        if score[row, column] >= 0.5 and match[row] < 0 and column not in taken:
            match[row] = column
            taken.add(column)
    assert host.greedy_assign(score, 0.5).tolist() == match


def test_results_are_the_same_bits_in_both_bindings(both_bindings):
    for seed in range(20):
        det, gt, flat, score, rng = overlap_case(seed)
        centres = [rng.uniform(0, 4, (n, 2)) for n in (det[-1], gt[-1])]
        flags = rng.random((2, gt[-1])) < 0.3
        calls = (
            lambda d=det, g=gt, c=centres, s=score: host.match_nuscenes(d, g, *c, s),
            lambda d=det, g=gt, o=flat, s=score, f=flags: host.match_voc(d, g, o, s, f[0]),
            lambda d=det, g=gt, o=flat, s=score, f=flags: host.match_coco(d, g, o, s, *f),
        )
        for call in calls:
            first, second = both_bindings(call)
            for name in vars(first):
                np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_no_frames_and_no_rows():
    zero, none = np.zeros(1, np.int64), np.zeros(0)
    assert host.match_nuscenes(zero, zero, none.reshape(0, 2), none.reshape(0, 2), none).match.shape == (4, 0)
    assert host.match_voc(zero, zero, none, none, none.astype(bool)).state.shape == (0,)
    assert host.match_coco(zero, zero, none, none, none.astype(bool), none.astype(bool)).match.shape == (
        10,
        0,
    )
    assert host.greedy_assign(np.zeros((0, 3))).shape == (0,)
    assert host.greedy_assign(np.zeros((2, 0))).tolist() == [-1, -1]


ONE = np.array([0, 1])
XY = np.zeros((1, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: host.match_nuscenes(ONE, ONE, XY[:, :1], XY, np.ones(1)),
            ValueError,
            r"det_xy: got shape \(1, 1\)",
        ),
        (
            lambda: host.match_nuscenes(ONE, ONE, XY, XY * np.nan, np.ones(1)),
            ValueError,
            "gt_xy: row 0 is not fi",
        ),
        (
            lambda: host.match_nuscenes(ONE, [0, 2], XY, XY, np.ones(1)),
            ValueError,
            "gt_offsets: expected non-decr",
        ),
        (
            lambda: host.match_nuscenes(ONE, ONE, XY, XY, np.ones(2)),
            ValueError,
            "det_score: got 2 entries; expected 1",
        ),
        (
            lambda: host.match_voc(ONE, ONE, np.ones(1), np.ones(1), np.ones(1)),
            TypeError,
            "difficult: got float64; expected bool",
        ),
        (
            lambda: host.match_voc(ONE, ONE, np.full(1, np.nan), np.ones(1), np.ones(1, bool)),
            ValueError,
            "overlaps: row 0",
        ),
        (
            lambda: host.match_coco(ONE, ONE, np.ones(1), np.full(1, np.inf), *np.ones((2, 1), bool)),
            ValueError,
            "det_score: row 0",
        ),
        (
            lambda: host.match_coco(ONE, ONE, np.ones(2), np.ones(1), *np.ones((2, 1), bool)),
            ValueError,
            "overlaps: got 2",
        ),
        (lambda: host.greedy_assign(np.full((2, 2), np.nan)), ValueError, "score: row 0 holds NaN"),
        (lambda: host.greedy_assign(np.zeros(3)), ValueError, r"score: got shape \(3,\)"),
    ],
)
def test_wrong_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
