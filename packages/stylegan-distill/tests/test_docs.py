"""The examples of README, documentation and docstrings run."""

from pathlib import Path

import pytest

import stylegan_distill
from tenfold.testing import (
    assert_commands_exist,
    assert_docstrings_hold,
    assert_links_exist,
    repository_root,
    run_page_examples,
)

ROOT = repository_root(Path(__file__).parent)
PAGES = ["packages/stylegan-distill/README.md", "docs/stylegan-distill.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page_examples(ROOT / page)


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_real_verbs_options_and_recipes(page):
    from stylegan_distill.cli import app

    assert assert_commands_exist(ROOT / page, app)
    assert_links_exist(ROOT / page)


def test_docstrings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_docstrings_hold("stylegan_distill")


def test_every_public_name_exists():
    assert [name for name in stylegan_distill.__all__ if getattr(stylegan_distill, name) is None] == []
    assert set(stylegan_distill.__all__) <= set(dir(stylegan_distill))
    with pytest.raises(AttributeError, match="no attribute 'stylegan9'"):
        stylegan_distill.stylegan9
