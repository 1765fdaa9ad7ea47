"""The small reproduction: the arms are what they say, and the deciding ones come out as claimed."""

import copy

import pytest
import torch

import stylegan_distill as sd
from stylegan_distill import demo
from stylegan_distill.data import sprites
from stylegan_distill.demo import run_demo
from stylegan_distill.directions import latent_directions
from stylegan_distill.experiment import (
    ARMS,
    SCALES,
    TEACHER,
    _start,
    evaluate,
    ld_value,
    load_teacher,
    run_arm,
    sprite_set,
)
from tenfold.train.demo import read_demo


@pytest.fixture(scope="module")
def teacher():
    return load_teacher()


def test_the_shipped_teacher_is_small_and_of_the_recipe(teacher):
    assert TEACHER.stat().st_size < 1_000_000
    assert teacher.cfg == SCALES["sprites"].teacher
    assert teacher.mapping.w_avg.abs().sum() > 0


def test_the_teacher_as_its_own_student(teacher):
    found = evaluate(teacher, teacher, sprites(64), SCALES["sprites"], codes=32, samples=64)
    assert found["l1"] == found["ratio"] == 0
    assert found["edit_cosine"] == found["edit_cosine_unmoved"] == pytest.approx(1, abs=1e-5)
    assert found["ld"] == pytest.approx(0, abs=1e-6)
    assert found["mismatched_l1"] > 0.05


def test_starts_differ_in_what_the_arm_names(teacher):
    students = {name: _start(arm, teacher, 3) for name, arm in ARMS.items() if "long" not in name}
    z = torch.randn(50, 64)
    wanted = teacher.mapping.style(z)
    copied, _ = students["kd_mapping"]
    torch.testing.assert_close(copied.mapping.style(z), wanted, rtol=0, atol=0)
    # The same synthesis network at the start of every arm of one seed.
    for name in ("kd_random", "kd_permuted", "kd_shuffled", "gan"):
        own = students[name][0].synthesis.state_dict()
        for key, value in copied.synthesis.state_dict().items():
            torch.testing.assert_close(own[key], value, rtol=0, atol=0)
    permuted, order = students["kd_permuted"]
    torch.testing.assert_close(permuted.mapping.style(z), wanted[:, order])
    assert (order != torch.arange(64)).any()
    shuffled, _ = students["kd_shuffled"]
    for a, b in zip(shuffled.mapping.layers(), teacher.mapping.layers(), strict=True):
        torch.testing.assert_close(a.weight.flatten().sort()[0], b.weight.flatten().sort()[0])
    assert (shuffled.mapping.style(z) - wanted).abs().mean() > 0.3 * wanted.abs().mean()
    assert students["kd_heter"][0].cfg.second_conv_kernel == 1
    assert copied.widths == (12, 12, 12, 12, 10, 10)
    directions = latent_directions(teacher)
    permuted_value = ld_value(teacher, permuted, directions, directions[:, order], 1.77, batches=1)
    assert permuted_value > 0


def test_edits_of_a_permuted_network_must_be_permuted(teacher):
    """The same network in another basis of W: its edits agree once they are in that basis, and only then."""
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    other = copy.deepcopy(teacher)
    last = other.mapping.layers()[-1]
    with torch.no_grad():
        for value in (last.weight, last.bias, other.mapping.w_avg):
            value.copy_(value[order].clone())
        for name, module in other.synthesis.named_modules():
            if name.endswith("affine"):
                module.weight.copy_(module.weight[:, order].clone())
    held_out = latent_directions(teacher, start=5)
    found = evaluate(
        teacher,
        other,
        sprites(64),
        SCALES["sprites"],
        student_directions=held_out[:, order],
        codes=32,
        samples=64,
    )
    assert found["ratio"] == pytest.approx(0, abs=1e-5)
    assert found["edit_cosine"] == pytest.approx(1, abs=1e-4)
    assert found["ld"] == pytest.approx(0, abs=1e-6)
    assert found["edit_cosine_unmoved"] < 0.8


def test_run_arm_is_repeatable(teacher):
    images = sprites(64)
    runs = [
        run_arm(ARMS["kd_mapping+ld"], teacher, images, seed=1, steps=2, evaluated=False) for _ in range(2)
    ]
    for a, b in zip(*(run.student.state_dict().values() for run in runs), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert runs[0].numbers["last_rgb"] > 0


def test_demo_card(tmp_path, monkeypatch):
    few = sprites(256, 16, 0)
    monkeypatch.setattr(demo, "sprite_set", lambda: few)
    result = run_demo(tmp_path, steps=2, codes=16, samples=32)
    assert read_demo(tmp_path).rows == result.rows
    assert [p.name for p in result.pictures] == ["same_codes.png"]
    assert len(result.rows) == 3


@pytest.mark.slow
def test_the_mapping_decides_the_discrepancy(teacher):
    """300 steps, one seed; the claims run three."""
    images = sprite_set()
    ratios = {
        name: run_arm(ARMS[name], teacher, images).numbers["ratio"]
        for name in ("kd_mapping", "kd_random", "kd_shuffled")
    }
    assert ratios["kd_mapping"] <= 0.75
    assert min(ratios["kd_random"], ratios["kd_shuffled"]) >= 0.90


@pytest.mark.slow
def test_the_mapping_decides_for_stylegan3_too(tiny3):
    """Images of a random teacher imitated for 120 steps, without discriminator: only a copied mapping gets nearer."""
    torch.manual_seed(0)
    teacher = sd.StyleGAN3Generator(tiny3).eval()
    config = sd.DistillConfig(
        adversarial=0.0,
        lpips=0.0,
        ld=0.0,
        path_weight=0.0,
        style_mixing=0.0,
        lr_g=0.01,
        ema="kimg",
        ema_kimg=0.1,
    )
    ratios = {}
    for init in ("mapping", "random"):
        student = sd.make_student(teacher, 0.3, init=init)
        judge = sd.make_discriminator(student, widths=(4, 4, 4, 4))
        distiller = sd.Distiller(teacher, student, judge, config)
        distiller.fit([torch.zeros(8, 3, 32, 32)], 120)
        average = distiller.ema_generator()
        ratios[init] = sd.output_discrepancy(teacher, average, sd.LPIPS("tiny"), count=64)["ratio"]
    assert ratios["mapping"] < 0.95
    assert ratios["random"] > 0.97
