"""The networks."""

from sparsepoint.models.detector import SparsePoint, VoteNet, build
from sparsepoint.models.output import DetectionOutput, Detections3D
from sparsepoint.models.parts import LearnableProposals3d, RoIGridPool3d
from sparsepoint.models.refine import ProposalInteraction, RefineHead
from sparsepoint.models.votes import DenseHead, NoiseSuppression, VoteModule

__all__ = [
    "DenseHead",
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
]
