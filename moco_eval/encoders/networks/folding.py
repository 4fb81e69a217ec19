"""BatchNorm that no longer learns, folded into the convolution before it: one layer instead of two.

In eval mode a BatchNorm multiplies each channel by ``weight / sqrt(running_var + eps)`` and adds
what is left; so does a convolution whose weight and bias were multiplied and shifted once. Which
convolution stands before which BatchNorm is found by watching a forward pass, since every author
names them in another way, and what comes out is compared with what came out before.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

# Rounding changes the output by 1e-6, on GPUs that multiply in TF32 by 1e-3; a layer that must not
# be folded changes it by as much as it is.
MAX_CHANGE = 1e-2
NORMS = (nn.BatchNorm2d, BatchNormAct2d)


@torch.no_grad()
def folded(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy of ``network`` that computes the same with fewer layers; modules keep their names.

    Only plain two-dimensional convolutions are taken, each of which must feed one BatchNorm and
    nothing else. The activation inside timm's BatchNorm stays. Where the copy computes something
    else after all, an unfolded one comes back.

    Args:
        network: In eval mode.
        images: ``(N, C, H, W)``, any that it takes; one is enough.
    """
    twin = copy.deepcopy(network)
    if not any(type(module) in NORMS for module in twin.modules()):
        return twin
    pairs, expected = _watch(twin, images)
    if not pairs:
        return twin
    for convolution, norm in pairs:
        _fold(twin.get_submodule(convolution), twin.get_submodule(norm))
        twin.set_submodule(norm, _rest_of(twin.get_submodule(norm)))
    change = (twin(images) - expected).norm()
    return twin if change <= MAX_CHANGE * expected.norm() else copy.deepcopy(network)


def _watch(network: nn.Module, images: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of each convolution and the BatchNorm that takes its very output, and the features."""
    # The outputs are kept, so that none has the identity of another that is gone.
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []

    def note(name: str, output: Tensor) -> None:
        made[id(output)] = (name, output)

    def find(name: str, norm: nn.Module, taken: Tensor) -> None:
        if id(taken) in made and _is_settled(norm):
            pairs.append((made[id(taken)][0], name))

    for name, module in network.named_modules():
        if type(module) is nn.Conv2d:
            hooks.append(
                module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
            )
        elif type(module) in NORMS:
            hooks.append(
                module.register_forward_pre_hook(lambda norm, x, name=name: find(name, norm, x[0]))
            )
    features = network(images)
    for hook in hooks:
        hook.remove()
    # What feeds two, such as a layer that runs twice, stays as it is.
    takers = Counter(convolution for convolution, _ in pairs)
    return [pair for pair in pairs if takers[pair[0]] == 1], features


def _is_settled(norm: nn.Module) -> bool:
    """Whether it normalises by statistics that it remembers, not by the batch's."""
    return not norm.training and norm.running_mean is not None


def _fold(convolution: Any, norm: Any) -> None:
    """Put the BatchNorm into the convolution: computed in double precision, rounded once."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double()
    if convolution.bias is not None:
        bias = bias + convolution.bias.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = convolution.weight.double() * scale.view(-1, 1, 1, 1)
    dtype = convolution.weight.dtype
    convolution.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _rest_of(norm: nn.Module) -> nn.Module:
    """What is left of a BatchNorm when it no longer normalises."""
    if isinstance(norm, BatchNormAct2d):
        return nn.Sequential(norm.drop, norm.act)
    return nn.Identity()
