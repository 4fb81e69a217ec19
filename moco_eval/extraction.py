"""Images to features fast: a copy of a frozen encoder that is made for nothing else.

BatchNorm is folded into convolutions, weights and images lie channels last, and the precision is
chosen; the encoder itself stays as it is. On several ranks each takes whole batches, the same as
one process would, so that the features do not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Sampler
from tqdm import tqdm

from moco_eval import distributed
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.folding import folded
from moco_eval.encoders.networks.pooling import POOLED, pooled_kinds
from moco_eval.errors import DivergedError
from moco_eval.training.loading import EvaluationCrops, load

Precision = Literal["fp32", "bf16"]

# Images of a batch: what fills the device, and not its memory.
BATCH = {"cpu": 64, "cuda": 256}

# A CPU computes so many at a time, 8 images of 224 pixels: their maps then stay in its cache, which
# is worth a tenth.
PIXELS_AT_ONCE = 8 * 224 * 224


class Extractor:
    """Turns batches of images into features, as ``Encoder.features`` does but for rounding.

    Args:
        encoder: Its network is copied.
        precision: What the copy computes in; features are float32 in any case.
        compile: Whether to compile the copy, which takes a minute once.
    """

    def __init__(
        self, encoder: Encoder, precision: Precision = "fp32", compile: bool = False
    ) -> None:
        self.name = encoder.name
        self.input = encoder.input
        self.device = encoder.device
        self.precision = precision
        size = encoder.input.size
        example = torch.randn(
            (1, len(encoder.input.mean), size, size), generator=torch.Generator().manual_seed(0)
        )
        self.network = folded(encoder.network, example.to(self.device))
        if precision == "bf16":
            _halve(self.network)
        self.network.to(memory_format=torch.channels_last)
        self._pooled = pooled_kinds
        self._compiled_for = 0
        if compile:
            # Freezing packs the weights as the kernels want them, once.
            self._pooled = torch.compile(pooled_kinds, dynamic=False, options={"freezing": True})
            self._compiled_for = 1

    def __call__(self, images: Tensor, kinds: Sequence[str] = (POOLED,)) -> dict[str, Tensor]:
        """Features of each kind ``(N, D)``, float32, on the encoder's device.

        Args:
            images: ``(N, C, size, size)``, normalised as ``encoder.input`` says; on any device.
            kinds: Of ``encoders/networks/pooling.py``.

        Raises:
            UsageError: If the network has no such feature.
        """
        if self.device.type == "cpu" and not self._compiled_for:
            at_once = max(1, PIXELS_AT_ONCE // (images.shape[-2] * images.shape[-1]))
            parts = torch.split(images, at_once)
        else:
            parts = (images,)
        found = [self._computed(part, kinds) for part in parts]
        return {kind: torch.cat([part[kind] for part in found]) for kind in kinds}

    def _computed(self, images: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
        number = len(images)
        images = images.to(self.device, non_blocking=self.device.type == "cuda")
        if self._compiled_for:
            # The last batch is filled up: a program is compiled for one number of images.
            self._compiled_for = max(self._compiled_for, number)
            images = F.pad(images, (*[0] * 6, 0, self._compiled_for - number))
        images = images.contiguous(memory_format=torch.channels_last)
        enabled = self.precision == "bf16"
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=enabled),
        ):
            found = self._pooled(self.network, images, tuple(kinds))
            return {kind: found[kind][:number].float() for kind in kinds}


def extract(
    extractor: Extractor,
    images: Sequence[Image.Image],
    *,
    kind: str = POOLED,
    num_workers: int = 0,
    on_all_ranks: bool = False,
) -> Tensor:
    """Features ``(N, D)`` of every image once, in their order, float32 on the CPU.

    Args:
        extractor: Of the encoder.
        images: Decoded when indexed.
        kind: Of ``encoders/networks/pooling.py``.
        num_workers: Processes that load images, for each rank.
        on_all_ranks: Whether all ranks call this with the same images: each then computes its share
            and gets all features. Otherwise this process does it alone.

    Raises:
        UsageError: If the network has no such feature.
        DataError: If an image cannot be loaded.
        DivergedError: If a feature is not finite.
    """
    rank, num_ranks = (distributed.rank(), distributed.world_size()) if on_all_ranks else (0, 1)
    size = BATCH.get(extractor.device.type, 256)
    batches = [
        range(first, min(first + size, len(images))) for first in range(0, len(images), size)
    ]
    loaded = load(
        EvaluationCrops(images, extractor.input),
        _Order(batches[rank::num_ranks]),
        num_workers=num_workers,
        device=extractor.device.type,
    )

    # In each round every rank computes one batch, none in the last where there are none left.
    features, num_counted = torch.empty(0, 0), 0
    rounds = range(0, len(batches), num_ranks)
    for first in tqdm(rounds, desc="features", leave=False, disable=True if rank else None):
        own = torch.empty(0, features.shape[1])
        if first + rank < len(batches):
            own = extractor(next(loaded)[0], (kind,))[kind]
        parts = _gather(own) if num_ranks > 1 else [own]
        if num_counted == 0:
            features = torch.empty(len(images), parts[0].shape[1])
        for batch, part in zip(batches[first : first + num_ranks], parts, strict=False):
            _require_finite(part, batch, extractor.name)
            features[batch.start : batch.stop] = part
            num_counted += len(part)
    assert num_counted == len(images), f"{num_counted} features of {len(images)} images."
    return features


def _require_finite(features: Tensor, batch: range, name: str) -> None:
    broken = (~features.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise DivergedError(
            f"{name} gives features that are not finite on {len(broken)} images of the first batch "
            f"with any; the first is image {batch.start + broken[0]}. Look at it with: "
            "moco-eval check"
        )


def _gather(own: Tensor) -> list[Tensor]:
    """Each rank's features ``(N_rank, D)``, of which some may be ``(0, anything)``."""
    device = distributed.device()
    width = int(distributed.gather(torch.tensor([own.shape[1]], device=device)).max())
    own = own.to(device) if len(own) else torch.empty(0, width, device=device)
    return distributed.gather_uneven(own)


class _Order(Sampler[list[int]]):
    """Given batches."""

    def __init__(self, batches: Sequence[range]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return map(list, self.batches)


def _halve(network: nn.Module) -> None:
    """Store as bfloat16 what autocast would turn into it before each multiplication.

    Norms stay in float32, and with them the sum that runs through a transformer: with all weights
    in bfloat16 a ViT's features are off by a third more.
    """
    for module in network.modules():
        # Not what inherits from them: it may compute its weights, by weight standardisation say.
        if type(module) in (nn.Conv2d, nn.Linear):
            module.to(torch.bfloat16)
