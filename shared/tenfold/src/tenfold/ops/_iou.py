"""Overlap of rotated boxes: areas and volumes of exact polygon intersections."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold import ref
from tenfold._validation import checks_content
from tenfold.ops._checks import FLOATS, as_compute, require, require_float, require_size
from tenfold.ops._library import define, invoke

__all__ = [
    "box_iou_3d",
    "box_iou_aligned_3d",
    "box_iou_bev",
    "boxes_overlap_bev",
    "pairs_iou_bev",
    "pairs_iou_bev_padded",
]

_OPS = ("box_iou_bev", "box_iou_3d", "box_iou_aligned_3d")
_MODES = {"iou": 0, "inter": 1, "iof": 2, "giou": 3}
_BEV = (5, 7)
_VOLUME = (7,)


def _fake_box_iou(a: Tensor, b: Tensor, kind: int, mode: int, paired: bool, validate: bool) -> Tensor:
    return a.new_empty((a.shape[0],) if paired else (a.shape[0], b.shape[0]))


def _fake_pairs(a: Tensor, found: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = a.new_empty((found,), dtype=torch.int64)
    return rows, torch.empty_like(rows), a.new_empty((found,))


def _fake_pairs_iou_bev(a: Tensor, b: Tensor, thr: float, validate: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_pairs(a, torch.library.get_ctx().new_dynamic_size())  # type: ignore[arg-type]


def _fake_pairs_padded(
    a: Tensor, b: Tensor, thr: float, max_pairs: int, validate: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_fake_pairs(a, max_pairs), a.new_empty((), dtype=torch.int64)


_box_iou = define(
    "box_iou(Tensor a, Tensor b, int kind, int mode, bool paired, bool validate) -> Tensor",
    contract=1,
    reference=ref.box_iou,
    fake=_fake_box_iou,
)
_pairs_iou_bev = define(
    "pairs_iou_bev(Tensor a, Tensor b, float thr, bool validate) -> (Tensor, Tensor, Tensor)",
    contract=1,
    reference=ref.pairs_iou_bev,
    fake=_fake_pairs_iou_bev,
)
_pairs_iou_bev_padded = define(
    "pairs_iou_bev_padded(Tensor a, Tensor b, float thr, SymInt max_pairs, bool validate) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    contract=1,
    reference=ref.pairs_iou_bev_padded,
    fake=_fake_pairs_padded,
)


def require_boxes(op: str, name: str, boxes: Tensor, columns: tuple[int, ...]) -> None:
    """Raise ValueError unless boxes is (N, C) with C among the columns; say what to slice."""
    if boxes.dim() == 2 and boxes.shape[1] in columns:
        return
    expected = " or ".join(f"(N, {c})" for c in columns)
    hint = "columns are (x, y, dx, dy, yaw)" if 5 in columns else "columns are (x, y, z, dx, dy, dz, yaw)"
    if boxes.dim() == 2 and boxes.shape[1] > 7:
        hint = f"slice the box columns, {name}[:, :7]"
    raise ValueError(f"{op}: {name}: got shape {tuple(boxes.shape)}; expected {expected}; {hint}")


def _inputs(op: str, a: Tensor, b: Tensor, columns: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    fine = (
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.dtype in FLOATS
        and b.dtype is a.dtype
        and a.dim() == 2
        and b.dim() == 2
        and a.shape[1] in columns
        and b.shape[1] in columns
        and a.device == b.device
    )
    if fine:
        return a, b
    require_float(op, "a", a)
    require_float(op, "b", b)
    require_boxes(op, "a", a, columns)
    require_boxes(op, "b", b, columns)
    require(a.device == b.device, f"{op}: b: on {b.device}; expected the device of a, {a.device}")
    a, b = as_compute(a), as_compute(b)
    common = torch.promote_types(a.dtype, b.dtype)
    return a.to(common), b.to(common)


def _pair_inputs(op: str, a: Tensor, b: Tensor, thr: float) -> tuple[Tensor, Tensor]:
    a, b = _inputs(op, a, b, _BEV)
    require(0.0 <= thr <= 1.0, f"{op}: thr: got {thr}; expected a value in [0, 1]")
    return a, b


def _overlap(kind: int, a: Tensor, b: Tensor, paired: bool, mode: str, columns: tuple[int, ...]) -> Tensor:
    op = _OPS[kind]
    a, b = _inputs(op, a, b, columns)
    if mode not in _MODES:
        raise ValueError(f"{op}: mode: got {mode!r}; expected one of {', '.join(_MODES)}")
    if paired and a.shape[0] != b.shape[0]:
        raise ValueError(f"{op}: b: got {b.shape[0]} rows; expected {a.shape[0]}, one per row of a (paired)")
    result: Tensor = invoke(_box_iou, a, b, kind, _MODES[mode], paired, checks_content(a.is_cpu))
    return result


def box_iou_bev(a: Tensor, b: Tensor, *, paired: bool = False, mode: str = "iou") -> Tensor:
    """Overlap of rotated boxes seen from above, by exact polygon intersection.

    Computed in float64 whatever the dtype: absolute error at most 1e-6 for side ratios up to 1e4 and centres
    up to 1e5. Identical boxes give exactly 1, touching ones 0, and f(a, b) = f(b, a) to the last bit (but for
    "iof"). A box with a size <= 0 overlaps nothing: 0 in every mode. The yaw may be any finite number.

    Args:
        a: (N, 5) boxes (x, y, dx, dy, yaw), or (N, 7) of which z and dz are ignored; metres and radians.
        b: (M, 5 or 7), not necessarily as many columns as ``a``.
        paired: row i of ``a`` with row i of ``b`` instead of all pairs; then M = N.
        mode: "iou"; "inter", the area of the intersection; "iof", that area over the area of ``a``; or
            "giou", IoU minus the share of the convex hull that neither box covers (Rezatofighi et al. 2019).

    Returns:
        (N, M), or (N,) when paired, in the common dtype (float32 for half precision); no gradient.

    Raises:
        ValueError: wrong shapes or options; at validation level "cheap" also a box that is not finite. Below
            that level such boxes overlap nothing.
        TypeError: not floating-point tensors.

    Example:
        >>> import torch
        >>> from tenfold.ops import box_iou_bev
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0]])
        >>> b = torch.tensor([[0.0, 0.0, 1.0, 2.0, 0.0], [5.0, 0.0, 2.0, 1.0, 0.3]])
        >>> box_iou_bev(a, b)
        tensor([[0.3333, 0.0000]])
    """
    return _overlap(0, a, b, paired, mode, _BEV)


def boxes_overlap_bev(a: Tensor, b: Tensor, *, paired: bool = False) -> Tensor:
    """Area of the intersection of rotated boxes seen from above: `box_iou_bev` with mode "inter".

    Args:
        a: (N, 5 or 7) boxes, see `box_iou_bev`.
        b: (M, 5 or 7).
        paired: row i with row i.

    Returns:
        (N, M), or (N,) when paired, in square metres; no gradient.

    Raises:
        ValueError: as `box_iou_bev`.
        TypeError: as `box_iou_bev`.

    Example:
        >>> import torch
        >>> from tenfold.ops import boxes_overlap_bev
        >>> a, b = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, 2.0, 0.0]])
        >>> boxes_overlap_bev(a, b)
        tensor([[1.]])
    """
    return _overlap(0, a, b, paired, "inter", _BEV)


def box_iou_3d(a: Tensor, b: Tensor, *, paired: bool = False, mode: str = "iou") -> Tensor:
    """Overlap of rotated 3D boxes: bird's-eye intersection times the overlap in z, over volumes.

    Accuracy, symmetry and degenerate boxes as `box_iou_bev`. The enclosing shape of "giou" is the convex hull
    seen from above times the z extent of both boxes.

    Args:
        a: (N, 7) boxes (x, y, z, dx, dy, dz, yaw), centre and full sizes; metres and radians.
        b: (M, 7).
        paired: row i with row i; then M = N.
        mode: "iou", "inter" (cubic metres), "iof" (over the volume of ``a``) or "giou".

    Returns:
        (N, M), or (N,) when paired, in the common dtype (float32 for half precision); no gradient.

    Raises:
        ValueError: as `box_iou_bev`.
        TypeError: as `box_iou_bev`.

    Example:
        >>> import torch
        >>> from tenfold.ops import box_iou_3d
        >>> box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.3]])
        >>> box_iou_3d(box, box + torch.tensor([0.0, 0.0, 0.75, 0.0, 0.0, 0.0, 0.0]))
        tensor([[0.3333]])
    """
    return _overlap(1, a, b, paired, mode, _VOLUME)


def box_iou_aligned_3d(a: Tensor, b: Tensor, *, paired: bool = False, mode: str = "iou") -> Tensor:
    """Overlap of axis-aligned 3D boxes: the yaw column is ignored.

    "Aligned" means aligned with the axes, as for indoor boxes without heading; boxes matched row by row are
    ``paired=True``. The enclosing shape of "giou" is the smallest axis-aligned box.

    Args:
        a: (N, 7) boxes (x, y, z, dx, dy, dz, yaw), the yaw unused but finite.
        b: (M, 7).
        paired: row i with row i; then M = N.
        mode: "iou", "inter" (cubic metres), "iof" (over the volume of ``a``) or "giou".

    Returns:
        (N, M), or (N,) when paired, in the common dtype (float32 for half precision); no gradient.

    Raises:
        ValueError: as `box_iou_bev`.
        TypeError: as `box_iou_bev`.

    Example:
        >>> import torch
        >>> from tenfold.ops import box_iou_aligned_3d
        >>> a = torch.tensor([[0.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.7]])
        >>> box_iou_aligned_3d(a, torch.tensor([[1.0, 0.0, 0.0, 2.0, 1.0, 1.0, 0.0]]))
        tensor([[0.3333]])
    """
    return _overlap(2, a, b, paired, mode, _VOLUME)


def pairs_iou_bev(a: Tensor, b: Tensor, thr: float) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of boxes whose bird's-eye IoU is strictly greater than a threshold, without the (N, M) table.

    Args:
        a: (N, 5 or 7) boxes, see `box_iou_bev`.
        b: (M, 5 or 7).
        thr: in [0, 1]; 0 finds every overlapping pair.

    Returns:
        ``(i, j, iou)``: (K,) int64 rows of ``a`` and ``b``, ordered by i, then j, and (K,) their IoU, the
        values of `box_iou_bev`; no gradient.

    Raises:
        ValueError: as `box_iou_bev`, or a threshold outside [0, 1].
        TypeError: as `box_iou_bev`.

    Example:
        >>> import torch
        >>> from tenfold.ops import pairs_iou_bev
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0], [9.0, 0.0, 2.0, 1.0, 0.0]])
        >>> pairs_iou_bev(a, a.flip(0), 0.5)
        (tensor([0, 1]), tensor([1, 0]), tensor([1., 1.]))
    """
    a, b = _pair_inputs("pairs_iou_bev", a, b, thr)
    i, j, iou = invoke(_pairs_iou_bev, a, b, thr, checks_content(a.is_cpu))
    return i, j, iou


def pairs_iou_bev_padded(
    a: Tensor, b: Tensor, thr: float, max_pairs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`pairs_iou_bev` with outputs of a fixed size, for static graphs.

    Args:
        a: (N, 5 or 7) boxes, see `box_iou_bev`.
        b: (M, 5 or 7).
        thr: in [0, 1]; 0 finds every overlapping pair.
        max_pairs: size of the result.

    Returns:
        ``(i, j, iou, count)``: the first pairs that `pairs_iou_bev` returns, (max_pairs,) each, followed by rows
        -1 with IoU 0; and the number of all pairs, an int64 scalar, which may be more than were stored. No
        gradient.

    Raises:
        ValueError: as `pairs_iou_bev`, or a negative ``max_pairs``.
        TypeError: as `pairs_iou_bev`.

    Example:
        >>> import torch
        >>> from tenfold.ops import pairs_iou_bev_padded
        >>> a = torch.tensor([[0.0, 0.0, 2.0, 1.0, 0.0], [9.0, 0.0, 2.0, 1.0, 0.0]])
        >>> i, j, iou, count = pairs_iou_bev_padded(a, a.flip(0), 0.5, 3)
        >>> i.tolist(), j.tolist(), iou.tolist(), int(count)
        ([0, 1, -1], [1, 0, -1], [1.0, 1.0, 0.0], 2)
    """
    op = "pairs_iou_bev_padded"
    a, b = _pair_inputs(op, a, b, thr)
    require_size(op, "max_pairs", max_pairs)
    i, j, iou, count = invoke(_pairs_iou_bev_padded, a, b, thr, max_pairs, checks_content(a.is_cpu))
    return i, j, iou, count
