"""The gate between an encoder and a segmentation network, as detectors have one."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval.data.images import to_input
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.gate import TOLERANCE, Proof, check_backbone, check_tensors
from moco_eval.errors import CheckpointError
from moco_eval.semantic.model import Segmenter


def check(model: Segmenter, encoder: Encoder, image: Image.Image) -> Proof:
    """Hold that the network's backbone is the encoder: every tensor, and what it computes.

    A dilated ``res5`` computes something else than the encoder's: of such a network ``res2`` to
    ``res4`` are compared. A plain transformer sees the image as the encoder wants it.

    Args:
        model: Fresh.
        encoder: What it was built from.
        image: Any.

    Raises:
        CheckpointError: If a tensor or a map is another.
    """
    if not model.map.is_transformer:
        # A detector to all that the gate asks of it.
        detector: Any = model
        return check_backbone(detector, encoder, pil_to_tensor(image.convert("RGB")))
    num_tensors = check_tensors(model.backbone(), encoder)
    images = to_input(encoder.input)(image)[None].to(encoder.device)
    transformer: Any = encoder.network
    model.eval()
    with torch.inference_mode():
        wanted = transformer.forward_features(images)[:, transformer.num_prefix_tokens :]
        found = model.map.compute(images).flatten(2).transpose(1, 2)
    off = ((found - wanted).norm() / wanted.norm()).item()
    if not off <= TOLERANCE:
        raise CheckpointError(
            f"The network's backbone is not the encoder {encoder.name} ({encoder.arch}): "
            f"{num_tensors} tensors are the same, but the patch tokens of one image are off by "
            f"{100 * off:.2g} %. Training it would measure another network."
        )
    return Proof(num_tensors=num_tensors, difference_by_level={"last": off})
