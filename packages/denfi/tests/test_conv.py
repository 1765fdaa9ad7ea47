"""The moved sampling, against shifts, a loop, torchvision's operator and finite differences."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import deform_conv2d

from denfi import DenfiConv
from denfi.model import AnchorGuidedConv, DeformableConv, SeparableConv, encode_proposals, sample_shifted


def double_conv(**options):
    torch.manual_seed(1)
    return DenfiConv(4, 6, norm="none", **options).double()


def inputs(batch=2, height=7, width=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(batch, 4, height, width, generator=generator, dtype=torch.float64)
    proposals = torch.rand(batch, 5, height, width, generator=generator, dtype=torch.float64) * 6 - 1
    return feat, proposals


def loop_sample(feat, offset):
    """Bilinear reading written out, zero outside."""
    batch, _, height, width = feat.shape
    out = torch.zeros_like(feat)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                y, x = i + offset[b, 0, i, j].item(), j + offset[b, 1, i, j].item()
                for r in (math.floor(y), math.floor(y) + 1):
                    for c in (math.floor(x), math.floor(x) + 1):
                        if 0 <= r < height and 0 <= c < width:
                            out[b, :, i, j] += feat[b, :, r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), st.integers(2, 8), st.floats(0.1, 12))
def test_three_ways_to_sample_agree(seed, height, width, reach):
    generator = torch.Generator().manual_seed(seed)
    feat = torch.randn(1, 3, height, width, generator=generator, dtype=torch.float64)
    offset = torch.randn(1, 2, height, width, generator=generator, dtype=torch.float64) * reach
    sampled = sample_shifted(feat, offset)
    assert torch.allclose(sampled, loop_sample(feat, offset), atol=1e-10)
    eye = torch.eye(3, dtype=torch.float64)[..., None, None]
    assert torch.allclose(sampled, deform_conv2d(feat, offset, eye), atol=1e-10)


def test_backends_agree():
    feat, proposals = inputs()
    one, two = double_conv(), double_conv(backend="deform_conv")
    assert torch.allclose(one(feat, proposals), two(feat, proposals), atol=1e-10)
    assert torch.allclose(
        one.float()(feat.float(), proposals.float()), two(feat, proposals).float(), atol=1e-5
    )


def test_it_is_a_deformable_convolution_whose_taps_share_one_offset():
    """Away from the border: a 3x3 deformable depth-wise convolution, then the point-wise one."""
    feat, _ = inputs(height=12, width=12)
    conv = double_conv()
    offset = torch.rand(2, 2, 12, 12, dtype=torch.float64) * 2 - 1
    ours = F.relu(conv.pointwise(sample_shifted(conv.depthwise(feat), offset)))
    depthwise = deform_conv2d(feat, offset.repeat(1, 9, 1, 1), conv.depthwise.weight, padding=1)
    theirs = F.relu(conv.pointwise(depthwise))
    assert torch.allclose(ours[..., 3:-3, 3:-3], theirs[..., 3:-3, 3:-3], atol=1e-10)
    assert not torch.allclose(ours, theirs, atol=1e-3)


def test_no_offset_is_the_plain_convolution():
    feat, proposals = inputs()
    conv = double_conv()
    torch.nn.init.zeros_(conv.offset.weight)
    wanted = F.relu(conv.pointwise(conv.depthwise(feat)))
    assert torch.allclose(conv(feat, proposals), wanted, atol=1e-12)
    plain = SeparableConv(4, 6, "none").double()
    plain.load_state_dict({k: v for k, v in conv.state_dict().items() if not k.startswith("offset")})
    assert torch.allclose(plain(feat, proposals), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("shift", "slices"), [((1, 0), (slice(1, None), slice(None))), ((0, 1), (slice(None), slice(1, None)))]
)
def test_order_of_the_axes(shift, slices):
    """(1, 0) reads the cell of larger y, which is the next row; (0, 1) that of larger x."""
    feat, _ = inputs()
    offset = torch.tensor(shift, dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 7, 9)
    sampled = sample_shifted(feat, offset)
    wanted = feat[:, :, shift[0] :, shift[1] :]
    assert torch.allclose(sampled[:, :, : wanted.shape[2], : wanted.shape[3]], wanted, atol=1e-12)
    # What lies outside is zero.
    assert sampled[:, :, -1, -1].abs().max() < 1e-12


def test_edge_vectors_point_where_the_edges_are():
    """An object that looks along +y: its front is so many rows on, its left so many columns back."""
    told = torch.tensor([1.0, 3.0, 2.0, 4.0, math.pi / 2], dtype=torch.float64).view(1, 5, 1, 1)
    vectors = encode_proposals(told, "geometric").view(4, 2)
    wanted = torch.tensor([[3.0, 0], [-4, 0], [0, -1], [0, 2]], dtype=torch.float64)
    assert torch.allclose(vectors, wanted, atol=1e-12)
    assert encode_proposals(told) is told


def test_gradients():
    feat, proposals = inputs(1, 4, 5)
    conv = double_conv(detach_proposals=False, offset_encoding="geometric")
    # Away from whole cells, where bilinear reading has a kink.
    torch.nn.init.constant_(conv.offset.bias, 0.313)
    tensors = [feat.requires_grad_(), proposals.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda f, p: conv.pointwise(sample_shifted(conv.depthwise(f), conv.offsets(p))), tensors
    )
    offset = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample_shifted, [feat.detach(), offset])
    conv(feat, proposals).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in conv.parameters())


@pytest.mark.parametrize("detach", [True, False])
def test_proposals_are_detached_on_demand(detach):
    feat, proposals = inputs()
    conv = double_conv(detach_proposals=detach)
    proposals.requires_grad_()
    conv(feat, proposals).sum().backward()
    assert conv.offset.weight.grad.abs().sum() > 0
    assert (proposals.grad is None) == detach


def test_the_last_offset_is_shown_in_cells():
    feat, proposals = inputs()
    conv = double_conv()
    conv(feat, proposals)
    assert conv.last_offset.shape == (2, 2, 7, 9)
    assert torch.equal(conv.last_offset, conv.offset(proposals))
    assert not conv.last_offset.requires_grad


def test_half_precision_keeps_coordinates():
    """Under autocast, offsets 190 cells away still resolve fractions of a cell."""
    torch.manual_seed(0)
    conv = DenfiConv(4, norm="none")
    torch.nn.init.zeros_(conv.offset.weight)
    torch.nn.init.constant_(conv.offset.bias, 0.25)
    feat, proposals = torch.randn(1, 4, 3, 200), torch.ones(1, 5, 3, 200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = conv(feat, proposals)
        deep = conv.depthwise(feat)
    assert conv.last_offset.dtype == torch.float32
    assert (conv.last_offset == 0.25).all()
    wanted = F.relu(conv.pointwise(sample_shifted(deep.float(), conv.last_offset)))
    assert (narrow.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_parameters_of_the_table():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    conv = DenfiConv(256, norm="none")
    assert count(conv) == 67_840 + 12
    assert count(conv) - count(SeparableConv(256, norm="none")) == 12
    assert DeformableConv(256).weight.numel() == 589_824
    assert conv.offset.weight.std().item() == pytest.approx(0.1, rel=0.6)
    assert (conv.offset.bias == 0).all()
    torch.manual_seed(0)
    assert DenfiConv(512).offset.weight.abs().max() < 0.5


def test_other_designs():
    feat, proposals = inputs()
    feat, proposals = feat.float(), proposals.float()
    torch.manual_seed(0)
    full = DeformableConv(4).eval()
    # Its offsets start at zero: a plain 3x3 convolution.
    plain = F.relu(full.norm(F.conv2d(feat, full.weight, padding=1)))
    assert torch.allclose(full(feat), plain, atol=1e-5)
    guided = DeformableConv(4, "proposals").eval()
    assert not torch.allclose(guided(feat, proposals), guided(feat, proposals + 1))
    anchor = AnchorGuidedConv(4)
    shape = proposals[:, :2].requires_grad_()
    anchor(feat, shape).sum().backward()
    assert shape.grad is None
    assert anchor.offset.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="expected a multiple of 4"):
        AnchorGuidedConv(6)
    with pytest.raises(ValueError, match=r"proposals: got shape .* expected \(2, 2, 7, 9\)"):
        anchor(feat, proposals)


def test_bad_arguments_are_named():
    feat, proposals = inputs()
    conv = double_conv()
    with pytest.raises(ValueError, match="proposals: got none"):
        conv(feat)
    with pytest.raises(ValueError, match=r"proposals: got shape \(1, 5, 7, 9\)"):
        conv(feat, proposals[:1])
    with pytest.raises(ValueError, match="feat: got shape"):
        conv(feat[:, :2], proposals)
    for name, value in (("offset_encoding", "polar"), ("backend", "cuda"), ("norm", "gn")):
        with pytest.raises(ValueError, match=f"{name}: got '{value}'"):
            DenfiConv(4, **{name: value})
    with pytest.raises(ValueError, match="single row or column"):
        sample_shifted(torch.zeros(1, 1, 1, 4), torch.zeros(1, 2, 1, 4))
