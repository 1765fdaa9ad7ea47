"""Average precision by distance."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tenfold.eval.kitti import FewObjectsWarning, KittiAnnotations, kitti_eval
from tenfold.eval.range_bins import range_bins

EDGES = (0.0, 20.0, 40.0, 70.0)
BINS = [(0.0, 20.0), (20.0, 40.0), (40.0, 70.0)]
quiet = pytest.mark.filterwarnings("ignore::tenfold.eval.kitti.FewObjectsWarning")


def cars(*places, scores=None):
    n = len(places)
    x = np.array([p[0] for p in places])
    return KittiAnnotations(
        *(["Car"] * n, np.zeros(n), np.zeros(n), np.full(n, 1.5)),
        np.stack([600 + 20 * x, np.full(n, 150), 660 + 20 * x, np.full(n, 210)], 1),
        *([[1.5, 1.6, 3.9]] * n, [[p[0], 1.7, p[1]] for p in places], np.full(n, 1.5)),
        score=scores,
    )


def aps(bins, metric="3d"):
    return [bins.results[b].ap("Car", metric) for b in BINS]


def counts(bins):
    return [bins.results[b].curve("Car").n_gt for b in BINS]


def test_a_detector_that_fails_far_away():
    gt = cars((0, 10), (0, 30), (0, 50))
    found = cars((0, 10), (0, 30), scores=[0.9, 0.8])
    # The 2-D boxes of cars behind each other coincide here, so that bird's-eye and 3D tell them apart alone.
    bins = range_bins([gt] * 41, [found] * 41, ["Car"], EDGES)
    assert counts(bins) == [41, 41, 41]
    assert aps(bins) == [100, 100, 0]
    assert aps(bins, "bev") == [100, 100, 0]


def test_false_detections_count_in_their_own_bin_only():
    gt = [cars((0, 10), (5, 30), (-5, 50))] * 41
    found = [cars((0, 10), (5, 30), (-5, 50), (12, 45), scores=[0.5, 0.5, 0.5, 0.9])] * 41
    for metric in ("2d", "aos", "bev", "3d"):
        assert aps(range_bins(gt, found, ["Car"], EDGES), metric) == pytest.approx([100, 100, 50])


@quiet
def test_a_detection_across_the_edge_finds_its_object():
    bins = range_bins([cars((0, 19.9))] * 41, [cars((0, 20.1), scores=[0.9])] * 41, ["Car"], EDGES)
    assert counts(bins) == [41, 0, 0]
    assert aps(bins) == [100, 0, 0]


def test_distance_is_on_the_ground_and_the_lower_edge_belongs_to_the_bin():
    gt = [cars((12, 16), (0, 19.99), (3, 40))] * 41
    result = range_bins(gt, [replace(f, score=np.ones(3)) for f in gt], ["Car"], (0, 20))
    assert result.results[0, 20].curve("Car").n_gt == 41
    assert counts(range_bins(gt, [replace(f, score=np.ones(3)) for f in gt], ["Car"])) == [41, 41, 41]


@quiet
def test_bins_split_the_objects_and_one_bin_is_the_plain_evaluation(random_frames):
    gt, det = random_frames(5, 80)
    whole = kitti_eval(gt, det)
    one = range_bins(gt, det, edges=(0, 1e9)).results[0, 1e9]
    bins = range_bins(gt, det, edges=(0, 15, 30, 1e4))
    for c in whole.curves:
        where = (c.class_name, c.metric, c.difficulty, c.table)
        np.testing.assert_array_equal(one.curve(*where).precision, c.precision)
        assert sum(r.curve(*where).n_gt for r in bins.results.values()) == c.n_gt


def test_one_warning_names_the_bins():
    gt = [cars((0, 10), (0, 30))] * 41
    found = [replace(f, score=[0.5, 0.5]) for f in gt]
    with pytest.warns(FewObjectsWarning, match="in 40-70 m; ") as caught:
        range_bins(gt, found, ["Car"])
    assert len(caught) == 1


@quiet
def test_table_and_dict():
    gt = [cars((0, 10), (0, 30))] * 41
    found = [replace(f, score=[0.5, 0.5]) for f in gt]
    bins = range_bins(gt, found, ["Car"], recall=[40])
    lines = str(bins).splitlines()
    assert [line.split()[0] for line in lines] == ["Car", "0-20", "20-40", "40-70"]
    assert lines[1].split()[-1] == "41/41/41"
    assert lines[3].split()[-1] == "0/0/0"
    stored = json.loads(json.dumps(bins.to_dict()))["bins"]
    assert [(b["from"], b["to"]) for b in stored] == BINS
    assert stored[0]["result"]["curves"][0]["n_gt"] == 41


@quiet
@pytest.mark.parametrize(("metrics", "recall"), [(["bev"], 40), (["2d"], 11)])
def test_the_table_shows_what_was_evaluated(metrics, recall):
    gt = [cars((0, 10))] * 41
    found = [replace(f, score=[0.5]) for f in gt]
    bins = range_bins(gt, found, ["Car"], metrics=metrics, recall=[recall])
    assert str(bins).splitlines()[0].split()[1:3] == [metrics[0], f"AP|R{recall}"]
    with pytest.raises(KeyError):
        bins.table(["3d"])


@pytest.mark.parametrize("edges", [(), (0,), (0, 0), (20, 10), (-5, 10), (0, float("nan"))])
def test_wrong_edges_are_named(edges):
    with pytest.raises(ValueError, match="range_bins: edges: got"):
        range_bins([], [], edges=edges)
    if len(edges) == 2:
        with pytest.raises(ValueError, match="kitti_eval: distance: got"):
            kitti_eval([], [], distance=edges)
