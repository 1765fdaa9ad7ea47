"""What must hold of the documents and the public names of every method package."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tenfold.testing.data import repository_root
from tenfold.testing.pages import (
    assert_commands_exist,
    assert_docstrings_hold,
    assert_links_exist,
    run_page_examples,
)

__all__ = ["PackageDocuments"]

_PAGES = pytest.mark.parametrize("page", ["packages/{}/README.md", "docs/{}.md"], ids=["readme", "site"])


class PackageDocuments:
    """Tests of a package's README, page of the site, docstrings and public names; pytest collects a subclass.

    Attributes:
        package: as imported.

    Example:
        >>> class TestDocuments(PackageDocuments):
        ...     package = "ttfnet"
    """

    package: str

    def check(self, names: dict[str, Any]) -> None:
        """What else must hold of the names that a block of a page defined; nothing unless a subclass says so."""

    @_PAGES
    def test_python_examples_run(self, page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every block of Python runs in an empty folder and prints what it says."""
        monkeypatch.chdir(tmp_path)
        for names in run_page_examples(self._path(page)):
            self.check(names)

    @_PAGES
    def test_commands_and_links_exist(self, page: str) -> None:
        """Command lines name verbs and recipes that there are, links name files."""
        assert assert_commands_exist(self._path(page), import_module(f"{self.package}.cli").app)
        assert_links_exist(self._path(page))

    def test_docstring_examples_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every example of a docstring prints what it says."""
        monkeypatch.chdir(tmp_path)
        assert_docstrings_hold(self.package)

    def test_every_public_name_exists(self) -> None:
        """All names of ``__all__`` load and are listed; another one is an `AttributeError`."""
        module = import_module(self.package)
        assert set(module.__all__) <= set(dir(module))
        assert [name for name in module.__all__ if getattr(module, name) is None] == []
        with pytest.raises(AttributeError, match="no attribute 'yolo'"):
            _ = module.yolo

    def _path(self, page: str) -> Path:
        root = repository_root(Path(inspect.getfile(type(self))).parent)
        assert root, "no repository around the test"
        return root / page.format(self.package.replace("_", "-"))
