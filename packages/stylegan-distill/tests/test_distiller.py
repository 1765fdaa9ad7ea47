"""The loop: order, what each term sees, averages, resumption, two processes."""

import pytest
import torch
from torch import nn

import stylegan_distill as sd
from stylegan_distill import gan
from tenfold.testing import assert_bit_equal, two_gloo_ranks

TINY = sd.StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(6, 6), mapping_layers=2)
QUICK = {"lpips": 0.0, "directions_per_block": 2, "path_every": 2, "r1_every": 3, "mimic_blocks": (1,)}


def make(seed=0, teacher_cfg=TINY, perceptual=None, mask=None, augment=None, **changes):
    torch.manual_seed(seed)
    teacher = sd.StyleGAN2Generator(teacher_cfg)
    student = sd.make_student(teacher, 0.5, seed=seed)
    judge = sd.make_discriminator(teacher, seed, widths=(6, 6))
    config = sd.DistillConfig(**{**QUICK, **changes})
    return sd.Distiller(teacher, student, judge, config, perceptual=perceptual, mask=mask, augment=augment)


def batch(step, rows=4):
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(step)).clamp(-1, 1)


def weights(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


class Spy(nn.Module):
    """Remembers what a module is called with."""

    def __init__(self, module):
        super().__init__()
        self.module = module
        self.calls = []
        self.cfg = getattr(module, "cfg", None)

    def forward(self, *args, **options):
        self.calls.append((args, options))
        return self.module(*args, **options)


def test_one_iteration_in_order(monkeypatch):
    """D, then G, then the path length, then the average; which of them a step has follows from its number."""
    d = make()
    told = []
    for name in ("_discriminator_step", "_generator_step", "_path_step"):
        own = getattr(d, name)
        monkeypatch.setattr(d, name, lambda *a, own=own, name=name: (told.append(name), own(*a))[1])
    update = d.ema.update
    monkeypatch.setattr(d.ema, "update", lambda m: (told.append("average"), update(m))[1])
    values = [d.step(batch(i)) for i in range(4)]
    every = ["_discriminator_step", "_generator_step"]
    assert told == [
        *every,
        "_path_step",
        "average",
        *every,
        "average",
        *every,
        "_path_step",
        "average",
        *every,
        "average",
    ]
    assert ["r1" in v for v in values] == [True, False, False, True]
    assert ["path_length" in v for v in values] == [True, False, True, False]
    assert {"d_loss", "adversarial", "rgb", "ld", "g_loss"} <= set(values[1])


def test_optimisers_of_the_recipe():
    """Lazy regularisation shortens rates and betas by k / (k + 1); betas are floats whatever the recipe says."""
    torch.manual_seed(0)
    net = sd.StyleGAN2Generator(TINY)
    judge = sd.make_discriminator(net, widths=(4, 4))
    trainer = sd.GanTrainer(net, judge, sd.GanConfig(beta1=0))
    (g,), (d,) = trainer.opt_g.param_groups, trainer.opt_d.param_groups
    assert (g["lr"], d["lr"]) == pytest.approx((0.0016, 0.002 * 16 / 17))
    assert g["betas"] == pytest.approx((0.0, 0.99 ** (4 / 5)))
    assert d["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    assert all(isinstance(b, float) for b in (*g["betas"], *d["betas"]))
    plain = sd.GanTrainer(net, judge, sd.GanConfig(path_weight=0.0, r1_gamma=0.0))
    assert (plain.opt_g.param_groups[0]["lr"], plain.opt_d.param_groups[0]["lr"]) == (0.002, 0.002)


def test_lazy_regularisers_count_as_often_as_they_are_skipped(monkeypatch):
    """R1: gamma / 2 x 16 x penalty on the same logits; path length: 2 x 4 x loss, on half the batch."""
    d = make(ld=0.0, rgb=0.0, r1_gamma=10.0, r1_every=16, path_every=4, path_weight=2.0)
    taken = []
    own = d._apply_gradients
    monkeypatch.setattr(
        d, "_apply_gradients", lambda loss, *a: (taken.append(float(loss.detach())), own(loss, *a))[1]
    )
    values = d.step(batch(0, 8))
    assert taken[0] == pytest.approx(values["d_loss"] + 5 * 16 * values["r1"], rel=1e-5)
    assert taken[2] == pytest.approx(2 * 4 * values["path_loss"], rel=1e-5)
    seen = []
    monkeypatch.setattr(
        d.path_length,
        "forward",
        lambda images, ws, y: (seen.append(len(images)), (ws.sum() * 0, ws[:, 0, 0]))[1],
    )
    d.iteration = 4
    d.step(batch(1, 8))
    assert seen == [4]


def test_only_the_latent_direction_loss_sees_moved_codes():
    """Discriminator, RGB and perceptual terms get B images, the first half of 2B."""
    seen = {}

    def perceptual(x, y):
        seen["lpips"] = (x, y)
        return (x - y).square().mean((1, 2, 3))

    d = make(perceptual=perceptual, lpips=3.0)
    d.rgb_loss, d.ld_loss = Spy(d.rgb_loss), Spy(d.ld_loss)
    d.discriminator = Spy(d.discriminator)
    images = []
    d.student.synthesis.register_forward_hook(lambda _m, _i, out: images.append(out))
    d.iteration = 1
    d.step(batch(1))
    whole, features = images[1]
    assert len(whole) == 8
    (student, teacher, _), _ = d.rgb_loss.calls[0]
    assert torch.equal(student[-1], whole[:4])
    assert torch.equal(seen["lpips"][0], whole[:4])
    assert torch.equal(seen["lpips"][1], teacher[-1])
    judged = d.discriminator.calls[-1][0][0]
    assert torch.equal(judged, whole[:4])
    (own_features, target, rows), _ = d.ld_loss.calls[0]
    assert rows == 4
    assert torch.equal(own_features[0], features[0])
    assert len(own_features[0]) == len(target[0]) == 8


def test_teacher_and_student_get_the_same_codes(monkeypatch):
    """One z, one second code, one crossover, one offset; here both mappings give one w."""
    d = make(style_mixing=1.0, freeze_mapping=True)
    given = {}
    for name, net in (("teacher", d.teacher), ("student", d.student)):
        net.synthesis.register_forward_pre_hook(
            lambda _m, args, name=name: given.setdefault(name, []).append(args[0].detach())
        )
    d.iteration = 1
    d.step(batch(0))
    teacher, student = (
        given["teacher"][0],
        given["student"][1],
    )  # the student's first pass is the discriminator's
    assert torch.equal(teacher, student)
    moved = teacher[4:] - teacher[:4]
    assert (moved - moved[:, :1]).abs().max() < 1e-5  # on all entries alike
    assert (moved.norm(dim=2) > 0).all()
    unit = moved[:, 0] / moved[:, 0].norm(dim=1, keepdim=True)
    assert ((unit @ d.directions.t()).abs().max(dim=1).values > 1 - 1e-4).all()
    parts = teacher[:4]
    assert not torch.equal(parts[:, 0], parts[:, -1])  # mixed
    assert (parts[:, 1:] != parts[:, :-1]).any(2).sum() == 4  # at one place
    crossing = {int((p[1:] != p[:-1]).any(1).nonzero()[0]) for p in parts}
    assert len(crossing) == 1


def test_runs_of_other_terms_see_the_same_codes(monkeypatch):
    """With and without moved codes, iteration for iteration, and from whatever iteration a run goes on."""

    def codes(d, steps):
        found = []
        own = d.draw_codes
        monkeypatch.setattr(d, "draw_codes", lambda *a, **k: (found.append(own(*a, **k)), found[-1])[1])
        for i in steps:
            d.step(batch(i))
        return [(c.z, c.second, c.crossover) for c in found]

    with_moved, without = (codes(make(ld=ld, path_weight=0.0), range(3)) for ld in (30.0, 0.0))
    later = make(ld=0.0, path_weight=0.0)
    later.iteration = 2
    assert len(with_moved) == 6  # of D and of G, three times
    assert_bit_equal(with_moved, without, "codes")
    assert_bit_equal(codes(later, [2]), without[4:], "codes")
    assert not torch.equal(without[0][0], without[2][0])
    other = make(seed=1, ld=0.0, path_weight=0.0)
    other.config = sd.DistillConfig(**{**QUICK, "ld": 0.0, "path_weight": 0.0, "seed": 1})
    assert not torch.equal(codes(other, [0])[0][0], without[0][0])


@pytest.mark.parametrize("noise", ["independent", "shared"])
def test_noise(noise):
    """Independent: other maps in each pass and for each image. Shared: the same four times."""
    d = make(noise=noise)
    given = {}
    for name, net in (("teacher", d.teacher), ("student", d.student)):
        net.synthesis.register_forward_pre_hook(
            lambda _m, _args, kwargs, name=name: given.setdefault(name, []).append(kwargs["noise"]),
            with_kwargs=True,
        )
    d.iteration = 1
    d.step(batch(0))
    teacher, student = given["teacher"][0], given["student"][1]
    shared = noise == "shared"
    for a, b in zip(teacher, student, strict=True):
        assert a.shape[:2] == (8, 1)
        assert torch.equal(a, b) == shared
        assert torch.equal(a[:4], a[4:]) == shared
        assert not torch.equal(a[0], a[1])


def test_teacher_never_changes():
    """Left in training mode by somebody, it is put back; no gradient, no running average moves."""
    d = make()
    before = weights(d.teacher)
    d.teacher.train()
    d.step(batch(0))
    assert not d.teacher.training
    assert_bit_equal(weights(d.teacher), before, "teacher")
    assert all(p.grad is None for p in d.teacher.parameters())


def test_stylegan3_moves_its_running_means_once_a_step(tiny3):
    """In the discriminator's pass of the student; the teacher's stay; no mixing, no path length."""
    torch.manual_seed(0)
    teacher = sd.StyleGAN3Generator(tiny3)
    student = sd.make_student(teacher, 0.5)
    config = sd.DistillConfig(lpips=0, path_weight=0, style_mixing=0, directions_per_block=2)
    d = sd.Distiller(teacher, student, sd.make_discriminator(teacher, widths=(4, 4, 4, 4)), config)
    before = weights(d.teacher)
    calls = []
    first = student.synthesis.layers()[0]
    first.register_forward_pre_hook(lambda _m, args: calls.append(args[2]))
    values = d.step(torch.randn(2, 3, 32, 32))
    assert calls == [True, False]
    assert "path_loss" not in values
    assert float(first.magnitude_ema) != 1
    assert not torch.equal(student.mapping.w_avg, teacher.mapping.w_avg)
    assert_bit_equal(weights(d.teacher), before, "teacher")


def test_average_follows_parameters_and_copies_buffers():
    """0.5^(32/10000) a step; w_avg and noise maps are the student's own at once."""
    d = make()
    start = weights(d.student)
    assert_bit_equal(dict(d.ema.state), start, "average")
    d.step(batch(0))
    decay = 0.5 ** (32 / 10_000)
    now = weights(d.student)
    buffers = {n for n, _ in d.student.named_buffers()}
    for name, value in d.ema.state.items():
        expected = now[name] if name in buffers else torch.lerp(now[name], start[name], decay)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6, msg=name)
    assert not torch.equal(d.ema.state["mapping.w_avg"], start["mapping.w_avg"])
    average = d.ema_generator()
    assert not average.training
    assert torch.equal(average.synthesis.b4.const, d.ema.state["synthesis.b4.const"])
    timed = make(ema="kimg", ema_kimg=1.0)
    timed.step(batch(0, 8))
    assert timed._ema_decay(0) == pytest.approx(0.5 ** (8 / 1000))


def test_terms_can_be_switched(monkeypatch):
    """Nothing is computed that nobody asked for; frozen mapping networks stay; KD alone leaves the discriminator be."""
    alone = make(rgb=0.0, ld=0.0)
    monkeypatch.setattr(alone.teacher, "synthesis", None)  # calling it would raise
    assert "rgb" not in alone.step(batch(0))
    d = make(kd_only_steps=2, freeze_mapping=True, w=1.0, slimming=0.1, gcc=1.0, rgb_mode="intermediate")
    judge, mapping = weights(d.discriminator), weights(d.student.mapping)
    values = d.step(batch(0))
    assert "d_loss" not in values
    assert "adversarial" not in values
    assert {"w", "slimming", "gcc", "rgb", "ld"} <= set(values)
    assert_bit_equal(weights(d.discriminator), judge, "discriminator")
    d.step(batch(1))
    assert "adversarial" in d.step(batch(2))
    now = weights(d.student.mapping)
    assert all(torch.equal(now[k], mapping[k]) for k in mapping if k != "w_avg")
    single = make(ld_variant="single_view")
    assert single.directions is None
    rows = []
    single.student.synthesis.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    single.step(batch(0))
    assert set(rows[:2]) == {4}


def test_mask_reaches_both_image_terms():
    """A mask of nothing leaves them no gradient; it is made from the teacher's image."""

    def nothing(images):
        return torch.zeros(len(images), 19, 4, 4).index_fill(1, torch.tensor([0]), 1.0)  # all background

    d = make(mask=sd.ContentMask(nothing), perceptual=lambda x, y: (x - y).abs().mean((1, 2, 3)), lpips=3.0)
    values = d.step(batch(0))
    assert (values["rgb"], values["lpips"]) == (0.0, 0.0)


def test_broken_gradients_are_counted_and_repaired(monkeypatch):
    """NaN becomes 0, infinity 1e5; the step is taken."""
    d = make(ld=0.0)
    own = torch.autograd.grad

    def broken(*args, **options):
        found = list(own(*args, **options))
        if len(found) > 1:
            found[0] = torch.full_like(found[0], float("nan"))
            found[1] = torch.full_like(found[1], float("inf"))
        return found

    monkeypatch.setattr(torch.autograd, "grad", broken)
    values = d.step(batch(0))
    assert values["bad_gradients"] > 0
    assert all(p.isfinite().all() for p in [*d.student.parameters(), *d.discriminator.parameters()])


def test_what_does_not_fit():
    d = make()
    with pytest.raises(ValueError, match=r"real: got shape \(4, 3, 4, 4\)"):
        d.step(torch.zeros(4, 3, 4, 4))
    with pytest.raises(ValueError, match="labels: got"):
        d.step(batch(0), torch.zeros(4, 2))
    teacher, judge = d.teacher, d.discriminator
    with pytest.raises(ValueError, match="perceptual: missing"):
        sd.Distiller(teacher, d.student, judge, sd.DistillConfig())
    with pytest.raises(ValueError, match="shares parameters"):
        sd.Distiller(teacher, teacher, judge, sd.DistillConfig(**QUICK))
    other = sd.StyleGAN2Generator(
        sd.StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(4, 4, 4), mapping_layers=2)
    )
    with pytest.raises(ValueError, match="resolution: got 16; the teacher has 8"):
        sd.Distiller(teacher, other, judge, sd.DistillConfig(**QUICK))
    with pytest.raises(ValueError, match="mimic_blocks"):
        make(mimic_blocks=(4,))
    with pytest.raises(ValueError, match="batches: got none"):
        d.fit([], 1)


def test_labels_condition_both_networks():
    """Labels of the data go to mapping networks and discriminator."""
    cfg = sd.StyleGAN2Config(8, z_dim=8, c_dim=3, w_dim=8, widths=(6, 6), mapping_layers=2)
    torch.manual_seed(0)
    teacher = sd.StyleGAN2Generator(cfg)
    d = sd.Distiller(
        teacher,
        sd.make_student(teacher, 0.5),
        sd.make_discriminator(teacher, widths=(6, 6)),
        sd.DistillConfig(**QUICK),
    )
    values = d.step(batch(0), torch.eye(3)[[0, 1, 2, 0]])
    assert values["rgb"] > 0


def test_resumed_run_is_the_same_run():
    """Through a saved file of plain values; another seed's networks, so that all must come from the state."""
    import io

    from stylegan_distill.augment import AdaptiveAugment

    def new(seed):
        return make(seed, augment=AdaptiveAugment(p=0.5, speed=100.0), gcc=1.0)

    whole = new(0)
    for i in range(5):
        whole.step(batch(i))
    part = new(0)
    for i in range(3):
        part.step(batch(i))
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    file.seek(0)
    resumed = new(0)
    for i in range(2):  # somewhere else
        resumed.step(batch(10 + i))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    torch.manual_seed(99)  # the global generators do not matter
    for i in range(3, 5):
        resumed.step(batch(i))
    assert_bit_equal(resumed.state_dict(), whole.state_dict(), "state")


def test_fit_repeats_its_batches():
    d = make()
    told = []
    history = d.fit(
        [batch(0), (batch(1), torch.zeros(4, 0))], 3, lambda step, values: told.append((step, values["rgb"]))
    )
    assert len(history) == 3
    assert [s for s, _ in told] == [0, 1, 2]
    assert d.iteration == 3


def gradients(rows, steps):
    """Gradients of every step on this process's share of a global batch of 8, in float64."""
    import torch.distributed as dist

    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    d = make(ld=0.0)
    for module in (d.student, d.discriminator, d.teacher, d.path_length):
        module.double()
    d.ema = gan.ModelEMA(d.student, d._ema_decay, buffers="copy")
    found = []
    for optimizer in (d.opt_g, d.opt_d):
        own = optimizer.step

        def step(*_, optimizer=optimizer, own=own):
            found.append([p.grad.clone() for g in optimizer.param_groups for p in g["params"]])
            return own()

        optimizer.step = step
    d.generator_step = d.opt_g.step
    for i in range(steps):
        d.step(batch(i, rows).double()[rank::world])
    return found, weights(d.student), float(d.path_length.mean)


def test_two_processes_equal_one():
    """Gradients of D, G and path length, running mean of w, all parameters, and the mean path length."""
    expected, student, length = gradients(8, 3)
    for found, own, mean in two_gloo_ranks(gradients, 8, 3):
        assert len(found) == len(expected) == 8  # three of D, three of G, two of the path length
        for step, (a, b) in enumerate(zip(found, expected, strict=True)):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9, msg=f"step {step}")
        for name, value in own.items():
            torch.testing.assert_close(value, student[name], rtol=1e-6, atol=1e-7, msg=name)
        assert mean == pytest.approx(length, rel=1e-9)
