"""Every published OpenPCDet model: names, shapes and counts of its keys, and loading them."""

import json
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from tenfold.io import CheckpointMismatchError
from tenfold.lidar import build_detector, load_openpcdet

FOLDER = Path(__file__).parent / "fixtures"
# Key list, detector, data set, variant, parameters (published for the models of the zoo).
MODELS = {
    "second_kitti": ("second", "kitti", {}, 5_325_576),
    "second_nuscenes": ("second", "nuscenes", {}, 9_035_004),
    "pointpillar_kitti": ("pointpillars", "kitti", {}, 4_834_888),
    "pointpillar_nuscenes": ("pointpillars", "nuscenes", {}, 6_078_636),
    "pointrcnn_kitti": ("pointrcnn", "kitti", {}, 4_038_819),
    "parta2_kitti": ("parta2", "kitti", {}, 63_814_772),
    "parta2_free_kitti": ("parta2", "kitti", {"free": True}, 59_234_806),
    "pv_rcnn_kitti": ("pv_rcnn", "kitti", {}, 13_115_697),
}
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "head_label_indices")
SMALL_RANGE = {"point_range": (0.0, -0.8, -3.0, 1.6, 0.8, 1.0)}


def keys(name):
    return json.loads((FOLDER / f"openpcdet_{name}_keys.json").read_text())


def small(name):
    """The model on a few cells: the weights are those of the whole one."""
    detector, dataset, variant, _ = MODELS[name]
    options = dict(variant)
    if detector == "pointpillars":
        cells = 32
        size = 0.16 if dataset == "kitti" else 0.2
        z = (-3.0, 1.0) if dataset == "kitti" else (-5.0, 3.0)
        options["point_range"] = (0.0, 0.0, z[0], cells * size, cells * size, z[1])
    elif detector != "pointrcnn":
        nuscenes = {"point_range": (0.0, -1.6, -5.0, 3.2, 1.6, 3.0)}
        options |= nuscenes if dataset == "nuscenes" else SMALL_RANGE
    return build_detector(detector, dataset=dataset, **options)


def values(shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("head_label_indices"):
            continue
        if key.endswith(("global_step", "num_batches_tracked")):
            state[key] = torch.full(shape, 9000, dtype=torch.int64)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(shape, generator=g)
        else:
            state[key] = torch.randn(shape, generator=g) * 0.1
    start = 1
    for key, shape in shapes.items():
        if key.endswith("head_label_indices"):
            state[key] = torch.arange(start, start + shape[0])
            start += shape[0]
    return state


@pytest.mark.parametrize("name", MODELS)
def test_counts_and_key_lists_agree(name):
    detector, dataset, variant, expected = MODELS[name]
    listed = keys(name)
    parameters = [k for k in listed if not k.endswith((*BUFFERS, "global_step"))]
    assert sum(math.prod(listed[k]) for k in parameters) == expected
    with torch.device("meta"):
        model = build_detector(detector, dataset=dataset, **variant)
    assert sum(p.numel() for p in model.parameters()) == expected
    own = {k: list(v.shape) for k, v in model.state_dict().items()}
    flat = {k: v if own.get(k) == v else [n for n in v if n != 1] for k, v in listed.items()}
    flat.pop("global_step")
    assert set(flat) == set(own)
    assert [k for k in own if math.prod(own[k]) != math.prod(flat[k])] == []
    # What differs in shape are pointwise convolutions that are linear layers here.
    differing = [k for k in own if own[k] != listed[k]]
    assert all(listed[k][:2] == own[k] and set(listed[k][2:]) == {1} for k in differing)


@pytest.mark.parametrize("name", [n for n in MODELS if not n.startswith("parta2")])
def test_every_key_is_loaded(name):
    model = small(name)
    state = values(keys(name))
    report = load_openpcdet(model, {"model_state": state, "epoch": 80})
    assert report.complete
    assert len(report.loaded) == len(state) - 1
    own = model.state_dict()
    for key, value in state.items():
        if key != "global_step":
            assert torch.equal(own[key].flatten(), value.flatten()), key


@pytest.mark.parametrize("free", [False, True])
def test_part_a2_loads_without_its_large_layer_changing_shape(free):
    """The first layer behind the pooling holds nine tenths of the weights: once is enough."""
    name = "parta2_free_kitti" if free else "parta2_kitti"
    shapes = keys(name)
    grid, narrow = 2, 128 * 2**3
    shapes["roi_head.shared_fc_layer.0.weight"] = [256, narrow, 1]
    model = build_detector("parta2", free=free, pool_grid=grid, **SMALL_RANGE)
    state = values(shapes)
    assert load_openpcdet(model, state).complete
    assert torch.equal(
        model.roi_head.shared_fc_layer[0].weight, state["roi_head.shared_fc_layer.0.weight"][..., 0]
    )


@cache
def whole():
    """PV-RCNN and weights that fit it; nothing loads them into it."""
    return small("pv_rcnn_kitti"), values(keys("pv_rcnn_kitti"))


@pytest.mark.parametrize(
    ("key", "change", "kind"),
    [
        ("pfe.SA_layers.2.mlps.1.0.weight", lambda s, k: s.pop(k), "missing"),
        ("roi_head.reg_layers.7.bias", lambda s, k: s.pop(k), "missing"),
        ("roi_head.iou_layers.0.weight", lambda s, k: s.update({k: torch.zeros(2, 2, 1)}), "unexpected"),
        (
            "roi_head.cls_layers.0.weight",
            lambda s, k: s.update({k: torch.zeros(256, 128, 1)}),
            "reshaped",
        ),
        ("roi_head.cls_layers.0.weight", lambda s, k: s.update({k: torch.zeros(256, 256, 3)}), "reshaped"),
    ],
)
def test_keys_that_do_not_fit_are_refused(key, change, kind):
    model, state = whole()
    state = dict(state)
    change(state, key)
    with pytest.raises(CheckpointMismatchError, match=key) as caught:
        load_openpcdet(model, state)
    assert list(getattr(caught.value.report, kind)) == [key]
