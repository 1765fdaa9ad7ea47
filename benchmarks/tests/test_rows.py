"""The rows themselves: unique, seeded, and peers that agree with each other on small inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tenfold.ops
from kernels import boxes, frames
from kernels.machine import limit_cores
from kernels.reasons import REASONS
from kernels.registry import ROWS, select
from kernels.run import _try_peer
from tenfold._errors import UserInputError

SMALL = {
    "nms-10k": 0.1,
    "nms-30k": 0.05,
    "batched-nms-100k": 0.05,
    "nms-rotated-dense": 0.05,
    "nms-rotated-9k": 0.1,
    "nms-rotated-spread": 0.1,
    "points-in-boxes-500": 0.1,
    "rotated-iou-gradient": 0.1,
    "voxel-query": 0.1,
}


def keys():
    return [row.key for row in ROWS]


def test_keys_are_unique_and_reasons_belong_to_rows():
    assert len(set(keys())) == len(ROWS)
    assert set(REASONS) <= set(keys())


def test_selection():
    assert {row.op for row in select("nms", quick=False)} == {"nms", "batched_nms", "nms_rotated"}
    assert select("no such row", quick=False) == []
    assert 5 <= len(select(None, quick=True)) < len(ROWS)


def test_named_goals_name_a_peer():
    for row in ROWS:
        if row.goal and row.goal.against:
            assert row.goal.against in [peer.name for peer in row.peers]


@pytest.mark.parametrize("row", [r for r in ROWS if r.growth], ids=lambda r: r.key)
def test_inputs_are_seeded_and_scale(row):
    first, again = row.make(0.125, row.dtypes[0]), row.make(0.125, row.dtypes[0])
    for name, value in first.data.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again.data[name])
            layouts = [torch.contiguous_format, *([torch.channels_last] if value.dim() == 4 else [])]
            assert any(value.is_contiguous(memory_format=layout) for layout in layouts)
    larger = row.make(0.5, row.dtypes[0])
    assert larger.size == pytest.approx(4 * first.size, rel=0.01)


COMPARED = [r for r in ROWS if r.measure == "time" and (r.oracle is not None or r.op == "nms_rotated")]


@pytest.mark.parametrize("row", COMPARED, ids=lambda r: r.key)
def test_peers_of_the_same_semantics_agree(row):
    limit_cores(1)
    case = row.make(SMALL.get(row.key, 0.25), "float32")
    found = {}
    for peer in row.peers:
        if peer.same:
            candidate = _try_peer(peer, case)
            assert not candidate.status.startswith("failed"), candidate.status
            if candidate.status == "ok":
                found[peer.name] = peer.normal(candidate.result, case)
    if row.oracle is not None:
        found["oracle"] = row.oracle(case)
    if len(found) < 2:
        pytest.skip("fewer than two results: nothing to compare")
    names = list(found)
    for name in names[1:]:
        verdict = row.agree(found[names[0]], found[name])
        assert verdict.passed, f"{names[0]} and {name}: {verdict.text}"


@pytest.mark.parametrize("row", [r for r in ROWS if any(not p.same for p in r.peers)], ids=lambda r: r.key)
def test_peers_of_other_semantics_run(row):
    case = row.make(0.25, "float32")
    for peer in row.peers:
        if not peer.same:
            assert peer.note
            assert not _try_peer(peer, case).status.startswith("failed")


def test_every_operator_with_work_for_two_threads_stands_beside_a_process():
    parallel = dict.fromkeys(row.op for row in ROWS if row.parallel)
    assert [row.op for row in ROWS if row.measure == "slowdown"] == list(parallel)


# Forms of an operator: the row that measures its kernel.
FORMS = {
    "ball_query_multi": "ball_query",
    "batched_nms_padded": "batched_nms",
    "box_iou_3d": "box_iou_bev",
    "box_iou_aligned_3d": "box_iou_bev",
    "boxes_overlap_bev": "box_iou_bev",
    "dynamic_voxelize": "dynamic_voxelize + scatter",
    "dynamic_voxelize_padded": "dynamic_voxelize + scatter",
    "gather_rows": "group",
    "knn_graph": "knn",
    "nms_3d": "nms_rotated",
    "nms_bev_aligned": "nms_rotated",
    "nms_padded": "nms",
    "nms_rotated_padded": "nms_rotated",
    "pairs_iou_bev_padded": "pairs_iou_bev",
    "peak_mask": "topk_peaks",
    "points_in_boxes_padded": "points_in_boxes",
    "radius_graph": "ball_query",
    "rulebook_invert": "rulebook_strided",
    "rulebook_strided_padded": "rulebook_strided",
    "VoxelTable": "VoxelTable + voxel_query",
    "voxel_downsample": "dynamic_voxelize + scatter",
    "voxel_query": "VoxelTable + voxel_query",
    "voxelize_padded": "voxelize",
}
# Results, and what reshapes or weighs a tensor with torch's operators.
NO_KERNEL = {"PaddedVoxels", "ThinnedPoints", "Voxels", "__contract__", "interpolation_weights"}
NO_KERNEL |= {"offsets_from_batch_index", "pad", "stack"}


def test_every_operator_has_a_row_of_its_growth():
    grown = {row.op for row in ROWS if row.growth and row.near_linear}
    names = set(tenfold.ops.__all__) - NO_KERNEL
    assert {FORMS.get(name, name) for name in names} <= grown


def test_generators_make_what_they_say():
    rng = np.random.default_rng(0)
    scores = boxes.distinct_scores(rng, 100_000).astype(np.float32)
    assert len(np.unique(scores)) == 100_000
    for made in (boxes.uniform(rng, 500), boxes.clustered(rng, 500)):
        assert (made[:, 2:] > made[:, :2]).all()
    corners = boxes.footprint_corners(boxes.ground_spread(rng, 50))
    x, y = corners[..., 0], corners[..., 1]
    shoelace = (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(axis=1)
    assert (shoelace < 0).all()  # clockwise


def test_room_points_lie_in_the_room():
    room = frames.furnished_room(np.random.default_rng(0), 5000)
    assert room.shape == (5000, 4)
    assert (room[:, :3].min(axis=0) > [-0.1, -0.1, -0.1]).all()
    assert (room[:, :3].max(axis=0) < [8.6, 7.1, 2.8]).all()


@pytest.mark.parametrize("resize", [frames.denser, frames.wider])
@pytest.mark.parametrize("scale", [0.25, 1.0, 4.0])
def test_resized_clouds_have_the_size_asked_for(resize, scale):
    cloud = frames.furnished_room(np.random.default_rng(1), 4000)
    assert len(resize(cloud, scale)) == 4000 * scale


def test_wider_keeps_the_density():
    from scipy.spatial import cKDTree

    cloud = frames.furnished_room(np.random.default_rng(1), 4000)
    mean = [
        np.mean(cKDTree(c[:, :3]).query_ball_point(c[:500, :3], 0.3, return_length=True))
        for c in (cloud, frames.wider(cloud, 4.0))
    ]
    assert mean[1] == pytest.approx(mean[0], rel=0.02)


def test_sample_data_is_named_from_the_repository(monkeypatch):
    for named, found in (("", frames.REPOSITORY.parent / "shared" / "data"), ("/a/b", Path("/a/b"))):
        monkeypatch.setenv("TENFOLD_TEST_DATA", named)
        assert frames.data_root() == found
    monkeypatch.setenv("TENFOLD_TEST_DATA", "mine")
    assert frames.data_root() == frames.REPOSITORY / "mine"
    with pytest.raises(UserInputError, match=r"mine/coco: sample data: is no folder"):
        frames.sample_folder("coco")
    with pytest.raises(UserInputError, match=r"mine/coco.zip: sample data: is no file"):
        frames.sample_file("coco.zip")


def test_frames_are_simulated_without_sample_data(monkeypatch, tmp_path):
    monkeypatch.setenv("TENFOLD_TEST_DATA", str(tmp_path))
    frame = frames.kitti.__wrapped__()
    assert frame.points.dtype == np.float32
    assert frame.points.shape[1] == 4
    assert len(frame.points) > 30_000
    assert "simulated" in frame.source
    assert frames.indoor.__wrapped__().source == "generated room"
