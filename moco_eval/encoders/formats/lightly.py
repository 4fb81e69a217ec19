"""Lightly's files: of its examples and benchmarks, of its old ResNets, of LightlyTrain."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Said, Tower, said_at

_LIGHTLY = "lightly-ai/lightly@e8d317fc:"
_LIGHTLY_TRAIN = "lightly-ai/lightly-train@8f5a75c4: src/lightly_train/"
_LIGHTNING = (("state_dict",), ())
_HEADS = (
    *("projection_head*", "prediction_head*", "prototypes*", "criterion*", "online_classifier.*"),
    *("student_*head*", "teacher_*head*", "key_projection_head*", "decoder*", "*criterion.*"),
)


def _towers(*names: str, within: tuple[str, ...] = ("",)) -> tuple[Tower, ...]:
    """Networks of a Lightning module that are called as its attributes are."""
    return tuple(
        Tower(
            name=name,
            containers=_LIGHTNING,
            prefixes=tuple(f"{name}.{inner}" for inner in within),
        )
        for name in names
    )


# What nn.Sequential makes of a ResNet's children: torchvision's have a ReLU and a pooling between.
_BY_INDEX = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    *((rf"^{3 + stage}\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
)
_OLD_BY_INDEX = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    *((rf"^{1 + stage}\.", f"layer{stage}.") for stage in (1, 2, 3, 4)),
    (r"\.shortcut\.", ".downsample."),
)


def joined_splits(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means of the statistics that a SplitBatchNorm keeps for each part of a batch.

    It takes them itself when it is put into eval mode (lightly/models/batchnorm.py).
    """
    for name, value in tensors.items():
        weight = tensors.get(re.sub(r"running_(mean|var)$", "weight", name))
        if weight is not None and weight is not value and value.dim() == 1:
            tensors[name] = value.reshape(-1, weight.numel()).mean(0)
    return tensors


def _normalised(said: Said) -> InputSpec | None:
    """How LightlyTrain fed the network, which the file says itself."""
    found = said_at(said, ("lightly_train", "normalize_args"))
    if not isinstance(found, Mapping) or not found.keys() >= {"mean", "std"}:
        return None
    return InputSpec(mean=tuple(found["mean"]), std=tuple(found["std"]))


def _wrapped(*names: str) -> tuple[Tower, ...]:
    """LightlyTrain's towers: torchvision's networks lie under one name, timm's under another."""
    inner = [f"{w}.{m}." for w in ("wrapped_model", "model_wrapper") for m in ("_features", "_model")]
    return tuple(
        Tower(
            name=name,
            containers=(("state_dict",),),
            prefixes=tuple(f"{name}_embedding_model.{each}" for each in inner),
        )
        if name != "embedding_model"
        else Tower(
            name=name,
            containers=(("state_dict",),),
            prefixes=tuple(f"{name}.{each}" for each in inner),
        )
        for name in names
    )
