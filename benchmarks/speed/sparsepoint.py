"""Speed of sparsepoint: whole rooms at full size beside VoteNet with suppression, and what each part takes."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from kernels import frames
from kernels.model import Call, Case, Peer, Row
from sparsepoint.config import make_config
from sparsepoint.data.scenes import floor_of, network_points
from sparsepoint.models import build
from sparsepoint.models.parts import scene_box
from sparsepoint.models.refine import box_position
from sparsepoint.postprocess import suppress
from speed.common import another_network, nothing, without_gradient
from tenfold.ops import ball_query, farthest_point_sample

_SIZES = {"20k": 20_000, "40k": 40_000}


@cache
def _model(preset: str) -> Any:
    """A detector with random weights that is unsure of everything, so that no box is left out for its score."""
    torch.manual_seed(0)
    return build(make_config(preset, "scannet")).eval()


@cache
def _points(number: int) -> tuple[torch.Tensor, str]:
    frame = frames.indoor()
    rows = np.random.default_rng(0).choice(len(frame.points), number, replace=len(frame.points) < number)
    cloud = frame.points[rows, :3].astype(np.float32)
    seen = network_points(torch.from_numpy(cloud), floor_of(cloud), None, 1)
    return seen[None], frame.source


@cache
def _state(number: int) -> dict[str, Any]:
    """What each part of the sparse detector starts from."""
    model, (points, source) = _model("sparsepoint"), _points(number)
    with torch.no_grad():
        seeds = model.backbone(points[..., :3], points[..., 3:])
        feats = model.pre_roi(seeds.feats)
        boxes, proposal = model.proposals(seeds.xyz)
        pooled = model.pool(boxes, seeds.xyz, feats)
    return {
        **{"points": points, "source": source, "seeds": seeds.xyz, "feats": feats, "boxes": boxes.detach()},
        **{"proposal": proposal, "pooled": pooled, "found": model.predict(points, score_thr=0.0)[0]},
    }


def _case(number: int) -> Callable[[float, str], Case]:
    def make(_scale: float, _dtype: str) -> Case:
        state = _state(number)
        return Case(number, f"{number:,} points of {state['source']}, one room at a time", state)

    return make


def _whole(preset: str, nms: float | None = None) -> Callable[[Case], Call]:
    def build_call(case: Case) -> Call:
        model = _model(preset)
        return without_gradient(lambda: model.predict(case["points"], score_thr=0.0, nms=nms))

    return build_call


def _backbone(case: Case) -> Call:
    model, points = _model("sparsepoint"), case["points"]
    return without_gradient(lambda: model.backbone(points[..., :3], points[..., 3:]))


def _pooling(case: Case) -> Call:
    model = _model("sparsepoint")
    stages = model.config.num_stages
    return without_gradient(
        lambda: [model.pool(case["boxes"], case["seeds"], case["feats"]) for _ in range(stages)]
    )


def _refinement(case: Case) -> Call:
    model = _model("sparsepoint")
    low, extent = scene_box(case["seeds"])
    position = box_position(case["boxes"], low, extent)
    stages = model.config.num_stages
    return without_gradient(
        lambda: [model.heads[0](case["proposal"], case["pooled"], position) for _ in range(stages)]
    )


def _sampling(case: Case) -> Call:
    return without_gradient(lambda: farthest_point_sample(case["points"][..., :3], 2048))


def _neighbours(case: Case) -> Call:
    points = case["points"][..., :3].contiguous()
    rows = farthest_point_sample(points, 2048)
    centres = points.gather(1, rows[..., None].expand(-1, -1, 3))
    return without_gradient(lambda: ball_query(points, centres, 0.2, 64))


def _suppression(case: Case) -> Call:
    return without_gradient(lambda: suppress(case["found"], 0.25))


def _peer(name: str, call: Callable[[Case], Call], note: str) -> Peer:
    return Peer(name, "sparsepoint", "sparsepoint", call, normal=nothing, same=False, note=note)


_SHARE = "a part of the whole; the ratio is its share"


def _row(name: str) -> Row:
    return Row(
        key=f"sparsepoint-room-{name}",
        op="predict",
        title=f"SparsePoint, whole room of {name} points: points to objects, 128 proposals, six stages, no suppression",
        make=_case(_SIZES[name]),
        ours=_whole("sparsepoint"),
        normal=nothing,
        agree=another_network,
        peers=(
            _peer("VoteNet with NMS", _whole("votenet", 0.25), "the dense baseline, 256 proposals"),
            _peer("SRDet", _whole("srdet"), "three stages on proposals from votes, no suppression"),
            _peer("backbone", _backbone, _SHARE),
            _peer("farthest points", _sampling, f"of the backbone: {_SHARE}"),
            _peer("ball query", _neighbours, f"the first of the backbone's: {_SHARE}"),
            _peer("RoI pooling, six stages", _pooling, _SHARE),
            _peer("refinement, six stages", _refinement, _SHARE),
            _peer("NMS of the result", _suppression, "what the switch would add"),
        ),
        parallel=True,
        growth=False,
    )


ROWS = tuple(_row(name) for name in _SIZES)
