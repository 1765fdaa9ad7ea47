"""Training a StyleGAN from images: the loop that a teacher is made with, and that distillation adds its terms to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stylegan_distill.config import DiscriminatorConfig
from stylegan_distill.losses import (
    PathLengthRegularizer,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from stylegan_distill.networks import Generator, StyleGAN2Synthesis, StyleGANDiscriminator
from tenfold.train.ema import ModelEMA
from tenfold.train.processes import rank_and_world

__all__ = ["GanConfig", "GanTrainer", "make_discriminator"]


@dataclass(frozen=True)
class GanConfig:
    """The adversarial recipe; the defaults are the official ones of StyleGAN2 at 256 pixels.

    Args:
        lr_g: learning rate of the generator (Adam).
        lr_d: of the discriminator.
        beta1: of Adam.
        beta2: of Adam.
        eps: of Adam.
        r1_gamma: weight of R1; 0 switches it off.
        r1_every: steps between its evaluations, whose gradient counts that often.
        path_weight: of the path length; 0 switches it off (StyleGAN3).
        path_every: steps between its evaluations.
        path_shrink: its batch is so many times smaller.
        path_decay: of its running mean.
        style_mixing: probability of two codes with a crossover; 0 for StyleGAN3.
        ema: "official": decay 0.5^(32/10000) a step whatever the batch; "kimg": half-life of ``ema_kimg`` thousand
            images.
        ema_kimg: None: batch * 10 / 32.
        blur_sigma: of the discriminator's images at the start (StyleGAN3-R: 10); 0 for none.
        blur_kimg: thousand images over which it fades; None: batch * 200 / 32.
        freeze_mapping: do not train the mapping network.
        seed: of codes, noise, crossovers and offsets.

    Raises:
        ValueError: a value out of range.
    """

    lr_g: float = 0.002
    lr_d: float = 0.002
    beta1: float = 0.0
    beta2: float = 0.99
    eps: float = 1e-8
    r1_gamma: float = 10.0
    r1_every: int = 16
    path_weight: float = 2.0
    path_every: int = 4
    path_shrink: int = 2
    path_decay: float = 0.01
    style_mixing: float = 0.9
    ema: Literal["official", "kimg"] = "official"
    ema_kimg: float | None = None
    blur_sigma: float = 0.0
    blur_kimg: float | None = None
    freeze_mapping: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("r1_every", "path_every", "path_shrink"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected a number >= 1")
        if not 0 <= self.style_mixing <= 1:
            raise ValueError(f"style_mixing: got {self.style_mixing}; expected a probability")
        if self.ema not in ("official", "kimg"):
            raise ValueError(f"ema: got {self.ema!r}; expected 'official' or 'kimg'")
        for name in ("r1_gamma", "path_weight", "blur_sigma", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected a number >= 0")


@dataclass
class Codes:
    """What both networks get for one batch: the same codes, labels and crossover."""

    z: Tensor
    second: Tensor | None = None
    crossover: int = 0
    labels: Tensor | None = None
    noise: dict[str, Any] = field(default_factory=dict)

    def styles(self, generator: Generator, **options: Any) -> Tensor:
        """Style codes (B, L, D): the first code up to the crossover, the second from there on."""
        ws: Tensor = generator.mapping(self.z, self.labels, **options)
        if self.second is None:
            return ws
        other = generator.mapping(self.second, self.labels)
        return torch.cat([ws[:, : self.crossover], other[:, self.crossover :]], dim=1)


def make_discriminator(generator: Generator, seed: int = 0, **changes: Any) -> StyleGANDiscriminator:
    """A random discriminator for a generator's images; ``changes`` to its `DiscriminatorConfig`.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4)))
        >>> make_discriminator(net, widths=(4, 4)).cfg.resolution
        8
    """
    cfg = generator.cfg
    own = DiscriminatorConfig(
        cfg.resolution, c_dim=cfg.c_dim, img_channels=cfg.img_channels, channel_base=cfg.channel_base,
        channel_max=cfg.channel_max, conv_clamp=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleGANDiscriminator(replace(own, **changes))


class GanTrainer:
    """One StyleGAN in training: networks, optimisers, running averages, random numbers, step.

    Every process draws the numbers of the whole batch and takes every W-th row, so that W processes compute what one
    would; gradients are averaged explicitly after each backward pass, as double backward passes ask for.

    Args:
        generator: is trained.
        discriminator: is trained.
        config: recipe.
        augment: module applied to all images that the discriminator sees, real ones and the generator's; if it has
            ``update(real_logits)``, that is called after each discriminator step.

    Example:
        >>> from stylegan_distill import StyleGAN2Config, StyleGAN2Generator
        >>> net = StyleGAN2Generator(StyleGAN2Config(8, z_dim=8, w_dim=8, widths=(4, 4)))
        >>> trainer = GanTrainer(net, make_discriminator(net, widths=(4, 4)))
        >>> sorted(trainer.step(torch.zeros(4, 3, 8, 8)))[:3]
        ['bad_gradients', 'd_fake', 'd_loss']
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: nn.Module,
        config: GanConfig | None = None,
        *,
        augment: nn.Module | None = None,
    ) -> None:
        self.config = config or GanConfig()
        self.generator = generator.train()
        self.discriminator = discriminator.train()
        self.augment = augment
        self.path_length = PathLengthRegularizer(self.config.path_decay)
        self.iteration = 0
        self.images = 0
        self.bad_gradients = 0
        self.rng = torch.Generator(self.device).manual_seed(self.config.seed)
        # The average starts equal to the network; buffers follow at once.
        self.ema = ModelEMA(generator, self._ema_decay, buffers="copy")
        self.opt_g, self.opt_d = self._optimizers()
        #: The generator's ordinary step; a trainer that counts steps puts its own in place.
        self.generator_step: Callable[[], Any] = self.opt_g.step

    # ---- construction

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.generator.parameters()).device

    def trained(self) -> list[nn.Parameter]:
        """What the generator's optimiser changes."""
        frozen = set(self.generator.mapping.parameters()) if self.config.freeze_mapping else set()
        return [p for p in self.generator.parameters() if p not in frozen]

    def _optimizers(self) -> tuple[torch.optim.Adam, torch.optim.Adam]:
        """Adam; a regulariser every k steps stands for k / (k + 1) of the steps."""
        c = self.config

        def adam(parameters: list[nn.Parameter], lr: float, every: int | None) -> torch.optim.Adam:
            ratio = 1.0 if every is None else every / (every + 1)
            betas = (float(c.beta1) ** ratio, float(c.beta2) ** ratio)  # a whole 0 is no valid beta
            return torch.optim.Adam(parameters, lr=lr * ratio, betas=betas, eps=c.eps)

        g = adam(self.trained(), c.lr_g, c.path_every if self._path_on else None)
        d = adam(list(self.discriminator.parameters()), c.lr_d, c.r1_every if c.r1_gamma > 0 else None)
        return g, d

    @property
    def _path_on(self) -> bool:
        return self.config.path_weight > 0

    def modules(self) -> dict[str, nn.Module]:
        """What is trained or counted with, for a trainer that moves and saves modules."""
        found = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "path_length": self.path_length,
        }
        return found if self.augment is None else {**found, "augment": self.augment}

    def to(self, device: torch.device | str) -> GanTrainer:
        """Move everything; the random numbers begin anew on another kind of device."""
        for module in self.modules().values():
            module.to(device)
        self.ema.state = {name: value.to(device) for name, value in self.ema.state.items()}
        if self.rng.device.type != torch.device(device).type:
            self.rng = torch.Generator(device).manual_seed(self.config.seed)
        return self

    # ---- random numbers

    @property
    def _world(self) -> int:
        return rank_and_world()[1]

    def _mine(self, rows: Tensor) -> Tensor:
        """This process's rows of the whole batch; interleaved, as the sampler deals images."""
        return rows if self._world == 1 else rows[dist.get_rank() :: self._world]

    def _normal(self, *shape: int) -> Tensor:
        like = next(self.generator.parameters())
        return torch.randn(shape, generator=self.rng, device=like.device, dtype=like.dtype)

    def draw_codes(self, batch: int, labels: Tensor | None = None, mixing: bool = True) -> Codes:
        """Codes of a batch of this process; with a probability two of them and a crossover."""
        rows = batch * self._world
        codes = Codes(self._mine(self._normal(rows, self.generator.z_dim)), labels=labels)
        if mixing and self.config.style_mixing > 0:
            # One draw for all: teacher and student read it from here.
            chance = torch.rand((), generator=self.rng, device=self.device)
            other = self._mine(self._normal(rows, self.generator.z_dim))
            place = torch.randint(1, self.generator.num_ws, (), generator=self.rng, device=self.device)
            if float(chance) < self.config.style_mixing:
                codes.second, codes.crossover = other, int(place)
        return codes

    def draw_noise(self, network: nn.Module, batch: int) -> Any:
        """Noise maps of a synthesis network, from our own random numbers where it can take them."""
        if not isinstance(network, StyleGAN2Synthesis):
            return "random"
        return [self._mine(n) for n in network.make_noise(batch * self._world, self.rng)]

    # ---- gradients

    def _apply_gradients(
        self, loss: Tensor, optimizer: torch.optim.Optimizer, step: Callable[[], Any] | None = None
    ) -> None:
        """Backward, mean over processes, repair, step."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = torch.zeros_like(p) if g is None else g
        flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
        if self._world > 1:
            dist.all_reduce(flat)
            flat /= self._world
        bad = int((~flat.isfinite()).sum())
        if bad:
            self.bad_gradients += bad
            flat = torch.nan_to_num(flat, nan=0.0, posinf=1e5, neginf=-1e5)
        for p, g in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = g.view_as(p).clone()
        (step or optimizer.step)()
        optimizer.zero_grad(set_to_none=True)

    # ---- one iteration

    def step(self, real: Tensor, labels: Tensor | None = None) -> dict[str, float]:
        """One iteration on real images (B, 3, R, R) in [-1, 1] of this process: D, G, path length, average.

        Args:
            real: (B, 3, R, R).
            labels: (B, c_dim) of a conditional network.

        Returns:
            Every term, for logging.

        Raises:
            ValueError: images or labels of the wrong shape.
        """
        self._check_images(real, labels)
        # Augmentation and foreign networks draw from torch's global generators: these follow ours meanwhile.
        seed = int(torch.randint(2**31, (), generator=self.rng, device=self.device))
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed + (dist.get_rank() if self._world > 1 else 0))
            return self._step(real, labels)

    def _step(self, real: Tensor, labels: Tensor | None) -> dict[str, float]:
        self.on_step(len(real))
        values: dict[str, Tensor | float] = {}
        if self.trains_discriminator:
            values.update(self._discriminator_step(real, labels))
        values.update(self._generator_step(len(real), labels))
        if self._path_on and self.iteration % self.config.path_every == 0:
            values.update(self._path_step(len(real), labels))
        self.iteration += 1
        self.images += len(real) * self._world
        self._batch = len(real) * self._world
        self.ema.update(self.generator)
        values["bad_gradients"] = float(self.bad_gradients)
        return {name: float(value) for name, value in values.items()}

    def on_step(self, batch: int) -> None:
        """Called in front of each iteration."""

    @property
    def trains_discriminator(self) -> bool:
        """Whether this iteration has adversarial terms."""
        return True

    def _check_images(self, real: Tensor, labels: Tensor | None) -> None:
        cfg = self.generator.cfg
        wanted = (cfg.img_channels, cfg.resolution, cfg.resolution)
        if real.dim() != 4 or tuple(real.shape[1:]) != wanted:
            raise ValueError(
                f"step: real: got shape {tuple(real.shape)}; expected (B, {', '.join(map(str, wanted))})"
            )
        if (labels is None) != (cfg.c_dim == 0) or (
            labels is not None and labels.shape != (len(real), cfg.c_dim)
        ):
            got = None if labels is None else tuple(labels.shape)
            raise ValueError(
                f"step: labels: got {got}; expected {(len(real), cfg.c_dim) if cfg.c_dim else None}"
            )

    def judge(self, images: Tensor, labels: Tensor | None, **options: Any) -> Any:
        """The discriminator's logits of images as it sees them: augmented, and blurred while that lasts."""
        if self.augment is not None:
            images = self.augment(images)
        sigma = self._blur_sigma()
        if sigma > 0:
            images = gaussian_blur(images, sigma)
        return self.discriminator(images, labels, **options)

    def _blur_sigma(self) -> float:
        c = self.config
        if c.blur_sigma == 0:
            return 0.0
        fade = 1000 * (c.blur_kimg if c.blur_kimg is not None else self._last_batch() * 200 / 32)
        return c.blur_sigma * max(1 - self.images / fade, 0.0) if fade > 0 else 0.0

    def _discriminator_step(self, real: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        codes = self.draw_codes(len(real), labels)
        with torch.no_grad():
            running = self._running_buffers()
            ws = codes.styles(self.generator, update_emas=True)
            noise = self.draw_noise(self.generator.synthesis, len(real))
            fake = self.generator.synthesis(ws, noise=noise, **self._emas())
            self._average_buffers(running)
        penalised = self.config.r1_gamma > 0 and self.iteration % self.config.r1_every == 0
        real = real.detach().requires_grad_(penalised)
        fake_logits, real_logits = self.judge(fake, labels), self.judge(real, labels)
        loss = discriminator_loss(fake_logits, real_logits)
        values = {
            "d_loss": loss.detach(),
            "d_fake": fake_logits.detach().mean(),
            "d_real": real_logits.detach().mean(),
        }
        if penalised:
            penalty = r1_penalty(real_logits, real)
            loss = loss + self.config.r1_gamma / 2 * self.config.r1_every * penalty
            values["r1"] = penalty.detach()
        self._apply_gradients(loss, self.opt_d)
        update = getattr(self.augment, "update", None)
        if update is not None:
            update(real_logits.detach())
        return values

    def _emas(self) -> dict[str, bool]:
        """Running magnitudes move once a step, here; a foreign synthesis network has none."""
        return {"update_emas": True} if hasattr(self.generator.synthesis, "cfg") else {}

    def _running_buffers(self) -> list[Tensor]:
        if self._world == 1:
            return []
        names = ("w_avg", "magnitude_ema")
        return [b for n, b in self.generator.named_buffers() if n.rpartition(".")[2] in names]

    def _average_buffers(self, buffers: Sequence[Tensor]) -> None:
        """Running means are linear in the batch: their mean over processes is that of the whole batch."""
        for buffer in buffers:
            dist.all_reduce(buffer)
            buffer.div_(self._world)

    def _generator_step(self, batch: int, labels: Tensor | None) -> dict[str, Tensor]:
        loss, values = self.generator_terms(batch, labels)
        self._apply_gradients(loss, self.opt_g, self.generator_step)
        return values

    def generator_terms(self, batch: int, labels: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The generator's loss of this step and its parts."""
        codes = self.draw_codes(batch, labels)
        noise = self.draw_noise(self.generator.synthesis, batch)
        fake = self.generator.synthesis(codes.styles(self.generator), noise=noise)
        loss = generator_loss(self.judge(fake, labels))
        return loss, {"g_loss": loss.detach()}

    def _path_step(self, batch: int, labels: Tensor | None) -> dict[str, Tensor]:
        rows = max(1, batch // self.config.path_shrink)
        codes = self.draw_codes(rows, None if labels is None else labels[:rows])
        ws = codes.styles(self.generator)
        images = self.generator.synthesis(ws, noise=self.draw_noise(self.generator.synthesis, rows))
        y = self._mine(self._normal(rows * self._world, *images.shape[1:]))
        loss, lengths = self.path_length(images, ws, y)
        weighted = self.config.path_weight * self.config.path_every * loss
        self._apply_gradients(weighted, self.opt_g)
        return {"path_loss": loss.detach(), "path_length": lengths.mean()}

    # ---- average

    def _last_batch(self) -> int:
        return getattr(self, "_batch", 16)

    def _ema_decay(self, _update: int) -> float:
        if self.config.ema == "official":
            return float(0.5 ** (32 / 10_000))
        batch = self._last_batch()
        kimg = self.config.ema_kimg if self.config.ema_kimg is not None else batch * 10 / 32
        return float(0.5 ** (batch / max(kimg * 1000, 1e-8)))

    def ema_generator(self) -> Generator:
        """A copy of the generator with the averaged weights, in evaluation mode."""
        import copy

        average = copy.deepcopy(self.generator)
        self.ema.copy_to(average)
        return average.eval().requires_grad_(False)

    # ---- loop and state

    def fit(
        self,
        batches: Iterable[Any],
        steps: int,
        progress: Callable[[int, dict[str, float]], None] | None = None,
    ) -> list[dict[str, float]]:
        """Train for so many iterations, starting the batches anew as often as needed.

        Args:
            batches: images (B, 3, R, R), or (images, labels); iterated again when exhausted.
            steps: iterations.
            progress: called after each with its number (from 0) and its values.

        Returns:
            The values of every iteration.

        Raises:
            ValueError: batches hold nothing.
        """
        history: list[dict[str, float]] = []
        while len(history) < steps:
            before = len(history)
            for batch in batches:
                images, labels = batch if isinstance(batch, tuple | list) else (batch, None)
                labels = None if self.generator.cfg.c_dim == 0 or labels is None else labels.to(self.device)
                history.append(self.step(images.to(self.device), labels))
                if progress is not None:
                    progress(len(history) - 1, history[-1])
                if len(history) == steps:
                    break
            if len(history) == before and steps:
                raise ValueError("fit: batches: got none; expected images")
        return history

    def counters(self) -> dict[str, Any]:
        """Step, images seen, last batch and random numbers."""
        return {
            "iteration": self.iteration,
            "images": self.images,
            "batch": self._last_batch(),
            "bad_gradients": self.bad_gradients,
            "rng": self.rng.get_state(),
            "ema": self.ema.state_dict(),
        }

    def load_counters(self, state: dict[str, Any]) -> None:
        """Inverse of `counters`."""
        self.iteration, self.images = int(state["iteration"]), int(state["images"])
        self._batch = int(state["batch"])
        self.bad_gradients = int(state["bad_gradients"])
        self.rng.set_state(state["rng"].cpu())
        self.ema.load_state_dict(state["ema"])

    def state_dict(self) -> dict[str, Any]:
        """Everything that an uninterrupted run would know: plain values and tensors."""
        return {
            "modules": {name: dict(module.state_dict()) for name, module in self.modules().items()},
            "opt_g": self.opt_g.state_dict(),
            "opt_d": self.opt_d.state_dict(),
            **self.counters(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the next step is the one that would have followed.

        Raises:
            RuntimeError: the state of other networks.
        """
        for name, module in self.modules().items():
            module.load_state_dict(state["modules"][name])
        self.opt_g.load_state_dict(state["opt_g"])
        self.opt_d.load_state_dict(state["opt_d"])
        self.load_counters(state)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Separable blur with the kernel 2^-(t / sigma)^2, |t| <= floor(3 sigma), of sum 1; zeros around the image.

    Example:
        >>> gaussian_blur(torch.ones(1, 3, 4, 4), 0.3)[0, 0, 0].tolist()
        [1.0, 1.0, 1.0, 1.0]
    """
    reach = int(3 * sigma)
    if reach < 1:
        return images
    t = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp2(-((t / sigma) ** 2))
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    for shape, padding in (((1, -1), (0, reach)), ((-1, 1), (reach, 0))):
        weight = kernel.view(1, 1, *shape).repeat(channels, 1, 1, 1)
        images = nn.functional.conv2d(images, weight, padding=padding, groups=channels)
    return images


def config_values(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, for a record."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
