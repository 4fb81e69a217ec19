"""The features of a data set, computed once by a frozen encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from moco_eval import distributed, feature_cache
from moco_eval.data.splits import ImageData, MultiLabelData, MultiLabelSplit, Split
from moco_eval.encoders.encoder import Encoder, tensor_sha256
from moco_eval.encoders.networks.pooling import POOLED
from moco_eval.extraction import Extractor, Precision, extract
from moco_eval.resources import PLAIN, Resources

__all__ = ["Features", "Precision", "frozen", "of_data", "of_split"]

# One process often runs several protocols on the same images. Keyed by content, so never stale;
# of one encoder at a time, so that an encoder judged while it trains does not fill the memory.
_computed: dict[tuple[str, str], Tensor] = {}


@dataclass(frozen=True)
class Features:
    """What a probe sees of a data set.

    Attributes:
        train: ``(N, D)`` in float32, on the CPU; perhaps mapped from a file.
        train_labels: Classes ``(N,)``, or ``(N, C)`` where an image may show several.
        test: As ``train``.
        test_labels: As ``train_labels``.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def of_data(
    encoder: Encoder,
    data: ImageData | MultiLabelData,
    *,
    feature: str = POOLED,
    precision: Precision = "fp32",
    resources: Resources = PLAIN,
) -> Features:
    """Features of both splits, from an encoder that is the same afterwards.

    On several ranks, which must call it together, each computes a share and gets all of them.

    Args:
        encoder: Its network.
        data: The images.
        feature: A kind of ``encoders/networks/pooling.py``.
        precision: What the network computes in.
        resources: What it may use of the machine.

    Raises:
        UsageError: If the network has no such feature.
        DataError: If an image is damaged; it is named.
        DivergedError: If a feature is not finite.
    """
    with frozen(encoder):
        source = _Source(encoder, feature, precision, resources)
        train, test = (source.on_all_ranks(split) for split in (data.train, data.test))
    labels = [torch.as_tensor(split.labels) for split in (data.train, data.test)]
    return Features(train, labels[0], test, labels[1])


def of_split(
    encoder: Encoder,
    split: Split | MultiLabelSplit,
    *,
    feature: str = POOLED,
    precision: Precision = "fp32",
    resources: Resources = PLAIN,
) -> Tensor:
    """Features ``(N, D)`` of every image, in the split's order, computed by this process alone.

    Raises:
        UsageError: If the network has no such feature.
        DataError: If an image is damaged; it is named.
        DivergedError: If a feature is not finite: the encoder is broken, not the probe.
    """
    return _Source(encoder, feature, precision, resources).alone(split)


@contextmanager
def frozen(encoder: Encoder, *copies: nn.Module) -> Iterator[None]:
    """Hold that a protocol leaves every parameter and buffer of the encoder as it was.

    Args:
        encoder: What a probe stands on.
        copies: Networks that compute in its place, such as an ``Extractor``'s.
    """
    networks = (encoder.network, *copies)
    before = [_hashes(network) for network in networks]
    yield
    after = [_hashes(network) for network in networks]
    moved = [
        name
        for old, new in zip(before, after, strict=True)
        for name, digest in new.items()
        if digest != old[name]
    ]
    assert not moved, f"A frozen protocol changed the encoder: {', '.join(dict.fromkeys(moved))}."


def _hashes(network: nn.Module) -> dict[str, str]:
    # Each under one name, so that a counter, too, is hashed.
    return {name: tensor_sha256({"": tensor}) for name, tensor in network.state_dict().items()}


class _Source:
    """Where features of one kind come from: memory, the disk or the network, in this order."""

    def __init__(
        self, encoder: Encoder, feature: str, precision: Precision, resources: Resources
    ) -> None:
        self.encoder = encoder
        self.feature = feature
        self.precision = precision
        self.resources = resources
        self.tensors = encoder.tensor_sha256()

    @cached_property
    def extractor(self) -> Extractor:
        return Extractor(self.encoder, self.precision, self.resources.compile)

    def alone(self, split: Split | MultiLabelSplit) -> Tensor:
        key = self._key(split)
        found = self._find(key)
        return found if found is not None else self._compute(key, split, on_all_ranks=False)

    def on_all_ranks(self, split: Split | MultiLabelSplit) -> Tensor:
        key = self._key(split)
        found = self._find(key)
        # What one rank lacks, or holds to be damaged, all compute.
        lacking = torch.tensor([found is None], dtype=torch.int64, device=distributed.device())
        if found is not None and distributed.total(lacking).item() == 0:
            return found
        if found is None:
            distributed.total(lacking)
        return self._compute(key, split, on_all_ranks=True)

    def _key(self, split: Split | MultiLabelSplit) -> str:
        return feature_cache.key_of(
            tensors=self.tensors,
            arch=self.encoder.arch,
            spec=self.encoder.input,
            images=split.fingerprint,
            feature=f"{self.feature} {self.precision}",
        )

    def _find(self, key: str) -> Tensor | None:
        known = _computed.get((self.tensors, key))
        if known is None and self.resources.cache is not None:
            return feature_cache.read(self.resources.cache, key)
        return known

    def _compute(self, key: str, split: Split | MultiLabelSplit, *, on_all_ranks: bool) -> Tensor:
        with frozen(self.encoder, self.extractor.network):
            features = extract(
                self.extractor,
                split.images,
                kind=self.feature,
                num_workers=self.resources.num_workers,
                on_all_ranks=on_all_ranks,
            )
        if any(tensors != self.tensors for tensors, _ in _computed):
            _computed.clear()
        _computed[self.tensors, key] = features
        if self.resources.cache is not None and distributed.rank() == 0:
            feature_cache.write(self.resources.cache, key, features)
        return features
