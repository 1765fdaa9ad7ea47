"""The examples of README and documentation run."""

from pathlib import Path

import pytest

from tenfold.testing import (
    assert_commands_exist,
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
