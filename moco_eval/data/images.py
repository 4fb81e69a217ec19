"""How an image becomes an encoder's input: the only place with a crop, a mean or a std."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from moco_eval.data.decoding import damage_of, decode
from moco_eval.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The embedded digits' own statistics, rounded: ink is 0.3 of the paper on average.
DIGITS_MEAN = (0.3, 0.3, 0.3)
DIGITS_STD = (0.35, 0.35, 0.35)


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How an encoder wants to be fed. It travels with the weights; nothing else holds these facts.

    Attributes:
        size: Side of the square input, in pixels.
        mean: Per channel, on the 0-1 scale, in ``channel_order``. One entry: the encoder takes
            the luminance of an image.
        std: Per channel, likewise.
        channel_order: The order in which the first convolution expects colours.
        interpolation: How an image is resized.
        crop_pct: Share of the resized short side that the centre crop keeps; 1 squashes nothing
            away, 0.875 is ImageNet's 224 of 256.
    """

    size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["RGB", "BGR"] = "RGB"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        # Lists are what JSON gives back.
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if self.size < 1 or not 0 < self.crop_pct <= 1 or min(self.std) <= 0:
            raise UsageError(f"{self} is no way to feed an encoder.")


DIGITS_INPUT = InputSpec(size=32, mean=DIGITS_MEAN, std=DIGITS_STD, crop_pct=1.0)


def open_image(path: Path) -> Image.Image:
    """Decode the image at ``path`` wholly.

    Raises:
        DamagedImageError: If it is missing, truncated, no image or too large; ``kind`` says which.
    """
    with damage_of(str(path)):
        data = path.read_bytes()
    return decode(data, str(path))


def to_input(spec: InputSpec) -> Callable[[Image.Image], Tensor]:
    """The test-time transform: resize, centre crop, normalise.

    Returns:
        A function from an image of any mode and size to a float tensor ``(3, size, size)``.
    """
    resize = v2.Resize(round(spec.size / spec.crop_pct), _interpolation(spec), antialias=True)
    crop = v2.CenterCrop(spec.size)

    def transform(image: Image.Image) -> Tensor:
        return normalize(F.pil_to_tensor(crop(resize(image.convert("RGB")))), spec)

    return transform


def to_training_input(
    spec: InputSpec,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    flip: bool = True,
    distort: Callable[[Image.Image], Image.Image] | None = None,
) -> Callable[[Image.Image, int], Tensor]:
    """The field's training transform: a random crop, resized and perhaps mirrored, normalised.

    Args:
        spec: How the encoder wants to be fed.
        scale: Share of the image's area that the crop keeps, from and to.
        flip: Whether every second crop is mirrored; digits and letters are not to be.
        distort: What happens to the crop before it becomes a tensor, such as RandAugment.

    Returns:
        A function from an image of any mode and size, and the key that alone decides the draw, to
        a float tensor ``(3, size, size)``.
    """
    crop = v2.RandomResizedCrop(spec.size, scale, interpolation=_interpolation(spec))
    mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)

    def transform(image: Image.Image, key: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(key)
            cropped = mirror(crop(image.convert("RGB")))
        return normalize(F.pil_to_tensor(distort(cropped) if distort else cropped), spec)

    return transform


def normalize(pixels: Tensor, spec: InputSpec) -> Tensor:
    """Turn RGB pixels ``(..., 3, H, W)``, uint8 or float on 0-1, into the encoder's input.

    Returns:
        ``(..., C, H, W)``, with as many channels as ``spec`` has means: 3, or 1.
    """
    scaled = F.to_dtype(pixels, torch.float32, scale=True)
    if len(spec.mean) == 1:
        scaled = F.rgb_to_grayscale(scaled)
    elif spec.channel_order == "BGR":
        scaled = scaled.flip(-3)
    normalized: Tensor = F.normalize(scaled, list(spec.mean), list(spec.std))
    return normalized


def denormalize(inputs: Tensor, spec: InputSpec) -> Tensor:
    """Undo ``normalize``: RGB on 0-1, clamped, for pictures of what the network sees."""
    mean = inputs.new_tensor(spec.mean).view(-1, 1, 1)
    std = inputs.new_tensor(spec.std).view(-1, 1, 1)
    pixels = (inputs * std + mean).clamp(0, 1)
    return pixels.flip(-3) if spec.channel_order == "BGR" else pixels


def _interpolation(spec: InputSpec) -> v2.InterpolationMode:
    return v2.InterpolationMode(spec.interpolation)
