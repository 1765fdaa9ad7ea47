"""The examples of the kernel pages run, each page as one program."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs" / "kernels"


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_examples_run(page):
    code = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert code
    exec(compile("\n".join(code), str(page), "exec"), {"__name__": page.stem})
