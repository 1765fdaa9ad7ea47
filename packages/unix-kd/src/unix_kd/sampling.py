"""Which images the teacher is asked about, and how they are mixed; the paper's Section 3.

The student scores the whole batch; the most uncertain images are kept. A kept image is mixed with a random
partner the more, the *less* uncertain it is: hard images stay nearly clean, easy ones carry a second image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.train.processes import gather_values, rank_and_world

__all__ = ["STRATEGIES", "MixBatch", "Strategy", "UncertaintyMixup", "correction_factor", "uncertainty"]

Strategy = Literal["random", "least_confidence", "margin", "entropy"]
STRATEGIES: tuple[Strategy, ...] = ("random", "least_confidence", "margin", "entropy")


def uncertainty(
    logits: Tensor, strategy: Strategy = "entropy", *, generator: torch.Generator | None = None
) -> Tensor:
    """How unsure a network is of each image; larger means less sure.

    With p the softmax of the logits: ``1 - max p`` (least_confidence), minus the gap between the two largest
    (margin), ``-Σ p ln p`` (entropy), or a uniform draw (random). Computed in float32 from log-softmax, so a
    probability that underflows counts 0, not NaN.

    Args:
        logits: ``(N, C)``.
        strategy: which of the four.
        generator: of the uniform draw.

    Returns:
        ``(N,)``.

    Raises:
        ValueError: another strategy, another shape, fewer than two classes for margin, or NaN.

    >>> uncertainty(torch.zeros(1, 4)).exp()
    tensor([4.])
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"uncertainty: strategy: got {strategy!r}; expected one of {', '.join(STRATEGIES)}")
    if logits.ndim != 2:
        raise ValueError(f"uncertainty: logits: got shape {tuple(logits.shape)}; expected (N, C)")
    if strategy == "random":
        return torch.rand(len(logits), generator=generator, device=logits.device)
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    if logits.isnan().any():
        raise ValueError(
            f"uncertainty: logits: NaN in {int(logits.isnan().any(1).sum())} of {len(logits)} images"
        )
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    if strategy == "least_confidence":
        return 1.0 - p.amax(1)
    if strategy == "margin":
        if logits.shape[1] < 2:
            raise ValueError("uncertainty: logits: got 1 class; the margin needs at least 2")
        top = p.topk(2, dim=1).values
        return top[:, 1] - top[:, 0]
    return -torch.where(p > 0, p * log_p, 0.0).sum(1)


def correction_factor(
    n: int,
    b: int,
    w: float = 10.0,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``c_r = sigmoid(w (r/n - (2b - 1)/(2n)))`` for ranks r = 0 ... n-1 of descending uncertainty.

    The gate crosses one half between ranks b-1 and b: the first b images are mixed lightly.

    Args:
        n: images.
        b: lightly mixed images.
        w: slope.
        device: of the result.
        dtype: of the result.

    Returns:
        ``(n,)`` in (0, 1), ascending.

    Raises:
        ValueError: n < 1, b outside 0 ... n, or w < 0.

    >>> [round(c, 6) for c in correction_factor(64, 32)[[0, 31, 32, 63]].tolist()]
    [0.007233, 0.480479, 0.519521, 0.992767]
    """
    if n < 1 or not 0 <= b <= n or not w >= 0:
        raise ValueError(f"correction_factor: got n {n}, b {b}, w {w}; expected n >= 1, 0 <= b <= n, w >= 0")
    ranks = torch.arange(n, device=device, dtype=torch.float64)
    return torch.sigmoid(w * (ranks / n - (2 * b - 1) / (2 * n))).to(dtype)


@dataclass
class MixBatch:
    """The images that both networks see, and where they come from.

    Attributes:
        x: ``(k, 3, H, W)`` mixed images, most uncertain first.
        y_a: ``(k,)`` labels of the kept images, or None.
        y_b: ``(k,)`` labels of their partners, or None.
        mix: ``(k,)`` share of the partner in each image, in [0, 1).
        order: ``(N,)`` images of the batch by descending uncertainty; the first k are kept.
        partner: ``(k,)`` images of the batch that were mixed in.
        scores: ``(N,)`` uncertainty of the images of the batch, in the batch's order.
        logits: ``(N, C)`` of the scoring pass, or None where there was none.
        index: ``(k,)`` numbers in the data set of the kept images, or None.
        light: number of lightly mixed images, b.
        share: factor of the loss: 1, or the process's share when processes select together.
    """

    x: Tensor
    y_a: Tensor | None
    y_b: Tensor | None
    mix: Tensor
    order: Tensor
    partner: Tensor
    scores: Tensor
    logits: Tensor | None = None
    index: Tensor | None = None
    light: int = 0
    share: float = 1.0


class UncertaintyMixup:
    """Scores, sorts, mixes and keeps: steps 1 to 6 of a training step.

    Args:
        keep: images kept: a share in (0, 1], or a number.
        b: lightly mixed images: a share, or a number.
        w: slope of the gate; see `correction_factor`.
        strategy: see `uncertainty`; random needs no scoring pass.
        alpha: the mixing strength λ is drawn from Beta(alpha, alpha); 1 is uniform.
        lam: one draw for the ``"batch"`` (published), one for each ``"sample"``, or a fixed λ in [0, 1]:
            0 mixes nothing.
        gate: ``"sigmoid"``, or ``"open"``: all images are mixed alike.
        score_mode: ``"train"`` (published: batch statistics, and the running ones move in this pass too),
            ``"eval"``, or ``"cached"``: no scoring pass, but the scores of each image's last visit (needs
            ``index``; an image not seen yet goes first). The latter two are extensions.
        nominal: batch size that a number ``keep`` or ``b`` refers to; a smaller batch scales both.
        reverse: keep the *least* uncertain images (a control that must lose).
        gather: processes of a distributed run choose their images together, the k most uncertain of each on
            average; an extension.
        generator: of all draws; by default torch's global one.

    Raises:
        ValueError: ``keep`` of nothing or of more than there is, and likewise.

    >>> torch.manual_seed(0); net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    <torch._C.Generator object at ...>
    >>> batch = UncertaintyMixup(keep=6, b=4)(net, torch.rand(8, 3, 2, 2))
    >>> tuple(batch.x.shape), bool((batch.mix.diff() >= 0).all())
    ((6, 3, 2, 2), True)
    """

    def __init__(
        self,
        keep: float | int = 0.75,
        b: float | int = 0.5,
        w: float = 10.0,
        strategy: Strategy = "entropy",
        *,
        alpha: float = 1.0,
        lam: Literal["batch", "sample"] | float = "batch",
        gate: Literal["sigmoid", "open"] = "sigmoid",
        score_mode: Literal["train", "eval", "cached"] = "train",
        nominal: int | None = None,
        reverse: bool = False,
        gather: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_amount("keep", keep, nominal, least=1)
        _check_amount("b", b, nominal, least=0)
        if strategy not in STRATEGIES:
            raise ValueError(
                f"UncertaintyMixup: strategy: got {strategy!r}; expected one of {', '.join(STRATEGIES)}"
            )
        if not alpha > 0 or not w >= 0:
            raise ValueError(f"UncertaintyMixup: got alpha {alpha}, w {w}; expected alpha > 0, w >= 0")
        if not isinstance(lam, str) and not 0.0 <= lam <= 1.0:
            raise ValueError(f"UncertaintyMixup: lam: got {lam}; expected 'batch', 'sample' or 0 to 1")
        for name, value, allowed in (
            ("lam", lam if isinstance(lam, str) else "batch", ("batch", "sample")),
            ("gate", gate, ("sigmoid", "open")),
            ("score_mode", score_mode, ("train", "eval", "cached")),
        ):
            if value not in allowed:
                raise ValueError(
                    f"UncertaintyMixup: {name}: got {value!r}; expected one of {', '.join(allowed)}"
                )
        self.keep, self.b, self.w, self.strategy, self.alpha = keep, b, w, strategy, alpha
        self.lam, self.gate, self.score_mode, self.nominal = lam, gate, score_mode, nominal
        self.reverse, self.gather, self.generator = reverse, gather, generator
        self._last_scores: dict[int, float] = {}

    def amounts(self, n: int) -> tuple[int, int]:
        """K and b for a batch of n images; one that is smaller than the nominal one scales both.

        Raises:
            ValueError: more than n images are to be kept.

        >>> UncertaintyMixup(keep=48, b=32, nominal=64).amounts(16)
        (12, 8)
        """
        k = _amount(self.keep, n, self.nominal, math.ceil)
        b = _amount(self.b, n, self.nominal, round)
        if k > n or b > n:
            raise ValueError(
                f"UncertaintyMixup: keep {self.keep}, b {self.b}: the batch has {n} images; give nominal"
            )
        return k, b

    def __call__(
        self,
        student: Callable[[Tensor], Tensor],
        x: Tensor,
        y: Tensor | None = None,
        index: Tensor | None = None,
    ) -> MixBatch:
        """The mixed images of a batch.

        The scoring pass runs on the network inside a parallel wrapper, without gradients: it takes no part in
        the synchronisation of processes.

        Args:
            student: images to logits ``(N, C)``; a module, or any function.
            x: ``(N, 3, H, W)``.
            y: ``(N,)`` labels, or None.
            index: ``(N,)`` numbers in the data set, or None.

        Raises:
            ValueError: an empty batch, NaN logits, or a missing index.
        """
        n = len(x)
        if n == 0:
            raise ValueError("UncertaintyMixup: x: got an empty batch")
        k, b = self.amounts(n)
        scores, logits = self._scores(student, x, index)
        order = torch.argsort(scores, descending=not self.reverse, stable=True)
        share = 1.0
        if self.gather:
            k, share = _chosen_together(scores, k, self.reverse)
        partner = torch.randperm(n, generator=self.generator, device=self._device(x)).to(x.device)[:k]
        kept = order[:k]
        mix = (self._strength(n, x) * self._gate(n, b, x))[:k]
        factor = mix.view(-1, *[1] * (x.ndim - 1))
        mixed = (1.0 - factor) * x[kept] + factor * x[partner]
        y_a, y_b = (None, None) if y is None else (y[kept], y[partner])
        numbers = None if index is None else index[kept]
        return MixBatch(mixed, y_a, y_b, mix, order, partner, scores, logits, numbers, b, share)

    def remember(self, batch: MixBatch, logits: Tensor) -> None:
        """With ``score_mode="cached"``: notes the uncertainty of the kept images for their next visit."""
        if self.score_mode == "cached" and batch.index is not None:
            values = uncertainty(logits.detach(), self.strategy).tolist()
            self._last_scores.update(zip(batch.index.tolist(), values, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The remembered scores, for a checkpoint."""
        return {"index": list(self._last_scores), "scores": list(self._last_scores.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._last_scores = dict(zip(state["index"], state["scores"], strict=True))

    def _scores(self, student: Any, x: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.strategy == "random":
            drawn = torch.rand(len(x), generator=self.generator, device=self._device(x))
            return drawn.to(x.device), None
        if self.score_mode == "cached":
            if index is None:
                raise ValueError("UncertaintyMixup: index: got None; score_mode 'cached' needs it")
            unseen = -math.inf if self.reverse else math.inf
            known = [self._last_scores.get(k, unseen) for k in index.tolist()]
            return torch.tensor(known, device=x.device), None
        network = getattr(student, "module", student)
        training = getattr(network, "training", False)
        try:
            if isinstance(network, nn.Module):
                network.train(self.score_mode == "train")
            with torch.no_grad():
                logits = network(x)
        finally:
            if isinstance(network, nn.Module):
                network.train(training)
        return uncertainty(logits, self.strategy), logits

    def _strength(self, n: int, x: Tensor) -> Tensor:
        """λ: ``(n,)``, or one number for the batch."""
        if not isinstance(self.lam, str):
            return torch.tensor(float(self.lam), device=x.device, dtype=x.dtype)
        count = n if self.lam == "sample" else 1
        if self.alpha == 1.0:
            drawn = torch.rand(count, generator=self.generator, device=self._device(x))
        else:
            seed = torch.randint(2**62, (), generator=self.generator, device=self._device(x))
            values = np.random.default_rng(int(seed)).beta(self.alpha, self.alpha, count)
            drawn = torch.from_numpy(values)
        return drawn.to(device=x.device, dtype=x.dtype)

    def _gate(self, n: int, b: int, x: Tensor) -> Tensor:
        if self.gate == "open":
            return torch.ones(n, device=x.device, dtype=x.dtype)
        return correction_factor(n, b, self.w, device=x.device, dtype=x.dtype)

    def _device(self, x: Tensor) -> torch.device:
        return x.device if self.generator is None else self.generator.device


def _check_amount(name: str, value: float | int, nominal: int | None, *, least: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    most = nominal if whole else 1.0
    enough = value >= least if whole or least == 0 else value > 0
    if isinstance(value, bool) or not enough or (most is not None and value > most):
        raise ValueError(
            f"UncertaintyMixup: {name}: got {value!r}; expected a share"
            f" {'in (0, 1]' if least else 'in [0, 1]'} or a number of images"
            + (f" from {least} to {nominal}" if nominal else f", at least {least}")
        )


def _amount(value: float | int, n: int, nominal: int | None, rounding: Callable[[float], int]) -> int:
    if isinstance(value, int) and (nominal is None or n >= nominal):
        return value
    share = value / nominal if isinstance(value, int) and nominal else value
    # Rounded first: 0.75 * 64 must not become 49 by the last bit of a product.
    return int(rounding(round(share * n, 9)))


def _chosen_together(scores: Tensor, k: int, reverse: bool) -> tuple[int, float]:
    """How many of the k·W most uncertain images of all W processes are here, and that over k."""
    rank, world = rank_and_world()
    if world == 1:
        return k, 1.0
    parts = gather_values((scores.cpu(), k))
    everyone = torch.cat([part[0] for part in parts])
    total = sum(part[1] for part in parts)
    ranked = torch.argsort(everyone, descending=not reverse, stable=True)[:total]
    first = sum(len(part[0]) for part in parts[:rank])
    mine = int(((ranked >= first) & (ranked < first + len(scores))).sum())
    # A process without any image of its own would have no loss: it keeps one.
    count = max(mine, 1)
    return count, count * world / total
