"""Specifications: which linear functions of the output are to be bounded or compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bound_prop.sets import Box

__all__ = ["Conjunct", "Disjunction", "LinearSpec", "margin_spec", "targeted_spec"]


def margin_spec(labels: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows ``e_y - e_i`` of every wrong class i in order: ``(B, K - 1, K)`` for labels ``(B,)``.

    All rows of an image positive means that its class is certain (Lyu et al. 2021, section 2).

    Raises:
        ValueError: a label outside ``[0, num_classes)``.

    >>> margin_spec(torch.tensor([1]), 3)
    tensor([[[-1.,  1.,  0.],
             [ 0.,  1., -1.]]])
    """
    _check_labels("margin_spec", "labels", labels, num_classes)
    eye = torch.eye(num_classes, dtype=dtype, device=labels.device)
    rows = eye[labels][:, None, :] - eye[None]
    wrong = torch.arange(num_classes, device=labels.device)[None] != labels[:, None]
    return rows[wrong].view(len(labels), num_classes - 1, num_classes)


def targeted_spec(
    labels: Tensor, targets: Tensor, num_classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Row ``e_y - e_t``: ``(B, 1, K)`` for labels and targets ``(B,)``.

    Raises:
        ValueError: a label or target outside ``[0, num_classes)``, or equal to each other.

    >>> targeted_spec(torch.tensor([1]), torch.tensor([0]), 3)
    tensor([[[-1.,  1.,  0.]]])
    """
    _check_labels("targeted_spec", "labels", labels, num_classes)
    _check_labels("targeted_spec", "targets", targets, num_classes)
    if labels.shape != targets.shape or bool((labels == targets).any()):
        raise ValueError("targeted_spec: targets: expected one other class for each label")
    eye = torch.eye(num_classes, dtype=dtype, device=labels.device)
    return (eye[labels] - eye[targets])[:, None]


def _check_labels(op: str, name: str, labels: Tensor, num_classes: int) -> None:
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(f"{op}: {name}: got {labels.dtype} of {tuple(labels.shape)}; expected integers (B,)")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"{op}: {name}: expected classes from 0 to {num_classes - 1}")


@dataclass(frozen=True, eq=False)
class LinearSpec:
    """What is to be shown: ``C y > rhs`` in every row.

    Attributes:
        C: ``(B, S, K)``.
        rhs: ``(B, S)``, or None for 0.
    """

    C: Tensor
    rhs: Tensor | None = None

    def __post_init__(self) -> None:
        if self.C.ndim != 3:
            raise ValueError(f"LinearSpec: C: got shape {tuple(self.C.shape)}; expected (B, S, K)")
        if self.rhs is not None and self.rhs.shape != self.C.shape[:2]:
            raise ValueError(
                f"LinearSpec: rhs: got shape {tuple(self.rhs.shape)}; expected {tuple(self.C.shape[:2])}"
            )


@dataclass(frozen=True, eq=False)
class Conjunct:
    """One way to be unsafe: an input in ``box`` with ``M y <= h`` in every row.

    Attributes:
        box: of one input, ``(1, *input)``.
        M: ``(S, K)``.
        h: ``(S,)``.
    """

    box: Box
    M: Tensor
    h: Tensor

    def violation(self, outputs: Tensor) -> Tensor:
        """``max_j M_j y - h_j``, ``(N,)`` for outputs ``(N, K)``: unsafe where it is at most 0."""
        return (outputs.flatten(1) @ self.M.to(outputs).T - self.h.to(outputs)).amax(1)


@dataclass(frozen=True, eq=False)
class Disjunction:
    """Everything that is unsafe: one `Conjunct` or another."""

    parts: Sequence[Conjunct]
