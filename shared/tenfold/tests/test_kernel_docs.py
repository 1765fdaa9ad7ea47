"""The examples of the kernel pages run, each page as one program."""

from pathlib import Path

import pytest

from tenfold.testing import page_examples

FOLDER = Path(__file__).parents[3] / "docs" / "kernels"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_examples_run(page):
    exec(compile("\n".join(page_examples(page)), str(page), "exec"), {"__name__": page.stem})
