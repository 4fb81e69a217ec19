"""The optimizers of MoCo's recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.errors import unknown

NAMES = ("sgd", "nesterov", "lars", "adamw")


def parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained: no key encoder, no fixed position embedding."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def build_optimizer(
    name: str,
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    sgd_momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """An optimizer by its name in a recipe: ``sgd``, ``nesterov``, ``lars`` or ``adamw``.

    ``parameters`` may be groups with settings of their own. Weight decay holds for all of them,
    BatchNorm's and biases included, as in MoCo's recipes; ``lars`` alone spares those. ``adamw``
    has torch's betas and no use for ``sgd_momentum``.

    Raises:
        UsageError: If nobody knows the name.
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=sgd_momentum, weight_decay=weight_decay)
    if name == "nesterov":
        return torch.optim.SGD(
            parameters, lr, momentum=sgd_momentum, weight_decay=weight_decay, nesterov=True
        )
    if name == "lars":
        return LARS(parameters, lr, weight_decay=weight_decay, sgd_momentum=sgd_momentum)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)
    raise unknown("optimizer", name, NAMES)


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent whose steps are in proportion to the weights they change.

    After You et al., arXiv:1708.03888, in the variant of facebookresearch/moco-v3,
    moco/optimizer.py: the gradient plus the decayed weights is scaled by ``trust_coefficient``
    times the weights' norm over its own; parameters of one dimension or none (biases, BatchNorm)
    are neither scaled nor decayed; momentum gathers scaled gradients, to which the learning rate of
    the moment is applied. timm's ``lars`` differs in the first two: it divides by the sum of both
    norms, and scales and decays every parameter.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        weight_decay: Share of the weights that is added to their gradient.
        sgd_momentum: Share of the last step that is kept.
        trust_coefficient: Length of a step at learning rate 1, relative to the weights'.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        *,
        weight_decay: float = 0.0,
        sgd_momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "sgd_momentum": sgd_momentum,
            "trust_coefficient": trust_coefficient,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. There is no use for a closure."""
        assert closure is None, "LARS takes one gradient a step"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            # The foreach functions refuse empty lists.
            matrices = [p for p in parameters if p.dim() > 1]
            vectors = [p for p in parameters if p.dim() <= 1]
            if matrices:
                scaled = _scaled_gradients(
                    matrices, group["weight_decay"], group["trust_coefficient"]
                )
                self._descend(matrices, scaled, group)
            if vectors:
                self._descend(vectors, [_gradient(p) for p in vectors], group)

    def _descend(
        self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, float]
    ) -> None:
        """Gather ``gradients`` into the momentum, and follow it."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gathered = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(gathered, group["sgd_momentum"])
        torch._foreach_add_(gathered, gradients)
        torch._foreach_add_(parameters, gathered, alpha=-group["lr"])


def _scaled_gradients(
    weights: list[Tensor], weight_decay: float, trust_coefficient: float
) -> list[Tensor]:
    """Gradients with decay, each of ``trust_coefficient`` times its weights' norm."""
    gradients = [_gradient(weight) for weight in weights]
    decayed = list(torch._foreach_add(gradients, weights, alpha=weight_decay))
    weight_norms = torch.stack(torch._foreach_norm(weights))
    norms = torch.stack(torch._foreach_norm(decayed))
    # Where either is 0 there is no proportion to keep.
    ratios = torch.where(
        (weight_norms > 0) & (norms > 0), trust_coefficient * weight_norms / norms, 1.0
    )
    torch._foreach_mul_(decayed, list(ratios.unbind()))
    return decayed


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "a parameter without gradient takes no step"
    return parameter.grad
