"""Distances of feature sets: closed forms, scipy, brute force."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan_distill.features import InceptionFeatures, TinyFeatures
from stylegan_distill.metrics.fid import FeatureStats, compute_fid, frechet_distance, image_features
from stylegan_distill.metrics.kid import compute_kid
from stylegan_distill.metrics.pr import compute_pr
from tenfold.testing import two_gloo_ranks


def _set(seed, n, d=5, shift=0.0, scale=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) * scale + shift)


def test_frechet_distance_of_known_gaussians():
    d = 6
    a, b = np.linspace(0.1, 2, d), np.linspace(3, 0.5, d)
    mean = torch.arange(float(d), dtype=torch.float64)
    wanted = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0])
    cov_a, cov_b = (turn @ torch.diag(torch.from_numpy(v)) @ turn.T for v in (a, b))
    got = frechet_distance(torch.zeros(d), cov_a, mean, cov_b)
    assert got == pytest.approx(float(wanted), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(3, 40))
def test_frechet_distance_equals_sqrtm(seed, d, n):
    """The formula of pytorch-fid, with scipy's root of the product (singular sets included)."""
    x, y = _set(seed, n, d), _set(seed + 1, n + 3, d, shift=1.0)
    stats = [FeatureStats().add(v) for v in (x, y)]
    cov = [np.cov(v.numpy(), rowvar=False) + 1e-9 * np.eye(d) for v in (x, y)]
    root = np.real(scipy.linalg.sqrtm(cov[0] @ cov[1]))
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov[0] + cov[1] - 2 * root)
    got = frechet_distance(stats[0].mean, torch.from_numpy(cov[0]), stats[1].mean, torch.from_numpy(cov[1]))
    assert got == pytest.approx(float(wanted), rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(stats[0].covariance(1), cov[0], atol=1e-8)
    np.testing.assert_allclose(stats[0].covariance(0), np.cov(x.numpy(), rowvar=False, ddof=0), atol=1e-9)


def test_statistics_know_no_order_and_no_shards():
    x = _set(0, 50)
    whole = FeatureStats().add(x)
    parts = FeatureStats().add(x[40:])
    parts.merge(FeatureStats().add(x[:40].flip(0))).merge(FeatureStats())
    torch.testing.assert_close(parts.covariance(1), whole.covariance(1))
    assert parts.count == 50
    with pytest.raises(ValueError, match=r"\(B, 5\)"):
        whole.add(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="nothing"):
        _ = FeatureStats().mean


def shard_statistics():
    """Every process's share of 50 rows, the last process having none; torch's own sum is out of reach, as NCCL's is."""
    rank = torch.distributed.get_rank()

    def refuse(*_):
        raise RuntimeError("no backend for tensors on the CPU")

    torch.distributed.all_reduce = refuse
    stats = FeatureStats().all_reduce()
    assert stats.count == 0
    if rank < 2:
        stats.add(_set(0, 50)[rank::2])
    assert stats.all_reduce() is stats
    return stats.count, stats.covariance(1)


def test_statistics_of_all_processes_add_up():
    """Also where one of them has seen nothing, and where the backend sums no tensors on the CPU."""
    whole = FeatureStats().add(_set(0, 50)).covariance(1)
    for count, covariance in two_gloo_ranks(shard_statistics, world_size=3):
        assert count == 50
        torch.testing.assert_close(covariance, whole)


def test_fid_names_what_it_is():
    tiny = TinyFeatures()
    real = [torch.rand(8, 3, 16, 16) for _ in range(4)]
    same = compute_fid(real, real, tiny, seed=3)
    assert same.values["fd_tiny"] == pytest.approx(0, abs=1e-6)
    assert same.facts["seed"] == 3
    assert same.facts["features"] == tiny.fingerprint
    assert same.facts["real"] == 32
    moved = compute_fid(real, [x * 0.5 for x in real], tiny)
    assert moved["fd_tiny"] > 0.01
    # The two presets divide by N and by N - 1.
    two = compute_fid(real[:1], [x * 0.5 for x in real[:1]], tiny, "fid_cagan")["fd_tiny"]
    one = compute_fid(real[:1], [x * 0.5 for x in real[:1]], tiny)["fd_tiny"]
    assert one < two
    net = InceptionFeatures(None, tf_resize=False, quantise=False)
    stats = FeatureStats().add(torch.rand(60, 2))
    assert list(compute_fid(stats, stats, net, "fid_cagan").values) == ["fid_n60"]
    with pytest.raises(ValueError, match="quantise=True"):
        compute_fid(stats, stats, net)
    with pytest.raises(ValueError, match="preset"):
        compute_fid(stats, stats, tiny, "fid")
    assert image_features(real, tiny, limit=11).shape == (11, 104)


def test_kid_is_the_unbiased_estimate():
    x, y = _set(0, 12), _set(1, 12, shift=0.5)

    def kernel(a, b):
        return float((a @ b / 5 + 1) ** 3)

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    wanted = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / 132
    wanted -= 2 * sum(kernel(a, b) for a in x for b in y) / 144
    assert compute_kid(x, y, subsets=1, size=12) == pytest.approx(wanted)
    # Unbiased: near 0, of either sign, for two halves of one set.
    many = [
        compute_kid(_set(k, 400)[:200], _set(k, 400)[200:], subsets=5, size=100, seed=k) for k in range(6)
    ]
    assert min(many) < 0 or abs(np.mean(many)) < 0.05 * compute_kid(x, y, subsets=1, size=12)
    with pytest.raises(ValueError, match="at least 2"):
        compute_kid(x[:1], y)


def test_precision_and_recall_tell_the_sides_apart():
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.standard_normal((300, 4)))
    tight = torch.from_numpy(rng.standard_normal((300, 4)) * 0.05)
    precision, recall = compute_pr(wide, tight)
    assert precision > 0.8
    assert recall < 0.3
    assert compute_pr(tight, wide) == (recall, precision)
    assert compute_pr(wide, wide) == (1.0, 1.0)
    assert compute_pr(wide, wide + 100) == (0.0, 0.0)
    with pytest.raises(ValueError, match="more than k"):
        compute_pr(wide[:3], tight)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_precision_equals_brute_force(seed, k):
    x, y = _set(seed, 9, 2), _set(seed + 1, 7, 2)

    def inside(members, point):
        for i, member in enumerate(members):
            others = sorted(float((member - o).norm()) for j, o in enumerate(members) if j != i)
            if float((point - member).norm()) <= others[k - 1]:
                return True
        return False

    wanted = (np.mean([inside(x, p) for p in y]), np.mean([inside(y, p) for p in x]))
    assert compute_pr(x, y, k=k, chunk=2) == pytest.approx(wanted)


def test_against_torch_fidelity():
    fidelity = pytest.importorskip("torch_fidelity", reason="needs the package torch-fidelity")
    from torch_fidelity.metric_fid import fid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, fake = _set(0, 80).float(), _set(1, 80, shift=0.5).float()
    stats = [FeatureStats().add(v) for v in (real, fake)]
    own = frechet_distance(stats[0].mean, stats[0].covariance(1), stats[1].mean, stats[1].covariance(1))
    theirs = fid_features_to_metric(fake, real, verbose=False)["frechet_inception_distance"]
    assert own == pytest.approx(theirs, rel=1e-4)
    found = prc_features_to_metric(fake, real, prc_neighborhood=3, verbose=False)
    assert compute_pr(real, fake) == pytest.approx((found["precision"], found["recall"]), abs=0.02)
    assert fidelity.__version__
