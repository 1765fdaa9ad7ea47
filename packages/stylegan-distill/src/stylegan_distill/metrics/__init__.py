"""How near a student is: distributions, perceptual paths, correspondence, edits, projection, equivariance.

Names resolve when they are first used. A value is called by a published name only where the published feature network
and count were used; on the tiny network of the package it has a name of its own, such as ``fd_tiny``.
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from stylegan_distill.metrics.discrepancy import mapping_swap, output_discrepancy
    from stylegan_distill.metrics.editing import editing_consistency, mixing_consistency, rank_agreement
    from stylegan_distill.metrics.fid import (
        PRESETS,
        FeatureStats,
        compute_fid,
        frechet_distance,
        image_features,
    )
    from stylegan_distill.metrics.kid import compute_kid
    from stylegan_distill.metrics.packages import PackageLPIPS, fidelity_metrics
    from stylegan_distill.metrics.pixels import psnr
    from stylegan_distill.metrics.ppl import compute_ppl, noise_lpips
    from stylegan_distill.metrics.pr import compute_pr
    from stylegan_distill.metrics.projection import Projection, project_image
    from stylegan_distill.metrics.record import Measured, append_jsonl
    from stylegan_distill.metrics.sampling import draw_codes, draw_noise, generated_images
    from stylegan_distill.metrics.turning import equivariance, resample

__all__ = [
    "PRESETS",
    "FeatureStats",
    "Measured",
    "PackageLPIPS",
    "Projection",
    "append_jsonl",
    "compute_fid",
    "compute_kid",
    "compute_ppl",
    "compute_pr",
    "draw_codes",
    "draw_noise",
    "editing_consistency",
    "equivariance",
    "fidelity_metrics",
    "frechet_distance",
    "generated_images",
    "image_features",
    "mapping_swap",
    "mixing_consistency",
    "noise_lpips",
    "output_discrepancy",
    "project_image",
    "psnr",
    "rank_agreement",
    "resample",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".discrepancy": ["mapping_swap", "output_discrepancy"],
        ".editing": ["editing_consistency", "mixing_consistency", "rank_agreement"],
        ".fid": ["PRESETS", "FeatureStats", "compute_fid", "frechet_distance", "image_features"],
        ".kid": ["compute_kid"],
        ".packages": ["PackageLPIPS", "fidelity_metrics"],
        ".pixels": ["psnr"],
        ".ppl": ["compute_ppl", "noise_lpips"],
        ".pr": ["compute_pr"],
        ".projection": ["Projection", "project_image"],
        ".record": ["Measured", "append_jsonl"],
        ".sampling": ["draw_codes", "draw_noise", "generated_images"],
        ".turning": ["equivariance", "resample"],
    },
)
