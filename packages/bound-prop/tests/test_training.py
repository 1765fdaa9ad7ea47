"""Networks, losses, schedules, data readers, training, resume and two processes."""

import gzip
import logging
import math
import pickle
import struct
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip("lightning.pytorch")

from bound_prop import PGD, BoundedModule, LpBall, losses, margin_spec
from bound_prop.data import cifar10, glyphs, mnist, tiny_imagenet
from bound_prop.evaluation import certified_radius, evaluate, verified
from bound_prop.models import build_model
from bound_prop.nn import ParamRamp, calibrate_param_ramp, set_knee_enabled
from bound_prop.objective import RobustObjective
from bound_prop.schedules import Plan, Ramp
from bound_prop.task import ImageData, RobustTask
from tenfold._errors import UserInputError
from tenfold.testing import (
    assert_survives_disk_full,
    assert_training_resumes,
    corruptions,
    sample_data,
    two_gloo_ranks,
)
from tenfold.train import make_trainer

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

COUNTS = [
    ("dm_small", (1, 28, 28), 10, 329_606, 6004),
    ("dm_medium", (1, 28, 28), 10, 893_418, 34_688),
    ("dm_large", (1, 28, 28), 10, 13_257_290, 176_128),
    ("dm_large", (3, 32, 32), 10, 17_190_602, 229_888),
    ("small_mnist", (1, 28, 28), 10, 1_096_442, None),
    ("small_cifar", (3, 32, 32), 10, 8_432_970, None),
    ("cnn7", (3, 56, 56), 200, 13_356_936, None),
    ("wide_resnet", (3, 56, 56), 200, 7_944_520, None),
]


@pytest.mark.parametrize(("name", "shape", "classes", "count", "knees"), COUNTS)
def test_parameter_counts(name, shape, classes, count, knees):
    with torch.device("meta"):
        model = build_model(name, shape, classes)
    assert sum(p.numel() for p in model.parameters()) == count
    if knees is not None:
        ramp = build_model(name, shape, classes, activation="param_ramp")
        assert sum(p.numel() for p in ramp.parameters()) == count + knees


def test_param_ramp():
    ramp = ParamRamp((3,), 0.1, 2.0)
    z = torch.tensor([[-1.0, 1.0, 5.0]], requires_grad=True)
    torch.testing.assert_close(ramp(z), torch.tensor([[-0.1, 1.0, 2.3]]))
    ramp(z).sum().backward()
    torch.testing.assert_close(ramp.knee.grad, torch.tensor([0.0, 0.0, 0.9]))  # equation 139
    with torch.no_grad():
        ramp.knee.fill_(-1)
    ramp.clamp_()
    assert (ramp.knee == 1e-4).all()
    other = ParamRamp((3,))
    ramp.set_enabled(False)
    other.load_state_dict(ramp.state_dict())
    assert (other.slope(), other.is_enabled()) == (0.1, False)
    with pytest.raises(ValueError, match=r"eta: got 1\.0"):
        ParamRamp((3,), 1.0)


def test_knees_become_mean_activations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), ParamRamp((4,), 0.01), nn.Linear(4, 2))
    x = torch.randn(100, 3)
    set_knee_enabled(model, False)
    calibrate_param_ramp(model, x.split(30))
    expected = F.leaky_relu(model[0](x), 0.01).mean(0).clamp(min=1e-4)
    torch.testing.assert_close(model[1].knee.detach(), expected)
    assert model[1].is_enabled()


def test_losses():
    torch.manual_seed(0)
    margins = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    logits = torch.cat([torch.zeros(5, 1).double(), -margins], 1)
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    torch.testing.assert_close(losses.robust_ce(margins), expected)
    torch.testing.assert_close(losses.LossFusion()(margins), expected)  # identical for intervals
    assert torch.autograd.gradcheck(losses.robust_ce, (margins,))


@pytest.mark.parametrize(
    "method",
    ["ibp", "crown-ibp", "lbp", "crown-lbp", "max-crown-ibp", "sabr", "cc-ibp", "mtl-ibp", "exp-ibp", "pgd"],
)
def test_objectives_learn_and_bound_the_truth(method):
    torch.manual_seed(0)
    model = build_model("mlp", (1, 3, 3), 3, hidden=(12,))
    bounded = BoundedModule(model, torch.zeros(1, 1, 3, 3))
    objective = RobustObjective(bounded, method, 3, regulariser=0.1)
    x, y = torch.rand(32, 1, 3, 3), torch.randint(0, 3, (32,))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    first = None
    for _ in range(15):
        optimiser.zero_grad()
        result = objective(x, y, 0.05, 0.0, 1.0, 0.1)
        result["loss"].backward()
        optimiser.step()
        first = first or float(result["loss"])
    assert float(result["loss"]) < first
    if method in ("ibp", "crown-ibp", "lbp", "crown-lbp"):
        # The certified loss is never below the loss at any point of the ball.
        points = LpBall(x, 0.05, clip=(0.0, 1.0)).sample(20)
        worst = max(float(F.cross_entropy(model(p), y)) for p in points)
        assert float(objective(x, y, 0.05, 0.0, 1.0)["robust"]) >= worst - 1e-5


def test_fused_crown_ibp_is_an_upper_bound():
    torch.manual_seed(0)
    model = build_model("mlp", (1, 3, 3), 5, hidden=(12,))
    bounded = BoundedModule(model, torch.zeros(1, 1, 3, 3))
    x, y = torch.rand(16, 1, 3, 3), torch.randint(0, 5, (16,))
    fused = RobustObjective(bounded, "crown-ibp", 5, fused=True, lines="tight")
    loss = float(fused(x, y, 0.05, 0.0, 1.0)["robust"])
    points = LpBall(x, 0.05, clip=(0.0, 1.0)).sample(50)
    assert loss >= max(float(F.cross_entropy(model(p), y)) for p in points) - 1e-5


def test_schedules():
    plan = Plan(0.4, clean_epochs=10, ramp_epochs=50, kappa=(1.0, 0.5), eta=(0.01, 0.0), eta_epochs=(70, 140))
    assert [plan.eps_at(s * 100, 100) for s in (0, 10, 35, 60, 199)] == pytest.approx([0, 0, 0.2, 0.4, 0.4])
    assert [plan.kappa_at(e) for e in (0.0, 0.2, 0.4)] == pytest.approx([1, 0.75, 0.5])
    assert Plan(0.4, kappa=(0.0, 0.0)).kappa_at(0.0) == 1.0  # only the clean loss while eps is 0
    assert [plan.beta_at(e) for e in (0.0, 0.4)] == [1.0, 0.0]
    assert (plan.eta_at(69), plan.eta_at(140)) == (0.01, 0.0)
    assert 0 < plan.eta_at(100) < 0.01
    assert [plan.lr_factor(e) for e in (129, 130, 190)] == pytest.approx([1, 0.1, 0.01])
    smooth = Ramp(0, 100, 0.0, 1.0, "smoothed")
    knee = 25
    before, after = (smooth.at(knee + d, 1) - smooth.at(knee + d - 1, 1) for d in (0, 1))
    assert abs(after - before) < 2e-3  # equal slopes at the knee
    with pytest.raises(ValueError, match=r"eps: got nan"):
        Plan(math.nan)


def test_evaluation_orders_the_errors():
    data = glyphs(counts=(0, 20), split="test")
    torch.manual_seed(0)
    bounded = BoundedModule(build_model("glyph_net", (1, 14, 14), 10), data.images[:1])
    report = evaluate(
        bounded, data.images, data.labels, 0.02, methods=("ibp", "crown-lbp"), attack=PGD(10, 1), radius=0.1
    )
    found = report.summary()
    assert found["clean"] <= found["pgd"] <= found["verified/crown-lbp"] <= found["verified/ibp"]
    with torch.inference_mode():  # as a trainer's test loop calls it, with tensors of its own
        again = evaluate(
            bounded, data.images.clone(), data.labels.clone(), 0.02, methods=("ibp",), attack=PGD(10, 1)
        )
    assert again.summary()["pgd"] == found["pgd"]
    zero = evaluate(bounded, data.images, data.labels, 0.0, methods=("ibp", "crown-lbp"))
    assert zero.summary()["verified/ibp"] == zero.summary()["clean"]
    spec = margin_spec(data.labels, 10)
    radius = report.columns["radius"]
    inside = bounded.compute_bounds(
        LpBall(data.images, radius, clip=(0.0, 1.0)), spec, method="crown-lbp", upper=False
    )
    assert verified(inside.lower)[radius > 0].all()
    assert (
        certified_radius(bounded, data.images, (data.labels + 1) % 10)[report.columns["clean"] == 0] == 0
    ).all()
    assert verified(torch.tensor([[1.0, math.nan], [1.0, math.inf], [0.0, 1.0], [1e-9, 1.0]])).tolist() == [
        False,
        False,
        False,
        True,
    ]


def write_idx(folder, split, images, labels):
    prefix = {"train": "train", "test": "t10k"}[split]
    header = struct.pack(">4I", 2051, *images.shape) + images.tobytes()
    (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">2I", 2049, len(labels)) + labels.tobytes()
    )


def test_readers(tmp_path):
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (6, 28, 28), np.uint8), np.arange(6, dtype=np.uint8)
    write_idx(tmp_path, "train", images, labels)
    got = mnist(tmp_path, "train")
    np.testing.assert_array_equal((got.images[:, 0] * 255).round().byte().numpy(), images)
    assert got.labels.tolist() == list(range(6))
    sound = (tmp_path / "train-labels-idx1-ubyte").read_bytes()
    for _, data in corruptions(sound, flips=4):
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(data)
        try:
            mnist(tmp_path, "train")
        except UserInputError as error:
            assert "train-labels" in str(error)  # noqa: PT017
    with pytest.raises(UserInputError, match="t10k-images-idx3-ubyte: file: does not exist"):
        mnist(tmp_path, "test")
    rows = draw.integers(0, 256, (3, 3072), np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": rows, b"labels": [3, 1, 2]}))
    from_pickle = cifar10(tmp_path, "test")
    binary = tmp_path / "bin"
    binary.mkdir()
    np.insert(rows, 0, [3, 1, 2], axis=1).tofile(binary / "test_batch.bin")
    torch.testing.assert_close(cifar10(binary, "test").images, from_pickle.images)
    assert from_pickle.labels.tolist() == [3, 1, 2]
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": rows, b"labels": [3, 10, 2]}))
    with pytest.raises(UserInputError, match="test_batch: labels: expected whole numbers from 0 to 9"):
        cifar10(tmp_path, "test")
    from PIL import Image

    for name, mode in (("n02", "RGB"), ("n01", "L")):
        place = tmp_path / "tiny" / "train" / name / "images"
        place.mkdir(parents=True)
        Image.new(mode, (64, 64), 100 if mode == "L" else (10, 20, 30)).save(place / f"{name}_0.JPEG")
    tiny = tiny_imagenet(tmp_path / "tiny", "train")
    assert (tiny.names, tiny.labels.tolist(), tuple(tiny.images.shape)) == (
        ("n01", "n02"),
        [0, 1],
        (2, 3, 64, 64),
    )


def test_real_mnist():
    data = mnist(sample_data("mnist"), "test")
    assert len(data) == 10_000
    assert data.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


SMALL = {
    "network": "glyph_net", "shape": (1, 14, 14), "activation": "param_ramp", "eps": 0.1, "clean_epochs": 1,
    "ramp_epochs": 2, "lr": 1e-3, "lr_milestones": (2,), "eta": (0.01, 0.0), "eta_epochs": (1, 3), "jitter": 0.01,
}  # fmt: skip


def fit(folder):
    from lightning.pytorch import seed_everything

    seed_everything(0, verbose=False)
    task = RobustTask(**SMALL)
    data = ImageData("glyphs", batch_size=16, train_limit=64, test_limit=8)
    trainer = make_trainer(
        default_root_dir=folder, max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return task


def test_fit_sets_knees_and_slopes(tmp_path):
    task = fit(tmp_path)
    ramps = [m for m in task.modules() if isinstance(m, ParamRamp)]
    assert all(r.is_enabled() and r.knee.std() > 0 and (r.knee >= 1e-4).all() for r in ramps)
    assert ramps[0].slope() < 0.01
    from bound_prop.checkpoint import load_network

    network, settings = load_network(tmp_path / "checkpoints" / "last.ckpt")
    x = glyphs(split="test").images[:5]
    torch.testing.assert_close(network(x), task.eval()(x))
    assert settings["network"] == "glyph_net"


@pytest.mark.slow
def test_kill_and_resume_is_exact(tmp_path):
    def command(folder, *more):
        return [
            sys.executable, "-m", "bound_prop", "fit", "--config", "glyphs_ramp", "trainer.max_epochs=3",
            "model.clean_epochs=1", "model.ramp_epochs=1", "data.train_limit=320", "data.test_limit=8",
            "checkpoint_every_n_steps=1", "trainer.enable_progress_bar=false", "trainer.limit_val_batches=0",
            f"trainer.default_root_dir={folder}", *more,
        ]  # fmt: skip

    assert_training_resumes(command, tmp_path, kill_at=1, steps=15, timeout=300)


def one_step(batch):
    """Gradients of one objective step on this rank's share, averaged over ranks."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(0)
    model = build_model("glyph_net", (1, 14, 14), 10, activation="param_ramp").double()
    objective = RobustObjective(BoundedModule(model, torch.zeros(1, 1, 14, 14).double()), "ibp")
    data = glyphs(counts=(batch, 1))
    x, y = data.images.double(), data.labels
    module = objective
    if dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        x, y = x[rank::world], y[rank::world]
        module = DistributedDataParallel(objective)
    calibrate_param_ramp(model, [x])
    module(x, y, 0.1, 0.5)["loss"].backward()
    return [p.grad.clone() for p in model.parameters()] + [p.detach().clone() for p in model.parameters()]


def test_two_processes_equal_one():
    single = one_step(16)
    for values in two_gloo_ranks(one_step, 16):
        for a, b in zip(values, single, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def write_report(path):
    from bound_prop.evaluation import Report, write_csv

    write_csv(Report(0.1, {"label": torch.arange(5000), "margin/ibp": torch.rand(5000)}), path)


def test_a_full_disk(tmp_path):
    assert_survives_disk_full(write_report, tmp_path / "out" / "images.csv")
