"""The demo page: its cards, what happens when one fails, and the examples of the READMEs."""

import os
import re
import sys
from pathlib import Path

import pytest

from report import __main__ as page
from report.kernel_cards import Card
from report.package_cards import Demo, demos, run_all
from tenfold.testing import open_page, page_examples, require

ROOT = Path(__file__).resolve().parents[2]
TOY_DEMO = """
from tenfold.train.demo import DemoResult, write_demo

def run_demo(out, seed):
    rows = (("ours", 2.0), ("control", 1.0))
    write_demo(
        DemoResult("Toy", "It works.", "AP 2.0", "AP 1.0", True, (), ("arm", "AP"), rows, (), seed, 0.1), out
    )
"""


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


def test_a_package_s_demo_becomes_a_card_and_a_failed_one_is_shown(tmp_path, monkeypatch):
    (tmp_path / "toy_demo.py").write_text(TOY_DEMO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    toys = (Demo("good", "toy_demo"), Demo("bad", "toy_demo.nothing"))
    (_, good), (_, bad) = run_all(tmp_path / "out", toys)
    made = good()
    assert (made.title, made.number, made.control, made.passed) == ("Toy", "AP 2.0", "AP 1.0", True)
    with pytest.raises(RuntimeError, match="toy_demo"):
        bad()


def test_every_package_s_demo_is_found(tmp_path):
    path = tmp_path / "unix-kd" / "src" / "unix_kd" / "demo.py"
    path.parent.mkdir(parents=True)
    path.touch()
    assert [demo.module for demo in demos(tmp_path)] == ["tenfold.lidar.demo", "unix_kd.demo"]


def python_blocks():
    for readme in (ROOT / "README.md", ROOT / "shared" / "tenfold" / "README.md"):
        for number, block in enumerate(page_examples(readme)):
            yield pytest.param(block, id=f"{readme.parent.name}-{number}")


@pytest.mark.parametrize("block", list(python_blocks()))
def test_readme_examples_run_and_print_what_they_say(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    promised = [line.rsplit("# ", 1)[1] for line in block.splitlines() if re.match(r"print\(.*# ", line)]
    assert promised
    assert capsys.readouterr().out.splitlines()[: len(promised)] == promised
