"""Small networks and batches of generated rooms for the tests."""

from __future__ import annotations

import torch

from sparsepoint.config import make_config
from sparsepoint.data import SceneSamples, SyntheticRooms, collate


def small_config(preset="tiny", mode="aligned", **overrides):
    own = {"num_points": 512, "num_proposals": 12, "dim": 16, "heads": 2, "ffn": 32, "num_stages": 2}
    return make_config(preset, SyntheticRooms(1, mode=mode).labels, **{**own, **overrides})


def rooms_batch(config, number=2, mode="aligned", votes=True, augmentation=None, first=0):
    samples = SceneSamples(SyntheticRooms(number, first, mode), config, augmentation, votes=votes)
    return collate([samples[i] for i in range(number)])


def built(config, seed=0):
    from sparsepoint.models import build

    torch.manual_seed(seed)
    return build(config)
