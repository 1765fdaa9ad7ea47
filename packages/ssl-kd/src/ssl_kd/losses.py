"""The four losses of the student; the paper's Eq. 8 to 11 with the weights of its released code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_kd.selection import error_level, select
from ssl_kd.tasks import Contrastive, SSTask
from ssl_kd.views import VIEWS
from tenfold.distill.distillers import kd_loss
from tenfold.distill.distillers._base import as_float, check_equal_logits
from tenfold.distill.step import check_labels
from tenfold.train.processes import rank_and_world

__all__ = ["PRESETS", "SSKDLoss"]

#: Weights of cross-entropy, class scores, class scores of transformed views, self-supervision. The released
#: code and the paper's two versions disagree; ``code`` produced the released numbers.
PRESETS: dict[str, dict[str, float]] = {
    "code": {"ce": 0.1, "kd": 0.9, "tf": 2.7, "ss": 10.0},
    "arxiv": {"ce": 0.1, "kd": 0.9, "tf": 10.0, "ss": 2.7},
    "eccv": {"ce": 0.1, "kd": 0.9, "tf": 5.0, "ss": 3.0},
}


class SSKDLoss:
    """Cross-entropy and class scores of plain views, class scores of transformed ones, similarities.

    ``ce``: mean cross-entropy of the B plain views. ``kd``: ``T_kd² KL`` of the plain views. ``tf``:
    ``T_tf² KL`` over the selected transformed views. ``ss``: ``T_ss² KL`` of the rows of similarities over the
    selected rows. Which rows are selected is up to the *teacher's* errors, each term by its own; see `select`.

    Args:
        T_kd: temperature of the plain views' class scores.
        T_tf: temperature of the transformed views' class scores.
        T_ss: temperature of the similarities.
        ratio_tf: share of the wrong transformed views to keep.
        ratio_ss: share of the wrong similarity rows to keep.
        weights: a key of `PRESETS`, or weights of ``ce``, ``kd``, ``tf``, ``ss``.
        gather: compare with the plain views of all processes of a distributed run, so that the task does not
            depend on their number. Selection stays per process.
        task: the self-supervision task.
        permute: control: shuffle the columns of the teacher's similarities anew in every step.

    Raises:
        ValueError: an unknown preset or weight, a temperature that is not above 0, a ratio outside [0, 1].

    >>> z, logits = torch.eye(4), torch.zeros(4, 3)
    >>> losses = SSKDLoss()(logits, z, logits, z, torch.tensor([1]))
    >>> [round(float(losses[k]), 4) for k in ("ce", "kd", "tf", "ss")]
    [1.0986, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        T_kd: float = 4.0,
        T_tf: float = 4.0,
        T_ss: float = 0.5,
        ratio_tf: float = 1.0,
        ratio_ss: float = 0.75,
        weights: str | Mapping[str, float] = "code",
        gather: bool = False,
        *,
        task: SSTask | None = None,
        permute: bool = False,
    ) -> None:
        if min(T_kd, T_tf, T_ss) <= 0:
            raise ValueError(f"SSKDLoss: temperatures: got {T_kd}, {T_tf}, {T_ss}; expected more than 0")
        if not 0.0 <= min(ratio_tf, ratio_ss) <= max(ratio_tf, ratio_ss) <= 1.0:
            raise ValueError(f"SSKDLoss: ratios: got {ratio_tf}, {ratio_ss}; expected numbers in [0, 1]")
        self.T_kd, self.T_tf, self.T_ss = T_kd, T_tf, T_ss
        self.ratio_tf, self.ratio_ss, self.gather, self.permute = ratio_tf, ratio_ss, gather, permute
        self.weights = _weights(weights)
        self.task = task or Contrastive()
        if gather and not isinstance(self.task, Contrastive):
            raise ValueError("SSKDLoss: gather: only tasks that compare images have others to gather")

    def __call__(
        self,
        s_logits: Tensor,
        s_z: Tensor,
        t_logits: Tensor,
        t_z: Tensor,
        y: Tensor,
        target: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch of B images with four views each, the views of an image next to each other.

        Args:
            s_logits: ``(4 B, C)`` of the student.
            s_z: ``(4 B, d)`` of the student's head.
            t_logits: ``(4 B, C)`` of the teacher.
            t_z: ``(4 B, d')`` of the teacher's head.
            y: ``(B,)`` labels.
            target: right answer of each row, from the task's ``prepare``; by default the task's usual one.

        Returns:
            ``loss``; unweighted ``ce``, ``kd``, ``tf``, ``ss``; ``n_tf``, ``n_ss`` selected rows; ``ss_acc_t``,
            ``ss_acc_s``: share of rows that teacher and student answer right.

        Raises:
            ValueError: shapes that do not belong together.
        """
        s_logits, s_z, t_logits, t_z = (as_float(x) for x in (s_logits, s_z, t_logits.detach(), t_z.detach()))
        check_equal_logits("SSKDLoss", s_logits, t_logits)
        images, rest = divmod(len(s_logits), VIEWS)
        if (
            rest
            or not images
            or y.shape != (images,)
            or len(s_z) != len(s_logits)
            or len(t_z) != len(s_logits)
        ):
            raise ValueError(
                f"SSKDLoss: got logits {tuple(s_logits.shape)}, z {tuple(s_z.shape)} and {tuple(t_z.shape)}, y"
                f" {tuple(y.shape)}; expected 4 rows for each of B labels, B >= 1"
            )
        s_plain, s_moved = _split(s_logits, images)
        t_plain, t_moved = _split(t_logits, images)
        check_labels("SSKDLoss", y, s_plain)
        rows = select(error_level(t_moved, y.repeat_interleave(VIEWS - 1)), self.ratio_tf)
        s_scores, t_scores, right = self._similarities(s_z, t_z, images, target)
        levels = error_level(t_scores, right)
        ss_rows = select(levels, self.ratio_ss)
        parts = {
            "ce": F.cross_entropy(s_plain, y),
            "kd": kd_loss(s_plain, t_plain, self.T_kd),
            "tf": kd_loss(s_moved[rows], t_moved[rows], self.T_tf),
            "ss": kd_loss(s_scores[ss_rows], self._shown(t_scores)[ss_rows], self.T_ss),
        }
        total = torch.stack([self.weights[name] * value for name, value in parts.items()]).sum()
        accuracy = {
            "ss_acc_t": (levels == 0).float().mean(),
            "ss_acc_s": (error_level(s_scores.detach(), right) == 0).float().mean(),
        }
        counts = {"n_tf": torch.tensor(len(rows)), "n_ss": torch.tensor(len(ss_rows))}
        return {"loss": total, **parts, **counts, **accuracy}

    def _similarities(
        self, s_z: Tensor, t_z: Tensor, images: int, target: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        right = self.task.positive(images, s_z.device) if target is None else target
        rank, world = rank_and_world()
        if not self.gather or world == 1:
            return self.task.scores(s_z), self.task.scores(t_z), right
        first = images * rank
        s_all, t_all = (_gather_plain(z.view(images, VIEWS, -1)[:, 0]) for z in (s_z, t_z))
        return self.task.scores(s_z, s_all), self.task.scores(t_z, t_all), right + first

    def _shown(self, scores: Tensor) -> Tensor:
        """The teacher's scores, or the control's shuffled ones."""
        if not self.permute:
            return scores
        return scores[:, torch.randperm(scores.shape[1]).to(scores.device)]


def _weights(given: str | Mapping[str, float]) -> dict[str, float]:
    names = tuple(PRESETS["code"])
    if isinstance(given, str):
        if given not in PRESETS:
            raise ValueError(
                f"SSKDLoss: weights: got {given!r}; expected one of {', '.join(PRESETS)}, or numbers"
            )
        return dict(PRESETS[given])
    strange = sorted(set(given) - set(names))
    if strange or any(not value >= 0 for value in given.values()):
        raise ValueError(
            f"SSKDLoss: weights: got {dict(given)}; expected numbers >= 0 for {', '.join(names)}"
        )
    return {name: float(given.get(name, 0.0)) for name in names}


def _split(logits: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Plain views ``(B, C)`` and transformed ones ``(3 B, C)``."""
    by_image = logits.view(images, VIEWS, -1)
    return by_image[:, 0], by_image[:, 1:].reshape(-1, logits.shape[1])


def _gather_plain(z: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradients to where they come from."""
    import torch.distributed.nn.functional as collective

    parts: Any = collective.all_gather(z.contiguous())  # type: ignore[no-untyped-call]
    return torch.cat(list(parts))
