"""A package's command line, called in this process; and what must hold of every one of them."""

import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tenfold.testing._child import child_environment
from tenfold.train.cli import App, load

__all__ = ["assert_examples_run", "assert_help_shows_examples", "assert_light_help", "cli_fixture"]

_HEAVY = ("torch", "numpy", "lightning", "PIL", "matplotlib")
_CONTINUES = re.compile(r"--config (\w+) .*trainer\.(max_epochs|max_steps)=(\d+) .*--ckpt_path")


def cli_fixture(app: str, *first: str) -> Any:
    """A pytest fixture that runs a command line in an empty folder and returns (exit code, output, errors).

    Args:
        app: ``"module:name"`` of the `App`; imported when a test asks for it.
        first: words that come before every test's own.

    Example: ``cli = cli_fixture("unix_kd.cli:app")`` in a ``conftest.py``.
    """
    import pytest

    @pytest.fixture(name="cli")
    def cli(tmp_path: Any, monkeypatch: Any, capfd: Any) -> Callable[..., tuple[int, str, str]]:
        monkeypatch.chdir(tmp_path)
        # Lightning's log keeps the stream of whichever test came first, which is closed by now.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        call = load(app)

        def run(*words: object) -> tuple[int, str, str]:
            capfd.readouterr()
            code = call([*first, *map(str, words)])
            out, err = capfd.readouterr()
            return code, out, err

        return run

    return cli


def assert_help_shows_examples(cli: Callable[..., tuple[int, str, str]], app: App) -> None:
    """Check that every verb's ``--help`` prints its examples, and that those that continue a run can.

    A trainer refuses to continue with fewer epochs or steps than a whole run of the recipe has had.

    Args:
        cli: what `cli_fixture` gives a test.
        app: whose verbs.
    """
    for verb, examples in app.examples().items():
        code, out, _ = cli(verb, "--help")
        assert code == 0, verb
        assert examples, f"{verb} --help has no example"
        for example in examples:
            assert f"$ {example}" in out, example
            _assert_goes_on(app, example)


def _assert_goes_on(app: App, example: str) -> None:
    import yaml

    if found := _CONTINUES.search(example):
        recipe, option, number = found.groups()
        text = (app.config_folder() / f"{recipe}.yaml").read_text(encoding="utf-8")
        whole = yaml.safe_load(text)["trainer"][option]
        assert int(number) > whole, (
            f"{example}: after a whole run with {option}={whole} there is nothing to do"
        )


def assert_examples_run(
    cli: Callable[..., tuple[int, str, str]],
    app: App,
    *,
    leave_out: str = "$^",
    replace: Mapping[str, str] | None = None,
) -> None:
    """Run the examples that ``--help`` prints, in this process: at least one of every verb but `demo`.

    The card that `demo` makes is a session's own job, and minutes long.

    Args:
        cli: what `cli_fixture` gives a test; put the files that the examples name into its folder.
        app: whose verbs.
        leave_out: regular expression of examples that are not run, such as those on official data.
        replace: text in the examples -> what to use instead, such as fewer steps.
    """
    ran = {"demo"}
    for verb, examples in app.examples().items():
        for example in examples:
            if verb == "demo" or re.search(leave_out, example):
                continue
            line = example
            for old, new in (replace or {}).items():
                line = line.replace(old, new)
            code, out, err = cli(*shlex.split(line)[len(app.name.split()) :])
            assert code == 0, f"'{line}' ended with {code}: {out[-1000:]}{err[-2000:]}"
            ran.add(verb)
    assert ran == {"demo", *app.examples()}


def assert_light_help(app: str, *first: str) -> None:
    """Check in a fresh interpreter that importing a package and printing its help load nothing heavy.

    Args:
        app: ``"module:name"`` of the `App`.
        first: words before ``--help``.
    """
    module, _, name = app.partition(":")
    code = (
        f"import sys, {module.partition('.')[0]}\nfrom {module} import {name} as app\n"
        f"app({[*first, '--help']!r})\n"
        f"sys.exit(str([n for n in {_HEAVY!r} if n in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=child_environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == "[]", done.stderr[-2000:]
