"""Students: what they share with the teacher, what not, and what they cost."""

import pytest
import torch

import stylegan_distill as sd
from stylegan_distill.student import _student_config as student_config
from stylegan_distill.student import build_generator, copy_mapping, distill_mapping
from tenfold._errors import UserInputError

METHODS = ("cagan", "slimming", "dcp", "random", "l1_in", "l1_out", "l1_style")


@pytest.fixture
def teacher(tiny2):
    """Its average of w and its noise strengths are not those of a fresh network."""
    torch.manual_seed(7)  # no student's seed
    net = sd.StyleGAN2Generator(tiny2).eval()
    with torch.no_grad():
        net.mapping.w_avg.normal_()
        for conv in net.synthesis.convolutions():
            conv.noise_strength.fill_(0.3)
    return net


@pytest.mark.parametrize(
    ("ratio", "resolution", "kernel", "params", "macs"),
    [
        (0.7, 256, 3, 5_573_364, 4_123_578_080),
        (0.8, 256, 3, 3_955_202, 1_857_392_944),
        (0.9, 256, 3, 2_798_888, 472_149_696),
        (0.7, 1024, 3, 5_647_891, 6_990_183_648),
        (0.7, 256, 1, 4_754_852, None),
    ],
)
def test_published_sizes(ratio, resolution, kernel, params, macs):
    """Parameters and multiply-accumulates of the tables, without a tensor in memory."""
    with torch.device("meta"):
        teacher = sd.StyleGAN2Generator(sd.StyleGAN2Config(resolution))
        cfg = student_config(teacher.cfg, ratio, None, kernel, "copy")
        cost = sd.count_cost(sd.StyleGAN2Generator(cfg))
    assert cost.params == params
    assert macs is None or cost.macs == macs


def test_stylegan3_sizes():
    with torch.device("meta"):
        cfg = student_config(sd.StyleGAN3Config(256, channel_base=16384), 0.7, None, None, "copy")
        cost = sd.count_cost(sd.StyleGAN3Generator(cfg))
    assert cfg.layer_widths == (154,) * 8 + (109, 77, 55, 39, 28, 20, 20)
    # The input mixes all 512 frequencies of the teacher.
    assert cost.params == 3_214_848
    assert round(cost.macs / 1e9, 2) == 9.70


def test_mapping_is_copied_and_nothing_else(teacher):
    """The function is equal bit for bit, w_avg included; seeds share the mapping alone; truncation to 0 gives w_avg."""
    one, two = (sd.make_student(teacher, 0.5, seed=s) for s in (0, 1))
    z = torch.randn(4, 16)
    for student in (one, two):
        assert torch.equal(student.mapping(z), teacher.mapping(z))
        assert torch.equal(student.mapping(z, truncation_psi=0.0), teacher.mapping.w_avg.expand(4, 6, 16))
        shared = {p.data_ptr() for p in student.state_dict().values()}
        assert not shared & {p.data_ptr() for p in teacher.state_dict().values()}
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        alike = torch.equal(a, b)
        constant = a.dim() < 2  # biases and noise strengths begin alike everywhere
        assert alike == (name.startswith("mapping.") or constant), name
    assert one.widths == (4, 4, 4, 4, 3, 3)
    same = sd.make_student(teacher, 0.5, seed=0)
    assert all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True)
    )
    state = torch.get_rng_state()
    sd.make_student(teacher, 0.5)
    assert torch.equal(torch.get_rng_state(), state)
    # No part of the teacher's synthesis stays, not even where shapes agree.
    full = sd.make_student(teacher, widths=teacher.widths)
    assert not torch.equal(full.synthesis.b4.const, teacher.synthesis.b4.const)
    assert float(full.synthesis.b8.conv0.noise_strength) == 0
    fresh = sd.make_student(teacher, 0.5, init="random")
    assert not torch.equal(fresh.mapping(z), teacher.mapping(z))


def test_a_random_student_of_the_teachers_seed_is_another_network():
    cfg = sd.StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4))
    teacher = build_generator(cfg, 3)
    student = sd.make_student(teacher, 0.0, init="random", seed=3)
    for ours, theirs in zip(student.mapping.parameters(), teacher.mapping.parameters(), strict=True):
        assert ours.ndim == 1 or not torch.allclose(ours, theirs, atol=0.1)


def test_another_multiplier_keeps_the_function(teacher):
    """Stored weights and biases are rescaled: without, w would be off by the ratio in every layer."""
    z = torch.randn(4, 16)
    for init, scores in (("mapping", None), ("inherit", sd.channel_scores(teacher, "l1_in"))):
        student = sd.make_student(teacher, 0.5, mapping_lr_multiplier=0.1, init=init, scores=scores)
        torch.testing.assert_close(student.mapping(z), teacher.mapping(z), rtol=1e-4, atol=1e-6)
        assert student.mapping.fc0.lr_multiplier == student.cfg.mapping_lr_multiplier == 0.1
        ratio = teacher.mapping.fc0.weight / student.mapping.fc0.weight
        torch.testing.assert_close(ratio, torch.full_like(ratio, 10.0))


def test_stylegan3_copies_its_frequencies(tiny3):
    """They are no parameters and could never be learnt; all of the teacher's go into a narrower mixing matrix."""
    torch.manual_seed(0)
    teacher = sd.StyleGAN3Generator(tiny3)
    student = sd.make_student(teacher, 0.5)
    assert torch.equal(student.synthesis.input.freqs, teacher.synthesis.input.freqs)
    assert torch.equal(student.synthesis.input.phases, teacher.synthesis.input.phases)
    assert student.synthesis.input.weight.shape == (4, 8)
    assert all(float(layer.magnitude_ema) == 1 for layer in student.synthesis.layers())
    other = sd.make_student(teacher, 0.5, fourier="random")
    assert other.synthesis.input.freqs.shape == (4, 2)


def test_distilled_mapping(teacher):
    """A narrower mapping network comes closer to the teacher's, and keeps its mean."""
    student = sd.make_student(
        teacher, 0.5, init="mapping_distilled", mapping_widths=(12, 16), steps=150, batch=64, lr=0.01
    )
    fresh = sd.make_student(teacher, 0.5, init="random", mapping_widths=(12, 16))
    z = torch.randn(200, 16)
    gap = [(net.mapping.style(z) - teacher.mapping.style(z)).abs().mean() for net in (student, fresh)]
    assert gap[0] < 0.6 * gap[1]
    assert torch.equal(student.mapping.w_avg, teacher.mapping.w_avg)
    assert student.mapping.fc0.weight.shape == (12, 16)
    history = distill_mapping(teacher, fresh, steps=30, batch=32, loss="mse")
    assert sum(history[-5:]) < sum(history[:5])


def test_any_synthesis(teacher):
    """A user's network takes the place of ours."""

    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(16, 3)

        def forward(self, ws, noise="random"):
            return self.layer(ws.mean(1))[:, :, None, None].expand(-1, -1, 16, 16)

    student = sd.make_student(teacher, synthesis=Own())
    z = torch.randn(2, 16)
    assert torch.equal(student.mapping(z), teacher.mapping(z))
    assert student(z).shape == (2, 3, 16, 16)


def test_requests_that_do_not_go_together(teacher, tiny3):
    for options, sentence in (
        ({"init": "teacher"}, "init: got 'teacher'"),
        ({"init": "inherit"}, "needs the channels' scores"),
        ({"remove_ratio": 0.5, "widths": (2, 2, 2)}, "got both"),
        ({"mapping_widths": (8, 16)}, "use mapping_distilled"),
    ):
        with pytest.raises(UserInputError, match=sentence):
            sd.make_student(teacher, **options)
    scores = [torch.ones(w) for w in teacher.widths]
    for options, sentence in (
        ({"step": 5}, "step: unknown; expected some of steps, batch"),
        ({"step": 5, "init": "mapping_distilled"}, "step: unknown"),
        ({"steps": 5}, "steps: belongs to init 'mapping_distilled'; init 'mapping' distils no mapping"),
        ({"fourier": "cpoy"}, "fourier: got 'cpoy'"),
        (
            {"second_conv_kernel": 1, "init": "inherit", "scores": scores},
            "second_conv_kernel: got 1; inherited",
        ),
        ({"fourier": "random", "init": "inherit", "scores": scores}, "fourier: got 'random'; inherited"),
    ):
        with pytest.raises(ValueError, match=sentence):
            sd.make_student(teacher, 0.5, **options)
    same = sd.make_student(teacher, 0.5, init="inherit", scores=scores, second_conv_kernel=3, fourier="copy")
    assert same.cfg.second_conv_kernel == 3
    with pytest.raises(UserInputError, match="no second convolutions"):
        sd.make_student(sd.StyleGAN3Generator(tiny3), second_conv_kernel=1)
    with pytest.raises(UserInputError, match="differs in shape"):
        copy_mapping(teacher, build_generator(sd.StyleGAN2Config(16, z_dim=16, w_dim=16, mapping_layers=2)))


# ---- pruning


@pytest.mark.parametrize("method", METHODS)
def test_scores(teacher, method):
    """One number a channel, none of them trivial, the same again; the teacher comes out as it went in."""
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    teacher.requires_grad_(False)
    options = {"samples": 4, "batch": 2} if method in ("cagan", "dcp", "slimming") else {}
    found = sd.channel_scores(teacher, method, **options)
    assert [len(s) for s in found] == list(teacher.widths)
    assert all(s.isfinite().all() and s.std() > 0 for s in found)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    again = sd.channel_scores(teacher, method, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    student = sd.make_student(teacher, 0.5, init="inherit", scores=found)
    assert student.widths == (4, 4, 4, 4, 3, 3)


@pytest.mark.parametrize("method", ["cagan", "dcp", "slimming", "l1_style"])
def test_a_dead_channel_scores_least(teacher, method):
    """A channel whose style is 0 for every code does nothing: no score may keep it."""
    conv = teacher.synthesis.b8.conv1  # reads widths[2]
    with torch.no_grad():
        conv.affine.weight[5] = 0
        conv.affine.bias[5] = 0
    found = sd.channel_scores(teacher, method, samples=4, batch=2)[2]
    assert int(found.argmin()) == 5
    assert float(found[5]) == pytest.approx(0, abs=1e-12)


def test_slicing_channels_that_nobody_reads_changes_nothing(teacher, tiny3):
    """Constant, outputs and all their readers, toRGB included, go together."""
    torch.manual_seed(2)
    for net in (teacher, sd.StyleGAN3Generator(tiny3).eval()):
        masks = [torch.rand(w) < 0.6 for w in net.widths]
        for mask in masks:
            mask[0] = True
        if isinstance(net, sd.StyleGAN3Generator):
            reads = dict(enumerate(net.synthesis.layers()))
            images = {len(masks) - 1: net.synthesis.layers()[-1]}
        else:
            reads = dict(enumerate(net.synthesis.convolutions()))
            images = {2 * j + 1: block.torgb for j, block in enumerate(net.synthesis.blocks())}
        with torch.no_grad():
            for i, layer in [*reads.items(), *images.items()]:
                layer.weight[:, ~masks[i]] = 0
        student = sd.slice_generator(net, masks)
        assert student.widths == tuple(int(m.sum()) for m in masks)
        with torch.no_grad():
            for i, layer in images.items():  # their styles are divided by the root of the width
                layer.weight.mul_((len(masks[i]) / float(masks[i].sum())) ** 0.5)
            z = torch.randn(2, 16)
            torch.testing.assert_close(student(z, noise="const"), net(z, noise="const"), rtol=1e-3, atol=1e-4)


def test_masks():
    scores = [torch.tensor([3.0, 1.0, 2.0, 1.0]), torch.tensor([1.0, 5.0])]
    found = sd.keep_masks(scores, remove_ratio=0.5)
    assert [m.tolist() for m in found] == [[True, False, True, False], [False, True]]
    assert sd.keep_masks(scores, keep=[3, 2])[0].tolist() == [True, True, True, False]  # of equals the first
    for options in (
        {},
        {"remove_ratio": 0.5, "keep": [1, 1]},
        {"keep": [1]},
        {"keep": [5, 1]},
        {"keep": [0, 1]},
    ):
        with pytest.raises(UserInputError, match="pruning:"):
            sd.keep_masks(scores, **options)
