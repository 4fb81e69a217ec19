"""Which weights of a dense model decay and how fast each learns, also as Detectron2 has it."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from moco_eval.engines.optimizer import build_optimizer
from moco_eval.engines.recipe import Training
from moco_eval.engines.recipes import RECIPES

SGD = Training(num_iterations=1, batch_total=1, lr=0.1, weight_decay=1e-4)
ADAMW = dataclasses.replace(SGD, optimizer="adamw", lr=1e-4, weight_decay=0.1, layer_decay=0.5)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 4)


class Transformer(nn.Module):
    """A plain transformer's parameters in a detector, and a head."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 4))
        self.patch_embed = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(4, 2)

    def layers(self):
        stem = dict.fromkeys(("pos_embed", "patch_embed.weight", "patch_embed.bias"), 0)
        blocks = {
            name: 1 + int(name.split(".")[1])
            for name, _ in self.named_parameters()
            if name.startswith("blocks.")
        }
        return stem | blocks


def settings_of(model, optimizer):
    """Weight decay and share of the learning rate of each parameter that is trained, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], group["lr_scale"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_norms_do_not_decay_and_what_is_frozen_is_left_out():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2)
    )
    model[3].weight.requires_grad_(False)
    optimizer = build_optimizer(model, SGD)
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["momentum"] == 0.9
    assert settings_of(model, optimizer) == {
        "0.weight": (1e-4, 1),
        "0.bias": (1e-4, 1),
        "1.weight": (0, 1),
        "1.bias": (0, 1),
        "2.weight": (0, 1),
        "2.bias": (0, 1),
        "3.bias": (1e-4, 1),
    }


def test_a_transformers_layers_learn_the_slower_the_lower_they_are():
    model = Transformer()
    optimizer = build_optimizer(model, ADAMW)
    assert isinstance(optimizer, torch.optim.AdamW)
    found = settings_of(model, optimizer)
    # Two blocks: the upper learns at half the rate, the lower at a quarter, the stem at an eighth.
    assert found["head.weight"] == (0.1, 1)
    assert found["blocks.1.linear.weight"] == (0.1, 0.5)
    assert found["blocks.0.linear.bias"] == (0.1, 0.25)
    assert found["blocks.0.norm.weight"] == (0, 0.25)
    assert found["patch_embed.weight"] == (0.1, 0.125)
    assert found["pos_embed"] == (0, 0.125)
    assert len(found) == len(list(model.parameters()))


def test_groups_come_in_the_same_order_each_time():
    # A checkpoint knows parameters by their places alone.
    first = [settings_of(m, build_optimizer(m, ADAMW)) for m in (Transformer(), Transformer())]
    assert list(first[0]) == list(first[1])


@pytest.mark.detectron2
def test_a_transformers_settings_are_vitdets():
    from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
    from detectron2.solver.build import get_default_optimizer_params

    model = Transformer()
    inner = nn.ModuleDict({"backbone": nn.ModuleDict({"net": model}), "roi_heads": nn.Linear(4, 2)})
    # There the head lies outside of the backbone; what of this one does is told by its name.
    upstream = get_default_optimizer_params(
        inner,
        base_lr=1.0,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        lr_factor_func=partial(get_vit_lr_decay_rate, num_layers=2, lr_decay_rate=0.5),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    expected = {
        names[parameter]: (group["weight_decay"], group["lr"])
        for group in upstream
        for parameter in group["params"]
        if parameter in names
    }
    assert settings_of(model, build_optimizer(model, ADAMW)) == expected


@pytest.mark.detectron2
@pytest.mark.parametrize("name", ["voc-c4-24k", "coco-fpn-1x"])
def test_a_detectors_settings_are_detectron2s(make_encoder, name):
    from detectron2.solver.build import get_default_optimizer_params

    from moco_eval.engines.detectron import build

    recipe = dataclasses.replace(RECIPES[name], roi_batch=8)
    detector = build(make_encoder("resnet18"), recipe, num_classes=2)
    upstream = get_default_optimizer_params(
        detector, base_lr=1.0, weight_decay=recipe.weight_decay, weight_decay_norm=0.0
    )
    names = {parameter: name for name, parameter in detector.named_parameters()}
    expected = {
        names[parameter]: (group["weight_decay"], group["lr"])
        for group in upstream
        for parameter in group["params"]
    }
    assert settings_of(detector, build_optimizer(detector, recipe)) == expected
