"""Distillation: the adversarial loop, and beside it what ties the student's images to the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylegan_distill.directions import DirectionMode, block_count, latent_directions, sample_offsets
from stylegan_distill.gan import Codes, GanConfig, GanTrainer
from stylegan_distill.losses import (
    ContentMask,
    FeatureGramLoss,
    LatentDirectionLoss,
    RGBLoss,
    feature_gram,
    generator_loss,
    record_styles,
    style_sparsity,
)
from stylegan_distill.networks import Generator, StyleGAN2Synthesis

__all__ = ["DistillConfig", "Distiller"]

#: The official choice: 16 to 128 pixels, counted from 8 pixels as 1.
_MIMIC = (2, 3, 4, 5)

Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class DistillConfig(GanConfig):
    """The paper's recipe on top of `GanConfig`; the defaults are the official weights.

    Args:
        rgb: weight of the images' mean absolute difference.
        lpips: of the perceptual distance.
        ld: of the latent-direction loss.
        w: of mean |w_S - w_T|.
        adversarial: of the adversarial term.
        rgb_mode: "final", or "intermediate": the images behind every block.
        ld_variant: "kl", "mse" or "single_view" (without moved codes).
        mimic_blocks: blocks whose features are compared, from 8 pixels as 1 (StyleGAN3: from the lowest sampling rate);
            None: 2 to 5 of those there are, or the only one.
        directions: see `latent_directions`.
        direction_blocks: None: the first five, or as many as there are.
        directions_per_block: k.
        offset_weight: standard deviation of a code's step along its direction.
        gather_ranks: compare codes of all processes.
        kd_only_steps: steps at the start without discriminator.
        noise: "independent" maps for every pass (official), or "shared": the same for teacher and student, originals
            and moved codes. A student with other noise inputs has its own.
        gcc: weight of features and Gram matrices at the mimicked blocks and in the teacher's discriminator.
        gcc_gram: weight of the Gram matrices in it.
        slimming: weight of GAN Slimming's penalty on styles.

    Raises:
        ValueError: a value out of range.
    """

    rgb: float = 3.0
    lpips: float = 3.0
    ld: float = 30.0
    w: float = 0.0
    adversarial: float = 1.0
    rgb_mode: Literal["final", "intermediate"] = "final"
    ld_variant: Literal["kl", "mse", "single_view"] = "kl"
    mimic_blocks: tuple[int, ...] | None = None
    directions: DirectionMode = "split"
    direction_blocks: tuple[int, ...] | None = None
    directions_per_block: int = 5
    offset_weight: float = 5.0
    gather_ranks: bool = False
    kd_only_steps: int = 0
    noise: Literal["independent", "shared"] = "independent"
    gcc: float = 0.0
    gcc_gram: float = 100.0
    slimming: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mimic_blocks", "direction_blocks"):  # lists of YAML
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.noise not in ("independent", "shared"):
            raise ValueError(f"noise: got {self.noise!r}; expected 'independent' or 'shared'")
        for name in (
            "rgb",
            "lpips",
            "ld",
            "w",
            "adversarial",
            "gcc",
            "slimming",
            "kd_only_steps",
            "offset_weight",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected a number >= 0")

    @property
    def moves(self) -> bool:
        """Whether moved codes are needed."""
        return self.ld > 0 and self.ld_variant != "single_view"

    @property
    def compares_features(self) -> bool:
        """Whether features of the synthesis networks are needed."""
        return self.ld > 0 or self.gcc > 0

    @property
    def needs_teacher(self) -> bool:
        """Whether any term looks at the teacher's images."""
        return self.compares_features or max(self.rgb, self.lpips, self.w) > 0


@dataclass
class _Views:
    """Images, features and codes of one network for one batch; features also hold the moved codes' half."""

    image: Tensor
    features: list[Tensor]
    rgbs: list[Tensor]
    ws: Tensor


class Distiller(GanTrainer):
    """A student in training beside its teacher.

    Adversarial, image and perceptual terms see the first B images of the 2B that one forward pass makes of the codes
    and the moved codes; only the latent-direction loss sees all.

    Args:
        teacher: its moving average; evaluated, never changed.
        student: is trained.
        discriminator: is trained.
        config: recipe.
        perceptual: distance (B,) of images in [-1, 1], as `LPIPS`; needed while its weight is positive.
        mask: content of the teacher's images; None: everything.
        teacher_discriminator: for the feature terms of ``gcc``; None: generator features alone.
        augment: see `GanTrainer`.

    Raises:
        ValueError: teacher and student do not fit, or a term lacks what it needs.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> from stylegan_distill.gan import make_discriminator
        >>> from stylegan_distill.student import make_student
        >>> teacher = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(8, 8)))
        >>> student = make_student(teacher, 0.5)
        >>> judge = make_discriminator(teacher, widths=(4, 4))
        >>> distiller = Distiller(teacher, student, judge, DistillConfig(lpips=0, directions_per_block=2))
        >>> "ld" in distiller.step(torch.zeros(4, 3, 8, 8))
        True
    """

    config: DistillConfig

    def __init__(
        self,
        teacher: Generator,
        student: Generator,
        discriminator: nn.Module,
        config: DistillConfig | None = None,
        *,
        perceptual: Perceptual | None = None,
        mask: ContentMask | None = None,
        teacher_discriminator: nn.Module | None = None,
        augment: nn.Module | None = None,
    ) -> None:
        config = config or DistillConfig()
        _check_pair(teacher, student)
        if config.lpips > 0 and perceptual is None:
            raise ValueError("distiller: perceptual: missing; give LPIPS(...) or set lpips to 0")
        self.config = config
        # The teacher never learns, not even running averages.
        self.teacher = teacher.eval()
        self.perceptual = perceptual
        self.mask = mask
        self.teacher_discriminator = teacher_discriminator
        if teacher_discriminator is not None:
            teacher_discriminator.eval()
        self.rgb_loss = RGBLoss(config.rgb_mode)
        self.ld_loss = LatentDirectionLoss(config.ld_variant, config.gather_ranks)
        self.blocks = self._mimic_blocks()
        self.gram = self._make_gram(student)
        self.directions = self._make_directions()
        super().__init__(student, discriminator, config, augment=augment)

    @property
    def student(self) -> Generator:
        """The generator that is trained."""
        return self.generator

    def _mimic_blocks(self) -> tuple[int, ...]:
        if not self.config.compares_features:
            return ()
        count = block_count(self.teacher)
        chosen = self.config.mimic_blocks or tuple(b for b in _MIMIC if b <= count) or (count,)
        if min(chosen) < 1 or max(chosen) > count:
            raise ValueError(f"distiller: mimic_blocks: got {chosen}; expected numbers from 1 to {count}")
        return chosen

    def _make_gram(self, student: Generator) -> FeatureGramLoss | None:
        if self.config.gcc == 0:
            return None
        own, target = (_feature_widths(g, self.blocks) for g in (student, self.teacher))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            return FeatureGramLoss(own, target, self.config.gcc_gram)

    def _make_directions(self) -> Tensor | None:
        c = self.config
        if not c.moves:
            return None
        return latent_directions(
            self.teacher, c.directions, c.direction_blocks, c.directions_per_block, seed=c.seed
        )

    def trained(self) -> list[nn.Parameter]:
        """The student's parameters, and those of the adapters."""
        adapters = list(self.gram.parameters()) if self.gram is not None else []
        return [*super().trained(), *adapters]

    def modules(self) -> dict[str, nn.Module]:
        """As `GanTrainer.modules`; the teacher is no part of the state."""
        found = super().modules()
        return found if self.gram is None else {**found, "gram": self.gram}

    def to(self, device: torch.device | str) -> Distiller:
        """Move everything, the teacher included."""
        for module in (self.teacher, self.perceptual, self.mask, self.teacher_discriminator):
            if isinstance(module, nn.Module):
                module.to(device)
        if self.directions is not None:
            self.directions = self.directions.to(device)
        super().to(device)
        return self

    def step(self, real: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """As `GanTrainer.step`; the random numbers of an iteration follow from its number and the seed alone.

        So runs that differ in their terms, which draw differently, still see the same codes in every iteration.
        """
        words = np.random.SeedSequence((self.config.seed, self.iteration)).generate_state(1)
        self.rng.manual_seed(int(words[0]))
        return super().step(real, labels)

    def on_step(self, batch: int) -> None:
        """Nothing may have put the teacher into training mode."""
        self.teacher.eval()

    @property
    def trains_discriminator(self) -> bool:
        """False during the first ``kd_only_steps``, and without an adversarial term."""
        return self.config.adversarial > 0 and self.iteration >= self.config.kd_only_steps

    # ---- the generator's terms

    def _draw_pair_noise(self, rows: int) -> tuple[Any, Any]:
        """Noise of student and teacher for codes and, where there are, moved codes."""
        moved = rows * (2 if self.config.moves else 1)
        if self.config.noise == "independent":
            return self.draw_noise(self.student.synthesis, moved), self.draw_noise(
                self.teacher.synthesis, moved
            )
        shared = self.draw_noise(self.teacher.synthesis, rows)
        if isinstance(shared, list) and self.config.moves:
            shared = [torch.cat([n, n]) for n in shared]
        alike = isinstance(self.student.synthesis, StyleGAN2Synthesis)
        return (shared if alike else self.draw_noise(self.student.synthesis, moved)), shared

    def _offsets(self, batch: int) -> Tensor | None:
        if self.directions is None:
            return None
        rows = sample_offsets(self.directions, batch * self._world, self.config.offset_weight, self.rng)
        return self._mine(rows)

    def _views(self, generator: Generator, codes: Codes, offsets: Tensor | None, noise: Any) -> _Views:
        ws = codes.styles(generator)
        both = ws if offsets is None else torch.cat([ws, ws + offsets])
        options = {}
        if self.config.compares_features:
            options["return_features"] = True
        if self.config.rgb_mode == "intermediate" and self.config.rgb > 0:
            options["return_rgbs"] = True
        out = generator.synthesis(both, noise=noise, **options)
        parts = list(out) if options else [out]
        batch = len(ws)
        image = parts.pop(0)[:batch]
        features = [parts[0][b - 1] for b in self.blocks] if "return_features" in options else []
        rgbs = [r[:batch] for r in parts[-1]] if "return_rgbs" in options else [image]
        return _Views(image, features, rgbs, ws)

    def generator_terms(self, batch: int, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The student's loss of this step and its parts, unweighted."""
        codes, offsets = self.draw_codes(batch, labels), self._offsets(batch)
        student_noise, teacher_noise = self._draw_pair_noise(batch)
        with record_styles(self.student.synthesis) as styles:
            student = self._views(self.student, codes, offsets, student_noise)
        teacher = None
        if self.config.needs_teacher:
            with torch.no_grad():
                teacher = self._views(self.teacher, codes, offsets, teacher_noise)
        terms = dict(self._terms(student, teacher, styles, labels))
        weights = {"adversarial": self.config.adversarial, **{n: getattr(self.config, n) for n in _WEIGHTED}}
        loss = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        return loss, {"g_loss": loss.detach(), **{name: value.detach() for name, value in terms.items()}}

    def _terms(
        self, student: _Views, teacher: _Views | None, styles: Sequence[Tensor], labels: Tensor | None
    ) -> dict[str, Tensor]:
        c, batch = self.config, len(student.image)
        terms = {}
        if self.trains_discriminator:
            terms["adversarial"] = generator_loss(self.judge(student.image, labels))
        if c.slimming > 0:
            terms["slimming"] = style_sparsity([s[:batch] for s in styles])
        if teacher is None:
            return terms or {"adversarial": student.image.sum() * 0}
        mask = self.mask(teacher.image) if self.mask is not None else None
        if c.rgb > 0:
            terms["rgb"] = self.rgb_loss(student.rgbs, teacher.rgbs, mask)
        if c.lpips > 0:
            assert self.perceptual is not None
            ones = 1.0 if mask is None else mask
            terms["lpips"] = self.perceptual(student.image * ones, teacher.image * ones).mean()
        if c.ld > 0:
            terms["ld"] = self.ld_loss(student.features, teacher.features, batch)
        if c.w > 0:
            terms["w"] = (student.ws - teacher.ws).abs().mean()
        if self.gram is not None:
            terms["gcc"] = self._gcc(student, teacher, labels, batch)
        return terms

    def _gcc(self, student: _Views, teacher: _Views, labels: Tensor | None, batch: int) -> Tensor:
        assert self.gram is not None
        loss: Tensor = self.gram([f[:batch] for f in student.features], [f[:batch] for f in teacher.features])
        if self.teacher_discriminator is not None:
            _, own = self.teacher_discriminator(student.image, labels, return_features=True)
            with torch.no_grad():
                _, target = self.teacher_discriminator(teacher.image, labels, return_features=True)
            loss = loss + feature_gram(own, target, self.config.gcc_gram)
        return loss


_WEIGHTED = ("rgb", "lpips", "ld", "w", "gcc", "slimming")


def _check_pair(teacher: Generator, student: Generator) -> None:
    for name in ("resolution", "z_dim", "w_dim", "c_dim", "img_channels", "num_ws"):
        ours, theirs = (getattr(g.cfg, name) for g in (student, teacher))
        if ours != theirs:
            raise ValueError(f"distiller: student: {name}: got {ours}; the teacher has {theirs}")
    shared = {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}
    if shared:
        raise ValueError("distiller: student: shares parameters with the teacher; expected a copy")


@torch.no_grad()
def _feature_widths(generator: Generator, blocks: Sequence[int]) -> list[int]:
    """Channels of a generator's features."""
    like = next(generator.parameters())
    ws = like.new_zeros(1, generator.num_ws, generator.cfg.w_dim)
    _, features = generator.synthesis(ws, noise="none", return_features=True)
    return [features[b - 1].shape[1] for b in blocks]
