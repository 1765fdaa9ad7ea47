"""The KITTI evaluation: closed forms, hand cases, invariances, a plain restatement, the official numbers."""

import json
import math
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from tenfold._errors import UserInputError
from tenfold.eval.kitti import (
    MIN_OVERLAPS,
    FewObjectsWarning,
    KittiAnnotations,
    kitti_eval,
    read_annotation_folder,
    read_annotations,
)
from tenfold.testing.data import sample_data

pytestmark = pytest.mark.filterwarnings("ignore::tenfold.eval.kitti.FewObjectsWarning")

CLASSES = ("Car", "Pedestrian", "Cyclist")
METRICS = ("2d", "aos", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
TABLES = ("strict", "loose")
OFFICIAL = Path(__file__).parent / "fixtures" / "kitti_official.npz"


def objects(*rows, scores=None):
    """Records from (name, x, z) or (name, x, z, changes): an easy object on the ground, seen from behind."""
    columns = {
        f: [] for f in ("truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y")
    }
    for name, x, z, *changes in rows:
        left = 600 + 20 * x
        row = {
            "truncated": 0.0,
            "occluded": 0,
            "alpha": -1.5,
            "bbox": [left, 150, left + 60, 210],
            "dimensions": [1.5, 1.6, 3.9],
            "location": [x, 1.7, z],
            "rotation_y": -1.5,
        } | (changes[0] if changes else {})
        if name == "DontCare":
            row |= {"dimensions": [-1] * 3, "location": [-1000] * 3, "alpha": -10, "rotation_y": -10}
        for key, value in row.items():
            columns[key].append(value)
    return KittiAnnotations([r[0] for r in rows], **columns, score=scores)


def curve_values(result):
    return {
        (c.class_name, c.metric, c.difficulty, c.table, k): v for c in result.curves for k, v in c.ap.items()
    }


# ---- closed forms ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 10, 40, 41, 42, 100, 1000])
def test_perfect_detector(n):
    frames = [objects(*[("Car", 7 * i, 20) for i in range(min(10, n - s))]) for s in range(0, n, 10)]
    found = [replace(f, score=np.linspace(0.9, 0.5, len(f))) for f in frames]
    result = kitti_eval(frames, found, ["Car"])
    assert len(result.curves) == 2 * len(METRICS) * len(DIFFICULTIES)
    for c in result.curves:
        assert c.n_gt == n
        assert len(c.thresholds) == min(n, 41)
        assert c.ap[40] == pytest.approx(100 * min(n - 1, 40) / 40, abs=1e-12)
        assert c.ap[11] == pytest.approx(100 * (1 + (min(n, 41) - 1) // 4) / 11, abs=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_perfect_detector_reaches_100_for_every_class(name):
    frames = [objects((name, 0, 20), (name, 9, 30))] * 41
    result = kitti_eval(frames, [replace(f, score=[0.5, 0.5]) for f in frames], [name])
    assert set(curve_values(result).values()) == {100.0}


def test_one_false_positive_in_every_frame():
    frames = [objects(("Car", 0, 20))] * 50
    found = [objects(("Car", 0, 20), ("Car", 12, 40), scores=[0.5, 0.9])] * 50
    for c in kitti_eval(frames, found, ["Car"]).curves:
        np.testing.assert_allclose(c.precision[: len(c.thresholds)], 0.5)
        assert c.ap[40] == pytest.approx(50)
    # Ranked below every true positive, they cost nothing.
    late = [replace(f, score=[0.5, 0.1]) for f in found]
    assert kitti_eval(frames, late, ["Car"]).ap("Car") == 100


def test_half_of_the_objects_found():
    frames = [objects(("Car", 0, 20), ("Car", 12, 20))] * 60
    found = [objects(("Car", 0, 20), scores=[0.8])] * 60
    c = kitti_eval(frames, found, ["Car"]).curve("Car")
    # 60 equal scores of 120 objects: recall 0, 1/40 ... 20/40 is reached, and the rest is 0.
    assert len(c.thresholds) == 21
    assert c.ap[40] == pytest.approx(50)
    assert c.ap[11] == pytest.approx(100 * 6 / 11)


# ---- hand cases ------------------------------------------------------------------------------------------


def counted(gt_extra, found_extra, score=0.9, repeat=50, **options):
    """AP of a perfect detector of one car a frame, to which objects and detections are added."""
    gt = objects(("Car", 0, 20), *gt_extra)
    found = objects(("Car", 0, 20), *found_extra, scores=[0.5] + [score] * len(found_extra))
    result = kitti_eval([gt] * repeat, [found] * repeat, ["Car", "Pedestrian"], **options)
    return {m: result.ap("Car", m, "moderate", t) for t in TABLES for m in METRICS}


PERFECT = dict.fromkeys(METRICS, 100.0)
HALF = dict.fromkeys(METRICS, 50.0)


def test_van_detected_as_car_is_neither_right_nor_wrong():
    assert counted([("Van", 12, 20)], [("Car", 12, 20)]) == PERFECT
    assert counted([("Truck", 12, 20)], [("Car", 12, 20)]) == pytest.approx(HALF)
    # A van that nobody found is no miss, a car is.
    assert counted([("Van", 12, 20)], []) == PERFECT
    assert counted([("Car", 12, 20)], []) == pytest.approx(HALF)


def test_sitting_person_is_the_neighbour_of_pedestrian_only():
    sitting = objects(("Pedestrian", 0, 20), ("Person_sitting", 12, 20))
    found = objects(("Pedestrian", 0, 20), ("Pedestrian", 12, 20), scores=[0.5, 0.9])
    assert kitti_eval([sitting] * 50, [found] * 50, ["Pedestrian"]).ap("Pedestrian") == 100
    assert counted([("Person_sitting", 12, 20)], [("Car", 12, 20)]) == pytest.approx(HALF)


@pytest.mark.parametrize("name", ["DontCare", "dontcare"])
def test_dontcare_excuses_2d_alone(name):
    region = (name, 12, 20) if name == "DontCare" else ("dontcare", 12, 20, {"location": [-1000] * 3})
    got = counted([region], [("Car", 12, 20)])
    assert got == pytest.approx({"2d": 100, "aos": 100, "bev": 50, "3d": 50})
    # The share of the detection counts: a region around it serves, a smaller one does not.
    inside = ("DontCare", 12, 20, {"bbox": [0, 0, 1200, 370]})
    assert counted([inside], [("Car", 12, 20)])["2d"] == 100
    half = ("DontCare", 12, 20, {"bbox": [840, 150, 870, 210]})
    assert counted([half], [("Car", 12, 20)])["2d"] == pytest.approx(50)


@pytest.mark.parametrize(
    ("change", "levels"),
    [
        ({"occluded": 1}, [False, True, True]),
        ({"occluded": 2}, [False, False, True]),
        ({"occluded": 3}, [False, False, False]),
        ({"truncated": 0.15}, [True, True, True]),
        ({"truncated": 0.16}, [False, True, True]),
        ({"truncated": 0.3}, [False, True, True]),
        ({"truncated": 0.5}, [False, False, True]),
        ({"truncated": 0.51}, [False, False, False]),
        ({"bbox": [0, 100, 50, 140.5]}, [True, True, True]),
        ({"bbox": [0, 100, 50, 139]}, [False, True, True]),
        ({"bbox": [0, 100, 50, 124]}, [False, False, False]),
    ],
)
def test_which_objects_count(change, levels):
    hard = objects(("Car", 0, 20, change))
    result = kitti_eval([hard] * 41, [replace(hard, score=[0.5])] * 41, ["Car"])
    assert [result.curve("Car", difficulty=d).n_gt for d in DIFFICULTIES] == [41 * level for level in levels]
    assert [result.ap("Car", "2d", d) for d in DIFFICULTIES] == [100.0 * level for level in levels]


@pytest.mark.parametrize(("height", "easy", "moderate"), [(40, 0, 41), (25, 0, 0)])
def test_height_equal_to_the_limit_depends_on_the_flag(height, easy, moderate):
    at = objects(("Car", 0, 20, {"bbox": [0, 100, 50, 100 + height]}))
    found = [replace(at, score=[0.5])] * 41
    ours = kitti_eval([at] * 41, found, ["Car"])
    assert [ours.curve("Car", difficulty=d).n_gt for d in DIFFICULTIES] == [easy, moderate, moderate]
    strict = kitti_eval([at] * 41, found, ["Car"], inclusive_height=False)
    expected = [41 if height == 40 else 0, 41, 41]
    assert [strict.curve("Car", difficulty=d).n_gt for d in DIFFICULTIES] == expected


def test_float32_truncation_is_read_as_the_decimal_it_stands_for():
    at = objects(("Car", 0, 20, {"truncated": 0.15}), ("Car", 12, 20, {"truncated": 0.3}))
    single = KittiAnnotations(
        *(at.name, at.truncated.astype(np.float32), at.occluded, at.alpha, at.bbox, at.dimensions),
        *(at.location, at.rotation_y),
    )
    result = kitti_eval([single], [replace(at, score=[0.5, 0.5])], ["Car"])
    assert [result.curve("Car", difficulty=d).n_gt for d in DIFFICULTIES] == [1, 2, 2]


def test_small_detections_are_ignored_whatever_their_class():
    small = {"bbox": [840, 150, 900, 170]}
    assert counted([], [("Car", 12, 20, small)]) == PERFECT
    # Even one of another class takes an object in 3D, which is then neither found nor missed.
    gt = objects(("Car", 0, 20), ("Car", 12, 20))
    found = objects(("Car", 0, 20), ("Truck", 12, 20, small), scores=[0.5, 0.9])
    result = kitti_eval([gt] * 50, [found] * 50, ["Car"])
    assert result.ap("Car", "3d") < 60
    np.testing.assert_allclose(result.curve("Car").precision[:10], 1.0)
    assert result.curve("Car").n_gt == 100


def test_a_second_detection_of_an_object_is_wrong():
    assert counted([], [("Car", 0.1, 20)], score=0.4) == PERFECT
    # Above the true positive it takes the object in the pass by score; by overlap the better one does.
    gt, found = objects(("Car", 0, 20)), objects(("Car", 0, 20), ("Car", 0.1, 20), scores=[0.5, 0.9])
    c = kitti_eval([gt] * 50, [found] * 50, ["Car"]).curve("Car")
    assert c.thresholds[0] == 0.9
    np.testing.assert_allclose(c.precision, 1.0)


def test_orientation():
    gt = [objects(("Car", 0, 20))] * 50
    for turn in (0.0, 0.3, np.pi / 2, np.pi):
        found = [replace(f, alpha=f.alpha + turn, score=[0.5]) for f in gt]
        result = kitti_eval(gt, found, ["Car"])
        assert result.ap("Car", "aos") == pytest.approx(100 * (1 + np.cos(turn)) / 2, abs=1e-9)
        assert result.ap("Car", "2d") == 100


def test_no_orientation_without_alpha():
    gt = [objects(("Car", 0, 20))] * 50
    blind = [replace(f, alpha=[-10.0], score=[0.5]) for f in gt]
    result = kitti_eval(gt, blind, ["Car"])
    assert {c.metric for c in result.curves} == {"2d", "bev", "3d"}
    with pytest.raises(KeyError, match="aos"):
        result.ap("Car", "aos")
    empty = objects(scores=[])
    assert {c.metric for c in kitti_eval(gt, [empty] * 50, ["Car"]).curves} == {"2d", "bev", "3d"}
    late = kitti_eval([gt[0]] * 2, [empty, replace(gt[0], score=[0.5])], ["Car"])
    assert "aos" in {c.metric for c in late.curves}


def test_precision_of_nothing_is_zero():
    # By score the van takes the first detection and the car the second; by overlap the van takes the second,
    # and the first, which overlaps the car too little, lies in a DontCare region: no right, no wrong, 0 of 0.
    van, car = [100, 100, 200, 200], [115, 100, 215, 200]
    gt = objects(
        *[("Van", 0, 20, {"bbox": van}), ("Car", 0, 20, {"bbox": car})],
        ("DontCare", 0, 0, {"bbox": [0, 0, 500, 500]}),
    )
    first, second = [88, 100, 188, 200], [105, 100, 205, 200]
    found = objects(("Car", 0, 20, {"bbox": first}), ("Car", 0, 20, {"bbox": second}), scores=[0.9, 0.8])
    c = kitti_eval([gt], [found], ["Car"]).curve("Car", "2d")
    assert c.thresholds.tolist() == [0.8]
    assert c.precision.tolist() == [0.0] * 41


def test_empty_frames_and_no_frames():
    empty, none = objects(), objects(scores=[])
    for frames in (0, 3):
        result = kitti_eval([empty] * frames, [none] * frames)
        assert all(c.n_gt == 0 and c.ap == {11: 0.0, 40: 0.0} for c in result.curves)
    full = objects(("Car", 0, 20))
    assert kitti_eval([empty] * 3, [replace(full, score=[1.0])] * 3, ["Car"]).ap("Car") == 0
    assert kitti_eval([full] * 3, [none] * 3, ["Car"]).curve("Car").n_gt == 3


# ---- invariances -----------------------------------------------------------------------------------------


def test_invariances(random_frames):
    gt, det = random_frames(1, 60)
    base = curve_values(kitti_eval(gt, det))
    # order of the frames
    assert curve_values(kitti_eval(gt[::-1], det[::-1])) == pytest.approx(base, abs=1e-9)
    # any increasing change of the scores
    squashed = [replace(d, score=np.tanh(3 * d.score) - 5) for d in det]
    assert curve_values(kitti_eval(gt, squashed)) == pytest.approx(base, abs=1e-9)
    # upper and lower case
    lower = [replace(d, name=[n.lower() for n in d.name]) for d in det]
    assert curve_values(kitti_eval(gt, lower)) == base
    # frames twice: the same objects twice as often
    twice = kitti_eval(gt * 2, det * 2)
    assert [c.n_gt for c in twice.curves] == [2 * c.n_gt for c in kitti_eval(gt, det).curves]
    # classes one by one
    for name in CLASSES:
        alone = curve_values(kitti_eval(gt, det, [name]))
        assert alone == {key: value for key, value in base.items() if key[0] == name}


def test_rigid_motion_changes_nothing_in_bird_view(random_frames):
    gt, det = random_frames(2, 60)
    base = kitti_eval(gt, det)
    turn = 0.7

    def moved(frame):
        x, y, z = frame.location.T
        place = np.stack(
            [x * np.cos(turn) + z * np.sin(turn) + 3, y - 1, z * np.cos(turn) - x * np.sin(turn)], 1
        )
        return replace(frame, location=place, rotation_y=frame.rotation_y + turn)

    result = kitti_eval([moved(f) for f in gt], [moved(f) for f in det])
    for c in result.curves:
        want = base.curve(c.class_name, c.metric, c.difficulty, c.table)
        np.testing.assert_allclose(c.precision, want.precision, atol=1e-12)


# ---- a plain restatement ---------------------------------------------------------------------------------


def plain_polygon(frame, i):
    (_, width, length), (x, _, z), ry = frame.dimensions[i], frame.location[i], frame.rotation_y[i]
    c, s = math.cos(ry), math.sin(ry)
    w, h = width / 2, length / 2
    corners = ((h, w), (h, -w), (-h, -w), (-h, w))
    return shapely.Polygon([(x + c * a + s * b, z - s * a + c * b) for a, b in corners])


def plain_overlap(metric, det, d, gt, g):
    if metric == "2d":
        a, b = det.bbox[d], gt.bbox[g]
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        inter = max(w, 0) * max(h, 0)
        return (
            inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter) if inter else 0.0
        )
    if gt.dimensions[g][0] < 0:
        return 0.0
    p, q = plain_polygon(det, d), plain_polygon(gt, g)
    inter = p.intersection(q).area
    if metric == "bev":
        return inter / (p.area + q.area - inter)
    low = max(det.location[d][1] - det.dimensions[d][0], gt.location[g][1] - gt.dimensions[g][0])
    inter *= max(0.0, min(det.location[d][1], gt.location[g][1]) - low)
    return inter / (det.dimensions[d].prod() + gt.dimensions[g].prod() - inter)


def plain_states(gt, det, name, level):
    height, occlusion, truncation = ((40, 0, 0.15), (25, 1, 0.3), (25, 2, 0.5))[level]
    neighbour = {"Car": "Van", "Pedestrian": "Person_sitting"}.get(name)
    truth = []
    for i, kind in enumerate(gt.name):
        hard = gt.occluded[i] > occlusion or gt.truncated[i] > truncation
        hard = hard or gt.bbox[i][3] - gt.bbox[i][1] <= height
        truth.append(1 if kind == neighbour or (kind == name and hard) else 0 if kind == name else -1)
    found = []
    for i, kind in enumerate(det.name):
        small = abs(det.bbox[i][3] - det.bbox[i][1]) < height
        found.append(1 if small else 0 if kind == name else -1)
    return truth, found


def plain_excused(det, d, gt, limit):
    a = det.bbox[d]
    for g, kind in enumerate(gt.name):
        if kind == "DontCare":
            b = gt.bbox[g]
            w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            if w > 0 and h > 0 and w * h / ((a[2] - a[0]) * (a[3] - a[1])) > limit:
                return True
    return False


def plain_curves(gts, dets, name, level, metric, limit, memo):
    """(n_gt, precision, orientation): the steps of the metric, one loop each. memo keeps overlaps."""

    def overlap_of(frame, d, g):
        key = metric, frame, d, g
        if key not in memo:
            memo[key] = plain_overlap(metric, dets[frame], d, gts[frame], g)
        return memo[key]

    cases = []
    for frame, (gt, det) in enumerate(zip(gts, dets, strict=True)):
        truth, found = plain_states(gt, det, name, level)
        overlap = {
            (d, g): overlap_of(frame, d, g)
            for d in range(len(det))
            for g in range(len(gt))
            if truth[g] >= 0 and found[d] >= 0
        }
        cases.append((gt, det, truth, found, overlap))
    n_gt = sum(truth.count(0) for _, _, truth, _, _ in cases)

    scores = []
    for _, det, truth, found, overlap in cases:
        used = set()
        for g, state in enumerate(truth):
            near = [d for d in range(len(det)) if d not in used and overlap.get((d, g), 0) > limit]
            if state >= 0 and near:
                best = max(near, key=lambda d: det.score[d])
                used.add(best)
                if state == 0 and found[best] == 0:
                    scores.append(det.score[best])
    scores.sort(reverse=True)
    thresholds, current = [], 0.0
    for i, score in enumerate(scores):
        last = i == len(scores) - 1
        left = (i + 1) / n_gt
        right = left if last else (i + 2) / n_gt
        if right - current < current - left and not last:
            continue
        thresholds.append(score)
        current += 1 / 40

    precision, orientation = [0.0] * 41, [0.0] * 41
    for slot, threshold in enumerate(thresholds):
        tp, fp, similarity = 0, 0, 0.0
        for gt, det, truth, found, overlap in cases:
            used = set()
            for g, state in enumerate(truth):
                near = [
                    d
                    for d in range(len(det))
                    if d not in used and det.score[d] >= threshold and overlap.get((d, g), 0) > limit
                ]
                if state < 0 or not near:
                    continue
                counting = [d for d in near if found[d] == 0]
                best = max(counting, key=lambda d: overlap[d, g]) if counting else near[0]
                used.add(best)
                if state == 0 and found[best] == 0:
                    tp += 1
                    similarity += (1 + math.cos(gt.alpha[g] - det.alpha[best])) / 2
            for d, state in enumerate(found):
                if state == 0 and d not in used and det.score[d] >= threshold:
                    fp += not (metric == "2d" and plain_excused(det, d, gt, limit))
        if tp + fp:
            precision[slot], orientation[slot] = tp / (tp + fp), similarity / (tp + fp)
    for slot in range(39, -1, -1):
        precision[slot] = max(precision[slot], precision[slot + 1])
        orientation[slot] = max(orientation[slot], orientation[slot + 1])
    return n_gt, precision, orientation


def check_against_plain(gts, dets, evaluate=kitti_eval, names=CLASSES, levels=range(3)):
    result = evaluate(gts, dets, names)
    memo = {}
    for name in names:
        for level in levels:
            for table in range(2):
                for place, metric in enumerate(("2d", "bev", "3d")):
                    limit = MIN_OVERLAPS[name][table][place]
                    n_gt, precision, orientation = plain_curves(gts, dets, name, level, metric, limit, memo)
                    where = (name, metric, DIFFICULTIES[level], TABLES[table])
                    c = result.curve(*where)
                    assert c.n_gt == n_gt, where
                    np.testing.assert_allclose(c.precision, precision, atol=1e-12, err_msg=str(where))
                    assert c.ap[11] == pytest.approx(100 * sum(precision[::4]) / 11, abs=1e-9)
                    assert c.ap[40] == pytest.approx(100 * sum(precision[1:]) / 40, abs=1e-9)
                    if metric == "2d" and sum(map(len, dets)):
                        aos = result.curve(name, "aos", *where[2:])
                        np.testing.assert_allclose(aos.precision, orientation, atol=1e-12, err_msg=str(where))


def groups(random_frames, seed, count):
    gts, dets = random_frames(seed, count)
    sizes = np.random.default_rng(seed).integers(1, 6, count)
    start = 0
    for size in sizes:
        if start >= count:
            return
        yield gts[start : start + size], dets[start : start + size]
        start += size


def test_equals_a_plain_restatement(random_frames):
    for gts, dets in groups(random_frames, 11, 30):
        check_against_plain(gts, dets)
    gts, dets = random_frames(12, 40)
    check_against_plain(gts, dets, names=["Car"], levels=[1])


@pytest.mark.slow
def test_equals_a_plain_restatement_on_a_thousand_frames(random_frames):
    for gts, dets in groups(random_frames, 13, 1000):
        check_against_plain(gts, dets)
    gts, dets = random_frames(14, 200)
    check_against_plain(gts, dets)


def without(gt, kind):
    return [replace(g, name=["Misc" if n == kind else n for n in g.name]) for g in gt]


WRONG = {
    "no neighbours": lambda gt, det: (without(gt, "Van"), det),
    "no regions": lambda gt, det: (without(gt, "DontCare"), det),
    "no occlusion": lambda gt, det: ([replace(g, occluded=0 * g.occluded) for g in gt], det),
    "no truncation": lambda gt, det: ([replace(g, truncated=0 * g.truncated) for g in gt], det),
    "rotation mirrored": lambda gt, det: ([replace(g, rotation_y=-g.rotation_y) for g in gt], det),
    "geometric centres": lambda gt, det: (
        [replace(g, location=g.location - g.dimensions[:, :1] * [0, 0.5, 0]) for g in gt],
        det,
    ),
    "width and length swapped": lambda gt, det: (
        gt,
        [replace(d, dimensions=d.dimensions[:, [0, 2, 1]]) for d in det],
    ),
    "scores reversed": lambda gt, det: (gt, [replace(d, score=1 - d.score) for d in det]),
    "alpha turned": lambda gt, det: (gt, [replace(d, alpha=d.alpha + 1) for d in det]),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_restatement_notices_mistakes(mistake, random_frames):
    gts, dets = random_frames(12, 40)
    with pytest.raises(AssertionError):
        check_against_plain(gts, dets, lambda g, d, n: kitti_eval(*WRONG[mistake](g, d), n), ["Car"], [1])


def test_the_restatement_notices_the_height_rule(random_frames):
    gts, dets = random_frames(12, 40)
    with pytest.raises(AssertionError):
        check_against_plain(gts, dets, lambda *a: kitti_eval(*a, inclusive_height=False), ["Car"])


# ---- the official numbers --------------------------------------------------------------------------------


def official_frames(data):
    """Records of the stored label and result rows: frame, type, then hundredths of the fields."""
    types = data["types"]
    frames = []
    for name in ("labels", "results"):
        rows = data[name]
        parts = [rows[rows[:, 0] == i] for i in range(int(data["frames"]))]
        tables = [(types[p[:, 1]], p[:, 2:] / 100) for p in parts]
        frames.append(
            [
                KittiAnnotations(
                    *(kinds, t[:, 0], t[:, 1], t[:, 2], t[:, 3:7], t[:, 7:10], t[:, 10:13], t[:, 13]),
                    t[:, 14] if name == "results" else None,
                )
                for kinds, t in tables
            ]
        )
    return frames


@pytest.mark.parametrize(("source", "inclusive"), [("expected_cpp", False), ("expected_python", True)])
def test_equals_the_official_evaluators(source, inclusive):
    with np.load(OFFICIAL) as data:
        gt, det = official_frames(data)
        expected = data[source]  # (table, class, metric, difficulty, 41)
        other = data["expected_python" if source == "expected_cpp" else "expected_cpp"]
    result = kitti_eval(gt, det, inclusive_height=inclusive)
    got = np.array(
        [
            [
                [[result.curve(name, m, d, table).precision for d in DIFFICULTIES] for m in METRICS]
                for name in CLASSES
            ]
            for table in TABLES
        ]
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - other).max() > 0.01  # the frames tell the two height rules apart


# ---- results, files, errors ------------------------------------------------------------------------------


def test_warning_names_classes_with_few_objects():
    frames = [objects(("Car", 0, 20), ("Cyclist", 12, 20, {"occluded": 1}))] * 41
    found = [replace(f, score=[0.5, 0.5]) for f in frames]
    with pytest.warns(FewObjectsWarning, match=r"fewer than 41 objects: Cyclist easy \(0\); "):
        kitti_eval(frames, found, ["Car", "Cyclist"])
    with pytest.warns(FewObjectsWarning, match=r"Car easy \(40\), Car moderate \(40\)"):
        kitti_eval(frames[:40], found[:40], ["Car"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kitti_eval(frames, found, ["Car"])


def test_table_and_dict(random_frames):
    result = kitti_eval(*random_frames(3, 60), ["Car", "Cyclist"], recall=[40])
    text = str(result)
    assert "60 frames" in text.splitlines()[0]
    assert "AP|R40" in text
    assert "AP|R11" not in text
    row = next(line.split() for line in text.splitlines() if line.startswith("bev"))
    assert row[1] == "0.70"
    assert [float(v) for v in row[2:]] == [round(result.ap("Car", "bev", d), 2) for d in DIFFICULTIES]
    counts = [line.split()[2:] for line in text.splitlines() if line.startswith("ground truth")]
    assert counts == [[str(result.curve(n, difficulty=d).n_gt) for d in DIFFICULTIES] for n in result.classes]
    stored = json.loads(json.dumps(result.to_dict()))
    assert stored["frames"] == 60
    assert len(stored["curves"]) == 2 * 2 * 4 * 3
    first = stored["curves"][0]
    assert (first["class"], first["metric"], first["difficulty"], first["table"]) == (
        "Car",
        "2d",
        "easy",
        "strict",
    )
    assert first["ap"] == {"R40": result.ap("Car", "2d", "easy")}
    assert first["n_gt"] == result.curve("Car", "2d", "easy").n_gt


def test_other_classes_need_overlaps():
    frames = [objects(("Truck", 0, 20))] * 41
    found = [replace(f, score=[0.5]) for f in frames]
    with pytest.raises(ValueError, match="classes: got 'Truck'; expected some of Car, Pedestrian, Cyclist"):
        kitti_eval(frames, found, ["Truck"])
    triple = (0.7, 0.7, 0.7)
    assert kitti_eval(frames, found, ["Truck"], min_overlaps={"Truck": (triple, triple)}).ap("Truck") == 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, d: kitti_eval([g], []), "det: got 0 frames; expected 1"),
        (lambda g, d: kitti_eval([g], [g]), "det: frame 0 has no score"),
        (lambda g, d: kitti_eval([g], [d], recall=[10]), r"recall: got \(10,\); expected 11, 40"),
        (lambda g, d: kitti_eval([g], [d], recall=[]), r"recall: got \(\)"),
        (lambda g, d: kitti_eval([g], [d], min_overlaps={"Car": (0.7, 0.5)}), "min_overlaps: got .* for Car"),
        (lambda g, d: kitti_eval([g], [d], min_overlaps={"Car": ((1, 0, 0),) * 2}), "min_overlaps: got"),
        (lambda g, d: replace(g, bbox=np.zeros((1, 5))), r"bbox: got shape \(1, 5\); expected \(1, 4\)"),
        (lambda g, d: replace(g, alpha=[0, 1]), r"alpha: got shape \(2,\); expected \(1,\)"),
        (lambda g, d: replace(d, score=[np.nan]), "score: got NaN or infinity"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    gt = objects(("Car", 0, 20))
    with pytest.raises(ValueError, match=message):
        call(gt, replace(gt, score=[0.5]))


def test_real_labels_as_detections():
    frames = read_annotation_folder(sample_data("kitti", "training", "label_2"), scores=False)
    gt = list(frames.values())
    objects_only = [np.array([n != "DontCare" for n in f.name]) for f in gt]
    det = [
        KittiAnnotations(
            np.array(f.name)[keep],
            *(f.truncated[keep], f.occluded[keep], f.alpha[keep], f.bbox[keep], f.dimensions[keep]),
            *(f.location[keep], f.rotation_y[keep]),
            score=np.linspace(0.9, 0.5, keep.sum()),
        )
        for f, keep in zip(gt, objects_only, strict=True)
    ]
    check_against_plain(gt, det)
    result = kitti_eval(gt * 41, det * 41)
    assert {c.class_name for c in result.curves if c.n_gt} >= {"Car", "Pedestrian"}
    assert all(c.ap == {11: 100.0, 40: 100.0} for c in result.curves if c.n_gt)


LINE = "Car 0.10 1 -1.57 600.00 150.00 660.00 210.00 1.50 1.60 3.90 1.00 1.70 20.00 -1.50"


def test_files(tmp_path):
    (tmp_path / "000001.txt").write_text(LINE + "\n\n" + LINE.replace("Car", "Van") + "\n")
    (tmp_path / "000000.txt").write_text("")
    frames = read_annotation_folder(tmp_path, scores=False)
    assert list(frames) == ["000000", "000001"]
    assert len(frames["000000"]) == 0
    one = frames["000001"]
    assert one.name == ("Car", "Van")
    assert (one.truncated[0], one.occluded[0], one.alpha[0], one.rotation_y[0]) == (0.1, 1, -1.57, -1.5)
    assert one.bbox[0].tolist() == [600, 150, 660, 210]
    assert one.dimensions[0].tolist() == [1.5, 1.6, 3.9]
    assert one.location[0].tolist() == [1, 1.7, 20]
    assert one.score is None
    (tmp_path / "000001.txt").write_text(LINE + " 0.25\n")
    found = read_annotation_folder(tmp_path, scores=True, ids=["000001"])
    assert found["000001"].score.tolist() == [0.25]


@pytest.mark.parametrize(
    ("text", "scores", "message"),
    [
        (LINE, True, "line 1: 15 fields were found; 16 are expected in results"),
        (LINE + " 0.5", False, "line 1: 16 fields were found; 15 are expected in labels"),
        (LINE + "\n" + LINE[:40], False, "line 2: .* fields were found"),
        (LINE.replace("150.00", "x"), False, "line 1: a number is expected"),
        (LINE.replace("150.00", "nan"), False, "line 1: NaN or infinity"),
        (b"\xff\xfe\x00", False, "cannot be read as text"),
    ],
)
def test_broken_files_are_named(tmp_path, text, scores, message):
    file = tmp_path / "000007.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserInputError, match=f"000007.txt.*{message}"):
        read_annotations(file, scores=scores)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserInputError, match=r"000009.txt: the file is missing"):
        read_annotations(tmp_path / "000009.txt", scores=False)
    with pytest.raises(UserInputError, match="the folder is missing"):
        read_annotation_folder(tmp_path / "none", scores=False)
    with pytest.raises(UserInputError, match=r"holds no .txt file"):
        read_annotation_folder(tmp_path, scores=False)


@pytest.mark.slow
def test_a_full_validation_set_takes_less_than_a_minute(random_frames):
    gts, dets = random_frames(21, 3769)
    start = time.perf_counter()
    result = kitti_eval(gts, dets)
    assert time.perf_counter() - start < 60
    assert result.curve("Car").n_gt > 1000
