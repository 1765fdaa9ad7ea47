"""Compress a StyleGAN2 or StyleGAN3 and keep its meaning (Xu et al., "Mind the Gap in Distilling StyleGANs", 2022).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, stylegan_distill as sd
    >>> teacher = sd.StyleGAN2Generator(sd.StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(8, 8, 4)))
    >>> teacher(torch.randn(2, 8)).shape
    torch.Size([2, 3, 16, 16])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stylegan_distill.augment import AdaptiveAugment
    from stylegan_distill.checkpoints import (
        Checkpoint,
        UnsafePickleError,
        load_checkpoint,
        load_generator,
        save_checkpoint,
    )
    from stylegan_distill.config import (
        DISCRIMINATOR_PRESETS,
        GENERATOR_PRESETS,
        DiscriminatorConfig,
        StyleGAN2Config,
        StyleGAN3Config,
    )
    from stylegan_distill.cost import Cost, count_cost
    from stylegan_distill.directions import latent_directions, sample_offsets
    from stylegan_distill.distiller import DistillConfig, Distiller
    from stylegan_distill.evaluation import Networks, evaluate_generator
    from stylegan_distill.export import export_generator
    from stylegan_distill.features import InceptionFeatures, TinyFeatures, VGG16Features
    from stylegan_distill.gan import GanConfig, GanTrainer, make_discriminator
    from stylegan_distill.losses import (
        ContentMask,
        LatentDirectionLoss,
        PathLengthRegularizer,
        RGBLoss,
        r1_penalty,
    )
    from stylegan_distill.lpips import LPIPS
    from stylegan_distill.metrics import (
        compute_fid,
        compute_kid,
        compute_ppl,
        compute_pr,
        editing_consistency,
        equivariance,
        generated_images,
        mapping_swap,
        mixing_consistency,
        noise_lpips,
        output_discrepancy,
        project_image,
        psnr,
    )
    from stylegan_distill.networks import (
        Generator,
        StyleGAN2Generator,
        StyleGAN3Generator,
        StyleGANDiscriminator,
    )
    from stylegan_distill.parser import BiSeNet, FaceParser
    from stylegan_distill.pruning import channel_scores, keep_masks, slice_generator
    from stylegan_distill.student import distill_mapping, make_student

__version__ = "0.1.0"

_EXPORTS = {
    **dict.fromkeys(
        (
            "DISCRIMINATOR_PRESETS",
            "GENERATOR_PRESETS",
            "DiscriminatorConfig",
            "StyleGAN2Config",
            "StyleGAN3Config",
        ),
        "config",
    ),
    **dict.fromkeys(("Cost", "count_cost"), "cost"),
    **dict.fromkeys(
        ("Generator", "StyleGAN2Generator", "StyleGAN3Generator", "StyleGANDiscriminator"), "networks"
    ),
    **dict.fromkeys(
        ("Checkpoint", "UnsafePickleError", "load_checkpoint", "load_generator", "save_checkpoint"),
        "checkpoints",
    ),
    **dict.fromkeys(("latent_directions", "sample_offsets"), "directions"),
    **dict.fromkeys(("DistillConfig", "Distiller"), "distiller"),
    **dict.fromkeys(("GanConfig", "GanTrainer", "make_discriminator"), "gan"),
    **dict.fromkeys(
        ("ContentMask", "LatentDirectionLoss", "PathLengthRegularizer", "RGBLoss", "r1_penalty"), "losses"
    ),
    **dict.fromkeys(("channel_scores", "keep_masks", "slice_generator"), "pruning"),
    **dict.fromkeys(("distill_mapping", "make_student"), "student"),
    **dict.fromkeys(("AdaptiveAugment",), "augment"),
    **dict.fromkeys(("Networks", "evaluate_generator"), "evaluation"),
    **dict.fromkeys(("InceptionFeatures", "TinyFeatures", "VGG16Features"), "features"),
    **dict.fromkeys(("LPIPS",), "lpips"),
    **dict.fromkeys(("BiSeNet", "FaceParser"), "parser"),
    **dict.fromkeys(("export_generator",), "export"),
    **dict.fromkeys(
        (
            "compute_fid",
            "compute_kid",
            "compute_ppl",
            "compute_pr",
            "editing_consistency",
            "equivariance",
            "generated_images",
            "mapping_swap",
            "mixing_consistency",
            "noise_lpips",
            "output_discrepancy",
            "project_image",
            "psnr",
        ),
        "metrics",
    ),
}

__all__ = [
    "DISCRIMINATOR_PRESETS",
    "GENERATOR_PRESETS",
    "LPIPS",
    "AdaptiveAugment",
    "BiSeNet",
    "Checkpoint",
    "ContentMask",
    "Cost",
    "DiscriminatorConfig",
    "DistillConfig",
    "Distiller",
    "FaceParser",
    "GanConfig",
    "GanTrainer",
    "Generator",
    "InceptionFeatures",
    "LatentDirectionLoss",
    "Networks",
    "PathLengthRegularizer",
    "RGBLoss",
    "StyleGAN2Config",
    "StyleGAN2Generator",
    "StyleGAN3Config",
    "StyleGAN3Generator",
    "StyleGANDiscriminator",
    "TinyFeatures",
    "UnsafePickleError",
    "VGG16Features",
    "channel_scores",
    "compute_fid",
    "compute_kid",
    "compute_ppl",
    "compute_pr",
    "count_cost",
    "distill_mapping",
    "editing_consistency",
    "equivariance",
    "evaluate_generator",
    "export_generator",
    "generated_images",
    "keep_masks",
    "latent_directions",
    "load_checkpoint",
    "load_generator",
    "make_discriminator",
    "make_student",
    "mapping_swap",
    "mixing_consistency",
    "noise_lpips",
    "output_discrepancy",
    "project_image",
    "psnr",
    "r1_penalty",
    "sample_offsets",
    "save_checkpoint",
    "slice_generator",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"stylegan_distill.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
