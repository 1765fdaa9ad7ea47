import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tenfold import geometry as g
from tenfold.testing import sample_data


def random_boxes(n=50, seed=0):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-30, 30, (n, 7))
    boxes[:, 0] = rng.uniform(2, 60, n)
    boxes[:, 3:6] = rng.uniform(0.3, 12, (n, 3))
    boxes[:, 6] = rng.uniform(-np.pi, np.pi, n)
    return boxes


def count_inside(points, boxes):
    return [int((np.abs(g.points_to_box_frame(points, b)) <= b[3:6] / 2).all(1).sum()) for b in boxes]


def tilted_calibration():
    c = g.Calibration.kitti_like()
    r0 = Rotation.from_euler("xyz", [0.01, -0.02, 0.008]).as_matrix()
    return g.Calibration(c.p2, r0, c.velo_to_cam)


def test_kitti_round_trip_on_rotated_boxes():
    boxes, c = random_boxes(), tilted_calibration()
    fields = g.boxes_to_kitti(boxes, c)
    np.testing.assert_allclose(g.boxes_from_kitti(fields, c), boxes, atol=1e-9)
    again = g.boxes_to_kitti(g.boxes_from_kitti(fields, c), c)
    np.testing.assert_allclose(again, fields, atol=1e-9)
    float32 = g.boxes_from_kitti(g.boxes_to_kitti(torch.tensor(boxes).float(), c), c)
    np.testing.assert_allclose(float32.numpy(), boxes, atol=1e-4)


def test_kitti_rotation_against_the_devkit_formula():
    # The devkit turns corners (x along l, z along w) about the camera's y axis by ry, then moves them.
    c = g.Calibration.kitti_like()
    h, w, length, ry = 1.5, 1.7, 4.2, 0.6
    where = np.array([2.0, 1.6, 18.0])
    x = np.array([1, 1, -1, -1]) * length / 2
    z = np.array([1, -1, -1, 1]) * w / 2
    turn = np.array([[np.cos(ry), 0, np.sin(ry)], [0, 1, 0], [-np.sin(ry), 0, np.cos(ry)]])
    bottom = np.stack((x, np.zeros(4), z), 1) @ turn.T + where
    corners = np.concatenate((bottom, bottom - (0, h, 0)))
    box = g.boxes_from_kitti(np.array([[h, w, length, *where, ry]]), c)
    ours = g.box_corners(box)[0]
    theirs = c.rect_to_lidar(corners)
    assert set(map(tuple, ours.round(6) + 0.0)) == set(map(tuple, theirs.round(6) + 0.0))
    # Front stays front: the camera-frame heading is the +x side of the devkit's corners.
    front = theirs[:2, :2].mean(0) - box[0, :2]
    assert np.arctan2(front[1], front[0]) == pytest.approx(box[0, 6])


def test_nuscenes_agrees_with_scipy_and_round_trips():
    rng = np.random.default_rng(2)
    yaw, tilt = rng.uniform(-np.pi, np.pi, 30), rng.uniform(-0.1, 0.1, (2, 30))
    rotation = Rotation.from_euler("ZYX", np.stack((yaw, *tilt), 1))
    wxyz = rotation.as_quat()[:, [3, 0, 1, 2]] * rng.uniform(0.5, 2, (30, 1))
    wlh = rng.uniform(0.5, 10, (30, 3))
    boxes = g.boxes_from_nuscenes(rng.normal(size=(30, 3)), wlh, wxyz)
    axis = rotation.apply([1, 0, 0])
    np.testing.assert_allclose(boxes[:, 6], np.arctan2(axis[:, 1], axis[:, 0]), atol=1e-9)
    np.testing.assert_array_equal(boxes[:, 3:6], wlh[:, [1, 0, 2]])
    np.testing.assert_allclose(g.boxes_from_nuscenes(*g.boxes_to_nuscenes(boxes)), boxes, atol=1e-9)


@pytest.mark.parametrize("origin", [(0.5, 0.5, 0.0), (0.5, 0.5, 0.5), (0.5, 1.0, 0.5)])
def test_mmdet3d_round_trip(origin):
    boxes = random_boxes()
    there = g.boxes_to_mmdet3d(boxes, origin=origin)
    np.testing.assert_allclose(g.boxes_from_mmdet3d(there, origin=origin), boxes)
    if origin[2] == 0:
        np.testing.assert_allclose(there[:, 2], boxes[:, 2] - boxes[:, 5] / 2)


def test_axis_aligned_boxes():
    low, high = np.array([[0.0, 1, 2]]), np.array([[2.0, 5, 3]])
    box = g.boxes_from_min_max(low, high)
    np.testing.assert_allclose(box, [[1, 3, 2.5, 2, 4, 1, 0]])
    np.testing.assert_allclose(g.boxes_from_axis_aligned(box[:, :6]), box)
    corners = g.box_corners(box)[0]
    np.testing.assert_allclose((corners.min(0), corners.max(0)), (low[0], high[0]))


def test_scannet_boxes_hold_points_only_after_alignment():
    entry = json.loads(sample_data("scannet", "scene0000_00.json").read_text())["data_list"][0]
    cloud = np.fromfile(sample_data("scannet", "scene0000_00.bin"), dtype=np.float32).reshape(-1, 6)
    boxes = g.boxes_from_axis_aligned(np.array([i["bbox_3d"] for i in entry["instances"]]))
    aligned = g.transform_points(cloud, np.array(entry["axis_align_matrix"], dtype=np.float32))
    np.testing.assert_array_equal(aligned[:, 3:], cloud[:, 3:])
    after, before = (count_inside(c[:, :3].astype(float), boxes) for c in (aligned, cloud))
    assert min(after) > 0
    assert sum(after) > 2 * sum(before)


def test_nuscenes_sample_boxes_hold_the_published_number_of_points():
    entry = json.loads(sample_data("nuscenes", "sample.json").read_text())["data_list"][0]
    file = sample_data("nuscenes", Path(entry["lidar_points"]["lidar_path"]).name)
    cloud = np.fromfile(file, dtype=np.float32).reshape(-1, 5)[:, :3].astype(float)
    instances = entry["instances"]
    boxes = g.boxes_from_mmdet3d(np.array([i["bbox_3d"] for i in instances]), origin=(0.5, 0.5, 0.5))
    published = np.array([i["num_lidar_pts"] for i in instances])
    assert np.mean(np.abs(np.array(count_inside(cloud, boxes)) - published) <= 1) > 0.9


def test_transform_boxes_of_a_real_pose_moves_points_and_boxes_together():
    entry = json.loads(sample_data("nuscenes", "sample.json").read_text())["data_list"][0]
    pose = np.array(entry["lidar_points"]["lidar2ego"])
    boxes = g.boxes_from_mmdet3d(np.array([i["bbox_3d"] for i in entry["instances"]]), origin=(0.5, 0.5, 0.5))
    moved = g.transform_boxes(boxes, pose)
    # The sensor is tilted by 1.5 degrees, and an upright box cannot follow: that angle times its extent.
    np.testing.assert_allclose(
        g.box_corners(moved), g.transform_points(g.box_corners(boxes), pose), atol=0.03 * boxes[:, 3:6].max()
    )
