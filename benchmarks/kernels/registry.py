"""Every row, in the order of the table. A new family adds its module here."""

from kernels import rows_filters, rows_nms, rows_points, rows_pools, rows_sampling, rows_sparse
from kernels.beside import rows_beside
from kernels.model import Row

_FAMILIES: tuple[Row, ...] = (
    *rows_nms.ROWS,
    *rows_points.ROWS,
    *rows_pools.ROWS,
    *rows_sampling.ROWS,
    *rows_sparse.ROWS,
    *rows_filters.ROWS,
)
ROWS: tuple[Row, ...] = (*_FAMILIES, *rows_beside(_FAMILIES))


def select(only: str | None, quick: bool) -> list[Row]:
    """Rows whose key, op or title contains a word; with `quick`, only those of the quick run."""
    word = (only or "").lower()
    chosen = [row for row in ROWS if word in f"{row.key} {row.op} {row.title}".lower()]
    return [row for row in chosen if row.quick or not quick]
