"""`DistillStep`, taps by hooks, the logit cache: any teacher into any student."""

import copy

import pytest
import torch
from torch import nn

from tenfold.distill import DISTILLERS, DistillStep, LogitCache, Tapped, create_model, kd_loss
from tenfold.distill.taps import classifier_of
from tenfold.testing import assert_bit_equal, require, two_gloo_ranks

SIZE = (3, 16, 16)


def batch_of(n=4, classes=4, seed=0):
    x = torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(n) % classes, torch.arange(n)


class Custom(nn.Module):
    """A user's network that knows nothing of us."""

    def __init__(self, classes=4, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(inplace=True))
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(2 * width * 16, 24), nn.ReLU(), nn.Linear(24, classes)
        )

    def forward(self, x):
        return self.head(self.body(self.stem(x)))


def options_for(name):
    if name in ("at", "nst", "vid", "ab"):
        return {"mapping": [(0, 1), (1, 2), (2, 3)]}
    return {"mapping": [(1, 2)]} if name == "fitnet" else {}


@pytest.mark.parametrize("name", [n for n in DISTILLERS if n not in ("kd", "fsp")])
def test_every_distiller_trains_a_student(name):
    torch.manual_seed(0)
    student, teacher = create_model("plain3", 4), create_model("resnet8", 4)
    step = DistillStep(
        student,
        teacher,
        name,
        input_shape=SIZE,
        labels=torch.arange(8) % 4,
        ce_weight=1.0,
        **options_for(name),
    ).train()
    optimizer = torch.optim.SGD(step.trainable(), lr=1e-3)
    before = copy.deepcopy(student.state_dict())
    losses = step(*batch_of())
    total = losses["ce"] + 0.9 * losses["kd"] + DISTILLERS[name].weight * losses["distiller"]
    torch.testing.assert_close(losses["loss"], total)
    losses["loss"].backward()
    optimizer.step()
    assert any(not torch.equal(value, before[key]) for key, value in student.state_dict().items())
    assert not teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_fsp_needs_equal_channels():
    student, teacher = create_model("resnet8", 4), create_model("resnet14", 4)
    step = DistillStep(student, teacher, "fsp", input_shape=SIZE).train()
    step(*batch_of())["loss"].backward()


def test_hooks_tap_any_network():
    torch.manual_seed(0)
    model = Custom()
    tapped = Tapped(model, ["stem", "body"])
    x = batch_of()[0]
    found = tapped(x)
    assert (
        [tuple(tap.shape[1:]) for tap in found.taps] == [(8, 8, 8), (16, 4, 4), (24,)] == tapped.shapes(SIZE)
    )
    torch.testing.assert_close(found.taps[1], model.body(model.stem(x)))
    torch.testing.assert_close(model.head[3](found.taps[-1]), found.logits)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    step = DistillStep(
        model,
        create_model("resnet8", 4),
        "at",
        input_shape=SIZE,
        student_taps=["stem", "body"],
        mapping=[(0, 2), (1, 3)],
    )
    step(*batch_of())["loss"].backward()
    vectors = DistillStep(Custom(), create_model("resnet8", 4), "rkd", input_shape=SIZE)  # no names needed
    vectors(*batch_of())["loss"].backward()


def test_torchvision_networks_are_tapped_by_name():
    require("torchvision")
    student, teacher = create_model("torchvision:mobilenet_v2", 4), create_model("torchvision:resnet18", 4)
    step = DistillStep(
        student,
        teacher,
        "at",
        input_shape=(3, 64, 64),
        student_taps=["features.6", "features.13"],
        teacher_taps=["layer2", "layer3"],
        mapping=[(0, 0), (1, 1)],
    ).train()
    step(torch.randn(2, 3, 64, 64), torch.tensor([0, 1]))["loss"].backward()
    assert classifier_of(teacher).in_features == 512


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tapped(Custom(), ["stme"]), "names: got 'stme'; expected a module such as stem"),
        (lambda: Tapped(nn.Conv2d(3, 4, 1)), "has no linear layer"),
        (lambda: classifier_of(Custom(), "stem"), "no linear layer named 'stem'"),
        (lambda: _same_network(), "got the student itself"),
        (lambda: DistillStep(Custom(), Custom(), "at"), "input_shape: got None"),
        (lambda: DistillStep(Custom(), Custom(), depth=3), "depth: only a distiller given by name"),
        (lambda: DistillStep(Custom(4), Custom(5))(*batch_of()), "expected equal shapes"),
        (lambda: DistillStep(Custom(), Custom())(batch_of()[0]), "labels: got None"),
        (lambda: DistillStep(Custom(), Custom())(batch_of()[0], torch.tensor([0, 1, 2, 9])), "got 0 to 9"),
        (lambda: DistillStep(Custom(), Custom())(batch_of()[0], torch.zeros(3)), "expected \\(4,\\)"),
        (lambda: DistillStep(Custom(), Custom())(torch.zeros(0, *SIZE)), "empty batch"),
        (
            lambda: DistillStep(Custom(), Custom())(batch_of()[0] * torch.nan, batch_of()[1]),
            "student logits: NaN",
        ),
        (lambda: _cached_features(), "holds class scores only"),
        (lambda: _wrong_stage(), "no initial stage"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _same_network():
    model = Custom()
    DistillStep(model, model)


def _cached_features():
    DistillStep(Custom(), Custom(), "rkd", input_shape=SIZE, cache=LogitCache(4, 4))


def _wrong_stage():
    step = DistillStep(Custom(), Custom())
    step.stage = "init"
    step(*batch_of())


def test_a_teacher_with_nan_is_told_apart():
    teacher = Custom()
    with torch.no_grad():
        teacher.head[3].bias[0] = torch.nan
    with pytest.raises(ValueError, match="teacher logits: NaN or infinite in 4 of 4"):
        DistillStep(Custom(), teacher)(*batch_of())


def test_the_teacher_is_not_part_of_the_step_but_moves_along():
    step = DistillStep(Custom(), Custom())
    assert not any("teacher" in name for name, _ in step.named_parameters())
    assert not any("teacher" in key for key in step.state_dict())
    step.train()
    assert not step.teacher.training
    step.double()
    assert next(step.teacher.parameters()).dtype == torch.float64
    step(batch_of()[0].double(), batch_of()[1])["loss"].backward()


def test_amp_runs_networks_in_half_and_losses_in_float32():
    torch.manual_seed(0)
    student, teacher = create_model("plain3", 4), create_model("resnet8", 4)
    seen = []
    teacher.conv1.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    step = DistillStep(student, teacher, "rkd", input_shape=SIZE, amp="bf16").train()
    seen.clear()
    losses = step(*batch_of())
    assert all(value.dtype == torch.float32 for value in losses.values())
    losses["loss"].backward()
    assert seen == [torch.bfloat16]


def test_stages_of_the_staged_distillers():
    student, teacher = create_model("resnet8", 4), create_model("resnet14", 4)
    for name, trains in (("ab", True), ("fsp", True), ("ft", False)):
        step = DistillStep(student, teacher, name, input_shape=SIZE).train()
        step.stage = "init"
        student.zero_grad(set_to_none=True)
        losses = step(*batch_of())
        assert set(losses) == {"loss", "distiller", "logits"}
        losses["loss"].backward()
        assert any(p.grad is not None for p in student.parameters()) == trains
        step.stage = "main"
        assert ("distiller" in step(*batch_of())) == (name == "ft")
        step.stage = "joint"
        assert "distiller" in step(*batch_of())


def test_cached_logits_equal_fresh_ones_and_cost_one_query():
    torch.manual_seed(0)
    student, teacher = create_model("plain3", 4), create_model("resnet8", 4)
    asked = []
    teacher.register_forward_hook(lambda _m, given, _o: asked.append(len(given[0])))
    fresh = DistillStep(student, teacher).eval()
    cached = DistillStep(student, teacher, cache=LogitCache(10, 4, views=2)).eval()
    x, y, index = batch_of()
    expected = fresh(x, y)
    asked.clear()
    for _ in range(3):
        assert_bit_equal(cached(x, y, index, 0)["loss"], expected["loss"])
    assert asked == [4]
    cached(x.flip(3), y, index, 1)
    assert asked == [4, 4]
    assert cached.cache.queries == 8
    with pytest.raises(ValueError, match="image 0 view 0 has other pixels"):
        cached(x.flip(3), y, index, 0)
    with pytest.raises(ValueError, match="view: got 2"):
        cached(x, y, index, 2)
    with pytest.raises(ValueError, match="index: got None"):
        cached(x, y)
    with pytest.raises(ValueError, match="index: got 96 to 99; expected 0 to 9"):
        cached(x, y, index + 96)
    with pytest.raises(ValueError, match="index: got -1 to 2"):
        cached(x, y, index - 1)
    again = LogitCache(10, 4, views=2)
    again.load_state_dict(cached.cache.state_dict())
    assert_bit_equal(again.logits, cached.cache.logits)
    with pytest.raises(ValueError, match="state: got"):
        LogitCache(9, 4, views=2).load_state_dict(cached.cache.state_dict())
    with pytest.raises(ValueError, match="1 or more"):
        LogitCache(0, 4)


def networks():
    torch.manual_seed(0)
    student, teacher = create_model("plain3", 4).double(), create_model("resnet8", 4).double()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # statistics of a batch are of a process
    return student, teacher


def _shared():
    step = DistillStep(*networks(), "pkt", input_shape=SIZE, weight=0.0)
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    x, y, _ = batch_of(8)
    ddp = nn.parallel.DistributedDataParallel(step)
    ddp(x[rank::world].double(), y[rank::world])["loss"].backward()
    return [p.grad for p in step.student.parameters()]


def test_two_processes_equal_one():
    step = DistillStep(*networks())
    x, y, _ = batch_of(8)
    step(x.double(), y)["loss"].backward()
    expected = [p.grad for p in step.student.parameters()]
    for grads in two_gloo_ranks(_shared):
        for ours, theirs in zip(grads, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def _banks():
    torch.manual_seed(0)
    rank = torch.distributed.get_rank()
    student, teacher = create_model("plain3", 4), create_model("resnet8", 4)
    step = DistillStep(
        student, teacher, "crd", input_shape=SIZE, labels=torch.arange(16) % 4, negatives=3
    ).train()
    x, y, index = batch_of(8)
    part = slice(4 * rank, 4 * rank + 4)
    step(x[part], y[part], index[part])
    return step.distiller.bank_s, step.distiller.scale


def test_all_processes_keep_the_same_memory_banks():
    (bank, scale), (other, same) = two_gloo_ranks(_banks)
    assert_bit_equal(bank, other)
    assert_bit_equal(scale, same)


def test_the_step_in_a_plain_loop_of_ten_lines():
    torch.manual_seed(0)
    student, teacher = create_model("plain3", 4), create_model("resnet8", 4)
    step = DistillStep(student, teacher, ce_weight=0.0, kd_weight=1.0).train()
    optimizer = torch.optim.SGD(step.trainable(), lr=0.05)
    x, y, _ = batch_of(16)
    first = float(kd_loss(student.eval()(x), teacher(x)).detach())
    student.train()
    for _ in range(30):
        loss = step(x, y)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first
