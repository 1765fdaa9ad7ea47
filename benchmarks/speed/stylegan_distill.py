"""Speed of stylegan-distill: students beside their teachers, generators beside the plain form of the same network."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

import tenfold
from kernels.model import Call, Case, Goal, Peer, Row, within
from speed.common import another_network
from stylegan_distill.config import GENERATOR_PRESETS, StyleGAN3Config, narrow
from stylegan_distill.networks import Generator, StyleGAN2Generator, StyleGAN3Generator

_TITLES = {
    "stylegan2_256": "StyleGAN2, 256 x 256",
    "stylegan2_1024": "StyleGAN2, 1024 x 1024",
    "stylegan3_t_256": "StyleGAN3-T, 256 x 256",
    "stylegan3_t_1024": "StyleGAN3-T, 1024 x 1024",
}


@cache
def _generator(preset: str, student: bool = False) -> Generator:
    """Random weights; a student keeps three channels of ten, and all frequencies of a StyleGAN3."""
    torch.manual_seed(0)
    cfg = GENERATOR_PRESETS[preset]
    if student:
        narrower: Any = {"widths": narrow(cfg.layer_widths, 0.7)}
        if isinstance(cfg, StyleGAN3Config):
            narrower["fourier_channels"] = cfg.num_frequencies
        cfg = replace(cfg, **narrower)
    return (StyleGAN3Generator if isinstance(cfg, StyleGAN3Config) else StyleGAN2Generator)(cfg).eval()


def _code(_scale: float, _dtype: str) -> Case:
    z = torch.randn(1, 512, generator=torch.Generator().manual_seed(0))
    return Case(1, "one image, constant noise", {"z": z})


def _ours(preset: str, student: bool = False) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        net = _generator(preset, student)

        @torch.inference_mode()
        def call() -> Any:
            net.synthesis.set_execution("auto")  # type: ignore[operator]
            return net(case["z"], noise="const")

        return call

    return make


def _plain(preset: str) -> Callable[[Case], Call]:
    """Weights for each image, and the references of our operators: zeros, depth-wise convolutions, striding."""

    def make(case: Case) -> Call:
        net = _generator(preset)

        @torch.inference_mode()
        def call() -> Any:
            net.synthesis.set_execution("grouped")  # type: ignore[operator]
            with tenfold.reference():
                return net(case["z"], noise="const")

        return call

    return make


def _image(raw: Any, _: Case) -> np.ndarray:
    return np.asarray(raw.numpy())


_CONVOLUTIONS = (
    "nine tenths of the time go into the same dense convolutions, 45 GMAC for StyleGAN2 and 105 GMAC for StyleGAN3-T, "
    "which both forms leave to PyTorch; what this package makes faster is the rest"
)


def _plain_row(preset: str, bar: float, measure: Any = "time") -> Row:
    return Row(
        key=f"stylegan-{preset}-plain" + ("" if measure == "time" else "-memory"),
        op="generate",
        title=f"{_TITLES[preset]}: ours and the plain form" + ("" if measure == "time" else ", memory"),
        make=_code,
        ours=_ours(preset),
        agree=within(1e-4),
        normal=_image,
        peers=(
            Peer(
                "plain torch",
                "torch",
                "torch",
                _plain(preset),
                normal=_image,
                note="the same weights by grouped convolution and the fallback form of published code: zeros between "
                "pixels, depth-wise convolution, striding",
            ),
        ),
        goal=Goal("ratio", bar) if measure == "time" else None,
        measure=measure,
        growth=False,
        quick=preset == "stylegan2_256",
        same_bits=False,
        reason=_CONVOLUTIONS if measure == "time" else "",
    )


def _student_row(preset: str, measure: Any = "time") -> Row:
    return Row(
        key=f"stylegan-{preset}-student" + ("" if measure == "time" else "-memory"),
        op="generate",
        title=f"{_TITLES[preset]}: student with 30 % of the channels and teacher"
        + ("" if measure == "time" else ", memory"),
        make=_code,
        ours=_ours(preset, student=True),
        agree=another_network,
        peers=(
            Peer(
                "teacher",
                "stylegan-distill",
                "stylegan_distill",
                _ours(preset),
                same=False,
                note="the teacher's network by the same code; one thousand divided by its milliseconds is images/s",
            ),
        ),
        measure=measure,
        parallel=measure == "time",
        growth=False,
        quick=preset == "stylegan2_256",
    )


ROWS = (
    _plain_row("stylegan2_256", 1.3),
    _plain_row("stylegan3_t_256", 5),
    *(_student_row(preset) for preset in _TITLES),
    _student_row("stylegan2_256", "peak"),
    _student_row("stylegan2_1024", "peak"),
    _plain_row("stylegan3_t_256", 1, "peak"),
)
