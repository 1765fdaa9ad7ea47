import time

import numpy as np
import pytest
from shapely.geometry import Polygon

from tenfold.geometry import bev_corners, points_from_box_frame, points_to_box_frame
from tenfold.lidar.simulator import (
    KINDS,
    KITTI_64,
    NUSCENES_32,
    SECTOR_32,
    SMALL_SCENE,
    Ground,
    Scene,
    SceneConfig,
    Sensor,
    make_object,
    sample_scene,
    scan,
)
from tenfold.lidar.simulator.raycast import cast
from tenfold.lidar.simulator.scan import LidarGrid

# A perfect instrument: no noise, and every ray that meets something returns.
EXACT = Sensor(
    tuple(np.linspace(2, -24, 27)), 0.5, (-45, 45), range_noise=0.0, dropout=0.0, power=1e6, max_range=100
)


def car(x, y, heading=0.0, kind="Car"):
    size = KINDS[kind].mean
    return make_object(kind, np.array([x, y, -1.73 + size[2] / 2, *size, heading]))


class Rays:
    """A plain bundle of rays, every one of which may meet anything."""

    def __init__(self, origin, directions):
        self.origin, self.directions = np.asarray(origin, dtype=float), directions

    def near(self, centre, radius):
        return np.arange(len(self.directions))


def random_directions(n, seed=0):
    d = np.random.default_rng(seed).normal(size=(n, 3))
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def test_the_same_seed_gives_the_same_bits():
    a, b = (scan(sample_scene(5), SECTOR_32, seed=7) for _ in range(2))
    assert a.points.tobytes() == b.points.tobytes()
    assert a.boxes.tobytes() == b.boxes.tobytes()
    np.testing.assert_array_equal(a.instance, b.instance)
    assert scan(sample_scene(5), SECTOR_32, seed=8).points.tobytes() != a.points.tobytes()
    assert sample_scene(6).boxes.tobytes() != a.boxes.tobytes()


@pytest.mark.parametrize("layout", ["street", "open"])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_nothing_overlaps_and_everything_stands_on_the_ground(layout, seed):
    scene = sample_scene(seed, layout=layout, pair_fraction=0.7)
    boxes = np.array([o.box for o in scene.objects])
    shapes = [Polygon(c) for c in bev_corners(boxes)]
    for i, a in enumerate(shapes):
        for b in shapes[:i]:
            assert a.intersection(b).area < 1e-9
    ground = scene.ground.z(boxes[:, 0], boxes[:, 1])
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 5] / 2, ground, atol=1e-9)
    x0, y0, x1, y1 = SceneConfig().region
    singles = boxes[[o.name != "Car" for o in scene.objects]]
    assert ((singles[:, :2] >= (x0, y0)) & (singles[:, :2] <= (x1, y1))).all()


def test_counts_pairs_and_headings_follow_the_settings():
    config = SceneConfig(
        region=(0, -25.6, 51.2, 25.6),
        layout="open",
        n_cars=6,
        n_vans=1,
        n_pedestrians=2,
        n_cyclists=0,
        pair_fraction=0.0,
        pair_distance=(2.2, 2.2),
        heading_deviation=0.0,
    )
    alone = sample_scene(0, config)
    assert [alone.names.count(n) for n in ("Car", "Van", "Pedestrian", "Cyclist")] == [6, 1, 2, 0]
    folded = np.mod(alone.boxes[:6, 6] + 0.01, np.pi / 2)
    assert (folded < 0.02).all()
    paired = sample_scene(0, config, pair_fraction=1.0)
    cars = paired.boxes[[n == "Car" for n in paired.names]]
    assert 10 <= len(cars) <= 12
    # The nearest neighbour of every first car stands beside it, at the set distance across the heading.
    local = points_to_box_frame(cars[1, :3], cars[0])
    assert abs(local[1]) == pytest.approx(2.2, abs=0.01)


def test_sizes_have_the_means_of_their_class():
    bare = SceneConfig(n_cars=10, n_walls=0, n_poles=0, n_hedges=0, n_trees=0, n_blocks=0)
    cars = np.concatenate([sample_scene(s, bare).boxes[:8, 3:6] for s in range(40)])
    np.testing.assert_allclose(cars.mean(0), KINDS["Car"].mean, rtol=0.03)
    assert cars[:, 0].std() > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_parts_fill_their_box_and_stay_inside(kind):
    size = np.array(KINDS[kind].mean)
    thing = make_object(kind, np.array([0.0, 0, 0, *size, 0.7]), seed=3)
    centre_directions = random_directions(30)
    found = []
    for towards in centre_directions:
        # Parallel-ish rays from outside, aimed all over the box.
        targets = points_from_box_frame(
            np.random.default_rng(1).uniform(-0.5, 0.5, (1000, 3)) * size, thing.box
        )
        origin = -towards * 30
        d = targets - origin
        d /= np.linalg.norm(d, axis=1, keepdims=True)
        hits = cast((thing,), Ground(height=-1e6), Rays(origin, d), 1e3, np.random.default_rng(0))
        met = hits.owner == 0
        found.append(origin + d[met] * hits.distance[met, None])
    local = points_to_box_frame(np.concatenate(found), thing.box)
    assert (np.abs(local) <= size / 2 + 1e-6).all()
    reach = (local.max(0) - local.min(0)) / size
    # Poles are slimmer than their footprint, which leaves room for a sign.
    assert (reach > ((0.3, 0.3, 0.97) if kind == "pole" else 0.95)).all(), reach


@pytest.mark.parametrize("kind", ["Car", "Van", "Pedestrian", "Cyclist", "pole", "wall"])
def test_distances_agree_with_marching_through_the_solids(kind):
    thing = car(0, 0, 0.4, kind)
    origin = np.array([-6.0, 1.0, 0.5])
    targets = points_from_box_frame(
        np.random.default_rng(2).uniform(-0.6, 0.6, (150, 3)) * thing.box[3:6], thing.box
    )
    d = targets - origin
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    hits = cast((thing,), Ground(height=-1e6), Rays(origin, d), 100, np.random.default_rng(0))
    away, radius = np.linalg.norm(origin - thing.box[:3]), thing.bounding_radius
    steps = np.arange(max(0, away - radius - 0.1), away + radius + 0.1, 0.004)
    along = origin + steps[:, None, None] * d
    local = points_to_box_frame(along, thing.box)
    inside = np.zeros(local.shape[:2], dtype=bool)
    for part in thing.parts:
        member = np.ones_like(inside)
        for plane in part.planes:
            member &= local @ plane[:3] <= plane[3]
        if part.radii is not None:
            member &= (((local - part.centre) / part.radii) ** 2).sum(-1) <= 1
        inside |= member
    marched = np.where(inside.any(0), steps[inside.argmax(0)], np.inf)
    # Marching may step over a grazed edge, casting does not; both must agree everywhere else.
    agree = np.isclose(hits.distance, marched, atol=0.005) | (np.isinf(marched) & np.isinf(hits.distance))
    assert agree.mean() > 0.97
    assert np.isfinite(marched).sum() > 20


def test_normals_are_unit_and_face_the_ray():
    scene = sample_scene(1)
    grid = LidarGrid(SECTOR_32)
    hits = cast(scene.objects, scene.ground, grid, 80, np.random.default_rng(0))
    met = np.isfinite(hits.distance)
    np.testing.assert_allclose(np.linalg.norm(hits.normal[met], axis=1), 1, atol=1e-9)
    assert (np.einsum("ij,ij->i", hits.normal[met], grid.directions[met]) <= 1e-9).all()


def test_windows_of_rays_miss_nothing():
    scene = sample_scene(2, n_hedges=0, n_trees=0)  # foliage draws random numbers per tested ray
    grid = LidarGrid(Sensor(tuple(np.linspace(10, -30, 40)), 1.0))
    fast = cast(scene.objects, scene.ground, grid, 80, np.random.default_rng(0))
    slow = cast(scene.objects, scene.ground, Rays(grid.origin, grid.directions), 80, np.random.default_rng(0))
    np.testing.assert_array_equal(fast.owner, slow.owner)
    np.testing.assert_array_equal(fast.alone, slow.alone)
    np.testing.assert_allclose(fast.distance, slow.distance)


def test_flat_ground_gives_the_rings_of_trigonometry():
    frame = scan(Scene((), Ground(height=-1.73)), EXACT)
    beam = np.radians(np.array(EXACT.elevations)[frame.beam])
    np.testing.assert_allclose(np.hypot(*frame.points[:, :2].T), 1.73 / np.tan(-beam), rtol=1e-5)
    assert frame.boxes.shape == (0, 7)
    assert (frame.instance == -1).all()
    assert set(frame.beam) == {
        i for i, e in enumerate(EXACT.elevations) if e < 0 and 1.73 / np.sin(np.radians(-e)) < EXACT.max_range
    }


def test_wavy_ground_is_hit_where_it_is():
    scene = sample_scene(4, n_cars=0, n_vans=0, n_walls=0, undulation=0.1, slope=0.01)
    frame = scan(scene, EXACT)
    ground = frame.instance == -1
    x, y, z = frame.points[ground, :3].astype(float).T
    error = np.abs(z - scene.ground.z(x, y))
    assert np.mean(error < 0.02) > 0.75  # the rest met poles, trees and hedges
    lone = Scene((), scene.ground)
    x, y, z = scan(lone, EXACT).points[:, :3].astype(float).T
    assert len(x) > 0.9 * len(scan(Scene((), Ground(slope=scene.ground.slope)), EXACT).points)
    assert np.abs(z - scene.ground.z(x, y)).max() < 0.021


@pytest.mark.parametrize("sensor", [KITTI_64, NUSCENES_32, SECTOR_32], ids=["kitti", "nuscenes", "sector"])
def test_points_lie_on_the_beams_and_columns_of_the_sensor(sensor):
    frame = scan(sample_scene(0), sensor)
    xyz = frame.points[:, :3].astype(float)
    elevation = np.degrees(np.arcsin(xyz[:, 2] / np.linalg.norm(xyz, axis=1)))
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    np.testing.assert_allclose(elevation, np.array(sensor.elevations)[frame.beam], atol=1e-3)
    turn = azimuth - sensor.azimuths[frame.column]
    np.testing.assert_allclose(np.mod(turn + 180, 360) - 180, 0, atol=1e-3)
    distance = np.linalg.norm(xyz, axis=1)
    assert distance.min() >= sensor.min_range - 1e-5
    assert distance.max() <= sensor.max_range + 1e-4
    # One return per beam and column.
    assert len(np.unique(frame.beam * sensor.shape[1] + frame.column)) == len(xyz)
    assert ((frame.points[:, 3] >= 0) & (frame.points[:, 3] < 1)).all()


@pytest.mark.parametrize("seed", range(4))
def test_instance_points_lie_in_their_boxes(seed):
    frame = scan(sample_scene(seed, n_cars=12), KITTI_64, seed)
    assert frame.counts.sum() == (frame.instance >= 0).sum() > 300
    for index, box in enumerate(frame.boxes.astype(float)):
        mine = frame.points[frame.instance == index, :3].astype(float)
        assert len(mine) == frame.counts[index]
        local = np.abs(points_to_box_frame(mine, box))
        assert (local <= box[3:6] / 2 + 6 * KITTI_64.range_noise).all()


def test_occluded_objects_get_fewer_points():
    target, blocker = car(20, 0), car(10, 0.9, kind="Van")
    free = scan(Scene((target,), Ground()), EXACT)
    hidden = scan(Scene((blocker, target), Ground()), EXACT)
    assert free.visibility[0] == 1
    assert hidden.visibility[0] == 1
    assert 0 <= hidden.counts[1] < 0.7 * free.counts[0]
    # Windows swallow a random share of the pulses of both scans, hence the tolerance.
    assert hidden.visibility[1] == pytest.approx(hidden.counts[1] / free.counts[0], abs=0.1)
    wall = make_object("wall", np.array([8.0, 0, 0, 0.5, 10, 6, 0]))
    behind = scan(Scene((wall, target), Ground()), EXACT)
    assert behind.counts[0] == 0
    assert behind.visibility[0] == 0


def test_small_scenes_have_cars_pairs_and_a_flat_ground():
    scenes = [sample_scene(s, SMALL_SCENE) for s in range(20)]
    assert 7 < np.mean([len(s.names) for s in scenes]) < 10
    assert {n for s in scenes for n in s.names} == {"Car"}
    frame = scan(scenes[0], SECTOR_32)
    assert 3000 < len(frame.points) < 32 * 225
    near_ground = frame.points[(frame.instance == -1) & (frame.points[:, 2] < -1.5), 2]
    assert np.abs(near_ground + 1.73).mean() < 0.02


def test_points_thin_out_with_distance():
    counts = [scan(Scene((car(x, 0),), Ground()), EXACT).counts[0] for x in (8, 16, 32, 64)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10 * counts[2]


def test_hedges_let_through_what_their_free_path_says():
    hedge = make_object("hedge", np.array([10.0, 0, 0, 0.3, 30, 8, 0]))
    wall = make_object("wall", np.array([14.0, 0, 0, 0.5, 30, 8, 0]))
    frame = scan(Scene((hedge, wall), Ground(height=-50)), EXACT)
    xyz = frame.points[:, :3].astype(float)
    xyz = xyz[np.abs(xyz[:, 2] / xyz[:, 0]) < 0.25]  # rays that cross both front faces
    through = xyz[:, 0] > 13.5
    path = 0.3 * np.linalg.norm(xyz, axis=1) / xyz[:, 0]
    expected = np.exp(-path / hedge.parts[0].free_path).mean()
    assert 0.1 < expected < 0.6
    assert through.mean() == pytest.approx(expected, abs=0.03)
    assert ((xyz[~through, 0] >= 9.85) & (xyz[~through, 0] <= 10.15)).all()
    assert xyz[~through, 0].std() > 0.03


def test_dropout_noise_and_weak_returns():
    scene = Scene((make_object("wall", np.array([10.0, 0, 0, 1, 30, 12, 0])),), Ground(height=-50))
    lossless = scan(scene, EXACT)
    beams, columns = EXACT.shape
    assert len(lossless.points) == beams * columns
    lossy = Sensor(EXACT.elevations, 0.5, (-45, 45), range_noise=0.1, dropout=0.4, power=1e6)
    frame = scan(scene, lossy)
    assert len(frame.points) == pytest.approx(0.6 * beams * columns, rel=0.06)
    exact = np.full((beams, columns), np.nan)
    exact[lossless.beam, lossless.column] = np.linalg.norm(lossless.points[:, :3], axis=1)
    error = np.linalg.norm(frame.points[:, :3], axis=1) - exact[frame.beam, frame.column]
    assert error.std() == pytest.approx(0.1, rel=0.1)
    weak = scan(scene, Sensor(EXACT.elevations, 0.5, (-45, 45), power=0.02))
    assert len(weak.points) < 0.5 * len(lossless.points)


def test_number_plates_shine_and_windows_let_pulses_through():
    sensor = Sensor(tuple(np.linspace(2, -18, 200)), 0.1, (-20, 20), dropout=0.0, power=1e6)
    scene = Scene((car(7, 0),), Ground())
    hits = cast(scene.objects, scene.ground, LidarGrid(sensor), 80, np.random.default_rng(0))
    frame = scan(scene, sensor)
    material = [p.material for p in hits.parts]
    part = hits.part.reshape(sensor.shape)[frame.beam, frame.column]
    plate = [k for k, m in enumerate(material) if m.reflectance == 0.95]
    assert frame.points[np.isin(part, plate), 3].mean() > 0.8
    assert frame.points[part == 0, 3].mean() < 0.6
    window = next(k for k, m in enumerate(material) if m.transmission == 0.7)
    assert (part == window).sum() == pytest.approx(0.3 * (hits.part == window).sum(), rel=0.1)
    assert (part == 0).sum() == (hits.part == 0).sum()


@pytest.mark.parametrize(("sensor", "budget"), [(KITTI_64, 1.5), (SECTOR_32, 0.2)], ids=["64x2048", "sector"])
def test_frames_are_fast(sensor, budget):
    scene = sample_scene(0)
    scan(scene, sensor)
    spent = []
    for _ in range(3):
        start = time.process_time()
        scan(scene, sensor)
        spent.append(time.process_time() - start)
        if spent[-1] < budget:
            return
    pytest.fail(f"{spent} s; expected less than {budget}")


def test_frames_have_the_size_of_real_ones():
    counts = [len(scan(sample_scene(s), KITTI_64).points) for s in range(3)]
    # The sample frames of the real sensor have 115 to 127 thousand points.
    assert all(85_000 < n < 131_072 for n in counts)


def test_wrong_settings_name_the_field():
    with pytest.raises(ValueError, match="elevations"):
        Sensor((), 0.2)
    with pytest.raises(ValueError, match="azimuth_step"):
        Sensor((0.0,), 0.0)
    with pytest.raises(ValueError, match="azimuth_range"):
        Sensor((0.0,), 0.2, (0, 400))
    with pytest.raises(ValueError, match="dropout"):
        Sensor((0.0,), 0.2, dropout=1.0)
    with pytest.raises(ValueError, match="region"):
        SceneConfig(region=(0, 0, -1, 1))
    with pytest.raises(ValueError, match="layout"):
        SceneConfig(layout="town")
    with pytest.raises(ValueError, match="pair_fraction"):
        SceneConfig(pair_fraction=2)
    with pytest.raises(ValueError, match="kind"):
        make_object("Horse", np.ones(7))
    with pytest.raises(ValueError, match="box"):
        make_object("Car", np.array([0, 0, 0, 0, 1, 1, 0.0]))
