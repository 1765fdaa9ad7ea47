"""The gates on the claims, how they are judged, and the pictures that follow from the records."""

import importlib

import pytest

from claims import gates
from claims.docs import render
from claims.gates import judge
from claims.run import modules
from kernels.frames import REPOSITORY

GATED = [name for name in modules() if hasattr(importlib.import_module(f"claims.{name}"), "gates")]


@pytest.mark.parametrize("package", GATED)
def test_recorded_claims_hold(package):
    """A gate that the records break is a changed claim: its text must change with it."""
    found = importlib.import_module(f"claims.{package}").gates()
    assert len(found) >= 8
    broken = [f"{gate.text}: {gate.found}" for gate in found if gate.verdict == "does not hold"]
    assert not broken


@pytest.mark.parametrize("package", GATED)
def test_every_arm_of_a_gate_is_a_cell_of_the_claims(package, monkeypatch):
    module = importlib.import_module(f"claims.{package}")
    arms = {arm for claim in module.CLAIMS for arm in claim.arms}

    class Everything(dict):
        def __missing__(self, metric):
            return 50.0

    monkeypatch.setattr(gates, "means", lambda _: {arm: Everything() for arm in arms})
    assert all(gate.found != "–" for gate in module.gates())


def test_pictures_follow_from_the_records(monkeypatch):
    module = importlib.import_module("claims.ttfnet")
    curve = {f"AP@{step}": float(step) for step in (75, 150, 225, 300)}
    losses = {"loss in epoch 1": 9.0, "loss in epoch 2": 8.0, "last loss": 8.0}
    records = [{"arm": "many-lr0.01", "metrics": curve}, {"arm": "coco128-small", "metrics": losses}]
    monkeypatch.setattr(module, "load_records", lambda *_: records)
    drawn = module.pictures()
    assert set(drawn) == {"ttfnet_claim.svg", "ttfnet_coco128.svg"}
    assert "many-lr0.01" in drawn["ttfnet_claim.svg"]
    monkeypatch.setattr(module, "load_records", lambda *_: [])
    assert module.pictures() == {}


@pytest.mark.parametrize("package", [name for name in GATED if name in ("ttfnet", "xview3d")])
def test_committed_pictures_are_those_of_the_records(package):
    for name, svg in importlib.import_module(f"claims.{package}").pictures().items():
        assert (REPOSITORY / "docs" / "images" / name).read_text(encoding="utf-8") == svg, name


def test_the_page_of_the_detectors_shows_the_records():
    text = (REPOSITORY / "docs" / "lidar.md").read_text(encoding="utf-8")
    assert render(text, "lidar") == text


def test_a_gate_can_fail(monkeypatch):
    monkeypatch.setattr(gates, "means", lambda _: {"a": {"top1": 50.0}, "b": {"top1": 51.0}})
    assert judge("", lambda m: m["a"]["top1"] - m["b"]["top1"], 0.0, "x").verdict == "does not hold"
    assert judge("", lambda m: m["b"]["top1"] - m["a"]["top1"], 0.0, "x").verdict == "holds"
    assert judge("", lambda m: m["c"]["top1"], 0.0, "x").verdict == "not run with three seeds yet"
    assert judge("", lambda m: -1.0, 0.0, "x", gates=False).verdict == "reported"
    assert judge("", lambda m: -1.0, 0.0, "x", pilot=True).verdict == "does not hold (pilot bound)"
