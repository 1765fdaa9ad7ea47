import os
import pickle

import pytest
import safetensors.torch
import torch
from torch import nn

from tenfold._errors import UserInputError
from tenfold.io import (
    CheckpointMismatchError,
    KeyReport,
    atomic,
    convert_state_dict,
    load_checkpoint,
    load_strict,
    save_checkpoint,
)


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_round_trip(tmp_path, name):
    state = net().state_dict()
    state["transposed"] = torch.arange(6.0).reshape(2, 3).t()
    save_checkpoint(tmp_path / name, state)
    assert equal(load_checkpoint(tmp_path / name), state)
    assert os.listdir(tmp_path) == [name]


def test_files_are_the_usual_ones(tmp_path):
    state = net().state_dict()
    save_checkpoint(tmp_path / "a.safetensors", state)
    assert equal(safetensors.torch.load_file(tmp_path / "a.safetensors"), state)
    save_checkpoint(tmp_path / "a.pt", {"epoch": 3, "model": state})
    assert equal(torch.load(tmp_path / "a.pt", weights_only=True)["model"], state)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize(
    "damage", [lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"x" * 200, lambda d: d[:7]]
)
def test_damage(tmp_path, name, damage):
    path = tmp_path / name
    save_checkpoint(path, net().state_dict())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserInputError, match=rf"{name}: checkpoint: is (damaged|no sound)") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_absent_and_folder(tmp_path, name):
    with pytest.raises(UserInputError, match="does not exist"):
        load_checkpoint(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserInputError, match="is no file"):
        load_checkpoint(tmp_path / name)


class Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_no_code_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(1), "x": Evil()}, "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(
            UserInputError, match=rf"{name}: checkpoint: (holds .*posix\.system|is damaged)"
        ) as caught:
            load_checkpoint(name)
        assert "\n" not in str(caught.value)
    torch.save(net(), "whole.pt")
    with pytest.raises(UserInputError, match="which is not loaded for safety"):
        load_checkpoint("whole.pt")
    assert not (tmp_path / "ran").exists()


def test_failed_save_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserInputError, match=r"a\.pt: file: cannot be written \(No space"):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_save_refuses(tmp_path):
    with pytest.raises(TypeError, match="got no dict of tensors"):
        save_checkpoint(tmp_path / "a.safetensors", {"step": 3})
    weight = torch.zeros(4)
    with pytest.raises(ValueError, match="save_checkpoint: checkpoint: "):
        save_checkpoint(tmp_path / "a.safetensors", {"a": weight, "b": weight})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "a.pt", {"f": lambda: 0})
    assert os.listdir(tmp_path) == []


def test_convert():
    state = {"module.conv.w": torch.ones(2, 3), "module.conv.b": 2, "steps": 3, "head": 4}
    rules = [
        (r"module\.(\w+)\.w", r"\1.weight", lambda t: t.t()),
        (r"module\.(?P<name>\w+)\.b", r"\g<name>.bias"),
        ("steps", None),
    ]
    converted = convert_state_dict(state, rules)
    assert list(converted) == ["conv.weight", "conv.bias", "head"]
    assert converted["conv.weight"].shape == (3, 2)
    assert list(state) == ["module.conv.w", "module.conv.b", "steps", "head"]
    assert convert_state_dict({"ab": 1}, [("ab", "x"), (".b", "y")][:1]) == {"x": 1}
    with pytest.raises(ValueError, match="'a' and 'b' both become 'c'"):
        convert_state_dict({"a": 1, "b": 2}, [("[ab]", "c")])
    with pytest.raises(ValueError, match="'head' and 'x' both become 'head'"):
        convert_state_dict({"head": 1, "x": 2}, [("x", "head")])
    with pytest.raises(ValueError, match=r"nothing matches 'modul\\\\.'; keys are like 'head'"):
        convert_state_dict({"head": 1}, [(r"modul\.", "")])


def test_strict_load_and_report():
    model, other = net(), net()
    report = load_strict(model, other.state_dict())
    assert report.complete
    assert report.loaded == list(other.state_dict())
    assert equal(model.state_dict(), other.state_dict())


def wrong_state():
    state = net().state_dict()
    del state["0.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["2.weight"] = torch.zeros(2, 5)
    return state


def test_strict_load_refuses_nan():
    before = nn.Linear(2, 1).state_dict()
    broken = {**before, "bias": torch.tensor([float("nan")])}
    module = nn.Linear(2, 1)
    own = module.weight.clone()
    with pytest.raises(UserInputError, match=r"net\.pt: bias: holds NaN"):
        load_strict(module, broken, source="net.pt")
    assert torch.equal(module.weight, own)


def test_strict_load_refuses_with_the_full_report_and_changes_nothing():
    model = net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointMismatchError) as caught:
        load_strict(model, wrong_state(), source="weights.pt")
    assert str(caught.value).splitlines() == [
        "weights.pt: 3 keys do not fit Sequential: 7 loaded, 1 missing, 1 unexpected, 1 of another shape",
        "  missing: 0.bias",
        "  unexpected: extra.weight",
        "  shape: 2.weight: (2, 5) given, (2, 4) expected",
    ]
    assert isinstance(caught.value, UserInputError)
    assert caught.value.report.reshaped == {"2.weight": ((2, 5), (2, 4))}
    assert equal(model.state_dict(), before)


ALLOW = {"allow_missing": [r"0\.bias"], "allow_unexpected": [r"extra\..*"], "allow_reshaped": [r"2\.weight"]}


def test_permissions_are_explicit_and_match_whole_names():
    model, state = net(), wrong_state()
    own = model.state_dict()["2.weight"].clone()
    report = load_strict(model, state, **ALLOW)
    assert not report.complete
    assert torch.equal(model.state_dict()["0.weight"], state["0.weight"])
    assert torch.equal(model.state_dict()["2.weight"], own)
    for name, patterns in (("allow_missing", ["0"]), ("allow_unexpected", ["extra"]), ("allow_reshaped", [])):
        with pytest.raises(CheckpointMismatchError, match="1 keys do not fit"):
            load_strict(model, state, **{**ALLOW, name: patterns})


def test_something_else_than_a_tensor_is_a_mismatch():
    state = {**net().state_dict(), "0.bias": 3}
    with pytest.raises(CheckpointMismatchError, match=r"shape: 0\.bias: int given, \(4,\) expected"):
        load_strict(net(), state)


def test_empty_report():
    assert str(KeyReport()) == "0 loaded, 0 missing, 0 unexpected, 0 of another shape"
