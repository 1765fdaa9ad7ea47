"""Gathering the rows of neighbours, and their maximum without the gathered tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import (
    HALVES,
    LIMIT,
    as_compute,
    require,
    require_float,
    require_integers,
    require_tensor,
)
from tenfold.ops._library import define, invoke, no_second_derivative
from tenfold.ops._scatter import scatter

__all__ = ["check_idx", "gather_rows", "group", "group_max"]


# ---- operators ------------------------------------------------------------------------------------------


def _fake_group(
    feats: Tensor, idx: Tensor, count: Tensor | None, center: Tensor | None, validate: bool
) -> Tensor:
    return feats.new_empty((*idx.shape, feats.shape[-1]))


def _fake_out(*_: Any) -> None:
    return None


def _fake_max(feats: Tensor, idx: Tensor, count: Tensor | None, validate: bool) -> tuple[Tensor, Tensor]:
    shape = (*idx.shape[:-1], feats.shape[-1])
    return feats.new_empty(shape), feats.new_empty(shape, dtype=torch.int32)


def _fake_max_backward(grad: Tensor, arg: Tensor, n: int, padded: bool) -> Tensor:
    rows = (grad.shape[0], n) if padded else (n,)
    return grad.new_empty((*rows, grad.shape[-1]))


def _group_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])
    ctx.shape = inputs[0].shape


def _flat_rows(idx: Tensor, count: Tensor | None, shape: torch.Size) -> Tensor:
    """Segment of every gathered row in the flattened feats, -1 where it is zero."""
    n = shape[-2]
    valid = (idx >= 0) & (idx < n)
    if count is not None:
        valid = valid & (count > 0)[..., None]
    rows = idx.long()
    if len(shape) == 3:
        element = torch.arange(shape[0], device=idx.device) * n
        rows = rows + element.view(-1, *[1] * (idx.dim() - 1))
    return torch.where(valid, rows, -1)


def _group_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    idx, count = ctx.saved_tensors
    shape = ctx.shape
    rows = _flat_rows(idx, count, shape)
    grad_feats = grad_center = None
    if ctx.needs_input_grad[0]:
        total = shape[0] * shape[1] if len(shape) == 3 else shape[0]
        flat = scatter(as_compute(grad).flatten(0, -2), rows.flatten(), total, "sum")
        grad_feats = flat.reshape(shape).to(grad.dtype)
    if ctx.needs_input_grad[3]:
        grad_center = -torch.where((rows >= 0)[..., None], grad[..., :3], 0.0).sum(dim=-2)
    return grad_feats, None, None, grad_center, None


def _max_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.shape = inputs[0].shape
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (arg,) = ctx.saved_tensors
    return invoke(_group_max_backward, grad, arg, ctx.shape[-2], len(ctx.shape) == 3), None, None, None


_group = define(
    "group(Tensor feats, Tensor idx, Tensor? count, Tensor? center, bool validate) -> Tensor",
    contract=1,
    reference=ref.group,
    fake=_fake_group,
    backward=_group_backward,
    setup_context=_group_setup,
)
_group_out = define(
    "group_out(Tensor feats, Tensor idx, Tensor? count, Tensor? center, bool validate, Tensor(a!) out) -> ()",
    contract=1,
    reference=ref.group_out,
    fake=_fake_out,
)
_group_max_backward = define(
    "group_max_backward(Tensor grad, Tensor arg, SymInt n, bool padded) -> Tensor",
    contract=1,
    reference=ref.group_max_backward,
    fake=_fake_max_backward,
    backward=no_second_derivative("group_max"),
)
_group_max = define(
    "group_max(Tensor feats, Tensor idx, Tensor? count, bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.group_max,
    fake=_fake_max,
    backward=_max_backward,
    setup_context=_max_setup,
)


# ---- checks ---------------------------------------------------------------------------------------------


def check_idx(op: str, feats: Tensor, idx: Tensor, *, per_row: bool) -> None:
    """Check features (N, C) or (B, N, C) and a table of their rows; ``per_row``: it has a last axis of slots."""
    require_float(op, "feats", feats)
    require(
        feats.dim() in (2, 3), f"{op}: feats: got shape {tuple(feats.shape)}; expected (N, C) or (B, N, C)"
    )
    require_integers(op, "idx", idx)
    least = feats.dim() - 1 if per_row else feats.dim() - 2
    slots = ", k" if per_row else ""
    form = f"(B, ...{slots})" if feats.dim() == 3 else f"(...{slots})"
    fine = idx.dim() >= max(least, 1) and (feats.dim() == 2 or idx.shape[0] == feats.shape[0])
    require(
        fine,
        f"{op}: idx: got shape {tuple(idx.shape)} with feats of shape {tuple(feats.shape)}; expected {form}",
    )
    require(
        idx.device == feats.device,
        f"{op}: idx: on {idx.device}; expected the device of feats, {feats.device}",
    )
    require(feats.shape[-2] < LIMIT, f"{op}: feats: got {feats.shape[-2]} rows; expected fewer than 2^31")


def _check_count(op: str, idx: Tensor, count: Tensor | None) -> Tensor | None:
    if count is None:
        return None
    require_integers(op, "count", count)
    require(
        count.shape == idx.shape[:-1],
        f"{op}: count: got shape {tuple(count.shape)}; expected {tuple(idx.shape[:-1])}, one for each group",
    )
    require(count.device == idx.device, f"{op}: count: on {count.device}; expected that of idx, {idx.device}")
    return count.clamp(0, idx.shape[-1]).to(torch.int32) if count.dtype == torch.int64 else count


def _check_center(op: str, feats: Tensor, idx: Tensor, center: Tensor | None) -> Tensor | None:
    if center is None:
        return None
    require_float(op, "center", center)
    expected = (*idx.shape[:-1], 3)
    require(
        tuple(center.shape) == expected,
        f"{op}: center: got shape {tuple(center.shape)}; expected {expected}, one for each group",
    )
    require(
        feats.shape[-1] >= 3,
        f"{op}: feats: got {feats.shape[-1]} channels with center; expected x, y, z first, so at least 3",
    )
    require(
        center.device == feats.device,
        f"{op}: center: on {center.device}; expected the device of feats, {feats.device}",
    )
    return center


def _check_out(feats: Tensor, idx: Tensor, center: Tensor | None, out: Tensor) -> None:
    require_tensor("group", "out", out)
    if out.dtype != feats.dtype:
        raise TypeError(f"group: out: got {out.dtype}; expected that of feats, {feats.dtype}")
    shape = (*idx.shape, feats.shape[-1])
    require(
        tuple(out.shape) == shape and out.is_contiguous(),
        f"group: out: got shape {tuple(out.shape)}, strides {out.stride()}; expected contiguous {shape}",
    )
    require(
        out.device == feats.device, f"group: out: on {out.device}; expected that of feats, {feats.device}"
    )
    grads = feats.requires_grad or (center is not None and center.requires_grad) or out.requires_grad
    require(
        not (grads and torch.is_grad_enabled()),
        "group: out: an input requires a gradient; expected none, because a buffer cannot carry it",
    )
    inputs = (feats, idx) if center is None else (feats, idx, center)
    memory = {value.untyped_storage().data_ptr() for value in inputs if value.numel()}
    require(
        out.untyped_storage().data_ptr() not in memory or not out.numel(),
        "group: out: shares memory with an input; expected its own",
    )


# ---- public functions -----------------------------------------------------------------------------------


def group(
    feats: Tensor,
    idx: Tensor,
    count: Tensor | None = None,
    *,
    center: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Gather the rows of each group's members, channels last.

    Args:
        feats: (N, C), or padded (B, N, C) with indices that count from the start of an element. float32,
            float64, float16 or bfloat16.
        idx: (..., k) int32 or int64 rows, for instance of `ball_query`; (B, ..., k) with padded feats. -1
            gives a row of zeros.
        count: (...) members of each group; a group with 0 gives zeros whatever its indices, which nothing looks
            at: so a table of `ball_query` without any point may be used.
        center: (..., 3) subtracted from the first three channels of the rows that are not zeros.
        out: (..., k, C) contiguous, of the dtype of feats: written instead of a new tensor, and returned.

    Returns:
        (..., k, C) in the dtype of feats. The gradient of feats adds all the rows gathered from one, repeated
        ones too, in ascending order; that of ``center`` is minus the sum over the group.

    Raises:
        ValueError: wrong shapes, an ``out`` that does not fit; at validation level "cheap" an index outside
            -1 ... N - 1 in a group that has members (below that level it reads as -1).
        TypeError: wrong dtypes.

    Example:
        >>> import torch
        >>> from tenfold.ops import group
        >>> feats = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        >>> group(feats, torch.tensor([[2, 0], [1, -1]]))
        tensor([[[ 3., 30.],
                 [ 1., 10.]],
        <BLANKLINE>
                [[ 2., 20.],
                 [ 0.,  0.]]])
    """
    check_idx("group", feats, idx, per_row=True)
    count = _check_count("group", idx, count)
    center = _check_center("group", feats, idx, center)
    validate = checks_content(feats.is_cpu)
    if out is not None:
        _check_out(feats, idx, center, out)
        if center is not None and feats.dtype in HALVES:
            return out.copy_(group(feats, idx, count, center=center))
        shift = None if center is None else center.to(feats.dtype)
        invoke(_group_out, feats, idx, count, shift, validate, out)
        return out
    if center is not None and feats.dtype in HALVES:
        # The subtraction is done in float32.
        wide: Tensor = invoke(_group, feats.float(), idx, count, center.float(), validate)
        return wide.to(feats.dtype)
    shift = None if center is None else center.to(feats.dtype)
    gathered: Tensor = invoke(_group, feats, idx, count, shift, validate)
    return gathered


def gather_rows(feats: Tensor, idx: Tensor) -> Tensor:
    """Gather rows by index: `group` without groups.

    Args:
        feats: (N, C) or padded (B, N, C), any floating-point dtype.
        idx: (...) int32 or int64 rows; (B, ...) with padded feats. -1 gives a row of zeros.

    Returns:
        (..., C). The gradient of a row adds all its gathered copies in ascending order.

    Raises:
        ValueError: as `group`.
        TypeError: as `group`.

    Example:
        >>> import torch
        >>> from tenfold.ops import gather_rows
        >>> gather_rows(torch.tensor([[1.0], [2.0]]), torch.tensor([1, 1, 0, -1])).flatten()
        tensor([2., 2., 1., 0.])
    """
    check_idx("gather_rows", feats, idx, per_row=False)
    rows: Tensor = invoke(_group, feats, idx, None, None, checks_content(feats.is_cpu))
    return rows


def group_max(feats: Tensor, idx: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maximum of each group's rows per channel, without the (..., k, C) tensor of `group`.

    A linear layer on [x_j - c, f_j] splits into one per point, W_x x_j + W_f f_j, and one per centre, W_x c:
    the first can run before this function and the second be subtracted behind it.

    Args:
        feats: (N, C) or padded (B, N, C), any floating-point dtype.
        idx: (..., k) int32 or int64 rows; (B, ..., k) with padded feats. -1 is left out.
        count: (...) slots of each group that are looked at, the first ones; None for all. Slots that repeat
            an earlier one, as `ball_query` fills them, change nothing.

    Returns:
        (..., C) maxima in the dtype of feats, 0 for an empty group, NaN where a member is NaN; and arg (..., C)
        int32, the row that gave each, of the first slot where several tie, or -1. The gradient of feats goes
        to that row.

    Raises:
        ValueError: wrong shapes; at validation level "cheap" an index outside -1 ... N - 1 in a group that has
            members.
        TypeError: wrong dtypes.

    Example:
        >>> import torch
        >>> from tenfold.ops import group_max
        >>> feats = torch.tensor([[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]])
        >>> group_max(feats, torch.tensor([[0, 1], [1, 2]]))
        (tensor([[ 2., 30.],
                [ 3., 20.]]), tensor([[1, 0],
                [2, 1]], dtype=torch.int32))
    """
    check_idx("group_max", feats, idx, per_row=True)
    count = _check_count("group_max", idx, count)
    best, arg = invoke(_group_max, as_compute(feats), idx, count, checks_content(feats.is_cpu))
    return (best.to(feats.dtype), arg) if feats.dtype in HALVES else (best, arg)
