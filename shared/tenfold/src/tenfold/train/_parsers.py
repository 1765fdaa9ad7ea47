"""jsonargparse parsers with house manners: `a.b=c` as an option, recipes by name, errors of one sentence."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]

from tenfold._errors import UserInputError
from tenfold.train.cli import nearest

__all__ = ["HelpFormatter", "NamedConfig", "OneSentence", "normalise_arguments"]

# Options that stand alone: the word after them is not their value.
_FLAGS = {"-h", "--help", "--print_config"}


def normalise_arguments(arguments: Sequence[str], known: Collection[str] | None = None) -> list[str]:
    """Turns ``a.b=c`` into ``--a.b=c``; the word after an option without ``=`` is that option's value.

    Args:
        arguments: The words.
        known: Option names; only these are turned (a positional file may be called ``a=b.png``). None: all.

    >>> normalise_arguments(["model.lr=0.1", "--config", "a=b.yaml", "data=x"], known=None)
    ['--model.lr=0.1', '--config', 'a=b.yaml', '--data=x']
    """
    result: list[str] = []
    is_value = False
    for word in arguments:
        name = word.partition("=")[0]
        bare = not is_value and re.fullmatch(r"[A-Za-z_][\w.+]*", name) is not None and "=" in word
        result.append(f"--{word}" if bare and (known is None or name.partition(".")[0] in known) else word)
        is_value = not is_value and word.startswith("-") and "=" not in word and word not in _FLAGS
    return result


class HelpFormatter(DefaultHelpFormatter):
    """jsonargparse's formatter that leaves the lines of a description, our examples, alone."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith("$ ") else super(HelpFormatter, self)._fill_text(line, width, indent)
            for line in text.splitlines()
        )


class OneSentence(ArgumentParser):  # type: ignore[misc]
    """Parser whose errors are `UserInputError` with one sentence: file, key, what was expected."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **kwargs)
        self.read_configs: list[str] = []

    def option_names(self) -> list[str]:
        """Every dotted option name this parser knows."""
        return [
            string.removeprefix("--").removesuffix("+")
            for action in self._actions
            for string in action.option_strings
            if string.startswith("--") and not string.endswith(".help")
        ]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the sentence."""
        raise UserInputError(self._sentence(message, ex)) from ex

    def _sentence(self, message: str, ex: Exception | None) -> str:
        if isinstance(ex, UserInputError):
            return str(ex)
        unknown = _unknown_key(message)
        if unknown is not None:
            group = unknown.rpartition(".")[0]
            siblings = [name for name in self.option_names() if name.rpartition(".")[0] == group]
            place = self._source(unknown)
            return f"{place}{unknown}: no such option{nearest(unknown, siblings or self.option_names())}"
        if message.startswith("Problems parsing config"):
            file = self.read_configs[-1] if self.read_configs else "config"
            return f"{file}: not valid YAML: {' '.join(message.partition(':')[2].split())}"
        bad = re.match(r'Parser key "([^"]+)":(.*)', message, re.DOTALL)
        if bad is not None:
            return f"{self._source(bad[1])}{bad[1]}: {_short_reason(bad[2])}"
        return " ".join(message.split())

    def _source(self, key: str) -> str:
        """``file: `` of the last read configuration that sets ``key``; nothing for the command line."""
        for file in reversed(self.read_configs):
            if _holds(file, key):
                return f"{file}: "
        return ""


class NamedConfig(ActionConfigFile):  # type: ignore[misc]
    """``--config`` that also takes the name of a packaged recipe, and remembers what it read."""

    folder: Path = Path("configs")

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Reads the configuration into ``cfg``."""
        path = resolve_config(str(values), self.folder)
        parser.read_configs.append(str(path))
        _check_yaml(path)
        super().__call__(parser, cfg, str(path), option_string)  # type: ignore[no-untyped-call]


def resolve_config(given: str, folder: Path) -> Path:
    """A configuration file, or the recipe of that name in ``folder``.

    Raises:
        UserInputError: neither exists.
    """
    path = Path(given)
    if path.is_file():
        return path
    recipe = folder / f"{given}.yaml"
    if recipe.is_file():
        return recipe
    names = sorted(item.stem for item in folder.glob("*.yaml"))
    listed = f"; the recipes are {', '.join(names)}" if names else ""
    raise UserInputError(f"{given}: config: no such file or recipe{nearest(given, names)}{listed}")


def _check_yaml(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise UserInputError(f"{path}: {line}not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserInputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        kind = type(content).__name__
        raise UserInputError(f"{path}: got a {kind}; expected sections such as model: and data:")


def _holds(file: str, key: str) -> bool:
    node: Any = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def _unknown_key(message: str) -> str | None:
    patterns = (
        (r"Group '([^']+)' does not accept option '([^']+)'", "{0}.{1}"),
        (r"Option '([^']+)' is not accepted", "{0}"),
        (r"unrecognized arguments: --([^\s=]+)", "{0}"),
    )
    for pattern, key in patterns:
        found = re.search(pattern, message)
        if found is not None:
            return key.format(*found.groups())
    return None


def _short_reason(text: str) -> str:
    """The line of a long union report that a person needs."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    for line in lines:
        if ": no such option" in line:  # our own sentence, from the parser of a nested class
            return line
    for index, line in enumerate(lines):
        if line.startswith("Problem with given class_path") and index + 1 < len(lines):
            return f"{line.rstrip(':')}: {lines[index + 1]}"
    value = next((line for line in lines if line.startswith("Given value: ")), None)
    types = next((line for line in lines if line.startswith("Subtypes: ")), None)
    if value is not None and types is not None:
        expected = _plain(types.removeprefix("Subtypes: "))
        return f"got {value.removeprefix('Given value: ')}; expected {expected}"
    simple = re.match(r"Expected an? (.+?)\. Got value: (.+)", " ".join(lines))
    if simple is not None:
        return f"got {simple[2]}; expected {_plain(simple[1])}"
    return _plain(" ".join(lines))


def _plain(types: str) -> str:
    return re.sub(r"<class '([^']+)'>", r"\1", types)
