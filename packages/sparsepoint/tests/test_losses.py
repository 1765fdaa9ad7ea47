"""Coders, matching and losses: closed forms, brute force, gradients, two processes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparsepoint_tiny import built, rooms_batch, small_config

from sparsepoint.coders import (
    ClassResidualCoder,
    DirectCoder,
    PartialBinBoxCoder,
    RelativeHeadingCoder,
    decode_heading,
)
from sparsepoint.losses import (
    SetCriterion3d,
    Truth,
    dense_losses,
    make_criterion,
    match_histogram,
    vote_losses,
)
from sparsepoint.matching import HungarianMatcher3d, focal_cost, match_one_to_many
from sparsepoint.models import DetectionOutput
from sparsepoint.models.votes import Candidates, Votes
from sparsepoint.targets import votes_from_boxes, votes_from_instances
from tenfold.losses import sigmoid_focal_loss
from tenfold.testing import averaged_gradients, two_gloo_ranks
from tenfold.train.processes import rank_and_world


def test_decode_by_hand():
    box = torch.tensor([[0.0, 0, 0, 2, 4, 1, 0]])
    delta = torch.tensor([[2.0, -2, 2, math.log(2), 0, math.log(0.5)]])
    found = RelativeHeadingCoder().decode(delta, torch.zeros(1, 2), box)
    torch.testing.assert_close(found, torch.tensor([[2.0, -4, 1, 4, 4, 0.5, 0]]))
    turned = torch.tensor([[0.0, 0, 0, 2, 4, 1, math.pi / 2]])
    local = RelativeHeadingCoder(axes="local").decode(delta, torch.zeros(1, 2), turned)
    torch.testing.assert_close(local[0, :2], torch.tensor([4.0, 2.0]))
    huge = RelativeHeadingCoder().decode(torch.full((1, 6), 99.0), torch.zeros(1, 2), box)
    torch.testing.assert_close(huge[0, 3], torch.tensor(2 * math.exp(4)))
    direct = DirectCoder(12).decode(torch.zeros(1, 6), torch.tensor([[1.0, 0.0]]), box)
    assert direct[0, 6].item() == pytest.approx(math.pi / 2)


def test_heading_codes():
    index, residual = RelativeHeadingCoder(12).encode_heading(torch.tensor([0.3]), torch.tensor([0.0]))
    assert index.item() == 1
    assert residual.item() == pytest.approx(-0.2236, abs=1e-4)
    border = torch.arange(-12, 13) * math.pi / 12
    angles = torch.cat((torch.rand(10_000) * 8 - 4, border, torch.tensor([math.pi, -math.pi]))).double()
    incoming = torch.rand(len(angles)).double() * 6 - 3
    index, residual = RelativeHeadingCoder(12).encode_heading(angles, incoming)
    assert residual.abs().max() <= math.pi / 12 + 1e-9
    out = torch.zeros(len(angles), 24, dtype=torch.float64)
    out.scatter_(1, index[:, None], 5.0)
    out.scatter_(1, 12 + index[:, None], residual[:, None])
    back = decode_heading(out, incoming, 12)
    assert (back - angles).sin().abs().max() < 1e-9
    assert (back - angles).cos().min() > 0.999


def test_partial_coder_round_trip():
    coder = PartialBinBoxCoder(((1.0, 1, 1), (2.0, 1, 0.5)), 12)
    assert coder.outputs == 24 + 8
    boxes = torch.rand(50, 7).double() + 0.2
    boxes[:, 6] = torch.rand(50) * 6 - 3
    labels = torch.randint(0, 2, (50,))
    code = coder.encode(boxes, labels)
    torch.testing.assert_close(coder.decode(boxes[:, :3], code), boxes)
    out = torch.zeros(50, coder.outputs, dtype=torch.float64)
    out.scatter_(1, code.heading_class[:, None], 3.0)
    out.scatter_(1, 12 + code.heading_class[:, None], code.heading_residual[:, None])
    out.scatter_(1, 24 + labels[:, None], 3.0)
    for k in range(3):
        out.scatter_(1, 26 + 3 * labels[:, None] + k, code.size_residual[:, k : k + 1])
    torch.testing.assert_close(coder.decode_outputs(boxes[:, :3], out), boxes)


def test_class_residual_coder_by_hand():
    coder = ClassResidualCoder(((1.0, 1, 1), (2.0, 1, 0.5)), 12)
    assert coder.outputs == 3 + 2 + 6
    delta, heading = torch.zeros(1, coder.outputs), torch.zeros(1, 24)
    delta[0, :5] = torch.tensor([0.5, -1, 0.25, 0.0, 2.0])  # the offset, and the second class
    delta[0, 8:11] = torch.tensor([0.1, 0.0, -0.2])
    heading[0, 3], heading[0, 12 + 3] = 4.0, 0.5  # a quarter turn and half of half a bin
    incoming = torch.tensor([[1.0, 2, 3, 9, 9, 9, 1.0]])  # whose size and yaw do not matter
    wanted = torch.tensor([[1.5, 1, 3.25, 2.2, 1.0, 0.4, math.pi / 2 + 0.5 * math.pi / 12]])
    torch.testing.assert_close(coder.decode(delta, heading, incoming), wanted)


def test_class_residuals_are_learned_of_the_objects_own_class_and_bin():
    """With every output right but the scores of class and bin, those two terms alone say so."""
    config = small_config(mode="oriented", num_proposals=1, box_coder="classres", cls_prior=None)
    truth = Truth([torch.tensor([[0.5, 0, 0, 1.5, 1, 0.7, 1.0]])], [torch.tensor([0])])
    incoming = torch.tensor([[[0.0, 0, 0, 3, 3, 3, 0.4]]])
    partial = PartialBinBoxCoder(config.mean_sizes, 12)
    code = partial.encode(truth.boxes[0], truth.labels[0])
    coder = ClassResidualCoder(config.mean_sizes, 12)
    delta, heading = torch.zeros(1, 1, coder.outputs), torch.zeros(1, 1, 24)
    delta[..., 0], delta[..., 7:10] = 0.5, code.size_residual
    bin_ = int(code.heading_class)
    heading[..., 12 + bin_] = code.heading_residual

    def losses(kind, turn):
        delta[..., 3:7], heading[..., :12] = 0.0, 0.0
        delta[..., 3 + kind], heading[..., turn] = 20.0, 20.0
        output = DetectionOutput([torch.zeros(1, 1, 4)], [coder.decode(delta, heading, incoming)], [heading],
                                 [incoming], [delta])  # fmt: skip
        found = SetCriterion3d(config)(output, truth)
        return {name.removeprefix("stage1/"): value.item() for name, value in found.items()}

    right, other_class, other_bin = losses(0, bin_), losses(1, bin_), losses(0, (bin_ + 1) % 12)
    for name in ("centre", "size", "iou", "corners", "heading_residual", "heading_bin", "size_class"):
        assert right[name] == pytest.approx(0, abs=1e-4), name
    assert other_class["size_class"] == pytest.approx(0.45 * 20, abs=1e-3)
    assert other_class["size"] == pytest.approx(0, abs=1e-4)
    assert other_class["iou"] > 0.05
    assert other_bin["heading_bin"] == pytest.approx(0.45 * 20, abs=1e-3)
    assert other_bin["heading_residual"] == pytest.approx(0, abs=1e-4)
    heading[..., 12 + bin_] += 0.1  # half bins; the loss is in radians
    assert losses(0, bin_)["heading_residual"] == pytest.approx(4.5 * 0.1 * math.pi / 12, abs=1e-4)


def test_costs_and_focal_loss_in_closed_form():
    cost = focal_cost(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(cost, torch.tensor([0.46548, -0.08664, -1.39856]), atol=2e-5, rtol=0)
    assert (focal_cost(torch.linspace(0.01, 0.99, 99)).diff() < 0).all()
    loss = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.04332, 0.12997]), atol=1e-5, rtol=0)


class Given(HungarianMatcher3d):
    """A matcher with a table of its own."""

    def cost(self, logits, boxes, objects, labels):
        return logits


def pairs(table):
    table = torch.tensor(table)
    match = Given((1.0, 1, 1))(table, torch.zeros(len(table), 7), torch.zeros(table.shape[1], 7), None)
    return dict(zip(match.objects.tolist(), match.proposals.tolist(), strict=True)), match


def test_matching_is_optimal_and_not_greedy():
    found, _ = pairs([[1.0, 2.0], [1.1, 10.0]])
    assert found == {0: 1, 1: 0}
    found, match = pairs([[1.0, 5.0, 2.0]])
    assert (found, match.unmatched) == ({0: 0}, 2)
    found, match = pairs(torch.zeros(3, 0).tolist())
    assert (found, match.unmatched) == ({}, 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_matching_against_brute_force(k, g, seed):
    table = np.random.default_rng(seed).normal(size=(k, g)).astype(np.float32)
    found, _ = pairs(table.tolist())
    total = sum(table[p, o] for o, p in found.items())
    few = min(k, g)
    best = min(
        sum(table[p, o] for p, o in zip(rows, columns, strict=True))
        for rows in itertools.permutations(range(k), few)
        for columns in itertools.combinations(range(g), few)
    )
    assert total == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("rotated", [True, False])
def test_scenes_are_matched_together_as_one_by_one(rotated):
    rng = torch.Generator().manual_seed(0)
    match = HungarianMatcher3d((1.0, 2.0, 0.5), rotated=rotated)
    logits, boxes = torch.randn(4, 6, 3, generator=rng), torch.rand(4, 6, 7, generator=rng) + 0.1
    objects = [torch.rand(g, 7, generator=rng) + 0.1 for g in (2, 0, 9, 4)]
    labels = [torch.randint(0, 3, (len(own),), generator=rng) for own in objects]
    found = match.scenes(logits, boxes, objects, labels)
    for scene, own in enumerate(found):
        alone = match(logits[scene], boxes[scene], objects[scene], labels[scene])
        assert torch.equal(own.proposals, alone.proposals)
        assert torch.equal(own.objects, alone.objects)
        assert own.unmatched == alone.unmatched == max(0, len(objects[scene]) - 6)
    with pytest.raises(FloatingPointError, match="diverged"):
        match.scenes(logits / 0, boxes, objects, labels)


def test_cost_by_hand_and_its_sign():
    match = HungarianMatcher3d((1.0, 2.0, 0.5), iou=4.0)
    boxes = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
    objects = torch.tensor([[0.0, 0, 0.5, 1, 1, 1, 0]])
    cost = match.cost(torch.zeros(1, 2), boxes, objects, torch.tensor([1]))
    assert cost.item() == pytest.approx(3 * -0.08664 + 0.9 * (3 * 0.5 + 0 - 4 / 3), abs=1e-4)
    # More overlap must be cheaper; the older code had it the other way round.
    assert cost > match.cost(torch.zeros(1, 2), objects, objects, torch.tensor([1]))
    tall = torch.tensor([[0.0, 0, 0.5, 1, 1, 2, 0]])
    only = HungarianMatcher3d((1.0, 1, 1), iou=1.0, cls=0.0, box=1.0)
    without = HungarianMatcher3d((1.0, 1, 1), iou=0.0, cls=0.0, box=1.0)
    args = (torch.zeros(1, 2), boxes, tall, torch.tensor([0]))
    assert (without.cost(*args) - only.cost(*args)).item() == pytest.approx(
        0.5
    )  # bottom centres would say 0.2
    with pytest.raises(FloatingPointError, match="diverged"):
        match(torch.full((1, 2), float("nan")), boxes, objects, torch.tensor([1]))


def test_one_to_many():
    objects = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0], [4.0, 0, 0, 0.2, 0.2, 0.2, 0], [9.0, 0, 0, 1, 1, 1, 0]])
    boxes = torch.tensor(
        [[0.0, 0, 0, 1, 1, 1, 0], [0.4, 0, 0, 1, 1, 1, 0], [4.1, 0, 0, 2, 2, 2, 0], [6.0, 0, 0, 1, 1, 1, 0]]
    )
    match = match_one_to_many(boxes, objects)
    assert match.proposals.tolist() == [0, 1, 2]
    assert match.objects.tolist() == [0, 0, 1]
    assert match.unmatched == 1
    assert len(match_one_to_many(boxes, objects[:0]).proposals) == 0


def stage_of(boxes, logits, heading=None):
    own = torch.zeros(*boxes.shape[:2], 2) if heading is None else heading
    return DetectionOutput([logits], [boxes], [own], [boxes.detach()])


def test_losses_by_hand():
    config = small_config(num_proposals=2, mean_size=(1.0, 1.0, 1.0))
    truth = Truth([torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])], [torch.tensor([2])])
    boxes = torch.tensor([[[0.5, 0, 0, 1, 1, 2, 0], [9.0, 0, 0, 1, 1, 1, 0]]])
    criterion = SetCriterion3d(config)
    losses = criterion(stage_of(boxes, torch.zeros(1, 2, 4)), truth)
    assert losses["stage1/centre"].item() == pytest.approx(1.35 * 0.5)
    assert losses["stage1/size"].item() == pytest.approx(0.45 * 1.0)
    iou = 0.5 / (1 + 2 - 0.5)
    assert losses["stage1/iou"].item() == pytest.approx(0.9 * (1 - iou), abs=1e-6)
    corner = 8 * (0.125 + 0.125)  # half a metre along x and along z
    assert losses["stage1/corners"].item() == pytest.approx(0.1125 * corner, abs=1e-6)
    assert losses["stage1/cls"].item() == pytest.approx(1.5 * (0.04332 + 7 * 0.12997), abs=1e-4)
    assert criterion.match_counts.tolist() == [1, 0]
    assert criterion.unmatched == 0
    perfect = stage_of(truth.boxes[0][None].repeat(1, 2, 1), torch.full((1, 2, 4), -20.0))
    perfect.logits[0][0, 0, 2] = 20.0
    assert criterion(perfect, truth)["loss"].item() < 1e-4


def test_scenes_without_objects_and_with_too_many():
    config = small_config(num_proposals=3)
    model, criterion = built(config), SetCriterion3d(config)
    batch = rooms_batch(config)
    nothing = Truth([torch.zeros(0, 7)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    losses = criterion(model(batch.points), nothing)
    assert losses["stage1/cls"] > 0
    assert losses["stage1/centre"] == losses["stage1/iou"] == losses["stage2/corners"] == 0
    losses["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    many = Truth([b.repeat(5, 1) for b in batch.truth.boxes], [k.repeat(5) for k in batch.truth.labels])
    assert torch.isfinite(criterion(model(batch.points), many)["loss"])
    assert criterion.matches[0][0].unmatched == 5 * len(batch.truth.boxes[0]) - 3
    assert criterion.unmatched == sum(5 * len(own) - 3 for own in batch.truth.boxes)


def test_the_rotated_overlaps_see_the_yaw_and_giou_pulls():
    """Unit cubes two metres apart: IoU 0 without a gradient, GIoU -1/3."""
    truth = Truth([torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])], [torch.tensor([0])])

    def iou(kind, box):
        boxes = torch.tensor([[box]], requires_grad=True)
        config = small_config(num_proposals=1, iou_loss=kind, match_iou=0.0)
        loss = SetCriterion3d(config)(stage_of(boxes, torch.zeros(1, 1, 4)), truth)["stage1/iou"]
        (grad,) = torch.autograd.grad(loss, boxes)
        return loss.item() / 0.9, grad[0, 0]

    apart = [2.0, 0, 0, 1, 1, 1, 0]
    for kind in ("aligned", "rotated"):
        loss, grad = iou(kind, apart)
        assert (loss, grad.abs().sum()) == (pytest.approx(1.0), 0)
    loss, grad = iou("rotated_giou", apart)
    assert loss == pytest.approx(1 + 1 / 3, abs=1e-6)
    assert grad[0] > 0
    turned = [0.0, 0, 0, 1, 1, 1, math.pi / 4]
    assert iou("aligned", turned)[0] == pytest.approx(0, abs=1e-6)
    assert iou("rotated", turned)[0] == pytest.approx(1 - 1 / math.sqrt(2), abs=1e-5)


def test_match_histogram_counts_every_proposal_once():
    counts = torch.tensor([0, 1, 9, 10, 99, 100, 5000, 0])
    shares = match_histogram(counts)
    assert [8 * share for share in shares.values()] == [2, 2, 2, 2]
    assert list(shares) == ["0", "1 to 9", "10 to 99", "100 or more"]


def test_learned_boxes_learn_from_the_first_stage_alone():
    config = small_config()
    model, criterion = built(config).eval(), SetCriterion3d(config)
    batch = rooms_batch(config, 1)
    output = model(batch.points)
    losses = criterion(output, batch.truth)
    first = sum(losses[f"stage1/{n}"] for n in ("centre", "size", "iou", "corners"))
    (grad,) = torch.autograd.grad(first, model.proposals.boxes_norm, retain_graph=True)
    matched = criterion.matches[0][0].proposals
    unmatched = torch.ones(config.num_proposals, dtype=torch.bool)
    unmatched[matched] = False
    assert (grad[matched].abs().sum(1) > 0).all()
    assert (grad[unmatched] == 0).all()
    rest = losses["loss"] - first
    (later,) = torch.autograd.grad(rest, model.proposals.boxes_norm, allow_unused=True)
    assert later is None or (later == 0).all()


def test_headings_are_learned_relative_to_the_incoming_yaw():
    config = small_config(mode="oriented", num_proposals=1)
    boxes = torch.tensor([[[0.0, 0, 0, 1, 1, 1, 0.4]]])
    truth = Truth([torch.tensor([[0.0, 0, 0, 1, 1, 1, 1.0]])], [torch.tensor([0])])
    heading = torch.full((1, 1, 24), -20.0)
    heading[..., 12:] = 0.0
    index, residual = RelativeHeadingCoder(12).encode_heading(torch.tensor(1.0), torch.tensor(0.4))
    heading[..., index], heading[..., 12 + index] = 20.0, residual
    losses = SetCriterion3d(config)(stage_of(boxes, torch.zeros(1, 1, 4), heading), truth)
    assert losses["stage1/heading_bin"] < 1e-4
    assert losses["stage1/heading_residual"] < 1e-4
    wrong = heading.roll(1, -1)
    losses = SetCriterion3d(config)(stage_of(boxes, torch.zeros(1, 1, 4), wrong), truth)
    assert losses["stage1/heading_bin"] > 1


def test_vote_targets_and_losses():
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0], [0.5, 0, 0, 1, 1, 1, 0.7]])
    points = torch.tensor([[0.5, 0.0, 0], [-0.9, 0, 0], [5.0, 0, 0]])
    mask, offsets = votes_from_boxes(points, boxes)
    assert mask.tolist() == [True, True, False]
    torch.testing.assert_close(offsets[0], torch.tensor([[-0.5, 0, 0], [0.0, 0, 0], [-0.5, 0, 0]]))
    torch.testing.assert_close(offsets[1], torch.tensor([[0.9, 0, 0]]).repeat(3, 1))
    assert (offsets[2] == 0).all()
    mask, offsets = votes_from_instances(points, torch.tensor([3, 3, 0]))
    torch.testing.assert_close(offsets[0, 0], torch.tensor([-0.7, 0, 0]))
    empty, none = votes_from_boxes(points, boxes[:0])
    assert not empty.any()
    assert (none == 0).all()
    seeds = points[None]
    rows = torch.arange(3)[None]
    votes = Votes(
        seeds, rows, seeds, seeds + offsets[None, :, 0] + 0.1, torch.zeros(1, 3, 4), torch.zeros(1, 3, 2)
    )
    losses = vote_losses(votes, mask[None], offsets[None])
    assert losses["vote"].item() == pytest.approx(10 * 0.3, abs=1e-5)
    assert losses["foreground"].item() == pytest.approx(3 * math.log(2), abs=1e-5)


def test_dense_losses_by_hand():
    coder = PartialBinBoxCoder(((1.0, 1, 1), (2.0, 2, 2)), 1)
    base = torch.tensor([[[0.1, 0, 0], [0.45, 0, 0], [3.0, 0, 0]]])
    found = Candidates(
        base,
        torch.zeros(1, 3, 4),
        torch.zeros(1, 3, 2),
        base,
        torch.zeros(1, 3, coder.outputs),
        torch.zeros(1, 3, 2),
    )
    truth = Truth([torch.tensor([[0.0, 0, 0, 2, 2, 4, 0]])], [torch.tensor([1])])
    losses = dense_losses(found, truth, coder)
    # One positive, one between, one negative: (0.8 + 0.2) ln 2 over two candidates, times 5.
    assert losses["objectness"].item() == pytest.approx(5 * math.log(2) / 2, abs=1e-5)
    assert losses["candidate_centre"].item() == pytest.approx(10 * 0.01, abs=1e-5)
    assert losses["covered"].item() == pytest.approx(10 * 0.01, abs=1e-5)
    assert losses["size_residual"].item() == pytest.approx(10 * 0.5 / 3, abs=1e-5)
    assert losses["semantic"].item() == pytest.approx(math.log(2), abs=1e-5)
    nothing = Truth([torch.zeros(0, 7)], [torch.zeros(0, dtype=torch.int64)])
    alone = dense_losses(found, nothing, coder)
    assert alone["objectness"].item() == pytest.approx(5 * 0.2 * math.log(2), abs=1e-5)
    assert alone["candidate_centre"] == 0


def test_dense_losses_of_a_batch_are_those_of_its_scenes():
    """Sums over scenes over sums of weights; one scene is empty."""
    coder = PartialBinBoxCoder(((1.0, 1, 1), (2.0, 2, 2)), 12)
    rng = torch.Generator().manual_seed(0)
    shapes = ((3,), (4,), (2,), (3,), (coder.outputs,), (2,))
    parts = [torch.rand(3, 9, *shape, generator=rng).double() for shape in shapes]
    whole = Candidates(*parts)
    boxes = [torch.rand(g, 7, generator=rng).double() + 0.1 for g in (3, 0, 1)]
    labels = [torch.randint(0, 2, (len(own),), generator=rng) for own in boxes]
    found = dense_losses(whole, Truth(boxes, labels), coder)
    near = [
        (torch.cdist(whole.base[b], own[:, :3]).amin(1) if len(own) else torch.full((9,), 9.0)).double()
        for b, own in enumerate(boxes)
    ]
    weights = {
        "objectness": [float(((d < 0.3) | (d > 0.6)).sum()) for d in near],
        "covered": [float(len(own)) for own in boxes],
    }
    positives = [float((d < 0.3).sum()) for d in near]
    for name, value in found.items():
        shares = weights.get(name, positives)
        alone = [
            dense_losses(
                Candidates(*(p[b : b + 1] for p in parts)), Truth(boxes[b : b + 1], labels[b : b + 1]), coder
            )[name]
            for b in range(3)
        ]
        assert sum(positives) > 0
        expected = sum(float(a) * s for a, s in zip(alone, shares, strict=True)) / sum(shares)
        assert float(value) == pytest.approx(expected, abs=1e-9), name


def one_rank_gradients(preset):
    return _gradients(preset, slice(0, 4))


def _gradients(preset, rows):
    torch.set_default_dtype(torch.float64)
    config = small_config(preset, "oriented", dropout=0.0, backbone="tiny")
    model, criterion = built(config).double().train(), make_criterion(config)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.eval()
    batch = rooms_batch(config, 4, "oriented")
    part = Truth(
        [b.double() for b in batch.truth.boxes[rows]],
        batch.truth.labels[rows],
        batch.truth.vote_mask[rows],
        batch.truth.votes[rows].double(),
    )
    criterion(model(batch.points[rows].double()), part)["loss"].backward()
    return averaged_gradients(model)


def rank_gradients(preset):
    return _gradients(preset, slice(0, 1) if rank_and_world()[0] == 0 else slice(1, 4))


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "srdet", "tiny_votenet"])
def test_two_processes_equal_one(preset):
    """Unequal shards, so that every normaliser has to be that of all processes."""
    try:
        whole = one_rank_gradients(preset)
    finally:
        torch.set_default_dtype(torch.float32)
    for found in two_gloo_ranks(rank_gradients, preset, timeout=240):
        for name, grad in whole.items():
            torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-6)
