"""Feature maps read at fractional positions: image fusion and bird's-eye maps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import LIMIT, as_compute, require, require_float, require_shape, require_tensor
from tenfold.ops._library import define, invoke, no_second_derivative

__all__ = ["bilinear_sample"]

_BORDERS = {"zero": 0, "clamp": 1, "parity": 2}


def _fake_sample(feat: Tensor, uv: Tensor, valid: Tensor | None, border: int, validate: bool) -> Tensor:
    return feat.new_empty((feat.shape[0], uv.shape[1], feat.shape[1]))


def _fake_backward(
    grad: Tensor, feat: Tensor, uv: Tensor, valid: Tensor | None, border: int, need_feat: bool, need_uv: bool
) -> tuple[Tensor, Tensor]:
    return feat.new_empty(feat.shape if need_feat else (0,)), uv.new_empty(uv.shape if need_uv else (0,))


_backward_op = define(
    "bilinear_sample_backward(Tensor grad, Tensor feat, Tensor uv, Tensor? valid, int border, bool need_feat, "
    "bool need_uv) -> (Tensor grad_feat, Tensor grad_uv)",
    contract=1,
    reference=ref.bilinear_sample_backward,
    fake=_fake_backward,
    backward=no_second_derivative("bilinear_sample"),
)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feat, uv, valid, ctx.border, _ = inputs
    ctx.save_for_backward(feat, uv, valid)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    feat, uv, valid = ctx.saved_tensors
    need_feat, need_uv = ctx.needs_input_grad[:2]
    grad_feat, grad_uv = invoke(_backward_op, grad, feat, uv, valid, ctx.border, need_feat, need_uv)
    return grad_feat if need_feat else None, grad_uv if need_uv else None, None, None, None


_bilinear_sample = define(
    "bilinear_sample(Tensor feat, Tensor uv, Tensor? valid, int border, bool validate) -> Tensor",
    contract=1,
    reference=ref.bilinear_sample,
    fake=_fake_sample,
    backward=_backward,
    setup_context=_setup_context,
)


def bilinear_sample(
    feat: Tensor,
    uv: Tensor,
    valid: Tensor | None = None,
    *,
    border: Literal["zero", "clamp", "parity"] = "zero",
) -> Tensor:
    """Read feature maps at fractional pixel positions; whole numbers are pixel centres.

    With x0 = floor(u), x1 = x0 + 1 and likewise y0, y1, the value is
    ``f00 (x1-u)(y1-v) + f01 (u-x0)(y1-v) + f10 (x1-u)(v-y0) + f11 (u-x0)(v-y0)``. The border decides about
    corners that lie outside the map:

    - "zero": they are 0, as `torch.nn.functional.grid_sample` with zeros and align_corners.
    - "clamp": the position is moved to the map first, so that border values extend outwards.
    - "parity": the corners' indices are clamped and the weights use the clamped indices, as in PV-RCNN's
      bird's-eye interpolation: from the last column or row on, and before the first, the weights cancel and
      the result is 0.

    Args:
        feat: (B, C, H, W) float32, float64 or half precision (then computed in float32). Channels-last
            memory is read without a copy.
        uv: (B, N, 2) column and row, pixels.
        valid: (B, N) bool, rows to read; the others are 0. None reads all.
        border: see above.

    Returns:
        (B, N, C) in the dtype of ``feat``. Gradients flow to ``feat``, summed over ascending rows, and to ``uv``
        in the smooth interior of a cell (at a whole number, that of the cell above).

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" a valid position that is not finite
            (below that level it reads 0).
        TypeError: not floating point, or ``valid`` not bool.

    Example:
        >>> import torch
        >>> from tenfold.ops import bilinear_sample
        >>> feat = torch.arange(6.0).view(1, 1, 2, 3)
        >>> uv = torch.tensor([[[0.5, 0.5], [2.0, 1.0], [2.5, 0.0]]])
        >>> bilinear_sample(feat, uv).flatten()
        tensor([2., 5., 1.])
        >>> bilinear_sample(feat, uv, border="clamp").flatten()
        tensor([2., 5., 2.])
    """
    op = "bilinear_sample"
    require_float(op, "feat", feat)
    require_float(op, "uv", uv)
    require_shape(op, "feat", feat, ("B", "C", "H", "W"))
    require_shape(op, "uv", uv, (feat.shape[0], "N", 2), "one list of positions per image")
    if valid is not None:
        require_tensor(op, "valid", valid)
        if valid.dtype is not torch.bool:
            raise TypeError(f"{op}: valid: got {valid.dtype}; expected torch.bool")
        require_shape(op, "valid", valid, (feat.shape[0], uv.shape[1]), "one flag per position")
        require(valid.device == feat.device, f"{op}: valid: on {valid.device}; expected {feat.device}")
    require(uv.device == feat.device, f"{op}: uv: on {uv.device}; expected the device of feat, {feat.device}")
    require(border in _BORDERS, f"{op}: border: got {border!r}; expected one of {', '.join(_BORDERS)}")
    require(
        max(feat.shape[2], feat.shape[3]) < 2**24 and feat.numel() < LIMIT,
        f"{op}: feat: got shape {tuple(feat.shape)}; expected sides below 2^24 and fewer than 2^31 entries",
    )
    wide, where = as_compute(feat), as_compute(uv)
    common = torch.promote_types(wide.dtype, where.dtype)
    result: Tensor = invoke(
        _bilinear_sample,
        wide.to(common),
        where.to(common),
        valid,
        _BORDERS[border],
        checks_content(feat.is_cpu),
    )
    return result.to(feat.dtype)
