"""Distillers with a stage of their own before the student's training: AB, FT, FSP."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.distill.distillers._base import (
    Distiller,
    InitStage,
    Outputs,
    Shape,
    attention_map,
    check_map,
    map_pairs,
    pool_alike,
)
from tenfold.distill.distillers.maps import regressor

__all__ = ["AB", "FSP", "FT"]


class AB(Distiller):
    """Activation boundaries: which neurons fire, by a margin; Heo et al. 2019, Eq. 5, in its released scale.

    ``3 / (1000 B) · Σ_l 2^(l-n) Σ [(s+m)² where s > -m, t <= 0] + [(s-m)² where s <= m, t > 0]`` over the maps
    before their rectification; a map of another shape goes through a regressor.
    """

    preact = True
    init_stage = InitStage(30, student=True, final=True)

    def __init__(
        self,
        s_shapes: Sequence[Shape],
        t_shapes: Sequence[Shape],
        *,
        mapping: Sequence[tuple[int, int]] | None = None,
        margin: float = 1.0,
    ) -> None:
        super().__init__()
        self.pairs = map_pairs("AB", s_shapes, t_shapes, mapping)
        self.margin = margin
        self.connectors = nn.ModuleList(
            nn.Identity() if s_shapes[s] == t_shapes[t] else regressor(s_shapes[s], t_shapes[t], relu=False)
            for s, t in self.pairs
        )

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        total = student.logits.new_zeros(())
        for number, (s, t) in enumerate(self.pairs):
            ours, theirs, m = self.connectors[number](student.taps[s]), teacher.taps[t], self.margin
            wrong_on = (ours + m).square() * ((ours > -m) & (theirs <= 0))
            wrong_off = (ours - m).square() * ((ours <= m) & (theirs > 0))
            total = total + 2.0 ** (number + 1 - len(self.pairs)) * (wrong_on + wrong_off).sum()
        return total * 3.0 / (1000.0 * len(student.logits))


class FT(Distiller):
    """Factor transfer; Kim et al. 2018, Eq. 1-3.

    A paraphraser compresses the teacher's last map to factors (trained first, to reconstruct the map, then
    frozen), a translator brings the student's map to the same width; the loss is the mean absolute difference
    of their unit-length attention maps.

    Args:
        s_shapes: shapes of the student's taps.
        t_shapes: shapes of the teacher's taps.
        tap: which tap; -2 is the last map.
        rate: width of the factors relative to the teacher's channels.
    """

    weight = 200.0
    init_stage = InitStage(30, student=False)

    def __init__(
        self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape], *, tap: int = -2, rate: float = 0.5
    ) -> None:
        super().__init__()
        self.tap = tap
        c_s = s_shapes[check_map("FT", s_shapes, tap, "student")][0]
        c_t = t_shapes[check_map("FT", t_shapes, tap, "teacher")][0]
        width = int(c_t * rate)
        if width < 1:
            raise ValueError(f"FT: rate: got {rate} of {c_t} channels; expected at least one factor")
        self.paraphraser = _layers((c_t, c_t, width, width), norm=False)
        self.decoder = _layers((width, width, c_t, c_t), norm=False, transposed=True)
        self.translator = _layers((c_s, c_s, width, width), norm=True)

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`; the paraphraser is frozen."""
        with torch.no_grad():
            theirs = self.paraphraser(teacher.taps[self.tap])
        ours, theirs = pool_alike(self.translator(student.taps[self.tap]), theirs)
        return (attention_map(ours) - attention_map(theirs)).abs().mean()

    def init_loss(self, student: Outputs | None, teacher: Outputs) -> Tensor:
        """Mean square error of the teacher's map and its reconstruction from the factors."""
        x = teacher.detach().float().taps[self.tap]
        return F.mse_loss(self.decoder(self.paraphraser(x)), x)


def _layers(widths: Sequence[int], *, norm: bool, transposed: bool = False) -> nn.Sequential:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for c_in, c_out in itertools.pairwise(widths):
        layers += [
            kind(c_in, c_out, 3, padding=1),
            *([nn.BatchNorm2d(c_out)] if norm else []),
            nn.LeakyReLU(0.1),
        ]
    return nn.Sequential(*layers)


class FSP(Distiller):
    """Flow of the solution procedure: products of neighbouring maps; Yim et al. 2017, Eq. 1-2.

    Sum over neighbouring taps (f0 included) of the mean square difference of their channel products, each
    averaged over the map. Student and teacher need equal channels.
    """

    weight = 50.0
    init_stage = InitStage(30, student=True, final=True)

    def __init__(self, s_shapes: Sequence[Shape], t_shapes: Sequence[Shape]) -> None:
        super().__init__()
        maps = [[shape for shape in shapes if len(shape) == 3] for shapes in (s_shapes, t_shapes)]
        channels = [[shape[0] for shape in some] for some in maps]
        if channels[0] != channels[1] or len(channels[0]) < 2:
            raise ValueError(
                f"FSP: taps: got channels {channels[0]} of the student, {channels[1]} of the teacher; expected"
                " the same, at least two"
            )
        self.count = len(channels[0])

    def compute(
        self, student: Outputs, teacher: Outputs, labels: Tensor | None, index: Tensor | None
    ) -> Tensor:
        """See `Distiller.compute`."""
        total = student.logits.new_zeros(())
        for k in range(self.count - 1):
            ours, theirs = (_flow(o.taps[k], o.taps[k + 1]) for o in (student, teacher))
            total = total + (ours - theirs).square().mean()
        return total


def _flow(a: Tensor, b: Tensor) -> Tensor:
    """``(B, c_a, c_b)``: products of channels, averaged over the map."""
    a, b = pool_alike(a, b)
    return a.flatten(2) @ b.flatten(2).transpose(1, 2) / a[0, 0].numel()
