"""Where the sample data lies, and what to do about a thing that a test needs and this machine lacks."""

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import NoReturn


def repository_root(start: Path | None = None) -> Path | None:
    """The nearest folder from `start` (the working folder) upwards with a `noxfile.py` or `.git`."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "noxfile.py").is_file() or (folder / ".git").exists():
            return folder
    return None


def missing(name: str, reason: str) -> NoReturn:
    """Skip the running test, or fail it where the environment variable TENFOLD_REQUIRE lists `name`.

    Example: ``TENFOLD_REQUIRE=data,chromium,open3d,spconv`` is what continuous integration sets.
    """
    import pytest

    required = {word.strip() for word in os.environ.get("TENFOLD_REQUIRE", "").split(",")}
    if name in required:
        pytest.fail(f"{name} is required by TENFOLD_REQUIRE but {reason}", pytrace=False)
    pytest.skip(f"needs {name}: {reason}")


def sample_data(*parts: str) -> Path:
    """The path of sample data, such as ``sample_data("kitti", "training")``; skips the test where absent.

    The folder is named by TENFOLD_TEST_DATA; without it, it is ``../shared/data`` beside the repository: that
    of the working folder, or, where a test has left it, that of these sources.

    Example:
        >>> scans = sample_data("kitti", "training", "velodyne")  # doctest: +SKIP
    """
    named = os.environ.get("TENFOLD_TEST_DATA")
    root = repository_root() or repository_root(Path(__file__).parent)
    if named:
        folder = Path(named)
        if not folder.is_absolute() and root:
            folder = root / folder
    elif root:
        folder = root.parent / "shared" / "data"
    else:
        folder = Path("../shared/data")
    path = folder.joinpath(*parts)
    if not path.exists():
        missing("data", f"{path} does not exist (set TENFOLD_TEST_DATA)")
    return path


def require(name: str) -> ModuleType | Path:
    """What a test cannot do without: "data", "chromium", or any module; skips the test where absent.

    Returns:
        The folder of the sample data, the path of the browser, or the imported module.

    Example:
        >>> require("json").__name__
        'json'
    """
    if name == "data":
        return sample_data()
    if name == "chromium":
        found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if found is None:
            missing(name, "no such program is on the PATH")
        return Path(found)
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library that the module links is absent
        missing(name, f"it cannot be imported ({error})")
