"""What the networks return."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from sparsepoint.models.votes import Candidates, Votes

__all__ = ["DetectionOutput", "Detections3D"]


@dataclass(eq=False)
class DetectionOutput:
    """Predictions of every stage; stage t turns ``rois[t]`` into ``boxes[t]``.

    Attributes:
        logits: (B, K, C) of each stage.
        boxes: (B, K, 7) of each stage.
        heading: (B, K, 2 * bins) of each stage, as the box coder reads it: bins, then residuals; by default relative
            to the yaw of ``rois``.
        rois: (B, K, 7) that each stage starts from, without gradient but for the first.
        deltas: (B, K, D) of each stage: centre and size, as the box coder reads them.
        votes: of the presets that have them.
        candidates: of the dense head, in the presets that have one.
    """

    logits: list[Tensor] = field(default_factory=list)
    boxes: list[Tensor] = field(default_factory=list)
    heading: list[Tensor] = field(default_factory=list)
    rois: list[Tensor] = field(default_factory=list)
    deltas: list[Tensor] = field(default_factory=list)
    votes: Votes | None = None
    candidates: Candidates | None = None


@dataclass(frozen=True, eq=False)
class Detections3D:
    """Detections of one scene, best first.

    Attributes:
        boxes: (n, 7).
        scores: (n,) from 0 to 1.
        labels: (n,) int64, 0-based.
        proposal_index: (n,) int64 which proposal each comes from; a proposal may appear under several classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    proposal_index: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, rows: Tensor) -> Detections3D:
        """Some of them, by row or mask."""
        return Detections3D(self.boxes[rows], self.scores[rows], self.labels[rows], self.proposal_index[rows])
