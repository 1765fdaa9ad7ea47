"""The examples of README and documentation run."""

import re
from pathlib import Path

import pytest

from tenfold.testing import page_examples, repository_root

ROOT = repository_root(Path(__file__).parent)
PAGES = ["packages/denfi/README.md", "docs/denfi.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = page_examples(ROOT / page)
    for block in blocks:
        exec(compile(block, page, "exec"), {})
    said = capsys.readouterr().out
    for wanted in re.findall(r"print\(.*\)  # (.*)", "\n".join(blocks)):
        assert wanted in said


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_real_verbs_options_and_recipes(page):
    from denfi.cli import app

    text = (ROOT / page).read_text()
    lines = re.findall(r"^denfi (.*?)(?:\s+#.*)?$", text, re.MULTILINE)
    verbs = {verb.name for verb in app.all_verbs()}
    recipes = {path.stem for path in app.config_folder().glob("*.yaml")}
    assert {line.split()[0] for line in lines} <= verbs
    assert set(re.findall(r"--config (\w+)", text)) - {"NAME"} <= recipes
    assert [
        link for link in re.findall(r"\]\(([^)#]+)\)", text) if not ((ROOT / page).parent / link).exists()
    ] == []
