"""Training with Lightning: the loops of `gan` and `distiller` with its data, checkpoints, logs and processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from stylegan_distill.augment import AdaptiveAugment
from stylegan_distill.checkpoints import load_checkpoint, load_generator
from stylegan_distill.checkpoints.native import training_entry
from stylegan_distill.config import config_from_dict
from stylegan_distill.data import ImageSource, to_float
from stylegan_distill.distiller import DistillConfig, Distiller
from stylegan_distill.features import InceptionFeatures, TinyFeatures
from stylegan_distill.gan import GanConfig, GanTrainer, config_values, make_discriminator
from stylegan_distill.grids import labelled_rows
from stylegan_distill.losses import ContentMask
from stylegan_distill.lpips import LPIPS
from stylegan_distill.metrics.discrepancy import output_discrepancy
from stylegan_distill.metrics.fid import FeatureStats, compute_fid
from stylegan_distill.metrics.packages import PackageLPIPS
from stylegan_distill.metrics.sampling import draw_codes, generated_images
from stylegan_distill.networks import Generator
from stylegan_distill.pruning import ScoreMethod, channel_scores
from stylegan_distill.student import Init, build_generator, check_inherited, make_student
from tenfold._errors import UserInputError
from tenfold.io import make_folder, write_image
from tenfold.train.resume import ResumableLoader, sample_generator

__all__ = ["DistillTask", "GanTask", "ImageData"]


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, R, R) in [-1, 1] with their labels (c_dim,); mirrored by (seed, epoch, index)."""

    def __init__(self, images: Any, labels: Tensor, flip: float, seed: int) -> None:
        self.images, self.labels, self.flip, self.seed = images, labels, flip, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        pixels = self.images.pixels(index) if isinstance(self.images, ImageSource) else self.images[index]
        image = to_float(pixels[None])[0]
        if self.flip and sample_generator(self.seed, self.epoch, index).random() < self.flip:
            image = image.flip(2)
        return image, self.labels[index]


def _labels(images: Any) -> Tensor:
    """(N, c_dim): classes as one-hot rows, vectors as they are; c_dim is 0 without labels."""
    given = images.labels if isinstance(images, ImageSource) else None
    if given is None:
        return torch.zeros(len(images), 0)
    if all(isinstance(label, int) for label in given):
        return F.one_hot(torch.tensor(given), max(given) + 1).float()
    return torch.tensor(given, dtype=torch.float32)


class ImageData(LightningDataModule):
    """Images for training, and the same images unchanged for the real side of metrics.

    Args:
        path: Archive or folder of square images, sprites, mnist:FOLDER or cifar10:FOLDER.
        batch_size: Of each process; the official batch of 16 is 4 on each of 4 processes.
        flip: Probability of a mirror image in training; metrics see none.
        workers: Processes that load images.
        seed: Of order and mirror images.
    """

    def __init__(
        self, path: str = "sprites", batch_size: int = 16, flip: float = 0.5, workers: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        if batch_size < 1 or not 0 <= flip <= 1:
            raise UserInputError(
                f"data: batch_size, flip: got {batch_size}, {flip}; expected >= 1 and a probability"
            )
        self.path, self.batch_size, self.flip, self.workers, self.seed = path, batch_size, flip, workers, seed
        self._images: Any = None

    def setup(self, stage: str) -> None:
        """Open the images."""
        if self._images is None:
            from stylegan_distill.commands import load_images

            self._images = load_images(self.path)
            self._labels = _labels(self._images)

    @property
    def resolution(self) -> int:
        """Side of the images, pixels."""
        images = self._images
        return images.resolution if isinstance(images, ImageSource) else int(images.shape[1])

    @property
    def c_dim(self) -> int:
        """Length of a label."""
        return self._labels.shape[1]

    def _loader(self, train: bool) -> ResumableLoader[Any]:
        data = _Images(self._images, self._labels, self.flip if train else 0.0, self.seed)
        return ResumableLoader(
            data, self.batch_size, seed=self.seed, shuffle=train, drop_last=train, num_workers=self.workers
        )

    def train_dataloader(self) -> ResumableLoader[Any]:
        """Shuffled, perhaps mirrored, whole batches."""
        loader = self._loader(True)
        if len(loader) == 0:
            raise UserInputError(
                f"data.batch_size: got {self.batch_size}; there are {len(self._images)} images"
            )
        return loader

    def val_dataloader(self) -> ResumableLoader[Any]:
        """Every image once, as it is."""
        return self._loader(False)

    test_dataloader = val_dataloader


class _Task(LightningModule):
    """A loop of ours under Lightning: it hands over batches, keeps checkpoints and measures."""

    best_fid: Tensor
    loop: Any
    _net: Any

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.register_buffer("best_fid", torch.tensor(float("inf")))
        self._counters: dict[str, Any] | None = None
        self._real = FeatureStats()

    def _take(self, loop: GanTrainer) -> None:
        """Its modules become ours (so that Lightning saves and moves them); the teacher is no part of the state."""
        self.__dict__["loop"] = loop
        for name, module in loop.modules().items():
            self.add_module(name, module)

    # ---- training

    def configure_optimizers(self) -> list[Any]:
        """The loop's own."""
        return [self.loop.opt_g, self.loop.opt_d]

    def setup(self, stage: str) -> None:
        """Data and networks must fit."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData):
            cfg = self.loop.generator.cfg
            if data.resolution != cfg.resolution:
                raise UserInputError(
                    f"data.path: has images of side {data.resolution}; the generator's is {cfg.resolution}"
                )
            if cfg.c_dim and data.c_dim != cfg.c_dim:
                raise UserInputError(
                    f"data.path: has labels of length {data.c_dim}; the generator's are {cfg.c_dim} long"
                )
            judge = getattr(self.loop.discriminator, "cfg", None)
            if stage == "fit" and judge is not None and not judge.divides(data.batch_size):
                raise UserInputError(
                    f"data.batch_size: got {data.batch_size}; expected a multiple of {judge.mbstd_group}, the images "
                    "that the discriminator compares, or fewer"
                )

    def on_train_start(self) -> None:
        """Take up the place of a checkpoint, and leave the exchange of gradients to the loop."""
        self.loop.to(self.device)
        if self._counters is not None:
            self.loop.load_counters(self._counters)
            self._counters = None
        generator: Any = self.optimizers()[0]  # type: ignore[index]
        # Lightning counts the steps of its own wrapper: one an iteration.
        self.loop.generator_step = generator.step
        wrapped = self.trainer.strategy.model
        if isinstance(wrapped, DistributedDataParallel):
            # The loop averages gradients and running means itself: DDP's hooks know one backward pass a step.
            wrapped.require_backward_grad_sync = wrapped.require_forward_param_sync = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One iteration."""
        images, labels = batch
        values = self.loop.step(images, labels if self.loop.generator.cfg.c_dim else None)
        self.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=len(images))
        self.log("loss", values["g_loss"], prog_bar=True, logger=False, batch_size=len(images))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds random numbers, average and step, and what the networks are."""
        checkpoint["counters"] = self._counters or self.loop.counters()
        generator, judge = self.loop.generator, self.loop.discriminator
        networks = {"G": generator, "D": judge, "G_ema": generator}
        checkpoint["stylegan_distill"] = training_entry(networks, {"recipe": config_values(self.loop.config)})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps them for the start of training; evaluation needs the average."""
        if "counters" not in checkpoint:
            raise UserInputError("ckpt_path: was not written by this package's fit")
        self._counters = checkpoint["counters"]

    # ---- evaluation

    def average(self) -> Generator:
        """The averaged generator, of the checkpoint where training has not begun."""
        if self._counters is not None:
            self.loop.ema.load_state_dict(self._counters["ema"])
        found: Generator = self.loop.ema_generator()
        return found.to(self.device)

    def features(self) -> Any:
        """The network of the Frechet distance."""
        path = self.hparams.get("inception")
        return (TinyFeatures() if path is None else InceptionFeatures(path)).to(self.device)

    def on_validation_epoch_start(self) -> None:
        """Begin anew."""
        self._real = FeatureStats()
        self.__dict__["_net"] = self.features()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Statistics of real images; those that only fill up the last round of processes do not count."""
        images = batch[0]
        data: Any = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ImageData):
            place = batch_idx * data.batch_size + torch.arange(len(images))
            images = images[
                (place * self.trainer.world_size + self.global_rank < len(data._images)).to(images.device)
            ]
        if len(images):
            self._real.add(self._net(images))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Frechet distance of the average, every process making its share of the images."""
        stage = "test" if self.trainer.testing else "val"
        average, world = self.average(), self.trainer.world_size
        share = len(range(self.global_rank, self.hparams["eval_count"], world))
        fake = FeatureStats()
        for images in generated_images(average, share, batch=32, seed=world * 1000 + self.global_rank):
            fake.add(self._net(images))
        found = compute_fid(self._real.all_reduce(), fake.all_reduce(), self._net)
        ((name, value),) = found.values.items()
        self.log(f"{stage}/{name}", value, prog_bar=True, rank_zero_only=True)
        if stage == "val" and not self.trainer.sanity_checking:
            self.best_fid.fill_(min(float(self.best_fid), value))
            self.log(f"val/best_{name}", float(self.best_fid), rank_zero_only=True)
        for key, number in self.further(average).items():
            self.log(f"{stage}/{key}", number, rank_zero_only=True)
        if self.global_rank == 0 and not self.trainer.sanity_checking:
            self._write_grid(average, stage)

    @torch.no_grad()
    def _write_grid(self, average: Generator, stage: str) -> None:
        """Images of the same codes at every evaluation, in the folder ``samples`` of the run."""
        z, labels = draw_codes(average, 8, torch.Generator().manual_seed(0))
        rows = {name: net(z, labels, noise="none") for name, net in self.shown(average).items()}
        folder = make_folder(Path(self.trainer.default_root_dir) / "samples")
        write_image(folder / f"{stage}{self.loop.iteration:07d}.png", labelled_rows(rows))

    def shown(self, average: Generator) -> dict[str, Generator]:
        """Networks of the grid, by name."""
        return {"average": average}

    def on_test_epoch_end(self) -> None:
        """See `on_validation_epoch_end`."""
        self.on_validation_epoch_end()

    def further(self, average: Generator) -> dict[str, float]:
        """More numbers of the average."""
        return {}


class GanTask(_Task):
    """A StyleGAN trained from images: how a teacher is made.

    Args:
        network: The generator's configuration: kind (stylegan2 or stylegan3) and fields of its class.
        discriminator: Fields of the discriminator's configuration that differ from the generator's.
        recipe: Learning rates, regularisers, average.
        augment: Adapt augmentation to how well the discriminator knows the images; for small sets.
        inception: File of the Inception network for FID; without, a tiny fixed network measures fd_tiny.
        eval_count: Images of the average that are measured.
    """

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        discriminator: dict[str, Any] | None = None,
        recipe: GanConfig = GanConfig(),  # noqa: B008 - frozen
        augment: bool = False,
        inception: str | None = None,
        eval_count: int = 50_000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["recipe"])
        self.hparams["recipe"] = config_values(recipe)
        generator = build_generator(_config({"kind": "stylegan2", **(network or {})}), recipe.seed)
        judge = make_discriminator(generator, recipe.seed, **(discriminator or {}))
        self._take(GanTrainer(generator, judge, recipe, augment=AdaptiveAugment() if augment else None))


def _config(values: dict[str, Any]) -> Any:
    cfg = config_from_dict(values)
    if not hasattr(cfg, "num_ws"):
        raise UserInputError(f"model.network: kind: got {values['kind']!r}; expected stylegan2 or stylegan3")
    return cfg


class DistillTask(_Task):
    """A student distilled from a teacher.

    Args:
        teacher: Any checkpoint that `inspect` can read, or sprites: the small one that ships with the package.
        student: Checkpoint to begin with, such as a pruned one; its mapping network is used as it is.
        remove_ratio: Share of channels removed in every layer.
        widths: Channels of the student instead.
        second_conv_kernel: 1 makes the second convolutions of StyleGAN2's blocks lighter.
        init: mapping (the paper), random, inherit (channels by their scores) or mapping_distilled.
        mapping_widths: Widths of a distilled mapping network.
        mapping_lr_multiplier: Another learning rate of the mapping network; its function stays.
        mapping_steps: Steps of its distillation.
        fourier: StyleGAN3's input frequencies: copy the teacher's, or random.
        scores: Method of the scores for inherit.
        score_samples: Codes they are computed on.
        discriminator: random, or teacher: the discriminator of the teacher's file.
        discriminator_widths: Channels of a random one, one number a resolution from 4 on.
        recipe: Weights, learning rates, regularisers, average.
        lpips: File of LPIPS's linear heads, package: those of the package lpips, or tiny: a fixed small network.
        vgg: File of torchvision's VGG16, for LPIPS.
        parser: File of the face parser for the content mask; without, everything is content.
        augment: Adapt augmentation to how well the discriminator knows the images; for small sets.
        inception: File of the Inception network for FID; without, a tiny fixed network measures fd_tiny.
        eval_count: Images of the average that are measured.
    """

    def __init__(
        self,
        teacher: str = "sprites",
        student: str | None = None,
        remove_ratio: float = 0.7,
        widths: list[int] | None = None,
        second_conv_kernel: int | None = None,
        init: Init = "mapping",
        mapping_widths: list[int] | None = None,
        mapping_lr_multiplier: float | None = None,
        mapping_steps: int = 50_000,
        fourier: Literal["copy", "random"] = "copy",
        scores: ScoreMethod = "cagan",
        score_samples: int | None = None,
        discriminator: Literal["random", "teacher"] = "random",
        discriminator_widths: list[int] | None = None,
        recipe: DistillConfig = DistillConfig(),  # noqa: B008 - frozen
        lpips: str = "tiny",
        vgg: str | None = None,
        parser: str | None = None,
        augment: bool = False,
        inception: str | None = None,
        eval_count: int = 50_000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["recipe"])
        self.hparams["recipe"] = config_values(recipe)
        found = load_checkpoint(_teacher_path(teacher))
        source = found.G_ema or found.G
        if source is None:
            raise UserInputError(f"{teacher}: model.teacher: holds no generator")
        mask = ContentMask(_parser(parser)) if parser else None
        pupil = self._student(source, mask, recipe.seed)
        # "gcc" compares features in the teacher's own discriminator, which stays as it is.
        judge = self._judge(found.D, source, recipe.seed)
        perceptual = _perceptual(lpips, vgg) if recipe.lpips > 0 else None
        self._take(
            Distiller(
                source, pupil, judge, recipe,
                perceptual=perceptual,
                mask=mask,
                teacher_discriminator=found.D if recipe.gcc > 0 else None,
                augment=AdaptiveAugment() if augment else None,
            )
        )  # fmt: skip

    def setup(self, stage: str) -> None:
        """The latent-direction loss compares the codes of one process."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        size, recipe = getattr(data, "batch_size", 4), self.loop.config
        if stage != "fit" or recipe.ld == 0 or recipe.gather_ranks:
            return
        if size < 2:
            raise UserInputError(
                "data.batch_size: got 1; the latent-direction loss compares codes: expected at least 2"
            )
        if size < 4:
            rank_zero_warn(
                f"data.batch_size: got {size}; the latent-direction loss was made for 4 or more a process"
            )

    def _student(self, teacher: Generator, mask: ContentMask | None, seed: int) -> Generator:
        h = self.hparams
        if h["student"] is not None:
            return load_generator(h["student"]).train()
        scores = None
        if h["init"] == "inherit":
            # Before the scores, which take long.
            check_inherited(teacher, h["second_conv_kernel"], h["fourier"])
            scores = channel_scores(teacher, h["scores"], samples=h["score_samples"], mask=mask, seed=seed)
        distillation = {"steps": h["mapping_steps"]} if h["init"] == "mapping_distilled" else {}
        return make_student(
            teacher,
            h["remove_ratio"] if h["widths"] is None else None,
            widths=h["widths"],
            second_conv_kernel=h["second_conv_kernel"],
            init=h["init"],
            mapping_widths=h["mapping_widths"],
            mapping_lr_multiplier=h["mapping_lr_multiplier"],
            fourier=h["fourier"],
            scores=scores,
            seed=seed,
            **distillation,
        )

    def _judge(self, own: nn.Module | None, teacher: Generator, seed: int) -> nn.Module:
        widths = self.hparams["discriminator_widths"]
        if self.hparams["discriminator"] == "random":
            return make_discriminator(teacher, seed, **({} if widths is None else {"widths": tuple(widths)}))
        if own is None:
            raise UserInputError(
                f"{self.hparams['teacher']}: model.discriminator: the teacher's file has none"
            )
        import copy

        return copy.deepcopy(own)

    def further(self, average: Generator) -> dict[str, float]:
        """How far the student's images are from the teacher's for the same codes."""
        loop: Distiller = self.loop
        loop.teacher.to(self.device)
        metric = LPIPS("tiny").to(self.device)
        count = min(512, self.hparams["eval_count"])
        gap = output_discrepancy(loop.teacher, average, metric, count=count, seed=1)
        return {name: gap[name] for name in ("l1", "mismatched_l1", "ratio")}

    def shown(self, average: Generator) -> dict[str, Generator]:
        """Teacher and student for the same codes."""
        return {"teacher": self.loop.teacher, "student": average}


def _teacher_path(given: str) -> str | Path:
    if given != "sprites":
        return given
    from stylegan_distill.experiment import TEACHER

    return TEACHER


def _perceptual(heads: str, vgg: str | None) -> LPIPS | PackageLPIPS:
    if heads != "package":
        return LPIPS(heads, vgg, resize=256)
    if vgg is None:
        raise UserInputError("model.vgg: missing; LPIPS needs the file of VGG16 beside its heads")
    return PackageLPIPS(Path(vgg), resize=256)


def _parser(path: str) -> Any:
    from stylegan_distill.parser import FaceParser

    return FaceParser(path)
