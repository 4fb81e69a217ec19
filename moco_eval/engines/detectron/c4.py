"""The same C4 R-CNN from Detectron2.

Its configuration is filled in code and its ResNet is built from the encoder's own structure, so
that any depth, width or stem fits; the encoder's tensors are handed over in memory, under
Detectron2's names, each exactly once.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import GeneralizedRCNN, ResNet, build_mask_head
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads, ROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.nn import functional as F

from moco_eval.data.images import InputSpec
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks import resnet_parts
from moco_eval.engines.examples import Detections, Detector, Example
from moco_eval.engines.recipe import Recipe
from moco_eval.errors import CheckpointError

NORM = "BN"


class C4Detector(Detector):
    """Detectron2's GeneralizedRCNN, filled with an encoder; all of it is trained.

    Args:
        encoder: A ResNet of basic or bottleneck blocks.
        recipe: Sizes of anchors, samples and pooled regions.
        num_classes: Without the background.
        num_keypoints: Of a keypoint head, which C4 has not.

    Raises:
        CheckpointError: If a tensor of the encoder has no place in Detectron2's ResNet, or the
            other way round.
    """

    def __init__(
        self, encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
    ) -> None:
        super().__init__()
        self.with_masks = with_masks = recipe.masks
        self.channel_order = encoder.input.channel_order
        cfg = configuration(recipe, encoder.input, num_classes=num_classes)
        stem, stages = _build_resnet(encoder.network)
        backbone = ResNet(stem, stages[:3], out_features=["res4"])
        # The extra norm has upstream's name, so that a detector's tensors are called the same.
        res5 = nn.Sequential(*stages[3])
        channels = stages[3][-1].out_channels
        res5.add_module("norm", get_norm(NORM, channels))
        shapes = backbone.output_shape()
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        heads = Res5ROIHeads(
            **ROIHeads.from_config(cfg),
            in_features=["res4"],
            pooler=ROIPooler(side, [1 / shapes["res4"].stride], 0, "ROIAlignV2"),
            res5=res5,
            box_predictor=FastRCNNOutputLayers(cfg, ShapeSpec(channels, 1, 1)),
            mask_head=build_mask_head(cfg, ShapeSpec(channels, side, side)) if with_masks else None,
        )
        self.model = GeneralizedRCNN(
            backbone=backbone,
            proposal_generator=RPN(cfg, shapes),
            roi_heads=heads,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            input_format=cfg.INPUT.FORMAT,
        )
        self._fill(encoder)
        self.to(next(encoder.network.parameters()).device)

    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch."""
        inputs = [
            {"image": self._image(example.pixels), "instances": self._instances(example)}
            for example in examples
        ]
        # Its layers log to whatever storage is open; ours is the loop's.
        with EventStorage():
            losses: dict[str, Tensor] = self.model(inputs)
        return losses

    @torch.inference_mode()
    def detect(self, example: Example) -> Detections:
        """What it finds in one image, on the CPU and in pixels of the image file."""
        height, width = example.size
        inputs = {"image": self._image(example.pixels), "height": height, "width": width}
        found = self.model([inputs])[0]["instances"].to("cpu")
        return Detections(
            boxes=found.pred_boxes.tensor,
            scores=found.scores,
            labels=found.pred_classes,
            masks=found.pred_masks if self.with_masks else None,
        )

    def backbone(self) -> dict[str, Tensor]:
        """The tensors of stem and stages, under torchvision's names."""
        own = {
            name: tensor for name, tensor in self.model.state_dict().items() if _is_backbone(name)
        }
        return {_encoder_name(name): tensor for name, tensor in own.items()}

    @torch.inference_mode()
    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """``res4`` and ``res5`` of one image, the latter of the whole image at once."""
        images = self.model.preprocess_image([{"image": self._image(pixels)}])
        res4 = self.model.backbone(images.tensor)["res4"]
        return {"res4": res4, "res5": self.model.roi_heads.res5[:-1](res4)}

    def _fill(self, encoder: Encoder) -> None:
        places = {_encoder_name(n): n for n in self.model.state_dict() if _is_backbone(n)}
        tensors = encoder.tensors()
        wrong = [f"has no place in it: {name}" for name in tensors if name not in places]
        wrong += [f"not in the encoder: {name}" for name in places if name not in tensors]
        if wrong:
            raise CheckpointError(
                f"{encoder.name} ({encoder.arch}) does not fit Detectron2's ResNet: "
                f"{'; '.join(wrong[:8])}. Take the other engine: --engine torchvision"
            )
        filled = {places[name]: tensor for name, tensor in tensors.items()}
        self.model.load_state_dict(self.model.state_dict() | filled)

    def _image(self, pixels: Tensor) -> Tensor:
        # Detectron2 normalises in the order it is given, and turns no colours round.
        return pixels.flip(0) if self.channel_order == "BGR" else pixels

    def _instances(self, example: Example) -> Instances:
        fields: dict[str, Any] = {
            "gt_boxes": Boxes(example.boxes),
            "gt_classes": example.labels,
        }
        if example.masks is not None:
            fields["gt_masks"] = BitMasks(example.masks)
        return Instances(tuple(example.pixels.shape[1:]), **fields)


def configuration(recipe: Recipe, spec: InputSpec, *, num_classes: int) -> CfgNode:
    """Detectron2's configuration of a recipe: its defaults but for the lines below."""
    cfg = get_cfg()
    # As the encoder was fed in pretraining; Detectron2's default is Caffe2's BGR.
    cfg.INPUT.FORMAT = spec.channel_order
    cfg.MODEL.PIXEL_MEAN = [255 * value for value in spec.mean]
    cfg.MODEL.PIXEL_STD = [255 * value for value in spec.std]
    # Our masks may be polygons or run lengths; both are bitmaps by the time they arrive.
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.MODEL.MASK_ON = recipe.masks
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    # What the recipe says of anchors, proposals and heads.
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [list(recipe.anchor_sizes)]
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = recipe.rpn_batch
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = recipe.rpn_pre_nms
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = recipe.rpn_post_nms
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = recipe.roi_batch
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = recipe.pool_size
    # As in every C4 model of Detectron2: the mask head is one deconvolution on res5.
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 0
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = recipe.mask_channels
    return cfg


class _Stem(CNNBlockBase):  # type: ignore[misc]
    """Convolution, norm, ReLU and max pooling; Detectron2's own has a 7x7 convolution only."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__(3, convolution.out_channels, 2 * convolution.stride[0])
        self.conv1 = Conv2d(
            3,
            convolution.out_channels,
            kernel_size=convolution.kernel_size,
            stride=convolution.stride,
            padding=convolution.padding,
            bias=False,
            norm=get_norm(NORM, convolution.out_channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu_(self.conv1(images))
        return F.max_pool2d(features, kernel_size=3, stride=2, padding=1)


def _build_resnet(network: nn.Module) -> tuple[_Stem, list[list[Any]]]:
    """A stem and four stages of Detectron2's blocks with the structure of ``network``."""
    stem, stages = resnet_parts(network)
    convolution = stem[0]
    if not isinstance(convolution, nn.Conv2d):
        raise CheckpointError(
            f"The stem of this {type(network).__name__} is not one convolution, as Detectron2's "
            "is. Take the other engine: --engine torchvision"
        )
    channels = convolution.out_channels
    built = []
    for stage in stages:
        blocks = []
        for block in stage.children():
            blocks.append(_build_block(block, channels))
            channels = blocks[-1].out_channels
        built.append(blocks)
    return _Stem(convolution), built


def _build_block(block: Any, in_channels: int) -> CNNBlockBase:
    if not hasattr(block, "conv3"):
        return BasicBlock(
            in_channels, block.conv2.out_channels, stride=block.conv1.stride[0], norm=NORM
        )
    return BottleneckBlock(
        in_channels,
        block.conv3.out_channels,
        bottleneck_channels=block.conv2.out_channels,
        # In the 3x3 convolution, as in torchvision; the features tell if it is elsewhere.
        stride=block.conv2.stride[0],
        stride_in_1x1=False,
        num_groups=block.conv2.groups,
        norm=NORM,
    )


def _is_backbone(name: str) -> bool:
    extra_norm = name.startswith("roi_heads.res5.norm.")
    return name.startswith(("backbone.", "roi_heads.res5.")) and not extra_norm


def _encoder_name(name: str) -> str:
    """Detectron2's name of a tensor as torchvision's, such as ``layer4.0.bn1.weight``."""
    name = name.removeprefix("backbone.").removeprefix("roi_heads.").removeprefix("stem.")
    name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
    name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut.", "downsample.0.")
