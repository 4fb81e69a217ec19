"""What to watch while an encoder trains: loss and contrast step by step, kNN epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from moco_eval import distributed, knn
from moco_eval.data.catalog import ImageData
from moco_eval.data.images import InputSpec
from moco_eval.data.subsets import subset
from moco_eval.encoders.encoder import Encoder, Manifest
from moco_eval.encoders.networks import without_projector
from moco_eval.errors import DataError
from moco_eval.features import of_split
from pretrain.collapse import STATISTICS


def tag(name: str) -> str:
    """What TensorBoard calls a number of a row."""
    if name in STATISTICS:
        return f"embeddings/{name}"
    return "knn/top1" if name == "knn_top1" else f"train/{name}"


def online_knn(  # noqa: PLR0913 - what one of several ranks must know
    network: nn.Module,
    spec: InputSpec,
    data: ImageData,
    *,
    rank: int = 0,
    world_size: int = 1,
    gather: Callable[[Tensor], list[Tensor]] | None = None,
    limit: int | None = None,
) -> float:
    """Top-1 in percent of a kNN classifier on the network's pooled features, as it is now.

    Each rank computes the features of its share of the images, each image once; then every rank
    has all of them, in the data's own order, and the same number as a single process.

    Args:
        network: Of any mode, which it keeps: a copy is judged.
        spec: How the network wants to be fed.
        data: The bank and the queries.
        rank: Of this process.
        world_size: How many ranks call this together.
        gather: Returns the tensors of all ranks in order of rank, of lengths that may differ;
            given where there are several ranks.
        limit: At most this many images of each split, evenly spread over it; None for all.

    Raises:
        DataError: If a split has fewer images than there are ranks.
    """
    manifest = Manifest(
        source="online", format="online", tower="", arch="", input=spec, num_loaded=0
    )
    encoder = Encoder(without_projector(network), manifest)
    # The learnt weights decide where the features are computed, and where they can be gathered.
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    features, labels = [], []
    for split in (data.train, data.test):
        chosen = _evenly_spread(len(split), limit)
        if len(chosen) < world_size:
            raise DataError(
                f"{data.id} has a split of {len(chosen)} images, fewer than the {world_size} ranks "
                "that share its kNN evaluation. Run without it: --knn-every 0"
            )
        own = of_split(encoder, subset(split, chosen[rank::world_size]))
        parts = [own] if gather is None else gather(own.to(device))
        features.append(distributed.interleaved([part.cpu() for part in parts]))
        labels.append(torch.tensor([split.labels[index] for index in chosen]))

    # k = 20, or the whole bank where that is smaller.
    recipe = knn.RECIPES[knn.DEFAULT_RECIPE]
    k = min(recipe.k, len(features[0]))
    votes = knn.classify(
        features[0], labels[0], features[1], ks=[k], temperature=recipe.temperature
    )
    return 100 * (votes[k] == labels[1]).double().mean().item()


def _evenly_spread(num_images: int, limit: int | None) -> list[int]:
    """Indices of at most ``limit`` images; folders come sorted by class, so not the first ones."""
    count = min(num_images, limit or num_images)
    return [position * num_images // count for position in range(count)]
