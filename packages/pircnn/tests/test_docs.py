"""The examples of README and documentation run."""

import re
from pathlib import Path

import pytest

from tenfold.testing import assert_commands_exist, repository_root, run_page_examples

ROOT = repository_root(Path(__file__).parent)
PAGES = ["packages/pircnn/README.md", "docs/pircnn.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_page_examples(ROOT / page)


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_real_verbs_options_and_recipes(page):
    from pircnn.cli import app

    text = (ROOT / page).read_text()
    assert assert_commands_exist(ROOT / page, app)
    assert [
        link for link in re.findall(r"\]\(([^)#]+)\)", text) if not ((ROOT / page).parent / link).exists()
    ] == []
