"""Image to views: the augmentations of MoCo v1, v2 and v3, of CIFAR-10 and of the digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Protocol

from PIL import Image
from torch import Tensor

from moco_eval.data.images import DIGITS_INPUT, InputSpec
from moco_eval.errors import UsageError, unknown
from pretrain.view_parameters import DISTRIBUTIONS

ENGINES = ("reference", "fast", "device")

# The data set's own statistics, as the MoCo authors' CIFAR-10 notebook rounds them.
CIFAR10_INPUT = InputSpec(
    size=32, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), crop_pct=1.0
)
_INPUTS = {"digits": DIGITS_INPUT, "cifar10": CIFAR10_INPUT}


class Augmentation(Protocol):
    """How an image becomes its views: half in a loader's worker, half in the training process."""

    @property
    def spec(self) -> InputSpec:
        """How an encoder that is trained on these views wants to be fed."""

    @property
    def num_views(self) -> int:
        """Views of one image."""

    def draw(self, image: Image.Image, keys: Sequence[int]) -> tuple[Tensor, ...]:
        """What the worker does for one image.

        Args:
            image: Of any mode, decoded or only opened. A JPEG that was only opened may be decoded
                at less than its size, and is then no good for a second call.
            keys: For each view the seed, of at most 63 bits, that decides it.

        Returns:
            Tensors of shapes that depend on the augmentation alone, for ``default_collate``.

        Raises:
            OSError: If the image is truncated or damaged; SyntaxError and
                ``PIL.Image.DecompressionBombError`` likewise, as Pillow raises them.
        """

    def finish(self, batch: Sequence[Tensor], device: str) -> list[Tensor]:
        """Turn what ``draw`` returned, collated, into views.

        Returns:
            For each view normalised floats ``(N, C, size, size)`` on ``device``.
        """


def input_of(views: str, size: int, *, in_chans: int = 3) -> InputSpec:
    """How an encoder that was trained on ``views`` of ``size`` pixels wants to be fed.

    One channel is normalised by the mean of the colours' means and of their deviations.
    """
    spec = replace(_INPUTS.get(views, InputSpec()), size=size)
    if in_chans == 3:
        return spec
    return replace(spec, mean=(fmean(spec.mean),), std=(fmean(spec.std),))


def augmentation(
    views: str,
    size: int,
    *,
    in_chans: int = 3,
    engine: str = "reference",
    num_views: int = 2,
) -> Augmentation:
    """The augmentation called ``views``, made by ``engine``.

    The engines draw the same parameters for the same key and differ in how they apply them:
    ``reference`` is upstream's Pillow; ``fast`` does the same on one core in a fraction of the
    time; ``device`` leaves colours and blur to the training device. The last two are within 2 of
    255 of the first, on average over a photograph.

    Args:
        views: A name of ``DISTRIBUTIONS``, or ``digits``.
        size: Side of a view, in pixels.
        in_chans: 3 for colour, 1 for luminance.
        engine: One of ``ENGINES``; digits have the reference alone.
        num_views: Views of one image; where their distributions differ, they take turns.

    Raises:
        UsageError: If there is no such augmentation or engine.
    """
    if engine not in ENGINES:
        raise unknown("engine of views", engine, ENGINES)
    spec = input_of(views, size, in_chans=in_chans)
    if views == "digits":
        if engine != "reference":
            raise UsageError(
                f"The digits' views have no engine '{engine}': at 32 pixels there is nothing to "
                "save. Take the engine 'reference'."
            )
        from pretrain.digit_views import DigitViews

        return DigitViews(spec=spec, num_views=num_views)
    if views not in DISTRIBUTIONS:
        raise unknown("augmentation", views, [*DISTRIBUTIONS, "digits"])
    return _engine(engine)(spec=spec, num_views=num_views, distributions=DISTRIBUTIONS[views])


def _engine(name: str) -> Callable[..., Augmentation]:
    """An engine's class, imported when asked for: the reference does without OpenCV."""
    if name == "fast":
        from pretrain.fast_views import FastViews

        return FastViews
    if name == "device":
        from pretrain.device_views import DeviceViews

        return DeviceViews
    from pretrain.reference_views import ReferenceViews

    return ReferenceViews
