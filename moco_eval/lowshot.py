"""Low-shot classification: what a few labels a class are enough for.

Protocol ``lowshot@1``: in each draw, a fixed number of training images a class is taken with its
labels; features scaled by these images alone; multinomial logistic regression with a fixed C;
top-1 on the whole test set. The mean over the draws counts, and every draw is listed. In the place
of draws, a published list says which labels are seen: 1 % or 10 % of ImageNet's.

The variant ``finetune`` trains the whole network on the same images, as ``finetune@1`` does: the
semi-supervised protocol. The last step's weights are judged. Unlike upstream: SwAV reports the best
epoch on the test set.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from moco_eval import accuracy, distributed, finetune, logistic
from moco_eval.data.label_lists import indices_of, read_list
from moco_eval.data.sampler import keyed_generator
from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.data.subsets import subset as subset_of
from moco_eval.encoders.encoder import Encoder
from moco_eval.encoders.networks.pooling import POOLED, require_kind
from moco_eval.errors import DataError, UsageError
from moco_eval.features import Precision, frozen, of_data
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources

VERSION = 1


def _require_images(shots: int, subset: str, num_draws: int) -> None:
    if (shots < 1) != bool(subset) or num_draws < 1:
        raise UsageError(
            "Either shots is positive or subset names a list, and num_draws is positive; found "
            f"shots={shots}, subset='{subset}' and num_draws={num_draws}."
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of the linear protocol.

    Attributes:
        shots: Labelled images a class; 0 where ``subset`` says which.
        subset: A published list of labelled images (``imagenet-1percent``, ``imagenet-10percent``),
            or a file with their names, one a line.
        num_draws: How often they are drawn anew; there is one list.
        c: Inverse strength of the regularisation; so few labels leave none to choose it on.
        feature: Which feature of the network, by its name in ``encoders/networks/pooling.py``.
        precision: What the network computes features in.
    """

    shots: int = 0
    subset: str = ""
    num_draws: int = 5
    c: float = 0.1
    feature: str = POOLED
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        require_kind(self.feature)
        _require_images(self.shots, self.subset, self.num_draws)
        if self.c <= 0:
            raise UsageError(f"c must be positive: {self}.")


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(finetune.Recipe):
    """The numbers of fine-tuning, with one learning rate and one weight decay.

    Attributes:
        shots: As in ``Recipe``.
        subset: As in ``Recipe``.
        num_draws: As in ``Recipe``.
    """

    variant: ClassVar[str] = "finetune"

    shots: int = 0
    subset: str = ""
    num_draws: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_images(self.shots, self.subset, self.num_draws)
        if not self.is_single:
            raise UsageError(
                "So few labels leave none to choose a learning rate on: lowshot takes one lr and "
                f"one weight_decay, found {self.lr} and {self.weight_decay}."
            )


AnyRecipe = Recipe | FinetuneRecipe

# facebookresearch/swav, eval_semisup.py, whose two rates README.md gives.
_SWAV = FinetuneRecipe(
    subset="imagenet-1percent",
    num_draws=1,
    lr=(0.02,),
    head_lr_factor=250,
    weight_decay=(0.0,),
    batch_total=256,
    epochs=20,
    schedule="drops",
    lr_drops=(0.6, 0.8),
    lr_drop_factor=0.2,
)
# facebookresearch/vicreg, README.md and evaluate.py.
_VICREG = replace(_SWAV, lr=(0.03,), head_lr_factor=0.08 / 0.03, schedule="cosine", lr_drops=())
# open-mmlab/OpenSelfSup@1db69ec, configs/benchmarks/semi_classification: the best of nine pairs for
# both MoCo.
_OPENSELFSUP = replace(_SWAV, lr=(0.01,), head_lr_factor=100, weight_decay=(5e-4,))

RECIPES: dict[str, AnyRecipe] = {
    # This project's own for the embedded digits: 50 labels in all. Its numbers are in results/.
    "5-shot": Recipe(shots=5),
    "1-shot": Recipe(shots=1),
    "5-shot-finetune": FinetuneRecipe(
        shots=5,
        num_draws=3,
        lr=(0.05,),
        weight_decay=(5e-4,),
        batch_total=25,
        num_steps=60,
        optimizer="nesterov",
        crop_scale=(0.6, 1.0),
        flip=False,
    ),
    # SimCLR's lists (arXiv:2002.05709, B.5), on frozen features.
    "imagenet-1percent": Recipe(subset="imagenet-1percent", num_draws=1),
    "imagenet-10percent": Recipe(subset="imagenet-10percent", num_draws=1),
    "swav-1percent": _SWAV,
    "swav-10percent": replace(_SWAV, subset="imagenet-10percent", lr=(0.01,), head_lr_factor=20),
    "vicreg-1percent": _VICREG,
    "vicreg-10percent": replace(
        _VICREG, subset="imagenet-10percent", lr=(0.01,), head_lr_factor=10
    ),
    "openselfsup-1percent": _OPENSELFSUP,
    "openselfsup-10percent": replace(_OPENSELFSUP, subset="imagenet-10percent"),
}
_OWN = "No published number; this project's own are in results/."
_LINEAR = (
    "No published number of a linear probe on this list; fine-tuned on it, ResNet-50 on ImageNet: "
)
_ONE = "top-1 SimCLR 48.3, BYOL 53.2, SwAV 53.9, VICReg 54.8 (arXiv:2105.04906, Table 1)"
_TEN = "top-1 SimCLR 65.6, BYOL 68.8, SwAV 70.2, VICReg 69.5 (arXiv:2105.04906, Table 1)"
_MODEL_ZOO = "(open-mmlab/OpenSelfSup, docs/MODEL_ZOO.md)"
PUBLISHED = {
    "5-shot": _OWN,
    "1-shot": _OWN,
    "5-shot-finetune": _OWN,
    "imagenet-1percent": f"{_LINEAR}{_ONE}",
    "imagenet-10percent": f"{_LINEAR}{_TEN}",
    "swav-1percent": "SwAV, 800 epochs, ResNet-50 on ImageNet: top-1 53.9, the best epoch on the "
    "test set (arXiv:2006.09882; in arXiv:2105.04906, Table 1)",
    "swav-10percent": "SwAV, 800 epochs, ResNet-50 on ImageNet: top-1 70.2, the best epoch on the "
    "test set (arXiv:2006.09882; in arXiv:2105.04906, Table 1)",
    "vicreg-1percent": "VICReg, 1,000 epochs, ResNet-50 on ImageNet: top-1 54.8 (arXiv:2105.04906, "
    "Table 1)",
    "vicreg-10percent": "VICReg, 1,000 epochs, ResNet-50 on ImageNet: top-1 69.5 "
    "(arXiv:2105.04906, Table 1)",
    "openselfsup-1percent": "ResNet-50, 200 epochs, on ImageNet: top-1 MoCo v1 33.15, MoCo v2 "
    f"39.07 {_MODEL_ZOO}",
    "openselfsup-10percent": "ResNet-50, 200 epochs, on ImageNet: top-1 MoCo v1 60.08, MoCo v2 "
    f"61.80 {_MODEL_ZOO}",
}
DEFAULT_RECIPE = "5-shot"


def evaluate(
    encoder: Encoder,
    recipe: AnyRecipe,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train on each draw, or on the list, and return the mean over them.

    Raises:
        DataError: If images show several classes, a class has too few, or the list is not to be had
            or names other images.
        DivergedError: If fine-tuning ends with numbers that are not finite.
        PreemptedError: If fine-tuning was asked to stop; the same call continues.
    """
    if isinstance(data, MultiLabelData):
        raise DataError(
            f"{data.id} has images that show several classes, and lowshot tells one. Take the "
            "protocol svm: --recipe voc07-lowshot"
        )
    draws, facts = _draws(recipe, data, seed)
    if isinstance(recipe, FinetuneRecipe):
        with frozen(encoder):
            answers = [
                finetune.fit_and_score(
                    encoder, recipe, data, chosen, seed=seed, work_dir=work_dir, resources=resources
                )
                for chosen in draws
            ]
        finetune.forget(encoder, work_dir)
    else:
        score, more = _linear(encoder, recipe, data, draws, resources)
        answers, facts = [score(chosen) for chosen in draws], facts | more

    # Each draw's numbers, and their mean.
    labels = torch.tensor(data.test.labels)
    found = [accuracy.metrics(logits, labels) for logits in answers]
    means = {name: statistics.fmean(each[name] for each in found) for name in found[0]}
    by_draw = [each[data.metric] for each in found]
    details: dict[str, Any] = {f"{data.metric}_by_draw": by_draw, **facts}
    if len(by_draw) > 1:
        details[f"{data.metric}_ci95"] = _told(data.metric, by_draw)
    return Outcome(
        metrics=accuracy.primary_first(means, data.metric),
        num_test=len(labels),
        details=details,
        # Pictures show the first draw.
        drawn={"logits": answers[0], "labels": labels},
    )


def _draws(recipe: AnyRecipe, data: ImageData, seed: int) -> tuple[list[Tensor], dict[str, Any]]:
    """Indices of the labelled images of each draw, and what a record says of them."""
    if recipe.subset:
        listed = read_list(recipe.subset)
        chosen = indices_of(data.train, listed)
        said = {"source": listed.source, "sha256": listed.sha256, "num_images": len(chosen)}
        return [chosen], {"images_listed": said}
    labels = torch.tensor(data.train.labels)
    draws = [
        take_shots(labels, recipe.shots, keyed_generator(seed, draw))
        for draw in range(recipe.num_draws)
    ]
    return draws, {"images_by_draw": [chosen.tolist() for chosen in draws]}


def _linear(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData,
    draws: Sequence[Tensor],
    resources: Resources,
) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """How the test set's logits come of a draw, and what a record says of the features."""
    place = torch.arange(len(data.train))
    if recipe.subset:
        # A hundredth of ImageNet need not wait for the rest of it.
        (chosen,) = draws
        place[chosen] = torch.arange(len(chosen))
        data = replace(data, train=subset_of(data.train, chosen.tolist()), held_out=None)
    features = of_data(
        encoder, data, feature=recipe.feature, precision=recipe.precision, resources=resources
    )

    def score(chosen: Tensor) -> Tensor:
        rows = place[chosen]
        train, labels = features.train[rows], features.train_labels[rows]
        scaling = logistic.Scaling.fit(train)
        # Also of classes that the list passes by.
        start = logistic.Probe(
            torch.zeros(len(data.classes), train.shape[1], dtype=torch.float64),
            torch.zeros(len(data.classes), dtype=torch.float64),
        )
        probe = logistic.fit(scaling(train), labels, c=recipe.c, start=start)
        return probe.logits(scaling(features.test))

    return score, {"feature": recipe.feature, "feature_dim": features.train.shape[1]}


def take_shots(labels: Tensor, shots: int, generator: torch.Generator) -> Tensor:
    """Indices ``(num_classes * shots,)`` of ``shots`` images of every class, sorted.

    Raises:
        DataError: If a class has fewer images.
    """
    chosen = []
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero().flatten()
        if len(members) < shots:
            raise DataError(f"Class {label} has {len(members)} training images of {shots} asked.")
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen).sort().values


def confidence_interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the mean lies with a confidence of 95 %, by Student's t.

    Of draws of labelled images: the test set, the encoder and the seed are the same.

    Args:
        values: Two or more.
    """
    from scipy.stats import t

    mean, spread = statistics.fmean(values), statistics.stdev(values)
    half = float(t.ppf(0.975, len(values) - 1)) * spread / math.sqrt(len(values))
    return mean - half, mean + half


def _told(metric: str, by_draw: Sequence[float]) -> list[float]:
    low, high = confidence_interval(by_draw)
    if distributed.rank() == 0:
        print(
            f"{metric} {statistics.fmean(by_draw):.2f}, 95 % confidence interval {low:.2f} to "
            f"{high:.2f} over {len(by_draw)} draws.",
            flush=True,
        )
    return [low, high]
