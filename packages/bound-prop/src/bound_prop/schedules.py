"""How eps, the mixture of losses and the slope of ParamRamp change over training.

All are functions of the optimiser step, so a resumed run needs nothing but the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenfold.train.schedules import linear_ramp, smooth_ramp

__all__ = ["Plan", "Ramp", "kappa"]


@dataclass(frozen=True)
class Ramp:
    """A value that goes from ``start`` to ``end`` between two epochs, step by step.

    Attributes:
        start_epoch, end_epoch: when.
        start, end: the values.
        shape: ``"linear"``, or ``"smoothed"``: quartic at first, then linear (equation in appendix B.4 of Lyu
            et al. 2021, as the released configurations use it).
        knee: share of the ramp that is quartic.

    >>> ramp = Ramp(1, 3, 0.0, 0.4)
    >>> [round(ramp.at(step, 10), 3) for step in (0, 10, 20, 30, 99)]
    [0.0, 0.0, 0.2, 0.4, 0.4]
    """

    start_epoch: float
    end_epoch: float
    start: float
    end: float
    shape: Literal["linear", "smoothed"] = "linear"
    knee: float = 0.25

    def __post_init__(self) -> None:
        if self.end_epoch < self.start_epoch or self.start_epoch < 0:
            raise ValueError(
                f"Ramp: start_epoch, end_epoch: got {self.start_epoch}, {self.end_epoch}; expected 0 <= start <= end"
            )
        if self.shape not in ("linear", "smoothed"):
            raise ValueError(f"Ramp: shape: got {self.shape!r}; expected 'linear' or 'smoothed'")

    def at(self, step: int, steps_per_epoch: int) -> float:
        """The value at an optimiser step."""
        first, last = self.start_epoch * steps_per_epoch, self.end_epoch * steps_per_epoch
        if step >= last:
            return self.end
        if step <= first:
            return self.start
        if self.shape == "linear":
            return linear_ramp(step, first, last, self.start, self.end)
        return smooth_ramp(step, first, last, self.start, self.end, mid_fraction=self.knee)


def kappa(eps: float, eps_train: float, start: float, end: float) -> float:
    """Weight of the clean loss (and likewise beta): follows the curve that eps actually takes.

    >>> kappa(0.2, 0.4, 1.0, 0.5)
    0.75
    """
    share = 1.0 if eps_train == 0 else eps / eps_train
    return start + (end - start) * share


@dataclass(frozen=True)
class Plan:
    """Everything that changes over training (Lyu et al. 2021, appendix B.4).

    Attributes:
        eps: target eps of training.
        clean_epochs: epochs with the plain loss; at their end the knees are set and switched on.
        ramp_epochs: length of the eps ramp that follows.
        shape: of the eps ramp, see `Ramp`.
        kappa: weight of the clean loss, before and after the ramp.
        beta: weight of the relaxed bound in crown-ibp training, before and after the ramp.
        eta: slope of ParamRamp or LeakyReLU, before and after its ramp.
        eta_epochs: first and last epoch of the slope's ramp; None keeps ``eta[0]``.
        eta_shape: of the slope's ramp.
        jitter: deviation of the noise on the knees after each step, in units of their mean.
        lr_milestones: epochs at which the learning rate falls.
        lr_gamma: by this factor.
    """

    eps: float
    clean_epochs: int = 10
    ramp_epochs: int = 50
    shape: Literal["linear", "smoothed"] = "linear"
    kappa: tuple[float, float] = (1.0, 0.5)
    beta: tuple[float, float] = (1.0, 0.0)
    eta: tuple[float, float] = (0.0, 0.0)
    eta_epochs: tuple[int, int] | None = None
    eta_shape: Literal["linear", "smoothed"] = "smoothed"
    jitter: float = 0.0
    lr_milestones: tuple[int, ...] = (130, 190)
    lr_gamma: float = 0.1

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise ValueError(f"Plan: eps: got {self.eps}; expected a number of at least 0")
        if self.clean_epochs < 0 or self.ramp_epochs < 0:
            raise ValueError(
                f"Plan: clean_epochs, ramp_epochs: got {self.clean_epochs}, {self.ramp_epochs}; expected none below 0"
            )

    def eps_at(self, step: int, steps_per_epoch: int) -> float:
        """Eps at an optimiser step."""
        ramp = Ramp(self.clean_epochs, self.clean_epochs + self.ramp_epochs, 0.0, self.eps, self.shape)
        return ramp.at(step, steps_per_epoch)

    def kappa_at(self, eps: float) -> float:
        """Weight of the clean loss where eps has this value; only the clean loss counts while eps is 0."""
        return 1.0 if eps == 0 else kappa(eps, self.eps, *self.kappa)

    def beta_at(self, eps: float) -> float:
        """Weight of the relaxed bound where eps has this value."""
        return kappa(eps, self.eps, *self.beta)

    def eta_at(self, epoch: int) -> float:
        """Slope of the flat sides in an epoch."""
        if self.eta_epochs is None:
            return self.eta[0]
        return Ramp(*self.eta_epochs, *self.eta, shape=self.eta_shape).at(epoch, 1)

    def lr_factor(self, epoch: int) -> float:
        """Factor on the learning rate in an epoch."""
        factor: float = self.lr_gamma ** sum(epoch >= m for m in self.lr_milestones)
        return factor
