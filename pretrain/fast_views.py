"""The reference's views in a quarter of its time on one core: OpenCV's kernels on bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from moco_eval.data.images import InputSpec, normalize
from pretrain.crops import cut
from pretrain.pillow_blur import blur_taps
from pretrain.view_parameters import ViewDistribution, ViewParameters, draw_views

# Bytes (H, W, 3); OpenCV's hints do not say so.
Pixels = npt.NDArray[Any]

# ITU-R 601, as Pillow turns colour into brightness.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Affine maps (3, 4) of colours: to gray and to black.
_TO_GRAY = np.hstack([np.tile(_LUMA, (3, 1)), np.zeros((3, 1), np.float32)])
_TO_BLACK = np.zeros((3, 4), np.float32)
_IDENTITY = np.eye(3, 4, dtype=np.float32)
# OpenCV rounds where Pillow cuts off; a hair less than a half keeps whole numbers whole.
_CUT_OFF = 0.499


def _blend(pixels: Pixels, start: npt.NDArray[np.float32], factor: float) -> Pixels:
    """Go from the image that the affine map ``start`` makes towards ``pixels`` and beyond."""
    mixing = (1 - factor) * start + factor * _IDENTITY
    mixing[:, 3] -= _CUT_OFF
    return cv2.transform(pixels, mixing)


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return _blend(pixels, _TO_BLACK, factor)


def _contrast(pixels: Pixels, factor: float) -> Pixels:
    to_mean = np.zeros((3, 4), np.float32)
    to_mean[:, 3] = int(np.dot(_LUMA, cv2.mean(pixels)[:3]) + 0.5)
    return _blend(pixels, to_mean, factor)


def _saturation(pixels: Pixels, factor: float) -> Pixels:
    return _blend(pixels, _TO_GRAY, factor)


def _grayscale(pixels: Pixels, _: float) -> Pixels:
    return cv2.transform(pixels, _TO_GRAY)


def _hue(pixels: Pixels, turns: float) -> Pixels:
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)
    # A hue is a byte: what passes the end of the circle starts again.
    hsv[..., 0] += np.uint8(int(turns * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


_COLOUR: dict[str, Callable[[Pixels, float], Pixels]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "grayscale": _grayscale,
}


def render(crop: Pixels, parameters: ViewParameters) -> Pixels:
    """All that comes after crop and resize, on pixels ``(size, size, 3)``."""
    view = crop
    for name, amount in parameters.colour:
        view = _COLOUR[name](view, amount)
    if parameters.blur_sigma is not None:
        taps = blur_taps(parameters.blur_sigma)
        view = cv2.sepFilter2D(view, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)
    if parameters.solarize:
        # Below 128 a value is the smaller of itself and its inverse, from 128 on its inverse is.
        view = np.minimum(view, 255 - view)
    return cv2.flip(view, 1) if parameters.flip else view


@dataclass(frozen=True, kw_only=True)
class FastViews:
    """The engine for machines with few cores to an accelerator.

    Each of its operations is within 2 of 255 of the reference's, on average over a photograph.
    Views travel as bytes, a quarter of floats' traffic between processes, and are normalised on
    the device.
    """

    spec: InputSpec
    num_views: int
    distributions: tuple[ViewDistribution, ...]

    def draw(self, image: Image.Image, keys: Sequence[int]) -> tuple[Tensor, ...]:
        """One uint8 view ``(size, size, 3)`` for each key."""
        drawn = draw_views(self.distributions, image.size, keys)
        crops = cut(image, [parameters.box for parameters in drawn], size=self.spec.size)
        return tuple(
            torch.from_numpy(render(crop.numpy(), parameters))
            for crop, parameters in zip(crops, drawn, strict=True)
        )

    def finish(self, batch: Sequence[Tensor], device: str) -> list[Tensor]:
        """From bytes ``(N, size, size, 3)`` to normalised floats ``(N, 3, size, size)``."""
        moved = [views.to(device, non_blocking=True) for views in batch]
        return [normalize(views.permute(0, 3, 1, 2), self.spec) for views in moved]
