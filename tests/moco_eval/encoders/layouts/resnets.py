"""The ResNet-18 that most layouts hold."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor, nn

from layouts.layout import randomised, without
from moco_eval.encoders.networks import build_network


@functools.cache
def resnet(arch: str = "resnet18") -> tuple[Callable[[Tensor], Tensor], dict[str, Tensor]]:
    """The network, images to pooled features, and its tensors without classifier.

    Made once: what is written of it must not change it.
    """
    network = randomised(build_network(arch, num_classes=3))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.fc = nn.Identity()
    return network, without(state, "fc.")
