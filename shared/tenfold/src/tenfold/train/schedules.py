"""Schedules as pure functions of the step, so that a resumed run needs nothing but the step number.

Every function maps ``step`` (0-based, the number of optimiser steps already taken) to a value.
`GroupSchedule` applies them to an optimiser's parameter groups; the functions also serve as the
``lr_lambda`` of `torch.optim.lr_scheduler.LambdaLR` when their peak is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from torch.optim import Optimizer

Schedule = Callable[[int], float]

__all__ = [
    "GroupSchedule",
    "Schedule",
    "cosine",
    "cosine_with_warmup",
    "decoupled_adam",
    "linear_ramp",
    "one_cycle",
    "one_cycle_schedule",
    "sigmoid_ramp",
    "smooth_ramp",
    "step_with_warmup",
]


def cosine(fraction: float, start: float, end: float) -> float:
    """Half a cosine from ``start`` (fraction 0) to ``end`` (fraction 1); clamped outside [0, 1].

    >>> cosine(0.5, 1.0, 0.0)
    0.5
    """
    fraction = min(max(fraction, 0.0), 1.0)
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * fraction))


def one_cycle(
    step: int,
    total_steps: int,
    *,
    peak: float = 1.0,
    div: float = 10.0,
    final_div: float = 1e4,
    warm_fraction: float = 0.4,
) -> float:
    """One-cycle value: cosine ``peak/div -> peak``, then cosine ``peak -> peak/div/final_div``.

    The first phase takes ``floor(total_steps * warm_fraction)`` steps (Smith & Topin 2018; the phases and the
    constants are those of the usual LiDAR detection recipes). For a momentum that goes high, low, high
    again use ``peak=low, div=low/high, final_div=1``.

    Args:
        step: Optimiser steps already taken, 0 to ``total_steps``.
        total_steps: Steps of the whole run, at least 1.
        peak: Value at the end of the first phase.
        div: The run starts at ``peak / div``.
        final_div: The run ends at ``peak / div / final_div``.
        warm_fraction: Share of the run spent in the first phase, in [0, 1).

    Raises:
        ValueError: ``total_steps`` < 1 or ``warm_fraction`` outside [0, 1).

    >>> [round(one_cycle(s, 10), 6) for s in (0, 2, 4, 7, 10)]
    [0.1, 0.55, 1.0, 0.500005, 1e-05]
    """
    _check_total("one_cycle", total_steps)
    if not 0.0 <= warm_fraction < 1.0:
        raise ValueError(f"one_cycle: warm_fraction: got {warm_fraction}; expected a number in [0, 1)")
    warm_steps = int(total_steps * warm_fraction)
    low = peak / div
    if step < warm_steps:
        return cosine(step / warm_steps, low, peak)
    return cosine((step - warm_steps) / (total_steps - warm_steps), peak, low / final_div)


def cosine_with_warmup(
    step: int, total_steps: int, *, warmup_steps: int = 0, start: float = 0.0, end: float = 0.0
) -> float:
    """Linear ``start -> 1`` over ``warmup_steps``, then cosine ``1 -> end`` at ``total_steps``.

    >>> [cosine_with_warmup(s, 6, warmup_steps=2) for s in (0, 1, 2, 4, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    _check_total("cosine_with_warmup", total_steps)
    _check_warmup("cosine_with_warmup", warmup_steps, total_steps)
    if step < warmup_steps:
        return start + (1.0 - start) * step / warmup_steps
    return cosine((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0, end)


def step_with_warmup(
    step: int,
    milestones: Sequence[int],
    *,
    gamma: float = 0.1,
    warmup_steps: int = 0,
    start: float = 0.0,
) -> float:
    """Linear ``start -> 1`` over ``warmup_steps``, times ``gamma`` for each milestone reached.

    >>> [round(step_with_warmup(s, [6, 8], warmup_steps=4, start=0.2), 6) for s in (0, 2, 4, 6, 8)]
    [0.2, 0.6, 1.0, 0.1, 0.01]
    """
    if warmup_steps < 0:
        raise ValueError(f"step_with_warmup: warmup_steps: got {warmup_steps}; expected at least 0")
    factor = gamma ** sum(step >= milestone for milestone in milestones)
    warm = start + (1.0 - start) * step / warmup_steps if step < warmup_steps else 1.0
    return factor * warm


def linear_ramp(
    step: float, start_step: float, end_step: float, start: float = 0.0, end: float = 1.0
) -> float:
    """``start`` until ``start_step``, ``end`` from ``end_step`` on, a straight line between.

    >>> [linear_ramp(s, 10, 20) for s in (0, 15, 30)]
    [0.0, 0.5, 1.0]
    """
    _check_interval("linear_ramp", start_step, end_step)
    if step >= end_step:
        return end
    return start + (end - start) * max(step - start_step, 0.0) / (end_step - start_step)


def sigmoid_ramp(
    step: float,
    start_step: float,
    end_step: float,
    start: float = 0.0,
    end: float = 1.0,
    *,
    sharpness: float = 5.0,
) -> float:
    """Ramp with weight ``exp(-sharpness * (1 - t)^2)``, t the fraction of the interval passed (Laine & Aila
    2017).

    Before ``start_step`` the value is ``start``; at it, it jumps to weight ``exp(-sharpness)``, as published.

    >>> round(sigmoid_ramp(10, 10, 20), 6), sigmoid_ramp(20, 10, 20)
    (0.006738, 1.0)
    """
    _check_interval("sigmoid_ramp", start_step, end_step)
    if step < start_step:
        return start
    fraction = min((step - start_step) / (end_step - start_step), 1.0)
    return start + (end - start) * math.exp(-sharpness * (1.0 - fraction) ** 2)


def smooth_ramp(
    step: float,
    start_step: float,
    end_step: float,
    start: float = 0.0,
    end: float = 1.0,
    *,
    mid_fraction: float = 0.25,
) -> float:
    """Ramp of interval-bound training: a quartic up to the knee, then a straight line, with equal slopes
    there.

    With T0, T1 the ends, ``Tm = T0 + floor(mid_fraction * (T1 - T0))`` and
    ``a = (end - start) / (4 (T1 - Tm)(Tm - T0)^3 + (Tm - T0)^4)``: ``start + a (t - T0)^4`` before Tm, then
    the line to ``end`` at T1 (schedule of the CROWN-IBP training configurations, Zhang et al. 2020).

    >>> [round(smooth_ramp(s, 0, 8), 6) for s in (0, 1, 2, 8)]
    [0.0, 0.004808, 0.076923, 1.0]
    """
    _check_interval("smooth_ramp", start_step, end_step)
    if step >= end_step:
        return end
    if step <= start_step:
        return start
    knee = start_step + math.floor(mid_fraction * (end_step - start_step))
    width = knee - start_step
    if width <= 0:  # an interval too short for a knee has no quartic part
        return linear_ramp(step, start_step, end_step, start, end)
    scale = (end - start) / (4.0 * (end_step - knee) * width**3 + width**4)
    if step < knee:
        return start + scale * (step - start_step) ** 4
    at_knee = start + scale * width**4
    return at_knee + (end - at_knee) * (step - knee) / (end_step - knee)


class GroupSchedule(LRScheduler):
    """Sets any hyper-parameter of an optimiser's groups from pure functions of the step.

    Its whole state is the step, so a resumed run continues exactly. The function for ``lr`` is a factor on
    each group's own initial learning rate (as in `torch.optim.lr_scheduler.LambdaLR`); every other function
    gives the value itself. The name ``momentum`` means ``betas[0]`` for optimisers of the Adam family.

    Args:
        optimizer: The optimiser to drive.
        schedules: Name of a group entry -> function of the step.
        last_epoch: Steps already taken minus one (the name is PyTorch's).

    Raises:
        ValueError: a group lacks an entry that is to be scheduled.

    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0, momentum=0.9)
    >>> schedule = GroupSchedule(sgd, {"lr": lambda step: 0.5**step, "momentum": lambda step: 0.5})
    >>> sgd.step(); schedule.step()
    >>> sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]
    (1.0, 0.5)
    """

    def __init__(self, optimizer: Optimizer, schedules: Mapping[str, Schedule], last_epoch: int = -1) -> None:
        self.schedules = dict(schedules)
        for group in optimizer.param_groups:
            for name in self.schedules:
                if name not in group and not (name == "momentum" and "betas" in group):
                    known = ", ".join(key for key in group if key != "params")
                    raise ValueError(f"GroupSchedule: schedules: got {name!r}; expected one of {known}")
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | torch.Tensor]:
        """Learning rates of this step; the other scheduled entries are set on the way."""
        step = self.last_epoch
        for group in self.optimizer.param_groups:
            for name, schedule in self.schedules.items():
                if name == "momentum" and "betas" in group:
                    group["betas"] = (schedule(step), *group["betas"][1:])
                elif name != "lr":
                    group[name] = schedule(step)
        factor = self.schedules["lr"](step) if "lr" in self.schedules else 1.0
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser and the functions, which the recipe rebuilds."""
        return {key: value for key, value in self.__dict__.items() if key not in ("optimizer", "schedules")}


def one_cycle_schedule(
    optimizer: Optimizer,
    total_steps: int,
    *,
    div: float = 10.0,
    final_div: float = 1e4,
    warm_fraction: float = 0.4,
    momentum: tuple[float, float] | None = (0.95, 0.85),
) -> GroupSchedule:
    """One-cycle on the learning rate, with the momentum (or Adam's first beta) going ``high -> low ->
    high`` in step.

    Each group's own ``lr`` is its peak. Step it after every optimiser step.

    >>> adam = decoupled_adam([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
    >>> schedule = one_cycle_schedule(adam, total_steps=100)
    >>> round(adam.param_groups[0]["lr"], 7), adam.param_groups[0]["betas"][0]
    (0.0003, 0.95)
    """
    lr = partial(
        one_cycle, total_steps=total_steps, div=div, final_div=final_div, warm_fraction=warm_fraction
    )
    schedules: dict[str, Schedule] = {"lr": lr}
    if momentum is not None:
        high, low = momentum
        schedules["momentum"] = partial(
            one_cycle,
            total_steps=total_steps,
            peak=low,
            div=low / high,
            final_div=1.0,
            warm_fraction=warm_fraction,
        )
    return GroupSchedule(optimizer, schedules)


def decoupled_adam(
    params: Iterable[torch.nn.Parameter],
    lr: float,
    *,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay on all given parameters, normalisation and biases included.

    Each step first multiplies by ``1 - lr * weight_decay``, then applies Adam's update: the rule of the LiDAR
    recipes. A parameter without a gradient in a step is left alone, decay included.

    >>> weight = torch.nn.Parameter(torch.ones(1)); weight.grad = torch.zeros(1)
    >>> decoupled_adam([weight], lr=0.1, weight_decay=0.5).step()
    >>> round(float(weight.detach()), 6)
    0.95
    """
    return torch.optim.AdamW(params, lr=lr, betas=betas, weight_decay=weight_decay)


def _check_total(op: str, total_steps: int) -> None:
    if total_steps < 1:
        raise ValueError(f"{op}: total_steps: got {total_steps}; expected at least 1")


def _check_warmup(op: str, warmup_steps: int, total_steps: int) -> None:
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"{op}: warmup_steps: got {warmup_steps}; expected 0 to total_steps = {total_steps}")


def _check_interval(op: str, start_step: float, end_step: float) -> None:
    if not end_step > start_step:
        raise ValueError(f"{op}: end_step: got {end_step}; expected more than start_step = {start_step}")
