"""Networks: published sizes, index maps, equal executions, invariances, traps."""

import math

import pytest
import torch
from scipy.signal import firwin
from torch.nn import functional as F

import tenfold
from stylegan_distill.config import (
    DISCRIMINATOR_PRESETS,
    GENERATOR_PRESETS,
    DiscriminatorConfig,
    StyleGAN2Config,
    StyleGAN3Config,
    config_from_dict,
    config_to_dict,
    narrow,
)
from stylegan_distill.cost import count_cost, count_macs
from stylegan_distill.networks import (
    Mapping,
    StyleGAN2Generator,
    StyleGAN3Generator,
    StyleGANDiscriminator,
    minibatch_stddev,
    modulated_conv2d,
)
from stylegan_distill.networks.layers import kaiser_filter, radial_filter, resample_filter


def size(module):
    return sum(p.numel() for p in module.parameters())


def built(cls, config):
    with torch.device("meta"):
        return cls(config)


def generator(config, seed=0):
    torch.manual_seed(seed)
    return (StyleGAN2Generator if isinstance(config, StyleGAN2Config) else StyleGAN3Generator)(config)


def codes(count, length=16, seed=1, dtype=torch.float32):
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---- published sizes


@pytest.mark.parametrize(
    ("preset", "params", "macs"),
    [
        ("stylegan2_256", 30_034_338, 45_124_673_536),
        ("stylegan2_256_paper", 24_767_458, None),
        ("stylegan2_1024", 30_370_060, 74_266_894_336),
    ],
)
def test_stylegan2_has_the_published_size(preset, params, macs):
    config = GENERATOR_PRESETS[preset]
    cost = count_cost(built(StyleGAN2Generator, config))
    assert cost.params == params
    assert macs is None or cost.macs == macs
    assert cost.macs == sum(cost.by_layer.values())


@pytest.mark.parametrize(
    ("preset", "params"),
    [
        ("discriminator_256", 28_864_129),
        ("discriminator_256_paper", 24_001_089),
        ("discriminator_1024", 29_012_513),
    ],
)
def test_discriminator_has_the_published_size(preset, params):
    assert size(built(StyleGANDiscriminator, DISCRIMINATOR_PRESETS[preset])) == params


@pytest.mark.parametrize(
    ("resolution", "ratio", "kernel", "params", "macs"),
    [
        (256, 0.7, 3, 5_573_364, 4_123_578_080),
        (256, 0.8, 3, 3_955_202, 1_857_392_944),
        (256, 0.9, 3, 2_798_888, 472_149_696),
        (1024, 0.7, 3, 5_647_891, 6_990_183_648),
        (256, 0.7, 1, 4_754_852, 1_516_889_824),
    ],
)
def test_students_have_the_published_size(resolution, ratio, kernel, params, macs):
    widths = narrow(StyleGAN2Config(resolution).layer_widths, ratio)
    config = StyleGAN2Config(resolution, widths=widths, second_conv_kernel=kernel)
    cost = count_cost(built(StyleGAN2Generator, config))
    assert (cost.params, cost.macs) == (params, macs)


def test_narrow_keeps_c_minus_the_removed():
    """c - int(c rho), which is not int(c (1 - rho)): 154 of 512, not 153."""
    assert narrow((512, 256, 128, 64, 32), 0.7) == (154, 77, 39, 20, 10)
    assert int(512 * (1 - 0.7)) == 153
    with pytest.raises(ValueError, match="remove_ratio"):
        narrow((4,), 1.0)


def test_stylegan3_plan():
    """The reference plan at 256 pixels: sizes, channels, rates, factors and padding of every layer."""
    config = GENERATOR_PRESETS["stylegan3_t_256"]
    widths = (*config.layer_widths[1:], 3)
    sizes = "36:512 36:512 36:512 52:512 52:512 84:512 84:512 148:362 148:256 148:181 276:128 276:91 276:64 "
    sizes += "256:64 256:3"
    assert " ".join(f"{p.size}:{w}" for p, w in zip(config.plan, widths, strict=True)) == sizes
    assert [p.rate for p in config.plan] == [16] * 3 + [32] * 2 + [64] * 2 + [128] * 3 + [256] * 5
    assert config.groups == ((0, 1, 2), (3, 4), (5, 6), (7, 8, 9))
    net = generator(config)
    same, change = (9, 8), (-6, -9)
    pads = [same] * 3 + [change, same] * 3 + [same, change, same, same, (-11, -12), (0, 0)]
    assert [layer.padding[:2] for layer in net.synthesis.layers()] == pads
    assert [layer.padding[2:] for layer in net.synthesis.layers()] == pads
    assert [layer.up for layer in net.synthesis.layers()] == [2, 2, 2, 4, 2, 4, 2, 4, 2, 2, 4, 2, 2, 2, 1]
    assert [layer.down for layer in net.synthesis.layers()] == [2] * 14 + [1]
    cost = count_cost(net)
    assert cost.params == 23_320_443
    assert f"{cost.macs / 1e9:.2f}" == "105.37"
    assert net.num_ws == 16
    assert net.synthesis.layer_names[7] == "L7_148_362"


def test_stylegan3_of_1024_and_student():
    config = GENERATOR_PRESETS["stylegan3_t_1024"]
    widths = dict(zip(range(14), config.layer_widths[1:], strict=True))
    assert [(config.plan[i].size, widths[i]) for i in (7, 8, 9, 10)] == [
        (276, 323),
        (276, 203),
        (532, 128),
        (1044, 81),
    ]
    assert size(built(StyleGAN3Generator, config)) == 22_313_167
    teacher = GENERATOR_PRESETS["stylegan3_t_256"]
    kept = narrow(teacher.layer_widths, 0.7)
    assert kept[1:] == (154,) * 7 + (109, 77, 55, 39, 28, 20, 20)
    student = StyleGAN3Config(256, channel_base=16384, widths=kept, fourier_channels=512)
    assert size(built(StyleGAN3Generator, student)) == 3_214_848
    assert f"{sum(count_macs(student).values()) / 1e9:.2f}" == "9.70"


def test_stylegan3_r():
    config = GENERATOR_PRESETS["stylegan3_r_256"]
    assert config.layer_widths[0] == 1024
    assert config.conv_kernel == 1
    net = generator(
        StyleGAN3Config.r_variant(resolution=256, channel_base=1024, channel_max=8, z_dim=8, w_dim=8)
    )
    layers = net.synthesis.layers()
    pads = {layer.padding[:2] for layer in layers if not layer.plan.is_torgb}
    assert pads == {(11, 10), (-2, -5), (-9, -10)}
    assert [layer.down_filter.dim() for layer in layers[:-1]] == [2] * 12 + [
        1
    ] * 2  # critical ones are separable
    radial = layers[0].down_filter
    torch.testing.assert_close(radial, radial.t())
    torch.testing.assert_close(radial, radial.flip(0))


def test_small_stylegan3_of_the_reproduction():
    config = StyleGAN3Config(32, num_layers=6, margin_size=4, channel_base=512, channel_max=32)
    assert [p.size for p in config.plan] == [24, 24, 40, 40, 40, 32, 32]
    assert (*config.layer_widths[1:], 3) == (32, 32, 32, 27, 16, 16, 3)


@pytest.mark.parametrize(("resolution", "num_ws"), [(256, 14), (1024, 18), (4, 2)])
def test_num_ws(resolution, num_ws):
    assert StyleGAN2Config(resolution).num_ws == num_ws


@pytest.mark.parametrize("config", [*GENERATOR_PRESETS.values(), *DISCRIMINATOR_PRESETS.values()])
def test_configurations_survive_json(config):
    import json

    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: StyleGAN2Config(48), "resolution: got 48"),
        (lambda: StyleGAN2Config(16, widths=(1, 2)), "widths: got 2 numbers; expected 3 .* or 6"),
        (lambda: StyleGAN2Config(16, second_conv_kernel=2), "second_conv_kernel: got 2"),
        (lambda: StyleGAN2Config(16, mapping_widths=(8,)), "mapping_widths"),
        (lambda: StyleGAN3Config(32, num_layers=2), "num_layers: got 2"),
        (lambda: StyleGAN3Config(32, widths=(3, 3)), "widths: got 2 numbers; expected 15"),
        (lambda: DiscriminatorConfig(16, widths=(1, 2)), "widths"),
        (lambda: config_from_dict({"kind": "stylegan4"}), "kind: got 'stylegan4'"),
        (lambda: config_from_dict({"kind": "stylegan2", "colour": 1}), "unknown fields colour"),
    ],
)
def test_configurations_refuse(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# ---- filters


def test_kaiser_filter_is_firwin():
    for taps, cutoff, width, rate in (
        (12, 2.0, 9.0, 32.0),
        (24, 20.1, 30.0, 256.0),
        (12, 128.0, 59.0, 512.0),
    ):
        expected = firwin(taps, cutoff, width=width, fs=rate)
        torch.testing.assert_close(kaiser_filter(taps, cutoff, width, rate), torch.tensor(expected).float())
    assert kaiser_filter(1, 2.0, 4.0, 32.0) is None


def test_filters_keep_the_mean():
    assert float(resample_filter().sum()) == 1.0
    assert float(radial_filter(12, 20.0, 30.0, 256.0).sum()) == pytest.approx(1.0, abs=1e-6)
    assert resample_filter()[1].tolist() == [3 / 64, 9 / 64, 9 / 64, 3 / 64]


# ---- modulated convolution


def a_convolution(k=3, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 4, 6, 6, generator=g, dtype=dtype),
        torch.randn(5, 4, k, k, generator=g, dtype=dtype),
        torch.randn(2, 4, generator=g, dtype=dtype) + 1,
    )


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("up", [1, 2])
def test_executions_agree(up, demodulate):
    x, w, s = a_convolution()
    more = {"up": up, "padding": 1, "demodulate": demodulate, "up_filter": resample_filter()}
    results = [modulated_conv2d(x, w, s, execution=e, **more) for e in ("scale", "grouped", "auto")]
    with torch.no_grad():
        results.append(modulated_conv2d(x, w, s, execution="auto", **more))
        results.append(modulated_conv2d(x, w, s, execution="folded", **more))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-12)


def test_up_convolution_is_zeros_convolution_filter():
    """Stride-2 transpose and filter equal: zeros between pixels, convolution with the turned kernel, filter."""
    x, w, s = a_convolution()
    got = modulated_conv2d(x, w, s, up=2, up_filter=resample_filter(), demodulate=False)
    stuffed = x.new_zeros(2, 4, 13, 13)
    stuffed[:, :, 1:12:2, 1:12:2] = x * s[:, :, None, None]
    y = F.conv2d(F.pad(stuffed, [1] * 4), w.flip(2, 3))
    f = resample_filter().double()[None, None].expand(5, 1, 4, 4) * 4
    torch.testing.assert_close(
        got, F.conv2d(F.pad(y, [1] * 4), f, groups=5)[:, :, : got.shape[2], : got.shape[3]]
    )
    with pytest.raises(ValueError, match="up_filter"):
        modulated_conv2d(x, w, s, up=2)


def test_demodulation_forgets_the_scale_of_styles():
    x, w, s = a_convolution()
    scale = torch.tensor([[3.0], [0.1]], dtype=torch.float64)
    one, other = (modulated_conv2d(x, w, v, padding=1) for v in (s, s * scale))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    plain = modulated_conv2d(x, w, s * scale, padding=1, demodulate=False)
    assert not torch.allclose(plain, modulated_conv2d(x, w, s, padding=1, demodulate=False))


@pytest.mark.parametrize("up", [1, 2])
def test_modulated_convolution_gradients_of_two_orders(up):
    g = torch.Generator().manual_seed(0)
    x, w, s = (
        torch.randn(shape, generator=g, dtype=torch.float64) for shape in ((2, 2, 3, 3), (2, 2, 3, 3), (2, 2))
    )
    inputs = [v.requires_grad_() for v in (x, w, s + 1.5)]
    inputs[2] = inputs[2].detach().requires_grad_()

    def f(x, w, s):
        return modulated_conv2d(x, w, s, up=up, padding=1, up_filter=resample_filter())

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


# ---- mapping


def test_mapping_by_hand():
    torch.manual_seed(0)
    net = Mapping(4, 0, (6, 5), num_ws=3).double()
    z = codes(2, 4, dtype=torch.float64)
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in (net.fc0, net.fc1):
        u = x @ (layer.weight * 0.01 / math.sqrt(layer.weight.shape[1])).t() + layer.bias * 0.01
        x = F.leaky_relu(u, 0.2) * math.sqrt(2)
    ws = net(z)
    torch.testing.assert_close(ws, x[:, None].expand(2, 3, 5))
    torch.testing.assert_close(net(z * 7), ws)  # the length of z does not matter


def test_truncation_and_running_mean():
    torch.manual_seed(0)
    net = Mapping(4, 0, (5, 5), num_ws=4)
    assert not net.w_avg.any()
    full = net(codes(64, 4), update_emas=True)
    torch.testing.assert_close(net.w_avg, (1 - 0.998) * full[:, 0].mean(0).detach())
    half = net(codes(3, 4), truncation_psi=0.5, truncation_cutoff=2)
    plain = net(codes(3, 4))
    torch.testing.assert_close(half[:, :2], net.w_avg + 0.5 * (plain[:, :2] - net.w_avg))
    torch.testing.assert_close(half[:, 2:], plain[:, 2:])
    torch.testing.assert_close(net(codes(3, 4), truncation_psi=0.0), net.w_avg.expand(3, 4, 5))


def test_conditional_mapping():
    net = Mapping(4, 3, (6, 5), num_ws=2)
    z, c = codes(2, 4), torch.eye(3)[:2]
    assert net.embed.lr_multiplier == 1.0
    assert net.fc0.weight.shape == (6, 4 + 5)
    assert not torch.allclose(net(z, c)[0], net(z[:1], c[1:])[0])
    for args, text in (((z,), "c: got shape None"), ((z[:, :2], c), r"z: got shape \(2, 2\)")):
        with pytest.raises(ValueError, match=text):
            net(*args)


# ---- StyleGAN2


def test_which_code_drives_which_layer(tiny2):
    """The image's derivative of code k: conv0 and the toRGB before it share one, so toRGB's is 2 j + 1."""
    net = generator(tiny2).double()
    ws = net.mapping(codes(1, dtype=torch.float64)).detach().requires_grad_()
    image, features, rgbs = net.synthesis(ws, noise="none", return_features=True, return_rgbs=True)

    def driven(value):
        (g,) = torch.autograd.grad(value.square().sum(), ws, retain_graph=True)
        return [k for k in range(6) if g[0, k].abs().max() > 0]

    assert [driven(v) for v in features] == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert [driven(v) for v in rgbs] == [[0, 1], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    net.synthesis.b16.torgb.weight.data.zero_()  # then code 5, its own alone, drives nothing
    assert driven(net.synthesis(ws, noise="none")) == [0, 1, 2, 3]
    assert torch.equal(rgbs[-1], image)
    assert [tuple(f.shape) for f in features] == [(1, 8, 8, 8), (1, 6, 16, 16)]


def test_torgb_is_not_demodulated(tiny2):
    """Twice the style, twice the image: demodulation would undo it."""
    torgb = generator(tiny2).synthesis.b4.torgb
    x, w = codes(2, 8 * 16).view(2, 8, 4, 4), codes(2)
    one = torgb(x, w)
    torgb.affine.weight.data *= 2
    torgb.affine.bias.data *= 2
    torch.testing.assert_close(torgb(x, w), 2 * one)


def test_noise(tiny2):
    net = generator(tiny2)
    for conv in net.synthesis.convolutions():
        conv.noise_strength.data.fill_(0.3)
    z = codes(1).expand(2, -1)
    image = net(z)
    assert not torch.allclose(image[0], image[1])  # fresh for each image of a batch
    assert not torch.equal(net(z), image)
    for mode in ("const", "none"):
        fixed = net(z, noise=mode)
        torch.testing.assert_close(fixed[0], fixed[1])
        assert torch.equal(net(z, noise=mode), fixed)
    assert not torch.allclose(net(z, noise="const"), net(z, noise="none"))
    maps = net.synthesis.make_noise(2, torch.Generator().manual_seed(0))
    assert torch.equal(net(z, noise=maps), net(z, noise=maps))
    torch.testing.assert_close(
        net(z, noise=[c.noise_const for c in net.synthesis.convolutions()]), net(z, noise="const")
    )
    for bad, text in ((maps[1:], "got 4 maps; expected 5"), ("loud", "noise: got 'loud'")):
        with pytest.raises(ValueError, match=text):
            net(z, noise=bad)


def test_conv_clamp_bounds_the_activations(tiny2):
    from dataclasses import replace

    net = generator(replace(tiny2, conv_clamp=0.5))
    _, features = net.synthesis(net.mapping(codes(2)), return_features=True)
    assert max(float(f.detach().abs().max()) for f in features) == 0.5


@pytest.mark.parametrize("family", ["tiny2", "tiny3"])
def test_generators_run_every_way(family, request):
    """Whole batches and single images, permuted ones, all executions, the plain form: one image."""
    net = generator(request.getfixturevalue(family)).double()
    z = codes(3, dtype=torch.float64)
    image = net(z, noise="const")
    assert image.shape == (3, 3, net.resolution, net.resolution)
    torch.testing.assert_close(net(z[[2, 0, 1]], noise="const"), image[[2, 0, 1]], rtol=0, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(net(z, noise="const"), image, rtol=0, atol=1e-9)
    with tenfold.reference():
        torch.testing.assert_close(net(z, noise="const"), image, rtol=0, atol=1e-9)
    net.synthesis.set_execution("grouped")
    torch.testing.assert_close(net(z, noise="const"), image, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="synthesis: ws: got shape"):
        net.synthesis(torch.zeros(1, 2, 16))


@pytest.mark.parametrize("family", ["tiny2", "tiny3"])
def test_path_length_reaches_every_parameter(family, request):
    """A second derivative, as path length needs it: finite, and equal to that of the plain form."""
    net = generator(request.getfixturevalue(family)).double()
    z = codes(2, dtype=torch.float64)
    grads = []
    for plain in (False, True):
        net.zero_grad()
        with tenfold.reference() if plain else torch.enable_grad():
            ws = net.mapping(z)
            image = net.synthesis(ws, noise="const")
            (g,) = torch.autograd.grad(
                (image * torch.ones_like(image).cumsum(3)).sum(), ws, create_graph=True
            )
            g.square().sum().backward()
        grads.append({n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None})
    assert any(name.endswith("fc0.weight") for name in grads[0])
    assert all(bool(g.isfinite().all()) for g in grads[0].values())
    for name, g in grads[0].items():
        torch.testing.assert_close(g, grads[1][name], rtol=1e-6, atol=1e-6)


# ---- StyleGAN3


def test_stylegan3_moves_with_its_transform(tiny3):
    """An integer shift by the input transform shifts the picture, away from the border."""
    from dataclasses import replace

    net = generator(replace(tiny3, margin_size=8)).double()
    ws = net.mapping(codes(1, dtype=torch.float64)).detach()
    net.requires_grad_(False)
    image = net.synthesis(ws)
    net.synthesis.input.transform[0, 2] = -4 / 32  # the inverse: the picture moves right by four pixels
    moved = net.synthesis(ws)
    error = (moved[..., 6:-6, 10:-6] - image[..., 6:-6, 6:-10]).square().mean()
    assert float(error) < 1e-3 * float(image.var())
    assert float((moved - image).square().mean()) > 0.05 * float(image.var())


def test_stylegan3_tracks_magnitudes_only_when_asked(tiny3):
    net = generator(tiny3)
    before = {n: b.clone() for n, b in net.named_buffers()}
    net(codes(2))
    assert all(torch.equal(b, before[n]) for n, b in net.named_buffers())
    net.synthesis(net.mapping(codes(2)), update_emas=True)
    changed = {n.split(".")[-1] for n, b in net.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {"magnitude_ema"}
    assert not net.synthesis.layers()[1].magnitude_ema.requires_grad


def test_fourier_input_by_hand(tiny3):
    """The grid of affine_grid, one wave after the other."""
    net = generator(tiny3).double().synthesis.input
    net.affine.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    w = codes(2, dtype=torch.float64)
    t = net.affine(w)
    t = t / t[:, :2].norm(dim=1, keepdim=True)
    turn, move = torch.eye(3).double().repeat(2, 1, 1), torch.eye(3).double().repeat(2, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = t[:, 0], -t[:, 1], t[:, 1], t[:, 0]
    move[:, 0, 2], move[:, 1, 2] = -t[:, 2], -t[:, 3]
    m = turn @ move @ net.transform
    theta = torch.eye(2, 3, dtype=torch.float64)[None] * 0.5 * net.size / net.rate
    grid = F.affine_grid(theta, [1, 1, net.size, net.size], align_corners=False)[0]
    freqs = net.freqs[None] @ m[:, :2, :2]
    phases = net.phases[None] + (net.freqs[None] @ m[:, :2, 2:])[..., 0]
    amplitudes = (1 - (freqs.norm(dim=2) - net.cutoff) / (net.rate / 2 - net.cutoff)).clamp(0, 1)
    waves = torch.sin(2 * math.pi * (torch.einsum("hwd,bcd->bchw", grid, freqs) + phases[..., None, None]))
    waves = waves * amplitudes[..., None, None]
    expected = torch.einsum("oc,bchw->bohw", net.weight / math.sqrt(net.weight.shape[1]), waves)
    torch.testing.assert_close(net(w), expected, rtol=0, atol=1e-10)


def test_frequencies_fill_a_disc(tiny3):
    from dataclasses import replace

    torch.manual_seed(0)
    net = StyleGAN3Generator(replace(tiny3, fourier_channels=4000)).synthesis.input
    radius = net.freqs.norm(dim=1) / net.cutoff
    assert float(radius.max()) <= 1.0
    assert float((radius < 0.5).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float(net.phases.min()) >= -0.5
    assert float(net.phases.max()) <= 0.5


# ---- discriminator


def test_minibatch_stddev_by_hand():
    x = codes(8, 3 * 4).view(8, 3, 2, 2)
    got = minibatch_stddev(x, 4)
    for b in range(8):  # image b is of group b mod 2
        members = x[b % 2 :: 2]
        expected = (members.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
        torch.testing.assert_close(got[b, 3], expected.expand(2, 2))
    assert torch.equal(got[:, :3], x)
    with pytest.raises(ValueError, match="batch of 6"):
        minibatch_stddev(x[:6], 4)


def test_discriminator(tiny2):
    torch.manual_seed(0)
    net = StyleGANDiscriminator(DiscriminatorConfig(16, widths=(8, 8, 6))).double()
    image = codes(8, 3 * 256, dtype=torch.float64).view(8, 3, 16, 16)
    logits, features = net(image, return_features=True)
    assert logits.shape == (8, 1)
    assert [tuple(f.shape[1:]) for f in features] == [(8, 8, 8), (8, 4, 4)]
    inside = [2, 1, 0, 3, 4, 5, 6, 7]  # 0 and 2 are of one group
    torch.testing.assert_close(net(image[inside]), logits[inside])
    across = [1, 0, 2, 3, 4, 5, 6, 7]
    assert not torch.allclose(net(image[across]), logits[across])
    grads = []
    for plain in (False, True):
        x = image.clone().requires_grad_()
        with tenfold.reference() if plain else torch.enable_grad():
            (g,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            grads.append(torch.autograd.grad(g.square().sum(), [net.b16.conv1.weight, net.b4.fc.weight]))
    torch.testing.assert_close(*grads)
    with pytest.raises(ValueError, match="discriminator: image: got shape"):
        net(image[:, :, :8])


def test_conditional_networks():
    config = StyleGAN2Config(8, z_dim=8, w_dim=8, c_dim=3, widths=(4, 4), mapping_layers=2)
    net = StyleGAN2Generator(config)
    labels = torch.eye(3)[:2]
    assert net(codes(2, 8), labels).shape == (2, 3, 8, 8)
    judge = StyleGANDiscriminator(DiscriminatorConfig(8, c_dim=3, widths=(4, 4)))
    assert judge(torch.randn(2, 3, 8, 8), labels).shape == (2, 1)
    with pytest.raises(ValueError, match="c: got shape None"):
        judge(torch.randn(2, 3, 8, 8))


def test_names_are_those_of_published_files(tiny2, tiny3):
    """Conversion of NVIDIA's checkpoints is a copy."""
    names = set(generator(tiny2).state_dict())
    conv = {
        "affine.weight",
        "affine.bias",
        "weight",
        "bias",
        "noise_strength",
        "noise_const",
        "resample_filter",
    }
    for prefix in ("b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"):
        assert {
            n.removeprefix(f"synthesis.{prefix}.") for n in names if n.startswith(f"synthesis.{prefix}.")
        } == conv
    assert {
        "mapping.fc0.weight",
        "mapping.w_avg",
        "synthesis.b4.const",
        "synthesis.b8.torgb.affine.bias",
    } <= names
    assert "synthesis.b4.resample_filter" in names
    names = set(generator(tiny3).state_dict())
    assert {"synthesis.input.freqs", "synthesis.input.phases", "synthesis.input.transform"} <= names
    layer = {"affine.weight", "affine.bias", "weight", "bias", "magnitude_ema", "up_filter", "down_filter"}
    assert {n.split(".", 2)[2] for n in names if n.startswith("synthesis.L0_")} == layer
    judge = set(StyleGANDiscriminator(DiscriminatorConfig(8, widths=(4, 4))).state_dict())
    assert {
        "b8.fromrgb.weight",
        "b8.conv1.bias",
        "b8.skip.weight",
        "b4.conv.weight",
        "b4.fc.bias",
        "b4.out.weight",
    } <= judge
    assert "b8.skip.bias" not in judge


# test_export.py says so of StyleGAN2, through the package's own exporter.
@pytest.mark.parametrize("family", [pytest.param("tiny2", marks=pytest.mark.slow), "four_layers3"])
def test_export_has_no_operator_of_ours(family, request):
    """Inside `tenfold.reference()` a program of standard operators is exported, for any batch."""
    net = generator(request.getfixturevalue(family)).eval()
    ws = net.mapping(codes(2)).detach()

    class Synthesis(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net.synthesis

        def forward(self, ws):
            return self.net(ws, noise="const")

    with torch.no_grad(), tenfold.reference():
        batch = torch.export.Dim("batch", max=64)
        program = torch.export.export(Synthesis(), (ws,), dynamic_shapes=({0: batch},), strict=False)
    assert not [n for n in program.graph.nodes if "tenfold" in str(n.target)]
    more = net.mapping(codes(5)).detach()
    torch.testing.assert_close(
        program.module()(more), net.synthesis(more, noise="const").detach(), rtol=0, atol=1e-4
    )
