"""Loss and step: equivalences with plain KD, what touches what, the ledger's counts, statistics."""

import copy

import pytest
import torch
import torch.nn.functional as F

from tenfold.distill.models import create_model
from tenfold.testing import assert_bit_equal, two_gloo_ranks
from unix_kd import AT, CostLedger, DistillStep, MixBatch, SelectionStats, UncertaintyMixup, UnixLoss
from unix_kd.losses import mixed_cross_entropy
from unix_kd.stats import class_centres


def pair(classes=4, seed=0):
    torch.manual_seed(seed)
    return create_model("plain3", classes), create_model("resnet8", classes)


def batch_of(n=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 16, 16, generator=generator), torch.arange(n) % 4, torch.arange(n)


def test_everything_kept_and_nothing_mixed_is_plain_kd():
    student, teacher = pair()
    twin = copy.deepcopy(student)
    x, y, _ = batch_of()
    sampler = UncertaintyMixup(keep=8, b=8, w=1e6)  # any λ: the gate is shut
    step = DistillStep(student, teacher, sampler).train()
    losses = step(x, y)
    losses["loss"].backward()
    order = step.last.order
    twin(x)  # the scoring pass moves the statistics of the twin too
    s, t = twin(x[order]), teacher(x[order])
    expected = 16.0 * F.kl_div(F.log_softmax(s / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
    expected.backward()
    assert float(losses["loss"]) == pytest.approx(float(expected), rel=1e-5)
    for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
    for ours, theirs in zip(student.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_mixed_cross_entropy_is_that_of_the_soft_label():
    logits = torch.randn(5, 4, dtype=torch.float64)
    a, y_a, y_b = torch.rand(5, dtype=torch.float64), torch.arange(5) % 4, torch.arange(5, 0, -1) % 4
    batch = MixBatch(torch.zeros(5), y_a, y_b, a, *[torch.zeros(5)] * 3)
    soft = (1 - a)[:, None] * F.one_hot(y_a, 4) + a[:, None] * F.one_hot(y_b, 4)
    torch.testing.assert_close(mixed_cross_entropy(logits, batch), F.cross_entropy(logits, soft))


def test_the_mean_is_over_the_kept_images():
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    batch = MixBatch(torch.zeros(6), None, None, *[torch.zeros(6)] * 4)
    doubled = UnixLoss()(s.repeat(2, 1), t.repeat(2, 1), batch)["loss"]
    torch.testing.assert_close(doubled, UnixLoss()(s, t, batch)["loss"])


def test_labels_are_unused_at_ce_weight_zero():
    x, y, index = batch_of()
    results = []
    for labels in (y, y.flip(0), None):
        student, teacher = pair()
        torch.manual_seed(5)
        step = DistillStep(student, teacher).train()
        step(x, labels, index)["loss"].backward()
        results.append([p.grad for p in student.parameters()])
    assert_bit_equal(results[0], results[1])
    assert_bit_equal(results[0], results[2])


def test_a_shut_gate_equals_no_mixing_bit_for_bit():
    x, _, _ = batch_of()
    outputs = []
    for options in ({"w": 1e9, "b": 8}, {"lam": 0.0, "b": 8}):
        student, teacher = pair()
        torch.manual_seed(5)
        options = {"keep": 6, **options}
        outputs.append(DistillStep(student, teacher, UncertaintyMixup(**options)).train()(x)["loss"])
    assert_bit_equal(outputs[0], outputs[1])


def test_the_teacher_is_frozen_and_sees_the_mixed_pixels():
    student, teacher = pair()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    seen = []
    teacher.register_forward_pre_hook(lambda _m, given: seen.append(given[0].clone()))
    step = DistillStep(student, teacher, UncertaintyMixup(keep=6, b=4)).train()
    step(batch_of()[0])["loss"].backward()
    assert not teacher.training
    assert torch.equal(seen[0], step.last.x)
    assert len(seen) == 1
    assert_bit_equal(dict(teacher.state_dict()), before)
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(key.startswith("teacher") for key in step.state_dict())
    tracked = [b for name, b in student.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(b) == 2 for b in tracked)  # scoring pass and training pass


def test_the_ledger_counts_what_runs():
    student, teacher = pair()
    ledger = CostLedger(student, teacher, (3, 16, 16))
    step = DistillStep(student, teacher, UncertaintyMixup(keep=6, b=4), ledger=ledger).train()
    counted = []
    teacher.register_forward_hook(lambda _m, given, _o: counted.append(len(given[0])))
    for _ in range(3):
        step(batch_of()[0])["loss"].backward()
        with torch.no_grad():
            student(batch_of(5)[0])  # an evaluation in between costs nothing
    report = ledger.report()
    assert sum(counted) == report["teacher_images"] == 18
    assert report["student_forward_images"] == 3 * (8 + 6)
    assert report["student_backward_images"] == 18
    assert report["offered_images"] == 24
    R = report["R"]
    assert report["ratio"] == pytest.approx(0.75 + 1 / (R + 2))
    assert ledger.report(2.0)["ratio"] == pytest.approx(0.75 + 1 / (R + 3))
    assert report["seconds"] > 0
    with pytest.raises(ValueError, match="empty batch"):
        step(
            batch_of()[0][:0]
        )  # a step that fails costs nothing either, nor does what was evaluated before it
    assert ledger.report() == report
    other = CostLedger(*pair(), (3, 16, 16))
    other.load_state_dict(ledger.state_dict())
    assert other.report() == report
    ledger.close()
    student(batch_of()[0])
    assert ledger.report()["student_forward_images"] == 42


def test_random_choice_needs_no_scoring_pass():
    student, teacher = pair()
    ledger = CostLedger(student, teacher, (3, 16, 16))
    sampler = UncertaintyMixup(keep=6, b=4, strategy="random", lam=0.0)
    DistillStep(student, teacher, sampler, ledger=ledger).train()(batch_of()[0])
    assert ledger.report()["ratio"] == 0.75


def test_another_distiller_is_added():
    student, teacher = create_model("resnet8", 4), create_model("resnet14", 4)
    shapes = [(16, 16, 16), (16, 16, 16), (32, 8, 8), (64, 4, 4), (64,)]
    step = DistillStep(student, teacher, loss=UnixLoss(extra=AT(shapes, shapes), ce_weight=0.5)).train()
    losses = step(*batch_of())
    total = losses["kd"] + 0.5 * losses["ce"] + 1000.0 * losses["extra"]
    torch.testing.assert_close(losses["loss"], total)


def test_amp_keeps_losses_in_float32():
    student, teacher = pair()
    step = DistillStep(student, teacher, amp="bf16").train()
    losses = step(batch_of()[0])
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    full = DistillStep(*pair()).train()(batch_of()[0])["loss"]
    assert float(losses["loss"]) == pytest.approx(float(full), rel=0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistillStep(pair(4)[0], pair(5)[1])(batch_of()[0]), "teacher"),
        (lambda: DistillStep(*pair(), loss=UnixLoss(ce_weight=1.0))(batch_of()[0]), "no labels"),
        (lambda: DistillStep(*pair())(batch_of()[0] * torch.nan), "NaN"),
        (lambda: UnixLoss(T=0.0), "T > 0"),
        (lambda: SelectionStats(0), "images: got 0"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_statistics_of_a_known_batch():
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.0], [9.0, 0.0], [1.0, 0.0]])
    order = torch.tensor([1, 3, 0, 2])
    batch = MixBatch(
        torch.zeros(3, 3, 2, 2),
        torch.tensor([0, 1, 0]),
        None,
        torch.zeros(3),
        order,
        torch.zeros(3, dtype=torch.long),
        torch.zeros(4),
        logits,
        torch.tensor([11, 13, 10]),
        2,
    )
    stats = SelectionStats(20)
    stats.set_centres(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
    stats.update(batch, logits[:3], torch.tensor([[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]))
    saved = stats.state_dict()
    means = stats.end_epoch()
    p = logits.softmax(1).amax(1)
    assert means["confidence_kept"] == pytest.approx(float(p[[1, 3, 0]].mean()))
    assert means["confidence_dropped"] == pytest.approx(float(p[2]))
    assert means["confidence_all"] == pytest.approx(float(p.mean()))
    assert means["margin_kept"] == pytest.approx(float((2 * p - 1)[[1, 3, 0]].mean()), abs=1e-6)
    assert means["entropy_kept"] > means["entropy_dropped"]
    assert means["distance_to_centre"] == pytest.approx((5.0 + 2.0 + 0.0) / 3)
    assert stats.counts[0].nonzero()[:, 0].tolist() == [11, 13]  # the b lightest, not all kept
    again = SelectionStats(20)
    again.load_state_dict(saved)
    assert again.end_epoch() == means
    assert_bit_equal(
        again.centres, stats.centres
    )  # a run resumed inside an epoch goes on measuring distances


def test_class_centres_are_class_means():
    x = torch.randn(10, 3)
    labels = torch.tensor([0, 1] * 5)
    found = class_centres(lambda v: v, [(x[:4], labels[:4], 0), (x[4:], labels[4:], 0)], 3)
    torch.testing.assert_close(found[0], x[::2].mean(0))
    torch.testing.assert_close(found[1], x[1::2].mean(0))
    assert found[2].tolist() == [0, 0, 0]


def _gradients():
    """One step on this process's shard, through DistributedDataParallel, in float64."""
    student, teacher = (net.double() for net in pair())
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    step = DistillStep(student, teacher, UncertaintyMixup(keep=6, b=4, lam=0.5)).train()
    shared = torch.nn.parallel.DistributedDataParallel(step)
    x = batch_of(8 * world)[0].double()[8 * rank : 8 * (rank + 1)]
    torch.manual_seed(100 + rank)
    shared(x)["loss"].backward()
    return [p.grad for p in student.parameters()]


def _alone(rank):
    student, teacher = (net.double() for net in pair())
    step = DistillStep(student, teacher, UncertaintyMixup(keep=6, b=4, lam=0.5)).train()
    torch.manual_seed(100 + rank)
    step(batch_of(16)[0].double()[8 * rank : 8 * (rank + 1)])["loss"].backward()
    return [p.grad for p in student.parameters()]


def test_two_processes_equal_one_on_each_shard():
    first, second = two_gloo_ranks(_gradients)
    for a, b, c, d in zip(first, second, _alone(0), _alone(1), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, (c + d) / 2, atol=1e-6, rtol=1e-6)
