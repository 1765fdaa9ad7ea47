"""Proposals, regions of interest, their targets and losses, against closed forms and restatements."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.affinity import rotate
from shapely.geometry import box as rectangle
from torchvision.ops import nms as torchvision_nms

from tenfold.geometry import box_corners, flip_boxes, scale_boxes
from tenfold.lidar.models.roi_head import RoIHead, RoIOutputs, SecondStageConfig
from tenfold.lidar.postprocess import PostProcess, select_per_class
from tenfold.lidar.proposals import ProposalOptions, Proposals, propose, recall
from tenfold.lidar.roi_targets import (
    RoISampling,
    RoITargets,
    best_same_class,
    canonical_boxes,
    class_targets,
    decode_rois,
    draw_factors,
    draw_rois,
    encode_rois,
    sample_rois,
    shake_boxes,
    stretch_boxes,
)
from tenfold.losses import corner_loss
from tenfold.ops import box_iou_3d

HALF_TURN = torch.tensor([0, 0, 0, 0, 0, 0, math.pi], dtype=torch.float64)


def boxes(number, seed=0, spread=10.0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    centre = torch.rand(number, 3, generator=g, dtype=dtype) * spread
    size = 1 + 3 * torch.rand(number, 3, generator=g, dtype=dtype)
    heading = (torch.rand(number, 1, generator=g, dtype=dtype) - 0.5) * 4 * math.pi
    return torch.cat((centre, size, heading), 1)


def iou_3d(a, b):
    """With shapely."""

    def polygon(v):
        return rotate(
            rectangle(v[0] - v[3] / 2, v[1] - v[4] / 2, v[0] + v[3] / 2, v[1] + v[4] / 2),
            v[6],
            use_radians=True,
        )

    a, b = (v.tolist() if isinstance(v, torch.Tensor) else v for v in (a, b))
    height = min(a[2] + a[5] / 2, b[2] + b[5] / 2) - max(a[2] - a[5] / 2, b[2] - b[5] / 2)
    shared = polygon(a).intersection(polygon(b)).area * max(0.0, height)
    return shared / (a[3] * a[4] * a[5] + b[3] * b[4] * b[5] - shared)


# ---- proposals -----------------------------------------------------------------------------------


def test_proposals_are_greedy_suppression_of_the_best_logits():
    found = boxes(60, dtype=torch.float32)[None]
    logits = torch.randn(1, 60, 3, generator=torch.Generator().manual_seed(1))
    options = ProposalOptions(pre_max=40, iou_threshold=0.2, post_max=30)
    got = propose(found, logits, options)
    score, label = logits[0].max(1)
    order = torch.argsort(-score, stable=True)[:40].tolist()
    kept = []
    for k in order:
        others = [found[0, j].tolist() for j in kept]
        mine = found[0, k].tolist()

        def bev(v):
            return [*v[:2], 0, *v[3:5], 1, v[6]]

        if all(iou_3d(bev(mine), bev(other)) <= 0.2 for other in others):
            kept.append(k)
    kept = kept[:30]
    assert got.counts.tolist() == [len(kept)]
    assert len(kept) < 30
    assert torch.equal(got.boxes[0, : len(kept)], found[0, kept])
    assert torch.equal(got.scores[0, : len(kept)], score[kept])
    assert torch.equal(got.labels[0, : len(kept)], label[kept])
    assert (got.boxes[0, len(kept) :] == 0).all()
    assert got.used.sum() == len(kept)


def test_aligned_proposals_equal_torchvision_without_headings():
    found = boxes(50, dtype=torch.float32)
    found[:, 6] = 0
    logits = torch.randn(1, 50, 1, generator=torch.Generator().manual_seed(1))
    got = propose(found[None], logits, ProposalOptions(iou_threshold=0.3, aligned=True))
    flat = torch.cat((found[:, :2] - found[:, 3:5] / 2, found[:, :2] + found[:, 3:5] / 2), 1)
    kept = torchvision_nms(flat, logits[0, :, 0], 0.3)
    assert torch.equal(got.boxes[0, : len(kept)], found[kept])


def test_depth_quotas_share_the_room():
    found = boxes(200, spread=1.0, dtype=torch.float32)
    found[:, 3:6] = 0.01
    found[:, 0] = torch.linspace(-10, 90, 200)
    logits = torch.linspace(0, 1, 200).view(1, 200, 1)  # the far ones score best
    options = ProposalOptions(100, 0.8, 20, depth_quotas=(0.7, 0.3), depth_bands=(0.0, 40.0, 80.0))
    got = propose(found[None], logits, options).boxes[0, :, 0]
    assert int(((got > 0) & (got <= 40)).sum()) == 14
    assert int(((got > 40) & (got <= 80)).sum()) == 6
    with pytest.raises(ValueError, match="one positive share per band"):
        ProposalOptions(depth_quotas=(1.0,))


def test_proposals_of_nothing_and_of_broken_boxes():
    none = propose(torch.zeros(2, 0, 7), torch.zeros(2, 0, 3), ProposalOptions(post_max=4))
    assert none.counts.tolist() == [0, 0]
    assert none.boxes.shape == (2, 4, 7)
    broken = boxes(3, dtype=torch.float32)[None]
    broken[0, 1, 4] = float("inf")
    got = propose(broken, torch.tensor([[[1.0], [2.0], [float("nan")]]]), ProposalOptions(post_max=4))
    assert got.counts.tolist() == [1]
    with pytest.raises(ValueError, match="one row of logits per box"):
        propose(broken, torch.zeros(1, 2, 1), ProposalOptions())


def test_velocity_goes_through():
    found = torch.cat((boxes(5, spread=90, dtype=torch.float32), torch.arange(10.0).view(5, 2)), 1)
    got = propose(found[None], torch.arange(5.0).view(1, 5, 1), ProposalOptions(post_max=5))
    assert got.boxes[0, 0, 7:].tolist() == [8, 9]


def test_recall_counts_ground_truth():
    gt = boxes(4, spread=90, dtype=torch.float32)
    padded = torch.cat((torch.cat((gt, torch.ones(4, 1)), 1), torch.zeros(2, 8)))[None]
    rois = Proposals(gt[None, :3], torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int64), torch.tensor([2]))
    assert recall(rois, padded) == (2, 4)


# ---- sampling ------------------------------------------------------------------------------------


def test_overlap_is_with_the_own_class_only():
    rois, gt = boxes(30, 1, 6.0), boxes(7, 2, 6.0)
    labels = torch.arange(30) % 3
    classes = torch.tensor([1, 2, 1, 3, 2, 0, 0])
    gt[5:] = 0
    ious, match = best_same_class(rois, labels, torch.cat((gt, classes[:, None]), 1))
    for k in range(30):
        own = [iou_3d(rois[k], gt[m]) if classes[m] == labels[k] + 1 else 0.0 for m in range(5)]
        assert ious[k].item() == pytest.approx(max(own), abs=1e-6)
        if max(own) > 0:
            assert match[k] == int(np.argmax(own))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_drawn_rows_keep_the_shares(foreground, hard, easy, seed):
    if foreground + hard + easy == 0:
        return
    g = torch.Generator().manual_seed(seed)
    options = RoISampling(per_frame=32, fg_share=0.5, reg_fg=0.55, cls_fg=0.6, cls_bg=0.45, score="cls")
    ious = torch.cat((torch.full((foreground,), 0.7), torch.full((hard,), 0.3), torch.full((easy,), 0.05)))
    ious = ious[torch.randperm(len(ious), generator=g)]
    rows = draw_rois(ious, options, g)
    got = ious[rows]
    fg, hd, ez = (int((got == v).sum()) for v in (0.7, 0.3, 0.05))
    assert len(rows) == 32
    if hard + easy == 0:
        assert fg == 32
        return
    assert fg == min(16, foreground)
    rest = 32 - fg
    assert len(set(rows[got == 0.7].tolist())) == fg  # without replacement
    if hard and easy:
        assert hd == min(int(rest * 0.8), hard)
    assert hd + ez == rest


def test_padding_is_easy_background_and_frames_stay_apart():
    gt = torch.zeros(2, 3, 8)
    gt[0, :2, :7] = boxes(2, 3, 60, torch.float32)
    gt[0, :2, 7] = torch.tensor([1.0, 2.0])
    rois = torch.zeros(2, 16, 7)
    rois[0, :2] = gt[0, :2, :7]
    proposals = Proposals(
        rois,
        torch.zeros(2, 16),
        torch.tensor([[0, 1] + [0] * 14, [0] * 16]),
        torch.tensor([2, 0]),
    )
    found = sample_rois(proposals, gt, RoISampling(per_frame=8), torch.Generator().manual_seed(0))
    assert found.rois.shape == (2, 8, 7)
    assert int((found.ious[0] == 1).sum()) == 2
    assert (found.ious[1] == 0).all()
    assert not found.regressed[1].any()
    assert (found.gt_boxes[0][found.ious[0] == 1] == found.rois[0][found.ious[0] == 1]).all()
    assert (found.classes == (found.ious == 1).float()).all()
    with pytest.raises(ValueError, match="slice velocities off"):
        sample_rois(proposals, torch.zeros(2, 3, 10), RoISampling())


def test_noise_leaves_foreground_foreground():
    gt = boxes(400, 12, dtype=torch.float32)
    gt[:, 3:6] = torch.tensor([4.0, 1.8, 1.5])
    rois = gt.clone()
    rois[:200, 0] += 0.1
    rois[200:300] += 20.0  # background
    rois[300:] = 0  # padding
    ious = box_iou_3d(rois, gt, paired=True)
    shaken, after = shake_boxes(rois, ious, gt, 0.55, torch.Generator().manual_seed(0))
    torch.testing.assert_close(after[:300], box_iou_3d(shaken[:300], gt[:300], paired=True))
    assert (after[:200] >= 0.55).all()
    moved = (shaken != rois).any(1)
    assert 0.4 < moved[:200].float().mean() < 0.95
    assert 0.7 < moved[200:300].float().mean() < 0.9
    assert not moved[300:].any()
    shift = (shaken - rois)[:300]
    assert shift[:, :3].abs().max() <= 1
    assert (shift[:, 3:6].abs() <= 0.1501 * rois[:300, 3:6]).all()
    assert shift[:, 6].abs().max() <= math.pi / 3 + 1e-5
    padded = torch.cat((gt[:1], torch.ones(1, 1)), 1)[None]
    one = Proposals(
        rois[None, :1], torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1])
    )
    drawn = sample_rois(one, padded, RoISampling(per_frame=16, noise=True))
    assert len(drawn.rois[0].unique(dim=0)) > 4


def test_regions_are_scaled_and_mirrored_with_their_points():
    factors = draw_factors(500, 0.3, 0.05, torch.Generator().manual_seed(1)).double()
    assert (factors[:, 0] == factors[:, 2]).all()
    assert (factors.abs() == factors[:, :1]).all()
    assert 0.95 <= factors[:, 0].min() < 0.96 < 1.04 < factors[:, 0].max() <= 1.05
    assert 0.2 < (factors[:, 1] < 0).double().mean() < 0.4
    found = boxes(500)
    changed = stretch_boxes(found, factors)
    for box, factor, got in zip(found, factors, changed, strict=True):
        mirrored = flip_boxes(box[None], "x") if factor[1] < 0 else box[None]
        expected = scale_boxes(mirrored, float(factor[0]))[0]
        torch.testing.assert_close(got[:6], expected[:6])
        assert math.cos(got[6] - expected[6]) == pytest.approx(1)
    torch.testing.assert_close(
        box_corners(changed).sort(1).values, (box_corners(found) * factors[:, None]).sort(1).values
    )


def test_class_targets():
    ious = torch.tensor([0.0, 0.25, 0.4, 0.45, 0.5, 0.6, 0.61, 0.75, 1.0])
    soft = class_targets(ious, RoISampling())
    torch.testing.assert_close(soft, torch.tensor([0, 0, 0.3, 0.4, 0.5, 0.7, 0.72, 1, 1]))
    hard = class_targets(ious, RoISampling(score="cls", cls_fg=0.6, cls_bg=0.45))
    assert hard.tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]


# ---- codes ---------------------------------------------------------------------------------------


def test_a_region_that_equals_its_ground_truth_has_code_zero():
    rois = boxes(50)
    torch.testing.assert_close(encode_rois(rois, rois), torch.zeros(50, 7, dtype=torch.float64))
    turned = rois + HALF_TURN
    assert encode_rois(turned, rois).abs().max() < 1e-12


def test_codes_come_back_for_all_headings():
    headings = torch.linspace(-7, 7, 29)
    pairs = torch.cartesian_prod(headings, headings)
    roi, gt = (boxes(1, seed).expand(len(pairs), -1).clone() for seed in (4, 5))
    roi[:, 6], gt[:, 6] = pairs.T
    code = encode_rois(gt, roi)
    assert (code[:, 6].abs() <= math.pi / 2 + 1e-9).all()
    back = decode_rois(code, roi)
    torch.testing.assert_close(back[:, :6], gt[:, :6])
    # the heading is known up to half a turn
    assert (back[:, 6] - gt[:, 6]).sin().abs().max() < 1e-9


def test_canonical_frame_is_that_of_the_region():
    roi = torch.tensor([10.0, 5, 0, 4, 2, 1.5, math.pi / 2])
    ahead = torch.tensor([10.0, 6, 0.5, 4, 2, 1.5, math.pi / 2 + 0.1])
    torch.testing.assert_close(
        canonical_boxes(ahead, roi), torch.tensor([1.0, 0, 0.5, 4, 2, 1.5, 0.1]), atol=1e-6, rtol=0
    )


def test_codes_move_with_the_scene():
    rois, gt = boxes(20, 6), boxes(20, 7)
    before = encode_rois(gt, rois)
    turn = 0.7
    c, s = math.cos(turn), math.sin(turn)
    matrix = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], dtype=torch.float64)

    def moved(b):
        return torch.cat((b[:, :3] @ matrix.T + 3.0, b[:, 3:6], b[:, 6:] + turn), 1)

    torch.testing.assert_close(encode_rois(moved(gt), moved(rois)), before)


# ---- losses --------------------------------------------------------------------------------------


def corner_restatement(pred, target):
    def corners(b):
        return box_corners(b)

    flipped = target.clone()
    flipped[6] += math.pi
    total = 0.0
    for own, straight, other in zip(corners(pred), corners(target), corners(flipped), strict=True):
        d = min((own - straight).norm().item(), (own - other).norm().item())
        total += 0.5 * d * d if d < 1 else d - 0.5
    return total / 8


def test_corner_loss_equals_its_restatement():
    pred, target = (
        boxes(30, 8),
        boxes(30, 8) + 0.3 * torch.randn(30, 7, generator=torch.Generator().manual_seed(2)),
    )
    got = corner_loss(pred, target)
    for k in range(30):
        assert got[k].item() == pytest.approx(corner_restatement(pred[k], target[k]), rel=1e-9)
    flipped = target + HALF_TURN
    assert corner_loss(target, flipped).max() < 1e-20
    with pytest.raises(ValueError, match="slice velocity"):
        corner_loss(pred, torch.zeros(30, 9))


def test_corner_loss_has_a_gradient_everywhere():
    target = boxes(4, 9)
    pred = target.clone().requires_grad_()
    corner_loss(pred, target).sum().backward()
    assert (pred.grad == 0).all()
    away = (target + 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda b: corner_loss(b, target), (away,))


def some_targets():
    rois, gt = boxes(6, 10).view(2, 3, 7), boxes(6, 10).view(2, 3, 7) + 0.1
    classes = torch.tensor([[1.0, 0.3, -1], [0, 0, 1]], dtype=torch.float64)
    regressed = torch.tensor([[True, True, False], [False, False, True]])
    nothing = torch.zeros(2, 3)
    return RoITargets(rois, nothing, nothing.long(), nothing, gt, classes, regressed)


def test_region_losses_are_normalised_by_the_batch():
    head = RoIHead(4, SecondStageConfig(fc=(), dropout=0.0, classes=2.0, boxes=3.0, corners=5.0)).double()
    targets = some_targets()
    g = torch.Generator().manual_seed(3)
    outputs = RoIOutputs(
        torch.randn(6, generator=g, dtype=torch.float64),
        0.1 * torch.randn(6, 7, generator=g, dtype=torch.float64),
    )
    got = head.losses(outputs, targets)
    cls = box = corner = 0.0
    for k in range(6):
        label = targets.classes.flatten()[k].item()
        p = torch.sigmoid(outputs.classes[k]).item()
        if label >= 0:
            cls -= label * math.log(p) + (1 - label) * math.log(1 - p)
        if targets.regressed.flatten()[k]:
            roi, gt = targets.rois.view(6, 7)[k], targets.gt_boxes.view(6, 7)[k]
            for d in (outputs.boxes[k] - encode_rois(gt, roi)).abs().tolist():
                box += d * d * 4.5 if d < 1 / 9 else d - 1 / 18
            corner += corner_restatement(decode_rois(outputs.boxes[k], roi), gt)
    assert got["roi_cls"].item() == pytest.approx(2 * cls / 5)
    assert got["roi_box"].item() == pytest.approx(3 * box / 3)
    assert got["roi_corner"].item() == pytest.approx(5 * corner / 3)
    assert got["roi_fg"] == 3
    off = RoIHead(4, SecondStageConfig(fc=(), dropout=0.0, corners=0.0)).double()
    assert "roi_corner" not in off.losses(outputs, targets)
    untrained = head.losses(outputs._replace(valid=torch.zeros(6, dtype=torch.bool)), targets)
    assert untrained["roi_cls"] == untrained["roi_box"] == untrained["roi_fg"] == 0


def test_detections_take_label_and_velocity_of_the_proposal():
    head = RoIHead(4, SecondStageConfig(fc=(), dropout=0.0))
    rois = torch.cat((boxes(4, 11, 90, torch.float32), torch.arange(8.0).view(4, 2)), 1).view(1, 4, 9)
    proposals = Proposals(rois, torch.zeros(1, 4), torch.tensor([[2, 0, 1, 0]]), torch.tensor([3]))
    outputs = RoIOutputs(torch.tensor([2.0, -9.0, 0.0, 9.0]), torch.zeros(4, 7))
    (found,) = head.detect(outputs, proposals, PostProcess(iou_threshold=0.1))
    assert found["labels"].tolist() == [2, 1]
    torch.testing.assert_close(found["scores"], torch.sigmoid(torch.tensor([2.0, 0.0])))
    torch.testing.assert_close(found["boxes"], rois[0, [0, 2]])


# ---- final choice --------------------------------------------------------------------------------


def test_suppression_within_each_class():
    found = torch.tensor([[0.0, 0, 0, 4, 2, 2, 0], [0.2, 0, 0, 4, 2, 2, 0], [9.0, 0, 0, 4, 2, 2, 0]])
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.7], [0.05, 0.6]])
    got = select_per_class(found, scores, PostProcess(0.1, 0.2, 10, 1, per_class=True))
    assert got["labels"].tolist() == [0, 1]
    assert got["boxes"][:, 0].tolist() == pytest.approx([0.0, 0.2])
