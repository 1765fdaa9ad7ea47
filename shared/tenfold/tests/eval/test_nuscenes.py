"""The nuScenes evaluation: the official numbers, a plain restatement, closed forms, hand cases, files."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tenfold._errors import UserInputError
from tenfold.eval.nuscenes import (
    CLASS_RANGE,
    CLASSES,
    DISTANCES,
    ERRORS,
    NuScenesBoxes,
    NuScenesSample,
    nuscenes_eval,
    read_submission,
    write_submission,
)

sys.path.insert(0, str(Path(__file__).parent))

from nuscenes_cases import KINDS, make_case, unpack

OFFICIAL = Path(__file__).parent / "fixtures" / "nuscenes_official.npz"


def numbers(result):
    aps = np.array([[result.aps[c, d] for d in DISTANCES] for c in result.classes])
    return aps, np.array([[result.errors[c, e] for e in ERRORS] for c in result.classes])


def boxes(*places, name="car", score=None, **changes):
    rows = len(places)
    columns = {
        "translation": [(x, y, 0.0) for x, y in places],
        "size": [(2.0, 4.0, 1.5)] * rows,
        "rotation": [(1.0, 0, 0, 0)] * rows,
        "velocity": [(1.0, 0)] * rows,
        "attribute": [""] * rows,
    } | changes
    return NuScenesBoxes([name] * rows, **columns, score=score)


def sample(truth, racks=None):
    return NuScenesSample(truth, np.zeros(2), racks or NuScenesBoxes.empty())


def one_class(truth, found, name="car", racks=None, **options):
    return nuscenes_eval({"a": sample(truth, racks)}, {"a": found}, classes=[name], **options)


# ---- the official numbers ----------------------------------------------------------------------------------


def test_equals_the_official_development_kit():
    with np.load(OFFICIAL) as data:
        expected = {name: data[name] for name in data.files}
    cases = list(unpack(expected["rows"], expected["frames"]))
    assert len(cases) == 36
    assert set(expected["kinds"]) == set(KINDS)
    scores = []
    for case, aps, errors, means in zip(
        cases, expected["aps"], expected["errors"], expected["means"], strict=True
    ):
        result = nuscenes_eval(*case)
        found = numbers(result)
        np.testing.assert_allclose(found[0], aps, atol=1e-9)
        np.testing.assert_allclose(found[1], errors, atol=1e-9)
        np.testing.assert_allclose((result.mean_ap, result.nds), means, atol=1e-9)
        scores.append(result.nds)
    assert np.ptp(scores) > 0.2  # cases that all score alike would show nothing


def test_the_fixture_holds_the_generator_s_cases_and_every_situation():
    with np.load(OFFICIAL) as data:
        kinds, cases = data["kinds"], list(unpack(data["rows"], data["frames"]))
    gt, det = make_case(0, str(kinds[0]))
    first = cases[0]
    for ours, kept in zip(gt.values(), first[0].values(), strict=True):
        np.testing.assert_array_equal(ours.boxes.translation, kept.boxes.translation)
    for ours, kept in zip(det.values(), first[1].values(), strict=True):  # in the order of the submission
        np.testing.assert_array_equal(ours.score, kept.score)
    truth = [s for c, _ in cases for s in c.values()]
    assert any(np.isnan(s.boxes.velocity).any() for s in truth)
    assert any((s.boxes.num_points == 0).any() for s in truth)
    assert any("" in s.boxes.attribute and s.boxes.name[s.boxes.attribute.index("")] == "car" for s in truth)
    assert any(len(s.racks) for s in truth)


@pytest.mark.parametrize(
    "change",
    ["earlier first", "racks", "empty boxes", "period", "range"],
)
def test_the_fixture_notices_mistakes(change, monkeypatch):
    from tenfold.eval import nuscenes

    with np.load(OFFICIAL) as data:
        # One case of each kind.
        cases, means = list(unpack(data["rows"], data["frames"]))[::4], data["means"][::4]
    if change == "racks":
        monkeypatch.setattr(nuscenes, "_inside_racks", lambda b, racks: np.zeros(len(b), bool))
    if change == "period":
        monkeypatch.setattr(nuscenes, "_LEFT_OUT", {"traffic_cone": ("attr_err", "vel_err", "orient_err")})
    if change == "range":
        monkeypatch.setattr(nuscenes, "CLASS_RANGE", {**CLASS_RANGE, "car": 40.0})
    for (gt, det), expected in zip(cases, means, strict=True):
        if change == "earlier first":
            det = {t: b.select(np.arange(len(b))[::-1]) for t, b in reversed(det.items())}
        if change == "empty boxes":
            gt = {
                t: replace(s, boxes=replace(s.boxes, num_points=np.ones(len(s.boxes)))) for t, s in gt.items()
            }
        if abs(nuscenes_eval(gt, det).nds - expected[1]) > 1e-4:
            return
    pytest.fail(f"{change}: no number differs")


@pytest.mark.slow
def test_equals_the_development_kit_where_it_is_installed():
    """With the kit on PYTHONPATH; elsewhere its numbers in the fixture stand for it."""
    pytest.importorskip("nuscenes.eval.detection.evaluate", reason="nuscenes-devkit is not installed")
    from devkit_nuscenes import official

    for kind in KINDS:
        for seed in range(100, 106):
            gt, det = make_case(seed, kind)
            aps, errors, mean_ap, nds = official(gt, det)
            result = nuscenes_eval(gt, det)
            np.testing.assert_allclose(numbers(result)[0], aps, atol=1e-9)
            np.testing.assert_allclose(numbers(result)[1], errors, atol=1e-9)
            assert (result.mean_ap, result.nds) == pytest.approx((mean_ap, nds), abs=1e-9)


# ---- a restatement that follows the definition box by box ---------------------------------------------------


def restated(gt, det, name, limit):
    """Precision at 101 recalls of one class, the slow way."""

    def near(token, box, k):
        ego = gt[token].ego
        return math.dist(box.translation[k][:2], ego[:2]) < CLASS_RANGE[name]

    def racked(token, box, k):
        if name not in ("bicycle", "motorcycle"):
            return False
        for rack in range(len(gt[token].racks)):
            w, x, y, z = gt[token].racks.rotation[rack]
            axes = np.array(
                [
                    [w * w + x * x - y * y - z * z, 2 * (x * y + w * z), 2 * (x * z - w * y)],
                    [2 * (x * y - w * z), w * w - x * x + y * y - z * z, 2 * (y * z + w * x)],
                    [2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z],
                ]
            ) / (w * w + x * x + y * y + z * z)
            offset = axes @ (box.translation[k] - gt[token].racks.translation[rack])
            wide, long, high = gt[token].racks.size[rack] / 2
            if abs(offset[0]) <= long and abs(offset[1]) <= wide and abs(offset[2]) <= high:
                return True
        return False

    objects = {
        t: [
            k
            for k in range(len(s.boxes))
            if s.boxes.name[k] == name
            and s.boxes.num_points[k] != 0
            and near(t, s.boxes, k)
            and not racked(t, s.boxes, k)
        ]
        for t, s in gt.items()
    }
    wanted = sum(map(len, objects.values()))
    queue = [
        (b.score[k], place, t, k)
        for place, (t, b, k) in enumerate(
            (t, b, k)
            for t, b in det.items()
            for k in range(len(b))
            if b.name[k] == name and near(t, b, k) and not racked(t, b, k)
        )
    ]
    if not wanted:
        return np.zeros(101)
    used, right = set(), []
    for _, _, token, k in sorted(queue, reverse=True):
        away = [
            (math.dist(gt[token].boxes.translation[j][:2], det[token].translation[k][:2]), j)
            for j in objects[token]
            if (token, j) not in used
        ]
        best = min(away, default=(math.inf, -1))
        right.append(best[0] < limit)
        if right[-1]:
            used.add((token, best[1]))
    precision, hits, points = np.zeros(101), 0, []
    for place, hit in enumerate(right, 1):
        hits += hit
        points.append((hits / wanted, hits / place))
    if not hits:
        return precision
    for k in range(101):
        recall = np.linspace(0, 1, 101)[k]
        if recall > points[-1][0]:
            continue
        if recall < points[0][0]:
            precision[k] = points[0][1]
            continue
        low = max(i for i, p in enumerate(points) if p[0] <= recall)
        if low + 1 == len(points):
            precision[k] = points[low][1]
            continue
        (r0, p0), (r1, p1) = points[low], points[low + 1]
        precision[k] = p0 + (p1 - p0) * (recall - r0) / (r1 - r0)
    return precision


@pytest.mark.parametrize("kind", ["usual", "ties", "racks", "noisy"])
def test_precision_equals_a_plain_restatement(kind):
    gt, det = make_case(77, kind, frames=8)
    result = nuscenes_eval(gt, det)
    for name in ("car", "pedestrian", "bicycle", "barrier"):
        for limit in (0.5, 4.0):
            expected = restated(gt, det, name, limit)
            np.testing.assert_allclose(result.curve(name, limit).precision, expected, atol=1e-12)


# ---- closed forms ------------------------------------------------------------------------------------------


def test_ground_truth_as_detections_scores_one():
    gt, _ = make_case(3, "usual", frames=60)
    found = {}
    for token, s in gt.items():
        known = s.boxes.select(~np.isnan(s.boxes.velocity).any(axis=1) & (s.boxes.num_points != 0))
        plain = [a or "vehicle.moving" for a in known.attribute]
        known = replace(known, attribute=plain)
        gt[token] = replace(s, boxes=known)
        found[token] = replace(known, score=np.ones(len(known)), num_points=None)
    result = nuscenes_eval(gt, found)
    assert result.nds == pytest.approx(1.0, abs=1e-9)
    assert result.mean_ap == pytest.approx(1.0, abs=1e-12)
    assert max(result.mean_errors.values()) < 1e-7


def test_shifted_boxes_match_from_two_metres_on():
    places = [(10 * k, 0) for k in range(-4, 5)]
    result = one_class(boxes(*places), boxes(*[(x + 1.5, y) for x, y in places], score=[0.5] * 9))
    assert [result.ap("car", d) for d in DISTANCES] == [0, 0, pytest.approx(1), pytest.approx(1)]
    assert result.errors["car", "trans_err"] == pytest.approx(1.5)
    assert result.errors["car", "scale_err"] == pytest.approx(0)
    assert result.errors["car", "attr_err"] == 1.0  # no object has an attribute


@pytest.mark.parametrize("name", ["car", "barrier"])
def test_turned_by_half_a_turn(name):
    places = [(5 * k, 0) for k in range(-4, 5)]
    turned = boxes(*places, name=name, score=[0.5] * 9, rotation=[(0, 0, 0, 1)] * 9)
    error = one_class(boxes(*places, name=name), turned, name).errors[name, "orient_err"]
    assert error == pytest.approx(0 if name == "barrier" else np.pi)


def test_errors_of_velocity_size_and_attribute():
    places = [(5 * k, 0) for k in range(-4, 5)]
    truth = boxes(*places, attribute=["vehicle.moving"] * 9)
    found = boxes(
        *places,
        score=np.linspace(0.9, 0.1, 9),
        velocity=[(4.0, 4.0)] * 9,
        size=[(4.0, 4.0, 1.5)] * 9,
        attribute=["vehicle.moving", "vehicle.parked", "vehicle.stopped"] * 3,
    )
    errors = one_class(truth, found).errors
    assert errors["car", "vel_err"] == pytest.approx(5)
    assert errors["car", "scale_err"] == pytest.approx(0.5)
    # The running mean of 0 1 1 0 1 1 0 1 1 at recall 1/9, 2/9, ..., between them linear in the score.
    running = np.cumsum([0, 1, 1] * 3) / np.arange(1, 10)
    expected = np.interp(np.arange(0.11, 1.005, 0.01), np.arange(1, 10) / 9, running).mean()
    assert errors["car", "attr_err"] == pytest.approx(expected, abs=1e-9)


def test_of_two_detections_the_better_scored_takes_the_object():
    truth = boxes((10, 0))
    found = boxes((10.2, 0), (10.0, 0), score=[0.9, 0.1])
    result = one_class(truth, found)
    assert result.curve("car", 4.0).errors["trans_err"][50] == pytest.approx(0.2)
    # At recall 1 the later detection's precision counts: one of 90 positions has 0.5 instead of 1.
    assert result.ap("car", 4.0) == pytest.approx(1 - 0.5 / 90 / 0.9)
    assert one_class(truth, replace(found, score=[0.1, 0.9])).errors["car", "trans_err"] == 0


def test_what_is_left_out():
    near, far = (10.0, 0), (49.0, 9.99)
    counted = one_class(boxes(near, far, (50.0, 0)), boxes(near, score=[0.5])).curve("car").n_gt
    assert counted == 1 + (math.hypot(*far) < 50)
    empty = replace(boxes(near, (20, 0)), num_points=np.array([0, -1]))
    assert one_class(empty, boxes(near, score=[0.5])).curve("car").n_gt == 1
    rack = boxes((10, 0), name="rack", size=[(2.0, 4.0, 2.0)])
    for spot, n in (((11.9, 0.9), 0), ((12.1, 0), 1), ((10, 1.1), 1)):
        truth = boxes(spot, (30, 0), name="bicycle")
        assert one_class(truth, boxes(score=[]), "bicycle", rack).curve("bicycle").n_gt == 1 + n
    assert one_class(boxes((10, 0)), boxes(score=[]), "car", rack).curve("car").n_gt == 1


def test_no_objects_no_detections_no_frames():
    nothing = NuScenesBoxes.empty(scores=True)
    result = nuscenes_eval({"a": sample(NuScenesBoxes.empty())}, {"a": nothing})
    assert (result.mean_ap, result.nds) == (0.0, 0.0)
    assert set(result.mean_errors.values()) == {1.0}
    assert nuscenes_eval({}, {}).nds == 0
    barrier = one_class(boxes((1, 0), name="barrier"), boxes((1, 0), name="barrier", score=[0.5]), "barrier")
    assert np.isnan(barrier.mean_errors["vel_err"])
    assert barrier.nds == pytest.approx(1)
    assert json.loads(json.dumps(barrier.to_dict()))["tp_errors"]["vel_err"] is None


def test_table_and_dict():
    gt, det = make_case(1, "usual")
    result = nuscenes_eval(gt, det)
    text = str(result)
    assert f"NDS {result.nds:.4f}" in text
    assert all(name in text for name in CLASSES)
    cone = next(line for line in text.splitlines() if line.startswith("traffic_cone"))
    assert cone.split()[4:7] == ["-"] * 3
    document = json.loads(json.dumps(result.to_dict()))
    assert document["nd_score"] == result.nds
    assert document["label_aps"]["car"]["0.5"] == result.ap("car", 0.5)
    with pytest.raises(KeyError, match="was not evaluated"):
        result.curve("tram")
    with pytest.raises(KeyError, match="was not evaluated"):
        result.ap("tram")


# ---- wrong arguments and files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"det": {}}, "1 of 1 frames are missing, such as a"),
        ({"det": {"a": boxes(score=[]), "b": boxes(score=[])}}, "not part of the split, such as b"),
        ({"det": {"a": boxes((1, 1))}}, "a: score: missing"),
        ({"det": {"a": boxes(*[(1, 1)] * 501, score=[0.5] * 501)}}, "501 boxes"),
        ({"det": {"a": boxes((1, 1), name="tram", score=[1])}}, "'tram'"),
        ({"det": {"a": boxes((1, 1), score=[1], attribute=["odd"])}}, "'odd'"),
        ({"gt": {"a": sample(boxes((1, 1), name="tram"))}}, "unknown class 'tram'"),
        ({"classes": ["tram"]}, "classes: got"),
        ({"classes": []}, r"classes: got \(\); "),
    ],
)
def test_wrong_arguments_are_named(change, message):
    usual = {"gt": {"a": sample(boxes((1, 1)))}, "det": {"a": boxes((1, 1), score=[1.0])}}
    given = {**usual, **change}
    with pytest.raises(ValueError, match=message):
        nuscenes_eval(given.pop("gt"), given.pop("det"), **given)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", [(0.0, 1, 1)]),
        ("rotation", [(0.0, 0, 0, 0)]),
        ("translation", [(np.nan, 0, 0)]),
        ("translation", [(0, 0)]),
        ("velocity", [(np.inf, 0)]),
        ("attribute", []),
        ("num_points", [1, 2]),
    ],
)
def test_wrong_boxes_are_named(column, value):
    with pytest.raises(ValueError, match=column):
        replace(boxes((1, 1)), **{column: value})


def test_a_submission_round_trip(tmp_path):
    gt, det = make_case(5, "usual")
    det = {t: replace(b, velocity=np.nan_to_num(b.velocity)) for t, b in det.items()}
    write_submission(tmp_path / "r.json", det)
    again = read_submission(tmp_path / "r.json")
    assert list(again) == list(det)
    assert nuscenes_eval(gt, again).to_dict() == nuscenes_eval(gt, det).to_dict()
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["meta"] == {
        f"use_{m}": m == "lidar" for m in ("camera", "lidar", "radar", "map", "external")
    }
    row = next(rows for rows in document["results"].values() if rows)[0]
    fields = "translation size rotation velocity detection_name detection_score attribute_name"
    assert set(row) == {"sample_token", *fields.split()}


def test_an_unknown_velocity_is_written_as_zero(tmp_path):
    write_submission(tmp_path / "r.json", {"a": boxes((1, 1), score=[1.0], velocity=[(np.nan, np.nan)])})
    assert "NaN" not in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("results"), "results: missing"),
        (lambda d: d["results"].update(a=3), r"results.a: got no list"),
        (lambda d: d["results"]["a"][0].pop("size"), r"results.a: box 0: size: missing"),
        (lambda d: d["results"]["a"][0].update(size=[1, 2]), "size"),
        (lambda d: d["results"]["a"][0].update(size=[1, 2, None]), "results.a"),
        (lambda d: d["results"]["a"][0].update(detection_score=None), "detection_score"),
        (lambda d: d["results"]["a"][0].update(detection_score=math.nan), "detection_score"),
        (lambda d: d["results"]["a"][0].update(detection_name="tram"), "tram"),
        (lambda d: d["results"]["a"][0].update(rotation="abcd"), "results.a"),
        (lambda d: d["results"].update(a=d["results"]["a"] * 501), "501 boxes"),
    ],
)
def test_broken_submissions_are_named(tmp_path, change, message):
    write_submission(tmp_path / "r.json", {"a": boxes((1, 1), score=[1.0])})
    document = json.loads((tmp_path / "r.json").read_text())
    change(document)
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(UserInputError, match=message) as error:
        read_submission(tmp_path / "r.json")
    assert "r.json" in str(error.value)


def test_submissions_are_not_written_halfway(tmp_path):
    with pytest.raises(ValueError, match="501 boxes"):
        write_submission(tmp_path / "r.json", {"a": boxes(*[(1, 1)] * 501, score=[0.5] * 501)})
    with pytest.raises(ValueError, match="modalities"):
        write_submission(tmp_path / "r.json", {}, modalities=["sonar"])
    assert os.listdir(tmp_path) == []
