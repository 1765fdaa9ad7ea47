"""The verbs `fit` and `test`: LightningCLI with one stage, our trainer and our errors. Imports Lightning."""

from __future__ import annotations

import argparse
import logging
from typing import TYPE_CHECKING, Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from tenfold._errors import UserInputError
from tenfold.train._parsers import NamedConfig, OneSentence, normalise_arguments
from tenfold.train.cli import load
from tenfold.train.lightning import checkpoint_path, make_trainer, read_checkpoint

if TYPE_CHECKING:
    from tenfold.train.cli import App, Verb

__all__ = ["run_stage"]


def run_stage(app: App, verb: Verb, arguments: list[str], description: str) -> int:
    """Parses the configuration, builds task, data and trainer, and runs one stage."""
    _quiet_lightning()
    config_action = type("_Config", (NamedConfig,), {"folder": app.config_folder()})
    parser = type("_Parser", (_StageParser,), {"config_action": config_action})
    words = normalise_arguments(arguments)
    cli = _StageCLI(
        **_classes("model", app.task),
        **_classes("data", app.data),
        args=words,
        run=False,
        parser_class=parser,
        parser_kwargs={"prog": f"{app.name} {verb.name}", "description": description},
        save_config_callback=SaveConfigCallback if verb.name == "fit" else None,
        save_config_kwargs={"overwrite": True},
        seed_everything_default=0,
        trainer_defaults={"default_root_dir": "runs/" + app.name.replace(" ", "-")},
        auto_configure_optimizers=False,
    )
    stage = getattr(cli.trainer, verb.name)
    stage(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.get("ckpt_path"), weights_only=True)
    return 0


def _classes(kind: str, targets: str | tuple[str, ...] | None) -> dict[str, Any]:
    """LightningCLI's arguments for one fixed class, or for a class that the recipe names."""
    name = "model" if kind == "model" else "datamodule"
    if isinstance(targets, str):
        return {f"{name}_class": load(targets)}
    for target in targets or ():
        load(target)  # imported classes can be named without their module
    return {f"{name}_class": None}


class _StageParser(OneSentence, LightningArgumentParser):  # type: ignore[misc]
    """LightningCLI's parser with our errors and our ``--config``."""

    config_action: type[NamedConfig] = NamedConfig


class _StageCLI(LightningCLI):  # type: ignore[misc]
    """One stage: the parser has no subcommands, so a saved ``config.yaml`` is a valid ``--config``."""

    def init_parser(self, **kwargs: Any) -> Any:
        parser: Any = self.parser_class(**kwargs)
        parser.add_argument(
            "-c", "--config", action=parser.config_action, help="Recipe name or YAML file; later ones win."
        )
        return parser

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Checkpoint to continue from, or `last`."
        )
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=int | None,
            default=None,
            help="Checkpoint inside epochs too, every so many steps; every 10 minutes anyway.",
        )

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Defaults < the checkpoint's hyper-parameters < recipes < command line."""
        peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        peek.add_argument("--ckpt_path")
        peek.add_argument(
            "--trainer.default_root_dir", dest="root", default=self.trainer_defaults["default_root_dir"]
        )
        known, _ = peek.parse_known_args(args)
        if known.ckpt_path:
            self._take_checkpoint_defaults(parser, known.ckpt_path, known.root, args)
        self.config = parser.parse_args(args)
        if self.config.get("ckpt_path"):
            root = self.config.trainer.default_root_dir
            self.config["ckpt_path"] = str(checkpoint_path(self.config["ckpt_path"], root))

    def _take_checkpoint_defaults(self, parser: Any, given: str, root: str, args: list[str]) -> None:
        if any(word in ("-c", "--config") or word.startswith("--config=") for word in args):
            return  # the recipe says what the model is
        stored = read_checkpoint(checkpoint_path(given, root)).get("hyper_parameters", {})
        stored = {key: value for key, value in stored.items() if key != "_instantiator"}
        if "_class_path" in stored:
            path = stored.pop("_class_path")
            stored = {"class_path": path, "init_args": stored}
        if stored:
            parser.set_defaults({"model": stored} if "class_path" in stored else _dotted("model", stored))

    def instantiate_classes(self) -> None:
        """Values that a constructor refuses come from the configuration: the user's error, not ours."""
        try:
            super().instantiate_classes()
        except UserInputError:
            raise
        except (ValueError, MisconfigurationException) as error:
            raise UserInputError(f"configuration: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        options = {**dict(self._get(self.config_init, "trainer", default={})), **kwargs}
        options["checkpoint_every_n_steps"] = self.config.get("checkpoint_every_n_steps")
        callbacks = options.pop("callbacks", None) or []
        callbacks = list(callbacks) if isinstance(callbacks, list) else [callbacks]
        if self.save_config_callback and not options.get("fast_dev_run"):
            callbacks.append(self.save_config_callback(self.parser, self.config, **self.save_config_kwargs))
        return make_trainer(callbacks=callbacks, **options)


def _quiet_lightning() -> None:
    """Drops advertisements and notes on Lightning's own internals from its log."""
    noise = ("Tip:", "`weights_only` was not set")
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.addFilter(lambda record: not any(words in record.getMessage() for words in noise))


def _dotted(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in values.items()}
