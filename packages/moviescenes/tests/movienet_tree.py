"""A folder laid out as MovieNet's scene segmentation data, small and generated."""

import json
import pickle

import numpy as np
import torch

from tenfold.io.images import write_image


def write_movienet(root, films=("tt01", "tt02"), shots=12):
    """Two films of twelve shots below root, in the published layout; returns root."""
    rng = np.random.default_rng(0)
    for folder in ("meta", "label318", "shot_movie318", "cast_feat", "act_feat"):
        (root / folder).mkdir(parents=True)
    (root / "meta" / "split318.json").write_text(
        json.dumps({"train": list(films), "val": [films[0]], "test": [films[1]], "all": list(films)})
    )
    for name in films:
        rows = [f"{24 * k} {24 * k + 23} 1 2 3" for k in range(shots)]
        (root / "shot_movie318" / f"{name}.txt").write_text("\n".join(rows) + "\n")
        labels = [f"{k:04d} {(-1 if k == 5 else int(k % 4 == 3))}" for k in range(shots - 1)]
        (root / "label318" / f"{name}.txt").write_text("\n".join(labels) + "\n")
        (root / "place_feat" / name).mkdir(parents=True)
        (root / "aud_feat" / name).mkdir(parents=True)
        for k in range(shots):
            np.save(root / "place_feat" / name / f"shot_{k:04d}.npy", np.full(6, k, np.float32))
            np.save(root / "aud_feat" / name / f"shot_{k:04d}.npy", rng.random((257, 90)).astype(np.float32))
        cast = {f"{k:04d}": rng.random((k % 3, 5)).astype(np.float32) for k in range(shots)}
        (root / "cast_feat" / f"{name}.pkl").write_bytes(pickle.dumps(cast))
        act = {f"{k:04d}": torch.full((4,), float(k)) for k in range(shots)}
        (root / "act_feat" / f"{name}.pkl").write_bytes(
            pickle.dumps({key: value.numpy() for key, value in act.items()})
        )
    return root


def write_keyframes(root, films=("tt01", "tt02"), shots=12):
    """Their middle keyframes, grey, the brighter the later; returns root."""
    for name in films:
        (root / name).mkdir(parents=True)
        for k in range(shots):
            image = np.full((40, 60, 3), 20 * k, np.uint8)
            write_image(root / name / f"shot_{k:04d}_img_1.jpg", image)
    return root
