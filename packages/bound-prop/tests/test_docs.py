"""The examples of README and documentation run, and the command lines name what there is."""

from pathlib import Path

import pytest
import torch

from bound_prop.cli import app
from tenfold.testing import assert_commands_exist, repository_root, run_page_examples

ROOT = repository_root(Path(__file__).parent)
PAGES = ["packages/bound-prop/README.md", "docs/bound-prop.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for names in run_page_examples(ROOT / page):
        margins = names["margins"] if "margins" in names else names["bounds"].lower
        assert torch.isfinite(margins).all()


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_real_verbs_and_recipes(page):
    assert assert_commands_exist(ROOT / page, app)
