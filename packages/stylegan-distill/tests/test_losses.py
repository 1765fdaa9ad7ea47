"""Losses against closed forms and hand-computed values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import stylegan_distill as sd
from stylegan_distill.gan import gaussian_blur
from stylegan_distill.losses import (
    ContentMask,
    FeatureGramLoss,
    LatentDirectionLoss,
    PathLengthRegularizer,
    RGBLoss,
    discriminator_loss,
    generator_loss,
    r1_penalty,
    record_styles,
    similarity,
    style_sparsity,
)
from tenfold.testing import two_gloo_ranks


def features(seed, blocks=2, rows=6, width=3, side=4):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width + j, side, side, generator=g) for j in range(blocks)]


def test_latent_direction_loss_by_hand():
    """Two codes: A from angles, softmax over two entries, KL(teacher || student), mean over codes."""

    def unit(*angles):
        return torch.stack([torch.tensor([math.cos(a), math.sin(a)]) for a in angles]).view(-1, 2, 1, 1)

    student, teacher = unit(0.0, 0.5, 0.9, 2.0), unit(0.0, 1.5, 0.2, 1.0)
    expected = 0.0
    for i in range(2):
        a_t = [math.cos((0.0, 1.5)[i] - b) for b in (0.2, 1.0)]
        a_s = [math.cos((0.0, 0.5)[i] - b) for b in (0.9, 2.0)]
        p_t, p_s = (1 / (1 + math.exp(a[1] - a[0])) for a in (a_t, a_s))
        expected += (p_t * math.log(p_t / p_s) + (1 - p_t) * math.log((1 - p_t) / (1 - p_s))) / 2
    loss = LatentDirectionLoss()
    assert float(loss([student * 3], [teacher], 2)) == pytest.approx(expected, rel=1e-5)
    # The direction matters, and blocks add up.
    assert float(loss([teacher], [student], 2)) != pytest.approx(expected, rel=1e-3)
    assert float(loss([student] * 3, [teacher] * 3, 2)) == pytest.approx(3 * expected, rel=1e-5)
    mse = LatentDirectionLoss("mse")([student], [teacher], 2)
    gap = [
        math.cos((0.0, 1.5)[i] - (0.2, 1.0)[j]) - math.cos((0.0, 0.5)[i] - (0.9, 2.0)[j])
        for i in (0, 1)
        for j in (0, 1)
    ]
    assert float(mse) == pytest.approx(sum(g * g for g in gap) / 4, rel=1e-5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.01, 100.0), variant=st.sampled_from(["kl", "mse"]))
def test_latent_direction_loss_ignores_scale_and_rotation(seed, scale, variant):
    """Scaling and any orthogonal map of the flattened features leave it; more channels than the teacher are fine."""
    loss, batch = LatentDirectionLoss(variant), 3
    s, t = features(seed), features(seed + 1, width=5, side=2)
    value = loss(s, t, batch)
    wide = [torch.linalg.qr(torch.randn(f[0].numel(), f[0].numel()))[0] for f in s]
    turned = [(f.flatten(1) @ q * scale).view_as(f) for f, q in zip(s, wide, strict=True)]
    torch.testing.assert_close(loss(turned, t, batch), value, rtol=1e-3, atol=1e-5)
    assert float(loss(s, [f * 2 for f in s], batch).abs()) < 1e-6


def test_latent_direction_loss_needs_its_parts():
    loss, s = LatentDirectionLoss(), features(0)
    for batch, student, sentence in (
        (1, features(0, rows=2), "one code makes the loss 0"),
        (3, [], "got 0 and 2 blocks"),
        (3, features(0, rows=3), "moved half last"),  # "feat[batch:]" would be empty
    ):
        with pytest.raises(ValueError, match=sentence):
            loss(student, features(1), batch)
    t = [f.requires_grad_() for f in features(1)]
    s = [f.requires_grad_() for f in s]
    loss(s, t, 3).backward()
    assert all(f.grad is None for f in t)
    assert all(f.grad.abs().sum() > 0 for f in s)
    single = LatentDirectionLoss("single_view")
    first, moved = features(2), features(2)
    for f in moved:
        f[3:] = 0
    assert single(first, t, 3) == single(moved, t, 3)  # the moved half is not read
    with pytest.raises(ValueError, match="variant: got"):
        LatentDirectionLoss("cosine")


def test_similarity_is_wide_under_autocast():
    """Half precision would round cosines of nearly equal codes."""
    a = 1 + torch.randn(4, 8, 8, 8) * 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = similarity(a.bfloat16(), a.bfloat16())
    assert inside.dtype == torch.float32
    expected = F.cosine_similarity(
        a.bfloat16().double().flatten(1)[:, None], a.bfloat16().double().flatten(1)[None], dim=2
    )
    torch.testing.assert_close(inside.double(), expected, rtol=0, atol=1e-6)


def gathered(rank_rows):
    import torch.distributed as dist

    rank = dist.get_rank()
    s, t = features(3, blocks=1, rows=8), features(4, blocks=1, rows=8)

    def mine(f):
        return torch.cat([f[:4][rank::2], f[4:][rank::2]])

    own = [mine(s[0]).requires_grad_()]
    value = LatentDirectionLoss(gather_ranks=True)(own, [mine(t[0])], 2)
    value.backward()
    return float(value.detach()), float(own[0].grad.abs().sum())


def test_gathered_ranks_see_the_whole_matrix():
    found = two_gloo_ranks(gathered, None)
    whole = LatentDirectionLoss()(features(3, blocks=1, rows=8), features(4, blocks=1, rows=8), 4)
    assert sum(v for v, _ in found) / 2 == pytest.approx(float(whole), rel=1e-5)
    assert min(g for _, g in found) > 0


def test_adversarial_terms_and_r1():
    fake, real = torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0], [0.1]])
    softplus = lambda v: math.log1p(math.exp(v))  # noqa: E731
    assert float(generator_loss(fake)) == pytest.approx((softplus(-0.5) + softplus(1)) / 2)
    expected = (softplus(0.5) + softplus(-1)) / 2 + (softplus(-2) + softplus(-0.1)) / 2
    assert float(discriminator_loss(fake, real)) == pytest.approx(expected)
    # D(x) = x A x / 2 + b x has the gradient A x + b.
    a = torch.randn(5, 5, dtype=torch.float64)
    a, b = a + a.t(), torch.randn(5, dtype=torch.float64)
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    logits = (x @ a * x).sum(1, keepdim=True) / 2 + (x @ b)[:, None]
    expected = (x @ a + b).square().sum(1).mean()
    torch.testing.assert_close(r1_penalty(logits, x), expected)


def test_path_length_of_a_linear_generator():
    """x = M w: the gradient of <x, y> is y M / sqrt(H W); the mean moves by 0.01, and carries a gradient."""
    torch.manual_seed(0)
    m = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    ws = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    images = torch.einsum("pd,bld->bp", m, ws).view(3, 3, 2, 2)
    y = torch.randn(3, 3, 2, 2, dtype=torch.float64)
    reg = PathLengthRegularizer().double()
    reg.mean.fill_(0.7)
    loss, lengths = reg(images, ws, y)
    by_hand = (y.view(3, 12) / 2 @ m).norm(dim=1)  # all L entries have the same gradient
    torch.testing.assert_close(lengths, by_hand.detach())
    mean = 0.7 + 0.01 * (by_hand.mean() - 0.7)
    torch.testing.assert_close(reg.mean, mean.detach())
    expected = (by_hand - mean).square().mean()
    torch.testing.assert_close(loss, expected)
    for a, b in zip(torch.autograd.grad(loss, m), torch.autograd.grad(expected, m), strict=True):
        torch.testing.assert_close(a, b)


def test_rgb_counts_all_pixels():
    """The mask scales the mean (over all pixels, not over the masked ones); the intermediate mode sums."""
    s, t = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    half = torch.zeros(2, 1, 4, 4)
    half[:, :, :2] = 1
    assert float(RGBLoss()([s], [t], half)) == 0.5
    small = [torch.zeros(2, 3, 2, 2), s], [torch.full((2, 3, 2, 2), 2.0), t]
    assert float(RGBLoss("intermediate")(*small)) == 3.0
    assert float(RGBLoss()(*small)) == 1.0
    with pytest.raises(ValueError, match="got images of shapes"):
        RGBLoss()([s], [t[:1]])


@pytest.mark.parametrize("batch", [1, 2])
def test_content_mask(batch):
    """Background and cloth go; one image alone keeps its dimensions; other sizes are fitted."""
    classes = torch.tensor([[0, 1], [16, 17]])  # background, skin, cloth, hair

    def parser(images):
        scores = F.one_hot(classes, 19).permute(2, 0, 1).float()
        return scores.expand(len(images), -1, -1, -1)

    found = ContentMask(parser)(torch.zeros(batch, 3, 8, 8))
    assert found.shape == (batch, 1, 8, 8)
    assert found[:, :, :3, 5:].min() == found[:, :, 5:, 5:].min() == 1
    assert found[:, :, :, :3].max() == 0
    assert ContentMask(None)(torch.zeros(batch, 3, 8, 8)).min() == 1


def test_gram_loss_and_styles(tiny2):
    f = features(0, blocks=1, rows=2)[0]
    loss = FeatureGramLoss((3,), (3,), gram_weight=0.0)
    with torch.no_grad():
        loss.adapters[0].weight.copy_(torch.eye(3)[:, :, None, None])
    assert float(loss([f], [f + 2.0])) == pytest.approx(2.0, rel=1e-4)
    assert float(loss([f], [f])) < 1e-5
    net = sd.StyleGAN2Generator(tiny2)
    ws = torch.randn(2, net.num_ws, tiny2.w_dim)
    with record_styles(net.synthesis) as styles:
        net.synthesis(ws, noise="none")
    expected = [net.synthesis.b4.conv1.affine(ws[:, 0]), net.synthesis.b4.torgb.affine(ws[:, 1])]
    assert len(styles) == 8  # five convolutions, three toRGB
    assert torch.equal(styles[0], expected[0])
    assert torch.equal(styles[1], expected[1])
    value = style_sparsity(styles)
    assert float(value) == pytest.approx(sum(float(s.mean(0).abs().sum()) for s in styles), rel=1e-5)
    net.synthesis(ws, noise="none")
    assert len(styles) == 8


def test_blur_is_a_gaussian_of_base_two():
    """2^-(t / sigma)^2 within three sigma, of sum one."""
    image = torch.zeros(1, 1, 15, 15)
    image[0, 0, 7, 7] = 1
    row = torch.tensor([2.0 ** -((t / 2) ** 2) for t in range(-6, 7)])
    row = row / row.sum()
    torch.testing.assert_close(gaussian_blur(image, 2.0)[0, 0, 1:14, 1:14], torch.outer(row, row))
