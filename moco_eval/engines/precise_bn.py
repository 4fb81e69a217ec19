"""BatchNorm's statistics, computed anew with the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval import distributed


@torch.no_grad()
def update_statistics(model: nn.Module, batches: Iterable[Any]) -> None:
    """Give each trained BatchNorm the mean and variance over all values of ``batches``.

    The running statistics of training lag behind the weights. Wu and Johnson, Rethinking "Batch"
    in BatchNorm, arXiv:2105.07576, section 3 and appendix; as fvcore's ``update_bn_stats``, which
    Detectron2 calls before it evaluates. Ranks see batches of their own and agree at the end.

    Args:
        model: Called with each batch in the mode it is in. A BatchNorm that is in eval mode keeps
            what it has.
        batches: What this rank sees.
    """
    layers = [_Layer(module) for module in model.modules() if _is_trained(module)]
    for batch in batches:
        model(batch)
        for layer in layers:
            layer.take()
    for layer in layers:
        layer.finish()


def _is_trained(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


class _Layer:
    """One BatchNorm, whose running statistics are those of the last batch while it is watched."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.momentum, module.momentum = module.momentum, 1.0
        self.hook = module.register_forward_pre_hook(self._count)
        self.size = 0  # values of a channel in the last batch
        self.total = torch.zeros((), dtype=torch.double, device=module.running_mean.device)
        self.sum = torch.zeros_like(module.running_mean, dtype=torch.double)
        self.squares = torch.zeros_like(self.sum)

    def _count(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.size = inputs[0].numel() // inputs[0].shape[1]

    def take(self) -> None:
        """Add the last batch, unless the layer was not reached by it."""
        if self.size == 0:
            return
        mean, variance = self.module.running_mean.double(), self.module.running_var.double()
        # What is kept is divided by one less than the number of values.
        variance = variance * ((self.size - 1) / self.size)
        self.total += self.size
        self.sum += self.size * mean
        self.squares += self.size * (variance + mean.square())
        self.size = 0

    def finish(self) -> None:
        """Put the statistics of all batches of all ranks into the layer."""
        self.hook.remove()
        self.module.momentum = self.momentum
        for part in (self.total, self.sum, self.squares):
            distributed.total(part)
        if self.total > 0:
            mean = self.sum / self.total
            self.module.running_mean.copy_(mean)
            self.module.running_var.copy_(self.squares / self.total - mean.square())
