"""What is drawn for one view of an image: its crop, its colours, its blur, its mirroring.

The draws are apart from their application, so that three engines can apply the same ones: Pillow
as upstream does (``reference_views``), OpenCV (``fast_views``), and batches on the training device
(``device_views``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import torch

Box = tuple[int, int, int, int]

# What torchvision's crop tries before it falls back on the centre, and the shapes it may have.
_CROP_TRIES = 10
_CROP_ASPECT = (3 / 4, 4 / 3)
_BLUR_SIGMA = (0.1, 2.0)
# More than the draws of any view: four a crop's try, four to order the jitter, ten for the rest.
_NUM_DRAWS = 4 * _CROP_TRIES + 4 + 10


@dataclass(frozen=True, kw_only=True)
class ViewParameters:
    """One view, wholly decided. The fields apply in this order.

    Attributes:
        box: The crop (left, top, right, bottom) in pixels, resized to the view's square.
        colour: Steps in the order in which they apply, each a name and its amount: brightness,
            contrast and saturation with the factor that keeps the image at 1; hue with its shift in
            turns; grayscale, whose amount means nothing.
        blur_sigma: In pixels of the view, or None for no blur.
        solarize: Whether pixels of 128 and above are inverted.
        flip: Whether left and right change places.
    """

    box: Box
    colour: tuple[tuple[str, float], ...]
    blur_sigma: float | None
    solarize: bool
    flip: bool


@dataclass(frozen=True, kw_only=True)
class ViewDistribution:
    """Where a view's parameters come from. Every view is mirrored with probability a half.

    Attributes:
        crop_scale: Least and greatest share of the image's area that the crop takes.
        jitter: Half the width of the factors' ranges: brightness, contrast, saturation, hue.
        jitter_probability: Of the four jitters together, in random order.
        grayscale_probability: Of losing all colour.
        grayscale_first: Whether grayscale comes before the jitter instead of after it.
        blur_probability: Of a blur with sigma uniform in [0.1, 2].
        solarize_probability: Of solarizing.
    """

    crop_scale: tuple[float, float]
    jitter: tuple[float, float, float, float]
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.2
    grayscale_first: bool = False
    blur_probability: float = 0.0
    solarize_probability: float = 0.0


def _mocov3(least_area: float) -> tuple[ViewDistribution, ViewDistribution]:
    """Upstream main_moco.py of moco-v3: the first view always blurred, the second solarized."""
    jitter = (0.4, 0.4, 0.2, 0.1)
    scale = (least_area, 1.0)
    return (
        ViewDistribution(crop_scale=scale, jitter=jitter, blur_probability=1.0),
        ViewDistribution(
            crop_scale=scale, jitter=jitter, blur_probability=0.1, solarize_probability=0.2
        ),
    )


# The distributions of the views of an image, in turn. CIFAR's mirrors before it jitters, which
# changes nothing: no colour depends on where a pixel stands.
DISTRIBUTIONS: dict[str, tuple[ViewDistribution, ...]] = {
    # Upstream main_moco.py: crop, grayscale, jitter, flip.
    "mocov1": (
        ViewDistribution(
            crop_scale=(0.2, 1.0),
            jitter=(0.4, 0.4, 0.4, 0.4),
            jitter_probability=1.0,
            grayscale_first=True,
        ),
    ),
    # Upstream main_moco.py --aug-plus: crop, jitter, grayscale, blur, flip.
    "mocov2": (
        ViewDistribution(crop_scale=(0.2, 1.0), jitter=(0.4, 0.4, 0.4, 0.1), blur_probability=0.5),
    ),
    # The ViT's of MoCo v3, then the ResNet's: --crop-min 0.08 and 0.2.
    "mocov3": _mocov3(0.08),
    "mocov3-resnet": _mocov3(0.2),
    # The MoCo authors' CIFAR-10 notebook: crop, flip, jitter, grayscale.
    "cifar10": (ViewDistribution(crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.4, 0.1)),),
}


def draw_views(
    distributions: Sequence[ViewDistribution], image_size: tuple[int, int], keys: Sequence[int]
) -> list[ViewParameters]:
    """Draw an image's views, one for each key, from the distributions in turn."""
    turns = zip(keys, cycle(distributions), strict=False)
    return [draw_parameters(turn, image_size, key=key) for key, turn in turns]


def draw_parameters(
    distribution: ViewDistribution, image_size: tuple[int, int], *, key: int
) -> ViewParameters:
    """Draw one view's parameters for an image of ``image_size`` (width, height).

    They depend on ``key``, a seed of at most 63 bits, and on nothing drawn elsewhere. Only the box
    depends on the image's size.
    """
    draws = _Draws(key)
    jitter = _draw_jitter(distribution, draws)
    gray = [("grayscale", 1.0)] if draws.chance(distribution.grayscale_probability) else []
    sigma = draws.uniform(*_BLUR_SIGMA)
    return ViewParameters(
        colour=tuple(gray + jitter if distribution.grayscale_first else jitter + gray),
        blur_sigma=sigma if draws.chance(distribution.blur_probability) else None,
        solarize=draws.chance(distribution.solarize_probability),
        flip=draws.chance(0.5),
        box=_draw_box(distribution.crop_scale, image_size, draws),
    )


class _Draws:
    """Uniform numbers that a key decides, drawn at once: a call to torch costs as much as fifty."""

    def __init__(self, key: int) -> None:
        generator = torch.Generator().manual_seed(key)
        self._uniform = iter(
            torch.rand(_NUM_DRAWS, generator=generator, dtype=torch.float64).tolist()
        )

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(next(self._uniform))

    def chance(self, probability: float) -> bool:
        return self.uniform(0, 1) < probability

    def integer(self, greatest: int) -> int:
        """From 0 to ``greatest``, both included."""
        return int(self.uniform(0, greatest + 1))

    def order(self, steps: list[tuple[str, float]]) -> list[tuple[str, float]]:
        """The steps in one of their orders, each as likely as another."""
        ranks = {name: self.uniform(0, 1) for name, _ in steps}
        return sorted(steps, key=lambda step: ranks[step[0]])


def _draw_jitter(distribution: ViewDistribution, draws: _Draws) -> list[tuple[str, float]]:
    """As torchvision's ColorJitter: every factor uniform, the four in random order."""
    applies = draws.chance(distribution.jitter_probability)
    brightness, contrast, saturation, hue = distribution.jitter
    steps = [
        ("brightness", draws.uniform(1 - brightness, 1 + brightness)),
        ("contrast", draws.uniform(1 - contrast, 1 + contrast)),
        ("saturation", draws.uniform(1 - saturation, 1 + saturation)),
        ("hue", draws.uniform(-hue, hue)),
    ]
    return draws.order(steps) if applies else []


def _draw_box(scale: tuple[float, float], image_size: tuple[int, int], draws: _Draws) -> Box:
    """As torchvision's RandomResizedCrop: area uniform, aspect log-uniform, place uniform."""
    width, height = image_size
    least, greatest = (math.log(aspect) for aspect in _CROP_ASPECT)
    for _ in range(_CROP_TRIES):
        area = width * height * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(least, greatest))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = draws.integer(height - crop_height)
            left = draws.integer(width - crop_width)
            return (left, top, left + crop_width, top + crop_height)
    return _central_box(width, height)


def _central_box(width: int, height: int) -> Box:
    """The greatest central crop whose aspect is allowed, for an image too long to be cropped."""
    least, greatest = _CROP_ASPECT
    crop_width, crop_height = width, height
    if width / height < least:
        crop_height = round(width / least)
    elif width / height > greatest:
        crop_width = round(height * greatest)
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return (left, top, left + crop_width, top + crop_height)
