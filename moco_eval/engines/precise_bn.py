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
            what it has, and so does one that no batch reaches.
        batches: What this rank sees.
    """
    layers = [_Layer(module) for module in model.modules() if _is_trained(module)]
    try:
        for batch in batches:
            model(batch)
    finally:
        for layer in layers:
            layer.hook.remove()
    for layer in layers:
        layer.finish()


def _is_trained(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training


class _Layer:
    """One BatchNorm, and the sums of what it is given."""

    def __init__(self, module: Any) -> None:
        self.module = module
        device = module.running_mean.device
        self.num_values = torch.zeros((), dtype=torch.double, device=device)
        self.sum = torch.zeros_like(module.running_mean, dtype=torch.double)
        self.squares = torch.zeros_like(self.sum)
        # Not from its own running statistics: over how many values those are, the layer alone
        # knows, and where ranks normalise together fvcore mistakes their number.
        self.hook = module.register_forward_pre_hook(self._add)

    def _add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = inputs[0]
        num_values = values.numel() // values.shape[1]
        if num_values == 0:
            return
        dims = [dim for dim in range(values.dim()) if dim != 1]
        variance, mean = torch.var_mean(values.float(), dims, correction=0)
        self.num_values += num_values
        self.sum += num_values * mean.double()
        self.squares += num_values * (variance.double() + mean.double().square())

    def finish(self) -> None:
        """Put the statistics of all batches of all ranks into the layer."""
        for part in (self.num_values, self.sum, self.squares):
            distributed.total(part)
        if self.num_values > 0:
            mean = self.sum / self.num_values
            self.module.running_mean.copy_(mean)
            self.module.running_var.copy_(self.squares / self.num_values - mean.square())
