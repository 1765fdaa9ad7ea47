"""Vote targets: which points lie on objects, and where the objects' centres are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold.ops import points_in_boxes

__all__ = ["VOTES", "kept_instances", "votes_from_boxes", "votes_from_instances"]

VOTES = 3


def votes_from_boxes(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Votes of points by the boxes they lie in, three at most; one or two repeat the first.

    Args:
        points: (N, 3).
        boxes: (G, 7).

    Returns:
        (N,) bool whether a point lies in any box, and (N, 3, 3) its offsets to three centres, 0 elsewhere.

    Source: VoteNet's preparation of SUN RGB-D.

    Example:
        >>> box = torch.tensor([[0.0, 0, 0, 1, 1, 1, 0]])
        >>> mask, votes = votes_from_boxes(torch.tensor([[0.1, 0, 0], [5, 0, 0]]), box)
        >>> mask.tolist(), votes[0, 2].tolist()
        ([True, False], [-0.10000000149011612, 0.0, 0.0])
    """
    if len(boxes) == 0:
        return torch.zeros(len(points), dtype=torch.bool), points.new_zeros(len(points), VOTES, 3)
    inside = points_in_boxes(points, boxes.to(points.dtype), mode="mask", margin=0.0).T  # (N, G)
    mask = inside.any(1)
    # The first three boxes of every point, in the order of the boxes; where there are fewer, the first again.
    row, box = inside.nonzero(as_tuple=True)
    place = inside.cumsum(1)[row, box] - 1
    owners = torch.zeros(len(points), VOTES, dtype=torch.int64, device=points.device)
    owners[row[place == 0]] = box[place == 0, None]
    few = place < VOTES
    owners[row[few], place[few]] = box[few]
    centres = boxes[:, :3].to(points.dtype)[owners]
    offsets = centres - points[:, None]
    return mask, torch.where(mask[:, None, None], offsets, 0.0)


def votes_from_instances(points: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
    """Votes of points for the middle of their own object's points, as VoteNet prepares ScanNet.

    The middle is that of the points that are there (of a subsample), not the centre of the annotated box.

    Args:
        points: (N, 3).
        instance: (N,) number of the object, 0 for none.

    Returns:
        As `votes_from_boxes`, with three equal votes.
    """
    mask = instance > 0
    offsets = points.new_zeros(len(points), 3)
    for number in instance[mask].unique().tolist():
        own = instance == number
        here = points[own]
        offsets[own] = (here.amin(0) + here.amax(0)) / 2 - here
    return mask, offsets[:, None].expand(-1, VOTES, -1).clone()


def kept_instances(instance: Tensor, semantic: Tensor, ids: Sequence[int]) -> Tensor:
    """Instance numbers of points whose semantic class is one of ``ids``, 0 for the others."""
    return torch.where(torch.isin(semantic, semantic.new_tensor(list(ids))), instance, 0)
