"""Detectron2's ResNet with the structure of an encoder's: any depth, width, groups or stem."""

from __future__ import annotations

from typing import Any

from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.encoders.networks import resnet_parts
from moco_eval.errors import CheckpointError


class Stem(CNNBlockBase):  # type: ignore[misc]
    """Convolution, norm, ReLU and the network's pooling; Detectron2's own has 7x7 and 3x3 only."""

    def __init__(self, convolution: nn.Conv2d, pooling: nn.Module, *, norm: str) -> None:
        channels = convolution.out_channels
        pooled: Any = pooling.stride if isinstance(pooling, nn.MaxPool2d) else 1
        super().__init__(3, channels, convolution.stride[0] * pooled)
        self.conv1 = Conv2d(
            3,
            channels,
            kernel_size=convolution.kernel_size,
            stride=convolution.stride,
            padding=convolution.padding,
            bias=False,
            norm=get_norm(norm, channels),
        )
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.pooling(F.relu_(self.conv1(images)))
        return pooled


def build_resnet(
    network: nn.Module, *, norm: str, dilated: bool = False
) -> tuple[Stem, list[list[CNNBlockBase]]]:
    """A stem and four stages of Detectron2's blocks, with fresh weights.

    Args:
        network: A ResNet of basic or bottleneck blocks under torchvision's names.
        norm: Detectron2's name of the norms.
        dilated: Whether ``res5`` keeps the size of ``res4``, its 3x3 convolutions dilated by 2.

    Raises:
        CheckpointError: If no such stem can be built. Blocks that differ are told by the tensors
            that have no place, and by their features.
    """
    stem, stages = resnet_parts(network)
    convolution, pooling = stem[0], stem[3]
    if not isinstance(convolution, nn.Conv2d) or not isinstance(
        pooling, (nn.MaxPool2d, nn.Identity)
    ):
        raise CheckpointError(
            f"The stem of this {type(network).__name__} is not one convolution and a max pooling, "
            "as Detectron2's is. Take the other engine: --engine torchvision"
        )
    channels = convolution.out_channels
    built = []
    for number, stage in enumerate(stages):
        blocks = []
        for block in stage.children():
            last = dilated and number == len(stages) - 1
            blocks.append(_build_block(block, channels, norm=norm, dilation=2 if last else 1))
            channels = blocks[-1].out_channels
        built.append(blocks)
    return Stem(convolution, pooling, norm=norm), built


def _build_block(block: Any, in_channels: int, *, norm: str, dilation: int) -> CNNBlockBase:
    strides = [block.conv1.stride[0], block.conv2.stride[0]]
    stride = 1 if dilation > 1 else max(strides)
    if not hasattr(block, "conv3"):
        built = BasicBlock(in_channels, block.conv2.out_channels, stride=stride, norm=norm)
        # Its blocks of this kind know no dilation. As of the others, every 3x3 one is dilated.
        for convolution in (built.conv1, built.conv2):
            convolution.dilation = convolution.padding = (dilation, dilation)
        return built
    return BottleneckBlock(
        in_channels,
        block.conv3.out_channels,
        bottleneck_channels=block.conv2.out_channels,
        stride=stride,
        # Caffe's ResNets have it in the first convolution, torchvision's in the second.
        stride_in_1x1=strides[0] > 1,
        num_groups=block.conv2.groups,
        norm=norm,
        dilation=dilation,
    )
