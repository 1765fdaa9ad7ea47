"""Training and evaluation with Lightning, of the detector and of the image network alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import Dataset

from pircnn.checkpoints import build_segmentation, load_segmentation
from pircnn.data.cache import SemanticCache, require_same_source
from pircnn.data.frames import CameraInput, KittiFusionDataset, ObjectFrames, collate_camera
from pircnn.data.semantic import KinsDataset, KittiSemanticDataset
from pircnn.losses import segmentation_loss
from pircnn.model import build
from pircnn.prepare import read_facts
from pircnn.recipe import parameter_groups
from pircnn.seg_metrics import confusion, per_image_metrics, seg_metrics
from tenfold._errors import UserInputError
from tenfold.io import file_hash, load_strict
from tenfold.lidar.data import DetectionFrames, Frame
from tenfold.lidar.task import LidarData, LidarTask, simulate_into
from tenfold.train.lightning import total_steps
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader, sample_generator
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule

__all__ = ["PircnnData", "PircnnTask", "SegData", "SegTask"]


class PircnnTask(LidarTask):
    """PI-RCNN in training: detector and, in the branch "joint", image network together.

    Args:
        variant: Row of the ablation; pacf is the paper, pointrcnn is LiDAR alone.
        branch: "frozen", a pretrained image network; "cached", its maps from disk; "joint", trained with the detector.
        fusion: Settings of the fusion that differ from the variant's.
        overrides: Settings of the detector that differ from the published ones.
        segmentation: Checkpoint of the image network to start from (`fit --config seg_kitti`).
        image_lr: Learning rate of the image network as a share of lr.
        detector: Always pircnn.
        dataset: Always kitti.
        lr: Peak learning rate.
        weight_decay: Decoupled, on all parameters that have a gradient.
        div: The learning rate starts at lr / div.
        warm_fraction: Share of the run in which it rises.
        start_from: Checkpoint of the same detector whose weights a new run starts from.
        results: Folder for the result files of validation and test; none are written without it.
        tta_flips: Test-time augmentation: mirror images besides the frame itself, of x, y and xy.
        tta_rotations: Test-time augmentation: further rotations, radians.
        tta_scales: Test-time augmentation: further scales.
    """

    build = staticmethod(build)

    def __init__(
        self,
        variant: str = "pacf",
        branch: Literal["frozen", "cached", "joint"] = "frozen",
        fusion: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        segmentation: str | None = None,
        image_lr: float = 0.1,
        detector: Literal["pircnn"] = "pircnn",
        dataset: Literal["kitti"] = "kitti",
        lr: float = 0.01,
        weight_decay: float = 0.01,
        div: float = 10.0,
        warm_fraction: float = 0.4,
        start_from: str | None = None,
        results: str | None = None,
        tta_flips: Sequence[str] = (),
        tta_rotations: Sequence[float] = (),
        tta_scales: Sequence[float] = (),
    ) -> None:
        super().__init__(
            detector=detector,
            dataset=dataset,
            overrides=overrides,
            lr=lr,
            weight_decay=weight_decay,
            div=div,
            warm_fraction=warm_fraction,
            start_from=start_from,
            results=results,
            tta_flips=tta_flips,
            tta_rotations=tta_rotations,
            tta_scales=tta_scales,
        )

    def on_fit_start(self) -> None:
        """Takes over the weights of the image network, unless the run is resumed."""
        super().on_fit_start()
        if self.trainer.ckpt_path is not None or self.model.image_net is None:
            return
        source = self.hparams["segmentation"]
        if source:
            network = load_segmentation(source)
            load_strict(self.model.image_net, network.state_dict(), source=source)
        elif self._needs_pretraining():
            raise UserInputError(
                "model.segmentation: missing; the branch 'frozen' needs a trained image network (fit --config "
                "seg_kitti), 'joint' learns its own"
            )

    def _needs_pretraining(self) -> bool:
        fusion = self.model.config.fusion
        reads = fusion.kind != "none" and not fusion.zeros
        return reads and self.model.config.branch == "frozen" and not self.hparams["start_from"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The image network apart, see `pircnn.recipe`."""
        settings = self.hparams
        return parameter_groups(self.model, settings["lr"], settings["weight_decay"], settings["image_lr"])


class _WithSemantics(Dataset[Frame]):
    """Training frames that each bring along an image of another data set and its labels."""

    def __init__(self, frames: DetectionFrames, other: KittiSemanticDataset) -> None:
        self.frames, self.other = frames, other

    def set_epoch(self, epoch: int) -> None:
        self.frames.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        frame = self.frames[index]
        rng = sample_generator(self.frames.seed + 1, self.frames.epoch, index)
        pair = self.other.sample(int(rng.integers(len(self.other))), rng)
        return replace(frame, camera=replace(frame.camera or CameraInput(), other=pair))


class PircnnData(LidarData):
    """KITTI with images: official, yours in its layout, or simulated.

    Args:
        root: Folder of the data set.
        train_split: Name of the training list.
        val_split: Name of the list that validation and test use.
        batch_size: Frames per process and step.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        augment: Switch all augmentation off with false. Points keep the pixel at which they were measured.
        flip: Probability of a mirror image across the x axis.
        rotation: Angle about z, uniform in plus or minus this, radians.
        scale: Range of the scaling factor.
        counts: Objects of each class that ground-truth sampling fills a frame up to; {} (the paper) switches it off.
        scene_limited: Count the objects that are already there.
        road_plane: Put pasted objects on the road plane where there are plane files.
        fov_only: Use only points that the camera sees.
        missing: What to do with a frame without image: "error", or "unseen" (needs image_size).
        image_size: Height and width of images, for frames without an image file and for simulated ones.
        kins: KINS annotations of the training images, label maps for the branch "joint".
        semantics: Folder of KITTI's pixel-level benchmark, for the branch "joint": each frame brings along an image.
        semantics_size: Height and width to which those images are resized.
        other_images: Control: every frame gets the image of the next one.
        turn: Control: error of the calibration, degrees about the vertical axis.
        pixel_noise: Control: standard deviation of the pixel that a point reads.
        simulate: Numbers of training and validation frames to simulate into root, with rendered images.
    """

    def __init__(
        self,
        root: str = "data/kitti",
        train_split: str = "train",
        val_split: str = "val",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
        augment: bool = True,
        flip: float = 0.5,
        rotation: float = 0.78539816,
        scale: tuple[float, float] = (0.95, 1.05),
        counts: dict[str, int] | None = None,
        scene_limited: bool = True,
        road_plane: bool = True,
        fov_only: bool = True,
        missing: Literal["error", "unseen"] = "error",
        image_size: tuple[int, int] | None = None,
        kins: str | None = None,
        semantics: str | None = None,
        semantics_size: tuple[int, int] | None = (375, 1242),
        other_images: bool = False,
        turn: float = 0.0,
        pixel_noise: float = 0.0,
        simulate: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(
            root=root,
            dataset="kitti",
            train_split=train_split,
            val_split=val_split,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
            augment=augment,
            flip=flip,
            rotation=rotation,
            scale=scale,
            counts={} if counts is None else counts,
            scene_limited=scene_limited,
            road_plane=road_plane,
            fov_only=fov_only,
            image_size=image_size,
            simulate=simulate,
        )
        self.loader["collate_fn"] = collate_camera
        self.missing, self.kins, self.semantics = missing, kins, semantics
        self.semantics_size = semantics_size
        self.controls: dict[str, Any] = {
            "other_images": other_images,
            "turn": turn,
            "pixel_noise": pixel_noise,
        }

    @property
    def _task(self) -> Any:
        return self.trainer.lightning_module  # type: ignore[union-attr]

    def prepare_data(self) -> None:
        """Simulates frames with images where asked to, with the database of their objects."""
        if self.simulate is None:
            return
        simulate_into(self.root, self.simulate, self.seed, self.image_size or (375, 1242))
        if self._pastes():
            self._build_database(ObjectFrames(self.root, self.splits["train"], fov_only=self.fov_only))

    def setup(self, stage: str) -> None:
        """Opens the splits; what is stored on disk must be of the detector's own image network."""
        config, source = self._task.model.config, self._task.hparams["segmentation"]
        self._stored = config.stored_channels
        self._cached = config.branch == "cached" and config.fusion.kind != "none" and not config.fusion.zeros
        self._source = file_hash(source) if source else None
        if stage == "fit" and self._stored and self._pastes():
            facts, place = read_facts(self.root, self.splits["train"])
            require_same_source(facts, config.image_channels, config.fusion.features, self._source, place)
        super().setup(stage)

    def train_frames(self, class_names: Any, limits: Any, velocity: bool = False) -> Any:
        """Augmented frames, each with an image of KITTI's semantics where that is asked for."""
        frames = super().train_frames(class_names, limits, velocity)
        if self.semantics is None:
            return frames
        other = KittiSemanticDataset(
            self.semantics, "train", augment=True, size=self.semantics_size, seed=self.seed
        )
        return _WithSemantics(frames, other)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the tensors, those in lists too."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        for name in ("images", "maps", "label_maps", "semantics"):
            if name in moved:
                moved[name] = _to(moved[name], device)
        return moved

    def _reader(self, name: str) -> KittiFusionDataset:
        train = name == "train"
        plane = train and self.augmentation is not None and self.augmentation.road_plane
        cache = None
        if self._cached:
            cache = SemanticCache(self.root / "prepared" / f"maps_{self.splits[name]}")
            config = self._task.model.config
            require_same_source(
                cache.facts, config.image_channels, config.fusion.features, self._source, cache.folder
            )
        return KittiFusionDataset(
            self.root,
            self.splits[name],
            cache=cache,
            labels=KinsDataset(self.kins) if self.kins and train else None,
            stored=self._stored,
            missing=self.missing,
            fov_only=self.fov_only,
            image_size=self.image_size,
            with_plane=plane,
            **self.controls,
        )


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


class SegTask(LightningModule):
    """The image network in training: focal loss, one-cycle, Adam with decoupled weight decay.

    Args:
        num_classes: Merged classes.
        widths: Of the network's levels.
        lr: Peak learning rate.
        weight_decay: Decoupled.
        div: The learning rate starts at lr / div.
        warm_fraction: Share of the run in which it rises.
    """

    def __init__(
        self,
        num_classes: int = 10,
        widths: Sequence[int] = (64, 128, 256, 512),
        lr: float = 0.01,
        weight_decay: float = 0.01,
        div: float = 10.0,
        warm_fraction: float = 0.4,
    ) -> None:
        super().__init__()
        widths = list(widths)
        self.save_hyperparameters()
        self.model = build_segmentation(self.hparams)
        self.metrics: dict[str, float] = {}
        self._counts: list[Any] = []  # of this process's pictures, in their order

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        """Loss of one batch."""
        images, labels = batch
        loss = segmentation_loss(self.model(images), labels)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Counts the pixels of one batch."""
        images, labels = batch
        found = self.model(images).argmax(1).cpu().numpy()
        for one, told in zip(found, labels.cpu().numpy(), strict=True):
            self._counts.append(confusion(one, told, self.hparams["num_classes"]))

    def on_validation_epoch_end(self) -> None:
        """Metrics of what all processes have seen; a picture that fills up the last batch counts once."""
        parts, self._counts = gather_values(self._counts), []
        if not parts[0]:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        # Process r of W has pictures r, r + W, ...
        counts = [one for turn in zip(*parts, strict=True) for one in turn][: len(data.sets["val"])]
        self.metrics = seg_metrics(np.sum(counts, axis=0))
        per_image = per_image_metrics(counts)
        self.metrics |= {f"{name}_per_image": value for name, value in per_image.items()}
        stage = "test" if self.trainer.testing else "val"
        for name, value in self.metrics.items():
            self.log(f"{stage}/{name}", value, rank_zero_only=True)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Metrics, printed."""
        self.on_validation_epoch_end()
        if self.trainer.is_global_zero:
            for name, value in self.metrics.items():
                print(f"{name:28} {value:6.2f} %")

    def configure_optimizers(self) -> Any:
        """One cycle over the whole run."""
        settings = self.hparams
        optimizer = decoupled_adam(
            self.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        schedule = one_cycle_schedule(
            optimizer,
            total_steps(self.trainer),
            div=settings["div"],
            warm_fraction=settings["warm_fraction"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SegData(LightningDataModule):
    """KITTI's pixel-level benchmark, ten merged classes; or generated pictures in its layout.

    Args:
        root: Folder of the data set, with training/image_2 and training/semantic.
        batch_size: Images per process and step.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        augment: Mirror, crop and colour jitter.
        size: Height and width to which images are resized.
        exclude: File with names of frames to leave out, one a line: drives that occur in the detection's val split.
        simulate: Number of pictures to generate into root, if they are not there yet.
    """

    def __init__(
        self,
        root: str = "data/kitti_semantics",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
        augment: bool = True,
        size: tuple[int, int] | None = (375, 1242),
        exclude: str | None = None,
        simulate: int | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise UserInputError(f"data: batch_size, workers: got {batch_size}, {workers}; too small")
        self.root, self.seed, self.augment, self.size = Path(root), seed, augment, size
        self.simulate = simulate
        self.loader: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "seed": seed}
        self.exclude: tuple[str, ...] = ()
        if exclude is not None:
            if not Path(exclude).is_file():
                raise UserInputError(f"{exclude}: exclude: the file is missing")
            self.exclude = tuple(Path(exclude).read_text(encoding="utf-8").split())
        self.sets: dict[str, KittiSemanticDataset] = {}

    def prepare_data(self) -> None:
        """Generates pictures where asked to."""
        if self.simulate is not None and not (self.root / "training").is_dir():
            from pircnn.data.toy import write_toy_semantics

            write_toy_semantics(self.root, self.simulate, self.seed)

    def setup(self, stage: str) -> None:
        """Opens the splits."""
        common: dict[str, Any] = {"size": self.size, "seed": self.seed, "exclude": self.exclude}
        if stage == "fit":
            self.sets["train"] = KittiSemanticDataset(self.root, "train", augment=self.augment, **common)
        self.sets["val"] = KittiSemanticDataset(self.root, "val", **common)
        empty = [name for name, pictures in self.sets.items() if not len(pictures)]
        if empty:
            raise UserInputError(
                f"{self.root / 'training'}: {empty[0]}: no picture left; every fifth is for val"
            )
        if not self.exclude and self.simulate is None:
            print(
                "note: some frames of KITTI semantics come from drives of the detection's val split; "
                "data.exclude leaves out those you list"
            )

    def train_dataloader(self) -> ResumableLoader[Any]:
        """Augmented pictures in an order that a resumed run continues."""
        return ResumableLoader(self.sets["train"], **self.loader)

    def val_dataloader(self) -> ResumableLoader[Any]:
        """Pictures as they are."""
        return ResumableLoader(self.sets["val"], shuffle=False, **self.loader)

    test_dataloader = val_dataloader
