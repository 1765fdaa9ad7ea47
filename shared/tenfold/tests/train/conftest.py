import subprocess
import sys
from pathlib import Path

import pytest

from tenfold.testing import child_environment

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _toy_package(monkeypatch):
    """The toy package is importable here and in subprocesses."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def environment():
    """Environment of a subprocess that runs the same sources as this process, on one thread."""
    return child_environment({"PYTHONDONTWRITEBYTECODE": "1"})


@pytest.fixture
def user(tmp_path, environment):
    """Runs a command line in an empty folder, as a user would: returns the finished process."""

    def run(*arguments, prelude="", **extra):
        code = f"{prelude}\nimport sys\nfrom toypkg.cli import app\nsys.exit(app())"
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=tmp_path,
            env={**environment, **extra},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
