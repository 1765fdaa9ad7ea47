"""The demo page: its cards, what happens when one fails, and the examples of the READMEs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from report import __main__ as page
from report.kernel_cards import Card
from tenfold.testing import open_page, require

ROOT = Path(__file__).resolve().parents[2]


def test_page_shows_every_kernel_card(tmp_path):
    require("chromium")
    assert page.main(["--out", str(tmp_path), "--skip-bench", "--skip-packages"]) == 0
    opened = open_page(tmp_path / "index.html", width=360, screenshot=tmp_path / "page.png")
    assert not opened.errors
    text = (tmp_path / "index.html").read_text()
    assert f"{len(page.CARDS)} ok" in text
    for title in ("Points in boxes", "Voxels", "Rotated suppression", "Ball query"):
        assert title in text


def test_a_failed_card_hides_no_other(tmp_path, monkeypatch, capsys):
    def broken() -> Card:
        raise RuntimeError("the kernel fell over")

    def wrong() -> Card:
        return Card("A wrong result", "claim", "0", "control", False)

    def fine() -> Card:
        return Card("A good result", "claim", "1", "control", True)

    monkeypatch.setattr(page, "CARDS", (broken, wrong, fine))
    assert page.main(["--out", str(tmp_path), "--skip-bench", "--skip-packages"]) == 1
    text = (tmp_path / "index.html").read_text()
    assert "the kernel fell over" in text
    assert "A wrong result" in text
    assert "A good result" in text
    assert "2 failed" in text
    assert "1 ok" in text


def python_blocks():
    for readme in (ROOT / "README.md", ROOT / "shared" / "tenfold" / "README.md"):
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)):
            yield pytest.param(block, id=f"{readme.parent.name}-{number}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_readme_examples_run_and_print_what_they_say(block):
    code = f"import sys; sys.path[:0] = {sys.path!r}\n{block}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    promised = [line.rsplit("# ", 1)[1] for line in block.splitlines() if re.match(r"print\(.*# ", line)]
    assert promised
    assert done.stdout.splitlines()[: len(promised)] == promised
