import numpy as np
import pytest
import torch

from tenfold.geometry import (
    Calibration,
    boxes_from_kitti,
    kitti_alpha,
    points_from_box_frame,
    points_to_box_frame,
    project_boxes,
)
from tenfold.testing import sample_data


def load(frame):
    """Parsed here on its own, so that the data set reader is not its own oracle."""
    text = sample_data("kitti", "training", "calib", f"{frame}.txt").read_text()
    rows = dict(line.split(":") for line in text.split("\n") if ":" in line)
    matrix = {k: np.array(v.split(), dtype=float).reshape(3, -1) for k, v in rows.items()}
    return Calibration(matrix["P2"], matrix["R0_rect"], matrix["Tr_velo_to_cam"])


def labels(frame):
    lines = sample_data("kitti", "training", "label_2", f"{frame}.txt").read_text().splitlines()
    return [np.array(x.split()[1:], dtype=float) for x in lines if not x.startswith("DontCare")]


def skewed():
    """A calibration without any convenient zeros."""
    rng = np.random.default_rng(0)
    p2 = np.array([[700.0, 3, 610, 45], [2, 710, 170, 0.2], [0, 0, 1, 0.003]])
    r0 = np.linalg.qr(np.eye(3) + 0.01 * rng.normal(size=(3, 3)))[0]
    tr = np.array([[0.0, -1, 0, 0.1], [0, 0, -1, -0.08], [1, 0, 0, -0.27]]) + 0.005 * rng.normal(size=(3, 4))
    return Calibration(p2, r0 * np.sign(np.diag(r0)), tr)


def points(n=200):
    rng = np.random.default_rng(1)
    return np.stack((rng.uniform(2, 70, n), rng.uniform(-20, 20, n), rng.uniform(-2, 3, n)), 1)


def test_inverses_are_exact():
    c, p = skewed(), points()
    np.testing.assert_allclose(c.rect_to_lidar(c.lidar_to_rect(p)), p, atol=1e-10)
    uv, depth = c.lidar_to_image(p)
    np.testing.assert_allclose(depth, c.lidar_to_rect(p)[:, 2])
    np.testing.assert_allclose(c.image_to_lidar(uv, depth), p, atol=1e-9)


def test_tensors_give_the_same():
    c, p = skewed(), points()
    uv, depth = c.lidar_to_image(torch.tensor(p))
    expected_uv, expected_depth = c.lidar_to_image(p)
    np.testing.assert_allclose(uv.numpy(), expected_uv)
    np.testing.assert_allclose(depth.numpy(), expected_depth)
    assert c.lidar_to_rect(torch.zeros(2, 3)).dtype == torch.float32


@pytest.mark.parametrize("change", ["crop", "resize", "flip", "all"])
def test_image_transforms_move_every_pixel_alike(change):
    c, p = skewed(), points()
    uv, _ = c.lidar_to_image(p)
    crop, resize, flip = uv - (100, 50), (uv + 0.5) * (0.5, 0.25) - 0.5, (1241, 0) - uv * (1, -1)
    moved, expected = {
        "crop": (c.cropped(100, 50), crop),
        "resize": (c.resized(0.5, 0.25), resize),
        "flip": (c.flipped(1242), flip),
        "all": (c.cropped(100, 50).resized(0.5, 0.25).flipped(300), None),
    }[change]
    if expected is None:
        expected = (299, 0) - ((crop + 0.5) * (0.5, 0.25) - 0.5) * (1, -1)
    got, depth = moved.lidar_to_image(p)
    np.testing.assert_allclose(got, expected, atol=1e-8)
    np.testing.assert_allclose(moved.image_to_lidar(got, depth), p, atol=1e-8)


def test_in_image_counts_borders_and_refuses_what_lies_behind():
    c = Calibration.kitti_like((100, 200))
    uv = np.array([[0, 0], [199.9, 99.9], [-0.01, 5], [200.0, 5], [5, 100.0]])
    inside = c.in_image(c.image_to_lidar(uv, np.full(5, 10.0)), (100, 200))
    np.testing.assert_array_equal(inside[2:], [False] * 3)
    assert inside[1]
    behind = c.image_to_lidar(np.array([[100.0, 50]]), np.array([-10.0]))
    assert not c.in_image(behind, (100, 200)).any()


@pytest.mark.parametrize("frame", ["000000", "000001", "000002"])
def test_projected_boxes_agree_with_the_2d_labels(frame):
    c = load(frame)
    for row in labels(frame):
        box = boxes_from_kitti(row[None, 7:14], c)
        found, visible = project_boxes(box, c, (375, 1242))
        assert visible.all()
        # Annotators drew the walking person tighter than his box; rigid objects agree to a pixel.
        tolerance = 11 if frame == "000000" else 1.5
        np.testing.assert_allclose(found[0], row[3:7], atol=tolerance)
        # Published alphas were rounded to hundredths.
        assert kitti_alpha(box)[0] == pytest.approx(row[2], abs=0.02)


def test_labelled_car_holds_lidar_points_and_fewer_when_it_is_turned():
    scan = sample_data("kitti", "training", "velodyne", "000002.bin")
    cloud = np.fromfile(scan, dtype=np.float32).reshape(-1, 4)[:, :3].astype(float)
    box = boxes_from_kitti(labels("000002")[0][None, 7:14], load("000002"))[0]

    def inside(b):
        return int((np.abs(points_to_box_frame(cloud, b)) < b[3:6] / 2).all(1).sum())

    turned = box.copy()
    turned[6] += np.pi / 4
    assert inside(box) > 1000
    assert inside(turned) < inside(box)


def test_boxes_that_pass_the_camera_are_cut_and_not_mirrored():
    c = Calibration.kitti_like()
    beside = np.array([[0.5, 3.0, -1.0, 6.0, 1.6, 1.5, 0.0]])
    found, visible = project_boxes(beside, c, (375, 1242))
    assert visible[0]
    assert found[0, 0] == 0  # runs out of the left border
    assert found[0, 2] < 621  # and stays on the left half
    behind = np.array([[-10.0, 0, 0, 4, 2, 1.5, 0.3]])
    found, visible = project_boxes(behind, c, (375, 1242))
    assert not visible[0]
    assert (found == 0).all()
    aside = np.array([[10.0, 40, 0, 4, 2, 1.5, 0.3]])
    assert not project_boxes(aside, c, (375, 1242))[1][0]
    assert project_boxes(aside, c)[1][0]


def test_projected_box_is_the_hull_of_dense_surface_samples():
    c = skewed()
    rng = np.random.default_rng(3)
    box = np.array([[12.0, -2.0, -0.5, 4.0, 1.8, 1.5, 0.7]])
    samples = rng.uniform(-0.5, 0.5, (20000, 3))
    samples[np.arange(20000), rng.integers(3, size=20000)] = rng.choice((-0.5, 0.5), 20000)
    uv, _ = c.lidar_to_image(points_from_box_frame(samples * box[0, 3:6], box[0]))
    found = project_boxes(box, c)[0][0]
    np.testing.assert_allclose(found, (*uv.min(0), *uv.max(0)), atol=3)


def test_no_boxes():
    found, visible = project_boxes(np.zeros((0, 7)), Calibration.kitti_like(), (375, 1242))
    assert found.shape == (0, 4)
    assert visible.shape == (0,)


def test_wrong_matrices_name_the_argument():
    good = Calibration.kitti_like()
    with pytest.raises(ValueError, match=r"p2: shape \(3, 3\)"):
        Calibration(np.eye(3), good.r0, good.velo_to_cam)
    with pytest.raises(ValueError, match="r0: NaN"):
        Calibration(good.p2, np.full((3, 3), np.nan), good.velo_to_cam)
    with pytest.raises(ValueError, match="velo_to_cam: a matrix without inverse"):
        Calibration(good.p2, good.r0, np.zeros((3, 4)))
    with pytest.raises(ValueError, match="image_matrix"):
        good.transformed(np.ones((3, 3)))
