"""The training loss: a mixture of the clean loss and the robust loss of certified bounds."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bound_prop.attack import PGD
from bound_prop.bounds import BoundedModule, Sweep
from bound_prop.losses import LossFusion, balance_loss, robust_ce, tightness_loss
from bound_prop.sets import Box, LpBall, simplest
from bound_prop.specs import margin_spec

__all__ = ["Method", "RobustObjective"]

Method = Literal[
    "clean", "pgd", "ibp", "crown-ibp", "lbp", "crown-lbp", "max-crown-ibp", "max-crown-lbp", "sabr", "cc-ibp",
    "mtl-ibp", "exp-ibp",
]  # fmt: skip
_WITH_ATTACK = ("pgd", "sabr", "cc-ibp", "mtl-ibp", "exp-ibp")
_METHODS = (
    *("clean", "pgd", "ibp", "crown-ibp", "lbp", "crown-lbp", "max-crown-ibp", "max-crown-lbp"),
    *("sabr", "cc-ibp", "mtl-ibp", "exp-ibp"),
)
_SMALLEST_BETA = 1e-5


class RobustObjective(nn.Module):
    """``kappa CE(clean) + (1 - kappa) robust CE(margin bounds)`` (Lyu et al. 2021, equation 5 and appendix B.4).

    The margin bounds are those of intervals, of ``crown-ibp`` mixed with them by ``beta`` (with adaptive lines,
    as in the paper), of LBP or CROWN-LBP, or the elementwise maximum of two (``max-...``). ``sabr``, ``cc-ibp``,
    ``mtl-ibp`` and ``exp-ibp`` are the later losses of Müller et al. 2023 and De Palma et al. 2024, ``pgd`` is
    adversarial training. The loss is computed inside `forward`, so a wrapper for many devices sees all of it.

    Args:
        bounded: the network.
        method: which bounds.
        num_classes: number of classes.
        clip: valid range of the pixels.
        lines: lines of the back-substituted part.
        fused: bound the sum over classes in one row (loss fusion), for many classes.
        alpha: weight of ``cc-ibp``, ``mtl-ibp``, ``exp-ibp``, and the share of eps that ``sabr`` propagates.
        regulariser: weight of the tightness and balance terms of Shi et al. 2021 while eps grows.
        attack: for the methods with an attack.

    Raises:
        ValueError: an unknown method.
    """

    def __init__(
        self,
        bounded: BoundedModule,
        method: Method = "ibp",
        num_classes: int = 10,
        *,
        clip: tuple[float, float] | None = (0.0, 1.0),
        lines: Literal["tight", "adaptive"] = "adaptive",
        fused: bool = False,
        alpha: float = 0.5,
        regulariser: float = 0.0,
        attack: PGD | None = None,
    ) -> None:
        super().__init__()
        if method not in _METHODS:
            raise ValueError(
                f"RobustObjective: method: got {method!r}; expected one of {', '.join(_METHODS)}"
            )
        self.bounded, self.method, self.num_classes = bounded, method, num_classes
        self.clip, self.lines, self.fused, self.alpha = clip, lines, fused, alpha
        self.regulariser = regulariser
        self.attack = attack or PGD(steps=8, restarts=1, count="last")

    def forward(
        self,
        x: Tensor,
        labels: Tensor,
        eps: float,
        kappa: float = 0.0,
        beta: float = 0.0,
        eps_max: float = 0.0,
    ) -> dict[str, Tensor]:
        """Losses of a batch: ``loss``, ``clean``, ``robust`` and ``verified`` (share of the batch), scalars.

        Args:
            x: images ``(B, *input)``.
            labels: ``(B,)``.
            eps: radius at this step.
            kappa: weight of the clean loss.
            beta: weight of the back-substituted bound in ``crown-ibp``.
            eps_max: target radius, for the regulariser's weight.
        """
        with self.bounded.clean(x) as logits:
            clean = F.cross_entropy(logits, labels)
            result = {"clean": clean, "error": (logits.argmax(1) != labels).float().mean()}
            if eps == 0 or self.method == "clean" or kappa >= 1:
                return {**result, "loss": clean}
            robust, verified = self._robust(x, labels, eps, beta, clean)
            loss = kappa * clean + (1 - kappa) * robust
            if self.regulariser and eps_max:
                loss = loss + self.regulariser * (1 - eps / eps_max) * self._extra(x, eps)
        return {**result, "loss": loss, "robust": robust, "verified": verified}

    def _region(self, x: Tensor, eps: float) -> Box:
        box = simplest(LpBall(x, eps, clip=self.clip))
        assert isinstance(box, Box)
        return box

    def _robust(
        self, x: Tensor, labels: Tensor, eps: float, beta: float, clean: Tensor
    ) -> tuple[Tensor, Tensor]:
        region = self._region(x, eps)
        spec = margin_spec(labels, self.num_classes, x.dtype)
        if self.method in _WITH_ATTACK:
            return self._attacked(region, spec, labels, eps)
        margins = self._margins(region, spec, beta)
        single = self._fuse(region, spec, margins, beta) if self.fused else robust_ce(margins)
        return single.mean(), (margins > 0).all(1).float().mean()

    def _ibp(self, region: Box, spec: Tensor) -> Tensor:
        lower = self.bounded.compute_bounds(region, spec, method="ibp", upper=False).lower
        assert lower is not None
        return lower

    def _other(self, region: Box, spec: Tensor, method: str) -> Tensor:
        lower = self.bounded.compute_bounds(region, spec, method=method, upper=False, lines=self.lines).lower
        assert lower is not None
        return lower

    def _margins(self, region: Box, spec: Tensor, beta: float) -> Tensor:
        if self.method == "ibp" or (self.fused and self.method == "crown-ibp"):
            return self._ibp(region, spec)
        if self.method == "crown-ibp":
            if beta < _SMALLEST_BETA:
                return self._ibp(region, spec)
            relaxed = self._other(region, spec, "crown-ibp")
            return relaxed if beta >= 1 else (1 - beta) * self._ibp(region, spec) + beta * relaxed
        if self.method.startswith("max-"):
            return torch.maximum(self._ibp(region, spec), self._other(region, spec, self.method[4:]))
        return self._other(region, spec, self.method)

    def _fuse(self, region: Box, spec: Tensor, margins: Tensor, beta: float) -> Tensor:
        fusion = LossFusion()
        if self.method != "crown-ibp" or beta < _SMALLEST_BETA:
            plain: Tensor = fusion(margins)
            return plain
        # sum_i exp(-margin_i - shift) <= sum_i slope_i (-margin_i) + offset_i: one row, bounded from above.
        highest = -self._ibp(region, -spec)
        shift = fusion.shift(margins)
        slope, offset = fusion.chord(-highest, -margins, shift)
        row = torch.einsum("bs,bsk->bk", slope, spec).unsqueeze(1)
        low = self._other(region, row, "crown-ibp").squeeze(1)
        relaxed = offset.sum(1) - low + torch.exp(-shift)
        mixed: Tensor = fusion(margins, relaxed.clamp(min=1e-30), beta)
        return mixed

    def _attacked(self, region: Box, spec: Tensor, labels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Losses that look for an adversarial example first."""
        share = self.alpha if self.method == "sabr" else 0.0
        near = self._shrunk(region, share)
        was = self.bounded.training
        self.bounded.eval()
        worst = self._ascend(near, labels)
        self.bounded.train(was)
        if self.method == "sabr":
            half = (region.upper - region.lower) / 2 * share
            inner = Box((worst - half).maximum(region.lower), (worst + half).minimum(region.upper))
            margins = self._ibp(inner, spec)
            return robust_ce(margins).mean(), (margins > 0).all(1).float().mean()
        outputs = self.bounded.graph.forward(worst)
        attacked = F.cross_entropy(outputs, labels)
        if self.method == "pgd":
            return attacked, (outputs.argmax(1) == labels).float().mean()
        margins = self._ibp(region, spec)
        certified, a = robust_ce(margins), self.alpha
        verified = (margins > 0).all(1).float().mean()
        if self.method == "cc-ibp":
            own = torch.einsum("bsk,bk->bs", spec, outputs)
            return robust_ce(a * margins + (1 - a) * own).mean(), verified
        if self.method == "mtl-ibp":
            return a * certified.mean() + (1 - a) * attacked, verified
        single = F.cross_entropy(outputs, labels, reduction="none")
        return (certified.clamp(min=1e-12) ** a * single.clamp(min=1e-12) ** (1 - a)).mean(), verified

    @staticmethod
    def _shrunk(region: Box, share: float) -> Box:
        half = (region.upper - region.lower) / 2 * (1 - share)
        return Box(region.center - half, region.center + half)

    def _ascend(self, region: Box, labels: Tensor) -> Tensor:
        x = region.sample(1)[0]
        step = (region.upper - region.lower) / max(self.attack.steps, 1)
        for _ in range(self.attack.steps):
            x = x.detach().requires_grad_(True)
            loss = F.cross_entropy(self.bounded.graph.forward(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = (x.detach() + step * gradient.sign()).maximum(region.lower).minimum(region.upper)
        return x.detach()

    def _extra(self, x: Tensor, eps: float) -> Tensor:
        sweep = Sweep(self.bounded.graph, self._region(x, eps))
        sweep.hidden("ibp")
        layers = list(sweep.layers().values())
        return tightness_loss([self._region(x, eps).interval(), *layers]) + balance_loss(layers)
