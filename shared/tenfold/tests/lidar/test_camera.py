import numpy as np
import pytest

from tenfold.geometry import Calibration
from tenfold.lidar.simulator import (
    KINDS,
    Ground,
    Scene,
    make_object,
    render_camera,
    sample_scene,
    view_objects,
)
from tenfold.lidar.simulator.camera import CameraGrid
from tenfold.lidar.simulator.raycast import cast

SIZE = (188, 621)
CAMERA = Calibration.kitti_like(SIZE)


def car(x, y, heading=0.0):
    size = KINDS["Car"].mean
    return make_object("Car", np.array([x, y, -1.73 + size[2] / 2, *size, heading]))


def pixels_of(scene, index, calibration=CAMERA, size=SIZE):
    grid = CameraGrid(calibration, size)
    hits = cast(scene.objects, scene.ground, grid, 200, np.random.default_rng(0))
    v, u = np.divmod(np.flatnonzero(hits.owner == index), grid.shape[1])
    return u, v


@pytest.mark.parametrize("pose", [(12, 0, 0.0), (9, -4, 1.2), (25, 8, 3.0)])
def test_2d_boxes_enclose_the_pixels_tightly(pose):
    scene = Scene((car(*pose),), Ground())
    view = view_objects(scene, CAMERA, SIZE)
    u, v = pixels_of(scene, 0)
    x1, y1, x2, y2 = view.boxes2d[0]
    assert u.min() >= x1 - 1
    assert v.min() >= y1 - 1
    assert u.max() <= x2 + 1
    assert v.max() <= y2 + 1
    # A tapered car fills less than its box's projection, but not much less.
    assert (u.max() - u.min()) * (v.max() - v.min()) > 0.6 * (x2 - x1) * (y2 - y1)
    assert view.in_image[0]
    assert view.occlusion[0] == 0
    assert view.truncation[0] == 0


def test_windows_of_pixels_miss_nothing():
    scene = sample_scene(3, region=(-5, -30, 60, 30), n_hedges=0, n_trees=0)
    for calibration in (CAMERA, CAMERA.flipped(SIZE[1]), CAMERA.cropped(100, 20)):
        grid = CameraGrid(calibration, SIZE, step=5)
        fast = cast(scene.objects, scene.ground, grid, 200, np.random.default_rng(0))
        grid.near = lambda centre, radius, n=len(grid.directions): np.arange(n)
        slow = cast(scene.objects, scene.ground, grid, 200, np.random.default_rng(0))
        np.testing.assert_array_equal(fast.owner, slow.owner)


def test_rays_pass_through_their_pixels():
    calibration = CAMERA.flipped(SIZE[1]).resized(0.9, 1.1)
    grid = CameraGrid(calibration, (40, 60))
    uv, depth = calibration.lidar_to_image(grid.origin + 15 * grid.directions)
    v, u = np.divmod(np.arange(40 * 60), 60)
    np.testing.assert_allclose(uv, np.stack((u, v), 1), atol=1e-6)
    assert (depth > 0).all()


def test_occlusion_levels_rise_as_a_car_moves_behind_another():
    levels, shares = [], []
    for y in (6.0, 1.5, 0.9, 0.0):
        scene = Scene((car(10, 0), car(20, y)), Ground())
        view = view_objects(scene, CAMERA, SIZE, step=1)
        assert view.occlusion[0] == 0
        levels.append(int(view.occlusion[1]))
        shares.append(view.visibility[1])
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[-1] >= 2
    assert shares == sorted(shares, reverse=True)
    wall = make_object("wall", np.array([8.0, 0, 0, 0.5, 12, 8, 0]))
    hidden = view_objects(Scene((wall, car(20, 0)), Ground()), CAMERA, SIZE)
    assert hidden.occlusion.tolist() == [3]
    assert hidden.visibility.tolist() == [0]


def test_truncation_is_the_share_outside_the_image():
    # The border ray of the image runs through the middle of the car.
    left = CAMERA.image_to_lidar(np.array([[0.0, 90.0]]), np.array([20.0]))[0]
    view = view_objects(Scene((car(left[0], left[1], np.pi / 2), car(-10, 0)), Ground()), CAMERA, SIZE)
    assert view.truncation[0] == pytest.approx(0.5, abs=0.05)
    assert view.boxes2d[0, 0] == 0
    assert view.truncation[1] == 1
    assert not view.in_image[1]


def test_picture_is_seeded_and_shows_the_object_where_its_box_is():
    with_car, without = Scene((car(12, 1),), Ground(), seed=4), Scene((), Ground(), seed=4)
    image, view = render_camera(with_car, CAMERA, SIZE)
    again, _ = render_camera(with_car, CAMERA, SIZE)
    assert image.shape == (*SIZE, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, again)
    empty, nothing = render_camera(without, CAMERA, SIZE)
    assert nothing.boxes2d.shape == (0, 4)
    changed = np.abs(image.astype(int) - empty).max(2) > 40
    x1, y1, x2, y2 = view.boxes2d[0].round().astype(int)
    assert changed[y1:y2, x1:x2].mean() > 0.5
    outside = changed.copy()
    # The shadow may fall beside the car, but not above its roof.
    outside[y1 - 1 :, :] = False
    assert outside.sum() == 0


def test_sky_is_above_road_is_below():
    image, _ = render_camera(sample_scene(0), CAMERA, SIZE)
    top, bottom = image[:10].reshape(-1, 3).mean(0), image[-10:, 250:400].reshape(-1, 3).mean(0)
    assert top[2] > top[0] > 90  # blue
    assert np.ptp(bottom) < 25  # grey
    assert bottom.mean() < 140
