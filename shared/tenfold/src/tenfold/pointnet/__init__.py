"""PointNet++ modules on the point kernels: padded or stacked clouds, channels last."""

from tenfold.pointnet._abstraction import AbstractedPoints, SetAbstraction
from tenfold.pointnet._backbone import PointFeatures, PointNet2Backbone, SALevel
from tenfold.pointnet._mlp import SharedMLP
from tenfold.pointnet._propagation import FeaturePropagation

__all__ = [
    "AbstractedPoints",
    "FeaturePropagation",
    "PointFeatures",
    "PointNet2Backbone",
    "SALevel",
    "SetAbstraction",
    "SharedMLP",
]
