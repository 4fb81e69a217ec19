"""The encoder: a pretrained network without its projector, and all that later stages must know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.data.images import InputSpec
from moco_eval.encoders.networks import level_maps
from moco_eval.encoders.networks.pooling import POOLED, pooled

LEVELS = ("res2", "res3", "res4", "res5")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where an encoder comes from and what was done to get it.

    Attributes:
        source: The specification that was loaded: a file's name, ``timm:NAME``, ``random:ARCH``.
        format: The row of ``FORMATS`` that claimed the file.
        tower: Which of the file's networks was taken, such as ``encoder_q``.
        arch: What ``build_network`` was given.
        arch_by: Who said so: the ``file``, the ``user``, or names and ``shapes``.
        input: How the encoder wants to be fed.
        num_loaded: How many tensors were loaded, all of the architecture's.
        loaded: The keys of the file that they came from.
        dropped: The keys of the file that a named rule left out.
        adapted: What was done to the network afterwards, in sentences.
        caveat: In which respect it computes something else than at its author's.
        file_sha256: Of the file's bytes; empty where there was no file.
        licence: As the file says it; empty where it does not.
        pretrain: What the file says of its training: method, epochs, recipe.
    """

    source: str
    format: str
    tower: str
    arch: str
    input: InputSpec
    num_loaded: int
    arch_by: str = "user"
    loaded: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    caveat: str = ""
    file_sha256: str = ""
    licence: str = ""
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
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

    @property
    def name(self) -> str:
        """What tables call it where nobody gave it a name."""
        return self.manifest.source

    def features(self, images: Tensor, kind: str = POOLED) -> Tensor:
        """Features ``(N, D)`` of normalised images ``(N, C, size, size)``.

        Args:
            images: As ``input`` says.
            kind: One of ``pooling.py``; the default is what the network itself gives.

        Raises:
            UsageError: If the network has no such feature.
        """
        with torch.inference_mode():
            return pooled(self.network, images, kind)

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps ``(N, C, h, w)`` of strides 4 to 32, by the names of ``LEVELS``.

        Raises:
            UsageError: If the network has no such maps.
        """
        with torch.inference_mode():
            return dict(zip(LEVELS, level_maps(self.network, images), strict=True))

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
