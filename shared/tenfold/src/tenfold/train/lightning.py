"""Lightning glue: the defaults of every `Trainer` here, and the callbacks that make runs resumable.

This module and the packages' ``task.py`` are the only ones that import Lightning.
"""

from __future__ import annotations

import logging
import math
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO

from tenfold._errors import UserInputError
from tenfold.io import load_checkpoint, make_folder, save_checkpoint
from tenfold.train.ema import ModelEMA, restore
from tenfold.train.processes import gather_values
from tenfold.train.resume import random_states, set_random_states

__all__ = [
    "AtomicCheckpointIO",
    "EMACallback",
    "LastCheckpoint",
    "RandomStates",
    "checkpoint_path",
    "make_trainer",
    "parse_duration",
    "quiet",
    "seed_everything",
    "steps_per_epoch",
    "time_budget",
    "total_steps",
]


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its notes on devices, workers and logging, for demos and experiments.

    >>> with quiet():
    ...     trainer = make_trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    """
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it there; reads plain data only.

    A full disk, a kill or a power cut leaves the previous checkpoint whole. Reading uses
    ``weights_only=True``: a checkpoint file cannot run code.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Writes ``checkpoint`` to ``path``.

        Raises:
            UserInputError: the file cannot be written; the previous one is untouched.
        """
        make_folder(Path(path).parent, "default_root_dir")
        save_checkpoint(path, checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads the checkpoint at ``path``.

        Raises:
            UserInputError: the file is missing, cut short, or not a checkpoint.
        """
        return read_checkpoint(Path(path), map_location)


def read_checkpoint(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """A Lightning checkpoint by `tenfold.io.load_checkpoint`; every failure names the file."""
    checkpoint = load_checkpoint(path, map_location=map_location)
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserInputError(f"{path}: state_dict: missing; expected a checkpoint written by fit")
    return checkpoint


class RandomStates(Callback):
    """Keeps the random states of every process in the checkpoint, and validation out of them.

    Validation runs with the training's generators set aside, so that how often one validates does not
    change what is trained. Random numbers drawn in ``on_train_start`` hooks of a resumed run come before
    the states are restored.
    """

    def __init__(self) -> None:
        self._loaded: list[dict[str, Any]] = []
        self._before_validation: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """States of all processes, by rank."""
        return {"by_rank": gather_values(random_states())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the states; `on_train_start` sets them."""
        self._loaded = state_dict["by_rank"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the states at the last moment before the first batch is fetched."""
        if len(self._loaded) == trainer.world_size:
            set_random_states(self._loaded[trainer.global_rank])
        elif self._loaded:
            warnings.warn(
                f"{len(self._loaded)} processes wrote the checkpoint, this run has {trainer.world_size}:"
                " random states start anew",
                stacklevel=2,
            )
        self._loaded = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the training's states aside."""
        self._before_validation = random_states()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the training's states back."""
        set_random_states(self._before_validation)


_CLOCK_STEPS = 16  # looking at the clock costs a message to every process


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt``: every so many steps or minutes inside an epoch, after each epoch, before a stop.

    A checkpoint is taken only where a run can continue exactly: never between accumulated gradients, and at
    an epoch's last batch only after validation and the epoch's hooks. State that a LightningModule changes in
    its own ``on_train_batch_end`` is one batch behind (Lightning calls it after the callbacks): use a
    callback for it.

    Args:
        directory: Where ``last.ckpt`` goes; by default ``<default_root_dir>/checkpoints``.
        every_n_steps: Steps between checkpoints inside an epoch.
        every_minutes: Minutes between checkpoints inside an epoch; 0 switches this off.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        every_n_steps: int | None = None,
        every_minutes: float = 10.0,
    ) -> None:
        self.directory = directory
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._saved_step = -1
        self._saved_time = 0.0

    def path(self, trainer: Trainer) -> Path:
        """The file this callback writes."""
        return Path(self.directory or Path(trainer.default_root_dir) / "checkpoints") / "last.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; a new run keeps an older run's ``last.ckpt`` as ``previous-<n>.ckpt``."""
        self._saved_time = time.monotonic()
        self._saved_step = trainer.global_step
        path = self.path(trainer)
        saves = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.global_step == 0 and saves and path.exists():
            older = [re.fullmatch(r"previous-(\d+)\.ckpt", item.name) for item in path.parent.iterdir()]
            number = max((int(match[1]) for match in older if match), default=-1) + 1
            path.rename(path.with_name(f"previous-{number}.ckpt"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Inside an epoch: if due, and if the gradients of this step have been used."""
        last_batch = batch_idx + 1 == trainer.num_training_batches
        if last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if self._due(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After an epoch, its validation and its hooks.

        Lightning also calls this when a run stops inside an epoch, and would then resume with the next
        epoch: the checkpoint that the last batch has left is the exact one and stays.
        """
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The final weights, if no other moment has saved them."""
        if self._saved_step != trainer.global_step:
            self._save(trainer)

    def _due(self, trainer: Trainer) -> bool:
        if trainer.should_stop or trainer.global_step == trainer.max_steps:
            return True
        every = self.every_n_steps
        # Quotients, because manual optimisation may take several steps a batch and jump over a multiple.
        if every and trainer.global_step // every != self._saved_step // every:
            return True
        if not self.every_minutes or trainer.global_step % _CLOCK_STEPS:
            return False
        late = time.monotonic() - self._saved_time >= 60.0 * self.every_minutes
        # One process's clock decides for all, or the others would wait in the barrier of a save.
        return bool(trainer.strategy.broadcast(late))

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        trainer.save_checkpoint(self.path(trainer))
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()


class EMACallback(Callback):
    """Follows the LightningModule with a `ModelEMA`, evaluates with the average, and keeps it in checkpoints.

    ``state_dict`` of the checkpoint holds the trained weights (training continues from them); the average
    lies under this callback's entry.

    Args:
        decay: See `ModelEMA`.
        warmup: See `ModelEMA`.
        evaluate: Whether validation and test run with the average.
    """

    def __init__(self, decay: float = 0.999, warmup: float = 10.0, evaluate: bool = True) -> None:
        self.decay = decay
        self.warmup = warmup
        self.evaluate = evaluate
        self.ema: ModelEMA | None = None
        self._loaded: dict[str, Any] | None = None
        self._own: dict[str, torch.Tensor] | None = None
        self._seen_step = 0

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.ema is None:
            self.ema = ModelEMA(pl_module, self.decay, self.warmup)
            if self._loaded is not None:
                self.ema.load_state_dict(self._loaded)
        self._seen_step = trainer.global_step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts at the model's weights, or continues the loaded average."""
        self._start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One update for each optimiser step (none while gradients accumulate)."""
        if self.ema is not None and trainer.global_step != self._seen_step:
            self.ema.update(pl_module)
            self._seen_step = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in."""
        self._swap_in(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the trained weights back."""
        self._swap_out(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the average in, from the checkpoint if the run starts with the test."""
        if self._loaded is not None:
            self._start(trainer, pl_module)
        self._swap_in(pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the trained weights back."""
        self._swap_out(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """An evaluation that fails leaves the trained weights in place."""
        self._swap_out(pl_module)

    def _swap_in(self, pl_module: LightningModule) -> None:
        if self.evaluate and self.ema is not None:
            self._own = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
            self.ema.copy_to(pl_module)

    def _swap_out(self, pl_module: LightningModule) -> None:
        if self._own is not None:
            restore(pl_module, self._own)
            self._own = None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint taken during evaluation still holds the trained weights."""
        if self._own is not None:
            checkpoint["state_dict"] = self._own

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of its updates."""
        return self.ema.state_dict() if self.ema is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the average; the first hook of the run builds it."""
        self._loaded = state_dict or None
        if self.ema is not None and self._loaded is not None:
            self.ema.load_state_dict(self._loaded)


def make_trainer(
    *,
    default_root_dir: str | Path = "runs",
    checkpoint_every_n_steps: int | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
    logger: Any = None,
    plugins: Any = None,
    enable_checkpointing: bool | None = None,
    **kwargs: Any,
) -> Trainer:
    """A `Trainer` with the house's defaults; whatever the caller gives wins.

    Logs go to ``<default_root_dir>/logs`` as CSV and TensorBoard, ``last.ckpt`` to
    ``<default_root_dir>/checkpoints``, checkpoints are written atomically and hold all random states. On
    the CPU runs are deterministic once seeded (`lightning.seed_everything`); ``deterministic=True`` asks
    for the same of CUDA.

    Args:
        default_root_dir: Folder of the run.
        checkpoint_every_n_steps: Also checkpoint inside epochs, every so many steps (every 10 minutes
            anyway).
        callbacks: Added to ours; a `LastCheckpoint` among them replaces ours.
        logger: As for `Trainer`; None means CSV and TensorBoard.
        plugins: As for `Trainer`; a `CheckpointIO` among them replaces ours.
        enable_checkpointing: False switches all checkpoints off.
        **kwargs: As for `Trainer`.
    """
    given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
    ours: list[Callback] = [RandomStates()]
    if enable_checkpointing is not False and not any(isinstance(item, LastCheckpoint) for item in given):
        ours.append(LastCheckpoint(every_n_steps=checkpoint_every_n_steps))
    extra = list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins is not None else []
    if not any(isinstance(item, CheckpointIO) for item in extra):
        extra.append(AtomicCheckpointIO())
    fast = bool(kwargs.get("fast_dev_run"))
    if logger is None or logger is True:
        logger = True if fast else _loggers(Path(default_root_dir))
    return Trainer(
        default_root_dir=str(default_root_dir),
        callbacks=[*given, *ours],
        logger=logger,
        plugins=extra,
        enable_checkpointing=enable_checkpointing,
        **kwargs,
    )


def checkpoint_path(given: str, default_root_dir: str | Path) -> Path:
    """Resolves ``--ckpt_path``: ``last`` is the run folder's ``checkpoints/last.ckpt``, anything else a file.

    Raises:
        UserInputError: there is no such file.
    """
    path = Path(default_root_dir) / "checkpoints" / "last.ckpt" if given == "last" else Path(given)
    if not path.is_file():
        hint = "; leave ckpt_path out to start from the beginning" if given == "last" else ""
        raise UserInputError(f"{path}: ckpt_path: no such checkpoint{hint}")
    return path


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> float:
    """Seconds from ``"90"``, ``"90s"``, ``"30m"``, ``"2h"``, ``"1d"`` or ``"1h30m"``.

    Raises:
        UserInputError: not a duration, or not above zero.

    >>> parse_duration("1h30m")
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", str(text).strip())
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != str(text).strip() or seconds <= 0:
        raise UserInputError(f"time_budget: got {text!r}; expected a duration such as 90s, 30m, 2h or 1h30m")
    return seconds


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimiser steps of one epoch; at least 1."""
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def total_steps(trainer: Trainer) -> int:
    """Optimiser steps of the whole run.

    Not `trainer.estimated_stepping_batches`: it opens the training loader before a checkpoint's position is
    known, and Lightning then never tells the loader where to go on.
    """
    if trainer.max_epochs in (None, -1):
        return int(trainer.max_steps)
    steps = steps_per_epoch(trainer) * int(trainer.max_epochs or 1)
    return steps if trainer.max_steps == -1 else min(steps, int(trainer.max_steps))


def time_budget(
    budget: str | float,
    *,
    step_seconds: float,
    steps_per_epoch: int,
    choices: Sequence[int] | None = None,
    reserve: float = 0.05,
) -> int:
    """The longest schedule, in epochs, that a budget allows, from a measured time per step.

    Args:
        budget: Duration, see `parse_duration`.
        step_seconds: Measured seconds per optimiser step.
        steps_per_epoch: Steps in an epoch.
        choices: Lengths the recipe offers, such as ``(12, 24, 120)``; None allows any whole number.
        reserve: Share of the budget kept for start-up, validation and checkpoints.

    Raises:
        UserInputError: the budget is too small for the shortest schedule.

    >>> time_budget("2h", step_seconds=0.5, steps_per_epoch=1000, choices=(6, 12, 24))
    12
    """
    if step_seconds <= 0 or steps_per_epoch < 1:
        raise ValueError(
            f"time_budget: got step_seconds {step_seconds}, steps_per_epoch {steps_per_epoch};"
            " expected both above 0"
        )
    epoch_seconds = step_seconds * steps_per_epoch
    affordable = int(parse_duration(budget) * (1.0 - reserve) / epoch_seconds)
    fitting = [length for length in choices if length <= affordable] if choices else [affordable]
    if not fitting or max(fitting) < 1:
        shortest = min(choices) if choices else 1
        raise UserInputError(
            f"time_budget: {budget} is too short: {shortest} epochs need about"
            f" {shortest * epoch_seconds / (1.0 - reserve) / 60.0:.1f} minutes here"
        )
    return max(fitting)


def _loggers(root: Path) -> list[Any]:
    csv = CSVLogger(root, name="logs")
    # One version folder for both, so that a run's two logs lie side by side.
    return [csv, TensorBoardLogger(root, name="logs", version=csv.version)]
