"""Checkpoints of OpenPCDet: every key, and the numbers that come out."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tenfold._errors import UserInputError
from tenfold.io import CheckpointMismatchError
from tenfold.lidar import build_detector, load_openpcdet
from tenfold.lidar.models import height_compression

KEYS = json.loads((Path(__file__).parent / "fixtures" / "openpcdet_second_kitti_keys.json").read_text())
TINY = {"point_range": (0.0, -0.8, -3.0, 1.6, 0.8, 1.0), "voxel_size": (0.05, 0.05, 0.1)}


def synthetic(seed=0):
    """A state dict of OpenPCDet's keys and shapes with random values of a trained network's scale."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in KEYS.items():
        if key.endswith(("global_step", "num_batches_tracked")):
            state[key] = torch.full(shape, 9000, dtype=torch.int64)
        elif key.endswith("running_var") or (len(shape) == 1 and key.endswith("weight")):
            state[key] = 0.5 + torch.rand(shape, generator=g)
        else:
            fan_in = torch.Size(shape).numel() / shape[0] if len(shape) > 1 else 25
            state[key] = torch.randn(shape, generator=g) / fan_in**0.5
    return state


def spconv1(state):
    """The layout of the model zoo: kernel axes, inputs, outputs."""
    return {k: v.permute(1, 2, 3, 4, 0).contiguous() if v.dim() == 5 else v for k, v in state.items()}


def norm(state, prefix, x):
    parts = (state[f"{prefix}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    return F.relu(F.batch_norm(x, *parts, eps=1e-3))


def dense_network(state, grid, occupied):
    """SECOND in dense convolutions: (B, 4, 41, Y, X) and 0/1 occupancy to the three raw outputs."""
    state = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}

    def layer(x, sites, conv, bn, strided=None):
        weight = state[f"{conv}.weight"].permute(0, 4, 1, 2, 3)
        if strided is None:
            x = F.conv3d(x, weight, padding=1)
        else:
            stride, padding = strided
            x = F.conv3d(x, weight, stride=stride, padding=padding)
            reach = torch.ones(1, 1, *weight.shape[2:], dtype=torch.float64)
            sites = (F.conv3d(sites, reach, stride=stride, padding=padding) > 0).double()
        return norm(state, bn, x) * sites, sites

    x, sites = layer(grid, occupied, "backbone_3d.conv_input.0", "backbone_3d.conv_input.1")
    x, sites = layer(x, sites, "backbone_3d.conv1.0.0", "backbone_3d.conv1.0.1")
    for stage, padding in ((2, 1), (3, 1), (4, (0, 1, 1))):
        for j in range(3):
            name = f"backbone_3d.conv{stage}.{j}"
            x, sites = layer(x, sites, f"{name}.0", f"{name}.1", (2, padding) if j == 0 else None)
    x, sites = layer(x, sites, "backbone_3d.conv_out.0", "backbone_3d.conv_out.1", ((2, 1, 1), 0))
    batch, channels, depth, height, width = x.shape
    bev = torch.stack([x[:, c, z] for c in range(channels) for z in range(depth)], 1)
    assert bev.shape == (batch, 256, height, width)
    ups = []
    for block, stride in ((0, 1), (1, 2)):
        for j in range(6):
            conv = state[f"backbone_2d.blocks.{block}.{3 * j + 1}.weight"]
            bev = F.conv2d(bev, conv, stride=stride if j == 0 else 1, padding=1)
            bev = norm(state, f"backbone_2d.blocks.{block}.{3 * j + 2}", bev)
        up = F.conv_transpose2d(bev, state[f"backbone_2d.deblocks.{block}.0.weight"], stride=stride)
        ups.append(norm(state, f"backbone_2d.deblocks.{block}.1", up))
    features = torch.cat(ups, 1)
    heads = ("conv_cls", "conv_box", "conv_dir_cls")
    return [
        F.conv2d(features, state[f"dense_head.{h}.weight"], state[f"dense_head.{h}.bias"])
        .permute(0, 2, 3, 1)
        .reshape(batch, height * width * 6, -1)
        for h in heads
    ]


def voxel_grid(points, batch):
    """Means of at most five points a voxel, point by point: (B, 4, 41, 32, 32) and occupancy."""
    cells = {}
    for b, *point in points.tolist():
        x, y, z = (int((p - lo) // size) for p, lo, size in zip(point, (0, -0.8, -3), (0.05, 0.05, 0.1)))
        if 0 <= x < 32 and 0 <= y < 32 and 0 <= z < 40:
            cells.setdefault((int(b), z, y, x), []).append(point)
    grid = torch.zeros(batch, 4, 41, 32, 32, dtype=torch.float64)
    occupied = torch.zeros(batch, 1, 41, 32, 32, dtype=torch.float64)
    for (b, z, y, x), members in cells.items():
        grid[b, :, z, y, x] = torch.tensor(members[:5], dtype=torch.float64).mean(0)
        occupied[b, 0, z, y, x] = 1
    assert max(map(len, cells.values())) > 5
    return grid, occupied


def scene():
    """Two frames: crowded voxels, lonely ones, points outside."""
    g = torch.Generator().manual_seed(3)
    low, span = torch.tensor([-0.1, -0.9, -3.2, 0]), torch.tensor([1.8, 1.8, 4.4, 1])
    double = {"generator": g, "dtype": torch.float64}
    spread = low + span * torch.rand(600, 4, **double)
    clump = torch.tensor([0.7, 0.1, -1.0, 0.5]) + 0.1 * torch.rand(200, 4, **double)
    points = torch.cat((spread, clump))
    frame = (torch.arange(800) % 2).sort().values.double()
    return torch.cat((frame[:, None], points), 1)


@pytest.fixture(scope="module")
def expected():
    """What dense convolutions make of `scene` with the weights of `synthetic`."""
    with torch.no_grad():
        return dense_network(synthetic(), *voxel_grid(scene(), 2))


def test_key_list_is_the_networks():
    model = build_detector("second")
    own = {k: list(v.shape) for k, v in model.state_dict().items()}
    assert {k: v for k, v in KEYS.items() if k != "global_step"} == own


@pytest.mark.parametrize("form", ["spconv 2", "spconv 1", "file", "state dict", "distributed"])
def test_outputs_equal_dense_convolutions(form, tmp_path, expected):
    state = synthetic()
    checkpoint = {"epoch": 80, "it": 9000, "version": "pcdet+0.6.0"}
    checkpoint["optimizer_state"] = {"state": {0: {"step": 9000}}, "param_groups": []}
    checkpoint["model_state"] = spconv1(state) if form in ("spconv 1", "file") else state
    given = checkpoint
    if form == "file":
        given = tmp_path / "second.pth"
        torch.save(checkpoint, given)
    if form == "state dict":
        given = {k: v for k, v in state.items() if k != "global_step"}
    if form == "distributed":
        given = {f"module.{k}": v for k, v in state.items()}
    model = build_detector("second", **TINY).eval()
    report = load_openpcdet(model, given)
    assert report.complete
    assert len(report.loaded) == len(KEYS) - 1
    points = scene()
    model = model.double()
    with torch.no_grad():
        ours = model.dense(height_compression(model.encode(points, 2).out))
    for a, b in zip(ours, expected, strict=True):
        assert b.std() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def altered(key, change):
    state = synthetic()
    change(state, key)
    return {"model_state": state}


@pytest.mark.parametrize(
    ("key", "change", "kind"),
    [
        ("backbone_3d.conv3.1.0.weight", lambda s, k: s.pop(k), "missing"),
        ("dense_head.conv_dir_cls.bias", lambda s, k: s.pop(k), "missing"),
        ("backbone_2d.blocks.1.17.running_var", lambda s, k: s.pop(k), "missing"),
        ("roi_head.fc.weight", lambda s, k: s.update({k: torch.zeros(2)}), "unexpected"),
        ("dense_head.conv_cls.weight", lambda s, k: s.update({k: torch.zeros(6, 512, 1, 1)}), "reshaped"),
        (
            "backbone_3d.conv2.0.0.weight",
            lambda s, k: s.update({k: torch.zeros(32, 3, 3, 3, 17)}),
            "reshaped",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(key, change, kind):
    model = build_detector("second", **TINY)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError, match=key) as caught:
        load_openpcdet(model, altered(key, change))
    assert list(getattr(caught.value.report, kind)) == [key]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_an_altered_value_changes_the_output():
    points = scene()
    model = build_detector("second", **TINY).eval()
    outputs = []
    for shift in (0.0, 0.1):
        state = synthetic()
        state["backbone_3d.conv4.2.0.weight"] += shift
        load_openpcdet(model, state)
        with torch.no_grad():
            outputs.append(model.dense(height_compression(model.encode(points.float(), 2).out)).classes)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3


def test_other_configurations_are_refused():
    with pytest.raises(CheckpointMismatchError, match="shape"):
        load_openpcdet(build_detector("second", class_names=("Car",), **TINY), synthetic())
    with pytest.raises(CheckpointMismatchError, match="unexpected"):
        load_openpcdet(build_detector("second", second_author=True), synthetic())


def test_files_that_hold_no_weights_are_refused(tmp_path):
    model = build_detector("second", **TINY)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"model_state": 3}, tmp_path / "number.pth")
    for name in ("list.pth", "number.pth", "absent.pth"):
        with pytest.raises(UserInputError, match=name):
            load_openpcdet(model, tmp_path / name)
