"""Real frames for the tests of operators."""

import numpy as np
import pytest
import torch

from tenfold.testing import sample_data


@pytest.fixture
def kitti_frame():
    """Reads a frame of KITTI by its number: points (N, 4) of x, y, z and intensity."""

    def read(number: int = 0) -> torch.Tensor:
        path = sample_data("kitti", "training", "velodyne", f"{number:06d}.bin")
        return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 4))

    return read


@pytest.fixture
def nuscenes_sweep():
    """Reads the sweep of nuScenes: points (N, 5) of x, y, z, intensity and ring."""

    def read() -> torch.Tensor:
        (path,) = sample_data("nuscenes").glob("*LIDAR_TOP*.bin")
        return torch.from_numpy(np.fromfile(path, np.float32).reshape(-1, 5))

    return read
