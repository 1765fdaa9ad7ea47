"""The networks: by hand, by published sizes, by invariances."""

import numpy as np
import pytest
import torch
from torch import nn

from moviescenes.losses import boundary_loss
from moviescenes.model import LGSS, AudioNet, BNet, LGSSBranch, LGSSConfig, LGSSImage
from moviescenes.windows import average_segments, clip_windows, compat_segments, segment_starts


def tiny(**more):
    torch.manual_seed(0)
    dims = more.pop("dims", {"place": 6, "aud": 5})
    return LGSS(LGSSConfig(dims=dims, **{"channels": 4, "hidden": 5, "head": 7, "seq_len": 6, **more})).eval()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_published_sizes():
    net = LGSS(LGSSConfig())
    found = {key: round(parameters(branch) / 1e6, 2) for key, branch in net.branches.items()}
    assert found == {"place": 12.70, "cast": 6.41, "act": 6.41, "aud": 7.61}
    assert round(parameters(AudioNet()) / 1e6, 2) == 3.30


def test_audionet_has_the_published_sizes_at_every_stage():
    net, x, sizes = AudioNet().eval(), torch.zeros(1, 1, 257, 90), []
    for layer in net.layers:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[2:]))
    assert sizes == [(128, 88), (128, 29), (63, 27), (31, 25), (15, 12), (7, 5), (3, 2), (1, 1)]
    assert net(torch.zeros(1, 1, 257, 90)).shape == (1, 512)


def test_bnet_by_hand():
    net = BNet(3, channels=4, half_window=2)
    with torch.no_grad():
        net.relation.weight.copy_(torch.eye(4).reshape(4, 1, 4, 1))  # filter k is shot k
        net.relation.bias.zero_()
        net.difference.weight.fill_(0.5)
        net.difference.bias.zero_()
    x = torch.randn(2, 5, 4, 3)
    out = net(x)
    torch.testing.assert_close(out[..., :3], x.amax(2))
    cosine = torch.cosine_similarity(x[:, :, :2].mean(2), x[:, :, 2:].mean(2), dim=-1)
    torch.testing.assert_close(out[..., 3:], cosine[..., None].expand(2, 5, 4))


def test_bnet_invariances():
    torch.manual_seed(1)
    net = BNet(5, channels=8)
    for conv in (net.relation, net.difference):
        nn.init.zeros_(conv.bias)
    x = torch.randn(1, 3, 4, 5)
    out = net(x)
    same = net(x[:, :, :1].expand(1, 3, 4, 5))[..., 5:]  # identical shots on both sides
    torch.testing.assert_close(same, torch.ones_like(same))
    swapped = net(torch.cat((x[:, :, 2:], x[:, :, :2]), 2))
    torch.testing.assert_close(swapped[..., 5:], out[..., 5:])
    assert not torch.allclose(swapped[..., :5], out[..., :5])
    torch.testing.assert_close(net(3 * x), torch.cat((3 * out[..., :5], out[..., 5:]), -1))
    assert not torch.allclose(net(x.flip(2))[..., 5:], out[..., 5:])
    with torch.no_grad():
        net.difference.weight[:, :, 1] = net.difference.weight[:, :, 0]
    torch.testing.assert_close(net(x.flip(2))[..., 5:], net(x)[..., 5:])
    dot = BNet(5, channels=8, similarity="dot")
    dot.load_state_dict(net.state_dict())
    assert not torch.allclose(dot(x), net(x))


def test_wrong_shapes_and_words_are_named():
    with pytest.raises(ValueError, match=r"windows: got shape \(1, 2, 3, 5\)"):
        BNet(5, 2)(torch.zeros(1, 2, 3, 5))
    with pytest.raises(ValueError, match="similarity: got 'l2'"):
        BNet(5, similarity="l2")
    with pytest.raises(ValueError, match="fusion: got 'x'"):
        LGSSConfig(fusion="x")
    with pytest.raises(ValueError, match="misses aud"):
        tiny()({"place": torch.zeros(1, 6, 4, 6)})
    with pytest.raises(ValueError, match=r"place: got shape \(3, 4\)"):
        tiny().predict({"place": np.zeros((3, 4)), "aud": np.zeros((3, 5))})
    with pytest.raises(ValueError, match="different numbers of shots"):
        tiny().predict({"place": np.zeros((3, 6)), "aud": np.zeros((4, 5))})


@pytest.mark.parametrize("fusion", ["late-fixed", "late-learned", "early"])
def test_fusions(fusion):
    net = tiny(fusion=fusion)
    x = {"place": torch.randn(2, 6, 4, 6), "aud": torch.randn(2, 6, 4, 5)}
    out = net(x)
    assert out.shape == (2, 6, 2)
    if fusion != "early":  # weights 0.5 and 0.1 of the two modalities present
        parts = [net.branches[key](x[key]) for key in ("place", "aud")]
        torch.testing.assert_close(out, (5 * parts[0] + parts[1]) / 6)
    out.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_gradients_are_right_and_finite():
    torch.manual_seed(0)
    branch = LGSSBranch(3, LGSSConfig(dims={"place": 3}, channels=2, hidden=2, head=3)).double()
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(branch, (x,))
    branch(torch.zeros(1, 3, 4, 3, dtype=torch.float64)).sum().backward()  # nobody in any shot
    assert all(torch.isfinite(p.grad).all() for p in branch.parameters())


def test_images_and_spectrograms():
    net = tiny(dims={"place": 6, "aud": (257, 90)}, audio_dim=9)
    features = {"place": np.random.rand(5, 6), "aud": np.random.rand(5, 257, 90)}
    assert net.predict(features).shape == (4,)
    backbone = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    image = LGSSImage(LGSSConfig(dims={"place": 3}, channels=2, hidden=2, head=3), backbone, dim=3)
    assert image(torch.rand(1, 2, 4, 3, 8, 8)).shape == (1, 2, 2)


def test_predict_scores_every_boundary_whatever_the_batch():
    net = tiny()
    rng = np.random.default_rng(0)
    features = {"place": rng.normal(size=(47, 6)), "aud": rng.normal(size=(47, 5))}
    p = net.predict(features)
    assert p.shape == (46,)
    assert ((p > 0) & (p < 1)).all()
    for batch in (1, 3):
        np.testing.assert_allclose(net.predict(features, batch_size=batch), p, atol=1e-6)
    # 100 repetitions of the last shot change nothing far from the seam.
    longer = {key: np.concatenate((v, np.repeat(v[-1:], 100, 0))) for key, v in features.items()}
    np.testing.assert_allclose(net.predict(longer)[:30], p[:30], atol=1e-6)
    for shots in (0, 1, 2, 3, 5):
        part = {key: value[:shots] for key, value in features.items()}
        found = net.predict(part, combine="central-half")
        assert found.shape == (max(0, shots - 1),)
        assert np.isfinite(found).all()
    compat = net.predict(features, compat=True)
    assert np.isnan(compat[0])
    assert np.isfinite(compat[1:43]).all()


def test_windows_off_by_one():
    assert clip_windows([5], 20, 2).tolist() == [[4, 5, 6, 7]]  # i - 1, i | i + 1, i + 2
    assert compat_segments(1000, 2, 10)[0] == 1
    assert compat_segments(5, 2, 10).tolist() == []
    for boundaries in (1, 9, 10, 11, 23, 100):
        starts = segment_starts(boundaries, 10, 5)
        size = min(10, boundaries)
        counts = average_segments(np.ones((len(starts), size)), starts, boundaries)
        assert (counts == 1).all()  # every boundary is spoken for


def test_loss_is_the_weighted_mean():
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 5, 2), torch.tensor([[0, 1, 0, 0, 1]] * 4)
    logs = torch.log_softmax(logits, -1)
    weight = torch.where(labels == 1, 9.0, 1.0)
    wanted = -(weight * logs.gather(-1, labels[..., None])[..., 0]).sum() / weight.sum()
    torch.testing.assert_close(boundary_loss(logits, labels), wanted)
    torch.testing.assert_close(boundary_loss(logits, labels, (0.5, 4.5)), wanted)
    assert boundary_loss(logits, torch.full((4, 5), -1)).item() == 0
