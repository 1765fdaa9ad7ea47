"""Raw points as point-based detectors take them: in range, and as many as they want."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold.lidar.models.detector import frame_offsets


def in_xy_range(points: Tensor, point_range: Sequence[float]) -> Tensor:
    """Points (N, 1 + F), batch index first, whose x and y lie in the range; z is not looked at.

    Example:
        >>> points = torch.tensor([[0.0, 5, 0, -9, 1], [0.0, 99, 0, 0, 1]])
        >>> in_xy_range(points, (0, -40, -3, 70.4, 40, 1)).shape
        torch.Size([1, 5])
    """
    low, high = points.new_tensor(list(point_range[:2])), points.new_tensor(list(point_range[3:5]))
    xy = points[:, 1:3]
    return points[((xy >= low) & (xy <= high)).all(1)]


def draw_points(
    xyz: Tensor, number: int, *, near: float = 40.0, generator: torch.Generator | None = None
) -> Tensor:
    """Rows of exactly ``number`` of a frame's points (PointRCNN's rule).

    Of too many, all points at ``near`` metres or beyond stay and random nearer ones fill up; if the far ones
    alone are too many, any are drawn. Of too few, random ones are repeated.

    Args:
        xyz: (N, 3), N >= 1.
        number: of rows.
        near: metres.
        generator: of the random numbers; None takes torch's.

    Returns:
        (number,) int64 in random order.

    Raises:
        ValueError: no point.

    Example:
        >>> draw_points(torch.tensor([[1.0, 0, 0], [50.0, 0, 0], [2.0, 0, 0]]), 2).eq(1).sum().item()
        1
    """
    count = len(xyz)
    if not count:
        raise ValueError("draw_points: xyz: got no point; expected 1 or more")

    def order(rows: int) -> Tensor:
        return torch.randperm(rows, generator=generator).to(xyz.device)

    if count <= number:
        more = torch.randint(count, (number - count,), generator=generator).to(xyz.device)
        rows = torch.cat((torch.arange(count, device=xyz.device), more))
    else:
        far = torch.linalg.vector_norm(xyz, dim=1) >= near
        distant, close = far.nonzero()[:, 0], (~far).nonzero()[:, 0]
        if len(distant) > number:
            rows = order(count)[:number]
        else:
            rows = torch.cat((distant, close[order(len(close))[: number - len(distant)]]))
    return rows[order(number)]


def fixed_points(
    points: Tensor, batch_size: int, number: int, seed: int | None = None
) -> tuple[Tensor, Tensor]:
    """``number`` points of every frame, see `draw_points`.

    Args:
        points: (N, 1 + F), batch index first.
        batch_size: B.
        number: of points per frame.
        seed: draws every frame with the same random numbers; None takes torch's.

    Returns:
        (B, number, F) points, zeros for a frame without one, and (B,) how many a frame had.
    """
    offsets = frame_offsets(points, batch_size).tolist()
    frames = []
    for low, high in itertools.pairwise(offsets):
        rows = points[low:high, 1:]
        if high == low:
            frames.append(points.new_zeros(number, points.shape[1] - 1))
        else:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            frames.append(rows[draw_points(rows[:, :3], number, generator=generator)])
    counts = torch.tensor([high - low for low, high in itertools.pairwise(offsets)])
    return torch.stack(frames), counts.to(points.device)
