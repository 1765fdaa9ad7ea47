"""The Python examples of Markdown pages."""

import re
from pathlib import Path

__all__ = ["page_examples"]


def page_examples(page: Path) -> list[str]:
    r"""The Python blocks of a Markdown page, in order.

    Raises:
        ValueError: the page has none: a test over nothing would pass.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(folder) / "page.md"
    ...     _ = page.write_text("Text.\n```python\nx = 1\n```\n")
    ...     page_examples(page)
    ['x = 1\n']
    """
    found = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    if not found:
        raise ValueError(f"page_examples: page: {page} has no Python block")
    return found
