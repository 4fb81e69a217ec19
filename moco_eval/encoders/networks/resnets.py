"""ResNets as torchvision builds them, and what the field makes of them: wider ones, small ones.

A name is one of torchvision's, or ``resnet10_small``, and what may follow it: ``_w2x`` multiplies
every number of channels by 2; ``_v1`` puts the stride of a bottleneck into its first convolution,
as the original paper, Caffe and Detectron2's own weights do; ``_cifar`` takes the stem for small
images, ``_cifar_pad2`` the same with one pixel more of padding, as solo-learn's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from moco_eval.errors import UsageError

VARIANT = re.compile(
    r"(?P<base>.+?)(?:_w(?P<width>[2-9])x)?(?P<v1>_v1)?(?P<cifar>_cifar(?P<pad>_pad2)?)?"
)
# Channels that torchvision's stem has, in every ResNet.
STEM_CHANNELS = 64


def resnets() -> tuple[str, ...]:
    """The names without what may follow them, short ones first: those are small networks."""
    return tuple(sorted(_builders(), key=lambda name: (len(name), name)))


def is_resnet(arch: str) -> bool:
    """Whether ``build_resnet`` knows the name."""
    variant = VARIANT.fullmatch(arch)
    return variant is not None and variant["base"] in _builders()


def build_resnet(
    arch: str, *, num_classes: int, in_chans: int = 3, zero_init_residual: bool = False
) -> ResNet:
    """Build a ResNet with fresh weights from torch's default generator; ``fc`` comes last.

    Args:
        arch: Such as ``resnet50``, ``resnet18_cifar`` or ``resnet50_w4x``, the last as in MoCo's
            Table 1 (arXiv:1911.05722), where all channels are multiplied.
        num_classes: Outputs of ``fc``, at least 1.
        in_chans: Channels of the images.
        zero_init_residual: Let every block begin as the identity, as MoCo v3 does: the last
            BatchNorm of each has weight 0.

    Raises:
        UsageError: If ``_v1`` stands after a network of basic blocks.
    """
    variant = VARIANT.fullmatch(arch)
    assert variant is not None, f"{arch} is no ResNet"
    base, width = variant["base"], variant["width"]
    builder = _builders()[base]
    network: ResNet = (
        _widened(builder, int(width), num_classes) if width else builder(num_classes=num_classes)
    )
    if variant["cifar"]:
        network.conv1 = _stem(in_chans, network.conv1.out_channels, side=3, stride=1)
        network.conv1.padding = (2, 2) if variant["pad"] else (1, 1)
        network.maxpool = nn.Identity()
    elif in_chans != network.conv1.in_channels:
        side, stride = network.conv1.kernel_size[0], network.conv1.stride[0]
        network.conv1 = _stem(in_chans, network.conv1.out_channels, side=side, stride=stride)
    if variant["v1"]:
        _stride_in_1x1(network, arch)
    if zero_init_residual:
        for block in network.modules():
            if isinstance(block, (BasicBlock, Bottleneck)):
                last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
                nn.init.zeros_(last.weight)
    return network


def candidates(stem: Tensor) -> tuple[str, ...]:
    """Every name that a ResNet may have whose first convolution has the weight ``stem``.

    The stem's pooling has no weights: a 3x3 stem without a name is taken for ``_cifar``.
    """
    width, remainder = divmod(stem.shape[0], STEM_CHANNELS)
    suffix = f"_w{width}x" if 2 <= width <= 9 and not remainder else ""
    if stem.shape[-1] == 3:
        suffix += "_cifar"
    return (*resnets(), *(f"{name}{suffix}" for name in resnets() if suffix))


class ScaledResNet(ResNet):  # type: ignore[misc]
    """torchvision's ResNet with another number of channels.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        blocks: How many of them each of the four stages has.
        channels: Of the stem; the stages have once to eight times as many, times the block's
            expansion.
        num_classes: Outputs of ``fc``.
        small_stem: Whether the first convolution is 3x3 without stride.
        groups: Of the blocks' grouped convolution, and the channels of each, as torchvision says.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        *,
        channels: int,
        num_classes: int,
        small_stem: bool = False,
        groups: tuple[int, int] = (1, 64),
    ) -> None:
        super().__init__(block, (1, 1, 1, 1), groups=groups[0], width_per_group=groups[1])
        self.inplanes = channels
        side, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(3, channels, side, stride, padding=side // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.layer1 = self._make_layer(block, channels, blocks[0])
        self.layer2 = self._make_layer(block, 2 * channels, blocks[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * channels, blocks[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * channels, blocks[3], stride=2)
        self.fc = nn.Linear(8 * channels * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _builders() -> dict[str, Callable[..., ResNet]]:
    names = torchvision.models.list_models(module=torchvision.models)
    prefixes = ("resnet", "resnext", "wide_resnet")
    builders = {
        name: torchvision.models.get_model_builder(name)
        for name in names
        if name.startswith(prefixes)
    }
    return builders | {"resnet10_small": _resnet10_small}


def _resnet10_small(*, num_classes: int) -> ResNet:
    """A ResNet for 32-pixel images: one basic block a stage, 16-32-64-128 channels, strides 2-16.

    The stem is 3x3 without stride, so that a small image keeps its detail.
    """
    return ScaledResNet(
        BasicBlock, (1, 1, 1, 1), channels=16, num_classes=num_classes, small_stem=True
    )


def _widened(builder: Callable[..., ResNet], width: int, num_classes: int) -> ResNet:
    """What ``builder`` builds, with ``width`` times the channels everywhere."""
    # On no device: only its plan is wanted.
    with torch.device("meta"):
        plan = builder(num_classes=1)
    stages = (plan.layer1, plan.layer2, plan.layer3, plan.layer4)
    return ScaledResNet(
        type(plan.layer1[0]),
        tuple(len(stage) for stage in stages),
        channels=width * plan.conv1.out_channels,
        num_classes=num_classes,
        small_stem=plan.conv1.kernel_size == (3, 3),
        groups=(plan.groups, plan.base_width),
    )


def _stride_in_1x1(network: ResNet, arch: str) -> None:
    """Move each bottleneck's stride from its 3x3 convolution to the 1x1 before it."""
    blocks = [block for block in network.modules() if isinstance(block, Bottleneck)]
    if not blocks:
        raise UsageError(f"There is no {arch}: its blocks have no 1x1 convolution for the stride.")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def _stem(in_chans: int, channels: int, *, side: int, stride: int) -> nn.Conv2d:
    stem = nn.Conv2d(in_chans, channels, side, stride, padding=side // 2, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem
