"""The examples of Markdown pages and docstrings."""

import contextlib
import doctest
import importlib
import io
import pkgutil
import re
from pathlib import Path
from typing import Any

__all__ = [
    "assert_commands_exist",
    "assert_docstrings_hold",
    "assert_links_exist",
    "page_examples",
    "run_page_examples",
]


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


def run_page_examples(page: Path) -> list[dict[str, Any]]:
    """Run every Python block of a page; returns the names that each defined.

    Torch's generator starts from 0 where torch is loaded.

    Raises:
        AssertionError: a line ``print(...)  # text`` printed something else than the text.
    """
    _seed()
    defined = []
    for code in page_examples(page):
        names: dict[str, Any] = {}
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, str(page), "exec"), names)
        for wanted in re.findall(r"print\(.*\)  # (.*)", code):
            assert wanted in said.getvalue(), f"{page}: printed {said.getvalue()!r}; expected {wanted!r}"
        defined.append(names)
    return defined


def _seed() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("torch").manual_seed(0)


def assert_commands_exist(page: Path, app: Any) -> list[str]:
    """Check that a page's lines ``<program> <verb> ...`` name verbs, aliases and recipes of an `App`.

    Returns:
        The verbs in the order of the page; a test over none would pass.
    """
    text = page.read_text(encoding="utf-8")
    lines = re.findall(rf"^{re.escape(app.name)} (\w[\w-]*)(.*)$", text, re.MULTILINE)
    words = {word for verb in app.all_verbs() for word in (verb.name, *verb.aliases)} | set(app.aliases)
    recipes = {path.stem for path in app.config_folder().glob("*.yaml")}
    for verb, _ in lines:
        assert verb in words, f"{page}: {app.name} has no verb {verb}"
    for name in set(re.findall(r"--config (\w+)", text)) - {"NAME"}:
        assert name in recipes, f"{page}: {app.name} has no recipe {name}"
    return [verb for verb, _ in lines]


def assert_links_exist(page: Path) -> None:
    """Every relative link of a page names a file that is there.

    Raises:
        AssertionError: names those that are not.
    """
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing, f"{page}: no such files: {', '.join(missing)}"


def assert_docstrings_hold(package: str) -> None:
    """Run every example in the docstrings of a package and of all its modules but ``__main__``."""
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    path = importlib.import_module(package).__path__
    names = [package, *(info.name for info in pkgutil.walk_packages(path, f"{package}."))]
    count = 0
    for name in names:
        if not name.endswith("__main__"):
            result = doctest.testmod(importlib.import_module(name), optionflags=options)
            assert result.failed == 0, name
            count += result.attempted
    assert count, f"{package} has no example"
