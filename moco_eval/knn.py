"""The k-nearest-neighbour classifier: how well the features sort images without any training.

Protocol ``knn@1``: features of the test-time crop, L2-normalised; the whole training set is the
bank; each of the k nearest by cosine votes with weight exp(similarity / temperature), as in
Instance Discrimination (Wu et al., arXiv:1805.01978, section 3.4). The backbone's feature is used,
not the projector's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval.data.catalog import ImageData
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import UsageError
from moco_eval.features import Precision, of_data
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The classifier's numbers.

    Attributes:
        k: How many neighbours vote for the number that counts.
        other_k: Further values, reported as ``top1_k5`` and so on.
        temperature: Of the vote; smaller listens more to the nearest.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    k: int
    other_k: tuple[int, ...] = ()
    temperature: float = 0.07
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        if min((self.k, *self.other_k)) < 1 or self.temperature <= 0:
            raise UsageError(f"k and temperature must be positive: {self}.")


RECIPES = {
    # DINO's setting (arXiv:2104.14294, appendix F.1): best at k = 20 on ImageNet. Published with
    # it: MoCo v2 61.9, DINO 67.5, supervised 79.3.
    "knn-20": Recipe(k=20, other_k=(1, 5, 10, 200)),
    # Instance Discrimination's own k; published 46.5 on ImageNet with the projector's output.
    "knn-200": Recipe(k=200, other_k=(1, 5, 10, 20)),
}
DEFAULT_RECIPE = "knn-20"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Classify the test set by its neighbours in the training set; the seed changes nothing."""
    features = of_data(
        encoder,
        data,
        feature=recipe.feature,
        precision=recipe.precision,
        resources=resources,
    )
    num_train = len(features.train)
    if recipe.k > num_train:
        raise UsageError(f"k = {recipe.k} is more than the {num_train} training images.")
    ks = [recipe.k, *(k for k in recipe.other_k if k <= num_train)]
    votes = classify(
        features.train, features.train_labels, features.test, ks=ks, temperature=recipe.temperature
    )
    top1 = {k: 100 * (votes[k] == features.test_labels).double().mean().item() for k in ks}
    metrics = {"top1": top1[recipe.k]} | {f"top1_k{k}": top1[k] for k in ks[1:]}
    details = {
        "feature": recipe.feature,
        "feature_dim": features.train.shape[1],
        "k": recipe.k,
    }
    return Outcome(metrics=metrics, num_test=len(features.test), details=details)


def classify(
    bank: Tensor, labels: Tensor, queries: Tensor, *, ks: list[int], temperature: float
) -> dict[int, Tensor]:
    """Predict the class of each query, for every k in one pass over the bank.

    Args:
        bank: ``(N, D)`` features; normalised here.
        labels: ``(N,)`` classes from 0.
        queries: ``(M, D)`` features.
        ks: How many neighbours vote; at most N each.
        temperature: Of the vote.

    Returns:
        For each k the predicted classes ``(M,)``.
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    num_classes = int(labels.max()) + 1
    predictions: dict[int, list[Tensor]] = {k: [] for k in ks}
    # 1,024 queries at a time: the similarities to a million images then take 4 GiB.
    for start in range(0, len(queries), 1024):
        chunk = queries[start : start + 1024]
        similarity, nearest = (chunk @ bank.T).topk(max(ks))
        weights = (similarity / temperature).exp()
        classes = labels[nearest]
        for k in ks:
            votes = torch.zeros(len(chunk), num_classes)
            votes.scatter_add_(1, classes[:, :k], weights[:, :k])
            predictions[k].append(votes.argmax(1))
    return {k: torch.cat(parts) for k, parts in predictions.items()}


def neighbours(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices ``(M, k)`` of each query's nearest by cosine, the nearest first."""
    similarity = F.normalize(queries.float(), dim=1) @ F.normalize(bank.float(), dim=1).T
    return similarity.topk(k).indices
