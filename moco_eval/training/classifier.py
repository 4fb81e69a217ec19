"""An encoder with a new linear classifier on top, as fine-tuning trains it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval import distributed
from moco_eval.data.sampler import keyed_generator
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks import RESNET_STAGES
from moco_eval.errors import UsageError

HEAD_STD = 0.01
# What timm's networks call the places where a residual branch may be left out.
DROP_PATHS = ("drop_path", "drop_path1", "drop_path2")


class Classifier(nn.Module):
    """A copy of the encoder's network, every parameter of it trained, and a linear layer.

    The layer begins with weights of N(0, 0.01) and biases 0. What pretraining kept fixed, such as
    MoCo v3's patch projection, is trained as well, as in the papers' fine-tuning.

    Args:
        encoder: Stays as it is.
        num_classes: Outputs of the linear layer.
        seed: Alone decides its weights.
    """

    def __init__(self, encoder: Encoder, num_classes: int, *, seed: int) -> None:
        super().__init__()
        device = encoder.device
        spec = encoder.input
        probe = torch.zeros(1, len(spec.mean), spec.size, spec.size, device=device)
        dim = encoder.features(probe).shape[1]
        self.encoder = copy.deepcopy(encoder.network).requires_grad_(True)
        # torch would draw weights of its own first, from the generator that all share.
        with torch.device("meta"):
            self.head = nn.Linear(dim, num_classes)
        weight = torch.randn(num_classes, dim, generator=keyed_generator(seed, num_classes, dim))
        self.head.weight = nn.Parameter(HEAD_STD * weight)
        self.head.bias = nn.Parameter(torch.zeros(num_classes))
        # Convolutions run a third faster on this layout; what they compute is the same.
        self.to(device).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to logits ``(N, num_classes)``."""
        logits: Tensor = self.head(self.encoder(images))
        return logits

    @property
    def device(self) -> torch.device:
        device: torch.device = self.head.weight.device
        return device


def prepare(
    model: Classifier, *, drop_path: float = 0.0, batch_norm_momentum: float | None = None
) -> None:
    """Let ``model`` train as a recipe says, BatchNorm on the batches of all ranks.

    Args:
        model: Changed in place.
        drop_path: Share of the images for which the last residual branch is left out.
        batch_norm_momentum: Share of a batch's statistics that BatchNorm takes over.

    Raises:
        UsageError: If the network has no residual branches that can be left out.
    """
    if drop_path:
        drop_paths(model.encoder, drop_path)
    for module in model.modules():
        if batch_norm_momentum and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = batch_norm_momentum
    distributed.synchronize_batch_norm(model, model.device.type)
    model.train()


def parameter_groups(
    model: Classifier,
    *,
    weight_decay: float,
    layer_decay: float,
    decay_vectors: bool,
    head_lr_factor: float = 1.0,
) -> list[dict[str, Any]]:
    """The parameters by the learning rate and the weight decay that they share.

    Args:
        model: Of any network that ``layers_of`` knows, where layers differ.
        weight_decay: Of what decays.
        layer_decay: The classifier learns at the full rate, each layer below it at this share of
            the next one's: Clark et al., arXiv:2003.10555, as timm numbers layers.
        decay_vectors: Whether parameters of one dimension or none decay, and those that timm's
            networks name themselves.
        head_lr_factor: How many times the full rate the classifier learns at.

    Returns:
        Groups as torch's optimizers take them; ``lr_scale`` is the share of the learning rate.
    """
    network: Any = model.encoder
    spared = set() if decay_vectors else set(getattr(network, "no_weight_decay", set)())
    layers = layers_of(model.encoder) if layer_decay < 1 else {}
    head = 1 + max(layers.values(), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        inner = name.removeprefix("encoder.")
        is_head = inner == name
        scale = head_lr_factor if is_head else layer_decay ** (head - layers.get(inner, head))
        is_spared = not decay_vectors and (parameter.dim() <= 1 or inner in spared)
        groups.setdefault((scale, 0.0 if is_spared else weight_decay), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def layers_of(network: nn.Module) -> dict[str, int]:
    """The number of each parameter's layer, from the stem, 0, upwards, without a classifier.

    A torchvision ResNet's layers are its stem and its four stages; timm's networks number their
    own.

    Raises:
        UsageError: If nobody knows the network's layers.
    """
    names = [name for name, _ in network.named_parameters()]
    matcher = getattr(network, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        return dict(group_parameters(network, matcher(coarse=False), reverse=True))
    if not all(hasattr(network, stage) for stage in RESNET_STAGES):
        raise UsageError(
            f"Nobody knows the layers of a {type(network).__name__}: layer_decay is for ResNets "
            "and timm's networks. Take: --set layer_decay=1"
        )
    return {name: _stage_of(name, RESNET_STAGES) for name in names}


def _stage_of(name: str, stages: Iterable[str]) -> int:
    numbers = [number for number, stage in enumerate(stages, 1) if name.startswith(f"{stage}.")]
    return numbers[0] if numbers else 0


def drop_paths(network: nn.Module, rate: float) -> None:
    """Stochastic depth as timm builds it: block by block from 0 to ``rate``."""
    from timm.layers.drop import DropPath

    places: dict[str, list[str]] = {}
    for name, _ in network.named_modules():
        block, _, last = name.rpartition(".")
        if last in DROP_PATHS:
            places.setdefault(block, []).append(name)
    if not places:
        raise UsageError(
            f"A {type(network).__name__} has no residual branches that drop_path={rate:g} could "
            "leave out: that is for timm's networks. Take: --set drop_path=0"
        )
    rates = torch.linspace(0, rate, len(places)).tolist()
    for share, names in zip(rates, places.values(), strict=True):
        for name in names:
            network.set_submodule(name, DropPath(share))
