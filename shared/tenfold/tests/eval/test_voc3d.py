"""The VOC protocol with volumes: closed forms, and a plain re-statement of the protocol on random scenes."""

import numpy as np
import pytest

from tenfold.eval.voc3d import NoTruthWarning, Voc3dDetections, Voc3dTruth, voc3d_eval
from tenfold.host import box_iou_3d

UNIT = [1.0, 1.0, 1.0, 0.0]


def at(*xs):
    return [[10.0 * x, 0.0, 0.0, *UNIT] for x in xs]


def ap(truth, boxes, scores, overlap=0.25):
    found = voc3d_eval(
        [Voc3dTruth(truth, [0] * len(truth))], [Voc3dDetections(boxes, scores, [0] * len(boxes))], ["a"]
    )
    return found.mean_ap(overlap)


def falling(n):
    return np.linspace(0.9, 0.1, n)


def test_closed_forms():
    three = at(0, 1, 2)
    assert ap(three, at(0, 7, 1, 8), falling(4)) == pytest.approx(5 / 9)
    doubled = [row for row in three for _ in range(2)]
    assert ap(three, doubled, falling(6)) == pytest.approx(0.75556, abs=1e-5)
    assert ap(three, [*three, *three], falling(6)) == 1.0
    hundred = at(*range(100))
    for copies, wanted in ((1, 0.5164), (2, 0.3505), (3, 0.2666), (5, 0.1819)):
        rows = [row for row in hundred for _ in range(copies + 1)]
        assert ap(hundred, rows, falling(len(rows))) == pytest.approx(wanted, abs=1e-4)


def test_an_overlap_of_exactly_the_threshold_misses():
    half = [[0.0, 0.0, 0.25, 1.0, 1.0, 0.5, 0.0]]  # half of the unit cube
    assert ap(at(0), half, [0.9], 0.5) == 0.0
    assert ap(at(0), half, [0.9], 0.25) == 1.0


def test_no_second_choice():
    truth = [[0.0, 0, 0, *UNIT], [0.4, 0, 0, *UNIT]]
    both_near_first = [[0.0, 0, 0, *UNIT], [0.1, 0, 0, *UNIT]]
    assert ap(truth, both_near_first, [0.9, 0.8]) == pytest.approx(0.5)


def test_heading_counts_with_its_sign():
    truth = [[0.0, 0, 0, 2, 1, 1, np.pi / 6]]
    moved = [[0.3, 0.2, 0, 2, 1, 1, np.pi / 6]]
    mirrored = [[0.3, 0.2, 0, 2, 1, 1, -np.pi / 6]]
    assert ap(truth, moved, [0.9], 0.5) == 1.0
    assert ap(truth, mirrored, [0.9], 0.5) == 0.0


def test_classes_without_objects_are_left_out_with_a_warning():
    truth, found = [Voc3dTruth(at(0), [0])], [Voc3dDetections(at(0, 1), [0.9, 0.8], [0, 1])]
    with pytest.warns(NoTruthWarning, match="b: 1 detections"):
        result = voc3d_eval(truth, found, ["a", "b", "c"])
    assert result.mean_ap(0.5) == 1.0
    assert result.to_dict()["classes"][1]["AP@0.5"] is None
    assert "–" in str(result)
    missed = voc3d_eval(truth, [Voc3dDetections([], [], [])], ["a"])
    assert missed.mean_ap(0.25) == missed.mean_recall(0.25) == 0.0


def plain(truth, found, overlap):
    """The protocol, detection by detection."""
    rows = [
        (-s, i, j, box)
        for i, d in enumerate(found)
        for j, (box, s) in enumerate(zip(d.boxes, d.scores, strict=True))
    ]
    free = [np.ones(len(t.boxes), bool) for t in truth]
    right = []
    for _, i, _, box in sorted(rows, key=lambda r: r[:3]):
        good = False
        if len(truth[i].boxes):
            ious = box_iou_3d(np.asarray([box]), np.asarray(truth[i].boxes))[0]
            best = int(ious.argmax())
            good = bool(ious[best] > overlap and free[i][best])
            free[i][best] &= not good
        right.append(good)
    total = sum(len(t.boxes) for t in truth)
    hits = np.cumsum(right)
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / total
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(np.concatenate(([0.0], recall))) * envelope).sum())


@pytest.mark.parametrize("seed", range(5))
def test_random_scenes(seed):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(6):
        boxes = np.column_stack(
            (rng.uniform(0, 3, (4, 3)), rng.uniform(0.5, 2, (4, 3)), rng.uniform(-3, 3, 4))
        )
        noisy = boxes[rng.integers(0, 4, 9)] + rng.normal(0, 0.15, (9, 7))
        noisy[:, 3:6] = np.abs(noisy[:, 3:6])
        truth.append(Voc3dTruth(boxes, [0] * 4))
        found.append(Voc3dDetections(noisy, rng.integers(1, 6, 9) / 6, [0] * 9))
    result = voc3d_eval(truth, found, ["a"], (0.25, 0.5))
    for overlap in (0.25, 0.5):
        assert result.mean_ap(overlap) == pytest.approx(plain(truth, found, overlap), abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "found", "words"),
    [
        ([], [Voc3dDetections([], [], [])], "detections: got 1 scenes"),
        ([Voc3dTruth([[0.0] * 6], [0])], [Voc3dDetections([], [], [])], r"boxes: got shape \(1, 6\)"),
        ([Voc3dTruth(at(0), [3])], [Voc3dDetections([], [], [])], "labels: got 3 to 3"),
        ([Voc3dTruth(at(0), [0])], [Voc3dDetections(at(0), [np.nan], [0])], "not finite"),
        ([Voc3dTruth(at(0), [0])], [Voc3dDetections(at(0), [0.5, 0.4], [0])], "one for each box"),
    ],
)
def test_bad_input_is_named(truth, found, words):
    with pytest.raises(ValueError, match=words):
        voc3d_eval(truth, found, ["a"])
    with pytest.raises(ValueError, match="overlaps"):
        voc3d_eval([], [], ["a"], (1.5,))
