"""LPIPS and the feature networks, against closed forms, numpy and torchvision."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylegan_distill.features import (
    InceptionFeatures,
    TinyFeatures,
    VGG16Features,
    VGG16Stages,
    fingerprint,
    resize_tf,
    to_uint8,
)
from stylegan_distill.lpips import LPIPS
from tenfold._errors import UserInputError


@pytest.fixture(scope="module")
def vgg():
    """torchvision's convolutions of VGG16, with random weights."""
    models = pytest.importorskip("torchvision.models.vgg")
    torch.manual_seed(0)
    net = torch.nn.Module()
    net.features = models.make_layers(models.cfgs["D"])
    return net.eval()


def _heads(seed=0):
    rng = np.random.default_rng(seed)
    widths = (64, 128, 256, 512, 512)
    return {
        f"lin{k}.model.1.weight": torch.from_numpy(rng.random((1, c, 1, 1))).float()
        for k, c in enumerate(widths)
    }


def test_tiny_weights_never_change():
    assert TinyFeatures().fingerprint == "e30b60ba06268044"


def test_lpips_vgg_is_the_published_formula(vgg):
    """A twin in float64 on torchvision's own network, taps at the five ReLUs before the pools."""
    heads = _heads()
    metric = LPIPS(heads, vgg.state_dict())
    x, y = torch.rand(2, 2, 3, 40, 40).mul(2).sub(1)
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)

    def taps(image):
        image, found = (image - shift) / scale, []
        for number, layer in enumerate(vgg.features):
            image = layer(image)
            if number in (3, 8, 15, 22, 29):
                found.append(image.detach().double().numpy())
        return found

    wanted = np.zeros(2)
    for k, (a, b) in enumerate(zip(taps(x), taps(y), strict=True)):
        a, b = (v / (np.sqrt((v**2).sum(1, keepdims=True)) + 1e-10) for v in (a, b))
        wanted += ((a - b) ** 2 * heads[f"lin{k}.model.1.weight"].numpy()).sum(1).mean((1, 2))
    np.testing.assert_allclose(metric(x, y).numpy(), wanted, rtol=2e-4)


def test_lpips_equals_the_package(vgg):
    peer = pytest.importorskip("lpips", reason="needs the package lpips")
    other = peer.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
    state = {f"lin{k}.model.1.weight": getattr(other, f"lin{k}").model[1].weight.abs() for k in range(5)}
    for k in range(5):
        getattr(other, f"lin{k}").model[1].weight.data.abs_()
    backbone = vgg.state_dict()
    slices = [f"slice{k}" for k in range(1, 6)]
    for name in slices:
        for index, layer in getattr(other.net, name).named_children():
            if hasattr(layer, "weight"):
                layer.weight.data.copy_(backbone[f"features.{index}.weight"])
                layer.bias.data.copy_(backbone[f"features.{index}.bias"])
    x, y = torch.rand(2, 2, 3, 48, 48).mul(2).sub(1)
    torch.testing.assert_close(LPIPS(state, backbone)(x, y), other(x, y).flatten(), rtol=1e-4, atol=1e-5)


def test_lpips_properties():
    metric = LPIPS("tiny")
    x, y = torch.rand(2, 3, 3, 16, 16).mul(2).sub(1)
    torch.testing.assert_close(metric(x, y), metric(y, x))
    assert metric(x, x).abs().max() == 0
    torch.testing.assert_close(metric(x, y)[1:2], metric(x[1:2], y[1:2]))
    assert all(not p.requires_grad for p in metric.parameters())
    assert metric.train().training is False
    # Gradients reach the images even where features are all zero.
    zero = torch.zeros(1, 3, 16, 16, requires_grad=True)
    metric(zero, y[:1]).sum().backward()
    assert zero.grad.isfinite().all()
    assert zero.grad.abs().max() > 0


def test_lpips_resizes_large_images():
    x, y = torch.rand(2, 1, 3, 32, 32).mul(2).sub(1)
    small = [F.interpolate(v, (16, 16), mode="bilinear", align_corners=False) for v in (x, y)]
    torch.testing.assert_close(LPIPS("tiny", resize=16)(x, y), LPIPS("tiny")(*small))


def test_bad_weights_are_named(tmp_path, vgg):
    with pytest.raises(UserInputError, match="backbone"):
        LPIPS(_heads())
    negative = _heads()
    negative["lin2.model.1.weight"] = -negative["lin2.model.1.weight"]
    with pytest.raises(UserInputError, match="lin2"):
        LPIPS(negative, vgg.state_dict())
    with pytest.raises(UserInputError, match=r"no\.pth"):
        LPIPS(tmp_path / "no.pth", vgg.state_dict())
    with pytest.raises(ValueError, match="got shapes"):
        LPIPS("tiny")(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 9, 9))


@pytest.mark.slow
def test_vgg_hidden_layer_is_torchvisions():
    vgg = pytest.importorskip("torchvision").models.vgg16(weights=None).eval()
    state = vgg.state_dict()
    features = VGG16Features(state)
    x = torch.rand(1, 3, 224, 224).mul(2).sub(1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        wanted = vgg.classifier[:5](vgg.avgpool(vgg.features((x / 2 + 0.5 - mean) / std)).flatten(1))
    torch.testing.assert_close(features(x), wanted, rtol=1e-4, atol=1e-5)
    assert fingerprint(VGG16Stages(state)) != features.fingerprint


def test_inception_pools_as_the_graph_of_2015():
    """Against torchvision's network: only the padding's share differs, so a constant border makes them equal."""
    net = InceptionFeatures(None).eval()
    block = net.net.Mixed_5b
    x = torch.rand(1, 192, 5, 5)
    seen = {}
    block.branch_pool.conv.register_forward_pre_hook(lambda m, i: seen.update(pooled=i[0]))
    block(x)
    corner = x[0, :, :2, :2].mean((1, 2))
    torch.testing.assert_close(seen["pooled"][0, :, 0, 0], corner)
    last = net.net.Mixed_7c
    last.branch_pool.conv.register_forward_pre_hook(lambda m, i: seen.update(top=i[0]))
    y = torch.rand(1, 2048, 4, 4)
    last(y)
    torch.testing.assert_close(seen["top"][0, :, 0, 0], y[0, :, :2, :2].amax((1, 2)))
    state = net.net.state_dict()
    again = InceptionFeatures({**state, "fc.weight": torch.zeros(1008, 2048)})
    assert again.fingerprint == net.fingerprint
    with pytest.raises(UserInputError):
        InceptionFeatures({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)})


def test_quantisation_and_resize_by_hand():
    assert to_uint8(torch.tensor([-1.01, -0.999, 0.5, 0.9999, 2.0])).tolist() == [0, 0, 191, 255, 255]
    x = torch.rand(1, 2, 3, 5)
    got = resize_tf(x, 7)
    place_y, place_x = 4 * 3 / 7, 5 * 5 / 7
    y0, x0 = int(place_y), int(place_x)
    a, b = place_y - y0, place_x - x0
    corner = x[0, 1, y0 : y0 + 2, x0 : x0 + 2]
    wanted = (1 - a) * ((1 - b) * corner[0, 0] + b * corner[0, 1]) + a * (
        (1 - b) * corner[1, 0] + b * corner[1, 1]
    )
    assert got[0, 1, 4, 5].item() == pytest.approx(wanted.item(), abs=1e-6)
