"""Checkpoints of ours, the official ones by their keys, torchvision's and DarkNet's."""

import numpy as np
import pytest
import torch
import torchvision
from official_layout import official

from tenfold._errors import UserInputError
from tenfold.testing import assert_survives_disk_full, corruptions, unwritable_path
from ttfnet.checkpoint import (
    NORMALIZATIONS,
    coco_categories,
    convert_checkpoint,
    describe,
    load_backbone,
    load_detector,
    read_darknet,
    save_detector,
)
from ttfnet.model import DarkNet53, ResNet, TTFNet, build_backbone


def numbered(make):
    """A network whose every tensor holds numbers of its own; drawing millions of random ones takes longer."""
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    for k, tensor in enumerate((*model.parameters(), *model.buffers())):
        values = torch.linspace(1 + k / 1000, 1.5 + k / 1000, tensor.numel())
        tensor.data.copy_(values.view(tensor.shape))
    return model.eval()


@pytest.fixture(scope="module")
def donor():
    return numbered(lambda: TTFNet("resnet18", 80))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_checkpoints_convert(donor, prefix):
    state = {prefix + k: v for k, v in official(donor, {"hm": 2, "wh": 1}).items()}
    model, info = convert_checkpoint({"meta": {"epoch": 12}, "state_dict": state})
    loaded = model.state_dict()
    for key, value in donor.state_dict().items():
        assert torch.equal(loaded[key], value), key
    assert (info.settings["backbone"], info.settings["num_classes"], info.legacy_boxes) == (
        "resnet18",
        80,
        True,
    )
    assert (info.class_names[0], info.class_names[79]) == ("person", "toothbrush")
    assert (info.category_ids[11], info.category_ids[-1], len(info.category_ids)) == (13, 90, 80)
    assert NORMALIZATIONS[info.normalization][0] == (123.675, 116.28, 103.53)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("backbone", "layers"), [("resnet34", 2), ("darknet53", 2)])
def test_backbone_and_heads_follow_from_the_keys(backbone, layers):
    model = numbered(lambda: TTFNet(backbone, 7))
    found, info = convert_checkpoint(official(model, {"hm": 2, "wh": layers}))
    assert (info.settings["backbone"], found.num_classes) == (backbone, 7)
    assert len(found.head.distances) == 2 * layers + 1


def official_dla(model):
    """A state dict with the names of the official DLA-34 (backbone of the DLASeg class), from one of ours."""
    state = {}
    for key, value in model.state_dict().items():
        room, *parts = key.split(".")
        if room == "backbone":
            parts[0] = {"base": "base_layer"}.get(parts[0], parts[0])
            state["backbone.base." + ".".join(parts)] = value
        elif room == "neck":
            place = ["ida_up"] if parts[0] == "final" else ["dla_up", f"ida_{parts.pop(1)}"]
            _, kind, number, *rest = parts
            layer = f"{ {'project': 'proj', 'node': 'node', 'up': 'up'}[kind] }_{int(number) + 1}"
            if kind != "up":
                unit, *rest = rest
                rest = ["conv" if unit == "0" else "actf.0", *rest]
            name = ".".join(["backbone", *place, layer, *rest])
            state[name.replace("offset_mask", "conv_offset_mask")] = value
        else:
            branch = {"heatmap": "hm", "distances": "wh"}[parts[0]]
            last = {"hm": 2, "wh": 1}[branch]
            number = int(parts[1]) // 2
            state[f"bbox_head.{branch}.{number}.{'' if number == last else 'conv.'}{parts[2]}"] = value
    for level, (a, b) in {3: (64, 128), 4: (128, 256)}.items():  # made and never used there
        state[f"backbone.base.level{level}.project.0.weight"] = torch.zeros(b, a, 1, 1)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"backbone.base.level{level}.project.1.{name}"] = torch.zeros(b)
    return state


@pytest.fixture(scope="module")
def dla_donor():
    return numbered(lambda: TTFNet("dla34", 80))


@pytest.mark.usefixtures("undrawn")
def test_official_dla34_converts(dla_donor):
    state = official_dla(dla_donor)
    for key in (
        "backbone.base.level3.tree1.tree1.conv1.weight",
        "backbone.dla_up.ida_2.proj_3.conv.conv_offset_mask.weight",
        "backbone.ida_up.node_2.actf.0.running_mean",
        "backbone.dla_up.ida_0.up_1.weight",
        "bbox_head.wh.1.bias",
    ):
        assert key in state
    model, info = convert_checkpoint({"state_dict": {f"module.{k}": v for k, v in state.items()}})
    assert (info.settings["backbone"], info.legacy_boxes) == ("dla34", True)
    loaded = model.state_dict()
    for key, value in dla_donor.state_dict().items():
        assert torch.equal(loaded[key], value), key
    state["backbone.ida_up.node_9.conv.weight"] = torch.zeros(1)
    with pytest.raises(UserInputError, match=r"unexpected: backbone\.ida_up\.node_9\.conv\.weight"):
        convert_checkpoint(state)
    del state["backbone.ida_up.node_9.conv.weight"], state["backbone.ida_up.up_2.weight"]
    with pytest.raises(UserInputError, match=r"ida_up.*up_2"):
        convert_checkpoint(state)


@pytest.mark.usefixtures("undrawn")
def test_weights_of_dla34_by_its_authors_load(dla_donor):
    prefix = "backbone.base."
    state = {k.removeprefix(prefix): v for k, v in official_dla(dla_donor).items() if k.startswith(prefix)}
    state |= {"fc.weight": torch.zeros(1000, 512, 1, 1), "fc.bias": torch.zeros(1000)}
    backbone = build_backbone("dla34")
    load_backbone(backbone, state)
    loaded = backbone.state_dict()
    for key, value in dla_donor.backbone.state_dict().items():
        assert torch.equal(loaded[key], value), key


def test_backbones_of_pafnet_load_from_timm_and_torchvision():
    donor = build_backbone("resnet50vd")
    state = {**donor.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    assert {"conv1.0.weight", "conv1.6.weight", "bn1.weight", "layer2.0.downsample.1.weight"} <= set(state)
    deformable = build_backbone("resnet50vd_dcn")
    load_backbone(deformable, state)
    assert torch.equal(deformable.layer2[0].conv2.weight, donor.layer2[0].conv2.weight)
    assert deformable.layer2[0].conv2.offset_mask.weight.abs().max() == 0
    with pytest.raises(UserInputError, match="missing: layer1"):
        load_backbone(deformable, {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"})
    whole = torchvision.models.mobilenet_v3_large(weights=None)
    mobile = build_backbone("mobilenetv3")
    load_backbone(mobile, whole.state_dict())
    assert torch.equal(mobile.features[3].block[0][0].weight, whole.features[3].block[0][0].weight)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("bbox_head.hm.0.conv.weight"), r"bbox_head\.hm\.\d.*: missing|shape"),
        (
            lambda s: s.pop("bbox_head.deconv_layers.1.0.conv_offset_mask.bias"),
            "missing: neck.convs.1.offset_mask.bias",
        ),
        (lambda s: s.pop("backbone.layer3.1.bn2.running_var"), "missing: backbone.layer3.1.bn2.running_var"),
        (
            lambda s: s.update({"bbox_head.wh.0.conv.weigth": s.pop("bbox_head.wh.0.conv.weight")}),
            "bbox_head.wh.0.conv.weight: missing",
        ),
        (
            lambda s: s.update({"bbox_head.extra.weight": torch.zeros(1)}),
            "unexpected: bbox_head.extra.weight",
        ),
        (
            lambda s: s.update({"backbone.conv1.weight": torch.zeros(64, 3, 3, 3)}),
            "shape: backbone.conv1.weight",
        ),
    ],
)
def test_an_altered_key_fails_loudly(donor, change, message):
    state = official(donor, {"hm": 2, "wh": 1})
    change(state)
    with pytest.raises(UserInputError, match=message):
        convert_checkpoint(state)


def test_something_else_is_refused():
    with pytest.raises(UserInputError, match="bbox_head: no such keys"):
        convert_checkpoint({"state_dict": {"a": torch.zeros(1)}})


def test_torchvision_weights_load_without_their_classifier():
    torch.manual_seed(0)
    source = torchvision.models.resnet18(weights=None)
    backbone = ResNet(18)
    load_backbone(backbone, source.state_dict())
    x = torch.randn(1, 3, 64, 64)
    wanted = source.eval()
    features = wanted.layer4(
        wanted.layer3(wanted.layer2(wanted.layer1(wanted.maxpool(wanted.relu(wanted.bn1(wanted.conv1(x)))))))
    )
    torch.testing.assert_close(backbone.eval()(x)[-1], features)
    state = source.state_dict()
    state.pop("layer2.0.conv1.weight")
    with pytest.raises(UserInputError, match=r"missing: layer2\.0\.conv1\.weight"):
        load_backbone(backbone, state)
    with pytest.raises(UserInputError, match="keys do not fit"):
        load_backbone(ResNet(34), source.state_dict())


def darknet_file(model, tail=b""):
    """DarkNet's binary layout, written from its description."""
    parts = [np.array([0, 2, 5], "<i4").tobytes(), np.array([32013312], "<i8").tobytes()]
    convs = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)]
    for name, conv in convs:
        norm = model.get_submodule(name.removesuffix("conv") + "bn")
        tensors = (norm.bias, norm.weight, norm.running_mean, norm.running_var, conv.weight)
        parts += [t.detach().numpy().astype("<f4").tobytes() for t in tensors]
    return b"".join(parts) + tail


@pytest.mark.usefixtures("undrawn")
def test_darknet_weights(tmp_path, capsys):
    source = numbered(DarkNet53)
    data = darknet_file(source, tail=bytes(4 * 1025))  # a classifier follows
    file = tmp_path / "darknet53.weights"
    file.write_bytes(data)
    backbone = DarkNet53()
    load_backbone(backbone, file)
    loaded = backbone.state_dict()
    for key, value in source.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(loaded[key], value), key
    assert backbone.normalization == "unit"
    assert "without mean and deviation" in capsys.readouterr().err
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserInputError, match="the file ends after"):
        read_darknet(file, backbone)
    with pytest.raises(UserInputError, match="cannot be read"):
        read_darknet(tmp_path / "none.weights", backbone)
    with pytest.raises(UserInputError, match="fit darknet53 only"):
        load_backbone(ResNet(18), file)


def test_a_checkpoint_of_ours_comes_back(eager_checkpoint, eager_model):
    model, info = load_detector(eager_checkpoint)
    wanted = eager_model()
    loaded = model.state_dict()
    for key, value in wanted.state_dict().items():
        assert torch.equal(loaded[key], value)
    assert not model.training
    assert (info.class_names, info.size, info.resize) == (
        ["rectangle", "ellipse", "triangle"],
        (64, 96),
        "squash",
    )


def answer(file):
    try:
        load_detector(file)
    except UserInputError as error:
        return str(error)
    return ""


def test_damaged_checkpoints_are_one_sentence(eager_checkpoint, tmp_path):
    for name, data in corruptions(eager_checkpoint, flips=2):
        file = tmp_path / "bad.pt"
        file.write_bytes(data)
        said = answer(file)
        # A flipped bit may hit a weight, which no format would notice.
        assert "bad.pt" in said or (not said and ("flipped" in name or "filled" in name)), name


def test_foreign_checkpoints_say_what_is_expected(tmp_path, eager_checkpoint):
    torch.save({"state_dict": {"bbox_head.hm.0.conv.weight": torch.zeros(1)}}, tmp_path / "a.pt")
    with pytest.raises(UserInputError, match="ttfnet convert"):
        load_detector(tmp_path / "a.pt")
    content = torch.load(eager_checkpoint, weights_only=True)
    content["ttfnet"]["settings"]["backbone"] = "vgg"
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(UserInputError, match=r"b\.pt: ttfnet\.settings: backbone: got 'vgg'"):
        load_detector(tmp_path / "b.pt")
    content["ttfnet"]["format"] = 9
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(UserInputError, match="another version"):
        load_detector(tmp_path / "c.pt")


def save(path):
    model = TTFNet("small", 2)
    save_detector(path, model, describe(model))


def test_saving_is_whole_or_not_at_all(tmp_path):
    assert_survives_disk_full(save, tmp_path / "disk" / "model.pt")
    with pytest.raises(UserInputError, match="cannot be written"):
        save(unwritable_path(tmp_path))


def test_coco_has_eighty_categories():
    names, ids = coco_categories()
    assert len(names) == len(ids) == 80
    assert dict(zip(ids, names, strict=True))[44] == "bottle"
    assert dict(zip(ids, names, strict=True))[90] == "toothbrush"
