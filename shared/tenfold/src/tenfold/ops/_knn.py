"""Nearest neighbours, and the weights of an interpolation between them."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref as reference
from tenfold._validation import checks_content
from tenfold.ops._batching import check_batches, check_clouds
from tenfold.ops._checks import as_compute, require, require_float, require_tensor
from tenfold.ops._library import define, invoke

__all__ = ["interpolation_weights", "knn", "three_nn"]

_MOST = 64


def _fake(
    ref: Tensor,
    query: Tensor,
    k: int,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    offsets: Tensor | None,
    query_offsets: Tensor | None,
    root: bool,
    validate: bool,
) -> tuple[Tensor, Tensor]:
    shape = (*query.shape[:-1], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int32)


_knn = define(
    "knn(Tensor ref, Tensor query, SymInt k, Tensor? lengths, Tensor? query_lengths, Tensor? offsets, "
    "Tensor? query_offsets, bool root, bool validate) -> (Tensor, Tensor)",
    contract=1,
    reference=reference.knn,
    fake=_fake,
)


def _search(
    op: str,
    names: tuple[str, str],
    ref: Tensor,
    query: Tensor,
    k: int,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    offsets: Tensor | None,
    query_offsets: Tensor | None,
    prefix: str,
    root: bool,
) -> tuple[Tensor, Tensor]:
    ref, query = check_clouds(op, names, ref, query)
    lengths, query_lengths, offsets, query_offsets = check_batches(
        op, names, prefix, ref, query, lengths, query_lengths, offsets, query_offsets
    )
    dist2, idx = invoke(
        _knn,
        ref.detach(),
        query.detach(),
        k,
        lengths,
        query_lengths,
        offsets,
        query_offsets,
        root,
        checks_content(ref.is_cpu),
    )
    return dist2, idx


def knn(
    ref: Tensor,
    query: Tensor,
    k: int,
    *,
    lengths: Tensor | None = None,
    query_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    query_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the k nearest reference points of each query.

    Squared distances are (dx*dx + dy*dy) + dz*dz in the points' precision; equal ones go to the lower index.
    A query that is a reference point finds itself first.

    Args:
        ref: reference points, (N, 3), padded (B, N, 3) or stacked (sum N, 3); metres. float32 or float64
            (half precision is up-cast).
        query: (M, 3), (B, M, 3) or (sum M, 3), in the same form.
        k: neighbours, 1 to 64.
        lengths: (B,) used points of each padded element; queries see no others.
        query_lengths: (B,) used queries; the rows behind have no neighbours.
        offsets: (B + 1,) first row of each stacked element, and the number of rows.
        query_offsets: (B + 1,) likewise for the queries.

    Returns:
        dist2 (..., k) ascending, squared metres, in the compute dtype; idx (..., k) int32, counted from the
        start of a padded element or rows of stacked ref. Missing neighbours are (+inf, -1), as are those
        whose squared distance overflows. Neither carries a gradient: compute distances from the indices
        where one is needed.

    Raises:
        ValueError: wrong shapes, options, lengths or offsets; at validation level "cheap" also a coordinate
            that is not finite. Below that level such a point is no neighbour and such a query has none.
        TypeError: not floating-point tensors, or lengths or offsets that are not integers.

    Example:
        >>> import torch
        >>> from tenfold.ops import knn
        >>> ref = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
        >>> knn(ref, ref[:1], 2)
        (tensor([[0., 1.]]), tensor([[0, 2]], dtype=torch.int32))
    """
    require(1 <= k <= _MOST, f"knn: k: got {k}; expected a number from 1 to {_MOST}")
    batching = (lengths, query_lengths, offsets, query_offsets)
    return _search("knn", ("ref", "query"), ref, query, k, *batching, "query_", root=False)


def three_nn(
    unknown: Tensor,
    known: Tensor,
    *,
    lengths: Tensor | None = None,
    known_lengths: Tensor | None = None,
    offsets: Tensor | None = None,
    known_offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the three nearest known points of each unknown one, as PointNet++ interpolates between them.

    Args:
        unknown: (N, 3), padded (B, N, 3) or stacked (sum N, 3).
        known: (M, 3), (B, M, 3) or (sum M, 3), in the same form.
        lengths: (B,) used unknown points of each padded element; the rows behind have no neighbours.
        known_lengths: (B,) used known points.
        offsets: (B + 1,) of stacked unknown points.
        known_offsets: (B + 1,) of stacked known points.

    Returns:
        dist (..., 3): distances (not squared), ascending; idx (..., 3) int32. Missing neighbours are
        (+inf, -1); `interpolation_weights` leaves them out. No gradient.

    Raises:
        ValueError: as `knn`.
        TypeError: as `knn`.

    Example:
        >>> import torch
        >>> from tenfold.ops import three_nn
        >>> known = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]])
        >>> three_nn(torch.tensor([[1.0, 0.0, 0.0]]), known)
        (tensor([[1., 2., inf]]), tensor([[ 0,  1, -1]], dtype=torch.int32))
    """
    dist, idx = _search(
        "three_nn",
        ("known", "unknown"),
        known,
        unknown,
        3,
        known_lengths,
        lengths,
        known_offsets,
        offsets,
        "",
        root=True,
    )
    return dist, idx


def interpolation_weights(dist: Tensor, idx: Tensor, eps: float = 1e-8) -> Tensor:
    """Weights 1 / (dist + eps) of each row's neighbours, divided by their sum.

    Args:
        dist: (..., k) distances, as `three_nn` returns them.
        idx: (..., k) neighbours; -1 where one is missing, which gets weight 0.
        eps: added to every distance, metres.

    Returns:
        (..., k) weights that sum to 1, or zeros in rows without a neighbour. Gradient to ``dist``.

    Raises:
        ValueError: shapes that differ, or an eps that is not positive.
        TypeError: no floating-point distances.

    Example:
        >>> import torch
        >>> from tenfold.ops import interpolation_weights
        >>> interpolation_weights(torch.tensor([[1.0, 3.0, float("inf")]]), torch.tensor([[4, 2, -1]]))
        tensor([[0.7500, 0.2500, 0.0000]])
    """
    op = "interpolation_weights"
    require_float(op, "dist", dist)
    require_tensor(op, "idx", idx)
    require(
        dist.shape == idx.shape and dist.dim() >= 1,
        f"{op}: idx: got shape {tuple(idx.shape)} with dist of shape {tuple(dist.shape)}; expected the same",
    )
    require(eps > 0, f"{op}: eps: got {eps}; expected a positive number")
    valid = idx >= 0
    inverse = torch.where(valid, 1.0 / (as_compute(dist) + eps), 0.0)
    total = inverse.sum(dim=-1, keepdim=True)
    return torch.where(valid, inverse / torch.where(total > 0, total, 1.0), 0.0)
