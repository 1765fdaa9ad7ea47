"""Local maxima of heat maps: what CenterNet-style detectors use in place of suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref
from tenfold.ops._checks import HALVES, LIMIT, as_compute, require, require_float, require_shape
from tenfold.ops._library import define, invoke

__all__ = ["peak_mask", "topk_peaks"]


def _fake_at(heat: Tensor, kernel: int) -> Tensor:
    return heat.new_empty(heat.shape, dtype=torch.bool)


def _fake_topk(
    heat: Tensor, k: int, kernel: int, threshold: float, per_class: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (*heat.shape[: 2 if per_class else 1], k)
    classes, ys, xs = (heat.new_empty(shape, dtype=torch.int64) for _ in range(3))
    return heat.new_empty(shape), classes, ys, xs


_peaks_at = define(
    "peaks_at(Tensor heat, int kernel) -> Tensor", contract=1, reference=ref.peaks_at, fake=_fake_at
)
_topk_peaks = define(
    "topk_peaks(Tensor heat, SymInt k, int kernel, float threshold, bool per_class) "
    "-> (Tensor scores, Tensor classes, Tensor ys, Tensor xs)",
    contract=1,
    reference=ref.topk_peaks,
    fake=_fake_topk,
)


def _check(op: str, heat: Tensor, kernel: int) -> None:
    require_float(op, "heat", heat)
    require_shape(op, "heat", heat, ("B", "C", "H", "W"))
    fine = 1 <= kernel < 256 and kernel % 2 == 1
    require(fine, f"{op}: kernel: got {kernel}; expected an odd number from 1 to 255")
    require(heat.numel() < LIMIT, f"{op}: heat: got {heat.numel()} entries; expected fewer than 2^31 in all")


def peak_mask(heat: Tensor, kernel: int = 3) -> Tensor:
    """Keep the local maxima of heat maps and set everything else to zero (CenterNet's max-pool suppression).

    An entry is a peak if no entry of the window around it is larger; all members of a plateau are peaks.
    Windows are clipped at the border. A NaN in the window means there is no peak.

    Args:
        heat: (B, C, H, W), any floating dtype.
        kernel: odd side of the window.

    Returns:
        (B, C, H, W) in the dtype of ``heat``. Its gradient passes at the peaks, twice if need be.

    Raises:
        ValueError: not four axes, or a kernel that is not odd and positive.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> from tenfold.ops import peak_mask
        >>> peak_mask(torch.tensor([[[[0.1, 0.9, 0.3, 0.2, 0.4]]]])).flatten()
        tensor([0.0000, 0.9000, 0.0000, 0.0000, 0.4000])
    """
    _check("peak_mask", heat, kernel)
    peak = invoke(_peaks_at, as_compute(heat.detach()), kernel)
    return torch.where(peak, heat, 0)


def topk_peaks(
    heat: Tensor,
    k: int = 100,
    *,
    kernel: int = 3,
    threshold: float = -torch.inf,
    per_class: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Find the highest peaks of heat maps, without a mask or a sort of the whole map.

    Peaks are those of `peak_mask`. They are ordered by descending score, then by class, row and column.

    Args:
        heat: (B, C, H, W), any floating dtype.
        k: number of peaks of each image (or of each class).
        kernel: odd side of the window.
        threshold: only peaks with a score strictly above it.
        per_class: take k peaks of every class instead of k of all classes together.

    Returns:
        ``(scores, classes, ys, xs)``, each (B, k), or (B, C, k) per class; scores in the dtype of ``heat``, the
        others int64. Missing peaks have the score -inf and -1 elsewhere. None carries a gradient.

    Raises:
        ValueError: wrong shape or options.
        TypeError: not floating point.

    Example:
        >>> import torch
        >>> from tenfold.ops import topk_peaks
        >>> heat = torch.tensor([[[[0.1, 0.9, 0.3], [0.2, 0.1, 0.2]], [[0.5, 0.0, 0.0], [0.0, 0.0, 0.7]]]])
        >>> scores, classes, ys, xs = topk_peaks(heat, 4)
        >>> scores, classes, ys, xs
        (tensor([[0.9000, 0.7000, 0.5000,   -inf]]), tensor([[ 0,  1,  1, -1]]), tensor([[ 0,  1,  0, -1]]), \
tensor([[ 1,  2,  0, -1]]))
    """
    op = "topk_peaks"
    _check(op, heat, kernel)
    require(0 <= k < LIMIT, f"{op}: k: got {k}; expected a number from 0 to 2^31 - 1")
    require(threshold == threshold, f"{op}: threshold: got nan; expected a number")
    scores, classes, ys, xs = invoke(_topk_peaks, as_compute(heat.detach()), k, kernel, threshold, per_class)
    return scores.to(heat.dtype) if heat.dtype in HALVES else scores, classes, ys, xs
