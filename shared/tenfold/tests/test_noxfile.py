"""What the sessions of noxfile.py do to this checkout."""

import importlib.util
from pathlib import Path

import pytest

from tenfold.testing import repository_root, require


@pytest.fixture
def noxfile(tmp_path, monkeypatch):
    require("nox")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # the file takes it away
    path = repository_root(Path(__file__).parent) / "noxfile.py"
    spec = importlib.util.spec_from_file_location("noxfile", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


class Session:
    """Makes the folder of an environment; installing fails as often as asked."""

    def __init__(self, failures=0):
        self.failures, self.installed = failures, []

    def run(self, *words, external):
        if "venv" in words:
            Path(words[-1], "bin").mkdir(parents=True)
            Path(words[-1], "bin", "python").touch()
        elif self.failures:
            self.failures -= 1
            raise RuntimeError("no network")
        else:
            self.installed.append(words[-1])


def test_a_small_environment_is_made_whole_and_made_anew_when_its_requirements_change(noxfile, tmp_path):
    session = Session(failures=1)
    with pytest.raises(RuntimeError, match="no network"):
        noxfile._thin_environment(session, "docs", "mkdocs")
    for wanted in ("mkdocs", "mkdocs", "mkdocs<2"):
        assert noxfile._thin_environment(session, "docs", wanted) == f"{tmp_path}/.nox/docs/bin/python"
    (tmp_path / "constraints.txt").write_text("mkdocs==1.6")
    pinned = ("-c", f"{tmp_path}/constraints.txt", "mkdocs")
    for pin in ("mkdocs==1.6", "mkdocs==1.6", "mkdocs==1.7"):
        (tmp_path / "constraints.txt").write_text(pin)
        noxfile._thin_environment(session, "docs", *pinned)
    assert session.installed == ["mkdocs", "mkdocs<2", "mkdocs", "mkdocs"]
