"""Networks: the plug-in, its parts, the rows it is compared with, and the detectors that carry it."""

from denfi.model.conv import DenfiConv, SeparableConv, encode_proposals, sample_shifted
from denfi.model.deformable import AnchorGuidedConv, DeformableConv
from denfi.model.denfi import Denfi, DenfiHead, DenfiOutputs
from denfi.model.detector import CONFIGS, DenfiDet, bev_grid, build, plug_in
from denfi.model.free_head import AnchorFreeHead, FreeOutputs, decode_pixels, encode_pixels
from denfi.model.proposal import BoundaryOutput, DenseBoundaryProposal
from denfi.model.shape import ShapeOutput, ShapeProposal
from denfi.model.tiny import TinyBackbone, TinyBev, TinyConfig, occupancy_map
from denfi.model.variants import VARIANTS, DenfiConfig, Variant

__all__ = [
    "CONFIGS",
    "VARIANTS",
    "AnchorFreeHead",
    "AnchorGuidedConv",
    "BoundaryOutput",
    "DeformableConv",
    "Denfi",
    "DenfiConfig",
    "DenfiConv",
    "DenfiDet",
    "DenfiHead",
    "DenfiOutputs",
    "DenseBoundaryProposal",
    "FreeOutputs",
    "SeparableConv",
    "ShapeOutput",
    "ShapeProposal",
    "TinyBackbone",
    "TinyBev",
    "TinyConfig",
    "Variant",
    "bev_grid",
    "build",
    "decode_pixels",
    "encode_pixels",
    "encode_proposals",
    "occupancy_map",
    "plug_in",
    "sample_shifted",
]
