"""Distillation of feature maps: FitNet, AT, VID, NST."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.distillers._base import (
    Distiller,
    Outputs,
    Shape,
    attention_map,
    check_map,
    map_pairs,
    pool_alike,
)

__all__ = ["AT", "NST", "VID", "FitNet", "regressor"]


def regressor(s_shape: Shape, t_shape: Shape, *, relu: bool = True) -> nn.Sequential:
    """A convolution that brings a student's map ``(c, h, w)`` to a teacher's, with normalisation.

    Twice the size: 3x3 of stride 2; half: transposed 4x4 of stride 2; else a kernel of 1 + h_s - h_t.

    Raises:
        ValueError: a student's map that is smaller in any other proportion.
    """
    (c_s, h_s, _), (c_t, h_t, _) = s_shape, t_shape
    layer: nn.Module
    if h_s == 2 * h_t:
        layer = nn.Conv2d(c_s, c_t, 3, stride=2, padding=1)
    elif 2 * h_s == h_t:
        layer = nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1)
    elif h_s >= h_t:
        layer = nn.Conv2d(c_s, c_t, 1 + h_s - h_t)
    else:
        raise ValueError(f"regressor: sizes: no rule from {h_s} to {h_t}; expected half, equal or larger")
    return nn.Sequential(layer, nn.BatchNorm2d(c_t), *([nn.ReLU()] if relu else []))


class FitNet(Distiller):
    """Mean square error between the teacher's map and a regression of the student's; Romero et al. 2015.

    Args:
        s_shapes: shapes of the student's taps.
        t_shapes: shapes of the teacher's taps.
        tap: which map.
        mapping: the pair (student tap, teacher tap) instead of ``tap``.
    """

    weight = 100.0

    def __init__(
        self,
        s_shapes: Sequence[Shape],
        t_shapes: Sequence[Shape],
        *,
        tap: int = 2,
        mapping: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        s, t = mapping[0] if mapping else (tap, tap)
        self.pair = (check_map("FitNet", s_shapes, s, "student"), check_map("FitNet", t_shapes, t, "teacher"))
        self.regressor = regressor(s_shapes[self.pair[0]], t_shapes[self.pair[1]])

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        return F.mse_loss(self.regressor(student.taps[self.pair[0]]), teacher.taps[self.pair[1]])


class _OverMaps(Distiller):
    """A sum over pairs of maps."""

    def __init__(
        self,
        s_shapes: Sequence[Shape],
        t_shapes: Sequence[Shape],
        *,
        mapping: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.pairs = map_pairs(type(self).__name__, s_shapes, t_shapes, mapping)

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        terms = [self.term(k, student.taps[s], teacher.taps[t]) for k, (s, t) in enumerate(self.pairs)]
        return torch.stack(terms).sum()

    def term(self, number: int, s: Tensor, t: Tensor) -> Tensor:
        raise NotImplementedError


class AT(_OverMaps):
    """Attention transfer: where in the image the channels are strong; Zagoruyko & Komodakis 2017.

    Sum over maps of the mean square difference of unit-length attention maps.
    """

    weight = 1000.0

    def term(self, number: int, s: Tensor, t: Tensor) -> Tensor:
        """One pair of maps."""
        s, t = pool_alike(s, t)
        return (attention_map(s) - attention_map(t)).square().mean()


class NST(_OverMaps):
    """Neuron selectivity transfer: maximum mean discrepancy of the channels' unit-length maps; Huang & Wang 2017.

    With the kernel ``k(a, b) = (aᵀb)²``, means over the images and all pairs of channels.
    """

    weight = 50.0

    def term(self, number: int, s: Tensor, t: Tensor) -> Tensor:
        """One pair of maps."""
        s, t = (F.normalize(x.flatten(2), dim=2) for x in pool_alike(s, t))
        return _kernel(t, t) + _kernel(s, s) - 2.0 * _kernel(s, t)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.transpose(1, 2)).square().mean()


class VID(_OverMaps):
    """Variational information distillation; Ahn et al. 2019, Eq. 5 to 7.

    Sum over maps of ``mean ½ [(μ(s) - t)² / v + ln v]`` with a learnt mean (three 1x1 convolutions) and a
    learnt variance for each channel, ``v = softplus(α) + 1e-5``, 5 at the start.
    """

    def __init__(
        self,
        s_shapes: Sequence[Shape],
        t_shapes: Sequence[Shape],
        *,
        mapping: Sequence[tuple[int, int]] | None = None,
        initial_variance: float = 5.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__(s_shapes, t_shapes, mapping=mapping)
        self.epsilon = epsilon
        alpha = math.log(math.expm1(initial_variance - epsilon))
        self.means, self.alphas = nn.ModuleList(), nn.ParameterList()
        for s, t in self.pairs:
            c_s, c_t = s_shapes[s][0], t_shapes[t][0]
            self.means.append(_three_layers(c_s, c_t))
            self.alphas.append(nn.Parameter(torch.full((c_t,), alpha)))

    def term(self, number: int, s: Tensor, t: Tensor) -> Tensor:
        """One pair of maps."""
        s, t = pool_alike(s, t)
        variance = (F.softplus(self.alphas[number]) + self.epsilon).view(1, -1, 1, 1)
        loss: Tensor = 0.5 * ((self.means[number](s) - t).square() / variance + variance.log()).mean()
        return loss


def _three_layers(c_in: int, c_out: int) -> nn.Sequential:
    widths = (c_in, c_out, c_out, c_out)
    layers: list[nn.Module] = []
    for first, second in itertools.pairwise(widths):
        layers += [nn.Conv2d(first, second, 1, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
