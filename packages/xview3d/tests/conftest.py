import sys
from pathlib import Path

import pytest

from tenfold.testing import cli_fixture

sys.path.insert(0, str(Path(__file__).parent))  # for xview3d_tiny

cli = cli_fixture("xview3d.cli:app")


@pytest.fixture(scope="session")
def batch():
    """Two simulated frames with their cars."""
    from xview3d_tiny import tiny_batch

    return tiny_batch()
