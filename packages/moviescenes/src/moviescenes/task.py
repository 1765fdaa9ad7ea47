"""Training and evaluation with Lightning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint

from moviescenes.data.films import FilmData, SegmentDataset
from moviescenes.data.generated import generate_films
from moviescenes.data.movienet import MovieNetSceneSeg
from moviescenes.data.packs import FeaturePack, SceneFeatures
from moviescenes.features.networks import resnet
from moviescenes.grouping import default_range, group_scenes
from moviescenes.losses import boundary_loss
from moviescenes.metrics import evaluate_films
from moviescenes.model import LGSS, LGSSConfig
from moviescenes.segment import load_model
from moviescenes.training import collate
from moviescenes.weights import FUSION_WEIGHTS
from tenfold._errors import UserInputError
from tenfold.io import load_strict
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader

__all__ = ["SceneData", "SceneTask"]

_PICTURES = 64  # that the backbone sees at a time in evaluation

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


class SceneData(LightningDataModule):
    """Films with features and labels.

    Args:
        dataset: movienet (the published layout), pack (a pickle a film), features (an .npz a film), or generated.
        root: Folder of the data.
        train_split: Of movienet: its split; of pack: one of the folders or files below root (. for root itself); of
            features: how the files' names begin, or a pattern with a star.
        val_split: Likewise.
        test_split: Likewise.
        keys: Modalities.
        half_window: Shots on each side of a boundary; as the model's.
        seq_len: Boundaries of a segment; as the model's.
        batch_size: Segments per process and step.
        workers: Loader processes.
        seed: Of order, shifts and generated films.
        uncertain: What label -1 counts as.
        presence: Add a number to cast that says whether there is anybody.
        shuffle_scenes: Permute whole scenes within a segment.
        films: Of generated: numbers of training, validation and test films.
        keyframes: Of movienet: folder of pictures that stand for place's features, see model.backbone.
    """

    def __init__(
        self,
        dataset: Literal["movienet", "pack", "features", "generated"] = "movienet",
        root: str = "data/scene318",
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "test",
        keys: Sequence[str] = ("place", "cast", "act", "aud"),
        half_window: int = 2,
        seq_len: int = 10,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
        uncertain: Literal["positive", "ignore", "negative"] = "positive",
        presence: bool = False,
        shuffle_scenes: bool = False,
        films: tuple[int, int, int] = (40, 10, 20),
        keyframes: str | None = None,
    ) -> None:
        super().__init__()
        if keyframes is not None and dataset != "movienet":
            raise UserInputError(f"data.keyframes: got {keyframes!r} with {dataset}; only movienet has them")
        self.keyframes = keyframes
        if batch_size < 1 or workers < 0:
            raise UserInputError("data: batch_size, workers: a number is too small")
        self.dataset, self.root, self.films, self.seed = dataset, Path(root), films, seed
        self.splits = {"train": train_split, "val": val_split, "test": test_split}
        self.keys, self.half_window, self.seq_len = tuple(keys), half_window, seq_len
        self.batch_size, self.workers = batch_size, workers
        self.uncertain, self.presence, self.shuffle_scenes = uncertain, presence, shuffle_scenes
        self._open: dict[str, Any] = {}

    def split(self, name: str) -> Any:
        """The films of a split, read when asked for."""
        if name not in self._open:
            self._open[name] = self._read(name)
        return self._open[name]

    def _read(self, name: str) -> Any:
        if self.dataset == "generated":
            order = ("train", "val", "test")
            first = sum(self.films[: order.index(name)])
            return generate_films(self.films[order.index(name)], self.seed, first=first)
        word = self.splits[name]
        if self.dataset == "movienet":
            return MovieNetSceneSeg(
                *(self.root, word, self.keys),
                uncertain=self.uncertain,
                presence=self.presence,
                keyframes=self.keyframes,
            )
        if self.dataset == "pack":
            if not (self.root / word).exists():
                raise UserInputError(
                    f"{self.root / word}: data.{name}_split: no such folder or file of films"
                )
            return FeaturePack(self.root / word)
        return SceneFeatures(self.root, word if "*" in word else f"{word}*.npz")

    def train_dataloader(self) -> ResumableLoader[Any]:
        """Segments in an order that a resumed run continues."""
        films = self.split("train")
        data = SegmentDataset(
            [_Lazy(films, k, self.keys).read() for k in range(len(films))],
            self.keys,
            half_window=self.half_window,
            seq_len=self.seq_len,
            seed=self.seed,
            shuffle_scenes=self.shuffle_scenes,
        )
        return ResumableLoader(
            data,  # type: ignore[arg-type]
            self.batch_size,
            seed=self.seed,
            num_workers=self.workers,
            collate_fn=collate,
        )

    def _films(self, name: str) -> ResumableLoader[Any]:
        films = self.split(name)
        numbered: Any = [_Lazy(films, k, self.keys) for k in range(len(films))]
        return ResumableLoader(numbered, 1, seed=self.seed, shuffle=False, collate_fn=_first)

    def val_dataloader(self) -> ResumableLoader[Any]:
        """Whole films, one at a time."""
        return self._films("val")

    def test_dataloader(self) -> ResumableLoader[Any]:
        """Whole films, one at a time."""
        return self._films("test")


class _Lazy:
    """A film that is read when it is its turn, and has the modalities asked for."""

    def __init__(self, films: Any, number: int, keys: Sequence[str]) -> None:
        self.films, self.number, self.keys = films, number, keys

    def read(self) -> FilmData:
        film: FilmData = self.films[self.number]
        missing = [key for key in self.keys if key not in film.features]
        if missing:
            raise UserInputError(
                f"data.keys: got {missing[0]}; the film {film.name} has {', '.join(film.features)}"
            )
        return film


def _first(items: Sequence[_Lazy]) -> FilmData:
    return items[0].read()


class SceneTask(LightningModule):
    """The network in training, evaluated on whole films before and after grouping.

    Args:
        dims: Modality -> features of a shot, a number or [257, 90].
        channels: Filters of each branch of BNet.
        half_window: Shots on each side of a boundary.
        seq_len: Boundaries of a segment.
        hidden: Of the recurrent network, each direction.
        head: Width of the layer before the logits.
        weights: Modality -> weight of the fusion.
        fusion: late-fixed, late-learned or early.
        bnet: False is the base of the ablation.
        sequence: False leaves the recurrent network out.
        similarity: Of BNet, cosine or dot.
        audio_dim: What AudioNet makes of an image.
        lr: Of Adam.
        weight_decay: L2 in the gradient.
        milestones: Epochs after which the learning rate falls.
        gamma: Factor by which it falls.
        class_weights: Of no boundary and boundary.
        mode: Of the metrics: strict, or compat as the released code.
        grouping: Also report the metrics after grouping.
        passes: Of the grouping, at most.
        boost: Added to a boundary's score for each pass that it survives.
        features: Modality -> extractor, for `segment` with this checkpoint.
        start_from: Checkpoint whose weights a new run starts from (transfer).
        backbone: A ResNet trained along with the network: place is keyframes then (`LGSSImage`, data.keyframes).
        backbone_weights: Its file of weights to start from; random without one.
        optimizer: Adam, or plain SGD without momentum.
    """

    def __init__(
        self,
        dims: dict[str, Any] | None = None,
        channels: int = 512,
        half_window: int = 2,
        seq_len: int = 10,
        hidden: int = 512,
        head: int = 100,
        weights: dict[str, float] | None = None,
        fusion: Literal["late-fixed", "late-learned", "early"] = "late-fixed",
        bnet: bool = True,
        sequence: bool = True,
        similarity: Literal["cosine", "dot"] = "cosine",
        audio_dim: int = 512,
        lr: float = 0.01,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (15,),
        gamma: float = 0.1,
        class_weights: tuple[float, float] = (1.0, 9.0),
        mode: Literal["strict", "compat"] = "strict",
        grouping: bool = True,
        passes: int = 5,
        boost: float = 0.1,
        features: dict[str, str] | None = None,
        start_from: str | None = None,
        backbone: Literal["resnet18", "resnet34", "resnet50"] | None = None,
        backbone_weights: str = "",
        optimizer: Literal["adam", "sgd"] = "adam",
    ) -> None:
        super().__init__()
        dims = dims or {"place": 2048, "cast": 512, "act": 512, "aud": [257, 90]}
        class_weights = (float(class_weights[0]), float(class_weights[1]))
        self.save_hyperparameters()
        settings = {name: self.hparams[name] for name in LGSSConfig.__dataclass_fields__}
        settings["weights"] = weights or dict(FUSION_WEIGHTS)
        self.model = LGSS(LGSSConfig.from_dict(settings))
        self.backbone = resnet(backbone, backbone_weights) if backbone else None
        width = 2048 if backbone == "resnet50" else 512
        if backbone and self.model.config.dims.get("place") != width:
            raise UserInputError(f"model.dims: place: got {dims.get('place')}; {backbone} gives {width}")
        self.results: dict[str, float] = {}
        self._seen: dict[str, tuple[Any, ...]] = {}

    def setup(self, stage: str) -> None:
        """Checks that the data fit, and takes over the weights of another run."""
        data: Any = getattr(self.trainer, "datamodule", None)
        for name in ("half_window", "seq_len"):
            if data is not None and getattr(data, name, self.hparams[name]) != self.hparams[name]:
                raise UserInputError(
                    f"data.{name}: got {getattr(data, name)}; the model has {self.hparams[name]}"
                )
        missing = [key for key in self.model.config.dims if key not in getattr(data, "keys", (key,))]
        if missing:
            raise UserInputError(f"data.keys: misses {missing[0]}, which model.dims has")
        if stage == "fit" and self.hparams["start_from"] and self.trainer.ckpt_path is None:
            other, _ = load_model(self.hparams["start_from"])
            load_strict(self.model, other.state_dict(), source=self.hparams["start_from"])

    def configure_callbacks(self) -> list[ModelCheckpoint]:
        """The checkpoint that is best on the validation films."""
        if self.trainer.fast_dev_run or not self.trainer.enable_validation:  # type: ignore[attr-defined]
            return []
        folder = Path(self.trainer.default_root_dir) / "checkpoints"
        return [
            ModelCheckpoint(
                folder, filename="best", monitor="val/ap", mode="max", enable_version_counter=False
            )
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Weighted cross-entropy of one batch."""
        windows, labels = batch
        if self.backbone is not None:
            images = windows["place"]
            described = self.backbone(images.flatten(0, 2)).unflatten(0, images.shape[:3])
            windows = {**windows, "place": described}
        try:
            logits = self.model(windows).float()
        except ValueError as error:
            raise UserInputError(f"model.dims: do not fit the data: {error}") from error
        loss = boundary_loss(logits, labels, self.hparams["class_weights"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(labels))
        return loss

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Films stay where they are: `LGSS.predict` moves their windows."""
        return (
            batch
            if isinstance(batch, FilmData)
            else super().transfer_batch_to_device(batch, device, dataloader_idx)
        )

    def _described(self, film: FilmData) -> dict[str, npt.NDArray[np.float32]]:
        """Features of the film's shots; of keyframes, a few pictures at a time."""
        keys = tuple(self.model.config.dims)
        if self.backbone is None:
            return film.arrays(keys)
        arrays = film.arrays([key for key in keys if key != "place"])
        rows = [
            self.backbone(torch.from_numpy(film.features["place"][first : first + _PICTURES]).to(self.device))
            for first in range(0, len(film), _PICTURES)
        ]
        return {**arrays, "place": torch.cat(rows).float().cpu().numpy()}

    def validation_step(self, batch: FilmData, batch_idx: int) -> None:
        """Scores of one film, and its cuts after grouping."""
        compat = self.hparams["mode"] == "compat"
        arrays = self._described(batch)
        try:
            p = self.model.predict(arrays, compat=compat)
        except ValueError as error:
            raise UserInputError(f"{batch.name}: features: {error}") from error
        kept, scores = p > 0.5, p
        if self.hparams["grouping"] and len(p):
            _, low, high = default_range(len(batch))
            found = group_scenes(
                p,
                arrays,
                k_range=(low, high),
                iters=self.hparams["passes"],
                boost=self.hparams["boost"],
                weights=self.model.config.weights,
            )
            kept, scores = np.isin(np.arange(len(p)), found.cuts), found.scores
        self._seen[batch.name] = (batch.labels, p, batch.shots, kept, scores)

    test_step = validation_step

    def on_validation_epoch_start(self) -> None:
        """Forgets the films of the last evaluation."""
        self._seen = {}

    on_test_epoch_start = on_validation_epoch_start

    def _finish(self, stage: str) -> None:
        films = [film for part in gather_values(self._seen) for film in part.items()]
        by_name = dict(films)  # a film that two processes have seen counts once
        ordered = [by_name[name] for name in sorted(by_name)]
        mode = self.hparams["mode"]
        try:
            before = evaluate_films([film[:3] for film in ordered], mode)
            self.results = dict(before)
            if self.hparams["grouping"]:
                after = evaluate_films(
                    [(film[0], film[4], film[2]) for film in ordered],
                    mode,
                    decisions=[film[3] for film in ordered],
                )
                self.results |= {f"grouped_{key}": value for key, value in after.items()}
        except ValueError as error:
            raise UserInputError(f"{stage}: {error}") from error
        self.log_dict({f"{stage}/{key}": value for key, value in self.results.items()}, sync_dist=False)

    def on_validation_epoch_end(self) -> None:
        """Metrics over all films."""
        self._finish("val")

    def on_test_epoch_end(self) -> None:
        """Metrics over all films, printed."""
        self._finish("test")
        if self.trainer.is_global_zero:
            for key in ("ap", "miou", "recall", "recall@3s"):
                grouped = self.results.get(f"grouped_{key}")
                more = f"   after grouping {100 * grouped:6.2f}" if grouped is not None else ""
                print(f"{key:10} {100 * self.results[key]:6.2f}{more}")

    def configure_optimizers(self) -> Any:
        """Adam with L2 in the gradient or SGD, and steps of the learning rate."""
        settings = self.hparams
        kind = torch.optim.Adam if settings["optimizer"] == "adam" else torch.optim.SGD
        optimiser = kind(self.parameters(), settings["lr"], weight_decay=settings["weight_decay"])
        schedule = torch.optim.lr_scheduler.MultiStepLR(
            optimiser, list(settings["milestones"]), settings["gamma"]
        )
        return {"optimizer": optimiser, "lr_scheduler": schedule}
