"""The verbs of the command line besides `fit` and `test`; each parameter is an option."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stylegan_distill.checkpoints import Checkpoint, load_checkpoint, load_generator, save_checkpoint
from stylegan_distill.config import DiscriminatorConfig, config_to_dict
from stylegan_distill.cost import count_cost, measure_run
from stylegan_distill.data import ImageSource, open_images, prepare_images, read_cifar10, read_mnist, to_float
from stylegan_distill.data.batches import Pixels
from stylegan_distill.grids import image_grid, labelled_rows, require_av, to_pixels, write_video
from stylegan_distill.networks import Generator
from tenfold._errors import UserInputError
from tenfold.io import atomic_write, make_folder, read_image, write_image, write_json

__all__ = [
    "convert",
    "directions",
    "edit",
    "evaluate",
    "export",
    "generate",
    "inspect",
    "load_images",
    "prepare",
    "project",
    "prune",
    "train_gan",
]

Noise = Literal["random", "const", "none"]


# ---- files ---------------------------------------------------------------------------------------


def load_images(data: str) -> Pixels | ImageSource:
    """Images by name: ``sprites`` (generated), ``mnist:FOLDER``, ``cifar10:FOLDER_OR_ZIP``, or an archive or folder.

    Raises:
        UserInputError: nothing of that kind is there.
    """
    kind, _, place = data.partition(":")
    if data == "sprites":
        from stylegan_distill.experiment import sprite_set

        return sprite_set()
    if kind == "mnist" and place:
        return read_mnist(place)
    if kind == "cifar10" and place:
        return read_cifar10(place)
    return open_images(data)


def _open(checkpoint: Path, which: Literal["G_ema", "G"] = "G_ema") -> Generator:
    return load_generator(checkpoint, which).eval()


def _native(out: Path) -> Path:
    """Refuse early what cannot be written in the end."""
    if out.suffix != ".safetensors":
        raise UserInputError(f"{out}: out: got the ending {out.suffix!r}; expected .safetensors")
    if not out.parent.is_dir():
        raise UserInputError(f"{out}: out: the folder {out.parent} does not exist")
    return out


def _beside(path: Path, net: Generator) -> Generator:
    """Another generator for the codes, labels and pictures of this one."""
    other = _open(path)
    for name in ("resolution", "z_dim", "w_dim", "c_dim"):
        own, theirs = (getattr(g.cfg, name) for g in (net, other))
        if own != theirs:
            raise UserInputError(f"{path}: beside: {name}: got {theirs}; the generator has {own}")
    return other


def _codes(net: Generator, count: int, seed: int, option: str = "count") -> tuple[Tensor, Tensor | None]:
    from stylegan_distill.metrics.sampling import draw_codes

    if count < 1:
        raise UserInputError(f"{option}: got {count}; expected at least 1")
    return draw_codes(net, count, torch.Generator().manual_seed(seed))


@torch.no_grad()
def _draw(net: Generator, ws: Tensor, noise: Noise = "const", batch: int = 16) -> Tensor:
    torch.manual_seed(0)  # of noise "random"
    return torch.cat([net.synthesis(part, noise=noise) for part in ws.split(batch)])


def _tell(what: str, all_steps: int, every: int = 50) -> Any:
    def tell(step: int, values: Any = None) -> None:
        if (step + 1) % every == 0 or step + 1 == all_steps:
            shown = f", loss {values:.4f}" if isinstance(values, float) else ""
            print(f"{what}: {step + 1} of {all_steps}{shown}", flush=True)

    return tell


# ---- data and checkpoints ------------------------------------------------------------------------


def prepare(
    source: Path,
    out: Path,
    resolution: int = 256,
    filter: Literal["box", "lanczos", "bilinear"] = "lanczos",
    split: Literal["all", "training", "validation"] = "all",
) -> None:
    """Write a folder of images, walked recursively, into a zip archive of square ones; the filter is recorded in it.

    The real side of FID depends on the filter: compare only numbers that were made with the same one. NVIDIA's
    FFHQ-256 networks were trained on box-filtered images.

    Args:
        source: Folder of images, of FFHQ with its ffhq-dataset-v2.json, or of LMDB (LSUN's, or rosinality's packing).
        out: Archive to write, .zip.
        resolution: Side, a power of two, pixels.
        filter: How images are resized, after a centre crop.
        split: Part of FFHQ; generators are usually trained and measured on all of it.
    """
    count = prepare_images(
        source, out, resolution, filter, lambda k, n: _tell("images", n, 500)(k - 1), split=split
    )
    print(f"{count} images of {resolution} x {resolution}, {filter} filter -> {out}")


def convert(checkpoint: Path, out: Path) -> None:
    """Turn a published checkpoint into safetensors; nothing in the file is executed.

    NVIDIA's pickles (StyleGAN2-ADA, StyleGAN3, TensorFlow), rosinality's and StyleKD's .pt, this package's own files
    and training checkpoints are told by their content.

    Args:
        checkpoint: File to read.
        out: File to write, .safetensors.
    """
    _native(out)
    found = load_checkpoint(checkpoint)
    save_checkpoint(out, found)
    names = ", ".join(found.networks())
    print(f"{checkpoint} ({found.source_format}): {names} -> {out}")


def inspect(checkpoint: Path, images: int = 8, out: Path = Path("inspect.png")) -> None:
    """Print what a checkpoint holds and what its generator costs, and draw samples; nothing in the file is executed.

    Args:
        checkpoint: File to read.
        images: Samples in the picture; 0 writes none, and neither runs nor times the network.
        out: Picture to write.
    """
    if images < 0:
        raise UserInputError(f"images: got {images}; expected a number from 0 on")
    found = load_checkpoint(checkpoint)
    print(f"format: {found.source_format}")
    for name, net in found.networks().items():
        count = sum(p.numel() for p in net.parameters())
        print(f"{name}: {type(net).__name__}, {count:,} parameters")
    generator = found.G_ema or found.G
    if generator is None:
        return
    defaults = config_to_dict(type(generator.cfg)())
    for key, value in config_to_dict(generator.cfg).items():
        if value != defaults.get(key) or key in ("kind", "resolution"):
            print(f"  {key}: {value}")
    print(f"  layer_widths: {list(generator.cfg.layer_widths)}")
    cost = count_cost(generator)
    filters = f", filters {cost.filter_macs / 1e9:.3f}" if cost.filter_macs else ""
    print(f"  parameters: {cost.params:,}; multiply-accumulates an image: {cost.macs / 1e9:.3f} G{filters}")
    if images:
        run = measure_run(generator)
        print(
            f"  one image here: {run.activation_bytes / 1e6:,.1f} MB of activations at most, "
            f"{run.milliseconds:,.0f} ms ({run.device}, {run.threads} threads)"
        )
        z, c = _codes(generator, images, 0, "images")
        write_image(out, image_grid(_draw(generator.eval(), generator.mapping(z, c)), images))
        print(f"{images} samples -> {out}")


def directions(
    checkpoint: Path,
    out: Path = Path("directions.npy"),
    mode: Literal["split", "global", "random", "pca"] = "split",
    blocks: list[int] | None = None,
    k: int = 5,
    strength: float = 3.0,
    seed: int = 0,
) -> None:
    """Find directions of W along which the images change most, and draw them.

    Args:
        checkpoint: Generator.
        out: File for the unit vectors, .npy; the picture lies beside it as .png.
        mode: From each block's style layers, from all together, random, or principal components of w.
        blocks: 1 is 8 pixels, 2 is 16, ...; by default the first five, or as many as there are.
        k: Directions a block.
        strength: Of the edits in the picture.
        seed: Of the picture's code, and of "random" and "pca".
    """
    from stylegan_distill.directions import latent_directions

    if out.suffix != ".npy":
        raise UserInputError(f"{out}: out: got the ending {out.suffix!r}; expected .npy")
    net = _open(checkpoint)
    found = latent_directions(net, mode, blocks, k, seed=seed)
    with atomic_write(out) as file:
        np.save(file, found.cpu().numpy())
    z, c = _codes(net, 1, seed)
    with torch.no_grad():
        ws = net.mapping(z, c)
    steps = torch.linspace(-strength, strength, 7)
    rows = {
        f"direction {number}, {-strength:g} to {strength:g}": _draw(
            net, ws + steps[:, None, None] * direction[None, None]
        )
        for number, direction in enumerate(found)
    }
    picture = out.with_suffix(".png")
    write_image(picture, labelled_rows(rows))
    print(f"{len(found)} directions of {found.shape[1]} numbers -> {out}, {picture}")


def prune(
    checkpoint: Path,
    out: Path,
    method: Literal["cagan", "slimming", "dcp", "random", "l1_in", "l1_out", "l1_style"] = "cagan",
    remove_ratio: float = 0.7,
    samples: int | None = None,
    parser: Path | None = None,
    seed: int = 0,
) -> None:
    """Slice the channels with the lowest scores out of a generator; what is left is a student that inherits.

    Args:
        checkpoint: Generator.
        out: File to write, .safetensors; a picture lies beside it as .png.
        method: Score of a channel.
        remove_ratio: Share of the channels of every layer that goes.
        samples: Codes that the score looks at.
        parser: Face parser (79999_iter.pth), so that only content counts for "cagan".
        seed: Of the codes.
    """
    from stylegan_distill.losses import ContentMask
    from stylegan_distill.parser import FaceParser
    from stylegan_distill.pruning import channel_scores
    from stylegan_distill.student import make_student

    _native(out)
    if not 0 <= remove_ratio < 1:
        raise UserInputError(f"remove_ratio: got {remove_ratio}; expected a number in [0, 1)")
    net = _open(checkpoint)
    mask = None if parser is None else ContentMask(FaceParser(parser))
    scores = channel_scores(net, method, samples=samples, mask=mask, seed=seed)
    student = make_student(net, remove_ratio, init="inherit", scores=scores).eval()
    save_checkpoint(out, Checkpoint(G_ema=student, meta={"pruned": method, "remove_ratio": remove_ratio}))
    z, c = _codes(net, 8, seed)
    pair = {"before": net, f"after ({method})": student}
    write_image(
        out.with_suffix(".png"),
        labelled_rows({n: _draw(g, g.mapping(z, c), "none") for n, g in pair.items()}),
    )
    before, after = count_cost(net), count_cost(student)
    print(
        f"{before.params:,} -> {after.params:,} parameters, {before.macs / 1e9:.3f} -> {after.macs / 1e9:.3f} G "
        f"multiply-accumulates -> {out}"
    )


# ---- training and measuring ----------------------------------------------------------------------


def train_gan(
    data: str,
    out: Path,
    steps: int | None = None,
    batch_size: int = 16,
    channel_base: int = 512,
    channel_max: int = 40,
    w_dim: int = 64,
    r1_gamma: float = 1.0,
    mirror: bool = False,
    augment: bool = False,
    seed: int = 0,
) -> None:
    """Train a small StyleGAN2 teacher on a CPU; for large ones use `fit` with a recipe.

    On ``sprites`` and the 32-pixel sets the defaults are the recipe of the shipped teacher and of the claims.

    Args:
        data: ``sprites``, ``mnist:FOLDER``, ``cifar10:FOLDER_OR_ZIP``, or an archive or folder of images.
        out: File to write, .safetensors; a picture lies beside it as .png.
        steps: Of training; by default the recipe's.
        batch_size: Images a step.
        channel_base: Channels of a block times its side, at most; at 16 and 32 pixels the recipe has its own.
        channel_max: Channels of a block, at most; likewise.
        w_dim: Length of z and w; likewise.
        r1_gamma: Weight of the gradient penalty.
        mirror: Mirror half of the images.
        augment: Adapt augmentation to how well the discriminator knows its images; for small sets.
        seed: Of weights, codes and order.
    """
    from stylegan_distill.experiment import scale_for, train_teacher

    _native(out)
    if batch_size < 1 or not DiscriminatorConfig().divides(batch_size):
        raise UserInputError(f"batch_size: got {batch_size}; expected 1 to 4, or a multiple of 4")
    if steps is not None and steps < 1:
        raise UserInputError(f"steps: got {steps}; expected at least 1")
    images = load_images(data)
    side = images.resolution if isinstance(images, ImageSource) else images.shape[1]
    try:
        scale = scale_for(side, channel_base=channel_base, channel_max=channel_max, w_dim=w_dim)
    except ValueError as error:  # no power of two, no channels
        raise UserInputError(f"{data}: {error}") from error
    count = steps or scale.teacher_steps
    net = train_teacher(
        scale,
        images,
        seed=seed,
        steps=count,
        batch=batch_size,
        r1_gamma=r1_gamma,
        flip=0.5 if mirror else 0.0,
        augment=augment,
        tell=lambda step, values: _tell("steps", count)(step, float(values["d_loss"])),
    )
    recipe: dict[str, Any] = {
        "data": data,
        "steps": count,
        "batch_size": batch_size,
        "r1_gamma": r1_gamma,
        "seed": seed,
    }
    if isinstance(images, ImageSource) and images.facts:
        recipe["filter"] = images.facts.get("filter")
    save_checkpoint(out, Checkpoint(G_ema=net, meta={"recipe": recipe}))
    z, c = _codes(net, 32, 0)
    write_image(out.with_suffix(".png"), image_grid(_draw(net, net.mapping(z, c)), 8))
    print(f"{count_cost(net).params:,} parameters -> {out}")


def evaluate(
    checkpoint: Path,
    metrics: list[str] | None = None,
    teacher: Path | None = None,
    data: str | None = None,
    inception: Path | None = None,
    vgg: Path | None = None,
    lpips: str | None = None,
    preset: str = "fid50k_full",
    directions: Path | None = None,
    count: int = 50_000,
    batch_size: int = 32,
    out: Path | None = None,
    seed: int = 0,
) -> None:
    """Measure a generator, alone or beside its teacher.

    Published feature networks are files of yours. Without them distances come from a tiny fixed network under names of
    their own (fd_tiny, lpips_tiny ...): good for comparing students, comparable with nothing published.

    Args:
        checkpoint: Generator.
        metrics: Some of cost, discrepancy, editing, mixing, swap, fid, kid, pr, fidelity (FID, KID, precision and
            recall through the package torch-fidelity), ppl, noise_lpips, equivariance; by default cost and, with a
            teacher, discrepancy and editing, and with data, fid.
        teacher: Its teacher.
        data: Real images, as for `train-gan`; never mirrored.
        inception: Inception of 2015 (pt_inception-2015-12-05), for fid and kid.
        vgg: torchvision's VGG16, for pr, and for LPIPS.
        lpips: Linear heads of LPIPS for VGG16, or package: those of the installed package lpips.
        preset: Of FID: fid50k_full (NVIDIA) or fid_cagan (StyleKD and its baselines).
        directions: Edits of "editing" (.npy); by default some that training does not see.
        count: Generated images, or pairs.
        batch_size: At a time.
        out: File of JSON lines that the results are added to.
        seed: Of codes and noise.
    """
    from stylegan_distill.evaluation import Networks, evaluate_generator
    from stylegan_distill.metrics import append_jsonl

    chosen = metrics or ["cost", *(["discrepancy", "editing"] if teacher else []), *(["fid"] if data else [])]
    net, images = _open(checkpoint), None if data is None else load_images(data)
    if isinstance(images, ImageSource):
        _compare_filters(load_checkpoint(checkpoint), images)
    found = evaluate_generator(
        net,
        chosen,
        teacher=None if teacher is None else _open(teacher),
        images=images,
        directions=None if directions is None else _read_directions(directions, net),
        networks=Networks(inception, vgg, lpips, preset),
        count=count,
        batch=batch_size,
        seed=seed,
    )
    for name, measured in found.items():
        for key, value in measured.values.items():
            large = value > 999 and float(value).is_integer()
            print(f"{key}: {value:,.0f}" if large else f"{key}: {value:.5g}")
        if out is not None:
            record = {"checkpoint": checkpoint.name, "metric": name, **measured.values, **measured.facts}
            append_jsonl(out, record)


def _compare_filters(found: Checkpoint, images: ImageSource) -> None:
    """Say when a network was trained on images of another filter than those it is measured against."""
    own, theirs = dict(found.meta.get("recipe", {})).get("filter"), images.facts.get("filter")
    if own and theirs and own != theirs:
        message = f"data: was prepared with the {theirs} filter, what the network was trained on with {own}"
        print(f"warning: {message}", file=sys.stderr)


# ---- images --------------------------------------------------------------------------------------


def generate(
    checkpoint: Path,
    out: Path = Path("generated"),
    count: int = 16,
    truncation: float = 1.0,
    noise: Noise = "const",
    beside: Path | None = None,
    seed: int = 0,
) -> None:
    """Generate images: single files, a grid, and the codes.

    Args:
        checkpoint: Generator.
        out: Folder for the results.
        count: Images.
        truncation: Pull towards the mean code, 1 for none.
        noise: Fresh maps, stored ones, or none.
        beside: Another generator, such as the teacher, drawn for the same codes in the grid.
        seed: Of the codes.
    """
    net = _open(checkpoint)
    z, c = _codes(net, count, seed)
    with torch.no_grad():
        images = _draw(net, net.mapping(z, c, truncation_psi=truncation), noise)
        other = None
        if beside is not None:
            second = _beside(beside, net)
            other = _draw(second, second.mapping(z, c, truncation_psi=truncation), noise)
    make_folder(out)
    for number, pixels in enumerate(to_pixels(images)):
        write_image(out / f"image{number:04d}.png", pixels)
    grid = out / "grid.png"
    if other is None:
        write_image(grid, image_grid(images))
    else:
        write_image(grid, labelled_rows({str(beside): other, str(checkpoint): images}))
    facts = {
        "checkpoint": checkpoint.name,
        "count": count,
        "truncation": truncation,
        "noise": noise,
        "seed": seed,
    }
    write_json(out / "generated.json", {**facts, "z": z.tolist()}, indent=None)
    print(f"{count} images -> {grid}")


def edit(
    checkpoint: Path,
    out: Path = Path("edits"),
    directions: Path | None = None,
    only: list[int] | None = None,
    strength: float = 3.0,
    codes: int = 3,
    beside: Path | None = None,
    video: bool = True,
    seconds: float = 4.0,
    seed: int = 0,
) -> None:
    """Move codes along directions of W, and from one code to the next: grids and videos.

    Args:
        checkpoint: Generator.
        out: Folder for the results.
        directions: File of unit vectors (.npy) as `directions` writes it; by default those of the first generator.
        only: Numbers of the directions to use; by default the first three.
        strength: Largest step along a direction.
        codes: Images that are edited.
        beside: Another generator, such as the teacher, that gets the same edits of the same codes.
        video: Also write edits.mp4 and interpolation.mp4 (needs the extra [video]).
        seconds: Length of a video.
        seed: Of the codes.
    """
    net = _open(checkpoint)
    nets = (
        {str(checkpoint): net}
        if beside is None
        else {str(beside): _beside(beside, net), str(checkpoint): net}
    )
    first = next(iter(nets.values()))
    vectors = _read_directions(directions, first)
    chosen = list(range(min(3, len(vectors)))) if only is None else only
    wrong = [k for k in chosen if not 0 <= k < len(vectors)]
    if wrong or not chosen:
        raise UserInputError(f"only: got {chosen}; expected numbers from 0 to {len(vectors) - 1}")
    if seconds <= 0:
        raise UserInputError(f"seconds: got {seconds}; expected a positive number")
    z, c = _codes(first, codes, seed, "codes")
    if video:
        require_av()  # said before the work, not after it
    make_folder(out)
    steps = torch.linspace(-strength, strength, 7)
    rows: dict[str, Tensor] = {}
    with torch.no_grad():
        ws = {name: net.mapping(z, c) for name, net in nets.items()}
        for code in range(codes):
            for k in chosen:
                for name, net in nets.items():
                    moved = ws[name][code : code + 1] + steps[:, None, None] * vectors[k][None, None]
                    rows[f"code {code}, direction {k}: {name}"] = _draw(net, moved)
    write_image(out / "edits.png", labelled_rows(rows))
    written = [out / "edits.png"]
    if video:
        frames = max(2, round(24 * seconds))
        moves = [vectors[k] for k in chosen]
        write_video(out / "edits.mp4", _edit_frames(nets, ws, moves, strength, frames))
        write_video(out / "interpolation.mp4", _walk_frames(nets, ws, frames))
        written += [out / "edits.mp4", out / "interpolation.mp4"]
    print(f"{codes} codes, {len(chosen)} directions -> {', '.join(map(str, written))}")


def _read_directions(path: Path | None, net: Generator) -> Tensor:
    from stylegan_distill.directions import latent_directions

    if path is None:
        return latent_directions(net)
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserInputError(f"{path}: directions: is no sound .npy file") from error
    if found.ndim != 2 or found.shape[1] != net.cfg.w_dim or not np.isfinite(found).all():
        raise UserInputError(
            f"{path}: directions: got shape {found.shape}; expected (K, {net.cfg.w_dim}) finite numbers"
        )
    return torch.from_numpy(found.astype(np.float32))


def _edit_frames(
    nets: dict[str, Generator], ws: dict[str, Tensor], moves: list[Tensor], strength: float, frames: int
) -> Iterator[Pixels]:
    """There and back along each direction in turn."""
    for vector in moves:
        for t in range(frames // len(moves) or 1):
            step = strength * float(np.sin(2 * np.pi * t / max(1, frames // len(moves))))
            yield labelled_rows({n: _draw(net, ws[n] + step * vector[None, None]) for n, net in nets.items()})


def _walk_frames(nets: dict[str, Generator], ws: dict[str, Tensor], frames: int) -> Iterator[Pixels]:
    """Every code walks to the next one, the last to the first."""
    for t in range(frames):
        share = 0.5 - 0.5 * float(np.cos(np.pi * t / max(1, frames - 1)))
        yield labelled_rows(
            {n: _draw(net, ws[n] + share * (ws[n].roll(-1, 0) - ws[n])) for n, net in nets.items()}
        )


def project(
    checkpoint: Path,
    image: Path,
    out: Path = Path("projected"),
    iterations: int = 800,
    optimizer: Literal["adam", "lbfgs"] = "lbfgs",
    vgg: Path | None = None,
    lpips: str | None = None,
    parser: Path | None = None,
    seed: int = 0,
) -> None:
    """Find the code of an image: w of every layer and the noise maps.

    Args:
        checkpoint: Generator.
        image: Image, cropped in the middle and resized (Lanczos).
        out: Folder for projected.png (target, result), projected.npz (ws, noise maps) and projected.json.
        iterations: Of the optimiser.
        optimizer: Which.
        vgg: torchvision's VGG16 for LPIPS; the tiny network stands in without it.
        lpips: Linear heads of LPIPS for VGG16, or package: those of the installed package lpips.
        parser: Face parser (79999_iter.pth) for the content-aware values.
        seed: Of the start.
    """
    from stylegan_distill.data import fit_square
    from stylegan_distill.evaluation import Networks
    from stylegan_distill.losses import ContentMask
    from stylegan_distill.metrics import project_image
    from stylegan_distill.parser import FaceParser

    net = _open(checkpoint)
    if iterations < 1:
        raise UserInputError(f"iterations: got {iterations}; expected at least 1")
    if vgg is not None and lpips is None:
        raise UserInputError(f"{vgg}: vgg: LPIPS needs its heads too (--lpips)")
    target = to_float(fit_square(read_image(image), net.cfg.resolution)[None])
    metric = Networks(vgg=vgg, lpips=lpips).perceptual()
    if net.cfg.resolution > 256:
        metric.resize = 256
    mask = None if parser is None else ContentMask(FaceParser(parser))(target)
    found = project_image(
        net,
        target,
        metric,
        iterations=iterations,
        optimizer=optimizer,
        mask=mask,
        seed=seed,
        tell=lambda step, loss: _tell("iterations", iterations)(step - 1, loss),
    )
    make_folder(out)
    write_image(out / "projected.png", labelled_rows({"target": target, "projected": found.image}))
    arrays: dict[str, Any] = {f"noise{k}": n.numpy() for k, n in enumerate(found.noise)}
    with atomic_write(out / "projected.npz") as file:
        np.savez(file, ws=found.ws.numpy(), **arrays)
    write_json(out / "projected.json", {**found.values, "iterations": iterations, "optimizer": optimizer})
    print(", ".join(f"{name} {value:.4g}" for name, value in found.values.items()) + f" -> {out}")


def export(
    checkpoint: Path,
    output: Path,
    format: Literal["auto", "onnx", "pt2"] = "auto",
    noise: Literal["const", "none", "input"] = "const",
    truncation: float = 1.0,
) -> None:
    """Write a generator as ONNX or torch.export program of standard operators; the batch is free.

    A picture of what it draws lies beside the file as .png. An ONNX file is run and compared where onnxruntime is
    installed.

    Args:
        checkpoint: Generator.
        output: File to write: .onnx (needs the packages onnx and onnxscript) or .pt2.
        format: Told by the ending, or by this where there is none.
        noise: Stored maps, none, or maps as further inputs.
        truncation: Fixed in the program.
    """
    import importlib.util

    from stylegan_distill.export import export_generator, onnx_parity

    if not output.suffix and format == "auto":
        raise UserInputError(f"{output}: output: got no ending; expected .onnx or .pt2, or --format")
    path = output if output.suffix else output.with_suffix(f".{format}")
    if format not in ("auto", path.suffix.lstrip(".")):
        raise UserInputError(f"{output}: output: got the ending {output.suffix!r} with format {format}")
    module = export_generator(_open(checkpoint), path, noise=noise, truncation_psi=truncation)
    with torch.no_grad():
        write_image(path.with_suffix(".png"), image_grid(module(*module.example(8)), 8))
    checked = ""
    if path.suffix == ".onnx" and importlib.util.find_spec("onnxruntime"):
        checked = f", largest difference under onnxruntime {onnx_parity(module, path):.1e}"
    print(f"{checkpoint} -> {path}{checked}")
