"""The same world through a camera: which objects it sees, and a shaded picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tenfold.geometry import Calibration, project_boxes
from tenfold.lidar.simulator.raycast import GROUND, NOTHING, Hits, cast
from tenfold.lidar.simulator.scene import Scene
from tenfold.lidar.simulator.shapes import FloatArray, IntArray, SceneObject

BoolArray = npt.NDArray[np.bool_]
CAMERA_RANGE = 400.0
# KITTI's words: 0 fully visible, 1 partly occluded, 2 largely occluded, 3 unknown.
OCCLUSION_LIMITS = (0.8, 0.4, 0.1)


class CameraGrid:
    """Rays through the pixel centres of an image, row by row; with `step` only through every step-th."""

    def __init__(self, calibration: Calibration, image_size: tuple[int, int], step: int = 1) -> None:
        height, width = image_size
        self._calibration, self._step = calibration, step
        self._rows, self._columns = np.arange(0, height, step), np.arange(0, width, step)
        uv = np.stack(np.meshgrid(self._columns, self._rows), axis=-1).reshape(-1, 2).astype(np.float64)
        self.shape = (len(self._rows), len(self._columns))
        self.origin: FloatArray = calibration.image_to_lidar(np.zeros((1, 2)), np.zeros(1))[0]
        ahead = calibration.image_to_lidar(uv, np.ones(len(uv))) - self.origin
        self.directions: FloatArray = ahead / np.linalg.norm(ahead, axis=1, keepdims=True)

    def near(self, centre: FloatArray, radius: float) -> IntArray:
        """Indices of the pixels inside the projection of a cube around the sphere."""
        rect = self._calibration.lidar_to_rect(centre[None])[0]
        if rect[2] + radius <= 0:
            return np.zeros(0, dtype=np.int64)
        rows, columns = np.arange(self.shape[0]), np.arange(self.shape[1])
        if rect[2] - radius > 0.1:
            cube = np.stack(np.meshgrid(*[(-radius, radius)] * 3), axis=-1).reshape(-1, 3)
            uv = self._calibration.rect_to_image(rect + cube)[0]
            (u0, v0), (u1, v1) = uv.min(axis=0), uv.max(axis=0)
            rows = rows[(self._rows >= v0) & (self._rows <= v1)]
            columns = columns[(self._columns >= u0) & (self._columns <= u1)]
        return (rows[:, None] * self.shape[1] + columns[None, :]).ravel()


@dataclass(frozen=True, eq=False)
class CameraView:
    """How a camera sees the labelled objects of a scene, one entry per box.

    Attributes:
        boxes2d: ``(M, 4)`` x1, y1, x2, y2, pixels: the projected corners, clipped to the image; 0 if outside.
        in_image: ``(M,)`` some part of the box projects into the image.
        truncation: ``(M,)`` share of the unclipped 2-D box outside the image (1 when not `in_image`).
        visibility: ``(M,)`` share of the object's pixels that nothing else covers.
        occlusion: ``(M,)`` KITTI level: 0 fully visible, 1 partly, 2 largely occluded, 3 hidden or unknown.
    """

    boxes2d: FloatArray
    in_image: BoolArray
    truncation: FloatArray
    visibility: FloatArray
    occlusion: IntArray


def view_objects(
    scene: Scene, calibration: Calibration, image_size: tuple[int, int] = (375, 1242), step: int = 2
) -> CameraView:
    """What a camera sees, without painting a picture: casts a ray through every `step`-th pixel.

    >>> from tenfold.lidar.simulator import sample_scene
    >>> view = view_objects(sample_scene(0), Calibration.kitti_like())
    >>> view.boxes2d.shape[1]
    4
    """
    grid = CameraGrid(calibration, image_size, step)
    return _view(scene, calibration, image_size, _cast_camera(scene, grid))


def _cast_camera(scene: Scene, grid: CameraGrid) -> Hits:
    return cast(scene.objects, scene.ground, grid, CAMERA_RANGE, np.random.default_rng((scene.seed, 3)))


def _view(scene: Scene, calibration: Calibration, image_size: tuple[int, int], hits: Hits) -> CameraView:
    boxes = scene.boxes.astype(np.float64)
    boxes2d, in_image = project_boxes(boxes, calibration, image_size)
    whole, _ = project_boxes(boxes, calibration)
    area, full = _areas(boxes2d), _areas(whole)
    truncation = np.where(in_image, 1 - area / np.maximum(full, 1e-9), 1.0)
    visibility = hits.visibility()[scene.box_index >= 0]
    occlusion = sum((visibility < limit).astype(np.int64) for limit in OCCLUSION_LIMITS)
    return CameraView(boxes2d, in_image, np.clip(truncation, 0, 1), visibility, np.asarray(occlusion))


def _areas(boxes: FloatArray) -> FloatArray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def render_camera(
    scene: Scene, calibration: Calibration, image_size: tuple[int, int] = (375, 1242)
) -> tuple[npt.NDArray[np.uint8], CameraView]:
    """Picture ``(height, width, 3)`` uint8 RGB of a scene, and how the camera sees its objects.

    One ray per pixel, diffuse shading, a sun that casts shadows on the ground, haze, foliage and facades:
    recognisable, not photographic.

    >>> from tenfold.lidar.simulator import sample_scene
    >>> image, view = render_camera(sample_scene(0), Calibration.kitti_like((94, 310)), (94, 310))
    >>> image.shape
    (94, 310, 3)
    """
    grid = CameraGrid(calibration, image_size)
    hits = _cast_camera(scene, grid)
    rng = np.random.default_rng((scene.seed, 4))
    # The sky has its own seed, so that it stays when objects come or go.
    backdrop = np.random.default_rng((scene.seed, 5))
    sun = _sun(backdrop)
    colour = _surface_colours(scene, grid, hits, rng)
    light = 0.5 + 0.65 * np.maximum(hits.normal @ sun, 0)
    light[_shaded_ground(scene, grid, hits, sun)] *= 0.5
    colour *= light[:, None]
    sky = _sky(grid.directions, backdrop)
    haze = np.exp(-np.minimum(hits.distance, 1e6) / 300)[:, None]
    horizon = np.array([0.78, 0.84, 0.9])
    colour = np.where((hits.owner == NOTHING)[:, None], sky, haze * colour + (1 - haze) * horizon)
    image = np.clip(colour + rng.normal(0, 0.012, colour.shape), 0, 1) * 255
    pixels = np.round(image).astype(np.uint8).reshape(*grid.shape, 3)
    return pixels, _view(scene, calibration, image_size, hits)


def _sun(rng: np.random.Generator) -> FloatArray:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.1)
    return np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )


def _sky(directions: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Gradient towards the zenith above a line of far trees."""
    up = np.clip(directions[:, 2:] / 0.35, 0, 1)
    sky = (1 - up) * np.array([0.88, 0.92, 0.96]) + up * np.array([0.42, 0.62, 0.9])
    azimuth = np.arctan2(directions[:, 1], directions[:, 0])
    line = 0.025 + sum(
        0.008 * np.sin(f * azimuth + p) for f, p in zip((7, 23, 61), rng.uniform(0, 6.28, 3), strict=True)
    )
    return np.where((directions[:, 2] < line)[:, None], (0.42, 0.5, 0.46), sky)


def _surface_colours(scene: Scene, grid: CameraGrid, hits: Hits, rng: np.random.Generator) -> FloatArray:
    # The last entry stands for the sky and for the ground, which is painted below.
    table = np.array([p.material.colour for p in hits.parts] + [(0.0, 0.0, 0.0)])
    part = np.maximum(hits.part, -1)
    colour = table[part]
    ground = hits.owner == GROUND
    where = grid.origin + grid.directions[ground] * hits.distance[ground, None]
    painted = scene.ground.surface(where[:, 0], where[:, 1])[1]
    # Grain of asphalt and grass, blurred away with distance, and large soft patches.
    grain = rng.normal(0, 0.1, len(where)) * np.exp(-hits.distance[ground] / 25)
    patches = 0.05 * np.sin(0.9 * where[:, 0]) * np.sin(0.7 * where[:, 1] + 0.3 * where[:, 0])
    colour[ground] = painted * (1 + grain + patches)[:, None]

    patterns = np.array([p.material.pattern for p in hits.parts] + [""])[part]
    leaves = patterns == "leaves"
    colour[leaves] *= rng.uniform(0.5, 1.4, (int(leaves.sum()), 1))
    _paint_windows(scene, grid, hits, np.flatnonzero(patterns == "windows"), colour)
    return colour


def _paint_windows(scene: Scene, grid: CameraGrid, hits: Hits, rays: IntArray, colour: FloatArray) -> None:
    """Rows of dark windows on facades, in place."""
    boxes = np.array([o.box for o in scene.objects]).reshape(-1, 7)[hits.owner[rays]]
    where = grid.origin + grid.directions[rays] * hits.distance[rays, None] - boxes[:, :3]
    cos, sin = np.cos(boxes[:, 6]), np.sin(boxes[:, 6])
    along = where[:, 0] * cos + where[:, 1] * sin
    up = where[:, 2] + boxes[:, 5] / 2
    pane = (
        (np.mod(along, 2.6) > 0.7)
        & (np.mod(along, 2.6) < 1.9)
        & (np.mod(up, 2.8) > 1.0)
        & (np.mod(up, 2.8) < 2.3)
    )
    pane &= np.abs(hits.normal[rays, 2]) < 0.5
    colour[rays[pane]] = (0.2, 0.24, 0.3)


def _shaded_ground(scene: Scene, grid: CameraGrid, hits: Hits, sun: FloatArray) -> BoolArray:
    """Ground pixels whose way to the sun passes the box of an object (for trees: of its inner part)."""
    shaded = np.zeros(len(hits.owner), dtype=bool)
    for thing in scene.objects:
        length = thing.box[5] / sun[2]
        # The shadow lies within a sphere around the middle of the box and the tip of its shadow.
        middle = thing.box[:3] - sun * length / 2
        rays = grid.near(middle, thing.bounding_radius + length / 2)
        rays = rays[(hits.owner[rays] == GROUND) & ~shaded[rays]]
        where = grid.origin + grid.directions[rays] * hits.distance[rays, None]
        shaded[rays[_blocked(thing, where, sun)]] = True
    return shaded


def _blocked(thing: SceneObject, where: FloatArray, sun: FloatArray) -> BoolArray:
    cos, sin = np.cos(thing.box[6]), np.sin(thing.box[6])
    to_local = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    origin = (where - thing.box[:3]) @ to_local.T
    direction = to_local @ sun
    # Shapes are slimmer than their boxes, crowns and people most of all.
    slim = {"tree": 0.7, "pole": 0.35, "Pedestrian": 0.6, "Cyclist": 0.6}.get(thing.name, 0.95)
    half = thing.box[3:6] / 2 * (slim, slim, 1)
    low = np.array([0, 0, half[2] / 3]) if thing.name == "tree" else np.array([0, 0, -half[2]])
    with np.errstate(divide="ignore", invalid="ignore"):
        a = (np.array([-half[0], -half[1], low[2]]) - origin) / direction
        b = (half - origin) / direction
    enter, leave = np.fmin(a, b).max(axis=1), np.fmax(a, b).min(axis=1)
    return (enter <= leave) & (leave > 0)  # type: ignore[no-any-return]
