"""Which feature of an image a frozen network gives: a ``kind`` of feature, by its name.

``pooled``: as the network itself pools. ``cls``: the class token. ``mean``: the mean of the patch
tokens, or of the last feature map. ``cls+mean``: both, side by side. ``last4``: the class tokens of
the last four blocks, each normalised, as DINO's linear probe takes them (arXiv:2104.14294,
appendix F.2; facebookresearch/dino, eval_linear.py); any number of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moco_eval.encoders.networks import resnet_parts
from moco_eval.errors import UsageError

POOLED = "pooled"
KIND = re.compile(r"pooled|cls|mean|cls\+mean|last[1-9]\d*")


def require_kind(kind: str) -> None:
    """Refuse what is no kind of feature.

    Raises:
        UsageError: With those there are.
    """
    if not KIND.fullmatch(kind):
        raise UsageError(
            f"There is no feature '{kind}'. Known: pooled, cls, mean, cls+mean, and last1, last2 "
            "and so on for the class tokens of as many blocks."
        )


def kinds_of(network: nn.Module) -> tuple[str, ...]:
    """The kinds of feature that ``network`` has; of ``lastN`` the greatest."""
    if not _is_transformer(network):
        return (POOLED, "mean") if _has_map(network) else (POOLED,)
    if getattr(network, "cls_token", None) is None:
        return (POOLED, "mean")
    return (POOLED, "cls", "mean", "cls+mean", f"last{len(_blocks(network))}")


def pooled(network: nn.Module, images: Tensor, kind: str = POOLED) -> Tensor:
    """Features of one kind.

    Args:
        network: As ``build_network`` makes it, without a classifier.
        images: ``(N, C, H, W)``, normalised.
        kind: See this module's first lines.

    Returns:
        ``(N, D)``; twice the network's width for ``cls+mean``, so many times it for ``lastN``.

    Raises:
        UsageError: If there is no such kind, or the network has none of it.
    """
    return pooled_kinds(network, images, (kind,))[kind]


def pooled_kinds(network: nn.Module, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Features of several kinds, from one pass through the network; see ``pooled``."""
    for kind in kinds:
        _require_fits(network, kind)
    if set(kinds) == {POOLED}:
        return {POOLED: network(images)}
    if _is_transformer(network):
        return _of_transformer(network, images, kinds)
    features = _last_features(network, images)
    found = {"mean": _channels_second(network, features).mean((2, 3))}
    if POOLED in kinds:
        found[POOLED] = _head(network, features)
    return {kind: found[kind] for kind in kinds}


def _of_transformer(transformer: Any, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    blocks = [int(kind.removeprefix("last")) for kind in kinds if kind.startswith("last")]
    if not blocks:
        tokens, classes = transformer.forward_features(images), []
    else:
        tokens, outputs = transformer.forward_intermediates(
            images, indices=max(blocks), return_prefix_tokens=True, norm=True, output_fmt="NLC"
        )
        # The class tokens of the last blocks, the last one last.
        classes = [_norm(transformer, prefix[:, 0]) for _, prefix in outputs]
    parts = {"cls": tokens[:, 0], "mean": tokens[:, transformer.num_prefix_tokens :].mean(1)}

    def feature(kind: str) -> Tensor:
        if kind == POOLED:
            return _head(transformer, tokens)
        if kind.startswith("last"):
            return torch.cat(classes[-int(kind.removeprefix("last")) :], dim=1)
        return torch.cat([_norm(transformer, parts[part]) for part in kind.split("+")], dim=1)

    return {kind: feature(kind) for kind in kinds}


def last_map(network: nn.Module, images: Tensor) -> Tensor:
    """The last feature map ``(N, D, h, w)`` of a network that has one."""
    return _channels_second(network, _last_features(network, images))


def _last_features(network: Any, images: Tensor) -> Tensor:
    if hasattr(network, "forward_features"):
        features: Tensor = network.forward_features(images)
        return features
    stem, stages = resnet_parts(network)
    last: Tensor = nn.Sequential(stem, *stages)(images)
    return last


def _channels_second(network: nn.Module, features: Tensor) -> Tensor:
    # Swin's channels come last.
    is_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
    return features.movedim(-1, 1) if is_last else features


def _head(network: Any, features: Tensor) -> Tensor:
    """What a network makes of its last features; torchvision's ResNets have no name for it."""
    if hasattr(network, "forward_head"):
        pooled_features: Tensor = network.forward_head(features)
    else:
        pooled_features = network.fc(network.avgpool(features).flatten(1))
    return pooled_features


def _norm(transformer: Any, features: Tensor) -> Tensor:
    """The norm that some transformers have after pooling instead of before."""
    fc_norm: nn.Module = transformer.fc_norm
    normed: Tensor = fc_norm(features)
    return normed


def _is_transformer(network: nn.Module) -> bool:
    needed = ("num_prefix_tokens", "blocks", "fc_norm", "forward_intermediates")
    return all(hasattr(network, name) for name in needed)


def _blocks(network: nn.Module) -> nn.Sequential | nn.ModuleList:
    blocks = network.get_submodule("blocks")
    assert isinstance(blocks, (nn.Sequential, nn.ModuleList)), f"blocks are {type(blocks)}"
    return blocks


def _has_map(network: nn.Module) -> bool:
    """Whether it is a ResNet, or a hierarchical network of timm's."""
    return hasattr(network, "layer4") or (
        hasattr(network, "forward_features") and bool(getattr(network, "feature_info", None))
    )


def _require_fits(network: nn.Module, kind: str) -> None:
    require_kind(kind)
    kinds = kinds_of(network)
    blocks = len(_blocks(network)) if kinds[-1].startswith("last") else 0
    if kind not in kinds and not (
        kind.startswith("last") and int(kind.removeprefix("last")) <= blocks
    ):
        raise UsageError(
            f"A {type(network).__name__} has no feature '{kind}'. It has: {', '.join(kinds)}"
            f"{', and last1 onwards' if blocks else ''}. Say another one: --set feature=pooled."
        )
