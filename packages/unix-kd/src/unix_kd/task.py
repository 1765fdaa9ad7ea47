"""UNIX with Lightning."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from tenfold._errors import UserInputError
from tenfold.distill.distillers import DISTILLERS, KD, build
from tenfold.distill.taps import Tapped
from tenfold.distill.task import ClassifierTask, DistillTask, ImageData
from tenfold.train.modes import evaluating
from unix_kd.cost import CostLedger, advice
from unix_kd.losses import UnixLoss
from unix_kd.sampling import Strategy, UncertaintyMixup
from unix_kd.stats import SelectionStats, class_centres
from unix_kd.step import DistillStep

__all__ = ["ClassifierTask", "DistillTask", "ImageData", "UnixTask"]


class UnixTask(DistillTask):
    """A student trained by a teacher that is asked about few, uncertain, mixed images.

    The defaults are the published setting: labels unused, entropy, three quarters kept. A ``method`` other
    than kd is added as a further loss on the mixed images.

    Args:
        keep: Images kept: a share of the batch, or a number.
        b: Lightly mixed images: a share of the batch, or a number.
        w: Slope of the gate.
        strategy: Uncertainty.
        alpha: λ is drawn from Beta(alpha, alpha).
        lam: One λ for the batch or for each sample, or a fixed one.
        gate: sigmoid, or open: all images are mixed alike.
        score_mode: The student's mode in the scoring pass, or cached scores.
        reverse: Keep the least uncertain images (a control).
        gather: Processes select together.
        centres: Compute class centres each epoch from this split: none, train (a fixed subset) or val.
        ce_weight: Of the cross-entropy with the mixed labels.
        kd_weight: Of the class scores.
        **kwargs: Of the distillation.
    """

    def __init__(
        self,
        keep: int | float = 0.75,
        b: int | float = 0.5,
        w: float = 10.0,
        strategy: Strategy = "entropy",
        alpha: float = 1.0,
        lam: Literal["batch", "sample"] | float = "batch",
        gate: Literal["sigmoid", "open"] = "sigmoid",
        score_mode: Literal["train", "eval", "cached"] = "train",
        reverse: bool = False,
        gather: bool = False,
        centres: Literal["none", "train", "val"] = "none",
        ce_weight: float = 0.0,
        kd_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(ce_weight=ce_weight, kd_weight=kd_weight, **kwargs)
        if self.hparams.get("cache_views"):
            raise UserInputError(
                "model.cache_views: UNIX mixes new pixels in every step; nothing can be cached"
            )

    def make_step(self, student: nn.Module, teacher: nn.Module, labels: Any = None) -> DistillStep:
        """See `DistillTask.make_step`."""
        s = self.hparams
        side = s["input_size"]
        names = ("keep", "b", "w", "strategy", "alpha", "lam", "gate", "score_mode", "reverse", "gather")
        try:
            sampler = UncertaintyMixup(**{name: s[name] for name in names})
            extra = self._extra(student, teacher, labels)
            loss = UnixLoss(s["temperature"], s["kd_weight"], s["ce_weight"], extra, s["weight"])
        except ValueError as error:
            raise UserInputError(f"model: {error}") from error
        ledger = CostLedger(student, teacher, (3, side, side))
        taps = {"student_taps": s["student_taps"], "teacher_taps": s["teacher_taps"]}
        return DistillStep(student, teacher, sampler, loss, ledger, **taps)

    def _extra(self, student: nn.Module, teacher: nn.Module, labels: Any) -> Any:
        s = self.hparams
        kind = DISTILLERS[s["method"]]
        if issubclass(kind, KD) or (kind.needs_index and labels is None):
            return None
        shape = (3, s["input_size"], s["input_size"])
        s_shapes, t_shapes = (
            Tapped(net, s[taps], preact=kind.preact).shapes(shape)
            for net, taps in ((student, "student_taps"), (teacher, "teacher_taps"))
        )
        return build(s["method"], s_shapes, t_shapes, labels=labels, **(s["options"] or {}))

    def setup(self, stage: str) -> None:
        """Gives the step its statistics, and says what to expect of this pair."""
        super().setup(stage)
        step: Any = self.step
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage != "fit" or data is None:
            return
        if step.stats is None:
            step.stats = SelectionStats(len(data.train_set))
            if self._state is not None:
                self._load(self._state)
        for name in ("keep", "b"):
            amount = self.hparams[name]
            if isinstance(amount, int) and amount > data.sizes[0]:
                raise UserInputError(f"model.{name}: got {amount}; the batch has {data.sizes[0]} images")
        keep = self.hparams["keep"]
        share = keep if isinstance(keep, float) else keep / data.sizes[0]
        step.sampler.nominal = data.sizes[0]
        if self.trainer.is_global_zero:
            print(advice(step.ledger.report()["R"], share))

    _state: dict[str, Any] | None = None

    def on_train_epoch_start(self) -> None:
        """Class centres of this epoch."""
        which = self.hparams["centres"]
        if which == "none":
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        loader = data.val_dataloader() if which == "val" else data.centre_dataloader()
        step: Any = self.step
        moved = ((x.to(self.device), y) for x, y, _ in loader)
        with evaluating(step.student):
            step.stats.set_centres(
                class_centres(lambda x: step.student_taps(x).taps[-1], moved, data.num_classes)
            )

    def on_train_epoch_end(self) -> None:
        """Logs the selection's statistics and the cost so far."""
        step: Any = self.step
        for name, value in step.stats.end_epoch().items():
            self.log(f"selection/{name}", value, rank_zero_only=True)
        report = step.ledger.report()
        for name in ("ratio", "teacher_images", "seconds"):
            self.log(f"cost/{name}", float(report[name]), rank_zero_only=True)
        self.log("cost/ratio_backward_2", step.ledger.report(2.0)["ratio"], rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds ledger, statistics and remembered scores."""
        super().on_save_checkpoint(checkpoint)
        step: Any = self.step
        stats = step.stats.state_dict() if step.stats is not None else None
        checkpoint["unix"] = {
            "ledger": step.ledger.state_dict(),
            "stats": stats,
            "sampler": step.sampler.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them back."""
        super().on_load_checkpoint(checkpoint)
        self._state = checkpoint.get("unix")
        if self._state is not None:
            self._load(self._state)

    def _load(self, state: dict[str, Any]) -> None:
        step: Any = self.step
        step.ledger.load_state_dict(state["ledger"])
        step.sampler.load_state_dict(state["sampler"])
        if step.stats is not None and state["stats"] is not None:
            step.stats.load_state_dict(state["stats"])
