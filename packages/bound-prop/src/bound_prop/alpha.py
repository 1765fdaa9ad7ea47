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

__all__ = ["Slopes", "ascend", "optimise", "tighten_hidden"]

_DECAY = 0.98
_RATE = 0.3


class Slopes:
    """The free numbers t of every activation, for one set of rows.

    Args:
        sweep: with all hidden intervals known.
        rows: number of rows that get their own numbers.
        start: ``"tight"`` or ``"adaptive"``.
        before: only activations before this node; None means all.
    """

    def __init__(self, sweep: Sweep, rows: int, start: str, before: int | None = None) -> None:
        self.sweep = sweep
        self.pairs: dict[int, tuple[Lines, Lines]] = {}
        self.free: dict[int, tuple[Tensor, Tensor]] = {}
        for index, node in enumerate(sweep.graph.nodes[:before]):
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


def optimise(sweep: Sweep, rows: Tensor, steps: int, index: int | None = None) -> Tensor:
    """Best lower bounds ``(B, S)`` of rows times a node's value, by default the output's.

    Under outward rounding every candidate is sound.
    """
    target = sweep.graph.output if index is None else index
    before = dict(sweep.planes)
    parts = []
    for part in rows.split(max(1, sweep._rows_at_once() // 4), dim=1):
        best: Tensor | None = None
        for start in ("tight", "adaptive"):
            slopes = Slopes(sweep, part.shape[1], start, index)

            def bound(part: Tensor = part, slopes: Slopes = slopes) -> Tensor:
                slopes.install()
                return sweep.lower_bound(target, part)[0]

            value = ascend(bound, slopes.parameters(), slopes.clamp_, steps)
            best = value if best is None else torch.maximum(best, value)
            sweep.planes = dict(before)
        assert best is not None
        parts.append(best)
    return torch.cat(parts, 1)


def tighten_hidden(sweep: Sweep, steps: int) -> None:
    """Hidden intervals with lines optimised for each end of each neuron that is still open, layer by layer.

    Every interval is the intersection with the one that the sweep had; later layers see the tighter ones.
    """
    for index in sweep.hidden_nodes():
        places = sweep.open_neurons(index)
        if places is None:
            continue
        low, high = sweep.boxes[index]
        ends = [low.flatten(1), high.flatten(1)]
        for part in places.split(max(1, sweep._rows_at_once() // 8), dim=1):
            rows = sweep.unit_rows(index, part)
            down, up = optimise(sweep, torch.cat([rows, -rows], 1), steps, index).chunk(2, 1)
            ends[0] = ends[0].scatter(1, part, torch.maximum(down, ends[0].gather(1, part)))
            ends[1] = ends[1].scatter(1, part, torch.minimum(-up, ends[1].gather(1, part)))
        sweep.replace_box(index, (ends[0].view_as(low), ends[1].view_as(high)))
