"""A network that gives every pixel of an image a class."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from moco_eval import distributed
from moco_eval.data.images import normalize
from moco_eval.data.sampler import draw_key
from moco_eval.data.semantic import IGNORED
from moco_eval.encoders.encoder import Encoder
from moco_eval.semantic.backbone import feature_map
from moco_eval.semantic.recipe import SemanticRecipe
from moco_eval.training.classifier import layers_of

CLASSIFIER_STD = 0.01
_NORMS = nn.modules.batchnorm._BatchNorm


class Segmenter(nn.Module):
    """A copy of the encoder and a head; called with a batch, it returns its loss.

    In a run of several processes its BatchNorms see the batches of all of them.

    Args:
        encoder: Stays as it is.
        recipe: Decides the head, the dilation and what is frozen.
        num_classes: Outputs for each pixel.
        seed: Decides the head's first weights.

    Raises:
        UsageError: If the encoder has no map of features.
    """

    def __init__(
        self, encoder: Encoder, recipe: SemanticRecipe, *, num_classes: int, seed: int
    ) -> None:
        super().__init__()
        self.input = encoder.input
        self.freeze = recipe.freeze
        self.num_classes = num_classes
        self.network = copy.deepcopy(encoder.network).requires_grad_(recipe.freeze != "encoder")
        in_chans = len(encoder.input.mean)
        channels = feature_map(self.network, in_chans=in_chans, dilate=False).channels
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw_key(seed, 0))
            self.head = _head(recipe, channels, num_classes)
        # Convolutions run a third faster on this layout; what they compute is the same.
        self.to(encoder.device).to(memory_format=torch.channels_last)
        distributed.synchronize_batch_norm(self, encoder.device.type)
        # After the norms are in place: it holds on to the network's parts.
        self.map = feature_map(self.network, in_chans=in_chans, dilate=recipe.head == "fcn")
        if recipe.freeze == "norms":
            for norm in self._norms():
                norm.requires_grad_(False)
        self.train(self.training)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.network.parameters()).device

    def train(self, mode: bool = True) -> Segmenter:
        """As torch's, but what is frozen stays in eval mode."""
        super().train(mode)
        if self.freeze == "encoder":
            self.network.eval()
        if self.freeze == "norms":
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, batch: Sequence[Tensor]) -> dict[str, Tensor]:
        """The cross entropy of all pixels that have a class.

        Args:
            batch: Normalised images ``(N, C, H, W)`` and classes ``(N, H, W)``, of this rank.

        Returns:
            ``loss_pixel``, whose mean over the ranks is the mean over the pixels of all ranks.
        """
        images, labels = batch[0].to(self.device), batch[1].to(self.device).long()
        total = F.cross_entropy(self.logits(images), labels, ignore_index=IGNORED, reduction="sum")
        count = distributed.total((labels != IGNORED).sum())
        # A batch may show nothing that has a class: its loss is 0.
        return {"loss_pixel": total * distributed.world_size() / count.clamp(min=1)}

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images ``(N, C, H, W)`` to logits ``(N, num_classes, H, W)``."""
        padded = self.map.grid.pad(images).contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.freeze != "encoder"):
            features = self.map.compute(padded)
        points: Tensor = self.head(features)
        height, width = images.shape[-2:]
        return self.map.grid.spread(points, (height, width))

    @torch.no_grad()
    def predict(self, image: Image.Image) -> Tensor:
        """The likeliest class of each pixel ``(height, width)`` int64, in eval mode."""
        self.eval()
        pixels = pil_to_tensor(image.convert("RGB")).to(self.device)
        return self.logits(normalize(pixels, self.input)[None])[0].argmax(0)

    def backbone(self) -> dict[str, Tensor]:
        """The tensors that must be the encoder's, under the encoder's names."""
        return dict(self.network.state_dict())

    def levels(self, pixels: Tensor) -> dict[str, Tensor]:
        """The encoder's maps in it, of RGB pixels ``(3, h, w)``; not the one that is dilated."""
        with torch.no_grad():
            images = normalize(pixels[None].to(self.device), self.input)
            return self.map.levels(images)

    def layers(self) -> dict[str, int]:
        """Each of the encoder's parameters and its layer, from 0; the head's have none."""
        return {f"network.{name}": layer for name, layer in layers_of(self.network).items()}

    def settings(self) -> dict[str, Any]:
        """What a record says of its map."""
        return {"stride": self.map.grid.stride, "dilated": self.map.is_dilated}

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if isinstance(module, _NORMS)]


def _head(recipe: SemanticRecipe, channels: int, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    if recipe.head == "linear":
        layers.append(nn.BatchNorm2d(channels))
    else:
        for _ in range(2):
            width, dilation = recipe.head_channels, recipe.head_dilation
            convolution = nn.Conv2d(
                channels, width, 3, padding=dilation, dilation=dilation, bias=False
            )
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    classifier = nn.Conv2d(channels, num_classes, 1)
    nn.init.normal_(classifier.weight, std=CLASSIFIER_STD)
    assert classifier.bias is not None, "a classifier has a bias"
    nn.init.zeros_(classifier.bias)
    return nn.Sequential(*layers, classifier)
