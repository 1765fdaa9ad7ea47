"""The loss on mixed images; the paper's Eq. 5 and 6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.distill.distillers import Distiller, Outputs, kd_loss
from tenfold.distill.step import check_labels
from unix_kd.sampling import MixBatch

__all__ = ["UnixLoss", "mixed_cross_entropy"]


def mixed_cross_entropy(logits: Tensor, batch: MixBatch) -> Tensor:
    """Mean of ``(1 - a) CE(y_a) + a CE(y_b)``: the cross-entropy with the mixed label.

    Args:
        logits: ``(k, C)``.
        batch: with labels.

    Raises:
        ValueError: the batch has no labels.
    """
    if batch.y_a is None or batch.y_b is None:
        raise ValueError("mixed_cross_entropy: batch: got no labels; pass y to the sampler")
    check_labels("mixed_cross_entropy", batch.y_a, logits)
    first = F.cross_entropy(logits, batch.y_a, reduction="none")
    second = F.cross_entropy(logits, batch.y_b, reduction="none")
    a = batch.mix.to(logits.dtype)
    return ((1.0 - a) * first + a * second).mean()


class UnixLoss:
    """``kd_weight · T² KL + ce_weight · mixed CE + extra_weight · extra``, means over the k kept images.

    Args:
        T: temperature.
        kd_weight: of the class scores.
        ce_weight: of the labels; 0, as published, leaves them unused.
        extra: a distiller to add, such as `AT`, `SP` or `CRD`.
        extra_weight: its weight; by default the published one of that distiller.

    >>> batch = MixBatch(torch.zeros(1, 3, 2, 2), None, None, *[torch.zeros(1)] * 4)
    >>> float(UnixLoss()(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), batch)["loss"])
    0.0
    """

    def __init__(
        self,
        T: float = 4.0,
        kd_weight: float = 1.0,
        ce_weight: float = 0.0,
        extra: Distiller | None = None,
        extra_weight: float | None = None,
    ) -> None:
        if not T > 0 or min(kd_weight, ce_weight) < 0:
            raise ValueError(
                f"UnixLoss: got T {T}, weights {kd_weight}, {ce_weight}; expected T > 0, weights >= 0"
            )
        self.T, self.kd_weight, self.ce_weight, self.extra = T, kd_weight, ce_weight, extra
        self.extra_weight = extra_weight if extra_weight is not None else getattr(extra, "weight", 0.0)

    def __call__(
        self,
        s_logits: Tensor,
        t_logits: Tensor,
        batch: MixBatch,
        s_feats: Sequence[Tensor] | None = None,
        t_feats: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of the kept images.

        Args:
            s_logits: ``(k, C)`` of the student.
            t_logits: ``(k, C)`` of the teacher, for the same mixed pixels.
            batch: what the sampler made.
            s_feats: the student's taps, for ``extra``.
            t_feats: the teacher's taps.

        Returns:
            ``loss`` and its unweighted parts ``kd``, ``ce``, ``extra`` where used.

        Raises:
            ValueError: missing labels or taps, or a teacher with other classes.
        """
        parts: dict[str, tuple[float, Tensor]] = {}
        if self.kd_weight:
            parts["kd"] = (self.kd_weight, kd_loss(s_logits, t_logits, self.T))
        if self.ce_weight:
            parts["ce"] = (self.ce_weight, mixed_cross_entropy(s_logits, batch))
        if self.extra is not None:
            if s_feats is None or t_feats is None:
                raise ValueError(
                    "UnixLoss: s_feats, t_feats: got None; the extra loss needs both networks' taps"
                )
            outputs = Outputs(s_logits, s_feats), Outputs(t_logits, t_feats)
            parts["extra"] = (self.extra_weight, self.extra.loss(*outputs, batch.y_a, batch.index))
        total = (
            torch.stack([factor * value for factor, value in parts.values()]).sum()
            if parts
            else s_logits.sum() * 0
        )
        return {"loss": total * batch.share, **{name: value for name, (_, value) in parts.items()}}
