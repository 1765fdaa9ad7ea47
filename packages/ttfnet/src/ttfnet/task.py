"""Training and evaluation with Lightning."""

from __future__ import annotations

import copy
import json
import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from tenfold._errors import UserInputError
from tenfold.io import make_folder, write_bytes, write_json, write_text
from tenfold.train.claims import environment_stamp
from tenfold.train.lightning import EMACallback, read_checkpoint, steps_per_epoch, time_budget, total_steps
from tenfold.train.processes import gather_values
from tenfold.train.resume import ResumableLoader
from ttfnet.checkpoint import ModelInfo, describe, load_backbone, load_detector
from ttfnet.data.dataset import Batch, CocoDataset, collate
from ttfnet.data.multi_size import drawn_size, resize_batch
from ttfnet.data.shapes import write_shapes
from ttfnet.data.transforms import Pipeline
from ttfnet.evaluation import CocoResult, confusion_matrix, evaluate, result_rows
from ttfnet.health import HealthMonitor
from ttfnet.model import Detector, LossOptions, build_detector, use_standard_operators
from ttfnet.predict import rescale
from ttfnet.recipe import DECAY, scaled_lr, sgd, warmup_schedule
from ttfnet.targets import TargetOptions

__all__ = ["DetectionData", "DetectionTask"]

_SCHEDULES = (12, 24, 120)


class DetectionData(LightningDataModule):
    """Images in COCO's layout: the official data, your own, or generated.

    Args:
        root: Folder with `annotations` and the images.
        train_split: Split to train on.
        val_split: Split that validation and test use.
        size: Height and width of the network's input, multiples of 32.
        batch_size: Images per process and step.
        workers: Loader processes.
        seed: Seed of order and augmentation.
        augment: none, flip (1x and 2x schedules), heavy (10x schedules) or centernet.
        resize: squash ignores the aspect ratio, as published; letterbox keeps it; original evaluates pictures as
            they are, one at a time, as CenterNet does, and trains as squash.
        cache: Keep the decoded images in memory.
        sizes: Sides of square inputs that training draws from, one for each step; size is then that of the
            evaluation.
        generate: Numbers of training and validation pictures to generate into root, if they are not there yet.
    """

    def __init__(
        self,
        root: str = "data/coco",
        train_split: str = "train2017",
        val_split: str = "val2017",
        size: tuple[int, int] = (512, 512),
        batch_size: int = 16,
        workers: int = 0,
        seed: int = 0,
        augment: Literal["none", "flip", "heavy", "centernet"] = "flip",
        resize: Literal["squash", "letterbox", "original"] = "squash",
        cache: bool = False,
        sizes: list[int] | None = None,
        generate: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or workers < 0:
            raise UserInputError(f"data: batch_size, workers: got {batch_size}, {workers}; too small")
        self.root, self.splits = Path(root), {"train": train_split, "val": val_split}
        self.size, self.augment, self.resize = (size[0], size[1]), augment, resize
        self.batch_size, self.seed, self.cache, self.generate = batch_size, seed, cache, generate
        self.loader: dict[str, Any] = {"num_workers": workers, "seed": seed, "collate_fn": collate}
        self.sets: dict[str, CocoDataset] = {}
        self.sizes = list(sizes or ())
        for side in self.sizes:
            if side < 32 or side % 32:
                raise UserInputError(f"data.sizes: got {side}; expected multiples of 32")
        self._pipeline("train", "imagenet")  # refuses wrong values before anything is read
        self._pipeline("val", "imagenet")

    def prepare_data(self) -> None:
        """Generates pictures where asked to; one process does it for all."""
        if self.generate is None:
            return
        done = self.root / "annotations" / f"instances_{self.splits['val']}.json"
        if not done.is_file():
            counts = dict(zip(self.splits.values(), self.generate, strict=True))
            write_shapes(self.root, counts, seed=self.seed)

    def setup(self, stage: str) -> None:
        """Opens the splits; the normalisation is the model's."""
        for name in ("train", "val"):
            if name == "val" or stage == "fit":
                self.sets[name] = self.dataset(name)
        if len(self.sets) == 2 and self.sets["train"].class_names != self.sets["val"].class_names:
            raise UserInputError(
                f"{self.sets['val'].annotations.path}: categories: differ from those of "
                f"{self.sets['train'].annotations.path}"
            )

    def dataset(self, name: str) -> CocoDataset:
        """The ``"train"`` or ``"val"`` set."""
        task: Any = self.trainer.lightning_module if self.trainer is not None else None
        normalization = task.normalization if task is not None else "imagenet"
        pipeline = self._pipeline(name, normalization)
        return CocoDataset(
            self.root, self.splits[name], pipeline, train=name == "train", seed=self.seed, cache=self.cache
        )

    def _pipeline(self, name: str, normalization: str) -> Pipeline:
        if name != "train":
            return Pipeline(self.size, "none", normalization, self.resize)
        size = (max(self.sizes), max(self.sizes)) if self.sizes else self.size
        resize = "squash" if self.resize == "original" else self.resize
        return Pipeline(size, self.augment, normalization, resize)

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return self.sets["val"].class_names

    def train_dataloader(self) -> ResumableLoader[Any]:
        """Augmented images in an order that a resumed run continues; a last short batch is left out."""
        data = self.sets["train"]
        whole = len(data) >= self.batch_size
        return ResumableLoader(data, self.batch_size, drop_last=whole, **self.loader)  # type: ignore[arg-type]

    def val_dataloader(self) -> ResumableLoader[Any]:
        """Images as they are, in their order."""
        size = 1 if self.resize == "original" else self.batch_size
        return ResumableLoader(self.sets["val"], size, shuffle=False, **self.loader)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch."""
        return batch.to(device)

    def resized(self, batch: Batch, epoch: int, step: int) -> Batch:
        """A training batch at the size of its step."""
        if not self.sizes:
            return batch
        return resize_batch(batch, drawn_size(self.sizes, self.seed, epoch, step))


class DetectionTask(LightningModule):
    """A detector in training: SGD with linear scaling and warm-up, COCO's evaluation.

    Args:
        method: ttfnet, or centernet for the baseline.
        backbone: resnet18, resnet34, darknet53, dla34, resnet50, resnet101, resnet50vd, resnet50vd_dcn,
            mobilenetv3 or small.
        pretrained: Weights to start from: a checkpoint of ours (the last layer of the heat map may have another
            number of classes), or a backbone's weights; nothing is downloaded.
        frozen_stages: Stages of the backbone that do not train: -1 none, 0 the stem, 1 stem and first stage.
        num_classes: Classes; taken from the data by default.
        neck: Neck of centernet: centernet or ttfnet.
        neck_op: dcnv2, conv for runtimes without deformable convolution, or lite as in PAFNet-Lite.
        neck_channels: Widths of the neck's steps.
        shortcuts: Convolutions in the shortcuts from C4, C3 and C2; [] is none.
        align_corners: Of the neck's up-sampling.
        head_channels: Hidden channels of heat map and distances; the published ones by default.
        head_layers: Their 3x3 convolutions; the published ones by default.
        head_op: conv, or dcnv2 or lite as in PAFNet and PAFNet-Lite.
        wh_scale: Factor s of the distances.
        wh_bias_init: First bias of the distances; 0 as published, 1 for training from scratch.
        kaiming_heads: Hidden head convolutions initialised by fan-out, for training from scratch.
        class_specific: Distances of each class apart.
        alpha: Size of the heat map's kernel relative to the box.
        beta: Size of the regression area relative to the box; 0.01 is one pixel.
        area: How a box's weight grows with its area: log, sqrt, linear or norm.
        weight: Weights in a box: gaussian, flat or none (all 1).
        shape: Kernels: elliptic or circular.
        subarea: Regression area: gaussian or rectangle.
        sigma: Width of the kernels: code or paper.
        loss_heatmap: Factor of the localisation loss.
        loss_box: Factor of the regression loss.
        side_offset: Added to sides in the GIoU.
        clamp: Limit probabilities as the official code does.
        sync_normalizer: Divide losses by the numbers of all processes together.
        ignore_crowd: Pixels inside crowd regions are no background.
        lr: Learning rate; by default base_lr scaled to the images of a step.
        base_lr: Learning rate of the recipe.
        base_batch: Images of a step in the recipe.
        momentum: Of SGD.
        weight_decay: On everything but convolution biases.
        offset_lr_mult: Factor on the learning rate of the layers that predict offsets.
        warmup_steps: Steps of the linear warm-up from a fifth.
        decay: Shares of the run after which the learning rate falls to a tenth.
        optimizer: sgd, or adam as CenterNet's recipe.
        ema: Decay of a moving average of the weights for evaluation, such as 0.9998; none by default.
        channels_last: Memory format of images and weights; faster on GPUs under mixed precision.
        compile: Compile the network with torch.compile.
        time_budget: Duration such as 2h: sets trainer.max_epochs from the measured time of a step.
        nms_iou: Class-wise suppression in evaluation; none as published.
        flip_test: Evaluate with mirrored images too.
        results: Folder for detections and plots of the test; nothing is written without it.
    """

    def __init__(
        self,
        method: Literal["ttfnet", "centernet"] = "ttfnet",
        backbone: str = "resnet18",
        pretrained: str | None = None,
        frozen_stages: int = -1,
        num_classes: int | None = None,
        neck: Literal["centernet", "ttfnet"] = "centernet",
        neck_op: Literal["dcnv2", "conv", "lite"] = "dcnv2",
        neck_channels: list[int] | None = None,
        shortcuts: list[int] | None = None,
        align_corners: bool = True,
        head_channels: list[int] | None = None,
        head_layers: list[int] | None = None,
        head_op: Literal["conv", "dcnv2", "lite"] = "conv",
        wh_scale: float = 16.0,
        wh_bias_init: float = 0.0,
        kaiming_heads: bool = False,
        class_specific: bool = False,
        alpha: float = 0.54,
        beta: float = 0.54,
        area: Literal["log", "sqrt", "linear", "norm"] = "log",
        weight: Literal["gaussian", "flat", "none"] = "gaussian",
        shape: Literal["elliptic", "circular"] = "elliptic",
        subarea: Literal["gaussian", "rectangle"] = "gaussian",
        sigma: Literal["code", "paper"] = "code",
        loss_heatmap: float = 1.0,
        loss_box: float = 5.0,
        side_offset: float = 1.0,
        clamp: bool = False,
        sync_normalizer: bool = False,
        ignore_crowd: bool = False,
        lr: float | None = None,
        base_lr: float = 0.016,
        base_batch: int = 128,
        momentum: float = 0.9,
        weight_decay: float = 4e-4,
        offset_lr_mult: float = 1.0,
        warmup_steps: int = 500,
        decay: list[float] | None = None,
        optimizer: Literal["sgd", "adam"] = "sgd",
        ema: float | None = None,
        channels_last: bool = False,
        compile: bool = False,
        time_budget: str | None = None,
        nms_iou: float | None = None,
        flip_test: bool = False,
        results: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model: Detector | None = None
        self.info: ModelInfo | None = None
        self.result: CocoResult | None = None
        self.rows: list[dict[str, Any]] = []
        self.hours = 0.0
        self.curve: list[dict[str, float]] = []
        self._clock = self._step_began = 0.0
        self._checked_options()
        self.health = HealthMonitor(warmup_steps)
        if num_classes is not None:
            self.model = self._build(num_classes)

    # ---- building ----------------------------------------------------------------------------------

    def _checked_options(self) -> None:
        """Refuses wrong values at once, not after the data has been read."""
        try:
            self._targets()
        except ValueError as error:
            raise UserInputError(f"model: {error}") from error

    def _targets(self) -> TargetOptions:
        names = {f.name for f in fields(TargetOptions)} & set(self.hparams)
        return TargetOptions(**{name: self.hparams[name] for name in names})

    def _build(self, num_classes: int) -> Detector:
        given = self.hparams
        losses = LossOptions(
            heatmap=given["loss_heatmap"],
            box=given["loss_box"],
            side_offset=given["side_offset"],
            clamp=given["clamp"],
            sync_normalizer=given["sync_normalizer"],
        )
        settings: dict[str, Any] = {
            "backbone": given["backbone"],
            "num_classes": num_classes,
            "neck_op": given["neck_op"],
            "kaiming_heads": given["kaiming_heads"],
            "losses": losses,
        }
        optional = ("neck_channels", "shortcuts", "head_channels", "head_layers")
        settings |= {name: given[name] for name in optional if given[name] is not None}
        if given["method"] == "centernet":
            settings["neck"] = given["neck"]
        else:
            same = ("align_corners", "head_op", "wh_scale", "wh_bias_init", "class_specific")
            settings |= {name: given[name] for name in same} | {"targets": self._targets()}
        try:
            model = build_detector(given["method"], **settings)
            model.backbone.freeze(given["frozen_stages"])
        except ValueError as error:
            raise UserInputError(f"model: {error}") from error
        return model

    @property
    def normalization(self) -> str:
        """What the data pipeline must do; known before the model is."""
        pretrained = str(self.hparams["pretrained"] or "")
        return "unit" if pretrained.endswith((".weights", ".74")) else "imagenet"

    def configure_model(self) -> None:
        """Builds the network when the number of classes is known, and loads what it starts from."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        names: list[str] = data.class_names
        if self.model is None:
            self.hparams["num_classes"] = len(names)
            self.model = self._build(len(names))
        if self.model.num_classes != len(names):
            raise UserInputError(
                f"model.num_classes: got {self.model.num_classes}; the data has {len(names)} classes"
            )
        if self.hparams["pretrained"] and self.info is None and self.trainer.training:
            load_pretrained(self.model, self.hparams["pretrained"])
        self.info = describe(
            self.model,
            names,
            category_ids=data.sets["val"].annotations.category_ids,
            size=data.size,
            normalization=self.normalization,
            resize=data.resize,
        )
        if self.hparams["channels_last"]:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.hparams["compile"]:
            self.model.compile()  # in place: the names of the weights stay

    def configure_callbacks(self) -> list[Any]:
        """The moving average, where one is asked for."""
        return [EMACallback(self.hparams["ema"])] if self.hparams["ema"] else []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts the model's facts in, so that `ttfnet predict` needs nothing else."""
        if self.info is not None:
            checkpoint["ttfnet"] = self.info.document()
        checkpoint["hours"] = self._hours() if self.trainer.training else self.hours
        checkpoint["curve"] = self.curve
        checkpoint["epochs"] = self.trainer.max_epochs

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continues the clock."""
        self.hours = float(checkpoint.get("hours", 0.0))
        self.curve = list(checkpoint.get("curve", []))

    # ---- training ----------------------------------------------------------------------------------

    def forward(self, images: torch.Tensor) -> Any:
        """The network's maps of normalised images ``(B, 3, H, W)``."""
        assert self.model is not None
        if self.hparams["channels_last"]:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def on_fit_start(self) -> None:
        """Chooses the faster form of deformable convolution for the device."""
        assert self.model is not None
        use_standard_operators(self.model, self.device.type == "cpu")

    def on_train_start(self) -> None:
        """Starts the clock and looks at the data."""
        self._clock = time.monotonic()
        data: CocoDataset = self.trainer.datamodule.sets["train"]  # type: ignore[attr-defined]
        self.health.clip = float(self.trainer.gradient_clip_val or 0)
        self.health.data(data.class_names, data.annotations.counts().tolist())
        if self.trainer.is_global_zero:
            print(f"{data.annotations.path}: {len(data):,} images\n{data.annotations.report}", flush=True)
            folder = make_folder(Path(self.trainer.default_root_dir), "trainer.default_root_dir")
            write_json(folder / "environment.json", environment_stamp("ttfnet"))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one batch; every part of it is logged."""
        assert self.model is not None
        batch = self.trainer.datamodule.resized(batch, self.current_epoch, batch_idx)  # type: ignore[attr-defined]
        out = self(batch.images)
        crowds = batch.ignore if self.hparams["ignore_crowd"] else None
        losses = self.model.loss(out, batch.boxes, batch.labels, crowds)
        for name, value in losses.items():
            self.log(f"train/{name}", value.detach().float(), prog_bar=name == "loss", batch_size=len(batch))
        objects = sum(len(own) for own in batch.labels)
        self.health.batch(batch.image_ids, objects, batch.dropped)
        self.health.losses(self.global_step, losses, batch.image_ids)
        if self.global_step % 50 == 0:
            self.health.output(self.global_step, out)
        loss: torch.Tensor = losses["loss"]
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Begins a step's time."""
        self._step_began = time.monotonic()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Tells the speed of the step, loading left out."""
        seconds = max(time.monotonic() - self._step_began, 1e-9)
        self.log("train/images_per_second", len(batch) * self.trainer.world_size / seconds)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clips, and tells norm, hours and learning rate."""
        squares = [p.grad.detach().float().square().sum() for p in self.parameters() if p.grad is not None]
        norm = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        self.health.gradient(norm)
        self.clip_gradients(
            optimizer, gradient_clip_val=gradient_clip_val, gradient_clip_algorithm=gradient_clip_algorithm
        )
        self.log("train/grad_norm", norm)
        self.log("train/lr", optimizer.param_groups[0]["lr"])
        self.log("train/hours", self._hours())

    def _hours(self) -> float:
        return self.hours + (time.monotonic() - self._clock) / 3600

    def on_validation_start(self) -> None:
        """Evaluation does not count as training time."""
        if self._fitting:
            self.hours = self._hours()

    def on_validation_end(self) -> None:
        """Goes on counting."""
        if self._fitting:
            self._clock = time.monotonic()

    @property
    def _fitting(self) -> bool:
        """Whether the trainer is inside `fit` (its stage says validating while it evaluates there)."""
        return self.trainer.state.fn == "fit" and not self.trainer.sanity_checking

    def on_train_end(self) -> None:
        """Stops the clock, and leaves the last numbers and accuracy against hours in the run's folder."""
        self.hours = self._hours()
        if not (self.trainer.is_global_zero and self.curve and self.result is not None):
            return
        folder = Path(self.trainer.default_root_dir)
        record = {"numbers": self.result.numbers, "hours": self.hours, "curve": self.curve}
        write_json(folder / "results.json", record)
        from tenfold.viz import Series, line_plot, standalone

        line = Series("AP", [(row["hours"], 100 * row["AP"]) for row in self.curve])
        chart = line_plot([line], x_label="hours of training, evaluation excluded", y_label="AP")
        write_text(folder / "ap_hours.svg", standalone(chart))

    def configure_optimizers(self) -> Any:
        """The recipe's optimiser and schedule over the whole run, stepped with every optimiser step."""
        assert self.model is not None
        given = self.hparams
        images = self.trainer.datamodule.batch_size * self.trainer.world_size  # type: ignore[attr-defined]
        images *= self.trainer.accumulate_grad_batches
        expected = scaled_lr(given["base_lr"], given["base_batch"], images)
        lr = expected if given["lr"] is None else given["lr"]
        self.health.learning_rate(lr, expected)
        self.health.batch_norm(self.trainer.world_size, self.trainer.datamodule.batch_size, self.model)  # type: ignore[attr-defined]
        if given["time_budget"]:
            self._fit_into(given["time_budget"])
        total, epoch = total_steps(self.trainer), steps_per_epoch(self.trainer)
        # The warm-up spans as many images as in the recipe, if the batch is smaller.
        warmup = round(given["warmup_steps"] * max(1.0, given["base_batch"] / images))
        if self.trainer.is_global_zero:
            print(f"{images} images a step, learning rate {lr:g}, {total:,} steps", flush=True)
        if given["optimizer"] == "adam":
            optimizer: torch.optim.Optimizer = torch.optim.Adam(
                [p for p in self.parameters() if p.requires_grad], lr=lr
            )
        else:
            optimizer = sgd(
                self.model,
                lr,
                momentum=given["momentum"],
                weight_decay=given["weight_decay"],
                offset_lr_mult=given["offset_lr_mult"],
            )
        schedule = warmup_schedule(
            optimizer, total, epoch, warmup_steps=warmup, decay=given["decay"] or DECAY
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _fit_into(self, budget: str) -> None:
        """Sets the number of epochs from the measured time of a step; a resumed run keeps its number."""
        if self.trainer.ckpt_path:
            stored = read_checkpoint(Path(self.trainer.ckpt_path)).get("epochs")
            if stored:
                self.trainer.fit_loop.max_epochs = int(stored)
                return
        seconds = float(self.trainer.strategy.broadcast(self._step_seconds()))
        steps = steps_per_epoch(self.trainer)
        try:
            epochs = time_budget(budget, step_seconds=seconds, steps_per_epoch=steps, choices=_SCHEDULES)
        except UserInputError:
            epochs = time_budget(budget, step_seconds=seconds, steps_per_epoch=steps)
        self.trainer.fit_loop.max_epochs = epochs
        if self.trainer.is_global_zero:
            print(f"time_budget {budget}: {seconds:.3f} s a step -> {epochs} epochs", flush=True)

    def _step_seconds(self, steps: int = 3) -> float:
        """Measured on a copy of the network and on the first images, loading included."""
        from tenfold.train.resume import random_states, set_random_states

        states = random_states()
        data: CocoDataset = self.trainer.datamodule.sets["train"]  # type: ignore[attr-defined]
        size = min(self.trainer.datamodule.batch_size, len(data))  # type: ignore[attr-defined]
        model: Any = copy.deepcopy(self.model)
        optimizer = sgd(model, 0.0)
        times = []
        for number in range(steps + 1):
            start = time.perf_counter()
            batch = collate([data[(number * size + k) % len(data)] for k in range(size)]).to(self.device)
            model.loss(model(batch.images), batch.boxes, batch.labels)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        set_random_states(states)
        # The first step pays for memory and kernels.
        return sum(times[1:]) / steps * self.trainer.accumulate_grad_batches

    # ---- evaluation --------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects the detections of one batch."""
        assert self.model is not None
        assert self.info is not None
        found = self.model.predict(
            batch.images, conf=0.01, nms_iou=self.hparams["nms_iou"], flip_test=self.hparams["flip_test"]
        )
        for k, own in enumerate(found):
            original = rescale(own, batch.scales[k], batch.sizes[k], self.info)
            self.rows += result_rows(original, batch.image_ids[k], self.info.category_ids)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Evaluates what all processes have found; an image that fills up the last batch counts once."""
        annotations = self.trainer.datamodule.sets["val"].annotations  # type: ignore[attr-defined]
        self.rows = _once(gather_values(self.rows), len(gather_values(0)))
        if not self.trainer.sanity_checking:
            self.result = evaluate(self.rows, annotations)
            stage = "test" if self.trainer.testing else "val"
            if self._fitting:
                row = {"epoch": self.current_epoch + 1, "hours": self.hours, "AP": self.result.numbers["AP"]}
                self.curve.append(row)
            for name, value in self.result.numbers.items():
                self.log(f"{stage}/{name}", value, prog_bar=name == "AP", rank_zero_only=True)
        if not self.trainer.testing:
            self.rows = []

    def on_test_epoch_end(self) -> None:
        """Evaluates, prints the numbers, and writes what was asked for."""
        self.on_validation_epoch_end()
        if self.trainer.is_global_zero and self.result is not None:
            print(f"{self.result}  (times 100)")
            if self.hparams["results"]:
                self._write_results(Path(self.hparams["results"]), self.result)
        self.rows = []

    def _write_results(self, folder: Path, result: CocoResult) -> None:
        make_folder(folder, "results")
        annotations = self.trainer.datamodule.sets["val"].annotations  # type: ignore[attr-defined]
        matrix = confusion_matrix(self.rows, annotations)
        write_bytes(folder / "detections.json", json.dumps(self.rows).encode())
        numbers = {"numbers": result.numbers, "per_class": result.per_class, "hours": self.hours}
        write_json(folder / "results.json", numbers | {"confusion": matrix.tolist()})
        from ttfnet.plots import write_plots

        for path in write_plots(folder, result, matrix, annotations.class_names):
            print(path)


def load_pretrained(model: Detector, source: str) -> None:
    """Start from a whole detector of ours, whose last class layer may differ, or from a backbone.

    Raises:
        UserInputError: the file fits neither.
    """
    from tenfold.io import load_strict

    if Path(source).suffix in (".pt", ".ckpt") and _is_detector(source):
        donor, _ = load_detector(source)
        last = [k for k in donor.state_dict() if k.startswith(("head.heatmap.", "heatmap."))][-2:]
        load_strict(model, donor.state_dict(), allow_reshaped=tuple(map(re.escape, last)), source=source)
        return
    load_backbone(model.backbone, source)


def _is_detector(source: str) -> bool:
    from tenfold.io import load_checkpoint

    content = load_checkpoint(source)
    return isinstance(content, dict) and "ttfnet" in content


def _once(parts: list[list[dict[str, Any]]], processes: int) -> list[dict[str, Any]]:
    """All processes' rows; of an image that several have seen, those of the first."""
    seen: set[int] = set()
    rows: list[dict[str, Any]] = []
    for part in parts[:processes]:
        new = {row["image_id"] for row in part} - seen
        rows += [row for row in part if row["image_id"] in new]
        seen |= new
    return rows
