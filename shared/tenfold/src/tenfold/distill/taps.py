"""Taps into any network: the zoo's own, or feature hooks on modules that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tenfold.distill.distillers import Outputs
from tenfold.distill.models import TappedNet, tap_shapes

__all__ = ["Tapped", "classifier_of"]


def classifier_of(model: nn.Module, name: str | None = None) -> nn.Linear:
    """The layer that makes the logits: the named one, or the model's last linear layer.

    Raises:
        ValueError: there is none.

    >>> classifier_of(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))).out_features
    3
    """
    found: Any = None
    if name is not None:
        found = dict(model.named_modules()).get(name)
    else:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        found = linear[-1] if linear else None
    if not isinstance(found, nn.Linear):
        what = "has no linear layer" if name is None else f"has no linear layer named {name!r}"
        raise ValueError(f"classifier_of: model: {type(model).__name__} {what}; name its classifier")
    return found


class Tapped:
    """Runs a model and returns its logits and taps.

    A network of the zoo taps itself. Any other gives the outputs of the named modules, in that order, and as
    its last tap the input of its classifier. A wrapper such as DistributedDataParallel is looked through.

    Args:
        model: the classifier.
        names: modules whose outputs are wanted, as in ``model.named_modules()``; none of them is needed for
            distillers that compare vectors only.
        classifier: name of the layer that makes the logits; by default the last linear one.
        preact: maps before their rectification, of a network of the zoo.

    Raises:
        ValueError: no such module; the message lists those with similar names.

    >>> import torch; from tenfold.distill.models import create_model
    >>> [tuple(tap.shape[1:]) for tap in Tapped(create_model("plain3", 10))(torch.zeros(1, 3, 16, 16)).taps]
    [(12, 8, 8), (24, 4, 4), (48, 2, 2), (48,)]
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str] | None = None,
        *,
        classifier: str | None = None,
        preact: bool = False,
    ) -> None:
        self.model = model
        inner = getattr(model, "module", model)
        self.own = isinstance(inner, TappedNet) and names is None
        self.preact = preact
        if not self.own:
            self.modules = [_named(inner, name) for name in names or ()]
            self.classifier = classifier_of(inner, classifier)

    def __call__(self, x: Tensor) -> Outputs:
        """Logits and taps of images ``(B, 3, H, W)``."""
        if self.own:
            # Through the model's own call: hooks count it, a parallel wrapper synchronises it.
            taps, logits = self.model(x, taps=True, preact=self.preact)
            return Outputs(logits, taps)
        return self._hooked(x)

    def shapes(self, input_shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
        """Shapes of the taps without the batch axis; the model is left as it was."""
        return tap_shapes(self if not self.own else self.model, input_shape)

    def forward_features(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Taps and logits, the order of the zoo's networks."""
        outputs = self(x)
        return list(outputs.taps), outputs.logits

    def _hooked(self, x: Tensor) -> Outputs:
        # Registered for this call alone: other users of the model see no trace of it.
        seen: dict[int, Tensor] = {}
        handles = [
            module.register_forward_hook(lambda _m, _i, out, k=k: seen.__setitem__(k, out))
            for k, module in enumerate(self.modules)
        ]
        last = len(self.modules)
        handles.append(
            self.classifier.register_forward_pre_hook(lambda _m, given: seen.__setitem__(last, given[0]))
        )
        try:
            logits = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        absent = [k for k in range(last + 1) if not isinstance(seen.get(k), Tensor)]
        if absent:
            raise ValueError(f"Tapped: names: tap {absent[0]} gave no tensor in this pass")
        return Outputs(logits, [seen[k] for k in range(last + 1)])


def _named(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if name not in modules or not name:
        depth = name.count(".")
        near = [key for key in modules if key and key.count(".") <= depth][:12]
        raise ValueError(f"Tapped: names: got {name!r}; expected a module such as {', '.join(near)}")
    found: nn.Module = modules[name]
    return found
