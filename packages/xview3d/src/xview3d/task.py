"""Training and evaluation of detectors with views; imports Lightning."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tenfold._errors import UserInputError
from tenfold.eval.kitti import FewObjectsWarning
from tenfold.eval.range_bins import RangeBins, range_bins
from tenfold.io import load_strict
from tenfold.lidar.evaluation import Evaluated, annotations
from tenfold.lidar.task import LidarData, LidarTask
from xview3d.diagnostics import assert_branches_work
from xview3d.extension import load_detector
from xview3d.fusion import has_views
from xview3d.plugin import load_base

__all__ = ["XViewData", "XViewTask", "bins_of"]

XViewData = LidarData


class XViewTask(LidarTask):
    """A LiDAR detector with views in training; everything else is the detector's own recipe.

    Args:
        xview: Arguments of `xview3d.add_xview`: views (a list of centres and cells, or a number of released ones),
            fuse, interpolation, fuse_into and more; control names a baseline of `xview3d.CONTROLS`. Without it, the
            detector has no views.
        check_branches: Before the first step, stop unless every view changes the features and receives a gradient.
    """

    def __init__(
        self, xview: dict[str, Any] | None = None, check_branches: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)

    def on_fit_start(self) -> None:
        """Takes over the weights of another run; those of a detector without views leave the views as they are."""
        source = self.hparams["start_from"]
        if source and self.trainer.ckpt_path is None:
            other = load_detector(source)
            if has_views(self.model) and not has_views(other):
                load_base(self.model, other.state_dict(), str(source))
            else:
                load_strict(self.model, other.state_dict(), source=source)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Looks for dead branches, once."""
        if self.global_step or batch_idx or not self.hparams["check_branches"] or not has_views(self.model):
            return
        gated = self.model.xview.zero_init_views  # such views change nothing yet, by intention
        if not gated and self.model.config.__dict__.get("stages", "both") != "second":
            try:
                with _behind_the_drop(self.model, batch) as seen:
                    assert_branches_work(self.model, seen)
            except RuntimeError as error:
                raise UserInputError(f"model.xview: {error}; model.check_branches=false goes on") from error

    def on_test_epoch_end(self) -> None:
        """Evaluates, prints the table, and on KITTI's layout average precision by distance."""
        super().on_test_epoch_end()
        bins = bins_of(self.records, self.model.class_names)
        if bins is not None and self.trainer.is_global_zero:
            print(bins)


@contextmanager
def _behind_the_drop(model: Any, batch: Any) -> Iterator[Any]:
    """The batch as the seam sees it: under ``nus_drop_time`` without the age, which is then not dropped again."""
    options = model.xview
    if not options.nus_drop_time:
        yield batch
        return
    model.xview = replace(options, nus_drop_time=False)
    try:
        yield {**batch, "points": batch["points"][:, :-1]}
    finally:
        model.xview = options


def bins_of(records: Any, class_names: Any) -> RangeBins | None:
    """KITTI's evaluation at 0 to 20, 20 to 40 and 40 to 70 m, or None for other data."""
    frames = [record for record in records if isinstance(record, Evaluated)]
    if not frames:
        return None
    truth = [annotations(frame.labels, frame.calibration) for frame in frames]
    found = [annotations(frame.found, frame.calibration) for frame in frames]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewObjectsWarning)  # the table says how many there were
        return range_bins(truth, found, tuple(class_names))
