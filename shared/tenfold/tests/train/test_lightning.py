"""Trainer, callbacks and checkpoints in this process; test_cli.py runs them as a user does."""

import logging
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

lightning = pytest.importorskip("lightning.pytorch")

from tenfold._errors import UserInputError  # noqa: E402
from tenfold.train.lightning import (  # noqa: E402
    AtomicCheckpointIO,
    EMACallback,
    LastCheckpoint,
    RandomStates,
    checkpoint_path,
    make_trainer,
    parse_duration,
    time_budget,
)

pytestmark = pytest.mark.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class KeepAll(LastCheckpoint):
    """Keeps a copy of every checkpoint that a run could have been killed after."""

    def _save(self, trainer):
        super()._save(trainer)
        path = self.path(trainer)
        shutil.copy(path, path.with_name(f"kept-{len(list(path.parent.glob('kept*'))):02d}.ckpt"))


def train(root, *, ckpt=None, task=None, data=None, callbacks=(), epochs=3, **options):
    from toypkg.task import ToyData, ToyTask

    lightning.seed_everything(0, verbose=False)
    model = ToyTask(**{"steps": 18, **(task or {})})
    ema = EMACallback(0.9, warmup=0)
    trainer = make_trainer(
        default_root_dir=root,
        callbacks=[ema, *callbacks],
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(model, datamodule=ToyData(**(data or {})), ckpt_path=ckpt, weights_only=True)
    average = ema.ema.state if ema.ema is not None else {}
    return trainer, {**model.state_dict(), **{f"ema.{k}": v for k, v in average.items()}}


def assert_same(expected, found):
    different = [name for name, value in found.items() if not torch.equal(expected[name], value)]
    assert different == []


@pytest.mark.parametrize(
    ("options", "data", "numbers"),  # of checkpoints; an epoch has six steps, or three
    [
        ({}, {}, (0, 3, 7, 10, 14, 17)),
        ({"accumulate_grad_batches": 2}, {}, (0, 4, 8)),
        ({"val_check_interval": 0.5}, {}, (0, 3, 9, 15)),
        ({"limit_val_batches": 0}, {"length": 24}, (0, 5, 10, 15)),
    ],
    ids=["plain", "accumulated", "validation inside epochs", "no validation"],
)
def test_a_run_resumed_from_any_checkpoint_equals_the_uninterrupted_one(tmp_path, options, data, numbers):
    keep = KeepAll(every_n_steps=1)
    trainer, expected = train(tmp_path / "whole", data=data, callbacks=[keep], **options)
    kept = sorted((tmp_path / "whole" / "checkpoints").glob("kept*"))
    assert len(kept) == trainer.global_step
    for number in numbers:
        resumed, found = train(tmp_path / "resumed", ckpt=str(kept[number]), data=data, **options)
        assert resumed.global_step == trainer.global_step
        assert_same(expected, found)


def test_resume_with_loader_processes(tmp_path):
    _, expected = train(tmp_path / "whole", data={"workers": 1}, callbacks=[KeepAll(every_n_steps=1)])
    for number in (2, 8):
        path = tmp_path / "whole" / "checkpoints" / f"kept-{number:02d}.ckpt"
        assert_same(expected, train(tmp_path / "resumed", ckpt=str(path), data={"workers": 1})[1])


def test_a_new_run_keeps_the_last_checkpoint_of_the_one_before(tmp_path):
    kept = []
    for run in range(3):
        train(tmp_path, max_steps=1, task={"width": 3 + run})
        kept.append((tmp_path / "checkpoints" / "last.ckpt").read_bytes())
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [
        "last.ckpt",
        "previous-0.ckpt",
        "previous-1.ckpt",
    ]
    assert [(folder / f"previous-{n}.ckpt").read_bytes() for n in (0, 1)] == kept[:2]
    train(tmp_path, ckpt=str(folder / "last.ckpt"), max_steps=2, task={"width": 5})
    assert len(list(folder.iterdir())) == 3


def test_no_kept_checkpoint_is_overwritten(tmp_path):
    for name in (
        "last.ckpt",
        "previous-1.ckpt",
        "previous-mine.ckpt",
    ):  # somebody has deleted previous-0.ckpt
        (tmp_path / name).write_text(name)
    trainer = SimpleNamespace(global_step=0, is_global_zero=True, fast_dev_run=True)
    LastCheckpoint(tmp_path).on_train_start(trainer, None)
    assert (tmp_path / "last.ckpt").exists()  # a trial run writes none, and so takes none away
    trainer.fast_dev_run = False
    LastCheckpoint(tmp_path).on_train_start(trainer, None)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept.pop("previous-2.ckpt") == "last.ckpt"
    assert kept == {name: name for name in ("previous-1.ckpt", "previous-mine.ckpt")}


def test_without_the_random_states_the_same_run_differs(tmp_path, monkeypatch):
    _, expected = train(tmp_path, callbacks=[KeepAll(every_n_steps=1)])
    monkeypatch.setattr(RandomStates, "on_train_start", lambda *arguments: None)
    _, found = train(tmp_path / "resumed", ckpt=str(tmp_path / "checkpoints" / "kept-03.ckpt"))
    assert not torch.equal(expected["net.0.weight"], found["net.0.weight"])


def test_a_run_stopped_inside_an_epoch_can_be_extended(tmp_path):
    _, expected = train(tmp_path / "whole")
    train(tmp_path / "parts", max_steps=8)
    ckpt = checkpoint_path("last", tmp_path / "parts")
    assert_same(expected, train(tmp_path / "parts", ckpt=str(ckpt))[1])


def test_validation_does_not_disturb_training(tmp_path, monkeypatch):
    _, expected = train(tmp_path)
    monkeypatch.setenv("TOY_VALIDATION_DRAWS", "5")
    assert_same(expected, train(tmp_path, val_check_interval=0.5)[1])


def test_average_is_evaluated_saved_and_taken_out_again(tmp_path):
    seen = {}

    class Look(lightning.Callback):
        def on_validation_batch_start(self, trainer, module, *rest):
            seen["validation"] = module.net[0].weight.detach().clone()

        def on_train_batch_start(self, trainer, module, *rest):
            seen["training"] = module.net[0].weight.detach().clone()

        def on_test_batch_start(self, trainer, module, *rest):
            seen["test"] = module.net[0].weight.detach().clone()

    _, state = train(tmp_path, callbacks=[Look()])
    assert torch.equal(seen["validation"], state["ema.net.0.weight"])
    assert not torch.equal(state["net.0.weight"], state["ema.net.0.weight"])
    stored = torch.load(checkpoint_path("last", tmp_path), weights_only=True)
    assert torch.equal(stored["state_dict"]["net.0.weight"], state["net.0.weight"])
    assert torch.equal(stored["callbacks"]["EMACallback"]["state"]["net.0.weight"], state["ema.net.0.weight"])

    from toypkg.task import ToyData, ToyTask

    fresh = ToyTask()
    tester = make_trainer(
        default_root_dir=tmp_path,
        callbacks=[EMACallback(0.9), Look()],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
    )
    ckpt = str(checkpoint_path("last", tmp_path))
    tester.test(fresh, datamodule=ToyData(), ckpt_path=ckpt, weights_only=True, verbose=False)
    assert torch.equal(seen["test"], state["ema.net.0.weight"])
    assert torch.equal(fresh.net[0].weight, state["net.0.weight"])


def test_a_failed_write_leaves_the_previous_checkpoint(tmp_path):
    writer, path = AtomicCheckpointIO(), tmp_path / "deep" / "last.ckpt"
    writer.save_checkpoint({"state_dict": {"w": torch.ones(3)}}, path)
    before = path.read_bytes()

    class Unwritable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserInputError, match=r"last\.ckpt"):
        writer.save_checkpoint({"state_dict": {}, "x": Unwritable()}, path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["last.ckpt"]


def test_reading_refuses_code_and_foreign_files(tmp_path):
    reader = AtomicCheckpointIO()

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    torch.save({"weights": 1}, tmp_path / "foreign.ckpt")
    torch.save({"state_dict": {"w": torch.ones(9999)}}, tmp_path / "cut.ckpt")
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "cut.ckpt").read_bytes()[:3000])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name, words in {
        "evil": "not loaded for safety",
        "foreign": "state_dict: missing",
        "cut": "is damaged",
        "empty": "is damaged",
        "absent": "does not exist",
    }.items():
        with pytest.raises(UserInputError, match=words):
            reader.load_checkpoint(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "ran").exists()


def test_caller_s_choices_win(tmp_path):
    own = LastCheckpoint(tmp_path / "elsewhere")
    trainer = make_trainer(default_root_dir=tmp_path, callbacks=own, logger=False, accelerator="cpu")
    assert [item for item in trainer.callbacks if isinstance(item, LastCheckpoint)] == [own]
    assert own.path(trainer) == tmp_path / "elsewhere" / "last.ckpt"
    plain = make_trainer(default_root_dir=tmp_path, enable_checkpointing=False, accelerator="cpu")
    assert plain.checkpoint_callbacks == []
    assert [type(item).__name__ for item in plain.loggers] == ["CSVLogger", "TensorBoardLogger"]
    assert isinstance(plain.strategy.checkpoint_io, AtomicCheckpointIO)


def test_interrupt_inside_fit_is_130(tmp_path, capfd):
    from toypkg.cli import app

    class Interrupt(lightning.Callback):
        def on_train_batch_start(self, *arguments):
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    from tenfold.train import _stages

    original = _stages.make_trainer
    try:
        _stages.make_trainer = lambda callbacks, **rest: original(callbacks=[*callbacks, Interrupt()], **rest)
        code = app(
            ["fit", "--config", "line", f"trainer.default_root_dir={tmp_path}", "trainer.logger=false"]
        )
    finally:
        _stages.make_trainer = original
        signal.signal(signal.SIGINT, before)
    assert code == 130
    assert "Traceback" not in capfd.readouterr().err


def test_durations():
    assert [parse_duration(text) for text in ("90", "90s", "1.5m", "2h", "1d", "1h30m", 5)] == [
        90, 90, 90, 7200, 86400, 5400, 5,
    ]  # fmt: skip
    for bad in ("", "2 weeks", "h", "-3s", "0", "1h x"):
        with pytest.raises(UserInputError, match="expected a duration"):
            parse_duration(bad)


def test_time_budget_picks_the_longest_schedule_that_fits():
    options = {"step_seconds": 0.5, "steps_per_epoch": 100}  # 50 s an epoch
    assert time_budget(1000, **options, reserve=0.0) == 20
    assert time_budget(1000, **options, reserve=0.05) == 19
    assert time_budget("1000s", **options, choices=(6, 12, 24), reserve=0.0) == 12
    with pytest.raises(UserInputError, match="too short: 6 epochs need about 5"):
        time_budget("4m", **options, choices=(6, 12), reserve=0.0)
    with pytest.raises(UserInputError, match="too short: 1 epochs"):
        time_budget("10s", **options)
    with pytest.raises(ValueError, match="above 0"):
        time_budget(10, step_seconds=0.0, steps_per_epoch=1)
