"""Do teacher and student give the same image for the same code?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stylegan_distill.metrics.pixels import mean_l1, psnr
from stylegan_distill.metrics.record import Measured
from stylegan_distill.metrics.sampling import Distance, draw_codes
from stylegan_distill.networks import Generator

__all__ = ["mapping_swap", "output_discrepancy"]


@torch.no_grad()
def output_discrepancy(
    teacher: Generator,
    student: Generator,
    metric: Distance,
    *,
    count: int = 512,
    batch: int = 64,
    seed: int = 0,
    noise: str = "none",
) -> Measured:
    """Differences of the images of one code, beside those of different codes.

    ``ratio`` is matched over mismatched L1: 0 for identical generators, 1 for generators that share no correspondence
    whatever their images look like. For the mismatched values the student's codes are shifted by one place.

    Args:
        teacher: in evaluation mode.
        student: likewise; z of the same length.
        metric: perceptual distance.
        count: fixed codes.
        batch: at a time.
        seed: of the codes.
        noise: "none", "const", or "random" (fresh maps for each of the two).

    Returns:
        ``l1``, ``mismatched_l1``, ``ratio``, ``psnr``, ``mismatched_psnr`` (999 for equal images), and both distances
        under the metric's name. The ratio is NaN where images of different codes are all equal, as those of two
        generators that have collapsed to the same image: nothing tells whether their codes correspond.

    Raises:
        ValueError: fewer than two codes, or lengths of z that differ.
    """
    if count < 2:
        raise ValueError(f"output_discrepancy: count: got {count}; expected at least 2")
    if teacher.cfg.z_dim != student.cfg.z_dim:
        raise ValueError(
            f"output_discrepancy: student: got z of {student.cfg.z_dim} numbers; the teacher has {teacher.cfg.z_dim}"
        )
    z, c = draw_codes(teacher, count, torch.Generator().manual_seed(seed))
    wanted, found = (_images(net, z, c, batch, noise) for net in (teacher, student))
    other = found.roll(1, 0)
    matched, mismatched = mean_l1(wanted, found), mean_l1(wanted, other)
    values = {
        "l1": matched,
        "mismatched_l1": mismatched,
        "ratio": matched / mismatched if mismatched > 0 else math.nan,
        "psnr": min(psnr(wanted, found), 999.0),
        "mismatched_psnr": min(psnr(wanted, other), 999.0),
        metric.name: _distance(metric, wanted, found, batch),
        f"mismatched_{metric.name}": _distance(metric, wanted, other, batch),
    }
    return Measured(values, {"count": count, "seed": seed, "noise": noise})


@torch.no_grad()
def mapping_swap(
    teacher: Generator, student: Generator, *, count: int = 512, batch: int = 64, seed: int = 0
) -> Measured:
    """Tells an error of the mapping network from one of the synthesis network.

    ``own`` is the L1 between the teacher's images and the student's, ``teachers_mapping`` the same when the student's
    synthesis reads the teacher's codes. A student whose mapping alone is wrong has a small second number.
    """
    z, c = draw_codes(teacher, count, torch.Generator().manual_seed(seed))
    wanted = _images(teacher, z, c, batch, "none")
    own = _images(student, z, c, batch, "none")
    swapped = torch.cat(
        [
            student.synthesis(_fit(w, student.num_ws), noise="none")
            for w in (_codes(teacher, z[k : k + batch], None if c is None else c[k : k + batch])
                      for k in range(0, count, batch))
        ]
    )  # fmt: skip
    values = {"own": mean_l1(wanted, own), "teachers_mapping": mean_l1(wanted, swapped)}
    return Measured(values, {"count": count, "seed": seed})


def _codes(net: Generator, z: Tensor, c: Tensor | None) -> Tensor:
    found: Tensor = net.mapping(z, c)
    return found


def _fit(ws: Tensor, length: int) -> Tensor:
    """As many entries as another network reads: all are equal."""
    return ws[:, :1].expand(-1, length, -1)


def _images(net: Generator, z: Tensor, c: Tensor | None, batch: int, noise: str) -> Tensor:
    parts = []
    for k in range(0, len(z), batch):
        labels = None if c is None else c[k : k + batch]
        parts.append(net(z[k : k + batch], labels, noise=noise))
    return torch.cat(parts)


def _distance(metric: Distance, x: Tensor, y: Tensor, batch: int) -> float:
    parts = [metric(a, b) for a, b in zip(x.split(batch), y.split(batch), strict=True)]
    return float(torch.cat(parts).double().mean())
