"""Input sets: balls of a norm and boxes, batched, and how a linear function is bounded over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Box", "InputSet", "LpBall", "Reach"]

Interval = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Box:
    """Inputs between two corners.

    Attributes:
        lower: ``(B, *input)``.
        upper: ``(B, *input)``, nowhere below ``lower``.

    Raises:
        ValueError: shapes or dtypes differ, a corner is not finite, or ``lower`` exceeds ``upper``.

    >>> box = Box(torch.zeros(1, 2), torch.ones(1, 2))
    >>> box.minimum(torch.tensor([[[1.0, -2.0]]]))
    tensor([[-2.]])
    """

    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        _check_corner("Box", "lower", self.lower)
        _check_corner("Box", "upper", self.upper)
        if self.lower.shape != self.upper.shape or self.lower.dtype != self.upper.dtype:
            raise ValueError(
                f"Box: upper: got {tuple(self.upper.shape)} of {self.upper.dtype}; expected"
                f" {tuple(self.lower.shape)} of {self.lower.dtype} as lower"
            )
        if bool((self.lower > self.upper).any()):
            raise ValueError("Box: lower: exceeds upper in some coordinate; expected lower <= upper")

    @property
    def center(self) -> Tensor:
        """``(B, *input)``."""
        return (self.lower + self.upper) / 2

    def interval(self) -> Interval:
        """The smallest box around the set, as ``(lower, upper)``."""
        return self.lower, self.upper

    def radius_times(self, a: Tensor) -> Tensor:
        """``max a (x - center)`` over the set, ``(B, S)``, for rows ``a (B, S, n)``."""
        radius = ((self.upper - self.lower) / 2).flatten(1)
        return torch.einsum("bsn,bn->bs", a.abs(), radius)

    def minimum(self, a: Tensor) -> Tensor:
        """``min a x`` over the set, ``(B, S)``, for rows ``a (B, S, *input)``."""
        return _minimum(self, a)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Box:
        """The same set with its numbers in another dtype or place; never smaller.

        A conversion to a narrower dtype rounds both corners outward.
        """
        lower, upper = self.lower.to(device=device, dtype=dtype), self.upper.to(device=device, dtype=dtype)
        if lower.dtype != self.lower.dtype:
            lower = torch.where(lower.to(self.lower) > self.lower, _below(lower), lower)
            upper = torch.where(upper.to(self.upper) < self.upper, -_below(-upper), upper)
        return Box(lower, upper)

    def contains(self, x: Tensor) -> Tensor:
        """``(B,)``: whether ``x (B, *input)`` lies in the set."""
        return ((x >= self.lower) & (x <= self.upper)).flatten(1).all(1)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``(count, B, *input)``: uniform points; every second one is a corner."""
        shape = (count, *self.lower.shape)
        share = _drawn(torch.rand, shape, self.lower, generator)
        share[1::2] = share[1::2].round()
        return self.lower + (self.upper - self.lower) * share

    def __getitem__(self, rows: slice | Tensor) -> Box:
        return Box(self.lower[rows], self.upper[rows])

    def __len__(self) -> int:
        return len(self.lower)


@dataclass(frozen=True, eq=False)
class LpBall:
    """Inputs within distance ``eps`` of a centre.

    Attributes:
        center: ``(B, *input)``.
        eps: radius, a number or ``(B,)``, at least 0.
        norm: 1, 2, infinity or any number above 1.
        clip: valid range ``(low, high)`` of every coordinate; only for the infinity norm, where the cut ball
            is a box.

    Raises:
        ValueError: a negative or non-finite ``eps``, an unknown norm, ``clip`` with another norm, a centre
            that is not finite.

    >>> ball = LpBall(torch.zeros(1, 3), 0.5, norm=2)
    >>> ball.minimum(torch.tensor([[[3.0, 4.0, 0.0]]]))
    tensor([[-2.5000]])
    """

    center: Tensor
    eps: float | Tensor
    norm: float = math.inf
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        _check_corner("LpBall", "center", self.center)
        eps = torch.as_tensor(self.eps)
        if eps.ndim > 1 or (eps.ndim == 1 and len(eps) != len(self.center)):
            raise ValueError(
                f"LpBall: eps: got shape {tuple(eps.shape)}; expected a number or ({len(self.center)},)"
            )
        if not bool(torch.isfinite(eps).all()) or bool((eps < 0).any()):
            raise ValueError(f"LpBall: eps: got {self.eps}; expected finite numbers, at least 0")
        if math.isnan(self.norm) or self.norm < 1:
            raise ValueError(f"LpBall: norm: got {self.norm}; expected a number of at least 1, or infinity")
        if self.clip is not None and not math.isinf(self.norm):
            raise ValueError("LpBall: clip: got a range; expected none unless the norm is infinity")
        if self.clip is not None and self.clip[0] > self.clip[1]:
            raise ValueError(f"LpBall: clip: got {self.clip}; expected (low, high)")

    @property
    def dual(self) -> float:
        """Exponent q with 1/p + 1/q = 1."""
        if math.isinf(self.norm):
            return 1.0
        return math.inf if self.norm == 1 else self.norm / (self.norm - 1)

    @property
    def radii(self) -> Tensor:
        """``(B,)``: radius of each ball."""
        eps = torch.as_tensor(self.eps, dtype=self.center.dtype, device=self.center.device)
        return eps.expand(len(self.center))

    def box(self) -> Box | None:
        """The set as a box where it is one, else None.

        In double precision, that of proofs, corners are rounded outward.
        """
        if not math.isinf(self.norm):
            return None
        eps = self.radii.view(-1, *[1] * (self.center.ndim - 1))
        lower, upper = self.center - eps, self.center + eps
        if self.center.dtype == torch.float64:
            lower, upper = _sum_below(self.center, -eps), -_sum_below(-self.center, -eps)
        if self.clip is not None:
            lower, upper = lower.clamp(*self.clip), upper.clamp(*self.clip)
        return Box(lower, upper)

    def interval(self) -> Interval:
        """The smallest box around the set, as ``(lower, upper)``."""
        box = LpBall(self.center, self.eps, math.inf, self.clip).box()
        assert box is not None
        return box.lower, box.upper

    def radius_times(self, a: Tensor) -> Tensor:
        """``max a (x - center)`` over the ball, ``(B, S)``, for rows ``a (B, S, n)``."""
        norms: Tensor = torch.linalg.vector_norm(a, self.dual, dim=-1)
        return norms * self.radii[:, None]

    def minimum(self, a: Tensor) -> Tensor:
        """``min a x`` over the ball, ``(B, S)``, for rows ``a (B, S, *input)``."""
        return _minimum(self, a)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> LpBall:
        """The same set with its numbers in another dtype or place."""
        eps = self.eps if not isinstance(self.eps, Tensor) else self.eps.to(device=device, dtype=dtype)
        return LpBall(self.center.to(device=device, dtype=dtype), eps, self.norm, self.clip)

    def contains(self, x: Tensor) -> Tensor:
        """``(B,)``: whether ``x (B, *input)`` lies in the set."""
        box = self.box()
        if box is not None:
            return box.contains(x)
        distance: Tensor = torch.linalg.vector_norm((x - self.center).flatten(1), self.norm, dim=1)
        return distance <= self.radii

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``(count, B, *input)``: points of the set; every second one on its surface."""
        box = self.box()
        if box is not None:
            return box.sample(count, generator)
        shape = (count, *self.center.shape)
        ways = _drawn(torch.randn, shape, self.center, generator).flatten(2)
        norms: Tensor = torch.linalg.vector_norm(ways, self.norm, dim=2, keepdim=True)
        ways = ways / norms
        length = _drawn(torch.rand, (count, len(self.center), 1), ways, generator)
        length[1::2] = 1 - 1e-6
        return self.center + (ways * length * self.radii[:, None]).view(shape)

    def __getitem__(self, rows: slice | Tensor) -> LpBall:
        eps = self.eps[rows] if isinstance(self.eps, Tensor) and self.eps.ndim else self.eps
        return LpBall(self.center[rows], eps, self.norm, self.clip)

    def __len__(self) -> int:
        return len(self.center)


InputSet = Box | LpBall


def simplest(region: InputSet) -> InputSet:
    """The set as a box where it is one."""
    box = region.box() if isinstance(region, LpBall) else None
    return region if box is None else box


class Reach:
    """Ends of linear functions over a set, from parts of their coefficients.

    Args:
        region: the set; a ball of the infinity norm as its box.

    >>> reach = Reach(Box(torch.zeros(1, 2), torch.ones(1, 2)))
    >>> reach.add(torch.tensor([[[1.0]]]), slice(0, 1)); reach.add(torch.tensor([[[-2.0]]]), slice(1, 2))
    >>> reach.least().tolist(), reach.most().tolist()
    ([[-2.0]], [[1.0]])
    """

    def __init__(self, region: InputSet) -> None:
        self.region = region
        self._center: Tensor | None = None
        self._size: Tensor | None = None

    def add(self, rows: Tensor, columns: slice) -> None:
        """Coefficients ``(B or 1, S, n)`` of the flat input's ``columns``."""
        center = _times(rows, self.region.center.flatten(1)[:, columns])
        size = self._part(rows, columns)
        self._center = center if self._center is None else self._center + center
        self._size = size if self._size is None else self._joined(self._size, size)

    def _part(self, rows: Tensor, columns: slice) -> Tensor:
        """Half-width of a box, or the dual norm of a ball's rows."""
        if isinstance(self.region, Box):
            return _times(rows.abs(), ((self.region.upper - self.region.lower) / 2).flatten(1)[:, columns])
        norms: Tensor = torch.linalg.vector_norm(rows, self.region.dual, dim=2)
        return norms

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        if isinstance(self.region, Box):
            return a + b
        norms: Tensor = torch.linalg.vector_norm(torch.stack([a, b]), self.region.dual, dim=0)
        return norms

    def half(self) -> Tensor:
        """Half-widths ``(B, S)``."""
        assert self._size is not None
        return self._size if isinstance(self.region, Box) else self._size * self.region.radii[:, None]

    def least(self) -> Tensor:
        """Least values ``(B, S)``."""
        assert self._center is not None
        return self._center - self.half()

    def most(self) -> Tensor:
        """Largest values ``(B, S)``."""
        assert self._center is not None
        return self._center + self.half()


def _times(rows: Tensor, x: Tensor) -> Tensor:
    """``(B, S)`` from rows ``(B or 1, S, n)`` and ``x (B, n)``."""
    if len(rows) == 1:
        return x @ rows[0].T
    return torch.bmm(rows, x.unsqueeze(2)).squeeze(2)


def _minimum(region: InputSet, a: Tensor) -> Tensor:
    exact = simplest(region)
    rows = a.flatten(2)
    return torch.einsum("bsn,bn->bs", rows, exact.center.flatten(1)) - exact.radius_times(rows)


def _below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -math.inf))


def _sum_below(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``, or the number below where that was rounded up; the rounding error is exact (Knuth's two-sum)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    step = _below(total.detach()) - total.detach()
    return torch.where(error < 0, total + step, total)


def _drawn(
    draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Random numbers in the dtype and place of ``like``, drawn where the generator lives."""
    place = like.device if generator is None else generator.device
    return draw(shape, dtype=like.dtype, device=place, generator=generator).to(like.device)


def _check_corner(op: str, name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise TypeError(f"{op}: {name}: got {getattr(value, 'dtype', type(value))}; expected floating point")
    if value.ndim < 2:
        raise ValueError(f"{op}: {name}: got shape {tuple(value.shape)}; expected (B, *input)")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{op}: {name}: holds NaN or infinity; expected finite numbers")
