"""Compress a StyleGAN2 or StyleGAN3 and keep its meaning (Xu et al., "Mind the Gap in Distilling StyleGANs", 2022).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, stylegan_distill as sd
    >>> teacher = sd.StyleGAN2Generator(sd.StyleGAN2Config(16, z_dim=8, w_dim=8, widths=(8, 8, 4)))
    >>> teacher(torch.randn(2, 8)).shape
    torch.Size([2, 3, 16, 16])
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

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
    from stylegan_distill.cost import Cost, RunCost, count_cost, measure_run
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
    "RunCost",
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
    "measure_run",
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

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".augment": ["AdaptiveAugment"],
        ".checkpoints": [
            "Checkpoint",
            "UnsafePickleError",
            "load_checkpoint",
            "load_generator",
            "save_checkpoint",
        ],
        ".config": [
            "DISCRIMINATOR_PRESETS",
            "GENERATOR_PRESETS",
            "DiscriminatorConfig",
            "StyleGAN2Config",
            "StyleGAN3Config",
        ],
        ".cost": ["Cost", "RunCost", "count_cost", "measure_run"],
        ".directions": ["latent_directions", "sample_offsets"],
        ".distiller": ["DistillConfig", "Distiller"],
        ".evaluation": ["Networks", "evaluate_generator"],
        ".export": ["export_generator"],
        ".features": ["InceptionFeatures", "TinyFeatures", "VGG16Features"],
        ".gan": ["GanConfig", "GanTrainer", "make_discriminator"],
        ".losses": ["ContentMask", "LatentDirectionLoss", "PathLengthRegularizer", "RGBLoss", "r1_penalty"],
        ".lpips": ["LPIPS"],
        ".metrics": [
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
        ],
        ".networks": ["Generator", "StyleGAN2Generator", "StyleGAN3Generator", "StyleGANDiscriminator"],
        ".parser": ["BiSeNet", "FaceParser"],
        ".pruning": ["channel_scores", "keep_masks", "slice_generator"],
        ".student": ["distill_mapping", "make_student"],
    },
)
