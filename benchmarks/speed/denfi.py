"""Speed of denfi: frames of DenfiDet beside SECOND's on the same points, and what the module itself costs."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from denfi.model import DeformableConv, Denfi, DenfiConfig, DenfiConv, DenfiDet, bev_grid
from kernels.model import Call, Case, Peer, Row, within
from speed.common import another_network, without_gradient
from speed.lidar import camera_points

_NAMES = {"second": "denfidet_second_3class", "pillars": "denfidet_pillars_3class"}
_BASELINES = {"second": "SECOND", "pillars": "PointPillars"}


@cache
def _model(kind: str, variant: str) -> DenfiDet:
    """Random weights, and as many candidates as a trained detector has: the time depends on them."""
    torch.manual_seed(0)
    model = DenfiDet.from_config(_NAMES[kind], variant).eval()
    head: Any = model.detector.dense_head if model.plug is None else model.plug.head
    torch.nn.init.constant_(head.conv_cls.bias, -4.0)
    return model


def _frame(_scale: float, _dtype: str) -> Case:
    points, source = camera_points()
    return Case(len(points), f"{len(points):,} points of {source}", {"points": points})


def _whole(kind: str, variant: str) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        model, batch = _model(kind, variant), {"points": case["points"], "batch_size": 1}

        @torch.inference_mode()
        def call() -> Any:
            return model(batch)

        return call

    return make


def _frame_row(kind: str) -> Row:
    baseline = _BASELINES[kind]
    peers = [
        Peer(
            baseline,
            "tenfold",
            "tenfold",
            _whole(kind, "base"),
            same=False,
            note="the same detector without the module; the ratio below 1 is what the module costs",
        ),
        Peer(
            f"{baseline} with 3x3 deformable convolutions",
            "denfi",
            "denfi",
            _whole(kind, "dc"),
            same=False,
            note="the row dc: offsets from the features",
        ),
    ]
    return Row(
        key=f"denfi-frame-{kind}",
        op="predict",
        title=f"DenfiDet on {baseline}, whole frame: voxels to suppression, three classes",
        make=_frame,
        ours=_whole(kind, "denfi"),
        agree=another_network,
        peers=tuple(peers),
        parallel=True,
        growth=False,
    )


def _map(_scale: float, _dtype: str) -> Case:
    generator = torch.Generator().manual_seed(0)
    feat = torch.randn(1, 512, 200, 176, generator=generator)
    proposals = torch.rand(1, 5, 200, 176, generator=generator) * 5
    return Case(200 * 176, "features 512 x 200 x 176", {"feat": feat, "proposals": proposals})


def _module(variant: str) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        torch.manual_seed(0)
        plug = Denfi(512, 3, bev_grid(_model("second", "base").detector), DenfiConfig(variant)).eval()
        return without_gradient(lambda: plug(case["feat"]))

    return make


def _conv(backend: str) -> Callable[[Case], Call]:
    def make(case: Case) -> Call:
        torch.manual_seed(0)
        conv = DenfiConv(512, backend=backend).eval()  # type: ignore[arg-type]
        return without_gradient(lambda: conv(case["feat"], case["proposals"]))

    return make


def _full(case: Case) -> Call:
    conv = DeformableConv(512, "proposals").eval()
    return without_gradient(lambda: conv(case["feat"], case["proposals"]))


def _backbone(case: Case) -> Call:
    model = _model("second", "base")
    bev = torch.zeros(1, model.config.bev_input_channels, 200, 176)
    return without_gradient(lambda: model.detector.backbone_2d(bev))


def _array(raw: Any, _case: Case) -> Any:
    return (raw.numpy(),)


ROWS = (
    _frame_row("second"),
    _frame_row("pillars"),
    Row(
        key="denfi-module",
        op="Denfi",
        title="the module alone: proposals and both refinements, 512 x 200 x 176",
        make=_map,
        ours=_module("denfi"),
        agree=another_network,
        peers=(
            Peer(
                "SECOND's bird's-eye backbone",
                "tenfold",
                "tenfold",
                _backbone,
                same=False,
                note="what stands before it, for scale",
            ),
            Peer("row dsc", "denfi", "denfi", _module("dsc"), same=False, note="nothing moves, no proposals"),
        ),
        parallel=True,
        growth=False,
    ),
    Row(
        key="denfi-conv",
        op="DenfiConv",
        title="one refinement, 512 x 200 x 176",
        make=_map,
        ours=_conv("grid_sample"),
        normal=_array,
        # The features are noise: the last bit of a coordinate near 200, in float32, moves a value by up to 2e-4.
        agree=within(5e-4),
        peers=(
            Peer(
                "torchvision deform_conv2d",
                "torchvision",
                "torchvision",
                _conv("deform_conv"),
                normal=_array,
                note="the same module with the operator as backend",
            ),
            Peer(
                "3x3 deformable convolution",
                "torchvision",
                "torchvision",
                _full,
                same=False,
                note="nine offsets per pixel from the same proposals, full kernel",
            ),
        ),
        parallel=True,
        growth=False,
    ),
)
