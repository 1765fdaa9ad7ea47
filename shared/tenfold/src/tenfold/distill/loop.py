"""A plain training loop and an evaluation, for small runs without Lightning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.distill.data import Augment, ImageArrays, batch_as_is
from tenfold.train.modes import evaluating
from tenfold.train.resume import ResumableLoader
from tenfold.train.schedules import step_with_warmup

__all__ = ["accuracy", "batches", "logits_of", "topk_correct", "train"]

Step = Callable[..., dict[str, Tensor]]


def batches(
    data: ImageArrays, batch_size: int, *, seed: int = 0, drop_last: bool = True, shuffle: bool = True
) -> ResumableLoader[Any]:
    """A loader of whole batches (x, labels, index) whose order is a function of (seed, epoch)."""
    return ResumableLoader(
        data, batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, collate_fn=batch_as_is
    )


def train(
    step: Step,
    parameters: Iterable[nn.Parameter],
    loader: ResumableLoader[Any],
    epochs: int,
    *,
    lr: float = 0.05,
    milestones: Sequence[float] = (0.625, 0.75, 0.875),
    weight_decay: float = 5e-4,
    after_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """SGD with momentum 0.9, the learning rate divided by ten at fractions of the run; losses by epoch.

    Args:
        step: called as ``step(x, labels, index)``, returns ``{"loss": ...}``.
        parameters: to train.
        loader: of (x, labels, index).
        epochs: passes over it.
        lr: first learning rate.
        milestones: fractions of all steps.
        weight_decay: on all parameters.
        after_epoch: called with the epoch's number.
    """
    optimizer = torch.optim.SGD(list(parameters), lr=lr, momentum=0.9, weight_decay=weight_decay)
    total = epochs * len(loader)
    at = [round(fraction * total) for fraction in milestones]
    done, means = 0, []
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        summed = 0.0
        for x, labels, index in loader:
            for group in optimizer.param_groups:
                group["lr"] = lr * step_with_warmup(done, at)
            loss = step(x, labels, index)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            summed += float(loss.detach())
            done += 1
        means.append(summed / max(len(loader), 1))
        if after_epoch is not None:
            after_epoch(epoch)
    return means


@torch.no_grad()
def logits_of(model: nn.Module, data: ImageArrays, batch_size: int = 500) -> Tensor:
    """``(N, C)`` in eval mode; every module's own mode is as before afterwards."""
    with evaluating(model):
        return torch.cat([model(x) for x, _, _ in batches(data, batch_size, shuffle=False, drop_last=False)])


def accuracy(model: nn.Module, data: ImageArrays) -> float:
    """Top-1 accuracy in percent, on images as they are."""
    plain = ImageArrays(
        data.data,
        data.transform.plain() if isinstance(data.transform, Augment) else data.transform,
        random=False,
    )
    return 100.0 * float(
        topk_correct(logits_of(model, plain), torch.from_numpy(plain.labels), 1).double().mean()
    )


def topk_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """``(B,)``: whether the label is among the k largest logits; a tie counts for the label.

    >>> topk_correct(torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([2]), 2).tolist()
    [True]
    """
    own = logits.gather(1, labels[:, None])
    larger: Tensor = (logits > own).sum(1)
    return (larger < k) & torch.isfinite(own[:, 0])
