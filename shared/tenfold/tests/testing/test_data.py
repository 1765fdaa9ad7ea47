import re
import shutil
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

from tenfold.testing import repository_root, require, sample_data


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A repository with sample data beside it; the working folder is deep inside."""
    (tmp_path / "repo" / "packages" / "a").mkdir(parents=True)
    (tmp_path / "repo" / "noxfile.py").touch()
    (tmp_path / "shared" / "data" / "kitti").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "repo" / "packages" / "a")
    monkeypatch.delenv("TENFOLD_TEST_DATA", raising=False)
    monkeypatch.delenv("TENFOLD_REQUIRE", raising=False)
    return tmp_path


def test_default_place(house):
    assert repository_root() == house / "repo"
    assert sample_data("kitti") == house / "shared" / "data" / "kitti"
    assert require("data") == house / "shared" / "data"


def test_working_folder_outside_of_any_repository(house, monkeypatch):
    """A test that stands in a folder of its own still finds the data beside these sources."""
    (house / "own").mkdir()
    monkeypatch.chdir(house / "own")
    beside = repository_root(Path(__file__).parent).parent / "shared" / "data"
    monkeypatch.setenv("TENFOLD_REQUIRE", "data")
    with pytest.raises(Failed, match=re.escape(str(beside / "nothing of that name"))):
        sample_data("nothing of that name")


def test_git_folder_or_file_marks_the_root_too(house):
    (house / "repo" / "noxfile.py").unlink()
    (house / "repo" / ".git").write_text("gitdir: elsewhere")
    assert repository_root() == house / "repo"


def test_environment_names_the_place(house, monkeypatch):
    (house / "mine" / "mnist").mkdir(parents=True)
    monkeypatch.setenv("TENFOLD_TEST_DATA", str(house / "mine"))
    assert sample_data("mnist") == house / "mine" / "mnist"
    monkeypatch.setenv("TENFOLD_TEST_DATA", "../mine")
    assert sample_data("mnist").resolve() == house / "mine" / "mnist"


def test_absent_data_skip_with_a_reason_or_fail_if_required(house, monkeypatch):
    with pytest.raises(Skipped, match=r"needs data: .*nuscenes does not exist \(set TENFOLD_TEST_DATA\)"):
        sample_data("nuscenes")
    monkeypatch.setenv("TENFOLD_REQUIRE", "chromium, data")
    with pytest.raises(Failed, match=r"data is required by TENFOLD_REQUIRE but .*nuscenes does not exist"):
        sample_data("nuscenes")


def test_modules(house, monkeypatch):
    assert require("json").dumps([1]) == "[1]"
    with pytest.raises(Skipped, match="needs no_such_module: it cannot be imported"):
        require("no_such_module")
    (house / "half_broken.py").write_text("raise OSError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(house)
    with pytest.raises(Skipped, match="libGL"):
        require("half_broken")
    monkeypatch.setenv("TENFOLD_REQUIRE", "open3d,no_such_module")
    with pytest.raises(Failed, match="no_such_module is required"):
        require("no_such_module")


def test_chromium(house, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Skipped, match="needs chromium: no such program"):
        require("chromium")
    monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}" if name == "chromium-browser" else None)
    assert str(require("chromium")) == "/opt/chromium-browser"
