"""The real ScanNet scan and SUN RGB-D frame of the sample data: frames, conventions, and learning one by heart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sparsepoint.align import estimate_alignment
from sparsepoint.config import make_config
from sparsepoint.data import MMDet3DDetection, SceneSamples, collate
from sparsepoint.evaluation import evaluate
from sparsepoint.losses import make_criterion
from sparsepoint.models import build
from tenfold.geometry import transform_points
from tenfold.host import points_in_boxes
from tenfold.io import write_json
from tenfold.testing import sample_data


def hits(scene, boxes):
    """Points in each box."""
    return np.array(
        [
            (
                np.asarray(points_in_boxes(scene.points.astype(np.float64), b[None].astype(np.float64))) >= 0
            ).sum()
            for b in boxes
        ]
    )


def test_scannet_scene_is_aligned():
    data = MMDet3DDetection(sample_data("scannet", "scene0000_00.json"))
    scene = data.scene(0)
    assert len(scene.boxes) == 27
    assert (scene.boxes[:, 6] == 0).all()
    assert {data.labels.names[k] for k in scene.labels} >= {"bed", "cabinet", "window", "door"}
    filled = hits(scene, scene.boxes)
    assert (filled >= 5).mean() > 0.9
    back = np.linalg.inv(scene.align)
    raw = replace(scene, points=transform_points(scene.points.astype(np.float64), back).astype(np.float32))
    assert hits(raw, scene.boxes).sum() < 0.5 * filled.sum()
    assert scene.colours.max() > 100


def test_alignment_is_found_without_being_told():
    scene = MMDet3DDetection(sample_data("scannet", "scene0000_00.json")).scene(0)
    raw = transform_points(scene.points.astype(np.float64), np.linalg.inv(scene.align))
    found = estimate_alignment(raw)
    relative = found[:3, :3] @ scene.align[:3, :3].T
    yaw = np.rad2deg(np.arctan2(relative[1, 0], relative[0, 0]))
    assert abs((yaw + 45) % 90 - 45) < 2.5
    assert np.rad2deg(np.arccos(np.clip(relative[2, 2], -1, 1))) < 3
    floor = np.percentile(transform_points(raw, found)[:, 2], 1)
    assert abs(floor) < 0.02


def test_sunrgbd_headings_turn_the_right_way():
    scene = MMDet3DDetection(sample_data("sunrgbd", "000017.json")).scene(0)
    assert len(scene.boxes) == 2
    mirrored = scene.boxes.copy()
    mirrored[:, 6] *= -1
    right, wrong = hits(scene, scene.boxes), hits(scene, mirrored)
    assert (right > 500).all()
    assert right.sum() > 1.15 * wrong.sum()


def overfit(scene_file, preset, steps, **overrides):
    data = MMDet3DDetection(scene_file)
    config = make_config(preset, data.labels, backbone="tiny", num_points=4096, pos="box", **overrides)
    torch.manual_seed(0)
    model, criterion = build(config), make_criterion(config)
    samples = SceneSamples(data, config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    first = last = 0.0
    model.train()
    for step in range(steps):
        batch = collate([samples[0]])
        loss = criterion(model(batch.points), batch.truth)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        last = float(loss.detach())
        first = first or last
    return evaluate(model.eval(), [collate([samples[0]])], data.labels.names), first, last


@pytest.mark.parametrize(
    "part", [("scannet", "scene0000_00.json"), ("sunrgbd", "000017.json")], ids=lambda p: p[0]
)
def test_a_few_steps_on_a_real_scene(part):
    small = {"num_proposals": 32, "dim": 32, "heads": 4, "ffn": 64, "grids": (1, 3), "num_stages": 2}
    found, first, last = overfit(sample_data(*part), "sparsepoint", 12, **small)
    assert last < 0.8 * first
    assert 0 <= found.plain.mean_ap(0.25) <= 1


@pytest.mark.slow
def test_a_real_scene_is_learned_by_heart():
    """Every object of the real scan without suppression, which would cost even a perfect detector one of them."""
    small = {
        "num_proposals": 64,
        "dim": 64,
        "heads": 4,
        "ffn": 256,
        "grids": (1, 3),
        "num_stages": 3,
        "dropout": 0.0,
    }
    found, _, _ = overfit(sample_data("scannet", "scene0000_00.json"), "sparsepoint", 600, **small)
    assert found.plain.mean_ap(0.25) == 1.0


def test_a_damaged_description_is_named(tmp_path):
    from tenfold._errors import UserInputError

    path = tmp_path / "info.json"
    write_json(path, {"metainfo": {"DATASET": "KITTI"}, "data_list": []})
    with pytest.raises(UserInputError, match="DATASET: got 'KITTI'"):
        MMDet3DDetection(path)
    write_json(path, {"metainfo": {"DATASET": "SCANNET"}, "data_list": [{"lidar_points": {}}]})
    with pytest.raises(UserInputError, match="lidar_path: is missing"):
        MMDet3DDetection(path)


def test_objects_that_mmdetection3d_ignores_are_left_out(tmp_path):
    from tenfold._errors import UserInputError

    np.random.default_rng(0).random((20, 6), np.float32).tofile(tmp_path / "a.bin")
    box = [0.5, 0.5, 0.5, 1.0, 1.0, 1.0]

    def scene(label, **more):
        objects = [{"bbox_3d": box, "bbox_label_3d": k} for k in (-1, 2, label)]
        entry = {"lidar_points": {"lidar_path": "a.bin", "num_pts_feats": 6}, "instances": objects, **more}
        write_json(tmp_path / "i.json", {"metainfo": {"DATASET": "SCANNET"}, "data_list": [entry]})
        return MMDet3DDetection(tmp_path / "i.json").scene(0)

    assert scene(3).labels.tolist() == [2, 3]
    with pytest.raises(UserInputError, match=r"instances\[2\]\.bbox_label_3d: got 18; expected 0 to 17"):
        scene(18)
    with pytest.raises(UserInputError, match="axis_align_matrix: got 3 rows"):
        scene(3, axis_align_matrix=np.eye(4)[:3].tolist())
