"""Views finished on the training device: the workers crop, the device colours and blurs in batches.

On the device pixels are whole numbers from 0 to 255 held as floats. Every operation ends as
Pillow's does, cut off or rounded to a whole number, because half a level lost in each of six
operations is seen in the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from moco_eval.data.images import InputSpec, normalize
from pretrain.crops import cut
from pretrain.pillow_blur import blur_taps
from pretrain.view_parameters import ViewDistribution, ViewParameters, draw_views

# A view's parameters as one row of numbers: five colour steps, each its place in _COLOUR and its
# amount; whether it is solarized; the blur's weights, centred.
_NUM_STEPS = 5
_SOLARIZE = 2 * _NUM_STEPS
_TAPS = _SOLARIZE + 1
_NUM_TAPS = 13
_NO_STEP = -1.0

# ITU-R 601, as Pillow turns colour into brightness.
_LUMA = (0.299, 0.587, 0.114)


def parameter_row(parameters: ViewParameters) -> list[float]:
    """The parameters of all that ``render`` does to one view."""
    row: list[float] = []
    for name, amount in parameters.colour:
        row += [float(_NAMES.index(name)), amount]
    row += [_NO_STEP, 0.0] * (_NUM_STEPS - len(parameters.colour))
    sigma = parameters.blur_sigma
    taps = [1.0] if sigma is None else blur_taps(sigma).tolist()
    margin = [0.0] * ((_NUM_TAPS - len(taps)) // 2)
    return [*row, float(parameters.solarize), *margin, *taps, *margin]


def render(crops: Tensor, rows: Tensor) -> Tensor:
    """All that comes after crop, resize and flip, on a batch in which every view has its own.

    Args:
        crops: ``(N, 3, H, W)``, uint8, on the device.
        rows: ``(N, 24)``, the rows of ``parameter_row``, on the CPU, so that no device is waited
            for to know which views an operation concerns.

    Returns:
        ``(N, 3, H, W)``, whole numbers from 0 to 255 as floats.
    """
    views = crops.float()
    for step in range(_NUM_STEPS):
        names, amounts = rows[:, 2 * step], rows[:, 2 * step + 1]
        for place, colour in enumerate(_COLOUR):
            _change(views, names == place, colour, amounts)
    taps = rows[:, _TAPS:]
    _change(views, taps[:, _NUM_TAPS // 2] < 1, _blur, taps)
    _change(views, rows[:, _SOLARIZE] == 1, _solarize, rows)
    return views


def _change(
    views: Tensor, chosen: Tensor, operation: Callable[[Tensor, Tensor], Tensor], amounts: Tensor
) -> None:
    """Replace the ``chosen`` views by what ``operation`` makes of them and their amounts."""
    indices = chosen.nonzero().squeeze(1)
    if len(indices):
        places = indices.to(views.device, non_blocking=True)
        theirs = amounts[indices].to(views.device, non_blocking=True)
        views[places] = operation(views[places], theirs)


def _blend(views: Tensor, start: Tensor | float, factors: Tensor) -> Tensor:
    """Go from ``start`` towards ``views``, and beyond where a factor is above 1."""
    blended = start + factors.view(-1, 1, 1, 1) * (views - start)
    return blended.floor_().clamp_(0, 255)


def _brightness(views: Tensor, factors: Tensor) -> Tensor:
    return _blend(views, 0.0, factors)


def _contrast(views: Tensor, factors: Tensor) -> Tensor:
    means = _gray(views).mean((1, 2, 3), keepdim=True)
    return _blend(views, (means + 0.5).floor(), factors)


def _saturation(views: Tensor, factors: Tensor) -> Tensor:
    return _blend(views, _gray(views), factors)


def _grayscale(views: Tensor, _: Tensor) -> Tensor:
    return _gray(views).expand_as(views)


def _gray(views: Tensor) -> Tensor:
    """Brightness ``(N, 1, H, W)``."""
    red, green, blue = views.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).round_().unsqueeze(1)


def _hue(views: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue, passing through bytes of hue and saturation as Pillow does."""
    red, green, blue = views.unbind(1)
    value, chroma = views.amax(1), views.amax(1) - views.amin(1)
    span = chroma.clamp(min=1)
    sixths = torch.where(
        red == value,
        (green - blue) / span,
        torch.where(green == value, 2 + (blue - red) / span, 4 + (red - green) / span),
    )
    shift = (turns * 255).trunc().view(-1, 1, 1)
    hue = ((sixths / 6).remainder(1) * 255).floor().add(shift).remainder(256)
    saturation = (chroma / value.clamp(min=1) * 255).floor()
    # Each channel falls from the value by the chroma, in full over a third of the circle.
    fall = value * saturation / 255
    channels = []
    for start in (5, 3, 1):
        place = (hue * (6 / 255) + start).remainder(6)
        channels.append(value - fall * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1).round_()


def _blur(views: Tensor, taps: Tensor) -> Tensor:
    """Blur rows, then columns, with each view's own weights ``(N, 13)``."""
    reach = _NUM_TAPS // 2
    rows = _mix(pad(views, (reach, reach, 0, 0), mode="replicate"), taps, dim=3)
    return _mix(pad(rows, (0, 0, reach, reach), mode="replicate"), taps, dim=2).round_()


def _mix(padded: Tensor, taps: Tensor, *, dim: int) -> Tensor:
    """The sum of the shifts along ``dim``, each weighed by its tap."""
    length = padded.shape[dim] - _NUM_TAPS + 1
    weights = taps.view(-1, _NUM_TAPS, 1, 1, 1)
    mixed = padded.narrow(dim, 0, length) * weights[:, 0]
    for shift in range(1, _NUM_TAPS):
        mixed.addcmul_(padded.narrow(dim, shift, length), weights[:, shift])
    return mixed


def _solarize(views: Tensor, _: Tensor) -> Tensor:
    return torch.where(views >= 128, 255 - views, views)


_BY_NAME: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "hue": _hue,
    "grayscale": _grayscale,
}
_NAMES = tuple(_BY_NAME)
_COLOUR = tuple(_BY_NAME.values())


@dataclass(frozen=True, kw_only=True)
class DeviceViews:
    """The engine that leaves to the workers only what needs the decoded image."""

    spec: InputSpec
    num_views: int
    distributions: tuple[ViewDistribution, ...]

    def draw(self, image: Image.Image, keys: Sequence[int]) -> tuple[Tensor, ...]:
        """One uint8 crop ``(size, size, 3)`` for each key, and the keys' rows of parameters."""
        drawn = draw_views(self.distributions, image.size, keys)
        crops = cut(image, [parameters.box for parameters in drawn], size=self.spec.size)
        # Bytes are mirrored sooner than floats, and no later operation tells left from right.
        mirrored = [
            crop.flip(1) if parameters.flip else crop
            for crop, parameters in zip(crops, drawn, strict=True)
        ]
        return (*mirrored, torch.tensor([parameter_row(parameters) for parameters in drawn]))

    def finish(self, batch: Sequence[Tensor], device: str) -> list[Tensor]:
        """From crops ``(N, size, size, 3)`` and rows to floats ``(N, 3, size, size)``."""
        *crops, rows = batch
        views = []
        for view, pixels in enumerate(crops):
            moved = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
            views.append(normalize(render(moved, rows[:, view]) / 255, self.spec))
        return views
