"""Views as upstream makes them: Pillow and torchvision, one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from moco_eval.data.images import InputSpec, normalize
from pretrain.view_parameters import ViewDistribution, ViewParameters, draw_views

_COLOUR: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "brightness": F.adjust_brightness,
    "contrast": F.adjust_contrast,
    "saturation": F.adjust_saturation,
    "hue": F.adjust_hue,
    "grayscale": lambda view, _: F.rgb_to_grayscale(view, num_output_channels=3),
}


def render(image: Image.Image, parameters: ViewParameters, *, size: int) -> Image.Image:
    """The view of an RGB image that ``parameters`` describe, ``size`` pixels square."""
    left, top, right, bottom = parameters.box
    view: Image.Image = F.resized_crop(image, top, left, bottom - top, right - left, [size, size])
    for name, amount in parameters.colour:
        view = _COLOUR[name](view, amount)
    if parameters.blur_sigma is not None:
        view = view.filter(ImageFilter.GaussianBlur(parameters.blur_sigma))
    if parameters.solarize:
        view = ImageOps.solarize(view)
    return ImageOps.mirror(view) if parameters.flip else view


@dataclass(frozen=True, kw_only=True)
class ReferenceViews:
    """The engine that the two others are held against."""

    spec: InputSpec
    num_views: int
    distributions: tuple[ViewDistribution, ...]

    def draw(self, image: Image.Image, keys: Sequence[int]) -> tuple[Tensor, ...]:
        """One normalised float view ``(3, size, size)`` for each key."""
        rgb = image.convert("RGB")
        drawn = draw_views(self.distributions, rgb.size, keys)
        views = [render(rgb, parameters, size=self.spec.size) for parameters in drawn]
        return tuple(normalize(F.pil_to_tensor(view), self.spec) for view in views)

    def finish(self, batch: Sequence[Tensor], device: str) -> list[Tensor]:
        """Move each view's batch ``(N, 3, size, size)`` to ``device``."""
        return [views.to(device, non_blocking=True) for views in batch]
