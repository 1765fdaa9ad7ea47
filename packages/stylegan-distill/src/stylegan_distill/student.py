"""Students: smaller generators that start with the teacher's mapping network, or with something else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_distill.config import GeneratorConfig, StyleGAN2Config, narrow
from stylegan_distill.networks import Generator, Mapping, StyleGAN2Generator, StyleGAN3Generator
from stylegan_distill.pruning import keep_masks, slice_generator
from tenfold._errors import UserInputError

__all__ = ["Init", "build_generator", "check_inherited", "copy_mapping", "distill_mapping", "make_student"]

Init = Literal["mapping", "random", "inherit", "mapping_distilled"]

# Students draw from another stream than generators of the same seed: a mapping network hardly moves from where it
# starts, so that a "random" student of a teacher's seed would have its teacher's mapping.
_STUDENTS = 1 << 20

#: What `make_student` passes on to `distill_mapping`.
_DISTILLATION = ("steps", "batch", "lr", "loss", "progress")


def build_generator(cfg: GeneratorConfig, seed: int | None = None) -> Generator:
    """A randomly initialised generator; with a seed, the global random state is left as it was.

    Example:
        >>> cfg = StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4))
        >>> torch.equal(build_generator(cfg, 1).mapping.fc0.weight, build_generator(cfg, 1).mapping.fc0.weight)
        True
    """
    kind = StyleGAN2Generator if isinstance(cfg, StyleGAN2Config) else StyleGAN3Generator
    if seed is None:
        return kind(cfg)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(cfg)  # type: ignore[arg-type]


def make_student(
    teacher: Generator,
    remove_ratio: float | None = None,
    *,
    widths: Sequence[int] | None = None,
    second_conv_kernel: int | None = None,
    init: Init = "mapping",
    mapping_widths: Sequence[int] | None = None,
    mapping_lr_multiplier: float | None = None,
    fourier: Literal["copy", "random"] = "copy",
    synthesis: nn.Module | None = None,
    scores: Sequence[Tensor] | None = None,
    seed: int = 0,
    **distillation: Any,
) -> Generator:
    """A student of a teacher; the teacher is not changed and shares no tensor with it.

    Args:
        teacher: a StyleGAN2 or StyleGAN3, usually its moving average.
        remove_ratio: share of channels removed in every layer, c - int(c rho) stay; 0.7 when ``widths`` and
            ``synthesis`` are not given either.
        widths: channels instead, see `StyleGAN2Config` and `StyleGAN3Config`.
        second_conv_kernel: 3, or 1 for lighter blocks (StyleGAN2); None: the teacher's, which "inherit" keeps.
        init: "mapping" (the paper): the teacher's mapping network, ``w_avg`` included, and a random synthesis network;
            "random": both random; "inherit": the teacher's kept channels as well (needs ``scores``);
            "mapping_distilled": a mapping network fitted to the teacher's by `distill_mapping`.
        mapping_widths: of a smaller mapping network, the last one D; for "random" and "mapping_distilled".
        mapping_lr_multiplier: another mu; copied tensors are rescaled so that the function stays.
        fourier: StyleGAN3's input frequencies and phases, which are not trained: the teacher's or new ones; "inherit"
            keeps the teacher's.
        synthesis: any network in place of ours, called with style codes (B, L, D) as ``Generator`` says.
        scores: importance of every channel, as `pruning.channel_scores` gives it, for "inherit".
        seed: of all random tensors; two seeds share the mapping network only. "inherit" has none and is the same for
            every seed.
        **distillation: steps, batch, lr, loss and progress of `distill_mapping`, for "mapping_distilled" alone.

    Raises:
        UserInputError: arguments that do not go together, or unknown ones.

    Example:
        >>> cfg = StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(10, 10))
        >>> student = make_student(StyleGAN2Generator(cfg), 0.7)
        >>> student.widths
        (3, 3, 3, 3)
    """
    _check(init, remove_ratio, widths, synthesis, scores, mapping_widths)
    _check_words(init, fourier, distillation)
    ratio = 0.7 if remove_ratio is None and widths is None else remove_ratio
    if init == "inherit":
        check_inherited(teacher, second_conv_kernel, fourier)
        return _inherited(teacher, ratio, widths, scores, mapping_lr_multiplier)
    cfg = _student_config(teacher.cfg, ratio, widths, second_conv_kernel, fourier)
    changes: dict[str, Any] = {}
    if mapping_lr_multiplier is not None:
        changes["mapping_lr_multiplier"] = mapping_lr_multiplier
    if mapping_widths is not None:
        changes.update(mapping_layers=len(mapping_widths), mapping_widths=tuple(mapping_widths))
    cfg = replace(cfg, **changes)
    # A fresh network, never a copy of the teacher with parts overwritten: nothing of it can stay by accident.
    student = build_generator(cfg, seed + _STUDENTS)
    if synthesis is not None:
        student = Generator(cfg, student.mapping, synthesis)
    if init == "mapping":
        copy_mapping(teacher, student)
    elif init == "mapping_distilled":
        distill_mapping(teacher, student, seed=seed, **distillation)
    if synthesis is None and fourier == "copy" and not isinstance(cfg, StyleGAN2Config):
        with torch.no_grad():
            for name in ("freqs", "phases"):
                getattr(student.synthesis.input, name).copy_(getattr(teacher.synthesis.input, name))
    student.train(teacher.training)
    return student.to(next(teacher.parameters()).device)


def _check(
    init: str,
    remove_ratio: float | None,
    widths: Sequence[int] | None,
    synthesis: nn.Module | None,
    scores: Sequence[Tensor] | None,
    mapping_widths: Sequence[int] | None,
) -> None:
    if init not in ("mapping", "random", "inherit", "mapping_distilled"):
        raise UserInputError(
            f"student: init: got {init!r}; expected mapping, random, inherit or mapping_distilled"
        )
    if remove_ratio is not None and widths is not None:
        raise UserInputError("student: remove_ratio, widths: got both; expected one of them")
    if init == "inherit" and scores is None:
        raise UserInputError("student: scores: missing; init 'inherit' needs the channels' scores")
    if init == "inherit" and synthesis is not None:
        raise UserInputError("student: synthesis: a network of its own cannot inherit channels")
    if mapping_widths is not None and init in ("mapping", "inherit"):
        raise UserInputError(
            f"student: mapping_widths: init {init!r} copies the teacher's mapping network; use mapping_distilled"
        )


def _check_words(init: str, fourier: str, distillation: dict[str, Any]) -> None:
    if fourier not in ("copy", "random"):
        raise UserInputError(f"student: fourier: got {fourier!r}; expected copy or random")
    for name in distillation:
        if name not in _DISTILLATION:
            raise UserInputError(f"student: {name}: unknown; expected some of {', '.join(_DISTILLATION)}")
        if init != "mapping_distilled":
            raise UserInputError(
                f"student: {name}: belongs to init 'mapping_distilled'; init {init!r} distils no mapping"
            )


def check_inherited(teacher: Generator, second_conv_kernel: int | None, fourier: str = "copy") -> None:
    """Refuse a student of init "inherit" that is to differ from its teacher in more than its widths.

    Raises:
        UserInputError: another kernel of the second convolutions, or new frequencies.
    """
    kernel = getattr(teacher.cfg, "second_conv_kernel", None)
    if second_conv_kernel not in (None, kernel):
        raise UserInputError(
            f"student: second_conv_kernel: got {second_conv_kernel}; inherited channels keep the teacher's {kernel}"
        )
    if fourier != "copy":
        raise UserInputError(
            f"student: fourier: got {fourier!r}; inherited channels keep the teacher's frequencies"
        )


def _student_config(
    cfg: GeneratorConfig,
    ratio: float | None,
    widths: Sequence[int] | None,
    kernel: int | None,
    fourier: str,
) -> GeneratorConfig:
    if widths is not None:
        own = tuple(widths)
    elif cfg.widths is not None:  # one number a resolution stays one
        own = narrow(cfg.widths, ratio or 0.0)
    else:
        own = narrow(cfg.layer_widths, ratio or 0.0)
    if isinstance(cfg, StyleGAN2Config):
        return replace(cfg, widths=own, second_conv_kernel=kernel or cfg.second_conv_kernel)
    if kernel is not None:
        raise UserInputError("student: second_conv_kernel: StyleGAN3 has no second convolutions")
    return replace(cfg, widths=own, fourier_channels=cfg.num_frequencies if fourier == "copy" else None)


def _inherited(
    teacher: Generator,
    ratio: float | None,
    widths: Sequence[int] | None,
    scores: Sequence[Tensor] | None,
    lr_multiplier: float | None,
) -> Generator:
    assert scores is not None
    if widths is not None:
        cfg = replace(teacher.cfg, widths=tuple(widths))
        masks = keep_masks(scores, keep=cfg.layer_widths)
    else:
        masks = keep_masks(scores, remove_ratio=ratio)
    student = slice_generator(teacher, masks)
    return student if lr_multiplier is None else rescale_mapping(student, lr_multiplier)


@torch.no_grad()
def copy_mapping(teacher: Generator, student: Generator) -> None:
    """Copy the mapping network, ``w_avg`` included; other learning-rate multipliers keep the function.

    The effective weight is stored times mu, so that stored tensors are rescaled by mu_T / mu_S, biases too.

    Raises:
        UserInputError: mapping networks of different shapes.
    """
    source, target = teacher.mapping, student.mapping
    own, theirs = target.state_dict(), source.state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
        raise UserInputError("student: mapping: differs in shape from the teacher's and cannot be copied")
    target.load_state_dict(theirs)
    _rescale(source, target)


def _rescale(source: Mapping, target: Mapping) -> None:
    for a, b in zip(source.layers(), target.layers(), strict=True):
        if a.lr_multiplier != b.lr_multiplier:
            ratio = a.lr_multiplier / b.lr_multiplier
            b.weight.mul_(ratio)
            b.bias.mul_(ratio)


@torch.no_grad()
def rescale_mapping(generator: Generator, lr_multiplier: float) -> Generator:
    """The same generator with another learning-rate multiplier of its mapping network."""
    changed = copy.deepcopy(generator)
    changed.cfg = replace(generator.cfg, mapping_lr_multiplier=lr_multiplier)
    for layer in changed.mapping.layers():
        layer.lr_multiplier = lr_multiplier
    _rescale(generator.mapping, changed.mapping)
    return changed


def distill_mapping(
    teacher: Generator,
    student: Generator,
    *,
    steps: int = 50_000,
    batch: int = 4096,
    lr: float = 0.05,
    loss: Literal["l1", "mse"] = "l1",
    seed: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Fit the student's mapping network to the teacher's on random codes, in place; ``w_avg`` is copied.

    Args:
        teacher: gives f_T.
        student: of any mapping widths that end in the same D.
        steps: of Adam.
        batch: codes a step.
        lr: learning rate of effective weights.
        loss: mean absolute or squared difference of w.
        seed: of the codes.
        progress: called with the step and its loss.

    Returns:
        The loss of every step.

    Raises:
        UserInputError: another D or Z, or an unknown loss.
    """
    if any(getattr(student.cfg, n) != getattr(teacher.cfg, n) for n in ("z_dim", "w_dim", "c_dim")):
        raise UserInputError("student: mapping: expected the teacher's z_dim, w_dim and c_dim")
    if loss not in ("l1", "mse"):
        raise UserInputError(f"student: loss: got {loss!r}; expected l1 or mse")
    distance = F.l1_loss if loss == "l1" else F.mse_loss
    like = next(student.mapping.parameters())
    generator = torch.Generator().manual_seed(seed)
    # Stored tensors are 1 / mu times the effective ones, and so are steps on them.
    slow = {p: layer.lr_multiplier for layer in student.mapping.layers() for p in layer.parameters()}
    groups = [{"params": [p], "lr": lr / slow.get(p, 1.0)} for p in student.mapping.parameters()]
    optimizer = torch.optim.Adam(groups)
    history = []
    for step in range(steps):
        z = torch.randn(batch, teacher.z_dim, generator=generator).to(like)
        labels = _random_labels(teacher, batch, generator, like)
        with torch.no_grad():
            target = teacher.mapping.style(z, labels)
        value = distance(student.mapping.style(z, labels), target)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        history.append(float(value.detach()))
        if progress is not None:
            progress(step, history[-1])
    for parameter in student.mapping.parameters():
        parameter.grad = None
    student.mapping.w_avg.copy_(teacher.mapping.w_avg)
    return history


def _random_labels(teacher: Generator, batch: int, generator: torch.Generator, like: Tensor) -> Tensor | None:
    if not teacher.cfg.c_dim:
        return None
    index = torch.randint(teacher.cfg.c_dim, (batch,), generator=generator)
    return F.one_hot(index, teacher.cfg.c_dim).to(like)
