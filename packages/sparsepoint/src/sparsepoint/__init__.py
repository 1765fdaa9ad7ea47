"""SparsePoint and SRDet: sparse, end-to-end indoor 3D detection without suppression (arXiv 2103.10042).

The names below load on first use; importing this file loads nothing.

Example:
    >>> import torch, sparsepoint
    >>> model = sparsepoint.SparsePoint(sparsepoint.make_config("tiny", "rooms")).eval()
    >>> output = model(torch.rand(2, 2048, 4) * 3)
    >>> len(output.boxes), output.boxes[-1].shape
    (3, torch.Size([2, 32, 7]))
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from sparsepoint.align import estimate_alignment
    from sparsepoint.checkpoint import load_detector
    from sparsepoint.classes import LABEL_SETS, LabelSet
    from sparsepoint.coders import ClassResidualCoder, DirectCoder, PartialBinBoxCoder, RelativeHeadingCoder
    from sparsepoint.config import PRESETS, SparsePointConfig, make_config
    from sparsepoint.data import (
        Augmentation,
        CustomDetection,
        Matterport3DDetection,
        MMDet3DDetection,
        PreparedScenes,
        S3DISDetection,
        ScanNetDetection,
        SceneSamples,
        SensFile,
        SensFrame,
        SUNRGBDDetection,
        SyntheticRooms,
        collate,
        open_scenes,
        sens_points,
    )
    from sparsepoint.evaluation import IndoorAP, duplicates_per_gt, evaluate
    from sparsepoint.losses import SetCriterion3d, Truth, make_criterion
    from sparsepoint.matching import HungarianMatcher3d
    from sparsepoint.models import (
        DetectionOutput,
        Detections3D,
        LearnableProposals3d,
        NoiseSuppression,
        ProposalInteraction,
        RefineHead,
        RoIGridPool3d,
        SparsePoint,
        VoteModule,
        VoteNet,
        build,
    )

__version__ = "0.1.0"

__all__ = [
    "LABEL_SETS",
    "PRESETS",
    "Augmentation",
    "ClassResidualCoder",
    "CustomDetection",
    "DetectionOutput",
    "Detections3D",
    "DirectCoder",
    "HungarianMatcher3d",
    "IndoorAP",
    "LabelSet",
    "LearnableProposals3d",
    "MMDet3DDetection",
    "Matterport3DDetection",
    "NoiseSuppression",
    "PartialBinBoxCoder",
    "PreparedScenes",
    "ProposalInteraction",
    "RefineHead",
    "RelativeHeadingCoder",
    "RoIGridPool3d",
    "S3DISDetection",
    "SUNRGBDDetection",
    "ScanNetDetection",
    "SceneSamples",
    "SensFile",
    "SensFrame",
    "SetCriterion3d",
    "SparsePoint",
    "SparsePointConfig",
    "SyntheticRooms",
    "Truth",
    "VoteModule",
    "VoteNet",
    "build",
    "collate",
    "duplicates_per_gt",
    "estimate_alignment",
    "evaluate",
    "load_detector",
    "make_config",
    "make_criterion",
    "open_scenes",
    "sens_points",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".align": ["estimate_alignment"],
        ".checkpoint": ["load_detector"],
        ".classes": ["LABEL_SETS", "LabelSet"],
        ".coders": ["ClassResidualCoder", "DirectCoder", "PartialBinBoxCoder", "RelativeHeadingCoder"],
        ".config": ["PRESETS", "SparsePointConfig", "make_config"],
        ".data": [
            "Augmentation",
            "CustomDetection",
            "MMDet3DDetection",
            "Matterport3DDetection",
            "PreparedScenes",
            "S3DISDetection",
            "SUNRGBDDetection",
            "ScanNetDetection",
            "SceneSamples",
            "SensFile",
            "SensFrame",
            "SyntheticRooms",
            "collate",
            "open_scenes",
            "sens_points",
        ],
        ".evaluation": ["IndoorAP", "duplicates_per_gt", "evaluate"],
        ".losses": ["SetCriterion3d", "Truth", "make_criterion"],
        ".matching": ["HungarianMatcher3d"],
        ".models": [
            "DetectionOutput",
            "Detections3D",
            "LearnableProposals3d",
            "NoiseSuppression",
            "ProposalInteraction",
            "RefineHead",
            "RoIGridPool3d",
            "SparsePoint",
            "VoteModule",
            "VoteNet",
            "build",
        ],
    },
)
