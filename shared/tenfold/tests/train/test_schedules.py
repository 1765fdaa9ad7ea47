import math
from itertools import pairwise

import pytest
import torch

from tenfold.train.schedules import (
    GroupSchedule,
    cosine,
    cosine_with_warmup,
    decoupled_adam,
    linear_ramp,
    one_cycle,
    one_cycle_schedule,
    sigmoid_ramp,
    smooth_ramp,
    step_with_warmup,
)


def test_one_cycle_passes_through_the_recipe_s_points():
    total, lr = 1000, 0.003
    value = [one_cycle(step, total, peak=lr) for step in range(total + 1)]
    assert value[0] == pytest.approx(lr / 10)
    assert value[400] == pytest.approx(lr)
    assert value[1000] == pytest.approx(lr / 10 * 1e-4)
    assert value[200] == pytest.approx((lr / 10 + lr) / 2)  # a cosine's middle
    assert max(value) == value[400]
    assert all(a < b for a, b in pairwise(value[:401]))
    assert all(a > b for a, b in pairwise(value[400:]))


@pytest.mark.parametrize("total", [10, 37, 1000])
def test_one_cycle_equals_torch_where_the_definitions_meet(total):
    # torch puts the knee at pct * total - 1 and the end at total - 1: with the fractions chosen so that both
    # knees fall on the same step, the curves are the same.
    knee = int(0.4 * total)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        sgd, 0.1, total_steps=total + 1, pct_start=(knee + 1) / (total + 1), div_factor=10,
        final_div_factor=1e4, base_momentum=0.85, max_momentum=0.95,
    )  # fmt: skip
    for step in range(total + 1):
        assert one_cycle(step, total, peak=0.1) == pytest.approx(
            sgd.param_groups[0]["lr"], rel=1e-9, abs=1e-15
        )
        momentum = one_cycle(step, total, peak=0.85, div=0.85 / 0.95, final_div=1.0)
        assert momentum == pytest.approx(sgd.param_groups[0]["momentum"], rel=1e-9)
        sgd.step()
        if step < total:
            theirs.step()


def test_one_cycle_schedule_drives_lr_and_beta_of_every_group():
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.01},
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.001},
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99))
    schedule = one_cycle_schedule(adam, 10)
    for step in range(10):
        for group, peak in zip(adam.param_groups, (0.01, 0.001), strict=True):
            assert group["lr"] == pytest.approx(one_cycle(step, 10, peak=peak))
            assert group["betas"][1] == 0.99
        adam.step()
        schedule.step()
        if step == 3:
            assert adam.param_groups[0]["betas"][0] == pytest.approx(0.85)
    assert adam.param_groups[0]["betas"][0] == pytest.approx(0.95)


def test_group_schedule_resumes_from_its_state():
    def build():
        adam = decoupled_adam([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
        return adam, one_cycle_schedule(adam, 20)

    adam, schedule = build()
    for _ in range(7):
        adam.step()
        schedule.step()
    again, resumed = build()
    again.load_state_dict(adam.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for optimizer, scheduler in ((adam, schedule), (again, resumed)):
        optimizer.step()
        scheduler.step()
    assert (
        again.param_groups[0]["lr"]
        == adam.param_groups[0]["lr"]
        == pytest.approx(one_cycle(8, 20, peak=0.01))
    )
    assert again.param_groups[0]["betas"] == adam.param_groups[0]["betas"]


def test_group_schedule_names_an_unknown_entry():
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="'beta3'; expected one of lr"):
        GroupSchedule(sgd, {"beta3": lambda step: 0.0})


def test_functions_serve_lambda_lr():
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda step: step_with_warmup(step, [3], warmup_steps=2)
    )
    seen = []
    for _ in range(4):
        seen.append(sgd.param_groups[0]["lr"])
        sgd.step()
        schedule.step()
    assert seen == pytest.approx([0.0, 0.25, 0.5, 0.05])


def test_detector_warm_up_of_500_steps_from_a_fifth():
    for step in (0, 100, 499):
        expected = 0.016 * (1 - 0.8 * (1 - step / 500))
        assert 0.016 * step_with_warmup(step, [9000], warmup_steps=500, start=0.2) == pytest.approx(expected)
    assert step_with_warmup(500, [9000], warmup_steps=500, start=0.2) == 1.0


def test_milestones_equal_torch():
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(sgd, [3, 5, 6], gamma=0.3)
    for step in range(9):
        assert step_with_warmup(step, [3, 5, 6], gamma=0.3) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()


def test_cosine_equals_torch():
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 12, eta_min=0.1)
    for step in range(13):
        assert cosine_with_warmup(step, 12, end=0.1) == pytest.approx(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()
    assert cosine(-1.0, 2.0, 3.0) == 2.0
    assert cosine(2.0, 2.0, 3.0) == 3.0


def test_ramps_at_ends_and_closed_form():
    for ramp in (linear_ramp, smooth_ramp, sigmoid_ramp):
        assert ramp(0, 10, 50, 0.0, 0.4) == 0.0
        assert ramp(50, 10, 50, 0.0, 0.4) == pytest.approx(0.4)
        assert ramp(99, 10, 50, 0.0, 0.4) == pytest.approx(0.4)
        values = [ramp(step, 10, 50) for step in range(60)]
        assert values == sorted(values)
    assert linear_ramp(20, 10, 50, 1.0, 0.0) == pytest.approx(0.75)
    assert sigmoid_ramp(30, 10, 50) == pytest.approx(math.exp(-5 * 0.25))


def test_smooth_ramp_is_a_quartic_with_a_smooth_knee():
    start, end, low, high = 320, 1920, 0.0, 8.8 / 255
    knee = start + math.floor(0.25 * (end - start))
    scale = (high - low) / (4 * (end - knee) * (knee - start) ** 3 + (knee - start) ** 4)
    assert smooth_ramp(400, start, end, low, high) == pytest.approx(low + scale * 80**4)
    before = smooth_ramp(knee, start, end, low, high) - smooth_ramp(knee - 1e-3, start, end, low, high)
    after = smooth_ramp(knee + 1e-3, start, end, low, high) - smooth_ramp(knee, start, end, low, high)
    assert before == pytest.approx(after, rel=1e-4)
    assert smooth_ramp(1, 0, 2) == pytest.approx(0.5)  # too short for a knee


@pytest.mark.parametrize(
    "call",
    [
        lambda: one_cycle(0, 0),
        lambda: one_cycle(0, 10, warm_fraction=1.0),
        lambda: cosine_with_warmup(0, 5, warmup_steps=6),
        lambda: step_with_warmup(0, [], warmup_steps=-1),
        lambda: linear_ramp(0, 5, 5),
        lambda: smooth_ramp(0, 5, 4),
    ],
)
def test_wrong_ranges_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_decoupled_decay_is_applied_before_the_step_to_every_parameter():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).double()
    unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    lr, decay, (b1, b2), eps = 0.02, 0.3, (0.9, 0.99), 1e-8
    optimizer = decoupled_adam([*model.parameters(), unused], lr, weight_decay=decay)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    for step in range(1, 6):
        optimizer.zero_grad()
        model(torch.randn(8, 3, dtype=torch.float64)).square().sum().backward()
        expected = {}
        for name, p in model.named_parameters():
            m, v = moments[name]
            m.mul_(b1).add_(p.grad, alpha=1 - b1)
            v.mul_(b2).add_(p.grad**2, alpha=1 - b2)
            decayed = p.detach() * (1 - lr * decay)
            expected[name] = decayed - lr * (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
        optimizer.step()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[name], rtol=1e-12, atol=1e-12)
    assert torch.equal(unused.detach(), torch.ones(2, dtype=torch.float64))
