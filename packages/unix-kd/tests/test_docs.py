"""The documents' examples run, and their numbers come from records."""

import importlib
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from tenfold.testing import PackageDocuments, repository_root, require
from tenfold.train.claims import RESULTS, load_records

ROOT = repository_root(Path(__file__).parent)


class TestDocuments(PackageDocuments):
    package = "unix_kd"


def test_tables_are_those_of_the_records():
    from claims.docs import render  # benchmarks/claims/docs.py

    for name in ("unix-kd", "ssl-kd"):
        text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
        assert render(text, name.replace("-", "_")) == text


def test_records_are_whole():
    for record in load_records("unix-kd", ROOT / RESULTS):
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
