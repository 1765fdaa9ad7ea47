"""Checks of command lines and documents notice what they are there to notice."""

import dataclasses
import sys

import pytest

from tenfold.cli import app
from tenfold.testing import (
    PackageDocuments,
    assert_commands_exist,
    assert_docstrings_hold,
    assert_examples_run,
    assert_help_shows_examples,
    assert_light_help,
    cli_fixture,
    run_page_examples,
)
from tenfold.train.cli import App, Verb, load

SOURCE = '''
"""A tool."""
{first}
from tenfold.train.cli import App, Verb

app = App("tool", "1.0", "A tool.", verbs=(Verb("dedent", "textwrap:dedent", "less margin", ({example})),))
'''


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Writes a package and makes it importable here and in child processes."""

    def write(name, first="", example='"tool dedent text",'):
        (tmp_path / "lib" / name).mkdir(parents=True)
        (tmp_path / "lib" / name / "__init__.py").write_text(SOURCE.format(first=first, example=example))
        monkeypatch.syspath_prepend(tmp_path / "lib")
        return name

    yield write
    for name in [n for n in sys.modules if n.startswith("tool_")]:
        del sys.modules[name]


plain = App(
    "tool", "1.0", "A tool.", verbs=(Verb("dedent", "textwrap:dedent", "less margin", ("tool dedent x",)),)
)
cli = cli_fixture("tenfold.cli:app")


def test_the_command_line_runs_in_an_empty_folder(cli, tmp_path):
    code, out, err = cli("--version")
    assert (code, out.split()[0], err) == (0, "tenfold", "")
    code, _, err = cli("fly")
    assert code == 2
    assert "fly" in err
    assert list(tmp_path.iterdir()) == []
    assert_help_shows_examples(cli, app)
    other = App(
        "tool", "1.0", "A tool.", verbs=(Verb("config", "textwrap:dedent", "less", ("tool config y",)),)
    )
    with pytest.raises(AssertionError, match="tool config y"):
        assert_help_shows_examples(cli, other)


def test_examples_that_continue_a_run_ask_for_more():
    lidar = load("tenfold.lidar.cli:app")
    asked = "tenfold lidar fit --config second_small trainer.max_epochs={} --ckpt_path last"

    def check(number):
        more = dataclasses.replace(
            lidar, verbs=(), test_examples=("x",), fit_examples=(asked.format(number),)
        )
        text = "\n".join(f"$ {example}" for examples in more.examples().values() for example in examples)
        assert_help_shows_examples(lambda *_: (0, text, ""), more)

    check(21)
    for number in (20, 3):  # what the recipe itself asks for, and less
        with pytest.raises(AssertionError, match="max_epochs=20"):
            check(number)


def test_heavy_imports_are_noticed(tool):
    assert_light_help(f"{tool('tool_light')}:app")
    with pytest.raises(AssertionError, match="numpy"):
        assert_light_help(f"{tool('tool_heavy', 'import numpy')}:app")


def test_pages(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\nprint(x + 1)  # 3\n```\n\n```sh\ntool dedent text\n```\n")
    assert [names["x"] for names in run_page_examples(page)] == [2]
    assert assert_commands_exist(page, plain) == ["dedent"]
    page.write_text("```python\nprint(2)  # 3\n```\n\n```sh\ntool fly\n```\n")
    with pytest.raises(AssertionError, match="expected '3'"):
        run_page_examples(page)
    with pytest.raises(AssertionError, match="no verb fly"):
        assert_commands_exist(page, plain)
    page.write_text("nothing\n")
    assert assert_commands_exist(page, plain) == []


def test_docstrings(tool, capsys):
    example = 'def one():\n    """>>> one()\n    1\n    """\n    return {}\n'
    assert_docstrings_hold(tool("tool_right", example.format(1)))
    with pytest.raises(AssertionError, match="tool_wrong"):
        assert_docstrings_hold(tool("tool_wrong", example.format(2)))
    with pytest.raises(AssertionError, match="no example"):
        assert_docstrings_hold(tool("tool_mute"))
    capsys.readouterr()


def test_examples_run():
    def call(*words):
        return plain(words), "", ""

    assert_examples_run(call, plain)
    with pytest.raises(AssertionError):
        assert_examples_run(call, plain, leave_out="dedent")
    with pytest.raises(AssertionError, match="'tool dedent --x' ended with 2"):
        assert_examples_run(call, plain, replace={"dedent x": "dedent --x"})


def test_documents_of_a_package(tool, tmp_path, monkeypatch):
    name = tool("tool_docs", '__all__ = ["app", "App"]\ndef one():\n    """>>> 1\n    1\n    """\n')
    (tmp_path / "lib" / name / "cli.py").write_text(f"from {name} import app\n")
    page = tmp_path / "page.md"

    class Documents(PackageDocuments):
        package = name

        def check(self, names):
            assert names["x"] == 2

        def _path(self, _):
            return page

    found = Documents()
    page.write_text("```python\nx = 2\n```\n```sh\ntool dedent text\n```\n[here](page.md#a)\n")
    found.test_python_examples_run("", tmp_path, monkeypatch)
    found.test_commands_and_links_exist("")
    found.test_docstring_examples_run(tmp_path, monkeypatch)
    found.test_every_public_name_exists()
    page.write_text("```python\nx = 3\n```\n[here](gone.md)\n")
    with pytest.raises(AssertionError):
        found.test_python_examples_run("", tmp_path, monkeypatch)
    with pytest.raises(AssertionError):  # no command
        found.test_commands_and_links_exist("")
    for link in ("gone.md", "gone.md#a"):
        page.write_text(f"```sh\ntool dedent text\n```\n[here]({link})\n")
        with pytest.raises(AssertionError, match="gone"):
            found.test_commands_and_links_exist("")
    sys.modules[name].__all__.append("nothing")
    with pytest.raises(AssertionError):
        found.test_every_public_name_exists()
