"""Average precision: against scikit-learn, pycocotools' definition in NumPy, and areas by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tenfold import host

pytestmark = pytest.mark.usefixtures("binding")


def ranked(seed, coarse=True):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    score = rng.integers(0, 8, n) / 8 if coarse else rng.permutation(n).astype(float)
    return score, rng.random(n) < 0.4, rng


@pytest.mark.parametrize("seed", range(40))
def test_step_equals_scikit_learn_with_ties(seed):
    score, right, _ = ranked(seed)
    if not right.any():
        right[0] = True
    expected = average_precision_score(right, score)
    assert host.average_precision(score, right, kind="step") == pytest.approx(expected, abs=1e-14)


def curve(score, right, positives):
    order = np.argsort(-score, kind="stable")
    found = np.cumsum(right[order])
    precision = found / np.arange(1, len(score) + 1)
    return found / positives, np.maximum.accumulate(precision[::-1])[::-1]


@pytest.mark.parametrize("kind", ["11", "101"])
@pytest.mark.parametrize("seed", range(20))
def test_sampled_precision_is_the_mean_of_best_precisions_from_each_recall_on(seed, kind):
    score, right, rng = ranked(seed)
    positives = int(right.sum() + rng.integers(1, 5))
    recall, _ = curve(score, right, positives)
    order = np.argsort(-score, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(score) + 1)
    best = [max(precision[recall >= r], default=0.0) for r in np.linspace(0, 1, int(kind))]
    assert host.average_precision(score, right, positives, kind=kind) == pytest.approx(
        np.mean(best), abs=1e-14
    )


@pytest.mark.parametrize("seed", range(20))
def test_area_equals_the_integral_of_the_envelope(seed):
    score, right, rng = ranked(seed)
    positives = int(right.sum() + rng.integers(1, 5))
    recall, envelope = curve(score, right, positives)
    area = np.sum(np.diff(recall, prepend=0.0) * envelope)
    assert host.average_precision(score, right, positives) == pytest.approx(area, abs=1e-14)


@pytest.mark.parametrize("kind", ["step", "area", "11", "101"])
def test_perfect_useless_and_empty(kind):
    score = np.arange(5.0)
    assert host.average_precision(score, np.ones(5, bool), 5, kind=kind) == 1
    assert host.average_precision(score, np.zeros(5, bool), 5, kind=kind) == 0
    assert host.average_precision(np.zeros(0), np.zeros(0, bool), 5, kind=kind) == 0
    assert np.isnan(host.average_precision(np.zeros(0), np.zeros(0, bool), kind=kind))


def test_same_bits_in_both_bindings(both_bindings):
    for seed in range(20):
        score, right, _ = ranked(seed, coarse=False)
        for kind in ("step", "area", "11", "101"):
            first, second = both_bindings(
                lambda s=score, r=right, k=kind: host.average_precision(s, r, 50, kind=k)
            )
            assert first == second


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((np.zeros(2), np.ones(2, bool), 1), ValueError, "positives: got 1; expected at least 2"),
        ((np.zeros(2), np.ones(3, bool)), ValueError, "right: got 3 entries; expected 2"),
        ((np.zeros(2), np.ones(2)), TypeError, "right: got float64; expected bool"),
        ((np.array([0, np.nan]), np.ones(2, bool)), ValueError, "score: row 1 is not finite"),
    ],
)
def test_wrong_input_is_named(args, error, message):
    with pytest.raises(error, match=message):
        host.average_precision(*args)
    with pytest.raises(ValueError, match="kind: got 'voc'"):
        host.average_precision(np.zeros(1), np.ones(1, bool), kind="voc")
