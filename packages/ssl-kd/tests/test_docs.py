"""The documents' examples run, and their numbers come from records."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest
import torch

from tenfold.testing import page_examples, repository_root

ROOT = repository_root(Path(__file__).parent)
DOCUMENTS = [ROOT / "packages/ssl-kd/README.md", ROOT / "docs/ssl-kd.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_python_examples_run(path, capsys):
    torch.manual_seed(0)
    for code in page_examples(path):
        exec(compile(code, str(path), "exec"), {})
        printed = re.search(r"print\(.*\)  # (.*)", code)
        if printed:
            assert capsys.readouterr().out.strip() == printed[1]


def test_named_recipes_and_verbs_exist():
    from ssl_kd.cli import app

    verbs = {verb.name for verb in app.all_verbs()} | set(app.aliases)
    for path in DOCUMENTS:
        for verb, rest in re.findall(r"^ssl-kd (\w+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert verb in verbs
            for name in re.findall(r"--config (\w+)", rest):
                assert (app.config_folder() / f"{name}.yaml").is_file(), name


def test_records_are_whole():
    for path in (ROOT / "benchmarks/results/claims/ssl-kd").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["metrics"]["top1"] >= 0
        assert record["environment"]["versions"]["torch"]


def test_docstring_examples_run():
    import ssl_kd

    for name in ("ssl_kd", *(m.name for m in pkgutil.walk_packages(ssl_kd.__path__, "ssl_kd."))):
        module = importlib.import_module(name)
        assert (
            doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0
        ), name
