"""Claims of bound-prop: tight lines, LBP, ParamRamp (Lyu et al., CVPR 2021), and real verification instances."""

from collections.abc import Callable
from dataclasses import asdict

import torch

from bound_prop import LpBall
from bound_prop.experiment import ARMS, INSTANCES, measure, measure_instance, read, train_arm
from claims import lirpa
from claims.gates import Gate, Means, judge
from claims.model import Claim
from kernels.frames import REPOSITORY
from tenfold.train.claims import RESULTS, load_records

_SOURCES = (
    "bound_prop.lines",
    "bound_prop.graph",
    "bound_prop.bounds",
    "bound_prop.windows",
    "bound_prop.nn",
    "bound_prop.models",
    "bound_prop.objective",
    "bound_prop.schedules",
    "bound_prop.attack",
    "bound_prop.evaluation",
    "bound_prop.data",
    "bound_prop.task",
    "bound_prop.experiment",
)
_SEARCH = (
    "bound_prop.branch",
    "bound_prop.combine",
    "bound_prop.alpha",
    "bound_prop.rounding",
    "bound_prop.verification",
    "bound_prop.vnnlib",
)
_LINES = (
    "test clean",
    "test pgd",
    "test verified/ibp",
    "tight verified/crown-lbp",
    "adaptive verified/crown-lbp",
    "tight margin/ibp",
    "tight margin/lbp",
    "tight margin/crown-lbp",
    "adaptive margin/crown-lbp",
    "chain violations %",
    "layer 1 dead %",
    "layer 2 dead %",
)
_SAME = ("ibp difference", "crown-ibp difference", "crown difference")
_TEXT = """
Errors in percent. "tight" and "adaptive" columns compare the lines on the same first images of the test set;
"chain violations" is the share of output bounds where a method is looser than one that theorem 2 puts above it
(tight lines, tolerance 1e-5 of the interval width). The networks see part of the training set for few epochs: the
figures are not comparable with the paper's, the differences between arms are what is claimed.
""".strip()


_NEURON_IMAGES = 200


@torch.no_grad()
def _neurons(arm: str, seed: int) -> dict[str, float]:
    """Hidden intervals of a trained network beside those of interval propagation, neuron by neuron."""
    how = ARMS[arm.replace("neurons", "glyphs")]
    with torch.enable_grad():
        bounded = train_arm(how, seed, read(how, "train"))
    region = LpBall(read(how, "test").images[:_NEURON_IMAGES], how.eps, clip=(0.0, 1.0))

    def layers(method: str, lines: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        found = bounded.compute_bounds(region, method=method, lines=lines, batch_chunk=25)  # type: ignore[arg-type]
        return [(low.flatten(), high.flatten()) for low, high in found.layers.values()]

    plain = layers("ibp", "tight")
    result = {"intervals": float(sum(low.numel() for low, _ in plain))}
    whole = sum(float((high - low).double().sum()) for low, high in plain)
    for method, lines in (("lbp", "tight"), ("crown", "tight"), ("lbp", "adaptive"), ("crown", "adaptive")):
        looser, width = 0.0, 0.0
        for (low, high), (least, most) in zip(layers(method, lines), plain, strict=True):
            slack = 1e-5 * (most - least).clamp(min=1)
            looser += float(((low < least - slack) | (high > most + slack)).sum())
            width += float((high - low).double().sum())
        result[f"{lines} {method} looser %"] = 100.0 * looser / result["intervals"]
        result[f"{lines} {method} width"] = width / whole
    return result


def _settings(arm: str) -> dict[str, object]:
    return asdict(ARMS[arm])


def _claim(name: str, title: str, seeds: tuple[int, ...], dataset: str, control: str) -> Claim:
    arms = tuple(arm for arm in ARMS if arm.startswith(name))
    return Claim(
        name=name,
        package="bound-prop",
        title=title,
        arms=arms,
        seeds=seeds,
        measure=measure,
        dataset=dataset,
        sources=_SOURCES,
        metrics=_LINES,
        control=control,
        config=_settings,
        text=_TEXT,
    )


CLAIMS = (
    _claim(
        "mnist", "MNIST, DM-Small, radius 0.2", (0, 1, 2), "MNIST (first 6,000 training images)", "mnist-relu"
    ),
    _claim("glyphs", "Generated digits, radius 0.2", (0, 1, 2), "generated glyphs, 14 x 14", "glyphs-relu"),
    _claim(
        "cifar",
        "CIFAR-10, DM-Small, radius 2/255",
        (0,),
        "CIFAR-10 (JPEG re-encoded, first 10,000)",
        "cifar-relu",
    ),
    Claim(
        name="neurons",
        package="bound-prop",
        title="Every hidden neuron's interval beside interval propagation's",
        arms=("neurons-relu", "neurons-ramp"),
        seeds=(0, 1, 2),
        measure=_neurons,
        dataset=f"generated glyphs, {_NEURON_IMAGES} test images",
        sources=_SOURCES,
        metrics=tuple(
            f"{lines} {method} {what}"
            for lines in ("tight", "adaptive")
            for method in ("lbp", "crown")
            for what in ("looser %", "width")
        ),
        more=("intervals",),
        config=lambda arm: _settings(arm.replace("neurons", "glyphs")),
        text=(
            "The networks of the glyphs, trained again. Looser: an end outside the interval of interval propagation,"
            " beyond float32 rounding (1e-5 of the larger of its width and 1). Width: the sum over all neurons,"
            " relative to that of interval propagation."
        ),
        digits=3,
    ),
    Claim(
        name="instances",
        package="bound-prop",
        title="Real verification instances within their time limits",
        arms=INSTANCES,
        seeds=(0,),
        measure=measure_instance,
        dataset="VNN-COMP 2021: ACAS Xu (18 networks, properties 1 to 4), MNIST 256 x 2",
        sources=(*_SOURCES[:4], "bound_prop.attack", *_SEARCH, "bound_prop.experiment"),
        metrics=("solved", "holds", "violated", "wall seconds", "CPU seconds", "branches", "contradiction"),
        text=(
            "Limits: 116 s (ACAS Xu), 120 s (MNIST), counted in processor seconds of one thread because the machine is"
            ' shared. "holds" rests on outward-rounded bounds, every "violated" on an'
            ' input that onnxruntime confirms; "contradiction" is 1 where 20,000 random inputs violate what holds.'
        ),
        digits=1,
    ),
    Claim(
        name="peer",
        package="bound-prop",
        title="The same bounds by auto_LiRPA",
        arms=tuple(f"peer-{name}" for name in lirpa.NETWORKS),
        seeds=(0, 1, 2),
        measure=lambda arm, seed: lirpa.measure(arm.removeprefix("peer-"), seed),
        dataset="random weights, 16 random images of 10 x 10",
        sources=(*_SOURCES[:5], lirpa.__file__),
        metrics=(*_SAME, "mean margin, ours", "mean margin, theirs", "ours tighter %", "theirs tighter %"),
        config=lambda arm: {"radius": lirpa.NETWORKS[arm.removeprefix("peer-")][1], "commit": lirpa.COMMIT},
        text=(
            f"auto_LiRPA's source at commit {lirpa.COMMIT[:12]}. Differences are the largest over all margins where"
            ' both use the same lines (theirs: "zero-lb"), relative to the spread of the interval bounds.'
            ' "Tighter": by more than 1e-5 of that spread, CROWN with our best lines of "tight" and "adaptive" against'
            " CROWN as it comes there."
        ),
        digits=7,
    ),
)


def _gap(more: tuple[str, str], less: tuple[str, str]) -> Callable[[Means], float]:
    """Difference of two metrics, each of an arm."""
    return lambda m: m[more[0]][more[1]] - m[less[0]][less[1]]


def gates() -> list[Gate]:
    """What must hold, from the records there are."""
    trained = [arm for arm in ARMS if not arm.startswith("cifar")]
    relu, crown, ibp = "glyphs-relu", "verified/crown-lbp", "verified/ibp"
    wanted: list[tuple[str, Callable[[Means], float], float]] = [
        (
            "tight lines: no bound is looser than one above it in theorem 2's chain (largest share, negated)",
            lambda m: -max(m[arm]["chain violations %"] for arm in trained),
            0.0,
        ),
        (
            "tight LBP and CROWN: no hidden neuron of any image has a looser interval (largest share, negated)",
            lambda m: (
                -max(
                    m[arm][f"tight {method} looser %"]
                    for arm in ("neurons-relu", "neurons-ramp")
                    for method in ("lbp", "crown")
                )
            ),
            0.0,
        ),
        (
            "glyphs, ReLU: adaptive CROWN-LBP verifies less than intervals, by 2 points of error",
            _gap((relu, f"adaptive {crown}"), (relu, f"adaptive {ibp}")),
            2.0,
        ),
        (
            "the same network trained without bounds shows the opposite: adaptive margins are the higher ones",
            _gap((f"{relu}-clean", "adaptive margin/crown-lbp"), (f"{relu}-clean", "tight margin/crown-lbp")),
            0.0,
        ),
        *(
            (
                f"{data}: ParamRamp lowers the error verified by intervals, by {least:g} points",
                _gap((f"{data}-relu", f"test {ibp}"), (f"{data}-ramp", f"test {ibp}")),
                least,
            )
            for data, least in (("glyphs", 4.0), ("mnist", 2.0))
        ),
        *(
            (
                f"{data}, ReLU: LBP's verified error is at most that of intervals (tight lines)",
                _gap((f"{data}-relu", f"tight {ibp}"), (f"{data}-relu", "tight verified/lbp")),
                0.0,
            )
            for data in ("glyphs", "mnist")
        ),
        (
            "glyphs, ParamRamp: right-dead neurons in layer 1, 5 % at least",
            lambda m: m["glyphs-ramp"]["layer 1 right-dead %"],
            5.0,
        ),
        *(
            (
                f"auto_LiRPA: {method} bounds with the same lines are equal (largest difference / 1e-5, negated)",
                lambda m, key=f"{method} difference": (
                    -max(  # type: ignore[misc]
                        1e5 * m[f"peer-{name}"].get(key, 0.0) for name in lirpa.NETWORKS
                    )
                ),
                -1.0,
            )
            for method in ("ibp", "crown-ibp", "crown")
        ),
    ]
    found = [judge(text, value, least, "bound-prop") for text, value, least in wanted]
    return [*found, *_instance_gates()]


def _instance_gates() -> list[Gate]:
    records = {r["arm"]: r["metrics"] for r in load_records("bound-prop", REPOSITORY / RESULTS)}
    run = [records[name] for name in INSTANCES if name in records]
    if len(run) < len(INSTANCES):
        return [Gate("every instance is run", f"{len(run)} of {len(INSTANCES)}", "not run yet")]
    wrong = sum(m["contradiction"] for m in run)
    solved = [
        (f"{name} instances solved within their limits", [records[i] for i in INSTANCES if i.startswith(key)])
        for name, key in (("ACAS Xu", "acasxu"), ("MNIST", "mnistfc"))
    ]
    return [
        Gate("no verdict is contradicted", f"{wrong:g}", "does not hold" if wrong else "holds"),
        *(
            Gate(text, f"{sum(m['solved'] for m in part):g} of {len(part)}", "reported")
            for text, part in solved
        ),
    ]
