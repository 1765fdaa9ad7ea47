"""Rows of FIR resampling, bias and activation, and the alias-free activation, at the sizes of 256-pixel generators."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.signal import firwin, upfirdn

from kernels.model import Call, Case, Goal, Peer, Row, within
from tenfold import ref

_GOAL = Goal("ratio", 2, 5)
_BINOMIAL = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
_LOW = firwin(12, 0.45, fs=2.0)
_PADDING = (11, 10, 11, 10)  # keeps the size of a map that goes up and down by two


def _numpy(raw: Any, _: Case) -> np.ndarray:
    return np.asarray(raw.detach().numpy())


def _maps(channels: int, side: int, taps: Any) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        n = max(1, round(channels * scale))
        kind, g = getattr(torch, dtype), torch.Generator().manual_seed(0)
        data = {
            "x": torch.randn(1, n, side, side, generator=g, dtype=torch.float64).to(kind),
            "bias": torch.randn(n, generator=g, dtype=torch.float64).to(kind),
            "noise": torch.randn(1, 1, side, side, generator=g, dtype=torch.float64).to(kind),
            "taps": torch.tensor(np.asarray(taps), dtype=kind),
        }
        return Case(n * side * side, f"{n} x {side} x {side}", data)

    return make


def _ours_resampled(up: int, down: int, padding: tuple[int, ...]) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        from tenfold.ops import upfirdn2d

        more = {"up": up, "down": down, "padding": padding, "gain": float(up * up)}
        return lambda: upfirdn2d(case["x"], case["taps"], **more)

    return make


def _torch_resampled(up: int, down: int, padding: tuple[int, ...]) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        factors = ([up, up], [down, down])
        return lambda: ref.upfirdn2d(case["x"], case["taps"], *factors, padding, False, float(up * up))

    return make


def _along(
    values: np.ndarray, axis: int, taps: np.ndarray, up: int, down: int, low: int, high: int
) -> np.ndarray:
    """One axis by scipy: its convolution is full, so that the samples of a padded map are cut out of it."""
    shape = [(0, 0)] * values.ndim
    full = upfirdn(taps, np.pad(values, shape), up, 1, axis=axis)
    length = values.shape[axis] * up + low + high - len(taps) + 1
    shape[axis] = (max(0, low), max(0, high) + up)
    stretched = np.pad(full, shape)
    first = len(taps) - 1 + max(0, low) - low
    return np.take(stretched, np.arange(first, first + length, down), axis=axis)


def _resampled_by_scipy(up: int, down: int, padding: tuple[int, ...]) -> Callable[[Case], np.ndarray]:
    def oracle(case: Case) -> np.ndarray:
        taps, values = case["taps"].double().numpy(), case["x"].double().numpy()
        for axis, (low, high) in ((2, padding[2:]), (3, padding[:2])):
            values = _along(values, axis, taps * up, up, down, low, high)
        return values

    return oracle


def _ours_bias_act(case: Case) -> Call:
    from tenfold.ops import bias_act

    return lambda: bias_act(case["x"], case["bias"], noise=case["noise"], clamp=256.0)


def _torch_bias_act(case: Case) -> Call:
    rest = (0.2, math.sqrt(2), 256.0)
    return lambda: ref.bias_act(case["x"], case["bias"], case["noise"], *rest)


def _activated(u: np.ndarray) -> np.ndarray:
    return np.clip(np.where(u < 0, 0.2 * u, u) * math.sqrt(2), -256, 256)


def _bias_act_by_definition(case: Case) -> np.ndarray:
    x, bias, noise = (case[name].double().numpy() for name in ("x", "bias", "noise"))
    return _activated(x + bias[:, None, None] + noise)


def _ours_filtered(case: Case) -> Call:
    from tenfold.ops import filtered_lrelu

    more = {"up_filter": case["taps"], "down_filter": case["taps"], "up": 2, "down": 2}
    return lambda: filtered_lrelu(case["x"], case["bias"], padding=_PADDING, clamp=256.0, **more)


def _torch_filtered(case: Case) -> Call:
    f, rest = case["taps"], (2, 2, _PADDING, False, 0.2, math.sqrt(2), 256.0)
    return lambda: ref.filtered_lrelu(case["x"], case["bias"], f, f, *rest)


def _filtered_by_scipy(case: Case) -> np.ndarray:
    taps, x = case["taps"].double().numpy(), case["x"].double().numpy()
    values = x + case["bias"].double().numpy()[:, None, None]
    for axis in (2, 3):
        values = _along(values, axis, taps * 2, 2, 1, *_PADDING[:2])
    values = _activated(values)
    for axis in (2, 3):
        values = _along(values, axis, taps, 1, 2, 0, 0)
    return values


def _row(
    key: str, op: str, title: str, make: Any, ours: Any, plain: Any, oracle: Any, moved: int, **more: Any
) -> Row:
    return Row(
        key,
        op,
        title,
        make,
        ours,
        within(1e-4),
        normal=_numpy,
        peers=(
            Peer(
                "plain torch",
                "torch",
                "torch",
                plain,
                normal=_numpy,
                note="zeros between pixels, depth-wise convolution, striding: the form of published fallback code",
            ),
        ),
        oracle=oracle,
        goal=_GOAL,
        limit=lambda case, limits: limits.copy(moved * case.size),
        parallel=True,
        **more,
    )


_UP, _DOWN = (2, 1, (2, 1, 2, 1)), (1, 2, (1, 1, 1, 1))

ROWS = (
    _row(
        "upfirdn2d-up",
        "upfirdn2d",
        "upfirdn2d, 64 × 128 × 128 up to 256 × 256, 4 taps",
        _maps(64, 128, _BINOMIAL),
        _ours_resampled(*_UP),
        _torch_resampled(*_UP),
        _resampled_by_scipy(*_UP),
        4 * 5,
        quick=True,
    ),
    _row(
        "upfirdn2d-down",
        "upfirdn2d",
        "upfirdn2d, 64 × 256 × 256 down to 128 × 128, 4 taps",
        _maps(64, 256, _BINOMIAL),
        _ours_resampled(*_DOWN),
        _torch_resampled(*_DOWN),
        _resampled_by_scipy(*_DOWN),
        5,
    ),
    _row(
        "bias-act",
        "bias_act",
        "bias_act with noise and clamp, 64 × 256 × 256",
        _maps(64, 256, _BINOMIAL),
        _ours_bias_act,
        _torch_bias_act,
        _bias_act_by_definition,
        4 * 2,
    ),
    _row(
        "filtered-lrelu",
        "filtered_lrelu",
        "filtered_lrelu, 32 × 256 × 256, up 2, down 2, 12 taps",
        _maps(32, 256, _LOW),
        _ours_filtered,
        _torch_filtered,
        _filtered_by_scipy,
        4 * 2,
        quick=True,
    ),
)
