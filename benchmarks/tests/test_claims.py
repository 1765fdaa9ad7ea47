"""The runner of the claims: which cells run, what a failure does, and what the table says."""

import json

import pytest

from claims import run as runner
from claims.__main__ import main
from claims.model import Claim
from tenfold.train.claims import Cell


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A claim whose cells count their calls, with its results in a folder of its own."""
    calls = []

    def measure(arm: str, seed: int) -> dict[str, float]:
        calls.append((arm, seed))
        if arm == "broken":
            raise RuntimeError("diverged")
        return {"accuracy": {"ours": 3.0, "control": 1.0}[arm] + seed}

    claim = Claim(
        name="toy",
        package="toy-kd",
        title="A toy",
        arms=("ours", "control", "broken"),
        seeds=(0, 1),
        measure=measure,
        dataset="generated",
        sources=("claims.model",),
        metrics=("accuracy",),
        control="control",
        text="Nothing is claimed.",
    )
    monkeypatch.setattr(runner, "load", lambda package: (claim,))
    return claim, calls, tmp_path


def test_cells_run_once_and_a_failure_stops_no_other(toy):
    _, calls, folder = toy
    said: list[str] = []
    failed = runner.run(runner.select("toy-kd"), folder, progress=said.append)
    assert failed == ["toy-kd:broken:0", "toy-kd:broken:1"]
    assert len(calls) == 6
    assert "diverged" in said[2]
    runner.run(runner.select("toy-kd:ours"), folder, progress=said.append)
    assert len(calls) == 6  # fresh
    runner.run(runner.select("toy-kd:ours:1"), folder, force=True, progress=said.append)
    assert calls[6:] == [("ours", 1)]


def test_another_configuration_makes_a_cell_stale(toy, monkeypatch):
    claim, _, folder = toy
    cell = Cell("toy-kd", "ours", 0)
    assert runner.run_cell(claim, cell, folder)
    assert not runner.run_cell(claim, cell, folder)
    record = json.loads(cell.path(folder).read_text())
    cell.path(folder).write_text(json.dumps(record | {"key": "old"}))
    assert "Older than the sources: ours:0" in runner.markdown((claim,), folder)
    assert runner.run_cell(claim, cell, folder)


def test_the_table_shows_paired_differences_and_what_is_missing(toy):
    claim, _, folder = toy
    runner.run(runner.select("toy-kd"), folder, progress=lambda _: None)
    text = runner.markdown((claim,), folder)
    assert "| ours | 3.50 ± 0.71 (n=2) | +2.00 ± 0.00 (n=2) |" in text
    assert "Not run yet: broken:0, broken:1." in text
    assert "Nothing is claimed." in text
    assert "generated; " in text


def test_wrong_names_are_said_in_a_sentence(toy, capsys):
    assert main(["toy-kd:nothing"]) == 2
    assert "arms of toy-kd are ours, control, broken" in capsys.readouterr().err
    assert main(["toy-kd:ours:x"]) == 2
    assert "seed: got 'x'" in capsys.readouterr().err


def test_an_unknown_package_is_named(capsys):
    assert main(["no-such-package"]) == 2
    assert "no claims of 'no-such-package'" in capsys.readouterr().err
