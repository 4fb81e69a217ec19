"""Whether an encoder's ``InputSpec`` is the one that its weights were trained with.

Weights cannot prove it, but two things speak. The first BatchNorm remembers the variance of what
the first convolution gave during training, so that pixels of another scale show; and where timm
publishes weights under the architecture's name and tag, it says how those are fed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moco_eval.data.images import InputSpec, normalize
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.formats.inputs import CAFFE, IMAGENET, UNIT
from moco_eval.encoders.timm_facts import timm_input

# Of other scales: pixels on 0-1 and on 0-255, and those divided by a standard deviation.
ALTERNATIVES = {"imagenet": IMAGENET, "unit": UNIT, "caffe": CAFFE}
# In powers of two of the variance. Finer or coarser images than these move it by a factor of 6;
# these scales lie factors of 20 and more apart.
OFF_BY = 3.5


def input_warnings(encoder: Encoder, images: Tensor) -> list[str]:
    """What speaks against how the encoder is fed, in sentences.

    Args:
        encoder: Any encoder.
        images: ``(N, 3, H, W)`` on 0-1, in halves of two kinds; the one is looked at that fits
            the weights better.
    """
    found = [_unlike_statistics(encoder, images), _unlike_timm(encoder)]
    return [sentence for sentence in found if sentence]


def _unlike_statistics(encoder: Encoder, images: Tensor) -> str:
    layers = [m for m in encoder.network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    # Statistics of their own are somebody's measurement, and images of their own kind.
    common = [(spec.mean, spec.std) for spec in ALTERNATIVES.values()]
    if (encoder.input.mean, encoder.input.std) not in common or len(layers) < 2:
        return ""
    convolution, norm = layers[:2]
    if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return ""
    # Fresh statistics, and those that stand for an affine layer, are constant: nothing remembered.
    if norm.running_var is None or bool((norm.running_var == norm.running_var[0]).all()):
        return ""
    remembered = norm.running_var
    off = {
        (name, kind): abs(_off_by(convolution, remembered, spec, part))
        for kind, part in enumerate(images.chunk(2))
        for name, spec in ALTERNATIVES.items()
    }
    best, kind = min(off, key=lambda pair: off[pair])
    ours = abs(_off_by(convolution, remembered, encoder.input, images.chunk(2)[kind]))
    if ours - off[best, kind] < OFF_BY:
        return ""
    return (
        f"the input looks wrong for the weights: their first BatchNorm saw a variance "
        f"{2**ours:.3g} times off from this input's, and {2 ** off[best, kind]:.3g} times off from "
        f"that of --input {best}"
    )


def _off_by(convolution: nn.Conv2d, remembered: Tensor, spec: InputSpec, images: Tensor) -> float:
    """By how many powers of two the middle channel's variance is more than the remembered one."""
    with torch.inference_mode():
        outputs = convolution(normalize(images, spec).to(convolution.weight))
    ratio = (outputs.var((0, 2, 3)) / remembered).median().item()
    return math.log2(max(ratio, 1e-30))


def _unlike_timm(encoder: Encoder) -> str:
    tag = encoder.arch.removeprefix("timm:").partition(":")[0].partition(".")[2]
    if not tag:
        return ""
    fed, said = encoder.input, timm_input(encoder.arch, encoder.network, {})
    if said is None or (said.mean, said.std) == (fed.mean, fed.std):
        return ""
    return (
        f"timm feeds weights of the tag '{tag}' with mean {said.mean} and std {said.std}, and this "
        f"encoder is fed with mean {fed.mean} and std {fed.std}"
    )
