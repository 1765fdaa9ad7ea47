import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for xview3d_tiny


@pytest.fixture(scope="session")
def batch():
    """Two simulated frames with their cars."""
    from xview3d_tiny import tiny_batch

    return tiny_batch()
