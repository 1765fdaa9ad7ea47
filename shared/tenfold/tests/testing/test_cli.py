import sys
import textwrap

import pytest

from tenfold.testing import help_examples
from tenfold.testing.cli import example_lines

TOOL = """
import argparse, pathlib, sys
raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
main = argparse.ArgumentParser("tool", epilog=MAIN_EPILOG, **raw)
main.add_argument("--mode", choices=["a", "b"])
verbs = main.add_subparsers(dest="verb")
count = verbs.add_parser("count", epilog=COUNT_EPILOG, **raw)
count.add_argument("file")
count.add_argument("--times", type=int, default=1)
demo = verbs.add_parser("demo", epilog="$ tool demo", **raw)
args = main.parse_args()
if args.verb == "count":
    print(len(pathlib.Path(args.file).read_text()) * args.times)
"""


def tool(folder, main="", count="examples:\n  $ tool count a.txt\n"):
    path = folder / "tool.py"
    path.write_text(
        textwrap.dedent(TOOL).replace("MAIN_EPILOG", repr(main)).replace("COUNT_EPILOG", repr(count))
    )
    (folder / "a.txt").write_text("12345")
    return {"command": [sys.executable, str(path)], "name": "tool", "folder": folder}


def test_all_examples_of_all_verbs_run(tmp_path):
    count = "$ tool count a.txt\n$ tool count a.txt --times 2 > out.txt && tool \\\n    count out.txt"
    ran = help_examples(**tool(tmp_path, "first:\n  $ tool demo", count))
    assert [(e.verb, e.line, e.stdout) for e in ran] == [
        ("count", "tool count a.txt", "5\n"),
        ("count", "tool count a.txt --times 2 > out.txt && tool count out.txt", "3\n"),
        ("demo", "tool demo", ""),
    ]


def test_filter_and_replacement(tmp_path):
    setting = tool(tmp_path, count="$ tool count big.txt\n$ tool count huge.txt")
    ran = help_examples(**setting, keep=lambda line: "huge" not in line, replace={"big.txt": "a.txt"})
    assert [e.line for e in ran] == ["tool count big.txt", "tool demo"]


@pytest.mark.parametrize(
    ("count", "complaint"),
    [
        ("no example here", "tool count --help: has no example"),
        ("$ tool count absent.txt", r"'.*count absent\.txt' ended with 1: (?s:.*)FileNotFoundError"),
        ("$ tool count a.txt --twice", r"ended with 2: (?s:.*)unrecognized arguments: --twice"),
        ("$ tools count a.txt", "the example calls no tool: tools count"),
        ("$ tool count a.txt && sleep 60", "did not end within 3 s"),
    ],
)
def test_bad_helps_are_caught(tmp_path, count, complaint):
    with pytest.raises(AssertionError, match=complaint):
        help_examples(**tool(tmp_path, count=count), timeout=3)


def test_help_that_fails_is_caught(tmp_path):
    (tmp_path / "tool.py").write_text("raise SystemExit(1)")
    with pytest.raises(AssertionError, match=r"--help' ended with 1"):
        help_examples([sys.executable, "tool.py"], name="tool", folder=tmp_path)


def test_named_verbs_only(tmp_path):
    assert [e.verb for e in help_examples(**tool(tmp_path), verbs=["demo"])] == ["demo"]


def test_example_lines():
    assert example_lines("a $ b\n   $ one \\\n     two\n$ three\n$nothing") == ["one two", "three"]
