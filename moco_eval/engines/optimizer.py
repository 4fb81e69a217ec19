"""The optimizer of a dense model: which weights decay, and which learn more slowly."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from moco_eval.engines.recipe import Training

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """SGD as Detectron2 builds it, or AdamW as ViTDet does; the weights of norms do not decay.

    Args:
        model: Its method ``layers``, where it has one, gives each parameter's layer by name, from
            0, for ``layer_decay``; parameters without one learn at the full rate. ViTDet's position
            embeddings do not decay either (arXiv:2203.16527, appendix A.2).
        training: The optimizer's numbers.
    """
    norms = {
        parameter
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    layers: dict[str, int] = getattr(model, "layers", dict)() if training.layer_decay < 1 else {}
    top = 1 + max(layers.values(), default=-1)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter in norms or name.endswith("pos_embed")
        decay = 0.0 if spared else training.weight_decay
        scale = training.layer_decay ** (top - layers.get(name, top))
        groups.setdefault((scale, decay), []).append(parameter)
    described: list[dict[str, Any]] = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(described, training.lr, weight_decay=training.weight_decay)
    return torch.optim.SGD(described, training.lr, momentum=training.sgd_momentum)
