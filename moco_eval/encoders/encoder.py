"""The encoder: a pretrained network without its projector, and all that later stages must know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.networks import resnet_parts

LEVELS = ("res2", "res3", "res4", "res5")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where an encoder comes from and what was done to get it.

    Attributes:
        source: The specification that was loaded: a file's name, ``timm:NAME``, ``random:ARCH``.
        format: The row of ``formats.py`` that claimed the file.
        tower: Which of the file's networks was taken, such as ``encoder_q``.
        arch: What ``build_network`` was given.
        input: How the encoder wants to be fed.
        num_loaded: How many tensors were loaded, all of the architecture's.
        dropped: The keys of the file that a named rule left out.
        file_sha256: Of the file's bytes; empty where there was no file.
        pretrain: What the file says of its training: method, epochs, recipe.
    """

    source: str
    format: str
    tower: str
    arch: str
    input: InputSpec
    num_loaded: int
    dropped: tuple[str, ...] = ()
    file_sha256: str = ""
    pretrain: Mapping[str, Any] = field(default_factory=dict)


class Encoder:
    """A network that turns images into features, frozen and in eval mode.

    Args:
        network: Maps ``(N, 3, H, W)`` to pooled features ``(N, D)``.
        manifest: Its provenance and its input.
    """

    def __init__(self, network: nn.Module, manifest: Manifest) -> None:
        self.network = network.eval().requires_grad_(False)
        self.manifest = manifest

    @property
    def arch(self) -> str:
        return self.manifest.arch

    @property
    def input(self) -> InputSpec:
        return self.manifest.input

    @property
    def name(self) -> str:
        """What tables call it where nobody gave it a name."""
        return self.manifest.source

    def features(self, images: Tensor) -> Tensor:
        """Pooled features ``(N, D)`` of normalised images ``(N, 3, size, size)``."""
        with torch.inference_mode():
            output: Tensor = self.network(images)
        return output

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs of a ResNet's four stages, by the names of ``LEVELS``.

        Raises:
            UsageError: If the network has no such stages.
        """
        stem, stages = resnet_parts(self.network)
        outputs = {}
        with torch.inference_mode():
            hidden = stem(images)
            for level, stage in zip(LEVELS, stages, strict=True):
                hidden = outputs[level] = stage(hidden)
        return outputs

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers under their canonical names, those of torchvision or timm."""
        return dict(self.network.state_dict())

    def tensor_sha256(self) -> str:
        """A hash of all weights that is the same whatever file they came from."""
        return tensor_sha256(self.tensors())


def is_counter(name: str) -> bool:
    """Whether it counts BatchNorm's steps: nothing depends on the count, some formats lack it."""
    return name.endswith("num_batches_tracked")


def tensor_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes, sorted by name.

    BatchNorm's step counters are left out: no output depends on them and some formats lack them.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if is_counter(name):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
