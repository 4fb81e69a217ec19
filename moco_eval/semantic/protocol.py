"""Semantic segmentation: train a network around the encoder, and judge every pixel of the test set.

Protocol ``segment-semantic@2``: MoCo's fully convolutional network (arXiv:1911.05722, A.5), all of
its weights fine-tuned with BatchNorm over the batches of all processes. Protocol
``segment-semantic-linear@2``: BatchNorm and a linear classifier on the frozen encoder's last map.
Both are plain torch, so that a number does not depend on who trains detectors. Test images are
whole and of their own size; each counts once on any number of processes. Reported: mIoU of all
test images together, and the share of pixels that are right.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moco_eval import distributed, recipes
from moco_eval.data.semantic import SemanticData, SemanticSplit
from moco_eval.encoders.encoder import Encoder
from moco_eval.engines.gate import Proof, check_tensors
from moco_eval.engines.loop import Job, fit
from moco_eval.engines.selection import judges, select_lr
from moco_eval.engines.transfer import replace_checkpoints
from moco_eval.errors import DataError
from moco_eval.features import frozen
from moco_eval.pictures import best_and_worst
from moco_eval.records import Outcome
from moco_eval.resources import PLAIN, Resources
from moco_eval.semantic import gate
from moco_eval.semantic.crops import training_batches
from moco_eval.semantic.inference import judge, predicted_of
from moco_eval.semantic.model import Segmenter
from moco_eval.semantic.recipe import SemanticRecipe

VERSION = 2
# How many images are shown of the best and of the worst.
NUM_SHOWN = 4


@dataclass(frozen=True)
class _Run:
    encoder: Encoder
    data: SemanticData
    seed: int
    work_dir: Path
    resources: Resources


def evaluate(
    encoder: Encoder,
    recipe: SemanticRecipe,
    data: SemanticData,
    *,
    seed: int,
    work_dir: Path,
    resources: Resources = PLAIN,
) -> Outcome:
    """Train a copy of the encoder under a new head, and return its mIoU on the test images.

    In a run of several processes each makes this call, and has the outcome.

    Raises:
        UsageError: If the encoder has no map of features, or a batch cannot be shared out.
        CheckpointError: If the network's backbone is not the encoder.
        DataError: If an image or a mask is damaged, or there are too few.
        DivergedError: If training diverges.
        PreemptedError: If the process was asked to stop; the same call continues.
    """
    run = _Run(encoder, data, seed, work_dir, resources)
    with frozen(encoder):
        # The learning rate, if there are several, is chosen on training images.
        recipe, chosen = select_lr(recipe, functools.partial(_score_held_out, run))

        # All training images, then all test images.
        model, proof = build(encoder, recipe, data, seed=seed)
        details = _train(run, model, recipe, data.train, folder=work_dir)
        scores = judge(model, data.test, num_workers=resources.num_workers)

    # What pictures show of it.
    by_image = scores.drawn["mIoU_by_image"]
    best, worst = best_and_worst(by_image, np.ones(len(by_image)), number=NUM_SHOWN)
    drawn = dict(scores.drawn) | {
        "predicted_worst": predicted_of(model, data.test, worst),
        "predicted_best": predicted_of(model, data.test, best),
    }
    replace_checkpoints(work_dir, lambda: {"model": model.state_dict()}, device=model.device)
    return Outcome(
        metrics=dict(scores.metrics),
        num_test=len(data.test),
        details={
            **details,
            **chosen,
            **model.settings(),
            "gate": dataclasses.asdict(proof),
            "num_processes": distributed.world_size(),
        },
        drawn=drawn,
    )


def build(
    encoder: Encoder, recipe: SemanticRecipe, data: SemanticData, *, seed: int
) -> tuple[Segmenter, Proof]:
    """Build the network around a copy of ``encoder``, and prove that the copy is the encoder.

    Raises:
        UsageError: If the encoder has no map of features.
        CheckpointError: If a tensor or a map is another.
    """
    model = Segmenter(encoder, recipe, num_classes=len(data.classes), seed=seed)
    return model, gate.check(model, encoder, data.test.items[0].image())


def _train(
    run: _Run, model: Segmenter, recipe: SemanticRecipe, split: SemanticSplit, *, folder: Path
) -> dict[str, Any]:
    batches = training_batches(
        split,
        run.encoder.input,
        recipe,
        seed=run.seed,
        num_workers=run.resources.num_workers,
        device=model.device.type,
    )
    identity = {
        "protocol": f"{recipes.protocol_id('segment', recipe)}@{VERSION}",
        "encoder": run.encoder.tensor_sha256(),
        "input": dataclasses.asdict(run.encoder.input),
        "config": recipes.as_dict(recipe),
        "data": f"{run.data.id} {run.data.fingerprint} {len(split)}",
        "seed": run.seed,
    }
    job = Job(
        name="segmentation",
        folder=folder,
        arch=run.encoder.arch,
        run=identity,
        seed=run.seed,
    )
    details = fit(model, recipe, batches, job)
    # Frozen means frozen, and what is not finite would not tell.
    if recipe.freeze == "encoder":
        check_tensors(model.backbone(), run.encoder)
    return details


def _score_held_out(run: _Run, recipe: SemanticRecipe) -> float:
    """The mIoU on held-out training images of a network that never saw them."""
    split = run.data.train
    is_judge = judges([Path(item.name).name for item in split.items])
    pairs = list(zip(split.items, is_judge, strict=True))
    kept, out = (
        dataclasses.replace(split, items=tuple(item for item, judge in pairs if judge == part))
        for part in (False, True)
    )
    if not out.items:
        raise DataError(
            f"{split.id} has {len(split)} training images, too few to hold some out for the choice "
            "of a learning rate: set it by --set lr=... instead of --lr-grid."
        )
    model, _ = build(run.encoder, recipe, run.data, seed=run.seed)
    _train(run, model, recipe, kept, folder=run.work_dir / f"lr-{recipe.lr:g}")
    return judge(model, out, num_workers=run.resources.num_workers).metrics["mIoU"]
