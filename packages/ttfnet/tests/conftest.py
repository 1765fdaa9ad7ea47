import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.testing import cli_fixture, undrawn

sys.path.insert(0, str(Path(__file__).parent))  # for official_layout and ttfnet_without_extras

cli = cli_fixture("ttfnet.cli:app")

SETTINGS = {
    "backbone": "small",
    "num_classes": 3,
    "neck_channels": (16, 16, 16),
    "head_channels": (16, 16),
    "head_layers": (1, 1),
}


def build_eager(**settings):
    """A small network with random weights that believes in many boxes of many sizes."""
    from ttfnet.model import DeformConv2dPack, TTFNet

    torch.manual_seed(0)
    model = TTFNet(**{**SETTINGS, "wh_bias_init": 1.0, "kaiming_heads": True, **settings})
    for module in model.modules():
        if isinstance(module, DeformConv2dPack):
            nn.init.normal_(module.offset_mask.weight, std=0.1)
    nn.init.normal_(model.head.heatmap[-1].weight, std=0.5)
    nn.init.constant_(model.head.heatmap[-1].bias, -2.0)
    nn.init.normal_(model.head.distances[-1].weight, std=0.5)
    return model.eval()


@pytest.fixture(name="undrawn")
def undrawn_weights():
    """Published networks without the time that drawing their weights takes."""
    with undrawn():
        yield


@pytest.fixture(scope="session")
def eager_model():
    """The function that makes such a network."""
    return build_eager


@pytest.fixture(scope="session")
def eager_checkpoint(tmp_path_factory):
    """A checkpoint of such a network, for inputs of 64 x 96."""
    from ttfnet.checkpoint import describe, save_detector

    path = tmp_path_factory.mktemp("checkpoint") / "eager.pt"
    model = build_eager()
    save_detector(path, model, describe(model, ["rectangle", "ellipse", "triangle"], size=(64, 96)))
    return path


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Twelve generated pictures to train on and five to evaluate."""
    from ttfnet.data.shapes import write_shapes

    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, {"train": 12, "val": 5}, seed=0, size=64, sides=(16.0, 40.0))
    return root
