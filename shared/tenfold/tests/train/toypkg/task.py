import json
import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import nn

from tenfold._errors import UserInputError
from tenfold.train.resume import ResumableLoader, sample_generator
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule


class Points(torch.utils.data.Dataset):
    """y = Wx plus noise drawn anew in every epoch."""

    def __init__(self, length: int, seed: int, poisoned: int) -> None:
        self.x = torch.randn(length, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        self.seed, self.epoch, self.poisoned = seed, 0, poisoned

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        if index == self.poisoned:
            raise UserInputError(f"sample-{index}.bin: length: cut short")
        noise = sample_generator(self.seed, self.epoch, index).normal(scale=0.1)
        return self.x[index].float(), (self.x[index].sum() + noise).float(), index


class ToyData(pl.LightningDataModule):
    """Toy data.

    Args:
        length: Number of points.
        batch_size: Points per process and batch.
        workers: Loader processes.
        seed: Seed of order and noise.
        poisoned: Index of a damaged sample, or -1.
    """

    def __init__(
        self, length: int = 22, batch_size: int = 4, workers: int = 0, seed: int = 3, poisoned: int = -1
    ):
        super().__init__()
        self.data = Points(length, seed, poisoned)
        self.options = {"batch_size": batch_size, "num_workers": workers, "seed": seed}

    def train_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.data, **self.options)

    def val_dataloader(self) -> ResumableLoader:
        return ResumableLoader(self.data, shuffle=False, **self.options)

    test_dataloader = val_dataloader


class ToyTask(pl.LightningModule):
    """Toy task.

    Args:
        width: Hidden width.
        lr: Peak learning rate.
        dropout: Share of units dropped; draws from torch's global generator.
        steps: Length of the one-cycle.
        plain: Plain SGD without a schedule.
        trace: File that gets one line per batch.
        kill_at: Optimiser step before which the process kills itself, or -1.
        rough: Draw random numbers while validating.
    """

    def __init__(
        self,
        width: int = 8,
        lr: float = 0.05,
        dropout: float = 0.2,
        steps: int = 100,
        plain: bool = False,
        trace: str | None = None,
        kill_at: int = -1,
        rough: bool = True,
    ):
        super().__init__()
        if width < 1:
            raise UserInputError(f"model.width: got {width}; expected at least 1")
        self.save_hyperparameters()
        norm = nn.Identity() if plain else nn.BatchNorm1d(width)
        self.net = nn.Sequential(
            nn.Linear(4, width), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1)
        )

    def training_step(self, batch, batch_idx):
        x, y, index = batch
        if self.hparams.trace:
            line = {
                "epoch": self.current_epoch,
                "batch": batch_idx,
                "index": index.tolist(),
                "rank": self.global_rank,
            }
            with Path(self.hparams.trace).open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self.global_step == self.hparams.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.mse_loss(self.net(x.to(self.dtype)).squeeze(1), y.to(self.dtype))
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        if self.hparams.rough:
            torch.rand(1 + int(os.environ.get("TOY_VALIDATION_DRAWS", "0")))
        x, y, _ = batch
        self.log("error", nn.functional.mse_loss(self.net(x.to(self.dtype)).squeeze(1), y.to(self.dtype)))

    test_step = validation_step

    def configure_optimizers(self):
        if self.hparams.plain:
            return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        optimizer = decoupled_adam(self.parameters(), lr=self.hparams.lr)
        schedule = one_cycle_schedule(optimizer, self.hparams.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
