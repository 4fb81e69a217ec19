"""The features of a data set, computed once by a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from moco_eval.data.catalog import ImageData, Split
from moco_eval.data.images import InputSpec, to_input
from moco_eval.encoders.encoder import Encoder, tensor_sha256
from moco_eval.encoders.networks.pooling import POOLED
from moco_eval.errors import DivergedError
from moco_eval.resources import PLAIN, Resources

Precision = Literal["fp32", "bf16"]

# One process often runs several protocols on the same images. Keyed by content, so never stale;
# of one encoder at a time, so that an encoder judged while it trains does not fill the memory.
_computed: dict[tuple[str, str, InputSpec, str, str], Tensor] = {}


@dataclass(frozen=True)
class Features:
    """What a probe sees of a data set: features ``(N, D)`` in float32 and labels ``(N,)``."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def of_data(
    encoder: Encoder,
    data: ImageData,
    *,
    feature: str = POOLED,
    precision: Precision = "fp32",
    resources: Resources = PLAIN,
) -> Features:
    """Features of both splits, on the CPU, from an encoder that is the same afterwards.

    Args:
        encoder: Its network.
        data: The images.
        feature: A kind of ``encoders/networks/pooling.py``.
        precision: What the network computes in.
        resources: What it may use of the machine.

    Raises:
        UsageError: If the network has no such feature.
    """
    with frozen(encoder):
        train = of_split(encoder, data.train, feature=feature)
        test = of_split(encoder, data.test, feature=feature)
    return Features(train, torch.tensor(data.train.labels), test, torch.tensor(data.test.labels))


def of_split(
    encoder: Encoder, split: Split, *, batch_size: int = 256, feature: str = POOLED
) -> Tensor:
    """Features ``(N, D)`` of every image once, in the split's order.

    Raises:
        UsageError: If the network has no such feature.
        DivergedError: If a feature is not finite: the encoder is broken, not the probe.
    """
    key = (encoder.tensor_sha256(), encoder.arch, encoder.input, split.fingerprint, feature)
    if any(known[:2] != key[:2] for known in _computed):
        _computed.clear()
    if key not in _computed:
        _computed[key] = _extract(encoder, split, batch_size, feature)
    return _computed[key]


@contextmanager
def frozen(encoder: Encoder) -> Iterator[None]:
    """Hold that a protocol leaves every parameter and buffer of the encoder as it was."""
    before = _hashes(encoder)
    yield
    moved = [name for name, digest in _hashes(encoder).items() if digest != before[name]]
    assert not moved, f"A frozen protocol changed the encoder: {', '.join(moved)}."


def _hashes(encoder: Encoder) -> dict[str, str]:
    # Each under one name, so that a counter, too, is hashed.
    return {name: tensor_sha256({"": tensor}) for name, tensor in encoder.tensors().items()}


def _extract(encoder: Encoder, split: Split, batch_size: int, feature: str) -> Tensor:
    device = next((p.device for p in encoder.network.parameters()), torch.device("cpu"))
    loader = DataLoader(_Inputs(split, encoder.input), batch_size)
    batches = [
        encoder.features(images.to(device), feature).float().cpu()
        for images in tqdm(loader, desc="features", leave=False, disable=None)
    ]
    features = torch.cat(batches).clone()
    assert len(features) == len(split), f"{len(features)} features of {len(split)} images."
    if not features.isfinite().all():
        raise DivergedError(
            f"{encoder.name} gives features that are not finite on {len(split)} images. "
            "Look at it with: moco-eval check"
        )
    return features


class _Inputs(Dataset[Tensor]):
    def __init__(self, split: Split, spec: InputSpec) -> None:
        self.split = split
        self.transform = to_input(spec)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.split.images[index])
