"""The zoo against the counts of the published definitions: parameters, multiply-accumulates, stages, taps."""

import pytest
import torch
from torch import nn

from tenfold._errors import UserInputError
from tenfold.distill.models import MODELS, SLOW_STARTERS, create_model, tap_shapes
from tenfold.testing import require, undrawn
from tenfold.train import count_macs, count_parameters

CIFAR = (3, 32, 32)
RES = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]
X4 = [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,)]
VGG = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), (512,)]
WIDE = [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512,)]
W2 = [(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8), (128,)]

# parameters, MACs, convolutions, normalisations, taps
TABLE = {
    "resnet8": (83892, 12507392, 9, 9, RES),
    "resnet14": (181108, 26663168, 15, 15, RES),
    "resnet20": (278324, 40818944, 21, 21, RES),
    "resnet32": (472756, 69130496, 33, 33, RES),
    "resnet44": (667188, 97442048, 45, 45, RES),
    "resnet56": (861620, 125753600, 57, 57, RES),
    "resnet110": (1736564, 253155584, 111, 111, RES),
    "resnet8x4": (1233540, 177071104, 10, 10, X4),
    "resnet14x4": (2783620, 403563520, 16, 16, X4),
    "resnet32x4": (7433860, 1083040768, 34, 34, X4),
    "wrn_16_1": (180916, 26663168, 15, 13, RES),
    "wrn_16_2": (703284, 101118464, 16, 13, W2),
    "wrn_40_1": (569780, 83286272, 39, 37, RES),
    "wrn_40_2": (2255156, 327610880, 40, 37, W2),
    "vgg8": (3965028, 96192512, 5, 5, VGG),
    "vgg11": (9277284, 209438720, 8, 8, VGG),
    "vgg13": (9462180, 284936192, 10, 10, VGG),
    "vgg16": (14774436, 398182400, 13, 13, VGG),
    "vgg19": (20086692, 511428608, 16, 16, VGG),
    "ResNet18": (11220132, 555468800, 20, 20, WIDE),
    "ResNet34": (21328292, 1159448576, 36, 36, WIDE),
    "ResNet50": (
        23705252,
        1298014208,
        53,
        53,
        [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (2048,)],
    ),
    "MobileNetV2": (
        812836,
        6523648,
        53,
        53,
        [(16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2), (1280,)],
    ),
    "ShuffleV1": (949258, 38691456, 49, 49, [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4), (960,)]),
    "ShuffleV2": (
        1355528,
        44504448,
        56,
        56,
        [(24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4), (1024,)],
    ),
}

# Sums over the children of the network, in their order.
STAGES = {
    "resnet32x4": {
        "conv1": 864,
        "bn1": 64,
        "layer1": 353664,
        "layer2": 1411840,
        "layer3": 5641728,
        "fc": 25700,
    },
    "wrn_40_2": {
        "conv1": 432,
        "block1": 107232,
        "block2": 427456,
        "block3": 1706880,
        "bn1": 256,
        "fc": 12900,
    },
    "vgg13": {
        "block0": 38976,
        "block1": 221952,
        "block2": 886272,
        "block3": 3542016,
        "block4": 4721664,
        "classifier": 51300,
    },
    "ResNet50": {
        "conv1": 1728,
        "bn1": 128,
        "layer1": 215808,
        "layer2": 1219584,
        "layer3": 7098368,
        "layer4": 14964736,
        "linear": 204900,
    },
    "MobileNetV2": {"conv1": 464, "conv2": 207360, "classifier": 128100},
    "ShuffleV1": {
        "conv1": 72,
        "bn1": 48,
        "layer1": 38898,
        "layer2": 297300,
        "layer3": 516840,
        "linear": 96100,
    },
    "ShuffleV2": {
        "conv1": 72,
        "bn1": 48,
        "layer1": 30192,
        "layer2": 244180,
        "layer3": 501352,
        "conv2": 475136,
        "bn2": 2048,
        "linear": 102500,
    },
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_and_taps(name):
    model = create_model(name)
    parameters, macs, convolutions, norms, taps = TABLE[name]
    assert count_parameters(model) == parameters
    assert count_macs(model, torch.zeros(1, *CIFAR)).macs == macs
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Conv2d) == convolutions
    assert kinds.count(nn.BatchNorm2d) == norms
    assert tap_shapes(model, CIFAR) == taps
    assert model.feature_dim == taps[-1][0]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        if isinstance(module, nn.Conv2d):
            assert (module.bias is not None) == name.startswith("vgg")


@pytest.mark.parametrize("name", STAGES)
def test_stage_sums(name):
    with undrawn():
        model = create_model(name)
    for child, number in STAGES[name].items():
        assert count_parameters(getattr(model, child)) == number, child


def test_mobilenet_stages():
    blocks = [count_parameters(block) for block in create_model("MobileNetV2").blocks]
    assert blocks == [608, 4296, 11688, 50464, 80928, 207168, 121760]


def test_the_small_setting_has_the_published_ratio():
    teacher, student = (
        count_macs(create_model(name, 20), torch.zeros(1, 3, 16, 16)).macs for name in ("resnet8", "plain3")
    )
    assert (teacher, student) == (3126528, 104640)
    assert teacher / student == pytest.approx(29.88, abs=0.005)


@pytest.mark.parametrize(
    "name", ["resnet8", "wrn_16_1", "vgg8", "ResNet18", "MobileNetV2", "ShuffleV1", "ShuffleV2", "plain3"]
)
def test_taps_and_hidden_taps_agree_with_the_forward_pass(name):
    torch.manual_seed(0)
    model = create_model(name, 7).train()
    x = torch.randn(4, *CIFAR)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    taps, logits = model.forward_features(x)
    after = {key: value.clone() for key, value in model.state_dict().items()}
    model.load_state_dict(before)
    hidden, same = model.forward_features(x, preact=True)
    torch.testing.assert_close(logits, same)
    for key, value in model.state_dict().items():  # tapping must not run a normalisation twice
        torch.testing.assert_close(value, after[key])
    model.load_state_dict(before)
    torch.testing.assert_close(model(x), logits)
    last = list(model.children())[-1]
    torch.testing.assert_close(last(taps[-1]), logits)
    if name in ("resnet8", "vgg8", "ResNet18", "ShuffleV1", "plain3"):
        for shown, raw in zip(taps[1:-1], hidden[1:-1], strict=True):
            torch.testing.assert_close(shown, raw.relu())
            assert (raw < 0).any()


def test_state_dict_names_are_those_of_the_published_code():
    names = {
        "resnet20": {"layer2.0.downsample.1.running_var", "layer3.2.bn2.weight", "fc.bias"},
        "wrn_40_2": {
            "block1.layer.0.convShortcut.weight",
            "block3.layer.5.bn2.bias",
            "bn1.weight",
            "fc.weight",
        },
        "vgg13": {"block0.0.weight", "block0.3.weight", "block4.4.running_mean", "classifier.weight"},
        "ResNet50": {"layer1.0.shortcut.0.weight", "layer4.2.conv3.weight", "linear.weight"},
        "MobileNetV2": {"conv1.0.weight", "blocks.2.1.conv.7.bias", "conv2.1.weight", "classifier.weight"},
        "ShuffleV1": {"layer1.0.conv1.weight", "layer3.3.bn3.bias", "linear.weight"},
        "ShuffleV2": {"layer2.0.conv5.weight", "layer2.7.bn3.weight", "conv2.weight", "linear.weight"},
    }
    with undrawn():
        for name, wanted in names.items():
            assert wanted <= set(create_model(name).state_dict()), name


def test_initialisation():
    torch.manual_seed(0)
    wrn = create_model("wrn_16_2")
    weight = wrn.block2.layer[1].conv1.weight
    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert not wrn.fc.bias.any()
    vgg = create_model("vgg8")
    assert float(vgg.classifier.weight.std()) == pytest.approx(0.01, rel=0.02)
    assert not vgg.block1[0].bias.any()
    resnet = create_model("resnet20")
    assert float(resnet.layer3[1].conv1.weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_large_images_get_a_fourth_pooling_in_vgg():
    shapes = tap_shapes(create_model("vgg8"), (3, 64, 64))
    assert [shape[-1] for shape in shapes[:-1]] == [64, 32, 16, 8, 4]


def test_mobilenet_v1_has_the_published_size():
    model = create_model("MobileNetV1", 1000)
    assert count_parameters(model) == 4231976
    assert count_macs(model, torch.zeros(1, 3, 224, 224)).macs == 568740352


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11689512), ("mobilenet_v2", 3504872), ("shufflenet_v2_x1_0", 2278604)],
)
def test_torchvision_networks_by_name(name, parameters):
    require("torchvision")
    with undrawn():
        assert count_parameters(create_model(f"torchvision:{name}", 1000)) == parameters


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_model("resnet9"), "did you mean 'resnet"),
        (lambda: create_model("resnet20", 0), "num_classes: got 0"),
        (lambda: create_model("torchvision:nothing"), "torchvision:nothing"),
        (lambda: MODELS["resnet8"].func(9), "expected 6 n \\+ 2"),
        (lambda: MODELS["wrn_16_1"].func(17, 1), "expected 6 n \\+ 4"),
        (lambda: MODELS["vgg8"].func(9), "expected one of 8"),
        (lambda: MODELS["ResNet18"].func(19), "expected one of 18"),
    ],
)
def test_bad_names_are_the_user_s_error(call, message):
    with pytest.raises((UserInputError, ValueError), match=message):
        call()


def test_slow_starters_exist():
    assert set(SLOW_STARTERS) <= set(MODELS)
