"""Fine-tuning: the whole network is trained, with a new linear classifier on top.

Protocol ``finetune@1``: every pair of a learning rate and a weight decay of the recipe is trained
on a part of the training set and judged on the rest; the best one is trained again on all of it,
from the encoder's own weights, and its last state is judged on the test set, once. With one pair
nothing is chosen. BatchNorm trains, over the batches of all processes. Nothing is chosen on the
test set.

A run that is asked to stop continues from its checkpoints, below ``finetune/`` in its work folder,
as if it had never stopped; a pair that is done is not trained again. When the run is done they go.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moco_eval import accuracy
from moco_eval.data.selection import selection_slice, told
from moco_eval.data.splits import ImageData, MultiLabelData
from moco_eval.data.subsets import subset
from moco_eval.encoders.encoder import Encoder
from moco_eval.errors import DivergedError, UsageError
from moco_eval.features import frozen
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources
from moco_eval.training.loop import ADVICE
from moco_eval.training.recipe import Plan, Recipe
from moco_eval.training.run import Run, forget, logits_of

__all__ = [
    "DEFAULT_RECIPE",
    "PUBLISHED",
    "RECIPES",
    "VERSION",
    "Recipe",
    "evaluate",
    "fit_and_score",
    "forget",
]

VERSION = 1

# facebookresearch/deit's defaults, with which MoCo v3 fine-tunes, at a batch of 1,024: its rates
# are for 512. Unlike upstream: the rate changes in every step, not in every epoch.
_DEIT = Recipe(
    lr=(1e-3,),
    weight_decay=(0.05,),
    batch_total=1024,
    epochs=150,
    optimizer="adamw",
    decay_vectors=False,
    warmup_epochs=5,
    lr_min=1e-5,
    drop_path=0.1,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
    randaugment="rand-m9-mstd0.5-inc1",
    random_erasing=0.25,
    repeats=3,
    precision="bf16",
)
# facebookresearch/moco-v3, transfer/README.md: 3e-4 for 512 images, and no repeated augmentation.
_MOCOV3 = replace(
    _DEIT,
    lr=(6e-4,),
    weight_decay=(0.1,),
    epochs=100,
    warmup_epochs=3,
    random_erasing=0.0,
    repeats=1,
)

RECIPES = {
    # MoCo v1, arXiv:1911.05722, A.7, which names the learning rate; the rest as its A.6.
    # Published: ResNet-50 on ImageNet, 77.0.
    "mocov1-imagenet": Recipe(
        lr=(0.03,),
        weight_decay=(1e-4,),
        batch_total=256,
        epochs=100,
        schedule="drops",
        lr_drops=(0.7, 0.9),
    ),
    # MoCo v1, arXiv:1911.05722, A.6. Published: ResNet-50 on iNaturalist 2018, 65.6.
    "mocov1-inat18": Recipe(
        lr=(0.025,),
        weight_decay=(1e-4,),
        batch_total=256,
        epochs=100,
        schedule="drops",
        lr_drops=(0.7, 0.9),
    ),
    # Kornblith et al., arXiv:1805.08974, A.5, as SimCLR, arXiv:2002.05709, B.8.2, and BYOL have it:
    # the decay, if any, is divided by the learning rate. Published: BYOL ResNet-50, CIFAR-10 97.8.
    "kornblith": Recipe(
        lr=tuple(10 ** (-4 + step / 2) for step in range(7)),
        weight_decay=(0.0, *(10 ** (-6 + step / 2) for step in range(7))),
        batch_total=256,
        num_steps=20_000,
        optimizer="nesterov",
        decay_over_lr=True,
        batch_norm_window=10,
    ),
    # MoCo v3, arXiv:2104.02057, Table 1. Published: ViT-B/16 on ImageNet, 83.2.
    "deit-vit": _DEIT,
    # MoCo v3, Table 6. Published: ViT-B/16, CIFAR-10 98.9, CIFAR-100 90.5, Flowers 97.7, Pets 93.2.
    "mocov3-transfer": _MOCOV3,
    "mocov3-cifar100": replace(_MOCOV3, mixup=0.5),
    "mocov3-flowers": replace(
        _MOCOV3, weight_decay=(0.3,), mixup=0.0, cutmix=0.0, random_erasing=0.25
    ),
    "mocov3-pets": replace(_MOCOV3, drop_path=0.0, cutmix=0.0),
    # This project's own for the embedded digits. Its numbers are in results/.
    "digits": Recipe(
        lr=(0.05,),
        weight_decay=(5e-4,),
        batch_total=64,
        epochs=8,
        optimizer="nesterov",
        warmup_epochs=1,
        crop_scale=(0.6, 1.0),
        flip=False,
    ),
    # The same with four learning rates, the best one chosen.
    "digits-sweep": Recipe(
        lr=(0.003, 0.01, 0.03, 0.1),
        weight_decay=(5e-4,),
        batch_total=64,
        epochs=8,
        optimizer="nesterov",
        warmup_epochs=1,
        crop_scale=(0.6, 1.0),
        flip=False,
    ),
}
_OWN = "No published number; this project's own are in results/."
_TRANSFER = "MoCo v3, ViT-B/16 fine-tuned on"
_SOURCE = "(facebookresearch/moco-v3, transfer/README.md; arXiv:2104.02057, Table 6)"
PUBLISHED = {
    "mocov1-imagenet": "MoCo v1, 200 epochs, ResNet-50 fine-tuned on ImageNet: top-1 77.0, from "
    "random weights 76.5 (arXiv:1911.05722, A.7)",
    "mocov1-inat18": "MoCo v1, 200 epochs, ResNet-50 fine-tuned on iNaturalist 2018: top-1 65.6, "
    "supervised 66.1, from random weights 61.8 (arXiv:1911.05722, A.6)",
    "kornblith": "SimCLR, 1,000 epochs, ResNet-50 fine-tuned: CIFAR-10 97.7, CIFAR-100 85.9, "
    "Food-101 88.2; BYOL 97.8, 86.1, 88.5 (arXiv:2006.07733, Table 3)",
    "deit-vit": "MoCo v3, 300 epochs, ViT-B/16 fine-tuned on ImageNet for 150 epochs: top-1 83.2, "
    "supervised DeiT 81.8 (arXiv:2104.02057, Table 1)",
    "mocov3-transfer": f"{_TRANSFER} CIFAR-10: top-1 98.9 {_SOURCE}",
    "mocov3-cifar100": f"{_TRANSFER} CIFAR-100: top-1 90.5 {_SOURCE}",
    "mocov3-flowers": f"{_TRANSFER} Oxford Flowers-102: top-1 97.7 {_SOURCE}",
    "mocov3-pets": f"{_TRANSFER} Oxford-IIIT Pets: top-1 93.2 {_SOURCE}",
    "digits": _OWN,
    "digits-sweep": _OWN,
}
DEFAULT_RECIPE = "digits"


def evaluate(
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData | MultiLabelData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Fine-tune a copy of the encoder with each pair, then with the best one, and judge that.

    In a run of several processes each makes this call, and has the outcome.

    Raises:
        UsageError: If the recipe does not fit the network or the number of processes, or an image
            has several labels.
        DivergedError: If no pair ends with numbers that are finite.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    if isinstance(data, MultiLabelData):
        raise UsageError(
            f"{data.id} has images of several classes, and fine-tuning takes one class an image. "
            "Take svm, or linear with --recipe lbfgs."
        )
    run = _run(encoder, data, seed=seed, work_dir=work_dir, resources=resources)
    with frozen(encoder):
        outcome = _evaluate(run, recipe)
    forget(encoder, work_dir)
    return outcome


def _evaluate(run: Run, recipe: Recipe) -> Outcome:
    data = run.data
    # Pairs are compared on a slice of the training set, or on its published validation images.
    rows: list[dict[str, float]] = []
    if not recipe.is_single:
        recipe, rows = _choose(run, recipe)

    # The pair that counts is trained on every training image, and its last state is judged.
    everything = torch.arange(len(data.train))
    logits = logits_of(run, recipe, everything)
    labels = torch.tensor(data.test.labels)
    metrics = accuracy.metrics(logits, labels)
    plan = Plan(recipe, len(data.train))
    details: dict[str, Any] = {
        "lr": recipe.lr[0],
        "weight_decay": plan.weight_decay,
        "num_steps": plan.num_steps,
        "num_epochs": plan.num_steps / plan.steps_per_epoch,
        "judged": "the last step's weights",
    }
    if rows:
        details["selection"] = {
            "what": "lr and weight_decay",
            "chosen": [recipe.lr[0], recipe.weight_decay[0]],
            "on": told(data, recipe.holdout),
            "by": data.metric,
            "by_pair": rows,
        }
    drawn = {"logits": logits, "labels": labels} | ({"sensitivity": rows} if rows else {})
    return Outcome(
        metrics=accuracy.primary_first(metrics, data.metric),
        num_test=len(logits),
        details=details,
        drawn=drawn,
    )


def fit_and_score(  # noqa: PLR0913 - as evaluate, on some of the images
    encoder: Encoder,
    recipe: Recipe,
    data: ImageData,
    indices: Tensor,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Tensor:
    """Fine-tune a copy of the encoder on some training images, and return the test set's logits.

    What a run leaves in ``work_dir`` for its next part, ``forget`` removes.

    Args:
        encoder: Stays as it is.
        recipe: With one pair of a learning rate and a weight decay.
        data: Its classes and its test set are those of the logits.
        indices: Of the training images ``(N,)`` to train on.
        seed: Decides the classifier's first weights and every draw.
        work_dir: Where the checkpoints lie while it trains.
        resources: What it may use of the machine.

    Returns:
        ``(M, C)``, on the CPU, on every rank.

    Raises:
        UsageError: If the recipe does not fit the network or the number of processes.
        DivergedError: If loss, gradient or logits are not finite.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    run = _run(encoder, data, seed=seed, work_dir=work_dir, resources=resources)
    return logits_of(run, recipe, indices)


def _choose(run: Run, recipe: Recipe) -> tuple[Recipe, list[dict[str, float]]]:
    """The recipe with its best pair, and the score of each; ties go to the surer predictions."""
    data = run.data
    kept, held = selection_slice(data, share=recipe.holdout, seed=run.seed)
    judges = subset(data.train, held.tolist())
    labels = torch.tensor(judges.labels)
    rows, scored = [], []
    for pair in recipe.pairs():
        row = {"lr": pair.lr[0], "weight_decay": pair.weight_decay[0]}
        try:
            logits = logits_of(run, pair, kept, judges)
        except DivergedError as error:
            print(f"lr {row['lr']:g}, weight decay {row['weight_decay']:g}: {error}", flush=True)
            rows.append(row | {"top1": 0.0, data.metric: 0.0})
            continue
        found = accuracy.metrics(logits, labels)
        score = found[data.metric]
        rows.append(row | {"top1": found["top1"], data.metric: score})
        scored.append(((score, -F.cross_entropy(logits, labels).item()), pair))
    if not scored:
        raise DivergedError(f"None of {len(rows)} pairs ended with finite numbers. {ADVICE}")
    return max(scored, key=lambda each: each[0])[1], rows


def _run(
    encoder: Encoder, data: ImageData, *, seed: int, work_dir: Path, resources: Resources
) -> Run:
    return Run(
        protocol=f"finetune@{VERSION}",
        encoder=encoder,
        data=data,
        seed=seed,
        work_dir=work_dir,
        resources=resources,
    )
