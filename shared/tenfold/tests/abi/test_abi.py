"""The built kernels under whichever torch runs them; `nox -s abi` runs this on the wheel."""

import os

import pytest
import torch

import tenfold
from tenfold import _native, ops, ref
from tenfold.ops import __contract__, nms


def test_runs_under_the_torch_it_was_asked_for():
    wanted = os.environ.get("TENFOLD_ABI_TORCH", torch.__version__)
    assert torch.__version__.split("+")[0] == wanted.split("+")[0]


def test_native_kernels_are_loaded_and_state_every_contract():
    assert _native.status.library is not None, _native.status.reason
    for op, number in __contract__.items():
        assert _native.status.library.tenfold_contract(op.encode()) == number
    assert "none, reference" not in tenfold.show_config()


def test_kernel_equals_reference():
    g = torch.Generator().manual_seed(0)
    corner = torch.rand(200, 2, generator=g) * 50
    boxes = torch.cat([corner, corner + torch.rand(200, 2, generator=g) * 20], dim=1)
    scores = torch.rand(200, generator=g)
    assert torch.equal(nms(boxes, scores, 0.5), ref.nms(boxes, scores, 0.5))


def test_an_error_raised_in_the_kernel_arrives_as_value_error():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, float("nan"), 1.0]])
    with pytest.raises(ValueError, match=r"^nms: boxes: row 1 is not finite"):
        nms(boxes, torch.ones(2), 0.5)


def test_misuse_of_the_raw_operator_raises():
    with pytest.raises(RuntimeError, match="expected shape"):
        torch.ops.tenfold.nms(torch.zeros(3, 5), torch.zeros(3), 0.5, None, None, False)


def cloud(n: int) -> torch.Tensor:
    return torch.rand(n, 4, generator=torch.Generator().manual_seed(1)) * torch.tensor([20.0, 20.0, 4.0, 1.0])


def rotated(n: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(2)
    place = torch.rand(n, 3, generator=g) * torch.tensor([20.0, 20.0, 4.0])
    return torch.cat(
        [place, 1 + 3 * torch.rand(n, 3, generator=g), 6.3 * torch.rand(n, 1, generator=g)], dim=1
    )


def sparse(c_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    coords = torch.nonzero(torch.rand(1, 5, 6, 7, generator=torch.Generator().manual_seed(3)) < 0.3).int()
    return coords, torch.rand(len(coords), c_in)


GRID = ((0.5, 0.5, 1.0), (0, 0, 0, 20, 20, 4))
CALLS = {
    "batched_nms": lambda: ops.batched_nms(
        rotated(80)[:, [0, 1, 3, 4]].cumsum(1), cloud(80)[:, 3], torch.arange(80) % 3, 0.5
    ),
    "nms_rotated": lambda: ops.nms_rotated(rotated(80), cloud(80)[:, 3], 0.2),
    "box_iou_bev": lambda: ops.box_iou_bev(rotated(20), rotated(30)),
    "box_iou_3d": lambda: ops.box_iou_3d(rotated(20), rotated(30)),
    "voxelize": lambda: list(ops.voxelize(cloud(500), *GRID, 3, 300)),
    "dynamic_voxelize": lambda: list(ops.dynamic_voxelize(cloud(500), *GRID)),
    "scatter": lambda: ops.scatter(cloud(500), torch.arange(500) % 7, 7, "max"),
    "ball_query": lambda: list(ops.ball_query(cloud(500)[:, :3], cloud(40)[:, :3], 2.0, 8)),
    "points_in_boxes": lambda: ops.points_in_boxes(cloud(500)[:, :3], rotated(20)),
    "topk_peaks": lambda: list(ops.topk_peaks(cloud(400).view(1, 4, 20, 20), 9)),
    "roi_point_pool": lambda: list(ops.roi_point_pool(cloud(500)[:, :3], cloud(500), rotated(20), 8)),
    "roi_grid_pool3d": lambda: ops.roi_grid_pool3d(rotated(20), cloud(500)[:, :3], cloud(500), 3),
    "bilinear_sample": lambda: ops.bilinear_sample(cloud(400).view(1, 4, 20, 20), cloud(60)[None, :, :2]),
    "lookup": lambda: ops.lookup(ops.VoxelTable(sparse(2)[0]), sparse(2)[0].flip(0)),
    "bias_act": lambda: ops.bias_act(cloud(400).view(2, 2, 20, 20), torch.ones(2), clamp=3.0),
    "upfirdn2d": lambda: ops.upfirdn2d(cloud(400).view(1, 4, 20, 20), torch.ones(4), up=2, down=3),
    "filtered_lrelu": lambda: ops.filtered_lrelu(
        cloud(400).view(1, 4, 20, 20), up_filter=torch.ones(4), up=2, down=2, padding=3
    ),
    "rulebook_submanifold": lambda: ops.rulebook_submanifold(sparse(2)[0], (5, 6, 7), 1),
    "rulebook_strided": lambda: list(
        ops.rulebook_strided(sparse(2)[0], (5, 6, 7), 1, 3, stride=2, padding=1)[:2]
    ),
}


@pytest.mark.parametrize("name", list(CALLS))
def test_every_family_equals_its_reference(name):
    """Index results bit by bit; overlaps and filters to the last digits of float32."""
    with tenfold.reference():
        expected = CALLS[name]()
    got = CALLS[name]()
    for a, b in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (got, expected)), strict=True):
        if name.startswith("box_iou"):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        elif name in ("bias_act", "filtered_lrelu", "upfirdn2d"):
            torch.testing.assert_close(a, b)
        else:
            assert torch.equal(a, b)


def test_gradients_run():
    coords, x = sparse(3)
    table = ops.rulebook_submanifold(coords, (5, 6, 7), 1)
    x, w = x.double().requires_grad_(), torch.rand(4, 3, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    ops.sparse_conv(x, w, table, symmetric=True).square().sum().backward()
    assert torch.autograd.gradcheck(lambda x, w: ops.sparse_conv(x, w, table, symmetric=True), (x, w))
    plane = cloud(25).double().view(1, 4, 5, 5).requires_grad_()
    taps = torch.ones(4, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda p: ops.filtered_lrelu(p, up_filter=taps, down_filter=taps, up=2, down=2, padding=3), (plane,)
    )
    points = cloud(50).double().requires_grad_()
    ops.voxelize(points, *GRID, 3, 300, mean=True).voxels.sum().backward()
    assert bool(points.grad.isfinite().all())
