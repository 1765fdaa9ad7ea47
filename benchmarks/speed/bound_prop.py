"""Speed of bound-prop beside auto_LiRPA: the same network, inputs, specification and lines.

auto_LiRPA is optional and not installed by us: put a checkout of its source on the import path. The published
package does not import under the torch that we use; commit `claims.lirpa.COMMIT` was compared.
"""

from collections.abc import Callable
from typing import Any

import torch

from bound_prop import BoundedModule, LpBall, margin_spec
from bound_prop.models import build_model
from claims.lirpa import prepared
from kernels.model import Call, Case, Goal, Peer, Row, within

_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "lbp": "forward", "crown": "CROWN"}


def _case(network: str, shape: tuple[int, int, int], eps: float, batch: int) -> Callable[[float, str], Case]:
    def make(scale: float, dtype: str) -> Case:
        torch.manual_seed(0)
        model = build_model(network, shape, 10).eval()
        count = max(1, round(batch * scale))
        images, labels = torch.rand(count, *shape), torch.arange(count) % 10
        text = f"{network}, {count} images of {shape[1]} x {shape[2]}, eps {eps:g}"
        data = {"model": model, "images": images, "labels": labels, "eps": eps}
        return Case(count, text, data)

    return make


def _ours(method: str) -> Callable[[Case], Call]:
    def build(case: Case) -> Call:
        bounded = BoundedModule(case["model"], case["images"][:1])
        region, spec = LpBall(case["images"], case["eps"]), margin_spec(case["labels"], 10)

        @torch.no_grad()
        def call() -> Any:
            return bounded.compute_bounds(region, spec, method=method, upper=False).lower

        return call

    return build


def _theirs(method: str) -> Callable[[Case], Call]:
    def build(case: Case) -> Call:
        bounded, region = prepared(case["model"], case["images"], case["eps"], "zero-lb")
        spec = margin_spec(case["labels"], 10)

        @torch.no_grad()
        def call() -> Any:
            return bounded.compute_bounds(x=(region,), C=spec, method=_METHODS[method], bound_upper=False)[0]

        return call

    return build


@torch.no_grad()
def _in_chunks(case: Case) -> Any:
    """LBP another way: the columns of its matrices in chunks, each propagated anew."""
    bounded = BoundedModule(case["model"], case["images"][:1])
    region, spec = LpBall(case["images"], case["eps"]), margin_spec(case["labels"], 10)
    found = bounded.compute_bounds(region, spec, method="lbp", upper=False, input_chunk=1024).lower
    return _array(found, case)


def _array(raw: Any, case: Case) -> Any:
    return raw.detach().numpy()


def _row(
    key: str, method: str, make: Callable[[float, str], Case], title: str, goal: float | None, **options: Any
) -> Row:
    peer = Peer(
        "auto_LiRPA",
        "auto_LiRPA",
        "auto_LiRPA",
        _theirs(method),
        _array,
        note="source checkout, tight lines (zero-lb), bounds of the margins only; tracing is outside the timed call",
    )
    # torch's products of matrices may add up in another order with two threads.
    settings: dict[str, Any] = {"growth": False, "peers": (peer,), "same_bits": False, **options}
    return Row(
        key=key,
        op=f"compute_bounds({method})",
        title=title,
        make=make,
        ours=_ours(method),
        agree=within(1e-5),
        normal=_array,
        goal=None if goal is None else Goal("ratio", goal, against="auto_LiRPA"),
        **settings,
    )


_LARGE = _case("dm_large", (3, 32, 32), 2 / 255, 2)
_LARGE_CROWN = _case("dm_large", (3, 32, 32), 0.1 / 255, 1)
_SMALL = _case("dm_small", (1, 28, 28), 0.01, 4)
_SMALL_CROWN = _case("dm_small", (1, 28, 28), 0.001, 1)
ROWS = (
    _row("bound_ibp_large", "ibp", _LARGE, "IBP, DM-Large CIFAR, 2 images", 1.0, quick=True),
    _row("bound_crown_ibp_large", "crown-ibp", _LARGE, "CROWN-IBP, DM-Large CIFAR, 2 images", 1.0),
    _row("bound_crown_large", "crown", _LARGE_CROWN, "CROWN, DM-Large CIFAR, 1 image", 1.5),
    # Time must be linear in the batch: four images, one, sixteen.
    _row("bound_lbp_small", "lbp", _SMALL, "LBP, DM-Small MNIST, 4 images", None, growth=True),
    # Without the peer: its forward mode had not ended after eight minutes, and held 17 GB, for this one image.
    _row(
        "bound_lbp_large",
        "lbp",
        _case("dm_large", (3, 32, 32), 2 / 255, 1),
        "LBP, DM-Large CIFAR, 1 image",
        None,
        oracle=_in_chunks,
        peers=(),
    ),
    _row("bound_crown_small", "crown", _SMALL_CROWN, "CROWN, DM-Small MNIST, 1 image", 1.5),
    _row(
        "bound_crown_ibp_small", "crown-ibp", _SMALL, "CROWN-IBP, DM-Small MNIST, 4 images", None, growth=True
    ),
    *(
        _row(f"bound_{method}_memory", method, case, f"{method}: peak memory, {text}", None, measure="peak")
        for method, case, text in (
            ("ibp", _LARGE, "DM-Large CIFAR, 2 images"),
            ("crown-ibp", _LARGE, "DM-Large CIFAR, 2 images"),
            ("crown", _LARGE_CROWN, "DM-Large CIFAR, 1 image"),
            ("lbp", _SMALL, "DM-Small MNIST, 4 images"),
        )
    ),
)
