"""Command lines from a declaration: ``<package> demo | fit | test | predict | export`` and more.

`fit` and `test` are `LightningCLI` without its parsers for other stages; every other verb is a plain
function whose signature is the command line (jsonargparse). Nothing of a verb is imported before the verb
is called, so ``--help`` and ``--version`` answer at once. Exit codes:

| code | meaning |
|---|---|
| 0 | done |
| 1 | a bug of ours: the traceback is shown |
| 2 | the user's options, configuration or file: one sentence that names it |
| 4 | an extra is not installed: the sentence holds the pip line |
| 130 | interrupted |

``TENFOLD_TRACEBACK=1`` shows the traceback of every error.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tenfold._errors import MissingExtraError, UserInputError

__all__ = ["App", "Verb"]

# Top-level module -> extra of the package that installs it.
EXTRAS = {
    "lightning": "train",
    "tensorboard": "train",
    "jsonargparse": "cli",
    "yaml": "cli",
    "PIL": "cli",
    "open3d": "viz3d",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
}
_STAGES = {"fit": "train a model from a recipe", "test": "evaluate a checkpoint with a recipe"}


@dataclass(frozen=True)
class Verb:
    """One word of a command line.

    Attributes:
        name: The word, such as ``predict``.
        target: ``"module:function"``. Its typed parameters become options (those without a default:
            positional arguments), its Google docstring their help. A returned int is the exit code; None
            means 0.
        summary: One line for the list of verbs.
        examples: Real command lines, each starting with the package's name.
        extra: Extra that must be installed for this verb, such as ``train``.
        aliases: Other words for the same verb.
        group: The target is another `App` with verbs of its own, as in ``tenfold lidar fit``.
    """

    name: str
    target: str
    summary: str
    examples: tuple[str, ...]
    extra: str | None = None
    aliases: tuple[str, ...] = ()
    group: bool = False


@dataclass(frozen=True)
class App:
    """A package's command line; calling it runs it and returns the exit code.

    Attributes:
        name: The words that call it: the console script, and for a group the group's verb.
        version: Version of the distribution.
        summary: One line on what the package does.
        verbs: Verbs other than `fit` and `test`.
        task: ``"module:LightningModule"``, or several: then a recipe names its own in ``model.class_path``.
        data: ``"module:LightningDataModule"``, or several likewise (``data.class_path``).
        fit_examples: Examples of `fit`.
        test_examples: Examples of `test`.
        aliases: Other words for `fit` and `test`, such as ``{"distill": "fit"}``.
        package: Import name, by default ``name`` with underscores; its ``configs/*.yaml`` are the recipes.
        distribution: What ``pip install`` calls it, by default ``name``.

    >>> hello = Verb("hello", "textwrap:dedent", "print a text without its margin", ("tool hello text",))
    >>> App("tool", "1.0", "A tool.", verbs=(hello,))(["--version"])
    tool 1.0
    0
    """

    name: str
    version: str
    summary: str
    verbs: tuple[Verb, ...] = ()
    task: str | tuple[str, ...] | None = None
    data: str | tuple[str, ...] | None = None
    fit_examples: tuple[str, ...] = ()
    test_examples: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    package: str = ""
    distribution: str = ""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command line ``argv`` (by default the process's own) and returns the exit code."""
        arguments = list(sys.argv[1:] if argv is None else argv)
        try:
            return self._dispatch(arguments)
        except SystemExit as exit_:
            return _exit_code(exit_)
        except KeyboardInterrupt:
            return _say(self.name, "interrupted", 130)
        except Exception as error:
            code, sentence = classify(error, self.distribution or self.name)
            if code == 1 or os.environ.get("TENFOLD_TRACEBACK"):
                traceback.print_exc()
            if code == 1:
                sentence = "this is a bug in our code, please report it with the lines above"
            return _say(self.name, sentence, code)

    def all_verbs(self) -> tuple[Verb, ...]:
        """Every verb, `fit` and `test` included where the package has a task."""
        if self.task is None:
            return self.verbs
        examples = {"fit": self.fit_examples, "test": self.test_examples}
        stages = tuple(
            Verb(
                name,
                "",
                summary,
                examples[name],
                extra="train",
                aliases=tuple(word for word, verb in self.aliases.items() if verb == name),
            )
            for name, summary in _STAGES.items()
        )
        first = tuple(verb for verb in self.verbs if verb.name == "demo")
        return (*first, *stages, *(verb for verb in self.verbs if verb.name != "demo"))

    def examples(self) -> dict[str, tuple[str, ...]]:
        """Verb -> its examples, for the test that runs them all."""
        return {verb.name: verb.examples for verb in self.all_verbs()}

    def _dispatch(self, arguments: list[str]) -> int:
        by_word = {word: verb for verb in self.all_verbs() for word in (verb.name, *verb.aliases)}
        if not arguments:
            self._top_parser().print_help()
            return 0
        if arguments[0] not in by_word:
            self._top_parser().parse_args(arguments)
            return 0
        verb, rest = by_word[arguments[0]], arguments[1:]
        if verb.group:
            group: App = load(verb.target)  # type: ignore[assignment]
            return group(rest)
        wants_help = any(word in ("-h", "--help") for word in rest)
        missing = verb.extra is not None and not _installed(verb.extra)
        if missing and not wants_help:
            package = self.distribution or self.name
            raise MissingExtraError(_missing_sentence(package, verb.extra or "", f"{self.name} {verb.name}"))
        if missing and not verb.target:
            print(self._stage_help(verb))
            return 0
        result = self._run_stage(verb, rest) if not verb.target else self._run_function(verb, rest)
        return result if isinstance(result, int) and not isinstance(result, bool) else 0

    def _top_parser(self) -> argparse.ArgumentParser:
        lines = [_examples_text([v.examples[0] for v in self.all_verbs() if v.examples])]
        lines.append(f"`{self.name} <verb> --help` shows a verb's options and more examples.")
        parser = _TopParser(
            prog=self.name,
            description=self.summary,
            epilog="\n\n".join(line for line in lines if line),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--version", action="version", version=f"{self.name} {self.version}")
        choices = parser.add_subparsers(title="verbs", metavar="<verb>", required=True)
        for verb in self.all_verbs():
            choices.add_parser(verb.name, aliases=list(verb.aliases), help=verb.summary, add_help=False)
        return parser

    def _run_function(self, verb: Verb, arguments: list[str]) -> Any:
        from tenfold.train._parsers import OneSentence, normalise_arguments

        function = load(verb.target)
        parser = OneSentence(
            prog=f"{self.name} {verb.name}", description=_description(verb, function.__doc__)
        )
        parser.add_function_arguments(function, as_group=False, as_positional=True, sub_configs=True)
        config = parser.parse_args(normalise_arguments(arguments, parser.option_names()))
        return function(**parser.instantiate_classes(config))

    def _run_stage(self, verb: Verb, arguments: list[str]) -> int:
        from tenfold.train._stages import run_stage

        return run_stage(self, verb, arguments, _description(verb, None) + "\n\n" + self._recipes_text())

    def _stage_help(self, verb: Verb) -> str:
        hint = _missing_sentence(self.distribution or self.name, "train", "the full list of options")
        usage = (
            f"usage: {self.name} {verb.name} [--config recipe] [section.option=value ...] [--ckpt_path last]"
        )
        return "\n\n".join([usage, _description(verb, None), self._recipes_text(), hint])

    def _recipes_text(self) -> str:
        names = sorted(path.stem for path in self.config_folder().glob("*.yaml"))
        return "recipes (--config): " + (", ".join(names) or "none; give a YAML file")

    def config_folder(self) -> Path:
        """Folder of the packaged recipes; it need not exist."""
        spec = importlib.util.find_spec(self.package or self.name.replace("-", "_"))
        locations = list(spec.submodule_search_locations or []) if spec is not None else []
        return Path(locations[0] if locations else ".") / "configs"


class _TopParser(argparse.ArgumentParser):
    """Stock argparse that reports through our exit codes, with the nearest verb."""

    def error(self, message: str) -> Any:
        word = message.partition("invalid choice: '")[2].partition("'")[0]
        if not word:
            raise UserInputError(f"{message}; see `{self.prog} --help`")
        words = [name for action in self._actions if action.choices for name in action.choices]
        raise UserInputError(f"verb: got {word!r}{nearest(word, words)}; see `{self.prog} --help`")


def load(target: str) -> Callable[..., Any]:
    """The object named by ``"module:name"``."""
    module, _, name = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def nearest(word: str, words: Sequence[str]) -> str:
    """`` (did you mean 'x'?)`` for the word closest to ``word``, or nothing.

    >>> nearest("widht", ["width", "depth"])
    " (did you mean 'width'?)"
    """
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def classify(error: BaseException, package: str) -> tuple[int, str]:
    """Exit code and sentence of an error that reached the top of a command line."""
    if isinstance(error, UserInputError):
        return 2, _one_line(str(error))
    if isinstance(error, MissingExtraError):
        return 4, _one_line(str(error))
    if isinstance(error, ModuleNotFoundError):
        root = (error.name or "").partition(".")[0]
        if root in EXTRAS and not _importable(root):
            return 4, _missing_sentence(package, EXTRAS[root], f"the module {root}")
        return 1, ""
    if isinstance(error, OSError) and error.filename is not None:
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror or error}"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's word for a wrong option
        return 2, _one_line(str(error))
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        lines = [line.strip() for line in str(error).splitlines()]
        return 2, f"ckpt_path: the checkpoint does not fit the model: {lines[min(1, len(lines) - 1)]}"
    return 1, ""


def _one_line(text: str) -> str:
    """One sentence; of an error that crossed a loader's worker process, the original message."""
    if "Original Traceback" in text:
        text = text.strip().rsplit("\n", 1)[-1].partition(": ")[2]
    return " ".join(text.split())


def _say(name: str, sentence: str, code: int) -> int:
    print(f"{name}: {sentence}", file=sys.stderr)
    return code


def _exit_code(exit_: SystemExit) -> int:
    # Lightning turns Ctrl-C into exit(1) after an orderly shutdown.
    if isinstance(exit_.__context__, KeyboardInterrupt):
        return 130
    if exit_.code is None:
        return 0
    return exit_.code if isinstance(exit_.code, int) else 1


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _installed(extra: str) -> bool:
    return all(_importable(module) for module, name in EXTRAS.items() if name == extra)


def _missing_sentence(package: str, extra: str, what: str) -> str:
    return f'{what} needs the extra [{extra}]: pip install "{package}[{extra}]"'


def _examples_text(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"$ {line}" for line in examples)]) if examples else ""


def _description(verb: Verb, docstring: str | None) -> str:
    first = (docstring or "").strip().partition("\n\n")[0] or verb.summary
    return "\n\n".join(part for part in (" ".join(first.split()), _examples_text(verb.examples)) if part)
