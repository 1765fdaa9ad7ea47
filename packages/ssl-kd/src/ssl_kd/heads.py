"""The self-supervision head: a small network on the pooled feature, and the similarities it gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_kd.views import VIEWS
from tenfold._errors import UserInputError
from tenfold.distill.models import TappedNet
from tenfold.distill.taps import Tapped, classifier_of
from tenfold.io import load_checkpoint, load_strict, make_folder, save_checkpoint

__all__ = [
    "ContrastiveHeadLoss",
    "SSWrapper",
    "cosine_scores",
    "feature_width",
    "load_head",
    "mlp",
    "positives",
    "save_head",
    "train_ss_head",
]


def mlp(width: int, out: int | None = None) -> nn.Sequential:
    """``Linear, ReLU, Linear`` of equal widths; 2 (d² + d) parameters where ``out`` is None.

    >>> sum(p.numel() for p in mlp(64).parameters())
    8320
    """
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out or width))


def feature_width(backbone: nn.Module, classifier: str | None = None) -> int:
    """Width of a classifier's pooled feature, which its (named or last) linear layer reads."""
    if isinstance(backbone, TappedNet):
        return backbone.feature_dim
    return classifier_of(backbone, classifier).in_features


class SSWrapper(nn.Module):
    """A classifier with a self-supervision head on its pooled feature.

    The head is discarded after training: report the size of ``backbone`` alone.

    Args:
        backbone: any classifier; a network that is not of the zoo is tapped at the input of its last linear
            layer.
        feat_dim: width of the feature; by default read off the classifier.
        head: another head than the published one.
        classifier: name of the layer that makes the logits, where it is not the last linear one.

    >>> from tenfold.distill import create_model
    >>> [tuple(x.shape) for x in SSWrapper(create_model("plain3", 10))(torch.zeros(8, 3, 16, 16))]
    [(8, 10), (8, 48), (8, 48)]
    """

    def __init__(
        self,
        backbone: nn.Module,
        feat_dim: int | None = None,
        head: nn.Module | None = None,
        classifier: str | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proj_head = head if head is not None else mlp(feat_dim or feature_width(backbone, classifier))
        self._tapped = Tapped(backbone, classifier=classifier)

    def forward(self, x: Tensor, detach_backbone: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(n, C)``, head outputs ``(n, d)`` and features ``(n, d)`` of images ``(n, 3, H, W)``.

        Args:
            x: images.
            detach_backbone: no gradient reaches the backbone.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_backbone):
            outputs = self._tapped(x)
        feature = outputs.taps[-1]
        return outputs.logits, self.proj_head(feature), feature


def cosine_scores(z: Tensor, views: int = VIEWS, columns: Tensor | None = None) -> Tensor:
    """Similarity of every transformed view with every image; Eq. 2.

    Args:
        z: ``(views · B, d)``, the views of an image next to each other, its plain view first.
        views: views of each image.
        columns: ``(M, d)`` of other images to compare with instead of the batch's own plain views.

    Returns:
        ``((views - 1) · B, B or M)`` in [-1, 1]; row j belongs to image ``j // (views - 1)``.

    Raises:
        ValueError: a number of rows that is no multiple of ``views``.

    >>> cosine_scores(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), views=2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if z.ndim != 2 or views < 2 or len(z) % views:
        raise ValueError(
            f"cosine_scores: z: got shape {tuple(z.shape)} for {views} views; expected (views B, d)"
        )
    unit = F.normalize(z, dim=1, eps=1e-8).view(-1, views, z.shape[1])
    plain = unit[:, 0] if columns is None else F.normalize(columns, dim=1, eps=1e-8)
    return unit[:, 1:].reshape(-1, z.shape[1]) @ plain.T


def positives(images: int, transforms: int = VIEWS - 1, device: torch.device | None = None) -> Tensor:
    """``(transforms · B,)``: the column of `cosine_scores` that is right for each row.

    >>> positives(2, 3).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    return torch.arange(images, device=device).repeat_interleave(transforms)


class ContrastiveHeadLoss:
    """Mean cross-entropy of the similarities with the right image; Eq. 5.

    The released code trains without temperature: the loss starts near ``ln B`` and cannot fall below
    ``ln(1 + (B-1) exp(-1 - 1/(B-1)))``; watch the retrieval accuracy instead.

    Args:
        tau: temperature.

    >>> float(ContrastiveHeadLoss()(torch.ones(8, 4))) - float(torch.tensor(2.0).log()) < 1e-6
    True
    """

    def __init__(self, tau: float = 1.0) -> None:
        if not tau > 0:
            raise ValueError(f"ContrastiveHeadLoss: tau: got {tau}; expected more than 0")
        self.tau = tau

    def __call__(self, z: Tensor, views: int = VIEWS, target: Tensor | None = None) -> Tensor:
        """Loss of head outputs ``(views · B, d)``; the right answers are `positives`, or ``target``."""
        scores = cosine_scores(z, views)
        if target is None:
            target = positives(scores.shape[1], views - 1, z.device)
        return F.cross_entropy(scores / self.tau, target)


def train_ss_head(
    teacher: SSWrapper,
    loader: Any,
    epochs: int = 60,
    *,
    task: Any = None,
    lr: float = 0.05,
    milestones: tuple[float, ...] = (0.5, 0.75),
    weight_decay: float = 5e-4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Trains a teacher's head; its backbone stays bit for bit as it is, statistics included.

    Args:
        teacher: a trained classifier with a fresh head; put into eval mode.
        loader: of (views ``(B, 4, 3, H, W)``, labels, index); a `ResumableLoader` gets its epochs set.
        epochs: passes.
        task: a self-supervision task of `ssl_kd.tasks`; by default `Contrastive`.
        lr: of SGD with momentum 0.9, divided by ten at the milestones.
        milestones: fractions of the run.
        weight_decay: on the head.
        seed: of in-batch randomness of the task.

    Returns:
        The head's state dict.
    """
    from ssl_kd.tasks import Contrastive
    from tenfold.distill.loop import train

    chosen = task or Contrastive()
    teacher.eval()
    teacher.proj_head.train()
    generator = torch.Generator().manual_seed(seed)

    def step(x: Tensor, labels: Tensor, index: Tensor) -> dict[str, Tensor]:
        prepared, target = chosen.prepare(x, generator)
        z = teacher(prepared, detach_backbone=True)[1]
        return {"loss": chosen.teacher_loss(z, target)}

    train(
        step,
        teacher.proj_head.parameters(),
        loader,
        epochs,
        lr=lr,
        milestones=milestones,
        weight_decay=weight_decay,
    )
    teacher.eval()
    return {name: value.detach().clone() for name, value in teacher.proj_head.state_dict().items()}


def save_head(path: str | Path, head: Mapping[str, Tensor], **facts: Any) -> None:
    """Write a head's state dict with what it belongs to, atomically; the folder is created.

    Raises:
        UserInputError: the file cannot be written.
    """
    target = Path(path)
    make_folder(target.parent, "head")
    save_checkpoint(target, {"head": {k: v.detach().cpu().clone() for k, v in head.items()}, "facts": facts})


def load_head(wrapper: SSWrapper, path: str | Path) -> dict[str, Any]:
    """Load a head written by `save_head`, or the ``proj_head`` of a published wrapper's state dict.

    Returns:
        The facts that the file holds.

    Raises:
        UserInputError: no such file, damaged, or a head of another width.
    """
    if not Path(path).is_file():
        raise UserInputError(
            f"{path}: head: no such file; train it first: ssl-kd fit --config ss_head model.teacher=<teacher>"
        )
    content = load_checkpoint(path)
    if isinstance(content, Mapping) and isinstance(content.get("head"), Mapping):
        state, facts = content["head"], dict(content.get("facts") or {})
    else:
        state, facts = _published(content, path), {}
    load_strict(wrapper.proj_head, state, source=path)
    return facts


def _published(content: Any, path: Any) -> dict[str, Tensor]:
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    items: Iterable[tuple[Any, Any]] = inner.items() if isinstance(inner, Mapping) else ()
    prefix = "proj_head."
    found = {str(k).partition(prefix)[2]: v for k, v in items if prefix in str(k)}
    if not found:
        raise UserInputError(f"{path}: head: holds none; expected a file of `ssl-kd fit --config ss_head`")
    return found
