"""The ground: a gently sloped, undulating surface with a road on it."""

from dataclasses import dataclass

import numpy as np

from tenfold.lidar.simulator.shapes import FloatArray

# y of the right and the left kerb: own lane around y = 0, oncoming lane, parking strips on both sides.
KERBS = (-4.2, 7.8)
ASPHALT = (0.30, (0.34, 0.34, 0.36))
MARKING = (0.75, (0.85, 0.85, 0.83))
PAVEMENT = (0.36, (0.50, 0.49, 0.47))
GRASS = (0.42, (0.24, 0.30, 0.13))


@dataclass(frozen=True, eq=False)
class Ground:
    """Height field ``z = height + slope . (x, y) + sum of waves`` with a road along +x.

    Args:
        height: z below the sensor, metres.
        slope: rise per metre along x and y.
        waves: ``(K, 4)`` rows (amplitude in metres, kx, ky in rad/m, phase).
        road: y of the right and the left kerb, metres; between them asphalt with lane markings.
        pavement: width of the pavement on both sides; grass beyond.
    """

    height: float = -1.73
    slope: tuple[float, float] = (0.0, 0.0)
    waves: FloatArray | None = None
    road: tuple[float, float] = KERBS
    pavement: float = 3.0

    def z(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Height of the ground at positions of any shape."""
        z: FloatArray = np.asarray(self.height + self.slope[0] * x + self.slope[1] * y)
        for amplitude, kx, ky, phase in () if self.waves is None else self.waves:
            # The wave is measured from its own value at the sensor, which stands at `height`.
            z = z + amplitude * (np.sin(kx * x + ky * y + phase) - np.sin(phase))
        return z

    def intersect(self, origin: FloatArray, directions: FloatArray, max_range: float) -> FloatArray:
        """Distance ``(R,)`` at which rays meet the ground; infinite where they do not within `max_range`."""
        fall = directions[:, 2] - directions[:, 0] * self.slope[0] - directions[:, 1] * self.slope[1]
        above = origin[2] - (self.height + origin[0] * self.slope[0] + origin[1] * self.slope[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(fall < 0, -above / fall, np.inf)
        if self.waves is None:
            return np.where(t <= max_range, t, np.inf)
        t = np.minimum(t, max_range)
        for _ in range(6):
            # Newton steps with the slope of the plane: the waves are small, and the rest is tested below.
            gap = self._gap(origin, directions, t)
            with np.errstate(divide="ignore", invalid="ignore"):
                t = np.clip(t - np.where(fall < 0, gap / fall, 0), 0, max_range)
        on_it = (np.abs(self._gap(origin, directions, t)) < 0.02) & (t < max_range)
        return np.where(on_it, t, np.inf)

    def _gap(self, origin: FloatArray, directions: FloatArray, t: FloatArray) -> FloatArray:
        """Height of the rays above the ground after t metres."""
        x, y, z = (origin[axis] + t * directions[:, axis] for axis in range(3))
        gap: FloatArray = z - self.z(x, y)
        return gap

    def surface(self, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Laser reflectance ``(R,)`` and colour ``(R, 3)`` of the ground at positions ``(R,)``."""
        right, left = self.road
        on_road = (y > right) & (y < left)
        beside = ~on_road & (y > right - self.pavement) & (y < left + self.pavement)
        middle = (right + left) / 2
        dashes = (np.abs(y - middle) < 0.07) & (np.mod(x, 9.0) < 4.0)
        edges = (np.abs(y - right - 0.25) < 0.06) | (np.abs(y - left + 0.25) < 0.06)
        marked = on_road & (dashes | edges)
        reflectance = np.select((marked, on_road, beside), (MARKING[0], ASPHALT[0], PAVEMENT[0]), GRASS[0])
        colour = np.full((*x.shape, 3), GRASS[1])
        for mask, (_, rgb) in ((beside, PAVEMENT), (on_road, ASPHALT), (marked, MARKING)):
            colour[mask] = rgb
        return reflectance, colour
