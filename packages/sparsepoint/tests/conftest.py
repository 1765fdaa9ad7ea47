import sys
from pathlib import Path

import pytest

from tenfold.testing import cli_fixture

sys.path.insert(0, str(Path(__file__).parent))  # for sparsepoint_tiny and raw_trees

cli = cli_fixture("sparsepoint.cli:app")


@pytest.fixture(scope="session")
def room_file(tmp_path_factory):
    """A generated room as a .ply file of points."""
    from sparsepoint.data import make_room
    from tenfold.io import PointCloud, write_points

    path = tmp_path_factory.mktemp("room") / "room.ply"
    write_points(path, PointCloud(make_room(1_000_003).points))
    return path
