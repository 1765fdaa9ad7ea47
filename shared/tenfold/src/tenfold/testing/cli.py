"""Command lines: every example that ``--help`` prints must run."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tenfold.testing._child import child_environment

_VERBS = re.compile(r"\{([\w,-]+)\}\s+\.\.\.")  # how argparse shows subcommands in the usage


@dataclass
class Example:
    """An example of a help text: the line as printed, and how its run ended."""

    line: str
    verb: str
    stdout: str


def help_examples(
    command: Sequence[str | os.PathLike[str]],
    *,
    name: str,
    folder: Path,
    verbs: Sequence[str] | None = None,
    keep: Callable[[str], bool] = lambda line: True,
    replace: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> list[Example]:
    """Run every example line of each verb's help, in the order of the verbs, and of the program's own help.

    An example is a line that begins with "$ "; a backslash at its end continues it. It runs in a shell, with
    `name` standing for `command`, so that the program need not be installed.

    Args:
        command: how to start the program, such as ``[sys.executable, "-m", "ttfnet"]``.
        name: what the examples call it.
        folder: working folder; put the files there that the examples mention.
        verbs: subcommands; found in the usage line where not given.
        keep: whether to run a line (without the "$ ").
        replace: text in the examples -> what to use instead, such as a smaller number of steps.
        env: added to this process's environment.
        timeout: seconds for each example.

    Returns:
        The examples that ran.

    Raises:
        AssertionError: a help text or an example fails, a verb's help has no example, or an example does not
            call the program at all.

    Example:
        >>> help_examples(["python3", "-m", "ttfnet"], name="ttfnet", folder=tmp)  # doctest: +SKIP
    """
    own = [os.fspath(word) for word in command]
    top = _shell(shlex.join([*own, "--help"]), folder, env, timeout)
    found = verbs
    if found is None:
        match = _VERBS.search(top)
        found = match[1].split(",") if match else []
    # The program's own help, which repeats the first example of each verb, comes last: the verbs are in working order.
    helps = {v: _shell(shlex.join([*own, v, "--help"]), folder, env, timeout) for v in found} | {"": top}
    ran: list[Example] = []
    for verb, text in helps.items():
        lines = example_lines(text)
        assert lines or (not verb and found), f"{name} {verb} --help: has no example (a line '$ {name} ...')"
        for line in lines:
            assert re.search(rf"(^|[\s;|&]){re.escape(name)}(\s|$)", line), (
                f"the example calls no {name}: {line}"
            )
            if keep(line) and line not in [example.line for example in ran]:
                runnable = _runnable(line, name, own, replace or {})
                ran.append(Example(line, verb, _shell(runnable, folder, env, timeout)))
    return ran


def example_lines(text: str) -> list[str]:
    r"""The example lines of a help text, without their "$ ".

    Example:
        >>> example_lines("  $ tool demo \\\n      --steps 3\n  done")
        ['tool demo --steps 3']
    """
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip()[2:].strip() for line in joined.splitlines() if line.strip().startswith("$ ")]


def _runnable(line: str, name: str, own: Sequence[str], replace: Mapping[str, str]) -> str:
    for old, new in replace.items():
        line = line.replace(old, new)
    return re.sub(rf"(^|[\s;|&]){re.escape(name)}(?=\s|$)", lambda m: m[1] + shlex.join(own), line)


def _shell(line: str, folder: Path, env: Mapping[str, str] | None, timeout: float) -> str:
    """Run a line; without a success it is an `AssertionError` that shows what was said."""
    process = subprocess.Popen(
        ["/bin/sh", "-ec", line],
        cwd=folder,
        env=child_environment({"COLUMNS": "200", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise AssertionError(f"'{line}' did not end within {timeout} s") from None
    assert process.returncode == 0, (
        f"'{line}' ended with {process.returncode}: {stdout[-2000:]}{stderr[-2000:]}"
    )
    return stdout
