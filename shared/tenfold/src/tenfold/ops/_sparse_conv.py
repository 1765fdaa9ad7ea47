"""Sparse 3D convolution: rulebooks, the convolution itself with gradients, and max pooling.

A rulebook is a table (K, V_out) of int32: the input row that kernel offset k brings to output row o, or -1, with
k = (kz * KY + ky) * KX + kx. `tenfold.sparse` wraps these functions in modules and caches rulebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import (
    HALVES,
    require,
    require_float,
    require_integers,
    require_shape,
    require_size,
)
from tenfold.ops._library import define, invoke, no_second_derivative
from tenfold.ref._sparse_conv import output_shape

__all__ = [
    "rulebook_invert",
    "rulebook_strided",
    "rulebook_strided_padded",
    "rulebook_submanifold",
    "sparse_conv",
    "sparse_max_pool",
]

Triple = Sequence[int]


def _fake_submanifold(
    coords: Tensor, shape: Triple, batch_size: int, kernel: Triple, dilation: Triple, validate: bool
) -> Tensor:
    return coords.new_empty((kernel[0] * kernel[1] * kernel[2], coords.shape[0]), dtype=torch.int32)


def _fake_rows(coords: Tensor, kernel: Triple, rows: Any) -> tuple[Tensor, Tensor]:
    volume = kernel[0] * kernel[1] * kernel[2]
    return coords.new_empty((rows, 4)), coords.new_empty((volume, rows))


def _fake_strided(
    coords: Tensor, shape: Triple, batch_size: int, kernel: Triple, *_: Any
) -> tuple[Tensor, Tensor]:
    rows = torch.library.get_ctx().new_dynamic_size()
    return _fake_rows(coords, kernel, rows)


def _fake_strided_padded(
    coords: Tensor, shape: Triple, batch_size: int, kernel: Triple, max_out: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return *_fake_rows(coords, kernel, max_out), coords.new_empty(())


_submanifold = define(
    "rulebook_submanifold(Tensor coords, SymInt[] spatial_shape, SymInt batch_size, int[] kernel_size, "
    "int[] dilation, bool validate) -> Tensor",
    contract=1,
    reference=ref.rulebook_submanifold,
    fake=_fake_submanifold,
)
_strided = define(
    "rulebook_strided(Tensor coords, SymInt[] spatial_shape, SymInt batch_size, int[] kernel_size, int[] stride, "
    "int[] padding, int[] dilation, bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.rulebook_strided,
    fake=_fake_strided,
)
_strided_padded = define(
    "rulebook_strided_padded(Tensor coords, SymInt[] spatial_shape, SymInt batch_size, int[] kernel_size, "
    "SymInt max_out, int[] stride, int[] padding, int[] dilation, bool validate) -> (Tensor, Tensor, Tensor)",
    contract=1,
    reference=ref.rulebook_strided_padded,
    fake=_fake_strided_padded,
)
_invert = define(
    "rulebook_invert(Tensor table, SymInt rows) -> Tensor",
    contract=1,
    reference=ref.rulebook_invert,
    fake=lambda table, rows: table.new_empty((table.shape[0], rows)),
)


_weight_gradient = define(
    "sparse_conv_weight(Tensor features, Tensor grad, Tensor table) -> Tensor",
    contract=1,
    reference=ref.sparse_conv_weight,
    fake=lambda features, grad, table: features.new_empty((grad.shape[1], table.shape[0], features.shape[1])),
    backward=no_second_derivative("sparse_conv"),
)


def _save_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, bias, table, symmetric = inputs
    ctx.save_for_backward(features, weight, table)
    ctx.has_bias = bias is not None
    ctx.symmetric = symmetric


def _conv_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
    features, weight, table = ctx.saved_tensors
    need_features, need_weight, need_bias, _, _ = ctx.needs_input_grad
    d_features = d_weight = d_bias = None
    grad = grad.contiguous()
    if need_features:
        if ctx.symmetric:  # offset k brings i to o exactly where offset K-1-k brings o to i
            d_features = invoke(_conv, grad, weight.flip(1).permute(2, 1, 0), None, table, True)
        else:
            back = invoke(_invert, table, features.shape[0])
            d_features = invoke(_conv, grad, weight.permute(2, 1, 0), None, back, False)
    if need_weight:
        d_weight = invoke(_weight_gradient, features, grad, table)
    if need_bias and ctx.has_bias:
        d_bias = grad.sum(dim=0)
    return d_features, d_weight, d_bias, None, None


_conv = define(
    "sparse_conv(Tensor features, Tensor weight, Tensor? bias, Tensor table, bool symmetric) -> Tensor",
    contract=1,
    reference=ref.sparse_conv,
    fake=lambda features, weight, bias, table, symmetric: features.new_empty(
        (table.shape[1], weight.shape[0])
    ),
    backward=_conv_backward,
    setup_context=_save_conv,
)


def _save_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.rows = inputs[0].shape[0]
    ctx.mark_non_differentiable(output[1])


def _pool_backward(ctx: Any, grad: Tensor, _arg: Tensor) -> tuple[Tensor, None]:
    (arg,) = ctx.saved_tensors
    taken = grad.masked_fill(arg < 0, 0)
    result = grad.new_zeros(ctx.rows, grad.shape[1])
    return result.scatter_add(0, arg.clamp(min=0).long(), taken) if ctx.rows else result, None


_pool = define(
    "sparse_max_pool(Tensor features, Tensor table) -> (Tensor, Tensor)",
    contract=1,
    reference=ref.sparse_max_pool,
    fake=lambda features, table: (
        features.new_empty((table.shape[1], features.shape[1])),
        table.new_empty((table.shape[1], features.shape[1])),
    ),
    backward=_pool_backward,
    setup_context=_save_pool,
)


def _triple(op: str, name: str, value: int | Triple, least: int) -> list[int]:
    values = [value] * 3 if isinstance(value, int) else list(value)
    require(
        len(values) == 3 and all(isinstance(v, int | torch.SymInt) and v >= least for v in values),
        f"{op}: {name}: got {value}; expected one or three integers (z, y, x) >= {least}",
    )
    return values


def _check_coords(op: str, coords: Tensor) -> None:
    require_integers(op, "coords", coords)
    require_shape(op, "coords", coords, ("V", 4), "columns are batch, z, y, x")


def _check_table(op: str, table: Tensor) -> None:
    require_integers(op, "table", table)
    require_shape(op, "table", table, ("K", "V_out"))


def _strided_inputs(
    op: str,
    coords: Tensor,
    spatial_shape: Triple,
    kernel_size: int | Triple,
    stride: int | Triple,
    padding: int | Triple,
    dilation: int | Triple,
) -> tuple[list[int], list[int], list[list[int]], tuple[int, int, int]]:
    """Check the arguments; return shape, kernel, [stride, padding, dilation] and the extents of the output."""
    _check_coords(op, coords)
    shape = _triple(op, "spatial_shape", spatial_shape, 1)
    kernel = _triple(op, "kernel_size", kernel_size, 1)
    steps = _triple(op, "stride", stride, 1)
    pads = _triple(op, "padding", padding, 0)
    spread = _triple(op, "dilation", dilation, 1)
    out_shape = output_shape(shape, kernel, steps, pads, spread)
    for axis, extent in zip("zyx", out_shape, strict=True):
        require(
            extent >= 1,
            f"{op}: spatial_shape: got {tuple(shape)} with kernel {tuple(kernel)}: "
            f"the output extent along {axis} would be {extent}; expected at least 1",
        )
    return shape, kernel, [steps, pads, spread], (out_shape[0], out_shape[1], out_shape[2])


def rulebook_submanifold(
    coords: Tensor,
    spatial_shape: Triple,
    batch_size: int,
    kernel_size: int | Triple = 3,
    *,
    dilation: int | Triple = 1,
) -> Tensor:
    """Rulebook of a submanifold convolution: the output sites are the input sites, in their order.

    Args:
        coords: (V, 4) int32 rows (batch, z, y, x), unique.
        spatial_shape: (Z, Y, X) extents of the grid.
        batch_size: number of batch elements.
        kernel_size: one or three (z, y, x). An even size reaches from -(K-1)//2 to K//2.
        dilation: one or three factors.

    Returns:
        (K, V) int32 table; no gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" a site outside the grid or a repeated
            one. Below that level such rows are ignored (the lowest row stands for equal sites).
        TypeError: coordinates that are no integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import rulebook_submanifold
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
        >>> rulebook_submanifold(coords, (1, 1, 4), 1, (1, 1, 3))
        tensor([[-1,  0],
                [ 0,  1],
                [ 1, -1]], dtype=torch.int32)
    """
    op = "rulebook_submanifold"
    _check_coords(op, coords)
    shape = _triple(op, "spatial_shape", spatial_shape, 1)
    kernel = _triple(op, "kernel_size", kernel_size, 1)
    steps = _triple(op, "dilation", dilation, 1)
    table: Tensor = invoke(
        _submanifold, coords.int(), shape, batch_size, kernel, steps, checks_content(coords.is_cpu)
    )
    return table


def rulebook_strided(
    coords: Tensor,
    spatial_shape: Triple,
    batch_size: int,
    kernel_size: int | Triple,
    *,
    stride: int | Triple = 1,
    padding: int | Triple = 0,
    dilation: int | Triple = 1,
) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
    """Rulebook of a strided convolution: an output site is whatever the kernel reaches from some input site.

    Args:
        coords: (V, 4) int32 rows (batch, z, y, x), unique.
        spatial_shape: (Z, Y, X) extents of the input grid.
        batch_size: number of batch elements.
        kernel_size: one or three (z, y, x).
        stride: one or three.
        padding: one or three.
        dilation: one or three.

    Returns:
        Output sites (V_out, 4) int32 in lexicographic order, the table (K, V_out) int32, and the extents of the
        output grid. No gradient.

    Raises:
        ValueError: wrong shapes or options, an output extent below 1 (the message names the axis); at validation
            level "cheap" a site outside the grid or a repeated one.
        TypeError: coordinates that are no integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import rulebook_strided
        >>> coords = torch.tensor([[0, 0, 0, 3]], dtype=torch.int32)
        >>> sites, table, shape = rulebook_strided(coords, (1, 1, 8), 1, (1, 1, 3), stride=2, padding=(0, 0, 1))
        >>> sites.tolist(), table.tolist(), shape
        ([[0, 0, 0, 1], [0, 0, 0, 2]], [[-1, 0], [-1, -1], [0, -1]], (1, 1, 4))
    """
    shape, kernel, geometry, out_shape = _strided_inputs(
        "rulebook_strided", coords, spatial_shape, kernel_size, stride, padding, dilation
    )
    sites, table = invoke(
        _strided, coords.int(), shape, batch_size, kernel, *geometry, checks_content(coords.is_cpu)
    )
    return sites, table, out_shape


def rulebook_strided_padded(
    coords: Tensor,
    spatial_shape: Triple,
    batch_size: int,
    kernel_size: int | Triple,
    max_out: int,
    *,
    stride: int | Triple = 1,
    padding: int | Triple = 0,
    dilation: int | Triple = 1,
) -> tuple[Tensor, Tensor, tuple[int, int, int], Tensor]:
    """`rulebook_strided` with outputs of a fixed size, for static graphs.

    Args:
        coords: as `rulebook_strided`, like all arguments that are not listed here. Rows of padding, -1, are
            outside the grid: they are ignored below the validation level that refuses them.
        spatial_shape: as `rulebook_strided`.
        batch_size: as `rulebook_strided`.
        kernel_size: as `rulebook_strided`.
        max_out: output sites of the result.
        stride: as `rulebook_strided`.
        padding: as `rulebook_strided`.
        dilation: as `rulebook_strided`.

    Returns:
        The first sites (max_out, 4) int32 that `rulebook_strided` returns, followed by rows of -1; the table
        (K, max_out) int32, -1 behind the sites; the extents of the output grid; and the number of all output
        sites, an int32 scalar, which may be more than were stored. No gradient.

    Raises:
        ValueError: as `rulebook_strided`, or a negative ``max_out``.
        TypeError: as `rulebook_strided`.

    Example:
        >>> import torch
        >>> from tenfold.ops import rulebook_strided_padded
        >>> coords = torch.tensor([[0, 0, 0, 3]], dtype=torch.int32)
        >>> sites, table, shape, count = rulebook_strided_padded(
        ...     coords, (1, 1, 8), 1, (1, 1, 3), 3, stride=2, padding=(0, 0, 1)
        ... )
        >>> sites.tolist(), table.tolist(), shape, int(count)
        ([[0, 0, 0, 1], [0, 0, 0, 2], [-1, -1, -1, -1]], [[-1, 0, -1], [-1, -1, -1], [0, -1, -1]], (1, 1, 4), 2)
    """
    op = "rulebook_strided_padded"
    shape, kernel, geometry, out_shape = _strided_inputs(
        op, coords, spatial_shape, kernel_size, stride, padding, dilation
    )
    require_size(op, "max_out", max_out)
    validate = checks_content(coords.is_cpu)
    sites, table, count = invoke(
        _strided_padded, coords.int(), shape, batch_size, kernel, max_out, *geometry, validate
    )
    return sites, table, out_shape, count


def rulebook_invert(table: Tensor, rows: int) -> Tensor:
    """Turn a rulebook around: from output rows per input row to input rows per output row.

    Args:
        table: (K, V_out) int32.
        rows: number of input rows, V_in.

    Returns:
        (K, V_in) int32 with ``inverse[k][table[k][o]] = o`` and -1 elsewhere: the rulebook of the inverse
        convolution and of the gradient to the input.

    Raises:
        ValueError: wrong shape, or an entry that is not below ``rows``.
        TypeError: a table that is not of integers.
    """
    _check_table("rulebook_invert", table)
    result: Tensor = invoke(_invert, table.int(), rows)
    return result


def sparse_conv(
    features: Tensor, weight: Tensor, table: Tensor, bias: Tensor | None = None, *, symmetric: bool = False
) -> Tensor:
    """Convolve the features of sparse sites: cross-correlation along a rulebook, no flip.

    Args:
        features: (V_in, C_in) float32 or float64; half precision is computed in float32 and returned as it came.
        weight: (C_out, kz, ky, kx, C_in), as spconv 2 stores it.
        table: (K, V_out) int32 rulebook, K = kz * ky * kx.
        bias: (C_out,) or None.
        symmetric: the table is that of a submanifold convolution with odd kernel sizes on unique sites; its
            gradient then needs no inverted rulebook. Not checked.

    Returns:
        (V_out, C_out) in the dtype of features; gradients to features, weight and bias. Sums run over the kernel
        offsets in ascending order: the same bits for any number of threads, last bits may differ between
        instruction sets.

    Raises:
        ValueError: shapes that do not fit, or a table that names rows which do not exist.
        TypeError: not floating point, or a table that is not of integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import rulebook_submanifold, sparse_conv
        >>> coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=torch.int32)
        >>> table = rulebook_submanifold(coords, (1, 1, 4), 1, (1, 1, 3))
        >>> sparse_conv(torch.tensor([[1.0], [10.0]]), torch.ones(1, 1, 1, 3, 1), table)
        tensor([[11.],
                [11.]])
    """
    op = "sparse_conv"
    require_float(op, "features", features)
    require_float(op, "weight", weight)
    require_shape(op, "features", features, ("V_in", "C_in"))
    _check_table(op, table)
    require_shape(op, "weight", weight, ("C_out", "kz", "ky", "kx", features.shape[1]))
    volume = weight.shape[1] * weight.shape[2] * weight.shape[3]
    require(
        volume == table.shape[0],
        f"{op}: table: got {table.shape[0]} offsets; expected {volume} for this weight",
    )
    if bias is not None:
        require_float(op, "bias", bias)
        require_shape(op, "bias", bias, (weight.shape[0],))
    kept = features.dtype
    compute = torch.float32 if kept in HALVES else kept
    flat = weight.reshape(weight.shape[0], volume, weight.shape[4]).to(compute)
    offset = None if bias is None else bias.to(compute)
    result: Tensor = invoke(_conv, features.to(compute), flat, offset, table.int(), symmetric)
    return result.to(kept)


def sparse_max_pool(features: Tensor, table: Tensor) -> Tensor:
    """Take the largest present input of each output site: a true maximum, also where all inputs are negative.

    Args:
        features: (V_in, C) float32 or float64 (half precision is computed in float32).
        table: (K, V_out) int32 rulebook.

    Returns:
        (V_out, C) in the dtype of features; the gradient goes to the input with the lowest offset on ties.

    Raises:
        ValueError: shapes that do not fit, or a table that names rows which do not exist.
        TypeError: not floating point, or a table that is not of integers.
    """
    op = "sparse_max_pool"
    require_float(op, "features", features)
    require_shape(op, "features", features, ("V_in", "C"))
    _check_table(op, table)
    compute = torch.float32 if features.dtype in HALVES else features.dtype
    result: Tensor = invoke(_pool, features.to(compute), table.int())[0]
    return result.to(features.dtype)
