"""The examples that put packages together run, and what they join does something."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from tenfold.testing import repository_root

EXAMPLES = repository_root(Path(__file__).parent) / "docs" / "examples"


def run(name, *arguments, **options):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](*arguments, **options)


def test_views_and_boundaries():
    losses, effects, model, batch = run("views_and_boundaries", steps=3)
    assert np.isfinite(losses).all()
    assert min(effect.change for effect in effects) > 0.01
    assert min(effect.gradient for effect in effects) > 0
    # The offsets of the boundary features have learnt something too, and both parts change what the head sees.
    module = model.dense_head.denfi
    assert module.refine_reg.offset.weight.abs().max() > 0
    seen = []
    model.eval().dense_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        model(batch)
        with model.without(0, 1):
            model(batch)
    assert not torch.allclose(seen[0], seen[1])


@pytest.mark.filterwarnings("ignore")
def test_sskd_then_unix():
    first, second, unix = run("sskd_then_unix", number=64, epochs=1)
    assert np.isfinite(first + second).all()
    assert len(first) == len(second) == 2
    assert not any(p.requires_grad and p.grad is not None for p in unix.teacher.parameters())


def test_cast_from_detections(tmp_path):
    import ttfnet
    from moviescenes.data.film import plan_film, write_film
    from ttfnet.checkpoint import describe

    film = write_film(tmp_path / "film.mp4", plan_film(0, scenes=2))
    torch.manual_seed(0)
    model = ttfnet.TTFNet(backbone="small", num_classes=2)
    path = tmp_path / "people.pt"
    ttfnet.save_detector(path, model, describe(model, ["face", "body"], size=(64, 96)))
    shots, features, scores = run(
        "cast_from_detections", [str(tmp_path / "film.mp4"), str(path), "--conf", "0"]
    )
    assert len(shots) > len(film.plan.hard_cuts) / 2
    assert features.shape == (len(shots), 20)
    assert features.std(0).max() > 0  # shots differ
    assert scores.shape == (len(shots) - 1,)
