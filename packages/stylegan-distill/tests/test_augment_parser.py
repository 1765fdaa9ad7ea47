"""Adaptive augmentation and the face parser."""

import pytest
import torch

from stylegan_distill.augment import AdaptiveAugment, _resampled, _shifts, _turns
from stylegan_distill.parser import FACE_CLASSES, BiSeNet, FaceParser
from tenfold._errors import UserInputError


def test_nothing_happens_at_zero_and_everything_at_one():
    x = torch.rand(6, 3, 16, 16) * 2 - 1
    assert AdaptiveAugment(p=0.0)(x) is x
    full = AdaptiveAugment(p=1.0)
    full.generator = torch.Generator().manual_seed(0)
    first = full(x)
    assert first.shape == x.shape
    assert (first - x).abs().flatten(1).mean(1).min() > 0.05
    full.generator.manual_seed(0)
    torch.testing.assert_close(full(x), first)
    rare = AdaptiveAugment(p=0.02)
    rare.generator = torch.Generator().manual_seed(0)
    many = torch.rand(200, 3, 8, 8)
    untouched = (rare(many) - many).abs().flatten(1).amax(1) < 0.05
    assert 0.5 < untouched.float().mean() < 0.95


def test_gradients_flow_to_the_images_twice():
    augment = AdaptiveAugment(p=0.8)
    x = torch.rand(2, 3, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(augment(x).square().sum(), x, create_graph=True)
    assert gradient.abs().sum() > 0
    (second,) = torch.autograd.grad(gradient.square().sum(), x)
    assert second.abs().sum() > 0


@pytest.mark.parametrize("angle", [0.5, 1.0, 1.5])
def test_quarter_turns_and_whole_shifts_move_pixels(angle):
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4), (32, 32), mode="bicubic")
    turned = _resampled(smooth, _turns(torch.tensor([angle * torch.pi])))
    wanted = torch.rot90(smooth, -round(angle * 2) % 4, (3, 2))
    other = torch.rot90(smooth, round(angle * 2) % 4, (3, 2))
    gap = min((turned - v)[..., 2:-2, 2:-2].abs().max() for v in (wanted, other))
    assert gap < 0.05
    moved = _resampled(smooth, _shifts(torch.tensor([4 / 32]), torch.tensor([-2 / 32])))
    gap = (moved[..., 6:-6, 6:-8] - smooth[..., 4:-8, 10:-4]).abs().max()
    assert gap < 0.05


def test_colours_keep_grey_grey_apart_from_brightness():
    augment = AdaptiveAugment(p=1.0, geometry=False)
    grey = torch.rand(5, 1, 4, 4).expand(-1, 3, -1, -1)
    found = augment(grey)
    torch.testing.assert_close(found, found.mean(1, keepdim=True).expand_as(found), atol=1e-5, rtol=0)
    # One linear map a image: sums of images go to sums, up to the offset.
    augment.generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 3, 3, 4, 4)
    values = []
    for image in (x, y, x + y, torch.zeros_like(x)):
        augment.generator.manual_seed(1)
        values.append(augment(image))
    torch.testing.assert_close(values[0] + values[1], values[2] + values[3], atol=1e-5, rtol=1e-5)


def test_strength_follows_the_discriminator():
    augment = AdaptiveAugment(target=0.6, speed=1000)
    for _ in range(10):
        augment.update(torch.ones(50))
    assert augment.p.item() == pytest.approx(0.5)
    augment.update(torch.cat((torch.ones(25), -torch.ones(25))))
    assert augment.p.item() == pytest.approx(0.45)
    for _ in range(40):
        augment.update(-torch.ones(50))
    assert augment.p.item() == 0.0
    fixed = AdaptiveAugment(target=None, p=0.3)
    assert fixed.update(torch.ones(10**6)) == pytest.approx(0.3)
    again = AdaptiveAugment()
    again.load_state_dict(fixed.state_dict())
    assert again.p.item() == pytest.approx(0.3)
    with pytest.raises(ValueError, match="p: got 2"):
        AdaptiveAugment(p=2)


def test_backbone_is_torchvisions_resnet():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs, net = models.resnet18(weights=None).eval(), BiSeNet()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    net.cp.resnet.load_state_dict(state)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        y = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        maps = [theirs.layer2(y)]
        maps.append(theirs.layer3(maps[0]))
        maps.append(theirs.layer4(maps[1]))
        for got, wanted in zip(net.cp.resnet(x), maps, strict=True):
            torch.testing.assert_close(got, wanted)


def test_parser_reads_the_public_layout(tmp_path):
    torch.manual_seed(0)
    state = BiSeNet().state_dict()
    names = {
        *("cp.resnet.layer2.0.downsample.0.weight", "cp.arm16.conv.conv.weight", "ffm.convblk.conv.weight"),
        *("cp.arm32.bn_atten.running_var", "cp.conv_head32.bn.weight", "cp.conv_avg.conv.weight"),
        *("ffm.conv2.weight", "conv_out.conv_out.weight", "conv_out16.conv.conv.weight"),
        "conv_out32.conv_out.weight",
    }
    assert names <= set(state)
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_b" not in k) == 13_300_416
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "79999_iter.pth")
    parser = FaceParser(tmp_path / "79999_iter.pth", side=64)
    for size in (1, 2):
        scores = parser(torch.rand(size, 3, 32, 32) * 2 - 1)
        assert scores.shape == (size, len(FACE_CLASSES), 64, 64)
    assert parser.train().net.training is False
    assert FACE_CLASSES[16] == "cloth"
    del state["ffm.conv2.weight"]
    with pytest.raises(UserInputError, match=r"ffm\.conv2"):
        FaceParser(state)
