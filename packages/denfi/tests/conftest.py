import pytest
import torch

from tenfold.testing import TINY_DETECTORS, cli_fixture

cli = cli_fixture("denfi.cli:app")

# A narrow SECOND; the classes are those of the recipe.
NARROW = {**TINY_DETECTORS["second"], "post": {"score_threshold": 0.1}}
del NARROW["class_names"]


@pytest.fixture(scope="session")
def narrow():
    return NARROW


def build_eager(variant="denfi"):
    """A narrow detector with random weights that believes in many boxes, and whose points move."""
    from denfi.model import DenfiDet

    torch.manual_seed(0)
    model = DenfiDet.from_config("denfidet_second_car", variant, **NARROW)
    head = model.detector.dense_head if model.plug is None else model.plug.head
    torch.nn.init.normal_(head.conv_cls.weight, std=0.3)
    torch.nn.init.constant_(head.conv_cls.bias, -2.0)
    return model.eval()


@pytest.fixture(scope="session")
def eager():
    return build_eager


@pytest.fixture(scope="session")
def eager_checkpoint(tmp_path_factory):
    """What `denfi fit` would write of such a detector."""
    path = tmp_path_factory.mktemp("checkpoint") / "eager.ckpt"
    settings = {"detector": "denfidet_second_car", "variant": "denfi", "head": "own", "overrides": NARROW}
    state = {f"model.{name}": value for name, value in build_eager().state_dict().items()}
    torch.save({"hyper_parameters": settings, "state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def street():
    """A simulated scan (N, 4) and its cars (M, 7)."""
    from tenfold.lidar.simulator import SECTOR_32, SMALL_SCENE, sample_scene, scan

    frame = scan(sample_scene(5, SMALL_SCENE), SECTOR_32, 5)
    cars = [name == "Car" for name in frame.names]
    return torch.from_numpy(frame.points), torch.from_numpy(frame.boxes[cars])
