"""The names of `torch_cluster` on `tenfold.ops`: point clouds with a batch index per row, edge lists out.

What differs from the peer:

- `radius` and `radius_graph` keep the ``max_num_neighbors`` points with the lowest indices where there are more,
  in ascending order; the peer keeps those its tree (CPU) or its threads (GPU) meet first. Both are strict: d < r.
- Ties of `knn` go to the lowest index, and ``k`` is at most 64 (63 with `knn_graph` without loops).
- `fps` is exact and breaks ties by the lowest index; with ``random_start`` it draws from torch's generator.
- `knn_graph` and `radius_graph` drop the point itself after the search, as the peer does: among more than k points
  that equal it, a point may keep one edge more.
- Points with more than three columns, and ``cosine=True``, take a plain torch path of O(N M) work.
- ``num_workers`` is accepted and ignored: torch's thread count rules.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tenfold import ops

__all__ = ["fps", "grid_cluster", "knn", "knn_graph", "nearest", "radius", "radius_graph"]

_BLOCK = 1 << 22  # distances held at a time by the plain path


def _columns(x: Tensor) -> Tensor:
    """(N, D) floating point; the peer takes integers and one-dimensional clouds too."""
    x = x if x.is_floating_point() else x.float()
    return x.view(-1, 1) if x.dim() == 1 else x


def _offsets(x: Tensor, batch: Tensor | None, batch_size: int) -> Tensor:
    if batch is None:
        batch = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return ops.offsets_from_batch_index(batch, batch_size)


def _batch_size(batch_size: int | None, *batches: Tensor | None) -> int:
    if batch_size is not None:
        return batch_size
    return max([1, *(int(b.max()) + 1 for b in batches if b is not None and len(b))])


def _xyz(x: Tensor) -> Tensor:
    """One to three columns as three: zeros add nothing to a distance."""
    return functional.pad(x, (0, 3 - x.shape[1]))


def _plain_distances(x: Tensor, y: Tensor, cosine: bool) -> Tensor:
    if cosine:
        return 1 - functional.normalize(y, dim=1) @ functional.normalize(x, dim=1).T
    return (y[:, None] - x[None]).square().sum(dim=-1)


def _blocks(
    x: Tensor, y: Tensor, offsets_x: Tensor, offsets_y: Tensor, cosine: bool
) -> list[tuple[int, int, Tensor]]:
    """(first row of x, first row of y, distances) of blocks of every element."""
    result = []
    for e in range(len(offsets_x) - 1):
        first, last = int(offsets_x[e]), int(offsets_x[e + 1])
        begin, end = int(offsets_y[e]), int(offsets_y[e + 1])
        step = max(1, _BLOCK // max(1, (last - first) * x.shape[1]))
        for at in range(begin, end, step):
            stop = min(at + step, end)
            result.append((first, at, _plain_distances(x[first:last], y[at:stop], cosine)))
    return result


def _edge_index(rows: list[Tensor], columns: list[Tensor], like: Tensor) -> Tensor:
    none = torch.zeros(0, dtype=torch.int64, device=like.device)
    return torch.stack([torch.cat([none, *rows]), torch.cat([none, *columns])])


def knn(
    x: Tensor,
    y: Tensor,
    k: int,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges (2, E) from every row of y (row 0) to its k nearest rows of x (row 1), nearest first.

    Example:
        >>> import torch
        >>> from tenfold.compat.torch_cluster import knn
        >>> x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
        >>> knn(x, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 2)
        tensor([[0, 0, 1, 1],
                [0, 1, 2, 3]])
    """
    x, y = _columns(x), _columns(y)
    size = _batch_size(batch_size, batch_x, batch_y)
    offsets_x, offsets_y = _offsets(x, batch_x, size), _offsets(y, batch_y, size)
    if x.shape[1] <= 3 and not cosine:
        _, idx = ops.knn(_xyz(x), _xyz(y), k, offsets=offsets_x, query_offsets=offsets_y)
        row = torch.arange(len(y), device=y.device)[:, None].expand_as(idx)
        return torch.stack([row[idx >= 0], idx[idx >= 0].long()])
    rows, columns = [], []
    for first, at, distance in _blocks(x, y, offsets_x, offsets_y, cosine):
        order = distance.sort(dim=1, stable=True).indices[:, :k]
        rows.append((torch.arange(len(order), device=y.device)[:, None] + at).expand_as(order).flatten())
        columns.append((order + first).flatten())
    return _edge_index(rows, columns, x)


def radius(
    x: Tensor,
    y: Tensor,
    r: float,
    batch_x: Tensor | None = None,
    batch_y: Tensor | None = None,
    max_num_neighbors: int = 32,
    num_workers: int = 1,
    batch_size: int | None = None,
    ignore_same_index: bool = False,
) -> Tensor:
    """Edges (2, E) from every row of y (row 0) to the rows of x within distance r (row 1).

    Args:
        x: (N, D).
        y: (M, D).
        r: strict.
        batch_x: (N,) sorted element of every row.
        batch_y: (M,) likewise.
        max_num_neighbors: for each row of y.
        num_workers: ignored.
        batch_size: number of elements.
        ignore_same_index: leave out pairs of equal row numbers.
    """
    x, y = _columns(x), _columns(y)
    size = _batch_size(batch_size, batch_x, batch_y)
    offsets_x, offsets_y = _offsets(x, batch_x, size), _offsets(y, batch_y, size)
    k = max_num_neighbors + 1 if ignore_same_index else max_num_neighbors
    if x.shape[1] <= 3:
        idx, count = ops.ball_query(_xyz(x), _xyz(y), r, k, offsets=offsets_x, center_offsets=offsets_y)
        row = torch.arange(len(y), device=y.device)[:, None].expand_as(idx)
        used = torch.arange(k, device=y.device) < count[:, None]
        row, column = row[used], idx[used].long()
    else:
        rows, columns = [], []
        limit = torch.tensor(r, dtype=x.dtype) ** 2
        for first, at, distance in _blocks(x, y, offsets_x, offsets_y, False):
            hit = distance < limit
            hit &= hit.cumsum(dim=1) <= k
            found = hit.nonzero()
            rows.append(found[:, 0] + at)
            columns.append(found[:, 1] + first)
        row, column = _edge_index(rows, columns, x)
    if ignore_same_index:
        other = row != column
        row, column = row[other], column[other]
        rank = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
        row, column = row[rank < max_num_neighbors], column[rank < max_num_neighbors]
    return torch.stack([row, column])


def _graph(edges: Tensor, flow: str, loop: bool) -> Tensor:
    if flow not in ("source_to_target", "target_to_source"):
        raise ValueError(f"flow: got {flow!r}; expected 'source_to_target' or 'target_to_source'")
    if not loop:
        edges = edges[:, edges[0] != edges[1]]
    return edges.flip(0) if flow == "source_to_target" else edges


def knn_graph(
    x: Tensor,
    k: int,
    batch: Tensor | None = None,
    loop: bool = False,
    flow: str = "source_to_target",
    cosine: bool = False,
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges (2, E): row 0 the neighbour and row 1 the point, or the reverse with ``target_to_source``."""
    edges = knn(x, x, k if loop else k + 1, batch, batch, cosine, num_workers, batch_size)
    return _graph(edges, flow, loop)


def radius_graph(
    x: Tensor,
    r: float,
    batch: Tensor | None = None,
    loop: bool = False,
    max_num_neighbors: int = 32,
    flow: str = "source_to_target",
    num_workers: int = 1,
    batch_size: int | None = None,
) -> Tensor:
    """Edges (2, E) between points within distance r: row 0 the neighbour and row 1 the point.

    Example:
        >>> import torch
        >>> from tenfold.compat.torch_cluster import radius_graph
        >>> radius_graph(torch.tensor([[0.0], [1.0], [5.0]]), r=1.5)
        tensor([[1, 0],
                [0, 1]])
    """
    edges = radius(x, x, r, batch, batch, max_num_neighbors, num_workers, batch_size, not loop)
    return _graph(edges, flow, loop)


def nearest(x: Tensor, y: Tensor, batch_x: Tensor | None = None, batch_y: Tensor | None = None) -> Tensor:
    """Row of y (N,) that is nearest to each row of x, inside the same element.

    Raises:
        ValueError: an element of x without rows of y.

    Example:
        >>> import torch
        >>> from tenfold.compat.torch_cluster import nearest
        >>> nearest(torch.tensor([[0.0], [4.0]]), torch.tensor([[3.0], [1.0]]))
        tensor([1, 0])
    """
    edges = knn(y, x, 1, batch_y, batch_x)
    if edges.shape[1] != len(x):
        raise ValueError("nearest: y: an element has rows in x and none in y; expected some in every element")
    return edges[1]


def fps(
    x: Tensor,
    batch: Tensor | None = None,
    ratio: float | Tensor = 0.5,
    random_start: bool = True,
    batch_size: int | None = None,
    ptr: Tensor | None = None,
) -> Tensor:
    """Rows (sum of ceil(ratio * N),) sampled farthest first in every element.

    Args:
        x: (N, D), any number of columns.
        batch: (N,) sorted element of every row.
        ratio: of every element's points, or a tensor with one ratio for each element.
        random_start: begin at a random row of each element instead of its first.
        batch_size: number of elements.
        ptr: (B + 1,) instead of ``batch``.

    Example:
        >>> import torch
        >>> from tenfold.compat.torch_cluster import fps
        >>> x = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
        >>> fps(x, ratio=0.5, random_start=False)
        tensor([0, 3])
    """
    x = _columns(x)
    offsets = _offsets(x, batch, _batch_size(batch_size, batch)) if ptr is None else ptr.long()
    rows = offsets[1:] - offsets[:-1]
    m = (rows.float() * ratio).ceil().long().tolist()  # in float32, as the peer rounds it
    counts = rows.tolist()
    start = [int(torch.randint(n, ())) if random_start and n else 0 for n in counts]
    return ops.farthest_point_sample(x, m, start=start, offsets=offsets, dims=x.shape[1])


def grid_cluster(pos: Tensor, size: Tensor, start: Tensor | None = None, end: Tensor | None = None) -> Tensor:
    """Number (N,) of the grid cell of every point; cells count along the first axis fastest.

    Numbers have gaps, and points below ``start`` or above ``end`` get numbers outside the grid, as with the peer.

    Args:
        pos: (N, D).
        size: (D,) of a cell.
        start: (D,) corner of the grid; the lowest coordinates where not given.
        end: (D,) opposite corner; the highest coordinates.

    Example:
        >>> import torch
        >>> from tenfold.compat.torch_cluster import grid_cluster
        >>> pos = torch.tensor([[0.0, 0.0], [11.0, 9.0], [2.0, 8.0], [2.0, 2.0], [8.0, 3.0]])
        >>> grid_cluster(pos, torch.tensor([5.0, 5.0]))
        tensor([0, 5, 3, 0, 1])
    """
    pos = pos.view(len(pos), -1)
    if size.numel() != pos.shape[1]:
        raise ValueError(f"grid_cluster: size: got {size.numel()} numbers; expected {pos.shape[1]}")
    start = pos.amin(dim=0) if start is None else start
    end = pos.amax(dim=0) if end is None else end
    cells = torch.true_divide(pos - start, size.view(1, -1)).long()
    extent = torch.true_divide(end - start, size).long() + 1
    stride = torch.cat([extent.new_ones(1), extent.cumprod(0)[:-1]])
    return (cells * stride).sum(dim=1)
