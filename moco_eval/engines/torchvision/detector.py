"""What every detector of this engine has: an encoder's input, a backbone, the gate's evidence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from moco_eval import distributed
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.examples import Detector
from moco_eval.engines.torchvision.backbone import Backbone
from moco_eval.engines.torchvision.boxes import batch_images
from moco_eval.engines.transformer import layers_of


class BuiltDetector(Detector):
    """A detector on a backbone.

    Args:
        encoder: How it wants to be fed.
        body: The backbone, a copy of the encoder in it.
    """

    def __init__(self, encoder: Encoder, body: Backbone) -> None:
        super().__init__()
        self.input = encoder.input
        self.body = body
        self.layer_of = layers_of(encoder)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def finish(self, encoder: Encoder) -> None:
        """Go to the encoder's device and let the ranks share the norms that are trained."""
        self.to(encoder.device)
        distributed.synchronize_batch_norm(self, encoder.device.type)

    def images(self, pixels: Sequence[Tensor]) -> ImageList:
        """A batch of ``(3, h, w)`` uint8 RGB, normalised and padded as the backbone needs it."""
        return batch_images(pixels, self.input, multiple=self.body.multiple, device=self.device)

    def backbone(self) -> dict[str, Tensor]:
        """All tensors of the copied network."""
        return self.body.tensors()

    @torch.inference_mode()
    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """The encoder's maps of one image, as far as the backbone computes the same."""
        return self.body.levels(self.images([pixels]).tensors)

    def layers(self) -> dict[str, int]:
        """The number of each parameter's layer in a transformer, from 0, for ``layer_decay``."""
        return {f"body.network.{name}": number for name, number in self.layer_of.items()}
