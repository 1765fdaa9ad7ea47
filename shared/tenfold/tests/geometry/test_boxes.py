import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tenfold import geometry as g

finite = st.floats(-50, 50)
box_strategy = st.tuples(
    finite, finite, finite, st.floats(0.1, 20), st.floats(0.1, 20), st.floats(0.1, 20), st.floats(-10, 10)
)


def random_boxes(n, seed=0, columns=7):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-30, 30, (n, columns))
    boxes[:, 3:6] = rng.uniform(0.3, 12, (n, 3))
    boxes[:, 6] = rng.uniform(-8, 8, n)
    return boxes


def same_angle(a, b, tolerance=1e-6):
    return np.all(np.abs(np.angle(np.exp(1j * (np.asarray(a) - np.asarray(b))))) < tolerance)


@given(st.floats(-1e3, 1e3), st.sampled_from([0.0, 0.5]), st.sampled_from([math.pi, 2 * math.pi]))
@settings(max_examples=100, deadline=None)
def test_wrap_angle_lands_in_its_interval_and_differs_by_whole_periods(v, offset, period):
    w = g.wrap_angle(torch.tensor(v, dtype=torch.float64), offset, period).item()
    assert -offset * period - 1e-9 <= w <= (1 - offset) * period + 1e-9
    turns = (v - w) / period
    assert abs(turns - round(turns)) < 1e-6


def test_arrays_of_any_layout():
    assert g.wrap_angle(np.array(7.0)).shape == ()
    one = random_boxes(1)
    np.testing.assert_array_equal(g.box_corners(one[::-1]), g.box_corners(one))
    many = random_boxes(5)
    np.testing.assert_array_equal(g.box_corners(many[::-1]), g.box_corners(many)[::-1])
    many.flags.writeable = False
    np.testing.assert_array_equal(g.box_corners(many.T.copy().T), g.box_corners(many))


def test_rotation_agrees_with_scipy():
    rng = np.random.default_rng(1)
    points, angles = rng.normal(size=(50, 3)), rng.uniform(-7, 7, 50)
    expected = Rotation.from_euler("z", angles[:, None]).apply(points)
    np.testing.assert_allclose(g.rotate_z(points, angles), expected, atol=1e-12)
    with_features = np.concatenate((points, points), axis=1)
    np.testing.assert_array_equal(g.rotate_z(with_features, 0.3)[:, 3:], points)


def test_corners_agree_with_scipy_in_the_documented_order():
    boxes = random_boxes(20)
    front_right_bottom_first = np.array(
        [(1, -1, -1), (1, 1, -1), (-1, 1, -1), (-1, -1, -1), (1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, 1)]
    )
    for box, corners in zip(boxes, g.box_corners(boxes), strict=True):
        local = front_right_bottom_first * box[3:6] / 2
        expected = Rotation.from_euler("z", box[6]).apply(local) + box[:3]
        np.testing.assert_allclose(corners, expected, atol=1e-12)
    np.testing.assert_array_equal(g.bev_corners(boxes), g.box_corners(boxes)[:, :4, :2])


def test_edges_have_the_lengths_of_the_extents():
    box = random_boxes(1)
    corners = g.box_corners(box)[0]
    lengths = sorted(np.linalg.norm(corners[a] - corners[b]) for a, b in g.BOX_EDGES)
    np.testing.assert_allclose(lengths, sorted(np.repeat(box[0, 3:6], 4)))


@given(box_strategy, st.tuples(finite, finite, finite))
@settings(max_examples=60, deadline=None)
def test_box_frame_inverts_and_agrees_with_scipy(box, point):
    box, point = np.array(box), np.array(point)
    local = g.points_to_box_frame(point, box)
    expected = Rotation.from_euler("z", -box[6]).apply(point - box[:3])
    np.testing.assert_allclose(local, expected, atol=1e-9)
    np.testing.assert_allclose(g.points_from_box_frame(local, box), point, atol=1e-9)


@pytest.mark.parametrize("columns", [7, 9])
def test_transform_moves_corners_and_velocities_like_points(columns):
    boxes = random_boxes(10, 2, columns)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", 0.8).as_matrix()
    matrix[:3, 3] = 3, -4, 0.5
    moved = g.transform_boxes(boxes, matrix)
    expected = g.transform_points(g.box_corners(boxes[:, :7]), matrix)
    np.testing.assert_allclose(g.box_corners(moved[:, :7]), expected, atol=1e-9)
    if columns == 9:
        np.testing.assert_allclose(moved[:, 7:], boxes[:, 7:] @ matrix[:2, :2].T)


def test_transform_of_a_tilted_pose_keeps_centre_and_direction():
    boxes = random_boxes(5, 3)
    rotation = Rotation.from_euler("zyx", [1.0, 0.02, -0.03]).as_matrix()
    matrix = np.hstack((rotation, [[1.0], [2.0], [3.0]]))
    moved = g.transform_boxes(boxes, matrix)
    np.testing.assert_allclose(moved[:, :3], boxes[:, :3] @ rotation.T + (1, 2, 3))
    axis = np.stack((np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(5)), 1) @ rotation.T
    assert same_angle(moved[:, 6], np.arctan2(axis[:, 1], axis[:, 0]))


def test_transform_refuses_what_is_no_upright_rigid_motion():
    box = random_boxes(1)
    for rotation in (2 * np.eye(3), np.diag((1.0, -1, 1)), Rotation.from_euler("x", 1.0).as_matrix()):
        with pytest.raises(ValueError, match="transform_boxes: matrix"):
            g.transform_boxes(box, np.hstack((rotation, np.zeros((3, 1)))))
    with pytest.raises(ValueError, match="rotation"):
        g.transform_boxes(box, np.full((4, 4), np.nan))


@pytest.mark.parametrize("change", ["flip_x", "flip_y", "rotate", "scale"])
def test_augmentation_moves_boxes_with_their_points(change):
    boxes = random_boxes(30, 4, 9)
    rng = np.random.default_rng(5)
    local = rng.uniform(-0.8, 0.8, (30, 3)) * boxes[:, 3:6] / 2
    points = g.points_from_box_frame(local, boxes[:, :7])
    tips = points[:, :2] + boxes[:, 7:9]
    if change.startswith("flip"):
        across = change[-1]
        moved, where = g.flip_boxes(boxes, across), g.flip_points(points, across)
        tips = g.flip_points(tips, across)
    elif change == "rotate":
        moved, where, tips = g.rotate_boxes(boxes, 0.7), g.rotate_z(points, 0.7), g.rotate_z(tips, 0.7)
    else:
        moved, where, tips = g.scale_boxes(boxes, 1.05), points * 1.05, tips * 1.05
    again = g.points_to_box_frame(where, moved[:, :7])
    scale = moved[:, 3:6] / boxes[:, 3:6]
    # A mirror image changes the side, never whether and how deep the point is inside.
    np.testing.assert_allclose(np.abs(again), np.abs(local * scale), atol=1e-9)
    np.testing.assert_allclose(again[:, 0], local[:, 0] * scale[:, 0], atol=1e-9)
    np.testing.assert_allclose(where[:, :2] + moved[:, 7:9], tips, atol=1e-9)
    assert (np.abs(moved[:, 6]) <= math.pi + 1e-12).all() or change == "scale"


def test_limit_heading_and_enlarge_leave_the_rest():
    boxes = random_boxes(10, 6, 9)
    limited = g.limit_heading(boxes)
    np.testing.assert_array_equal(np.delete(limited, 6, 1), np.delete(boxes, 6, 1))
    assert same_angle(limited[:, 6], boxes[:, 6])
    np.testing.assert_allclose(g.enlarge_boxes(boxes, (1.0, 0.0, 0.5))[:, 3:6], boxes[:, 3:6] + (1, 0, 0.5))


def test_arrays_and_tensors_agree_and_keep_dtype_and_kind():
    boxes = random_boxes(4).astype(np.float32)
    boxes.setflags(write=False)
    from_array = g.box_corners(boxes[::-1])
    from_tensor = g.box_corners(torch.tensor(boxes[::-1].copy()))
    assert from_array.dtype == np.float32
    assert from_tensor.dtype == torch.float32
    np.testing.assert_array_equal(from_array, from_tensor.numpy())
    with pytest.raises(TypeError, match="mixed"):
        g.points_to_box_frame(torch.zeros(4, 3), boxes)


def test_inputs_stay_untouched_and_gradients_flow():
    boxes = torch.tensor(random_boxes(3), requires_grad=True)
    before = boxes.detach().clone()
    g.flip_boxes(boxes, "x"), g.limit_heading(boxes), g.rotate_boxes(boxes, 1.0)
    assert torch.equal(boxes.detach(), before)
    assert torch.autograd.gradcheck(g.box_corners, (boxes,))


def test_no_boxes():
    none = np.zeros((0, 7))
    assert g.box_corners(none).shape == (0, 8, 3)
    assert g.flip_boxes(none, "y").shape == (0, 7)
    assert g.transform_boxes(none, np.eye(4)).shape == (0, 7)
    assert g.points_to_box_frame(np.zeros((0, 3)), none).shape == (0, 3)


def test_wrong_input_names_the_argument():
    with pytest.raises(ValueError, match=r"box_corners: boxes: shape \(2, 8\)"):
        g.box_corners(torch.zeros(2, 8))
    with pytest.raises(TypeError, match="floating"):
        g.box_corners(torch.zeros(2, 7, dtype=torch.int64))
    with pytest.raises(TypeError, match="tensor or array"):
        g.box_corners([[0.0] * 7])
    with pytest.raises(ValueError, match="across"):
        g.flip_boxes(torch.zeros(1, 7), "z")
    with pytest.raises(ValueError, match="factor"):
        g.scale_boxes(torch.zeros(1, 7), 0.0)
