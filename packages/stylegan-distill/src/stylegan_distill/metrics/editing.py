"""Does an edit change the student's image as it changes the teacher's?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan_distill.metrics.pixels import mean_l1
from stylegan_distill.metrics.record import Measured
from stylegan_distill.metrics.sampling import Distance, draw_codes
from stylegan_distill.networks import Generator

__all__ = ["editing_consistency", "mixing_consistency", "rank_agreement"]


@torch.no_grad()
def editing_consistency(
    teacher: Generator,
    student: Generator,
    directions: Tensor,
    metric: Distance,
    *,
    strengths: Sequence[float] = (3.0,),
    student_directions: Tensor | None = None,
    classifier: Callable[[Tensor], Tensor] | None = None,
    count: int = 128,
    batch: int = 64,
    seed: int = 0,
) -> Measured:
    """Edits ``w + a u`` of both networks compared, noise off.

    Args:
        teacher: in evaluation mode.
        student: likewise.
        directions: ``(K, D)`` unit vectors; use some that training did not see. Codes go through them in turn.
        metric: perceptual distance.
        strengths: a.
        student_directions: the same edits in the student's own W, for students whose W is not the teacher's.
        classifier: images ``(B, 3, R, R)`` to scores ``(B, K)`` of attributes.
        count: codes for each strength.
        batch: at a time.
        seed: of the codes.

    Returns:
        ``edit_cosine``: mean cosine between the two changes of the image; ``edit_<metric>``: mean distance of the two
        edited images; ``rank_agreement``: of the similarity matrices between images and edits; with a classifier
        ``attribute_agreement``: share of edited images that it puts into the same class.

    Raises:
        ValueError: directions of another length than w.
    """
    own = directions if student_directions is None else student_directions
    for name, net, rows in (("directions", teacher, directions), ("student_directions", student, own)):
        if rows.dim() != 2 or rows.shape[1] != net.cfg.w_dim:
            raise ValueError(
                f"editing_consistency: {name}: got shape {tuple(rows.shape)}; expected (K, {net.cfg.w_dim})"
            )
    rng = torch.Generator().manual_seed(seed)
    cosines, distances, ranks, agreed = [], [], [], []
    for strength in strengths:
        for start in range(0, count, batch):
            size = min(batch, count - start)
            z, c = draw_codes(teacher, size, rng)
            chosen = (torch.arange(size) + start) % len(directions)
            before_t, after_t, change_t = _edit(
                teacher, z, c, directions[chosen.to(directions.device)], strength
            )
            before_s, after_s, change_s = _edit(student, z, c, own[chosen.to(own.device)], strength)
            cosines.append(F.cosine_similarity(change_s.flatten(1), change_t.flatten(1)))
            distances.append(metric(after_s, after_t))
            if classifier is not None:
                agreed.append((classifier(after_s).argmax(1) == classifier(after_t).argmax(1)).double())
            if size > 2:
                ranks.append(rank_agreement(_similarity(before_t, after_t), _similarity(before_s, after_s)))
    values = {
        "edit_cosine": float(torch.cat(cosines).double().mean()),
        f"edit_{metric.name}": float(torch.cat(distances).double().mean()),
        "rank_agreement": sum(ranks) / len(ranks) if ranks else 0.0,
    }
    if agreed:
        values["attribute_agreement"] = float(torch.cat(agreed).mean())
    return Measured(values, {"strengths": list(strengths), "count": count, "seed": seed})


def _edit(
    net: Generator, z: Tensor, c: Tensor | None, directions: Tensor, strength: float
) -> tuple[Tensor, Tensor, Tensor]:
    ws = net.mapping(z, c)
    offset = strength * directions.to(ws)[:, None, :]
    before, after = net.synthesis(ws, noise="none"), net.synthesis(ws + offset, noise="none")
    return before, after, after - before


def _similarity(images: Tensor, edited: Tensor) -> Tensor:
    """(B, B) cosines between images and edited images."""
    return F.normalize(images.flatten(1), dim=1) @ F.normalize(edited.flatten(1), dim=1).T


def rank_agreement(a: Tensor, b: Tensor) -> float:
    """Mean over rows of Spearman's rank correlation of two matrices ``(B, B)``, without their diagonals.

    >>> a = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    >>> round(rank_agreement(a, a**3), 6), round(rank_agreement(a, -a), 6)
    (1.0, -1.0)
    """
    keep = ~torch.eye(len(a), dtype=torch.bool, device=a.device)
    ranked = [m[keep].view(len(m), -1).argsort(1).argsort(1).double() for m in (a, b)]
    centred = [r - r.mean(1, keepdim=True) for r in ranked]
    return float(F.cosine_similarity(centred[0], centred[1], dim=1).mean())


@torch.no_grad()
def mixing_consistency(
    teacher: Generator, student: Generator, *, count: int = 128, batch: int = 64, seed: int = 0
) -> Measured:
    """L1 between teacher and student when both mix the styles of two codes at the same place."""
    rng = torch.Generator().manual_seed(seed)
    total = 0.0
    for start in range(0, count, batch):
        size = min(batch, count - start)
        (z0, c), (z1, _) = draw_codes(teacher, size, rng), draw_codes(teacher, size, rng)
        cut = int(torch.randint(1, teacher.num_ws, (), generator=rng))
        images = []
        for net in (teacher, student):
            a, b = net.mapping(z0, c), net.mapping(z1, c)
            images.append(net.synthesis(torch.cat((a[:, :cut], b[:, cut:]), 1), noise="none"))
        total += mean_l1(images[0], images[1]) * size
    return Measured({"mixing_l1": total / count}, {"count": count, "seed": seed})
