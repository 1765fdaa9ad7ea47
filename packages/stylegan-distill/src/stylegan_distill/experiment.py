"""The small reproduction: a 16-pixel teacher, and students that differ in how their mapping network starts.

Every arm has the same student architecture, the same discriminator, the same images in the same order and the same
random numbers; what differs is written in `ARMS`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from stylegan_distill.augment import AdaptiveAugment
from stylegan_distill.config import StyleGAN2Config
from stylegan_distill.data import ImageBatches, ImageSource, sprites, to_float
from stylegan_distill.data.batches import Pixels
from stylegan_distill.directions import latent_directions, sample_offsets
from stylegan_distill.distiller import DistillConfig, Distiller
from stylegan_distill.features import TinyFeatures
from stylegan_distill.gan import GanConfig, GanTrainer, make_discriminator
from stylegan_distill.losses import LatentDirectionLoss
from stylegan_distill.lpips import LPIPS
from stylegan_distill.metrics.discrepancy import output_discrepancy
from stylegan_distill.metrics.editing import editing_consistency
from stylegan_distill.metrics.fid import FeatureStats, compute_fid
from stylegan_distill.metrics.sampling import draw_codes, generated_images
from stylegan_distill.networks import Generator
from stylegan_distill.pruning import channel_scores
from stylegan_distill.student import build_generator, make_student

__all__ = [
    "ARMS",
    "SCALES",
    "TEACHER",
    "Arm",
    "Run",
    "Scale",
    "evaluate",
    "ld_value",
    "load_teacher",
    "run_arm",
    "scale_for",
    "sprite_set",
    "train_teacher",
]

#: The teacher that the package ships; ``train_teacher(SCALES["sprites"], sprite_set())`` makes it again.
TEACHER = Path(__file__).parent / "assets" / "sprites_teacher.safetensors"

_DATA_SEED, _IMAGES, _BATCH, _REMOVED = 20220819, 4096, 16, 0.7
# An offset of 5 was chosen for W of 512 dimensions; one coordinate moves as far in fewer when scaled by the root.
_OFFSET_512 = 5.0
_GAN = GanConfig(lr_g=0.002, lr_d=0.002, r1_gamma=1.0, path_weight=0.0, ema="kimg")


@dataclass(frozen=True)
class Scale:
    """Networks of an experiment.

    Attributes:
        teacher: configuration.
        judge: widths of the discriminator.
        teacher_steps: of GAN training.
    """

    teacher: StyleGAN2Config
    judge: tuple[int, ...]
    teacher_steps: int

    @property
    def offset(self) -> float:
        """Strength of the moved codes, for this W what 5 is for 512 dimensions."""
        return _OFFSET_512 * math.sqrt(self.teacher.w_dim / 512)


#: "sprites": the generated images at 16 pixels; "real": MNIST or CIFAR-10 at 32.
SCALES = {
    "sprites": Scale(StyleGAN2Config(16, z_dim=64, w_dim=64, widths=(40, 40, 32)), (32, 32, 24), 1500),
    "real": Scale(StyleGAN2Config(32, z_dim=64, w_dim=64, widths=(40, 40, 32, 24)), (32, 32, 24, 16), 1600),
}


@dataclass(frozen=True)
class Arm:
    """How a student starts and what it learns from.

    Attributes:
        title: in words.
        init: "mapping", "random", or "inherit" (the teacher's channels with the largest mean styles).
        change: "permuted": coordinates of the copied W in another order; "shuffled": the copied weights in another
            order within each layer.
        kd: weight of both image terms (L1 and perceptual).
        ld: weight of the latent-direction loss.
        offset: strength of its moved codes; None: `Scale.offset`.
        freeze: the mapping network is not trained.
        kernel: of the second convolutions.
        noise: of teacher and student, see `DistillConfig`.
        steps: of training.
    """

    title: str
    init: Literal["mapping", "random", "inherit"] = "mapping"
    change: Literal["", "permuted", "shuffled"] = ""
    kd: float = 3.0
    ld: float = 0.0
    offset: float | None = None
    freeze: bool = False
    kernel: int = 3
    noise: Literal["independent", "shared"] = "independent"
    steps: int = 300


_SHORT = {
    "gan": Arm("GAN alone", "random", kd=0.0),
    "kd_random": Arm("KD, random mapping", "random"),
    "kd_mapping": Arm("KD, copied mapping"),
    "kd_mapping+ld": Arm("KD, copied mapping, LD", ld=30.0),
    "kd_permuted": Arm("KD, copied mapping, W permuted", change="permuted"),
    "kd_shuffled": Arm("KD, weights of the mapping shuffled", change="shuffled"),
    "copy_only": Arm("GAN alone, copied mapping", kd=0.0),
}
_MORE = {
    "kd_mapping+ld-alpha5": Arm("KD, copied mapping, LD, offsets of 5", ld=30.0, offset=5.0),
    "kd_mapping+ld-alpha0.5": Arm("KD, copied mapping, LD, offsets of 0.5", ld=30.0, offset=0.5),
    "kd_mapping+ld-weight3": Arm("KD, copied mapping, LD of weight 3", ld=3.0),
    "kd_mapping+ld-weight100": Arm("KD, copied mapping, LD of weight 100", ld=100.0),
    "ld_only": Arm("copied mapping, LD without image terms", kd=0.0, ld=30.0),
    "kd_mapping-shared": Arm("KD, copied mapping, shared noise", noise="shared"),
    "kd_mapping+ld-shared": Arm("KD, copied mapping, LD, shared noise", ld=30.0, noise="shared"),
    "kd_frozen": Arm("KD, copied mapping that is not trained", freeze=True),
    "kd_heter": Arm("KD, copied mapping, 1x1 second convolutions", kernel=1),
    "inherit": Arm("KD, copied mapping, inherited channels", "inherit"),
    "inherit+ld": Arm("KD, copied mapping, inherited channels, LD", "inherit", ld=30.0),
}
_LONG = {
    f"{name}-long": replace(_SHORT[name], steps=800)
    for name in ("gan", "kd_random", "kd_mapping", "kd_mapping+ld")
}
#: Name -> arm. Arms without a suffix train for 300 steps, "-long" ones for 800.
ARMS: dict[str, Arm] = {**_SHORT, **_MORE, **_LONG}


@dataclass
class Run:
    """A trained student and its numbers.

    Attributes:
        student: the running average.
        numbers: see `evaluate`; besides ``seconds`` of training and ``last_rgb``.
        directions: of the edits in the student's own W.
    """

    student: Generator
    numbers: dict[str, float]
    directions: Tensor


def sprite_set() -> Pixels:
    """The 4096 sprites that teacher and students see, ``(4096, 16, 16, 3)``."""
    return sprites(_IMAGES, 16, _DATA_SEED)


def load_teacher() -> Generator:
    """The shipped teacher, in evaluation mode.

    >>> load_teacher().resolution
    16
    """
    from stylegan_distill.checkpoints import load_generator

    return load_generator(TEACHER).eval()


def scale_for(side: int, *, channel_base: int, channel_max: int, w_dim: int) -> Scale:
    """The experiment's networks of 16 and 32 pixels, or larger ones by the usual rule of widths."""
    for scale in SCALES.values():
        if scale.teacher.resolution == side:
            return scale
    cfg = StyleGAN2Config(side, z_dim=w_dim, w_dim=w_dim, channel_base=channel_base, channel_max=channel_max)
    judge = tuple(min(channel_base // r, channel_max) for r in cfg.block_resolutions)
    return Scale(cfg, judge, SCALES["real"].teacher_steps)


def train_teacher(
    scale: Scale,
    images: Pixels | ImageSource,
    *,
    seed: int = 0,
    steps: int | None = None,
    batch: int = _BATCH,
    r1_gamma: float = 1.0,
    flip: float = 0.0,
    augment: bool = False,
    tell: Callable[[int, dict[str, float]], None] | None = None,
) -> Generator:
    """A teacher from images alone: the running average of a StyleGAN2, batch 16, R1 of weight 1.

    Args:
        scale: its size.
        images: ``(N, R, R, 3)`` of 0 to 255, or a source of them.
        seed: of weights, codes and order.
        steps: of training; None: the scale's.
        batch: images a step.
        r1_gamma: weight of R1.
        flip: probability of mirror images.
        augment: adaptive augmentation.
        tell: called after every step.
    """
    generator = build_generator(scale.teacher, seed)
    judge = make_discriminator(generator, seed, widths=scale.judge)
    # The average spans about 60 steps at a half-life of 1,000 images.
    config = replace(_GAN, ema_kimg=1.0, r1_gamma=r1_gamma, seed=seed)
    trainer = GanTrainer(generator, judge, config, augment=AdaptiveAugment() if augment else None)
    trainer.fit(ImageBatches(images, batch, seed=seed, flip=flip), steps or scale.teacher_steps, tell)
    return trainer.ema_generator()


@torch.no_grad()
def _start(arm: Arm, teacher: Generator, seed: int) -> tuple[Generator, Tensor]:
    """The student at step 0, and the order of its W's coordinates."""
    order = torch.arange(teacher.cfg.w_dim)
    scores = channel_scores(teacher, "l1_style") if arm.init == "inherit" else None
    student = make_student(
        teacher,
        _REMOVED,
        init=arm.init,
        scores=scores,
        seed=seed,
        second_conv_kernel=arm.kernel if arm.kernel != 3 else None,
    )
    rng = torch.Generator().manual_seed(seed + 1)
    if arm.change == "permuted":
        order = torch.randperm(len(order), generator=rng)
        last = student.mapping.layers()[-1]
        for value in (last.weight, last.bias, student.mapping.w_avg):
            value.copy_(value[order].clone())
    elif arm.change == "shuffled":
        for layer in student.mapping.layers():
            for value in (layer.weight, layer.bias):
                flat = value.flatten()
                value.copy_(flat[torch.randperm(len(flat), generator=rng)].view_as(value))
    return student, order


def run_arm(
    arm: Arm,
    teacher: Generator,
    images: Pixels,
    scale: Scale = SCALES["sprites"],
    *,
    seed: int = 0,
    steps: int | None = None,
    evaluated: bool = True,
    tell: Callable[[int, dict[str, float]], None] | None = None,
) -> Run:
    """Train the student of an arm and measure it.

    Args:
        arm: which.
        teacher: in evaluation mode.
        images: ``(N, R, R, 3)`` of 0 to 255.
        scale: of the experiment; its discriminator and offsets.
        seed: of student, discriminator, codes and order; all arms share them.
        steps: instead of the arm's.
        evaluated: False leaves the numbers of `evaluate` out.
        tell: called after every step.
    """
    begun = time.perf_counter()
    student, order = _start(arm, teacher, seed)
    judge = make_discriminator(student, seed, widths=scale.judge)
    settings: dict[str, Any] = asdict(_GAN)
    settings |= {"ema_kimg": 0.5, "seed": seed, "freeze_mapping": arm.freeze}
    config = DistillConfig(
        **settings,
        rgb=arm.kd,
        lpips=arm.kd,
        ld=arm.ld,
        offset_weight=scale.offset if arm.offset is None else arm.offset,
        mimic_blocks=_blocks(teacher),
        noise=arm.noise,
    )
    distiller = Distiller(teacher, student, judge, config, perceptual=LPIPS("tiny"))
    history = distiller.fit(ImageBatches(images, _BATCH, seed=seed), steps or arm.steps, tell)
    trained = distiller.ema_generator()
    numbers = {"seconds": time.perf_counter() - begun}
    if arm.kd:
        numbers["last_rgb"] = sum(v["rgb"] for v in history[-20:]) / len(history[-20:])
    held_out = latent_directions(teacher, start=5)[:, order]
    if evaluated:
        numbers |= evaluate(teacher, trained, images, scale, student_directions=held_out)
    return Run(trained, numbers, held_out)


def _blocks(teacher: Generator) -> tuple[int, ...]:
    """All blocks from 8 pixels on: at this size there are too few to leave the first one out."""
    return tuple(range(1, len(teacher.cfg.block_resolutions)))  # type: ignore[union-attr]


def evaluate(
    teacher: Generator,
    student: Generator,
    images: Pixels,
    scale: Scale,
    *,
    student_directions: Tensor | None = None,
    codes: int = 512,
    samples: int = 2048,
) -> dict[str, float]:
    """All numbers of a student; codes, noise and images are the same for every arm.

    Returns:
        ``l1``, ``mismatched_l1``, ``ratio``, ``perceptual`` between teacher and student on fixed codes without noise;
        ``fd_data`` and ``fd_teacher`` on the tiny features; ``edit_cosine`` and ``edit_perceptual`` on held-out
        directions at strength 3; ``edit_cosine_unmoved``: the same with the teacher's own directions in a student whose
        W has another order, which is a control; ``ld`` on held-out codes and directions.
    """
    lpips, tiny = LPIPS("tiny"), TinyFeatures()
    gap = output_discrepancy(teacher, student, lpips, count=codes, seed=1)
    held_out = latent_directions(teacher, start=5)
    own = held_out if student_directions is None else student_directions
    edits, unmoved = (
        editing_consistency(
            teacher, student, held_out, lpips, student_directions=rows, count=codes // 2, seed=2
        )
        for rows in (own, held_out)
    )
    fakes, wanted = FeatureStats(), FeatureStats()
    for stats, net in ((fakes, student), (wanted, teacher)):
        for batch in generated_images(net, samples, batch=64, seed=3):
            stats.add(tiny(batch.clamp(-1, 1)))
    real = FeatureStats()
    for start in range(0, min(samples, len(images)), 64):
        real.add(tiny(to_float(images[start : start + 64])))
    return {
        **{name: gap[name] for name in ("l1", "mismatched_l1", "ratio")},
        "perceptual": gap[lpips.name],
        "fd_data": compute_fid(real, fakes, tiny)["fd_tiny"],
        "fd_teacher": compute_fid(wanted, fakes, tiny)["fd_tiny"],
        "edit_cosine": edits["edit_cosine"],
        "edit_cosine_unmoved": unmoved["edit_cosine"],
        "edit_perceptual": edits[f"edit_{lpips.name}"],
        "rank_agreement": edits["rank_agreement"],
        "ld": ld_value(teacher, student, held_out, own, scale.offset),
    }


@torch.no_grad()
def ld_value(
    teacher: Generator,
    student: Generator,
    directions: Tensor,
    student_directions: Tensor,
    offset: float,
    *,
    batches: int = 8,
) -> float:
    """The latent-direction loss on held-out codes and directions, noise off, batches of 16."""
    rng = torch.Generator().manual_seed(4)
    loss, total = LatentDirectionLoss("kl"), 0.0
    blocks = _blocks(teacher)
    for _ in range(batches):
        z, _ = draw_codes(teacher, _BATCH, rng)
        state = rng.get_state()
        features = []
        for net, own in ((student, student_directions), (teacher, directions)):
            rng.set_state(state)  # the same edits, each in its own W
            ws = net.mapping(z)
            moved = ws + sample_offsets(own, _BATCH, offset, rng)
            _, maps = net.synthesis(torch.cat((ws, moved)), noise="none", return_features=True)
            features.append([maps[b - 1] for b in blocks])
        total += float(loss(features[0], features[1], _BATCH))
    return total / batches
