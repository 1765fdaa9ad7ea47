"""Training and evaluation of the LiDAR detectors with Lightning."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule

from tenfold._errors import UserInputError
from tenfold.io import load_strict, make_folder, read_json, write_json
from tenfold.lidar.augment import Augmentation
from tenfold.lidar.custom import CustomFrames
from tenfold.lidar.data import Batch, DetectionFrames, collate
from tenfold.lidar.evaluation import Record, evaluate, headline, record, write_results
from tenfold.lidar.frames import Resampled, balanced_indices
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.nuscenes import SAMPLING_COUNTS, NuScenesDetection
from tenfold.lidar.predict import build_from, load_detector, point_range
from tenfold.lidar.sampling import ObjectDatabase, build_database, prepared_paths
from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, simulate_kitti, simulate_nuscenes
from tenfold.lidar.tta import View, detect_views, make_views
from tenfold.train.lightning import total_steps
from tenfold.train.processes import gather_values
from tenfold.train.progress import bar
from tenfold.train.resume import ResumableLoader
from tenfold.train.schedules import decoupled_adam, one_cycle_schedule

__all__ = ["LidarData", "LidarTask"]

# Ground-truth sampling of each layout unless the configuration says otherwise.
_USUAL_COUNTS: dict[str, dict[str, int]] = {
    "kitti": Augmentation().counts,
    "nuscenes": SAMPLING_COUNTS,
    "custom": {},
}


class LidarData(LightningDataModule):
    """Frames in the layout of KITTI, of nuScenes or of one's own: official, yours, or simulated.

    Args:
        root: Folder of the data set.
        dataset: Its layout; custom is described in `tenfold.lidar.custom`.
        train_split: Name of the training list.
        val_split: Name of the list that validation and test use.
        batch_size: Frames per process and step.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        augment: Switch all augmentation off with false.
        flip: Probability of a mirror image across the x axis.
        flip_y: Probability of a mirror image across the y axis.
        rotation: Angle about z, uniform in plus or minus this, radians.
        scale: Range of the scaling factor.
        counts: Objects of each class that ground-truth sampling fills a frame up to; {} switches it off.
        scene_limited: Count the objects that are already there.
        road_plane: Put pasted objects on the road plane where the data set has plane files (KITTI).
        object_rotation: Per-object noise, rotation uniform in plus or minus this, radians.
        object_shift: Per-object noise, standard deviations of the shift along x, y, z, metres.
        fov_only: Use only points that the camera sees (KITTI).
        image_size: Height and width of images, for data without image files (KITTI).
        version: Of the tables (nuScenes).
        sweeps: Of each frame, the key frame included (nuScenes).
        bad_sweeps: What to do with a damaged earlier sweep (nuScenes).
        balance: Class-balanced resampling of the training frames (nuScenes and custom).
        shuffle_points: Shuffle points in evaluation too.
        simulate: Numbers of training and validation frames (KITTI) or scenes (nuScenes, up to 8 and 2) to simulate
            into root, if they are not there yet.
        key_frames: Of each simulated scene (nuScenes).
    """

    def __init__(
        self,
        root: str = "data/kitti",
        dataset: Literal["kitti", "nuscenes", "custom"] = "kitti",
        train_split: str = "train",
        val_split: str = "val",
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
        augment: bool = True,
        flip: float = 0.5,
        flip_y: float = 0.0,
        rotation: float = 0.78539816,
        scale: tuple[float, float] = (0.95, 1.05),
        counts: dict[str, int] | None = None,
        scene_limited: bool = True,
        road_plane: bool = True,
        object_rotation: float = 0.0,
        object_shift: tuple[float, float, float] = (0.0, 0.0, 0.0),
        fov_only: bool = True,
        image_size: tuple[int, int] | None = None,
        version: str = "v1.0-trainval",
        sweeps: int = 10,
        bad_sweeps: Literal["error", "skip"] = "error",
        balance: bool = False,
        shuffle_points: bool = False,
        simulate: tuple[int, int] | None = None,
        key_frames: int = 4,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise UserInputError(f"data: batch_size, workers: got {batch_size}, {workers}; too small")
        if dataset not in _USUAL_COUNTS:
            raise UserInputError(
                f"data: dataset: got {dataset!r}; expected one of {', '.join(_USUAL_COUNTS)}"
            )
        if balance and dataset == "kitti":
            raise UserInputError(
                "data: balance: KITTI's layout has no class-balanced resampling; leave it out"
            )
        if simulate is not None and dataset == "custom":
            raise UserInputError("data: simulate: only the layouts of KITTI and nuScenes are simulated")
        self.root, self.splits = Path(root), {"train": train_split, "val": val_split}
        self.dataset, self.seed, self.balance = dataset, seed, balance
        self.loader: dict[str, Any] = {
            "batch_size": batch_size,
            "num_workers": workers,
            "seed": seed,
            "collate_fn": collate,
        }
        usual = _USUAL_COUNTS[dataset] if counts is None else counts
        self.augmentation = (
            Augmentation(
                flip, rotation, scale, usual, scene_limited, road_plane, flip_y, object_rotation, object_shift
            )
            if augment
            else None
        )
        self.fov_only, self.image_size, self.simulate = fov_only, image_size, simulate
        self.version, self.sweeps, self.bad_sweeps = version, sweeps, bad_sweeps
        self.shuffle_points = shuffle_points
        self.key_frames = key_frames
        self.frames: dict[str, DetectionFrames] = {}

    def prepare_data(self) -> None:
        """Simulates the data where asked to, with its object database; one process does it for all."""
        if self.simulate is not None:
            if self.dataset == "nuscenes":
                simulate_nuscenes_into(self.root, self.simulate, self.seed, self.key_frames, self.sweeps)
            else:
                simulate_into(self.root, self.simulate, self.seed)
            if self._pastes():
                self._build_database(self._reader("train"))

    def setup(self, stage: str) -> None:
        """Opens the splits; classes and range are the model's."""
        model: Any = self.trainer.lightning_module.model  # type: ignore[union-attr]
        known: dict[str, Any] = {
            "class_names": model.class_names,
            "limits": point_range(model),
            "velocity": getattr(model.config, "velocity", False),
        }
        if stage == "fit":
            self.frames["train"] = self.train_frames(**known)
        self.frames["val"] = DetectionFrames(
            self._reader("val"),
            **known,
            seed=self.seed,
            shuffle_points=self.shuffle_points,
        )

    def train_frames(
        self, class_names: Sequence[str], limits: Sequence[float], velocity: bool = False
    ) -> DetectionFrames:
        """Augmented frames for a detector of these classes that looks at this range.

        Args:
            class_names: classes to detect.
            limits: x0, y0, z0, x1, y1, z1 in metres.
            velocity: ground truth with vx, vy before the label.
        """
        frames = self._reader("train")
        path = prepared_paths(self.root, frames.prepared_name)[0]
        if self.balance:
            frames = Resampled(frames, balanced_indices(frames.classes_of_frames(), class_names, self.seed))
        return DetectionFrames(
            frames,
            class_names=class_names,
            limits=limits,
            augmentation=self.augmentation,
            database=ObjectDatabase.load(path) if self._pastes() else None,
            seed=self.seed,
            velocity=velocity,
            shuffle_points=self.shuffle_points,
        )

    def train_dataloader(self) -> ResumableLoader[Batch]:
        """Augmented frames in an order that a resumed run continues."""
        return ResumableLoader(self.frames["train"], **self.loader)  # type: ignore[arg-type]

    def val_dataloader(self) -> ResumableLoader[Batch]:
        """Frames as they are, in their order."""
        return ResumableLoader(self.frames["val"], shuffle=False, **self.loader)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves the tensors; what evaluation needs of the frames stays where it is."""
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def _build_database(self, frames: Any) -> None:
        """Writes the database of the frames' objects, unless it is there."""
        if not prepared_paths(self.root, frames.prepared_name)[0].is_file():
            build_database(frames, progress=lambda indices: bar(indices, "prepare"))

    def _pastes(self) -> bool:
        return self.augmentation is not None and any(self.augmentation.counts.values())

    def _reader(self, name: str) -> Any:
        if self.dataset == "nuscenes":
            return NuScenesDetection(
                self.root,
                self.version,
                self.splits[name],
                sweeps=self.sweeps,
                bad_sweeps=self.bad_sweeps,
                progress=lambda samples: bar(samples, f"tables {self.splits[name]}"),
            )
        if self.dataset == "custom":
            return CustomFrames(self.root, self.splits[name])
        plane = name == "train" and self.augmentation is not None and self.augmentation.road_plane
        return KittiObject(
            self.root, self.splits[name], fov_only=self.fov_only, image_size=self.image_size, with_plane=plane
        )


def simulate_into(
    root: Path, frames: tuple[int, int], seed: int, image_size: tuple[int, int] | None = None
) -> None:
    """Write small simulated scenes in KITTI's layout, unless the folder has them already.

    Args:
        root: target folder.
        frames: of training and validation.
        seed: of the scenes.
        image_size: (height, width) of camera pictures to paint; None paints none, and the camera has KITTI's size.

    Raises:
        UserInputError: the folder holds something else, or no frame is asked for.
    """
    wanted: dict[str, Any] = {"frames": list(frames), "seed": seed}
    options: dict[str, Any] = {}
    if image_size is not None:
        wanted["image_size"], options["image_size"] = list(image_size), image_size
    _simulate_once(
        root,
        wanted,
        root / "training",
        lambda: simulate_kitti(
            root,
            frames,
            seed,
            config=SMALL_SCENE,
            sensor=SECTOR_32,
            images=image_size is not None,
            planes=True,
            progress=lambda scenes: bar(scenes, "simulate"),
            **options,
        ),
    )


def simulate_nuscenes_into(
    root: Path, scenes: tuple[int, int], seed: int, key_frames: int = 4, sweeps: int = 10
) -> None:
    """Write simulated scenes as v1.0-mini, unless the folder has them already.

    Args:
        root: target folder.
        scenes: of training, up to 8, and validation, up to 2.
        seed: of the scenes.
        key_frames: of each scene.
        sweeps: per key frame, so that a frame of that many sweeps reaches back to the key frame before.

    Raises:
        UserInputError: the folder holds something else, or more scenes than v1.0-mini has names.
    """
    wanted = {"scenes": list(scenes), "seed": seed, "key_frames": key_frames, "sweeps": sweeps}
    _simulate_once(
        root,
        wanted,
        root / "v1.0-mini",
        lambda: simulate_nuscenes(
            root,
            scenes,
            seed,
            key_frames=key_frames,
            sweep_rate=2.0 * sweeps,
            progress=lambda listed: bar(listed, "simulate"),
        ),
    )


def _simulate_once(root: Path, wanted: dict[str, Any], folder: Path, simulate: Callable[[], object]) -> None:
    """Runs a simulation into `folder` unless its stamp says that it is done; never into other data."""
    done = root / "simulation.json"
    if done.is_file():
        if read_json(done) != wanted:
            raise UserInputError(
                f"{done}: holds {read_json(done)}; {wanted} is expected; remove the folder or name another"
            )
        return
    # Where it stands, an interrupted simulation left the files.
    mark = root / ".simulating"
    if folder.is_dir() and any(folder.iterdir()) and not mark.exists():
        raise UserInputError(f"{root}: data.simulate: the folder holds other data; name another folder")
    make_folder(root, "data.root")
    mark.touch()
    try:
        simulate()
    except UserInputError:
        raise
    except ValueError as error:  # numbers that are refused before anything is written
        mark.unlink()
        raise UserInputError(f"data.simulate: {error}") from error
    write_json(done, wanted)
    mark.unlink()


class LidarTask(LightningModule):
    """A LiDAR detector in training: one-cycle, Adam with decoupled weight decay, its data set's evaluation.

    Args:
        detector: Name of the detector, such as second.
        dataset: Whose settings it starts from.
        overrides: Settings that differ from them.
        lr: Peak learning rate.
        weight_decay: Decoupled, on all parameters.
        div: The learning rate starts at lr / div.
        warm_fraction: Share of the run in which it rises.
        start_from: Checkpoint of the same detector whose weights a new run starts from.
        results: Folder for the result files of validation and test (KITTI's text files, nuScenes' submission, or
            JSON); none are written without it.
        tta_flips: Test-time augmentation: mirror images besides the frame itself, of x, y and xy.
        tta_rotations: Test-time augmentation: further rotations, radians.
        tta_scales: Test-time augmentation: further scales.
    """

    #: Makes the detector of the hyper-parameters; a package with detectors of its own replaces it.
    build: Callable[[Any], Any] = staticmethod(build_from)

    def __init__(
        self,
        detector: str = "second",
        dataset: str = "kitti",
        overrides: dict[str, Any] | None = None,
        lr: float = 0.003,
        weight_decay: float = 0.01,
        div: float = 10.0,
        warm_fraction: float = 0.4,
        start_from: str | None = None,
        results: str | None = None,
        tta_flips: Sequence[str] = (),
        tta_rotations: Sequence[float] = (),
        tta_scales: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model: Any = self.build(self.hparams)
        self.result: Any = None
        self.records: list[Record] = []  # of the last test, for evaluations of one's own
        self._found: dict[int, Record] = {}
        self._outside = np.zeros(2, dtype=np.int64)  # boxes that training left out, and those it kept
        try:
            self.views = make_views(tta_flips, tta_rotations, tta_scales)
        except ValueError as error:
            raise UserInputError(f"model: tta: {error}") from error

    def on_fit_start(self) -> None:
        """Takes over the weights of another run, unless this one is resumed."""
        if self.hparams["start_from"] and self.trainer.ckpt_path is None:
            other = load_detector(self.hparams["start_from"], self.build)
            load_strict(self.model, other.state_dict(), source=self.hparams["start_from"])

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one batch; every part of it is logged."""
        losses = self.model(batch)
        for name, value in losses.items():
            number = value.detach().float()
            self.log(f"train/{name}", number, prog_bar=name == "loss", batch_size=batch["batch_size"])
        if self.current_epoch == 0:
            self._outside += (
                sum(frame.outside for frame in batch["frames"]),
                int((batch["gt_boxes"][..., -1] > 0).sum()),
            )
        loss: torch.Tensor = losses["loss"]
        return loss

    def on_train_epoch_end(self) -> None:
        """Tells once how many boxes lie where the detector does not look."""
        outside, kept = np.sum(gather_values(self._outside), axis=0) if self.current_epoch == 0 else (0, 0)
        if outside and self.trainer.is_global_zero:
            warnings.warn(
                f"left out of training: {outside} boxes whose centre is outside {point_range(self.model)}, beside "
                f"{kept} that are kept; `tenfold lidar check-data` counts them by class",
                stacklevel=1,
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects the detections of one batch."""
        views = self.views if self._testing() else (View(),)
        for frame, found in zip(batch["frames"], detect_views(self.model, batch, views), strict=True):
            detections = {name: value.detach().cpu().numpy() for name, value in found.items()}
            self._found[frame.index] = record(frame, detections, self.model.class_names)

    def _testing(self) -> bool:
        """Views cost time; validation between epochs takes the frame as it is."""
        return self._trainer is not None and bool(self.trainer.testing)

    def on_validation_epoch_end(self) -> None:
        """Evaluates what all processes have found; a frame that fills up the last batch counts once."""
        together: dict[int, Record] = {}
        for part in gather_values(self._found):
            together.update(part)
        self._found = {}
        frames = [together[index] for index in sorted(together)]
        self.records = frames if self.trainer.testing else []
        self.result = evaluate(frames, self.model.class_names)
        values = {} if self.result is None else headline(self.result)
        for name, value in values.items():
            stage = "test" if self.trainer.testing else "val"
            self.log(f"{stage}/{name}", value, rank_zero_only=True)
        folder = self.hparams["results"]
        if folder and self.trainer.is_global_zero and not self.trainer.sanity_checking:
            write_results(Path(folder), frames, self.result)

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Evaluates, and prints the table."""
        self.on_validation_epoch_end()
        if self.trainer.is_global_zero:
            unlabelled = "no ground truth; model.results writes the submission"
            print(unlabelled if self.result is None else self.result)

    def parameter_groups(self) -> Any:
        """What the optimiser gets; by default all parameters alike."""
        return self.parameters()

    def configure_optimizers(self) -> Any:
        """One cycle over the whole run, stepped with every optimiser step."""
        settings = self.hparams
        optimizer = decoupled_adam(
            self.parameter_groups(), lr=settings["lr"], weight_decay=settings["weight_decay"]
        )
        schedule = one_cycle_schedule(
            optimizer,
            total_steps(self.trainer),
            div=settings["div"],
            warm_fraction=settings["warm_fraction"],
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
