"""The k-nearest-neighbour classifier: how well the features sort images without any training.

Protocol ``knn@1``: features of the test-time crop; the whole training set is the bank; each of the
k nearest by cosine has a vote. In the ``temperature`` vote it weighs exp(similarity / temperature),
as in Instance Discrimination (Wu et al., arXiv:1805.01978, section 3.4); in the ``plain`` vote, 1.
Of classes with equal votes the first wins. The feature is the backbone's, or the projector's output
where the recipe says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from moco_eval import neighbours as nearest
from moco_eval.accuracy import calibration_error, primary_first, recall_by_class
from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.encoders.encoder import Encoder, tensor_sha256
from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.encoders.projector import described, load_projector, project
from moco_eval.errors import DataError, UsageError
from moco_eval.features import Features, Precision, of_data
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1

# The kind of feature that no network has by itself.
PROJECTOR = "projector"
# How many neighbours pictures show.
NUM_SHOWN = 5

Vote = Literal["temperature", "plain"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The classifier's numbers.

    Attributes:
        k: How many neighbours vote for the number that counts.
        other_k: Further values, reported as ``top1_k5`` and so on.
        vote: Whether nearer neighbours count for more, or all the same.
        temperature: Of the ``temperature`` vote; smaller listens more to the nearest.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``; or
            ``projector``, what the checkpoint's own projector makes of the pooled one.
        precision: What the network computes features in.
    """

    k: int
    other_k: tuple[int, ...] = ()
    vote: Vote = "temperature"
    temperature: float = 0.07
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if self.feature != PROJECTOR:
            require_kind(self.feature)
        if min((self.k, *self.other_k)) < 1 or self.temperature <= 0:
            raise UsageError(f"k and temperature must be positive: {self}.")


RECIPES = {
    # DINO's setting (arXiv:2104.14294, appendix F.1): best at k = 20 on ImageNet.
    "knn-20": Recipe(k=20, other_k=(1, 5, 10, 200)),
    # The k of Instance Discrimination, on the backbone's feature.
    "knn-200": Recipe(k=200, other_k=(1, 5, 10, 20)),
    # Instance Discrimination itself (arXiv:1805.01978, section 4.2; zhirongw/lemniscate.pytorch,
    # test.py): the 128 dimensions that it is trained on.
    "instdisc-200": Recipe(k=200, other_k=(1, 5, 10, 20), feature=PROJECTOR),
    # MoCo's demonstration on CIFAR-10 (facebookresearch/moco, branch colab-notebook).
    "moco-cifar": Recipe(k=200, other_k=(1, 5, 10, 20), temperature=0.1, feature=PROJECTOR),
    # The textbook's classifier.
    "plain-20": Recipe(k=20, other_k=(1, 5, 10, 200), vote="plain"),
}
PUBLISHED = {
    "knn-20": "ResNet-50 on ImageNet: MoCo v2 61.9, BYOL 64.8, SwAV 65.7, DINO 67.5, supervised "
    "79.3 (arXiv:2104.14294, Table 2)",
    "knn-200": "ResNet-50 on ImageNet: BYOL 64.9, SwAV 62.7, Barlow Twins 62.9, VICReg 62.8 "
    "(arXiv:2105.04906, Table 11)",
    "instdisc-200": "Instance Discrimination, ResNet-50 on ImageNet: 46.5 (arXiv:1805.01978; in "
    "arXiv:2105.04906, Table 11), 46.8 in its repository (zhirongw/lemniscate.pytorch)",
    "moco-cifar": "MoCo, ResNet-18 on CIFAR-10, 200/400/800 epochs: 82.6/86.3/88.7, with a "
    "symmetric loss 85.3/88.5/89.7 (facebookresearch/moco, branch colab-notebook)",
    "plain-20": "No published number; this project's own are in results/.",
}
DEFAULT_RECIPE = "knn-20"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Classify the test set by its neighbours in the training set; the seed changes nothing.

    Raises:
        DataError: If images show several classes.
        UsageError: If there are fewer training images than neighbours that shall vote.
        CheckpointError: If the recipe wants a projector and the encoder comes without one.
    """
    if isinstance(data, MultiLabelData):
        raise DataError(
            f"{data.id} has images that show several classes, and knn tells one. Take the protocol "
            "svm, or linear with --recipe lbfgs-45."
        )
    num_train = len(data.train)
    if recipe.k > num_train:
        raise UsageError(f"k = {recipe.k} is more than the {num_train} training images.")
    features, facts = _features(encoder, recipe, data, resources)
    labels, other_k = features.test_labels, [k for k in recipe.other_k if k <= num_train]

    # The neighbours are searched once, for the greatest k; who votes less listens to fewer.
    queries = features.test.to(encoder.device)
    num_searched = min(max(recipe.k, *other_k, NUM_SHOWN), num_train)
    found = nearest.search_on_all_ranks(features.train, queries, num_searched)
    similarity, index = found.similarity.cpu(), found.index.cpu()
    voters, num_classes = features.train_labels[index], len(data.classes)

    def shares_of(k: int) -> Tensor:
        return _vote_shares(similarity[:, :k], voters[:, :k], recipe, num_classes)

    # What the field reports of the set comes first, then the other k.
    shares = shares_of(recipe.k)
    metrics = {
        "top1": _top1(shares, labels),
        "mean_per_class": 100 * recall_by_class(shares.argmax(1), labels).nanmean().item(),
        "ece": calibration_error(shares, labels),
    }
    metrics = primary_first(metrics, data.metric)
    metrics |= {f"top1_k{k}": _top1(shares_of(k), labels) for k in other_k}
    return Outcome(
        metrics=metrics,
        num_test=len(labels),
        details={**facts, "feature_dim": features.train.shape[1], "k": recipe.k},
        drawn={
            "logits": shares.log(),
            "labels": labels,
            "train_labels": features.train_labels,
            "neighbours": index[:, :NUM_SHOWN],
            "similarities": similarity[:, :NUM_SHOWN],
            "test_features": features.test,
        },
    )


def classify(
    bank: Tensor, labels: Tensor, queries: Tensor, *, ks: list[int], temperature: float
) -> dict[int, Tensor]:
    """Predict the class of each query by the ``temperature`` vote, for every k in one pass.

    Args:
        bank: ``(N, D)`` features of any length.
        labels: ``(N,)`` classes from 0.
        queries: ``(M, D)`` features.
        ks: How many neighbours vote; at most N each.
        temperature: Of the vote.

    Returns:
        For each k the predicted classes ``(M,)``.
    """
    found = nearest.search(bank, queries, max(ks))
    voters, num_classes = labels[found.index], int(labels.max()) + 1
    recipe = Recipe(k=max(ks), temperature=temperature)
    shares = (_vote_shares(found.similarity[:, :k], voters[:, :k], recipe, num_classes) for k in ks)
    return {k: votes.argmax(1) for k, votes in zip(ks, shares, strict=True)}


def neighbours(bank: Tensor, queries: Tensor, k: int) -> Tensor:
    """Indices ``(M, k)`` of each query's nearest by cosine, the nearest first."""
    return nearest.search(bank, queries, k).index


def _features(
    encoder: Encoder, recipe: Recipe, data: ImageData, resources: Resources
) -> tuple[Features, dict[str, Any]]:
    """The features that the recipe asks for, and what a record says of them."""
    facts: dict[str, Any] = {"feature": recipe.feature}
    # A file without a projector is refused before hours of extraction.
    projector = load_projector(encoder) if recipe.feature == PROJECTOR else None
    features = of_data(
        encoder,
        data,
        feature=recipe.feature if projector is None else POOLED,
        precision=recipe.precision,
        resources=resources,
    )
    if projector is None:
        return features, facts
    facts |= {
        "projector": described(projector),
        "projector_sha256": tensor_sha256(dict(projector.state_dict())),
    }
    train, test = (project(projector, part) for part in (features.train, features.test))
    return Features(train, features.train_labels, test, features.test_labels), facts


def _vote_shares(similarity: Tensor, voters: Tensor, recipe: Recipe, num_classes: int) -> Tensor:
    """The share of the votes that each class gets ``(M, C)``, float64.

    Args:
        similarity: Of the k nearest ``(M, k)``, the nearest first.
        voters: Their classes ``(M, k)``.
        recipe: Says how they vote.
        num_classes: C.
    """
    if recipe.vote == "plain":
        weights = torch.ones_like(similarity)
    else:
        # The nearest weighs 1: shares are the same, and no temperature is too small for exp.
        weights = ((similarity - similarity[:, :1]) / recipe.temperature).exp()
    votes = similarity.new_zeros(len(similarity), num_classes)
    votes.scatter_add_(1, voters, weights)
    return votes / votes.sum(1, keepdim=True)


def _top1(shares: Tensor, labels: Tensor) -> float:
    return 100 * (shares.argmax(1) == labels).double().mean().item()
