"""Metrics of generators: linear networks with known answers, identical and unrelated pairs."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylegan_distill.lpips import LPIPS
from stylegan_distill.metrics import (
    append_jsonl,
    compute_ppl,
    editing_consistency,
    equivariance,
    generated_images,
    mapping_swap,
    mixing_consistency,
    noise_lpips,
    output_discrepancy,
    project_image,
    psnr,
    resample,
)
from stylegan_distill.metrics.projection import _values
from stylegan_distill.networks import StyleGAN2Generator, StyleGAN3Generator


class Squared:
    name = "squared"

    def __call__(self, x, y):
        return (x - y).square().flatten(1).sum(1)


class Linear(torch.nn.Module):
    """w = 2 z in every entry; the image is a matrix times the mean of w."""

    num_ws = 4

    def __init__(self):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.randn(3 * 16, 5, dtype=torch.float64))
        self.cfg = SimpleNamespace(z_dim=5, w_dim=5, c_dim=0, resolution=4)
        self.synthesis = lambda ws, noise: (ws.mean(1) @ self.matrix.T).view(-1, 3, 4, 4)

    def mapping(self, z, c=None):
        return 2 * z.double()[:, None].expand(-1, 4, -1)


@pytest.fixture(scope="module")
def net2(tiny2):
    torch.manual_seed(0)
    net = StyleGAN2Generator(tiny2).eval()
    for conv in net.synthesis.convolutions():
        torch.nn.init.constant_(conv.noise_strength, 0.05)
    return net


@pytest.fixture(scope="module")
def net3(tiny3):
    torch.manual_seed(0)
    return StyleGAN3Generator(tiny3).eval()


def test_path_length_of_a_linear_generator():
    net = Linear()
    rng = torch.Generator().manual_seed(7)
    z0, z1 = torch.randn(40, 5, generator=rng), torch.randn(40, 5, generator=rng)
    lengths = (2 * (z1 - z0).double() @ net.matrix.T).square().sum(1).detach().numpy()
    kept = lengths[(lengths >= np.sort(lengths)[0]) & (lengths <= np.sort(lengths)[-1])]
    found = compute_ppl(net, Squared(), pairs=40, batch=40, seed=7)
    assert found["ppl_wend_squared"] == pytest.approx(kept.mean(), rel=1e-6)
    # Anywhere on a straight path the length is the same.
    full = compute_ppl(net, Squared(), pairs=40, batch=40, seed=7, sampling="full")
    assert full["ppl_wfull_squared"] == pytest.approx(kept.mean(), rel=1e-6)
    sphere = compute_ppl(net, Squared(), pairs=40, batch=40, seed=7, space="z")["ppl_zend_squared"]
    assert 0 < sphere < kept.mean()


def test_path_length_ignores_noise_and_the_published_column_measures_it(net2, net3):
    metric, louder = LPIPS("tiny"), copy.deepcopy(net2)
    for conv in louder.synthesis.convolutions():
        conv.noise_strength.data.mul_(3)
    columns = [noise_lpips(net, metric, pairs=64)["noise_lpips_tiny"] for net in (net2, louder)]
    assert columns[1] > 2 * columns[0] > 0
    still = noise_lpips(net3, metric, pairs=16)["noise_lpips_tiny"]
    assert still < 1e-3 * columns[0]
    shared = [compute_ppl(net, metric, pairs=64, epsilon=1e-3)["ppl_wend_tiny"] for net in (net2, louder)]
    assert shared[1] == pytest.approx(shared[0], rel=0.25)


def test_the_published_column_has_its_name_from_the_published_network():
    metric = Squared()
    assert list(noise_lpips(Linear(), metric, pairs=4).values) == ["noise_squared"]
    metric.name = "lpips_vgg"
    assert list(noise_lpips(Linear(), metric, pairs=4).values) == ["noise_lpips_vgg"]
    assert list(noise_lpips(Linear(), metric, batch=5000).values) == ["noise_lpips"]


def test_discrepancy_of_collapsed_generators(net2, tmp_path):
    """One image for every code, in both: no ratio, and no crash in the middle of a training."""
    flat = copy.deepcopy(net2)
    for block in flat.synthesis.blocks():
        for parameter in block.torgb.parameters():
            torch.nn.init.zeros_(parameter)
    found = output_discrepancy(flat, flat, LPIPS("tiny"), count=8)
    assert math.isnan(found["ratio"])
    assert found["l1"] == found["mismatched_l1"] == 0
    assert found["psnr"] == found["mismatched_psnr"] == 999
    assert output_discrepancy(net2, flat, LPIPS("tiny"), count=8)["ratio"] == pytest.approx(1)
    append_jsonl(tmp_path / "log.jsonl", {"l1": found["l1"], "ratio": found["ratio"]})
    assert (tmp_path / "log.jsonl").read_text() == '{"l1": 0.0, "ratio": null}\n'


def test_discrepancy_of_identical_unrelated_and_noisy_pairs(net2, tiny2):
    metric = LPIPS("tiny")
    same = output_discrepancy(net2, net2, metric, count=64)
    assert same["l1"] == same["ratio"] == same["lpips_tiny"] == 0
    assert same["mismatched_l1"] > 0.01
    noisy = output_discrepancy(net2, net2, metric, count=64, noise="random")
    assert 0 < noisy["ratio"] < 1
    torch.manual_seed(5)
    other = StyleGAN2Generator(tiny2).eval()
    assert output_discrepancy(net2, other, metric, count=256)["ratio"] == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="count"):
        output_discrepancy(net2, net2, metric, count=1)
    # Control: with the codes of other images the matched value is the mismatched one; nothing leaks past the codes.
    shifted = copy.deepcopy(net2)
    shifted.mapping.forward = lambda z, *more: net2.mapping(z.roll(1, 0), *more)
    assert output_discrepancy(net2, shifted, metric, count=64)["l1"] == same["mismatched_l1"]
    # A student whose mapping alone is foreign is found out by the swap.
    foreign = copy.deepcopy(net2)
    foreign.mapping.load_state_dict(other.mapping.state_dict())
    swap = mapping_swap(net2, foreign, count=32)
    assert swap["teachers_mapping"] == pytest.approx(0, abs=1e-6)
    assert swap["own"] > 0.01


def test_edits_of_the_same_network_agree(net2):
    metric = LPIPS("tiny")
    directions = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    same = editing_consistency(
        net2, net2, directions, metric, count=20, strengths=(1.0, 3.0), classifier=lambda x: x.mean((2, 3))
    )
    assert same["attribute_agreement"] == 1
    assert same["edit_cosine"] == pytest.approx(1, abs=1e-5)
    assert same["edit_lpips_tiny"] == pytest.approx(0, abs=1e-6)
    assert same["rank_agreement"] == pytest.approx(1, abs=1e-6)
    turned = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    other = editing_consistency(net2, net2, directions, metric, student_directions=turned, count=20)
    assert other["edit_cosine"] < 0.7
    assert mixing_consistency(net2, net2, count=8)["mixing_l1"] == 0
    with pytest.raises(ValueError, match="directions"):
        editing_consistency(net2, net2, directions[:, :4], metric)


def test_psnr_right_and_as_published():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 1, 3, 64, 64), dtype=np.uint8)
    with np.errstate(over="ignore"):
        wrapped = float(((a - b) ** 2).astype(float).mean())  # uint8 stays uint8
    x, y = (torch.from_numpy(v / 127.5 - 1).float() for v in (a, b))
    assert psnr(x, y, legacy_uint8=True) == pytest.approx(10 * math.log10(255**2 / wrapped), abs=0.3)
    assert psnr(x, y, legacy_uint8=True) == pytest.approx(27.9, abs=0.3)
    assert psnr(x, y) == pytest.approx(7.7, abs=0.2)
    base = torch.from_numpy(rng.integers(60, 190, (1, 3, 256, 256)) / 127.5 - 1).float()
    for sigma, legacy, right in ((8, 31.2, 30.1), (20, 28.7, 22.1)):
        noisy = base + sigma / 127.5 * torch.from_numpy(rng.standard_normal(base.shape)).float()
        assert psnr(base, noisy, legacy_uint8=True) == pytest.approx(legacy, abs=0.2)
        assert psnr(base, noisy) == pytest.approx(right, abs=0.1)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :3] = 1
    assert psnr(x, y, mask) == pytest.approx(psnr(x[..., :3], y[..., :3]))
    assert psnr(x * 3, x * 3) == math.inf


@pytest.mark.parametrize("how", [pytest.param("adam", marks=pytest.mark.slow), "lbfgs"])
def test_projection_finds_an_image_of_the_network(net2, how):
    target = net2(torch.randn(1, 16), noise="none").detach()
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    before = copy.deepcopy(net2.state_dict())
    steps = 30 if how == "adam" else 15
    found = project_image(net2, target, LPIPS("tiny"), iterations=steps, optimizer=how, mask=mask)
    assert found.losses[-1] < 0.7 * found.losses[0]
    assert len(found.losses) == steps
    assert set(found.values) == {"psnr", "psnr_legacy_uint8", "lpips_tiny", "ca_psnr", "ca_lpips_tiny"}
    assert found.values["psnr"] == pytest.approx(psnr(found.image, target))
    again = net2.synthesis(found.ws, noise=found.noise)
    torch.testing.assert_close(again, found.image)
    for name, value in net2.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert all(p.grad is None for p in net2.parameters())
    with pytest.raises(ValueError, match="target"):
        project_image(net2, target[..., :8], LPIPS("tiny"))


def test_an_image_that_is_met_exactly_has_finite_values():
    image = torch.zeros(1, 3, 16, 16)
    values = _values(image, image, LPIPS("tiny"), torch.ones(1, 1, 16, 16))
    assert values["psnr"] == values["psnr_legacy_uint8"] == values["ca_psnr"] == 999


def test_equivariance_of_an_untrained_network(net2, net3):
    found = equivariance(net3, count=8, translate_max=0.125)
    assert found["eqt_int"] > 40
    assert found["eqt_frac"] > 30
    # T is no rotating network.
    assert found["eqr"] < found["eqt_frac"]
    assert net3.synthesis.input.transform.equal(torch.eye(3))
    with pytest.raises(ValueError, match="StyleGAN3"):
        equivariance(net2)


def test_resampling_moves_a_wave():
    """A band-limited wave, moved by any shift and angle, equals the wave at the moved places."""
    side = 48
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def wave(x, y):
        return torch.sin(2 * math.pi * (5 * x + 3 * y) + 0.4)

    angle, shift = 0.7, torch.tensor([0.031, -0.07])
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix[:2, 2] = shift
    moved, mask = resample(wave(x, y)[None, None], matrix)
    back = torch.stack((x, y, torch.ones_like(x)), -1) @ torch.linalg.inv(matrix).T
    wanted = wave(back[..., 0], back[..., 1])
    assert 0.3 < mask.mean() < 0.95
    assert ((moved[0, 0] - wanted).abs() * mask).max() < 0.02


def test_images_do_not_depend_on_who_asks(net2, tmp_path):
    first = torch.cat(list(generated_images(net2, 10, batch=4, seed=1)))
    second = torch.cat(list(generated_images(net2, 10, batch=4, seed=1)))
    assert len(first) == 10
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    append_jsonl(tmp_path / "log.jsonl", {"a": 1})
    append_jsonl(tmp_path / "log.jsonl", {"a": 2})
    assert (tmp_path / "log.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'
