"""How the field's encoders are fed, by name; a user may say one: ``--input imagenet,size=448``."""

from __future__ import annotations

import dataclasses
from typing import Any

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.errors import UsageError, unknown

IMAGENET = InputSpec()
# Resized as most transformers' authors evaluate them.
IMAGENET_BICUBIC = InputSpec(interpolation="bicubic")
# Pixels on 0-1 and nothing else.
UNIT = InputSpec(mean=(0.0,) * 3, std=(1.0,) * 3)
# Its s.d. of red is 0.228 where everybody's is 0.229.
SWAV = InputSpec(std=(0.228, 0.224, 0.225))
# Inception's, and AugReg's ViTs'.
HALF = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", crop_pct=0.9)
CLIP = InputSpec(
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    interpolation="bicubic",
    crop_pct=1.0,
)
# DINOv3's satellite images.
SAT493M = InputSpec(mean=(0.430, 0.411, 0.296), std=(0.213, 0.156, 0.143), interpolation="bicubic")
# Pixels on 0-255, blue first, less their mean: Caffe's, and Detectron2's own ResNets'.
CAFFE = InputSpec(
    mean=(103.53 / 255, 116.28 / 255, 123.675 / 255),
    std=(1 / 255,) * 3,
    channel_order="BGR",
)
# The data sets' own statistics, as solo-learn has them.
CIFAR10 = InputSpec(
    size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), crop_pct=1.0
)

INPUTS = {
    "imagenet": IMAGENET,
    "imagenet-bicubic": IMAGENET_BICUBIC,
    "unit": UNIT,
    "swav": SWAV,
    "half": HALF,
    "clip": CLIP,
    "sat493m": SAT493M,
    "caffe": CAFFE,
    "cifar10": CIFAR10,
    "digits": DIGITS_INPUT,
}


def parse_input(text: str, known: InputSpec | None) -> InputSpec:
    """What a user says of how an encoder is fed, on top of what is known.

    Args:
        text: Names of ``INPUTS`` and ``key=value`` of ``InputSpec``, between commas; the channels
            of a mean or a std lie between slashes: ``imagenet,size=448``, ``mean=0.5,std=0.25``.
        known: What the file or its format says; None if they say nothing.

    Raises:
        UsageError: If a name, a key or a value is none, or mean and std stay unknown.
    """
    changes: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals:
            if key not in INPUTS:
                raise unknown("input", key, INPUTS)
            known = INPUTS[key]
        elif key not in _READERS:
            raise unknown("key of --input called", key, _READERS)
        else:
            changes[key] = _read(part, key, value)
    if known is None and not {"mean", "std"} <= changes.keys():
        raise UsageError(
            f"--input {text} leaves open how images are normalised, and the file does not say it. "
            f"Name one of {', '.join(INPUTS)}, or give both mean= and std=."
        )
    channels = {key: len(changes[key]) for key in ("mean", "std") if key in changes}
    if len(set(channels.values())) > 1:
        raise UsageError(f"--input {text}: mean and std are of different numbers of channels.")
    return dataclasses.replace(known or IMAGENET, **changes)


def _read(part: str, key: str, value: str) -> Any:
    try:
        return _READERS[key](value)
    except ValueError as error:
        raise UsageError(f"--input {part}: {value} is no {key} ({error}).") from error


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split("/"))


def _one_of(*names: str) -> Any:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"expected {' or '.join(names)}")
        return text

    return read


_READERS: dict[str, Any] = {
    "size": int,
    "mean": _numbers,
    "std": _numbers,
    "channel_order": _one_of("RGB", "BGR"),
    "interpolation": _one_of("bilinear", "bicubic"),
    "crop_pct": float,
}
