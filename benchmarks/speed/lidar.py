"""Speed of the LiDAR detectors at KITTI size, one frame, stage by stage; SECOND's encoder beside spconv's."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from kernels import frames
from kernels.model import Call, Case, Peer, Row, within
from speed.common import nothing, without_gradient

_DETECTORS = {
    "second": "SECOND",
    "pointpillars": "PointPillars",
    "pointrcnn": "PointRCNN",
    "parta2": "Part-A2",
    "pv_rcnn": "PV-RCNN",
}
_TWO_STAGE = ("pointrcnn", "parta2", "pv_rcnn")
# A quarter of the circle, as KITTI's camera sees it.
_HALF_VIEW = np.pi / 4
# Boxes above the score threshold, about what a trained detector has on a street.
_CANDIDATES = 300


@cache
def camera_points() -> tuple[torch.Tensor, str]:
    """Points in the camera's view with the batch index in front, and where they come from."""
    frame = frames.kitti()
    azimuth = np.arctan2(frame.points[:, 1], frame.points[:, 0])
    seen = frame.points[np.abs(azimuth) < _HALF_VIEW]
    return torch.from_numpy(np.insert(seen, 0, 0, axis=1)), frame.source


@cache
def _model(name: str) -> Any:
    """A detector with random weights whose final suppression has `_CANDIDATES` boxes: the time depends on them."""
    from tenfold.lidar import build_detector

    torch.manual_seed(0)
    model: Any = build_detector(name).eval()
    if name not in _TWO_STAGE:
        with torch.no_grad():
            points = camera_points()[0]
            bev = model.bev(model.encode(points, 1), *(() if name == "second" else (1,)))
            last, threshold = model.dense_head.conv_cls, model.config.post.score_threshold
            last.weight /= model.dense(bev).classes.std()  # random layers leave small numbers
            logits = model.dense(bev).classes.flatten(0, -2).amax(-1)
            last.bias += np.log(threshold / (1 - threshold)) - logits.topk(_CANDIDATES).values[-1]
    return model


@cache
def _state(name: str) -> dict[str, Any]:
    """What each stage of a detector starts from."""
    model, (points, source) = _model(name), camera_points()
    state: dict[str, Any] = {"model": model, "points": points, "source": source}
    with torch.no_grad():
        if name == "second":
            state["voxels"] = model.voxels(points, 1)
            state["encoded"] = model.encode_voxels(state["voxels"])
            state["bev"] = model.bev(state["encoded"])
            state["outputs"] = model.dense(state["bev"])
        elif name == "pointpillars":
            state["pillars"] = model.encode(points, 1)
            state["bev"] = model.bev(state["pillars"], 1)
            state["outputs"] = model.dense(state["bev"])
        else:
            state["first"] = model.first_stage(points, 1, {})
            state["proposals"] = model.propose(state["first"])
    return state


def _case(name: str) -> Callable[[float, str], Case]:
    def make(_scale: float, _dtype: str) -> Case:
        state = _state(name)
        number = len(state["points"])
        return Case(number, f"{number:,} points of {state['source']}", state)

    return make


def _voxelise(case: Case) -> Call:
    return without_gradient(lambda: case["model"].voxels(case["points"], 1))


def _encode(case: Case) -> Call:
    from tenfold.sparse import SparseTensor

    v = case["voxels"]
    # A new tensor each time: its index tables are part of the work.
    return without_gradient(
        lambda: case["model"].encode_voxels(SparseTensor(v.features, v.coords, v.spatial_shape, 1))
    )


def _pillars(case: Case) -> Call:
    return without_gradient(lambda: case["model"].bev(case["model"].encode(case["points"], 1), 1))


def _dense(case: Case) -> Call:
    return without_gradient(lambda: case["model"].dense(case["bev"]))


def _choose(case: Case) -> Call:
    model = case["model"]
    return without_gradient(lambda: model.dense_head.detect(case["outputs"], model.config.post))


def _first(case: Case) -> Call:
    return without_gradient(lambda: case["model"].first_stage(case["points"], 1, {}))


def _propose(case: Case) -> Call:
    return without_gradient(lambda: case["model"].propose(case["first"]))


def _second(case: Case) -> Call:
    first, rois = case["first"], case["proposals"].boxes[..., :7]
    return without_gradient(lambda: case["model"].second_stage(first, first.points, rois))


def _whole(case: Case) -> Call:
    batch = {"points": case["points"], "batch_size": 1}
    return without_gradient(lambda: case["model"](batch))


def _spconv_encoder(model: nn.Module) -> Any:
    """The same layers in spconv, with the same weights."""
    import spconv.pytorch as spconv

    from tenfold.sparse import SparseConv3d, SubMConv3d

    def convert(module: nn.Module) -> nn.Module:
        if isinstance(module, SubMConv3d):
            kernel = list(module.kernel_size)
            return spconv.SubMConv3d(
                module.in_channels, module.out_channels, kernel, padding=1, bias=False, indice_key=module.key
            )
        if isinstance(module, SparseConv3d):
            kernel, stride, padding, _ = module.geometry
            options = {"stride": list(stride), "padding": list(padding), "bias": False}
            return spconv.SparseConv3d(
                module.in_channels, module.out_channels, list(kernel), indice_key=module.key, **options
            )
        if isinstance(module, nn.BatchNorm1d):
            return nn.BatchNorm1d(module.num_features, eps=module.eps)
        if isinstance(module, nn.ReLU):
            return nn.ReLU()
        return spconv.SparseSequential(*(convert(part) for part in module))  # type: ignore[attr-defined]

    names = ("conv_input", "conv1", "conv2", "conv3", "conv4", "conv_out")
    encoder = spconv.SparseSequential(*(convert(getattr(model, name)) for name in names))
    state = {}
    for key, value in model.state_dict().items():
        name, _, rest = key.partition(".")
        state[f"{names.index(name)}.{rest}"] = value
    encoder.load_state_dict(state)
    return encoder.eval()


def _spconv(case: Case) -> Call:
    import spconv.pytorch as spconv

    encoder, v = _spconv_encoder(case["model"].backbone_3d), case["voxels"]
    return without_gradient(
        lambda: encoder(spconv.SparseConvTensor(v.features, v.coords, list(v.spatial_shape), 1))
    )


def _spconv_whole(case: Case) -> Call:
    """The same SECOND with spconv's layers in the place of ours; everything else is one code."""
    import spconv.pytorch as spconv

    from tenfold.lidar.models.voxel_backbone import height_compression
    from tenfold.sparse import SparseTensor

    model = case["model"]
    encoder = _spconv_encoder(model.backbone_3d)

    def run() -> Any:
        v = model.voxels(case["points"], 1)
        out = encoder(spconv.SparseConvTensor(v.features, v.coords, list(v.spatial_shape), 1))
        encoded = SparseTensor(out.features, out.indices, tuple(out.spatial_shape), 1)
        return model.dense_head.detect(model.dense(height_compression(encoded)), model.config.post)

    return without_gradient(run)


def _best_scores(raw: Any, _case: Case) -> tuple[Any, ...]:
    """The 50 highest scores: equal networks may still order two equal boxes differently."""
    return (np.sort(raw[0]["scores"].numpy())[::-1][:50].copy(),)


def _sorted_sites(raw: Any, _case: Case) -> tuple[Any, ...]:
    """Coordinates and features of the output in one order, ours or spconv's."""
    out = getattr(raw, "out", raw)
    coords = (out.coords if hasattr(out, "coords") else out.indices).numpy()
    order = np.lexsort(coords.T[::-1])
    features = out.features.detach().numpy()[order]
    return coords[order], features / np.abs(features).max()  # random weights leave small numbers


def _row(name: str, key: str, stage: str, ours: Callable[[Case], Call], **more: Any) -> Row:
    return Row(
        key=f"{name}-{key}",
        op=f"{_DETECTORS[name]}",
        title=f"{_DETECTORS[name]}, {stage}",
        make=_case(name),
        ours=ours,
        agree=within(1e-3),
        parallel=True,
        growth=False,
        **{"normal": nothing, **more},
    )


_ENCODER_PEER = Peer(
    "spconv", "spconv", "spconv", _spconv, _sorted_sites, note="index tables included on both sides"
)
_WHOLE_PEER = Peer(
    "SECOND on spconv", "spconv", "spconv", _spconv_whole, _best_scores, note="spconv's layers, all else ours"
)
ROWS = (
    _row("second", "voxelise", "voxels", _voxelise),
    _row("second", "encoder", "sparse encoder", _encode, normal=_sorted_sites, peers=(_ENCODER_PEER,)),
    _row("second", "heads", "bird's-eye backbone and head", _dense),
    _row("second", "nms", "decoding and suppression", _choose),
    _row("pointpillars", "voxelise", "pillars to map", _pillars),
    _row("pointpillars", "heads", "bird's-eye backbone and head", _dense),
    _row("pointpillars", "nms", "decoding and suppression", _choose),
    *(
        row
        for name in _TWO_STAGE
        for row in (
            _row(name, "first", "first stage", _first),
            _row(name, "nms", "proposals", _propose),
            _row(name, "roi", "second stage, 100 regions", _second),
        )
    ),
    _row(
        "second", "frame", "whole frame", _whole, normal=_best_scores, peers=(_WHOLE_PEER,), same_bits=False
    ),
    *(_row(name, "frame", "whole frame", _whole) for name in _DETECTORS if name != "second"),
)
