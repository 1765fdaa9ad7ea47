"""Two ways to hold a batch of point clouds, their converters, and the checks that point ops share.

*Padded*: ``(B, N, ...)`` with ``lengths (B,)``. *Stacked*: ``(sum N, ...)`` with ``offsets (B + 1,)``, which
rise from 0 to the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.ops._checks import (
    LIMIT,
    as_compute,
    require,
    require_float,
    require_integers,
    require_shape,
    require_tensor,
)

__all__ = [
    "check_batch",
    "check_batches",
    "check_clouds",
    "offsets_from_batch_index",
    "pad",
    "row_count",
    "stack",
]


def check_batch(
    op: str, name: str, points: Tensor, lengths: Tensor | None, offsets: Tensor | None, prefix: str = ""
) -> tuple[Tensor | None, Tensor | None]:
    """Check shapes and dtypes of lengths or offsets and return them as int64; the kernels check their values.

    Args:
        op: for messages.
        name: of the points argument.
        points: (B, N, C) or (sum N, C).
        lengths: (B,), padded points only.
        offsets: (B + 1,), stacked points only.
        prefix: of the two arguments' names, such as ``center_``.
    """
    padded = points.dim() == 3
    if lengths is not None:
        hint = f"{op}: {prefix}lengths: got lengths with {name} of shape {tuple(points.shape)}"
        require(padded, f"{hint}; expected padded points (B, N, {points.shape[-1]}); use {prefix}offsets")
        require_integers(op, f"{prefix}lengths", lengths)
        require_shape(op, f"{prefix}lengths", lengths, (points.shape[0],), "one length per batch element")
        lengths = lengths.to(torch.int64)
    if offsets is not None:
        hint = f"{op}: {prefix}offsets: got offsets with {name} of shape {tuple(points.shape)}"
        require(not padded, f"{hint}; expected stacked points (N, {points.shape[-1]}); use {prefix}lengths")
        require_integers(op, f"{prefix}offsets", offsets)
        fits = offsets.dim() == 1 and offsets.shape[0] >= 1
        require(fits, f"{op}: {prefix}offsets: got shape {tuple(offsets.shape)}; expected (B + 1,)")
        offsets = offsets.to(torch.int64)
    return lengths, offsets


def row_count(points: Tensor) -> int:
    """Rows of (N, C) or (B, N, C); written so that torch.export can solve a bound on it for N."""
    return points.shape[0] if points.dim() == 2 else points.shape[0] * points.shape[1]


def check_clouds(op: str, names: tuple[str, str], points: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Check two clouds of xyz that belong together and return both in their common compute dtype.

    Args:
        op: for messages.
        names: of the two arguments.
        points: (N, 3) or (B, N, 3).
        queries: (M, 3) or (B, M, 3).
    """
    first, second = names
    for name, value in ((first, points), (second, queries)):
        require_float(op, name, value)
    for name, value in ((first, points), (second, queries)):
        fine = value.dim() in (2, 3) and value.shape[-1] == 3
        hint = "; slice the coordinates off: points[..., :3]" if value.dim() in (2, 3) else ""
        require(fine, f"{op}: {name}: got shape {tuple(value.shape)}; expected (N, 3) or (B, N, 3){hint}")
    require(
        queries.dim() == points.dim(),
        f"{op}: {second}: got shape {tuple(queries.shape)} with {first} of shape {tuple(points.shape)}; "
        "expected both padded or both stacked",
    )
    require(
        points.dim() == 2 or points.shape[0] == queries.shape[0],
        f"{op}: {second}: got batch size {queries.shape[0]}; expected that of {first}, {points.shape[0]}",
    )
    require(
        points.device == queries.device,
        f"{op}: {second}: on {queries.device}; expected the device of {first}, {points.device}",
    )
    for name, value in ((first, points), (second, queries)):
        rows = row_count(value)
        require(rows < LIMIT, f"{op}: {name}: got {rows} rows; expected fewer than 2^31")
    points, queries = as_compute(points), as_compute(queries)
    common = torch.promote_types(points.dtype, queries.dtype)
    return points.to(common), queries.to(common)


def check_batches(
    op: str,
    names: tuple[str, str],
    prefix: str,
    points: Tensor,
    queries: Tensor,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    offsets: Tensor | None,
    query_offsets: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """`check_batch` for two clouds, whose batch sizes must agree; ``prefix`` as there, for the second one."""
    lengths, offsets = check_batch(op, names[0], points, lengths, offsets)
    query_lengths, query_offsets = check_batch(op, names[1], queries, query_lengths, query_offsets, prefix)
    batch = 1 if offsets is None else offsets.shape[0] - 1
    query_batch = 1 if query_offsets is None else query_offsets.shape[0] - 1
    require(
        batch == query_batch,
        f"{op}: {prefix}offsets: got {query_batch} batch elements; expected {batch}, as many as offsets",
    )
    return lengths, query_lengths, offsets, query_offsets


def stack(padded: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Join the used rows of a padded batch.

    Args:
        padded: (B, N, ...), any dtype.
        lengths: (B,) integers from 0 to N; None uses all rows.

    Returns:
        stacked (sum of lengths, ...) and offsets (B + 1,) int64. Gradients flow back to ``padded``, zero in
        the unused rows.

    Raises:
        ValueError: a wrong shape, or a length outside 0 to N.
        TypeError: no tensors, or lengths that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import stack
        >>> stack(torch.arange(6).view(2, 3), torch.tensor([1, 3]))
        (tensor([0, 3, 4, 5]), tensor([0, 1, 4]))
    """
    require_tensor("stack", "padded", padded)
    require(padded.dim() >= 2, f"stack: padded: got shape {tuple(padded.shape)}; expected (B, N, ...)")
    b, n = padded.shape[:2]
    if lengths is None:
        offsets = torch.arange(b + 1, device=padded.device) * n
        return padded.reshape(b * n, *padded.shape[2:]), offsets
    require_integers("stack", "lengths", lengths)
    require_shape("stack", "lengths", lengths, (b,), "one length per batch element")
    lengths = lengths.to(device=padded.device, dtype=torch.int64)
    wrong = (lengths < 0) | (lengths > n)
    if not torch.compiler.is_compiling() and bool(wrong.any()):
        entry = int(wrong.nonzero()[0])
        raise ValueError(f"stack: lengths: entry {entry} is {int(lengths[entry])}; expected 0 to {n}")
    used = torch.arange(n, device=padded.device) < lengths[:, None]
    offsets = torch.cat([lengths.new_zeros(1), lengths.clamp(0, n).cumsum(0)])
    return padded[used], offsets


def pad(
    stacked: Tensor, offsets: Tensor, *, length: int | None = None, value: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Lay out a stacked batch as equally long elements.

    Args:
        stacked: (sum N, ...), any dtype.
        offsets: (B + 1,) integers that rise from 0 to the number of rows.
        length: rows of each padded element; None takes the longest element. Longer elements are an error.
        value: fills unused rows.

    Returns:
        padded (B, length, ...) and lengths (B,) int64. Gradients flow back to ``stacked``.

    Raises:
        ValueError: a wrong shape, offsets that do not rise from 0 to the number of rows, or an element with
            more than ``length`` rows.
        TypeError: no tensors, or offsets that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import pad
        >>> pad(torch.tensor([5, 6, 7]), torch.tensor([0, 1, 3]))
        (tensor([[5, 0],
                [6, 7]]), tensor([1, 2]))
    """
    require_tensor("pad", "stacked", stacked)
    require(stacked.dim() >= 1, f"pad: stacked: got shape {tuple(stacked.shape)}; expected (N, ...)")
    require_integers("pad", "offsets", offsets)
    fits = offsets.dim() == 1 and offsets.shape[0] >= 1
    require(fits, f"pad: offsets: got shape {tuple(offsets.shape)}; expected (B + 1,)")
    offsets = offsets.to(device=stacked.device, dtype=torch.int64)
    lengths = offsets[1:] - offsets[:-1]
    if not torch.compiler.is_compiling():
        _check_offsets(offsets, lengths, stacked.shape[0])
        longest = int(lengths.max()) if len(lengths) else 0
        require(
            length is None or longest <= length,
            f"pad: length: got {length}; expected at least {longest}, the longest element",
        )
        length = longest if length is None else length
    require(length is not None, "pad: length: got None; expected a number in compiled code")
    assert length is not None
    column = torch.arange(length, device=stacked.device)
    used = column < lengths[:, None]
    shape = (len(lengths), length, *stacked.shape[1:])
    if stacked.shape[0] == 0:
        return stacked.new_full(shape, value), lengths
    row = torch.where(used, offsets[:-1, None] + column, 0)
    padded = stacked.index_select(0, row.flatten()).view(shape)
    used = used.view(*used.shape, *([1] * (stacked.dim() - 1)))
    return torch.where(
        used, padded, torch.full((), value, dtype=stacked.dtype, device=stacked.device)
    ), lengths


def _check_offsets(offsets: Tensor, lengths: Tensor, n: int) -> None:
    if bool(offsets[0] == 0) and bool(offsets[-1] == n) and not bool((lengths < 0).any()):
        return
    values = offsets.tolist()
    entry = next(
        (
            e
            for e, v in enumerate(values)
            if v > n or (v != 0 if e == 0 else v < values[e - 1]) or (e == len(values) - 1 and v != n)
        ),
        0,
    )
    raise ValueError(
        f"pad: offsets: entry {entry} is {values[entry]}; expected values that rise from 0 to {n}"
    )


def offsets_from_batch_index(batch_index: Tensor, batch_size: int) -> Tensor:
    """Turn a sorted batch index per row into offsets.

    Args:
        batch_index: (N,) integers from 0 to batch_size - 1, in ascending order.
        batch_size: number of elements B; elements without a row are empty.

    Returns:
        (B + 1,) int64 offsets.

    Raises:
        ValueError: an index out of range, or rows that are not ordered by element.
        TypeError: not an integer tensor.

    Example:
        >>> import torch
        >>> from tenfold.ops import offsets_from_batch_index
        >>> offsets_from_batch_index(torch.tensor([0, 0, 2]), 3)
        tensor([0, 2, 2, 3])
    """
    op = "offsets_from_batch_index"
    require_integers(op, "batch_index", batch_index)
    require_shape(op, "batch_index", batch_index, ("N",))
    require(batch_size >= 0, f"{op}: batch_size: got {batch_size}; expected a number >= 0")
    batch_index = batch_index.to(torch.int64).contiguous()
    if not torch.compiler.is_compiling() and len(batch_index):
        low, high = int(batch_index.min()), int(batch_index.max())
        require(
            low >= 0 and high < batch_size,
            f"{op}: batch_index: got values from {low} to {high}; expected 0 to {batch_size - 1}",
        )
        falls = batch_index[1:] < batch_index[:-1]
        if bool(falls.any()):
            row = int(falls.nonzero()[0]) + 1
            raise ValueError(
                f"{op}: batch_index: row {row} is {int(batch_index[row])} after {int(batch_index[row - 1])}; "
                "expected ascending values; sort the rows by element first"
            )
    element = torch.arange(batch_size + 1, device=batch_index.device)
    return torch.searchsorted(batch_index, element)
