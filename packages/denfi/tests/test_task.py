"""Training with Lightning: recipes, optimiser, a short run that is resumed and evaluated."""

import logging
import sys

import pytest
import torch
import yaml

pytest.importorskip("lightning.pytorch")

from denfi.cli import app
from denfi.model import DenfiDet
from denfi.predict import load_detector
from denfi.task import DenfiTask
from tenfold._errors import UserInputError
from tenfold.testing import QUIET_WORDS, assert_training_resumes, undrawn

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
RECIPES = sorted(app.config_folder().glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_recipes_build_their_models(recipe):
    settings = yaml.safe_load(recipe.read_text())
    with undrawn():
        task = DenfiTask(**settings["model"])
    assert isinstance(task.model, DenfiDet)
    assert task.model.plug.denfi.config.variant == "denfi"
    assert settings["trainer"]["gradient_clip_val"] == 10.0
    if recipe.stem != "second_small":
        assert settings["trainer"]["max_epochs"] == 80
        assert settings["model"]["lr"] == 0.003


def test_hyper_parameters_hold_the_variant():
    task = DenfiTask("denfidet_tiny", "dsc+dbpm", denfi={"sigma1": 0.3}, bn_momentum=0.2)
    assert task.hparams["variant"] == "dsc+dbpm"
    assert task.model.plug.denfi.config.sigma1 == 0.3
    assert {m.momentum for m in task.model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.2}
    with pytest.raises(UserInputError, match="variant: got 'x'"):
        DenfiTask("denfidet_tiny", "x")


def test_fit_resume_and_test(tmp_path, monkeypatch, capfd, narrow):
    """The recipe on simulated scenes, two steps an epoch; a killed run goes on from its last checkpoint."""
    monkeypatch.chdir(tmp_path)
    overrides = {**narrow, "post": {"score_threshold": 0.05}}
    text = yaml.safe_dump(overrides, default_flow_style=True, width=1000).strip()
    words = [
        "fit", "--config", "second_small", f"model.overrides={text}",
        "data.simulate=[2,1]", "data.batch_size=1", "data.counts={Car: 2}", "trainer.check_val_every_n_epoch=1",
        "trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert app([*words, "trainer.max_epochs=1"]) == 0, capfd.readouterr().err
    found = sorted(tmp_path.rglob("last.ckpt"))
    assert len(found) == 1
    first = torch.load(found[0], weights_only=True)
    assert first["hyper_parameters"]["variant"] == "denfi"
    model = load_detector(found[0])
    assert model.plug.denfi.refine_cls.offset.weight.abs().sum() > 0
    assert app([*words, "trainer.max_epochs=2", "--ckpt_path", "last"]) == 0
    second = torch.load(found[0], weights_only=True)
    assert second["global_step"] == 2 * first["global_step"] == 4
    key = "model.detector.dense_head.denfi.refine_reg.offset.weight"
    assert not torch.equal(first["state_dict"][key], second["state_dict"][key])
    groups = second["optimizer_states"][0]["param_groups"]
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    capfd.readouterr()
    assert app(["test", *words[1:], "--ckpt_path", "last", "model.results=results"]) == 0
    out = capfd.readouterr().out
    assert "R11" in out
    assert "R40" in out
    assert (tmp_path / "results/metrics.json").is_file()


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, narrow):
    overrides = yaml.safe_dump(narrow, default_flow_style=True, width=1000).strip()
    words = [
        "--config", "second_small", f"model.overrides={overrides}", f"data.root={tmp_path / 'data'}",
        "data.simulate=[4,2]", "data.batch_size=2", "data.counts={Car: 2}", "trainer.max_epochs=3", *QUIET_WORDS,
    ]  # fmt: skip

    def command(folder, *more):
        own = (f"trainer.default_root_dir={folder}", "--checkpoint_every_n_steps", "1")
        return [sys.executable, "-m", "denfi", "fit", *words, *own, *more]

    # In the second epoch of two steps.
    assert_training_resumes(command, tmp_path, kill_at=3, steps=6)
