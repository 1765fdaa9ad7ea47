"""Sampling, neighbours, PACF."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pircnn import PACF, PointImageFusion, sample_image_features
from pircnn.model import PointPainting, neighbours


def test_sampling_is_exact_inside_and_zero_outside():
    height, width = 7, 11
    v, u = torch.meshgrid(torch.arange(7.0), torch.arange(11.0), indexing="ij")
    feat = (u + 1000 * v)[None, None].double()
    g = torch.Generator().manual_seed(0)
    uv = torch.rand(1, 200, 2, generator=g, dtype=torch.float64) * torch.tensor([width - 1, height - 1])
    read = sample_image_features(feat, uv)[0, :, 0]
    torch.testing.assert_close(read, uv[0, :, 0] + 1000 * uv[0, :, 1], atol=1e-9, rtol=0)
    corners = torch.tensor([[[0.0, 0], [10, 6], [10.9, 6.9], [-0.01, 2], [11, 2], [3, 7]]]).double()
    assert sample_image_features(feat, corners)[0, :, 0].tolist() == [0, 6010, 6010, 0, 0, 0]
    assert sample_image_features(feat, corners, mode="floor")[0, 2].item() == 6010
    at = torch.tensor([[[2.6, 3.4]]]).double()
    assert [sample_image_features(feat, at, mode=m).item() for m in ("nearest", "floor")] == [3003.0, 3002.0]
    # Rows and columns are no place to be mixed up.
    assert sample_image_features(feat, torch.tensor([[[9.0, 2.0]]]).double()).item() == 2009


def test_sampling_gradient_sums_to_one_for_each_point():
    feat = torch.rand(1, 1, 5, 6, requires_grad=True)
    uv = torch.tensor([[[0.3, 0.7], [5.9, 4.8], [2.0, 2.0], [9.0, 1.0]]])
    sample_image_features(feat, uv).sum().backward()
    assert feat.grad.sum().item() == pytest.approx(3)
    valid = torch.tensor([[True, False, True, True]])
    assert sample_image_features(feat, uv, valid)[0, 1].item() == 0
    for wrong in ({"mode": "cubic"}, {"valid": valid[:, :2]}):
        with pytest.raises(ValueError):
            sample_image_features(feat, uv, **wrong)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 10**6))
def test_neighbours_are_the_nearest(number, k, seed):
    g = torch.Generator().manual_seed(seed)
    xyz = torch.randint(0, 4, (2, number, 3), generator=g).float()  # many ties
    valid = torch.rand(2, number, generator=g) < 0.8
    found, masked = neighbours(xyz, k), neighbours(xyz, k, valid)
    for frame in range(2):
        d = ((xyz[frame, :, None] - xyz[frame]) ** 2).sum(-1)
        for i in range(number):
            order = sorted(range(number), key=lambda j: (float(d[i, j]), j))
            wanted = (order + [i] * k)[:k]
            assert found[frame, i].tolist() == wanted
            among = [j for j in order if valid[frame, j]] if valid[frame, i] else []
            assert masked[frame, i].tolist() == (among + [i] * k)[:k]


def reference(pacf, feats, xyz):
    """The equations, point by point."""
    idx = neighbours(xyz, pacf.k)
    rows = []
    for b in range(len(feats)):
        for i in range(feats.shape[1]):
            z = [torch.cat((feats[b, k], xyz[b, k] - xyz[b, i])) for k in idx[b, i].tolist()]
            h = [pacf.kernel(each) for each in z]
            parts = [sum(h)]
            if pacf.point_pooling:
                parts.append(torch.stack([feats[b, k] for k in idx[b, i].tolist()]).amax(0))
            if pacf.attention == "rank":
                parts.append(sum(a * each for a, each in zip(pacf.attend.weight[0], h)) + pacf.attend.bias)
            if pacf.attention == "content":
                told = [pacf.attend(torch.cat((each, feats[b, i]))) for each in z]
                weights = torch.cat(told).softmax(0)
                parts.append(sum(a * each for a, each in zip(weights, h)))
            rows.append(pacf.merge(torch.cat(parts)))
    return torch.stack(rows).view(*feats.shape[:2], -1)


def inputs(seed=0, number=12, channels=4):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.rand(2, number, channels, generator=g, dtype=torch.float64),
        torch.randn(2, number, 3, generator=g, dtype=torch.float64),
    )


@pytest.mark.parametrize("attention", ["rank", "content", None])
@pytest.mark.parametrize("pooling", [True, False])
def test_pacf_equals_its_equations(attention, pooling):
    torch.manual_seed(0)
    pacf = PACF(4, 6, 3, (5, 7), pooling, attention).double()
    feats, xyz = inputs()
    torch.testing.assert_close(pacf(feats, xyz), reference(pacf, feats, xyz))


def test_symmetries():
    torch.manual_seed(0)
    pacf = PACF(4, 6, 3, (5, 7)).double()
    feats, xyz = inputs()
    whole = pacf(feats, xyz)
    order = torch.randperm(12)
    torch.testing.assert_close(pacf(feats[:, order], xyz[:, order]), whole[:, order])
    torch.testing.assert_close(pacf(feats, xyz + torch.tensor([7.0, -3, 1])), whole)
    turned = xyz @ torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    assert not torch.allclose(pacf(feats, turned), whole)
    # Frames of a batch do not see each other.
    torch.testing.assert_close(pacf(feats[1:], xyz[1:]), whole[1:])


def test_without_activation_it_is_one_affine_map_of_sums():
    """The released kernel: everything it can say is in the sum of its inputs."""
    feats, xyz = inputs()
    idx = neighbours(xyz, 3)
    frames = torch.arange(2).view(-1, 1, 1)
    z = torch.cat((feats[frames, idx], xyz[frames, idx] - xyz[:, :, None]), -1).sum(2)
    found = {}
    for activation in (None, "relu"):
        torch.manual_seed(0)
        pacf = PACF(4, 6, 3, (5, 7), False, None, activation).double()
        layers = [m for m in pacf.kernel if isinstance(m, torch.nn.Linear)]
        a = layers[2].weight @ layers[1].weight @ layers[0].weight
        b = layers[2].weight @ (layers[1].weight @ layers[0].bias + layers[1].bias) + layers[2].bias
        found[activation] = torch.allclose(pacf(feats, xyz), pacf.merge(z @ a.T + 3 * b))
    assert found == {None: True, "relu": False}


def test_special_cases():
    feats, xyz = inputs()
    one = PACF(4, 6, 1, (5, 7), False, None).double()
    alone = one.kernel(torch.cat((feats, torch.zeros_like(xyz)), -1))
    torch.testing.assert_close(one(feats, xyz), one.merge(alone))
    mean = PACF(4, 6, 3, (5, 7), False, "rank").double()
    with torch.no_grad():
        mean.attend.weight.fill_(1 / 3)
        mean.attend.bias.zero_()
        # The attentive part alone, then the convolution alone, divided by K.
        mean.merge.weight[:, :6], mean.merge.weight[:, 6:] = 0, torch.eye(6)
        attentive = mean(feats, xyz)
        mean.merge.weight[:, :6], mean.merge.weight[:, 6:] = torch.eye(6) / 3, 0
    torch.testing.assert_close(attentive, mean(feats, xyz))
    # Points in one place carry one pixel: whichever of them is found, each contributes its own value.
    twins = xyz[:, [0, 0, 0, 0, 1]], feats[:, [0, 0, 0, 0, 1]]
    pacf = PACF(4, 6, 3, (5, 7)).double()
    told = pacf(twins[1], twins[0])
    torch.testing.assert_close(told[:, 3], pacf(feats[:, [0, 0, 0]], xyz[:, [0, 0, 0]])[:, 0])
    # Fewer points than neighbours: the point fills up.
    assert neighbours(xyz[:, :2], 3)[0].tolist() == [[0, 1, 0], [1, 0, 1]]
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[:, 8:] = False
    torch.testing.assert_close(pacf(feats, xyz, valid)[:, :8], pacf(feats[:, :8], xyz[:, :8]))


def test_combinations_and_messages():
    feats, xyz = inputs()
    points = torch.rand(2, 12, 6).double()
    concat = PointImageFusion(6, PACF(4, 5), "concat").double()
    assert concat(points, feats, xyz).shape == (2, 12, 11)
    paint = PointImageFusion(6, PointPainting(4, 6)).double()
    torch.testing.assert_close(paint(points, feats, xyz), paint.own(points) + paint.fuse.merge(feats))
    assert sum(p.numel() for p in PACF(10).merge.parameters()) == 34_176
    assert sum(p.numel() for p in PointImageFusion(128, PACF(10)).own.parameters()) == 16_512
    assert any(isinstance(m, torch.nn.LayerNorm) for m in PACF(4, norm=True).modules())
    for build, words in (
        (lambda: PACF(4, k=0), "k, in_channels"),
        (lambda: PACF(4, attention="soft"), "attention"),
        (lambda: PACF(4, activation="gelu"), "activation"),
        (lambda: PointImageFusion(6, PACF(4, 5)), "gives 5 channels"),
        (lambda: PointImageFusion(6, PACF(4, 6), "mul"), "combine"),
        (lambda: PACF(4)(feats[..., :3], xyz), "feats, xyz"),
        (lambda: PACF(4).double()(feats, xyz, knn_idx=torch.zeros(2, 12, 2).long()), "knn_idx"),
    ):
        with pytest.raises(ValueError, match=words):
            build()
