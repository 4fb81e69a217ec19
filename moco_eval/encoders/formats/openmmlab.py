"""OpenMMLab's self-supervised training: OpenSelfSup, mmselfsup, mmpretrain, and DenseCL.

Their files carry the training's configuration as text of Python. It is searched and never run.
"""

from __future__ import annotations

import dataclasses
import re

from moco_eval.data.images import InputSpec
from moco_eval.encoders.formats.inputs import IMAGENET
from moco_eval.encoders.formats.layout import CLASSIFIER, Format, Pairs, Said, Tower, said_at

_STATE = (("state_dict",),)
_NUMBERS = re.compile(r"\b(mean|std)\s*=\s*[\[(]\s*([\d.]+)\s*,\s*([\d.]+)\s*,\s*([\d.]+)")
_RGB = re.compile(r"\b(?:bgr_to_rgb|to_rgb)\s*=\s*True")
_CAFFE = re.compile(r"\bstyle\s*=\s*['\"]caffe['\"]")
_MOCO_SMALL = re.compile(r"\barch\s*=\s*['\"]mocov3-s(?:mall)?['\"]")
# Networks of bottlenecks, whose stride may lie in the first convolution.
_BOTTLENECKS = r"((?:wide_)?resnex?t(?:50|101|152)\w*)"


def _text_of(said: Said) -> str:
    found = (said_at(said, ("meta", key)) for key in ("cfg", "config"))
    return next((text for text in found if isinstance(text, str)), "")


def _arch_names(said: Said) -> Pairs:
    """What the configuration says of the network, and its names and shapes do not."""
    text, pairs = _text_of(said), []
    if _CAFFE.search(text):
        pairs.append((_BOTTLENECKS, r"\1_v1"))
    if _MOCO_SMALL.search(text):
        pairs.append((r"timm:vit_small_patch16_224", "vit_small_mocov3"))
    # mmpretrain's ViT-small is 768 wide, with heads of 96.
    small = r"(timm:vit_base_\w+:depth=8,)(.*mlp_ratio=3(?:\.0)?(?:,.*)?)"
    return (*pairs, (small, r"\1\2,num_heads=8"))


def _fed(said: Said) -> InputSpec | None:
    """How the configuration feeds the network; None where it has several normalisations.

    Values on 0-255 are of images that OpenCV read, blue first, unless the configuration turns
    them.
    """
    text = _text_of(said)
    found: dict[str, set[tuple[float, ...]]] = {"mean": set(), "std": set()}
    for name, *numbers in _NUMBERS.findall(text):
        found[name].add(tuple(float(number) for number in numbers))
    if not found["mean"] and not found["std"]:
        return IMAGENET
    if len(found["mean"]) != 1 or len(found["std"]) != 1:
        return None
    (mean,), (std,) = found["mean"], found["std"]
    if max(mean) <= 1:
        return InputSpec(mean=mean, std=std)
    return InputSpec(
        # 123.675 / 255 is 0.485 but for the last bit.
        mean=tuple(round(number / 255, 12) for number in mean),
        std=tuple(round(number / 255, 12) for number in std),
        channel_order="RGB" if _RGB.search(text) else "BGR",
    )


_MMPRETRAIN_VIT = (
    (r"^layers\.", "blocks."),
    (r"^(blocks\.\d+)\.ln([12])\.", r"\1.norm\2."),
    (r"^ln1\.", "norm."),
    # Of the mean of patches.
    (r"^ln2\.", "fc_norm."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"\.attn\.gamma1\.weight$", ".ls1.gamma"),
    (r"\.ffn\.gamma2\.weight$", ".ls2.gamma"),
)

# timm's ResNet-D has a place for a pooling in every shortcut, mmpretrain's V1d where one is needed.
_V1D = (
    *((rf"^stem\.{i}\.conv\.", f"conv1.{3 * i}.") for i in (0, 1, 2)),
    *((rf"^stem\.{i}\.bn\.", f"conv1.{3 * i + 1}.") for i in (0, 1)),
    (r"^stem\.2\.bn\.", "bn1."),
    (r"^layer1\.0\.downsample\.1\.", "layer1.0.downsample.2."),
    (r"^layer1\.0\.downsample\.0\.", "layer1.0.downsample.1."),
)

_HEADS = (
    *("head.*", "neck.*", "queue*", "memory_bank.*", "prototypes*", "target_generator.*"),
    # Once more the backbone, then the neck.
    *("encoder_q.*", "online_net.*"),
    *("encoder_k.1.*", "target_net.1.*", "encoder_k.module.1.*", "target_net.module.1.*"),
    *("momentum_encoder.module.1.*", "*.steps", "steps", f"{CLASSIFIER}.*"),
)


def _mmcv(name: str, title: str, version: str, source: str) -> Format:
    """A code base on mmcv, whose files say its version."""
    return Format(
        name=name,
        title=title,
        towers=(
            Tower(name="backbone", containers=_STATE, prefixes=("backbone.",)),
            Tower(name="encoder_k", containers=_STATE, prefixes=("encoder_k.0.",)),
            Tower(name="target_net", containers=_STATE, prefixes=("target_net.0.",)),
        ),
        says=(("meta", version),),
        drop=_HEADS,
        arch_names=_arch_names,
        input=_fed,
        source=source,
    )


_MMENGINE = Format(
    name="mmengine",
    title="mmselfsup 1.x and mmpretrain, ResNets and ViTs",
    towers=(
        Tower(name="backbone", containers=_STATE, prefixes=("backbone.",)),
        Tower(name="encoder_k", containers=_STATE, prefixes=("encoder_k.module.0.",)),
        Tower(name="target_net", containers=_STATE, prefixes=("target_net.module.0.",)),
        Tower(name="momentum_encoder", containers=_STATE, prefixes=("momentum_encoder.module.0.",)),
        # With EMAHook the averaged weights lie in state_dict, and here those of the last step.
        Tower(name="ema_state_dict", containers=(("ema_state_dict",),), prefixes=("backbone.",)),
    ),
    says=(("meta", "mmengine_version"),),
    unmarked=("*stem.0.conv.weight",),
    drop=(*_HEADS, "data_preprocessor.*"),
    rename=_MMPRETRAIN_VIT,
    arch_names=_arch_names,
    heads={1280: 16, 1408: 16},
    input=_fed,
    source=(
        "open-mmlab/mmengine@25434293: mmengine/runner/runner.py; "
        "open-mmlab/mmpretrain@ee7f2e88: mmpretrain/models/backbones"
    ),
)

OPENMMLAB = (
    _mmcv(
        "openselfsup",
        "OpenSelfSup and DenseCL, ResNets",
        "openselfsup_version",
        "open-mmlab/OpenSelfSup@1db69ec: openselfsup/models/moco.py, byol.py, tools/train.py",
    ),
    _mmcv(
        "mmselfsup-0",
        "mmselfsup 0.x, ResNets",
        "mmselfsup_version",
        "open-mmlab/mmselfsup 0.x: tools/train.py",
    ),
    dataclasses.replace(
        _MMENGINE,
        name="mmengine-v1d",
        title="mmpretrain's ResNet-D (V1d)",
        marks=_MMENGINE.unmarked,
        unmarked=(),
        rename=_V1D,
    ),
    _MMENGINE,
)
