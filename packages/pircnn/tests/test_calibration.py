"""Projection against published numbers, and the algebra of image and scene edits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pircnn import KittiCalib, sample_image_features, scene_matrix
from pircnn.data.columns import SEEN, with_camera
from tenfold._errors import UserInputError
from tenfold.lidar.augment import Sample, flip, rotate, scale
from tenfold.lidar.kitti import read_calibration
from tenfold.testing import sample_data

# KITTI object frame 000008.
P2 = [[721.5377, 0, 609.5593, 44.85728], [0, 721.5377, 172.854, 0.2163791], [0, 0, 1, 0.002745884]]
R0 = [
    [0.9999238848686218, 0.009837759658694267, -0.007445048075169325],
    [-0.00986979529261589, 0.9999421238899231, -0.004278459120541811],
    [0.007402527146041393, 0.0043516140431165695, 0.999963104724884],
]
TR = [
    [0.0075337449, -0.9999713898, -0.000616602, -0.004069766],
    [0.0148024904, 0.0007280733, -0.9998902082, -0.0763161778],
    [0.9998620749, 0.00752379, 0.0148075502, -0.2717806101],
]
POINTS = np.array([[10.0, 0, 0], [20, -5, -1.5], [50, 10, -1]])
RECT = [[-0.000449, 0.029385, 9.727321], [5.017465, 1.580887, 19.710476], [-9.979936, 1.552905, 49.715928]]
BY_W = [[613.9641, 175.0065], [795.3977, 230.7041], [465.5950, 195.3852]]
BY_Z = [[614.1375, 175.0559], [795.5085, 230.7362], [465.6207, 195.3960]]


@pytest.fixture(scope="module")
def calib():
    return KittiCalib.from_arrays(P2, R0, TR)


def test_published_projections(calib):
    np.testing.assert_allclose(calib.lidar_to_rect(POINTS), RECT, atol=1e-5)
    uv, depth, valid = calib.lidar_to_image(POINTS, (375, 1242))
    np.testing.assert_allclose(uv, BY_W, atol=1e-3)
    np.testing.assert_allclose(depth, np.array(RECT)[:, 2], atol=1e-5)
    assert valid.all()
    by_z = KittiCalib(calib.P2, calib.T, "z").lidar_to_image(POINTS)[0]
    np.testing.assert_allclose(by_z, BY_Z, atol=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["w", "z"]))
def test_round_trips(seed, divide_by):
    rng = np.random.default_rng(seed)
    calib = KittiCalib(KittiCalib.from_arrays(P2, R0, TR).P2, KittiCalib.from_arrays(P2, R0, TR).T, divide_by)
    points = rng.uniform([3, -30, -3], [70, 30, 3], (20, 3))
    uv, depth, _ = calib.lidar_to_image(points)
    np.testing.assert_allclose(calib.image_to_lidar(uv, depth), points, atol=1e-6)
    np.testing.assert_allclose(calib.rect_to_lidar(calib.lidar_to_rect(points)), points, atol=1e-9)
    if divide_by == "w":
        wide = np.c_[points, np.ones(20)] @ calib.matrix.T
        np.testing.assert_allclose(uv, wide[:, :2] / wide[:, 2:], atol=1e-9)


def test_real_files_and_their_order(tmp_path):
    folder = sample_data("kitti") / "training/calib"
    for file in sorted(folder.glob("*.txt")):
        calib, other = KittiCalib.from_file(file), read_calibration(file)
        uv, depth = other.lidar_to_image(POINTS)  # the usual tools' reading
        mine = KittiCalib(calib.P2, calib.T, "z").lidar_to_image(POINTS)
        np.testing.assert_allclose(mine[0], uv, atol=1e-9)
        np.testing.assert_allclose(mine[1], depth, atol=1e-9)
        lines = file.read_text().splitlines()
        (tmp_path / "r.txt").write_text("\n".join(reversed(lines)) + "\n\n")
        assert np.array_equal(KittiCalib.from_file(tmp_path / "r.txt").matrix, calib.matrix)
    (tmp_path / "bad.txt").write_text("P2: 1 2 3\n")
    with pytest.raises(UserInputError, match=r"bad.txt"):
        KittiCalib.from_file(tmp_path / "bad.txt")


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(["flip", "rotate", "scale", "shift"]), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_scene_edits_leave_pixels_alone(steps, seed):
    rng = np.random.default_rng(seed)
    calib = KittiCalib.from_arrays(P2, R0, TR)
    points = rng.uniform([5, -10, -2], [40, 10, 1], (20, 3))
    moved, edited = points.copy(), calib
    for step in steps:
        move = {
            "flip": lambda: scene_matrix(flip="x"),
            "rotate": lambda: scene_matrix(angle=rng.uniform(-1, 1)),
            "scale": lambda: scene_matrix(scale=rng.uniform(0.9, 1.1)),
            "shift": lambda: scene_matrix(shift=tuple(rng.normal(size=3))),
        }[step]()
        moved = moved @ move[:3, :3].T + move[:3, 3]
        edited = edited.with_scene_transform(move)
    np.testing.assert_allclose(edited.lidar_to_image(moved)[0], calib.lidar_to_image(points)[0], atol=1e-8)


def test_order_of_scene_edits_matters_and_left_edits_are_wrong(calib):
    a, b = scene_matrix(flip="x"), scene_matrix(angle=0.3)
    one = calib.with_scene_transform(a).with_scene_transform(b)
    two = calib.with_scene_transform(b).with_scene_transform(a)
    assert np.abs(one.T - two.T).max() > 0.1
    left = np.linalg.inv(a)[:3, :3] @ calib.T
    assert np.abs(left - calib.with_scene_transform(a).T).max() > 0.1


def test_carried_pixels_equal_edited_calibrations(calib):
    """The core's augmentation moves the points and leaves their camera columns; both roads lead to one pixel."""
    rng = np.random.default_rng(0)
    points = np.c_[rng.uniform([5, -10, -2], [40, 10, 1], (50, 3)), rng.random(50)].astype(np.float32)
    rows = with_camera(points, calib, (375, 1242))
    sample = Sample(rows, np.zeros((0, 7), np.float32), np.zeros(0, "<U3"))
    sample = scale(rotate(flip(sample), 0.4), 1.03)
    move = scene_matrix(flip="x", angle=0.4, scale=1.03)
    edited = calib.with_scene_transform(move)
    uv, _, valid = edited.lidar_to_image(sample.points, (375, 1242))
    seen = sample.points[:, 6] == SEEN
    assert np.array_equal(seen, valid)
    assert seen.sum() > 20
    np.testing.assert_allclose(sample.points[seen, 4:6], uv[seen], atol=2e-3)
    wrong = calib.lidar_to_image(sample.points, (375, 1242))[0]
    assert np.abs(wrong[seen] - sample.points[seen, 4:6]).max() > 50


def impulse(calib, point, size):
    """An image that is 1 at the pixel nearest to the point's projection, moved there exactly."""
    uv = np.round(calib.lidar_to_image(point)[0][0]).astype(int)
    image = torch.zeros(1, 1, *size)
    image[0, 0, uv[1], uv[0]] = 1
    exact = calib.image_to_lidar(uv[None].astype(float), calib.lidar_to_image(point)[1])
    return image, exact


def test_image_edits_and_projection_meet_at_an_impulse(calib):
    size = (60, 80)
    small = KittiCalib([[40, 0, 40, 0], [0, 40, 30, 0], [0, 0, 1, 0.01]], calib.T)
    image, point = impulse(small, np.array([[10.0, 1, -0.5]]), size)
    cropped, edited = image[..., 5:, 7:], small.with_crop(7, 5)
    flipped, edited = cropped.flip(-1), edited.with_hflip(cropped.shape[-1])
    large = F.interpolate(flipped, scale_factor=3.0, mode="bilinear", align_corners=False)
    resized = edited.with_resize(3.0, 3.0)
    for shown, where in ((cropped, small.with_crop(7, 5)), (flipped, edited), (large, resized)):
        uv = torch.from_numpy(where.lidar_to_image(point)[0]).float()[None]
        read = sample_image_features(shown, uv).item()
        assert read > 0.99 * float(shown.max())
    # Without the half-pixel shift the impulse is missed.
    naive = edited.with_resize(3.0, 3.0, half_pixel=False)
    uv = torch.from_numpy(naive.lidar_to_image(point)[0]).float()[None]
    assert sample_image_features(large, uv).item() < 0.9 * float(large.max())
    # Mirroring the image and not P2 is what the silent mistake looks like.
    uv = torch.from_numpy(small.with_crop(7, 5).lidar_to_image(point)[0]).float()[None]
    assert sample_image_features(flipped, uv).item() < 0.01


def test_stride_and_corner_aligned_resize(calib):
    uv = calib.lidar_to_image(POINTS)[0]
    np.testing.assert_allclose(
        calib.with_stride(4).lidar_to_image(POINTS)[0], (uv + 0.5) / 4 - 0.5, atol=1e-9
    )
    factors = (100 / 1241, 50 / 374)
    aligned = calib.with_resize(*factors, half_pixel=False).lidar_to_image(POINTS)[0]
    np.testing.assert_allclose(aligned, uv * factors, atol=1e-9)


def test_behind_beside_and_wrong_input(calib):
    points = np.array([[-5.0, 0, 0], [0.28, 0, 0], [10, 20, 0], [10, 0, 0]])
    uv, _, valid = calib.lidar_to_image(points, (375, 1242))
    assert valid.tolist() == [False, False, False, True]
    assert np.isfinite(uv).all()
    with pytest.raises(ValueError, match="points"):
        calib.lidar_to_image(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="P2"):
        KittiCalib(np.eye(3), calib.T)
    with pytest.raises(ValueError, match="without inverse"):
        KittiCalib(np.zeros((3, 4)), calib.T)
    with pytest.raises(ValueError, match="divide_by"):
        KittiCalib(calib.P2, calib.T, "u")
    with pytest.raises(ValueError, match="last row"):
        calib.with_scene_transform(np.ones((4, 4)))
    with pytest.raises(ValueError, match="last row"):
        calib.with_image_matrix(np.ones((3, 3)))
    pinhole = KittiCalib.from_pinhole(calib.P2[:, :3], np.vstack((calib.T, (0, 0, 0, 1))))
    assert np.abs(pinhole.lidar_to_image(POINTS)[0] - calib.lidar_to_image(POINTS)[0]).max() < 6


def test_columns_never_round_across_the_border(calib):
    uv = np.array([[1241.9999999, 374.99999999]])
    point = calib.image_to_lidar(uv, np.array([20.0]))
    rows = with_camera(np.c_[point, 0.5].astype(np.float64), calib, (375, 1242))
    assert rows[0, 6] == SEEN
    assert rows[0, 4] < 1242
    assert rows[0, 5] < 375
