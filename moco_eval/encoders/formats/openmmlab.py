"""OpenMMLab's self-supervised training: OpenSelfSup, mmselfsup, mmpretrain, and DenseCL.

Their files carry the training's configuration as text of Python. It is searched and never run.
"""

from __future__ import annotations

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
_BOTTLENECKS = r"((?:wide_)?resne.t(?:50|101|152)\w*)"


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
        mean=tuple(number / 255 for number in mean),
        std=tuple(number / 255 for number in std),
        channel_order="RGB" if _RGB.search(text) else "BGR",
    )
