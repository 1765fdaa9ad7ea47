"""The adapters of torch-fidelity and lpips, on stand-ins with the packages' documented interfaces."""

import sys
import types

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from stylegan_distill.evaluation import Networks, evaluate_generator
from stylegan_distill.features import VGG16Stages
from stylegan_distill.lpips import LPIPS
from stylegan_distill.metrics import PackageLPIPS, fidelity_metrics
from stylegan_distill.networks import StyleGAN2Generator
from stylegan_distill.task import _perceptual
from tenfold._errors import MissingExtraError, UserInputError

#: Names of torch-fidelity 0.4's keyword arguments that the adapter may use.
DOCUMENTED = {
    "input1",
    "input2",
    "cuda",
    "batch_size",
    "fid",
    "kid",
    "prc",
    "feature_extractor_weights_path",
    "kid_subset_size",
    "prc_neighborhood",
    "cache",
    "rng_seed",
    "save_cpu_ram",
    "verbose",
}


@pytest.fixture
def fidelity(monkeypatch):
    """Stands in for torch-fidelity: one call one network, uint8 images, the first input is the generated one."""
    package = types.ModuleType("torch_fidelity")
    package.__version__ = "0.4.0"
    package.KEY_METRIC_FID = "frechet_inception_distance"
    package.KEY_METRIC_KID_MEAN = "kernel_inception_distance_mean"
    package.KEY_METRIC_PRECISION = "precision"
    package.KEY_METRIC_RECALL = "recall"
    package.calls = []

    def calculate_metrics(**how):
        assert set(how) <= DOCUMENTED
        assert not (how.get("fid") and how.get("prc"))  # of different feature networks
        images = []
        for name in ("input1", "input2"):
            assert isinstance(how[name], Dataset)
            assert how[name][0].dtype == torch.uint8
            images.append(torch.stack([how[name][k] for k in range(len(how[name]))]))
        weights = torch.load(how["feature_extractor_weights_path"], weights_only=False)
        package.calls.append({**how, "images": images, "weights": weights})
        generated, real = (v.double().mean() for v in images)
        if "foreign" in weights:
            raise RuntimeError("Error(s) in loading state_dict:\n\tand more")
        if how.get("prc"):
            return {"precision": float(generated), "recall": float(real), "f_score": 0.0}
        assert how["kid_subset_size"] <= min(map(len, images))
        gap = float((generated - real) ** 2)
        return {
            "frechet_inception_distance": gap,
            "kernel_inception_distance_mean": gap / 2,
            "kernel_inception_distance_std": 0.0,
        }

    package.calculate_metrics = calculate_metrics
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    return package


@pytest.fixture
def files(tmp_path):
    found = {}
    for name in ("inception", "vgg", "foreign"):
        found[name] = tmp_path / f"{name}.pth"
        torch.save({name: torch.ones(2)}, found[name])
    return found


def _images(value, count=6):
    return [torch.full((count - 2, 3, 4, 4), value), torch.full((2, 3, 4, 4), value)]


def test_fidelity_gets_generated_images_first_and_plain_weights(fidelity, files):
    found = fidelity_metrics(
        _images(-1.0, 8), _images(1.0), inception=files["inception"], vgg=files["vgg"], batch=3, seed=7
    )
    assert found.values == {
        "fid_torch_fidelity": 255.0**2,
        "kid_torch_fidelity": 255.0**2 / 2,
        "precision_torch_fidelity": 255.0,
        "recall_torch_fidelity": 0.0,
    }
    assert (found.facts["package"], found.facts["fake"], found.facts["real"]) == (
        "torch-fidelity 0.4.0",
        6,
        8,
    )
    first, second = fidelity.calls
    assert (first["kid_subset_size"], first["batch_size"], first["rng_seed"]) == (6, 3, 7)
    assert second["prc_neighborhood"] == 3
    assert (first["cuda"], first["cache"], first["save_cpu_ram"]) == (False, False, True)
    assert [v.shape for v in first["images"]] == [(6, 3, 4, 4), (8, 3, 4, 4)]
    assert [list(c["weights"]) for c in fidelity.calls] == [["inception"], ["vgg"]]
    only = fidelity_metrics(_images(0.0), _images(0.0), vgg=files["vgg"])
    assert set(only.values) == {"precision_torch_fidelity", "recall_torch_fidelity"}


def test_fidelity_sees_no_file_that_holds_code(fidelity, tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    bad = tmp_path / "bad.pth"
    torch.save({"a": Harm()}, bad)
    with pytest.raises(UserInputError, match=r"bad\.pth"):
        fidelity_metrics(_images(0.0), _images(0.0), inception=bad)
    assert fidelity.calls == []
    assert not (tmp_path / "harm").exists()


def test_fidelity_says_what_is_missing(fidelity, files, monkeypatch):
    with pytest.raises(UserInputError, match="got neither"):
        fidelity_metrics(_images(0.0), _images(0.0))
    with pytest.raises(UserInputError, match="got 3 images; expected more than 3"):
        fidelity_metrics(_images(0.0, 3), _images(0.0), vgg=files["vgg"])
    with pytest.raises(UserInputError, match="got none"):
        fidelity_metrics([], _images(0.0), vgg=files["vgg"])
    with pytest.raises(UserInputError, match=r"foreign\.pth: weights: .*state_dict:"):
        fidelity_metrics(_images(0.0), _images(0.0), inception=files["foreign"])
    fidelity.__version__ = "0.3.0"
    with pytest.raises(MissingExtraError, match=r"got version 0\.3\.0; expected 0\.4"):
        fidelity_metrics(_images(0.0), _images(0.0), vgg=files["vgg"])
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingExtraError, match=r"torch-fidelity is not installed.*\[metrics\]"):
        fidelity_metrics(_images(0.0), _images(0.0), vgg=files["vgg"])


def test_evaluation_goes_through_the_package(fidelity, files, tiny2):
    net = StyleGAN2Generator(tiny2).eval()
    pixels = np.zeros((5, 16, 16, 3), np.uint8)
    found = evaluate_generator(
        net, ["fidelity"], images=pixels, networks=Networks(inception=files["inception"]), count=9, batch=4
    )["fidelity"]
    assert set(found.values) == {"fid_torch_fidelity", "kid_torch_fidelity"}
    assert [len(v) for v in fidelity.calls[0]["images"]] == [9, 5]
    assert found.facts["filter"] == "not recorded"


# ---- lpips


class _Backbone(torch.nn.Module):
    """torchvision's VGG16 in five slices whose layers keep their numbers, as the package has it."""

    ends = (4, 9, 16, 23, 30)

    def __init__(self):
        super().__init__()
        layers = VGG16Stages().features
        starts = (0, *self.ends[:-1])
        for number, (start, end) in enumerate(zip(starts, self.ends, strict=True), 1):
            part = torch.nn.Sequential()
            for index in range(start, end):
                part.add_module(str(index), layers[index])
            setattr(self, f"slice{number}", part)

    def forward(self, x):
        found = []
        for number in range(1, 6):
            x = getattr(self, f"slice{number}")(x)
            found.append(x)
        return found


class _Standin(torch.nn.Module):
    """lpips.LPIPS(net="vgg"): (B, 3, H, W) in [-1, 1] twice to (B, 1, 1, 1); its heads carry dropout."""

    def __init__(self, pretrained=True, net="alex", version="0.1", pnet_rand=False, verbose=True):
        super().__init__()
        assert (pretrained, net, version) == (True, "vgg", "0.1")
        assert pnet_rand  # else a download
        assert not verbose
        self.net = _Backbone()
        generator = torch.Generator().manual_seed(5)
        for k, width in enumerate((64, 128, 256, 512, 512)):
            head = torch.nn.Conv2d(width, 1, 1, bias=False)
            with torch.no_grad():
                head.weight.copy_(torch.rand(1, width, 1, 1, generator=generator))
            setattr(self, f"lin{k}", torch.nn.Sequential(torch.nn.Dropout(), head))

    def forward(self, x, y):
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
        scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
        total = 0
        for k, (a, b) in enumerate(
            zip(self.net((x - shift) / scale), self.net((y - shift) / scale), strict=True)
        ):
            a, b = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (a, b))
            total = total + getattr(self, f"lin{k}")((a - b).square()).mean((2, 3), keepdim=True)
        return total


@pytest.fixture
def peer(monkeypatch):
    package = types.ModuleType("lpips")
    package.LPIPS = _Standin
    monkeypatch.setitem(sys.modules, "lpips", package)
    return package


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.manual_seed(1)
    torch.save(VGG16Stages().state_dict(), path)
    return path


def test_lpips_of_the_package_is_ours(peer, backbone):
    metric = Networks(vgg=backbone, lpips="package").perceptual().train()
    assert isinstance(metric, PackageLPIPS)
    heads = {f"lin{k}.model.1.weight": getattr(metric.net, f"lin{k}")[1].weight for k in range(5)}
    own = LPIPS({k: v.detach() for k, v in heads.items()}, backbone, resize=32)
    metric.resize = 32
    torch.manual_seed(2)
    x, y = torch.rand(2, 3, 3, 40, 40).mul(2).sub(1)
    assert metric(x, y).shape == (3,)
    torch.testing.assert_close(metric(x, y), own(x, y), rtol=1e-4, atol=1e-6)
    assert metric.name == own.name
    assert not any(p.requires_grad for p in metric.parameters())
    # As a loss: the image gets a gradient.
    loss = _perceptual("package", str(backbone))
    assert (type(loss), loss.resize) == (PackageLPIPS, 256)
    x = x[:1, :, :16, :16].clone().requires_grad_()
    loss(x, y[:1, :, :16, :16]).sum().backward()
    assert x.grad.abs().sum() > 0


def test_lpips_of_the_package_says_what_is_missing(peer, backbone, tmp_path, monkeypatch):
    with pytest.raises(UserInputError, match="vgg: missing"):
        Networks(lpips="package").perceptual()
    with pytest.raises(UserInputError, match=r"model\.vgg: missing"):
        _perceptual("package", None)
    short = tmp_path / "short.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, short)
    with pytest.raises(UserInputError, match=r"short\.pth: features\.0\.weight: expected shape"):
        PackageLPIPS(short)
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(MissingExtraError, match="lpips is not installed"):
        PackageLPIPS(backbone)
