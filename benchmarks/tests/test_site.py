"""The documentation site leaves out no page and no package. `nox -s docs` checks its links and anchors."""

import sys
from pathlib import Path
from types import SimpleNamespace

import yaml

from tenfold.testing import repository_root, run_page_examples

ROOT = repository_root(Path(__file__).parent)
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PACKAGES = sorted(p.parent for p in (ROOT / "packages").glob("*/pyproject.toml"))


def pages(nav):
    """All files of the navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]


def test_every_page_is_in_the_navigation():
    written = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert sorted(pages(SITE["nav"])) == sorted(written)


def test_every_package_has_a_page_and_a_reference():
    paths = SITE["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"]
    for package in PACKAGES:
        (source,) = (package / "src").glob("*/__init__.py")
        name = source.parent.name
        assert f"packages/{package.name}/src" in paths
        assert f"{package.name}.md" in pages(SITE["nav"])
        assert f"::: {name}\n" in (ROOT / "docs" / "reference" / f"{name}.md").read_text()


def test_quick_start_runs():
    assert run_page_examples(ROOT / "docs" / "quick-start.md")


def test_sessions_of_docstrings_get_a_heading(monkeypatch):
    griffe = SimpleNamespace(Extension=object, Module=object, Object=object)
    monkeypatch.setitem(sys.modules, "griffe", griffe)  # part of the site's own environment
    code = (ROOT / "docs" / "site" / "docstrings.py").read_text()
    scope = {"__name__": "docstrings"}
    exec(compile(code, "docstrings.py", "exec"), scope)
    with_examples = scope["with_examples"]
    assert with_examples("A.\n\n>>> f(\n... 1)\n2\n\nB.") == (
        "A.\n\nExamples:\n    >>> f(\n    ... 1)\n    2\n\nB."
    )
    assert with_examples("A.\n\nExample:\n    >>> f()\n") == "A.\n\nExamples:\n    >>> f()\n"


def test_tables_of_speed_follow_from_the_records():
    from speed import docs

    assert {page.stem for page in docs.pages()} >= {"lidar", "ttfnet"}
    assert docs.main([]) == 0, "run `python -m speed.docs --write`"
