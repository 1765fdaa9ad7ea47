"""Optimised lines: the slopes between the tight and the steep pair that give the best bound.

Every pair of lines ``(1 - t) tight + t steep`` with t in [0, 1] is valid, so t is free: it is chosen for each
example, row and neuron by gradient ascent on the bound (alpha-CROWN, Xu et al. 2021). The search starts at the
tight pair, hence never ends below it, and a second time at the adaptive pair; the better of the two is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bound_prop import rounding
from bound_prop.graph.ops import Planes, Unary, as_planes
from bound_prop.lines import Lines

if TYPE_CHECKING:
    from bound_prop.bounds import Sweep

__all__ = ["Slopes", "ascend", "optimise"]

_DECAY = 0.98
_RATE = 0.3


class Slopes:
    """The free numbers t of every activation, for one set of rows.

    Args:
        sweep: with all hidden intervals known.
        rows: number of rows that get their own numbers.
        start: ``"tight"`` or ``"adaptive"``.
    """

    def __init__(self, sweep: Sweep, rows: int, start: str) -> None:
        self.sweep = sweep
        self.pairs: dict[int, tuple[Lines, Lines]] = {}
        self.free: dict[int, tuple[Tensor, Tensor]] = {}
        for index, node in enumerate(sweep.graph.nodes):
            if not isinstance(node.op, Unary):
                continue
            box = tuple(end.detach() for end in sweep.boxes[node.inputs[0]])
            tight, steep = (_with_rows(node.op.lines(box, name)) for name in ("tight", "steep"))  # type: ignore[arg-type]
            low_open = (tight.lower_slope != steep.lower_slope) | (tight.lower_bias != steep.lower_bias)
            up_open = (tight.upper_slope != steep.upper_slope) | (tight.upper_bias != steep.upper_bias)
            if not bool((low_open | up_open).any()):
                continue
            self.pairs[index] = tight, steep
            near = torch.zeros_like(tight.lower_slope), torch.zeros_like(tight.lower_slope)
            if start == "adaptive":
                wish = _with_rows(node.op.lines(box, "adaptive"))  # type: ignore[arg-type]
                near = (
                    ((wish.lower_slope == steep.lower_slope) & (wish.lower_bias == steep.lower_bias)).to(
                        near[0]
                    ),
                    ((wish.upper_slope == steep.upper_slope) & (wish.upper_bias == steep.upper_bias)).to(
                        near[0]
                    ),
                )
            shape = (len(near[0]), rows, *near[0].shape[2:])
            self.free[index] = near[0].expand(shape).clone(), near[1].expand(shape).clone()

    def parameters(self) -> list[Tensor]:
        """The numbers t."""
        return [t for pair in self.free.values() for t in pair]

    def clamp_(self) -> None:
        """Back into [0, 1]."""
        for t in self.parameters():
            t.clamp_(0.0, 1.0)

    def install(self) -> None:
        """Makes the sweep use the mixed lines."""
        for index, (low, up) in self.free.items():
            tight, steep = self.pairs[index]
            planes = as_planes(tight.mix(steep, low, up))
            if self.sweep.outward:
                planes = self._lifted(index, planes)
            self.sweep.planes[index] = planes

    def _lifted(self, index: int, planes: Planes) -> Planes:
        """As `bound_prop.rounding.lift`, for lines that differ from row to row."""
        node = self.sweep.graph.nodes[index]
        op: Unary = node.op  # type: ignore[assignment]
        box = self.sweep.boxes[node.inputs[0]]
        size = rounding.largest(box).unsqueeze(1)
        scale = rounding.largest(op.interval(box)).unsqueeze(1)
        pad = 2 * op.make(box[0]).ulps * rounding.EPS
        down = pad * (scale + planes.lower_bias.abs() + planes.lower[0].abs() * size)
        up = pad * (scale + planes.upper_bias.abs() + planes.upper[0].abs() * size)
        return planes._replace(lower_bias=planes.lower_bias - down, upper_bias=planes.upper_bias + up)


def _with_rows(lines: Lines) -> Lines:
    return Lines(*(part.unsqueeze(1) for part in lines))


def ascend(
    bound: Callable[[], Tensor],
    parameters: list[Tensor],
    project: Callable[[], None],
    steps: int,
    *,
    rate: float = _RATE,
    enough: Callable[[Tensor], bool] = lambda value: False,
) -> Tensor:
    """Gradient ascent on the sum of bounds ``(B, S)``; returns the best value of each entry.

    Args:
        bound: computes the bounds from the parameters; every value that it returns must be valid.
        parameters: what is free; changed in place.
        project: brings the parameters back into their range.
        steps: of Adam.
        rate: its learning rate.
        enough: ends the search early.
    """
    with torch.no_grad():
        best = bound()
    if not parameters or steps < 1 or enough(best):
        return best
    for p in parameters:
        p.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, _DECAY)
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.enable_grad():
            value = bound()
            loss = -value.sum()
        # A bound that is not finite tells nothing; nor do its gradients.
        if not bool(torch.isfinite(loss)):
            break
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            project()
            best = torch.maximum(best, value.detach())
        if enough(best):
            break
    for p in parameters:
        p.requires_grad_(False)
    with torch.no_grad():
        return torch.maximum(best, bound())


def optimise(sweep: Sweep, rows: Tensor, steps: int) -> Tensor:
    """Best lower bounds ``(B, S)`` of rows times the output; under outward rounding every candidate is sound."""
    before = dict(sweep.planes)
    parts = []
    for part in rows.split(max(1, sweep._rows_at_once() // 4), dim=1):
        best: Tensor | None = None
        for start in ("tight", "adaptive"):
            slopes = Slopes(sweep, part.shape[1], start)

            def bound(part: Tensor = part, slopes: Slopes = slopes) -> Tensor:
                slopes.install()
                return sweep.lower_bound(sweep.graph.output, part)[0]

            value = ascend(bound, slopes.parameters(), slopes.clamp_, steps)
            best = value if best is None else torch.maximum(best, value)
            sweep.planes = dict(before)
        assert best is not None
        parts.append(best)
    return torch.cat(parts, 1)
