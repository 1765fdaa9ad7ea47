"""Training: the recipes, resuming, evaluation on whole films, export, and the experiments behind the claims."""

import logging
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("lightning.pytorch")

from movienet_tree import write_keyframes, write_movienet

from moviescenes import experiment
from moviescenes.cli import app
from moviescenes.experiment import GENERATED, GeneratedArm, measure_generated, measure_real
from moviescenes.features.networks import prepare, resnet_weights
from moviescenes.losses import boundary_loss
from moviescenes.model import LGSSImage
from moviescenes.segment import SceneSegmenter, load_model, save_model
from moviescenes.task import SceneData, SceneTask
from moviescenes.training import TrainSettings, predict_films, train_films
from moviescenes.windows import clip_windows
from tenfold._errors import UserInputError
from tenfold.testing import (
    QUIET_WORDS,
    assert_training_resumes,
    averaged_gradients,
    fit_and_resume,
    quiet_fit,
    quiet_trainer,
    require,
    sample_data,
    two_gloo_ranks,
)
from tenfold.train.demo import read_demo
from tenfold.train.processes import rank_and_world

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
RECIPES = sorted(app.config_folder().glob("*.yaml"))
SMALL = {"dims": {"place": 32, "aud": 32}, "channels": 3, "hidden": 4, "head": 4, "lr": 0.01}
DATA = {"dataset": "generated", "keys": ["place", "aud"], "films": [2, 1, 1], "batch_size": 8}


def make():
    return SceneTask(**SMALL), SceneData(**DATA)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipes_build_their_models(recipe):
    settings = yaml.safe_load(recipe.read_text())
    task, data = SceneTask(**settings["model"]), SceneData(**settings["data"])
    count = sum(p.numel() for p in task.parameters())
    optimiser = task.configure_optimizers()["optimizer"]
    if recipe.stem == "image":
        assert round(count / 1e6, 2) == round(12.70 + 23.51, 2)  # the place branch, ResNet-50 without classes
        assert type(optimiser) is torch.optim.SGD
        assert (optimiser.defaults["momentum"], data.batch_size, data.keyframes) == (0, 16, "data/keyf_240p")
        return
    if recipe.stem == "tiny":
        assert count < 300_000
    else:
        assert round(count / 1e6, 2) == 33.12
        assert (data.batch_size, settings["trainer"]["max_epochs"]) == (128, 30)
        assert task.hparams["milestones"] == [15]
        assert task.hparams["lr"] == 0.01
        assert task.hparams["class_weights"] == ((1, 9) if recipe.stem == "paper" else (0.5, 5))
    assert type(optimiser) is torch.optim.Adam  # L2 in the gradient, not decoupled


def test_a_resumed_run_is_the_same_run(tmp_path):
    fit_and_resume(make, tmp_path, stop_at=3, epochs=2)


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    def command(folder, *more):
        words = ["--config", "tiny", "data.films=[2,1,1]", "data.batch_size=8", "trainer.max_epochs=2"]
        words += ["trainer.limit_train_batches=4"]
        own = (*QUIET_WORDS, f"trainer.default_root_dir={folder}", "--checkpoint_every_n_steps", "1")
        return [sys.executable, "-m", "moviescenes", "fit", *words, *own, *more]

    # In the second epoch of four steps.
    assert_training_resumes(command, tmp_path, kill_at=5, steps=8)


def test_fit_keeps_the_best_and_segment_uses_it(tmp_path, film):
    task, data = make()
    trainer = quiet_fit(tmp_path, task, data)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["state_dict"].keys() == task.state_dict().keys()
    results = trainer.validate(task, datamodule=data, verbose=False)
    assert results[0]["val/ap"] == pytest.approx(task.results["ap"])
    # Evaluation is that of the plain functions.
    test = data.split("test")
    p = predict_films(task.model, test)[0]
    quiet_trainer(tmp_path).test(task, datamodule=data, verbose=False)
    from moviescenes.metrics import evaluate_films

    wanted = evaluate_films([(test[0].labels, p, test[0].shots)])
    assert {key: task.results[key] for key in wanted} == pytest.approx(wanted, nan_ok=True)
    assert "grouped_miou" in task.results
    net, names = load_model(tmp_path / "checkpoints" / "last.ckpt")
    assert names == {}
    np.testing.assert_allclose(net.predict(test[0].arrays()), p)
    save_model(tmp_path / "own.pt", net, {"place": "hsv-hist"})
    again, names = load_model(tmp_path / "own.pt")
    assert names == {"place": "hsv-hist"}
    np.testing.assert_array_equal(again.predict(test[0].arrays()), net.predict(test[0].arrays()))
    with pytest.raises(UserInputError, match=r"do not fit the model: .*place: got shape"):
        SceneSegmenter(model=net).segment(film[0])


def test_keyframes_train_a_backbone(tmp_path, monkeypatch):
    root, pictures = (
        write_movienet(tmp_path / "scene318", shots=6),
        write_keyframes(tmp_path / "keyf", shots=6),
    )
    monkeypatch.setattr(prepare, "__defaults__", (64, 56))  # small pictures: the backbone takes any
    sizes = {"half_window": 1, "seq_len": 2}
    torch.manual_seed(0)
    task = SceneTask(
        **{**SMALL, "dims": {"place": 512}, "weights": {"place": 1.0}, **sizes},
        **{"backbone": "resnet18", "optimizer": "sgd", "grouping": False},
    )
    before = {key: value.clone() for key, value in task.backbone.named_parameters()}
    data = SceneData("movienet", str(root), keys=["place"], batch_size=1, keyframes=str(pictures), **sizes)
    quiet_fit(tmp_path / "run", task, data, max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    assert all(not torch.equal(before[key], value) for key, value in task.backbone.named_parameters())

    # The loss is that of LGSSImage with the same weights, and evaluation sees every picture.
    monkeypatch.setattr(task.eval(), "log", lambda *_, **__: None)  # no trainer any more
    whole = LGSSImage(task.model.config, task.backbone, dim=512).eval()
    whole.branch = task.model.branches["place"]
    film = data.split("val")[0]
    windows = torch.from_numpy(film.features["place"][clip_windows(np.arange(2), len(film), 1)])[None]
    with torch.inference_mode():
        logits = whole(windows)
        arrays = task._described(film)
    labels = torch.tensor([[0, 1]])
    wanted = boundary_loss(logits, labels, task.hparams["class_weights"])
    torch.testing.assert_close(task.training_step(({"place": windows}, labels), 0), wanted)
    inside = torch.from_numpy(arrays["place"][clip_windows(np.arange(2), len(film), 1)])[None]
    torch.testing.assert_close(task.model({"place": inside}), logits, rtol=1e-4, atol=1e-5)
    net, _ = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert net.predict(arrays).shape == (5,)
    stored = resnet_weights(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert stored.keys() == task.backbone.state_dict().keys()


def test_errors_of_configuration(cli, tmp_path):
    task, data = SceneTask(**SMALL), SceneData(**{**DATA, "seq_len": 8})
    with pytest.raises(UserInputError, match=r"data\.seq_len: got 8; the model has 10"):
        quiet_fit(tmp_path, task, data)
    for settings, change, message in (
        (SMALL, {"keys": ["place"]}, r"data\.keys: misses aud"),
        (SMALL, {"keys": ["place", "aud", "face"]}, r"data\.keys: got face; the film film-0 has place, cast"),
        ({**SMALL, "dims": {"place": 31, "aud": 32}}, {}, r"model\.dims: do not fit the data: .* got shape"),
    ):
        with pytest.raises(UserInputError, match=message):
            quiet_fit(tmp_path, SceneTask(**settings), SceneData(**{**DATA, **change}))
    with pytest.raises(UserInputError, match=r"val: data\.val_split: no such folder"):
        SceneData("pack", str(tmp_path)).split("val")
    with pytest.raises(UserInputError, match="batch_size"):
        SceneData(batch_size=0)
    with pytest.raises(UserInputError, match="only movienet has them"):
        SceneData("generated", keyframes="x")
    with pytest.raises(UserInputError, match="resnet18 gives 512"):
        SceneTask(**SMALL, backbone="resnet18")
    torch.save({"x": 1}, tmp_path / "x.pt")
    with pytest.raises(UserInputError, match="no model of this package"):
        load_model(tmp_path / "x.pt")
    for words, message in (
        (["fit", "--config", "pape"], "pape"),
        (["fit", "--config", "tiny", "model.fusion=x"], "fusion"),
        (["fit", "--config", "paper", f"data.root={tmp_path}"], "split318.json"),
    ):
        code, _, err = cli(*words)
        assert code == 2
        assert message in err


def test_transfer_starts_from_other_weights(tmp_path):
    first, data = make()
    quiet_fit(tmp_path / "a", first, data, max_epochs=1)
    source = str(tmp_path / "a" / "checkpoints" / "last.ckpt")
    second = SceneTask(**SMALL, start_from=source, class_weights=(1, 2))
    quiet_fit(tmp_path / "b", second, data, max_epochs=1, limit_train_batches=0, limit_val_batches=0)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def _gradients(windows, labels, shares):
    """Of one step on this process's share of a batch, averaged over processes as DistributedDataParallel does."""
    from moviescenes.losses import boundary_loss
    from moviescenes.model import LGSS, LGSSConfig

    torch.manual_seed(0)
    net = LGSS(LGSSConfig(dims={"place": 8}, channels=3, hidden=3, head=3)).double()
    part = shares[rank_and_world()[0]]
    boundary_loss(net({k: v[part] for k, v in windows.items()}), labels[part]).backward()
    return torch.cat([gradient.flatten() for gradient in averaged_gradients(net).values()])


def _both_gradients(windows, batches, shares):
    return [_gradients(windows, labels, shares) for labels in batches]


def test_two_processes_equal_one(films):
    """With shares of different weight, and with one in which every boundary is left out."""
    from moviescenes.data.films import SegmentDataset
    from moviescenes.training import collate

    data = SegmentDataset(films, ("place",))
    windows, labels = collate([data[k] for k in range(6)])
    windows = {key: value.double() for key, value in windows.items()}
    labels[0, 0], labels[2:] = 1, labels[2:].clamp(max=0)
    empty = labels.clone()
    empty[:2] = -1
    wanted = _both_gradients(windows, [labels, empty], [slice(0, 6)])
    assert min(gradient.abs().max() for gradient in wanted) > 0
    for found in two_gloo_ranks(_both_gradients, windows, [labels, empty], [slice(0, 2), slice(2, 6)]):
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_the_same_seed_gives_the_same_weights(films):
    from moviescenes.model import LGSSConfig

    config = LGSSConfig(dims={"place": 8}, channels=3, hidden=3, head=3)
    train = partial(train_films, config, films[:2], TrainSettings(epochs=2, batch=8))
    one, two, other = train(0), train(0), train(1)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


@pytest.mark.parametrize("name", ["lgss.pt2", pytest.param("lgss.onnx", marks=pytest.mark.slow)])
def test_export(tmp_path, name, cli):
    from moviescenes.model import LGSS, LGSSConfig

    torch.manual_seed(0)
    net = LGSS(LGSSConfig(dims={"place": 5, "aud": 4}, channels=3, hidden=3, head=3, seq_len=4)).eval()
    save_model(tmp_path / "m.pt", net, {})
    code, _, err = cli("export", "m.pt", name)
    assert code == 0, err
    x = {"place": torch.randn(1, 4, 4, 5), "aud": torch.randn(1, 4, 4, 4)}
    wanted = net(x).softmax(-1)[..., 1].detach().numpy()
    if name.endswith(".pt2"):
        found = torch.export.load(tmp_path / name).module()(*x.values()).detach().numpy()
    else:
        session = require("onnxruntime").InferenceSession(str(tmp_path / name))
        found = session.run(None, {key: value.numpy() for key, value in x.items()})[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert cli("export", "m.pt", "lgss.txt")[0] == 2


def test_generated_arms_learn_and_controls_differ():
    small = {"films": (6, 4), "epochs": 4}
    found = {
        name: measure_generated(name, 0, replace(GENERATED[name], **small))
        for name in ("gen-random", "gen-bnet-place", "gen-labels-shuffled")
    }
    assert found["gen-bnet-place"]["AP"] > found["gen-random"]["AP"] + 10
    assert found["gen-labels-shuffled"]["AP"] < found["gen-bnet-place"]["AP"] - 10
    assert all(np.isfinite(value) for row in found.values() for value in row.values())
    train, test = experiment.films_of(GeneratedArm("seq", order="shuffled", films=(1, 2)), 0)
    plain = experiment.films_of(GeneratedArm("seq", films=(1, 2)), 0)[1]
    assert sorted(map(bytes, test[0].features["place"])) == sorted(map(bytes, plain[0].features["place"]))
    assert not np.array_equal(test[0].labels, plain[0].labels)
    noisy = experiment.films_of(GeneratedArm("seq", sound="noise", films=(1, 1)), 0)[0][0]
    assert not np.array_equal(noisy.features["aud"], train[0].features["aud"])


def test_real_arms(monkeypatch):
    root = sample_data("scene_features")
    monkeypatch.setattr(experiment, "_EPOCHS", (1,))
    monkeypatch.setattr(experiment, "_SHARES", (0.4,))
    cosine = measure_real("real-bbc-ovsd-cosine", 0, root)
    random = measure_real("real-bbc-ovsd-random", 0, root)
    assert cosine["AP"] > random["AP"] + 10
    assert cosine["window"] in (1, 2, 3, 4)


@pytest.mark.slow
def test_the_card(tmp_path, monkeypatch):
    from moviescenes import demo

    monkeypatch.setattr(demo, "_FILMS", (2, 2))
    monkeypatch.setattr(demo, "_SCENES", 3)
    result = demo.run_demo(tmp_path, epochs=1)
    assert read_demo(tmp_path).rows == result.rows
    assert result.passed
    assert [path.name for path in result.pictures] == ["scenes.png"]
    assert (tmp_path / "film.html").stat().st_size > 5000
