"""Teachers and students: networks, distillation losses, one training step for any loop, data and protocols.

| room | what |
|---|---|
| `tenfold.distill.models` | the CIFAR zoo, ImageNet networks |
| `tenfold.distill.distillers` | KD, FitNet, AT, SP, CC, VID, RKD, PKT, AB, FT, FSP, NST, CRD, DKD |
| `tenfold.distill.step` | `DistillStep`: any teacher into any student, taps by feature hooks |
| `tenfold.distill.cache` | `LogitCache`: a teacher that is asked once for each crop |
| `tenfold.distill.data` | CIFAR's files, image folders, augmentation; `strokes` are generated images |
| `tenfold.distill.protocols` | few-shot subsets, noisy labels |
| `tenfold.distill.checkpoints` | trained classifiers as files, published state dicts |
| `tenfold.distill.task` | Lightning: `ClassifierTask`, `DistillTask`, `ImageData` (needs the extra ``train``) |

Names resolve when they are first used.
"""

from typing import TYPE_CHECKING

from tenfold.lazy import lazy_names

if TYPE_CHECKING:
    from tenfold.distill.cache import LogitCache
    from tenfold.distill.checkpoints import Classifier, load_classifier, save_classifier
    from tenfold.distill.distillers import DISTILLERS, Distiller, Outputs, build, dkd_loss, kd_loss
    from tenfold.distill.models import MODELS, create_model, tap_shapes
    from tenfold.distill.protocols import few_shot_indices, noisy_labels
    from tenfold.distill.step import DistillStep
    from tenfold.distill.taps import Tapped

__all__ = [
    "DISTILLERS",
    "MODELS",
    "Classifier",
    "DistillStep",
    "Distiller",
    "LogitCache",
    "Outputs",
    "Tapped",
    "build",
    "create_model",
    "dkd_loss",
    "few_shot_indices",
    "kd_loss",
    "load_classifier",
    "noisy_labels",
    "save_classifier",
    "tap_shapes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        ".cache": ["LogitCache"],
        ".checkpoints": ["Classifier", "load_classifier", "save_classifier"],
        ".distillers": ["DISTILLERS", "Distiller", "Outputs", "build", "dkd_loss", "kd_loss"],
        ".models": ["MODELS", "create_model", "tap_shapes"],
        ".protocols": ["few_shot_indices", "noisy_labels"],
        ".step": ["DistillStep"],
        ".taps": ["Tapped"],
    },
)
