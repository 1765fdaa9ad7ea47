"""A demo's result survives its file; wrong files and stray pictures are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from tenfold._errors import UserInputError
from tenfold.train import DemoResult, print_demo, read_demo, write_demo


@pytest.fixture
def result(tmp_path):
    return DemoResult(
        title="Toy",
        claim="It works.",
        number="AP 2.0",
        control="AP 1.0",
        passed=True,
        pictures=(tmp_path / "a.png",),
        columns=("arm", "AP"),
        rows=(("ours", 2.04), ("control", "none")),
        notes=("Quick run.",),
        seed=3,
        seconds=1.6,
    )


def test_round_trip(result, tmp_path):
    path = write_demo(result, tmp_path)
    assert path == tmp_path / "demo.json"
    assert read_demo(tmp_path) == result


def test_print(result, capsys):
    print_demo(result)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == ["It works.", "arm      AP", "ours     2.0", "control  none"]
    assert lines[4:6] == ["Quick run.", "AP 2.0 (control: AP 1.0)"]
    assert lines[6].startswith("2 s; seed 3; pictures: ")


def test_a_picture_elsewhere_is_refused(result, tmp_path):
    stray = replace(result, pictures=(Path("/somewhere/a.png"),))
    with pytest.raises(ValueError, match=r"/somewhere/a\.png"):
        write_demo(stray, tmp_path)
    assert not (tmp_path / "demo.json").exists()


def test_another_file_is_named(tmp_path):
    with pytest.raises(UserInputError, match=r"demo\.json"):
        read_demo(tmp_path)
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(UserInputError, match="expected the fields"):
        read_demo(tmp_path)
