"""The examples of docs/lidar.md run."""

import re
from pathlib import Path

import pytest
import torch

from tenfold.testing import page_examples

CLOSE = (0.0, -6.4, -3.0, 12.8, 6.4, 1.0)
PAGE = Path(__file__).parents[4] / "docs" / "lidar.md"


def blocks():
    if not PAGE.is_file():  # the tests of an installed wheel have no docs beside them
        return []
    return page_examples(PAGE)


@pytest.mark.parametrize(
    "code", blocks(), ids=lambda code: re.search(r"build_detector\(\"\w+|class \w+", code)[0]
)
def test_examples_run(code):
    kept = "\n".join(line for line in code.splitlines() if ".pth" not in line)  # no checkpoint at hand
    # The published network, whose weights know no range, on a small part of its map.
    kept = kept.replace('("second", dataset="kitti")', f'("second", dataset="kitti", point_range={CLOSE})')
    torch.manual_seed(0)
    names = {}
    exec(compile(kept, str(PAGE), "exec"), names)
    assert isinstance(names["model"], torch.nn.Module)
    if "WithAttention" in names:
        model = names["model"].eval()
        points = torch.cat((torch.zeros(99, 1), 5 * torch.rand(99, 4)), 1)
        assert len(model({"points": points, "batch_size": 1})) == 1


def test_every_recipe_is_named():
    if not PAGE.is_file():
        pytest.skip("no docs beside these tests")
    from importlib.resources import files

    text = PAGE.read_text(encoding="utf-8")
    folder = files("tenfold.lidar") / "configs"
    for recipe in folder.iterdir():
        if recipe.name.endswith(".yaml"):
            assert f"`{recipe.name[:-5]}`" in text, recipe.name
