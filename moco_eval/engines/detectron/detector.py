"""A detector of Detectron2's parts around an encoder.

Its configuration is filled in code and its backbone is built from the encoder's own structure; the
encoder's tensors are handed over in memory, under Detectron2's names, each exactly once.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import (
    GeneralizedRCNN,
    RetinaNet,
    build_anchor_generator,
    build_mask_head,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, Res5ROIHeads, ROIHeads
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.engines.detectron.body import Body, backbone_of
from moco_eval.engines.detectron.configuration import choose_norm, configuration, differences
from moco_eval.engines.detectron.vit import transformer_body
from moco_eval.engines.examples import Detections, Detector, Example
from moco_eval.engines.recipe import Recipe
from moco_eval.engines.transformer import is_plain, layers_of, require_fit, trunk_tensors
from moco_eval.errors import CheckpointError

# Objects' anchors of an image, before any were counted; Detectron2's.
FIRST_NORMALIZER = 100.0


class Detectron(Detector):
    """Detectron2's R-CNN or RetinaNet, filled with an encoder.

    Args:
        encoder: A ResNet of basic or bottleneck blocks.
        recipe: Which detector, how large its parts are, and what of it is frozen.
        num_classes: Without the background.
        num_keypoints: Of each object, where the recipe has keypoints.

    Attributes:
        cfg: Detectron2's configuration of all of it.
        norms: A sentence on the norms that are trained.
        model: Detectron2's.

    Raises:
        CheckpointError: If a tensor of the encoder has no place in Detectron2's network, or the
            other way round.
        UsageError: If Detectron2 has no such network, or the recipe's ``opts`` are refused.
    """

    def __init__(
        self, encoder: Encoder, recipe: Recipe, *, num_classes: int, num_keypoints: int = 0
    ) -> None:
        super().__init__()
        require_fit(encoder, recipe)
        norm, self.norms = choose_norm(
            recipe,
            encoder,
            world_size=distributed.world_size(),
            device_type=encoder.device.type,
        )
        self.cfg = configuration(
            recipe, encoder, num_classes=num_classes, num_keypoints=num_keypoints, norm=norm
        )
        body_of = transformer_body if is_plain(encoder) else backbone_of
        body = body_of(encoder, recipe, self.cfg, norm=norm)
        self.names = dict(body.names)
        self.stages = dict(body.stages)
        self.layer_of = layers_of(encoder)
        self.prefixes = body.prefixes
        self.model: Any = _build_model(self.cfg, body, norm)
        if isinstance(self.model, SharedRetinaNet):
            # Detectron2 has it beside the weights, where no checkpoint would find it.
            first = torch.tensor(FIRST_NORMALIZER, dtype=torch.float64)
            self.register_buffer("normalizer", first)
        self._fill(encoder)
        if recipe.freeze == "encoder":
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name not in self.names)
        self.to(encoder.device)

    def forward(self, examples: list[Example]) -> dict[str, Tensor]:
        """The losses of a batch."""
        inputs = [
            {"image": self._image(example.pixels), "instances": _instances(example)}
            for example in examples
        ]
        normalizer = getattr(self, "normalizer", None)
        if normalizer is not None:
            self.model.loss_normalizer = normalizer.item()
        # Its layers log to whatever storage is open; ours is the loop's.
        with EventStorage():
            losses: dict[str, Tensor] = self.model(inputs)
        if normalizer is not None:
            normalizer.fill_(self.model.loss_normalizer)
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
            masks=found.pred_masks if self.cfg.MODEL.MASK_ON else None,
            keypoints=found.pred_keypoints if self.cfg.MODEL.KEYPOINT_ON else None,
        )

    def backbone(self) -> dict[str, Tensor]:
        """The tensors of the encoder's part, under its names; any beside them under their own."""
        return {
            self.names.get(name, name): tensor
            for name, tensor in self.model.state_dict().items()
            if name in self.names or name.startswith(self.prefixes)
        }

    @torch.inference_mode()
    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the model's own stages give for one image, on the way through its backbone.

        ``res2`` to ``res5``; C4's last on the whole image at once; of a dilated C5 no ``res5``,
        which there is another map than the encoder's.
        """
        found: dict[str, Tensor] = {}
        hooks = [
            self.model.get_submodule(path).register_forward_hook(partial(_keep, found, level))
            for level, path in self.stages.items()
        ]
        try:
            images = self.model.preprocess_image([{"image": self._image(pixels)}])
            self.model.backbone(images.tensor)
        finally:
            for hook in hooks:
                hook.remove()
        if self._is_c4:
            found["res5"] = self.model.roi_heads.res5[:-1](found["res4"])
        return found

    def layers(self) -> dict[str, int]:
        """The number of each parameter's layer in a transformer, from 0, for ``layer_decay``."""
        return {
            f"model.{place}": self.layer_of[name]
            for place, name in self.names.items()
            if name in self.layer_of
        }

    def weights(self) -> dict[str, Tensor]:
        """All its tensors, as Detectron2's own checkpointer takes them."""
        return dict(self.model.state_dict())

    def settings(self) -> dict[str, Any]:
        """``norms``, in a sentence; Detectron2's configuration where not its default, by keys."""
        return {"norms": self.norms, **differences(self.cfg)}

    @property
    def _is_c4(self) -> bool:
        return isinstance(getattr(self.model, "roi_heads", None), Res5ROIHeads)

    def _fill(self, encoder: Encoder) -> None:
        tensors = trunk_tensors(encoder) if is_plain(encoder) else encoder.tensors()
        own = self.model.state_dict()
        # A frozen norm counts no steps, and nothing depends on the count.
        wrong = [
            f"has no place in it: {name}"
            for place, name in self.names.items()
            if place not in own and not is_counter(name)
        ]
        wrong += [
            f"not in the encoder: {name}"
            for name in own
            if name.startswith(self.prefixes) and name not in self.names and not is_counter(name)
        ]
        wrong += [
            f"of another shape: {name} is {list(tensors[name].shape)}, not {list(own[place].shape)}"
            for place, name in self.names.items()
            if place in own and own[place].shape != tensors[name].shape
        ]
        if wrong:
            raise CheckpointError(
                f"{encoder.name} ({encoder.arch}) does not fit Detectron2's network: "
                f"{'; '.join(wrong[:8])}. Take the other engine: --engine torchvision"
            )
        filled = {place: tensors[name] for place, name in self.names.items() if place in own}
        self.model.load_state_dict(own | filled)

    def _image(self, pixels: Tensor) -> Tensor:
        # Detectron2 normalises in the order it is given, and turns no colours round.
        return pixels.flip(0) if self.cfg.INPUT.FORMAT == "BGR" else pixels


class SharedRetinaNet(RetinaNet):  # type: ignore[misc]
    """A RetinaNet whose losses are divided by the same number on every rank.

    It is a running mean of the number of objects' anchors. Unlike Detectron2's, of all ranks: so
    one checkpoint has it, and a resumed run is the uninterrupted one.
    """

    def _ema_update(
        self, name: str, value: float, initial_value: float, momentum: float = 0.9
    ) -> float:
        own = torch.tensor(value, dtype=torch.float64, device=self.device)
        share = distributed.total(own).item() / distributed.world_size()
        updated: float = super()._ema_update(name, share, initial_value, momentum)
        return updated


def _keep(found: dict[str, Tensor], level: str, *call: Any) -> None:
    # A hook is given the module, its arguments and its output: a map, or one by its name.
    output = call[-1]
    found[level] = next(iter(output.values())) if isinstance(output, dict) else output


def _instances(example: Example) -> Instances:
    fields: dict[str, Any] = {
        "gt_boxes": Boxes(example.boxes),
        "gt_classes": example.labels,
    }
    if example.masks is not None:
        fields["gt_masks"] = BitMasks(example.masks)
    if example.keypoints is not None:
        fields["gt_keypoints"] = Keypoints(example.keypoints)
    return Instances(tuple(example.pixels.shape[1:]), **fields)


def _build_model(cfg: CfgNode, body: Body, norm: str) -> Any:
    """The meta architecture that ``cfg`` names, with a backbone that is there already."""
    shapes = body.backbone.output_shape()
    common = {
        "backbone": body.backbone,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
    }
    if cfg.MODEL.META_ARCHITECTURE == "RetinaNet":
        return SharedRetinaNet(**common, **_one_stage(cfg, shapes))
    proposals = build_proposal_generator(cfg, shapes)
    if body.head is not None:
        heads = _c4_heads(cfg, shapes, body.head, norm)
    else:
        heads = build_roi_heads(cfg, shapes)
    return GeneralizedRCNN(**common, proposal_generator=proposals, roi_heads=heads)


def _c4_heads(
    cfg: CfgNode, shapes: dict[str, ShapeSpec], res5: nn.Sequential, norm: str
) -> Res5ROIHeads:
    """Heads whose features are ``res5`` and a norm after it, on pooled regions of ``res4``.

    The norm has upstream's name (detection/train_net.py of github.com/facebookresearch/moco), so
    that a detector's tensors are called the same. It is no part of the encoder, and is trained
    also where the encoder's are frozen.
    """
    channels = res5[-1].out_channels
    res5.add_module("norm", get_norm(norm, channels))
    [level] = cfg.MODEL.ROI_HEADS.IN_FEATURES
    box = cfg.MODEL.ROI_BOX_HEAD
    side = box.POOLER_RESOLUTION
    scales = [1 / shapes[level].stride]
    masks = build_mask_head(cfg, ShapeSpec(channels, side, side)) if cfg.MODEL.MASK_ON else None
    return Res5ROIHeads(
        **ROIHeads.from_config(cfg),
        in_features=[level],
        pooler=ROIPooler(side, scales, box.POOLER_SAMPLING_RATIO, box.POOLER_TYPE),
        res5=res5,
        box_predictor=FastRCNNOutputLayers(cfg, ShapeSpec(channels, 1, 1)),
        mask_head=masks,
    )


def _one_stage(cfg: CfgNode, shapes: dict[str, ShapeSpec]) -> dict[str, Any]:
    """What RetinaNet is built of besides its backbone."""
    numbers = cfg.MODEL.RETINANET
    levels = [shapes[name] for name in numbers.IN_FEATURES]
    return {
        "head": RetinaNetHead(cfg, levels),
        "head_in_features": numbers.IN_FEATURES,
        "anchor_generator": build_anchor_generator(cfg, levels),
        "box2box_transform": Box2BoxTransform(weights=numbers.BBOX_REG_WEIGHTS),
        "anchor_matcher": Matcher(
            numbers.IOU_THRESHOLDS, numbers.IOU_LABELS, allow_low_quality_matches=True
        ),
        "num_classes": numbers.NUM_CLASSES,
        "focal_loss_alpha": numbers.FOCAL_LOSS_ALPHA,
        "focal_loss_gamma": numbers.FOCAL_LOSS_GAMMA,
        "smooth_l1_beta": numbers.SMOOTH_L1_LOSS_BETA,
        "box_reg_loss_type": numbers.BBOX_REG_LOSS_TYPE,
        "test_score_thresh": numbers.SCORE_THRESH_TEST,
        "test_topk_candidates": numbers.TOPK_CANDIDATES_TEST,
        "test_nms_thresh": numbers.NMS_THRESH_TEST,
        "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
