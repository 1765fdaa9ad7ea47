"""Small runs that several tests share."""

import logging
import os
import sys

import pytest

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    """Runs the command line in an empty folder: (exit code, output, error lines)."""
    from unix_kd.cli import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        code = app([str(word) for word in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


@pytest.fixture
def child_environment():
    """For processes that must find our sources."""
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"}
