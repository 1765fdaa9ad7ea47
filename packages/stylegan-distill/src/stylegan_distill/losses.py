"""The terms of the objective: adversarial, images, relations between images and their edits, regularisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from stylegan_distill.networks.layers import FullyConnected
from tenfold.train.processes import rank_and_world

__all__ = [
    "ContentMask",
    "FeatureGramLoss",
    "LatentDirectionLoss",
    "PathLengthRegularizer",
    "RGBLoss",
    "discriminator_loss",
    "generator_loss",
    "r1_penalty",
    "record_styles",
    "similarity",
    "style_sparsity",
]

#: Classes of the face parser that are no content: background and cloth.
_NO_CONTENT = (0, 16)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating loss of the generator: mean softplus(-D(x)).

    Example:
        >>> round(float(generator_loss(torch.zeros(4, 1))), 4)
        0.6931
    """
    return F.softplus(-fake_logits).mean()


def discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Logistic loss of the discriminator: mean softplus(D(fake)) + mean softplus(-D(real))."""
    return F.softplus(fake_logits).mean() + F.softplus(-real_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """Mean over images of the squared gradient of the logits (B, 1) with respect to images (B, ...).

    The factor gamma / 2 is the caller's. ``real`` must require a gradient before it enters the discriminator.

    Example:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> float(r1_penalty((2 * x).sum(1), x))
        12.0
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return gradient.square().flatten(1).sum(dim=1).mean()


def _mean_of_processes(value: Tensor) -> Tensor:
    """Mean over all processes, with its gradient."""
    world = rank_and_world()[1]
    if world == 1:
        return value
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value) / world  # type: ignore[no-any-return]


class PathLengthRegularizer(nn.Module):
    """Keeps the length of the image's change for a step in w the same everywhere (Karras et al., 2020, eq. 4).

    y ~ N(0, I) / sqrt(H W); length = sqrt(mean over L of sum over D of (d <x, y> / d w)^2); the running mean moves
    towards the batch's mean by ``decay``, and the loss is mean (length - running mean)^2. The gradient flows through
    the mean too; what is kept is detached.

    Args:
        decay: of the running mean.

    Example:
        >>> reg = PathLengthRegularizer()
        >>> ws = torch.ones(2, 3, 4, requires_grad=True)
        >>> loss, lengths = reg(ws.sum((1, 2)).view(2, 1, 1, 1) * torch.ones(2, 3, 1, 1), ws, torch.ones(2, 3, 1, 1))
        >>> lengths.tolist()
        [6.0, 6.0]
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros([]))

    def forward(self, images: Tensor, ws: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss () and detached lengths (B,) of images (B, 3, H, W) of codes (B, L, D); ``noise`` replaces y."""
        if noise is None:
            noise = torch.randn_like(images)
        noise = noise / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad((images * noise).sum(), ws, create_graph=True)
        lengths = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        mean = self.mean + self.decay * (_mean_of_processes(lengths.mean()) - self.mean)
        self.mean.copy_(mean.detach())
        return (lengths - mean).square().mean(), lengths.detach()


class RGBLoss(nn.Module):
    """Mean absolute difference over all elements of masked images; the mask's area scales it.

    Args:
        mode: "final" compares the images, "intermediate" sums over the images behind every block.

    Example:
        >>> RGBLoss()([torch.zeros(1, 3, 4, 4)], [torch.ones(1, 3, 4, 4)], torch.zeros(1, 1, 4, 4)).item()
        0.0
    """

    def __init__(self, mode: Literal["final", "intermediate"] = "final") -> None:
        super().__init__()
        if mode not in ("final", "intermediate"):
            raise ValueError(f"RGBLoss: mode: got {mode!r}; expected 'final' or 'intermediate'")
        self.mode = mode

    def forward(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Loss () of the images behind every block, the final one last, each (B, 3, r, r); mask (B, 1, R, R).

        Raises:
            ValueError: different numbers or shapes.
        """
        if self.mode == "final":
            student, teacher = student[-1:], teacher[-1:]
        if [s.shape for s in student] != [t.shape for t in teacher]:
            shapes = [[tuple(x.shape) for x in images] for images in (student, teacher)]
            raise ValueError(f"RGBLoss: student, teacher: got images of shapes {shapes[0]} and {shapes[1]}")
        pairs = zip(student, teacher, strict=True)
        return torch.stack([((t - s) * _fit(mask, s)).abs().mean() for s, t in pairs]).sum()


def _fit(mask: Tensor | None, images: Tensor) -> Tensor:
    """The mask at the images' size, or 1."""
    if mask is None:
        return images.new_ones(())
    if mask.shape[-1] != images.shape[-1]:
        mask = (
            F.interpolate(mask.float(), images.shape[-2:], mode="bilinear", align_corners=False) > 0.5
        ).float()
    return mask


class ContentMask(nn.Module):
    """Where a face parser sees content: 1 but for background and cloth.

    Args:
        parser: called with images (B, 3, R, R) in [-1, 1], gives class scores (B, K, h, w); None: the mask is 1.
        ignore: classes that are no content.

    Example:
        >>> ContentMask(None)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self, parser: Callable[[Tensor], Tensor] | None, ignore: Sequence[int] = _NO_CONTENT
    ) -> None:
        super().__init__()
        self.parser = parser
        self.ignore = tuple(ignore)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, R, R) of zeros and ones, for images (B, 3, R, R)."""
        if self.parser is None:
            return torch.ones_like(images[:, :1])
        classes = self.parser(images).argmax(dim=1, keepdim=True)
        content = torch.ones_like(classes, dtype=images.dtype)
        for ignored in self.ignore:
            content = content * (classes != ignored)
        return (F.interpolate(content, images.shape[-2:], mode="bilinear", align_corners=False) > 0.5).to(
            images.dtype
        )


def similarity(rows: Tensor, columns: Tensor) -> Tensor:
    """Cosines (B, B') between features (B, ...) and (B', ...), in float32 at least.

    Example:
        >>> similarity(torch.eye(2), torch.tensor([[3.0, 0.0], [1.0, 1.0]])).round(decimals=3).tolist()
        [[1.0, 0.7070000171661377], [0.0, 0.7070000171661377]]
    """
    with torch.autocast(rows.device.type, enabled=False):
        wide = torch.promote_types(rows.dtype, torch.float32)
        a, b = (F.normalize(x.flatten(1).to(wide), dim=1) for x in (rows, columns))
        return a @ b.t()


class LatentDirectionLoss(nn.Module):
    """The student keeps the relations between images and their edits (Xu et al., 2022; the paper's second remedy).

    For each block A_ij = cos(F_i, F'_j) of features of codes i and of codes j moved along a direction of W;
    L = (1/B) sum_i KL(softmax_j A^T_i || softmax_j A^S_i), summed over blocks. Only B x B matrices are compared, so
    widths and sizes of teacher and student may differ.

    Args:
        variant: "kl", "mse" (mean squared difference of the matrices) or "single_view" (KL, without moved codes).
        gather_ranks: columns from all processes; those of the others carry no gradient.

    Example:
        >>> f = [torch.randn(4, 3, 2, 2)]
        >>> float(LatentDirectionLoss()(f, f, 2).abs()) < 1e-6
        True
    """

    def __init__(
        self, variant: Literal["kl", "mse", "single_view"] = "kl", gather_ranks: bool = False
    ) -> None:
        super().__init__()
        if variant not in ("kl", "mse", "single_view"):
            raise ValueError(
                f"LatentDirectionLoss: variant: got {variant!r}; expected kl, mse or single_view"
            )
        self.variant = variant
        self.gather_ranks = gather_ranks

    @property
    def needs_moved(self) -> bool:
        """Whether the features' second half is read."""
        return self.variant != "single_view"

    def matrix(self, features: Tensor, batch: int) -> Tensor:
        """A (B, B) of features (2B, C, h, w): originals first, then the moved ones; (B, W B) when gathered."""
        first = features[:batch]
        other = features[batch : 2 * batch] if self.needs_moved else first
        if self.gather_ranks and rank_and_world()[1] > 1:
            other = _gather(other)
        return similarity(first, other)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], batch: int) -> Tensor:
        """Loss () of features of the mimicked blocks, each (2B, C, h, w) with the moved codes in the second half.

        Args:
            student: of the student.
            teacher: of the teacher; receives no gradient.
            batch: B.

        Raises:
            ValueError: fewer than two codes (softmax over one entry is constant), no moved half, no features, or
                different numbers of them.
        """
        entries = batch * (rank_and_world()[1] if self.gather_ranks else 1)
        if entries < 2:
            raise ValueError(
                f"latent-direction loss: batch: got {batch}; one code makes the loss 0 whatever the student does: "
                "expected at least 2 a process, or gather_ranks"
            )
        if not student or len(student) != len(teacher):
            raise ValueError(
                f"latent-direction loss: features: got {len(student)} and {len(teacher)} blocks; expected as many of "
                "the student as of the teacher, at least 1"
            )
        wanted = batch * (2 if self.needs_moved else 1)
        for name, blocks in (("student", student), ("teacher", teacher)):
            if any(len(f) < wanted for f in blocks):
                sizes = [len(f) for f in blocks]
                raise ValueError(
                    f"latent-direction loss: {name}: got {sizes} rows; expected {wanted}, moved half last"
                )
        losses = []
        for s, t in zip(student, teacher, strict=True):
            own, target = self.matrix(s, batch), self.matrix(t.detach(), batch)
            if self.variant == "mse":
                losses.append((own - target).square().mean())
            else:
                losses.append(
                    F.kl_div(
                        own.log_softmax(1), target.log_softmax(1), reduction="batchmean", log_target=True
                    )
                )
        return torch.stack(losses).sum()


def _gather(x: Tensor) -> Tensor:
    """Rows of all processes in the order of the interleaved global batch; only this one's carry a gradient."""
    parts = [torch.empty_like(x) for _ in range(rank_and_world()[1])]
    dist.all_gather(parts, x.detach().contiguous())
    parts[dist.get_rank()] = x
    return torch.stack(parts, dim=1).flatten(0, 1)


class FeatureGramLoss(nn.Module):
    """Distance of features and of their Gram matrices, after "GCC"-style compression; adapted, not their code.

    A 1x1 convolution for each block takes the student's channels to the teacher's; root mean squared differences of
    features and of Gram matrices are summed over blocks.

    Args:
        student_widths: channels of the student's blocks.
        teacher_widths: of the teacher's.
        gram_weight: of the Gram term, relative to the features'.

    Example:
        >>> loss = FeatureGramLoss((4,), (8,))
        >>> loss([torch.zeros(2, 4, 4, 4)], [torch.zeros(2, 8, 4, 4)]).item() < 1e-3
        True
    """

    def __init__(
        self, student_widths: Sequence[int], teacher_widths: Sequence[int], gram_weight: float = 100.0
    ) -> None:
        super().__init__()
        pairs = zip(student_widths, teacher_widths, strict=True)
        self.adapters = nn.ModuleList(nn.Conv2d(s, t, 1, bias=False) for s, t in pairs)
        self.gram_weight = gram_weight

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Loss () of features (B, C, h, w)."""
        total = []
        for adapter, s, t in zip(self.adapters, student, teacher, strict=True):
            total.append(feature_gram([adapter(s)], [t.detach()], self.gram_weight))
        return torch.stack(total).sum()


def feature_gram(student: Sequence[Tensor], teacher: Sequence[Tensor], gram_weight: float) -> Tensor:
    """`FeatureGramLoss` of features of one width, which need no adapters (a discriminator's)."""
    pairs = list(zip(student, teacher, strict=True))
    return torch.stack([_rmse(s, t) + gram_weight * _rmse(_gram(s), _gram(t)) for s, t in pairs]).sum()


def _rmse(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).square().mean() + 1e-12).sqrt()


def _gram(x: Tensor) -> Tensor:
    """(B, C, C), mean over pixels and channels."""
    flat = x.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


@contextmanager
def record_styles(synthesis: nn.Module) -> Iterator[list[Tensor]]:
    """The styles (B, C) that the affine layers of a synthesis network make inside the block, in order of use."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found.append(output)

    affine = [m for n, m in synthesis.named_modules() if isinstance(m, FullyConnected) and _is_style(n)]
    handles = [module.register_forward_hook(keep) for module in affine]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_style(name: str) -> bool:
    """Affine layers of convolutions; not the one that moves StyleGAN3's input."""
    return name.endswith(".affine") and not name.startswith("input.")


def style_sparsity(styles: Sequence[Tensor]) -> Tensor:
    """GAN Slimming's penalty: sum over layers and channels of |mean over the batch of the style|."""
    return torch.stack([s.mean(dim=0).abs().sum() for s in styles]).sum()
