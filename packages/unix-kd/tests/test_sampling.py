"""Uncertainty, gate, mixing and keeping against the published values, closed forms and numpy twins."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from torch import nn

from tenfold.testing import two_gloo_ranks
from unix_kd import MixBatch, UncertaintyMixup, correction_factor, uncertainty
from unix_kd.sampling import STRATEGIES


class Flat(nn.Module):
    """Logits that a test chooses: the first pixels of the image."""

    def __init__(self, classes=4):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.classes = classes

    def forward(self, x):
        self.norm(x)
        return x.flatten(1)[:, : self.classes]


def images(n, seed=0):
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def test_gate_has_the_published_values():
    c = correction_factor(64, 32, 10.0, dtype=torch.float64)
    expected = {0: 0.007233, 15: 0.070560, 31: 0.480479, 32: 0.519521, 47: 0.918480, 63: 0.992767}
    for rank, value in expected.items():
        assert float(c[rank]) == pytest.approx(value, abs=1e-6)
    assert float(c.mean()) == pytest.approx(0.5)
    assert float(c[:48].mean()) == pytest.approx(0.342948, abs=1e-6)
    torch.testing.assert_close(c + c.flip(0), torch.ones(64, dtype=torch.float64))
    step = correction_factor(64, 32, 1000.0, dtype=torch.float64)
    assert float(step[31]) == pytest.approx(0.000404, abs=1e-6)
    assert float(step[32]) == pytest.approx(0.999596, abs=1e-6)
    plain = correction_factor(64, 64, 1000.0, dtype=torch.float64)
    assert float(plain[63]) == pytest.approx(0.000404, abs=1e-6)
    assert float(plain[:63].max()) < 1e-6


@given(st.integers(1, 40), st.data())
@settings(max_examples=50, deadline=None)
def test_gate_is_monotone_symmetric_and_open_between_b_minus_1_and_b(n, data):
    b = data.draw(st.integers(0, n))
    w = data.draw(st.floats(0.5, 50.0))
    c = correction_factor(n, b, w, dtype=torch.float64).tolist()
    assert c == sorted(c)
    for r in range(n):
        mirror = 2 * b - 1 - r
        if 0 <= mirror < n:
            assert c[r] + c[mirror] == pytest.approx(1.0)
        assert (c[r] < 0.5) == (r < b) or c[r] == pytest.approx(0.5)


@given(st.integers(2, 8), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_uncertainty_equals_the_textbook(classes, seed):
    logits = torch.randn(6, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    ranked = np.sort(p, axis=1)
    np.testing.assert_allclose(uncertainty(logits, "least_confidence"), 1 - p.max(1), atol=1e-12)
    np.testing.assert_allclose(uncertainty(logits, "margin"), ranked[:, -2] - ranked[:, -1], atol=1e-12)
    np.testing.assert_allclose(uncertainty(logits, "entropy"), scipy_entropy(p, axis=1), atol=1e-12)
    for strategy in ("least_confidence", "margin", "entropy"):
        torch.testing.assert_close(uncertainty(logits + 7.0, strategy), uncertainty(logits, strategy))


def test_uncertainty_at_the_extremes():
    flat = torch.zeros(2, 10)
    assert float(uncertainty(flat, "entropy")[0]) == pytest.approx(math.log(10), abs=1e-6)
    assert float(uncertainty(flat, "least_confidence")[0]) == pytest.approx(0.9)
    assert float(uncertainty(flat, "margin")[0]) == 0.0
    sure = torch.zeros(1, 10)
    sure[0, 3] = 200.0
    assert float(uncertainty(sure, "entropy")) == 0.0
    infinite = torch.tensor([[0.0, -torch.inf]])
    assert float(uncertainty(infinite, "entropy")) == 0.0
    half = torch.randn(4, 5).half()
    assert uncertainty(half, "entropy").dtype == torch.float32
    two = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    orders = [uncertainty(two, s).argsort().tolist() for s in STRATEGIES[1:]]
    assert orders[0] == orders[1] == orders[2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uncertainty(torch.tensor([[torch.nan, 1.0]])), "logits: NaN in 1 of 1"),
        (lambda: uncertainty(torch.zeros(3)), "expected \\(N, C\\)"),
        (lambda: uncertainty(torch.zeros(3, 1), "margin"), "at least 2"),
        (lambda: uncertainty(torch.zeros(3, 2), "doubt"), "strategy: got 'doubt'"),
        (lambda: correction_factor(4, 5), "0 <= b <= n"),
        (lambda: UncertaintyMixup(keep=0), "keep: got 0"),
        (lambda: UncertaintyMixup(keep=0.0), "keep: got 0.0"),
        (lambda: UncertaintyMixup(keep=1.5), "keep: got 1.5"),
        (lambda: UncertaintyMixup(keep=65, nominal=64), "from 1 to 64"),
        (lambda: UncertaintyMixup(keep=9)(Flat(), images(8)), "the batch has 8 images"),
        (lambda: UncertaintyMixup(b=-1), "b: got -1"),
        (lambda: UncertaintyMixup(lam=2.0), "lam: got 2.0"),
        (lambda: UncertaintyMixup(gate="half"), "gate: got 'half'"),
        (lambda: UncertaintyMixup(alpha=0.0), "alpha > 0"),
        (lambda: UncertaintyMixup()(Flat(), images(0)), "empty batch"),
        (lambda: UncertaintyMixup(score_mode="cached")(Flat(), images(8)), "index: got None"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def twin(x, logits, keep, b, w, lam, partner):
    """The published step in float64 numpy, one image at a time."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    order = np.argsort(-scipy_entropy(p, axis=1), kind="stable")
    n, mixed = len(x), []
    for r in range(keep):
        a = lam / (1 + np.exp(-w * (r / n - (2 * b - 1) / (2 * n))))
        mixed.append((1 - a) * x[order[r]] + a * x[partner[r]])
    return order, np.stack(mixed)


def test_a_step_equals_its_twin():
    x = images(16).double()
    generator = torch.Generator().manual_seed(3)
    student = Flat().double()
    logits = student(x)
    y, index = torch.arange(16) % 4, torch.arange(100, 116)
    state = generator.get_state()
    batch = UncertaintyMixup(keep=12, b=8, generator=generator)(student, x, y, index)
    again = torch.Generator()
    again.set_state(state)
    partner = torch.randperm(16, generator=again)[:12]
    lam = float(torch.rand(1, generator=again))
    order, mixed = twin(x.numpy(), logits.numpy(), 12, 8, 10.0, lam, partner.numpy())
    assert batch.order.tolist() == order.tolist()
    assert batch.partner.tolist() == partner.tolist()
    torch.testing.assert_close(batch.x, torch.from_numpy(mixed), atol=1e-7, rtol=1e-7)
    assert torch.equal(batch.y_a, y[batch.order[:12]])
    assert torch.equal(batch.y_b, y[batch.partner])
    assert torch.equal(batch.index, index[batch.order[:12]])
    assert (batch.mix.diff() > 0).all()  # hard images stay clean: a reversed gate fails here


def test_fixed_mixing_strengths():
    x, student = images(8), Flat()
    clean = UncertaintyMixup(keep=6, b=4, lam=0.0)(student, x)
    assert torch.equal(clean.x, x[clean.order[:6]])
    whole = UncertaintyMixup(keep=6, b=4, lam=1.0, gate="open")(student, x)
    torch.testing.assert_close(whole.x, x[whole.partner])
    mixed = UncertaintyMixup(keep=6, b=4, lam="sample", alpha=0.4)(student, x)
    first, second = x[mixed.order[:6]], x[mixed.partner]
    assert (mixed.x >= torch.minimum(first, second) - 1e-6).all()
    assert (mixed.x <= torch.maximum(first, second) + 1e-6).all()


def test_lambda_is_uniform_and_one_for_the_batch():
    sampler = UncertaintyMixup(keep=1.0, b=0.5, gate="open", generator=torch.Generator().manual_seed(0))
    drawn = [sampler(Flat(), images(4)).mix for _ in range(400)]
    assert all(len(mix.unique()) == 1 for mix in drawn)
    values = torch.stack(drawn)[:, 0]
    assert float(values.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(values.var()) == pytest.approx(1 / 12, abs=0.01)


def test_order_reversed_random_and_ties():
    x = images(8)
    student = Flat()
    forward = UncertaintyMixup(keep=8, b=4, lam=0.0)(student, x).order.tolist()
    backward = UncertaintyMixup(keep=8, b=4, lam=0.0, reverse=True)(student, x).order.tolist()
    assert forward == backward[::-1]
    same = x[:1].expand(8, -1, -1, -1)
    assert UncertaintyMixup(keep=8, b=4)(student, same).order.tolist() == list(range(8))
    asked = []
    UncertaintyMixup(strategy="random")(lambda z: asked.append(z), x)
    assert not asked  # no scoring pass


@pytest.mark.parametrize(("mode", "moves"), [("train", 1), ("eval", 0)])
def test_the_scoring_pass_moves_statistics_only_in_train_mode(mode, moves):
    student = Flat().train()
    before = student.norm.running_mean.clone()
    UncertaintyMixup(keep=6, b=4, score_mode=mode)(student, images(8))
    assert int(student.norm.num_batches_tracked) == moves
    assert torch.equal(before, student.norm.running_mean) == (moves == 0)
    assert student.training
    student.eval()
    UncertaintyMixup(keep=6, b=4, score_mode=mode)(student, images(8))
    assert not student.training


def test_a_smaller_batch_scales_both_numbers():
    sampler = UncertaintyMixup(keep=48, b=32, nominal=64)
    assert sampler.amounts(64) == (48, 32)
    assert sampler.amounts(16) == (12, 8)
    assert sampler.amounts(1) == (1, 0)
    assert UncertaintyMixup(0.75, 0.5).amounts(64) == (48, 32)
    one = UncertaintyMixup()(Flat(), images(1))  # a batch of one
    assert len(one.x) == 1
    for n in range(1, 70):
        k, b = sampler.amounts(n)
        assert 1 <= k <= n
        assert 0 <= b <= n


def test_cached_scores_spare_the_scoring_pass():
    sampler = UncertaintyMixup(keep=2, b=1, lam=0.0, score_mode="cached")
    x, index, student = images(4), torch.tensor([10, 11, 12, 13]), Flat()
    asked = []

    def counted(z):
        asked.append(len(z))
        return student(z)

    batch = sampler(counted, x, index=index)
    assert not asked
    assert batch.order[:2].tolist() == [0, 1]  # nothing known: the order of the batch
    sampler.remember(batch, torch.zeros(2, 4))
    assert sorted(sampler(counted, x, index=index).order[:2].tolist()) == [2, 3]  # unseen images go first
    other = UncertaintyMixup(keep=2, b=1, score_mode="cached")
    other.load_state_dict(sampler.state_dict())
    assert other.state_dict() == sampler.state_dict()


def _select(gather):
    rank = torch.distributed.get_rank()
    x = torch.zeros(4, 3, 4, 4)
    x.view(4, -1)[:, 0] = torch.arange(4.0) + (0.0 if rank else 10.0)  # rank 0 is sure, rank 1 is not
    batch = UncertaintyMixup(keep=2, b=1, lam=0.0, gather=gather, score_mode="eval")(Flat().eval(), x)
    return len(batch.x), batch.share


def test_processes_select_alone_or_together():
    assert two_gloo_ranks(_select, False) == [(2, 1.0), (2, 1.0)]
    (first, s0), (second, s1) = two_gloo_ranks(_select, True)
    assert (first, second) == (1, 4)  # all four unsure images, and one of the other process for its loss
    assert s1 == pytest.approx(2.0)
    assert s0 == pytest.approx(0.5)


def test_mix_batch_is_plain_data():
    assert MixBatch(*[torch.zeros(1)] * 7).share == 1.0
