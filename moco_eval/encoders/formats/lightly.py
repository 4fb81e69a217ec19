"""Lightly's files: of its examples and benchmarks, of its old ResNets, of LightlyTrain."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Said, Tower, said_at
from moco_eval.encoders.formats.libraries import USUAL

_LIGHTLY = "lightly-ai/lightly@e8d317fc:"
_LIGHTLY_TRAIN = "lightly-ai/lightly-train@8f5a75c4: src/lightly_train/"
_LIGHTNING = (("state_dict",), ())
_HEAD_NAMES = ("head", "projection_head", "prediction_head", "dino_head", "ibot_head")
_HEADS = (
    *("projection_head*", "prediction_head*", "prototypes*", "online_classifier.*", "decoder*"),
    *(f"{role}_{head}*" for role in ("student", "teacher", "key") for head in _HEAD_NAMES),
    "*criterion.*",
)
_WRAPPED = tuple(
    f"{wrapper}.{network}."
    for wrapper in ("wrapped_model", "model_wrapper")
    for network in ("_features", "_model")
)
_TRAIN_DROPS = ("*_head.*", "*_head_*", "*queue*", "*criterion.*", f"{CLASSIFIER}.*")


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
        channels = 0 if weight is None else weight.numel()
        if 0 < channels < value.numel() and value.dim() == 1 and value.numel() % channels == 0:
            tensors[name] = value.reshape(-1, channels).mean(0)
    return tensors


def _normalised(said: Said) -> InputSpec | None:
    """How LightlyTrain fed the network, which the file says itself."""
    found = said_at(said, ("lightly_train", "normalize_args"))
    mean, std = (said_at(found, (key,)) for key in ("mean", "std"))
    return InputSpec(mean=mean, std=std) if _are_numbers(mean) and _are_numbers(std) else None


def _are_numbers(value: Any) -> bool:
    held = isinstance(value, (list, tuple)) and len(value) > 0
    return held and all(isinstance(number, (int, float)) for number in value)


LIGHTLY = (
    Format(
        name="lightly-train-distillation",
        title="LightlyTrain, distilled: the student",
        towers=_towers("student_embedding_model", within=_WRAPPED),
        says=(("lightly_train",),),
        marks=("student_projection_head*",),
        unmarked=("teacher_projection_head*",),
        # The teacher is a frozen network of somebody else's.
        drop=(*_TRAIN_DROPS, "teacher_embedding_model*"),
        input=_normalised,
        licence=("lightly_train", "license_info"),
        source=f"{_LIGHTLY_TRAIN}_checkpoint.py, _methods/distillation/distillation.py",
    ),
    Format(
        name="lightly-train",
        title="LightlyTrain",
        towers=_towers(
            *("teacher_embedding_model", "embedding_model", "student_embedding_model"),
            within=_WRAPPED,
        ),
        says=(("lightly_train",),),
        drop=_TRAIN_DROPS,
        input=_normalised,
        licence=("lightly_train", "license_info"),
        source=f"{_LIGHTLY_TRAIN}_checkpoint.py, _models/torchvision/resnet.py",
    ),
    Format(
        name="lightly-train-export",
        title="an embedding model that LightlyTrain exported; bare networks are as torchvision's",
        towers=(Tower(prefixes=_WRAPPED),),
        drop=("embed_head.*", f"{CLASSIFIER}.*"),
        input=IMAGENET,
        source=f"{_LIGHTLY_TRAIN}_commands/export.py",
    ),
    Format(
        name="lightly-benchmark",
        title="the benchmarks of lightly, ResNets and ViTs",
        # The first is what the author's module computes: DINO's teacher, MoCo's and BYOL's online
        # network. DINOv2 and iBOT have no 'backbone', and compute the teacher.
        towers=_towers(
            *("backbone", "teacher_backbone", "student_backbone", "key_backbone"),
            within=("vit.", ""),
        ),
        marks=("online_classifier.classification_head.*",),
        drop=(*_HEADS, "*backbone.mask_token", f"{CLASSIFIER}.*"),
        input=IMAGENET,
        source=f"{_LIGHTLY} benchmarks/imagenet/resnet50, benchmarks/imagenet/vitb16",
    ),
    Format(
        name="lightly-resnet",
        title="lightly's own ResNets for small images, in a module of its examples",
        towers=_towers("backbone", "backbone_momentum"),
        marks=("backbone.*.shortcut.0.weight",),
        drop=(*_HEADS, "linear.*"),
        rename=_OLD_BY_INDEX,
        transform=joined_splits,
        input=IMAGENET,
        source=f"{_LIGHTLY} lightly/models/resnet.py",
    ),
    Format(
        name="lightly-example",
        title="the examples of lightly: a torchvision ResNet as nn.Sequential of its children",
        # The student is what DINO's module computes.
        towers=_towers("backbone", "student_backbone", "backbone_momentum", "teacher_backbone"),
        marks=("*backbone.0.weight", "*backbone.7.0.conv1.weight"),
        drop=_HEADS,
        rename=_BY_INDEX,
        input=IMAGENET,
        source=f"{_LIGHTLY} examples/pytorch_lightning",
    ),
    # Whose training they are of is not to be seen: others have networks of these names as well.
    Format(
        name="shortcut-resnet",
        title="a ResNet for small images whose shortcuts bear that name, as lightly's",
        towers=(Tower(containers=USUAL),),
        marks=("conv1.weight", "layer2.0.shortcut.0.weight", "linear.weight"),
        drop=("linear.*",),
        rename=_OLD_BY_INDEX,
        transform=joined_splits,
        source=f"{_LIGHTLY} lightly/models/resnet.py",
    ),
)
