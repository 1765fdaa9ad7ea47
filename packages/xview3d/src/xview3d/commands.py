"""The verbs `diagnose`, `bench` and `centers`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tenfold._errors import UserInputError
from tenfold.io import make_folder, write_bytes, write_json
from tenfold.lidar.predict import point_range
from tenfold.train.processes import use_threads
from xview3d import diagnostics
from xview3d.centers import propose_centers
from xview3d.cost import PARTS, measure_cost
from xview3d.frames import Frame, batch_of, load_frame, models_of
from xview3d.view import View

__all__ = ["bench", "centers", "diagnose"]


def diagnose(
    config: str,
    frame: Path | None = None,
    labels: Path | None = None,
    calib: Path | None = None,
    out: Path = Path("diagnose"),
    seed: int = 0,
    effects: bool = True,
    threads: int | None = None,
) -> None:
    """Look at a recipe's views on a frame: hit rates, dropped points, shared cells by distance, dead branches.

    Writes diagnose.json, extent.svg (how far apart the points of a cell lie, by distance), and with objects in the
    frame purity.svg (share of object points whose cell holds another object too, by distance) and purity.png (where
    they are). Weights are random: nothing here depends on training.

    Args:
        config: Recipe name or YAML file.
        frame: Point cloud, .bin, .npy, .npz, .ply or .pcd; simulated without it.
        labels: KITTI labels of the frame.
        calib: KITTI calibration of the frame.
        out: Folder for the results.
        seed: Of a simulated frame, and of the weights.
        effects: Also run a training step to see that every view has an effect and a gradient.
        threads: Threads to use; all cores by default.
    """
    use_threads(threads)
    torch.manual_seed(seed)
    _, model = models_of(config)
    seen = load_frame(model, frame, labels, calib, seed)
    batch = batch_of(seen, model)
    views: Any = model
    document: dict[str, Any] = {
        "frame": seen.name,
        "points": len(seen.points),
        "views": [{"center": v.center, "kind": v.kind, "range": v.range} for v in views.views],
    }
    if len(views.projectors):
        document["hit_rate"] = diagnostics.hit_rate(model, batch)
    if hasattr(model, "voxel_features"):
        document["occupancy"] = [o._asdict() for o in diagnostics.occupancy(model, batch)]
    document["extent"], files = _extent(seen, views.views)
    if bool((seen.instance >= 0).any()):
        document["purity"], drawn = _purity(seen, views.views, point_range(model))
        files |= drawn
    if effects:
        document["effects"] = [e._asdict() for e in diagnostics.branch_effect(model, batch)]
    make_folder(out)
    for name, content in files.items():
        write_bytes(out / name, content)
    write_json(out / "diagnose.json", _without_nan(document))
    _say(document)
    print(f"-> {out / 'diagnose.json'}" + "".join(f", {out / name}" for name in files))


def _extent(frame: Frame, views: Sequence[View]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """How far apart the points of a cell lie, by distance, as numbers and as a plot."""
    means = {_name(view): diagnostics.cell_extent(frame.points, view).mean.tolist() for view in views}
    svg = _plot(means, "extent of what a cell holds, m")
    return {"edges": list(diagnostics.RANGE_EDGES), "mean": means}, {"extent.svg": svg}


def _name(view: View) -> str:
    return f"{view.kind}, centre {view.center[0]:g}, {view.center[1]:g}"


def _plot(lines: dict[str, list[float]], label: str) -> bytes:
    """Lines over distance as an SVG file."""
    from tenfold.viz import Series, line_plot, standalone

    middles = [(a + b) / 2 for a, b in itertools.pairwise(diagnostics.RANGE_EDGES)]
    series = [
        Series(name, [p for p in zip(middles, values, strict=True) if math.isfinite(p[1])])
        for name, values in lines.items()
    ]
    return standalone(line_plot(series, x_label="distance, m", y_label=label)).encode()


def _purity(
    frame: Frame, views: Sequence[View], limits: Sequence[float]
) -> tuple[dict[str, Any], dict[str, bytes]]:
    from tenfold.viz import bev_image, encode_image

    found = {_name(view): diagnostics.cell_purity(frame.points, frame.instance, view) for view in views}
    shares = {name: purity.shared.tolist() for name, purity in found.items()}
    svg = _plot({name: [100 * s for s in values] for name, values in shares.items()},
                "object points in shared cells, %")  # fmt: skip
    parts = [purity.impure for purity in found.values()]
    of_object = frame.instance >= 0
    colours = torch.where(of_object, 0.35, 0.0) + 0.65 * torch.stack(parts).all(0).double()
    picture = bev_image(
        frame.points.numpy(),
        frame.boxes.numpy(),
        range=tuple(limits),
        colour_by=colours.numpy(),
        point_size=2,
    )
    return {"edges": list(diagnostics.RANGE_EDGES), "shared": shares}, {
        "purity.svg": svg,
        "purity.png": encode_image(picture),
    }


def _say(document: dict[str, Any]) -> None:
    print(f"{document['frame']}: {document['points']:,} points")
    for k, view in enumerate(document["views"]):
        center = ", ".join(f"{v:g}" for v in view["center"])
        words = [f"view {k} ({view['kind']} at {center})"]
        if "hit_rate" in document:
            words.append(f"{100 * document['hit_rate'][k]:.1f} % of the sites find a cell")
        if "effects" in document:
            effect = document["effects"][k]
            words.append(f"changes {100 * effect['change']:.1f} % of the features")
            words.append(f"gradient {effect['gradient']:.3g}")
        print(": ".join((words[0], ", ".join(words[1:]))) if words[1:] else words[0])
    for grid in document.get("occupancy", []):
        dropped = grid["over_voxels"] + grid["over_points"]
        print(f"grid {grid['name']}: {grid['voxels']:,} cells, {dropped:,} points over a cap, "
              f"{grid['outside']:,} outside")  # fmt: skip
    for name, values in document["extent"]["mean"].items():
        words = ["–" if math.isnan(v) else f"{v:.2f}" for v in values]
        print(f"extent of what a cell holds, m, every 10 m, {name}: {' '.join(words)}")
    for name, shares in document.get("purity", {}).get("shared", {}).items():
        words = ["–" if math.isnan(s) else f"{100 * s:.1f}" for s in shares]
        print(f"object points in shared cells, %, every 10 m, {name}: {' '.join(words)}")


def bench(
    config: str,
    frame: Path | None = None,
    runs: int = 10,
    threads: int = 1,
    memory: bool = True,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Time a recipe's detector with and without its views on one frame, part by part.

    Args:
        config: Recipe name or YAML file.
        frame: Point cloud; simulated without it.
        runs: Counted forward passes; the median is printed.
        threads: Threads to use.
        memory: Also measure what a training step keeps for its backward pass.
        out: JSON file for the numbers.
        seed: Of a simulated frame, and of the weights.
    """
    if runs < 1:
        raise UserInputError(f"runs: got {runs}; expected 1 or more")
    use_threads(threads)
    torch.manual_seed(seed)
    base, model = models_of(config)
    seen = load_frame(model, frame, None, None, seed)
    batch = batch_of(seen, model)
    costs = {"without views": measure_cost(base, batch, runs, memory=memory)}
    costs[f"{len(model.view_encoders)} views"] = measure_cost(model, batch, runs, memory=memory)  # type: ignore[arg-type]
    print(f"{config}, {seen.name}: {len(seen.points):,} points, median of {runs}, {threads} threads")
    heads = ["ms", *(f"{p} ms" for p in PARTS), "parameters", "training keeps"]
    print(f"{'':14}" + "".join(f"{head:>16}" for head in heads))
    for name, cost in costs.items():
        kept = "–" if cost.kept is None else f"{cost.kept / 1e6:.0f} MB"
        numbers = [
            f"{cost.total:.1f}",
            *(f"{cost.parts[p]:.1f}" for p in PARTS),
            f"{cost.parameters:,}",
            kept,
        ]
        print(f"{name:14}" + "".join(f"{word:>16}" for word in numbers))
    if out is not None:
        write_json(out, {"config": config, "frame": seen.name, **{k: c._asdict() for k, c in costs.items()}})


def centers(
    frames: list[Path],
    number: int = 1,
    range: Sequence[float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
    step: float = 5.0,
    columns: int | None = None,
) -> None:
    """Propose centres of views from where a scanner's points lie: those that make the finest cells narrow.

    Args:
        frames: Point clouds.
        number: Of centres beside the egocentric one.
        range: Where the detector looks: x, y, z of the lower corner, then of the upper, metres.
        step: Distance of the candidates, metres.
        columns: Of .bin files, 4 by default and 5 for .pcd.bin.
    """
    from tenfold.lidar.predict import read_frame

    if not frames:
        raise UserInputError("frames: got none; expected one or more")
    if len(range) != 6:
        raise UserInputError(f"range: got {len(range)} numbers; expected six")
    clouds = [torch.from_numpy(read_frame(path, features=(), columns=columns).copy()) for path in frames]
    places = torch.cat(clouds)[:, :2]
    try:
        found = propose_centers(places, range, number, step=step)
    except ValueError as error:
        raise UserInputError(str(error)) from error
    cells = _occupied(places, range)
    before = diagnostics.cell_width(cells, [View()]).mean()
    views = [View()]
    print(f"egocentric view alone: the finest cells are {before:.2f} m wide on average")
    for center in found:
        views.append(View(center))
        width = diagnostics.cell_width(cells, views).mean()
        print(f"with a centre at {center[0]:g}, {center[1]:g}, {center[2]:g}: {width:.2f} m")


def _occupied(places: torch.Tensor, limits: Sequence[float]) -> torch.Tensor:
    """(K, 3) middles of the occupied square metres in range."""
    low, high = torch.tensor(list(limits[:2])), torch.tensor(list(limits[3:5]))
    inside = places[((places >= low) & (places <= high)).all(1)]
    cells = (inside.floor() + 0.5).unique(dim=0)
    return torch.cat((cells, torch.zeros(len(cells), 1)), 1)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
