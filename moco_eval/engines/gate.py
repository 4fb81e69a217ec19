"""The gate between an encoder and a detector: nothing is trained unless one is in the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval.data.images import normalize
from moco_eval.encoders.encoder import Encoder, is_counter
from moco_eval.engines.examples import Detector
from moco_eval.errors import CheckpointError

# Two implementations of the same layers differ by rounding alone.
TOLERANCE = 1e-4
# The stride of res5.
COARSEST = 32


def check_backbone(detector: Detector, encoder: Encoder, pixels: Tensor) -> None:
    """Hold that the detector's backbone is the encoder: every tensor, and what it computes.

    Equal tensors are not enough: with a stride or a colour channel in another place every tensor
    fits and the features are others.

    Args:
        detector: Fresh from its engine.
        encoder: What it was built from.
        pixels: One image, ``(3, h, w)`` uint8 RGB, for the features.

    Raises:
        CheckpointError: If a tensor is missing, left over or different, or ``res4`` or ``res5``
            is; all of them are named.
    """
    expected, found = _counted(encoder.tensors()), _counted(detector.backbone())
    wrong = [f"missing: {name}" for name in expected if name not in found]
    wrong += [f"not the encoder's: {name}" for name in found if name not in expected]
    wrong += [
        f"different: {name}"
        for name in expected
        if name in found and not torch.equal(expected[name], found[name])
    ]
    if not wrong:
        wrong = _wrong_levels(detector, encoder, pixels)
    if wrong:
        shown = "\n  ".join(wrong[:12]) + ("\n  ..." if len(wrong) > 12 else "")
        raise CheckpointError(
            f"The detector's backbone is not the encoder {encoder.name} ({encoder.arch}). Of "
            f"{len(expected)} tensors and two levels, {len(wrong)} differ:\n  {shown}\n"
            "Training it would measure another network. Try the other engine: --engine torchvision"
        )


def _counted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # No output depends on BatchNorm's step counters.
    return {name: tensor for name, tensor in tensors.items() if not is_counter(name)}


def _wrong_levels(detector: Detector, encoder: Encoder, pixels: Tensor) -> list[str]:
    # To whole strides: with what is left of an image, detectors and networks deal each as they do.
    height, width = pixels.shape[1:]
    pixels = F.pad(pixels, (0, -width % COARSEST, 0, -height % COARSEST))
    device = next(encoder.network.parameters()).device
    expected = encoder.levels(normalize(pixels[None].to(device), encoder.input))
    detector.eval()
    wrong = []
    for level, found in detector.levels(pixels).items():
        wanted = expected[level]
        if found.shape != wanted.shape:
            wrong.append(f"features at {level}: {list(found.shape)}, not {list(wanted.shape)}")
            continue
        off = ((found - wanted).norm() / wanted.norm()).item()
        if not off <= TOLERANCE:
            wrong.append(f"features at {level}: off by {100 * off:.2g} %")
    return wrong
