"""The documents' examples run, and their numbers come from records."""

import doctest
import importlib
import importlib.util
import json
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tenfold.testing import page_examples, repository_root, require

ROOT = repository_root(Path(__file__).parent)
DOCUMENTS = [ROOT / "packages/unix-kd/README.md", ROOT / "docs/unix-kd.md"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.parent.name)
def test_python_examples_run(path, capsys):
    torch.manual_seed(0)
    for code in page_examples(path):
        exec(compile(code, str(path), "exec"), {})
        printed = re.search(r"print\(.*\)  # (.*)", code)
        if printed:
            assert capsys.readouterr().out.strip() == printed[1]


def test_named_recipes_and_verbs_exist():
    from unix_kd.cli import app

    verbs = {verb.name for verb in app.all_verbs()} | set(app.aliases)
    for path in DOCUMENTS:
        for verb, rest in re.findall(r"^unix-kd (\w+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert verb in verbs
            for name in re.findall(r"--config (\w+)", rest):
                assert (app.config_folder() / f"{name}.yaml").is_file(), name


def test_tables_are_those_of_the_records():
    from claims.docs import render  # benchmarks/claims/docs.py

    for name in ("unix-kd", "ssl-kd"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert render(text, name) == text


def test_records_are_whole():
    for path in (ROOT / "benchmarks/results/claims/unix-kd").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        assert record["metrics"]["top1"] >= 0
        assert record["environment"]["versions"]["torch"]


def test_the_image_folder_example_runs(tmp_path, capsys):
    require("torchvision")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for name, colour in (("blue", 2), ("red", 0)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = rng.integers(0, 60, (40, 50, 3), dtype=np.uint8)
                pixels[..., colour] = 220
                Image.fromarray(pixels).save(folder / f"{k}.jpg")
    spec = importlib.util.spec_from_file_location("example", ROOT / "docs/examples/distill_image_folder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    top1 = module.main([str(tmp_path), "--size", "32", "--epochs", "1", "--batch", "4"])
    assert 0 <= top1 <= 100
    assert "of 4 test images" in capsys.readouterr().out


def test_docstring_examples_run():
    import unix_kd

    for name in ("unix_kd", *(m.name for m in pkgutil.walk_packages(unix_kd.__path__, "unix_kd."))):
        module = importlib.import_module(name)
        assert (
            doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).failed == 0
        ), name
