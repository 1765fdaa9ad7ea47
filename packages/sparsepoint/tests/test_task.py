"""Training with Lightning: a short run on generated rooms that is resumed, evaluated, and used."""

import json
import logging
import re
import sys

import pytest
import torch
import yaml

pytest.importorskip("lightning.pytorch")

from sparsepoint.checkpoint import load_detector
from sparsepoint.task import DetectionTask, IndoorData, labels_of
from tenfold._errors import UserInputError
from tenfold.testing import QUIET_WORDS, assert_training_resumes, fit_and_resume

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
SMALL = {"num_points": 512, "num_proposals": 12, "dim": 16, "heads": 2, "ffn": 32, "num_stages": 2}
WORDS = [
    *("--config", "rooms", f"model.overrides={json.dumps(SMALL)}", "data.generate=[8,4]"),
    *("data.batch_size=2", *QUIET_WORDS),
]


def test_fit_resume_test_and_predict(cli, room_file, tmp_path):
    code, _, err = cli("fit", *WORDS, "trainer.max_epochs=1", "model.milestones=[1]")
    assert code == 0, err
    (path,) = tmp_path.rglob("last.ckpt")
    first = torch.load(path, weights_only=True)
    assert first["global_step"] == 4
    assert first["hyper_parameters"]["config"]["num_proposals"] == 12
    model = load_detector(path)
    assert model.class_names == ("table", "chair", "cabinet", "bin")
    code, _, err = cli("fit", *WORDS, "trainer.max_epochs=2", "model.milestones=[1]", "--ckpt_path", "last")
    assert code == 0, err
    second = torch.load(path, weights_only=True)
    assert second["global_step"] == 8
    rates = [s["optimizer_states"][0]["param_groups"][0]["lr"] for s in (first, second)]
    # A tenth after the milestone, while the rate still rises over 100 steps: the next steps are the 5th and the 9th.
    assert rates[0] == pytest.approx(1e-3 * (0.01 + 0.99 * 4 / 100) * 0.1)
    assert rates[1] == pytest.approx(1e-3 * (0.01 + 0.99 * 8 / 100) * 0.1)
    words = ("test", *WORDS, "--ckpt_path", "last", "data.eval_seeds=2", "model.results=r.json")
    code, out, err = cli(*words)
    assert code == 0, err
    assert "2 subsamples" in out
    assert "delta NMS@0.25" in out
    printed = dict(re.findall(r"^(ms a scene\S*(?: with NMS)?) +([\d.]+) ±", out, re.MULTILINE))
    assert set(printed) == {"ms a scene", "ms a scene with NMS"}
    assert 0 < float(printed["ms a scene"]) <= float(printed["ms a scene with NMS"])
    document = json.loads((tmp_path / "r.json").read_text())
    assert len(document["subsamples"]) == 2
    assert document["figures"]["mAP@0.25"]["deviation"] >= 0
    assert document["figures"]["ms"]["mean"] > 0
    # The checkpoint says what the model is: no recipe is needed for it.
    code, out, err = cli("test", "--ckpt_path", path, "data.generate=[8,4]", *QUIET_WORDS)
    assert code == 0, err
    assert cli("predict", room_file, path)[0] == 0


def test_a_resumed_run_is_the_same_run(tmp_path):
    def make():
        task = DetectionTask("tiny", "rooms", overrides=SMALL, milestones=(1,), warmup_steps=3)
        return task, IndoorData(generate=(6, 2), batch_size=2)

    fit_and_resume(make, tmp_path, epochs=2)


def test_training_logs_how_often_proposals_are_matched(tmp_path):
    from tenfold.testing import quiet_fit

    torch.manual_seed(0)
    few = {**SMALL, "num_proposals": 2}
    task = DetectionTask("tiny", "rooms", overrides=few, milestones=())
    data = IndoorData(generate=(4, 2), batch_size=2, augment=False)
    logged = quiet_fit(tmp_path, task, data, max_epochs=1).callback_metrics
    prefix = "train/proposals matched "
    shares = {k.removeprefix(prefix): float(v) for k, v in logged.items() if k.startswith(prefix)}
    # Two proposals, each of which gets an object in every one of the four rooms.
    assert shares == {"0 times": 0, "1 to 9 times": 1, "10 to 99 times": 0, "100 or more times": 0}
    objects = sum(len(data.scenes["train"].scene(i).boxes) for i in range(4))
    assert logged["train/unmatched objects"] == objects - 8
    assert (task.criterion.match_counts == 0).all()


def test_dense_recipe_and_its_momentum(tmp_path):
    from tenfold.testing import quiet_fit

    torch.manual_seed(0)
    task = DetectionTask(
        "tiny_votenet", "rooms", overrides=SMALL, bn_decay=True, optimizer="adam", milestones=()
    )
    quiet_fit(tmp_path, task, IndoorData(generate=(4, 2), batch_size=2, oriented=False), max_epochs=1)
    assert {m.momentum for m in task.modules() if isinstance(m, torch.nn.BatchNorm1d)} == {0.5}
    assert task.evaluations[0].plain.scenes == 2
    assert isinstance(task.optimizers().optimizer, torch.optim.Adam)


def test_classes_of_a_recipe(tmp_path):
    from sparsepoint.classes import LABEL_SETS
    from sparsepoint.data.scenes import write_set

    assert labels_of("scannet") == "scannet"
    write_set(tmp_path, "x", LABEL_SETS["s3dis"], {"train": ["a"]})
    assert labels_of(str(tmp_path / "dataset.json")) == LABEL_SETS["s3dis"]
    assert labels_of(str(tmp_path)).names == LABEL_SETS["s3dis"].names
    with pytest.raises(UserInputError, match="labels: got 'nothing'"):
        labels_of("nothing")
    for words in ({"batch_size": 0}, {"scale": (2.0, 1.0)}, {"workers": -1}, {"generate": (0, 4)}):
        with pytest.raises(UserInputError, match="data: "):
            IndoorData(**words)


@pytest.mark.parametrize("seed", [0, 7, 99, 100, 123])
def test_rooms_of_training_are_never_those_of_the_evaluation(seed):
    data = IndoorData(generate=(12_000, 60), seed=seed)
    train, val = data.open("train"), data.open("val")
    assert not set(train.names) & set(val.names)


def test_other_classes_than_the_model_are_refused(cli):
    code, _, err = cli("fit", *WORDS, "model.labels=s3dis")
    assert code == 2
    assert "the model detects table, chair, sofa, bookcase, board" in err


def command(folder, *more):
    return [
        *(sys.executable, "-m", "sparsepoint", "fit", *WORDS, "trainer.max_epochs=3"),
        *(f"trainer.default_root_dir={folder}", "--checkpoint_every_n_steps", "1", *more),
    ]


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    assert_training_resumes(command, tmp_path, kill_at=5, steps=12)


@pytest.mark.slow
def test_torchrun_trains_on_two_processes(tmp_path):
    """Two gloo processes of torchrun: one checkpoint, every scene evaluated once."""
    import subprocess

    from tenfold.testing import child_environment

    words = [
        *(
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            "2",
            "--master_port",
            "29717",
            "-m",
        ),
        *("sparsepoint", "fit", *WORDS, "trainer.max_epochs=1", "trainer.devices=2"),
        f"trainer.default_root_dir={tmp_path}",
    ]
    done = subprocess.run(
        words, env=child_environment(), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_saved_recipe_is_a_recipe(cli, tmp_path):
    code, _, err = cli("fit", *WORDS, "trainer.max_epochs=1", "trainer.limit_train_batches=1",
                       "trainer.limit_val_batches=0")  # fmt: skip
    assert code == 0, err
    (saved,) = tmp_path.rglob("config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["preset"] == "tiny"
