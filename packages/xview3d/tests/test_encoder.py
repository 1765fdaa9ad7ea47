"""View encoders: the circle without a seam, gates, empty views; and the point-level rival."""

import math

import pytest
import torch
from xview3d_tiny import settle, tiny_batch, tiny_detector, tiny_views

from tenfold.lidar import build_detector
from xview3d import View, ViewEncoder
from xview3d.mvf import add_mvf

RANGE = (0.0, -8.0, -2.0, 16.0, 8.0, 2.0)
CENTER = (8.0, 0.5, 0.25)


def ring(turn=0.0, number=1500):
    """Local points in the middle of cells, so that a turn by whole cells moves no point over a face."""
    generator = torch.Generator().manual_seed(0)
    view = circular_view()
    cells = torch.stack([torch.randint(n, (number,), generator=generator) for n in view.grid], 1).unique(
        dim=0
    )
    local = (cells.double() + 0.5) * torch.tensor(view.voxel, dtype=torch.float64)
    local += torch.tensor(view.bounds[:3], dtype=torch.float64)
    local[:, 1] = torch.remainder(local[:, 1] + turn + math.pi, 2 * math.pi) - math.pi
    features = torch.rand(len(local), 1, generator=generator, dtype=torch.float64)
    # What an encoder sees of psi must not change with the turn: psi itself is a feature, so it is left out here.
    return torch.cat((torch.zeros(len(local), 1, dtype=torch.float64), local, features), 1)


def circular_view():
    return View(CENTER, voxel=(0.5, 0.1, 0.1), psi_padding="circular", max_points=4).resolved(RANGE)


@pytest.mark.parametrize("kind", ["voxel", "unet"])
@pytest.mark.parametrize("cells", [8, 24, -16])
def test_a_circular_view_has_no_seam(kind, cells):
    """Turning the scene by whole output cells turns the features, bit for bit up to rounding."""
    view = circular_view()
    torch.manual_seed(0)
    encoder = ViewEncoder(kind, view, channels=(4, 4, 4, 4), out_channels=4).double().eval()
    with torch.no_grad():
        for module in encoder.modules():
            if hasattr(module, "running_var"):
                module.running_var.fill_(0.05)

    def run(turn):
        voxels = encoder.voxels(ring(turn), 1)
        plain = voxels.features.clone()
        plain[:, 1] = 0.3
        return encoder.encode_voxels(voxels.replace(plain))

    still, turned = run(0.0), run(cells * view.voxel[1])
    for a, b, stride in ((still.out, turned.out, 8), (still.sites, turned.sites, 1)):
        if a is None:
            continue
        number = view.grid[1] // stride
        moved = torch.remainder(a.coords[:, 2] + cells // stride, number)
        key = {tuple(row): k for k, row in enumerate(b.coords.tolist())}
        rows = [key[0, t, p, r] for (_, t, _, r), p in zip(a.coords.tolist(), moved.tolist(), strict=True)]
        assert len(rows) == len(b.coords)
        torch.testing.assert_close(b.features[rows], a.features, atol=1e-12, rtol=1e-9)
        assert a.features.abs().sum() > 0
        assert a.spatial_shape[1] == number


def test_a_view_with_a_seam_has_one():
    """The same without circular padding: the check above can fail."""
    view = View(CENTER, voxel=(0.5, circular_view().voxel[1], 0.1), range=(*circular_view().bounds,))
    torch.manual_seed(0)
    encoder = ViewEncoder("voxel", view, channels=(4, 4, 4, 4), out_channels=4).double().eval()
    still, turned = (encoder(ring(turn), 1).out for turn in (0.0, 8 * view.voxel[1]))
    same = len(still.coords) == len(turned.coords)
    assert not same or not torch.allclose(still.features.sum(0), turned.features.sum(0), rtol=1e-6)


def test_an_empty_view_gives_empty_features_and_zero_gradients():
    view = View(range=(0, -1.6, 0, 16, 1.6, 3.2), voxel=(0.5, 0.1, 0.1))
    encoder = ViewEncoder("unet", view, gate=True).train()
    found = encoder(torch.zeros(0, 5), 2)
    assert (len(found.out.coords), len(found.sites.coords)) == (0, 0)
    (found.out.features.sum() + found.sites.features.sum()).backward()
    assert encoder.gate.grad is not None
    behind = torch.tensor([[0.0, 5.0, 3.0, 1.5, 0.5]])  # psi beyond the range
    assert len(encoder(behind, 1).out.coords) == 0


def test_a_view_too_flat_for_its_encoder_is_refused():
    view = View(range=(0, -1.6, 0, 16, 1.6, 3.2), voxel=(0.5, 0.1, 0.2))
    with pytest.raises(ValueError, match=r"16 cells along theta; .* 24 or more"):
        ViewEncoder("voxel", view)


def test_the_rival_fuses_points_before_voxels():
    batch = tiny_batch()
    base = tiny_detector("second")
    model = settle(add_mvf(base, tiny_views("second")[:1], channels=6, cell=(0.04, 0.04)))
    assert model.backbone_3d.conv_input[0].in_channels == 10
    assert model.config.point_features == 4
    found = model(batch)
    assert all(frame["boxes"].isfinite().all() for frame in found)
    model.train()(batch)["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(float(p.grad.abs().sum()) > 0 for p in model.images.parameters())
    with pytest.raises(ValueError, match="add_mvf"):
        add_mvf(build_detector("pointpillars"))
    nothing = {**batch, "points": batch["points"][:0]}
    assert [len(frame["scores"]) for frame in model.eval()(nothing)] == [0, 0]


def test_the_rival_reads_its_image_where_the_point_lies():
    """A tower that passes on, and one point: what comes back is what was written, at its cell's centre."""
    from xview3d.mvf import PerspectiveImage

    view = View(range=(0, -1.6, 0, 16, 1.6, 3.2), voxel=(0.5, 0.1, 0.1))
    torch.manual_seed(0)
    image = PerspectiveImage(view, 4, 3, (0.1, 0.1)).eval()
    image.tower = torch.nn.Identity()
    point = torch.tensor([[0.0, 5.0, 0.05, 1.55, 0.5]])
    torch.testing.assert_close(image(point, 1), image.rows(point[:, 1:]))
    beyond = torch.tensor([[0.0, 5.0, 2.0, 1.55, 0.5]])
    assert image(torch.cat((point, beyond)), 1)[1].abs().sum() == 0
