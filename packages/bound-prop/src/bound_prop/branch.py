"""Complete search: is any input of a box unsafe? By splitting the inputs, or the ReLUs, until bounds decide.

A part of the search space is closed only by a bound computed with outward rounding (`bound_prop.rounding`): an
answer "holds" is a proof about the network in real arithmetic. A counterexample is reported only if ``confirm``,
an independent run of the network, accepts it. Everything else is "unknown".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from bound_prop.alpha import Slopes, ascend
from bound_prop.attack import PGD
from bound_prop.bounds import Sweep
from bound_prop.combine import are_exact, summed, weights
from bound_prop.graph.build import Graph
from bound_prop.graph.ops import Unary
from bound_prop.lines import Ramp
from bound_prop.sets import Box, Interval
from bound_prop.specs import Conjunct

__all__ = ["Answer", "Budget", "decide", "search"]

Confirm = Callable[[Tensor], bool]
_SPLIT_INPUTS_UP_TO = 20
_BOXES_AT_ONCE = 512
_DOMAINS_AT_ONCE = 64
_NARROWEST = 1e-10


@dataclass
class Budget:
    """A time limit and counters.

    Attributes:
        seconds: the limit.
        branches: parts of the search space that were bounded.
        clock: what measures it; by default wall time.
    """

    seconds: float
    branches: int = 0
    clock: Callable[[], float] = time.monotonic
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._start

    def over(self) -> bool:
        """Whether the limit has passed."""
        return self.spent() > self.seconds


@dataclass(frozen=True, eq=False)
class Answer:
    """What a search found.

    Attributes:
        result: ``"holds"``: no unsafe input exists; ``"violated"``: `witness` is one; ``"unknown"``.
        witness: flat input ``(n,)``, or None.
        reason: of "unknown": ``"timeout"`` or what stopped the search.
    """

    result: Literal["holds", "violated", "unknown"]
    witness: Tensor | None = None
    reason: str = ""


def search(
    graph: Graph,
    parts: Sequence[Conjunct],
    confirm: Confirm,
    budget: Budget,
    *,
    attack: PGD | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Answer:
    """Decides whether any part is unsafe: first attacks on all, then bounds, then splitting, part by part.

    Args:
        graph: the network; boxes of the parts hold flat inputs.
        parts: ways to be unsafe.
        confirm: whether a flat input ``(n,)`` in float32 really is unsafe.
        budget: time limit; checked between batches.
        attack: settings of the first attack.
        note: receives progress.
    """
    parts = [_shaped(part, graph) for part in parts]
    if not parts:
        return Answer("holds")
    for part in parts:
        found = attack_part(graph, part, confirm, attack or PGD(steps=60, restarts=4))
        if found is not None:
            return Answer("violated", found)
    answers = []
    for number, part in enumerate(parts):
        note(f"part {number + 1} of {len(parts)}, {budget.branches} branches, {budget.spent():.0f} s")
        answer = decide(graph, part, confirm, budget)
        if answer.result == "violated":
            return answer
        answers.append(answer)
    unknown = next((a for a in answers if a.result != "holds"), None)
    return unknown or Answer("holds")


def decide(graph: Graph, part: Conjunct, confirm: Confirm, budget: Budget) -> Answer:
    """One part: by splitting inputs where there are few, else ReLUs."""
    if budget.over():
        return Answer("unknown", reason="timeout")
    try:
        if math.prod(graph.input_shape) <= _SPLIT_INPUTS_UP_TO or not _only_relus(graph):
            return split_inputs(graph, part, confirm, budget)
        return split_relus(graph, part, confirm, budget)
    except ArithmeticError as error:
        return Answer("unknown", reason=f"numerical failure: {error}")


def _shaped(part: Conjunct, graph: Graph) -> Conjunct:
    shape = (1, *graph.input_shape)
    box = Box(part.box.lower.reshape(shape).double(), part.box.upper.reshape(shape).double())
    return Conjunct(box, part.M.double(), part.h.double())


def _only_relus(graph: Graph) -> bool:
    relaxed = [node.op for node in graph.nodes if isinstance(node.op, Unary)]
    made = [op.make(torch.zeros(1, dtype=torch.float64)) for op in relaxed]
    return all(isinstance(a, Ramp) and a.knee is None and a.eta == 0 for a in made)


def _inside(x: Tensor, box: Box) -> Tensor:
    """Flat inputs ``(N, n)`` as float32 numbers that lie in the box; where there is none, the nearest."""
    low, high = box.lower.flatten(1), box.upper.flatten(1)
    up = torch.full_like(low, math.inf).float()
    low32, high32 = low.float(), high.float()
    low32 = torch.where(low32.double() < low, torch.nextafter(low32, up), low32)
    high32 = torch.where(high32.double() > high, torch.nextafter(high32, -up), high32)
    return torch.minimum(torch.maximum(x.float(), low32), high32)


def _confirmed(x: Tensor, bad: Tensor, box: Box, confirm: Confirm, most: int = 8) -> Tensor | None:
    """The first of the suspicious inputs ``(N, *input)`` that the independent run finds unsafe."""
    for index in torch.nonzero(bad)[:most, 0].tolist():
        point = _inside(x[index : index + 1].flatten(1), box)[0]
        low, high = box.lower.flatten(), box.upper.flatten()
        within = bool(((point.double() >= low) & (point.double() <= high)).all())
        if within and confirm(point):
            return point
    return None


def attack_part(
    graph: Graph, part: Conjunct, confirm: Confirm, attack: PGD, starts: int = 32
) -> Tensor | None:
    """Gradient attack from many starting points; a confirmed unsafe input, or None."""
    box = Box(
        part.box.lower.expand(starts, *graph.input_shape), part.box.upper.expand(starts, *graph.input_shape)
    )
    hit, witness = attack.search(
        graph.forward, box, lambda y: -part.violation(y), lambda y: part.violation(y) <= 0
    )
    return _confirmed(witness, hit, part.box, confirm)


def _refuted(lower: Tensor, limits: Tensor) -> Tensor:
    """``(B,)``: some row is certainly above its limit. NaN and infinity refute nothing."""
    return (torch.isfinite(lower) & (lower > limits)).any(1)


def split_inputs(graph: Graph, part: Conjunct, confirm: Confirm, budget: Budget) -> Answer:
    """Bisects boxes along the input that matters most until every box is refuted."""
    rows = part.M.view(1, *part.M.shape[:1], *graph.output_shape)
    stack = [(part.box.lower, part.box.upper)]
    combine = are_exact(part.M)
    stuck = False
    while stack:
        if budget.over():
            return Answer("unknown", reason="timeout")
        low, high = _take(stack, _BOXES_AT_ONCE)
        budget.branches += len(low)
        box = Box(low, high)
        open_, slope = _refute(graph, box, part, rows, combine)
        if not bool(open_.any()):
            continue
        box, slope = box[open_], slope[open_]
        found = _try_points(graph, part, box, slope, confirm)
        if found is not None:
            return Answer("violated", found)
        width = (box.upper - box.lower).flatten(1)
        score = width * slope.flatten(1).abs().nan_to_num(nan=1.0, posinf=1.0) + 1e-9 * width
        axis = score.argmax(1)
        narrow = width.gather(1, axis[:, None])[:, 0] < _NARROWEST
        stuck = stuck or bool(narrow.any())
        stack += _halves(box[~narrow], axis[~narrow])
    return Answer("unknown", reason="boxes became too narrow to split") if stuck else Answer("holds")


def _take(stack: list[tuple[Tensor, Tensor]], count: int) -> tuple[Tensor, Tensor]:
    """The latest boxes, up to ``count``."""
    lows, highs, size = [], [], 0
    while stack and size < count:
        low, high = stack.pop()
        room = count - size
        if len(low) > room:
            stack.append((low[:-room], high[:-room]))
            low, high = low[-room:], high[-room:]
        lows.append(low)
        highs.append(high)
        size += len(low)
    return torch.cat(lows), torch.cat(highs)


def _halves(box: Box, axis: Tensor) -> list[tuple[Tensor, Tensor]]:
    if not len(axis):
        return []
    low, high = box.lower.flatten(1), box.upper.flatten(1)
    middle = ((low + high) / 2).gather(1, axis[:, None])
    first, second = high.scatter(1, axis[:, None], middle), low.scatter(1, axis[:, None], middle)
    shape = box.lower.shape
    return [(box.lower, first.view(shape)), (second.view(shape), box.upper)]


@torch.no_grad()
def _refute(graph: Graph, box: Box, part: Conjunct, rows: Tensor, combine: bool) -> tuple[Tensor, Tensor]:
    """Which of the boxes remain open ``(B,)``, and slopes ``(B, *input)`` of the function that says most of each.

    By sound lower bounds of the rows, and of a weighted sum of them where that promises more.
    """
    sweep = Sweep(graph, box, lines="adaptive", outward=True)
    sweep.hidden("crown")
    lower, slopes, offsets = sweep.lower_bound(graph.output, rows)
    slopes = slopes.expand(len(box), *slopes.shape[1:])
    gap = (lower - part.h).nan_to_num(nan=-math.inf)
    best = gap.argmax(1)
    slope = slopes[torch.arange(len(best)), best]
    open_ = ~_refuted(lower, part.h)
    if not combine or not bool(open_.any()):
        return open_, slope
    share, value = weights(slopes, offsets.expand_as(lower) - part.h, box)
    better = value > gap.amax(1)
    slope = torch.where(
        better.view(-1, *[1] * (slope.ndim - 1)), torch.einsum("bs,bs...->b...", share, slopes), slope
    )
    if bool((open_ & (value > 0)).any()):
        total, limit = summed(share, part.M, part.h)
        sums = sweep.lower_bound(graph.output, total.view(len(box), 1, *graph.output_shape))[0]
        open_ = open_ & ~_refuted(sums, limit)
    return open_, slope


@torch.no_grad()
def _try_points(graph: Graph, part: Conjunct, box: Box, slope: Tensor, confirm: Confirm) -> Tensor | None:
    """Centres, and the corners that the linear bounds like least."""
    points = torch.cat([box.center, torch.where(slope > 0, box.lower, box.upper)])
    bad = part.violation(graph.forward(points)) <= 0
    return _confirmed(points, bad, part.box, confirm) if bool(bad.any()) else None


@dataclass(eq=False)
class _Domain:
    """A part of the search space: the sign that some neurons are forced to have.

    Attributes:
        signs: pre-activation node -> ``(n,)``: 1, -1 or 0 for free.
        bound: lower bound of the best row minus its limit.
        branch: node and neuron to split next.
    """

    signs: dict[int, Tensor]
    bound: float
    branch: tuple[int, int] | None


def split_relus(graph: Graph, part: Conjunct, confirm: Confirm, budget: Budget) -> Answer:
    """Fixes signs of unstable ReLUs, bounds with optimised slopes and multipliers (beta-CROWN, Wang et al. 2021)."""
    with torch.no_grad():
        root = Sweep(graph, part.box, lines="adaptive", outward=True)
        root.hidden("crown")
        part = _with_sum(root, part)
    rows = part.M.view(1, *part.M.shape[:1], *graph.output_shape)
    layers = {i: root.boxes[i] for node in graph.nodes if isinstance(node.op, Unary) for i in node.inputs}
    free = {i: torch.zeros(low[0].numel(), dtype=torch.int8) for i, (low, _) in layers.items()}
    domains = [_Domain(free, -math.inf, None)]
    first = True
    while domains:
        if budget.over():
            return Answer("unknown", reason="timeout")
        domains.sort(key=lambda d: d.bound, reverse=True)
        batch = [domains.pop() for _ in range(min(_DOMAINS_AT_ONCE, len(domains)))]
        children = batch if first else [child for d in batch for child in _children(d)]
        first = False
        budget.branches += len(children)
        lower, branches, points = _bound_domains(graph, part, rows, layers, children)
        with torch.no_grad():
            bad = part.violation(graph.forward(points)) <= 0
        found = _confirmed(points, bad, part.box, confirm)
        if found is not None:
            return Answer("violated", found)
        refuted = _refuted(lower, part.h)
        for k in torch.nonzero(~refuted)[:, 0].tolist():
            if branches[k] is None:
                return Answer("unknown", reason="every ReLU is fixed and the bound does not decide")
            gap = float((lower[k] - part.h).max())
            domains.append(_Domain(children[k].signs, gap if math.isfinite(gap) else -math.inf, branches[k]))
    return Answer("holds")


def _with_sum(root: Sweep, part: Conjunct) -> Conjunct:
    """The part with one more row: the weighted sum that promises most before anything is split."""
    if not are_exact(part.M):
        return part
    shape = root.graph.output_shape
    lower, slopes, offsets = root.lower_bound(root.graph.output, part.M.view(1, len(part.M), *shape))
    share, _ = weights(slopes, offsets.expand_as(lower) - part.h, part.box)
    total, limit = summed(share, part.M, part.h)
    return Conjunct(part.box, torch.cat([part.M, total[0]]), torch.cat([part.h, limit[0]]))


def _children(domain: _Domain) -> list[_Domain]:
    assert domain.branch is not None
    node, neuron = domain.branch
    result = []
    for sign in (1, -1):
        signs = dict(domain.signs)
        signs[node] = signs[node].clone()
        signs[node][neuron] = sign
        result.append(_Domain(signs, domain.bound, None))
    return result


def _bound_domains(
    graph: Graph,
    part: Conjunct,
    rows: Tensor,
    layers: dict[int, Interval],
    domains: list[_Domain],
    steps: int = 20,
) -> tuple[Tensor, list[tuple[int, int] | None], Tensor]:
    """Sound bounds ``(B, S)``, the neuron to split next, and the inputs where the bounds are attained."""
    count = len(domains)
    box = Box(
        part.box.lower.expand(count, *graph.input_shape), part.box.upper.expand(count, *graph.input_shape)
    )
    boxes: dict[int, Interval] = {}
    signs: dict[int, Tensor] = {}
    for i, (low, high) in layers.items():
        sign = torch.stack([d.signs[i] for d in domains]).view(count, *low.shape[1:])
        zero = torch.zeros_like(low)
        boxes[i] = (
            torch.where(sign > 0, zero.maximum(low), low),
            torch.where(sign < 0, zero.minimum(high), high),
        )
        signs[i] = sign.to(low)
    sweep = _sweep(graph, box, boxes, outward=False)
    slopes = Slopes(sweep, rows.shape[1], "adaptive")
    betas = {
        i: torch.zeros(count, rows.shape[1], *s.shape[1:], dtype=s.dtype)
        for i, s in signs.items()
        if bool(s.any())
    }

    def bound(own: Sweep = sweep) -> Tensor:
        slopes.sweep = own
        slopes.install()
        own.extra = {i: -(b * signs[i].unsqueeze(1)) for i, b in betas.items()}
        return own.lower_bound(graph.output, rows)[0]

    def project() -> None:
        slopes.clamp_()
        for b in betas.values():
            b.clamp_(min=0)

    parameters = [*slopes.parameters(), *betas.values()]
    limits = part.h
    ascend(
        bound, parameters, project, steps, rate=0.1, enough=lambda v: bool(_refuted(v, limits + 1e-9).all())
    )
    with torch.no_grad():
        final = _sweep(graph, box, boxes, outward=True)
        final.seen = {}
        lower = bound(final)
        corner = final.lower_bound(graph.output, rows)[1]
        best = (lower - limits).nan_to_num(nan=-math.inf).argmax(1)
        slope = corner.expand(count, *corner.shape[1:])[torch.arange(count), best]
        points = torch.where(slope > 0, box.lower, box.upper)
        branches = _branches(final, best, boxes)
    return lower, branches, points


def _sweep(graph: Graph, box: Box, boxes: dict[int, Interval], *, outward: bool) -> Sweep:
    sweep = Sweep(graph, box, lines="adaptive", outward=outward)
    sweep.boxes.update(boxes)
    sweep.hidden("ibp")
    return sweep


def _branches(sweep: Sweep, best: Tensor, boxes: dict[int, Interval]) -> list[tuple[int, int] | None]:
    """The unstable neuron whose relaxation costs the bound most, for each domain."""
    assert sweep.seen is not None
    scores, owners = [], []
    for index, a in sweep.seen.items():
        node = sweep.graph.nodes[index].inputs[0]
        if node not in boxes:
            continue
        low, high = boxes[node]
        unstable = ((low < 0) & (high > 0)).flatten(1)
        rows = a.expand(len(best), *a.shape[1:])[torch.arange(len(best)), best].flatten(1)
        gap = (-low * high / (high - low).clamp(min=1e-30)).flatten(1)
        cost = (-rows).clamp(min=0) * gap + 1e-3 * rows.abs() * gap
        scores.append(torch.where(unstable, cost, torch.full_like(cost, -1.0)))
        owners += [(node, k) for k in range(cost.shape[1])]
    if not scores:
        return [None] * len(best)
    value, place = torch.cat(scores, 1).max(1)
    return [owners[p] if v >= 0 else None for v, p in zip(value.tolist(), place.tolist(), strict=True)]
