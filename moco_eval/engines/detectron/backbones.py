"""A converted file as Detectron2 itself builds and loads it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import SwinTransformer, ViT, build_resnet_backbone
from torch import Tensor, nn

from moco_eval.encoders.encoder import LEVELS
from moco_eval.encoders.exports import swin, vitdet
from moco_eval.encoders.exports.export import Evidence

LIBRARY = "detectron2"


def reload_resnet(path: Path) -> Evidence:
    """The ResNet that the lines of ``PATH.yaml`` describe, filled from ``path``."""
    cfg = get_cfg()
    cfg.merge_from_file(f"{path}.yaml")
    cfg.MODEL.RESNETS.OUT_FEATURES = list(LEVELS)
    backbone = build_resnet_backbone(cfg, ShapeSpec(channels=len(cfg.MODEL.PIXEL_MEAN)))
    found = _loaded(backbone, path)

    def outputs(images: Tensor) -> dict[str, Tensor]:
        levels = found.outputs(images)
        return levels | {"features": levels["res5"].mean((2, 3))}

    return dataclasses.replace(found, outputs=outputs)


def reload_vit(path: Path) -> Evidence:
    """ViTDet's transformer of ``PATH.yaml``, without windows, filled from ``path``."""
    backbone = build_vit(vitdet.Plan(**_numbers(path, vitdet.KEY)))
    return _loaded(backbone, path)


def reload_swin(path: Path) -> Evidence:
    """The Swin transformer of ``PATH.yaml``, its last level, filled from ``path``."""
    numbers = _numbers(path, swin.KEY)
    norm_layer = partial(nn.LayerNorm, eps=numbers.pop("norm_eps"))
    last = len(numbers["depths"]) - 1
    with _timm_imported_from_elsewhere():
        backbone = SwinTransformer(**numbers, norm_layer=norm_layer, out_indices=(last,))
    return _loaded(backbone, path)


def build_vit(plan: vitdet.Plan, **options: Any) -> ViT:
    """Detectron2's ``ViT`` for images of the pretraining's size, with fresh weights.

    Args:
        plan: As ``PATH.yaml`` has it.
        options: Further arguments, such as ``use_rel_pos``.
    """
    numbers = dataclasses.asdict(plan)
    norm_layer = partial(nn.LayerNorm, eps=numbers.pop("norm_eps"))
    with _timm_imported_from_elsewhere():
        return ViT(**numbers, img_size=plan.pretrain_img_size, norm_layer=norm_layer, **options)


@contextmanager
def _timm_imported_from_elsewhere() -> Iterator[None]:
    """Detectron2 imports timm's layers from where they lay before; that is not ours to change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing from timm.models.layers", FutureWarning)
        yield


def _numbers(path: Path, key: str) -> dict[str, Any]:
    return dict(CfgNode.load_yaml_with_base(f"{path}.yaml")[key])


def _loaded(backbone: nn.Module, path: Path) -> Evidence:
    DetectionCheckpointer(backbone).load(str(path))
    backbone.eval()

    def outputs(images: Tensor) -> dict[str, Tensor]:
        with torch.inference_mode():
            maps: dict[str, Tensor] = backbone(images)
        return maps

    return Evidence(library=LIBRARY, tensors=backbone.state_dict(), outputs=outputs)
