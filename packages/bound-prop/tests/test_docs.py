"""The examples of README and documentation run, and the command lines name what there is."""

import re
from pathlib import Path

import pytest
import torch

from bound_prop.cli import app
from tenfold.testing import page_examples, repository_root

ROOT = repository_root(Path(__file__).parent)
PAGES = ["packages/bound-prop/README.md", "docs/bound-prop.md"]


@pytest.mark.parametrize("page", PAGES)
def test_python_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for code in page_examples(ROOT / page):
        names: dict[str, object] = {}
        exec(compile(code, page, "exec"), names)
        margins = names["margins"] if "margins" in names else names["bounds"].lower
        assert torch.isfinite(margins).all()


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_name_real_verbs_and_recipes(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.findall(r"^bound-prop (.*?)(?:\s+#.*)?$", text, re.MULTILINE)
    words = {word for verb in app.all_verbs() for word in (verb.name, *verb.aliases)}
    assert lines
    assert {line.split()[0] for line in lines} <= words
    recipes = {path.stem for path in app.config_folder().glob("*.yaml")}
    assert set(re.findall(r"--config (\w+)", text)) - {"NAME"} <= recipes
