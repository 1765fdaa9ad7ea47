"""Metrics: worked cases, scikit-learn, and their own definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moviescenes.metrics import (
    average_precision,
    coverage_overflow,
    evaluate,
    evaluate_films,
    miou,
    recall_at_3s,
    scene_intervals,
)
from tenfold.testing import require

SHOTS = np.array([[10 * k, 10 * k + 9] for k in range(6)])
Y, Z = [0, 1, 0, 1, 0], [0, 1, 0, 0, 0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_ap_equals_scikit_learn_on_ties(seed):
    sklearn = require("sklearn.metrics")
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    y = rng.random(n) < 0.3
    y[0] = True
    p = rng.integers(0, 6, n) / 5
    assert average_precision(y, p) == pytest.approx(sklearn.average_precision_score(y, p), abs=1e-12)
    if not y.all():
        table = np.stack((np.arange(n + 1), np.arange(n + 1)), 1)
        assert evaluate(y, p, table)["auc"] == pytest.approx(sklearn.roc_auc_score(y, p))
        precision, recall, _ = sklearn.precision_recall_curve(y, p)
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        assert evaluate(y, p, table)["best_f1"] == pytest.approx(best)


def test_the_worked_case():
    assert scene_intervals(Y, SHOTS).tolist() == [[0, 20], [20, 40], [40, 60]]
    assert scene_intervals(Z, SHOTS).tolist() == [[0, 20], [20, 60]]
    assert miou(Y, Z, SHOTS) == pytest.approx(((1 + 0.5 + 0.5) / 3 + (1 + 0.5) / 2) / 2)
    assert scene_intervals(Y, SHOTS, "compat").tolist() == [[0, 19], [20, 39]]
    assert miou(Y, Z, SHOTS, "compat") == pytest.approx(0.75)
    assert miou(Y, [0] * 5, SHOTS, "compat") == 0
    assert miou(Y, Y, SHOTS) == 1
    assert miou(Y, Y, SHOTS, "compat") == 1


def test_recall_within_three_seconds():
    near = [[0, 9], [10, 80], [81, 200]]
    assert recall_at_3s([1, 0], [0, 1], near) == pytest.approx(1, abs=1e-4)  # 71 frames
    far = [[0, 9], [10, 81], [82, 200]]
    assert recall_at_3s([1, 0], [0, 1], far) == 0  # exactly 72: a miss
    assert recall_at_3s([1, 0], [0, 1], far, fps=25.0) == pytest.approx(1, abs=1e-4)
    table = [[3 * k, 3 * k + 2] for k in range(12)]
    y, z = np.zeros(11, int), np.zeros(11, int)
    y[0], z[6] = 1, 1
    assert recall_at_3s(y, z, table) == 0  # six shots away, though within a second
    z[5] = 1
    assert recall_at_3s(y, z, table) > 0.99
    y[1] = y[2] = 1
    z[:] = 0
    z[1] = 1
    assert recall_at_3s(y, z, table) == pytest.approx(1, abs=1e-4)  # many to one
    assert recall_at_3s(y, z, table, one_to_one=True) == pytest.approx(1 / 3, abs=1e-4)


def test_perfect_and_all_ones():
    perfect = evaluate(Y, np.array(Y, float), SHOTS)
    for name in ("ap", "miou", "recall", "precision", "f1", "best_f1", "auc", "coverage"):
        assert perfect[name] == 1, name
    assert perfect["overflow"] == 0
    assert perfect["recall@3s"] == pytest.approx(1, abs=1e-4)
    everything = evaluate(Y, np.ones(5), SHOTS)
    assert everything["recall"] == 1
    assert everything["precision"] == pytest.approx(0.4)
    assert everything["ap"] == pytest.approx(0.4)


def test_coverage_and_overflow_by_hand():
    shots = [[k, k] for k in range(6)]
    y = [0, 0, 1, 0, 0]  # 0-2, 3-5
    assert coverage_overflow(y, [0, 0, 0, 0, 0], shots) == (1.0, 1.0)
    assert coverage_overflow(y, [1, 1, 1, 1, 1], shots) == pytest.approx((1 / 3, 0))
    assert coverage_overflow(y, [0, 1, 0, 0, 0], shots) == pytest.approx(
        ((2 + 3) / 6, (3 * 3 / 3 + 3 * 1 / 3) / 6)
    )


def test_coin_flips():
    rng = np.random.default_rng(0)
    films = []
    for _ in range(60):
        table = np.arange(301)[:, None] * 40 + [0, 39]
        films.append(((rng.random(300) < 0.08).astype(int), rng.random(300), table))
    found = evaluate_films(films)
    assert found["ap"] == pytest.approx(0.09, abs=0.02)
    assert found["recall"] == pytest.approx(0.5, abs=0.03)
    assert found["pooled_ap"] == pytest.approx(0.08, abs=0.02)


def test_unknown_labels_and_errors():
    full = evaluate([0, 1, -1, 0], [0.1, 0.9, 0.99, 0.2], SHOTS[:5])
    assert full["ap"] == 1  # the unknown one with the largest score is no mistake
    with pytest.raises(ValueError, match="expected n - 1"):
        evaluate(Y, Y, SHOTS[:4])
    with pytest.raises(ValueError, match="mode: got 'x'"):
        evaluate(Y, Y, SHOTS, "x")
    with pytest.raises(ValueError, match="none has a scene boundary"):
        evaluate_films([([0, 0], [0.1, 0.2], SHOTS[:3])])
    films = [(Y, Y, SHOTS), ([0] * 5, Y, SHOTS)]
    assert evaluate_films(films)["ap"] == 1  # films without a boundary are left out
    assert evaluate_films([(Y, [0.1] * 5, SHOTS)], decisions=[Y])["recall"] == 1
