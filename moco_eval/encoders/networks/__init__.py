"""An architecture's name becomes a network, and a network's last layer is found by its name."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torchvision.ops import Permute

from moco_eval.encoders.networks import mocov3_vit
from moco_eval.encoders.networks.resnets import build_resnet, is_resnet, resnets
from moco_eval.encoders.networks.timm_networks import PREFIX, build_timm
from moco_eval.errors import UsageError, unknown

# Of the four levels, in a network that halves its map before each but the first.
STRIDES = (4, 8, 16, 32)
# The names of torchvision and of timm; the activation's, after bn1, are two.
RESNET_STEM = ("conv1", "bn1", "maxpool")
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
# Those of timm's other networks.
STEMS = ("stem", "patch_embed")
STAGES = (
    ("s1", "s2", "s3", "s4"),
    *(tuple(f"{name}.{number}" for number in range(4)) for name in ("stages", "layers")),
)


def build_network(
    arch: str,
    *,
    num_classes: int = 0,
    in_chans: int = 3,
    image_size: int | None = None,
    zero_init_residual: bool = False,
) -> nn.Module:
    """Build ``arch`` with fresh weights from torch's default generator.

    Args:
        arch: A torchvision ResNet (``resnet50``) or what ``resnets`` makes of one
            (``resnet18_cifar``, ``resnet50_w2x``), a transformer of MoCo v3's
            (``vit_small_mocov3``) or any timm model (``timm:vit_small_patch16_224``), with
            options or without (``timm_networks.py``).
        num_classes: Outputs of the last linear layer; 0 leaves it out, so that the network
            returns pooled features ``(N, D)``.
        in_chans: Channels of the images.
        image_size: Their side in pixels; networks that take any side do not need it, others have
            one of their own.
        zero_init_residual: See ``build_resnet``; other networks keep their own initialisation.

    Raises:
        UsageError: If nobody knows ``arch``, in which case the nearest name is offered, or it
            cannot be built for such images.
    """
    if arch.startswith(PREFIX):
        return build_timm(arch, num_classes=num_classes, in_chans=in_chans, image_size=image_size)
    if arch in mocov3_vit.PLANS:
        return mocov3_vit.build_vit(
            arch, num_classes=num_classes, in_chans=in_chans, image_size=image_size
        )
    if arch == "pixels":
        return _Pixels()
    if not is_resnet(arch):
        known = (*resnets(), *mocov3_vit.PLANS, "pixels")
        raise UsageError(
            f"{unknown('architecture', arch, known)} After a ResNet's name may stand _w2x to _w9x "
            "for that many times the channels, then _cifar for a stem that keeps 32-pixel images "
            "whole. timm:NAME[:key=value,...] takes timm's."
        )
    network = build_resnet(
        arch,
        num_classes=max(num_classes, 1),
        in_chans=in_chans,
        zero_init_residual=zero_init_residual,
    )
    return network if num_classes else with_last_layer(network, nn.Identity())


def classifier_names(network: nn.Module) -> tuple[str, ...]:
    """What the network calls its last layer, dotted where it lies inside another (``head.fc``).

    One name; two where timm's distilled networks have two classifiers; none where timm knows none.
    """
    config: Any = getattr(network, "pretrained_cfg", None)
    if config is None:
        return ("fc",) if hasattr(network, "fc") else ("head",)
    names = config.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def classifier_name(network: nn.Module) -> str:
    """The one name of ``classifier_names``.

    Raises:
        UsageError: If there are two or none.
    """
    names = classifier_names(network)
    if len(names) != 1:
        raise UsageError(
            f"A {type(network).__name__} has {len(names)} classifiers{' '.join(('', *names))}; "
            "a projector takes the place of exactly one. Take another architecture."
        )
    return names[0]


def projector_slot(network: nn.Module) -> tuple[str, int]:
    """The name of the last linear layer, where a projector goes, and its input's dimension.

    Args:
        network: As ``build_network`` made it, with ``num_classes``.

    Raises:
        UsageError: If the network does not end in one linear layer.
    """
    name = classifier_name(network)
    last = dict(network.named_modules()).get(name)
    if not isinstance(last, nn.Linear):
        raise UsageError(
            f"A {type(network).__name__} has no last linear layer to make a projector of: its "
            f"'{name}' is a {type(last).__name__}. Take another architecture."
        )
    return name, last.in_features


def with_last_layer(network: nn.Module, module: nn.Module) -> nn.Module:
    """Put ``module`` in the place of the network's classifier; the same network comes back."""
    network.set_submodule(classifier_name(network), module)
    return network


def without_projector(network: nn.Module) -> nn.Module:
    """A copy of a network that ``build_network`` made, returning its pooled features instead."""
    return with_last_layer(copy.deepcopy(network), nn.Identity())


def has_resnet_parts(network: nn.Module) -> bool:
    """Whether ``resnet_parts`` can split it."""
    return all(hasattr(network, name) for name in (*RESNET_STEM, *RESNET_STAGES))


def resnet_parts(network: nn.Module) -> tuple[nn.Sequential, tuple[nn.Module, ...]]:
    """Split a ResNet into its stem and its four stages.

    Returns:
        The stem up to and including the max pooling, and ``layer1`` to ``layer4``.

    Raises:
        UsageError: If the network is no ResNet of torchvision's naming.
    """
    if not has_resnet_parts(network):
        raise _without_levels(network)
    modules = dict(network.named_children())
    # torchvision calls the activation relu, timm act1.
    activation = modules["relu"] if "relu" in modules else modules["act1"]
    stem = nn.Sequential(modules["conv1"], modules["bn1"], activation, modules["maxpool"])
    return stem, tuple(modules[name] for name in RESNET_STAGES)


def stages_of(network: nn.Module) -> tuple[nn.Module, tuple[nn.Module, ...]]:
    """Split any network of a stem and four stages, so that each stage takes the one before it.

    Args:
        network: A ResNet, or one of timm's whose four stages end at strides 4, 8, 16 and 32:
            ConvNeXt, RegNet, a Swin that takes images of any size.

    Returns:
        The stem and the stages. All map ``(N, C, h, w)`` to ``(N, C', h', w')``, also where the
        network keeps its channels last.

    Raises:
        UsageError: If the network has no such stages, or takes images of one size alone.
    """
    if has_resnet_parts(network):
        return resnet_parts(network)
    by_stride = _parts_by_stride(network)
    names = tuple(by_stride[stride][1] for stride in STRIDES if stride in by_stride)
    stem = next((name for name in STEMS if hasattr(network, name)), None)
    if stem is None or names not in STAGES:
        raise _without_levels(network)
    _require_any_size(network)
    parts = [network.get_submodule(name) for name in (stem, *names)]
    if getattr(network, "output_fmt", "NCHW") == "NHWC":
        first, last = Permute([0, 2, 3, 1]), Permute([0, 3, 1, 2])
        stages = [nn.Sequential(first, part, last) for part in parts[1:]]
        return nn.Sequential(parts[0], last), tuple(stages)
    return parts[0], tuple(parts[1:])


def level_maps(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The feature maps ``(N, C, h, w)`` of strides 4, 8, 16 and 32.

    Args:
        network: A ResNet, whose four stages these are (a small stem leaves their strides smaller),
            or a hierarchical network of timm's: ConvNeXt, Swin, RegNet.
        images: ``(N, C, H, W)``, normalised.

    Raises:
        UsageError: If the network has no such maps.
    """
    by_stride = _parts_by_stride(network)
    if hasattr(network, "layer4") or not by_stride.keys() >= set(STRIDES):
        stem, stages = resnet_parts(network)
        maps = [stem(images)]
        for stage in stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[1:])
    hierarchical: Any = network
    indices = [by_stride[stride][0] for stride in STRIDES]
    return tuple(
        hierarchical.forward_intermediates(images, indices=indices, intermediates_only=True)
    )


def _parts_by_stride(network: nn.Module) -> dict[int, tuple[int, str]]:
    """Of timm's networks, the number and the name of the part that ends at each stride."""
    info: Any = getattr(network, "feature_info", None)
    # Of several maps of one stride the last counts.
    return {
        part["reduction"]: (index, part.get("module", "")) for index, part in enumerate(info or ())
    }


def _require_any_size(network: nn.Module) -> None:
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    if config.get("fixed_input_size") and not getattr(network, "dynamic_img_size", False):
        raise UsageError(
            f"This {type(network).__name__} takes images of one size alone, and a detector gives "
            "it scenes of many and the regions in them. A Swin takes any size when it is built so: "
            "add strict_img_size=false to its architecture, as in "
            "timm:swin_tiny_patch4_window7_224:strict_img_size=false."
        )


def _without_levels(network: nn.Module) -> UsageError:
    return UsageError(
        f"A {type(network).__name__} has no levels res2 to res5: no stem and four stages that end "
        "at strides 4, 8, 16 and 32. Detection and segmentation take ResNets, timm's ConvNeXt, "
        "RegNet and Swin, and plain transformers where a recipe has a pyramid. linear, knn, "
        "finetune, lowshot and svm take this encoder."
    )


class _Pixels(nn.Module):
    """The image itself as its feature: the floor under every encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.fc: nn.Module = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to ``(N, H * W)``, the channels averaged."""
        features: torch.Tensor = self.fc(images.mean(1).flatten(1))
        return features
