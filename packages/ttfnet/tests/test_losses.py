"""Losses against closed forms, torchvision, gradient checks, and one process against two."""

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from tenfold.testing import two_gloo_ranks
from ttfnet.losses import (
    LossSum,
    generalized_iou,
    heatmap_focal_loss,
    heatmap_focal_sum,
    predicted_boxes,
    reduced,
    weighted_giou_loss,
)


def test_focal_values_at_the_initial_bias():
    logits = torch.full((1, 1, 1, 2), -4.59512, dtype=torch.float64)
    target = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    total, positives = heatmap_focal_sum(logits, target)
    p = 1 / (1 + math.exp(4.59512))
    assert positives == 1
    assert total.item() == pytest.approx(-((1 - p) ** 2) * math.log(p) - p**2 * math.log(1 - p), rel=1e-9)
    assert heatmap_focal_sum(logits[..., :1], target[..., :1]).total.item() == pytest.approx(
        4.513527, abs=1e-5
    )
    assert heatmap_focal_loss(logits[..., 1:], target[..., 1:]).item() == pytest.approx(1.005034e-6, rel=1e-4)


def test_focal_equals_the_formula_of_the_paper():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5, 4, dtype=torch.float64) * 3
    target = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    target[0, 0, 1, 1] = target[1, 2, 3, 3] = 1
    p = logits.sigmoid()
    positive = (target == 1).double()
    wanted = positive * (1 - p) ** 2 * p.log() + (1 - positive) * (1 - target) ** 4 * p**2 * (1 - p).log()
    assert heatmap_focal_loss(logits, target).item() == pytest.approx(-wanted.sum().item() / 2, rel=1e-12)
    clamped = heatmap_focal_sum(logits, target, clamp=True).total
    assert clamped.item() == pytest.approx(-wanted.sum().item(), rel=1e-6)


def test_focal_never_dies():
    for wrong, target in ((-60.0, 1.0), (60.0, 0.0)):
        logits = torch.full((1, 1, 1, 1), wrong, requires_grad=True)
        loss = heatmap_focal_loss(logits, torch.full((1, 1, 1, 1), target))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.abs().item() == pytest.approx(1, rel=1e-3)
    # What the clamp does instead: a constant without gradient.
    logits = torch.full((1, 1, 1, 1), -60.0, requires_grad=True)
    total = heatmap_focal_sum(logits, torch.ones(1, 1, 1, 1), clamp=True).total
    total.backward()
    assert total.item() == pytest.approx(9.208498, abs=1e-4)
    assert logits.grad.item() == 0


def test_focal_leaves_the_logits_alone_and_widens_half():
    logits = torch.randn(1, 2, 3, 3)
    copy = logits.clone()
    target = torch.zeros_like(logits)
    first = heatmap_focal_loss(logits, target)
    assert torch.equal(logits, copy)
    assert torch.equal(first, heatmap_focal_loss(logits, target))
    assert heatmap_focal_loss(logits.half(), target).dtype == torch.float32


def test_ignored_negatives_cost_nothing():
    logits, target = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    target[0, 0, 0, 0] = 1
    ignore = torch.ones(1, 2, 2, dtype=torch.bool)
    assert heatmap_focal_sum(logits, target, ignore).total.item() == pytest.approx(0.25 * math.log(2))


def test_gradients_in_float64():
    torch.manual_seed(1)
    logits = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    target[0, 0, 1, 1] = 1
    assert torch.autograd.gradcheck(lambda x: heatmap_focal_loss(x, target), logits)
    sides = (torch.rand(1, 4, 2, 3, dtype=torch.float64) * 20 + 1).requires_grad_()
    box = torch.tensor([-6.0, -7, 15, 18], dtype=torch.float64).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    weight = torch.rand(1, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: weighted_giou_loss(predicted_boxes(s), box, weight), sides)


@pytest.mark.parametrize(
    ("other", "offset", "value"),
    [
        ((5, 5, 15, 15), 0, -0.0793651),
        ((5, 5, 15, 15), 1, -0.0205552),
        ((20, 0, 30, 10), 0, -0.3333333),
        ((20, 0, 30, 10), 1, -0.2903226),
        ((0, 0, 10, 10), 0, 1),
        ((0, 0, 10, 10), 1, 1),
    ],
)
def test_giou_closed_forms(other, offset, value):
    first, second = torch.tensor([0.0, 0, 10, 10]), torch.tensor(other, dtype=torch.float32)
    assert generalized_iou(first, second, offset).item() == pytest.approx(value, abs=1e-6)


def test_giou_equals_torchvision():
    torch.manual_seed(0)
    low, sides = torch.rand(2, 200, 2) * 50, torch.rand(2, 200, 2) * 40 + 0.1
    a, b = torch.cat((low, low + sides), -1)
    torch.testing.assert_close(
        1 - generalized_iou(a, b), generalized_box_iou_loss(a, b), rtol=1e-4, atol=1e-5
    )


def test_giou_of_empty_boxes_is_finite():
    empty = torch.zeros(3, 4, requires_grad=True)
    value = generalized_iou(empty, torch.zeros(3, 4)).sum()
    value.backward()
    assert value.isfinite()
    assert empty.grad.isfinite().all()


def test_the_base_point_is_four_times_the_pixel():
    boxes = predicted_boxes(torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1).expand(1, 4, 3, 5))
    assert boxes[0, :, 2, 4].tolist() == [15, 6, 19, 12]


def test_pixels_without_weight_cost_nothing():
    pred = torch.rand(1, 4, 2, 2, requires_grad=True)
    weight = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    weighted_giou_loss(pred, torch.rand(1, 4, 2, 2), weight).backward()
    assert (pred.grad[..., weight[0] == 0] == 0).all()


def test_an_offset_helps_nearly_empty_boxes():
    """Trap of the initial network: without it, distances near zero have fifty times less gradient."""
    target = torch.tensor([0.0, 0, 100, 100]).view(1, 4, 1, 1) - 50
    gradients = []
    for offset in (0.0, 1.0):
        sides = torch.full((1, 4, 1, 1), 0.01, requires_grad=True)
        weighted_giou_loss(predicted_boxes(sides), target, torch.ones(1, 1, 1), offset).backward()
        gradients.append(sides.grad.abs().max().item())
    assert gradients[1] > 30 * gradients[0]


def test_bad_shapes_are_named():
    with pytest.raises(ValueError, match="heatmap_focal_loss: target: got shape"):
        heatmap_focal_loss(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3))
    with pytest.raises(ValueError, match="weighted_giou_loss: pred, target, weight"):
        weighted_giou_loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 3))


def loss_of_rank(sync):
    rank = torch.distributed.get_rank()
    value = torch.tensor(float(3 + 4 * rank), requires_grad=True)
    loss = reduced(LossSum(value, torch.tensor(2.0 * rank)), sync, floor=1.0)
    loss.backward()
    return loss.item(), value.grad.item()


def test_normalizers_of_all_processes():
    # Sums 3 and 7, numbers 0 and 2: together 10 / 2, and the average of the processes' losses is that.
    assert [v for v, _ in two_gloo_ranks(loss_of_rank, True)] == [3.0, 7.0]
    assert [v for v, _ in two_gloo_ranks(loss_of_rank, False)] == [3.0, 3.5]
