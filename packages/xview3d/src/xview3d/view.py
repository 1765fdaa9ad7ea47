"""A view: a grid of spherical or cylindrical cells around any centre (arXiv 2103.13001)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tenfold._validation import checks_content
from tenfold.ops._checks import require_float

__all__ = ["KINDS", "PerspectiveTransform", "View"]

KINDS = ("spherical", "cylindrical", "cartesian")
#: Closer to the centre than this, metres, a direction means nothing.
NEAREST = 1e-6
#: How far a range may reach beyond the whole circle, radians: such cells stay empty.
_DEAD = 0.1
#: The encoders' largest stride: automatic ranges are whole numbers of their output cells.
_STRIDE = 8
_AXES = {
    "spherical": ("r", "psi", "theta"),
    "cylindrical": ("rho", "psi", "z"),
    "cartesian": ("x", "y", "z"),
}
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class View:
    """Where a view's centre lies, and its cells.

    With q = p - center: *spherical* coordinates are r = |q| in metres, psi = atan2(q_y, q_x) in (-pi, pi], theta =
    angle from +z in [0, pi]; *cylindrical* ones rho, psi, q_z; *cartesian* ones q itself, which is no perspective
    and serves as a control. Closer to the centre than 1e-6 m, psi is 0 and theta pi / 2.

    Args:
        center: x, y, z in the frame of the points, metres.
        kind: "spherical", "cylindrical" or "cartesian".
        range: three lower bounds, then three upper ones, in local coordinates; "auto" takes what the detector's
            range needs, see `resolved`.
        voxel: extents of a cell, local coordinates.
        yaw: direction in which psi is 0, radians; the seam at psi = pi lies behind it.
        psi_padding: "zero", or "circular": cells on both sides of the seam are neighbours. The whole circle is then
            divided into a multiple of 8 cells of about the given size.
        max_points: stored points of a cell.
        max_voxels: per frame, in training and in evaluation.

    Raises:
        ValueError: a wrong kind, length or number; a psi range that wraps around.

    Example:
        >>> import torch
        >>> view = View(center=(40.0, 0.0, 0.0))
        >>> [round(v, 5) for v in view.to_local(torch.tensor([[35.4, 0.2, -2.0]], dtype=torch.float64))[0].tolist()]
        [5.01996, 3.09814, 1.98058]
    """

    center: Numbers = (0.0, 0.0, 0.0)
    kind: str = "spherical"
    range: Numbers | str = "auto"
    voxel: Numbers = (0.05, 0.01, 0.01)
    yaw: float = 0.0
    psi_padding: str = "zero"
    max_points: int = 5
    max_voxels: tuple[int, int] = (16000, 40000)

    def __post_init__(self) -> None:
        for name in ("center", "voxel", "max_voxels"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.range, str):
            object.__setattr__(self, "range", tuple(float(v) for v in self.range))
        _require(self.kind in KINDS, f"kind: got {self.kind!r}; expected one of {', '.join(KINDS)}")
        _require(_finite(self.center, 3), f"center: got {self.center}; expected three finite numbers")
        _require(
            _finite(self.voxel, 3) and min(self.voxel) > 0,
            f"voxel: got {self.voxel}; expected three positive numbers",
        )
        _require(math.isfinite(self.yaw), f"yaw: got {self.yaw}; expected a finite number")
        _require(
            self.psi_padding in ("zero", "circular"),
            f"psi_padding: got {self.psi_padding!r}; expected 'zero' or 'circular'",
        )
        _require(
            self.max_points >= 1 and len(self.max_voxels) == 2 and min(self.max_voxels) >= 1,
            "max_points, max_voxels: expected one number and two, 1 or more",
        )
        _require(
            self.kind != "cartesian" or (self.yaw == 0 and self.psi_padding == "zero"),
            "kind: 'cartesian' has no psi; leave yaw and psi_padding out",
        )
        self._check_range()

    def _check_range(self) -> None:
        if self.range == "auto":
            return
        bounds = self.range
        _require(
            not isinstance(bounds, str) and _finite(bounds, 6),
            f"range: got {bounds!r}; expected six finite numbers, or 'auto'",
        )
        for axis, name in enumerate(self.axes):
            low, high = float(bounds[axis]), float(bounds[axis + 3])
            _require(low < high, f"range: got {name} from {low} to {high}; expected lower < upper")
            cells = (high - low) / self.voxel[axis]
            _require(
                abs(cells - round(cells)) <= 1e-3 + 1e-6 * cells,
                f"range: {name} from {low} to {high} is {cells:.4g} cells of {self.voxel[axis]}; "
                "expected a whole number",
            )
        if self.kind != "cartesian":
            low, high = float(bounds[1]), float(bounds[4])
            _require(
                low >= -math.pi - _DEAD and high <= math.pi + _DEAD,
                f"range: psi from {low} to {high} wraps around; psi runs from -pi to pi, turn the view by yaw",
            )

    @property
    def axes(self) -> tuple[str, str, str]:
        """Names of the local coordinates."""
        return _AXES[self.kind]

    @property
    def bounds(self) -> Numbers:
        """The range as six numbers.

        Raises:
            ValueError: it is still "auto".
        """
        if isinstance(self.range, str):
            raise ValueError("View: range: is 'auto'; call resolved(point_range) first")
        return self.range

    @property
    def grid(self) -> tuple[int, int, int]:
        """Cells along the three local axes.

        Example:
            >>> View(range=(0, -1.6, 0, 82, 1.6, 3.19)).grid
            (1640, 320, 319)
        """
        low, high = self.bounds[:3], self.bounds[3:]
        first, second, third = (round((b - a) / s) for a, b, s in zip(low, high, self.voxel, strict=True))
        return first, second, third

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Extents of the encoders' grid, last local axis first, with the empty layer that encoders want on top."""
        first, second, third = self.grid
        return third + 1, second, first

    # ---- points ---------------------------------------------------------------------------------------

    def to_local(self, xyz: Tensor, center: Tensor | None = None) -> Tensor:
        """Local coordinates (..., 3) of points (..., 3).

        Args:
            xyz: metres, float32 or float64.
            center: (3,) in place of the view's own; it and the points receive gradients.
        """
        own = xyz.new_tensor(self.center) if center is None else center.to(xyz.dtype)
        q = xyz - own
        if self.kind == "cartesian":
            return q
        x, y, z = q.unbind(-1)
        if self.yaw:
            cos, sin = math.cos(self.yaw), math.sin(self.yaw)
            x, y = cos * x + sin * y, cos * y - sin * x
        # The guards replace inputs, not outputs: a gradient through atan2(0, 0) or sqrt(0) would be NaN.
        flat = x * x + y * y
        upright = flat < NEAREST**2
        x, flat = torch.where(upright, 1.0, x), torch.where(upright, 1.0, flat)
        y = torch.where(upright, 0.0, y) + 0.0  # -0 would be the other side of the seam
        psi = torch.atan2(y, x)
        rho = torch.where(upright, 0.0, flat.sqrt())
        if self.kind == "cylindrical":
            return torch.stack((rho, psi, z), -1)
        near = upright & (z.abs() < NEAREST)
        z = torch.where(near, 0.0, z)
        r = torch.hypot(torch.where(near, 1.0, rho), z)
        theta = torch.atan2(torch.where(near, 1.0, rho), z)
        return torch.stack((torch.where(near, 0.0, r), psi, theta), -1)

    def to_cartesian(self, local: Tensor) -> Tensor:
        """Points (..., 3) of local coordinates (..., 3): the inverse of `to_local`.

        Example:
            >>> view = View(center=(40.0, -20.0, 0.0), yaw=0.5)
            >>> xyz = torch.tensor([[12.0, 5.0, -1.5]], dtype=torch.float64)
            >>> torch.allclose(view.to_cartesian(view.to_local(xyz)), xyz)
            True
        """
        own = local.new_tensor(self.center)
        if self.kind == "cartesian":
            return local + own
        first, psi, last = local.unbind(-1)
        rho, z = (first, last) if self.kind == "cylindrical" else (first * last.sin(), first * last.cos())
        psi = psi + self.yaw
        return torch.stack((rho * psi.cos(), rho * psi.sin(), z), -1) + own

    # ---- ranges ---------------------------------------------------------------------------------------

    def needed(self, point_range: Sequence[float]) -> Numbers:
        """Smallest range, six numbers, that holds every point of a box.

        Args:
            point_range: x, y, z of the lower corner, then of the upper, metres.

        Example:
            >>> [round(v, 2) for v in View(center=(40.0, 0.0, 0.0)).needed((0, -40, -3, 70.4, 40, 1))]
            [0.0, -3.14, 0.0, 56.65, 3.14, 3.14]
        """
        low = [float(b) - c for b, c in zip(point_range[:3], self.center, strict=True)]
        high = [float(b) - c for b, c in zip(point_range[3:], self.center, strict=True)]
        if self.kind == "cartesian":
            return (*low, *high)
        corners = [math.hypot(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])]
        gaps = [max(a, -b, 0.0) for a, b in zip(low, high, strict=True)]  # to the box, 0 inside
        rho = (math.hypot(gaps[0], gaps[1]), max(corners))
        psi = self._needed_psi(low, high)
        if self.kind == "cylindrical":
            return (rho[0], psi[0], low[2], rho[1], psi[1], high[2])
        r = (math.hypot(rho[0], gaps[2]), math.hypot(rho[1], max(abs(low[2]), abs(high[2]))))
        theta = (
            math.atan2(rho[0] if high[2] >= 0 else rho[1], high[2]),
            math.atan2(rho[0] if low[2] <= 0 else rho[1], low[2]),
        )
        return (r[0], psi[0], theta[0], r[1], psi[1], theta[1])

    def _needed_psi(self, low: list[float], high: list[float]) -> tuple[float, float]:
        whole = (-math.pi, math.pi)
        if low[0] < 0 < high[0] and low[1] < 0 < high[1]:
            return whole
        turned = [
            _wrap(math.atan2(y, x) - self.yaw)
            for x, y in itertools.product((low[0], high[0]), (low[1], high[1]))
            if math.hypot(x, y) > NEAREST
        ]
        found = min(turned), max(turned)
        # A box that does not hold the centre spans at most half a circle, unless the seam cuts it.
        return whole if found[1] - found[0] > math.pi + 1e-9 else found

    def resolved(self, point_range: Sequence[float]) -> View:
        """The view with its range written out, and checked against the detector's.

        "auto" reaches from 0 to the farthest corner, rounded up to a multiple of 8 cells; over the whole circle, or
        over |psi| <= 1.6 where that is enough; over all of theta (or the height of the box).

        Args:
            point_range: x, y, z of the lower corner, then of the upper, metres.

        Raises:
            ValueError: a part of the box would lie outside the view; the numbers that are needed are named.

        Example:
            >>> View().resolved((0, -40, -3, 70.4, 40, 1)).range
            (0.0, -1.6, 0.0, 81.2, 1.6, 3.15)
        """
        needed = self.needed(point_range)
        view = self if self.range != "auto" else replace(self, range=self._automatic(needed))
        if view.psi_padding == "circular":
            view = view._circular()
        view._check_covers(needed)
        return view

    def _automatic(self, needed: Numbers) -> Numbers:
        s = self.voxel
        if self.kind == "cartesian":
            cells = [_up(needed[k + 3] - needed[k], s[k]) for k in range(3)]
            upper = [needed[k] + cells[k] for k in range(3)]
            return (*needed[:3], *(round(v, 9) for v in upper))
        quarter = max(abs(needed[1]), abs(needed[4])) <= 1.6
        psi = _up(1.6 if quarter else math.pi, _STRIDE * s[1])
        first = _up(needed[3], _STRIDE * s[0])
        if self.kind == "cylindrical":
            return (0.0, -psi, needed[2], first, psi, round(needed[2] + _up(needed[5] - needed[2], s[2]), 9))
        return (0.0, -psi, 0.0, first, psi, _up(math.pi, s[2]))

    def _circular(self) -> View:
        low, high = self.bounds[:3], self.bounds[3:]
        _require(
            low[1] <= -math.pi and high[1] >= math.pi,
            f"psi_padding: 'circular' needs the whole circle; got psi from {low[1]} to {high[1]}",
        )
        cells = max(1, round(2 * math.pi / self.voxel[1] / _STRIDE)) * _STRIDE
        return replace(
            self,
            range=(low[0], -math.pi, low[2], high[0], math.pi, high[2]),
            voxel=(self.voxel[0], 2 * math.pi / cells, self.voxel[2]),
        )

    def _check_covers(self, needed: Numbers) -> None:
        own = self.bounds
        for axis, name in enumerate(self.axes):
            slack = 1e-3 * self.voxel[axis]
            _require(
                own[axis] <= needed[axis] + slack and own[axis + 3] >= needed[axis + 3] - slack,
                f"range: {name} from {own[axis]:g} to {own[axis + 3]:g} leaves out parts of the detector's range; "
                f"the view at {self.center} needs {needed[axis]:.4f} to {needed[axis + 3]:.4f}",
            )


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(f"View: {message}")


def _finite(values: Sequence[float], length: int) -> bool:
    return len(values) == length and all(math.isfinite(v) for v in values)


def _up(value: float, step: float) -> float:
    """Rounded up to a multiple of a step."""
    return round(math.ceil(value / step - 1e-9) * step, 9)


def _wrap(angle: float) -> float:
    """In (-pi, pi]."""
    turned = math.remainder(angle, 2 * math.pi)
    return math.pi if turned <= -math.pi else turned


class PerspectiveTransform(nn.Module):
    """Points as every view sees them; row i of each result is row i of the points.

    The step belongs behind augmentation: centres are fixed in the augmented frame.

    Args:
        views: see `View`.
        keep: features behind x, y, z that views see; None is all.
        trainable: make the centres parameters (experimental).

    Example:
        >>> transform = PerspectiveTransform([View(), View(center=(40.0, 0.0, 0.0))])
        >>> points = torch.tensor([[0.0, 40.0, 0.0, 0.0, 0.5]])  # batch index, x, y, z, intensity
        >>> [local.tolist() for local in transform(points)][1]
        [[0.0, 0.0, 0.0, 1.5707963705062866, 0.5]]
    """

    centers: nn.Parameter | None

    def __init__(self, views: Sequence[View], keep: int | None = None, *, trainable: bool = False) -> None:
        super().__init__()
        self.views = tuple(views)
        self.keep = keep
        start = torch.tensor([view.center for view in self.views])
        self.centers = nn.Parameter(start) if trainable else None

    def center(self, index: int) -> Tensor | None:
        """(3,) trainable centre of a view, or None where it is fixed."""
        return None if self.centers is None else self.centers[index]

    def forward(self, points: Tensor) -> list[Tensor]:
        """Local points of each view.

        Args:
            points: (N, 1 + F), batch index first, then x, y, z and features; or (B, N, F) without one.

        Raises:
            ValueError: fewer columns than that; at validation level "cheap" a number that is not finite.
        """
        op = "PerspectiveTransform"
        require_float(op, "points", points)
        first = 1 if points.dim() == 2 else 0
        if points.dim() not in (2, 3) or points.shape[-1] < first + 3:
            raise ValueError(
                f"{op}: points: got shape {tuple(points.shape)}; expected (N, 1 + F) or (B, N, F) with F >= 3"
            )
        if checks_content(points.is_cpu) and not bool(points.isfinite().all()):
            row = (~points.isfinite().flatten(0, -2).all(-1)).nonzero()[0, 0].item()
            raise ValueError(f"{op}: points: row {row} is not finite")
        xyz = points[..., first : first + 3]
        more = points[..., first + 3 :]
        more = more if self.keep is None else more[..., : self.keep]
        return [
            torch.cat((points[..., :first], view.to_local(xyz, self.center(k)), more), -1)
            for k, view in enumerate(self.views)
        ]
