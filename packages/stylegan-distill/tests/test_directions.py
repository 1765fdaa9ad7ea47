"""Directions against singular vectors; offsets against their distribution."""

import pytest
import torch

import stylegan_distill as sd
from tenfold._errors import UserInputError


def stacked(net, side):
    block = getattr(net.synthesis, f"b{side}")
    rows = torch.cat([block.conv0.affine.weight, block.conv1.affine.weight]).detach().double()
    return rows / rows.norm(dim=1, keepdim=True)


def test_split_directions_are_singular_vectors(tiny2):
    """Row-normalised stacks of conv0 and conv1; orthonormal within a block; the sign does not depend on the solver."""
    torch.manual_seed(0)
    net = sd.StyleGAN2Generator(tiny2)
    found = sd.latent_directions(net, k=3)
    assert found.shape == (6, 16)
    for number, side in enumerate((8, 16)):
        own = found[3 * number : 3 * number + 3].double()
        torch.testing.assert_close(own @ own.t(), torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-5)
        right = torch.linalg.svd(stacked(net, side)).Vh[:3]
        torch.testing.assert_close(
            (own * right).sum(1).abs(), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-5
        )
        assert (own.gather(1, own.abs().argmax(1, keepdim=True)) > 0).all()
    more = sd.latent_directions(net, k=2, start=3)
    assert (more[:2] @ found[:3].t()).abs().max() < 1e-5  # held out
    both = torch.cat([stacked(net, 8), stacked(net, 16)])
    right = torch.linalg.svd(both).Vh[:4]
    wide = sd.latent_directions(net, "global", k=2)
    torch.testing.assert_close(
        (wide.double() * right).sum(1).abs(), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_channels_may_move_and_grow(tiny2):
    """Permuting a layer's channels or scaling a row changes nothing."""
    torch.manual_seed(1)
    net = sd.StyleGAN2Generator(tiny2)
    before = sd.latent_directions(net, k=2)
    with torch.no_grad():
        weight = net.synthesis.b8.conv1.affine.weight
        weight.copy_(weight[torch.randperm(len(weight))] * torch.rand(len(weight), 1).add(0.1))
    torch.testing.assert_close(sd.latent_directions(net, k=2), before, rtol=0, atol=1e-4)


def test_default_is_25_directions_of_256_pixels():
    """Five blocks of 8 to 128 pixels, also where there are more."""
    net = sd.StyleGAN2Generator(sd.StyleGAN2Config(256, z_dim=8, w_dim=512, mapping_layers=1, channel_max=8))
    assert sd.latent_directions(net).shape == (25, 512)


def test_groups_of_stylegan3(tiny3):
    """Layers of one sampling rate belong together."""
    net = sd.StyleGAN3Generator(tiny3)
    groups = tiny3.groups
    found = sd.latent_directions(net, k=2)
    assert found.shape == (2 * len(groups), 16)
    layers = net.synthesis.layers()
    rows = torch.cat([layers[i].affine.weight for i in groups[0]]).detach().double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    right = torch.linalg.svd(rows).Vh[:2]
    torch.testing.assert_close(
        (found[:2].double() * right).sum(1).abs(), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-5
    )


def test_other_modes_and_bad_requests(tiny2):
    net = sd.StyleGAN2Generator(tiny2)
    for mode in ("random", "pca"):
        found = sd.latent_directions(net, mode, k=2)
        assert found.shape == (4, 16)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(4))
        assert torch.equal(found, sd.latent_directions(net, mode, k=2))
    w = net.mapping.style(torch.randn(4000, 16)).detach().double()
    first = sd.latent_directions(net, "pca", k=1)[0].double()
    spread = (w @ first).var()
    assert spread > 0.9 * torch.linalg.eigvalsh(torch.cov(w.t())).max()
    for options, sentence in (
        ({"blocks": (3,)}, "expected numbers from 1 to 2"),
        ({"k": 17}, "W has 16 dimensions"),
        ({"k": 0}, "expected k >= 1"),
        ({"mode": "sorted"}, "mode: got 'sorted'"),
    ):
        with pytest.raises(UserInputError, match=sentence):
            sd.latent_directions(net, **options)
    foreign = sd.Generator(tiny2, net.mapping, torch.nn.Linear(16, 3))
    with pytest.raises(UserInputError, match="no style layers are known of a Linear"):
        sd.latent_directions(foreign)


def test_offsets():
    """A unit direction times N(0, weight^2), the same on every entry of w."""
    g = torch.Generator().manual_seed(0)
    found = sd.sample_offsets(torch.diag(torch.tensor([1.0, 2.0, 4.0])), 6000, 5.0, g)
    assert found.shape == (6000, 1, 3)
    assert ((found != 0).sum(2) <= 1).all()  # unit length whatever the direction's
    assert float(found.sum(2).std()) == pytest.approx(5.0, rel=0.03)
    counts = (found[:, 0] != 0).sum(0)
    assert counts.min() > 1850
