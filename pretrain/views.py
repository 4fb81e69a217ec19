"""Image to views: the augmentations of MoCo v1 and v2, and those of the embedded digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval.data.images import DIGITS_INPUT, InputSpec, normalize
from moco_eval.data.sampler import draw_key

ViewFunction = Callable[[Image.Image], Tensor]


def input_of(views: str, size: int) -> InputSpec:
    """How an encoder that was trained on ``views`` of ``size`` pixels wants to be fed."""
    return replace(DIGITS_INPUT if views == "digits" else InputSpec(), size=size)


def view_function(views: str, size: int) -> ViewFunction:
    """Return the function that draws one view ``(3, size, size)`` of an image.

    All randomness is torch's default generator's, so that one seed fixes the view.
    """
    spec = input_of(views, size)
    augment = v2.Compose(_AUGMENTATIONS[views](size))

    def draw(image: Image.Image) -> Tensor:
        view = augment(image.convert("RGB"))
        pixels = view if isinstance(view, Tensor) else pil_to_tensor(view)
        return normalize(pixels, spec)

    return draw


class Views(Dataset[tuple[Tensor, ...]]):
    """Views of an image, drawn anew in every epoch and equal for equal (seed, epoch, image, view).

    An index is a pair (epoch, image). The result does not depend on which worker draws it, nor on
    what it drew before.
    """

    def __init__(
        self, images: Sequence[Image.Image], draw: ViewFunction, *, seed: int, num_views: int
    ) -> None:
        self.images = images
        self.draw = draw
        self.seed = seed
        self.num_views = num_views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: tuple[int, int]) -> tuple[Tensor, ...]:
        epoch, sample = index
        image = self.images[sample]
        views = []
        for view in range(self.num_views):
            # Not torch.manual_seed: that also seeds every accelerator, at 70 times the cost.
            torch.default_generator.manual_seed(draw_key(self.seed, epoch, sample, view))
            views.append(self.draw(image))
        return (*views, torch.tensor(sample))


class _Blur:
    """SimCLR's blur as MoCo v2 applies it: Pillow's, with sigma uniform in [0.1, 2]."""

    def __call__(self, image: Image.Image) -> Image.Image:
        sigma = torch.empty(()).uniform_(0.1, 2.0).item()
        return image.filter(ImageFilter.GaussianBlur(sigma))


def _mocov1(size: int) -> list[Callable[..., object]]:
    """Upstream main_moco.py: crop, grayscale, jitter (always, hue 0.4), flip, in this order."""
    return [
        v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
        v2.RandomGrayscale(0.2),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.4),
        v2.RandomHorizontalFlip(),
    ]


def _mocov2(size: int) -> list[Callable[..., object]]:
    """Upstream main_moco.py --aug-plus: crop, jitter, grayscale, blur, flip, in this order."""
    return [
        v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
        v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        v2.RandomGrayscale(0.2),
        v2.RandomApply([v2.Lambda(_Blur())], p=0.5),
        v2.RandomHorizontalFlip(),
    ]


def _digits(size: int) -> list[Callable[..., object]]:
    """A digit is itself when moved, turned a little, dimmed or noisy, but not when mirrored."""
    return [
        v2.Resize((size, size), antialias=True),
        v2.RandomAffine(
            degrees=15,
            translate=(0.1, 0.1),
            scale=(0.8, 1.2),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.ColorJitter(brightness=0.4),
        v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True),
        v2.GaussianNoise(sigma=0.05),
    ]


_AUGMENTATIONS = {"mocov1": _mocov1, "mocov2": _mocov2, "digits": _digits}
