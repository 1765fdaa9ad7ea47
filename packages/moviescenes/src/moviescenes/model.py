"""The networks: BNet on the clip, a recurrent network on the segment, four modalities fused late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moviescenes.weights import FUSION_WEIGHTS
from moviescenes.windows import average_segments, clip_windows, compat_segments, segment_starts

__all__ = ["LGSS", "AudioNet", "BNet", "LGSSBranch", "LGSSConfig", "LGSSImage"]

_SIMILARITIES = ("cosine", "dot")
_FUSIONS = ("late-fixed", "late-learned", "early")


class BNet(nn.Module):
    """Describes a shot boundary by the shots around it.

    The relation branch slides nothing: each of its filters weighs the shots of the window, the same for every
    feature dimension, and the largest filter wins per dimension. The difference branch applies one set of
    filters to the half before and to the half after, and compares the two answers, filter by filter.

    Args:
        dim: features of a shot.
        channels: filters of each branch.
        half_window: shots before the boundary, and after it.
        relation: with the relation branch.
        similarity: of the difference branch: "cosine" (as released) or "dot" (as the paper's text).

    Shape: ``(B, S, 2w, d)`` to ``(B, S, d + C)``, without the relation branch ``(B, S, C)``.

    Source: section 4.2 of the paper.

    >>> BNet(32, channels=8)(torch.zeros(2, 10, 4, 32)).shape
    torch.Size([2, 10, 40])
    """

    def __init__(
        self,
        dim: int,
        channels: int = 512,
        half_window: int = 2,
        *,
        relation: bool = True,
        similarity: str = "cosine",
    ) -> None:
        super().__init__()
        if min(dim, channels, half_window) < 1:
            raise ValueError(
                f"BNet: got dim {dim}, channels {channels}, half_window {half_window}; expected at least 1"
            )
        if similarity not in _SIMILARITIES:
            raise ValueError(f"BNet: similarity: got {similarity!r}; expected one of {_SIMILARITIES}")
        self.dim, self.half_window, self.similarity = dim, half_window, similarity
        self.relation = nn.Conv2d(1, channels, (2 * half_window, 1)) if relation else None
        self.difference = nn.Conv2d(1, channels, (half_window, 1))
        self.out_dim = channels + (dim if relation else 0)

    def forward(self, windows: Tensor) -> Tensor:
        """Descriptions of the boundaries."""
        batch, length, shots, dim = windows.shape
        if shots != 2 * self.half_window or dim != self.dim:
            raise ValueError(
                f"BNet: windows: got shape {tuple(windows.shape)}; expected (B, S, {2 * self.half_window}, "
                f"{self.dim})"
            )
        flat = windows.reshape(batch * length, 1, shots, dim)
        parts = []
        if self.relation is not None:
            parts.append(self.relation(flat)[:, :, 0].amax(1))
        before = self.difference(flat[:, :, : self.half_window])[:, :, 0]
        after = self.difference(flat[:, :, self.half_window :])[:, :, 0]
        if self.similarity == "cosine":
            parts.append(F.cosine_similarity(before, after, dim=-1))
        else:
            parts.append((before * after).sum(-1))
        return torch.cat(parts, -1).reshape(batch, length, self.out_dim)


class PlainConv(nn.Module):
    """What the base of the ablation has in BNet's place: one filter over the window, no difference.

    Args:
        dim: features of a shot.
        half_window: shots before the boundary, and after it.

    Shape: ``(B, S, 2w, d)`` to ``(B, S, d)``.
    """

    def __init__(self, dim: int, half_window: int = 2) -> None:
        super().__init__()
        self.out_dim = dim
        self.filter = nn.Conv2d(1, 1, (2 * half_window, 1))

    def forward(self, windows: Tensor) -> Tensor:
        """Weighted sums of the shots."""
        batch, length, shots, dim = windows.shape
        out: Tensor = self.filter(windows.reshape(batch * length, 1, shots, dim))
        return out.reshape(batch, length, dim)


class AudioNet(nn.Module):
    """Convolutional network on spectrogram images.

    Args:
        out_dim: numbers a shot.

    Shape: ``(N, 1, 257, 90)`` to ``(N, out_dim)``.

    >>> AudioNet().eval()(torch.zeros(1, 1, 257, 90)).shape
    torch.Size([1, 512])
    """

    _LAYERS: tuple[tuple[int, tuple[int, int], tuple[int, int], tuple[int, int] | None], ...] = (
        (64, (3, 3), (2, 1), (1, 3)),
        (192, (3, 3), (2, 1), None),
        (384, (3, 3), (2, 1), None),
        (256, (3, 3), (2, 2), None),
        (256, (3, 3), (2, 2), (2, 2)),
        (512, (3, 2), (1, 1), None),
    )

    def __init__(self, out_dim: int = 512) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, kernel, stride, pool in self._LAYERS:
            layers += [nn.Conv2d(channels, width, kernel, stride), nn.BatchNorm2d(width), nn.ReLU()]
            if pool is not None:
                layers.append(nn.MaxPool2d(pool))
            channels = width
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(channels, out_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Descriptions of the images."""
        return self.out(self.layers(images).flatten(1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LGSSConfig:
    """Sizes of the whole network.

    Args:
        dims: modality -> features of a shot: a number, or (257, 90) for spectrogram images.
        channels: filters of each branch of BNet.
        half_window: shots before a boundary, and after it.
        seq_len: boundaries of a segment.
        hidden: of the recurrent network, each direction.
        head: width of the layer before the two logits.
        weights: modality -> weight of the fusion; only those of `dims` count, scaled to sum to 1.
        fusion: "late-fixed" (as released), "late-learned", or "early" (one recurrent network on all features).
        bnet: False puts one plain filter in BNet's place (the base of the ablation).
        sequence: False leaves the recurrent network out.
        similarity: of BNet.
        audio_dim: what AudioNet makes of a spectrogram image.
    """

    dims: Mapping[str, int | tuple[int, ...]] = field(
        default_factory=lambda: {"place": 2048, "cast": 512, "act": 512, "aud": (257, 90)}
    )
    channels: int = 512
    half_window: int = 2
    seq_len: int = 10
    hidden: int = 512
    head: int = 100
    weights: Mapping[str, float] = field(default_factory=lambda: dict(FUSION_WEIGHTS))
    fusion: str = "late-fixed"
    bnet: bool = True
    sequence: bool = True
    similarity: str = "cosine"
    audio_dim: int = 512

    def __post_init__(self) -> None:
        """Check what the modules do not."""
        if self.fusion not in _FUSIONS:
            raise ValueError(f"LGSSConfig: fusion: got {self.fusion!r}; expected one of {_FUSIONS}")
        if not self.dims or self.seq_len < 1:
            raise ValueError("LGSSConfig: dims, seq_len: expected at least one modality and one boundary")
        unknown = [key for key in self.dims if key not in self.weights]
        if unknown or sum(self.weights[key] for key in self.dims) <= 0:
            raise ValueError(f"LGSSConfig: weights: no weight above 0 for {', '.join(self.dims)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        plain = asdict(self)
        plain["dims"] = {k: list(v) if isinstance(v, tuple) else int(v) for k, v in self.dims.items()}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LGSSConfig:
        """From `to_dict`, or a recipe's ``model`` section."""
        dims = {k: tuple(v) if isinstance(v, Sequence) else int(v) for k, v in plain["dims"].items()}
        return cls(**{**plain, "dims": dims})


class _Boundary(nn.Module):
    """Shots of one modality to descriptions of boundaries: AudioNet where they are images, then BNet."""

    def __init__(self, dim: int | tuple[int, ...], audio: bool, config: LGSSConfig) -> None:
        super().__init__()
        self.image = isinstance(dim, tuple)
        size = config.audio_dim if isinstance(dim, tuple) else dim
        self.audionet = AudioNet(size) if self.image else None
        if config.bnet:
            self.bnet: nn.Module = BNet(
                size,
                config.channels,
                config.half_window,
                relation=not audio,
                similarity=config.similarity,
            )
        else:
            self.bnet = PlainConv(size, config.half_window)
        self.out_dim = int(self.bnet.out_dim)  # type: ignore[arg-type]

    def forward(self, windows: Tensor) -> Tensor:
        if self.audionet is not None:
            batch, length, shots = windows.shape[:3]
            flat = windows.reshape(batch * length * shots, 1, *windows.shape[3:])
            windows = self.audionet(flat).reshape(batch, length, shots, -1)
        out: Tensor = self.bnet(windows)
        return out


class _Head(nn.Module):
    """Descriptions of a segment's boundaries to logits: recurrent in both directions, or each for itself."""

    def __init__(self, dim: int, config: LGSSConfig) -> None:
        super().__init__()
        self.lstm = (
            nn.LSTM(dim, config.hidden, batch_first=True, bidirectional=True) if config.sequence else None
        )
        width = 2 * config.hidden if config.sequence else dim
        self.fc1, self.fc2 = nn.Linear(width, config.head), nn.Linear(config.head, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.lstm is not None:
            x = self.lstm(x)[0]
        return self.fc2(F.relu(self.fc1(x)))  # type: ignore[no-any-return]


class LGSSBranch(nn.Module):
    """One modality from shots to logits.

    Args:
        dim: features of a shot, or (257, 90).
        config: all other sizes.
        audio: without the relation branch, as sound has it.

    Shape: ``(B, S, 2w, d)`` to ``(B, S, 2)``.
    """

    def __init__(self, dim: int | tuple[int, ...], config: LGSSConfig, *, audio: bool = False) -> None:
        super().__init__()
        self.boundary = _Boundary(dim, audio, config)
        self.head = _Head(self.boundary.out_dim, config)

    def forward(self, windows: Tensor) -> Tensor:
        """Logits of no boundary and boundary."""
        out: Tensor = self.head(self.boundary(windows))
        return out


class LGSS(nn.Module):
    """The network of the paper up to the scores of boundaries; the grouping of the whole film is `group_scenes`.

    Args:
        config: its sizes.

    >>> net = LGSS(LGSSConfig(dims={"place": 16, "aud": 8}, channels=4, hidden=6, head=5)).eval()
    >>> p = net.predict({"place": np.ones((30, 16), np.float32), "aud": np.ones((30, 8), np.float32)})
    >>> p.shape
    (29,)
    """

    def __init__(self, config: LGSSConfig) -> None:
        super().__init__()
        self.config = config
        total = sum(config.weights[key] for key in config.dims)
        weights = torch.tensor([config.weights[key] / total for key in config.dims])
        if config.fusion == "early":
            parts = {key: _Boundary(dim, key == "aud", config) for key, dim in config.dims.items()}
            self.head = _Head(sum(part.out_dim for part in parts.values()), config)
            self.branches = nn.ModuleDict(parts)
            return
        self.branches = nn.ModuleDict(
            {key: LGSSBranch(dim, config, audio=key == "aud") for key, dim in config.dims.items()}
        )
        if config.fusion == "late-learned":
            self.log_weights = nn.Parameter(weights.log())
        else:
            self.register_buffer("weights", weights, persistent=False)

    def forward(self, windows: Mapping[str, Tensor]) -> Tensor:
        """Logits ``(B, S, 2)`` of the boundaries.

        Args:
            windows: modality -> ``(B, S, 2w, d)`` or ``(B, S, 2w, 257, 90)``.

        Raises:
            ValueError: a modality is missing.
        """
        missing = [key for key in self.branches if key not in windows]
        if missing:
            raise ValueError(f"LGSS: windows: misses {', '.join(missing)}")
        outs = [branch(windows[key]) for key, branch in self.branches.items()]
        if self.config.fusion == "early":
            joined: Tensor = self.head(torch.cat(outs, -1))
            return joined
        weights = self.log_weights.softmax(0) if self.config.fusion == "late-learned" else self.weights
        return torch.einsum("m,mbsc->bsc", weights, torch.stack(outs))

    @torch.inference_mode()
    def predict(
        self,
        features: Mapping[str, npt.NDArray[Any]],
        *,
        batch_size: int = 32,
        combine: str = "mean",
        compat: bool = False,
    ) -> npt.NDArray[np.float64]:
        """Probability of each shot boundary of a film to be a scene boundary.

        Windows at the ends of the film repeat its first and last shot; segments overlap by half, and the
        probabilities of a boundary are averaged.

        Args:
            features: modality -> (n, ...) of all shots.
            batch_size: segments at a time; the result does not depend on it.
            combine: "mean" of overlapping segments, or "central-half": each segment speaks for its middle.
            compat: the released code's partition instead: disjoint segments from boundary 2w-2 on; boundaries
                that it never scores are NaN.

        Returns:
            (n - 1,) from 0 to 1; empty for fewer than two shots.

        Raises:
            ValueError: a missing modality, another number of features, or arrays of different lengths.
        """
        arrays = self._checked(features)
        shots = len(next(iter(arrays.values())))
        if shots < 2:
            return np.zeros(0)
        half, length = self.config.half_window, self.config.seq_len
        starts = (
            compat_segments(shots, half, length) if compat else segment_starts(shots - 1, length, length // 2)
        )
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        found = np.zeros((len(starts), min(length, shots - 1)))
        for first in range(0, len(starts), batch_size):
            part = starts[first : first + batch_size]
            index = np.stack([clip_windows(np.arange(s, s + found.shape[1]), shots, half) for s in part])
            windows = {key: torch.from_numpy(value[index]).to(device) for key, value in arrays.items()}
            found[first : first + len(part)] = self(windows).softmax(-1)[..., 1].double().cpu().numpy()
        self.train(was_training)
        return average_segments(found, starts, shots - 1, combine)

    def _checked(self, features: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.float32]]:
        arrays = {}
        for key, dim in self.config.dims.items():
            if key not in features:
                raise ValueError(f"LGSS.predict: features: misses {key}")
            value = np.asarray(features[key], np.float32)
            wanted = dim if isinstance(dim, tuple) else (dim,)
            if value.shape[1:] != wanted:
                raise ValueError(
                    f"LGSS.predict: features: {key}: got shape {value.shape}; expected (n, "
                    f"{', '.join(map(str, wanted))})"
                )
            arrays[key] = value
        if len({len(value) for value in arrays.values()}) > 1:
            raise ValueError("LGSS.predict: features: the modalities have different numbers of shots")
        return arrays


class LGSSImage(nn.Module):
    """The place branch trained end to end on keyframes, with a ResNet-50 inside.

    Args:
        config: sizes; its dims are replaced by the backbone's 2048.
        backbone: maps ``(N, 3, H, W)`` to ``(N, d)``; a ResNet-50 without weights by default.
        dim: d.

    Shape: ``(B, S, 2w, 3, H, W)`` to ``(B, S, 2)``.
    """

    def __init__(
        self, config: LGSSConfig | None = None, backbone: nn.Module | None = None, dim: int = 2048
    ) -> None:
        super().__init__()
        if backbone is None:
            import torchvision

            backbone = torchvision.models.resnet50(weights=None)
            backbone.fc = nn.Identity()
        self.backbone = backbone
        self.branch = LGSSBranch(dim, config or LGSSConfig(dims={"place": dim}))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of no boundary and boundary."""
        batch, length, shots = images.shape[:3]
        features = self.backbone(images.flatten(0, 2))
        out: Tensor = self.branch(features.reshape(batch, length, shots, -1))
        return out
