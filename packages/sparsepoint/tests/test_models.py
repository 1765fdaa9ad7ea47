"""Networks: published sizes, the pooling and proposals by hand, and what must hold of every detector."""

from dataclasses import replace

import pytest
import torch
from sparsepoint_tiny import built, rooms_batch, small_config

from sparsepoint import make_config
from sparsepoint.models import (
    LearnableProposals3d,
    NoiseSuppression,
    ProposalInteraction,
    RefineHead,
    RoIGridPool3d,
    VoteModule,
    build,
)
from sparsepoint.models.parts import scene_box
from sparsepoint.postprocess import axis_aligned_hull, dense_detections, sparse_detections
from tenfold._errors import UserInputError


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts():
    """The specification's sums; VoteNet's and SRDet's follow from their published code."""
    assert count(build(make_config("votenet", "scannet"))) == 953_828
    assert count(build(make_config("votenet", "sunrgbd"))) == 951_506
    assert count(VoteModule()) == 199_171
    assert count(NoiseSuppression()) == 199_685
    srdet = build(make_config("srdet", "scannet"))
    assert count(srdet) == 4_490_240
    assert count(srdet.backbone) == 641_920
    assert count(srdet.initial.group) == 198_912
    assert count(srdet.initial.layers) == 99_456
    assert count(srdet.initial.classify) == 2_580
    assert count(srdet.initial.regress) == 9_933
    assert count(srdet.initial_feats) == 99_200
    assert count(srdet.pre_roi) == 49_920
    head = RefineHead(make_config("sparsepoint", "scannet"))
    assert count(head) == 3_188_634
    assert count(RefineHead(make_config("sparsepoint", "sunrgbd"))) == 3_190_440
    grids = head.interaction
    assert count(grids.cell_norms) + count(grids.projections) + count(grids.out_norms) == 2_508_672
    assert count(head.ffn) == 526_464
    assert count(head.attention) == 66_048
    whole = build(make_config("sparsepoint", "scannet"))
    assert count(whole) == 641_920 + 49_920 + 3_188_634 + 128 * 6 + 128
    apart = build(make_config("sparsepoint", "scannet", share_stages=False, num_stages=2))
    assert count(apart) == count(whole) + 3_188_634
    assert make_config("sparsepoint", "s3dis").num_proposals == 256
    crowded = make_config("srdet", "matterport3d")
    assert (crowded.num_proposals, crowded.initial_proposals) == (256, 320)


def test_proposals_share_one_feature_and_lie_between_the_percentiles():
    make = LearnableProposals3d(64, 8)
    with torch.no_grad():
        make.boxes_norm[0] = 0.0
        make.boxes_norm[1] = 1.0
    points = torch.rand(2, 1024, 3) * torch.tensor([6.0, 4, 2.5])
    boxes, feats = make(points)
    assert (feats == feats[:, :1]).all()
    low, high = torch.quantile(points, 0.05, dim=1), torch.quantile(points, 0.95, dim=1)
    torch.testing.assert_close(boxes[:, 0, :3], low)
    torch.testing.assert_close(boxes[:, 1, :3], high)
    assert (boxes[:, 0, 3:6] == 0.05).all()
    centres = make.boxes_norm[2:, :3]
    assert centres.min() >= 0
    assert centres.max() <= 1
    assert len(centres.unique(dim=0)) == 62
    # One stray point moves nothing; extremes instead of percentiles would move everything.
    stray = points.clone()
    stray[:, 0] = 100.0
    moved = (make(stray)[0] - boxes).abs()[..., :6].amax()
    assert moved < 0.01 * (points.amax() - points.amin())
    alike = LearnableProposals3d(4, 8, init="scene").boxes_norm
    assert (alike == alike[0]).all()
    assert not LearnableProposals3d(4, 8, boxes="frozen").boxes_norm.requires_grad
    assert len(LearnableProposals3d(9, 8, init="grid").boxes_norm.unique(dim=0)) == 9
    chosen = LearnableProposals3d(4, 8, boxes="fps")(points)[0][0, :, :3]
    assert all((points[0] == c).all(1).any() for c in chosen)
    few = LearnableProposals3d(5, 8, boxes="fps")(points[:, :3])[0][:, :, :3]
    assert len(few[0, :3].unique(dim=0)) == 3
    assert (few[:, 3:] == points[:, :1]).all()  # what is too much shares the first point


def brute_pool(box, points, feats, side, most=95):
    """The definition, point by point."""
    out = torch.zeros(side**3, feats.shape[1])
    used = torch.zeros(side**3, dtype=torch.int64)
    cos, sin = torch.cos(box[6]), torch.sin(box[6])
    for p, f in zip(points, feats, strict=True):
        d = p - box[:3]
        local = torch.stack((d[0] * cos + d[1] * sin, d[1] * cos - d[0] * sin, d[2]))
        half = box[3:6] / 2
        if local[0].abs() < half[0] and local[1].abs() < half[1] and local[2].abs() <= half[2]:
            cell = ((local + half) / (box[3:6] / side)).floor().long().clamp(0, side - 1)
            row = int((cell[0] * side + cell[1]) * side + cell[2])
            if used[row] < most:
                out[row] = f if used[row] == 0 else torch.maximum(out[row], f)
                used[row] += 1
    return out


def test_pooling_is_its_definition():
    torch.manual_seed(1)
    points, feats = torch.rand(1, 150, 3) * 2, torch.rand(1, 150, 5)
    boxes = torch.tensor(
        [[[1.0, 1, 1, 1.2, 0.8, 1.0, 0.4], [0.4, 1, 1, 2, 2, 2, -1.0], [9, 9, 9, 1, 1, 1, 0]]]
    )
    pooled = RoIGridPool3d((1, 3), max_points=4)(boxes, points, feats)
    for side, own in zip((1, 3), pooled, strict=True):
        wanted = torch.stack([brute_pool(b, points[0], feats[0], side, 4) for b in boxes[0]])
        torch.testing.assert_close(own[0], wanted)
    assert (pooled[1][0, 2] == 0).all()


@pytest.mark.parametrize("kind", ["gate", "dynamic", "none"])
def test_interaction_kinds(kind):
    meet = ProposalInteraction(8, (1, 3), kind)
    cells = [torch.rand(2, 3, 1, 8), torch.rand(2, 3, 27, 8)]
    a, b = meet(torch.rand(2, 3, 8), cells), meet(torch.rand(2, 3, 8), cells)
    assert torch.equal(a, b) == (kind == "none")
    assert a.shape == (2, 3, 8)


def test_scenes_do_not_mix_and_proposals_are_a_set():
    """A wrong axis of the attention would mix the scenes, and still train."""
    config = small_config()
    model = built(config).eval()
    batch = rooms_batch(config, 3)
    with torch.no_grad():
        whole = model(batch.points)
        for b in range(3):
            alone = model(batch.points[b : b + 1])
            torch.testing.assert_close(whole.boxes[-1][b], alone.boxes[-1][0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(whole.logits[-1][b], alone.logits[-1][0], atol=1e-4, rtol=1e-4)
        order = torch.randperm(config.num_proposals)
        model.proposals.boxes_norm.data = model.proposals.boxes_norm.data[order]
        turned = model(batch.points)
    torch.testing.assert_close(whole.boxes[-1][:, order], turned.boxes[-1], atol=1e-4, rtol=1e-4)


def test_moving_the_scene_moves_the_boxes():
    config = small_config(features=0)
    model = built(config).eval()
    points = rooms_batch(config).points
    # Powers of two keep the differences exact, so that no tie is broken another way.
    points = (points * 1024).round() / 1024
    shift = torch.tensor([4.0, -8.0, 2.0])
    with torch.no_grad():
        here, there = model(points), model(points + shift)
    moved = here.boxes[-1].clone()
    moved[..., :3] += shift
    torch.testing.assert_close(there.boxes[-1], moved, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(there.logits[-1], here.logits[-1], atol=2e-3, rtol=1e-3)


def test_the_order_of_the_points_does_not_matter():
    """Where no ball and no cell is full, since both keep their first points; sampling starts at the first point."""
    config = small_config(features=0)
    model = built(config).eval()
    points = torch.rand(1, 512, 3) * 12
    order = torch.cat((torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(511)))
    with torch.no_grad():
        a, b = model(points), model(points[:, order])
    torch.testing.assert_close(a.boxes[-1], b.boxes[-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a.logits[-1], b.logits[-1], atol=1e-4, rtol=1e-4)


def test_equal_proposals_are_both_returned():
    """Nothing may hide behind the word: without a suppression there is none."""
    config = small_config(num_proposals=2)
    model = built(config).eval()
    with torch.no_grad():
        model.proposals.boxes_norm[1] = model.proposals.boxes_norm[0]
    points = rooms_batch(config, 1).points
    found = model.predict(points, score_thr=0.0, single_label=True)[0]
    assert len(found) == 2
    assert torch.equal(found.boxes[0], found.boxes[1])
    assert len(model.predict(points, score_thr=0.0, single_label=True, nms=0.5)[0]) == 1


def test_early_exit_is_the_same_network():
    config = small_config(num_stages=3)
    model = built(config).eval()
    points = rooms_batch(config).points
    with torch.no_grad():
        whole, early = model(points), model(points, stages=2)
    assert len(early.boxes) == 2
    assert torch.equal(whole.boxes[1], early.boxes[1])
    with pytest.raises(ValueError, match="stages: got 4"):
        model(points, stages=4)


@pytest.mark.parametrize(
    "overrides",
    [
        {"attention": False},
        {"pos": "none"},
        {"interaction": "dynamic", "share_stages": False},
        {"feature_source": "votes"},
        {"feature_source": "seeds+votes", "local_aggregation": True},
        {"box_coder": "direct", "centre_axes": "local"},
        {"box_coder": "classres"},
        {"proposals": "fps", "foreground": "per_proposal"},
        {"grids": (5,), "roi": "aligned", "cls_prior": None},
        {"preset": "srdet", "initial_proposals": 20, "feature_source": "seeds+votes"},
        {"preset": "tiny_votenet"},
    ],
    ids=lambda o: ",".join(map(str, o.values())),
)
def test_every_option_trains_and_predicts(overrides):
    from sparsepoint.losses import make_criterion

    config = small_config(overrides.pop("preset", "tiny"), "oriented", backbone="tiny", **overrides)
    model, batch = built(config), rooms_batch(config, mode="oriented")
    losses = make_criterion(config)(model(batch.points), batch.truth)
    assert all(torch.isfinite(v) for v in losses.values())
    losses["loss"].backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    found = model.eval().predict(batch.points, score_thr=0.0)
    assert len(found) == 2
    assert all(torch.isfinite(f.boxes).all() and (f.boxes[:, 3:6] > 0).all() for f in found)


@pytest.mark.parametrize("preset", ["tiny", "srdet", "tiny_votenet"])
def test_half_precision_stays_outside_of_the_boxes(preset):
    """Under autocast, linear layers run in bfloat16; boxes are decoded, matched and compared in float32."""
    from sparsepoint.losses import make_criterion

    config = small_config(preset, "oriented", backbone="tiny", initial_proposals=20)
    model, batch = built(config), rooms_batch(config, mode="oriented")
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch.points)
        losses = make_criterion(config)(output, batch.truth)
        found = model.eval().predict(batch.points, score_thr=0.0)
    losses["loss"].backward()
    assert all(torch.isfinite(v) for v in losses.values())
    half = output.candidates.outputs if output.candidates is not None else output.logits[-1]
    assert half.dtype == torch.bfloat16
    assert {b.dtype for b in (*output.boxes, *(f.boxes for f in found))} == {torch.float32}


def test_scores_thresholds_and_pairs():
    logits = torch.tensor([[[2.0, 1.0], [0.0, -9.0]]])
    boxes = torch.tensor([[[0.0, 0, 0, 1, 1, 1, 0], [5.0, 0, 0, 1, 1, 1, 0]]])
    found = sparse_detections(logits, boxes)[0]
    assert found.labels.tolist() == [0, 1]  # the best two pairs, both of the first box
    assert found.proposal_index.tolist() == [0, 0]
    single = sparse_detections(logits, boxes, single_label=True)[0]
    assert single.proposal_index.tolist() == [0, 1]
    strict = sparse_detections(logits, boxes, score_thr=[0.5, 0.8])[0]
    assert strict.labels.tolist() == [0]
    with pytest.raises(ValueError, match="score_thr"):
        sparse_detections(logits, boxes, score_thr=[0.5])
    ten = sparse_detections(torch.zeros(1, 4, 3), torch.rand(1, 4, 7), max_dets=10)[0]
    assert len(ten) == 10


def test_dense_post_processing():
    cloud = torch.rand(1, 400, 3)
    boxes = torch.tensor(
        [[[0.5, 0.5, 0.5, 1, 1, 1, 0], [0.55, 0.5, 0.5, 1, 1, 1, 0], [9.0, 9, 9, 1, 1, 1, 0]]]
    )
    obj = torch.tensor([[[0.0, 2.0], [0.0, 1.0], [0.0, 9.0]]])
    classes = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    kept = dense_detections(obj, classes, boxes, cloud)[0]
    assert kept.proposal_index.tolist() == [
        0,
        0,
    ]  # the empty box is gone, the second suppressed, both classes stay
    wanted = obj[0, 0].softmax(0)[1] * classes[0, 0].softmax(0)
    torch.testing.assert_close(kept.scores, wanted)
    assert len(dense_detections(obj, classes, boxes, cloud, nms=None)[0]) == 4
    hull = axis_aligned_hull(torch.tensor([[0.0, 0, 0, 2, 1, 1, torch.pi / 36]]))
    torch.testing.assert_close(hull[0, 3:5], torch.tensor([2.0795, 1.1705]), atol=1e-4, rtol=0)


def test_the_dense_baseline_suppresses_as_its_settings_say():
    """Another number, or None for nothing at all; what a call says itself counts more."""
    model = built(small_config("tiny_votenet")).eval()
    points = rooms_batch(model.config).points

    def found(nms):
        model.config = replace(model.config, nms=nms)
        return [len(f) for f in model.predict(points, score_thr=0.0)]

    def given(nms):
        return [len(f) for f in model.predict(points, score_thr=0.0, nms=nms)]

    usual = found(0.25)
    assert usual == given(0.25)
    assert found(None) == given(None)
    assert found(0.0) == given(0.0)
    assert sum(given(None)) > sum(given(0.0))


def test_who_votes():
    """Networks with votes ask for the votes of the scenes in training, the others do not."""
    for preset, overrides in (
        ("tiny", {}),
        ("tiny", {"feature_source": "votes"}),
        ("tiny_votenet", {}),
        ("srdet", {"backbone": "tiny", "initial_proposals": 20}),
    ):
        config = small_config(preset, **overrides)
        assert config.votes == (built(config).votes is not None)


def test_bad_settings_and_shapes_are_named():
    for words, match in (
        ({"preset": "yolo"}, "preset: got 'yolo'"),
        ({"labels": "nyu"}, "labels: got 'nyu'"),
        ({"interaction": "x"}, "interaction: got 'x'"),
        ({"dim": 10, "heads": 4}, "heads"),
        ({"grids": ()}, "grids"),
        ({"depth": 3}, "depth: unknown"),
        ({"num_points": 0}, "num_points: got 0"),
        ({"nms": 1.5}, "nms: got 1.5"),
        ({"box_coder": "x"}, "box_coder: got 'x'"),
        ({"preset": "srdet", "num_proposals": 161}, "num_proposals: got 161"),
    ):
        with pytest.raises(UserInputError, match=match):
            make_config(**words)
    for preset in ("tiny", "tiny_votenet"):
        with pytest.raises(ValueError, match=r"points: got shape \(1, 9, 3\)"):
            built(small_config(preset))(torch.rand(1, 9, 3))
    config = make_config("srdet", "sunrgbd")
    assert type(config).from_dict(config.to_dict()) == config


def test_a_handful_of_points_is_enough():
    """Ten different points, repeated to fill the network's input: finite boxes, no crash."""
    for preset in ("tiny", "tiny_votenet"):
        config = small_config(preset)
        points = torch.rand(10, 4).repeat(52, 1)[None, :512]
        for found in built(config).eval().predict(points, score_thr=0.0):
            assert torch.isfinite(found.boxes).all()
    low, extent = scene_box(torch.zeros(1, 4, 3))
    assert (extent == 0).all()
    assert (low == 0).all()
