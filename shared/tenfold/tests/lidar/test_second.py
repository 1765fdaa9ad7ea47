"""SECOND as a whole: sizes, shapes, configuration, training, empty and wrong input."""

import math

import numpy as np
import pytest
import torch
from lidar_scenes import collate, simulated

import tenfold
from tenfold._errors import UserInputError
from tenfold.lidar import build_detector, export_dense
from tenfold.lidar.anchors import AnchorClass
from tenfold.lidar.kitti import KittiObject
from tenfold.lidar.models import (
    BEVBackbone,
    SecondConfig,
    VoxelBackBone8x,
    VoxelResBackBone8x,
    height_compression,
)
from tenfold.lidar.models.voxel_backbone import encoder_depths
from tenfold.lidar.simulator import KITTI_64, sample_scene, scan
from tenfold.sparse import SparseTensor
from tenfold.testing.data import sample_data

NARROW = {
    "class_names": ("Car",),
    "point_range": (0.0, -12.8, -3.0, 25.6, 12.8, 1.0),
    "voxel_size": (0.2, 0.2, 0.1),
    "channels": (8, 16, 32, 32),
    "out_channels": 32,
    "bev_layers": (1, 1),
    "bev_channels": (32, 64),
    "up_channels": (32, 32),
}


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def kitti_points():
    """A real frame in the camera view, (N, 4)."""
    frame = KittiObject(sample_data("kitti"), ids=["000001"])[0]
    return torch.from_numpy(np.ascontiguousarray(frame.points))


def test_parameter_counts():
    assert count(VoxelBackBone8x(4)) == 711_872
    assert count(BEVBackbone(256)) == 4_576_768
    model = build_detector("second", dataset="kitti")
    assert count(model) == 5_325_576
    assert model.class_names == ("Car", "Pedestrian", "Cyclist")
    # from the layer tables: 27 taps, two numbers a channel for each normalisation, biases in residual blocks
    residual = 27 * 5 * 16 + 32
    residual += 2 * (2 * (27 * 16 * 16 + 16) + 64)
    for c_in, c_out in ((16, 32), (32, 64), (64, 128)):
        residual += 27 * c_in * c_out + 2 * c_out + 2 * (2 * (27 * c_out * c_out + c_out) + 4 * c_out)
    residual += 3 * 128 * 128 + 256
    assert count(VoxelResBackBone8x(5)) == residual


def test_parameter_count_of_the_authors_variant():
    model = build_detector("second", second_author=True)
    assert model.class_names == ("Car",)
    assert model.config.post.centre_range == (0, -40, -2.2, 70.4, 40, 0.8)
    encoder = 711_872 + 2 * (27 * 64 * 64 + 128) - 3 * 64 * 64 - 128
    bev = 9 * 128 * 128 * 6 + 6 * 256 + 128 * 128 + 256
    head = (128 + 1) * 2 * (1 + 7 + 2)
    assert count(model) == encoder + bev + head
    assert model.dense_head.anchors[0, 0, :, 2].allclose(torch.tensor(-1.0))


def check_shapes(points):
    torch.manual_seed(0)
    model = build_detector("second").eval()
    with torch.no_grad():
        encoded = model.encode(torch.cat((torch.zeros(len(points), 1), points), 1), 1)
        shapes = [s.spatial_shape for s in (*encoded.stages, encoded.out)]
        assert shapes == [(41, 1600, 1408), (21, 800, 704), (11, 400, 352), (5, 200, 176), (2, 200, 176)]
        assert [s.features.shape[1] for s in (*encoded.stages, encoded.out)] == [16, 32, 64, 64, 128]
        bev = height_compression(encoded.out)
        assert bev.shape == (1, 256, 200, 176)
        row, channel = len(encoded.out.coords) // 2, 77
        _, z, y, x = encoded.out.coords[row].tolist()
        assert bev[0, 2 * channel + z, y, x] == encoded.out.features[row, channel]
    with torch.device("meta"):
        whole = BEVBackbone(256)(torch.empty(1, 256, 200, 176))
    assert whole.shape == (1, 512, 200, 176)
    assert model.dense_head.anchors.shape == (200, 176, 6, 7)


def test_shapes_on_a_real_frame(kitti_points):
    check_shapes(kitti_points)


def test_shapes_on_a_simulated_frame():
    check_shapes(torch.from_numpy(scan(sample_scene(3), KITTI_64).points[::4].copy()))


def test_depths():
    assert encoder_depths(40) == (41, 21, 11, 5, 2)
    for cells in (24, 40, 56):
        config = SecondConfig(point_range=(0, -40, 0, 70.4, 40, cells / 10))
        assert config.bev_input_channels == 128 * encoder_depths(cells)[4]
    tall = build_detector("second", **{**NARROW, "point_range": (0, -12.8, -3, 25.6, 12.8, 2.6)}).eval()
    points, _ = simulated()
    assert tall({"points": points, "batch_size": 1})[0]["boxes"].shape[1] == 7
    assert tall.config.bev_input_channels == 3 * 32


@pytest.mark.parametrize("options", [{}, {"encoder": "residual"}, {"direction": False}])
def test_gradients_reach_every_parameter(options):
    torch.manual_seed(0)
    model = build_detector("second", **NARROW, **options)
    losses = model(collate(simulated(0), simulated(1)))
    assert losses["num_positives"] > 0
    parts = losses["loss_cls"] + losses["loss_box"] + losses["loss_dir"]
    torch.testing.assert_close(parts, losses["loss"])
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # a bias before a normalisation with batch statistics has gradient 0 by definition
        redundant = ".conv" in name and name.endswith("bias") and "backbone_3d" in name
        assert redundant or parameter.grad.abs().max() > 0, name


def test_a_batch_equals_its_frames():
    torch.manual_seed(0)
    model = build_detector("second", **NARROW).double().eval()
    frames = [simulated(seed) for seed in (0, 1, 2)]
    batch = collate(*frames)
    with torch.no_grad():
        whole = model.dense(height_compression(model.encode(batch["points"].double(), 3).out))
        for b, (points, _) in enumerate(frames):
            alone = model.dense(height_compression(model.encode(points.double(), 1).out))
            for part, one in zip(whole, alone, strict=True):
                torch.testing.assert_close(part[b : b + 1], one, rtol=1e-9, atol=1e-9)


def test_one_scene_is_learnt():
    torch.manual_seed(0)
    model = build_detector("second", **NARROW)
    batch = collate(simulated(5))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(25):
        losses = model(batch)
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
        history.append(losses["loss"].item())
    assert np.mean(history[-5:]) < 0.3 * history[0], (history[0], history[-5:])
    # Running statistics of the momentum 0.01 lag behind so few steps; take those of this scene.
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(batch)
        found = model.eval()(batch)[0]
    truth = batch["gt_boxes"][0, :, :7]
    distance = torch.cdist(truth[:, :2], found["boxes"][:, :2])
    assert (distance.min(1).values < 0.5).all()
    nearest = found["boxes"][distance.argmin(1)]
    assert ((nearest[:, 6] - truth[:, 6]).cos() > 0.9).all()
    assert not found["scores"].requires_grad
    assert (found["labels"] == 0).all()


def test_empty_frames():
    torch.manual_seed(0)
    model = build_detector("second", **NARROW).eval()
    empty = (torch.zeros(0, 5), torch.zeros(1, 0, 8))
    with torch.no_grad():
        model.dense_head.conv_cls.bias.fill_(3.0)  # every anchor of every frame passes the threshold
    for frames in ([empty], [empty, empty], [simulated(0), empty]):
        found = model(collate(*frames))
        assert len(found) == len(frames)
        assert found[-1]["boxes"].shape == (0, 7)
        assert found[-1]["scores"].shape == found[-1]["labels"].shape == (0,)
        assert found[-1]["labels"].dtype == torch.int64
    assert len(found[0]["boxes"]) > 0
    model.train()
    for frames in ([empty], [simulated(0), empty]):
        losses = model(collate(*frames))
        losses["loss"].backward()
        assert losses["loss"].isfinite()
    outside = simulated(0)[0] + torch.tensor([0.0, 500, 0, 0, 0])
    assert len(model.eval()({"points": outside, "batch_size": 1})[0]["boxes"]) == 0


def test_autocast():
    torch.manual_seed(0)
    model = build_detector("second", **NARROW)
    batch = collate(simulated(0))
    full = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch)
        found = model.eval()(batch)[0]
    mixed["loss"].backward()
    assert mixed["loss"].dtype == found["boxes"].dtype == torch.float32
    assert mixed["loss"] != full["loss"]
    torch.testing.assert_close(mixed["loss"], full["loss"], rtol=0.02, atol=0)


def test_training_without_ground_truth():
    model = build_detector("second", **NARROW)
    batch = {**collate(simulated(0)), "gt_boxes": torch.zeros(1, 0, 8)}
    losses = model(batch)
    losses["loss"].backward()
    assert losses["num_positives"] == 0
    assert losses["loss_box"] == losses["loss_dir"] == 0 < losses["loss_cls"]


def bad_batch(**changes):
    batch = {**collate(simulated(0)), **changes}
    return {k: v for k, v in batch.items() if v is not None}


def with_entry(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


POINTS, BOXES = simulated(0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"points": None}, ValueError, "batch: has no 'points'"),
        ({"batch_size": None}, ValueError, "batch: has no 'batch_size'"),
        ({"gt_boxes": None}, ValueError, "batch: has no 'gt_boxes'"),
        ({"points": POINTS.numpy()}, TypeError, "points: got ndarray"),
        ({"points": POINTS[:, 1:]}, UserInputError, r"expected \(N, 5\); .*point_features counts"),
        ({"points": with_entry(POINTS, (7, 2), float("nan"))}, ValueError, "voxelize: points"),
        ({"points": with_entry(POINTS, (7, 0), 3.0)}, ValueError, "batch_index"),
        ({"points": with_entry(POINTS, (7, 0), -1.0)}, ValueError, "batch_index"),
        ({"batch_size": 0}, ValueError, "batch_size: got 0"),
        ({"gt_boxes": BOXES[..., :7]}, ValueError, r"gt_boxes: .*expected \(1, M, 8\)"),
        ({"gt_boxes": torch.zeros(1, 3, 10)}, ValueError, r"gt_boxes: .*slice velocities off"),
        ({"gt_boxes": torch.zeros(2, 3, 8)}, ValueError, r"gt_boxes: .*expected \(1, M, 8\)"),
        ({"gt_boxes": with_entry(BOXES, (0, 1, 3), float("nan"))}, ValueError, "row 1 of frame 0"),
        ({"gt_boxes": with_entry(BOXES, (0, 1, 7), 2.0)}, ValueError, "label from 1 to 1"),
        ({"gt_boxes": with_entry(BOXES, (0, 1, 7), 0.0)}, ValueError, "zeros as padding"),
    ],
)
def test_wrong_batches_are_named(changes, error, message):
    with pytest.raises(error, match=message):
        build_detector("second", **NARROW)(bad_batch(**changes))


def test_content_is_not_checked_below_level_cheap():
    model = build_detector("second", **NARROW).eval()
    batch = bad_batch(points=with_entry(POINTS, (7, 2), float("nan")))
    with tenfold.validation("meta"):
        assert len(model(batch)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voxel_size": (0.05, 0.05, 0.2)}, "20 cells along z.*expected 40"),
        ({"voxel_size": (0.05, 0.05, 0.125)}, "32 cells along z"),
        ({"voxel_size": (0.05, 0.05, 1.0)}, "4 cells along z"),
        (
            {"voxel_size": (0.1, 0.2, 0.1), "bev_strides": (1, 4), "up_strides": (1, 4)},
            "400 cells along y; expected a multiple of 32",
        ),
        ({"point_range": (0, -40, -3, 70, 40, 1)}, "1400 cells along x; expected a multiple of 16"),
        ({"point_range": (0, -40, -3, 70.42, 40, 1)}, "whole number"),
        ({"point_range": (0, -40, -3, -70.4, 40, 1)}, "lower < upper"),
        ({"point_range": (0, -40, 70.4, 40)}, "point_range.*6 numbers"),
        ({"class_names": ("Car", "Tram")}, "no anchors known for Tram"),
        ({"class_names": ("Car", "Car")}, "distinct"),
        ({"class_names": ("Car",), "anchors": (AnchorClass("Van", ((5.0, 2, 2),)),)}, "in this order"),
        ({"encoder": "vgg"}, "encoder.*plain"),
        ({"blocks": (1, 2)}, "blocks"),
        ({"channels": (0, 1, 1, 1)}, "below 1"),
        ({"point_features": 2}, "point_features"),
        ({"bev_layers": (5,)}, "lists of lengths"),
        ({"up_strides": (1, 1)}, "one whole stride"),
        ({"depth": 3}, "unknown option 'depth'; known are"),
        ({"dataset": "waymo"}, "dataset: got 'waymo'"),
    ],
)
def test_wrong_configurations_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build_detector("second", **options)
    with pytest.raises(ValueError, match="expected one of 'second'"):
        build_detector("first")


def test_options_of_configuration_files():
    model = build_detector("second", class_names=["Cyclist", "Car"], voxel_size=[0.1, 0.1, 0.1])
    assert model.class_names == ("Cyclist", "Car")
    assert model.dense_head.anchors[0, 0, :, 3].allclose(torch.tensor([1.76, 1.76, 3.9, 3.9]))
    assert model.config.bev_grid == (100, 88)
    hash(model.config)


def test_validation_of_voxels_in_the_encoder():
    model = build_detector("second", **NARROW).eval()
    twice = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=torch.int32)
    with pytest.raises(ValueError, match="row 1"):
        model.encode_voxels(SparseTensor(torch.zeros(2, 4), twice, (41, 128, 128), 1))


def test_dense_export(tmp_path):
    torch.manual_seed(0)
    model = build_detector("second", **NARROW)
    program = export_dense(model, tmp_path / "dense.pt2")
    assert model.training
    x = torch.randn(3, 64, 16, 16)
    with torch.no_grad():
        expected = model.eval().dense(x)
        loaded = torch.export.load(tmp_path / "dense.pt2").module()
        for run in (program.module(), loaded):
            found = run(x)
            assert len(found) == 3
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)
    with pytest.raises(ValueError, match="ending"):
        export_dense(model, tmp_path / "dense.pb")


class SparseHalf(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, points):
        return height_compression(self.model.encode(points, 1).out)


def test_sparse_export():
    half = SparseHalf(build_detector("second", **NARROW).eval())
    points = {seed: simulated(seed)[0] for seed in (0, 1)}
    shapes = ({0: torch.export.Dim("points", min=2)},)
    program = torch.export.export(half, (points[0],), dynamic_shapes=shapes).module()
    assert torch.equal(program(points[1]), half(points[1]))


def test_onnx_export(tmp_path):
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install onnx onnxscript"):
            export_dense(build_detector("second", **NARROW), tmp_path / "dense.onnx")
        return
    export_dense(build_detector("second", **NARROW), tmp_path / "dense.onnx")
    assert (tmp_path / "dense.onnx").stat().st_size > 10_000


def test_headings_are_finite_radians():
    model = build_detector("second", **NARROW).eval()
    with torch.no_grad():
        model.dense_head.conv_cls.bias.fill_(3.0)
        found = model(collate(simulated(0)))[0]
    assert found["boxes"].isfinite().all()
    assert (found["boxes"][:, 6].abs() < 2 * math.pi).all()
    assert len(found["boxes"]) <= 500
