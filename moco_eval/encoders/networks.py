"""An architecture's name becomes a network: torchvision's ResNets, timm's everything else."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable

import torch
from torch import nn

from moco_eval.errors import UsageError, unknown


def build_network(arch: str, *, num_classes: int = 0) -> nn.Module:
    """Build ``arch`` with fresh weights from torch's default generator.

    Args:
        arch: A torchvision ResNet (``resnet50``), a small one of ours (``resnet10_small``) or
            any timm model (``timm:vit_small_patch16_224``).
        num_classes: Outputs of the last linear layer; 0 leaves it out, so that the network
            returns pooled features ``(N, D)``.

    Raises:
        UsageError: If nobody knows ``arch``; the nearest name is offered.
    """
    if arch.startswith("timm:"):
        return _timm_network(arch.removeprefix("timm:"), num_classes)
    builders = _builders()
    if arch not in builders:
        raise unknown("architecture", arch, builders)
    network = builders[arch](num_classes=max(num_classes, 1))
    if num_classes == 0:
        network.fc = nn.Identity()
    return network


def without_projector(network: nn.Module) -> nn.Module:
    """A copy of a network that ``build_network`` made, returning its pooled features instead."""
    backbone = copy.deepcopy(network)
    backbone.fc = nn.Identity()
    return backbone


def require_timm(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        UsageError: With the nearest names; all of them would fill the screen.
    """
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        offer = f" Did you mean {' or '.join(near)}?" if near else ""
        raise UsageError(f"There is no timm model '{name}'.{offer} timm.list_models() has all.")


def architectures() -> tuple[str, ...]:
    """Every name that ``build_network`` knows without timm's prefix."""
    return tuple(sorted(_builders()))


def resnet_parts(network: nn.Module) -> tuple[nn.Sequential, tuple[nn.Module, ...]]:
    """Split a ResNet into its stem and its four stages.

    Returns:
        The stem up to and including the max pooling, and ``layer1`` to ``layer4``.

    Raises:
        UsageError: If the network is no ResNet of torchvision's naming.
    """
    names = ("conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    if any(not hasattr(network, name) for name in names):
        raise UsageError(
            f"A {type(network).__name__} has no levels res2 to res5. "
            "Detection and segmentation take ResNets here."
        )
    modules = dict(network.named_children())
    # torchvision calls the activation relu, timm act1.
    activation = modules["relu"] if "relu" in modules else modules["act1"]
    stem = nn.Sequential(modules["conv1"], modules["bn1"], activation, modules["maxpool"])
    return stem, tuple(modules[f"layer{stage}"] for stage in (1, 2, 3, 4))


def _builders() -> dict[str, Callable[..., nn.Module]]:
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    prefixes = ("resnet", "resnext", "wide_resnet")
    builders: dict[str, Callable[..., nn.Module]] = {
        name: torchvision.models.get_model_builder(name)
        for name in names
        if name.startswith(prefixes)
    }
    return builders | {"resnet10_small": _resnet10_small, "pixels": _pixels}


def _resnet10_small(*, num_classes: int) -> nn.Module:
    """A ResNet for 32-pixel images: one basic block a stage, 16-32-64-128 channels, strides 2-16.

    The stem is 3x3 without stride, so that a small image keeps its detail.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    class NarrowResNet(ResNet):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(BasicBlock, (1, 1, 1, 1))
            self.inplanes = 16
            self.conv1 = nn.Conv2d(3, 16, kernel_size=3, stride=1, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = self._make_layer(BasicBlock, 16, 1)
            self.layer2 = self._make_layer(BasicBlock, 32, 1, stride=2)
            self.layer3 = self._make_layer(BasicBlock, 64, 1, stride=2)
            self.layer4 = self._make_layer(BasicBlock, 128, 1, stride=2)
            self.fc = nn.Linear(128, num_classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    network: nn.Module = NarrowResNet()
    return network


class _Pixels(nn.Module):
    """The image itself as its feature: the floor under every encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.fc: nn.Module = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to ``(N, H * W)``, the channels averaged."""
        features: torch.Tensor = self.fc(images.mean(1).flatten(1))
        return features


def _pixels(*, num_classes: int) -> nn.Module:
    return _Pixels()


def _timm_network(name: str, num_classes: int) -> nn.Module:
    import timm

    require_timm(name)
    network: nn.Module = timm.create_model(name, num_classes=num_classes)
    return network
