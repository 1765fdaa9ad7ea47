"""Losses against closed forms, the exact rotated overlap and a loop; two processes equal one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from denfi import BevGrid, BoundaryWeights, DenseBoundaryProposal, boundary_iou_loss, boundary_targets
from denfi.losses import focal_over_pixels, stack
from tenfold.ops import box_iou_bev
from tenfold.testing import averaged_gradients, two_gloo_ranks
from tenfold.train.processes import rank_and_world

SIDE = st.floats(0.05, 9)


def test_closed_forms():
    one = torch.ones(1, 4, dtype=torch.float64)
    assert boundary_iou_loss(one, one).item() == pytest.approx(0, abs=1e-12)
    assert boundary_iou_loss(one, 2 * one).item() == pytest.approx(math.log(4), abs=1e-5)
    assert boundary_iou_loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    with pytest.raises(ValueError, match=r"target: got shape"):
        boundary_iou_loss(one, one[:0])
    with pytest.raises(TypeError, match="pred"):
        boundary_iou_loss(torch.ones(1, 4, dtype=torch.int64), one)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(SIDE, SIDE, SIDE, SIDE), st.tuples(SIDE, SIDE, SIDE, SIDE), st.floats(-3, 3), st.floats(0.1, 10)
)
def test_it_is_the_overlap_of_the_rectangles(first, second, theta, factor):
    pair = [torch.tensor([d], dtype=torch.float64) for d in (first, second)]
    loss = boundary_iou_loss(*pair).item()
    boxes = []
    for left, front, right, rear in (first, second):
        along, across = (front - rear) / 2, (left - right) / 2
        x = along * math.cos(theta) - across * math.sin(theta)
        y = along * math.sin(theta) + across * math.cos(theta)
        boxes.append(torch.tensor([[x, y, 0, front + rear, left + right, 1, theta]], dtype=torch.float64))
    overlap = box_iou_bev(*boxes).item()
    assert math.exp(-loss) == pytest.approx(overlap, abs=2e-4)
    scaled = boundary_iou_loss(*(factor * d for d in pair)).item()
    assert scaled == pytest.approx(loss, rel=1e-2, abs=1e-2)
    assert loss >= -1e-9


def _frames():
    boxes = [torch.tensor([[2.0, 1.0, 3.0, 1.6, 0.4], [3.5, 3.0, 2.0, 1.5, 2.0]]), torch.zeros(0, 5)]
    return boxes, [torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64)]


def test_ignored_pixels_cost_nothing():
    grid = BevGrid(0.0, 0.0, 0.4, 12, 14)
    boxes, labels = _frames()
    made = stack([boundary_targets(b, k, grid) for b, k in zip(boxes, labels, strict=True)])
    logits = torch.randn(2, 2, 12, 14, requires_grad=True)
    loss = focal_over_pixels(logits, made)
    total = 0.0
    for b in range(2):
        for i in range(12):
            for j in range(14):
                label = int(made.labels[b, i, j])
                for k in range(2) if label != -2 else ():
                    p = 1 / (1 + math.exp(-logits[b, k, i, j].item()))
                    total += (
                        -0.25 * (1 - p) ** 2 * math.log(p) if k == label else -0.75 * p**2 * math.log(1 - p)
                    )
    assert (made.labels == -2).any()
    assert loss.item() == pytest.approx(total / int((made.labels >= 0).sum()), rel=1e-4)
    loss.backward()
    ignored = (made.labels == -2)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()


def _proposal(**options):
    torch.manual_seed(3)
    return DenseBoundaryProposal(6, 2, cell_size=0.4, **options).double()


def _batch():
    generator = torch.Generator().manual_seed(5)
    feat = torch.randn(2, 6, 12, 14, generator=generator, dtype=torch.float64)
    boxes, labels = _frames()
    return feat, [b.double() for b in boxes], labels


def test_weights_and_parts():
    feat, boxes, labels = _batch()
    plain = _proposal()
    losses = plain.loss(plain(feat), boxes, labels)
    assert sorted(losses) == ["boundary_bin", "boundary_cls", "boundary_iou", "boundary_res"]
    assert all(v.isfinite() and v > 0 for v in losses.values())
    # Untrained: every bin is as likely as any other.
    assert losses["boundary_bin"].item() == pytest.approx(math.log(12), rel=0.05)
    weighted = _proposal(weights=BoundaryWeights(2, 3, 4, 5, total=0.5))
    again = weighted.loss(weighted(feat), boxes, labels)
    factors = {"cls": 1.0, "iou": 1.5, "bin": 2.0, "res": 2.5}
    for name, factor in factors.items():
        assert again[f"boundary_{name}"].item() == pytest.approx(
            factor * losses[f"boundary_{name}"].item(), rel=1e-9
        )
    with pytest.raises(ValueError, match="got no class logits"):
        plain.loss(plain(feat, classify=False), boxes, labels)
    with pytest.raises(ValueError, match="got 1 and 2 frames"):
        plain.loss(plain(feat), boxes[:1], labels)


def test_a_perfect_prediction_costs_nothing_but_its_classes():
    """Proposals built from the targets themselves."""
    from denfi import encode_heading
    from denfi.model.proposal import BoundaryOutput

    _, boxes, labels = _batch()
    module = _proposal()
    grid = module.grid(12, 14)
    made = [boundary_targets(b, k, grid) for b, k in zip(boxes, labels, strict=True)]
    dist, heading, classes = (
        torch.stack(t) for t in zip(*[(m.dist, m.heading, m.labels) for m in made], strict=True)
    )
    index, residual = encode_heading(heading)
    bins = torch.nn.functional.one_hot(index, 12).permute(0, 3, 1, 2).double()
    logits = torch.where(torch.stack([classes == k for k in range(2)], 1), 50.0, -50.0)
    output = BoundaryOutput(logits, dist, 99 * bins, bins * residual[:, None], torch.zeros(2, 5, 12, 14))
    losses = module.loss(output, boxes, labels)
    assert max(v.item() for v in losses.values()) < 1e-5


def test_empty_frames_have_finite_losses():
    feat, _, _ = _batch()
    module = _proposal()
    none = [torch.zeros(0, 5)] * 2
    losses = module.loss(module(feat), none, [torch.zeros(0, dtype=torch.int64)] * 2)
    assert all(v.isfinite() for v in losses.values())
    assert losses["boundary_iou"] == 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def _gradients():
    """Gradients of this process's frames, one of the two or both, averaged over processes."""
    feat, boxes, labels = _batch()
    module = _proposal()
    rank, world = rank_and_world()
    rows = slice(rank, None, world)
    sum(module.loss(module(feat[rows]), boxes[rows], labels[rows]).values()).backward()
    return averaged_gradients(module)


def test_two_processes_equal_one():
    wanted = _gradients()
    for found in two_gloo_ranks(_gradients):
        for name, gradient in found.items():
            assert torch.allclose(gradient, wanted[name], atol=1e-9), name
